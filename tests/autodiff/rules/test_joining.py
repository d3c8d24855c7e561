"""Joining and splitting at the edges."""

import numpy as np
import pytest

import thriftgrad as tg


def test_a_tensor_is_a_sequence_of_its_rows() -> None:
    x = np.arange(6.0).reshape(2, 3)
    for function in (np.hstack, np.vstack, np.dstack, np.column_stack):
        found = tg.grad(lambda a, f=function: np.sum(f(a) ** 2))(x)
        np.testing.assert_array_equal(found, 2 * x)


def test_empty_parts() -> None:
    x, none = np.ones((2, 3)), np.ones((2, 0))
    for function in (lambda a, b: np.hstack([a, b]), lambda a, b: np.append(a, b, axis=1)):
        g = tg.grad(lambda a, b, f=function: np.sum(f(a, b) ** 2), argnums=(0, 1))(x, none)
        np.testing.assert_array_equal(g[0], 2 * x)
        assert g[1].shape == (2, 0)
    assert tg.grad(lambda a: np.sum(np.delete(a, [])))(np.ones(3)).tolist() == [1, 1, 1]
    assert tg.grad(lambda a: np.sum(np.insert(a, 0, 5.0)))(np.ones(0)).shape == (0,)


def test_one_piece_of_many() -> None:
    """The pieces that nobody used send zeros back."""
    x = np.arange(6.0)
    found = tg.grad(lambda a: np.sum(np.split(a, 3)[1] ** 2))(x)
    np.testing.assert_array_equal(found, [0, 0, 4, 6, 0, 0])


def test_pieces_that_overlap_add_up() -> None:
    found = tg.grad(lambda a: sum(np.sum(part) for part in np.split(a, [2, 1])))(np.ones(3))
    np.testing.assert_array_equal(found, [1, 2, 1])


def test_block_of_nested_lists() -> None:
    a, b = np.arange(4.0).reshape(2, 2), np.ones(2)

    def f(a, b):
        return np.sum(np.block([[a, 2.0 * b[:, None]], [b, 5.0]]) ** 3)

    ga, gb = tg.grad(f, argnums=(0, 1))(a, b)
    np.testing.assert_allclose(ga, 3 * a**2)
    np.testing.assert_allclose(gb, 24 * b**2 + 3 * b**2)
    np.testing.assert_allclose(tg.hvp(f)(a, b, np.ones((2, 2))), 6 * a)
    with pytest.raises(ValueError, match="mismatched"):
        tg.grad(lambda a: np.sum(np.block([[a], a])))(a)


def test_joining_many_arrays_takes_linear_time_and_one_edge() -> None:
    a = tg.Tensor(np.ones(2))
    joined = np.concatenate([a] * 1000)
    assert len(joined.node.edges) == 1
    np.sum(joined).backward()
    assert a.grad.tolist() == [1000.0, 1000.0]
    rows = tg.Tensor(np.ones((1000, 3)))
    first, *_ = rows
    assert len(first.node.edges) == 1
    np.stack(arrays=rows)  # a tensor by keyword is a sequence of its rows too


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.skipif(not hasattr(np, "row_stack"), reason="this NumPy has no row_stack")
def test_row_stack_is_vstack() -> None:
    found = tg.grad(lambda a: np.sum(np.row_stack([a, a]) ** 2))(np.ones(3))  # noqa: NPY201
    np.testing.assert_array_equal(found, [4, 4, 4])
