"""Reads what runs left in their folders, and says which of them can be compared."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from byol.config import modern_settings
from byol.errors import printable
from byol.files import same_photos
from byol.report.style import FROZEN, FULL, SELF_TRAINED, styles_of
from byol.run.metrics import HEALTH, read_jsonl, read_lines

# what runs that are compared must share, beside the photos
SAME = ("image_size", "labels", "representation", "tested_on", "test_images")
# what seeds of one thing may differ in
NOT_COMPARED = {"seed", "label_seed", "device", "amp", "folds"}


def read_runs(runs: Path) -> tuple[list[dict], dict[str, list[dict]]]:
    """Read classifier runs that can be compared, and the metrics of each pretraining run by name.

    If the classifiers differ in photos, size or labels, those like the newest stay; so do those of
    the same start and the same part that were trained in the same way. All is known by the
    fingerprints and settings in the summaries, not by names of files.
    """
    classifiers, pretraining, damaged, unfinished, untested = [], {}, [], [], []
    for folder in sorted(runs.iterdir()):
        summary = folder / "summary.json"
        try:
            if summary.is_file():
                read, rows = read_classifier(folder)
                if read["test_accuracy"] is None:
                    untested.append(folder.name)
                    continue
                age = summary.stat().st_mtime
                classifiers.append({"name": folder.name, "summary": read, "rows": rows, "age": age})
            elif (folder / "metrics.partial.jsonl").is_file():
                unfinished.append(folder.name)
            elif (folder / "metrics.jsonl").is_file():
                rows = read_pretraining(folder)
                pretraining.update({folder.name: rows} if rows else {})
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            damaged.append(folder.name)
    whys = "damaged, or of another program", "not finished", "without a test"
    for names, why in zip((damaged, unfinished, untested), whys, strict=True):
        if names:
            print(f"left out, {why}: {listed(names)}", file=sys.stderr)
    if classifiers:
        newest = newest_of(classifiers)["summary"]
        others = [r for r in classifiers if not can_be_compared(r["summary"], newest)]
        leave_out(classifiers, others, "other photos, size, labels, representation or test images")
        for start in sorted({r["summary"]["init"] for r in classifiers}):
            same = [r for r in classifiers if r["summary"]["init"] == start]
            last = newest_of(same)["summary"]
            others = [r for r in same if r["summary"]["weights"] != last["weights"]]
            what = styles_of([start])[start]["label"]
            why = f"other {what} than the newest run ({printable(last['init_file'])})"
            leave_out(classifiers, others, why)
        leave_out_other_settings(classifiers)
        leave_out_repeats(classifiers)
    return classifiers, pretraining


def newest_of(runs: list[dict]) -> dict:
    return max(runs, key=lambda run: run["age"])


def can_be_compared(summary: dict, other: dict) -> bool:
    """Tell whether two runs are of the same photos and the same task."""
    alike = all(summary[key] == other[key] for key in SAME)
    return alike and same_photos(summary["images"], other["images"])


def leave_out_other_settings(classifiers: list[dict]) -> None:
    """Take off the runs that were trained in another way than the newest of their group."""
    for start in {(r["summary"]["init"], r["summary"]["trained"]) for r in classifiers}:
        group = [r for r in classifiers if (r["summary"]["init"], r["summary"]["trained"]) == start]
        settings = newest_of(group)["summary"]["settings"]
        for run in group:
            others = run["summary"]["settings"]
            differing = sorted(
                key for key in settings.keys() | others.keys()
                if settings.get(key) != others.get(key)
            )  # fmt: skip
            if differing:
                now = ", ".join(f"{key} {others.get(key)}" for key in differing[:3])
                leave_out(classifiers, [run], f"trained with {now}, unlike the newest of its kind")


def leave_out_repeats(classifiers: list[dict]) -> None:
    """Take off the older of runs that have the same seeds, too: they are no further seed."""
    newest: dict[tuple, dict] = {}
    for run in sorted(classifiers, key=lambda run: run["age"]):
        keys = "init", "trained", "seed", "label_seed"
        newest[tuple(run["summary"].get(key) for key in keys)] = run
    repeats = [run for run in classifiers if run not in newest.values()]
    leave_out(classifiers, repeats, "the same seed again")


def read_classifier(folder: Path) -> tuple[dict, list[dict]]:
    """Read summary and rows of a finished classifier run. Raises `ValueError` and its like."""
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    summary.setdefault("representation", summary.get("features", "avgpool"))  # of earlier versions
    kinds = {"init": str, "freeze": bool, "seed": int, "classes": list, "data": str,
             "image_size": int, "labels": int, "tested_on": str, "test_images": int,
             "representation": str, "init_file": str, "epochs": int}  # fmt: skip
    check(all(type(summary[key]) is kind for key, kind in kinds.items()))
    # earlier versions did not say what a run was
    run = modern_settings(summary.get("run") or {"epochs": summary["epochs"]})
    full = SELF_TRAINED if run.get("self_train") else FULL
    summary["trained"] = FROZEN if summary["freeze"] else full
    summary["images"] = str(run.pop("images", summary["data"]))
    summary["weights"] = run.pop("weights", summary["init_file"])
    summary["settings"] = {key: value for key, value in run.items() if key not in NOT_COMPARED}
    check(summary["init"] != "" and len(summary["classes"]) >= 2)
    check(summary["tested_on"] == "nothing" or 0 <= summary["test_accuracy"] <= 1)
    rows = summary.get("curve")
    if rows is None:  # earlier versions left the rows in a file of their own
        rows = read_jsonl(folder / "metrics.jsonl")
        check(rows[-1]["loss"] == summary["train_loss"])  # else they are of another run
    check([row["epoch"] for row in rows] == list(range(1, summary["epochs"] + 1)))
    check(all(is_number(row["loss"]) for row in rows))
    return summary, rows


def read_pretraining(folder: Path) -> list[dict]:
    """Read the lines of a pretraining run until now, of training and of health.

    None, if there is none of training. Raises `ValueError` and its like.
    """
    path = folder / "metrics.jsonl"
    all_rows = read_lines(path)
    lines = path.read_text(encoding="utf-8").splitlines()
    check(len(all_rows) >= len(lines) - 1)  # the last one may be cut off
    rows = [row for row in all_rows if "kind" not in row]
    for row in rows:
        check({"epoch", "loss", "lr", "tau", "spread"} <= row.keys() == rows[0].keys())
        check(all(is_number(value) for value in row.values()))
    for row in all_rows:
        if "kind" in row:
            check(row["kind"] == HEALTH and row["of"] in ("random", "encoder"))
            check(all(is_number(row[key]) for key in row.keys() - {"kind", "of"}))
    return all_rows if rows else []


def check(condition: bool) -> None:
    if not condition:
        raise ValueError


def is_number(value: object) -> bool:
    """Tell whether it can be drawn."""
    return type(value) in (int, float) and abs(value) < 1e12


def listed(names: list[str], most: int = 10) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def leave_out(runs: list[dict], others: list[dict], why: str) -> None:
    """Take `others` off `runs`, and say so."""
    if others:
        print(f"left out, {why}: {listed([r['name'] for r in others])}", file=sys.stderr)
        runs[:] = [r for r in runs if r not in others]
