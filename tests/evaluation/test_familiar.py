"""How unlike a photo looks: neighbours against a loop over all pairs, looks, what is kept."""

from types import SimpleNamespace

import numpy as np
import torch
from photo_files import stored

from byol.encoder import Encoder
from byol.evaluation.familiar import (
    MOST,
    NEIGHBOURS,
    Familiar,
    looks_of,
    looks_of_rows,
    some_known,
)
from byol.evaluation.features import FeatureExtractor


def extractor(inner_blocks: dict, side: int = 32) -> FeatureExtractor:
    viewing = {"image_size": side, "mean": [0.5] * 3, "std": [0.25] * 3}
    device = torch.device("cpu")
    return FeatureExtractor(**viewing, device=device, amp=None, inner_blocks=inner_blocks)


def some_looks(count: int, seed: int) -> torch.Tensor:
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(seed)) * 5 + 3


def slow_share(known: torch.Tensor, photo: torch.Tensor) -> float:
    """The share of the known photos with a lower outlier factor, pair by pair."""
    deviation = known.std(dim=0)
    scale = 1 / deviation

    def nearest(one: torch.Tensor, others: list[int]) -> tuple[float, list[int]]:
        apart = sorted((((one - known[j]) * scale).norm().item(), j) for j in others)[:NEIGHBOURS]
        return sum(d for d, _ in apart) / NEIGHBOURS, [j for _, j in apart]

    everyone = list(range(len(known)))
    own = [nearest(one, [j for j in everyone if j != i]) for i, one in enumerate(known)]

    def factor(distance: float, who: list[int]) -> float:
        return distance / (sum(own[j][0] for j in who) / NEIGHBOURS)

    asked = factor(*nearest(photo, everyone))
    return sum(factor(*pair) < asked for pair in own) / len(known)


def test_the_share_is_that_of_a_loop_over_all_pairs():
    known, asked = some_looks(40, 0), torch.cat([some_looks(8, 1), some_looks(2, 2) * 3])
    familiar = Familiar.of(known)
    shares = familiar.unlike(asked)
    expected = [slow_share(known, photo) for photo in asked]
    np.testing.assert_allclose(shares, expected, atol=1 / 40 + 1e-6)  # known ones are in float16
    assert shares.max() == 1


def test_it_comes_back_from_a_file(tmp_path):
    familiar = Familiar.of(some_looks(20, 0))
    torch.save(familiar.state_dict(), tmp_path / "f.pt")
    again = Familiar(**torch.load(tmp_path / "f.pt", weights_only=True))
    assert torch.equal(again.unlike(some_looks(9, 1)), familiar.unlike(some_looks(9, 1)))


def test_the_labelled_come_first_and_the_rest_is_spread():
    assert some_known(np.arange(3), np.arange(10, 14)).tolist() == [0, 1, 2, 10, 11, 12, 13]
    rows = some_known(np.arange(200), np.arange(1000, 30_000))
    assert len(rows) == MOST
    assert rows[:200].tolist() == list(range(200))
    assert (rows[200], rows[-1]) == (1000, 29_999)
    assert len(some_known(np.arange(5000), np.arange(6000, 7000))) == MOST


def test_looks_are_mean_and_deviation_of_the_maps_and_the_features_stay():
    torch.manual_seed(0)
    encoder = Encoder().eval()
    extract = extractor({"layer2.0": 2})
    images = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8)
    sizes = np.full((5, 2), 32)
    features, looks = looks_of(extract, encoder, images, sizes)
    assert torch.equal(features, extract.of_batch(encoder, images, sizes))
    assert not encoder.layer1[0]._forward_hooks
    x = (images.double() / 255 - 0.5) / 0.25  # a photo of the right size is seen as it is
    layers = encoder.double()
    x = layers.layer1[0](layers.maxpool(layers.relu(layers.bn1(layers.conv1(x)))))
    x = x.detach().numpy()
    expected = np.concatenate([x.mean((2, 3)), x.std((2, 3), ddof=1)], axis=1)
    np.testing.assert_allclose(looks, expected, atol=1e-4)


def test_looks_of_rows_are_those_of_each_row_and_leave_the_encoder_as_it_was(tmp_path):
    torch.manual_seed(0)
    encoder = Encoder().train()
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    pixels = np.random.default_rng(0).integers(0, 256, (600, 3, 32, 32), np.uint8)
    images = stored(tmp_path / "a.npy", pixels)
    photos = SimpleNamespace(images=images, sizes=np.full((600, 2), 32))
    rows = np.arange(599, -1, -2)  # more than a batch
    looks = looks_of_rows(extractor({}), encoder, photos, rows)
    assert encoder.training
    assert all(torch.equal(value, before[key]) for key, value in encoder.state_dict().items())
    encoder.eval()
    one = torch.from_numpy(pixels[rows[-1:]])
    _, of_one = looks_of(extractor({}), encoder, one, photos.sizes[:1])
    torch.testing.assert_close(looks[-1:], of_one)
    assert len(looks) == 300


def test_pictures_of_another_kind_are_unlike_and_unseen_ones_of_the_same_are_not(tmp_path):
    torch.manual_seed(0)
    encoder, extract = Encoder().eval(), extractor({})
    rng = np.random.default_rng(0)

    def pictures(blobs: int, count: int) -> SimpleNamespace:
        """Pictures of so many blobs of a random colour on a side."""
        pixels = rng.integers(0, 256, (count, 3, blobs, blobs), np.uint8)
        pixels = pixels.repeat(32 // blobs, 2).repeat(32 // blobs, 3)
        images = stored(tmp_path / f"{blobs} {count}.npy", pixels)
        return SimpleNamespace(images=images, sizes=np.full((count, 2), 32))

    def looks(photos) -> torch.Tensor:
        return looks_of_rows(extract, encoder, photos, np.arange(len(photos.sizes)))

    familiar = Familiar.of(looks(pictures(8, 200)))
    assert 0.4 < familiar.unlike(looks(pictures(8, 100))).mean() < 0.6
    assert familiar.unlike(looks(pictures(4, 50))).mean() > 0.95
    assert familiar.unlike(looks(pictures(32, 50))).mean() > 0.95
