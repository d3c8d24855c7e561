"""What a compiled function depends on beside its arguments: noticed when it changes, or refused."""

from __future__ import annotations

import functools
import itertools
import random
import sys
import weakref
from collections import UserDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import thriftgrad as tg
from thriftgrad import optim
from thriftgrad.errors import RecordError
from thriftgrad.memory import generators

X = np.arange(1.0, 4.0)
SCALE = 1.0

# A function, and what changes something that it depends on, for a count of runs

Case = tuple[Callable[[Any], Any], Callable[[float], Any]]


class Settings:
    scale = 1.0


class Layer:
    def __call__(self, x):
        return self.inner(x) * self.factor + self.fixed(x)

    def inner(self, x):
        return x * SCALE

    @property
    def factor(self):
        return SCALE

    @staticmethod
    def fixed(x):
        return x * SCALE


def _set_global(value: float) -> None:
    global SCALE
    SCALE = value


def _a_module() -> Case:
    module = ModuleType("a_module_of_the_person")
    exec("scale = 1.0\ndef times(x):\n    return x * scale", vars(module))
    return lambda x: module.times(x) + module.scale, lambda k: setattr(module, "scale", k)


def _an_imported_module() -> Case:
    module = sys.modules["person_settings"] = ModuleType("person_settings")
    module.scale = 1.0  # type: ignore[attr-defined]

    def f(x):
        import person_settings  # type: ignore[import-not-found]

        return x * person_settings.scale

    return f, lambda k: setattr(module, "scale", k)


def _an_attribute_of_the_function() -> Case:
    def f(x):
        return x * f.scale  # type: ignore[attr-defined]

    f.scale = 1.0  # type: ignore[attr-defined]
    return f, lambda k: setattr(f, "scale", k)


def _defaults() -> Case:
    def f(x, scale=1.0):
        return x * scale

    return f, lambda k: setattr(f, "__defaults__", (k,))


def _keywords() -> Case:
    p = functools.partial(lambda x, scale: x * scale, scale=1.0)
    return lambda x: p(x), lambda k: p.keywords.update(scale=k)


def _a_set() -> Case:
    numbers = {1}
    return lambda x: x * len(numbers), lambda k: numbers.add(int(k))


def _a_deque() -> Case:
    numbers = deque([1.0])
    return lambda x: x * sum(numbers), numbers.append


def _a_method_of_a_dict() -> Case:
    settings = {"scale": 1.0}
    get = settings.get
    return lambda x: x * get("scale"), lambda k: settings.update(scale=k)


def _a_user_dict() -> Case:
    settings = UserDict(scale=1.0)
    return lambda x: x * settings["scale"], lambda k: settings.update(scale=k)


def _a_long_list() -> Case:
    numbers = [1.0] * 1_500
    return lambda x: x * numbers[1_200], lambda k: numbers.__setitem__(1_200, k)


def _entries_of_an_array() -> Case:
    a = np.ones(3)
    return lambda x: x * a + (a * 2) * x + a[0], lambda k: a.__setitem__(slice(None), k)


def _another_class() -> Case:
    class One:
        scale = 1.0

    class Two:
        scale = 2.0

    thing = One()
    return lambda x: x * thing.scale, lambda k: setattr(thing, "__class__", Two if k == 2 else One)


def _a_metaclass() -> Case:
    class Meta(type):
        scale = 1.0

    class Thing(metaclass=Meta):
        pass

    return lambda x: x * Thing.scale, lambda k: setattr(Meta, "scale", k)


def _the_order_of_a_dict() -> Case:
    steps = {"add": lambda x: x + 1, "double": lambda x: x * 2}

    def f(x):
        for step in steps.values():
            x = step(x)
        return x

    def change(k: float) -> None:
        name = "add" if k == 2 else "double"
        steps[name] = steps.pop(name)

    return f, change


def _the_sign_of_zero() -> Case:
    settings = {"like": 0.0}
    return lambda x: np.copysign(x, settings["like"]), lambda k: settings.update(
        like=-0.0 if k == 2 else 0.0
    )


def _an_attribute_of_a_container(kind: type) -> Case:
    thing: Any = type("Kind", (kind,), {})()
    thing.scale = 1.0
    return lambda x: x * thing.scale, lambda k: setattr(thing, "scale", k)


def _a_weak_reference() -> Case:
    class Thing:
        scale = 1.0

    thing = Thing()
    reference = weakref.ref(thing)
    return lambda x: x * reference().scale, lambda k: setattr(thing, "scale", k)


def _names_that_are_looked_up() -> Case:
    settings = {"scale": 1.0}

    class Thing:
        def __getattr__(self, name: str) -> float:
            return settings[name]

    thing = Thing()
    return lambda x: x * thing.scale, lambda k: settings.update(scale=k)


