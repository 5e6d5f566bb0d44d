"""Draw what the runs show: does BYOL beat random weights?

    python plot_losses.py                                   # reads runs/, writes plots/
    python plot_losses.py --runs demo/runs --out demo/plots

Reads summary.json of each classifier run, metrics.jsonl of each pretraining run, nothing else.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path

from byol.command_line import Parser, command
from byol.errors import UserError, printable
from byol.progress import say
from byol.report.pictures import draw_accuracy, draw_losses, save_picture
from byol.report.pretraining import draw_pretraining
from byol.report.runs import read_runs
from byol.report.style import TRAINED, styles_of
from byol.report.table import accuracy_table
from byol.run.folder import make_folder


@command
def main(argv: list[str] | None = None) -> None:
    parser = Parser(description=__doc__)
    parser.add_argument(
        "--runs", metavar="FOLDER", default="runs", help="folder of run folders [runs]"
    )
    parser.add_argument(
        "--out", metavar="FOLDER", default="plots", help="folder for the pictures [plots]"
    )
    args = parser.parse_args(argv)
    runs = Path(args.runs)
    if not runs.is_dir():
        raise UserError(f"--runs: there is no folder {runs}; train_classifier.py makes one")
    out = make_folder(args.out, "--out")

    # ---- what there is
    classifiers, pretraining = read_runs(runs)
    if not classifiers and not pretraining:
        raise UserError(f"{runs} holds no finished run; run train_byol.py or train_classifier.py")
    groups = defaultdict(list)  # (init, freeze) -> runs that differ in their seeds
    for run in classifiers:
        groups[run["summary"]["init"], run["summary"]["freeze"]].append(run)
    starts = styles_of(init for init, _ in groups)  # random and BYOL, and what else there is
    missing = [f"{i} {TRAINED[f]}" for f in TRAINED for i in starts if (i, f) not in groups]
    missing += [] if pretraining else ["pretraining"]
    if missing:
        say(f"no run yet of: {', '.join(missing)}")

    # ---- pictures and table
    written = []
    for freeze, name in ((False, "loss1.png"), (True, "loss2.png")):
        if any((init, freeze) in groups for init in starts):
            written.append(save_picture(draw_losses(groups, freeze), out / name))
    if groups:
        written.append(save_picture(draw_accuracy(groups), out / "accuracy.png"))
    if pretraining:
        written.append(save_picture(draw_pretraining(pretraining), out / "pretraining.png"))
    print(accuracy_table(groups), end="")
    print("\n".join(printable(str(path)) for path in written))


if __name__ == "__main__":
    sys.exit(main())
