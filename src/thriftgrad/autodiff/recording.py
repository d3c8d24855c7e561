"""What code says to a recorder of programs, where plain NumPy calls do not say it all.

`thriftgrad.compile` runs a function once on arrays that stand in for real ones, and notes the calls, so
that they can be made again without the function. Nearly all code needs to know nothing of this. What is
here is for the rest: a number that is another one at the next run (a learning rate, a count of steps), an
array that is written into, a draw from a generator, a check of what a person gives. While nothing is
being recorded, each of these does at once what it says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any, ParamSpec, Protocol

import numpy as np

P = ParamSpec("P")
Array = Any


class Recorder(Protocol):
    """What takes note while a function is recorded."""

    def parameter(self, parameter: Any, array: Array) -> Array:
        """Return what stands for the array of a parameter."""

    def assign(self, parameter: Any, value: Array) -> None:
        """Give a parameter another value."""

    def gradient(self, leaf: Any) -> Array | None:
        """Return the gradient that is at a leaf."""

    def set_gradient(self, leaf: Any, gradient: Array | None) -> None:
        """Change the gradient at a leaf."""

    def check_tape(self, node: Any) -> None:
        """Refuse a sweep from a node over what has been written into since."""

    def touched(self, parameter: Any) -> None:
        """Note that the array of a parameter has been written into."""

    def number(self, get: Callable[[], float], name: str) -> Any:
        """Return what stands for a Python number that `get` returns anew at each run."""

    def array(self, get: Callable[[], Array], name: str) -> Array:
        """Return what stands for an array that `get` returns anew at each run, to be written into."""

    def draw(self, generator: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> Array:
        """Return what stands for numbers drawn anew at each run."""

    @property
    def draws(self) -> int:
        """How many draws there have been so far."""

    def rerun(self, draws: int) -> AbstractContextManager[None]:
        """Note what follows as a second run of a function, which began after so many draws."""

    def require(self, holds: Any, complaint: Callable[..., Exception], args: Any) -> None:
        """Check at each run that `holds` is true."""

    def afterwards(self, action: Callable[[], None]) -> None:
        """Do this after each run."""

    def whole(self, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Note a call of `function` as one, without a look inside."""


active: ContextVar[Recorder | None] = ContextVar("thriftgrad_recorder", default=None)
"""The recorder at work in this thread, or None."""


def live_number(get: Callable[[], float], name: str) -> Any:
    """Return `get()`, a Python number that a recorded program shall ask for at each run."""
    recorder = active.get()
    return get() if recorder is None else recorder.number(get, name)


def live_array(get: Callable[[], Array], name: str) -> Array:
    """Return `get()`, an array that a recorded program shall read, and write into, at each run."""
    recorder = active.get()
    return get() if recorder is None else recorder.array(get, name)


def uniform(generator: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> Array:
    """Return numbers drawn uniformly from [0, 1), in a recorded program anew at each run."""
    recorder = active.get()
    if recorder is None:
        return generator.random(shape, dtype=dtype)
    return recorder.draw(generator, shape, dtype)


def draws() -> int:
    """Return how many draws have been recorded so far."""
    recorder = active.get()
    return 0 if recorder is None else recorder.draws


@contextmanager
def rerun(first: int) -> Iterator[None]:
    """Say that what is called is a second run: its draws are those from the first-th on, once more."""
    recorder = active.get()
    if recorder is None:
        yield
    else:
        with recorder.rerun(first):
            yield


def require(holds: Any, complaint: Callable[..., Exception], *args: Any) -> None:
    """Raise `complaint(*args)` unless `holds`, in a recorded program at each run."""
    recorder = active.get()
    if recorder is not None:
        recorder.require(holds, complaint, args)
    elif not holds:
        raise complaint(*args)


def afterwards(action: Callable[[], None]) -> None:
    """Do this now; or, where a program is being recorded, after each of its runs."""
    recorder = active.get()
    if recorder is None:
        action()
    else:
        recorder.afterwards(action)


def whole(function: Callable[P, Any]) -> Callable[P, Any]:
    """Make a function that is recorded as one call, since what it does depends on its arguments' entries.

    It must not write into its arguments, and be found by its name in its module.
    """

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> Any:
        recorder = active.get()
        if recorder is None:
            return function(*args, **kwargs)
        return recorder.whole(function, args, kwargs)

    return call
