"""The quick look before a run: it refuses whatever has changed, and sees at once that nothing has."""

from __future__ import annotations

from collections import defaultdict, deque
from typing import Any

import numpy as np
import pytest
from support import step_of

import thriftgrad as tg
from thriftgrad import nn, optim
from thriftgrad.compile.replay import Replay
from thriftgrad.errors import ConfigError, RecordError

X = np.arange(1.0, 4.0)


@pytest.fixture
def slow(monkeypatch: Any) -> list[int]:
    """A list that grows at every slow look."""
    looks: list[int] = []
    by_value = Replay._fits_by_value

    def counted(self: Any) -> bool:
        looks.append(1)
        return by_value(self)

    monkeypatch.setattr(Replay, "_fits_by_value", counted)
    return looks


def test_a_training_step_passes_at_a_look(slow: list[int]) -> None:
    model = nn.Sequential(nn.Linear(3, 4, rng=0), nn.Dropout(0.3, rng=1), nn.Linear(4, 1, rng=2))
    optimizer = optim.Adam(model.parameters(), lr=optim.schedules.cosine(0.1, steps=9))
    step = tg.compile(step_of(model, optimizer, nn.mse))
    x, y = np.ones((5, 3), np.float32), np.ones((5, 1), np.float32)
    step(x, y)
    slow.clear()
    for _ in range(4):
        step(x.copy(), y.copy())
        optimizer.lr = 0.1
    model[0].weight.value = np.zeros((3, 4), np.float32)  # another array takes its place as well
    step(x, y)
    assert not slow
    step(np.asfortranarray(x), y)
    assert len(slow) == 1  # when it was recorded


class Slotted:
    __slots__ = ("scale",)

    def __init__(self) -> None:
        self.scale = 1.0


def _many(count: int) -> dict[str, float]:
    return {f"a name with {i} ' and \"": float(i) for i in range(count)}


def _in_a_wide_class() -> Any:
    return type("Wide", (), {f"n{i}": float(i) for i in range(30)})


HOLDERS: dict[str, tuple[Any, Any, Any]] = {
    "a short dict": (
        _many(3),
        lambda d: d[next(iter(d))],
        lambda d: d.update({next(iter(d)): 9.0}),
    ),
    "a long dict": (_many(30), lambda d: sum(d.values()), lambda d: d.update({next(iter(d)): 9.0})),
    "a dict with keys of all kinds": (
        {1: 2.0, (1, "x"): 3.0, None: 4.0},
        lambda d: d[None] + d[(1, "x")],
        lambda d: d.update({(1, "x"): 5.0}),
    ),
    "a dict that grows": (_many(3), len, lambda d: d.update(more=1.0)),
    "a dict that was empty": ({}, len, lambda d: d.update(more=1.0)),
    "a dict with another key": ({1: 2.0}, sum, lambda d: d.update({3: d.pop(1)})),
    "a dict in another order": (
        {1: 2.0, 3: 4.0},
        lambda d: next(iter(d.values())),
        lambda d: d.update({1: d.pop(1)}),
    ),
    "a list": ([1.0, 2.0], sum, lambda a: a.__setitem__(0, 5.0)),
    "a list that grows": ([1.0, 2.0], sum, lambda a: a.append(5.0)),
    "a list that shrinks": ([1.0, 2.0], sum, lambda a: a.pop()),
    "a list that was empty": ([], len, lambda a: a.append(5.0)),
    "a long list": ([*map(float, range(30))], sum, lambda a: a.__setitem__(29, 5.0)),
    "a long list that grows": ([*map(float, range(30))], sum, lambda a: a.append(5.0)),
    "a deque": (deque([1.0, 2.0]), sum, lambda a: a.append(5.0)),
    "a set": ({1.0, 2.0}, sum, lambda a: a.add(5.0)),
    "slots": (Slotted(), lambda s: s.scale, lambda s: setattr(s, "scale", 3.0)),
    "a class": (_in_a_wide_class(), lambda c: c.n7, lambda c: setattr(c, "n7", 3.0)),
    "a small array": (np.ones(3), lambda a: float(a[0]), lambda a: a.__setitem__(0, 3.0)),
}


@pytest.mark.parametrize("name", HOLDERS)
def test_changes_are_refused_and_equal_values_are_not(name: str, slow: list[int]) -> None:
    holder, read, change = HOLDERS[name]
    g = tg.compile(lambda x: x * read(holder))
    before = read(holder)
    np.testing.assert_array_equal(g(X), X * before)
    slow.clear()
    g(X)
    assert not slow
    change(holder)
    assert read(holder) != before
    np.testing.assert_array_equal(g(X), X * read(holder))


@pytest.mark.parametrize("count", [1, 3, 30])
@pytest.mark.parametrize("gone", ["deleted", "another in its place"])
def test_a_look_puts_nothing_into_a_defaultdict(count: int, gone: str) -> None:
    settings = defaultdict(float, _many(count))
    g = tg.compile(lambda x: x * sum(settings.values()))
    g(X)
    del settings[next(iter(settings))]
    if gone != "deleted":
        settings["another"] = 7.0
    before = dict(settings)
    assert not g._newest._unchanged([X])
    assert settings == before
    np.testing.assert_array_equal(g(X), X * sum(before.values()))
    assert settings == before


