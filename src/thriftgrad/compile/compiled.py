"""`compile`: a function that is recorded at its first call and run as plain NumPy from then on."""

from __future__ import annotations

import inspect
import sys
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import update_wrapper
from pathlib import Path
from types import MethodType
from typing import Any, Literal, overload

from thriftgrad.autodiff import recording
from thriftgrad.autodiff.tensor import is_off
from thriftgrad.compile import alone, machine_code
from thriftgrad.compile.arguments import flattened, layout_of, which_are_one
from thriftgrad.compile.memory import Memory
from thriftgrad.compile.replay import Kernels, Replay
from thriftgrad.errors import ConfigError, RecordError, ThriftgradError
from thriftgrad.units import budget_bytes

MOST = 16
"""Programs that a compiled function keeps; of more, the one not used for the longest time goes."""
MANY = 32
"""Recordings from which on there is a warning, where they are half of all calls."""

Fallback = Literal["error", "eager"]


@overload
def compile(
    function: Callable[..., Any],
    *,
    budget: int | str | None = None,
    kernels: Kernels = "numpy",
    fallback: Fallback = "error",
) -> Compiled: ...
@overload
def compile(
    function: None = None,
    *,
    budget: int | str | None = None,
    kernels: Kernels = "numpy",
    fallback: Fallback = "error",
) -> Callable[[Callable[..., Any]], Compiled]: ...


def compile(
    function: Callable[..., Any] | None = None,
    *,
    budget: int | str | None = None,
    kernels: Kernels = "numpy",
    fallback: Fallback = "error",
) -> Any:
    """Record a function at its first call, and make the same NumPy calls without it from then on.

    The function may be a training step, with backward pass and optimiser, or any function on trees of
    arrays. It is recorded once for each combination of shapes, dtypes and strides of its arguments (the
    16 used last are kept), and anew where something that it looks up has changed: a setting of a module
    or optimiser, `model.eval()`, a variable outside. A run then makes the recorded calls, in one block
    of memory of a fixed size, without a tape: see `source` and `memory`. Results are arrays of their
    own, and equal to those of the function.

    What may change from run to run without a new recording: the entries of arguments, parameters,
    gradients and an optimiser's state; learning rates and schedules; the draws of `nn.Dropout`. What
    is computed from other arrays outside alone is computed while recording; of these, all entries of
    those up to 4 KiB are compared at every run, and 64 of larger ones, spread over them. Clocks, files,
    generators that the function makes, context variables and `globals()` cannot be seen to change.

    A program whose matrix products are small runs them on one thread of OpenBLAS, which is then faster,
    where threadpoolctl is installed. An exception leaves the parameters as they were before the run or as
    they are after it; Ctrl-C alone may come in between, from the first update on.

    Args:
        function: to be compiled. Without it, a decorator is returned.
        budget: the bytes that the block may take, a number or a text such as "8 MB". What does not fit
            is dropped, and computed again when it is needed; results are the same to the last bit.
            None for whatever it takes.
        kernels: "numpy", or "numba", which makes one loop in machine code of calls that follow each
            other entry by entry, such as an optimiser's update. Its entries are those of NumPy, but it
            reports no floating-point errors, whatever `np.errstate` says. Numba compiles a loop once, in
            some tenths of a second, and keeps it on disk, in `~/.cache/thriftgrad/kernels` or under
            `XDG_CACHE_HOME`. Needs `pip install 'thriftgrad[fast]'`.
        fallback: what to do with a function that cannot be recorded: "error", or "eager", which warns
            once and calls the function as it is.

    Raises:
        ConfigError: an unknown `fallback` or `kernels`, a `budget` that is no size, or something that
            cannot be called; a class, a generator function or an async one.
        MissingExtraError: `kernels="numba"` without Numba.
        BudgetError: when called, if no program known is so small. Its `least` is the fewest bytes.
        RecordError: when called, if what the function does depends on the entries of its arrays.

    Example:
        >>> import numpy as np, thriftgrad as tg
        >>> @tg.compile
        ... def f(x):
        ...     return np.sum(np.exp(-x * x))
        >>> float(f(np.zeros(3)))
        3.0
        >>> print(f.source[f.source.index("def f"):])
        def f(x):
            np.negative(x, out=negative)
            np.multiply(negative, x, out=negative)
            np.exp(negative, out=negative)
            np.add.reduce(negative, axis=None, out=total)
            return total[()],
        <BLANKLINE>

    Source: tracing to a straight-line program follows Frostig, Johnson and Leary, "Compiling machine
    learning programs via high-level tracing", 2018.
    """
    if fallback not in ("error", "eager"):
        raise ConfigError(f"compile: fallback = {fallback!r}; expected 'error' or 'eager'")
    machine_code.check(kernels)
    if function is None:
        return lambda function: compile(function, budget=budget, kernels=kernels, fallback=fallback)
    if not callable(function):
        raise ConfigError(
            f"compile was given a {type(function).__name__}, which cannot be called; give it a function"
        )
    if inspect.isclass(function):
        raise ConfigError(
            f"compile was given the class {function.__name__}, and a run would return the object that "
            f"the recording made; compile a function or a method, or an object that can be called"
        )
    if any(kind(function) for kind in _IN_PARTS):
        raise ConfigError(
            f"compile: {getattr(function, '__name__', 'the function')} is a generator or async, and what "
            f"it does is done after the call; compile a function that it calls"
        )
    return Compiled(function, fallback, None if budget is None else budget_bytes(budget), kernels)


