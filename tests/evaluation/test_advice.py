"""The sentences on the health of a run: each where it should be, and nowhere else."""

import pytest

from byol.evaluation.advice import PROBES, Advice
from byol.schedules import Schedule

RANDOM = {"effective_rank": 120.0, "first_direction": 0.58}
RANDOM |= {"knn_accuracy": 0.57, "linear_accuracy": 0.63}
# Looks at real runs at 64 px: rank, first direction, kNN, linear.
GOOD = [  # Cats-vs-Dogs, 120 epochs: the first epochs, and then those of 24 to 66
    (181, 0.81, 0.547, 0.608), (185, 0.82, 0.573, 0.618), (91, 0.31, 0.668, 0.716),
    (66, 0.34, 0.704, 0.744), (61, 0.38, 0.724, 0.764), (58, 0.41, 0.756, 0.756),
]  # fmt: skip
CURVE = [  # the same run with its epochs; the first three are of another run, with 500 labels
    (1, 199, 0.71, 0.617, 0.672), (2, 171, 0.70, 0.617, 0.668), (3, 195, 0.62, 0.630, 0.678),
    (24, 86, 0.31, 0.668, 0.716), (28, 71, 0.54, 0.672, 0.724), (33, 66, 0.41, 0.680, 0.740),
    (38, 63, 0.35, 0.704, 0.744), (42, 60, 0.44, 0.680, 0.744), (45, 59, 0.35, 0.700, 0.760),
    (49, 58, 0.39, 0.724, 0.764), (52, 54, 0.46, 0.728, 0.736), (54, 56, 0.39, 0.740, 0.748),
    (57, 57, 0.38, 0.700, 0.752), (60, 55, 0.39, 0.736, 0.760), (63, 54, 0.48, 0.672, 0.768),
    (66, 55, 0.42, 0.756, 0.756), (69, 55, 0.43, 0.744, 0.768), (72, 57, 0.41, 0.724, 0.788),
    (74, 58, 0.37, 0.740, 0.784), (77, 58, 0.36, 0.752, 0.784), (79, 58, 0.38, 0.748, 0.788),
    (81, 60, 0.28, 0.756, 0.792), (83, 58, 0.40, 0.756, 0.792),
]  # fmt: skip
FAST = [(57, 0.943, 0.57, 0.62), (70, 0.956, 0.585, 0.624)]  # ten times the rate
COLLAPSED = [(3.5, 0.996, 0.568, 0.6), (7.4, 0.954, 0.541, 0.582)]  # sixty-six times the rate


def see(looks, epochs=None, random=RANDOM, labels=True) -> tuple[list[str], Advice]:
    """Show looks to an `Advice`, one for each epoch: all that it warns of."""
    advice = Advice(Schedule(100, 10, epochs or len(looks), 0, 0.1, 0))
    told = advice.see({"of": "random", "step": 0, "epoch": 0, **random}) if random else []
    for epoch, (rank, first, knn, linear) in enumerate(looks, 1):
        row = {"of": "encoder", "step": 10 * epoch, "epoch": epoch}
        row |= {"effective_rank": rank, "first_direction": first}
        row |= {"knn_accuracy": knn, "linear_accuracy": linear} if labels else {}
        told += advice.see(row)
    return told, advice


def test_a_good_run_gets_no_warning():
    for labels in (True, False):
        assert see(GOOD, labels=labels)[0] == []


@pytest.mark.parametrize("epochs", [45, 60, 72, 83])
def test_a_real_run_gets_no_warning_and_more_epochs_at_the_end(epochs):
    """Each 40 epochs more gave about 4 points, so the line has to rise wherever the run ends."""
    advice = Advice(Schedule(100, 10, epochs, 0, 0.1, 0))
    told = advice.see({"of": "random", "step": 0, "epoch": 0, **RANDOM})
    for epoch, *values in CURVE:
        row = dict(zip(("effective_rank", "first_direction", *PROBES), values, strict=True))
        if epoch <= epochs:
            told += advice.see({"of": "encoder", "step": 10 * epoch, "epoch": epoch, **row})
    assert told == []
    assert advice.at_the_end().startswith("the probes still rise (+")