CASES: dict[str, Callable[[], Case]] = {
    "methods": lambda: (Layer(), _set_global),
    "a class": lambda: (lambda x: x * Settings.scale, lambda k: setattr(Settings, "scale", k)),
    "a module": _a_module,
    "an imported module": _an_imported_module,
    "an attribute of the function": _an_attribute_of_the_function,
    "defaults": _defaults,
    "keywords": _keywords,
    "a set": _a_set,
    "a deque": _a_deque,
    "a method of a dict": _a_method_of_a_dict,
    "a user dict": _a_user_dict,
    "a long list": _a_long_list,
    "entries of an array": _entries_of_an_array,
    "another class": _another_class,
    "a metaclass": _a_metaclass,
    "the order of a dict": _the_order_of_a_dict,
    "the sign of zero": _the_sign_of_zero,
    "an attribute of a dict": lambda: _an_attribute_of_a_container(dict),
    "an attribute of a list": lambda: _an_attribute_of_a_container(list),
    "a weak reference": _a_weak_reference,
    "names that are looked up": _names_that_are_looked_up,
}


@pytest.mark.parametrize("name", CASES)
def test_a_change_outside_is_noticed(name: str) -> None:
    f, change = CASES[name]()
    g = tg.compile(f)
    for k in (1.0, 2.0, 3.0, 2.0):
        change(k)
        np.testing.assert_array_equal(g(X), f(X))


def test_another_name_of_a_parameter_is_warned_of() -> None:
    w = tg.Parameter(np.ones(3), name="w")
    other = w.value

    def f(x):
        w.value += x
        return x * other[0]

    with pytest.warns(RuntimeWarning, match="writes into w, and can reach an array that shares"):
        tg.compile(f)(X)


def test_what_is_made_at_its_first_use_is_recorded_on_the_spot() -> None:
    class Lazy:
        @functools.cached_property
        def scale(self) -> float:
            return 2.0

    thing = Lazy()
    g = tg.compile(lambda x: x * thing.scale)
    np.testing.assert_array_equal(g(X), X * 2)
    np.testing.assert_array_equal(g(X), X * 2)
    thing.scale = 3.0
    np.testing.assert_array_equal(g(X), X * 3)


def test_equal_objects_with_other_settings() -> None:
    @dataclass(frozen=True)
    class Options:
        scale: float = field(compare=False)

    g = tg.compile(lambda x, options: x * options.scale)
    for k in (1.0, 2.0):
        np.testing.assert_array_equal(g(X, Options(k)), X * k)


def test_arguments_that_are_one_object() -> None:
    g = tg.compile(lambda x, y: x + y if x is y else x - y)
    for y in (X, X.copy(), X):
        np.testing.assert_array_equal(g(X, y), X + y if X is y else X - y)


def test_under_no_grad_and_without() -> None:
    w = tg.Parameter(np.ones(3))

    @tg.compile
    def f(x):
        loss = np.sum(w * x)
        if loss.node is not None and loss.node.edges:
            loss.backward()
        return loss.value

    for _ in range(2):
        w.grad = None
        with tg.no_grad():
            f(X)
        assert w.grad is None
        f(X)
        np.testing.assert_array_equal(w.grad, X)


def _counting_in_an_array() -> Callable[[Any], Any]:
    count = np.zeros(1)

    def f(x):
        count[0] += 1
        return x * count

    return f


def _counting_in_a_large_array() -> Callable[[Any], Any]:
    count = np.zeros(1_000)

    def f(x):
        count[0] += 1
        return x * count[0]

    return f


def _counting_in_a_class() -> Callable[[Any], Any]:
    class Counter:
        count = 0

    def f(x):
        Counter.count += 1
        return x * Counter.count

    return f


def _drawing_from(source: Any) -> Callable[[Any], Any]:
    return lambda x: x * (source.random() if isinstance(source, random.Random) else source.rand())


def _next_of(iterator: Any) -> Callable[[Any], Any]:
    return lambda x: x * next(iterator)


@pytest.mark.parametrize(
    "f",
    [
        _counting_in_an_array(),
        _counting_in_a_large_array(),
        _counting_in_a_class(),
        _drawing_from(random.Random(0)),
        _drawing_from(np.random.RandomState(0)),
        lambda x: x * random.random(),
        _next_of(iter([1.0, 2.0])),
        _next_of(itertools.count(1)),
        _next_of(k for k in (1.0, 2.0)),
    ],
)
def test_what_moves_on_while_it_runs_is_refused(f: Callable[[Any], Any]) -> None:
    with pytest.raises(RecordError):
        tg.compile(f)(X)


