"""How unlike a photo is: neighbours against a loop over all pairs, what is kept."""

import numpy as np
import torch

from byol.evaluation.familiar import MOST, NEIGHBOURS, Familiar, some_known

WIDTHS = [4, 2]


def features(count: int, seed: int) -> torch.Tensor:
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(seed)) * 5 + 3


def slow_share(known: torch.Tensor, photo: torch.Tensor) -> float:
    """The share of the known photos that lie closer to their neighbours, pair by pair."""
    deviation = known.std(dim=0)
    scale = torch.tensor([1.0] * 4 + [2**0.5] * 2) / deviation  # the second block counts as much

    def distance(one: torch.Tensor, others: list[torch.Tensor]) -> float:
        apart = sorted(((one - other) * scale).norm().item() for other in others)
        return sum(apart[:NEIGHBOURS]) / NEIGHBOURS

    own = [
        distance(one, [other for j, other in enumerate(known) if j != i])
        for i, one in enumerate(known)
    ]
    asked = distance(photo, list(known))
    return sum(value < asked for value in own) / len(known)


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
