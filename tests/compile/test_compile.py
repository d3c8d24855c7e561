"""What a person can do to a compiled function: every way to call it, and everything that it refuses."""

from __future__ import annotations

import copy
import inspect
import math
import pickle
import re
import runpy
import subprocess
import sys
import threading
import traceback
import warnings
from typing import Any

import numpy as np
import pandas
import pytest
from support import step_of

import thriftgrad as tg
from thriftgrad import nn, optim
from thriftgrad.errors import ConfigError, DataError, RecordError


def square_and_sum(x: Any) -> Any:
    return np.sum(x * x, axis=0)


# Arguments


def test_trees_numbers_and_names() -> None:
    def loss(p, x, *, power=2.0, flip=False):
        inner = x @ p["w"] + p["b"]
        return np.sum((inner[::-1] if flip else inner) ** 2) * power, {"inner": inner}

    f = tg.value_and_grad(loss, has_aux=True)
    g = tg.compile(f)
    rng = np.random.default_rng(0)
    for power, flip in [(2.0, False), (3.0, False), (3.0, True)]:
        p = {"w": rng.normal(size=3), "b": float(rng.normal())}
        x = rng.normal(size=(4, 3))
        (value, aux), gradient = f(p, x, power=power, flip=flip)
        (our_value, our_aux), our_gradient = g(p, x, power=power, flip=flip)
        assert our_value == value
        assert our_gradient["b"] == pytest.approx(gradient["b"], rel=1e-12)
        np.testing.assert_array_equal(our_gradient["w"], gradient["w"])
        np.testing.assert_array_equal(our_aux["inner"], aux["inner"])


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex128, np.int64])
def test_layouts_of_arguments(dtype: Any) -> None:
    def f(x, y):
        return x @ y.T + np.sum(x * y), np.reshape(x, -1), x[::2, ::-1]

    g = tg.compile(f)
    rng = np.random.default_rng(0)
    base = (rng.normal(size=(6, 8)) * 10).astype(dtype)
    read_only = base[:3, :4].copy()
    read_only.flags.writeable = False
    cases = [
        (base[:3, :4], base[3:, 4:]),
        (base[::2, ::2], base[:3, :4]),
        (base[:3, :4], base[:3, :4]),
        (base[2::-1, 3::-1], np.asfortranarray(base[:3, :4])),
        (read_only, read_only),
        (np.broadcast_to(base[0, :4], (3, 4)), base[:3, :4]),
    ]
    for x, y in [*cases, *cases]:
        for ours, theirs in zip(g(x, y), f(x, y), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-12)
            assert ours.dtype == theirs.dtype


def test_an_argument_that_is_changed_between_calls() -> None:
    g = tg.compile(square_and_sum)
    x = np.ones((3, 2))
    first = g(x)
    x[...] = 2.0
    assert g(x).tolist() == [12.0, 12.0]
    assert first.tolist() == [3.0, 3.0]


def test_results_are_arrays_of_their_own() -> None:
    g = tg.compile(lambda x: (x, x.T, x + 1, np.zeros_like(x)))
    x = np.ones((2, 3))
    first = g(x)
    for each in first:
        assert each.flags.writeable
        assert not np.shares_memory(each, x)
        each[...] = 7.0
    for a, b in zip(g(x), (x, x.T, x + 1, np.zeros((2, 3))), strict=True):
        np.testing.assert_array_equal(a, b)


def test_shapes_are_recorded_apart_and_the_oldest_go() -> None:
    g = tg.compile(lambda x: x + 1)
    for n in range(20):
        assert g(np.zeros(n)).shape == (n,)
    assert sum(map(len, g._programs.values())) == 16
    assert g(np.zeros(0)).shape == (0,)


# What the function looks up


def test_settings_that_change_are_noticed() -> None:
    scale = 2.0

    class Model:
        def __init__(self):
            self.power = 2
            self.layers = [np.tanh]

        def __call__(self, x):
            for layer in self.layers:
                x = layer(x)
            return scale * x**self.power

    model = Model()
    g = tg.compile(model)
    x = np.array([0.5, 1.5])
    for change in (
        lambda: None,
        lambda: setattr(model, "power", 3),
        lambda: model.layers.append(np.exp),
        lambda: model.layers.__setitem__(0, np.sin),
    ):
        change()
        np.testing.assert_array_equal(g(x), model(x))
    scale = 5.0
    np.testing.assert_array_equal(g(x), model(x))


