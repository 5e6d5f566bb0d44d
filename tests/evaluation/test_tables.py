"""The tables, against figures worked out by hand."""

import pytest

from byol.report import table
from byol.report.pictures import draw_accuracy, plt
from byol.report.style import FROZEN, FULL
from byol.report.table import Cell, mean_and_deviation


def test_a_mean_has_the_deviation_of_a_sample():
    """Of 50 and 70 %: sqrt(2 * 10**2 / (2 - 1)) = 14.1."""
    assert mean_and_deviation([0.5, 0.7]) == "60.0 ± 14.1 (2)"
    assert mean_and_deviation([0.5, 0.7], " seeds") == "60.0 ± 14.1 (2 seeds)"
    assert mean_and_deviation([0.968]) == "96.8"


def test_a_table_has_a_row_for_each_representation_and_a_column_for_each_protocol():
    cells = [
        Cell("random", "avgpool", "linear", "250", [0.587]),
        Cell("classic", "combined", "knn", "250", [0.9, 0.92]),
    ]
    lines = table.markdown(cells, {"250": "9 images (holdout)"}).splitlines()
    assert lines[0] == "Test accuracy in %, 250 labels, tested on 9 images (holdout):"
    assert lines[4:6] == [
        "| random | avgpool | 58.7 |  |  |",
        "| classic | combined |  | 91.0 ± 1.4 (2) |  |",
    ]


def test_the_accuracies_of_classifiers_stand_by_start_and_part():
    runs = [{"summary": {"test_accuracy": value, "classes": ["a", "b"]}} for value in (0.6, 0.64)]
    groups = {("random", FROZEN): runs[:1], ("byol", FROZEN): runs}
    assert table.accuracy_table(groups).splitlines()[2:] == [
        "| frozen backbone | 60.0 | 62.0 ± 2.8 (2 seeds) |",
        "| full model | no run | no run |",
    ]
    assert table.accuracy_table({}) == ""


def test_other_starts_have_columns_of_their_own():
    run = {"summary": {"test_accuracy": 0.5, "classes": ["a", "b"]}}
    lines = table.accuracy_table({("imagenet", FROZEN): [run], ("a", FULL): [run]}).splitlines()
    assert lines == [
        "| test accuracy, % | random weights | BYOL weights | weights of a | ImageNet weights |",
        "|---|---|---|---|---|",
        "| frozen backbone | no run | no run | no run | 50.0 |",
        "| full model | no run | no run | 50.0 | no run |",
    ]


def test_of_uneven_classes_the_balanced_accuracy_stands_beside_the_other():
    cells: list[Cell] = []
    for value, balanced in ((0.5, 0.25), (0.7, 0.35)):
        table.add(cells, "random", "avgpool", "knn", "8", value, balanced=balanced)
    assert str(cells[0]) == "60.0 ± 14.1 (2); balanced 30.0 ± 7.1 (2)"


def test_the_line_of_chance_is_the_share_of_the_largest_class():
    summary = {"test_accuracy": 0.95, "chance": 0.94, "classes": ["cat", "dog"], "data": "photos",
               "labels": 12, "image_size": 32}  # fmt: skip
    figure = draw_accuracy({("random", FROZEN): [{"summary": summary}]})
    lines = [line.get_ydata() for line in figure.axes[0].lines if line.get_linestyle() == ":"]
    assert [list(line) for line in lines] == [pytest.approx([94, 94])]
    plt.close(figure)
