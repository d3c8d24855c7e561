"""Recording: arrays that stand in for real ones, and note every NumPy call.

A function is run once on copies of what it works on. Each stand-in holds the real array beside its
place in the program, so that shapes and dtypes are those of a plain run, and nothing outside is changed.
What would let an entry of an array decide what happens next, a branch above all, raises an error, as a
run of the program could not decide anew.

A write is recorded as a new value: the stand-in then stands for that one. While another array is alive
that shares the memory written to, a write is refused.
"""

from __future__ import annotations

import copy
import operator
import sys
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

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
    with_entries,
)
from thriftgrad.errors import InPlaceError, RecordError


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
            return function(*args, **kwargs), recorder
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


class StandIn:
    """An array, or a Python number, while a function is recorded."""

    __slots__ = ("__weakref__", "changed", "recorder", "value", "variable")

    def __init__(self, recorder: Recorder, value: Any, variable: Variable) -> None:
        self.recorder = recorder
        self.changed = -1  # the number of the newest node when it was last written into
        self.value = value
        self.variable = variable

    # What the same in every run is: shape and dtype

    shape = property(lambda self: self.variable.shape)
    dtype = property(lambda self: self.variable.dtype)
    ndim = property(lambda self: len(self.variable.shape))
    size = property(lambda self: int(np.size(self.value)))
    nbytes = property(lambda self: self.variable.nbytes)
    itemsize = property(lambda self: self.variable.dtype.itemsize)
    strides = property(lambda self: self.variable.strides)

    def __len__(self) -> int:
        return len(self.value)

    def __repr__(self) -> str:
        return f"<stand-in for an array of shape {self.shape} and dtype {self.dtype}>"

    # How NumPy's calls arrive

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        """Note a call of a ufunc (NEP 13)."""
        if any(isinstance(each, Tensor) for each in inputs):
            return NotImplemented
        if method == "at":
            return self.recorder.call_on(ufunc.at, *inputs)
        function = ufunc if method == "__call__" else getattr(ufunc, method)
        return self.recorder.call(function, inputs, kwargs)

    def __array_function__(
        self, function: Callable[..., Any], types: Sequence[type], args: Any, kwargs: Any
    ) -> Any:
        """Note a call of one of NumPy's other functions (NEP 18)."""
        if any(issubclass(each, Tensor) for each in types):
            return NotImplemented
        return self.recorder.call(function, args, kwargs)

    # What would bake an entry in

    def _leave(self, what: str) -> NoReturn:
        raise RecordError(
            f"{what} of a value that is being recorded by compile{_place()}: a recorded program makes "
            f"the same calls at every run, so nothing may depend on the entries of an array; use "
            f"np.where for a choice, return the value and look at it outside, or compile with "
            f'fallback="eager"'
        )

    def __bool__(self) -> bool:
        self._leave("a branch (if, while, and, or) on the truth")

    def __float__(self) -> float:
        self._leave("float()")

    def __int__(self) -> int:
        self._leave("int()")

    def __complex__(self) -> complex:
        self._leave("complex()")

    def __index__(self) -> int:
        self._leave("use as an index")

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        self._leave("conversion to a plain array (np.asarray, a function outside NumPy)")

    def __format__(self, spec: str) -> str:
        self._leave("formatting")

    def __reduce__(self) -> Any:
        self._leave("a copy by copy or pickle")

    def item(self, *args: Any) -> Any:
        """Refuse."""
        self._leave(".item()")

    def tolist(self) -> Any:
        """Refuse."""
        self._leave(".tolist()")

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("_") or not hasattr(np.ndarray, name):
            raise AttributeError(f"an array has no attribute {name!r}")
        raise RecordError(
            f".{name} of a value that is being recorded by compile{_place()}, which cannot follow it; use "
            f"NumPy's functions (np.sort for .sort(), np.reshape for .resize()), or compile with "
            f'fallback="eager"'
        )

    # Being a container

    def __iter__(self) -> Iterator[Any]:
        if not self.shape:
            raise TypeError("iteration over a 0-d array")
        return iter([self[i] for i in range(len(self))])

    def __contains__(self, value: Any) -> bool:
        self._leave("a look whether something is in the entries")

    def __getitem__(self, index: Any) -> Any:
        return self.recorder.call(operator.getitem, (self, index), {})

    def __setitem__(self, index: Any, value: Any) -> None:
        self.recorder.set_entries(self, index, value)

    # NumPy's methods, by NumPy's functions

    T = property(lambda self: np.transpose(self))
    mT = property(lambda self: np.swapaxes(self, -1, -2))  # noqa: N815 - NumPy's name
    real = property(lambda self: np.real(self))
    imag = property(lambda self: np.imag(self))
    flat = property(lambda self: iter(np.reshape(self, -1)))

    def reshape(self, *shape: Any, order: str = "C") -> Any:
        """See `np.reshape`."""
        shape = shape[0] if len(shape) == 1 else shape
        return np.reshape(self, shape, order=order)  # type: ignore[call-overload]

    def transpose(self, *axes: Any) -> Any:
        """See `np.transpose`."""
        if not axes or axes == (None,):
            return np.transpose(self)
        return np.transpose(self, axes[0] if len(axes) == 1 and np.ndim(axes[0]) else axes)

    def flatten(self, order: str = "C") -> Any:
        """Return the entries along one axis, as an array of its own."""
        return np.ravel(self, order=order).copy()  # type: ignore[call-overload]

    def astype(self, dtype: Any, copy: bool = True, **options: Any) -> Any:
        """Return the entries in another dtype."""
        if not copy and np.dtype(dtype) == self.dtype:
            return self
        np.empty(0, self.dtype).astype(dtype, **options)  # raises what it must
        return self.recorder.call(converted, (self, self.shape, np.dtype(dtype)), {})

    def copy(self, order: str = "C") -> Any:
        """Return an array of its own with these entries."""
        return self.recorder.call(converted, (self, self.shape, self.dtype, order), {})

    def fill(self, value: Any) -> None:
        """Write `value` everywhere."""
        self[...] = value

    __hash__ = object.__hash__


