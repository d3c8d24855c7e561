"""A compiled training step against the same step in eager mode: losses, parameters and all state."""

from __future__ import annotations

import unittest.mock
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from support import step_of

import thriftgrad as tg
import thriftgrad.errors
from thriftgrad import nn, optim
from thriftgrad.optim import schedules

CLASSES, INPUTS, BATCH = 4, 6, 5


def trained(
    build: Callable[[], tuple[nn.Module, optim.Optimizer]],
    loss: Callable[[Any, Any], Any],
    batches: list[tuple[Any, Any]],
    compiled: bool,
) -> tuple[list[Any], dict[str, Any], dict[str, Any]]:
    model, optimizer = build()
    step = step_of(model, optimizer, loss)
    run = tg.compile(step) if compiled else step
    losses = [run(x, y).item() for x, y in batches]
    assert all(p.grad is None for p in model.parameters())
    return losses, model.state_dict(), optimizer.state_dict()


def assert_same(build: Any, loss: Any, batches: Any) -> None:
    """Compare up to rounding: the compiled step sums in another order, and scales earlier."""
    eager = trained(build, loss, batches, compiled=False)
    compiled = trained(build, loss, batches, compiled=True)
    assert_close(
        np.array(compiled[0], batches[0][0].dtype), np.array(eager[0], batches[0][0].dtype)
    )
    for name, array in eager[1].items():
        assert_close(compiled[1][name], array, name)
    arrays = eager[2].pop("arrays")
    for name, array in compiled[2].pop("arrays").items():
        assert_close(array, arrays[name], name)
    assert compiled[2] == eager[2]


def assert_close(ours: Any, theirs: Any, name: str = "") -> None:
    """Compare with the norm of the whole array, as rounding errors are."""
    assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype), name
    tolerance = {"float32": 1e-6, "float64": 1e-12}.get(ours.dtype.name, 0)
    assert np.linalg.norm(ours - theirs) <= tolerance * np.linalg.norm(theirs), name


def batches(labels: str, count: int = 4, dtype: Any = np.float32) -> list[tuple[Any, Any]]:
    rng = np.random.default_rng(3)
    made = []
    for _ in range(count):
        x = rng.normal(size=(BATCH, INPUTS)).astype(dtype)
        whole = rng.integers(0, CLASSES, BATCH)
        rows = rng.dirichlet(np.ones(CLASSES), BATCH).astype(dtype)
        made.append((x, {"whole": whole, "rows": rows, "hot": np.eye(CLASSES)[whole]}[labels]))
    return made


def mlp(activation: Any = np.tanh, dtype: Any = np.float32) -> nn.Module:
    return nn.Sequential(
        nn.Linear(INPUTS, 7, rng=0, dtype=dtype),
        activation,
        nn.Linear(7, CLASSES, rng=1, dtype=dtype),
    )


def building(
    model: Callable[[], nn.Module] = mlp, optimizer: Any = None
) -> Callable[[], tuple[nn.Module, optim.Optimizer]]:
    def build():
        made = model()
        return made, (optimizer or (lambda p: optim.SGD(p, lr=0.1)))(made.parameters())

    return build


