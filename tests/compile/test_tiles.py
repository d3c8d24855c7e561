"""Calls made tile by tile: the same entries as in one piece, to the last bit, in less memory."""

from __future__ import annotations

import warnings
from dataclasses import replace
from itertools import pairwise
from textwrap import dedent
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from support import step_of

import thriftgrad as tg
from thriftgrad import nn, optim
from thriftgrad.compile import order, replay, source
from thriftgrad.compile.program import Call, Variable
from thriftgrad.errors import BudgetError

BINARY: list[Any] = [np.add, np.subtract, np.multiply, np.maximum, np.minimum]
UNARY: list[Any] = [np.tanh, np.sin, np.absolute, np.negative, np.square, np.exp]
TESTS: list[Any] = [np.greater, np.less_equal]


@pytest.fixture
def tiled(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Cut everything from now on into tiles of so many entries; 0 for not at all."""

    def cut(entries: int) -> None:
        monkeypatch.setattr(order, "TILE", entries or 1 << 40)
        monkeypatch.setattr(order, "WORTH", 1 if entries else 1 << 60)

    return cut


def chain(seed: int) -> tuple[Any, tuple[Any, ...]]:
    """Return a random function that is mostly elementwise, and its arguments."""
    rng = np.random.default_rng(seed)
    shapes: list[tuple[int, ...]] = [
        (int(rng.integers(2, 9)), int(rng.integers(1, 7))),
        (23,),
        (3, 4, 5),
    ]
    shape = shapes[seed % 3]
    beside = [shape, shape, shape[1:], shape[-1:], (shape[0], *(1,) * (len(shape) - 1)), ()]
    dtype = [np.float32, np.float64][seed % 2]
    arguments = tuple(rng.uniform(-1, 1, size).astype(dtype) for size in beside)
    plan = rng.integers(0, 1 << 30, size=(int(rng.integers(3, 15)), 4)).tolist()

    def f(*given):
        values, returned = [given[0] + 0, given[1]], []
        for kind, i, j, k in plan:
            # Lately made values are used most, so that chains are long.
            a = values[-1 - i % min(3, len(values))]
            b = [*values, *given][j % (len(values) + len(given))]
            if kind % 5 == 0:
                result = UNARY[k % len(UNARY)](a)
            elif kind % 5 == 1 and b.shape == shape:
                result = a * TESTS[k % len(TESTS)](b, given[0])
            else:
                result = BINARY[k % len(BINARY)](a, b)
            if kind % 11 == 0:
                returned.append(np.sum(result, axis=0))
            if kind % 7 == 0:
                returned.append(result)
            values.append(result)
        return [values[-1], *returned]

    return f, arguments


@pytest.mark.parametrize("seed", range(60))
def test_random_chains(seed: int, tiled: Any) -> None:
    f, arguments = chain(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tiled(0)
        plain = tg.compile(lambda *given: f(*given))
        wanted = plain(*arguments)
        for entries in (1, 3, 4, 7, 12, 100):
            tiled(entries)
            g = tg.compile(lambda *given: f(*given))
            for _ in range(2):
                for ours, theirs in zip(g(*arguments), wanted, strict=True):
                    np.testing.assert_array_equal(ours, theirs)
    for ours, theirs in zip(wanted, f(*arguments), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["SGD", "momentum", "Adam", "AdamW"])
@pytest.mark.parametrize("activation", [nn.sigmoid, np.tanh, nn.relu])
def test_training_is_the_same_in_tiles(name: str, activation: Any, tiled: Any) -> None:
    results = []
    x = np.random.default_rng(1).normal(size=(7, 5)).astype(np.float32)
    y = np.arange(7) % 3
    for entries in (0, 1, 5, 16):
        tiled(entries)
        model = nn.Sequential(nn.Linear(5, 6, rng=0), activation, nn.Linear(6, 3, rng=1))
        kinds = {
            "SGD": lambda p: optim.SGD(p, lr=0.1),
            "momentum": lambda p: optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
            "Adam": lambda p: optim.Adam(p, lr=0.1),
            "AdamW": lambda p: optim.AdamW(p, lr=0.1),
        }
        rule = kinds[name](model.parameters())
        step = tg.compile(step_of(model, rule, nn.cross_entropy))
        losses = [step(x, y).item() for _ in range(3)]
        assert (" in tiles that fit the cache" in step.source) == (entries > 0)
        results.append([*losses, *(p.value for p in model.parameters())])
    for each in results[1:]:
        for ours, theirs in zip(each, results[0], strict=True):
            np.testing.assert_array_equal(ours, theirs)


# Gradients in bands


@pytest.fixture
def banded(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make gradients in bands of so many rows, or of as many as a batch has; 0 for in one piece."""

    def cut(rows: int, entries: int = 1 << 15) -> None:
        monkeypatch.setattr(order, "BANDED", 1 if rows else 1 << 60)
        monkeypatch.setattr(order, "ROWS", rows)
        monkeypatch.setattr(order, "TILE", entries)

    return cut


RULES: dict[str, Any] = {
    "SGD": lambda p: optim.SGD(p, lr=0.1),
    "decay": lambda p: optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
    "Adam": lambda p: optim.Adam(p, lr=0.1),
    "AdamW": lambda p: optim.AdamW(p, lr=lambda step: 0.1 / (step + 1)),
}


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("kernels", ["numpy", "numba"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_training_is_the_same_in_bands(name: str, kernels: Any, dtype: Any, banded: Any) -> None:
    if kernels == "numba":
        pytest.importorskip("numba")
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(8, 12)).astype(dtype), np.arange(8) % 3
    results: list[Any] = []
    sizes = []
    for rows, entries in [(-1, 0), (0, 1 << 15), (2, 1 << 15), (4, 1 << 15), (4, 5), (2, 16)]:
        layers: list[Any] = []
        for k, (a, b) in enumerate(pairwise([12, 8, 8, 3])):  # one that is laid out as its gradient
            layers += [nn.Linear(a, b, rng=k, dtype=dtype), np.tanh]
        model = nn.Sequential(*layers[:-1])
        run: Any = step_of(model, RULES[name](model.parameters()), nn.cross_entropy)
        if rows >= 0:
            banded(rows, entries)
            run = tg.compile(run, kernels=kernels)
        losses = [run(x, y).item() for _ in range(3)]
        if rows >= 0:
            assert ("# a band of the gradient at a time" in run.source) == (rows > 0)
            sizes.append(run.memory.block)
        results.append([*losses, *(p.value for p in model.parameters())])
    for found in results[1:]:
        for ours, theirs in zip(found, results[0], strict=True):
            error = np.linalg.norm(np.subtract(ours, theirs)) / np.linalg.norm(theirs)
            assert error < (1e-6 if dtype == np.float32 else 1e-12)
    assert sizes[1] <= sizes[0]


def test_a_product_of_parameters_is_made_before_they_change(banded: Any) -> None:
    """The gradient of U in U V is that of the product by V, which may have been updated before."""
    banded(2)
    results = []
    for compiled in (False, True):
        rng = np.random.default_rng(0)
        u, v = (tg.Parameter(rng.normal(size=size)) for size in ((8, 6), (6, 8)))
        rule = optim.SGD([u, v], lr=0.1)

        def step(x, u=u, v=v, rule=rule):
            loss = np.sum(x * np.tanh(u @ v))
            loss.backward()
            rule.step()
            rule.zero_grad()

        run = tg.compile(step) if compiled else step
        for k in range(3):
            run(np.cos(k + np.arange(64.0)).reshape(8, 8))
        results.append((u.value, v.value))
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)


def test_a_gradient_that_is_needed_elsewhere_is_made_as_a_whole(banded: Any) -> None:
    banded(2)
    for clip, keep in [(None, False), (1.0, False), (None, True)]:
        model = nn.Linear(8, 6, rng=0)
        rule = optim.SGD(model.parameters(), lr=0.1, clip_norm=clip)

        def step(x, model=model, rule=rule, keep=keep):
            loss = np.sum(np.tanh(model(x)))
            loss.backward()
            gradient = model.weight.grad
            rule.step()
            rule.zero_grad()
            return gradient if keep else loss

        run = tg.compile(step)
        run(np.ones((3, 8), np.float32))
        assert ("# a band of the gradient" in run.source) == (clip is None and not keep)


@pytest.mark.parametrize("seed", range(3))
def test_bands_are_the_same_in_any_budget(seed: int, banded: Any) -> None:
    banded(2, 16)
    rng = np.random.default_rng(seed)
    sizes = [16, *rng.choice([16, 24], size=9).tolist(), 3]
    x, y = rng.normal(size=(8, 16)).astype(np.float32), rng.integers(0, 3, 8)
    results, block = [], None
    for share in (None, 0.9, 0.75):
        layers: list[Any] = []
        for k, (a, b) in enumerate(pairwise(sizes)):
            layers += [nn.Linear(a, b, rng=k), np.tanh]
        model = nn.Sequential(*layers[:-1])
        rule = list(RULES.values())[seed % len(RULES)](model.parameters())
        budget = None if share is None else int(block * share)
        run = tg.compile(step_of(model, rule, nn.cross_entropy), budget=budget)
        try:
            losses = [run(x, y).item() for _ in range(3)]
        except BudgetError:
            continue
        block = block or run.memory.block
        assert run.memory.block <= (budget or block)
        assert "# a band of the gradient" in run.source
        results.append([*losses, *(p.value for p in model.parameters())])
    assert len(results) > 1
    for found in results[1:]:
        for ours, theirs in zip(found, results[0], strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_a_gradient_that_is_made_twice_in_a_budget_is_whole_each_time(banded: Any) -> None:
    banded(3)
    x, y = np.random.default_rng(0).normal(size=(33, 54)).astype(np.float32), np.arange(33) % 3
    results, block = [], 0
    for share in (1.0, 0.95, 0.85, 0.76):
        layers: list[Any] = [nn.Linear(54, 54, rng=0), np.tanh, nn.Linear(54, 54, rng=1), np.tanh]
        model = nn.Sequential(*layers, nn.Linear(54, 3, rng=2))
        rule = optim.SGD(model.parameters(), lr=0.1, clip_norm=0.5)
        budget = int(block * share) or None
        run = tg.compile(step_of(model, rule, nn.cross_entropy), budget=budget)
        losses = [run(x, y).item() for _ in range(3)]
        block = block or run.memory.block
        assert "# a band of the gradient" not in run.source
        results.append([*losses, *(p.value for p in model.parameters())])
    for found in results[1:]:
        for ours, theirs in zip(found, results[0], strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_rows_of_a_band_divide_those_of_the_product() -> None:
    def rows_for(rows: int, inner: int) -> int:
        f4 = np.dtype("f4")
        x, y = Variable((rows, inner), f4), Variable((inner, 9), f4)
        return order.rows_of_band(Call(np.matmul, (x, y), {}, (Variable((rows, 9), f4),)))

    assert rows_for(2048, 256) == 256
    assert rows_for(2048, 1024) == 1024
    assert rows_for(784, 32) == 196
    assert rows_for(1009, 32) == 0  # a prime
    assert rows_for(300, 32) == 150
    assert rows_for(200, 32) == 0


def test_the_text_of_a_band(banded: Any) -> None:
    banded(4, 8)
    model = nn.Linear(8, 6, rng=0)

    @tg.compile
    def step(x):
        loss = np.sum(np.tanh(model(x)))
        loss.backward()
        for p in model.parameters():
            p.value -= np.float32(0.5) * p.grad
            p.grad = None

    step(np.ones((3, 8), np.float32))
    text = step.source[
        step.source.index("        for row") : step.source.index("        np.dot(ones")
    ]
    assert (
        dedent(text)
        == """\
for row in range(0, 8, 4):  # a band of the gradient at a time
    np.matmul(x_T[row : row + 4], dot, out=grad_weight_band)
    weight_band = weight[row : row + 4].reshape(-1)
    for i in range(0, 24, 8):  # in tiles that fit the cache
        grad_weight_band_piece = grad_weight_band_flat[i : i + 8]
        weight_piece = weight_band[i : i + 8]
        np.multiply(c0_5, grad_weight_band_piece, out=grad_weight_band_piece)
        np.subtract(weight_piece, grad_weight_band_piece, out=weight_piece)
"""
    )


# What tiles rest on


UFUNCS = sorted(
    {
        f
        for f in vars(np).values()
        if isinstance(f, np.ufunc) and f.nout == 1 and f.signature is None and f.nin <= 2
    }
    - order._BY_LENGTH,
    key=lambda f: f.__name__,
)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("ufunc", UFUNCS, ids=lambda f: f.__name__)
def test_entries_do_not_depend_on_how_many_there_are(ufunc: Any, dtype: Any) -> None:
    """What tiles rest on. NumPy has quick loops for many entries, and others for what is left over."""
    rng = np.random.default_rng(0)
    given = [rng.uniform(0.01, 3, 77).astype(dtype) for _ in range(ufunc.nin)]
    with np.errstate(all="ignore"):
        try:
            whole = ufunc(*given)
        except TypeError:
            return  # not for floats
        for length in (1, 2, 3, 8, 31, 64):
            pieces = [ufunc(*(a[i : i + length] for a in given)) for i in range(0, 77, length)]
            np.testing.assert_array_equal(np.concatenate(pieces), whole)


# Memory


def test_what_lies_between_takes_a_tile(tiled: Any) -> None:
    """Eight calls in two arrays and a little, as z is needed again."""

    def f(x):
        z = x * 2.0
        a = np.exp(-np.absolute(z))
        return np.sum(np.maximum(a, z >= 0) / (1 + a) * (z - 3.0))

    x = np.random.default_rng(0).normal(size=(200, 50))
    tiled(0)
    plain = tg.compile(f)
    wanted = plain(x)
    tiled(500)
    g = tg.compile(lambda x: f(x))
    assert g(x) == wanted
    assert plain.memory.block > 2 * x.nbytes
    assert g.memory.block < 1.3 * x.nbytes
    assert "scratch" in g.source


def test_a_chain_in_one_array_stays_in_one(tiled: Any) -> None:
    x = np.ones((64, 64))
    tiled(256)
    g = tg.compile(lambda x: np.sum(np.exp(np.tanh(x * 2.0) - 1.0)))
    g(x)
    assert g.memory.block < x.nbytes + 256
    assert "scratch" not in g.source


@pytest.mark.parametrize("seed", range(0, 60, 3))
def test_buffers_that_live_together_lie_apart(seed: int, tiled: Any) -> None:
    f, arguments = chain(seed)
    tiled(4)
    g = tg.compile(lambda *given: f(*given))
    with np.errstate(all="ignore"):
        g(*arguments)
    buffers = g.memory.buffers
    for i, a in enumerate(buffers):
        for b in buffers[:i]:
            apart = a.offset + a.nbytes <= b.offset or b.offset + b.nbytes <= a.offset
            assert apart or a.last < b.first or b.last < a.first, (a, b)


# The text


def test_the_text_of_rows(tiled: Any) -> None:
    tiled(8)
    g = tg.compile(lambda x, bias: np.sum(np.tanh(x + bias) * x))
    g(np.ones((5, 4)), np.ones(4))
    lines = g.source[g.source.rindex("def ") :].splitlines()
    assert lines[1:] == [
        "    for i in range(0, 5, 2):  # in tiles that fit the cache",
        "        x_piece = x[i : i + 2]",
        "        add_piece = add[i : i + 2]",
        "        np.add(x_piece, bias, out=add_piece)",
        "        np.tanh(add_piece, out=add_piece)",
        "        np.multiply(add_piece, x_piece, out=add_piece)",
        "    np.add.reduce(add, axis=None, out=total)",
        "    return total[()],",
    ]


def test_the_text_of_entries_in_a_row(tiled: Any) -> None:
    tiled(8)
    g = tg.compile(lambda x, y: np.tanh(x - y) * np.abs(y))
    g(np.ones((5, 2)), np.ones((5, 2)))
    text = g.source
    assert "subtract_flat = subtract.reshape(-1)" in text
    lines = text[text.rindex("def ") :].splitlines()
    assert lines[1:] == [
        "    x_flat = x.reshape(-1)",
        "    y_flat = y.reshape(-1)",
        "    for i in range(0, 10, 8):  # in tiles that fit the cache",
        "        x_piece = x_flat[i : i + 8]",
        "        y_piece = y_flat[i : i + 8]",
        "        subtract_piece = subtract_flat[i : i + 8]",
        "        scratch_piece = scratch[: 10 - i]",
        "        np.subtract(x_piece, y_piece, out=subtract_piece)",
        "        np.tanh(subtract_piece, out=subtract_piece)",
        "        np.absolute(y_piece, out=scratch_piece)",
        "        np.multiply(subtract_piece, scratch_piece, out=subtract_piece)",
        "    return subtract.copy(),",
    ]


def test_errors_that_are_ignored_are_ignored_in_tiles(tiled: Any) -> None:
    def f(x):
        with np.errstate(divide="ignore"):
            y = np.log(x) * 2.0 + x
        return y * 3.0

    tiled(4)
    g = tg.compile(f)
    x = np.linspace(0, 1, 10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            np.testing.assert_array_equal(g(x), f(x))
    assert "    with np.errstate(divide='ignore'):" in g.source.splitlines()


# Kernels in the place of tiles


class Fusing:
    """Kernels that are NumPy calls on the arrays that they are told."""

    def __init__(self) -> None:
        self.made: dict[str, Any] = {}

    def takes(self, call: Any) -> bool:
        return call.function is not np.sin

    def fused(self, calls: Any, outs: Any, name: Any) -> Any:
        if not all(map(self.takes, calls)):
            return None
        own = {call.result for call in calls}
        given = dict.fromkeys(v for call in calls for v in call.operands if v not in own)
        arrays = [*map(name, given), *outs.values()]

        def kernel(*arguments):
            values = {v: np.array(a) for v, a in zip(given, arguments, strict=False)}
            for call in calls:
                args = [values.get(a, a) if a in values else a for a in call.args]
                values[call.result] = call.function(*args)
            for v, out in zip(outs, arguments[len(given) :], strict=True):
                out[...] = values[v]

        title = f"kernel_{len(calls)}_{id(calls[-1])}"
        self.made[title] = kernel
        return SimpleNamespace(
            name=title,
            arguments=[SimpleNamespace(name=a, view=a) for a in arrays],
            text="",
            needs="",
        )


@pytest.mark.parametrize("seed", range(20))
def test_kernels_get_what_they_need(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    f, arguments = chain(seed)
    with np.errstate(all="ignore"):
        wanted = tg.compile(lambda *given: f(*given))(*arguments)
        fusing = Fusing()
        known: list[Any] = []

        def write(*args: Any, **options: Any) -> Any:
            written = source.write(*args, **{**options, "fusing": fusing})
            known.extend(written.kernels)
            return replace(
                written, kernels={}, objects=written.objects | {k: fusing.made[k] for k in known}
            )

        monkeypatch.setattr(replay, "write", write)
        g = tg.compile(lambda *given: f(*given))
        for _ in range(2):
            for ours, theirs in zip(g(*arguments), wanted, strict=True):
                np.testing.assert_array_equal(ours, theirs)
    assert known
    assert not any(each.name.startswith("scratch") for each in g.memory.buffers)