def _place() -> str:
    """Return where the person's code is, for a message."""
    frame: Any = sys._getframe(2)
    while frame is not None:
        file = frame.f_code.co_filename
        if not any(file.startswith(each) for each in _LIBRARIES):
            return f" at {file}:{frame.f_lineno}"
        frame = frame.f_back
    return ""


_LIBRARIES = (
    str(Path(__file__).parents[1]) + "/",
    str(Path(np.__file__).parent) + "/",
    "<",
)


def _method(function: Callable[..., Any], position: int = 0) -> Callable[..., Any]:
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        return function(*args[:position], self, *args[position:], **kwargs)

    method.__doc__ = f"See `np.{function.__name__}`."
    return method


for _name in (
    *("all", "any", "argmax", "argmin", "argpartition", "argsort", "choose", "clip", "cumprod"),
    *("cumsum", "diagonal", "dot", "max", "mean", "min", "nonzero", "prod", "ptp", "ravel"),
    *("repeat", "round", "searchsorted", "squeeze", "std", "sum", "swapaxes", "take", "trace"),
    *("var", "conj", "conjugate"),
):
    setattr(StandIn, _name, _method(getattr(np, _name)))
StandIn.compress = _method(np.compress, 1)  # type: ignore[attr-defined]


_BINARY: dict[str, tuple[Callable[..., Any], np.ufunc]] = {
    "add": (operator.add, np.add),
    "sub": (operator.sub, np.subtract),
    "mul": (operator.mul, np.multiply),
    "truediv": (operator.truediv, np.divide),
    "floordiv": (operator.floordiv, np.floor_divide),
    "mod": (operator.mod, np.remainder),
    "divmod": (divmod, np.divmod),
    "pow": (operator.pow, np.power),
    "matmul": (operator.matmul, np.matmul),
    "and": (operator.and_, np.bitwise_and),
    "or": (operator.or_, np.bitwise_or),
    "xor": (operator.xor, np.bitwise_xor),
    "lshift": (operator.lshift, np.left_shift),
    "rshift": (operator.rshift, np.right_shift),
    "lt": (operator.lt, np.less),
    "le": (operator.le, np.less_equal),
    "gt": (operator.gt, np.greater),
    "ge": (operator.ge, np.greater_equal),
    "eq": (operator.eq, np.equal),
    "ne": (operator.ne, np.not_equal),
}
_UNARY: dict[str, tuple[Callable[..., Any], np.ufunc]] = {
    "neg": (operator.neg, np.negative),
    "pos": (operator.pos, np.positive),
    "abs": (operator.abs, np.absolute),
    "invert": (operator.invert, np.invert),
}