LOSSES = {
    "mse": (nn.mse, "rows"),
    "squared error": (nn.squared_error, "rows"),
    "cross-entropy": (nn.cross_entropy, "whole"),
    "cross-entropy of rows": (nn.cross_entropy, "rows"),
    "cross-entropy of one-hot rows": (nn.cross_entropy, "hot"),
    "sum of nll": (lambda z, y: np.sum(nn.nll(z, y)), "whole"),
    "sum of nll of rows": (lambda z, y: np.sum(nn.nll(z, y)), "rows"),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", LOSSES)
def test_losses(name: str, dtype: Any) -> None:
    loss, labels = LOSSES[name]
    assert_same(building(lambda: mlp(dtype=dtype)), loss, batches(labels, dtype=dtype))


ACTIVATIONS = {
    "relu": nn.relu,
    "sigmoid": nn.sigmoid,
    "tanh": np.tanh,
    "softmax": nn.softmax,
    "log_softmax": nn.log_softmax,
    "np.maximum": lambda x: np.maximum(x, 0.1 * x),
    "np.where": lambda x: np.where(x > 0, x, np.exp(x) - 1),
    "own": lambda x: x / (1 + np.abs(x)),
    "arctan": np.arctan,
    "power": lambda x: x**3 - x**2 + (x * x + 1) ** 0.5,
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name: str) -> None:
    assert_same(building(lambda: mlp(ACTIVATIONS[name])), nn.cross_entropy, batches("whole"))


OPTIMIZERS: dict[str, Callable[[Any], optim.Optimizer]] = {
    "SGD": lambda p: optim.SGD(p, lr=0.1),
    "momentum": lambda p: optim.SGD(p, lr=0.1, momentum=0.9),
    "Nesterov": lambda p: optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "weight decay": lambda p: optim.SGD(p, lr=0.1, weight_decay=0.01),
    "clipped": lambda p: optim.SGD(p, lr=0.1, clip_norm=0.05),
    "loosely clipped": lambda p: optim.SGD(p, lr=0.1, clip_norm=100.0),
    "Adam": lambda p: optim.Adam(p, lr=0.1),
    "Adam with decay, clipped": lambda p: optim.Adam(p, lr=0.1, weight_decay=0.1, clip_norm=0.1),
    "AdamW": lambda p: optim.AdamW(p, lr=0.1),
    "cosine": lambda p: optim.Adam(p, lr=schedules.cosine(0.1, steps=4)),
    "decay": lambda p: optim.SGD(p, lr=schedules.exponential_decay(0.1, 0.5)),
    "own schedule": lambda p: optim.SGD(p, lr=lambda n: 1.0 / (n + 1)),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers(name: str) -> None:
    assert_same(building(optimizer=OPTIMIZERS[name]), nn.cross_entropy, batches("whole"))


@pytest.mark.parametrize("name", ["momentum", "Adam", "AdamW"])
def test_updates_in_pieces(name: str) -> None:
    """A parameter with more entries than a piece, and not a multiple of one."""

    def model():
        return nn.Sequential(
            nn.Linear(INPUTS, 6001, rng=0), nn.relu, nn.Linear(6001, CLASSES, rng=1)
        )

    assert_same(building(model, OPTIMIZERS[name]), nn.cross_entropy, batches("whole", count=2))


def test_one_weight_in_two_layers() -> None:
    class Tied(nn.Module):
        def __init__(self):
            self.weight = tg.Parameter(np.random.default_rng(0).normal(size=(INPUTS, INPUTS)))
            self.last = nn.Linear(INPUTS, CLASSES, rng=1, dtype=np.float64)

        def __call__(self, x):
            return self.last(np.tanh(np.tanh(x @ self.weight) @ self.weight.T) + x)

    assert_same(building(Tied), nn.cross_entropy, batches("whole", dtype=np.float64))


def test_a_frozen_layer_and_mixed_dtypes() -> None:
    def build():
        model = nn.Sequential(
            nn.Linear(INPUTS, 7, rng=0, dtype=np.float64), np.tanh, nn.Linear(7, CLASSES, rng=1)
        )
        return model, optim.Adam(model[2].parameters(), lr=0.1)

    def loss(z, y):
        return nn.cross_entropy(z, y)

    results = []
    for compiled in (False, True):
        model, optimizer = build()

        def step(x, y, model=model, optimizer=optimizer):
            value = loss(model(x), y)
            value.backward()
            optimizer.step()
            for p in model.parameters():
                p.grad = None
            return value

        run = tg.compile(step) if compiled else step
        results.append(([run(x, y).item() for x, y in batches("whole")], model.state_dict()))
    np.testing.assert_allclose(results[1][0], results[0][0], rtol=1e-6)
    for name, array in results[0][1].items():
        assert_close(results[1][1][name], array, name)


def test_dropout_draws_as_eager_does() -> None:
    def model():
        return nn.Sequential(
            nn.Linear(INPUTS, 7, rng=0), nn.Dropout(0.4, rng=5), nn.Linear(7, CLASSES, rng=1)
        )

    assert_same(building(model), nn.cross_entropy, batches("whole"))


def test_gradients_that_accumulate() -> None:
    results = []
    for compiled in (False, True):
        model, optimizer = building()()

        def accumulate(x, y, model=model):
            loss = nn.cross_entropy(model(x), y) * 0.5
            loss.backward()
            return loss

        def step(x, y, optimizer=optimizer, accumulate=accumulate):
            loss = accumulate(x, y)
            optimizer.step()
            optimizer.zero_grad()
            return loss

        if compiled:
            accumulate, step = tg.compile(accumulate), tg.compile(step)
        made = batches("whole")
        for first, second in [(0, 1), (2, 3)]:
            accumulate(*made[first])
            gradients = [p.grad.copy() for p in model.parameters()]
            step(*made[second])
        results.append((gradients, [p.value for p in model.parameters()]))
        assert all(p.grad is None for p in model.parameters())
    for ours, theirs in zip(*results, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            assert_close(a, b)


def test_an_update_by_hand() -> None:
    w = tg.Parameter(np.array([1.0, 2.0, 3.0]), name="w")

    @tg.compile
    def step(x):
        loss = np.sum((w * x - 1.0) ** 2)
        loss.backward()
        w.value -= 0.1 * w.grad
        w.grad = None
        return loss

    v = np.array([1.0, 2.0, 3.0])
    x = np.array([0.5, -1.0, 2.0])
    for _ in range(3):
        step(x)
        v = v - 0.1 * ((v * x - 1.0) * 2 * x)
        np.testing.assert_allclose(w.value, v, rtol=1e-12)


def test_the_learning_rate_may_be_set_between_steps() -> None:
    model, optimizer = building()()
    (x, y), *_ = batches("whole")
    step = tg.compile(step_of(model, optimizer, nn.cross_entropy))
    step(x, y)
    source = step.source
    before = model.state_dict()
    optimizer.lr = 0.0
    step(x, y)
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, before[name])
    assert step.source is source


def test_bad_labels_are_refused_at_every_run() -> None:
    model, optimizer = building()()
    (x, y), *_ = batches("whole")
    step = tg.compile(step_of(model, optimizer, nn.cross_entropy))
    step(x, y)
    before = model.state_dict()
    with pytest.raises(tg.errors.DataError, match=r"1 of 5 labels lie outside .* first is 9"):
        step(x, np.array([0, 1, 9, 2, 3]))
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, before[name])
    assert optimizer.steps == 1


def test_floating_point_errors_leave_nothing_half_done() -> None:
    model, optimizer = building(optimizer=lambda p: optim.SGD(p, lr=1e38))()
    (x, y), *_ = batches("whole")
    x = x * np.float32(1e10)

    @tg.compile
    def step(x, y):
        loss = np.sum(model[0](x))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss

    model[2].weight.grad = np.zeros_like(model[2].weight.value)
    before = {k: v.copy() for k, v in model.state_dict().items()}
    with np.errstate(all="raise"), pytest.raises(FloatingPointError, match="overflow"):
        step(x, y)
    changed = [
        not np.array_equal(model.state_dict()[name], before[name])
        for name in ("0.weight", "0.bias")
    ]
    assert changed == [True, True]
    assert (optimizer.steps, optimizer.updates) == (1, [1, 1, 1, 0])
    assert all(p.grad is None for p in model.parameters())
    with pytest.warns(RuntimeWarning, match=r"overflow|invalid"):
        step(x, y)


def checkpointed(depth: int, keep: float | None = None) -> tuple[Any, Any]:
    """Return a step over a network with its layers under checkpoint in threes, and its model."""
    rng = np.random.default_rng(1)
    blocks = []
    for i in range(depth // 3):
        layers: list[Any] = []
        for _ in range(3):
            layers += [tg.nn.Linear(16, 16, rng=rng), np.tanh]
        if keep is not None:
            layers.insert(2, tg.nn.Dropout(keep, rng=np.random.default_rng(i)))
        blocks.append(tg.nn.Sequential(*layers))
    model = tg.nn.Sequential(*blocks)
    optimizer = tg.optim.SGD(model.parameters(), lr=0.1)

    def step(x: Any, y: Any) -> Any:
        for block in blocks:
            x = tg.checkpoint(block)(x)
        loss = tg.nn.mse(x, y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss

    return step, model


def test_a_checkpoint_recomputes_in_a_program_too() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.random((512, 16)), rng.random((512, 16))
    blocks = {}
    for kind in ("plain", "checkpointed"):
        step, model = checkpointed(18)
        plain, other = checkpointed(18)
        compiled = tg.compile(step)
        if kind == "plain":
            with unittest.mock.patch.object(tg, "checkpoint", lambda function: function):
                found, expected = compiled(x, y), plain(x, y)
        else:
            found, expected = compiled(x, y), plain(x, y)
        assert_close(found.value, expected.value)
        for p, q in zip(model.parameters(), other.parameters(), strict=True):
            assert_close(p.value, q.value)
        blocks[kind] = compiled.memory.block
        assert ("# recomputed" in compiled.source) is (kind == "checkpointed")
    assert blocks["checkpointed"] < 0.55 * blocks["plain"]


def test_what_is_recomputed_draws_the_same_again() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.random((8, 16)), rng.random((8, 16))
    step, model = checkpointed(6, keep=0.5)
    plain, other = checkpointed(6, keep=0.5)
    compiled = tg.compile(step)
    for _ in range(3):
        assert_close(compiled(x, y).value, plain(x, y).value)
        for p, q in zip(model.parameters(), other.parameters(), strict=True):
            assert_close(p.value, q.value)
