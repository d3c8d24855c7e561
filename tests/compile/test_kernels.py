"""Loops compiled by Numba against the NumPy calls that they stand for: the same bits."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import step_of

import thriftgrad as tg
from thriftgrad import nn, optim
from thriftgrad.compile import kernels, machine_code
from thriftgrad.compile.kernels import Kernel, fused, takes
from thriftgrad.compile.machine_code import load
from thriftgrad.compile.program import Call, Variable
from thriftgrad.errors import ConfigError, MissingExtraError

pytest.importorskip("numba")

FLOATS = [np.float32, np.float64]
WHOLE = [np.int8, np.int64, np.uint64]


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of its own for machine code."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder / "thriftgrad" / "kernels"


class Group:
    """Calls that are made by NumPy at once, and by a kernel later."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.names: dict[Variable, str] = {}
        self.given: dict[str, Any] = {}
        self.made: dict[Variable, Any] = {}

    def array(self, value: Any) -> Variable:
        value = np.asarray(value)
        v = Variable(value.shape, value.dtype, value.strides)
        self.names[v] = f"x{len(self.names)}"
        self.given[self.names[v]] = value.copy(order="K")
        self.made[v] = value
        return v

    def call(self, f: Any, *args: Any) -> Variable:
        value = f(*(self.made[a] if isinstance(a, Variable) else a for a in args))
        v = Variable(np.shape(value), value.dtype, np.asarray(value).strides)
        self.calls.append(Call(f, args, {}, (v,)))
        self.made[v] = value
        return v

    def name(self, v: Variable) -> str:
        if v in self.names:
            return self.names[v]
        name = f"c{len(self.names)}"
        self.given[name] = np.array(v.constant, v.dtype)
        return self.names.setdefault(v, name)

    def kernel(self, outs: dict[Variable, str]) -> Kernel | None:
        return fused(self.calls, outs, self.name)

    def check(self, outs: dict[Variable, Variable | None], signs: bool = True) -> Kernel:
        """Run the kernel, with results in operands or in arrays of their own, and compare."""
        names = {}
        for v, into in outs.items():
            names[v] = self.names[into] if into is not None else f"out{len(names)}"
            if into is None:
                self.given[names[v]] = np.full_like(self.made[v], 77)
        kernel = self.kernel(names)
        assert kernel is not None
        function = load(kernel)
        before = {name: array.copy() for name, array in self.given.items()}
        function(*(eval(a.view, {**self.given}) for a in kernel.arguments))
        for v, name in names.items():
            same(self.given[name], self.made[v], signs)
        for name in self.given.keys() - set(names.values()):
            same(self.given[name], before[name])
        return kernel


def same(got: Any, expected: Any, signs: bool = True) -> None:
    assert got.dtype == expected.dtype
    np.testing.assert_array_equal(got, expected)  # where NaN equals NaN
    if got.dtype.kind == "f" and signs:
        there = ~np.isnan(expected)
        np.testing.assert_array_equal(np.signbit(got)[there], np.signbit(expected)[there])


def entries(dtype: Any, count: int, seed: int) -> Any:
    """Draws, and all that is special about a dtype."""
    rng = np.random.default_rng(seed)
    dtype = np.dtype(dtype)
    if dtype.kind == "b":
        return rng.random(count) < 0.5
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        special = [0, 1, 2, info.min, info.max, info.min + 1, info.max - 1]
        drawn = rng.integers(info.min, info.max, count, dtype=dtype, endpoint=True)
    else:
        floats = np.finfo(dtype)
        special = [
            0.0,
            -0.0,
            1.0,
            -1.0,
            0.5,
            -2.5,
            np.inf,
            -np.inf,
            np.nan,
            floats.max,
            floats.tiny,
        ]
        special += [floats.smallest_subnormal, -floats.max, 1.5, 2.5]
        drawn = (rng.normal(size=count) * 10.0 ** rng.integers(-3, 4, count)).astype(dtype)
    where = rng.random(count) < 0.6
    return np.where(where, rng.choice(np.array(special, dtype), count), drawn)


def known(dtype: Any) -> list[Any]:
    return list(kernels._table(np.dtype(dtype)))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("dtype", [*FLOATS, *WHOLE, np.bool_])
