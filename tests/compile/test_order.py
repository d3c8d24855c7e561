"""When calls are made: updates early, but behind all that can fail and all that reads the old values."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from itertools import pairwise
from math import inf
from typing import Any

import numpy as np
import pytest
from support import step_of

import thriftgrad as tg
from thriftgrad import nn, optim
from thriftgrad.compile import order, source
from thriftgrad.compile.order import Group, Step, calls_of, can_fail, ordered
from thriftgrad.compile.program import Program
from thriftgrad.errors import RecordError

RNG = np.random.default_rng(0)
X = RNG.normal(size=(6, 5)).astype(np.float32)
Y = np.array([0, 1, 2, 0, 1, 2])
SIZES = [5, 8, 8, 8, 3]
PLACE: Any = tg.Tensor.__dict__["value"].__set__
"""Makes an array the value of a parameter as it is, where an assignment would copy it."""


def network(sizes: Any = SIZES, activation: Any = np.tanh) -> nn.Sequential:
    layers: list[Any] = []
    for i, (a, b) in enumerate(pairwise(sizes)):
        layers += [nn.Linear(a, b, rng=i), activation]
    return nn.Sequential(*layers[:-1])


OPTIMIZERS: dict[str, Callable[[Any], optim.Optimizer]] = {
    "SGD": lambda p: optim.SGD(p, lr=0.1),
    "momentum": lambda p: optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01),
    "Adam": lambda p: optim.Adam(p, lr=0.01),
    "clipped": lambda p: optim.SGD(p, lr=0.1, clip_norm=0.1),
}


def training(optimizer: str = "SGD", loss: Any = nn.cross_entropy, sizes: Any = SIZES) -> Any:
    model = network(sizes)
    rule = OPTIMIZERS[optimizer](model.parameters())
    return model, rule, step_of(model, rule, loss)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Program, list[Step]]]:
    """Programs as they are written, with their steps."""
    found: list[tuple[Program, list[Step]]] = []

    def spy(program: Program, *args: Any) -> list[Step]:
        steps = ordered(program, *args)
        found.append((program, steps))
        return steps

    monkeypatch.setattr(source, "ordered", spy)
    return found


def lookup(logits: Any, y: Any) -> Any:
    return np.sum(logits[np.arange(6), y] ** 2)


def inverse(logits: Any, y: Any) -> Any:
    return np.sum(np.linalg.inv(logits.T @ logits + np.eye(3, dtype=np.float32)))


def with_errors(logits: Any, y: Any) -> Any:
    with np.errstate(all="raise"):
        return np.sum(logits * logits)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("loss", [nn.cross_entropy, lookup, inverse, with_errors])
def test_nothing_is_written_too_early(optimizer: str, loss: Any, seen: Any) -> None:
    model, _, step = training(optimizer, loss)
    tg.compile(step)(X, Y)
    ((program, steps),) = seen
    updates = [i for i, s in enumerate(steps) if isinstance(s, Group) and s.targets]
    assert len(updates) == len(model.parameters())
    for i, step_ in enumerate(steps):
        if i > updates[0]:
            assert not any(map(can_fail, calls_of(step_)))
    for i in updates:
        live = set(steps[i].targets.values())
        later = [v.root for s in steps[i + 1 :] for call in calls_of(s) for v in call.operands]
        assert live.isdisjoint(later)
    made = [v for s in steps for call in calls_of(s) for v in call.results]
    assert len(made) == len(set(made)) == sum(len(call.results) for call in program.calls)


def test_an_update_follows_its_gradient(seen: Any) -> None:
    """In the last layer's update, the gradient of the first is still to come; with clipping, it is not."""
    for optimizer, early in [("SGD", True), ("momentum", True), ("Adam", True), ("clipped", False)]:
        _, _, step = training(optimizer)
        tg.compile(step)(X, Y)
        _, steps = seen.pop()
        kinds = [isinstance(s, Group) and bool(s.targets) for s in steps]
        first = kinds.index(True)
        products = sum(
            call.function in (np.matmul, np.dot) for s in steps[first:] for call in calls_of(s)
        )
        assert (products > 0) == early