def test_eval_and_train() -> None:
    model = nn.Sequential(nn.Linear(3, 3, rng=0), nn.Dropout(0.5, rng=1))
    g = tg.compile(lambda x: model(x).value)
    x = np.ones((2, 3), np.float32)
    assert not np.array_equal(g(x), g(x))
    model.eval()
    np.testing.assert_array_equal(g(x), model(x).value)
    model.train()
    assert not np.array_equal(g(x), g(x))


def test_a_parameter_that_is_replaced() -> None:
    w = tg.Parameter(np.ones(3), name="w")

    @tg.compile
    def f(x):
        return np.sum(w * x).value

    x = np.arange(3.0)
    assert f(x) == 3.0
    w.value = np.full(3, 2.0)
    assert f(x) == 6.0
    w.value[...] = 3.0
    assert f(x) == 9.0
    w.value = np.array([5.0])
    assert f(x) == 15.0
    w.value = np.float32([2.0])
    assert f(x.astype(np.float32)).dtype == np.float32


def test_an_array_outside_is_read_as_it_is() -> None:
    table = np.ones(3)
    g = tg.compile(lambda x: x * table)
    x = np.arange(3.0)
    g(x)
    table[...] = 2.0
    assert g(x).tolist() == [0.0, 2.0, 4.0]


def test_a_mask_from_outside() -> None:
    mask = np.zeros(5_000, np.bool_)
    mask[[0, 2]] = True
    g = tg.compile(lambda x: x[mask] + 1)
    x = np.arange(5e3)
    assert g(x).tolist() == [1.0, 3.0]
    mask[:2] = [False, True]
    assert g(x).tolist() == [2.0, 3.0]
    mask[1] = False
    with pytest.raises(ValueError, match="a mask has another number of entries now"):
        g(x)


def test_a_function_that_changes_something_outside_is_refused() -> None:
    seen: list[Any] = []
    state = {"count": 0}

    def appending(x):
        seen.append(x)
        return x + 1

    def counting(x):
        state["count"] += 1
        return x + 1

    for f in (appending, counting):
        with pytest.raises(RecordError, match="a function that is compiled changes"):
            tg.compile(f)(np.ones(2))
    assert (seen, state) == ([], {"count": 0})


# What is refused


def branching(x: Any) -> Any:
    return x if np.sum(x) > 0 else -x


REFUSED = {
    "branch": branching,
    "item": lambda x: x * x.sum().item(),
    "float": lambda x: x * float(np.sum(x)),
    "index": lambda x: [1.0, 2.0][np.argmax(x)],
    "asarray": lambda x: np.asarray(x) + 1,
    "plain array": lambda x: np.array([1.0, 2.0]).__setitem__(0, x[0]),
    "format": lambda x: f"{x[0]:.3f}",
    "in": lambda x: 1.0 in x,
    "argument": lambda x: x.__iadd__(1.0),
    "bool": lambda x: np.array_equal(x, x),
    "view": lambda x: _write_under_a_view(x),
    "out": lambda x: np.add(x, x, out=np.zeros(2)),
    "mask": lambda x: x[x > 0],
    "nonzero": lambda x: np.nonzero(x),
    "places": lambda x: np.where(x > 0),
    "repeat": lambda x: np.repeat(x, x > 0),
}


def _write_under_a_view(x: Any) -> Any:
    y = x + 1
    z = y[:1]
    y += 1
    return z


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_recorded(name: str) -> None:
    x = np.array([1.0, -2.0])
    with pytest.raises(RecordError):
        tg.compile(REFUSED[name])(x)
    assert x.tolist() == [1.0, -2.0]


def test_the_message_names_the_line() -> None:
    line = branching.__code__.co_firstlineno + 1
    with pytest.raises(RecordError, match=rf"test_compile\.py:{line}: a recorded program makes"):
        tg.compile(branching)(np.ones(2))


def test_a_generator_that_compile_does_not_know() -> None:
    rng = np.random.default_rng(0)
    twin = np.random.default_rng(0)
    with pytest.raises(RecordError, match="draws from a random generator"):
        tg.compile(lambda x: x + rng.normal(size=2))(np.ones(2))
    assert rng.normal() == twin.normal()


