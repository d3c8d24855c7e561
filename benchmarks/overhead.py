"""What the tape costs: microseconds for each recorded operation, forward and reverse.

First against NumPy, then beside autograd, MyGrad and PyTorch where they are installed.

In the first table each row is a chain of one operation. "bare" is the NumPy calls alone: the forward
call, with its result kept where the derivative needs it, and the calls of the derivative rule. "traced"
is the chain on a tensor, `backward` included. The difference is what thriftgrad adds. The two take turns
in one run, and each figure is a median. In the second, the same chains on arrays of 100 × 30 in each
library, float64, one thread, taking turns; the last column is thriftgrad's time by autograd's.

    OPENBLAS_NUM_THREADS=1 python benchmarks/overhead.py
"""

import gc
import statistics
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

import thriftgrad as tg

LENGTH = 100  # short enough for what is kept to stay in the cache
REPEATS = 51


class Chain(NamedTuple):
    """An operation, the NumPy calls of its derivative, and whether these need the result."""

    name: str
    forward: Callable[[np.ndarray], np.ndarray]
    reverse: Callable[[np.ndarray, np.ndarray | None], np.ndarray]
    keeps: bool


def chains(x: np.ndarray) -> list[Chain]:
    """Return the rows for arrays like `x`."""
    rows = [
        Chain("t + x", lambda t: t + x, lambda g, t: g, False),
        Chain("t * 0.999", lambda t: t * 0.999, lambda g, t: g * 0.999, False),
        Chain("np.tanh(t)", np.tanh, lambda g, t: g * (1 - t * t), True),
        Chain("np.sin(t)", np.sin, lambda g, t: g * np.cos(t), True),
        Chain("np.maximum(t, 0)", lambda t: np.maximum(t, 0.0), ties_split, True),
        Chain(
            "np.reshape(t, shape)",
            lambda t: np.reshape(t, x.shape),
            lambda g, t: np.reshape(g, x.shape),
            False,
        ),
    ]
    if x.ndim == 2:
        w = np.eye(x.shape[-1])
        rows.append(
            Chain(
                "t @ w", lambda t: t @ w, lambda g, t: np.matmul(g, np.swapaxes(w, -1, -2)), False
            )
        )
    return rows