_IN_PARTS = inspect.isgeneratorfunction, inspect.iscoroutinefunction, inspect.isasyncgenfunction


class Compiled:
    """A compiled function: see `compile`.

    Attributes:
        failed: whether it was a recording that the last error came from, and not a run.
        recordings: how many there have been.
    """

    live_in_programs = (
        *("_programs", "_newest", "_calls", "_made", "_at_work", "_eager", "_said"),
        *("failed", "recordings"),
    )
    leads_to_no_generator = ("_programs", "_newest")

    def __init__(
        self,
        function: Callable[..., Any],
        fallback: Fallback = "error",
        budget: int | None = None,
        kernels: Kernels = "numpy",
    ) -> None:
        update_wrapper(self, function)
        self._function = function
        self._fallback = fallback
        self._budget = budget
        self._kernels = kernels
        self.failed = False
        self.recordings = 0
        self._calls = self._made = 0
        self._at_work = False
        self._eager = self._said = False
        self._programs: OrderedDict[Any, list[Replay]] = OrderedDict()
        self._newest: Replay | None = None
        self._lock = threading.RLock()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the program for these arguments; record it first if there is none."""
        if self._eager or recording.active.get() is not None:
            return self._function(*args, **kwargs)
        with self._lock:
            if self._at_work:  # and has come back to itself, as through a callback of np.errstate
                return self._function(*args, **kwargs)
            self._at_work = True
            self.failed = False
            self._calls += 1
            try:
                newest = self._newest
                if newest is not None and newest.fits_at_once(args, kwargs):
                    return newest.run(args)
                leaves, replay = self._found(args, kwargs)
                return replay.run(leaves)
            except Exception as error:
                # A function may well fail on stand-ins alone.
                is_strange = self.failed and not isinstance(error, ThriftgradError)
                if self._fallback == "error" or not (is_strange or isinstance(error, RecordError)):
                    raise
                reason = str(error) or type(error).__name__
                was_recording, self.failed = self.failed, False
            finally:
                self._at_work = False
        result = self._function(*args, **kwargs)
        self._eager = was_recording
        if not self._said:
            self._said = True
            warnings.warn(
                f"{self._name} cannot be recorded and runs as it is: {reason}",
                RuntimeWarning,
                stacklevel=2,
            )
        return result

    def _found(self, args: Any, kwargs: Any) -> tuple[Sequence[Any], Replay]:
        """Return the arguments without their structure, and the program for them, recorded if need be."""
        leaves, structure = flattened(args, kwargs)
        key = structure, tuple(map(layout_of, leaves)), which_are_one(leaves), is_off()
        for replay in self._programs.get(key, ()):
            if replay.fits(leaves):
                self._newest = replay
                self._programs.move_to_end(key)
                return leaves, replay
        before = self._newest
        self.failed = True
        for _ in range(2):  # as what is made at its first use and kept is there at the second
            self.recordings += 1
            replay = Replay(self._function, args, kwargs, self._budget, self._kernels)
            if replay.fits(leaves):
                break
        else:
            raise RecordError(
                f"{self._name} changes what it depends on while it runs, so that it would be recorded "
                f"at every call; keep that outside, or do without compiling"
            )
        self.failed = False
        self._made += 1
        if self._made >= MANY and 2 * self._made > self._calls and not self._said:
            self._said = True
            self._warn_of_recordings(before if key in self._programs else None)
        self._keep(key, replay)
        return leaves, replay

    def _warn_of_recordings(self, before: Replay | None) -> None:
        """Say what makes recordings, if it is not the layout of the arguments."""
        changed = before and before.changed()
        if before is None:
            changed = "its arguments: their shapes, or objects, whole numbers and texts among them"
        warnings.warn(
            f"{self._name} has been recorded {self._made} times in {self._calls} calls, and a recording "
            f"takes far longer than a run. What changes is {changed or 'something that it looks up'}; pass "
            f"it as an array or a float, or leave the function as it is",
            RuntimeWarning,
            stacklevel=4,
        )

    def __set_name__(self, owner: type, name: str) -> None:
        """Be known by the name that it has in a class, by which its methods are copied and pickled."""
        self.__name__ = name

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        """Be a method, of each object with programs of its own."""
        return self if instance is None else MethodType(self, instance)

    def __reduce__(self) -> Any:
        """Leave programs and their block behind: a copy, or what is unpickled, records anew."""
        home, name = sys.modules.get(self.__module__), getattr(self, "__qualname__", "")
        if getattr(home, name, None) is self:  # it has taken the place of its function
            return name
        return Compiled, (self._function, self._fallback, self._budget, self._kernels)

    def __repr__(self) -> str:
        kept = sum(map(len, self._programs.values()))
        return f"<compiled {self._name}: {kept} program{'s' * (kept != 1)}>"

    @property
    def source(self) -> str:
        """The NumPy text of the program that ran last."""
        return self._last.written.text

    @property
    def memory(self) -> Memory:
        """What lies where in the block of the program that ran last."""
        return self._last.written.memory

    def save(self, path: str | Path) -> None:
        """Write the source to a file that runs with NumPy alone, or with Numba where it has kernels.

        The function in it takes, behind what the person passes, everything else that the program reads
        or writes into: parameters, an optimiser's state, its learning rate. It counts no steps, and
        leaves gradients nowhere but among its results.

        Arrays of up to 1,000 entries that the function made, or found outside, are in the file as they
        are now. The file says what each argument is.

        Raises:
            ConfigError: the program calls a function that is no part of NumPy.
        """
        Path(path).write_text(alone.module(self._last.written), encoding="utf-8")

    @property
    def _name(self) -> str:
        return getattr(self._function, "__name__", type(self._function).__name__)

    @property
    def _last(self) -> Replay:
        if self._newest is None:
            raise ConfigError(f"{self._name} has not been recorded yet: call it once")
        return self._newest

    def _keep(self, key: Any, replay: Replay) -> None:
        self._newest = replay
        self._programs.setdefault(key, []).insert(0, replay)
        self._programs.move_to_end(key)
        while sum(map(len, self._programs.values())) > MOST:
            oldest = next(iter(self._programs))
            self._programs[oldest].pop()
            if not self._programs[oldest]:
                del self._programs[oldest]
