"""Rewrites of a recorded program: each against the same program without it, and where it must not be made."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import thriftgrad as tg
from thriftgrad import nn, optim
from thriftgrad.compile import rewrite, spell

Array = Any
Run = Callable[..., tuple[Any, str]]
TOLERANCES = {"float16": 2e-3, "float32": 1e-6, "float64": 1e-12}


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return results and source of a function that is compiled with some rewrites only."""

    def run(f: Callable[..., Any], *args: Any, rewrites: Any = rewrite.REWRITES) -> tuple[Any, str]:
        monkeypatch.setattr(rewrite, "REWRITES", rewrites)
        g = tg.compile(f)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            g(*args)
            result = g(*args)
        return result, g.source.split("\ndef ")[-1]

    return run


def assert_close(ours: Any, theirs: Any) -> None:
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
    np.testing.assert_array_equal(np.isnan(ours), np.isnan(theirs))
    np.testing.assert_array_equal(ours[np.isinf(ours)], theirs[np.isinf(theirs)])
    finite = np.isfinite(theirs)
    scale = np.linalg.norm(theirs[finite].astype(complex))
    error = np.linalg.norm(ours[finite].astype(complex) - theirs[finite].astype(complex))
    assert error <= TOLERANCES.get(theirs.dtype.name, 1e-12) * scale


def matrices(shape: tuple[int, ...], dtype: Any, seed: int = 0) -> dict[str, Array]:
    """Return arrays of one shape: of every layout, and with what floating-point numbers can be."""
    rng = np.random.default_rng(seed)
    big = (rng.normal(size=(2 * shape[0], 2 * shape[1])) * 5).astype(dtype)
    plain = big[: shape[0], : shape[1]].copy()
    found = {
        "plain": plain,
        "transposed": np.asfortranarray(plain),
        "with gaps": big[::2, ::2],
        "backwards": plain[::-1, ::-1],
        "zeros": plain * 0,
    }
    if plain.dtype.kind == "f" and plain.size > 3:
        odd = plain.copy()
        odd.flat[:4] = [np.nan, np.inf, -np.inf, -0.0]
        found["odd"] = odd
        found["minus zeros"] = np.full_like(plain, -0.0)
    return found


DTYPES = [np.float16, np.float32, np.float64, np.int32, np.complex64, bool]
REWRITTEN = (np.float32, np.float64)

SUMS: dict[str, Callable[[Array], Array]] = {
    "rows": lambda x: np.sum(x, axis=0),
    "rows, in a tuple": lambda x: np.sum(x, axis=(0,)),
    "columns": lambda x: np.sum(x, axis=-1),
    "columns, kept": lambda x: np.sum(x, axis=1, keepdims=True) * 2,
    "both ways": lambda x: x / np.sum(x, axis=-1, keepdims=True) + np.sum(x, -1)[:, None],
    "add.reduce": np.add.reduce,
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SUMS)
def test_sums_along_an_axis(run: Run, name: str, dtype: Any) -> None:
    f = SUMS[name]
    for layout, x in matrices((5, 7), dtype).items():
        with np.errstate(all="ignore"):
            ours, source = run(f, x, rewrites=(rewrite.sum_by_products,))
            assert_close(ours, f(x))
        expected = dtype in REWRITTEN and x.flags.c_contiguous
        assert ("np.dot(" in source) == expected, layout
    if name == "both ways" and dtype in REWRITTEN:
        assert run(f, x[::-1].copy())[1].count("np.dot(") == 1


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0), (1, 3), (3, 1)])
@pytest.mark.parametrize("axis", [0, 1])
def test_sums_of_nothing_and_of_single_rows(run: Run, shape: tuple[int, int], axis: int) -> None:
    x = np.ones(shape)
    ours, _ = run(lambda x: np.sum(x, axis=axis), x)
    np.testing.assert_array_equal(ours, np.sum(x, axis=axis))


def test_sums_that_are_left_alone(run: Run) -> None:
    x = np.ones((4, 3), np.float32)
    for f in (
        lambda x: np.sum(x),
        lambda x: np.sum(x, axis=(0, 1)),
        lambda x: np.sum(x, axis=0, dtype=np.float64),
        lambda x: np.sum(x, axis=0, initial=3.0),
        lambda x: np.sum(x[None], axis=0),
        lambda x: np.sum(x, axis=0, where=x > 2),
    ):
        ours, source = run(f, x)
        np.testing.assert_array_equal(ours, f(x))
        assert "np.dot" not in source
    long = np.ones((rewrite.LONGEST_SUM + 1, 1), np.float32)
    assert "np.dot" not in run(lambda x: np.sum(x, axis=0), long)[1]


