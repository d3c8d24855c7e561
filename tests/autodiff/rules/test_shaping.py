"""Shaping at the edges: empty arrays, refused calls, what the tape keeps."""

import numpy as np
import pytest
from numpy.lib.stride_tricks import as_strided, sliding_window_view

import thriftgrad as tg
from thriftgrad.errors import DetachError, NoRuleError


def gradient(function, *args):
    """Return the gradients of the sum of a function's result, by one weight an entry."""

    def weighted(*tensors):
        result = function(*tensors)
        parts = result if isinstance(result, (list, tuple)) else [result]
        return sum(
            np.sum(part * (np.arange(part.size) + 1.0).reshape(part.shape)) for part in parts
        )

    found = tg.grad(weighted, argnums=tuple(range(len(args))))(*args)
    return found[0] if len(args) == 1 else found


EMPTY = np.zeros((0, 3))


@pytest.mark.parametrize(
    "function",
    [
        lambda a: np.roll(a, 1),
        lambda a: np.roll(a, 1, axis=1),
        lambda a: np.flip(a),
        lambda a: np.rot90(a),
        lambda a: np.tile(a, (2, 2)),
        lambda a: np.repeat(a, 2, axis=0),
        lambda a: np.repeat(a, [1, 0, 2], axis=1),
        lambda a: np.resize(a, (2, 2)),
        lambda a: np.diagonal(a),
        lambda a: np.trace(a),
        lambda a: np.diag(a),
        lambda a: np.diagflat(a),
        lambda a: np.tril(a),
        lambda a: np.pad(a, 1),
        lambda a: np.pad(a, ((0, 0), (1, 2)), "edge"),
        lambda a: np.pad(a, ((0, 0), (1, 2)), "linear_ramp"),
        lambda a: np.atleast_3d(a),
        lambda a: np.broadcast_arrays(a, np.ones((1, 3))),
        lambda a: np.meshgrid(a[:, 0], np.ones(2)),
        lambda a: sliding_window_view(a, 2, axis=1),
    ],
)
def test_empty_arrays(function) -> None:
    assert gradient(function, EMPTY).shape == EMPTY.shape


def test_what_is_left_out_receives_zero() -> None:
    x = np.arange(1.0, 7.0).reshape(2, 3)
    np.testing.assert_array_equal(gradient(lambda a: np.resize(a, 2), x), [[1, 2, 0], [0, 0, 0]])
    np.testing.assert_array_equal(gradient(lambda a: np.diag(a, 5), x), np.zeros((2, 3)))
    np.testing.assert_array_equal(gradient(lambda a: np.tile(a, 0), x), np.zeros((2, 3)))
    np.testing.assert_array_equal(
        gradient(lambda a: np.repeat(a, [0, 1, 0], axis=1), x), [[0, 1, 0], [0, 2, 0]]
    )


def test_pad_leaves_the_middle_of_an_empty_margin() -> None:
    x = np.ones(3)
    np.testing.assert_array_equal(
        tg.grad(lambda a: np.sum(np.pad(a, 2, "empty")[2:5] ** 2))(x), 2 * x
    )


def test_pad_ties_share() -> None:
    """Where two entries are the largest of the window, each receives half of the margin."""
    np.testing.assert_array_equal(
        tg.grad(lambda a: np.sum(np.pad(a, (1, 0), "maximum")))(np.array([2.0, 1.0, 2.0])),
        [1.5, 1.0, 1.5],
    )


def test_pad_by_a_function_is_refused() -> None:
    def write(vector, width, axis, options):
        vector[: width[0]] = 7.0

    with pytest.raises(NoRuleError, match=r"np\.concatenate"):
        tg.grad(lambda a: np.sum(np.pad(a, 1, write)))(np.ones(3))


def test_memory_order_is_refused() -> None:
    for function in (np.ravel, lambda a, order: np.reshape(a, -1, order=order)):
        with pytest.raises(NoRuleError, match=r"order='A' .* use order='C' or 'F'"):
            tg.grad(lambda a, f=function: np.sum(f(a, order="A")))(np.ones((2, 2)))


def test_as_strided_is_refused() -> None:
    with pytest.raises(DetachError, match="a function outside NumPy"):
        tg.grad(lambda a: np.sum(as_strided(a, (2, 2), (8, 8))))(np.ones(3))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.skipif(
    np.lib.NumpyVersion(np.__version__) >= "2.4.0", reason="this NumPy has no newshape="
)
def test_old_name_of_the_shape() -> None:
    np.testing.assert_array_equal(
        gradient(lambda a: np.reshape(a, newshape=(3, 2)), np.ones((2, 3))), [[1, 2, 3], [4, 5, 6]]
    )


def test_moves_keep_shapes_not_values() -> None:
    """The residuals of a move are numbers; the array is let go."""
    x = tg.Tensor(np.ones((4, 4)))
    for function in (
        lambda a: np.roll(a, 1),
        lambda a: np.tile(a, 2),
        lambda a: np.repeat(a, 2),
        lambda a: np.trace(a),
        lambda a: np.tril(a),
        lambda a: sliding_window_view(a, 2, axis=0),
        lambda a: np.split(a, 2)[0],
        lambda a: np.hstack([a, a]),
        lambda a: np.diff(a),
        lambda a: np.trapezoid(a),
    ):
        node = function(x).node
        kept = [residual for _, _, residuals in node.edges for residual in residuals]
        assert not any(isinstance(residual, np.ndarray) for residual in kept)
