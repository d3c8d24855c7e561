"""What the tape costs: microseconds for each recorded operation, forward and reverse.

Each row is a chain of one operation. "bare" is the NumPy calls alone: the forward call, with its result
kept where the derivative needs it, and the calls of the derivative rule. "traced" is the chain on a
tensor, `backward` included. The difference is what thriftgrad adds. The two take turns in one run, and
each figure is a median.

    python benchmarks/overhead.py
"""

import gc
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

import thriftgrad as tg

LENGTH = 100  # short enough for what is kept to stay in the cache
REPEATS = 101


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
