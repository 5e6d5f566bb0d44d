"""Draw what the runs show: does BYOL beat random weights, and what does it see?

    python plot_losses.py                                   # reads runs/, writes plots/
    python plot_losses.py --runs demo/runs --out demo/plots
    python plot_losses.py --watch                           # again and again, as a run goes on
    python plot_losses.py --no-photos                       # curves and bars alone

Reads what the runs left in their folders, and the photos as they were packed for them.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from byol.command_line import Parser, command
from byol.config import ClassifierConfig, PretrainConfig
from byol.encoder import Encoder
from byol.errors import UserError, printable
from byol.evaluation.classifier import Classifier
from byol.evaluation.layout import MOST_BY_TSNE, find_tsne, lay_out
from byol.evaluation.looked_at import (
    extractor_of,
    photos_to_look_at,
    pick_rows,
    spread,
    with_classes,
)
from byol.evaluation.mistakes import find_mistakes, rows_of_test
from byol.evaluation.neighbours import COUNT, chance, find_neighbours, pick_queries
from byol.evaluation.training_views import training_views
from byol.hardware.device import set_up
from byol.hardware.step import prepare
from byol.report.confusion import show_confusion
from byol.report.four import show_accuracy, show_losses, show_pretraining
from byol.report.gallery import Shown
from byol.report.groups import best_of, frozen_run, name_trained
from byol.report.mistakes import show_mistakes
from byol.report.mosaic import show_maps
from byol.report.neighbours import show_neighbours
from byol.report.parts import left_by_evaluate, parts_of
from byol.report.redraw import Redraw, looks, stamp
from byol.report.runs import read_runs
from byol.report.sections import write_page
from byol.report.style import FROZEN, FULL, SELF_TRAINED, TRAINED, styles_of
from byol.report.table import accuracy_table
from byol.report.verdict import verdict
from byol.report.views import show_views
from byol.run.checkpoint import load_encoder
from byol.run.folder import make_folder
from byol.run.left import read_config, read_json, read_trained
from data import make_split, open_again

VIEWED = 6  # photos, with their views
PAGE = "index.html"


@command
def main(argv: list[str] | None = None) -> None:
    args = read_flags(argv)
    runs = Path(args.runs)
    if not runs.is_dir():
        raise UserError(f"--runs: there is no folder {runs}; train_classifier.py makes one")
    out = make_folder(args.out, "--out")
    redraw = Redraw()
    try:
        for redraw.last in looks(runs, args.watch):  # once, or with --watch again and again
            try:
                table, shown = draw(runs, out, args, redraw)
            except UserError:  # of a run that has only begun there is nothing yet
                if redraw.last:
                    raise
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"the pictures in {out} are as they were last drawn") from None
    print(table, end="")
    print("\n".join(printable(str(each.path)) for each in shown))
    print(printable(str(out / PAGE)))


def read_flags(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(description=__doc__)
    parser.add_argument(
        "--runs", metavar="FOLDER", default="runs", help="folder of run folders [runs]"
    )
    parser.add_argument(
        "--out", metavar="FOLDER", default="plots", help="folder for the pictures [plots]"
    )
    parser.add_argument(
        "--no-photos", dest="photos", action="store_false", help="draw no pictures made of photos"
    )
    parser.add_argument(
        "--evaluation",
        metavar="FOLDER",
        default="evaluation",
        help="folder of evaluate.py, shown as well if it is there [evaluation]",
    )
    parser.add_argument(
        "--watch", action="store_true", help="draw again as runs go on, until none does"
    )
    return parser.parse_args(argv)


def draw(
    runs: Path, out: Path, args: argparse.Namespace, redraw: Redraw
) -> tuple[str, list[Shown]]:
    """Draw what there is below `runs`: the table of accuracies, and the pictures in their order.

    The page is written from them.
    """
    # ---- what there is
    with_photos = args.photos
    with redraw.telling_once():
        classifiers, pretraining = read_runs(runs)
    if not classifiers and not pretraining:
        raise UserError(f"{runs} holds no finished run; run train_byol.py or train_classifier.py")
    groups = defaultdict(list)  # (init, trained) -> runs that differ in their seeds
    for run in classifiers:
        groups[run["summary"]["init"], run["summary"]["trained"]].append(run)
    starts = styles_of(init for init, _ in groups)  # random and BYOL, and what else there is
    missing = [f"{i} {TRAINED[f]}" for f in (FROZEN, FULL) for i in starts if (i, f) not in groups]
    missing += [] if pretraining else ["pretraining"]
    if missing:
        redraw.say(f"no run yet of: {', '.join(missing)}")

    # ---- the pictures: file, what it is made of, who draws it, and of what
    shown = []

    def add(name: str, files: list[Path], make: Callable[..., Shown], *about) -> None:
        shown.extend(redraw.or_pass_over(name, files, lambda: make(out / name, *about)))

    summaries = [runs / run["name"] / "summary.json" for run in classifiers]
    metrics = [runs / name / "metrics.jsonl" for name in pretraining]
    newest = max(metrics, key=stamp).parent if metrics else None
    if groups:
        add("accuracy.png", summaries, show_accuracy, groups)
    if newest:
        add("pretraining.png", metrics, show_pretraining, pretraining)
    if newest and with_photos:
        files = [newest / name for name in ("config.json", "split.json")]
        add("views.png", files, draw_views, newest)
    if with_photos:
        trained = newest or runs / frozen_run(groups)  # without one, a run that is not there
        files = [trained / name for name in ("config.json", "last.pt", "classifier.pt")]
        for name, make in (("map.png", draw_map), ("neighbours.png", draw_neighbours)):
            add(name, files, make, trained, files, redraw)
    if groups:
        add("confusion.png", summaries, show_confusion, groups)
    if groups and with_photos:
        best = min(groups[best_of(groups)], key=lambda run: run["summary"]["seed"])
        files = [runs / best["name"] / name for name in ("classifier.pt", "summary.json")]
        add("mistakes.png", files, draw_mistakes, runs / best["name"], best["summary"])
    for kind, name in ((FROZEN, "loss2.png"), (FULL, "loss1.png"), (SELF_TRAINED, "loss3.png")):
        if any(of_group == kind for _, of_group in groups):
            add(name, summaries, show_losses, groups, kind)

    # ---- the page
    of_runs = classifiers[0]["summary"]["images"] if classifiers else None
    parts = parts_of(runs, pretraining, groups)
    pretrained = [part.settings for part in parts if part.is_pretraining]
    sentence, judged, left_out = left_by_evaluate(Path(args.evaluation), of_runs, pretrained)
    for text in left_out:
        redraw.say(f"passed over  {text}")
    write_page(out / PAGE, verdict(groups, sentence), groups, [*judged, *shown], parts)
    return accuracy_table(groups), shown


# ---- pictures that need photos or an encoder; each raises `UserError` if they are not at hand


def draw_views(path: Path, folder: Path) -> Shown:
    """Draw some photos with the views that a run of pretraining makes of them."""
    config, saved = read_config(folder, PretrainConfig), read_json(folder / "split.json")
    photos = open_again(str(saved.get("fingerprint")), **config.reading)
    labels = config.labels if photos.classes else 0
    split = make_split(photos, labels, config.holdout, config.split_seed)
    if [photos.names[row] for row in split.labelled] != saved.get("labelled"):
        raise UserError(f"the labels are not those of {folder}")
    schedule = config.schedule(len(split.learned))
    views = training_views(config, photos, split.learned, schedule, VIEWED)
    return show_views(path, photos, views, config)


def look_at(folder: Path) -> SimpleNamespace:
    """Compute what random weights and the encoder of a run see in a spread of its photos."""
    if not folder.is_dir():
        raise UserError("there is no run yet of a pretrained encoder")
    content, config = read_trained(folder)
    photos = open_again(content["data_fingerprint"], **config.reading)
    device, amp = set_up("auto", "auto")
    rows = pick_rows(photos.labels, photos_to_look_at(content, device))
    if len(rows) < 2:
        raise UserError("there is only one photo")
    torch.manual_seed(config.seed)
    encoders = {
        "random weights": Encoder(content["arch"], content["stem"]),
        name_trained(folder, content): load_encoder(content, folder),
    }
    extract = extractor_of(content, device, amp)
    features = {
        name: extract(prepare(encoder, device), photos, rows, f"photos, {name}")
        for name, encoder in encoders.items()
    }
    return SimpleNamespace(features=features, photos=photos, rows=rows)


def draw_map(path: Path, folder: Path, files: list[Path], redraw: Redraw) -> Shown:
    """Draw the photos where they lie for random weights and for the encoder of a run."""
    seen, tsne = redraw(f"features, {folder}", files, lambda: look_at(folder)), find_tsne()
    among = spread(np.arange(len(seen.rows)), MOST_BY_TSNE if tsne else len(seen.rows))
    some = torch.from_numpy(among)
    maps = {name: lay_out(features[some], tsne) for name, features in seen.features.items()}
    return show_maps(path, maps, seen.photos, seen.rows[among], "t-SNE" if tsne else "PCA")


def draw_neighbours(path: Path, folder: Path, files: list[Path], redraw: Redraw) -> Shown:
    """Draw the photos that random weights and the encoder of a run take for the most similar."""
    seen = redraw(f"features, {folder}", files, lambda: look_at(folder))
    among = with_classes(seen.photos.labels[seen.rows])
    rows = seen.rows[among]
    labels = seen.photos.labels[rows]
    if len(rows) <= COUNT:
        raise UserError(f"{len(rows)} photos are too few")
    found = {
        name: find_neighbours(x[torch.from_numpy(among)], labels)
        for name, x in seen.features.items()
    }
    return show_neighbours(path, seen.photos, rows, pick_queries(labels), found, chance(labels))


def draw_mistakes(path: Path, folder: Path, summary: dict) -> Shown:
    """Draw test photos of which a classifier is wrong, the surest first."""
    config = read_config(folder, ClassifierConfig)
    photos = open_again(summary["images"], **config.reading)
    split = make_split(photos, config.labels, config.holdout, config.split_seed, config.label_seed)
    tested = rows_of_test(photos, split, summary)
    device, amp = set_up("auto", "auto")
    classifier = Classifier.load(folder / "classifier.pt", device)
    if classifier.classes != photos.classes:
        raise UserError(f"the classes are not those of {folder}")
    rows = spread(tested, photos_to_look_at(classifier.settings, device))
    probabilities = classifier.predict(photos, rows, device, amp)
    mistakes = find_mistakes(probabilities, photos.labels[rows], rows)
    return show_mistakes(path, mistakes, len(rows), summary, photos)


if __name__ == "__main__":
    sys.exit(main())
