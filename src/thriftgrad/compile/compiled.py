"""`compile`: a function that is recorded at its first call and run as plain NumPy from then on."""

from __future__ import annotations

import builtins
import sys
import threading
import warnings
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from functools import partial, update_wrapper
from inspect import signature
from itertools import count
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np

from thriftgrad import tree
from thriftgrad.autodiff import Parameter, Tensor, recording
from thriftgrad.autodiff.tensor import as_constant, is_off
from thriftgrad.compile import kernels as _kernels
from thriftgrad.compile import threads
from thriftgrad.compile.apart import Apart
from thriftgrad.compile.guards import guard
from thriftgrad.compile.memory import Memory
from thriftgrad.compile.program import Input, simplified
from thriftgrad.compile.record import Recorder, StandIn, record
from thriftgrad.compile.source import Written, write
from thriftgrad.compile.surroundings import Surroundings
from thriftgrad.errors import ConfigError, RecordError
from thriftgrad.memory.generators import bit_generators
from thriftgrad.units import budget_bytes

MOST = 16
"""Programs that a compiled function keeps; of more, the one not used for the longest time goes."""

Fallback = Literal["error", "eager"]
Kernels = Literal["numpy", "numba"]


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
    generators that the function makes, context variables and `globals()` cannot be seen to change. A
    program whose matrix products are small runs them on one thread of OpenBLAS, which is then faster,
    where threadpoolctl is installed. An exception leaves the parameters as they were before the run or
    as they are after it; Ctrl-C alone may come in between, from the first update on.

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
            cannot be called.
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
    if kernels not in ("numpy", "numba"):
        raise ConfigError(f"compile: kernels = {kernels!r}; expected 'numpy' or 'numba'")
    if kernels == "numba":
        _kernels.require()
    if function is None:
        return lambda function: compile(function, budget=budget, kernels=kernels, fallback=fallback)
    if not callable(function):
        raise ConfigError(
            f"compile was given a {type(function).__name__}, which cannot be called; give it a function"
        )
    return Compiled(function, fallback, None if budget is None else budget_bytes(budget), kernels)


class Compiled:
    """A compiled function: see `compile`.

    Attributes:
        failed: whether it was a recording that the last error came from, and not a run.
        recordings: how many there have been.
    """

    live_in_programs = ("_programs", "_newest", "_eager", "_said", "failed", "recordings")

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
        self._eager = self._said = False
        self._programs: OrderedDict[Any, list[_Replay]] = OrderedDict()
        self._newest: _Replay | None = None
        self._lock = threading.RLock()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the program for these arguments; record it first if there is none."""
        if self._eager or recording.active.get() is not None:
            return self._function(*args, **kwargs)
        with self._lock:
            try:
                newest = self._newest
                if newest is not None and newest.fits_at_once(args, kwargs):
                    return newest.run(args)
                leaves, replay = self._found(args, kwargs)
                return replay.run(leaves)
            except RecordError as error:
                if self._fallback == "error":
                    raise
                self._eager = self.failed
                if not self._said:
                    self._said = True
                    warnings.warn(
                        f"{self._name} cannot be recorded and runs as it is: {error}",
                        RuntimeWarning,
                        stacklevel=2,
                    )
        return self._function(*args, **kwargs)

    def _found(self, args: Any, kwargs: Any) -> tuple[Sequence[Any], _Replay]:
        """Return the arguments without their structure, and the program for them, recorded if need be."""
        leaves, structure = _flattened(args, kwargs)
        key = structure, tuple(map(_layout, leaves)), _which_are_one(leaves), is_off()
        for replay in self._programs.get(key, ()):
            if replay.fits(leaves):
                self._newest = replay
                self._programs.move_to_end(key)
                return leaves, replay
        self.failed = True
        for _ in range(2):  # as what is made at its first use and kept is there at the second
            self.recordings += 1
            replay = _Replay(self._function, args, kwargs, self._budget, self._kernels)
            if replay.fits(leaves):
                break
        else:
            raise RecordError(
                f"{self._name} changes what it depends on while it runs, so that it would be recorded "
                f'at every call; compile it with fallback="eager", or keep that outside'
            )
        self.failed = False
        self._keep(key, replay)
        return leaves, replay

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        """Be a method, of each object with programs of its own."""
        return self if instance is None else partial(self, instance)

    def __reduce__(self) -> Any:
        """Leave programs and their block behind: a copy, or what is unpickled, records anew."""
        home, name = sys.modules.get(self.__module__), getattr(self, "__qualname__", "")
        if getattr(home, name, None) is self:  # it has taken the place of its function
            return name
        return Compiled, (self._function, self._fallback, self._budget, self._kernels)

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

        Raises:
            ConfigError: the program calls a function that is no part of NumPy.
        """
        written = self._last.written
        foreign = written.objects.keys() - written.complaints.keys()
        if foreign:
            raise ConfigError(
                f"{self._name} calls {', '.join(sorted(foreign))}, which NumPy does not have, so that "
                f"its source does not run alone; .source can be read all the same"
            )
        text = written.text
        for name, maker in written.complaints.items():
            reason = (maker.__doc__ or "A value that is not allowed.").strip().splitlines()[0]
            made = f"def {name}(*given):\n    return ValueError({reason!r})\n\n\n"
            text = text.replace(f"def {written.name}(", f"{made}def {written.name}(", 1)
        Path(path).write_text(text, encoding="utf-8")

    @property
    def _name(self) -> str:
        return getattr(self._function, "__name__", type(self._function).__name__)

    @property
    def _last(self) -> _Replay:
        if self._newest is None:
            raise ConfigError(f"{self._name} has not been recorded yet: call it once")
        return self._newest

    def _keep(self, key: Any, replay: _Replay) -> None:
        self._newest = replay
        self._programs.setdefault(key, []).insert(0, replay)
        self._programs.move_to_end(key)
        while sum(map(len, self._programs.values())) > MOST:
            oldest = next(iter(self._programs))
            self._programs[oldest].pop()
            if not self._programs[oldest]:
                del self._programs[oldest]