def test_fallback() -> None:
    f = tg.compile(branching, fallback="eager")
    with pytest.warns(RuntimeWarning, match="branching cannot be recorded and runs as it is"):
        f(np.array([-1.0]))
    assert f(np.array([-1.0])).tolist() == [1.0]
    assert f(np.array([2.0])).tolist() == [2.0]


def test_tensors_are_refused_in_and_out() -> None:
    w = tg.Parameter(np.ones(2))
    with pytest.raises(
        RecordError, match=r"still records, result, whose .* return .* result\.value"
    ):
        tg.compile(lambda x: w * x)(np.ones(2))

    @tg.compile
    def step(x):
        energy = np.sum(w * x)
        loss = energy * energy
        loss.backward()
        return {"loss": loss, "parts": [x, energy * 2], "u": x}

    with pytest.raises(RecordError, match=r"still records, result\['parts'\]\[1\], whose"):
        step(np.ones(2))
    with pytest.raises(RecordError, match=r"still records, result\[1\], whose"):
        tg.compile(lambda x: (x, w))(np.ones(2))
    with pytest.raises(RecordError, match="was given a tensor"):
        tg.compile(np.exp)(tg.Tensor(np.ones(2)))
    with tg.no_grad():
        assert tg.compile(lambda x: w * x)(np.ones(2)).value.tolist() == [1.0, 1.0]


def test_a_tensor_from_outside_cannot_be_swept_inside() -> None:
    w = tg.Parameter(np.ones(2))
    loss = np.sum(w * 2.0)
    with pytest.raises(RecordError, match="computed outside"):
        tg.compile(lambda x: loss.backward())(np.ones(2))
    assert w.grad is None


def test_a_value_kept_outside_cannot_be_used() -> None:
    kept = {}

    def f(x):
        kept.update(y=x + 1)
        return x

    with pytest.raises(RecordError, match=r"changes the key 'y'|keeps a value"):
        tg.compile(f)(np.ones(2))


def test_what_works_after_its_call_is_refused() -> None:
    class Sum:
        def __init__(self, x):
            self.value = np.sum(x)

    def parts(x):
        yield np.sum(x)

    async def later(x):
        return np.sum(x)

    async def parts_later(x):
        yield np.sum(x)

    with pytest.raises(ConfigError, match="the class Sum, and a run would return the object"):
        tg.compile(Sum)
    for function in (parts, later, parts_later):
        with pytest.raises(ConfigError, match=f"{function.__name__} is a generator or async"):
            tg.compile(function)
    with pytest.raises(RecordError, match="returned a map, whose entries are made after the call"):
        tg.compile(lambda x: map(np.sum, x))(np.ones((2, 2)))


def test_refusals_say_what_to_write_instead() -> None:
    with pytest.raises(RecordError, match=r"was given a DataFrame; .* pass np.asarray of it"):
        tg.compile(np.sum)(pandas.DataFrame({"a": [1.0]}))
    with pytest.raises(RecordError, match=r"np\.stack\(\[y\[0\], y\[1\]\]\) can be written"):
        tg.compile(lambda x: np.array([x[1], x[0]]))(np.ones(2))
    with pytest.raises(RecordError, match=r"for which np\.exp\(y\) can be written"):
        tg.compile(lambda x: math.exp(x[0]))(np.ones(2))
    with pytest.raises(RecordError, match=r"^x\[mask\] of a value .* use np\.where"):
        tg.compile(lambda x: x[x > 0])(np.ones(2))
    with pytest.raises(
        RecordError, match=r"^np\.linalg\.lstsq of a value .* use np\.linalg\.solve"
    ):
        tg.compile(lambda a, b: np.linalg.lstsq(a, b)[0])(np.eye(2), np.ones(2))
    with pytest.raises(
        RecordError, match=r"^np\.unique of .* call it outside, and pass the result"
    ):
        tg.compile(np.unique)(np.ones(2))
    with pytest.raises(RecordError, match=r"^np\.repeat of .* pass counts and places as int"):
        tg.compile(np.repeat)(np.ones(2), np.array([1, 2]))
    with pytest.raises(
        RecordError, match=r"^np\.matmul gave an array of dtype object .*astype\(float"
    ):
        tg.compile(np.matmul)(np.ones((1, 2), object), np.ones(2))