def _install_operators() -> None:
    def install(name: str, function: Callable[..., Any], ufunc: np.ufunc) -> None:
        def forward(self: Any, other: Any) -> Any:
            if isinstance(other, Tensor):
                return NotImplemented
            return self.recorder.operate(function, ufunc, self, other)

        def reflected(self: Any, other: Any) -> Any:
            return self.recorder.operate(function, ufunc, other, self)

        def in_place(self: Any, other: Any) -> Any:
            if isinstance(other, Tensor) or self.variable.scalar or self.variable.number:
                return forward(self, other)
            return self.recorder.call(ufunc, (self, other), {"out": self})

        setattr(StandIn, f"__{name}__", forward)
        if name not in ("lt", "le", "gt", "ge", "eq", "ne"):
            setattr(StandIn, f"__r{name}__", reflected)
            if name != "divmod":
                setattr(StandIn, f"__i{name}__", in_place)

    for name, (function, ufunc) in _BINARY.items():
        install(name, function, ufunc)
    for name, (function, ufunc) in _UNARY.items():

        def unary(self: Any, function: Any = function, ufunc: Any = ufunc) -> Any:
            return self.recorder.operate(function, ufunc, self)

        setattr(StandIn, f"__{name}__", unary)


_install_operators()

# ndarray's operator takes another way for these powers, which may differ in the last bit
_POWERS: dict[float, np.ufunc] = {2: np.square, 0.5: np.sqrt, -1: np.reciprocal, 1: np.positive}

_ABOUT_LAYOUT = {
    *(np.shape, np.ndim, np.size, np.result_type, np.can_cast, np.iscomplexobj, np.isrealobj),
    *(np.may_share_memory, np.shares_memory, np.min_scalar_type, np.common_type, np.einsum_path),
}
_OF_SHAPE = {np.zeros_like, np.ones_like, np.empty_like}
_ARRAYS = {np.array, np.asarray, np.asanyarray, np.ascontiguousarray, np.asfortranarray}