_serial = count(1).__next__


class _Replay:
    """One program, ready to run."""

    def __init__(
        self,
        function: Callable[..., Any],
        args: Any,
        kwargs: Any,
        budget: int | None,
        kernels: Kernels,
    ) -> None:
        self._surroundings = Surroundings(function, *_objects_in((args, kwargs)))
        recorder: Recorder
        with _no_draws(function, args, kwargs):
            try:
                result, recorder = record(
                    function, lambda stand: _standing(function, args, kwargs, stand)
                )
            except BaseException:
                self._surroundings.restore()
                raise
            self._surroundings.check_unchanged()
        outputs = self._read_result(result, recorder)
        self._expected = recorder.expected_gradients
        program = simplified(recorder.finished(outputs))
        recorder.forget()
        name = getattr(function, "__name__", "function")
        self.written: Written = write(
            program, name, budget, fusing=_kernels if kernels == "numba" else None
        )
        self._afterwards = program.afterwards
        self._inputs = self.written.inputs
        self._positions = [recorder.positions.get(each.variable) for each in self._inputs]
        self._live = [(i, each) for i, each in enumerate(self._inputs) if each.fetch is not None]
        self._wrote = [(i, e.wrote) for i, e in self._live if e.final and e.wrote]
        self._bound: list[Any] = [None] * len(self._inputs)
        call, self._report = _executed(self.written)
        self._call = threads.on_one(call) if threads.is_small(program) else call
        self._warn_of_other_names(name)
        self._given_gradients = [at for at, v in program.gradients if v is not None]
        self._dropped_gradients = [at for at, v in program.gradients if v is None]
        self._arguments = [
            (i, position) for i, position in enumerate(self._positions) if position is not None
        ]
        late = [i for i, e in enumerate(self._inputs) if e.variable in recorder.read_late]
        self._apart = Apart(self._inputs, late, self.written.late)
        self._alone = self._structure is None and len(self._kinds) == 1 == len(program.outputs)
        self._alone = self._alone and not self._given_gradients
        self._of_arrays = not kwargs and all(type(each) is np.ndarray for each in args)
        self._of_arrays = self._of_arrays and not _which_are_one(args)
        fetched = [each.fetch() for _, each in self._live]  # type: ignore[misc]
        self._surroundings.leave_out([each for each in fetched if isinstance(each, np.ndarray)])
        self._unchanged = guard(
            args if self._of_arrays else None,
            self._expected,
            self._surroundings,
            self._live,
            self._bound,
        )
        # A function of a text and its globals hold each other, and with them the block and the model.
        for made in (call, self._unchanged):
            weakref.finalize(self, made.__globals__.clear).atexit = False

    def _warn_of_other_names(self, name: str) -> None:
        """Warn of arrays outside that lie where the program writes, unless it reads them itself."""
        arrays = [each for _, each in self._live if not each.variable.number]
        live = [(each, each.fetch()) for each in arrays]  # type: ignore[misc]
        read = {id(array) for each, array in live if each.final is None}
        for array in self._surroundings.arrays:
            for each, written in live:
                if each.final is None or id(array) in read:
                    continue
                if np.may_share_memory(array, written):
                    warnings.warn(
                        f"{name} writes into {each.name}, and can reach an array that shares memory with "
                        f"it. What it computes from that array alone is computed while recording; read "
                        f"{each.name} from its parameter instead",
                        RuntimeWarning,
                        stacklevel=5,
                    )
                    return

    def fits_at_once(self, args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
        """Tell whether it is clear at a look that all is as it was, these arguments included."""
        return self._of_arrays and not kwargs and self._unchanged(args)

    def fits(self, leaves: Sequence[Any]) -> bool:
        """Tell whether all is as it was, for arguments laid out as they were."""
        return self._unchanged(leaves) or self._fits_by_value()

    def _fits_by_value(self) -> bool:
        for holder, leaf, there in self._expected:
            if holder.node is not leaf or (leaf.grad is not None) is not there:
                return False
        if not self._surroundings.same():
            return False
        bound = self._bound
        for i, each in self._live:
            value = each.fetch()  # type: ignore[misc]
            if (value is not bound[i] or each.final is not None) and not _matches(value, each):
                return False
            bound[i] = value
        return True

    def run(self, leaves: Sequence[Any]) -> Any:
        """Make the calls, and leave everything as the function would."""
        bound = self._bound
        for i, position in self._arguments:
            bound[i] = leaves[position]
        try:
            results = self._call(*self._apart.checked(bound))
        except Exception:
            if vars(self._report).pop("called", False):
                self._settle()  # the error was held back until everything was written
            raise
        finally:
            for i, _ in self._arguments:  # which are not kept alive
                bound[i] = None
        self._settle()
        if self._alone:
            return self._kinds[0](results[0])
        count = len(self._kinds)
        for holder, gradient in zip(self._given_gradients, results[count:], strict=True):
            holder.grad = gradient
        leaves = [make(value) for make, value in zip(self._kinds, results[:count], strict=True)]
        leaves.reverse()
        whole = [leaves.pop() if each is _MARK else each for each in self._leaves]
        return tree.unflatten(self._structure, whole)

    def _settle(self) -> None:
        """Do what goes with arrays that have been written into."""
        bound = self._bound
        for i, wrote in self._wrote:
            wrote(bound[i])
        for holder in self._dropped_gradients:
            holder.grad = None
        for action in self._afterwards:
            action()

    def _read_result(self, result: Any, recorder: Recorder) -> list[StandIn]:
        found, self._structure = tree.flatten(result)
        self._leaves: list[Any] = []
        self._kinds: list[Callable[[Any], Any]] = []
        outputs = []
        for each in found:
            kind: Callable[[Any], Any] = _as_it_is
            if isinstance(each, Tensor):
                if isinstance(each, Parameter) or (each.node is not None and each.node.edges):
                    raise RecordError(
                        "a compiled function returned a tensor that still records, whose gradient would "
                        "be lost; call backward() in the function, or return tensor.value"
                    )
                each, kind = each.value, as_constant
            if isinstance(each, StandIn):
                self._leaves.append(_MARK)
                self._kinds.append(kind)
                outputs.append(each)
            elif isinstance(each, np.ndarray):
                self._leaves.append(_MARK)
                self._kinds.append(kind)
                outputs.append(recorder.outside(each))
            else:
                self._leaves.append(kind(each))
        return outputs


def _objects_in(arguments: Any) -> list[Any]:
    """Return what is passed beside arrays and numbers: modules, and other objects with settings."""
    if isinstance(arguments, dict):
        arguments = list(arguments.values())
    if isinstance(arguments, list | tuple):
        return [found for each in arguments for found in _objects_in(each)]
    return [] if isinstance(arguments, np.ndarray) else [arguments]


@contextmanager
def _no_draws(*roots: Any) -> Iterator[None]:
    """Refuse draws from a generator, but for those that a program makes anew at each run.

    Those are recorded on a copy of the generator.
    """
    sources = [np.random.mtrand._rand._bit_generator, *bit_generators(*roots)]
    before = [deepcopy(source.state) for source in sources]
    try:
        yield
    except BaseException:
        for source, state in zip(sources, before, strict=True):
            source.state = state
        raise
    for source, state in zip(sources, before, strict=True):
        if not _equal_states(source.state, state):
            for each, then in zip(sources, before, strict=True):
                each.state = then
            raise RecordError(
                "a function that is compiled draws from a random generator, and runs of the program "
                "would repeat these numbers; draw them outside and pass them as an argument, or use "
                "nn.Dropout, which compile knows"
            )


def _equal_states(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_equal_states(a[k], b[k]) for k in a)
    return np.array_equal(a, b)


_MARK = object()


def _as_it_is(value: Any) -> Any:
    return value


def _flattened(args: Any, kwargs: Any) -> tuple[list[Any], Any]:
    if not kwargs:
        for each in args:
            if type(each) is not np.ndarray:
                break
        else:
            return args, len(args)
    return tree.flatten((args, kwargs))


def _which_are_one(leaves: Sequence[Any]) -> Any:
    """Return which arguments are one object, for a function that asks `x is y`."""
    ids = list(map(id, leaves))
    return len(set(ids)) < len(ids) and tuple(map(ids.index, ids))


class _Object:
    """What has settings of its own; it is equal to itself alone, whatever its class says of it."""

    def __init__(self, it: Any) -> None:
        self._it = it  # kept, as an id means something while an object lives

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Object) and other._it is self._it

    def __hash__(self) -> int:
        return id(self._it)


