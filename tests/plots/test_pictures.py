"""Which images are shown as the worst, and which weights, in what order and place."""

import numpy as np
import pytest

from thriftgrad.errors import DataError
from thriftgrad.plots import weights, worst


def texts(axes):
    return [t.get_text() for t in axes.texts]


def test_the_worst_come_first():
    scores = np.array([[5.0, 0, 0], [0, 1, 0], [0, 0, 9], [2, 1, 0], [0, 4, 3]])
    labels = np.array([0, 0, 0, 1, 2])
    images = np.arange(5.0)[:, None, None] * np.ones((5, 4, 4))
    axes = worst(images, labels, scores)
    # Example 0 is right; 2 is wrong by 9, and 1, 3 and 4 by 1 each, in their order.
    assert texts(axes) == ["0, taken for 2", "0, taken for 1", "1, taken for 0", "2, taken for 1"]
    board = axes.images[0].get_array()
    shown = [
        v for v in dict.fromkeys(np.nan_to_num(np.asarray(board), nan=-1).max(axis=0)) if v > 0
    ]
    assert shown == [2, 1, 3, 4]


def test_at_most_so_many():
    n = 60
    axes = worst(np.zeros((n, 9)), np.zeros(n, int), np.tile([0.0, 1.0], (n, 1)), most=10)
    assert len(texts(axes)) == 10
    assert axes.get_title(loc="left") == "Worst classified: 10 of 60 mistakes"


def test_nothing_wrong(tmp_path):
    axes = worst(np.zeros((2, 9)), [0, 1], np.eye(2), path=tmp_path / "w.png")
    assert texts(axes) == ["none"]
    assert (tmp_path / "w.png").read_bytes().startswith(b"\x89PNG")


def test_names():
    assert texts(worst(np.zeros((1, 4)), [0], [[0, 1.0]], names=["cat", "dog"])) == [
        "cat, taken for dog"
    ]


@pytest.mark.parametrize(
    ("images", "labels", "scores", "message"),
    [
        (np.zeros((2, 5)), [0, 1], np.eye(2), r"pass shape=\(height, width\)"),
        (np.zeros((2, 4)), [0], np.eye(2), "2 images with labels of shape"),
        (np.zeros((2, 4)), [0, 2], np.eye(2), "labels from 0 to 2"),
        (np.zeros((2, 4)), [0, 0], np.ones((2, 1)), "two classes or more"),
    ],
)
def test_refuses(images, labels, scores, message):
    with pytest.raises(DataError, match=message):
        worst(images, labels, scores)


def test_weights_are_columns_scaled_to_the_largest():
    w = np.zeros((6, 2))
    w[:, 0] = [1, 2, 3, 4, 5, 6]
    w[:, 1] = -8
    axes = weights(w, shape=(2, 3))
    board = np.asarray(axes.images[0].get_array())
    assert axes.images[0].get_clim() == (-1, 1)
    np.testing.assert_allclose(board[1:3, 1:4], [[1 / 8, 2 / 8, 3 / 8], [4 / 8, 5 / 8, 6 / 8]])
    np.testing.assert_allclose(board[1:3, 5:8], -1)
    assert [t.get_text() for t in axes.child_axes[0].get_yticklabels()] == ["−8", "0", "8"]


def test_of_many_units_the_largest_in_their_order():
    w = np.tile([1.0, 5.0, 2.0, 4.0], (4, 1))
    axes = weights(w, most=2)
    board = np.asarray(axes.images[0].get_array())
    assert axes.get_title(loc="left") == "First-layer weights: the 2 largest of 4 units"
    np.testing.assert_allclose([board[1, 1], board[1, 4]], [1.0, 0.8])


def test_weights_that_are_no_images():
    with pytest.raises(DataError, match=r"pass shape=\(height, width\)"):
        weights(np.zeros((7, 3)))
    with pytest.raises(DataError, match=r"expected \(inputs, units\)"):
        weights(np.zeros(7))


def test_weights_of_zero_can_be_drawn(tmp_path):
    weights(np.zeros((4, 3)), path=tmp_path / "w.svg")