def test_every_call_alone(dtype: Any) -> None:
    """One kernel with a result for each function that is known for the dtype."""
    group = Group()
    x, y = (group.array(entries(dtype, 500, seed)) for seed in (0, 1))
    unsure, outs = set(), []
    for f in known(dtype):
        given = (x, y)[: f.nin]
        if takes(Call(f, given, {}, (Variable((500,), f(*map(group.made.get, given)).dtype),))):
            outs.append(group.call(f, *given))
            if f in (np.maximum, np.minimum):
                unsure.add(outs[-1])  # of 0 and -0 NumPy returns either
    least = {np.float32: 28, np.float64: 28, np.int8: 18, np.int64: 16, np.uint64: 18, np.bool_: 9}
    assert len(outs) >= least[dtype]
    kernel = group.check(dict.fromkeys(outs), signs=False)
    for v, name in zip(outs, [n for n in group.given if n.startswith("out")], strict=True):
        same(group.given[name], group.made[v], signs=v not in unsure)
    assert len(kernel.arguments) == 2 + len(outs)


def test_a_wrong_expression_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(kernels._FLOATS, np.maximum, "{0} if {0} > {1} else {1}")  # loses a NaN
    group = Group()
    x, y = (group.array(entries(np.float32, 500, seed)) for seed in (0, 1))
    largest = group.call(np.maximum, group.call(np.negative, x), y)
    with pytest.raises(AssertionError):
        group.check({largest: None}, signs=False)


FORMS = ["entries", "row", "column", "number"]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("seed", range(10))
def test_random_groups(seed: int) -> None:
    """Chains with mixed dtypes, rows, columns and numbers, results in place and elsewhere."""
    rng = np.random.default_rng(seed)
    shape = [(40,), (6, 9), (2, 3, 10), (1, 5), (7, 1)][seed % 5]
    group = Group()
    values = []
    for _ in range(4):
        dtype = rng.choice(np.array([np.float32, np.float32, np.float64, np.int32, np.bool_]))
        form = "entries" if not values else rng.choice(FORMS)
        of = {
            "entries": shape,
            "row": shape[-1:],
            "column": (*shape[:-1], 1),
            "number": (),
        }[form]
        count = int(np.prod(of, dtype=int))
        values.append(group.array(entries(dtype, count, seed).reshape(of)))
    results: list[Variable] = []
    while len(results) < 8:
        f = rng.choice(np.array([*known(np.float32), *known(np.int32)], object))
        if f in (np.maximum, np.minimum):
            continue  # whose choice of 0 or -0 is NumPy's own
        x = values[rng.integers(len(values))]
        y: Any = rng.choice(np.array([*values, *results, 3, 0.0, 0.3], object))
        if len(results) > 1:
            x = results[rng.integers(len(results))]
        given = (x, y)[: f.nin]
        try:
            value = f(*(group.made[a] if isinstance(a, Variable) else a for a in given))
        except (TypeError, OverflowError):
            continue
        if value.shape != shape or not takes(Call(f, given, {}, (Variable(shape, value.dtype),))):
            continue
        results.append(group.call(f, *given))
    outs: dict[Variable, Variable | None] = dict.fromkeys([*results[3:5], results[-1]])
    for v in outs:
        alike = [x for x in values if (x.shape, x.dtype) == (v.shape, v.dtype)]
        alike = [x for x in alike if x not in outs.values()]
        outs[v] = alike[0] if alike else None
    group.check(outs)


@pytest.mark.parametrize("size", [1, 7, 64, 1000])
def test_sizes(size: int) -> None:
    group = Group()
    x, y = (group.array(entries(np.float32, size, seed)) for seed in (2, 3))
    with np.errstate(all="ignore"):
        a = group.call(np.multiply, x, 0.9)
        group.check({group.call(np.add, a, y): x})


def test_a_kernel_is_the_same_for_other_shapes_and_numbers() -> None:
    texts = set()
    for size, rate in ((3, 0.9), (500, 0.95)):
        group = Group()
        x = group.array(np.ones((size, 2), np.float32))
        texts.add(
            group.check({group.call(np.negative, group.call(np.multiply, x, rate)): None}).text
        )
    assert len(texts) == 1
    (text,) = texts
    assert "for i in range(a.size):\n" in text
    assert "b[i] = t1\n" in text


def test_transposed_arrays() -> None:
    group = Group()
    x, y = (group.array(np.asfortranarray(np.arange(6.0).reshape(2, 3) + k)) for k in (0, 1))
    kernel = group.check({group.call(np.add, group.call(np.multiply, x, y), x): x})
    assert [a.view for a in kernel.arguments] == ["x0.T.reshape(-1)", "x1.T.reshape(-1)"]


def plus(f: Any, *values: Any) -> Kernel | None:
    group = Group()
    with np.errstate(all="ignore"):
        result = group.call(f, *map(group.array, values))
        result = group.call(np.logical_not, result)
    return group.kernel({result: "out"})


