"""Models, losses and optimisers drawn at random, and one training step of them, plain or by a schedule.

For tests of exactness, and for `benchmarks/memory.py`: the same models are measured there in full number.
"""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import thriftgrad as tg
from thriftgrad.memory.chain import measure
from thriftgrad.memory.execute import executor
from thriftgrad.memory.schedule import Schedule
from thriftgrad.memory.simulate import simulate
from thriftgrad.memory.stages import Chain, Update
from thriftgrad.nn import Dropout, Linear, Sequential

SMALLEST = 65_536  # bytes: no activation is smaller


def gated(x: Any) -> Any:
    return x * tg.nn.sigmoid(x)


def waves(x: Any) -> Any:
    return np.sin(x) * 0.5 + x * x * 0.01


def twice(x: Any) -> Any:
    return np.tanh(np.reshape(x, (-1, 2, x.shape[1] // 2))).reshape(x.shape)


ACTIVATIONS = (
    np.tanh,
    np.sin,
    tg.nn.relu,
    tg.nn.sigmoid,
    tg.nn.softmax,
    tg.nn.log_softmax,
    gated,
    waves,
    twice,
    lambda x: x * x,
    lambda x: x + 0.1,
    lambda x: np.reshape(x, x.shape),
)


class Residual(tg.nn.Module):
    """x + tanh(x·W + b)."""

    def __init__(self, width: int, rng: np.random.Generator, dtype: Any) -> None:
        self.linear = Linear(width, width, rng=rng, dtype=dtype)

    def __call__(self, x: Any) -> Any:
        return x + np.tanh(self.linear(x))


@dataclass
class Case:
    """A model, a batch, and how it is trained."""

    model: Sequential
    x: np.ndarray
    y: np.ndarray
    loss: Callable[[Any, Any], Any]
    optimizer: Any
    update: Update

    def objective(self) -> Callable[[Any], Any]:
        return lambda outputs: self.loss(outputs, self.y)

    def plain_step(self) -> float:
        objective = self.loss(self.model(self.x), self.y)
        objective.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return float(objective.value)

    def stepper(self, schedule: Schedule) -> Callable[[], float]:
        """Return the step that carries out a schedule and then updates."""
        if self.update == "after backward":
            step = executor(schedule, self.model.stages())

            def whole() -> float:
                value = step(self.x, self.objective())
                self.optimizer.step()
                self.optimizer.zero_grad()
                return float(value)
        else:
            step = executor(schedule, self.model.stages(), apply=self.optimizer.apply)

            def whole() -> float:
                value = step(self.x, self.objective())
                self.optimizer.end_step()
                return float(value)

        return whole

    def measure(self) -> Chain:
        return measure(
            self.model,
            self.x,
            loss=self.loss,
            y=self.y,
            optimizer=self.optimizer,
            update=self.update,
        )


def draw(
    seed: int, depth: tuple[int, int] = (3, 60), *, dtype: Any = None, least: int = SMALLEST
) -> Case:
    """Return a case that depends on nothing but its arguments."""
    rng = np.random.default_rng([seed, 20])
    dtype = np.dtype(dtype if dtype is not None else rng.choice([np.float32, np.float64]))
    length = int(rng.integers(depth[0], depth[1] + 1))
    batch = int(rng.choice([128, 256, 512, 1024]))
    narrowest = -(-least // (batch * dtype.itemsize))
    widths = [2 * round(narrowest / 2 * 2**octaves + 0.5) for octaves in rng.uniform(0, 2.5, 4)]
    layers: list[Any] = []
    width = first = int(rng.choice(widths))
    shared = None
    while len(layers) < length:
        kind = rng.random()
        if kind < 0.4:
            new = int(rng.choice(widths))
            layers.append(Linear(width, new, rng=rng, dtype=dtype, bias=bool(rng.random() < 0.8)))
            width = new
        elif kind < 0.5:
            layers.append(Residual(width, rng, dtype))
        elif kind < 0.58:
            layers.append(Dropout(0.2, rng=int(rng.integers(1000))))
        elif kind < 0.62 and shared is not None and shared.weight.shape == (width, width):
            layers.append(shared)
        elif kind < 0.62:
            shared = Linear(width, width, rng=rng, dtype=dtype)
            layers.append(shared)
        else:
            layers.append(ACTIVATIONS[int(rng.integers(len(ACTIVATIONS)))])
    if not any(isinstance(layer, Linear) for layer in layers):
        layers[0] = Linear(width, width, rng=rng, dtype=dtype)
    model = Sequential(*layers)
    x = (rng.standard_normal((batch, first)) * 0.5).astype(dtype)
    which = int(rng.integers(3))
    if which == 0:
        loss, y = tg.nn.cross_entropy, rng.integers(0, width, batch)
    else:
        loss = (tg.nn.mse, tg.nn.squared_error)[which - 1]
        y = rng.standard_normal((batch, width)).astype(dtype)
    parameters = model.parameters()
    optimizer: Any = (
        lambda: tg.optim.SGD(parameters, lr=1e-3),
        lambda: tg.optim.SGD(parameters, lr=1e-3, momentum=0.9),
        lambda: tg.optim.Adam(parameters, lr=1e-3),
        lambda: tg.optim.SGD(parameters, lr=1e-3, clip_norm=1.0),
    )[int(rng.integers(4))]()
    during = bool(rng.integers(2)) and optimizer.clip_norm is None
    return Case(model, x, y, loss, optimizer, "during backward" if during else "after backward")


def peaks(case: Case, chain: Chain, schedule: Schedule) -> tuple[int, int]:
    """Return the predicted and the measured peak of one step, in bytes."""
    predicted = simulate(schedule, chain).peak
    step = case.stepper(schedule)
    held = sum(size for kind, size in chain.fixed.items() if kind != "bookkeeping")

    gc.collect()
    tracemalloc.start()
    try:
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        with np.errstate(all="ignore"):
            step()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    return predicted, peak - before + held