def test_what_is_to_be_written_for_bincount_counts() -> None:
    k = np.array([0, 1, 1, 3])

    def written(k):
        counts = np.zeros_like(k, shape=4)
        np.add.at(counts, k, 1)
        return counts

    with pytest.raises(
        RecordError, match=r"bins use np\.sum\(k\[:, None\] == .* or write np\.add\.at"
    ):
        tg.compile(lambda k: np.bincount(k, minlength=4))(k)
    for count in (written, lambda k: np.sum(k[:, None] == np.arange(4), axis=0)):
        compiled = tg.compile(count)
        for each in (k, k[::-1] // 2):
            np.testing.assert_array_equal(compiled(each), np.bincount(each, minlength=4))


def test_a_list_in_the_place_of_an_array() -> None:
    w = np.ones((2, 3))
    with pytest.raises(
        RecordError, match=r"^x\[0\] was .* x is a container .* pass .* np\.array\(x\)"
    ):
        tg.compile(lambda x: x @ w)([1.0, 2.0])
    with pytest.raises(RecordError, match=r"^p\['x'\]\[0\]\[0\] was .* np\.array\(p\['x'\]\)"):
        tg.compile(lambda p: np.sum(p["x"]))({"x": [[1.0, 2.0]]})
    np.testing.assert_array_equal(tg.compile(lambda x: np.stack(x) @ w)([1.0, 2.0]), [3, 3, 3])
    with pytest.raises(RecordError, match=r"^conversion to a plain array"):
        tg.compile(lambda x: np.asarray(x))(w)
    with pytest.raises(RecordError, match=r"for which np\.exp\(y\) can be written"):
        tg.compile(lambda p: math.exp(p[0]))([1.0, 2.0])


def test_the_room_is_shown_as_the_function_that_it_is_called_as() -> None:
    function: Any = tg.compile.compile
    assert inspect.signature(tg.compile) == inspect.signature(function)
    assert inspect.getdoc(tg.compile) == inspect.getdoc(function)


def test_a_compiled_function_shows_how_many_programs_it_has() -> None:
    f = tg.compile(square_and_sum)
    assert repr(f) == "<compiled square_and_sum: 0 programs>"
    f(np.ones(2))
    assert repr(f) == "<compiled square_and_sum: 1 program>"


def test_options_are_checked() -> None:
    with pytest.raises(ConfigError, match="fallback = 'maybe'"):
        tg.compile(np.exp, fallback="maybe")  # type: ignore[call-overload]
    with pytest.raises(ConfigError, match="cannot be called"):
        tg.compile(3)  # type: ignore[call-overload]
    with pytest.raises(ConfigError, match="has not been recorded yet"):
        _ = tg.compile(np.exp).source


# Warnings and errors are those of the function


def test_rules_that_silence_numpy_stay_silent() -> None:
    f = tg.value_and_grad(lambda x: np.sum(np.arctan2(x, 1e-300)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, gradient = tg.compile(f)(np.array([1e-300, 1e200]))
    np.testing.assert_array_equal(gradient, f(np.array([1e-300, 1e200]))[1])


def test_numpy_warns_as_ever() -> None:
    g = tg.compile(lambda x: np.log(x))
    g(np.ones(2))
    with pytest.warns(RuntimeWarning, match="divide by zero"):
        g(np.zeros(2))


def test_tracebacks_show_the_lines() -> None:
    g = tg.compile(lambda x: np.log(x) + 1)
    with np.errstate(all="raise"), pytest.raises(FloatingPointError) as caught:
        g(np.zeros(2))
    assert "np.log(x, out=log)" in "".join(traceback.format_tb(caught.tb))


def test_numpy_warns_once_at_the_first_call() -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        tg.compile(lambda x: np.log(x))(np.zeros(2))
    assert len(seen) == 1


# One model in several places


def build() -> tuple[Any, Any, Any]:
    model = nn.Sequential(nn.Linear(3, 4, rng=0), np.tanh, nn.Linear(4, 2, rng=1))
    optimizer = optim.Adam(model.parameters(), lr=0.05)
    return model, optimizer, step_of(model, optimizer, nn.cross_entropy)


X, Y = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32), np.array([0, 1, 0, 1, 1, 0])


def test_two_compiled_steps_and_eager_ones_share_a_model() -> None:
    results = []
    for kinds in ("eager eager eager eager", "one two eager one"):
        model, _, step = build()
        ways = {"eager": step, "one": tg.compile(step), "two": tg.compile(step)}
        for way in kinds.split():
            ways[way](X, Y)
        results.append(model.state_dict())
    for name, array in results[0].items():
        np.testing.assert_allclose(results[1][name], array, atol=1e-6 * np.linalg.norm(array))


def test_a_compiled_function_inside_another() -> None:
    inner = tg.compile(np.tanh)
    outer = tg.compile(tg.value_and_grad(lambda x: np.sum(inner(x))))
    _, gradient = outer(np.array([0.5]))
    assert gradient[0] == pytest.approx(1 - np.tanh(0.5) ** 2)


def test_a_stale_tape_is_noticed() -> None:
    model, _, step = build()
    step = tg.compile(step)
    step(X, Y)
    stale = nn.cross_entropy(model(X), Y)
    step(X, Y)
    with pytest.raises(tg.errors.InPlaceError):
        stale.backward()


def test_a_stale_tape_is_noticed_inside() -> None:
    model, optimizer, _ = build()

    def step(x, y):
        first, second = nn.cross_entropy(model(x), y), nn.cross_entropy(model(2 * x), y)
        first.backward()
        optimizer.step()
        second.backward()

    with pytest.raises(tg.errors.InPlaceError):
        step(X, Y)
    model, optimizer, _ = build()
    with pytest.raises(tg.errors.InPlaceError):
        tg.compile(step)(X, Y)


def test_values_from_before_and_after_an_update() -> None:
    def make():
        w = tg.Parameter(np.array([1.0, 2.0]), name="w")
        v = tg.Parameter(np.array([5.0, 7.0]), name="v")
        optimizer = optim.SGD([w], lr=0.5)

        def step(x):
            before, view = (w * 1.0).value, w.value[::-1] * 1.0
            loss = np.sum(w * w * x)
            loss.backward()
            gradient = w.grad
            optimizer.step()
            optimizer.zero_grad()
            swapped = w.value.copy()
            w.value[...] = v.value
            v.value[...] = swapped
            return before, view, gradient, w.value, v.value, loss

        return step

    eager, compiled = make(), tg.compile(make())
    for _ in range(3):
        theirs = [np.array(getattr(t, "value", t)) for t in eager(np.array([1.0, 3.0]))]
        ours = [np.array(getattr(t, "value", t)) for t in compiled(np.array([1.0, 3.0]))]
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(a, b)


def test_trees_that_are_changed_between_calls() -> None:
    g = tg.compile(tg.grad(lambda p, x: np.sum(p["w"] * x) ** 2))
    p, x = {"w": np.ones(2)}, np.ones(2)
    for _ in range(3):
        p["w"] = p["w"] - 0.1 * g(p, x)["w"]
    assert len(next(iter(g._programs.values()))) == 1


def test_methods() -> None:
    class Scaled:
        def __init__(self, scale):
            self.scale = scale

        @tg.compile
        def times(self, x):
            return self.scale * x

    two, three = Scaled(2.0), Scaled(3.0)
    for _ in range(2):
        assert two.times(np.ones(1)).tolist() == [2.0]
        assert three.times(np.ones(1)).tolist() == [3.0]
    two.scale = 4.0
    assert two.times(np.ones(1)).tolist() == [4.0]


def test_under_checkpoint() -> None:
    block = tg.checkpoint(lambda x: np.tanh(np.sin(x) * 2.0))
    f = tg.value_and_grad(lambda x: np.sum(block(block(x))))
    x = np.linspace(-1, 1, 5)
    for ours, theirs in zip(tg.compile(f)(x), f(x), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_an_error_in_the_function_leaves_everything_as_it_was() -> None:
    model, optimizer, _ = build()

    def step(x, y):
        loss = nn.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        raise ValueError("too late")

    before = {k: v.copy() for k, v in model.state_dict().items()}
    with pytest.raises(ValueError, match="too late"):
        tg.compile(step)(X, Y)
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, before[name])
    assert (optimizer.steps, optimizer.updates) == (0, [0, 0, 0, 0])
    assert all(p.grad is None for p in model.parameters())
    with pytest.raises(DataError):
        tg.compile(lambda x: nn.mse(model(x), x))(X)


def test_threads() -> None:
    g = tg.compile(lambda x: np.exp(x @ x.T) - x @ x.T)
    inputs = [np.random.default_rng(i).normal(size=(20, 20)) * 0.1 for i in range(8)]
    wanted = [np.exp(x @ x.T) - x @ x.T for x in inputs]
    wrong = []

    def work(i: int) -> None:
        for _ in range(50):
            same = np.array_equal(g(inputs[i]), wanted[i])
            wrong.extend([i] * (not same))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


# Memory and source


def test_buffers_do_not_overlap_while_both_are_alive() -> None:
    _, _, step = build()
    step = tg.compile(step)
    step(X, Y)
    buffers = step.memory.buffers
    for i, a in enumerate(buffers):
        assert a.offset % 64 == 0
        assert a.offset + a.nbytes <= step.memory.block
        for b in buffers[:i]:
            apart = a.offset + a.nbytes <= b.offset or b.offset + b.nbytes <= a.offset
            assert apart or a.last < b.first or b.last < a.first, (a, b)


def test_the_source_reads_well_and_is_the_same_every_time() -> None:
    sources = set()
    for _ in range(2):
        model = nn.Sequential(nn.Linear(3, 4, rng=0), nn.relu, nn.Linear(4, 2, rng=1))
        optimizer = optim.SGD(model.parameters(), lr=0.1)
        compiled = tg.compile(step_of(model, optimizer, nn.squared_error))
        compiled(X, np.zeros((6, 2), np.float32))
        sources.add(compiled.source)
    (source,) = sources
    for line in (
        "    np.dot(x, layer_0_weight, out=layer_0)",
        "    np.add(layer_0, layer_0_bias, out=layer_0)",
        "    np.maximum(layer_0, c0, out=layer_0)",
        "layer_0_T = layer_0.T",
        "    np.dot(layer_2, layer_2_weight_T, out=scaled_grad_before_2)",
    ):
        assert line in source.splitlines()
    assert "tensor" not in source.lower()


def test_a_saved_step_runs_with_numpy_alone(tmp_path: Any) -> None:
    model, _, step = build()
    step = tg.compile(step)
    step(X, Y)
    before = [p.value.copy() for p in model.parameters()]
    step.save(tmp_path / "step.py")
    np.savez(tmp_path / "given.npz", X, Y)
    code = (
        "import sys, numpy as np; sys.path.insert(0, sys.argv[1]); import step, inspect;"
        "assert not any(m.startswith('thriftgrad') for m in sys.modules);"
        "print(*inspect.signature(step.step).parameters)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    names = run.stdout.split()
    assert names[:3] == ["x", "y", "layer_0_weight"]
    scope: dict[str, Any] = {}
    exec((tmp_path / "step.py").read_text(encoding="utf-8"), scope)
    written = step._last.written
    live = {"x": X, "y": Y}
    for name, each in zip(written.arguments, written.inputs, strict=True):
        if each.fetch is not None and name in names:
            value = each.fetch()
            live[name] = value.copy() if isinstance(value, np.ndarray) else value
    (loss,) = scope["step"](**live)
    assert step(X, Y).item() == float(loss)
    after = [p.value for p in model.parameters()]
    copies = [live[name] for name in names if name.startswith("layer")]
    for own, value, old in zip(copies, after, before, strict=True):
        np.testing.assert_array_equal(own, value)
        assert not np.array_equal(value, old)


def test_recordings_at_every_call_are_warned_of_once() -> None:
    settings = {"lr": 1.0}
    f = tg.compile(lambda x: x * settings["lr"])
    g = tg.compile(lambda x, k: x * k)
    for compiled, change, what in [(f, settings, "the key 'lr'"), (g, None, "whole numbers")]:
        warned = []
        for k in range(40):
            if change is not None:
                change["lr"] *= 0.9
            with warnings.catch_warnings(record=True) as found:
                warnings.simplefilter("always")
                compiled(X, *([k] if change is None else []))
            warned += [(k, str(each.message), each.filename) for each in found]
        ((k, message, file),) = warned
        assert (k, file) == (31, __file__)
        assert "has been recorded 32 times in 32 calls" in message
        assert what in message


def test_recordings_that_are_worth_it_are_not_warned_of() -> None:
    f = tg.compile(lambda x, k: x * k)
    for k in range(40):
        for _ in range(3):
            f(X, k)


class OutOfOrder(nn.Module):
    def __init__(self):
        self.out = nn.Linear(3, 3, rng=0, dtype=np.float64)
        self.hidden = nn.Linear(3, 3, rng=1, dtype=np.float64)

    def __call__(self, x):
        return self.out(np.tanh(self.hidden(x)))


def test_a_saved_file_says_what_it_takes(tmp_path: Any) -> None:
    """Arguments come in the order of their first use; arrays that the function makes are in the file."""
    model = OutOfOrder()
    weights = np.array([[2.0], [np.pi], [-1e-30], [1.0]])
    far = np.linspace(0.0, 1.0, 2000).reshape(4, 500)

    @tg.compile
    def step(x, y):
        loss = nn.cross_entropy(model(x), y) + np.sum(weights * model(x)) + np.sum(far * x[:, :1])
        loss.backward()
        for p in model.parameters():
            p.value -= 0.1 * p.grad
            p.grad = None
        return {"b": loss, "a": np.sum(x)}

    x, y = np.ones((4, 3)), np.array([0, 1, 2, 0])
    before = {n.replace(".", "_"): p.value.copy() for n, p in model.named_parameters()}
    wanted = step(x, y)
    step.save(tmp_path / "step.py")
    scope = runpy.run_path(str(tmp_path / "step.py"))
    for line in (
        "    x              float64 (4, 3)",
        "    hidden_weight  float64 (3, 3), written into",
        "    out_bias       float64 (3,), written into",
    ):
        assert line in scope["__doc__"].splitlines()
    (large,) = re.findall(r"    (constant\w*) +float64 \(4, 500\)\n", scope["__doc__"])
    assert scope["__doc__"].count("constant") == 1
    first, second = scope["step"](x, y, **before, **{large: far})
    assert (first, second) == (wanted["a"], wanted["b"].item())
    for name, p in model.named_parameters():
        np.testing.assert_array_equal(before[name.replace(".", "_")], p.value)
    with pytest.raises(ValueError, match=r"labels outside: \(array\(\[0, 1, 3, 0\]\), \(4, 3\)"):
        scope["step"](x, np.array([0, 1, 3, 0]), **before, **{large: far})


def test_a_saved_file_takes_what_shares_memory_with_a_parameter(tmp_path: Any) -> None:
    model = nn.Linear(3, 2, rng=0, dtype=np.float64)
    weight = model.weight.value  # which the step changes

    @tg.compile
    def step(x):
        loss = np.sum(np.tanh(model(x))) + np.sum(x @ weight)
        loss.backward()
        for p in model.parameters():
            p.value -= 0.1 * p.grad
            p.grad = None
        return loss

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        step(X[:, :3] if X.shape[1] > 3 else X)
    step.save(tmp_path / "step.py")
    scope = runpy.run_path(str(tmp_path / "step.py"))
    assert "constant" in inspect.signature(scope["step"]).parameters


def test_bound_methods_are_copied_and_pickled_by_their_own_name() -> None:
    assert pickle.loads(pickle.dumps(Picklable().fast)).__func__ is Picklable.fast
    assert copy.copy(Picklable().fast)(X).tolist() == (X * 2).tolist()


class Picklable:
    def slow(self, x):
        return x * 2

    fast = tg.compile(slow)


def test_a_run_that_comes_back_to_itself() -> None:
    inner = []

    def noted(kind, flag):
        inner.append(f(np.full(4, 2.0)))

    f = tg.compile(lambda x: np.sum(np.exp(x) * np.arange(4.0)) + np.sum(x))
    f(np.zeros(4))
    with np.errstate(over="call", call=noted):
        found = f(np.array([0.0, 1.0, 2.0, 1000.0]))
    assert found == np.inf
    assert inner == [np.exp(2.0) * 6 + 8]


def test_a_method_shows_its_source(tmp_path: Any) -> None:
    class Counter:
        factor = 2.0

        @tg.compile
        def times(self, x):
            return self.factor * x

    counter = Counter()
    assert counter.times(np.ones(2)).tolist() == [2.0, 2.0]
    assert "np.multiply" in counter.times.source
    assert counter.times.memory.block > 0
    assert counter.times.recordings == 1
    counter.times.save(tmp_path / "times.py")


def test_source_with_functions_that_numpy_does_not_have(tmp_path: Any) -> None:
    f = tg.compile(tg.grad(lambda x: np.sum(np.arctan(x))))
    f(np.ones(3))
    with pytest.raises(
        ConfigError,
        match=r"over_real_one_plus_square \(of thriftgrad.autodiff.rules.*, which NumPy does not",
    ):
        f.save(tmp_path / "f.py")


RULES_THAT_LOOK = {
    "embedding": (lambda a, i: np.sum(a[i] ** 2), lambda k: (np.arange(5.0), np.array([k, 0, k]))),
    "quantile": (lambda a: np.quantile(a, 0.3), lambda k: (np.arange(5.0) * (-1) ** k,)),
    "median": (lambda a: np.median(a), lambda k: (np.roll(np.arange(5.0), k),)),
    "sort with ties": (lambda a: np.sort(a) @ np.arange(3), lambda k: (np.array([1.0, k, 1.0]),)),
    "maximum with ties": (lambda a: np.max(a), lambda k: (np.array([1.0, k, 1.0]),)),
    "determinant": (lambda a: np.linalg.det(a), lambda k: (np.diag([1.0, 2.0, k]),)),
    "arctan": (lambda a: np.sum(np.arctan(a)), lambda k: (np.array([1.0, 1e200 * k]),)),
    "arctan2": (lambda a: np.sum(np.arctan2(a, 2.0)), lambda k: (np.array([1.0, 1e200 * k]),)),
    "large np.where": (
        lambda a: np.sum(np.where(a > 0, 1 / np.where(a > 0, a, 1), a)),
        lambda k: (np.linspace(-1, 1, 20_000) * k,),
    ),
}


@pytest.mark.parametrize("name", RULES_THAT_LOOK)
def test_rules_that_look_at_entries(name: str) -> None:
    """What they find while recording is not what they find in the next run."""
    function, arguments = RULES_THAT_LOOK[name]
    eager = tg.grad(function)
    compiled = tg.compile(eager)
    for k in (1, 0, 2):
        np.testing.assert_array_equal(compiled(*arguments(k)), eager(*arguments(k)))


def test_writes_into_arrays_of_its_own() -> None:
    def f(x):
        y = np.zeros_like(x)
        y[0] = 3.0
        y[1:] = x[:-1]
        y[...] = y + 1
        z = np.empty_like(y)
        z[...] = 2.0
        np.add.at(z, np.array([0, 0, 1]), x[:3])
        np.multiply(y, z, out=z)
        np.put_along_axis(y, np.array([1]), x[:1], axis=0)
        y[1:] = y[:-1].copy()
        np.copyto(z, 7.0, where=z > 8)
        np.cumsum(z, out=z)
        np.add.reduce(np.stack([z, y]), axis=0, where=np.stack([z > 3, y > 0]), out=z)
        return y, z, np.divide(1.0, x, out=np.zeros_like(x), where=x != 1)

    g = tg.compile(f)
    for seed in range(3):
        x = np.random.default_rng(seed).normal(size=4)
        x[seed] = 1.0
        for ours, theirs in zip(g(x), f(x), strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_calls_with_several_results_and_calls_without_out() -> None:
    def f(x):
        q, r = np.linalg.qr(x)
        whole, rest = np.divmod(x, 0.3)
        a, b = np.split(x, 2)
        low, high = np.sort(x, axis=0)[[0, -1]]
        return q @ r, whole, rest, np.concatenate([b, a]), low + high, np.linalg.inv(x) @ x

    g = tg.compile(f)
    for seed in range(2):
        x = np.random.default_rng(seed).normal(size=(4, 4))
        for ours, theirs in zip(g(x), f(x), strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_copyto_keeps_to_its_rule_of_casting() -> None:
    def narrowed(x: Any) -> Any:
        result = np.zeros_like(x, dtype=np.float32)
        np.copyto(result, x, casting="equiv")
        return result

    x = np.ones(3)
    with pytest.raises(TypeError, match="according to the rule 'equiv'"):
        narrowed(x)
    with pytest.raises(TypeError, match="float64 to float32 by the rule 'equiv'"):
        tg.compile(narrowed)(x)