class Recorder:
    """What is noted of one run. See `thriftgrad.autodiff.recording` for what code may say to it."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.inputs: list[Input] = []
        self.after: list[Callable[[], None]] = []
        self.over = False
        self.positions: dict[Variable, int] = {}
        self.errors: dict[str, Any] = {}
        self._standing: dict[int, tuple[Any, StandIn, Input]] = {}
        self.read_late: set[Variable] = set()  # inputs, after a write into what is live
        self._has_written = False
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
                            f"that this backward pass goes back through{_place()}; finish all backward "
                            f"passes before the step, or run the forward pass again"
                        )

    @property
    def expected_gradients(self) -> list[tuple[Any, Any, bool]]:
        """The parameters that have been differentiated, their leaves, and whether there was a gradient."""
        return [
            (self._holders[leaf] if leaf in self._holders else _Alone(leaf), leaf, v is not None)
            for leaf, v in self._before.items()
        ]

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

    def outside(self, array: Array) -> StandIn:
        """Return what stands for an array that the function has not made from its arguments."""
        self._foreign(array)
        return self._standing[id(array)][1]

    def parameter(self, parameter: Any, array: Array) -> StandIn:
        """Return what stands for the array of a parameter."""
        known = self._standing.get(id(parameter))
        if known is None:
            self._holders[parameter.node] = parameter
            name = parameter.name or "parameter"
            stand_in = self._live(array, partial(_slot.__get__, parameter), name, own=True)
            self.inputs[-1].wrote = parameter.node.touch
            self._standing[id(parameter)] = known = parameter, stand_in, self.inputs[-1]
        return known[1]

    def assign(self, parameter: Any, value: Any) -> None:
        """Note another value of a parameter."""
        stand_in = parameter.value
        if value is stand_in:  # after p.value -= ...
            return
        if np.shape(value) != stand_in.shape or np.result_type(value) != stand_in.dtype:
            raise RecordError(
                f"a parameter of shape {stand_in.shape} and dtype {stand_in.dtype} was given a value of "
                f"shape {np.shape(value)} and dtype {np.result_type(value)} in a function that is being "
                f"recorded{_place()}; a parameter keeps its shape and dtype there"
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
        if known is None:
            stand_in = self._live(array, get, name, own=True)
            self._standing[id(array)] = known = array, stand_in, self.inputs[-1]
        return known[1]

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
            token = recording.active.set(
                None
            )  # the complaint may look closer, which is no part of it
            try:
                raise complaint(*[_plain(each) for each in args])
            finally:
                recording.active.reset(token)
        symbols = self._symbols((holds, *args))
        self.calls.append(Call(recording.require, symbols, {"complaint": complaint}, (), "require"))

    def afterwards(self, action: Callable[[], None]) -> None:
        """Note what to do after each run, once."""
        if any(_what(action) == _what(each) for each in self.after):
            raise RecordError(
                f"a function that is being recorded makes two steps of one optimiser{_place()}, and a run "
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
        values = [_plain(each) for each in operands]
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
            raise RecordError(
                "a stand-in of a recording that is over was used: compile's function has kept a value "
                "outside (in a list, an attribute or a global); return it from the function instead"
            )
        if function in _ARRAYS:
            raise RecordError(
                f"np.{function.__name__} would make a plain array of a value that is being "
                f"recorded{_place()}; leave the call out"
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
        plain, options = _plain(args), _plain(kwargs)
        result = function(*plain, **options)
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
            raise RecordError(
                f"{describe(function)} of a value that is being recorded gives an array whose shape "
                f"depends on its entries{_place()}, and a recorded program has fixed shapes; use "
                f"np.where(mask, x, 0) and the like in place of x[mask]"
            )

    def call_on(self, function: Callable[..., Any], a: Any, *args: Any, **kwargs: Any) -> None:
        """Note `function(a, ...)`, which writes into `a` and returns nothing."""
        self._check_writable(a)
        symbols, options = self._symbols((a, function, *args)), self._symbols(kwargs)
        function(a.value, *_plain(args), **_plain(kwargs))
        self._rebind(a, after, symbols, options)

    def set_entries(self, a: StandIn, index: Any, value: Any) -> None:
        """Note `a[index] = value`."""
        self._check_writable(a)
        everything = index is Ellipsis or index == () or index == slice(None)
        symbols = self._symbols((a, index, value))
        a.value[_plain(index)] = _plain(value)
        if not everything:
            self._rebind(a, with_entries, symbols)
        elif isinstance(value, StandIn) and value.variable.layout == a.variable.layout:
            self._bind(a, value.variable)
        else:
            self._rebind(a, converted, (symbols[2], a.shape, a.dtype))

    def _copy(self, dst: Any, src: Any, casting: str = "same_kind", where: Any = True) -> None:
        if where is not True:
            dst[...] = np.where(where, src, dst)
        else:
            dst[...] = src

    def _call_into(self, function: Any, args: Any, kwargs: Any, outs: Sequence[Any]) -> Any:
        """Note a call that writes its result into a given array."""
        if len(outs) != 1 or not isinstance(outs[0], StandIn):
            raise RecordError(
                f"{describe(function)} writes its result into an array that is not recorded{_place()}; "
                f"leave out= away, or make the array by np.zeros_like(x) of a recorded x"
            )
        out = outs[0]
        if not isinstance(function, np.ufunc):
            out[...] = self.call(function, args, kwargs)
            return out
        self._check_writable(out)
        symbols, options = self._symbols(args), self._symbols(kwargs)
        old, where = out.variable, options.get("where", True)
        function(*_plain(args), **_plain(kwargs), out=out.value)
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
                raise RecordError(
                    f"{describe(function)} returned nothing, so that compile cannot know what it did"
                    f"{_place()}"
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
                raise RecordError(
                    f"{describe(function)} gave nested results, which compile cannot record{_place()}"
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
            raise RecordError(
                f"{describe(function)} gave a {type(value).__name__} that depends on the entries of an "
                f"array{_place()}; compile records only calls that give arrays of numbers"
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
        known = call.function in _OF_SHAPE and call.function is not np.empty_like
        folded = (
            bool(operands)
            and all(each.constant is not None for each in operands)
            and (result.size == 1 or call.kind == "view")
            and (isinstance(call.function, np.ufunc) or call.function in _UNIFORM)
        )
        if (known or folded) and result.size:
            call.result.constant = np.asarray(result)[(0,) * result.ndim]

    def _symbols(self, value: Any) -> Any:
        """Return arguments with variables in the place of arrays."""
        if isinstance(value, StandIn):
            if value.recorder is not self:
                raise RecordError("a stand-in of another recording was used; the two must not mix")
            return value.variable
        if isinstance(value, list | tuple):
            items = [self._symbols(each) for each in value]
            return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
        if isinstance(value, dict):
            return {key: self._symbols(each) for key, each in value.items()}
        if isinstance(value, slice):
            return slice(*(self._symbols(v) for v in (value.start, value.stop, value.step)))
        if isinstance(value, np.ndarray):
            return self._foreign(value)
        return value

    def _stand_in(self, value: Any) -> StandIn:
        """Return what stands for `value`, which may be a plain array or number that the function made."""
        if isinstance(value, StandIn):
            return value
        return self._live(value, lambda: value, "constant")

    def _foreign(self, array: Any) -> Variable:
        """Return the variable of an array that is not recorded: one from outside, read as it is."""
        known = self._standing.get(id(array))
        if known is None:
            view = array.view()
            view.flags.writeable = False
            stand_in = self._live(view, lambda: array, "constant")
            self._standing[id(array)] = known = array, stand_in, self.inputs[-1]
        return known[1].variable

    def _live(
        self, value: Any, fetch: Callable[[], Any] | None, name: str, *, own: bool = False
    ) -> StandIn:
        variable = self._variable(value)
        variable.hint = name
        variable.number = not isinstance(value, np.ndarray | np.generic)
        self.inputs.append(Input(variable, name, fetch))
        if own:
            value = np.array(value)
        return self._standing_for(value, variable)

    def _standing_for(self, value: Any, variable: Variable) -> StandIn:
        if isinstance(value, np.generic):
            value = np.asarray(value)  # as a program has it, so that views of it are seen
        stand_in = StandIn(self, value, variable)
        if isinstance(value, np.ndarray):
            self._sharing.setdefault(id(_owner(value)), weakref.WeakSet()).add(stand_in)
        return stand_in

    def _check_writable(self, a: Any) -> None:
        if not isinstance(a, StandIn) or a.variable.scalar or a.variable.number:
            raise RecordError(
                f"a value that is being recorded was to be written into {_a(a)}{_place()}; make the array "
                f"by np.zeros_like(x) of a recorded x"
            )
        if not a.value.flags.writeable:
            raise RecordError(
                f"a write into an array that was passed to the function, or comes from outside it"
                f"{_place()}; work on a copy (x = x + 1 and not x += 1)"
            )
        others = self._sharing.get(id(_owner(a.value)), ())
        if any(each is not a and np.may_share_memory(each.value, a.value) for each in others):
            raise RecordError(
                f"a write into an array while a view of it, or what it is a view of, is in use"
                f"{_place()}; write into a copy (a.copy()), or before the view is taken"
            )

    def _variable(self, value: Any) -> Variable:
        if isinstance(value, np.ndarray):
            return Variable(value.shape, value.dtype, value.strides)
        if isinstance(value, np.generic):
            return Variable((), value.dtype, scalar=True)
        return Variable((), np.dtype(type(value)), number=True)

    def _arrays_in(self, value: Any) -> list[StandIn]:
        if isinstance(value, StandIn):
            return [] if value.variable.number else [value]
        if isinstance(value, list | tuple):
            return [found for each in value for found in self._arrays_in(each)]
        if isinstance(value, dict):
            return self._arrays_in(list(value.values()))
        if isinstance(value, np.ndarray):
            self._foreign(value)
            return [self._standing[id(value)][1]]
        return []


_SELECTING = {
    *(np.nonzero, np.flatnonzero, np.argwhere, np.extract, np.compress, np.unique, np.unique_all),
    *(np.unique_counts, np.unique_inverse, np.unique_values, np.intersect1d, np.setdiff1d),
    *(np.setxor1d, np.union1d, np.trim_zeros, np.bincount, np.linalg.lstsq),
}
_COUNTING = {np.repeat, np.tile, np.pad, np.delete, np.insert, np.split, np.array_split}
_slot: Any = Tensor.__dict__["value"]
_WRITING = {np.put, np.place, np.putmask, np.put_along_axis, np.fill_diagonal}
_UNIFORM = {np.reshape, np.broadcast_to, np.transpose, np.expand_dims, np.squeeze, converted}


class _Alone:
    """A leaf that belongs to no parameter."""

    def __init__(self, leaf: Any) -> None:
        self.node = leaf


def _what(action: Callable[[], None]) -> Any:
    return (action.func, action.args) if isinstance(action, partial) else action


def _plain(value: Any) -> Any:
    """Return arguments with the arrays inside in the place of stand-ins."""
    if isinstance(value, StandIn):
        return value.value
    if isinstance(value, list | tuple):
        items = [_plain(each) for each in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, slice):
        return slice(*(_plain(v) for v in (value.start, value.stop, value.step)))
    return value


def _holds(kind: type, value: Any) -> bool:
    if isinstance(value, list | tuple):
        return any(_holds(kind, each) for each in value)
    if isinstance(value, dict):
        return any(_holds(kind, each) for each in value.values())
    if isinstance(value, slice):
        return any(_holds(kind, each) for each in (value.start, value.stop, value.step))
    return isinstance(value, kind)


def _owner(array: Any) -> Any:
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def _share(a: Any, b: Any) -> bool:
    return isinstance(b, np.ndarray) and np.may_share_memory(a, b)


def _a(value: Any) -> str:
    return f"a {type(value).__name__}"