def _layout(value: Any) -> Any:
    """Return what a program is recorded for, of an argument."""
    if type(value) is np.ndarray:
        return value.shape, value.dtype, value.strides
    if isinstance(value, Parameter):
        return Parameter, id(value)  # which its program keeps alive
    if isinstance(value, Tensor):
        raise RecordError(
            "a compiled function was given a tensor, whose gradient would be lost; pass its .value, and "
            "compile the function that differentiates: tg.compile(tg.value_and_grad(f))"
        )
    if isinstance(value, np.ndarray):
        raise RecordError(
            f"a compiled function was given a {type(value).__name__}, which has an arithmetic of its own; "
            f"pass np.asarray of it"
        )
    if isinstance(value, np.generic):
        return type(value), value.dtype
    if type(value) in (float, complex):
        return type(value)
    try:
        hash(value)
    except TypeError:
        raise RecordError(
            f"a compiled function was given a {type(value).__name__}; expected arrays, numbers, what can "
            f"be compared by a hash, and trees of these"
        ) from None
    plain = type(value).__module__ == "builtins" and not callable(value)
    return type(value), value if plain else _Object(value)


def _standing(
    function: Any, args: Any, kwargs: Any, stand: Callable[[Any, str, int], Any]
) -> tuple[Any, Any]:
    """Return the arguments with stand-ins for arrays and Python floats."""
    names = _names(function, args, kwargs)
    leaves, structure = tree.flatten((args, kwargs))
    standing = [
        stand(leaf, name, i)
        if isinstance(leaf, np.ndarray | np.generic | float | complex)
        else leaf
        for i, (leaf, name) in enumerate(zip(leaves, names, strict=True))
    ]
    result: tuple[Any, Any] = tree.unflatten(structure, standing)
    return result