def ties_split(g: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Differentiate a maximum with 0 as the rule does."""
    return np.where(t > 0.0, g, np.where(t == 0.0, g * 0.5, 0))


def run_bare(x: np.ndarray, chain: Chain) -> None:
    """Do what a tape would do, without one."""
    kept = []
    t = x
    for _ in range(LENGTH):
        t = chain.forward(t)
        kept.append(t if chain.keeps else None)
    g = np.ones_like(x)
    while kept:
        g = chain.reverse(g, kept.pop())


def run_traced(x: np.ndarray, chain: Chain) -> None:
    """Record the chain and sweep it."""
    t = tg.Tensor(x)
    for _ in range(LENGTH):
        t = chain.forward(t)
    t.backward(np.ones_like(x))


def medians(*functions: Callable[[], None]) -> list[float]:
    """Return the median microseconds for each operation, the functions taking turns."""
    times: list[list[float]] = [[] for _ in functions]
    for _ in range(REPEATS):
        for function, its in zip(functions, times, strict=True):
            start = time.perf_counter()
            function()
            its.append((time.perf_counter() - start) / LENGTH * 1e6)
    return [statistics.median(its) for its in times]


class Peer(NamedTuple):
    """A library: its functions under NumPy's names, a leaf made of an array, and its reverse pass."""

    np: Any
    run: Callable[[Callable, np.ndarray], None]


def peers() -> dict[str, Peer]:
    """Return thriftgrad and every peer that is installed."""

    def thriftgrad_run(chain: Callable, x: np.ndarray) -> None:
        chain(tg.Tensor(x)).backward(np.ones_like(x))

    found = {"thriftgrad": Peer(np, thriftgrad_run)}
    if find_spec("autograd"):
        import autograd
        import autograd.numpy

        def autograd_run(chain: Callable, x: np.ndarray) -> None:
            pullback, value = autograd.make_vjp(chain)(x)
            pullback(np.ones_like(value))

        found["autograd"] = Peer(autograd.numpy, autograd_run)
    if find_spec("mygrad"):
        import mygrad

        def mygrad_run(chain: Callable, x: np.ndarray) -> None:
            chain(mygrad.tensor(x)).backward(np.ones_like(x))

        found["MyGrad"] = Peer(mygrad, mygrad_run)
    if find_spec("torch"):
        import torch

        torch.set_num_threads(1)
        names = SimpleNamespace(
            tanh=torch.tanh,
            sin=torch.sin,
            exp=torch.exp,
            sqrt=torch.sqrt,
            matmul=torch.matmul,
            sum=lambda t, axis, keepdims: torch.sum(t, dim=axis, keepdim=keepdims),
            maximum=lambda t, y: torch.maximum(t, torch.tensor(y, dtype=t.dtype)),
            reshape=torch.reshape,
            array=torch.tensor,
        )

        def torch_run(chain: Callable, x: np.ndarray) -> None:
            chain(torch.tensor(x, requires_grad=True)).backward(
                torch.ones(x.shape, dtype=torch.float64)
            )

        found["PyTorch"] = Peer(names, torch_run)
    return found


def side_by_side() -> None:
    """Print what an operation takes in each library, on arrays of 100 × 30."""
    x = np.full((100, 30), 0.3)
    libraries = peers()
    constants = {name: getattr(peer.np, "array", np.array) for name, peer in libraries.items()}
    rows: dict[str, Callable[[Any, Any, Any], Any]] = {
        "t + c": lambda np, t, c: t + c,
        "t * 0.999": lambda np, t, c: t * 0.999,
        "t * t + c": lambda np, t, c: t * t + c,
        "t / c": lambda np, t, c: t / c,
        "tanh": lambda np, t, c: np.tanh(t),
        "sin": lambda np, t, c: np.sin(t),
        "exp": lambda np, t, c: np.exp(t * -0.5),
        "maximum": lambda np, t, c: np.maximum(t, 0.0),
        "reshape": lambda np, t, c: np.reshape(t, (100, 30)),
        "t[:]": lambda np, t, c: t[:],
        "t - sum of rows": lambda np, t, c: t - np.sum(t, axis=1, keepdims=True) * 0.01,
        "t @ w": lambda np, t, c: t @ c[:30],
    }
    two_calls = {"t * t + c", "exp", "t - sum of rows"}
    print(
        f"\n{'µs an operation, 100 × 30':<26}"
        + "".join(f"{name:>12}" for name in libraries)
        + "  of autograd"
    )
    for row, operation in rows.items():
        calls = {"t - sum of rows": 3}.get(row, 2 if row in two_calls else 1)

        def chain(t: Any, peer: Peer, c: Any, operation: Callable = operation) -> Any:
            for _ in range(LENGTH):
                t = operation(peer.np, t, c)
            return t

        functions = []
        for name, peer in libraries.items():
            c = constants[name](np.full((100, 30), 1.001) if row != "t @ w" else np.eye(30))
            functions.append(partial(peer.run, partial(chain, peer=peer, c=c), x))
        times = dict(zip(libraries, (t / calls for t in medians(*functions)), strict=True))
        ratio = f"{times['thriftgrad'] / times['autograd']:.2f}" if "autograd" in times else ""
        print(f"{row:<26}" + "".join(f"{t:>12.2f}" for t in times.values()) + f"{ratio:>13}")


def main() -> None:
    """Print the table."""
    gc.disable()  # as timeit does
    print(f"{'operation':<24}{'shape':>10}{'bare µs':>10}{'traced µs':>11}{'added µs':>10}")
    worst = 0.0
    for shape in ((), (10,), (100, 30)):
        x = np.full(shape, 0.3)
        for chain in chains(x):
            bare, traced = medians(partial(run_bare, x, chain), partial(run_traced, x, chain))
            worst = max(worst, traced - bare)
            print(
                f"{chain.name:<24}{shape!s:>10}{bare:>10.2f}{traced:>11.2f}{traced - bare:>10.2f}"
            )
    print(f"\nadded at most {worst:.2f} µs for each recorded operation")


if __name__ == "__main__":
    main()
    side_by_side()