SQUARES: dict[str, Callable[[Array], Array]] = {
    "sum": lambda x: np.sum(np.square(x)),
    "product": lambda x: np.sum(x * x),
    "mean": lambda x: np.mean(np.square(x)),
    "and itself": lambda x: np.sum(np.square(x)) * x,
}


@pytest.mark.parametrize("dtype", DTYPES[:-1])  # there is no square of a truth value
@pytest.mark.parametrize("name", SQUARES)
def test_sums_of_squares(run: Run, name: str, dtype: Any) -> None:
    f = SQUARES[name]
    for layout, x in matrices((5, 7), dtype).items():
        with np.errstate(all="ignore"):
            ours, source = run(f, x, rewrites=(rewrite.sum_squares_by_products,))
            assert_close(ours, f(x))
        assert ("np.dot(" in source) == (dtype in REWRITTEN and x.flags.c_contiguous), layout


def test_squares_that_are_left_alone(run: Run) -> None:
    x = np.arange(6.0).reshape(2, 3)
    for f in (
        lambda x: np.sum(np.square(x), axis=0),
        lambda x: np.sum(np.square(x), keepdims=True),
        lambda x: (np.sum(y := np.square(x)), y),
        lambda x: np.sum(x * x.copy()[:1]),
        lambda x: np.sum(x * (x + 1)),
        lambda x: np.add.reduce(x * x),
    ):
        ours, source = run(f, x, rewrites=(rewrite.sum_squares_by_products,))
        for a, b in zip(_listed(ours), _listed(f(x)), strict=True):
            np.testing.assert_array_equal(a, b)
        assert "np.dot" not in source
    assert run(lambda x: np.sum(np.square(x)), np.ones((0, 3)))[0] == 0


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, tuple) else [value]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("keep", [False, True])
def test_the_largest_of_each_row(run: Run, keep: bool, dtype: Any) -> None:
    def f(x):
        return np.max(x, axis=-1, keepdims=keep)

    for layout, x in matrices((40, 5), dtype).items():
        ours, source = run(f, x)
        np.testing.assert_array_equal(ours, f(x))
        assert ("axis=0" in source) == (dtype in REWRITTEN and x.flags.c_contiguous), layout
    for shape in [(31, 5), (40, 65)]:
        assert "axis=0" not in run(f, np.ones(shape, dtype))[1]


# Products


