"""Recording: a function is run once on arrays that stand in for real ones, and every NumPy call is noted.

It works on copies of what it writes into, so that nothing outside is changed. What a run of the program
could not do anew, such as a shape that depends on entries, raises an error.

A write is recorded as a new value: the stand-in then stands for that one. While another array is alive
that shares the memory written to, a write is refused.
"""

from __future__ import annotations

import copy
import operator
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

from thriftgrad.autodiff import Tensor, recording
from thriftgrad.autodiff.adjoint import describe
from thriftgrad.autodiff.tape import Node, reachable
from thriftgrad.compile.program import (
    Array,
    Call,
    Input,
    Program,
    Variable,
    after,
    converted,
    drawn,
    leaves,
    mapped,
    with_entries,
)
from thriftgrad.compile.stand_in import StandIn, here, plain
from thriftgrad.errors import InPlaceError, RecordError
from thriftgrad.memory.execute import owner


def record(
    function: Callable[..., Any],
    arguments: Callable[[Callable[[Array, str, int], Any]], tuple[Any, Any]],
) -> tuple[Any, Recorder]:
    """Run `function` on stand-ins; return its result, with stand-ins in it, and the recorder.

    `arguments(stand)` returns its arguments, where `stand(array, name, position)` is what stands for an
    array.

    Raises:
        RecordError: it cannot be recorded; the message says where.
    """
    recorder = Recorder()
    args, kwargs = arguments(recorder.argument)
    token = recording.active.set(recorder)
    try:
        # Floating-point errors are the business of the run that follows.
        with np.errstate(all="call", call=_no_matter):
            recorder.errors = {**np.geterr()}
            result = function(*args, **kwargs)
            if recorder.refused is not None:
                # The function has caught it, and went on as it would not with real arrays.
                raise recorder.refused from None
            return result, recorder
    except Exception as error:
        # NumPy makes an error of its own of one that is raised while it converts an array.
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, RecordError):
            cause = cause.__cause__ or cause.__context__
        if cause is None or cause is error:
            raise
        raise cause from None
    finally:
        recording.active.reset(token)
        recorder.over = True


def _no_matter(kind: str, flag: int) -> None:
    pass


