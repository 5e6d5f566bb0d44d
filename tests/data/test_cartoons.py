"""The drawn cats and dogs: deterministic, balanced, told apart by form and not by colour."""

import numpy as np
import pytest
import torch

from data import cartoons

TRAIN, TEST = 800, 800
POSES = ("portrait", "sit", "stand", "lie")


@pytest.fixture(scope="module")
def drawings() -> tuple[np.ndarray, np.ndarray, set]:
    """TRAIN + TEST pictures of 32 px in [0, 1], their classes, and (dog?, breed, pose) of 600."""
    seen = set()
    with pytest.MonkeyPatch.context() as patch:
        for pose in POSES:
            original = getattr(cartoons.Animal, pose)

            def note(self, girth, pose=pose, original=original):
                seen.add((self.is_dog, self.breed.name, pose))
                original(self, girth)

            patch.setattr(cartoons.Animal, pose, note)
        pairs = [cartoons.draw(0, index, 32) for index in range(600)]
    pairs += [cartoons.draw(0, index, 32) for index in range(600, TRAIN + TEST)]
    pictures = np.stack([picture for picture, _ in pairs]) / 255.0
    return pictures, np.array([kind for _, kind in pairs]), seen


@pytest.fixture(scope="module")
def drawn(drawings) -> tuple[np.ndarray, np.ndarray]:
    return drawings[:2]


def linear_accuracy(train, train_labels, test, test_labels, decay: float) -> float:
    """Test accuracy of logistic regression on standardised features."""
    mean, spread = train.mean(0), train.std(0) + 1e-6
    train, test = (torch.tensor((x - mean) / spread, dtype=torch.float32) for x in (train, test))
    labels = torch.tensor(train_labels)
    weight = torch.zeros(train.shape[1], 2, requires_grad=True)
    bias = torch.zeros(2, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=40, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(train @ weight + bias, labels)
        loss = loss + decay * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    guess = (test @ weight + bias).argmax(1).numpy()
    return float((guess == test_labels).mean())


def edge_histograms(pictures: np.ndarray, cell: int = 4, bins: int = 8) -> np.ndarray:
    """Histograms of the edge directions of the grey picture in square cells."""
    grey = pictures.mean(-1)
    dy, dx = np.gradient(grey, axis=(1, 2))
    strength = np.hypot(dx, dy)
    direction = np.floor(np.mod(np.arctan2(dy, dx), np.pi) / np.pi * bins).astype(int) % bins
    count, side = len(pictures), grey.shape[1] // cell
    maps = [np.where(direction == b, strength, 0.0) for b in range(bins)]
    cells = [m.reshape(count, side, cell, side, cell).sum((2, 4)) for m in maps]
    return np.sqrt(np.stack(cells, -1).reshape(count, -1))


@pytest.mark.parametrize("size", [16, 32, 48, 97])
def test_shape_and_type(size):
    picture, kind = cartoons.draw(0, 5, size)
    assert picture.shape == (size, size, 3)
    assert picture.dtype == np.uint8
    assert kind == 1


def test_same_arguments_same_bytes():
    first, again = cartoons.draw(3, 11, 48)[0], cartoons.draw(3, 11, 48)[0]
    assert first.tobytes() == again.tobytes()


def test_order_of_calls_does_not_matter():
    forward = [cartoons.draw(3, index, 32)[0] for index in range(6)]
    backward = [cartoons.draw(3, index, 32)[0] for index in reversed(range(6))][::-1]
    assert np.array_equal(forward, backward)


def test_other_index_or_seed_is_another_picture():
    pictures = {cartoons.draw(s, i, 32)[0].tobytes() for s in range(3) for i in range(40)}
    assert len(pictures) == 120


def test_classes_take_turns(drawn):
    assert cartoons.CLASSES == ["cat", "dog"]
    assert np.array_equal(drawn[1], np.arange(TRAIN + TEST) % 2)


def test_every_size_shows_the_same_picture():
    for index in range(12):
        small = cartoons.draw(1, index, 48)[0].astype(float)
        large = cartoons.draw(1, index, 96)[0].astype(float)
        reduced = large.reshape(48, 2, 48, 2, 3).mean((1, 3))
        assert np.corrcoef(small.ravel(), reduced.ravel())[0, 1] > 0.95


def test_every_breed_and_pose_is_drawn(drawings):
    assert len(drawings[2]) == len(POSES) * sum(len(breeds) for breeds in cartoons.BREEDS)


def test_colour_statistics_do_not_tell_the_class(drawn):
    pictures, labels = drawn
    features = np.concatenate([pictures.mean((1, 2)), pictures.var((1, 2))], axis=1)
    accuracy = linear_accuracy(
        features[:TRAIN], labels[:TRAIN], features[TRAIN:], labels[TRAIN:], decay=1e-4
    )
    assert accuracy < 0.60


def test_form_tells_the_class(drawn):
    pictures, labels = drawn
    features = edge_histograms(pictures)
    accuracy = linear_accuracy(
        features[:TRAIN], labels[:TRAIN], features[TRAIN:], labels[TRAIN:], decay=1e-2
    )
    assert accuracy > 0.75


def test_contact_sheet():
    sheet = cartoons.contact_sheet(2, 3, 40, seed=4)
    assert sheet.shape == (80, 120, 3)
    assert np.array_equal(sheet[40:, 40:80], cartoons.draw(4, 4, 40)[0])