def test_an_equal_number_in_another_object_is_no_change(capsys: Any) -> None:
    settings = {"scale": float("1e3")}

    @tg.compile
    def f(x):
        print("recorded")
        return x * settings["scale"]

    for _ in range(3):
        settings["scale"] = float("1e3")
        np.testing.assert_array_equal(f(X), X * 1e3)
    assert capsys.readouterr().out == "recorded\n"


def test_gradients_and_read_only_parameters_are_seen() -> None:
    w = tg.Parameter(np.ones(3), name="w")
    rule = optim.SGD([w], lr=0.0)

    @tg.compile
    def step(x):
        np.sum(w * x).backward()
        rule.step()

    for count in (1, 2, 3):  # recorded without a gradient, then with one
        step(X)
        np.testing.assert_allclose(w.grad, count * X)
    w.value = np.ones(3)
    w.value.flags.writeable = False
    with pytest.raises(ConfigError, match="read-only"):
        step(X)


@pytest.mark.filterwarnings("ignore:.* has been recorded")  # they are two more than are kept
def test_two_shapes_in_turn_and_arguments_in_other_forms() -> None:
    g = tg.compile(lambda x, k=1.0: x * k)
    for _ in range(3):
        for x in (X, X[:2], X[::-1], X.astype(np.float32), np.float64(2.0), 3.0):
            np.testing.assert_array_equal(g(x), x * 1.0)
            np.testing.assert_array_equal(g(x, k=2.0), x * 2.0)
            np.testing.assert_array_equal(g(x, 3.0), x * 3.0)
    with pytest.raises(TypeError):
        g(X, X, X)
    assert tg.compile(lambda: 2.0)() == 2.0


@pytest.mark.parametrize("kernels", ["numpy", "numba"])
def test_an_array_that_is_made_read_only_stops_a_run_before_anything_is_written(
    kernels: Any,
) -> None:
    if kernels == "numba":
        pytest.importorskip("numba")
    first, second = (tg.Parameter(np.ones(3), name=name) for name in ("first", "second"))
    rule = optim.SGD([first, second], lr=0.1, momentum=0.9)

    @tg.compile(kernels=kernels)
    def step(x):
        np.sum(np.tanh(first * x) * second).backward()
        rule.step()
        rule.zero_grad()

    step(X)
    arrays = [first.value, second.value, *(v for each in rule.state for v in each.values())]
    for array in arrays:
        before = [each.copy() for each in arrays]
        array.flags.writeable = False  # the very array that the program is bound to
        with pytest.raises(ConfigError, match="read-only"):
            step(X)
        array.flags.writeable = True
        np.testing.assert_array_equal(arrays, before)
        assert rule.steps == 1
    step(X)
    assert rule.steps == 2


# What cannot be recorded, with fallback="eager"


def test_shared_memory_falls_back_for_that_call_alone() -> None:
    w = tg.Parameter(np.arange(1.0, 10.0).reshape(3, 3))
    rule = optim.SGD([w], lr=0.1)

    def late(x):
        np.sum(np.tanh(w @ x)).backward()
        rule.step()
        rule.zero_grad()
        return x * 2

    g = tg.compile(late, fallback="eager")
    apart = np.asfortranarray(np.ones((3, 3)))
    g(apart)
    source = g.source
    with pytest.warns(RuntimeWarning, match="shares memory"):
        result = g(w.value.T)
    np.testing.assert_array_equal(result, w.value.T * 2)
    assert not g._eager
    g(apart)
    assert g.source is source


def test_what_would_be_recorded_at_every_call_falls_back() -> None:
    class Once:
        seen = None

    def f(x):
        return x * len(str(Once.seen))

    g = tg.compile(f, fallback="eager")
    np.testing.assert_array_equal(g(X), X * 4)
    with pytest.warns(RuntimeWarning, match="cannot be recorded"):
        tg.compile(lambda x: x if x[0] > 0 else -x, fallback="eager")(X)


@pytest.mark.parametrize("name", ["sort", "view", "resize", "tobytes", "partition"])
def test_methods_that_cannot_be_followed_are_refused_by_name(name: str) -> None:
    with pytest.raises(RecordError, match=rf"\.{name} of a value that is being recorded"):
        tg.compile(lambda x: getattr(x + 1, name)())(X)
    assert not tg.compile(lambda x: x * hasattr(x, "toarray"))(X).any()


def test_a_recording_that_fails_puts_generators_back() -> None:
    rng = np.random.default_rng(0)

    def f(x):
        raise ValueError(f"{rng.random()} and no more")

    for _ in range(2):
        with pytest.raises(ValueError, match=r"0\.6369616873214543 and"):
            tg.compile(f)(X)
