"""The pictures of figures, with their words: accuracy, losses, pretraining."""

from __future__ import annotations

from pathlib import Path

from byol.errors import printable
from byol.report.gallery import Shown
from byol.report.pictures import draw_accuracy, draw_losses, save_picture
from byol.report.pretraining import draw_pretraining, health_of, training_of
from byol.report.style import TRAINED, accuracy_name, styles_of
from byol.report.table import mean_and_deviation


def show_accuracy(path: Path, groups: dict) -> Shown:
    """Write the bars of test accuracies, and say what they show.

    groups: {(init, trained): runs}.
    """
    save_picture(draw_accuracy(groups), path)
    told = []
    for (init, trained), runs in groups.items():
        values = [run["summary"]["test_accuracy"] for run in runs]
        told.append(f"{_name(init)}, {TRAINED[trained]}: {mean_and_deviation(values, ' seeds')} %")
    summary = next(iter(groups.values()))[0]["summary"]
    caption = (
        f"{accuracy_name(summary).capitalize()} with {summary['labels']:,} labels "
        f"({summary['tested_on']}, {summary['test_images']:,} photos). Pretraining pays if BYOL's "
        "bars are higher than those of random weights by more than the dots of the seeds are apart."
    )
    return Shown(path, "Accuracy", caption, "; ".join(told) + ".")


def show_losses(path: Path, groups: dict, trained: str) -> Shown:
    """Write the curves of the training loss, and say what they show."""
    save_picture(draw_losses(groups, trained), path)
    told = []
    for (init, of_group), runs in groups.items():
        if of_group == trained:
            first, last = (
                sum(run["rows"][at]["loss"] for run in runs) / len(runs) for at in (0, -1)
            )
            told.append(f"{_name(init)}: from {first:.3f} to {last:.3f} nats")
    caption = (
        "Training loss on the labelled photos. It says how fast a classifier learns its own "
        "photos by heart, and nothing of others: a low loss is no high accuracy."
    )
    return Shown(path, f"Training loss, {TRAINED[trained]}", caption, "; ".join(told) + ".")


def show_pretraining(path: Path, pretraining: dict[str, list[dict]]) -> Shown:
    """Write the curves of pretraining, and say what they show. pretraining: {run: lines}."""
    save_picture(draw_pretraining(pretraining), path)
    told = []
    for name, lines in list(pretraining.items())[:10]:
        row = training_of(lines)[-1]
        told.append(
            f"{printable(name)}: loss {row['loss']:.3f} and spread {row['spread']:.2f} after "
            f"{row['epoch']:.1f} epochs{_name_health(lines)}"
        )
    caption = (
        "The pretraining itself. Look at the accuracy of neighbours and of the linear probe on the "
        "labelled photos: they should rise above the dotted lines of random weights. The spread "
        "is near 0 if all photos look the same to the network. The loss says nothing of quality."
    )
    return Shown(path, "Pretraining", caption, "; ".join(told) + ".")


def _name_health(lines: list[dict]) -> str:
    """Write the last look at the health of a run, beside that at random weights."""
    last, random = (health_of(lines, of)[-1:] for of in ("encoder", "random"))
    if not (last and random):
        return ""
    words = {"knn_accuracy": ("kNN", 100, " %"), "linear_accuracy": ("linear probe", 100, " %")}
    words["effective_rank"] = "effective rank", 1, ""
    return "".join(
        f", {name} {scale * last[0][key]:.1f}{unit} (random weights {scale * random[0][key]:.1f})"
        for key, (name, scale, unit) in words.items()
        if key in last[0] and key in random[0]
    )


def _name(init: str) -> str:
    return styles_of([init])[init]["label"]