def test_what_is_not_taken() -> None:
    x = np.ones((4, 3), np.float32)
    assert plus(np.add, x, x) is not None
    assert plus(np.exp, x) is None
    assert plus(np.add, x, x.astype(np.complex64)) is None
    assert plus(np.add, x, x.astype(np.float16)) is None
    assert plus(np.add, x, x.astype(">f4")) is None
    assert plus(np.add, np.ones((4, 6))[:, ::2], x) is None
    assert plus(np.add, x, np.asfortranarray(x)) is None
    assert plus(np.add, x[0], x) is not None
    assert plus(np.add, np.ones((2, 1, 5)), np.ones((2, 3, 1))) is None
    assert plus(np.add, np.ones((2, 3, 4)), np.ones((2, 3, 1))) is not None
    assert plus(np.add, np.ones((2, 3, 4)), np.ones((3, 1))) is None
    assert plus(np.add, np.ones((0, 3)), np.ones(3)) is None
    assert plus(np.less, np.array([1]), np.array([1], np.uint64)) is None  # compared as numbers
    v = Variable((3,), np.dtype(np.float32), (4,))
    assert not takes(Call(np.add, (v, v), {"dtype": np.float64}, (v,)))
    assert not takes(Call(np.add, (v, v), {}, (v,), errors={"over": "raise"}))
    assert not takes(Call(np.add.reduce, (v,), {}, (v,)))


def simple(number: float = 3.0) -> tuple[Group, Kernel]:
    group = Group()
    x = group.array(np.arange(4.0) + number)
    kernel = group.kernel({group.call(np.add, group.call(np.multiply, x, number), x): "x0"})
    assert kernel is not None
    return group, kernel


