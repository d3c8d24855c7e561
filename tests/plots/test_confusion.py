"""The confusion matrix: counts against a loop, and what is refused."""

import numpy as np
import pytest

from thriftgrad.errors import DataError
from thriftgrad.plots import confusion


def numbers(axes):
    """Return the numbers in the cells, by row and column."""
    return {
        (round(t.get_position()[1]), round(t.get_position()[0])): int(t.get_text())
        for t in axes.texts
    }


def test_counts():
    rng = np.random.default_rng(0)
    labels, taken_for = rng.integers(0, 5, (2, 300))
    expected = {}
    for pair in zip(labels.tolist(), taken_for.tolist(), strict=True):
        expected[pair] = expected.get(pair, 0) + 1
    axes = confusion(labels, taken_for)
    assert numbers(axes) == expected
    right = sum(n for (i, j), n in expected.items() if i == j)
    assert axes.get_title(loc="left") == f"Confusion: {right} of 300 right"
    assert axes.get_ylim() == (4.5, -0.5)  # the first class is above


def test_only_mistakes_are_shaded():
    shade = confusion([0, 0, 1, 1], [0, 1, 1, 1]).images[0].get_array()
    np.testing.assert_array_equal(shade, [[0, 0.5], [0, 0]])


def test_names_stand_on_both_axes():
    axes = confusion([0, 1], [1, 1], names=["cat", "dog", "eel"])
    for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
        assert [t.get_text() for t in labels] == ["cat", "dog", "eel"]


def test_many_classes_have_no_numbers(tmp_path):
    labels = np.arange(100)
    axes = confusion(labels, labels[::-1], path=tmp_path / "c.svg")
    assert not axes.texts
    assert (tmp_path / "c.svg").read_text().startswith("<?xml")


@pytest.mark.parametrize(
    ("labels", "taken_for", "message"),
    [
        ([], [], "at least one example"),
        ([0.0], [0.0], "dtype float64"),
        ([[0, 1]], [0], r"shape \(1, 2\)"),
        ([0, 1], [0], "2 labels for 1 examples"),
        ([-1], [0], "counted from 0"),
    ],
)
def test_refuses(labels, taken_for, message):
    with pytest.raises(DataError, match=message):
        confusion(labels, taken_for)


def test_refuses_too_few_names():
    with pytest.raises(DataError, match="1 names for 2 classes"):
        confusion([0, 1], [0, 1], names=["cat"])
