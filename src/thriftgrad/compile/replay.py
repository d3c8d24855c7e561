"""One program of a compiled function: recorded, written as text, and run again and again."""

from __future__ import annotations

import builtins
import re
import warnings
import weakref
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from itertools import count
from types import ModuleType
from typing import Any, Literal

import numpy as np

from thriftgrad import tree
from thriftgrad.autodiff import Parameter, Tensor
from thriftgrad.autodiff.tensor import as_constant
from thriftgrad.compile import kernels as _kernels
from thriftgrad.compile import machine_code, threads
from thriftgrad.compile.apart import Apart
from thriftgrad.compile.arguments import objects_in, standing, which_are_one
from thriftgrad.compile.guards import guard
from thriftgrad.compile.program import Input, Program, simplified
from thriftgrad.compile.record import Recorder, record
from thriftgrad.compile.source import Written, write
from thriftgrad.compile.stand_in import SHOWN, StandIn
from thriftgrad.compile.surroundings import Surroundings
from thriftgrad.errors import ConfigError, RecordError
from thriftgrad.memory.generators import bit_generators

Kernels = Literal["numpy", "numba"]


class Replay:
    """One program, ready to run."""

    def __init__(
        self,
        function: Callable[..., Any],
        args: Any,
        kwargs: Any,
        budget: int | None,
        kernels: Kernels,
    ) -> None:
        program, recorder = self._recorded(function, args, kwargs)
        name = getattr(function, "__name__", "function")
        self.written: Written = write(
            program, name, budget, fusing=_kernels if kernels == "numba" else None
        )
        inputs = self.written.inputs
        positions = [recorder.positions.get(each.variable) for each in inputs]
        self._arguments = [(i, at) for i, at in enumerate(positions) if at is not None]
        self._live = [(i, each) for i, each in enumerate(inputs) if each.fetch is not None]
        self._bound: list[Any] = [None] * len(inputs)
        late = [i for i, each in enumerate(inputs) if each.variable in recorder.read_late]
        self._apart = Apart(inputs, late, self.written.late)

        self._wrote = [(i, e.wrote) for i, e in self._live if e.final and e.wrote]
        self._given_gradients = [at for at, v in program.gradients if v is not None]
        self._dropped_gradients = [at for at, v in program.gradients if v is None]
        self._afterwards = program.afterwards
        is_one_array = self._structure is None and len(self._kinds) == 1 == len(program.outputs)
        self._alone = is_one_array and not self._given_gradients

        call, self._report = _executed(self.written)
        self._call = threads.on_one(call) if threads.is_small(program) else call
        fetched = [each.fetch() for _, each in self._live]  # type: ignore[misc]
        self._warn_of_other_names(name, fetched)
        self._surroundings.leave_out([each for each in fetched if isinstance(each, np.ndarray)])
        are_arrays = not kwargs and all(type(each) is np.ndarray for each in args)
        self._of_arrays = are_arrays and not which_are_one(args)
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

    def _recorded(self, function: Any, args: Any, kwargs: Any) -> tuple[Program, Recorder]:
        """Record the function, and note what that hangs on, and what it returns beside arrays."""
        self._surroundings = Surroundings(function, *objects_in((args, kwargs)))
        recorder: Recorder
        with _no_draws(function, args, kwargs):
            try:
                result, recorder = record(
                    function, lambda stand: standing(function, args, kwargs, stand)
                )
            except BaseException:
                self._surroundings.restore()
                raise
            self._surroundings.check_unchanged()
        outputs = self._read_result(result, recorder)
        self._expected = recorder.expected_gradients
        program = simplified(recorder.finished(outputs))
        recorder.forget()
        return program, recorder

    def _warn_of_other_names(self, name: str, fetched: Sequence[Any]) -> None:
        """Warn of arrays outside that lie where the program writes, unless it reads them itself."""
        live = [
            (each, value)
            for (_, each), value in zip(self._live, fetched, strict=True)
            if not each.variable.number
        ]
        read = {id(value) for each, value in live if each.final is None}
        written = [(each, value) for each, value in live if each.final is not None]
        for array in self._surroundings.arrays:
            for each, value in written if id(array) not in read else ():
                if np.may_share_memory(array, value):
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

    def changed(self) -> str | None:
        """Return what has changed around the function since, in words, if it can be named."""
        return self._surroundings.changed()

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
        """Return the arrays in a result, and note where in it they stand, beside what else."""
        found, self._structure = tree.flatten(result)
        self._leaves: list[Any] = []
        self._kinds: list[Callable[[Any], Any]] = []
        outputs = []
        for i, each in enumerate(found):
            kind: Callable[[Any], Any] = _as_it_is
            if isinstance(each, Tensor):
                if isinstance(each, Parameter) or (each.node is not None and each.node.edges):
                    place = tree.paths(result, "result")[i]
                    raise RecordError(
                        f"a compiled function returned a tensor that still records, {place}, whose gradient "
                        f"would be lost; return its array, {place}.value, or call backward() on this very "
                        f"tensor in the function"
                    )
                each, kind = each.value, as_constant
            if isinstance(each, StandIn | np.ndarray):
                self._leaves.append(_MARK)
                self._kinds.append(kind)
                outputs.append(each if isinstance(each, StandIn) else recorder.outside(each))
            elif isinstance(each, Iterator | Awaitable):
                raise RecordError(
                    f"a compiled function returned a {type(each).__name__}, whose entries are made after "
                    f"the call; return a list or tuple of them"
                )
            elif isinstance(each, str) and SHOWN in each:
                raise RecordError(
                    f"a compiled function returned a text, {tree.paths(result, 'result')[i]}, made of a "
                    f"value that is being recorded, whose entries it does not show; return the value, "
                    f"and make the text outside"
                )
            else:
                self._leaves.append(kind(each))
        return outputs


# While it is recorded


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


# Before and in a run


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
    scope: dict[str, Any] = {"__name__": name, "__loader__": _Lines(written.text)}
    scope.update(written.objects)
    text = written.text
    for kernel in written.kernels.values():
        scope[kernel.name] = machine_code.load(kernel)
        text = text.replace(kernel.text, "\n" * kernel.text.count("\n"))
    exec(builtins.compile(text, name, "exec"), scope)
    # Python remembers where in a module it has found a name, but not if that has a `__getattr__`, as NumPy.
    scope["np"] = ModuleType("numpy")
    vars(scope["np"]).update((each, getattr(np, each)) for each in re.findall(r"\bnp\.(\w+)", text))
    return scope[written.name], scope.get("report", _nothing_held_back)


class _Lines:
    """What tracebacks ask for the lines of a module."""

    def __init__(self, text: str) -> None:
        self.text = text

    def get_source(self, name: str) -> str:
        """Return the text of the module."""
        return self.text


def _nothing_held_back() -> None:
    pass


_serial = count(1).__next__
