"""Arrays that stand in for real ones while a function is recorded.

A stand-in holds the real array beside its place in the program, so that shapes and dtypes are those of a
plain run. It answers to all that NumPy and Python ask of an array: calls and operators go to the recorder,
which notes them. What would let an entry of an array decide what happens next, a branch above all, raises
an error that says where the person's code did so.
"""

from __future__ import annotations

import operator
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from thriftgrad.autodiff import Tensor
from thriftgrad.compile.program import Variable, converted, mapped

if TYPE_CHECKING:
    from thriftgrad.compile.record import Recorder

SHOWN = "<stand-in for an array"
"""How one begins where it is printed; whether it is only printed, `str` and `repr` are not told."""


class StandIn:
    """An array, or a Python number, while a function is recorded."""

    __slots__ = ("__weakref__", "changed", "recorder", "value", "variable")

    def __init__(self, recorder: Recorder, value: Any, variable: Variable) -> None:
        self.recorder = recorder
        self.changed = -1  # the number of the newest node when it was last written into
        self.value = value
        self.variable = variable

    # Shape and dtype, which are the same in every run

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
        return f"{SHOWN} of shape {self.shape} and dtype {self.dtype}>"

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        """What `isinstance` goes by: to a person's code it is an array, to thriftgrad a stand-in."""
        asking = str(sys._getframe(1).f_globals.get("__name__"))
        if asking.partition(".")[0] == __name__.partition(".")[0]:
            return StandIn
        return self._kind

    @property
    def _kind(self) -> type:
        """Its type in a plain run."""
        if self.variable.number:
            return type(self.value)
        return self.variable.dtype.type if self.variable.scalar else np.ndarray

    @property
    def _like(self) -> Any:
        """Something of this type, shape and dtype, with other entries."""
        ones = np.broadcast_to(np.ones((), self.dtype), self.shape)
        return self._kind(1) if self._kind is not np.ndarray else ones

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

    def _leave(self, what: str, tried: Callable[[Any], Any] | None = None) -> NoReturn:
        """Refuse; or raise what `tried` raises, where shape and dtype alone make it fail in any run."""
        if tried is not None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                tried(self._like)
        raise self.recorder.refusal(
            f"{what} of a value that is being recorded by compile{here()}: a recorded program makes "
            f"the same calls at every run, so nothing may depend on the entries of an array; use "
            f"np.where for a choice, return the value and look at it outside, or do without compiling"
        )

    def __bool__(self) -> bool:
        self._leave("a branch (if, while, and, or) on the truth", bool)

    def __float__(self) -> float:
        self._leave(
            "float() (also in math.exp(y), for which np.exp(y) can be written, and in out[0] = y of a "
            "plain array, for which np.stack of a list can)",
            float,
        )

    def __int__(self) -> int:
        self._leave("int()", int)

    def __round__(self, digits: Any = None) -> Any:
        if digits is None:
            self._leave("round() to an int (for which np.round(y) can be written)", round)
        round(self._like, digits)  # raises what it must
        if self.variable.number:
            return self.recorder.operate(round, np.positive, self, digits)
        return np.round(self, digits)

    def __complex__(self) -> complex:
        self._leave("complex()", complex)

    def __index__(self) -> int:
        self._leave("use as an index", operator.index)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        name = self.recorder.name_of_argument(self) or ""
        listed = re.fullmatch(r"(.+?)(?:\[\d+\])+", name)
        if listed is not None:
            raise self.recorder.refusal(
                f"{name} was to become a plain array, or an entry of one, while it is being recorded by "
                f"compile{here()}: {listed[1]} is a container such as a list, and each entry an argument "
                f"of its own; pass an array, np.array({listed[1]}), or write "
                f"np.stack({name[: name.rindex('[')]}) in the function"
            )
        self._leave(
            "conversion to a plain array (np.array([y[0], y[1]]), for which np.stack([y[0], y[1]]) can be "
            "written; np.asarray; a function outside NumPy)"
        )

    def __format__(self, spec: str) -> str:
        self._leave("formatting", lambda like: format(like, spec))

    def __reduce__(self) -> Any:
        self._leave("a copy by copy or pickle")

    def item(self, *args: Any) -> Any:
        """Refuse."""
        self._leave(".item()", lambda like: like.item(*args))

    def tolist(self) -> Any:
        """Refuse."""
        self._leave(".tolist()")

    def __getattr__(self, name: str) -> NoReturn:
        kind = self._kind
        if name.startswith("_") or not hasattr(kind, name):
            raise AttributeError(f"{kind.__name__!r} object has no attribute {name!r}")
        raise self.recorder.refusal(
            f".{name} of a value that is being recorded by compile{here()}, which cannot follow it; use "
            f"NumPy's functions (np.sort for .sort(), np.reshape for .resize()), or do without compiling"
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
        if self.variable.scalar or self.variable.number:
            raise TypeError(f"{self._kind.__name__!r} object does not support item assignment")
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

    def __hash__(self) -> int:
        # Sets of stand-ins, also weak ones, are thriftgrad's; a person's code must not find two of one
        # entry different.
        asking = str(sys._getframe(1).f_globals.get("__name__"))
        if asking.partition(".")[0] not in (__name__.partition(".")[0], "weakref", "_weakrefset"):
            self._leave("a hash (a key of a dict or a cache, an entry of a set)", hash)
        return id(self) // 16


def plain(value: Any) -> Any:
    """Return arguments with the arrays inside in the place of stand-ins."""
    return mapped(value, lambda leaf: leaf.value if isinstance(leaf, StandIn) else leaf)


def here() -> str:
    """Return where the person's code is, for a message."""
    frame: Any = sys._getframe(2)
    while frame is not None:
        file = frame.f_code.co_filename
        if not any(file.startswith(each) for each in _LIBRARIES):
            return f" at {file}:{frame.f_lineno}"
        frame = frame.f_back
    return ""


_LIBRARIES = (
    str(Path(__file__).parents[1]) + os.sep,
    str(Path(np.__file__).parent) + os.sep,
    "<frozen ",
    "<__array_function__",
)


# What is the same for many methods


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