@pytest.fixture
def small_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let rules for products hold that are for some processors only: results are right on all."""
    monkeypatch.setattr(spell, "_HAS_SMALL_KERNELS", True)


@pytest.mark.usefixtures("small_kernels")
def test_the_inner_axis_of_a_product_is_cut(run: Run) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(100, 784)).astype(np.float32)
    w = rng.normal(size=(784, 30)).astype(np.float32)

    def f(x, w):
        return np.tanh((x @ w) / 30)

    ours, source = run(f, x, w)
    assert_close(ours, f(x, w))
    assert "reshape((100, 4, 196))" in source
    assert "np.dot(ones_4, " in source
    odd = x.copy()
    odd[:2, :2] = [[np.nan, np.inf], [-np.inf, 0]]
    with np.errstate(all="ignore"):
        assert_close(run(f, odd, w)[0], f(odd, w))
    wide = np.repeat(x, 2, axis=1)
    assert_close(run(f, wide[:, ::2], w)[0], f(x, w))
    for a, b in (
        (x.astype(np.float64), w.astype(np.float64)),
        (x, np.asfortranarray(w)),
        (np.asfortranarray(x), w),
        (x[:10], w),
        (x[:, :784:8], w[::8]),
        (x.astype(np.int32), w.astype(np.int32)),
    ):
        ours, source = run(f, a, b)
        assert "ones_" not in source
        assert_close(ours, f(a, b))


@pytest.mark.usefixtures("small_kernels")
def test_the_rows_of_a_gradient_are_cut(run: Run) -> None:
    rng = np.random.default_rng(0)
    x, d = (rng.normal(size=(100, n)).astype(np.float32) for n in (784, 30))

    def f(x, d):
        return np.tanh((x.T @ d) / 30)

    ours, source = run(f, x, d)
    assert ".reshape(4, 196, 100)" in source
    assert_close(ours, f(x, d))
    assert "reshape(4" not in run(f, x.astype(float), d.astype(float))[1]


def test_a_product_that_is_returned_is_whole(run: Run) -> None:
    x, w = np.ones((100, 784), np.float32), np.ones((784, 30), np.float32)
    assert run(lambda x, w: x @ w, x, w)[0].tolist() == (x @ w).tolist()


@pytest.mark.parametrize("dtype", DTYPES)
def test_small_products(run: Run, dtype: Any) -> None:
    def f(x, y):
        return x.T @ y

    for x in matrices((4, 3), dtype).values():
        y = x[:, :2]
        with np.errstate(all="ignore"):
            ours, source = run(f, x, y)
            assert_close(ours, f(x, y))
        assert ("np.dot" in source) == (dtype in REWRITTEN)
    for shapes in [((2, 0), (0, 3)), ((2, 3), (3,)), ((3,), (3,)), ((2, 2, 3), (3, 4))]:
        x, y = map(np.ones, shapes)
        ours, source = run(np.matmul, x, y)
        np.testing.assert_array_equal(ours, x @ y)
        assert "np.dot" not in source


# Factors


def count(source: str) -> int:
    return source.count("np.multiply(")


def test_a_factor_moves_to_the_first_cotangent(run: Run) -> None:
    def f(w, b, x, y):
        d = 2 * (x @ w + b - y)
        return w - 0.1 * (x.T @ d), b - 0.1 * np.sum(d, axis=0)

    rng = np.random.default_rng(0)
    for dtype in (np.float32, np.float64):
        given = [rng.normal(size=s).astype(dtype) for s in [(6, 3), 3, (8, 6), (8, 3)]]
        plain, before = run(f, *given, rewrites=())
        ours, source = run(f, *given)
        assert (count(before), count(source)) == (3, 1)
        for a, b in zip(ours, plain, strict=True):
            assert_close(a, b)
    half = [each.astype(np.float16) for each in given]
    assert count(run(f, *half)[1]) == 3


def test_a_factor_stays_where_it_is_not_for_all(run: Run) -> None:
    def returned(w, x):
        d = 2 * (x @ w)
        g = x.T @ d
        return w - 0.1 * g, g

    def passed_on(w, x):
        d = 2 * (x @ w)
        return w - 0.1 * (x.T @ d), np.exp(d)

    def without_a_home(w, x):
        d = np.tanh(x @ w)
        return w - 0.1 * (x.T @ d)

    rng = np.random.default_rng(0)
    w, x = rng.normal(size=(3, 3)), rng.normal(size=(9, 3))
    for f, multiplications in ((returned, 2), (passed_on, 2), (without_a_home, 1)):
        ours, source = run(f, w, x)
        assert count(source) == multiplications
        for a, b in zip(_listed(ours), _listed(f(w, x)), strict=True):
            assert_close(a, b)


OPERATIONS: tuple[Callable[[Array, Array, float], Array], ...] = (
    lambda a, b, s: a * s,
    lambda a, b, s: s * a,
    lambda a, b, s: a @ b,
    lambda a, b, s: a.T @ b,
    lambda a, b, s: a * b,
    lambda a, b, s: -a,
    lambda a, b, s: a + b,
    lambda a, b, s: np.square(a) * 0.25,
    lambda a, b, s: np.tanh(a),
    lambda a, b, s: np.broadcast_to(np.sum(a, axis=0), (3, 3)) * s,
)


@pytest.mark.parametrize("seed", range(100))
def test_factors_in_random_programs(run: Run, seed: int) -> None:
    """Scaled values that meet in products, sums, squares and outputs, in every order."""

    def f(*given):
        rng = np.random.default_rng(seed)
        known = list(given)
        for _ in range(14):
            a, b = (known[i] for i in rng.integers(max(0, len(known) - 6), len(known), 2))
            made = OPERATIONS[rng.integers(len(OPERATIONS))](
                a, b, rng.choice([-2.0, 0.1, 3.0]).item()
            )
            known.append(made / 4 if rng.random() < 0.5 else made)
        return known[-1] * 0.3, known[-2], np.sum(known[-3])

    given = np.random.default_rng(seed).normal(size=(3, 3, 3))
    for a, b in zip(run(f, *given)[0], f(*given), strict=True):
        assert_close(a, b)


@pytest.mark.parametrize("make", [optim.SGD, optim.Adam, optim.AdamW])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_factors_that_change_from_step_to_step(make: Any, dtype: Any) -> None:
    results = []
    for compiled in (False, True):
        w = tg.Parameter(np.linspace(-1, 1, 6).reshape(3, 2).astype(dtype), name="w")
        optimizer = make([w], lr=0.1)

        def step(x, y, w=w, optimizer=optimizer):
            nn.mse(x @ w, y).backward()
            optimizer.step()
            optimizer.zero_grad()

        run = tg.compile(step) if compiled else step
        rng = np.random.default_rng(0)
        for k in range(6):
            optimizer.lr = 0.1 / (k + 1)
            run(rng.normal(size=(4, 3)).astype(dtype), rng.normal(size=(4, 2)).astype(dtype))
        results.append(w.value)
        if compiled:
            source = run.source
    assert_close(*results)
    if make is not optim.SGD:
        assert source.count("np.divide(") == 1
