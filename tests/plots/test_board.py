"""The board that `train.Live` shows: what is in the picture, and how its limits move."""

import io

import numpy as np
import pytest

from thriftgrad.plots._board import Board, Curves, _loss_limits, _percent_limits, png

RNG = np.random.default_rng(0)


def decoded(picture):
    from matplotlib.image import imread

    return imread(io.BytesIO(picture))


def curves(n=5, scale=1.0):
    t = np.arange(1.0, n + 1)
    return Curves((t, scale / t), (t, 1.2 * scale / t), (t, 1 - 0.5 / t), (t, 1 - 0.6 / t))


def test_png_is_the_picture():
    pixels = RNG.integers(0, 256, (13, 7, 4), np.uint8)
    np.testing.assert_array_equal((decoded(png(pixels)) * 255).round(), pixels)


def test_what_is_drawn_over_copies_is_what_a_whole_drawing_gives():
    board = Board(5, RNG.random((8, 4, 4)), np.arange(8) % 3, ["a", "b", "c"])
    for n, scale in ((1, 1.0), (2, 1.0), (2, 50.0), (5, 50.0)):
        outputs = RNG.dirichlet(np.ones(3), 8)
        quick = board.draw(curves(n, scale), outputs).copy()
    board._still = []
    np.testing.assert_array_equal(quick, board.draw(curves(n, scale), outputs))
    assert np.ptp(quick[..., :3].astype(int)) == 255


def test_titles_and_stems():
    board = Board(5, RNG.random((2, 4, 4)), np.array([1, 2]), ["cat", "dog", "eel"])
    board.draw(curves(), np.array([[0.1, 0.9, 0.0], [0.7, 0.1, 0.2]]))
    right, wrong = board.stems.titles
    assert (right.get_text(), wrong.get_text()) == ("✓ dog", "✗ cat, is eel")
    assert (right.get_color(), wrong.get_color()) == ("#009E73", "#D55E00")
    heights = [s[1, 1] - s[0, 1] for s in map(np.asarray, board.stems.bars.get_segments())]
    np.testing.assert_allclose(np.divide(heights, heights[1]), np.array([1, 9, 0, 7, 1, 2]) / 9)


def test_curves_alone():
    board = Board(5, np.empty((0, 0)), np.empty(0, int), [])
    assert board.draw(curves(), None).shape[1] < 500


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_limits_hold_the_loss(scale):
    limits = None
    changes = 0
    for n in range(1, 300):
        before, limits = limits, _loss_limits(scale * 0.97 ** np.arange(n), limits)
        assert 0 < limits[0] <= scale * 0.97 ** (n - 1)
        assert limits[1] >= scale
        changes += limits != before
    assert changes < 12  # each costs a drawing of the panels


def test_limits_of_a_loss_that_turns_negative():
    limits = _loss_limits(np.array([1.0]), None)
    low, high = _loss_limits(np.array([1.0, -2.0]), limits)
    assert low < -2 < 1 < high
    assert _loss_limits(np.array([1.0, -2.0, 0.5]), (low, high)) == (low, high)


@pytest.mark.parametrize(("lowest", "floor"), [(0.0, 0), (63.0, 50), (99.1, 98)])
def test_limits_of_accuracy(lowest, floor):
    assert _percent_limits(np.array([lowest, 100.0]))[0] == floor