def test_gradients_are_not_kept_all_at_once() -> None:
    """The block of a deep network is that of its activations, whatever its parameters take."""
    model, _, step = training("momentum", sizes=[64] * 20)
    step = tg.compile(step)
    x = np.ones((16, 64), np.float32)
    step(x, np.arange(16))
    activations = 20 * 16 * 64 * 4
    parameters = sum(p.value.nbytes for p in model.parameters())
    assert parameters > 3 * activations
    assert step.memory.block < 2 * activations


# Exceptions in the middle


@pytest.mark.parametrize("optimizer", ["SGD", "momentum", "Adam"])
@pytest.mark.parametrize("layer", [0, 2, 4, 6])
@pytest.mark.parametrize("where", ["weight", "gradient", "nothing"])
def test_floating_point_errors_leave_all_before_or_all_after(
    optimizer: str, layer: int, where: str
) -> None:
    """The overflow is planted in one layer: in the forward pass, in its gradient, or in an update."""
    model, rule, _ = training(optimizer)
    scale = np.float32(1e30 if where == "gradient" else 1)

    class Scaled:
        def __call__(self, x):
            return (x * scale) * (1 / scale)

    @tg.compile
    def step(x, y):
        for i, each in enumerate(model):
            x = each(x)
            if i == layer:
                x = x * scale * scale if where == "gradient" else x
        loss = np.sum(np.tanh(x))
        loss.backward()
        rule.step()
        rule.zero_grad()
        return loss

    if where == "nothing":  # but the rate is so large that an update overflows
        rule.lr = 1e39
    if where == "weight":
        model[layer].weight.value[...] = 3e38
    with np.errstate(all="ignore"):
        step(X, Y)
    if optimizer != "Adam" or where != "nothing":
        for p in model.parameters():
            p.value[...] = np.nan_to_num(p.value, nan=0.1, posinf=0.1, neginf=-0.1)
    before = [p.value.copy() for p in model.parameters()]
    count = rule.steps
    try:
        with np.errstate(all="raise"):
            step(X, Y)
    except FloatingPointError:
        pass
    changed = [
        not np.array_equal(p.value, old, equal_nan=True)
        for p, old in zip(model.parameters(), before, strict=True)
    ]
    after = rule.steps == count + 1
    assert after or not any(changed)
    assert rule.updates == [rule.steps] * len(rule.updates)


def test_an_overflow_between_two_updates() -> None:
    """The parameter `b` is written before the product that overflows is made."""
    a = tg.Parameter(np.full(3, 2.0, np.float32), name="a")
    b = tg.Parameter(np.full(3, 2.0, np.float32), name="b")
    rule = optim.SGD([a, b], lr=0.5)

    def step(x):
        loss = np.sum(np.sin(np.sum(x * a, axis=0)) * b)
        loss.backward()
        rule.step()
        rule.zero_grad()

    run = tg.compile(step)
    run(np.ones((2, 3), np.float32))
    text = run.source
    assert text.index("out=b)") < text.index("x, out=multiply_2)") < text.index("out=a)")
    a.value[...], b.value[...] = 2e-38, 2.0
    x = np.full((2, 3), 3e38, np.float32)  # so that x * a is small, and x * b is not
    with np.errstate(all="raise"), pytest.raises(FloatingPointError, match="overflow"):
        run(x)
    assert rule.steps == 2
    assert not np.any(a.value == np.float32(2e-38))
    assert not np.any(b.value == 2.0)
    a.value[...] = 2e-38
    with pytest.warns(RuntimeWarning, match="overflow encountered in an update or after one"):
        run(x)
    with np.errstate(all="ignore"), warnings.catch_warnings(action="error"):
        run(x)
        a.value[...], b.value[...] = 1.0, 1.0
    held: Any = run._newest._report.__globals__  # type: ignore[union-attr]
    held["note"]("overflow", 2)  # as after Ctrl-C, between the error and the report of it
    with np.errstate(all="raise"):
        run(np.ones((2, 3), np.float32))


