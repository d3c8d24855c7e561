"""How many threads the matrix products of a program take: one, where they are small.

OpenBLAS shares each product out among its threads, and below some tens of megaflops they wait for each
other longer than they work. Its own switch costs a fraction of a microsecond, so that a small program
runs on one thread, and leaves the number of threads as it was.

The switch is one for the whole process. Programs that run side by side in several threads of Python
therefore count how many they are: the first turns to one thread, the last turns back.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from math import prod, sqrt
from threading import Lock
from typing import Any

import numpy as np

from thriftgrad.compile.program import Program, Variable

SMALL = 100e6
"""Floating-point operations of a program's products below which one thread was measured to be faster."""

Switch = tuple[Callable[[], int], Callable[[int], Any]]
"""How to read and to set the number of threads of one library."""


def is_small(program: Program) -> bool:
    """Tell whether a program has matrix products, and is better off on one thread."""
    return 0 < operations(program) < SMALL


def operations(program: Program) -> float:
    """Return the floating-point operations of a program's matrix products: 2·M·N·K for each."""
    total = 0.0
    for call in program.calls:
        arrays = [v for v in call.args if isinstance(v, Variable)]
        if call.function in _PRODUCTS and len(arrays) == 2:
            a, b, c = (max(1, prod(v.shape)) for v in (*arrays, call.result))
            batch = prod(call.result.shape[:-2]) if call.function is np.matmul else 1
            total += 2 * sqrt(a * b * c / batch)  # |a|·|b|·|c| is (M·N·K)²
    return total


_PRODUCTS = {np.matmul, np.dot, np.inner, np.tensordot}


def on_one(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that runs on one thread, if there is a switch for it."""
    if not switches():
        return function

    def call(*args: Any) -> Any:
        to_one()
        try:
            return function(*args)
        finally:
            back()

    return call


def to_one() -> None:
    """Let products run on one thread, until as many calls of `back` as of this have been made."""
    global _running
    with _lock:
        _running += 1
        if _running == 1:
            for read, write in switches():
                threads = read()
                if threads > 1:
                    write(1)
                    _before.append((write, threads))


def back() -> None:
    """Let products run on as many threads as before."""
    global _running
    with _lock:
        _running -= 1
        if not _running:
            while _before:
                write, threads = _before.pop()
                write(threads)


_lock = Lock()
_running = 0
_before: list[tuple[Callable[[int], Any], int]] = []


def _forget() -> None:
    # The process that a fork makes has none of the threads that were at work.
    global _lock, _running
    _lock, _running = Lock(), 0
    while _before:
        write, threads = _before.pop()
        write(threads)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


@cache
def switches() -> tuple[Switch, ...]:
    """Return the switches of every OpenBLAS with threads of its own, as threadpoolctl finds them.

    Without threadpoolctl there are none. Its own switch is not for this: whichever thread uses it
    first keeps it, and the person's limits in other threads are then ignored.
    """
    try:
        from threadpoolctl import ThreadpoolController
    except ImportError:
        return ()
    libraries = ThreadpoolController().select(internal_api="openblas").lib_controllers
    return tuple(found for each in libraries for found in _switches_of(each))


def _switches_of(library: Any) -> Iterator[Switch]:
    if library.threading_layer != "pthreads":
        return
    for prefix in ("scipy_", ""):
        for suffix in ("64_", ""):
            with suppress(AttributeError):
                names = (f"{prefix}openblas_{does}_num_threads{suffix}" for does in ("get", "set"))
                read, write = (getattr(library.dynlib, name) for name in names)
                yield read, write
                return