def run(group: Group, kernel: Kernel) -> None:
    load(kernel)(*(eval(a.view, {**group.given}) for a in kernel.arguments))


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], None]:
    """A process that has compiled nothing yet, as far as the module knows."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def forget() -> None:
        monkeypatch.setattr(machine_code, "_loaded", {})
        monkeypatch.setattr(machine_code, "_warned", set())

    forget()
    return forget


def test_machine_code_is_kept(fresh: Callable[[], None], tmp_path: Path) -> None:
    group, kernel = simple()
    run(group, kernel)
    folder = tmp_path / "thriftgrad" / "kernels"
    kept = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    assert {path.suffix for path in kept} == {".py", ".nbi", ".nbc"}
    if os.name == "posix":
        assert folder.stat().st_mode & 0o777 == 0o700
    fresh()
    group, kernel = simple()
    run(group, kernel)
    again: Any = load(kernel)
    assert sum(again.stats.cache_hits.values()) == 1
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()} == kept


@pytest.mark.parametrize("suffix", [".py", ".nbi", ".nbc"])
def test_damaged_files_do_no_harm(fresh: Callable[[], None], tmp_path: Path, suffix: str) -> None:
    run(*simple())
    (found,) = tmp_path.rglob(f"*{suffix}")
    found.write_bytes(b"raise RuntimeError")
    fresh()
    group, kernel = simple()
    expected = group.given["x0"] * 4
    run(group, kernel)
    same(group.given["x0"], expected)
    fresh()
    group, kernel = simple()
    run(group, kernel)
    assert b"raise RuntimeError" not in {path.read_bytes() for path in tmp_path.rglob("*.*")}


@pytest.mark.skipif(os.name != "posix", reason="permissions are those of POSIX")
@pytest.mark.parametrize("fault", ["others may write", "a link", "a file"])
def test_folders_that_are_not_safe(fresh: Callable[[], None], tmp_path: Path, fault: str) -> None:
    folder = tmp_path / "thriftgrad" / "kernels"
    folder.parent.mkdir()
    if fault == "a link":
        (tmp_path / "elsewhere").mkdir()
        folder.symlink_to(tmp_path / "elsewhere")
    elif fault == "a file":
        folder.write_text("")
    else:
        folder.mkdir()
        folder.chmod(0o777)
    group, kernel = simple()
    expected = group.given["x0"] * 4
    with pytest.warns(RuntimeWarning, match="not kept"):
        run(group, kernel)
    same(group.given["x0"], expected)
    assert not list(tmp_path.rglob("*.nbc"))


def test_threads(fresh: Callable[[], None]) -> None:
    groups = [simple() for _ in range(8)]
    expected = groups[0][0].given["x0"] * 4
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda each: run(*each), groups))
    for group, _ in groups:
        same(group.given["x0"], expected)


def test_a_kernel_leaves_no_error_behind() -> None:
    group = Group()
    x = group.array(np.array([3e38, -1.0], np.float32))
    with np.errstate(all="ignore"):
        kernel = group.kernel({group.call(np.sqrt, group.call(np.multiply, x, 9.0)): "x0"})
    assert kernel is not None
    with np.errstate(all="raise"):
        run(group, kernel)
        np.add(np.ones(3), 1)
    same(group.given["x0"], np.array([np.inf, np.nan], np.float32))


def test_without_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'thriftgrad\[fast\]'"):
        load(simple()[1])


# In compiled functions


def trained(kernels: Any, budget: Any = None) -> tuple[Any, dict[str, Any]]:
    rng = np.random.default_rng(5)
    model = nn.Sequential(nn.Linear(20, 30, rng=0), nn.relu, nn.Linear(30, 4, rng=1))
    optimizer = optim.Adam(model.parameters(), lr=0.01, weight_decay=0.1)
    x, y = rng.normal(size=(16, 20)).astype(np.float32), rng.integers(0, 4, 16)
    step = tg.compile(step_of(model, optimizer, nn.cross_entropy), kernels=kernels, budget=budget)
    for _ in range(4):
        step(x, y)
    return step, model.state_dict()


def test_a_training_step_is_the_same_to_the_last_bit() -> None:
    _, expected = trained("numpy")
    step, state = trained("numba")
    for name, array in expected.items():
        np.testing.assert_array_equal(state[name], array)
    assert step.source.count("@njit") == step.source.count("\ndef loop_") >= 3
    _, state = trained("numba", step.memory.block + 1024)
    for name, array in expected.items():
        np.testing.assert_array_equal(state[name], array)


def test_the_source_runs_alone(tmp_path: Path) -> None:
    def f(x, lr):
        return np.sum((np.maximum(x, 0) * lr + 1) / 3)

    compiled = tg.compile(f, kernels="numba")
    x = np.linspace(-1, 1, 12).reshape(3, 4)
    expected = compiled(x, 0.3)
    np.testing.assert_allclose(expected, f(x, 0.3), rtol=1e-15)
    compiled.save(tmp_path / "f.py")
    scope: dict[str, Any] = {}
    exec((tmp_path / "f.py").read_text(), scope)
    np.testing.assert_array_equal(scope["f"](x, 0.3)[0], expected)


def test_arrays_of_all_kinds() -> None:
    """Read-only, strided and transposed arguments, scalars, and a live array that is transposed."""
    live = np.zeros((4, 3)).T
    holder = tg.Parameter(live)

    def f(x, factor, number):
        with tg.no_grad():
            holder.value[...] = (x + 1) * factor
        return (x * factor + number) * x - number

    compiled = tg.compile(f, kernels="numba")
    read_only = np.arange(12.0).reshape(3, 4)
    read_only.flags.writeable = False
    for x in (read_only, np.arange(24.0).reshape(3, 8)[:, ::2], np.arange(12.0).reshape(4, 3).T):
        for factor in (np.float64(2.5), np.array(2.5), np.arange(4.0), np.arange(3.0)[:, None]):
            expected = (x * factor + 3.5) * x - 3.5
            np.testing.assert_array_equal(compiled(x, factor, 3.5), expected)
            np.testing.assert_array_equal(holder.value, (x + 1) * factor)


@pytest.mark.parametrize("dtype", ["int64", "int32", "int16", "int8", "uint64", "uint8"])
def test_whole_numbers_that_overflow(dtype: str) -> None:
    def f(a, b):
        return abs(a * a), (a + b > b) | (-a < b), abs(-abs(a)) - (a - b)

    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    rng = np.random.default_rng(0)
    a, b = (rng.integers(low, high, 50, dtype, endpoint=True) for _ in range(2))
    a[:2], b[:2] = (low, 1), high
    with np.errstate(all="ignore"):
        for ours, theirs in zip(tg.compile(f, kernels="numba")(a, b), f(a, b), strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_without_machine_code(monkeypatch: pytest.MonkeyPatch) -> None:
    import numba

    monkeypatch.setattr(numba.config, "DISABLE_JIT", 1)  # as by NUMBA_DISABLE_JIT
    monkeypatch.setattr(machine_code, "_loaded", {})
    x = np.linspace(1, 2, 7)
    ours = tg.compile(lambda x: np.sqrt(x * x * 3) - x / 7, kernels="numba")(x)
    np.testing.assert_allclose(ours, np.sqrt(x * x * 3) - x / 7, rtol=1e-15)


def test_floating_point_errors_are_not_reported() -> None:
    def f(x):
        return 1 / (x * 2)

    compiled = tg.compile(f, kernels="numba")
    with np.errstate(all="raise"):
        compiled(np.ones(3))
        np.testing.assert_array_equal(compiled(np.zeros(3)), np.full(3, np.inf))


def test_wrong_options(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="kernels = 'cuda'; expected 'numpy' or 'numba'"):
        tg.compile(np.exp, kernels="cuda")  # type: ignore[call-overload]
    monkeypatch.setitem(sys.modules, "numba", None)
    with pytest.raises(MissingExtraError, match="pip install"):
        tg.compile(np.exp, kernels="numba")
