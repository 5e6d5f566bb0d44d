"""Self-training: which photos are learned, with which targets, in which order."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from byol.config import PretrainConfig
from byol.evaluation.self_training import count_kept, prepare_lesson, strong_view
from byol.schedules import MixedSchedule
from byol.views.recipes import RECIPES

CPU = torch.device("cpu")


def test_the_surest_photos_are_kept_and_their_probabilities_are_sharpened():
    labels = np.array([1, 0, -1, -1, -1, -1, -1, -1, -1, -1])
    sure = torch.tensor([0.5, 0.6, 0.99, 0.9, 0.51, 0.8, 0.7, 0.95])  # of rows 2 to 9
    chances = torch.stack([sure, 1 - sure], dim=1)
    chances[1::2] = chances[1::2].flip(1)  # some are of the other class
    classifier = SimpleNamespace(
        classes=["cat", "dog"], predict=lambda _photos, rows, *_: chances[rows - 2]
    )
    photos = SimpleNamespace(labels=labels)
    lesson = prepare_lesson(classifier, photos, np.array([0, 1]), np.arange(2, 10), None, CPU, None)
    assert lesson.rows.tolist() == [0, 1, 3, 4, 5, 7, 8, 9]  # 6 of 8, in their order
    assert lesson.targets[:2].tolist() == [[0.0, 1.0], [1.0, 0.0]]
    kept = chances[lesson.rows[2:] - 2]
    squares = kept.square() / kept.square().sum(1, keepdim=True)  # at temperature 1/2
    assert torch.allclose(lesson.targets[2:], squares, atol=1e-6)


def test_a_probability_of_zero_is_a_target():
    classifier = SimpleNamespace(
        classes=["cat", "dog"], predict=lambda *_: torch.tensor([[1.0, 0.0]])
    )
    photos = SimpleNamespace(labels=np.array([0, -1]))
    lesson = prepare_lesson(classifier, photos, np.array([0]), np.array([1]), None, CPU, None)
    assert lesson.targets.tolist() == [[1.0, 0.0], [1.0, 0.0]]


def test_an_epoch_passes_over_each_unlabelled_photo_once_beside_labelled_ones():
    schedule = MixedSchedule.of(labelled=20, unlabelled=400, epochs=2, lr=1.0, seed=3)
    assert schedule.steps_per_epoch == 3  # of 128
    steps = [schedule.positions(step) for step in range(schedule.total_steps)]
    for step in steps:
        known, others = step[:16], step[16:]
        assert len(others) == 128
        assert known.max() < 20 <= others.min()
        assert schedule.parts(len(step)) == [16, 128]
    for epoch in (steps[:3], steps[3:]):
        others = np.concatenate([step[16:] for step in epoch])
        assert len(set(others)) == 384
        assert others.max() < 420
    few = MixedSchedule.of(labelled=3, unlabelled=5, epochs=1, lr=1.0, seed=0)
    assert sorted(few.positions(0)) == list(range(8))
    assert few.parts(8) == [3, 5]


@pytest.mark.parametrize(("unlabelled", "kept"), [(0, 0), (1, 1), (4, 3), (24_748, 18_561)])
def test_three_quarters_are_kept(unlabelled, kept):
    assert count_kept(unlabelled) == kept


def test_the_strong_view_is_that_of_pretraining():
    settings = {"recipe": "small", "crop_min": 0.3, "jitter_strength": 1.0, "grayscale": 0.0}
    view = strong_view({"config": settings}, "colour")
    assert (view.crop_scale[0], view.grayscale) == (0.3, 0.0)
    assert view.hue == RECIPES["small"][0].hue
    of_random = strong_view(None, "colour")
    assert of_random == PretrainConfig().views[0]
    assert strong_view(None, "grey").grayscale == 1.0
