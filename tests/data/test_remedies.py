"""A label count that cannot be had: the sentence names one that can."""

from types import SimpleNamespace

import numpy as np
import pytest

from byol.errors import UserError
from data import make_split


def photos(*counts: int, test: tuple[int, ...] = ()) -> SimpleNamespace:
    """Photos of so many training images a class, and so many in a test split."""
    labels = np.repeat(np.arange(len(counts)), counts)
    tests = np.repeat(np.arange(len(test)), test)
    labels, is_test = np.concatenate([labels, tests]), np.arange(len(labels) + len(tests))
    is_test = is_test >= sum(counts)
    names = [f"{label}/{row}" for row, label in enumerate(labels)]
    return SimpleNamespace(
        names=names, labels=labels, is_test=is_test, classes=["cat", "dog", "owl"][: len(counts)],
        by_name=np.argsort(names), groups=None, source="photos", fingerprint="0",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("counts", "most"), [((100, 6), 13), ((6, 100), 12), ((5, 5, 4), 14), ((4, 5, 5), 12)]
)
def test_the_largest_count_that_works_is_named_and_works(counts, most):
    with pytest.raises(UserError, match=rf"give --labels {most} or less, all .*, or 0"):
        make_split(photos(*counts), 50)
    assert len(make_split(photos(*counts), most).labelled) == most
    with pytest.raises(UserError, match=f"give --labels {most} or less"):
        make_split(photos(*counts), most + 1)


def test_the_smallest_class_is_named():
    """Of both there are too few."""
    with pytest.raises(UserError, match="of class dog, but only 6 are left; give --labels 13"):
        make_split(photos(100, 6), 500)


def test_a_class_that_is_in_the_test_split_only_is_named():
    with pytest.raises(UserError, match=r"class dog, but only 0 .*outside of the test folder.*0"):
        make_split(photos(9, 0, test=(3, 3)), 4)


def test_a_holdout_that_is_too_large_gets_a_number():
    with pytest.raises(UserError, match="give --holdout 12 or less"):
        make_split(photos(6, 9), 0, 20)
