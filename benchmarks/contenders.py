"""Who takes part in `training.py`: networks to train, and the ways in which each library makes a step.

A contender is a function from a workload to a `Contender`. It gets the same parameters and batches as all
others, and it leaves the gradients of its own code for comparison.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib.util import find_spec
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

Arrays = list[np.ndarray]
MOMENTUM, BETAS, EPS = 0.9, (0.9, 0.999), 1e-8
TRIALS = 3  # of a line search, in each of so many steps:
SEARCHES = 4
EPOCHS = 3  # in a call of `fit`


# What there is to do


@dataclass(frozen=True)
class Workload:
    """A network, its loss and its optimiser, and the batches to train it on."""

    name: str
    sizes: tuple[int, ...]
    activation: str
    loss: str
    batch: int
    optimizer: str
    lr: float
    batches: int
    unit: str = "ms"

    @property
    def activates_last(self) -> bool:
        """Whether the last layer is followed by an activation too."""
        return self.loss == "mse"

    def parameters(self, dtype: Any = np.float32) -> Arrays:
        """Return weights (inputs, outputs) and biases in turn, always the same."""
        return [p.astype(dtype) for p in drawn_parameters(self.sizes, self.activation)]

    def data(self) -> tuple[np.ndarray, np.ndarray]:
        """Return x (batches, batch, inputs) and y, always the same; nobody writes into them."""
        x, labels = drawn_data(self.batches, self.batch, self.sizes[0], self.sizes[-1])
        if self.loss == "mse":
            return x, np.eye(self.sizes[-1], dtype=np.float32)[labels]
        return x, labels


@cache
def drawn_parameters(sizes: tuple[int, ...], activation: str) -> Arrays:
    rng = np.random.default_rng(0)
    gain = {"tanh": 1.0, "relu": 2.0, "sigmoid": 2.25}[activation]
    found: Arrays = []
    for inputs, outputs in pairwise(sizes):
        weight = math.sqrt(gain / inputs) * rng.standard_normal((inputs, outputs))
        bias = 0.05 * rng.standard_normal(outputs)
        found += [weight.astype(np.float32), bias.astype(np.float32)]
    return found


@cache
def drawn_data(batches: int, batch: int, inputs: int, classes: int) -> tuple[Any, Any]:
    """Return x, of classes that can be told apart, and labels; fewer batches are the first of more."""
    seen = np.random.default_rng(1).random((classes, inputs), np.float32)
    x = np.empty((batches, batch, inputs), np.float32)
    labels = np.empty((batches, batch), np.int64)
    for k in range(batches):
        rng = np.random.default_rng((2, k))
        labels[k] = rng.integers(0, classes, batch)
        x[k] = rng.random((batch, inputs), np.float32) * seen[labels[k]]
    return x, labels


DEEP = (784, *[256] * 50, 10)
WORKLOADS = {
    each.name: each
    for each in (
        Workload("W1", (784, 30, 10), "sigmoid", "mse", 100, "sgd", 0.5, 100, "µs"),
        Workload("W2", (784, 100, 30, 10), "sigmoid", "mse", 100, "sgd", 0.5, 100, "µs"),
        Workload("W3", (784, 512, 512, 10), "relu", "xent", 128, "adam", 1e-3, 16),
        Workload("W4", DEEP, "tanh", "xent", 128, "momentum", 0.01, 16),
        Workload("W5", (784, 6, 10), "sigmoid", "xent", 20_000, "search", 3.0, 1),
        Workload("W6", (784, 2048, 2048, 2048, 10), "relu", "xent", 256, "sgd", 0.01, 4),
        Workload("epoch", (784, 30, 10), "sigmoid", "mse", 100, "epoch", 0.5, 600),
    )
}
TINY = Workload("tiny", (784, 16, 16, 10), "tanh", "xent", 16, "momentum", 0.01, 2)


class Contender(NamedTuple):
    """One way to train one network.

    Attributes:
        step: makes a step on the k-th batch.
        gradients: of the first batch, at the parameters as they are; for each parameter one.
        parameters: as they are.
        finish: waits for what `step` has begun.
        steps: that a call of `step` makes.
    """

    step: Callable[[int], Any]
    gradients: Callable[[], Arrays]
    parameters: Callable[[], Arrays]
    finish: Callable[[], Any] = lambda: None
    steps: int = 1


class NotHereError(Exception):
    """A contender has no part in a workload."""


# thriftgrad


def thriftgrad(w: Workload, how: str = "numpy") -> Contender:
    """Return the ordinary code of a step, compiled by kernels of a kind, or "eager"."""
    import thriftgrad as tg

    if how == "numba" and not find_spec("numba"):
        raise NotHereError("Numba is not installed")
    model, loss = thriftgrad_model(w), thriftgrad_loss(w)
    compiled = (lambda f: f) if how == "eager" else tg.compile(kernels=how)

    def gradients_of(x: Any, y: Any) -> Any:
        value = loss(model(x), y)
        value.backward()
        return value

    x, y = w.data()

    def gradients() -> Arrays:
        compiled(gradients_of)(x[0], y[0])
        found = [p.grad.copy() for p in model.parameters()]
        for p in model.parameters():
            p.grad = None
        return found

    def parameters() -> Arrays:
        return [p.value for p in model.parameters()]

    if w.optimizer == "search":
        return searching_thriftgrad(w, model, loss, how, gradients)
    if w.optimizer == "epoch":
        return fitting_thriftgrad(w, model, loss, gradients)
    optimizer = {
        "sgd": partial(tg.optim.SGD, lr=w.lr),
        "momentum": partial(tg.optim.SGD, lr=w.lr, momentum=MOMENTUM),
        "adam": partial(tg.optim.Adam, lr=w.lr),
    }[w.optimizer](model.parameters())

    step = compiled(thriftgrad_step(model, loss, optimizer))
    return Contender(lambda k: step(x[k], y[k]), gradients, parameters)


def thriftgrad_step(model: Any, loss: Any, optimizer: Any) -> Callable[[Any, Any], Any]:
    """Return a step as a person writes it."""

    def step(x: Any, y: Any) -> Any:
        value = loss(model(x), y)
        value.backward()
        optimizer.step()
        optimizer.zero_grad()
        return value

    return step


def thriftgrad_model(w: Workload, segments: int | None = None) -> Any:
    """Return the network; in segments, each of which is a checkpoint."""
    import thriftgrad as tg

    activation = {"sigmoid": tg.nn.sigmoid, "relu": tg.nn.relu, "tanh": np.tanh}[w.activation]
    layers: list[Any] = []
    for inputs, outputs in pairwise(w.sizes):
        layers += [tg.nn.Linear(inputs, outputs, rng=0), activation]
    if not w.activates_last:
        layers.pop()
    for p, value in zip(tg.nn.Sequential(*layers).parameters(), w.parameters(), strict=True):
        p.value[...] = value
    if segments is None:
        return tg.nn.Sequential(*layers)
    size = 2 * math.ceil(len(layers) / 2 / segments)
    parts = [layers[i : i + size] for i in range(0, len(layers), size)]
    runs = [tg.checkpoint(tg.nn.Sequential(*part)) for part in parts[:-1]]

    def model(x: Any) -> Any:
        for run in runs:
            x = run(x)
        return last(x)

    last = tg.nn.Sequential(*parts[-1])
    model.parameters = tg.nn.Sequential(*layers).parameters
    return model


def thriftgrad_loss(w: Workload) -> Any:
    import thriftgrad as tg

    return tg.nn.mse if w.loss == "mse" else tg.nn.cross_entropy


def searching_thriftgrad(w: Workload, model: Any, loss: Any, how: str, gradients: Any) -> Any:
    """Return a few steps of a line search from the starting point, over the full batch."""
    import thriftgrad as tg

    (x,), (y,) = w.data()
    parameters, start = list(model.parameters()), w.parameters()

    def with_gradients() -> Any:
        value = loss(model(x), y)
        value.backward()
        return value, None

    objective: Any = with_gradients, lambda: loss(model(x), y)
    if how != "eager":
        objective = (tg.optim.FullBatch(model, loss, x, y),)

    def step(k: int) -> None:
        for p, value in zip(parameters, start, strict=True):
            p.value[...] = value
            p.touch()
        search = tg.optim.LineSearch(parameters, start=w.lr)
        for _ in range(SEARCHES):
            found = search.step(*objective)
            if found.trials != TRIALS:
                raise SystemExit(
                    f"W5: {found.trials} trials, expected {TRIALS}: choose another start"
                )

    return Contender(step, gradients, lambda: [p.value for p in parameters], steps=SEARCHES)


def fitting_thriftgrad(w: Workload, model: Any, loss: Any, gradients: Any) -> Contender:
    """Return epochs of `fit`, with shuffling, history and progress bar."""
    import thriftgrad as tg

    x, y = (each.reshape(-1, each.shape[-1]) for each in w.data())

    def step(k: int) -> None:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
            tg.train.fit(
                model,
                (x, y),
                loss=loss,
                optimizer=tg.optim.SGD(model.parameters(), lr=w.lr),
                epochs=EPOCHS,
                batch_size=w.batch,
                progress=True,
                compile=True,
            )

    return Contender(step, gradients, lambda: [], steps=EPOCHS)


# PyTorch


def torch_eager(w: Workload, *, compiled: bool = False) -> Contender:
    import torch
    from torch.nn import functional

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    model = torch_model(w)
    targets = (lambda y: y) if w.loss == "mse" else (lambda y: y.long())
    function = functional.mse_loss if w.loss == "mse" else functional.cross_entropy
    x, y = map(torch.from_numpy, w.data())
    y = targets(y)

    def loss(x: Any, y: Any) -> Any:
        return function(model(x), y)

    if compiled:
        loss = torch.compile(loss)

    def read(what: str) -> Arrays:
        values = [(p.grad if what == "grad" else p).detach().numpy() for p in model.parameters()]
        return [v.T.copy() if v.ndim == 2 else v.copy() for v in values]

    def gradients() -> Arrays:
        model.zero_grad()
        loss(x[0], y[0]).backward()
        found = read("grad")
        model.zero_grad()
        return found

    parameters = partial(read, "value")
    if w.optimizer == "search":
        return searching_torch(w, model, loss, x[0], y[0], gradients, parameters)
    if w.optimizer == "epoch":
        return looping_torch(w, model, loss, x, y, gradients)
    optimizer = {
        "sgd": partial(torch.optim.SGD, lr=w.lr),
        "momentum": partial(torch.optim.SGD, lr=w.lr, momentum=MOMENTUM),
        "adam": partial(torch.optim.Adam, lr=w.lr),
    }[w.optimizer](model.parameters())
    xs, ys = list(x), list(y)

    def step(k: int) -> Any:
        value = loss(xs[k], ys[k])
        value.backward()
        optimizer.step()
        optimizer.zero_grad()
        return value

    return Contender(step, gradients, parameters)


def torch_model(w: Workload) -> Any:
    import torch

    activation = {"sigmoid": torch.nn.Sigmoid, "relu": torch.nn.ReLU, "tanh": torch.nn.Tanh}
    layers: list[Any] = []
    for inputs, outputs in pairwise(w.sizes):
        layers += [torch.nn.Linear(inputs, outputs), activation[w.activation]()]
    if not w.activates_last:
        layers.pop()
    model = torch.nn.Sequential(*layers)
    with torch.no_grad():
        for p, value in zip(model.parameters(), w.parameters(), strict=True):
            p.copy_(torch.from_numpy(value.T if value.ndim == 2 else value))
    return model


def searching_torch(
    w: Workload, model: Any, loss: Any, x: Any, y: Any, gradients: Any, parameters: Any
) -> Contender:
    import torch

    values = list(model.parameters())
    start = [p.detach().clone() for p in values]

    def step(k: int) -> None:
        with torch.no_grad():
            torch._foreach_copy_(values, start)
        for _ in range(SEARCHES):
            value = loss(x, y)
            value.backward()
            before = value.item()
            with torch.no_grad():
                origin = [p.clone() for p in values]
                slope = sum(float(torch.sum(p.grad * p.grad)) for p in values)

                def at(t: float, origin: Any = origin) -> float:
                    for p, o in zip(values, origin, strict=True):
                        torch.add(o, p.grad, alpha=-t, out=p.data)
                    return loss(x, y).item()

                backtrack(w.lr, before, slope, at)
            model.zero_grad()

    return Contender(step, gradients, parameters, steps=SEARCHES)


def looping_torch(w: Workload, model: Any, loss: Any, x: Any, y: Any, gradients: Any) -> Contender:
    """Return epochs of the usual loop: shuffled, with the sum of the losses, without a bar."""
    import torch

    optimizer = torch.optim.SGD(model.parameters(), lr=w.lr)
    x, y = x.flatten(0, 1), y.flatten(0, 1)

    def step(k: int) -> None:
        for _ in range(EPOCHS):
            total = 0.0
            for rows in torch.randperm(len(x)).split(w.batch):
                value = loss(x[rows], y[rows])
                optimizer.zero_grad()
                value.backward()
                optimizer.step()
                total += value.item()

    return Contender(step, gradients, lambda: [], steps=EPOCHS)


# JAX


def jax_step(w: Workload, *, scan: bool = False) -> Contender:
    import jax
    from jax import numpy as jnp

    x, y = map(jnp.asarray, w.data())

    def loss(p: Any, x: Any, y: Any) -> Any:
        for weight, bias in zip(p[:-2:2], p[1:-2:2], strict=True):
            x = activate(x @ weight + bias)
        x = x @ p[-2] + p[-1]
        if w.loss == "mse":
            return jnp.mean((activate(x) - y) ** 2)
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(x), y[:, None], axis=1))

    activate = {"sigmoid": jax.nn.sigmoid, "relu": jax.nn.relu, "tanh": jnp.tanh}[w.activation]
    with_gradient = jax.value_and_grad(loss)

    def update(state: Any, x: Any, y: Any) -> Any:
        p, moments, t = state
        value, g = with_gradient(p, x, y)
        if w.optimizer == "momentum":
            moments = [MOMENTUM * v + gi for v, gi in zip(moments, g, strict=True)]
            p = [pi - w.lr * v for pi, v in zip(p, moments, strict=True)]
        elif w.optimizer == "adam":
            t = t + 1
            b1, b2 = BETAS
            means = [b1 * m + (1 - b1) * gi for m, gi in zip(moments[0], g, strict=True)]
            squares = [b2 * v + (1 - b2) * gi * gi for v, gi in zip(moments[1], g, strict=True)]
            rate, root = w.lr / (1 - b1**t), jnp.sqrt(1 - b2**t)
            p = [
                pi - rate * m / (jnp.sqrt(v) / root + EPS)
                for pi, m, v in zip(p, means, squares, strict=True)
            ]
            moments = means, squares
        else:
            p = [pi - w.lr * gi for pi, gi in zip(p, g, strict=True)]
        return (p, moments, t), value

    p = list(map(jnp.asarray, w.parameters()))
    zeros = [jnp.zeros_like(each) for each in p]
    moments = {"momentum": zeros, "adam": (zeros, zeros)}.get(w.optimizer, ())
    now = [(p, moments, jnp.float32(0))]

    def gradients() -> Arrays:
        return list(map(np.asarray, jax.jit(with_gradient)(p, x[0], y[0])[1]))

    def parameters() -> Arrays:
        return list(map(np.asarray, now[0][0]))

    def finish() -> None:
        jax.block_until_ready(now[0])

    # The old parameters are given up, as they are where steps write in place.
    if w.optimizer == "search":
        return searching_jax(w, loss, with_gradient, p, x[0], y[0], gradients)
    if w.optimizer == "epoch":
        rows, targets = x.reshape(-1, x.shape[-1]), y.reshape(-1, y.shape[-1])

        @partial(jax.jit, donate_argnums=0)
        def epoch(state: Any, order: Any, x: Any, y: Any) -> Any:
            choices = order.reshape(-1, w.batch)
            return jax.lax.scan(lambda s, i: update(s, x[i], y[i]), state, choices)

        rng = np.random.default_rng(0)

        def train(k: int) -> None:
            for _ in range(EPOCHS):
                now[0], losses = epoch(now[0], rng.permutation(len(rows)), rows, targets)
                float(losses.mean())

        now[0] = jax.tree.map(jnp.copy, now[0])
        return Contender(train, gradients, lambda: [], finish, steps=EPOCHS)
    now[0] = jax.tree.map(jnp.copy, now[0])
    if scan:
        over = jax.jit(
            lambda state, x, y: jax.lax.scan(lambda s, xy: update(s, *xy), state, (x, y)),
            donate_argnums=0,
        )

        def all_of_them(k: int) -> None:
            now[0], _ = over(now[0], x, y)

        return Contender(all_of_them, gradients, parameters, finish, steps=w.batches)
    once = jax.jit(update, donate_argnums=0)
    xs, ys = list(x), list(y)

    def step(k: int) -> None:
        now[0], _ = once(now[0], xs[k], ys[k])

    return Contender(step, gradients, parameters, finish)


def searching_jax(
    w: Workload, loss: Any, with_gradient: Any, start: Any, x: Any, y: Any, gradients: Any
) -> Contender:
    import jax
    from jax import numpy as jnp

    @jax.jit
    def first(p: Any, x: Any, y: Any) -> Any:
        value, g = with_gradient(p, x, y)
        return value, g, sum(jnp.vdot(each, each) for each in g)

    @jax.jit
    def at(t: Any, p: Any, g: Any, x: Any, y: Any) -> Any:
        p = [pi - t * gi for pi, gi in zip(p, g, strict=True)]
        return loss(p, x, y), p

    now = [start]

    def step(k: int) -> None:
        p = start
        for _ in range(SEARCHES):
            value, g, slope = first(p, x, y)
            found: list[Any] = []

            def trial(t: float, p: Any = p, g: Any = g, found: Any = found) -> float:
                found[:] = at(np.float32(t), p, g, x, y)
                return float(found[0])

            backtrack(w.lr, float(value), float(slope), trial)
            p = found[1]
        now[0] = p

    return Contender(step, gradients, lambda: list(map(np.asarray, now[0])), steps=SEARCHES)


def backtrack(t: float, before: float, slope: float, at: Callable[[float], float]) -> float:
    """Halve t until the loss has fallen by enough, as `thriftgrad.optim.LineSearch` does by default."""
    for trial in range(1, 50):
        if at(t) <= before - 1e-4 * t * slope:
            if trial != TRIALS:
                raise SystemExit(f"W5: {trial} trials, expected {TRIALS}: choose another start")
            return t
        t /= 2
    raise SystemExit("W5: no length is short enough")


# NumPy, as a textbook has it


def textbook(w: Workload, dtype: Any = np.float32) -> Contender:
    p = w.parameters(dtype)
    x, y = w.data()
    x = x.astype(dtype, copy=False)
    if w.loss == "mse":
        y = y.astype(dtype, copy=False)
    moments = [np.zeros_like(each) for each in p], [np.zeros_like(each) for each in p]
    count = [0]

    def forward(x: Any) -> Arrays:
        outputs = [x]
        for k in range(0, len(p), 2):
            x = x @ p[k] + p[k + 1]
            if k < len(p) - 2 or w.activates_last:
                x = activate(w.activation, x)
            outputs.append(x)
        return outputs

    def log_softmax(z: Any) -> Any:
        z = z - z.max(axis=1, keepdims=True)
        return z - np.log(np.exp(z).sum(axis=1, keepdims=True))

    def loss(x: Any, y: Any) -> float:
        last = forward(x)[-1]
        if w.loss == "mse":
            return float(np.mean((last - y) ** 2))
        return -float(np.mean(log_softmax(last)[np.arange(len(y)), y]))

    def gradient(x: Any, y: Any) -> Arrays:
        outputs = forward(x)
        last = outputs[-1]
        if w.loss == "mse":
            g = dtype(2 / last.size) * (last - y) * slope_of(w.activation, last)
        else:
            g = np.exp(log_softmax(last))
            g[np.arange(len(y)), y] -= 1
            g /= dtype(len(y))
        found: Arrays = []
        for k in reversed(range(0, len(p), 2)):
            found += [g.sum(axis=0), outputs[k // 2].T @ g]
            if k:
                g = (g @ p[k].T) * slope_of(w.activation, outputs[k // 2])
        return found[::-1]

    def step(k: int) -> None:
        g = gradient(x[k], y[k])
        count[0] += 1
        for each, by, m, v in zip(p, g, *moments, strict=True):
            if w.optimizer == "sgd":
                each -= dtype(w.lr) * by
            elif w.optimizer == "momentum":
                m *= dtype(MOMENTUM)
                m += by
                each -= dtype(w.lr) * m
            else:
                (b1, b2), t = BETAS, count[0]
                m[...] = dtype(b1) * m + dtype(1 - b1) * by
                v[...] = dtype(b2) * v + dtype(1 - b2) * by * by
                root = np.sqrt(v) / dtype(math.sqrt(1 - b2**t)) + dtype(EPS)
                each -= dtype(w.lr / (1 - b1**t)) * m / root

    def search(k: int) -> None:
        for each, value in zip(p, w.parameters(dtype), strict=True):
            each[...] = value
        for _ in range(SEARCHES):
            g = gradient(x[0], y[0])
            before, origin = loss(x[0], y[0]), [each.copy() for each in p]

            def at(t: float, origin: Arrays = origin, g: Arrays = g) -> float:
                for each, o, by in zip(p, origin, g, strict=True):
                    np.subtract(o, dtype(t) * by, out=each)
                return loss(x[0], y[0])

            backtrack(w.lr, before, sum(float(np.vdot(by, by)) for by in g), at)

    gradients = lambda: gradient(x[0], y[0])
    if w.optimizer == "search":
        return Contender(search, gradients, lambda: p, steps=SEARCHES)
    return Contender(step, gradients, lambda: p)


def activate(activation: str, x: Any, np: Any = np) -> Any:
    if activation == "sigmoid":
        return 1 / (1 + np.exp(-x))
    return np.tanh(x) if activation == "tanh" else np.maximum(x, 0)


def slope_of(activation: str, output: Any) -> Any:
    """Return the derivative of an activation, from what it returned."""
    if activation == "sigmoid":
        return output * (1 - output)
    return 1 - output * output if activation == "tanh" else output > 0


def floor(w: Workload) -> Contender:
    """Return the matrix products of a step, each in its quickest form."""
    if w.optimizer == "search":
        raise NotHereError("the floor is of steps")
    x, _ = w.data()
    rng = np.random.default_rng(0)
    outputs = [rng.random((w.batch, n), np.float32) for n in w.sizes]
    slopes = [rng.random((w.batch, n), np.float32) for n in w.sizes]
    weights = w.parameters()[::2]
    runs: list[list[Callable[[], Any]]] = []
    for batch in x:
        products = []
        for k, weight in enumerate(weights):
            given = outputs[k] if k else batch
            products.append((given, weight, outputs[k + 1]))
            products.append((given.T, slopes[k + 1], np.empty_like(weight)))
            if k:
                products.append((slopes[k + 1], weight.T, slopes[k]))
        runs.append([product(*each) for each in products])

    def step(k: int) -> None:
        for run in runs[k]:
            run()

    return Contender(step, lambda: [], lambda: [])


def product(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> Callable[[], Any]:
    """Return what multiplies two matrices, in as many blocks of rows as are quickest."""
    count = quickest(a.shape, b.shape, a.flags.c_contiguous, b.flags.c_contiguous)
    rows, inner = a.shape
    if a.flags.c_contiguous:
        a = a.reshape(count, rows // count, inner)
    else:
        a = a.T.reshape(inner, count, rows // count).transpose(1, 2, 0)
    if count == 1:
        return partial(np.matmul, a[0], b, out)
    return partial(np.matmul, a, b, out.reshape(count, rows // count, -1))


@cache
def quickest(a: tuple[int, int], b: tuple[int, int], a_is_c: bool, b_is_c: bool) -> int:
    """Return in how many blocks of rows a product of these shapes is quickest, by trying."""
    rng = np.random.default_rng(0)
    x = rng.random(a, np.float32) if a_is_c else rng.random(a[::-1], np.float32).T
    y = rng.random(b, np.float32) if b_is_c else rng.random(b[::-1], np.float32).T
    out = np.empty((a[0], b[1]), np.float32)
    counts = [n for n in range(1, 129) if a[0] % n == 0]
    best: dict[int, float] = {}
    for _ in range(7):
        for n in counts:
            rows = a[0] // n
            left = x.reshape(n, rows, -1) if a_is_c else x.T.reshape(-1, n, rows).transpose(1, 2, 0)
            into = out.reshape(n, rows, -1)
            started = time.perf_counter()
            np.matmul(*((x, y, out) if n == 1 else (left, y, into)))
            best[n] = min(time.perf_counter() - started, best.get(n, math.inf))
    return min(counts, key=best.__getitem__)


# Others


def sklearn_step(w: Workload) -> Contender:
    """Return steps of `partial_fit`, of networks that scikit-learn has as well."""
    from sklearn.neural_network import MLPClassifier

    if w.loss == "mse" or w.optimizer == "search":
        raise NotHereError("MLPClassifier has no such loss or search")
    # Its epsilon stands within the correction of the root: so it is ours, at the first step.
    adam = {"solver": "adam", "epsilon": EPS * math.sqrt(1 - BETAS[1])}
    solver = {"adam": adam}.get(
        w.optimizer,
        {
            "solver": "sgd",
            "momentum": MOMENTUM if w.optimizer == "momentum" else 0.0,
            "nesterovs_momentum": False,
        },
    )
    x, y = w.data()
    model = MLPClassifier(
        w.sizes[1:-1],
        activation=w.activation,
        alpha=0.0,
        batch_size=w.batch,
        learning_rate_init=w.lr,
        **solver,
    )
    model.partial_fit(x[0], y[0], classes=np.arange(w.sizes[-1]))

    def set_out() -> None:
        for values, start in ((model.coefs_, 0), (model.intercepts_, 1)):
            for own, value in zip(values, w.parameters()[start::2], strict=True):
                own[...] = value
        del model._optimizer  # which is made anew, with its averages at zero

    def parameters() -> Arrays:
        pairs = zip(model.coefs_, model.intercepts_, strict=True)
        return [each.copy() for pair in pairs for each in pair]

    def step(k: int) -> None:
        model.partial_fit(x[k], y[k])

    def gradients() -> Arrays:
        set_out()
        step(0)
        if w.optimizer == "adam":
            found = [m / (1 - BETAS[0]) for m in model._optimizer.ms]
        else:
            found = [v / -w.lr for v in model._optimizer.velocities]
        set_out()
        pairs = zip(found[: len(found) // 2], found[len(found) // 2 :], strict=True)
        return [each for pair in pairs for each in pair]

    return Contender(step, gradients, parameters)


def numpy_update(w: Workload, p: Arrays) -> Callable[[Sequence[Any]], None]:
    """Return an update of arrays in place, for libraries that bring none."""
    moments = [np.zeros_like(each) for each in p], [np.zeros_like(each) for each in p]
    count = [0]
    lr, mu, b1, b2, eps = map(np.float32, (w.lr, MOMENTUM, *BETAS, EPS))

    def update(gradients: Sequence[Any]) -> None:
        count[0] += 1
        for each, g, m, v in zip(p, gradients, *moments, strict=True):
            if w.optimizer == "sgd":
                each -= lr * g
            elif w.optimizer == "momentum":
                m[...] = mu * m + g
                each -= lr * m
            else:
                m[...] = b1 * m + (1 - b1) * g
                v[...] = b2 * v + (1 - b2) * g * g
                t = count[0]
                root = np.sqrt(v) / np.float32(math.sqrt(1 - BETAS[1] ** t)) + eps
                each -= np.float32(w.lr / (1 - BETAS[0] ** t)) * m / root

    return update


def autograd_step(w: Workload) -> Contender:
    import autograd.numpy as anp
    from autograd import grad

    if w.optimizer == "search":
        raise NotHereError("left out, as the slowest by far")
    x, y = w.data()
    p = w.parameters()

    def loss(p: Any, x: Any, y: Any) -> Any:
        for k in range(0, len(p), 2):
            x = anp.dot(x, p[k]) + p[k + 1]
            if k < len(p) - 2 or w.activates_last:
                x = activate(w.activation, x, anp)
        if w.loss == "mse":
            return anp.mean((x - y) ** 2)
        x = x - anp.max(x, axis=1, keepdims=True)
        x = x - anp.log(anp.sum(anp.exp(x), axis=1, keepdims=True))
        return -anp.mean(x[np.arange(len(y)), y])

    gradient, update = grad(loss), numpy_update(w, p)
    return Contender(
        lambda k: update(gradient(p, x[k], y[k])),
        lambda: gradient(p, x[0], y[0]),
        lambda: p,
    )


def mygrad_step(w: Workload) -> Contender:
    import mygrad as mg
    from mygrad.nnet.activations import relu, sigmoid
    from mygrad.nnet.losses import softmax_crossentropy

    if w.optimizer == "search":
        raise NotHereError("left out, as the slowest by far")
    x, y = w.data()
    tensors = [mg.tensor(value) for value in w.parameters()]
    function = {"sigmoid": sigmoid, "relu": relu, "tanh": mg.tanh}[w.activation]

    def gradient(x: Any, y: Any) -> Arrays:
        for k in range(0, len(tensors), 2):
            x = mg.matmul(x, tensors[k]) + tensors[k + 1]
            if k < len(tensors) - 2 or w.activates_last:
                x = function(x)
        loss = mg.mean((x - y) ** 2) if w.loss == "mse" else softmax_crossentropy(x, y)
        loss.backward()
        found = [each.grad for each in tensors]
        for each in tensors:
            each.null_grad()
        return found

    values = [each.data for each in tensors]
    update = numpy_update(w, values)
    return Contender(
        lambda k: update(gradient(x[k], y[k])), lambda: gradient(x[0], y[0]), lambda: values
    )


OURS = ("thriftgrad", "thriftgrad, Numba")
# Who takes part: name, library, what makes it, and what in.
CONTENDERS: dict[str, tuple[str, Callable[[Workload], Contender], str]] = {
    "thriftgrad": ("thriftgrad", thriftgrad, "W1 W2 W3 W4 W5 W6 epoch"),
    "thriftgrad, Numba": (
        "thriftgrad",
        partial(thriftgrad, how="numba"),
        "W1 W2 W3 W4 W6",  # `FullBatch` has no choice of kernels; an epoch is one of NumPy's
    ),
    "thriftgrad eager": ("thriftgrad", partial(thriftgrad, how="eager"), "W1 W2 W3 W4 W5 W6"),
    "PyTorch": ("torch", torch_eager, "W1 W2 W3 W4 W5 W6 epoch"),
    "torch.compile": ("torch", partial(torch_eager, compiled=True), "W1 W2 W3"),
    "JAX jit": ("jax", jax_step, "W1 W2 W3 W4 W5 W6"),
    "JAX scan": ("jax", partial(jax_step, scan=True), "W1 W2 epoch"),
    "textbook NumPy": ("numpy", textbook, "W1 W2 W3 W4 W5 W6"),
    "scikit-learn": ("sklearn", sklearn_step, "W3 W4 W6"),
    "autograd": ("autograd", autograd_step, "W1 W2 W3 W4 W6"),
    "MyGrad": ("mygrad", mygrad_step, "W1 W2 W3 W4 W6"),
    "floor": ("numpy", floor, "W1 W2 W3 W4 W6"),
}