@pytest.mark.parametrize("optimizer", [optim.SGD, optim.Adam])
def test_two_steps_of_one_optimiser_are_refused(optimizer: Any) -> None:
    w = tg.Parameter(np.ones(3))
    rule = optimizer([w], lr=0.1)

    @tg.compile
    def twice(x):
        for _ in range(2):
            np.sum(w * x).backward()
            rule.step()
            rule.zero_grad()

    with pytest.raises(RecordError, match="two steps of one optimiser"):
        twice(X)
    assert w.value.tolist() == [1.0, 1.0, 1.0]


def test_an_argument_that_shares_memory_with_a_parameter() -> None:
    def build() -> tuple[tg.Parameter, Callable[[Any], Any], Callable[[Any], Any]]:
        w = tg.Parameter(np.arange(1.0, 10.0).reshape(3, 3))
        rule = optim.SGD([w], lr=0.1)

        def early(x):
            loss = np.sum(np.tanh(w @ x))
            loss.backward()
            rule.step()
            rule.zero_grad()
            return loss.value, x

        def late(x):
            return early(x)[0], x * 2

        return w, early, late

    w, early, _ = build()
    v, compiled, _ = build()
    g = tg.compile(compiled)
    for _ in range(3):
        for a, b in zip(early(w.value.T), g(v.value.T), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12)
    v, _, late = build()
    g = tg.compile(late)
    g(np.ones((3, 3)))
    before = v.value.copy()
    with pytest.raises(RecordError, match="x shares memory with parameter"):
        g(v.value.T)
    np.testing.assert_array_equal(v.value, before)


# Layouts and dtypes that a program must keep


def _write_a_transpose(x: Any) -> Any:
    y = np.zeros_like(x)
    y[...] = x.T
    return y.reshape(-1).reshape(4, 4), np.exp(y)


def _copy_in_the_order_of_c(x: Any) -> Any:
    y = x.T.copy()
    z = y.reshape(-1)
    del y
    z += 1
    return z


def _write_with_gaps(x: Any) -> Any:
    y = (x + 1)[:, ::2]
    y += 1
    z = y.reshape(-1)
    w = y * 2
    return z * 1, np.exp(w) + w


@pytest.mark.parametrize("f", [_write_a_transpose, _copy_in_the_order_of_c, _write_with_gaps])
def test_views_of_what_has_been_written_into(f: Callable[[Any], Any]) -> None:
    g = tg.compile(f)
    for seed in range(3):
        x = np.random.default_rng(seed).normal(size=(4, 4))
        for a, b in zip(f(x), g(x), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-15)


def test_bytes_in_another_order_scalars_and_complex_infinity() -> None:
    big = np.arange(3, dtype=">i4")
    assert tg.compile(lambda x: np.zeros_like(x) + 0)(big).tolist() == [0, 0, 0]
    assert tg.compile(np.zeros_like)(big).dtype == np.zeros_like(big).dtype
    for f in (lambda x: x, lambda x: True * x):
        assert type(tg.compile(f)(np.float32(2.5))) is np.float32
    x = np.array([complex(np.inf, 1.0)])
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(tg.compile(lambda x: x * 1)(x), x * 1)


@pytest.mark.parametrize(
    "name",
    ["np", "errors", "x\nimport os", '"""', "\u00aa", "\ufb01", "\U0001d431", "x\u00b2", "\u00b2"],
)
def test_hostile_names(name: str) -> None:
    w = tg.Parameter(np.ones(3), name=name)
    rule = optim.SGD([w], lr=0.1)

    def f(x):
        loss = np.sum(w * x)
        loss.backward()
        rule.step()
        return loss.value

    f.__name__ = name
    g = tg.compile(f)
    assert g(X) == 6.0
    np.testing.assert_allclose(w.value, 1 - 0.1 * X)
    assert "import os" not in g.source


def test_a_large_array_that_is_changed_in_place_is_seen() -> None:
    scale = np.full(5_000, 2.0)
    noise = np.arange(5_000.0)

    @tg.compile
    def scaled(x: Any) -> Any:
        return x * scale[3] + scale[::2].sum() + x * noise[:1]

    x = np.ones(1)
    for factor in (1.0, 0.5, 0.25):  # as a schedule of one's own would
        scale *= factor
        assert scaled(x)[0] == scale[3] + scale[::2].sum()
    assert scaled.recordings == 3
    noise += 1  # which the program reads itself
    assert scaled(x)[0] == scale[3] + scale[::2].sum() + 1
    assert scaled.recordings == 3


def test_what_is_recorded_leads_to_no_other_generators(monkeypatch: Any) -> None:
    rng = np.random.default_rng(0)
    dropout = tg.nn.Dropout(0.5, rng=rng)

    @tg.compile
    def step(x: Any) -> Any:
        return dropout(x) * 2

    for length in range(1, 15):
        step(np.ones(length))
    monkeypatch.setattr(generators, "MOST", 100)  # of more, a warning would be raised
    assert generators.bit_generators(step) == [rng.bit_generator]