def test_a_rate_that_is_too_high_is_told_once():
    (told,) = see(FAST, epochs=100)[0]
    assert told.startswith("94 % of the variance of the features lies in one direction at epoch 1,")
    assert told.endswith("try a lower --lr")


def test_a_collapse_is_told_with_the_rank_of_random_weights():
    told = see(COLLAPSED, epochs=100)[0]
    assert len(told) == 2  # and the rate
    assert told[0].startswith("the features have an effective rank of 4 at epoch 1, and those of ")
    assert "random weights of 120: they collapse; stop, and try a lower --lr" in told[0]


def test_a_rank_that_falls_to_a_quarter_is_told_unless_it_was_only_high_at_first():
    early = [(200, 0.3, 0.7, 0.7), (40, 0.3, 0.7, 0.7)]  # a third of that of random weights
    assert see(early)[0] == []
    looks = [(100, 0.3, 0.7, 0.7), (26, 0.3, 0.7, 0.7), (24, 0.3, 0.7, 0.7), (20, 0.3, 0.7, 0.7)]
    (told,) = see(looks)[0]
    assert told.startswith("the effective rank of the features fell from 100 to 24 until epoch 3,")


@pytest.mark.parametrize(
    ("knn", "linear", "told"), [(0.57, 0.62, 1), (0.58, 0.62, 0), (0.56, 0.64, 0)]
)
def test_a_run_below_random_weights_is_told_after_a_third_and_only_by_both_probes(
    knn, linear, told
):
    looks = [(100, 0.3, knn, linear)] * 9
    for epochs, expected in ((9, told), (27, told), (28, 0)):
        warnings, _ = see(looks, epochs)
        assert len(warnings) == expected
    if told:
        assert see(looks)[0][0].startswith(
            "after 3 of 9 epochs the features are no better than those of random weights "
            "(kNN 57.0 against 57.0 %, linear 62.0 against 63.0)"
        )
    assert see(looks, random=None)[0] == see(looks, labels=False)[0] == []


def at_the_end(probes) -> str:
    return see([(100, 0.3, value, value + 0.1) for value in probes])[1].at_the_end()


def test_the_end_says_whether_more_epochs_would_help():
    """By a line through the last half: here a rise of 1 point an epoch, and none."""
    rising = at_the_end([0.6 + 0.01 * epoch for epoch in range(10)])
    assert rising == (
        "the probes still rise (+4.0 points in the last half, ± 0.0): more epochs will help, such "
        "as --epochs 15"
    )
    flat = [0.7 + 0.01 * (-1) ** epoch for epoch in range(10)]
    assert "no longer rise clearly" in at_the_end(flat)
    falling = at_the_end([0.8 - 0.01 * epoch for epoch in range(10)])
    assert falling.startswith("the probes fall (-4.0 points in the last half, ± 0.0): fewer epochs")


def test_a_rise_that_luck_explains_is_none():
    """0 to 2 points, up and down by 3: the error of the line is larger than half of its rise."""
    lucky = [0.7, 0.73, 0.7, 0.74, 0.71, 0.75]
    assert "no longer rise clearly" in at_the_end([0.5] * 6 + lucky)


def test_the_end_of_a_run_that_is_no_better_than_random_weights():
    said = at_the_end([0.5] * 10)
    assert said.startswith("the features are no better than those of random weights (kNN 50.0 aga")
    assert "too short" in said


def test_the_end_is_silent_without_labels_and_with_few_looks():
    assert see(GOOD, labels=False)[1].at_the_end() == ""
    assert see(GOOD[2:])[1].at_the_end() == ""  # two in the last half
    assert Advice(Schedule(100, 10, 5, 0, 0.1, 0)).at_the_end() == ""


def test_what_was_said_before_a_stop_is_not_said_again():
    _, advice = see(FAST[:1], epochs=100)
    row = {"of": "encoder", "step": 20, "epoch": 2, "effective_rank": 57, "first_direction": 0.95}
    assert advice.see(row) == []