def _names(function: Any, args: Any, kwargs: Any) -> list[str]:
    try:
        bound = signature(function).bind(*args, **kwargs).arguments
        parameters = signature(function).parameters
        titles: list[str] = []
        for name, value in bound.items():
            if parameters[name].kind is parameters[name].VAR_POSITIONAL:
                titles += [f"{name}_{i}" for i in range(len(value))]
            elif parameters[name].kind is not parameters[name].VAR_KEYWORD:
                titles.append(name)
    except (TypeError, ValueError):
        titles = []
    titles = [*titles, *(f"argument_{i}" for i in range(len(titles), len(args)))]
    names: list[str] = []
    for value, title in zip(args, titles, strict=False):
        names += tree.paths(value, title)
    for title, value in sorted(kwargs.items()):
        names += tree.paths(value, title)
    return names


def _matches(value: Any, each: Input) -> bool:
    """Tell whether what is there now can take the place of what was there while recording."""
    v = each.variable
    if isinstance(value, np.ndarray):
        if each.final is not None and not value.flags.writeable:
            raise ConfigError(
                f"{each.name} is a read-only array, and the compiled function writes into it; give it a copy"
            )
        return (value.shape, value.dtype, value.strides) == (v.shape, v.dtype, v.strides)
    if isinstance(value, np.random.Generator):
        return True
    return np.dtype(type(value)) == v.dtype and v.shape == ()


def _executed(written: Written) -> tuple[Callable[..., Any], Any]:
    """Return the function that the text defines, and the one that reports errors held back.

    Tracebacks show the lines of the text. The kernels in it are taken from where they are kept.
    """
    name = f"compiled {written.name} {_serial()}"
    scope: dict[str, Any] = {"__name__": name, "__loader__": _Text(written.text)}
    scope.update(written.objects)
    text = written.text
    for kernel in written.kernels.values():
        scope[kernel.name] = _kernels.load(kernel)
        text = text.replace(kernel.text, "\n" * kernel.text.count("\n"))
    exec(builtins.compile(text, name, "exec"), scope)
    return scope[written.name], scope.get("report", _nothing_held_back)


class _Text:
    """What tracebacks ask for the lines of a module."""

    def __init__(self, text: str) -> None:
        self.text = text

    def get_source(self, name: str) -> str:
        """Return the text of the module."""
        return self.text


def _nothing_held_back() -> None:
    pass
