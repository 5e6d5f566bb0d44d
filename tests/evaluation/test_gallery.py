"""Pictures of photos: what is computed for them, and what stands where."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from byol.config import PretrainConfig
from byol.errors import UserError
from byol.evaluation.looked_at import photos_to_look_at, pick_rows, spread, with_classes
from byol.evaluation.mistakes import find_mistakes, rows_of_test
from byol.evaluation.neighbours import chance, find_neighbours, pick_queries
from byol.evaluation.training_views import training_views
from byol.hardware.batches import Batches
from byol.report.canvas import Canvas, end_of, enlarged, rgb, start_of
from byol.report.confusion import confusion_of, gathered, most_confused, show_confusion
from byol.report.four import show_pretraining
from byol.report.gallery import Shown
from byol.report.groups import best_of, frozen_run, with_random
from byol.report.mistakes import draw_mistakes, percent
from byol.report.mosaic import draw_maps
from byol.report.neighbours import BETWEEN as BLOCK_GAP
from byol.report.neighbours import (
    CELL,
    FRAME,
    GAP,
    MARGIN,
    THUMB,
    TITLE,
    WRONG,
    draw_neighbours,
    is_wrong,
)
from byol.report.pictures import plt
from byol.report.style import FROZEN, FULL
from byol.report.views import draw_views, in_grey
from byol.views.augment import TwoViews
from data import open_photos


def pixels_of(figure) -> np.ndarray:
    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()
    plt.close(figure)
    return pixels


# ---- neighbours


ANGLES = np.deg2rad([0.0, 10.0, 25.0, 90.0, 95.0, 110.0])
LABELS = np.array([0, 0, 1, 1, 1, 0])


def on_a_circle() -> torch.Tensor:
    """Features whose cosines are those of their angles, of different lengths."""
    lengths = np.array([1.0, 5.0, 2.0, 0.5, 3.0, 1.0])
    points = np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1) * lengths[:, None]
    return torch.from_numpy(points).float()


def test_neighbours_are_the_nearest_by_angle_and_counted_by_hand():
    found = find_neighbours(on_a_circle(), LABELS, count=2)
    assert found.places.tolist() == [[1, 2], [0, 2], [1, 0], [4, 5], [3, 5], [4, 3]]
    # of the same class: 1, 1, 0, 1, 1, 0 of 2 each
    assert found.right == pytest.approx(4 / 12)


def test_the_share_at_random_is_that_of_pairs():
    assert chance(np.array([0, 0, 1])) == pytest.approx(1 / 3)  # one of the three pairs
    pairs = [(a, b) for a in range(6) for b in range(6) if a != b]
    assert chance(LABELS) == pytest.approx(np.mean([LABELS[a] == LABELS[b] for a, b in pairs]))


@pytest.mark.parametrize("labels", [np.full(6, -1), np.zeros(6, int), np.array([0, 1, -1] * 2)])
def test_without_two_classes_nothing_is_counted(labels):
    found = find_neighbours(on_a_circle(), labels, count=2)
    assert found.right is None
    assert chance(labels) is None
    assert found.places.shape == (6, 2)


def test_queries_take_turns_among_the_classes_and_are_spread():
    labels = np.repeat([0, 1, -1], [100, 50, 30])
    queries = pick_queries(labels, 4)
    assert queries == [0, 99, 100, 149]
    assert pick_queries(np.full(100, -1), 3) == [0, 50, 99]
    many = np.arange(3000)
    assert pick_queries(many, 10) == list(range(10))


def test_what_is_framed_is_what_is_wrong():
    """Photo 0 of class 0 has neighbours of the classes 0, 1 and none: the second has a frame."""
    labels = np.array([0, 0, 1, -1])
    places = np.array([[1, 2, 3]] * 4)
    shades = {0: 10, 1: 60, 2: 110, 3: 160}

    def picture(place: int, side: int) -> np.ndarray:
        return np.full((side, side, 3), shades[place], np.uint8)

    figure = draw_neighbours(
        [0], {"random": places, "BYOL": places}, labels, ["a", "b"], picture, ""
    )
    pixels = pixels_of(figure)
    for block in range(2):
        for column, place in enumerate([1, 2, 3]):
            left = MARGIN + CELL + BLOCK_GAP + block * (BLOCK_GAP + 3 * (CELL + GAP))
            left += column * (CELL + GAP)
            middle = pixels[TITLE + CELL // 2, left + CELL // 2]
            assert middle.tolist() == [shades[place]] * 3
            frame = pixels[TITLE + CELL // 2, left + FRAME // 2].tolist()
            assert (frame == rgb(WRONG)) == (place == 2), (block, place)
            assert pixels[TITLE + CELL // 2, left + FRAME : left + FRAME + THUMB].std() == 0
    wrong = (pixels == rgb(WRONG)).all(2).sum()
    assert wrong >= 2 * (CELL**2 - THUMB**2)
    assert [is_wrong(labels, 0, place) for place in range(4)] == [False, False, True, False]
    assert not is_wrong(labels, 3, 2)  # of a photo without a class nothing is known


# ---- which photos


def test_photos_are_spread_and_those_with_a_class_are_not_lost():
    assert spread(np.arange(5), 9).tolist() == [0, 1, 2, 3, 4]
    assert spread(np.arange(101), 3).tolist() == [0, 50, 100]
    labels = np.full(10_000, -1)
    labels[::100] = 0
    rows = pick_rows(labels, 1000)
    assert len(rows) == len(set(rows.tolist())) == 1000
    assert (labels[rows] >= 0).sum() == 100  # all of them
    labels[:9000] = 0
    rows = pick_rows(labels, 1000)
    assert (labels[rows] >= 0).sum() == 500
    assert len(pick_rows(np.zeros(10_000, int), 1000)) == 1000
    assert len(pick_rows(np.full(70, -1), 1000)) == 70


def test_neighbours_are_looked_for_among_photos_with_a_class_if_there_are_two():
    assert with_classes(np.array([-1, 0, 1, -1, 0])).tolist() == [1, 2, 4]
    assert with_classes(np.array([-1, 0, 0])).tolist() == [0, 1, 2]


def test_slow_encoders_look_at_fewer_photos():
    small = {"arch": "resnet18", "stem": "imagenet", "image_size": 64}
    cpu = torch.device("cpu")
    assert photos_to_look_at(small, cpu) == 2000
    assert photos_to_look_at({**small, "image_size": 96}, cpu) == 889
    assert photos_to_look_at({**small, "stem": "cifar", "image_size": 32}, cpu) == 500
    assert photos_to_look_at({**small, "image_size": 224}, torch.device("cuda")) == 2000


# ---- views


@pytest.mark.parametrize("grey", [False, True])
def test_views_are_those_of_the_training_at_that_step(photos, in_tmp, grey):
    """The same as views of the whole batch of the step, as `train_byol.py` makes it."""
    config = PretrainConfig(data=str(photos), labels=8, image_size=32, store_size=40, view_size=24,
                            batch_size=5, recipe="short", seed=3,
                            channels="grey" if grey else "colour")  # fmt: skip
    opened = open_photos(**config.reading, progress=False)
    learned = np.flatnonzero(~opened.is_test)[::-1].copy()
    schedule = config.schedule(len(learned))
    assert schedule.images % schedule.batch_size  # an incomplete batch is dropped
    seen = training_views(config, opened, learned, schedule, 4)
    assert seen.pairs.shape == (2, 2, len(seen.rows), 24, 24, 3)
    batches = Batches(opened, learned, schedule, "host", torch.device("cpu"))
    two_views = TwoViews(config.views, 24, config.mean, config.std, config.seed)
    assert (seen.steps[0] == 0).all()
    for epoch, steps in enumerate(seen.steps):
        for at, (row, step) in enumerate(zip(seen.rows, steps.tolist(), strict=True)):
            assert step // schedule.steps_per_epoch == epoch
            batch = batches.read(step)
            (place,) = np.flatnonzero(batch.rows == row)
            for number, views in enumerate(two_views(batch, step)):
                mean, std = (torch.tensor(v)[:, None, None] for v in (config.mean, config.std))
                expected = ((views[place] * std + mean) * 255).permute(1, 2, 0).numpy()
                off = np.abs(seen.pairs[epoch, number, at] - expected)
                assert off.max() <= 0.51
    spread_of_channels = np.ptp(seen.pairs.astype(int), axis=-1).max()
    assert (spread_of_channels <= 1) == grey


def test_the_picture_of_views_has_each_photo_above_its_views():
    photos = [np.full((128, 64, 3), 40 + 40 * n, np.uint8) for n in range(2)]
    pairs = np.zeros((2, 2, 2, 32, 32, 3), np.uint8)
    for epoch, view, photo in np.ndindex(2, 2, 2):
        pairs[epoch, view, photo] = 100 + 50 * epoch + 20 * view + 5 * photo
    pixels = pixels_of(draw_views(photos, pairs, "two photos"))
    for photo in range(2):
        middle = 104 + photo * 136 + 64
        column = pixels[:, middle, 0].tolist()
        order = [40 + 40 * photo] + [100 + 50 * e + 20 * v + 5 * photo
                                     for e in range(2) for v in range(2)]  # fmt: skip
        assert [shade for shade in dict.fromkeys(column) if shade != 255] == order
        assert all(column.count(shade) == 128 for shade in order)


def test_a_photo_in_grey_has_the_weights_of_itu_601():
    red = np.zeros((1, 1, 3), np.uint8)
    red[..., 0] = 255
    assert in_grey(red).tolist() == [[[76, 76, 76]]]  # 0.299 x 255


# ---- mistakes


def test_mistakes_are_the_wrong_ones_the_surest_first():
    probabilities = torch.tensor([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.7, 0.3]])
    truth, rows = np.array([0, 0, 0, 1]), np.array([10, 11, 12, 13])
    found = find_mistakes(probabilities, truth, rows)
    assert [(m.row, m.truth, m.found) for m in found] == [(12, 0, 1), (13, 1, 0), (11, 0, 1)]
    assert [m.probability for m in found] == pytest.approx([0.8, 0.7, 0.6])


def test_a_photo_that_was_learned_from_is_no_test_photo():
    split = SimpleNamespace(test=np.array([], int), holdout=np.array([4, 5]), hidden=np.array([1]))
    photos = SimpleNamespace(labels=np.array([0, 1, 0, 1, 0, 1]))
    rows = rows_of_test(photos, split, {"tested_on": "holdout", "test_images": 2})
    assert rows.tolist() == [4, 5]
    with pytest.raises(UserError, match="labels are not those of the test"):
        rows_of_test(photos, split, {"tested_on": "holdout", "test_images": 3})
    with pytest.raises(UserError, match="labels are not those of the test"):
        rows_of_test(photos, split, {"tested_on": "hidden labels", "test_images": 2})
    with pytest.raises(UserError, match="cross-validation"):
        rows_of_test(photos, split, {"tested_on": "cross-validation", "test_images": 2})


def test_only_certainty_is_a_hundred_per_cent():
    assert [percent(p) for p in (0.5, 0.99999, 1.0)] == ["50.0 %", "99.9 %", "100.0 %"]


@pytest.mark.parametrize("name", ["$x$ \\frac{", "a\nb\x1b[31m", "\ud800", "x" * 500])
def test_hostile_and_long_names_are_drawn_and_stay_in_their_places(name):
    one = SimpleNamespace(row=0, truth=0, found=1, probability=0.9)

    def picture(row: int, side: int) -> np.ndarray:
        return np.full((side, side // 2, 3), (7, 90, 200), np.uint8)

    pixels = pixels_of(draw_mistakes([one] * 10, [name, name], {0: name}, picture, "title"))
    assert (pixels == (7, 90, 200)).all(2).sum() == 10 * 168 * 84
    right_edge = pixels[:, -6:]
    assert (right_edge == 255).all()
    labels = np.array([0, 1])
    figure = draw_neighbours([0], {"a": np.array([[1], [0]])}, labels, [name, name], picture, "")
    pixels_of(figure)
    places = {"a": np.array([[0.0, 0.0], [1.0, 1.0]])}
    pixels_of(draw_maps(places, labels, [name, name], picture, "title"))


# ---- confusion


def run(init: str, trained: str, confusion, accuracy: float = 0.5, name: str = "r") -> dict:
    classes = [f"class {n}" for n in range(len(confusion))]
    summary = {"init": init, "trained": trained, "confusion": confusion, "classes": classes,
               "test_accuracy": accuracy, "tested_on": "holdout",
               "test_images": int(np.sum(confusion)), "seed": 0}  # fmt: skip
    return {"name": name, "summary": summary}


def test_matrices_of_seeds_are_added_and_a_damaged_one_is_refused():
    table = [[3, 1], [2, 4]]
    assert confusion_of([run("byol", FROZEN, table)] * 2).tolist() == [[6, 2], [4, 8]]
    for damaged in ([[1, 2]], [[1, -2], [3, 4]], "no", [[0, 0], [0, 0]], [[1, 2], [3]]):
        bad = run("byol", FROZEN, table)
        bad["summary"]["confusion"] = damaged
        with pytest.raises(UserError, match="no confusion matrix"):
            confusion_of([bad])
    del bad["summary"]["confusion"]
    with pytest.raises(UserError, match="no confusion matrix"):
        confusion_of([bad])


def test_of_many_classes_those_with_most_errors_are_shown():
    counts = np.diag([10] * 5)
    counts[1, 4] = 3
    counts[2, 0] = 1
    assert most_confused(counts, 2) == [1, 4]
    assert gathered(counts, [1, 4]).tolist() == [[10, 3, 0], [0, 10, 0]]
    assert gathered(counts, [0, 2]).tolist() == [[10, 0, 0], [1, 10, 0]]
    assert gathered(counts, [1, 2]).tolist() == [[10, 0, 3], [0, 10, 1]]
    assert gathered(counts, [0, 1, 2, 3, 4]).tolist() == counts.tolist()


@pytest.mark.parametrize("classes", [2, 10, 300])
def test_the_confusion_has_its_figures_in_words(classes, tmp_path):
    random = np.full((classes, classes), 2)
    byol = np.full((classes, classes), 1) + np.diag([classes] * classes)
    byol[0, 1] += classes
    groups = {("random", FROZEN): [run("random", FROZEN, random.tolist(), 0.2)],
              ("byol", FROZEN): [run("byol", FROZEN, byol.tolist(), 0.7)]}  # fmt: skip
    shown = show_confusion(tmp_path / "confusion.png", groups)
    assert isinstance(shown, Shown)
    assert shown.path.is_file()
    right = 100 * np.trace(byol) / byol.sum()
    assert f"BYOL weights, frozen backbone: {right:.1f} % right" in shown.alt
    assert f"random weights, frozen backbone: {100 / classes:.1f} % right" in shown.alt
    share = 100 * byol[0, 1] / byol[0].sum()
    assert f"class 0 taken for class 1, {share:.1f} % of that class" in shown.alt
    assert ("20 classes with the most errors" in shown.caption) == (classes > 20)


def test_the_best_stands_beside_random_weights_that_learned_the_same_way():
    table = [[1, 0], [0, 1]]
    groups = {
        ("random", FROZEN): [run("random", FROZEN, table, 0.5)],
        ("random", FULL): [run("random", FULL, table, 0.6)],
        ("byol", FROZEN): [run("byol", FROZEN, table, 0.9), run("byol", FROZEN, table, 0.7)],
        ("byol", FULL): [run("byol", FULL, table, 0.79)],
    }
    assert best_of(groups) == ("byol", FROZEN)
    assert with_random(groups) == [("random", FROZEN), ("byol", FROZEN)]
    del groups["random", FROZEN]
    assert with_random(groups) == [("random", FULL), ("byol", FROZEN)]
    assert with_random({("random", FULL): groups["random", FULL]}) == [("random", FULL)]
    del groups["random", FULL]
    assert with_random(groups) == [("byol", FROZEN)]
    groups["random", FROZEN] = [run("random", FROZEN, table, 0.99)]  # the best of all
    assert with_random(groups) == [("random", FROZEN), ("byol", FROZEN)]
    assert (
        frozen_run({("random", FROZEN): [{"name": "x"}], ("byol", FROZEN): [{"name": "y"}]}) == "y"
    )


def test_the_words_of_pretraining_have_the_last_figures_and_those_of_health(tmp_path):
    row = {"step": 1, "epoch": 0.5, "loss": 4.0, "lr": 0.1, "tau": 0.99, "spread": 0.8}
    look = {"kind": "health", "step": 2, "epoch": 1.0, "effective_rank": 37.25}
    rows = [{**look, "of": "random", "knn_accuracy": 0.5}, row,
            {**row, "step": 2, "epoch": 1.0, "loss": 2.5, "spread": 0.75},
            {**look, "of": "encoder", "knn_accuracy": 0.625, "effective_rank": 80.5}]  # fmt: skip
    shown = show_pretraining(tmp_path / "pretraining.png", {"byol": rows})
    assert shown.path.is_file()
    assert "byol: loss 2.500 and spread 0.75 after 1.0 epochs" in shown.alt
    assert "kNN 62.5 % (random weights 50.0)" in shown.alt
    assert "effective rank 80.5 (random weights 37.2)" in shown.alt
    shown = show_pretraining(tmp_path / "pretraining.png", {"byol": [row]})
    assert shown.alt == "byol: loss 4.000 and spread 0.80 after 0.5 epochs."


# ---- the canvas


def test_small_views_are_enlarged_by_a_whole_number():
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    large = enlarged(noise, 128)
    assert large.shape == (120, 120, 3)
    np.testing.assert_array_equal(large[1::3, 2::3], noise)
    assert enlarged(np.zeros((300, 300, 3), np.uint8), 128).shape == (128, 128, 3)


def test_texts_are_cut_to_their_place():
    assert start_of("cat", 100) == end_of("cat", 100) == "cat"
    assert start_of("a" * 99 + "b", 100)[-1] == "…"
    assert end_of("a" * 99 + "b", 100)[0] == "…"
    assert end_of("a" * 99 + "b", 100)[-1] == "b"
    for letter in "mix":
        canvas = Canvas(40, 400)
        canvas.write(start_of(letter * 90, 150), 0, 0)
        columns = np.flatnonzero((pixels_of(canvas.figure()) < 255).any((0, 2)))
        assert 125 < columns.max() <= 150  # as much as there is room for


@pytest.fixture(autouse=True)
def _no_figures_left():
    before = plt.get_fignums()
    yield
    assert plt.get_fignums() == before
