"""Cross-validation: scores of unseen images, temperature, calibration error, what is kept."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from byol.errors import UserError
from byol.evaluation.folds import KEPT, Folds
from byol.evaluation.temperature import calibration_error, find_temperature

FOLDS = np.array([[0, 1, 0, 1], [1, 1, 0, 0]])
TRUTH = torch.tensor([0, 0, 1, 1])


def filled() -> Folds:
    folds = Folds(FOLDS, TRUTH, ["cat", "dog"])
    right = torch.tensor([[2.0, 0.0], [2.0, 0.0], [0.0, 2.0], [0.0, 2.0]])
    for repeat, of_fold in list(folds.to_do()):
        scores = right[of_fold]
        if repeat == 1 and of_fold[3]:
            scores = torch.tensor([[0.0, 2.0], [5.0, 0.0]])  # the last image is taken for a cat
        folds.note(repeat, of_fold, scores, "--lr")
    return folds


def test_each_fold_of_each_repeat_is_done_once():
    folds = Folds(FOLDS, TRUTH, ["cat", "dog"])
    done = []
    for repeat, of_fold in folds.to_do():
        done.append((repeat, of_fold.nonzero().flatten().tolist()))
        folds.note(repeat, of_fold, torch.zeros(2, 2), "--lr")
    assert done == [(0, [0, 2]), (0, [1, 3]), (1, [2, 3]), (1, [0, 1])]
    assert list(folds.to_do()) == []


def test_accuracy_is_the_mean_of_the_repeats_and_each_image_counts_once_in_words():
    folds = filled()
    assert folds.accuracies() == [1.0, 0.75]
    summary = folds.summary()
    assert summary["accuracy"] == 0.875
    assert summary["std"] == pytest.approx(0.25 / 2**0.5)
    scores = folds.scored()
    assert scores.confusion == [[4, 0], [1, 3]]
    assert "4 images (cross-validation)" in scores.describe("cross-validation")
    assert summary["standard_error"] == pytest.approx((0.875 * 0.125 / 4) ** 0.5)
    assert folds.describe() == (
        "cross-validation 87.50 % (2 folds of 4 labelled images, 2 times), ± 17.68 between the "
        "times; ± 16.5 for 4 images"
    )


def test_scores_that_are_not_finite_name_the_flag():
    folds = Folds(FOLDS, TRUTH, ["cat", "dog"])
    _, of_fold = next(folds.to_do())
    with pytest.raises(UserError, match="--frozen-lr"):
        folds.note(0, of_fold, torch.tensor([[1.0, torch.inf], [0.0, 0.0]]), "--frozen-lr")


def test_what_is_done_is_kept_for_the_same_run_alone(tmp_path):
    folds = Folds(FOLDS, TRUTH, ["cat", "dog"])
    repeat, of_fold = next(folds.to_do())
    folds.note(repeat, of_fold, torch.ones(2, 2), "--lr")
    folds.save(tmp_path, {"lr": 1.0})

    same, other, damaged = (Folds(FOLDS, TRUTH, ["cat", "dog"]) for _ in range(3))
    same.restore(tmp_path, {"lr": 1.0})
    assert [done[1].tolist() for done in same.to_do()] == [
        done[1].tolist() for done in list(folds.to_do())
    ]
    assert len(list(same.to_do())) == 3
    other.restore(tmp_path, {"lr": 2.0})
    assert len(list(other.to_do())) == 4
    (tmp_path / KEPT).write_bytes((tmp_path / KEPT).read_bytes()[:-1])
    damaged.restore(tmp_path, {"lr": 1.0})
    assert len(list(damaged.to_do())) == 4


def of_shares(*right: str) -> Folds:
    """Folds of 20 images for each share: which of them are right ("x"), in words of 20 letters."""
    truth = torch.zeros(20, dtype=torch.long)
    shares = tuple(np.linspace(0, 1, len(right)).tolist())
    folds = Folds(np.arange(20)[None] % 2, truth, ["cat", "dog"], shares)
    for share, word in zip(shares, right, strict=True):
        for repeat, of_fold in [(0, torch.arange(20) % 2 == n) for n in range(2)]:
            hits = torch.tensor([letter == "x" for letter in word])[of_fold].float()
            folds.note(repeat, of_fold, torch.stack([hits, 1 - hits], dim=1), "--lr", share)
    assert not list(folds.to_do())
    folds.choose_share()
    return folds


@pytest.mark.parametrize(
    ("right", "share"),
    [
        (["xxxxxxxxxx----------", "xxxxxxxxxx----------"], 0.0),  # no difference
        (["xxxxxxxxxx----------", "x-xxxxxxxx----------"], 0.0),
        # 3 more and none fewer are above sqrt(3 + 2), 2 more are within sqrt(2 + 2)
        (["xxxxxxxxxx----------", "xxxxxxxxxxxxx-------"], 1.0),
        (["xxxxxxxxxx----------", "xxxxxxxxxxxx--------"], 0.0),
        # 6 more and 3 fewer: 3 are within sqrt(9 + 2)
        (["xxxxxxxxxx----------", "---xxxxxxxxxxxxx----"], 0.0),
        # the middle is as good as the end within the error, the start is not
        (["xxxxxxxxxx----------", "xxxxxxxxxxxxxxxx----", "xxxxxxxxxxxxxxxxx---"], 0.5),
    ],
)
def test_training_goes_as_far_as_cross_validation_says_within_its_error(right, share):
    folds = of_shares(*right)
    assert folds.share == share
    at = folds.shares.index(share)
    assert folds.accuracies() == [right[at].count("x") / 20]
    assert folds.summary()["accuracy_by_share"]["0.0"] == 0.5
    start, end = (f"{5 * word.count('x')}.0 %" for word in (right[0], right[-1]))
    assert folds.advice().startswith(f"the encoder as it is {start}, all weights trained {end}")
    assert ("--freeze" in folds.advice()) == (share == 0)


def test_what_was_kept_of_other_shares_is_not_taken(tmp_path):
    of_shares("x" * 20, "-" * 20).save(tmp_path, {})
    alone = Folds(np.arange(20)[None] % 2, torch.zeros(20, dtype=torch.long), ["cat", "dog"])
    alone.restore(tmp_path, {})
    assert len(list(alone.to_do())) == 2


@pytest.mark.parametrize("true_temperature", [0.5, 3.0])
def test_the_temperature_is_the_one_that_made_the_labels(true_temperature):
    draw = torch.Generator().manual_seed(0)
    scores = 3 * torch.randn(20_000, 3, generator=draw)
    truth = torch.multinomial((scores / true_temperature).softmax(1), 1, generator=draw)[:, 0]
    assert find_temperature(scores, truth) == pytest.approx(true_temperature, rel=0.05)


def test_the_temperature_is_the_best_of_a_grid():
    draw = torch.Generator().manual_seed(1)
    scores, truth = torch.randn(50, 4, generator=draw), torch.randint(4, (50,), generator=draw)
    grid = torch.linspace(-3, 5, 801).exp()
    losses = [F.cross_entropy(scores / t, truth, label_smoothing=4 / 54) for t in grid]
    best = grid[int(torch.stack(losses).argmin())].item()
    assert find_temperature(scores, truth) == pytest.approx(min(best, 1e3), rel=0.02)


def test_if_no_score_is_wrong_the_probability_stays_below_one():
    """Laplace's rule: N + 1 of N + 2."""
    truth = torch.tensor([0] * 50 + [1] * 50)
    scores = F.one_hot(truth).double()
    sure = (scores / find_temperature(scores, truth)).softmax(1).max(1).values
    torch.testing.assert_close(sure, torch.full((100,), 101 / 102, dtype=torch.float64),
                               atol=1e-4, rtol=0)  # fmt: skip


def test_calibration_error_worked_out_by_hand():
    chances = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.4, 0.6]], dtype=torch.float64)
    truth = torch.tensor([0, 1, 1, 1])  # 50 % of those at 0.9, all of those at 0.6
    assert calibration_error(chances.log(), truth) == pytest.approx(0.5 * 0.4 + 0.5 * 0.4)
