"""How unlike a photo is: neighbours against a loop over all pairs, what is kept."""

import numpy as np
import torch

from byol.evaluation.familiar import MOST, NEIGHBOURS, Familiar, some_known

WIDTHS = [4, 2]


def features(count: int, seed: int) -> torch.Tensor:
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(seed)) * 5 + 3


def slow_share(known: torch.Tensor, photo: torch.Tensor) -> float:
    """The share of the known photos with a lower outlier factor, pair by pair."""
    deviation = known.std(dim=0)
    scale = torch.tensor([1.0] * 4 + [2**0.5] * 2) / deviation  # the second block counts as much

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
    known, asked = features(40, 0), torch.cat([features(8, 1), features(2, 2) * 3])
    familiar = Familiar.of(known, WIDTHS)
    shares = familiar.unlike(asked)
    expected = [slow_share(known, photo) for photo in asked]
    np.testing.assert_allclose(shares, expected, atol=1 / 40 + 1e-6)  # known ones are in float16
    assert shares.max() == 1


def test_it_comes_back_from_a_file(tmp_path):
    familiar = Familiar.of(features(20, 0), WIDTHS)
    torch.save(familiar.state_dict(), tmp_path / "f.pt")
    again = Familiar(**torch.load(tmp_path / "f.pt", weights_only=True))
    assert torch.equal(again.unlike(features(9, 1)), familiar.unlike(features(9, 1)))


def test_the_labelled_come_first_and_the_rest_is_spread():
    assert some_known(np.arange(3), np.arange(10, 14)).tolist() == [0, 1, 2, 10, 11, 12, 13]
    rows = some_known(np.arange(200), np.arange(1000, 30_000))
    assert len(rows) == MOST
    assert rows[:200].tolist() == list(range(200))
    assert (rows[200], rows[-1]) == (1000, 29_999)
    assert len(some_known(np.arange(5000), np.arange(6000, 7000))) == MOST