class Recorder:
    """What is noted of one run. See `thriftgrad.autodiff.recording` for what code may say to it.

    Attributes:
        calls: in their order.
        inputs: what comes from outside, in the order in which it was asked for.
        positions: which of the arguments' leaves an input is.
        after: what to do after each run.
        errors: how floating-point errors are handled where the function says nothing of them.
        read_late: what the function itself reads after it has written into something live.
        refused: the first error that said why the function cannot be recorded, if there was one.
        over: whether nothing is to be noted any more.
    """

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.inputs: list[Input] = []
        self.positions: dict[Variable, int] = {}
        self.after: list[Callable[[], None]] = []
        self.errors: dict[str, Any] = {}
        self.read_late: set[Variable] = set()
        self.refused: RecordError | None = None
        self.over = False
        self._has_written = False
        # By the id of what lies outside: it, so that the id stays its own, and what stands for it.
        self._standing: dict[int, tuple[Any, StandIn, Input]] = {}
        self._arguments: dict[int, StandIn] = {}
        self._gradients: dict[Any, Any] = {}
        self._before: dict[Any, StandIn | None] = {}
        self._holders: dict[Any, Any] = {}
        self._generators: dict[int, tuple[Any, Any, Variable]] = {}
        self._draws: list[Any] = []
        self._next_draw: int | None = None  # in a second run, the place of the draw to give again
        self._reruns = 0
        self._rerun = 0
        self._sharing: dict[int, weakref.WeakSet[StandIn]] = {}

    def finished(self, outputs: Sequence[StandIn]) -> Program:
        """Return the program that gives these outputs."""
        for _, stand_in, each in self._standing.values():
            if stand_in.variable is not each.variable:
                each.final = stand_in.variable
        gradients = []
        for leaf, value in self._gradients.items():
            if value is self._before[leaf]:
                continue
            if value is not None:
                value = self._stand_in(value).variable
            gradients.append((self._holders.get(leaf, leaf), value))
        return Program(
            self.inputs, self.calls, [each.variable for each in outputs], gradients, self.after
        )

    def forget(self) -> None:
        """Let go of all arrays; stand-ins that were kept somewhere are of no use any more."""
        for kept in (
            self._standing,
            self._arguments,
            self._gradients,
            self._before,
            self._generators,
            self._draws,
            self._sharing,
        ):
            kept.clear()

    def check_tape(self, node: Node) -> None:
        """Refuse a sweep over residuals that were written into since.

        Raises:
            InPlaceError: there is one.
        """
        for each in reachable([node]):
            for _, _, residuals in each.edges or ():
                for residual in residuals:
                    if isinstance(residual, StandIn) and residual.changed > each.number:
                        raise InPlaceError(
                            f"an array of shape {residual.shape} was written into after the forward pass "
                            f"that this backward pass goes back through{here()}; finish all backward "
                            f"passes before the step, or run the forward pass again"
                        )

    @property
    def expected_gradients(self) -> list[tuple[Any, Any, bool]]:
        """The parameters that have been differentiated, their leaves, and whether there was a gradient."""
        return [
            (self._holders[leaf] if leaf in self._holders else _Alone(leaf), leaf, v is not None)
            for leaf, v in self._before.items()
        ]

    def refusal(self, text: str) -> RecordError:
        """Return the error to be raised where the function cannot be recorded."""
        error = RecordError(text)
        self.refused = self.refused or error
        return error

    # What code says to a recorder

    def argument(self, value: Any, name: str, position: int) -> StandIn:
        """Return what stands for something that the person passes."""
        if isinstance(value, np.ndarray):
            # Nothing is written into it, so that the recording can work on the array itself.
            given, value = value, value.view()
            value.flags.writeable = False
            known = self._arguments.get(id(given))
            if known is not None:
                return known  # one array twice is one stand-in, as `x is y` may be asked
        stand_in = self._live(value, None, name)
        self.positions[stand_in.variable] = position
        if isinstance(value, np.ndarray):
            self._arguments[id(given)] = stand_in
        return stand_in

    def name_of_argument(self, stand_in: StandIn) -> str | None:
        """Return what an argument is called, or None for what is none."""
        v = stand_in.variable
        return next((i.name for i in self.inputs if i.variable is v and v in self.positions), None)

    def outside(self, array: Array) -> StandIn:
        """Return what stands for an array that the function has not made from its arguments."""
        known = self._standing.get(id(array))
        if known is not None:
            return known[1]
        view = array.view()
        view.flags.writeable = False
        stand_in = self._live(view, lambda: array, "constant", of=array)
        self.inputs[-1].outside = True
        return stand_in

    def parameter(self, parameter: Any, array: Array) -> StandIn:
        """Return what stands for the array of a parameter."""
        known = self._standing.get(id(parameter))
        if known is not None:
            return known[1]
        self._holders[parameter.node] = parameter
        name = parameter.name or "parameter"
        fetch = partial(_slot.__get__, parameter)
        stand_in = self._live(array, fetch, name, of=parameter, own=True)
        self.inputs[-1].wrote = parameter.node.touch
        return stand_in

    def assign(self, parameter: Any, value: Any) -> None:
        """Note another value of a parameter."""
        stand_in = parameter.value
        if value is stand_in:  # after p.value -= ...
            return
        if np.shape(value) != stand_in.shape or np.result_type(value) != stand_in.dtype:
            raise self.refusal(
                f"a parameter of shape {stand_in.shape} and dtype {stand_in.dtype} was given a value of "
                f"shape {np.shape(value)} and dtype {np.result_type(value)} in a function that is being "
                f"recorded{here()}; a parameter keeps its shape and dtype there"
            )
        stand_in[...] = value

    def gradient(self, leaf: Any) -> Any:
        """Return the gradient that is at a leaf."""
        if leaf not in self._gradients:
            found = leaf.grad
            if found is not None:
                holder = self._holders.get(leaf, leaf)
                found = self._live(found, lambda: holder.grad, "gradient")
            self._gradients[leaf] = self._before[leaf] = found
        return self._gradients[leaf]

    def set_gradient(self, leaf: Any, gradient: Any) -> None:
        """Note another gradient at a leaf."""
        self.gradient(leaf)
        self._gradients[leaf] = gradient
        if isinstance(gradient, StandIn) and leaf in self._holders:
            gradient.variable.hint = f"grad_{self._holders[leaf].name or 'parameter'}"

    def touched(self, parameter: Any) -> None:
        """Nothing to note: what is written into a stand-in is known."""

    def number(self, get: Callable[[], float], name: str) -> StandIn:
        """Return what stands for a number that `get` returns anew at each run."""
        return self._live(get(), get, name)

    def array(self, get: Callable[[], Array], name: str) -> StandIn:
        """Return what stands for an array that `get` returns anew at each run."""
        array = get()
        known = self._standing.get(id(array))
        return known[1] if known else self._live(array, get, name, of=array, own=True)

    def draw(self, generator: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> Any:
        """Return what stands for draws; a copy of the generator makes those of the recording."""
        if self._next_draw is not None and self._next_draw < len(self._draws):
            self._next_draw += 1
            return self._draws[self._next_draw - 1]
        known = self._generators.get(id(generator))
        if known is None:
            variable = Variable((), np.dtype(object), hint="rng")
            self.inputs.append(Input(variable, "rng", lambda: generator))
            known = self._generators[id(generator)] = (
                generator,
                copy.deepcopy(generator),
                variable,
            )
        _, twin, variable = known
        result = drawn(twin, shape, dtype)
        result = self._note(drawn, (variable, shape, np.dtype(dtype)), {}, result, ())
        self._draws.append(result)
        return result

    @property
    def draws(self) -> int:
        """How many draws there have been up to here, in the run of the function that this is in."""
        return len(self._draws) if self._next_draw is None else self._next_draw

    @contextmanager
    def rerun(self, draws: int) -> Iterator[None]:
        """Note what is called as a second run, which draws again what came after so many draws."""
        before = self._next_draw, self._rerun
        self._reruns += 1
        self._next_draw, self._rerun = draws, self._reruns
        try:
            yield
        finally:
            self._next_draw, self._rerun = before

    def require(self, holds: Any, complaint: Callable[..., Exception], args: Any) -> None:
        """Check now, and at each run, that `holds` is true."""
        if not isinstance(holds, StandIn):
            if not holds:
                raise complaint(*args)
            return
        if not holds.value:
            token = recording.active.set(None)  # a closer look for the message is not recorded
            try:
                raise complaint(*[plain(each) for each in args])
            finally:
                recording.active.reset(token)
        symbols = self._symbols((holds, *args))
        self.calls.append(Call(recording.require, symbols, {"complaint": complaint}, (), "require"))

    def afterwards(self, action: Callable[[], None]) -> None:
        """Note what to do after each run, once."""
        if any(_what(action) == _what(each) for each in self.after):
            raise self.refusal(
                f"a function that is being recorded makes two steps of one optimiser{here()}, and a run "
                f"of its program counts steps at its end alone; compile one step, and call it twice"
            )
        self.after.append(action)

    def whole(self, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Note a call as one, without a look inside."""
        if _holds(Tensor, (args, kwargs)) or not _holds(StandIn, (args, kwargs)):
            return function(*args, **kwargs)
        return self.call(function, args, kwargs)

    # Noting calls

    def operate(self, function: Callable[..., Any], ufunc: np.ufunc, *operands: Any) -> Any:
        """Note an operator of Python's."""
        values = [plain(each) for each in operands]
        if all(
            isinstance(v, int | float | complex) and not isinstance(v, np.generic) for v in values
        ):
            result = function(*values)
            return self._note(function, operands, {}, result, (), kind="number")
        if ufunc is np.power and isinstance(values[1], int | float):
            found = _POWERS.get(values[1]) if not isinstance(operands[1], StandIn) else None
            base = values[0]
            own = isinstance(operands[0], StandIn) and not operands[0].variable.scalar
            if found is not None and own and base.dtype.kind in "fc":
                return self.call(found, (operands[0],), {})
        return self.call(ufunc, operands, {})

    def call(self, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Evaluate a call on the arrays inside, note it, and return what stands for the result."""
        if self.over:
            raise self.refusal(
                "a stand-in of a recording that is over was used: compile's function has kept a value "
                "outside (in a list, an attribute or a global); return it from the function instead"
            )
        if function in _ARRAYS:
            raise self.refusal(
                f"np.{function.__name__} would make a plain array of a value that is being "
                f"recorded{here()}; leave the call out"
            )
        kwargs = {name: value for name, value in kwargs.items() if value is not np._NoValue}
        out = kwargs.pop("out", None)
        if out is not None:
            outs = out if isinstance(out, tuple) else (out,)
            if any(each is not None for each in outs):
                return self._call_into(function, args, kwargs, outs)
        if function is np.copyto:
            return self._copy(*args, **kwargs)
        if function in _WRITING:
            return self.call_on(function, *args, **kwargs)
        self._check_shape_is_fixed(function, args, kwargs)
        result = function(*plain(args), **plain(kwargs))
        if function in _ABOUT_LAYOUT:
            return result
        return self._note(function, args, kwargs, result, self._arrays_in((args, kwargs)))

    def _check_shape_is_fixed(self, function: Callable[..., Any], args: Any, kwargs: Any) -> None:
        """Refuse a call whose result has a shape that depends on recorded entries."""
        if function is operator.getitem:
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            varying = any(isinstance(v, StandIn) and v.dtype.kind == "b" for v in index)
        elif function in _COUNTING:
            varying = _holds(StandIn, (args[1:], kwargs))
        else:
            varying = function in _SELECTING or (function is np.where and len(args) == 1)
        if varying:
            what = "x[mask]" if function is operator.getitem else describe(function)
            instead = "call it outside, and pass the result as an argument"
            if function in _COUNTING:
                instead = "pass counts and places as int, or as a tuple of int"
            instead = _INSTEAD.get(function, instead)
            raise self.refusal(
                f"{what} of a value that is being recorded gives an array whose shape depends on its "
                f"entries{here()}, and a recorded program has fixed shapes; {instead}"
            )

    def call_on(self, function: Callable[..., Any], a: Any, *args: Any, **kwargs: Any) -> None:
        """Note `function(a, ...)`, which writes into `a` and returns nothing."""
        self._check_writable(a)
        symbols, options = self._symbols((a, function, *args)), self._symbols(kwargs)
        function(a.value, *plain(args), **plain(kwargs))
        self._rebind(a, after, symbols, options)

    def set_entries(self, a: StandIn, index: Any, value: Any) -> None:
        """Note `a[index] = value`."""
        self._check_writable(a)
        everything = index is Ellipsis or index == () or index == slice(None)
        symbols = self._symbols((a, index, value))
        a.value[plain(index)] = plain(value)
        if not everything:
            self._rebind(a, with_entries, symbols)
        elif isinstance(value, StandIn) and value.variable.layout == a.variable.layout:
            self._bind(a, value.variable)
        else:
            self._rebind(a, converted, (symbols[2], a.shape, a.dtype))

    def _copy(self, dst: Any, src: Any, casting: str = "same_kind", where: Any = True) -> None:
        if hasattr(src, "dtype") and not np.can_cast(src.dtype, dst.dtype, casting):  # type: ignore[arg-type]
            raise TypeError(
                f"np.copyto: cannot cast {src.dtype} to {dst.dtype} by the rule {casting!r}"
            )
        if where is not True:
            dst[...] = np.where(where, src, dst)
        else:
            dst[...] = src

    def _call_into(self, function: Any, args: Any, kwargs: Any, outs: Sequence[Any]) -> Any:
        """Note a call that writes its result into a given array."""
        if len(outs) != 1 or not isinstance(outs[0], StandIn):
            raise self.refusal(
                f"{describe(function)} writes its result into an array that is not recorded{here()}; "
                f"leave out= away, or make the array by np.zeros_like(x) of a recorded x"
            )
        out = outs[0]
        if not isinstance(function, np.ufunc):
            out[...] = self.call(function, args, kwargs)
            return out
        self._check_writable(out)
        symbols, options = self._symbols(args), self._symbols(kwargs)
        old, where = out.variable, options.get("where", True)
        function(*plain(args), **plain(kwargs), out=out.value)
        self._rebind(out, function, symbols, options)
        if where is not True:  # outside of the mask the old entries stay
            self._rebind(out, np.where, (where, out.variable, old))
        return out

    def _rebind(self, a: StandIn, function: Any, symbols: Any, options: Any = None) -> None:
        new = self._variable(a.value)
        if a.value.size and new.packed != a.value.strides:
            # Its memory in a program has no gaps, on which it depends what is a view of it.
            a.value = np.array(a.value, order="C")
            new = self._variable(a.value)
            self._sharing.setdefault(id(a.value), weakref.WeakSet()).add(a)
        self._append(Call(function, symbols, options or {}, (new,)))
        self._bind(a, new)

    def _bind(self, a: StandIn, new: Variable) -> None:
        if not self._has_written:
            self._has_written = any(a is known for _, known, _ in self._standing.values())
        a.variable = new
        a.changed = Node((), (), np.dtype(object)).number

    def _note(
        self,
        function: Callable[..., Any],
        args: Any,
        kwargs: Any,
        result: Any,
        given: Sequence[StandIn],
        kind: str = "call",
    ) -> Any:
        symbols, options = self._symbols(args), self._symbols(kwargs)
        results: list[Variable] = []
        wrapped = self._wrapped(function, result, given, kind, results)
        if not results:
            if wrapped is None:
                raise self.refusal(
                    f"{describe(function)} returned nothing, so that compile cannot know what it did"
                    f"{here()}"
                )
            return wrapped  # nothing but what it was given
        call = Call(function, symbols, options, tuple(results), kind)
        if kind == "call" and all(each.base is not None for each in results):
            call.kind = "view"
        self._append(call)
        self._find_constant(call, result)
        if isinstance(result, list | tuple) and call.kind == "call":
            flat = [each for each in result if each is not None]
            if len(flat) != len(results) or any(isinstance(v, list | tuple) for v in flat):
                raise self.refusal(
                    f"{describe(function)} gave nested results, which compile cannot record{here()}"
                )
        return wrapped

    def _wrapped(
        self,
        function: Callable[..., Any],
        value: Any,
        given: Sequence[StandIn],
        kind: str,
        results: list[Variable],
    ) -> Any:
        """Return what stands for a result of a call; its variables are added to `results`."""
        for each in given:
            if each.value is value:
                return each
        if isinstance(value, list | tuple):
            items = [self._wrapped(function, each, given, kind, results) for each in value]
            return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
        if value is None:
            return None
        if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "biufc":
            variable = self._variable(value)
            if isinstance(value, np.ndarray):
                sharing = (each.variable for each in given if _share(value, each.value))
                variable.base = next(sharing, None)
        elif kind == "number" and isinstance(value, bool | int | float | complex):
            variable = Variable((), np.dtype(type(value)), number=True)
        else:
            kind = f"an object of type {type(value).__name__}"
            if isinstance(value, np.ndarray | np.generic):
                kind = f"an array of dtype {value.dtype}"
            numbers = kind == "an array of dtype object"
            instead = "; pass x.astype(float) if these are numbers" if numbers else ""
            raise self.refusal(
                f"{describe(function)} gave {kind} that depends on the entries of an array{here()}, and "
                f"compile records only calls that give arrays of bool, int, float or complex{instead}"
            )
        results.append(variable)
        return self._standing_for(value, variable)

    def _append(self, call: Call) -> None:
        errors: dict[str, Any] = {**np.geterr()}
        if errors != self.errors and call.kind == "call":
            call.errors = {k: v for k, v in errors.items() if v != self.errors[k]}
        if self._has_written:
            self.read_late.update(v.root for v in call.operands)
        call.rerun, call.recomputed = self._rerun, self._rerun > 0
        self.calls.append(call)

    def _find_constant(self, call: Call, result: Any) -> None:
        """Note a result that is the same number everywhere and in every run."""
        if len(call.results) != 1 or not isinstance(result, np.ndarray | np.generic):
            return
        operands = call.operands
        known = call.function in _UNIFORM
        folded = (
            bool(operands)
            and all(each.constant is not None for each in operands)
            and (result.size == 1 or call.kind == "view")
            and (isinstance(call.function, np.ufunc) or call.function in _KEEPING)
        )
        if (known or folded) and result.size:
            call.result.constant = np.asarray(result)[(0,) * result.ndim]

    def _symbols(self, value: Any) -> Any:
        """Return arguments with variables in the place of arrays."""
        return mapped(value, self._symbol)

    def _symbol(self, value: Any) -> Any:
        if isinstance(value, StandIn):
            if value.recorder is not self:
                raise self.refusal("a stand-in of another recording was used; the two must not mix")
            return value.variable
        return self.outside(value).variable if isinstance(value, np.ndarray) else value

    def _stand_in(self, value: Any) -> StandIn:
        """Return what stands for `value`, which may be a plain array or number that the function made."""
        if isinstance(value, StandIn):
            return value
        return self._live(value, lambda: value, "constant")

    def _live(
        self,
        value: Any,
        fetch: Callable[[], Any] | None,
        name: str,
        *,
        of: Any = None,
        own: bool = False,
    ) -> StandIn:
        """Return what stands for an input, working on a copy of it if that is to be the recorder's own.

        The next time, it is found by what it is `of`, if anything.
        """
        variable = self._variable(value)
        variable.hint = name
        variable.number = not isinstance(value, np.ndarray | np.generic)
        self.inputs.append(Input(variable, name, fetch))
        stand_in = self._standing_for(np.array(value) if own else value, variable)
        if of is not None:
            self._standing[id(of)] = of, stand_in, self.inputs[-1]
        return stand_in

    def _standing_for(self, value: Any, variable: Variable) -> StandIn:
        if isinstance(value, np.generic):
            value = np.asarray(value)  # as a program has it, so that views of it are seen
        stand_in = StandIn(self, value, variable)
        if isinstance(value, np.ndarray):
            self._sharing.setdefault(id(owner(value)), weakref.WeakSet()).add(stand_in)
        return stand_in

    def _check_writable(self, a: Any) -> None:
        if not isinstance(a, StandIn) or a.variable.scalar or a.variable.number:
            raise self.refusal(
                f"a value that is being recorded was to be written into a {type(a).__name__}{here()}; make "
                f"the array by np.zeros_like(x) of a recorded x"
            )
        if not a.value.flags.writeable:
            raise self.refusal(
                f"a write into an array that was passed to the function, or comes from outside it"
                f"{here()}; work on a copy (x = x + 1 and not x += 1)"
            )
        others = self._sharing.get(id(owner(a.value)), ())
        if any(each is not a and np.may_share_memory(each.value, a.value) for each in others):
            raise self.refusal(
                f"a write into an array while a view of it, or what it is a view of, is in use"
                f"{here()}; write into a copy (a.copy()), or before the view is taken"
            )

    def _variable(self, value: Any) -> Variable:
        if isinstance(value, np.ndarray):
            return Variable(value.shape, value.dtype, value.strides)
        if isinstance(value, np.generic):
            return Variable((), value.dtype, scalar=True)
        return Variable((), np.dtype(type(value)), number=True)

    def _arrays_in(self, value: Any) -> list[StandIn]:
        """Return what stands for the arrays in arguments."""
        found = []
        for each in leaves(value):
            if isinstance(each, np.ndarray):
                found.append(self.outside(each))
            elif isinstance(each, StandIn) and not each.variable.number:
                found.append(each)
        return found


# What functions of NumPy do

# ndarray's operator takes another way for these powers, which may differ in the last bit
_POWERS: dict[float, np.ufunc] = {2: np.square, 0.5: np.sqrt, -1: np.reciprocal, 1: np.positive}

_ABOUT_LAYOUT = {
    *(np.shape, np.ndim, np.size, np.result_type, np.can_cast, np.iscomplexobj, np.isrealobj),
    *(np.may_share_memory, np.shares_memory, np.min_scalar_type, np.common_type, np.einsum_path),
}
"""Answer with what is the same in every run, and are no part of a program."""
_ARRAYS = {np.array, np.asarray, np.asanyarray, np.ascontiguousarray, np.asfortranarray}
_SELECTING = {
    *(np.nonzero, np.flatnonzero, np.argwhere, np.extract, np.compress, np.unique, np.unique_all),
    *(np.unique_counts, np.unique_inverse, np.unique_values, np.intersect1d, np.setdiff1d),
    *(np.setxor1d, np.union1d, np.trim_zeros, np.bincount, np.linalg.lstsq),
}
"""Give results whose shape depends on entries."""
_INSTEAD: dict[Any, str] = {
    **dict.fromkeys(
        (
            operator.getitem,
            np.extract,
            np.compress,
            np.where,
            np.nonzero,
            np.flatnonzero,
            np.argwhere,
        ),
        "use np.where(mask, x, 0) and the like in place of x[mask]",
    ),
    np.linalg.lstsq: "use np.linalg.solve(a.T @ a, a.T @ b), or np.linalg.pinv(a) @ b",
    np.bincount: "for n bins use np.sum(k[:, None] == np.arange(n), axis=0), or write "
    "np.add.at(counts, k, 1) into counts = np.zeros_like(k, shape=n)",
}
"""What to write for them."""
_COUNTING = {np.repeat, np.tile, np.pad, np.delete, np.insert, np.split, np.array_split}
"""Give results whose shape depends on their other arguments, which must therefore be known."""
_WRITING = {np.put, np.place, np.putmask, np.put_along_axis, np.fill_diagonal}
_UNIFORM = {np.zeros_like, np.ones_like}
"""Give the same number everywhere."""
_KEEPING = {np.reshape, np.broadcast_to, np.transpose, np.expand_dims, np.squeeze, converted}
"""Do so if they are given such an array."""


# Helpers

_slot: Any = Tensor.__dict__["value"]
"""Where the array of a parameter is, behind the property that asks the recorder."""


class _Alone:
    """A leaf that belongs to no parameter."""

    def __init__(self, leaf: Any) -> None:
        self.node = leaf


def _what(action: Callable[[], None]) -> Any:
    return (action.func, action.args) if isinstance(action, partial) else action


def _holds(kind: type, value: Any) -> bool:
    return any(isinstance(each, kind) for each in leaves(value))


def _share(a: Any, b: Any) -> bool:
    return isinstance(b, np.ndarray) and np.may_share_memory(a, b)