@pytest.mark.parametrize("size", [3, 100_000])
def test_two_arrays_are_given_the_same_entries(size: int) -> None:
    """A target network that follows at each step."""
    w, target = (tg.Parameter(np.ones(size), name=name) for name in ("w", "target"))
    rule = optim.SGD([w], lr=0.1)

    @tg.compile
    def step(x):
        np.sum(np.square(w * x)).backward()
        rule.step()
        rule.zero_grad()
        target.value[...] = w.value

    for count in (1, 2, 3):
        step(np.ones(size))
        np.testing.assert_allclose(w.value, np.full(size, 0.8**count))
        np.testing.assert_array_equal(target.value, w.value)


@pytest.mark.parametrize("kernels", ["numpy", "numba"])
def test_what_an_update_alone_needs_of_a_chain(
    kernels: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sharpness-aware minimisation: two gradients, at `w` and at `w + e`."""
    if kernels == "numba":
        pytest.importorskip("numba")
    monkeypatch.setattr(order, "WORTH", 1)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(8, 5)), rng.normal(size=(8, 3))
    trained = []
    for is_compiled in (False, True):
        w = tg.Parameter(np.linspace(-1, 1, 15).reshape(5, 3), name="w")
        rule = optim.SGD([w], lr=0.1)

        def step(x, y, w=w, rule=rule):
            np.mean(np.square(x @ w - y)).backward()
            e = w.grad * (0.05 / np.sqrt(np.sum(np.square(w.grad))))
            w.value += e
            w.grad = None
            np.mean(np.square(x @ w - y)).backward()
            w.value -= e
            rule.step()
            rule.zero_grad()

        run = tg.compile(step, kernels=kernels) if is_compiled else step
        for _ in range(3):
            run(x, y)
        trained.append(w.value)
    np.testing.assert_allclose(*trained, rtol=1e-12)


def test_a_singular_matrix_leaves_all_as_it_was() -> None:
    w = tg.Parameter(np.eye(3), name="w")
    v = tg.Parameter(np.ones((3, 3)), name="v")
    rule = optim.SGD([w, v], lr=0.1)

    @tg.compile
    def step(x):
        loss = np.sum(v * np.linalg.inv(w * x))
        loss.backward()
        rule.step()
        rule.zero_grad()

    step(np.ones((3, 3)))
    before = w.value.copy(), v.value.copy()
    with pytest.raises(np.linalg.LinAlgError):
        step(np.zeros((3, 3)))
    np.testing.assert_array_equal(w.value, before[0])
    np.testing.assert_array_equal(v.value, before[1])


def test_a_rate_that_cannot_be_divided_by_leaves_all_as_it_was() -> None:
    model, rule, _ = training()

    @tg.compile
    def step(x, y, scale):
        loss = nn.cross_entropy(model(x), y)
        loss.backward()
        for p in model.parameters():
            p.value -= (0.1 / scale) * p.grad
        rule.zero_grad()

    step(X, Y, 1.0)
    before = [p.value.copy() for p in model.parameters()]
    with pytest.raises(ZeroDivisionError):
        step(X, Y, 0.0)
    for p, old in zip(model.parameters(), before, strict=True):
        np.testing.assert_array_equal(p.value, old)


# Arrays that share memory


def aliased(compiled: bool, alias: Callable[[Any], tuple[Any, Any]]) -> list[Any]:
    model, rule, _ = training("momentum", sizes=[4, 4, 4, 4])
    x, more = alias(model)

    def step(x, more):
        loss = np.sum(np.tanh(model(x)) * more)
        loss.backward()
        rule.step()
        rule.zero_grad()
        return loss

    run = tg.compile(step) if compiled else step
    losses = [run(x, more).item() for _ in range(3)]
    return [*losses, *(p.value for p in model.parameters())]


OWN = np.random.default_rng(3).normal(size=(4, 4)).astype(np.float32)
ALIASES: dict[str, Callable[[Any], tuple[Any, Any]]] = {
    "nothing": lambda m: (OWN, OWN + 1),
    "the input is the last weight": lambda m: (m[4].weight.value, OWN),
    "the input is a view of the middle weight": lambda m: (m[2].weight.value.T[::-1], OWN),
    "both are views": lambda m: (m[4].weight.value[1:], m[2].weight.value[1:]),
    "the input is a bias many times": lambda m: (np.broadcast_to(m[4].bias.value, (4, 4)), OWN),
    "a part of memory that a weight lies in": lambda m: _one_vector(m),
}


def _one_vector(model: Any) -> tuple[Any, Any]:
    """Make all parameters and the input lie side by side in one array."""
    parameters = model.parameters()
    vector = np.zeros(16 + sum(p.value.size for p in parameters), np.float32)
    vector[:16] = OWN.ravel()
    at = 16
    for p in parameters:
        vector[at : at + p.value.size] = p.value.ravel()
        PLACE(p, vector[at : at + p.value.size].reshape(p.value.shape))
        at += p.value.size
    return vector[:16].reshape(4, 4), OWN


@pytest.mark.parametrize("name", ALIASES)
def test_arguments_that_share_memory_with_parameters(name: str) -> None:
    eager, ours = (aliased(compiled, ALIASES[name]) for compiled in (False, True))
    for a, b in zip(ours, eager, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-6, atol=1e-7)


def test_an_array_outside_that_is_a_view_of_a_parameter() -> None:
    results = []
    for compiled in (False, True):
        model, rule, _ = training("SGD", sizes=[4, 4, 4, 4])
        table = model[4].weight.value.T  # read in the gradient of the first layer

        def step(x, model=model, rule=rule, table=table):
            loss = np.sum(np.tanh(model(x * table)))
            loss.backward()
            rule.step()
            rule.zero_grad()
            return loss

        run = tg.compile(step) if compiled else step
        losses = [run(OWN).item() for _ in range(3)]
        results.append([*losses, *(p.value for p in model.parameters())])
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-6, atol=1e-7)


def test_arrays_that_are_written_into_must_not_share_memory() -> None:
    model, rule, step = training("momentum", sizes=[4, 4, 4, 4])
    run = tg.compile(step)
    y = np.arange(4)
    run(OWN, y)
    before = [p.value.copy() for p in model.parameters()]
    own = rule.state[2]["momentum"]
    rule.state[2]["momentum"] = rule.state[4]["momentum"].T
    with pytest.raises(
        RecordError, match=r"share memory, and the compiled function writes into both"
    ):
        run(OWN, y)
    for p, old in zip(model.parameters(), before, strict=True):
        np.testing.assert_array_equal(p.value, old)
    rule.state[2]["momentum"] = own
    run(OWN, y)
    PLACE(model[4].weight, model[2].weight.value[:])
    with pytest.raises(RecordError, match=r"(2_|2\.)weight and .*4.weight share memory"):
        run(OWN, y)


def test_columns_of_one_array_do_not_share_memory() -> None:
    both = np.ones((3, 4))
    a, b = tg.Parameter(both[:, ::2], name="a"), tg.Parameter(both[:, 1::2], name="b")
    PLACE(a, both[:, ::2])
    PLACE(b, both[:, 1::2])
    rule = optim.SGD([a, b], lr=0.1)

    @tg.compile
    def step(x):
        loss = np.sum(a * x + b * b * x)
        loss.backward()
        rule.step()
        rule.zero_grad()

    step(np.ones((3, 2)))
    np.testing.assert_allclose(both, np.tile([0.9, 0.8], (3, 2)))


def test_one_state_for_two_parameters() -> None:
    results = []
    for compiled in (False, True):
        a, b = (tg.Parameter(np.full(3, k), name=n) for k, n in ((1.0, "a"), (2.0, "b")))
        mean = np.zeros(3)

        def step(x, a=a, b=b, mean=mean):
            loss = np.sum(np.tanh(b * np.tanh(a * x)))
            loss.backward()
            for p in (a, b):
                p.value -= 0.1 * p.grad + mean_of(mean)
                p.grad = None

        def mean_of(mean):
            return mean * 0.5

        run = tg.compile(step) if compiled else step
        for k in range(3):
            mean[...] = k
            run(np.array([0.1, 0.2, 0.3]))
        results.append((a.value, b.value))
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)


def random_updates(seed: int) -> tuple[Any, list[Any], Any]:
    """Return a step that overwrites some parameters by functions of all of them, these and an argument."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 5))
    parameters = [tg.Parameter(rng.standard_normal(7), name=f"p{k}") for k in range(count)]
    plan = rng.integers(0, 1 << 20, size=(int(rng.integers(1, 12)), 3)).tolist()
    finals = rng.integers(0, 1 << 20, size=(int(rng.integers(1, count + 1)), 2)).tolist()

    def step(g):
        values = [g, *(p.value for p in parameters)]
        for kind, i, j in plan:
            a, b = values[i % len(values)], values[j % len(values)]
            values.append([a + b, a - b, np.tanh(a) * b, np.maximum(a, b), a * 0.5][kind % 5])
        for i, j in finals:
            parameters[i % count].value[...] = values[j % len(values)]
        return np.sum(values[-1]) if seed % 2 else None

    return step, parameters, rng.standard_normal(7)


@pytest.mark.parametrize("seed", range(150))
def test_random_updates_read_what_is_old(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order, "TILE", [1 << 15, 3][seed % 2])
    results = []
    for compiled in (False, True):
        step, parameters, g = random_updates(seed)
        run = tg.compile(step) if compiled else step
        results.append([(run(g + k), *(p.value.copy() for p in parameters)) for k in range(3)])
    for ours, theirs in zip(*results, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(a, b)


# What a function does after a step


def test_a_parameter_that_is_read_after_its_update() -> None:
    results = []
    for compiled in (False, True):
        model, rule, _ = training("momentum")

        def step(x, y, model=model, rule=rule):
            loss = nn.cross_entropy(model(x), y)
            loss.backward()
            gradients = [p.grad for p in model.parameters()]
            rule.step()
            rule.zero_grad()
            old = model[2].weight.value * 1.0
            second = nn.cross_entropy(model(x), y)
            return loss, second.value, model[0].weight.value, old, gradients

        run = tg.compile(step) if compiled else step
        for _ in range(3):
            found = tg.tree.flatten(run(X, Y))[0]
        results.append(
            [*(getattr(v, "value", v) for v in found), *(p.value for p in model.parameters())]
        )
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=3e-6, atol=1e-7)


def test_gradients_that_stay_are_those_before_the_update() -> None:
    results = []
    for compiled in (False, True):
        model, rule, _ = training("Adam")

        def step(x, y, model=model, rule=rule):
            nn.cross_entropy(model(x), y).backward()
            rule.step()

        run = tg.compile(step) if compiled else step
        run(X, Y)
        results.append(
            [*(p.grad for p in model.parameters()), *(p.value for p in model.parameters())]
        )
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=3e-6, atol=1e-7)


