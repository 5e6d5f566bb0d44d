"""What a confusion matrix says, against figures worked out by hand."""

import pytest
import torch
from torch import nn

from byol.evaluation.features import confusion_matrix
from byol.evaluation.scores import Scores


def test_a_classifier_that_always_says_cat_is_found_out():
    """100 cats and 6 dogs: 94 % is chance."""
    scores = Scores([[100, 0], [6, 0]], ["cat", "dog"])
    summary = scores.summary()
    assert summary["test_accuracy"] == summary["chance"] == pytest.approx(100 / 106)
    assert summary["balanced_accuracy"] == 0.5
    assert summary["recall"] == {"cat": 1.0, "dog": 0.0}
    said = scores.describe("hidden labels")
    assert "test accuracy 94.34 % on 106 images (hidden labels)" in said
    assert "50.00 %; recall in %: cat 100.0 of 100, dog 0.0 of 6" in said
    assert "94.3 % are of the largest class" in said


def test_even_classes_have_one_line():
    assert len(Scores([[40, 10], [20, 30]], ["a", "b"]).describe("holdout").splitlines()) == 1


def test_a_class_without_a_test_image_is_told_and_left_out_of_the_mean():
    scores = Scores([[3, 1, 0], [0, 0, 0], [0, 0, 4]], ["a", "b", "c\n"])
    assert scores.balanced_accuracy == pytest.approx((0.75 + 1) / 2)
    assert scores.summary()["recall"]["b"] is None
    assert scores.warning() == "warning: no test image of b"
    assert "\\n" in scores.describe("test split").splitlines()[1]  # no name breaks a line


def test_confusion_counts_true_classes_in_rows():
    head = nn.Linear(3, 3)
    with torch.no_grad():
        head.weight.copy_(torch.eye(3))
        head.bias.zero_()
    said = torch.tensor([0, 0, 1, 2, 2, 2])
    truth = torch.tensor([0, 1, 1, 0, 2, 2])
    counts = confusion_matrix(head, torch.eye(3)[said], truth)
    assert counts == [[1, 0, 1], [1, 1, 0], [0, 0, 2]]
