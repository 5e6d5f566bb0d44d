"""What the looks of byol/evaluation/health.py mean: rules, and the sentence that each one says."""

from __future__ import annotations

import numpy as np

from byol.schedules import Schedule

RANK_LEAST = 0.1  # of the effective rank of random weights
# Of the highest effective rank so far, and of that of random weights: a healthy run had 0.27 of the
# first, as rank rises at the start, and 0.45 of the second.
RANK_LEFT = 0.25
FIRST_MOST = 0.9  # of the variance in the first direction: healthy runs had up to 0.83
THIRD = 1 / 3  # of a run: from then on BYOL has to beat random weights
LOOKS_TO_JUDGE = 4  # in the last half of a run
LEAST_RISE = 0.01  # of the accuracy: less is luck
PROBES = ("knn_accuracy", "linear_accuracy")


class Advice:
    """Knows the looks of a run, and says what is wrong as soon as it is seen, each fault once."""

    def __init__(self, schedule: Schedule):
        self.schedule = schedule
        self.random: dict | None = None
        self.looks: list[dict] = []
        self.said: set[str] = set()

    def see(self, row: dict) -> list[str]:
        """Take a line of metrics.jsonl (`of`: "random" or "encoder"): what to warn of."""
        if row["of"] == "random":
            self.random = row
            return []
        self.looks.append(row)
        warnings = {
            "collapse": self._of_collapse(row),
            "rate": self._of_rate(row),
            "random": self._of_random(row),
        }
        new = {kind: text for kind, text in warnings.items() if text and kind not in self.said}
        self.said |= new.keys()
        return list(new.values())

    def _of_collapse(self, row: dict) -> str:
        """Warn if the features use few directions, or few of those that they used."""
        rank, highest = row["effective_rank"], max(look["effective_rank"] for look in self.looks)
        try_this = "stop, and try a lower --lr, more --weight-decay or a higher --tau0"
        if self.random and rank < RANK_LEAST * self.random["effective_rank"]:
            return (
                f"the features have an effective rank of {rank:.0f} at epoch {row['epoch']:g}, and "
                f"those of random weights of {self.random['effective_rank']:.0f}: they collapse; "
                f"{try_this}"
            )
        known = highest if self.random is None else min(highest, self.random["effective_rank"])
        if rank < RANK_LEFT * known:
            return (
                f"the effective rank of the features fell from {highest:.0f} to {rank:.0f} until "
                f"epoch {row['epoch']:g}, so they may collapse; {try_this}"
            )
        return ""

    def _of_rate(self, row: dict) -> str:
        """Warn if one direction has nearly all of the variance: so it is if steps are too large."""
        if row["first_direction"] <= FIRST_MOST:
            return ""
        return (
            f"{100 * row['first_direction']:.0f} % of the variance of the features lies in one "
            f"direction at epoch {row['epoch']:g}, as it does if the rate is too high; stop, and "
            "try a lower --lr"
        )

    def _of_random(self, row: dict) -> str:
        """Warn if a third of the run is over, and random weights are as good."""
        if row["step"] < THIRD * self.schedule.total_steps or not self._loses(row):
            return ""
        return (
            f"after {row['epoch']:g} of {self.schedule.epochs} epochs the features are no better "
            f"than those of random weights ({self._compared(row)}); a short run needs many small "
            "steps: try more --epochs, a smaller --batch-size, or another --recipe"
        )

    def _loses(self, row: dict) -> bool:
        """Tell whether random weights are as good or better by both probes."""
        if not self.random or not all(probe in row and probe in self.random for probe in PROBES):
            return False
        return all(row[probe] <= self.random[probe] for probe in PROBES)

    def _compared(self, row: dict) -> str:
        pairs = [(100 * row[probe], 100 * self.random[probe]) for probe in PROBES]
        (knn, of_knn), (linear, of_linear) = pairs
        return f"kNN {knn:.1f} against {of_knn:.1f} %, linear {linear:.1f} against {of_linear:.1f}"

    def at_the_end(self) -> str:
        """Say whether more epochs would help, by the probes in the last half of the run.

        A straight line is laid through them. It rises if it does so by more than `LEAST_RISE` and
        by more than twice its standard error. Nothing is said without labels, or if the run was
        looked at too seldom.
        """
        half = [row for row in self.looks if row["step"] > self.schedule.total_steps / 2]
        if not half or not all(probe in row for row in half for probe in PROBES):
            return ""
        if self._loses(half[-1]):
            return (
                f"the features are no better than those of random weights "
                f"({self._compared(half[-1])}): this run was too short or its settings do not fit"
            )
        if len(half) < LOOKS_TO_JUDGE:
            return ""
        rise, error = _rise(
            [row["epoch"] for row in half], [np.mean([row[p] for p in PROBES]) for row in half]
        )
        last = f"{100 * rise:+.1f} points in the last half, ± {100 * error:.1f}"
        if rise > max(LEAST_RISE, 2 * error):
            more = round(1.5 * self.schedule.epochs)
            return f"the probes still rise ({last}): more epochs will help, such as --epochs {more}"
        if rise < -max(LEAST_RISE, 2 * error):
            return f"the probes fall ({last}): fewer epochs, or a lower --lr, may be better"
        return f"the probes no longer rise clearly ({last}): more epochs may not help"


def _rise(epochs: list[float], values: list[float]) -> tuple[float, float]:
    """Fit a line to `values`: how much it rises from the first to the last, and its error."""
    x, y = np.array(epochs, float), np.array(values, float)
    x = (x - x.mean()) / (x.max() - x.min())
    slope = (x * y).sum() / (x * x).sum()
    residual = y - y.mean() - slope * x
    deviation = np.sqrt((residual**2).sum() / (len(y) - 2))
    return float(slope), float(deviation / np.sqrt((x * x).sum()))
