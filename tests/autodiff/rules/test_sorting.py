"""Sorting and selection at equal entries, at NaN, on nothing, and where they are refused."""

import numpy as np
import pytest

import thriftgrad as tg
from thriftgrad.errors import DetachError, InPlaceError

TIED = np.array([2.0, 1.0, 2.0, 1.0, 3.0])


def pulled(f, x, g):
    return tg.vjp(f)(np.asarray(x))[1](np.asarray(g, dtype=float))


@pytest.mark.parametrize(
    "f",
    [
        np.sort,
        lambda x: np.sort(x, kind="heapsort"),
        lambda x: np.partition(x, [0, 1, 2, 3, 4]),
        lambda x: np.sort(x, axis=None),
    ],
)
def test_equal_entries_keep_their_order(f) -> None:
    np.testing.assert_array_equal(pulled(f, TIED, [1, 2, 3, 4, 5]), [3, 1, 4, 2, 5])


@pytest.mark.parametrize("f", [np.unique, np.unique_values])
def test_unique_reads_the_first_of_equal_entries(f) -> None:
    values, pull = tg.vjp(f)(TIED)
    weight = {1.0: 1.0, 2.0: 2.0, 3.0: 3.0}
    found = pull(np.array([weight[v] for v in values.tolist()]))
    np.testing.assert_array_equal(found, [2, 1, 0, 0, 3])


@pytest.mark.parametrize("equal_nan", [True, False])
def test_unique_with_nan(equal_nan) -> None:
    x = np.array([np.nan, 1.0, np.nan, 0.0])
    g = [1, 2, 3] if equal_nan else [1, 2, 3, 4]
    found = pulled(lambda x: np.unique(x, equal_nan=equal_nan), x, g)
    np.testing.assert_array_equal(found, [3, 2, 0 if equal_nan else 4, 1])


def test_unique_gives_its_indices_as_they_are() -> None:
    values, index, inverse, counts = np.unique(
        tg.Tensor(TIED), return_index=True, return_inverse=True, return_counts=True
    )
    assert isinstance(values, tg.Tensor)
    assert list(index) == [1, 0, 4]
    assert list(inverse) == [1, 0, 1, 0, 2]
    assert list(counts) == [2, 2, 1]
    assert np.unique_counts(tg.Tensor(TIED)).counts.dtype.kind == "i"


def test_partition_sends_back_by_value() -> None:
    x = np.random.default_rng(0).permutation(1000).astype(float)
    found = pulled(lambda x: np.partition(x, 400) * 1.0, x, np.partition(x, 400))
    np.testing.assert_array_equal(found, x)


@pytest.mark.parametrize(
    "f",
    [
        np.sort, np.unique, np.sort_complex, lambda x: np.take(x, np.zeros(0, dtype=int)),
        lambda x: np.compress([], x), lambda x: np.extract(x > 0, x), np.trim_zeros,
        lambda x: np.piecewise(x, [x > 0], [np.exp, 1.0]),
    ],
)  # fmt: skip
def test_nothing_has_a_gradient_of_nothing(f) -> None:
    assert tg.grad(lambda x: np.real(np.sum(f(x))))(np.zeros(0)).shape == (0,)


@pytest.mark.parametrize("trim", ["fb", "f", "b", "F"])
def test_trim_zeros(trim) -> None:
    x = np.array([0.0, 0.0, 1.0, 0.0, 2.0, 0.0])
    kept, pull = tg.vjp(lambda x: np.trim_zeros(x, trim))(x)
    start = 2 if "f" in trim.lower() else 0
    expected = np.zeros(6)
    expected[start : start + len(kept)] = np.arange(1, len(kept) + 1)
    np.testing.assert_array_equal(pull(np.arange(1.0, len(kept) + 1)), expected)
    np.testing.assert_array_equal(
        tg.grad(lambda x: np.sum(np.trim_zeros(x)))(np.zeros(3)), np.zeros(3)
    )


def test_piecewise_takes_the_last_condition_that_holds() -> None:
    x = np.array([-2.0, -1.0, 1.0])
    found = tg.grad(
        lambda x: np.sum(np.piecewise(x, [x < 0, x < -1.5], [np.square, lambda t: 5 * t, np.exp]))
    )(x)
    np.testing.assert_allclose(found, [5, -2, np.e])
    assert tg.grad(lambda x: np.piecewise(x, [x > 0], [np.square]))(3.0) == 6.0


def test_piecewise_will_not_hide_a_tensor_in_a_function() -> None:
    w = tg.Tensor(2.0)
    with pytest.raises(DetachError):
        np.piecewise(tg.Tensor(TIED), [TIED > 1], [lambda t: w * t])


def test_select_takes_the_first_condition_that_holds() -> None:
    x = np.array([1.0, 2.0, 3.0])
    found = tg.grad(lambda x: np.sum(np.select([x > 2, x > 1], [x**2, x**3], default=7 * x)))(x)
    np.testing.assert_allclose(found, [7, 12, 6])


@pytest.mark.parametrize(
    "write",
    [
        lambda t: np.put(t, [0], 1.0),
        lambda t: np.put(np.zeros(5), [0], t[0]),
        lambda t: np.place(t, t > 1, [0.0]),
        lambda t: np.putmask(t, t > 1, 0.0),
        lambda t: np.copyto(np.zeros(5), t),
        lambda t: np.put_along_axis(t, np.array([0]), 1.0, 0),
        lambda t: np.fill_diagonal(np.stack([t, t]), 0.0),
    ],
)
def test_writing_is_refused(write) -> None:
    with pytest.raises(InPlaceError, match="is not differentiated: it writes"):
        write(tg.Tensor(TIED))


def test_indices_are_constant() -> None:
    t = tg.Tensor(TIED)
    for found in (np.argsort(t), np.searchsorted(np.sort(t), 1.5), np.digitize(t, [1.5, 2.5])):
        assert np.asarray(found).dtype.kind == "i"
    assert np.count_nonzero(t) == 5


@pytest.mark.parametrize(("indices", "expected"), [([], 0), ([0, 0], 2), ([0, -1], 2)])
def test_take_along_an_axis_that_a_number_has_not(indices, expected) -> None:
    found = tg.grad(lambda x: np.sum(np.take(x, np.array(indices, int), axis=0)))(np.array(1.5))
    assert found == expected


@pytest.mark.parametrize("index", [[0, 2, 1], [0, 2, -1], [-3, 0], [1, 1]])
def test_rows_add_up_where_they_repeat(index) -> None:
    x, g = np.ones((3, 2)), np.arange(2.0 * len(index)).reshape(-1, 2)
    expected = np.zeros((3, 2))
    np.add.at(expected, index, g)
    np.testing.assert_array_equal(tg.vjp(lambda x: x[index])(x)[1](g), expected)
    found = tg.vjp(lambda x: x[:, index])(np.ones((2, 3)))[1](g.T)
    np.testing.assert_array_equal(found, expected.T)


def test_full_like_names_itself_where_copyto_is_refused() -> None:
    with pytest.raises(InPlaceError, match="full_like"):
        tg.grad(lambda t: np.sum(np.full_like(np.ones(2), t)))(1.5)
