"""The label curve of `evaluate.py --curve`: picture, table, words."""

from __future__ import annotations

import math
import textwrap
from pathlib import Path

from byol.errors import printable
from byol.files import write_atomically, write_json
from byol.report.pictures import plt, save_picture  # which sets the backend of matplotlib
from byol.report.style import plain, styles_of

NAME = "label_curve"
WIDTH = 74  # characters of the sentence above the picture


def write(folder: Path, content: dict) -> dict:
    """Write label_curve.md, .png and .json; give the content with its words.

    These are `title`, `table`, `caption` and `alt`; `sentence` is there.
    """
    content = {**content, "title": "Accuracy against the number of labels"}
    content |= {"table": markdown(content), "caption": caption(content), "alt": alt(content)}
    text = f"{content['sentence']}\n\n{content['table']}\n{content['caption']}\n"
    write_atomically(folder / f"{NAME}.md", text.encode())
    save_picture(draw(content), folder / f"{NAME}.png")
    write_json(folder / f"{NAME}.json", content)
    return content


def markdown(content: dict) -> str:
    """Write a row for each curve and a column for each count: in %, mean ± deviation (draws)."""
    counts = content["counts"]
    head = [f"{content['measure']}, %", *(f"{count:,} labels" for count in counts)]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for curve in content["curves"]:
        cells = {p["labels"]: _cell(p) for p in curve["points"]}
        name = printable(curve["name"]).replace("|", r"\|")
        lines.append(f"| {' | '.join([name, *(cells.get(c, '') for c in counts)])} |")
    return "\n".join(lines) + "\n"


def _cell(point: dict) -> str:
    text = f"{100 * point['mean']:.1f}"
    if point["std"] is None:
        return text
    return f"{text} ± {100 * point['std']:.1f} ({len(point['values'])})"


def caption(content: dict) -> str:
    """Say what the figures are."""
    return printable(
        f"Mean and deviation over the draws of the labels. All are tested on the same "
        f"{content['tested']:,} images ({content['tested_on']}). Frozen is linear evaluation; "
        f"features: {content['representation']}. Chance is {100 * content['chance']:.1f} %."
        + (f" It is {content['unfinished']}." if content["unfinished"] else "")
    )


def alt(content: dict) -> str:
    """Say the first and the last figure of each curve."""
    parts = []
    for curve in content["curves"]:
        ends = dict.fromkeys((0, len(curve["points"]) - 1))
        points = [curve["points"][at] for at in ends]
        told = [f"{100 * p['mean']:.1f} % with {p['labels']:,} labels" for p in points]
        parts.append(f"{printable(curve['name'])}: {', '.join(told)}")
    return f"Curves of {content['measure']} over the number of labels. {'; '.join(parts)}."


def draw(content: dict) -> plt.Figure:
    """Draw each curve on a logarithmic axis of labels, with a band of the deviation.

    An arrow leads from BYOL's features to the count that does as well without them.
    """
    figure, axes = plt.subplots(figsize=(8, 5.4), layout="constrained")
    curves, counts = content["curves"], content["counts"]
    styles = styles_of(curve["start"] for curve in curves)
    for curve in curves:
        colour = styles[curve["start"]]["color"]
        x = [p["labels"] for p in curve["points"]]
        mean = [100 * p["mean"] for p in curve["points"]]
        spread = [100 * (p["std"] or 0) for p in curve["points"]]
        low, high = zip(*((m - s, m + s) for m, s in zip(mean, spread, strict=True)), strict=True)
        line, marker = ("-", "o") if curve["frozen"] else ("--", "s")
        axes.fill_between(x, low, high, color=colour, alpha=0.15, lw=0)
        axes.plot(x, mean, line, marker=marker, color=colour, lw=2, ms=6,
                  markerfacecolor=colour if curve["frozen"] else "white", markeredgewidth=1.6,
                  label=plain(curve["name"]), zorder=3)  # fmt: skip
    chance = 100 * content["chance"]
    axes.axhline(chance, color="0.35", ls=":", lw=1.2)
    axes.set_xscale("log")
    axes.set_xticks(counts, tick_labels(counts))
    axes.minorticks_off()
    axes.annotate("chance", (1, chance), (-4, -3), xycoords=("axes fraction", "data"),
                  textcoords="offset points", ha="right", va="top", color="0.35",
                  fontsize=10)  # fmt: skip
    _draw_worth(axes, content)
    axes.set_xlabel("labelled photos (logarithmic)", fontsize=11)
    axes.set_ylabel(f"{content['measure']} (%)", fontsize=11)
    axes.grid(alpha=0.3)
    handles, names = axes.get_legend_handles_labels()
    last = {plain(c["name"]): c["points"][-1]["mean"] for c in curves}
    best_first = sorted(zip(handles, names, strict=True), key=lambda pair: -last[pair[1]])
    handles, names = zip(*best_first, strict=True)
    figure.legend(handles, names, loc="outside lower center", ncols=3, fontsize=10, frameon=False)
    unfinished = f"; {content['unfinished']}" if content["unfinished"] else ""
    title = textwrap.fill(content["sentence"], WIDTH)
    axes.set_title(title, loc="left", fontsize=11.5, weight="bold", pad=26)
    axes.annotate(plain(f"{Path(content['data']).name}, {content['image_size']} px{unfinished}"),
                  (0, 1), (0, 8), xycoords="axes fraction", textcoords="offset points",
                  color="0.35", fontsize=10)  # fmt: skip
    return figure


def _draw_worth(axes: plt.Axes, content: dict) -> None:
    """Draw the arrow to the count without pretraining, if it was found between two counts."""
    verdict = content["verdict"]
    if verdict["worth"] != "about" or verdict["equal_labels"] <= verdict["labels"]:
        return
    height, ends = 100 * verdict["accuracy"], (verdict["labels"], verdict["equal_labels"])
    axes.annotate("", (ends[1], height), (ends[0], height), zorder=4,
                  arrowprops={"arrowstyle": "->", "color": "black", "lw": 1.4,
                              "shrinkA": 5, "shrinkB": 0})  # fmt: skip
    axes.plot([ends[1]] * 2, [100 * content["chance"], height], color="black", lw=0.8, ls=":")
    axes.annotate(verdict["told"], (ends[1], 100 * content["chance"]), (5, 4),
                  textcoords="offset points", fontsize=10)  # fmt: skip


def tick_labels(counts: list[int]) -> list[str]:
    """Write the counts; leave out those that would run into the next one on a logarithmic axis."""
    least = (counts[-1] / counts[0]) ** 0.06
    labels, after = [], math.inf
    for count in reversed(counts):
        labels.append(f"{count:,}" if after / count >= least else "")
        after = count if labels[-1] else after
    return labels[::-1]