def test_a_chain_that_is_not_worth_it_stays_calls(seen: Any) -> None:
    g = tg.compile(lambda x: np.sum(np.tanh(np.exp(x) * 2 - x)))
    g(X)
    program, steps = seen.pop()
    assert not any(isinstance(step, Group) for step in steps)
    groups = [s for s in ordered(program, 1) if isinstance(s, Group)]
    assert [len(group.calls) for group in groups] == [4]
    assert groups[0].operands[0].shape == X.shape
    assert {v.shape for v in groups[0].kept} == {X.shape}
    assert not any(isinstance(s, Group) for s in ordered(program, inf))


def test_the_value_of_a_loss_does_not_part_forward_from_backward(seen: Any) -> None:
    g = tg.compile(tg.value_and_grad(lambda x: np.sum(np.sin(np.sin(x) * x))))
    g(X)
    program, _ = seen.pop()
    groups = [s for s in ordered(program, 1) if isinstance(s, Group)]
    assert len(groups) == 1
    assert len(groups[0].kept) == 2  # the gradient, and what is summed


def test_a_chain_does_not_wait_for_what_it_needs(seen: Any) -> None:
    """Softmax: the largest of each row, and their sum, part the calls into three."""

    def softmax(x):
        e = np.exp(x * 2.0 - np.max(x * 2.0, axis=0))
        return np.sin(e / np.sum(e, axis=0))

    g = tg.compile(softmax)
    g(np.ones((40, 2)))
    program, _ = seen.pop()
    kinds = [len(calls_of(s)) for s in ordered(program, 1)]
    assert sum(kinds) == len(program.calls)
    groups = [s for s in ordered(program, 1) if isinstance(s, Group)]
    assert [len(group.calls) for group in groups] == [2, 2]
