"""`Tensor`, the value that records, and the way NumPy's calls reach it.

NumPy hands every call that sees a `Tensor` to `Tensor.__array_ufunc__` (NEP 13) or
`Tensor.__array_function__` (NEP 18). These look up the function's rule, evaluate the call on the
values inside, and put a node on the tape.

Every tensor has a *level*. Parameters and tensors that a person makes have level 0; each run of a
transform such as `grad` takes a new, higher level for its leaves. A call records at the highest level
among its arguments and treats all others as values, which may themselves be tensors of a lower level
and then record there. Higher derivatives need nothing more. Levels come from one counter that only
counts up, so there is no state to restore after an exception and none for threads to share.
"""

from __future__ import annotations

import operator
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial, wraps
from html import escape
from itertools import count
from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec

import numpy as np

from thriftgrad.autodiff import recording
from thriftgrad.autodiff.adjoint import Array, describe
from thriftgrad.autodiff.registry import RULES, Composed, Resolved, Rule, lookup
from thriftgrad.autodiff.tape import Edge, Fork, Leaf, Marker, Node, Output, scouting, sweep
from thriftgrad.errors import (
    DetachError,
    DifferentiationError,
    InPlaceError,
    NoRuleError,
    RecordError,
)

if TYPE_CHECKING:
    from thriftgrad.autodiff.graph import Graph

P = ParamSpec("P")

new_level = count(1).__next__
_CONSTANT = -1
_floor: ContextVar[int] = ContextVar("thriftgrad_floor", default=_CONSTANT)
"""What has a level above the floor records."""
_open: ContextVar[tuple[int, ...]] = ContextVar("thriftgrad_open", default=())
"""The floors that `no_grad` contexts have set and not yet taken back."""


def is_off() -> bool:
    """Tell whether `no_grad` keeps parameters from recording here."""
    return _floor.get() != _CONSTANT


_accumulating = threading.Lock()
_recorder = recording.active.get


@contextmanager
def no_grad() -> Iterator[None]:
    """Record nothing inside this context of what was made outside it.

    Calls on tensors and parameters give tensors that are constants. Only this thread (more exactly,
    this context) is concerned, and a `grad` that is started inside still works.

    Example:
        >>> import numpy as np, thriftgrad as tg
        >>> w = tg.Parameter(np.ones(3), name="w")
        >>> with tg.no_grad():
        ...     y = np.sum(w * 2.0)
        >>> float(y)
        6.0
    """
    level = new_level()
    _open.set((*_open.get(), level))
    _floor.set(level)
    try:
        yield
    finally:
        # Not simply what it was before: contexts in generators may end in any order.
        still_open = tuple(each for each in _open.get() if each != level)
        _open.set(still_open)
        _floor.set(max(still_open, default=_CONSTANT))


def _method(function: Callable[..., Any], position: int = 0) -> Callable[..., Any]:
    """Make an array method of a NumPy function that takes the array at `position`."""

    def method(self: Tensor, *args: Any, **kwargs: Any) -> Any:
        return dispatch(function, (*args[:position], self, *args[position:]), kwargs)

    method.__doc__ = f"See `np.{function.__name__}`."
    return method


_OPERANDS: tuple[type, ...] = (np.ndarray, float, int, complex, list, tuple)


def _operators(
    function: Callable[[Any, Any], Any], ufunc: np.ufunc
) -> tuple[Callable[[Any, Any], Any], Callable[[Any, Any], Any]]:
    """Make the two methods of a Python operator that is differentiated as `ufunc`."""

    def forward(self: Tensor, other: Any) -> Any:
        if isinstance(other, _OPERANDS) or hasattr(other, "__array_ufunc__"):
            return evaluate(ufunc, function, (self, other))
        return NotImplemented

    def reflected(self: Tensor, other: Any) -> Any:
        if isinstance(other, _OPERANDS) or hasattr(other, "__array_ufunc__"):
            return evaluate(ufunc, function, (other, self))
        return NotImplemented

    return forward, reflected


class Tensor:
    """An array that records what NumPy does with it.

    A tensor made from an array is a leaf: `backward` on something computed from it leaves the
    gradient in its `grad`. All of NumPy's functions that have a rule work on it, as do operators,
    indexing and the usual array methods.

    Args:
        value: a floating-point or complex array, a Python float or complex, or a nested list of these.

    Attributes:
        value: the array inside. Whatever is computed from it is not recorded.
        grad: the gradient that has arrived at a leaf, of the shape and dtype of `value`, or None.

    Raises:
        DifferentiationError: the values are not real or complex floating-point numbers.

    Example:
        >>> import numpy as np, thriftgrad as tg
        >>> x = tg.Tensor([1.0, 2.0, 3.0])
        >>> y = np.sum(x ** 2)
        >>> y.backward()
        >>> x.grad
        array([2., 4., 6.])
    """

    __slots__ = ("__weakref__", "level", "node", "value")

    value: Any
    level: int
    node: Node | None

    def __init__(self, value: Array) -> None:
        if isinstance(value, Tensor):
            raise DetachError(
                "Tensor was given a tensor; use that one as it is, or its .value to start a new tape"
            )
        value = as_differentiable(value, "the value of a tensor")
        self.level = 0
        self.node = Leaf(*_describe_value(value))
        self._place(value)

    def _place(self, value: Array) -> None:
        self.value = value

    # What it is

    @property
    def shape(self) -> tuple[int, ...]:
        """The lengths of the axes."""
        return np.shape(self.value)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the entries."""
        return _describe_value(self.value)[1]

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """The number of entries."""
        return int(np.size(self.value))

    @property
    def nbytes(self) -> int:
        """The bytes that the entries take."""
        return self.size * self.dtype.itemsize

    @property
    def grad(self) -> Array | None:
        """The gradient that `backward` has accumulated here, or None."""
        if not isinstance(self.node, Leaf):
            return None
        recorder = _recorder()
        return self.node.grad if recorder is None else recorder.gradient(self.node)

    @grad.setter
    def grad(self, gradient: Array | None) -> None:
        if not isinstance(self.node, Leaf):
            raise DifferentiationError(
                "only a leaf (a Parameter, or a Tensor made from an array) keeps a gradient; this "
                "tensor was computed from others"
            )
        if gradient is not None and np.shape(gradient) != self.shape:
            raise DifferentiationError(
                f"a gradient of shape {np.shape(gradient)} was assigned to a tensor of shape "
                f"{self.shape}; the two must be equal"
            )
        recorder = _recorder()
        if recorder is None:
            self.node.grad = gradient
        else:
            recorder.set_gradient(self.node, gradient)

    def backward(self, gradient: Array | None = None, *, retain: bool = False) -> None:
        """Add to the `grad` of every leaf its gradient of this tensor.

        For a tensor t and a given cotangent g, each leaf w receives ∂⟨g, t⟩/∂w. Cotangents are
        accumulated over calls until `grad` is set to None (`optimizer.zero_grad()`). The tape's
        residuals are released while the sweep passes them.

        Args:
            gradient: the cotangent of this tensor, of its shape; 1 where this tensor is a scalar.
            retain: keep the tape, so that a second sweep can follow.

        Raises:
            DifferentiationError: no `gradient` for a tensor that is not a scalar, one of another
                shape, a tensor that does not record, or one inside a function being differentiated.
            FreedTapeError: the tape was swept before without `retain`.
        """
        if self.node is None:
            raise DifferentiationError(
                "backward() on a tensor that records nothing: it was computed under no_grad, or from "
                "constants only"
            )
        if self.level > 0:
            raise DifferentiationError(
                "backward() on a tensor inside a function that grad, vjp or another transform is "
                "differentiating; return the tensor from the function instead"
            )
        if gradient is None:
            shape, dtype = _describe_value(self.value)
            if shape != ():
                raise DifferentiationError(
                    f"backward() without a gradient needs a scalar, this tensor has shape {shape}; "
                    f"reduce it (np.sum, np.mean) or pass backward(gradient) of that shape"
                )
            if dtype.kind == "c":
                raise DifferentiationError(
                    "backward() without a gradient needs a real scalar, this tensor is complex; take "
                    "np.real, np.abs or another real function of it, or pass backward(gradient)"
                )
            is_number = isinstance(self.value, np.generic)  # as nearly always
            gradient = dtype.type(1) if is_number else np.ones_like(self.value)
        else:
            if isinstance(gradient, Tensor):
                gradient = gradient._leave("a plain cotangent")
            if not hasattr(gradient, "__array_ufunc__"):
                gradient = np.asarray(gradient)
            if gradient.dtype.kind == "c" and self.dtype.kind != "c":
                raise DifferentiationError(
                    "backward() was given a complex gradient for a real tensor; pass its real part"
                )
            if np.shape(gradient) != self.shape:
                raise DifferentiationError(
                    f"backward() was given a gradient of shape {np.shape(gradient)} for a tensor of "
                    f"shape {self.shape}; the two must be equal"
                )
            gradient = gradient.astype(self.dtype, copy=False)
            if isinstance(self.node, Leaf):
                gradient = gradient.copy()
        if type(self.node) is Marker:
            raise DifferentiationError(
                "backward() inside a function that runs under checkpoint, where there is no tape yet; "
                "return the tensor from the function and call backward() outside"
            )
        recorder = _recorder()
        if recorder is not None and isinstance(self.value, (np.ndarray, np.generic, float)):
            raise RecordError(
                "backward() on a tensor that was computed outside of the function that compile records; "
                "compute it inside"
            )
        if recorder is not None:
            recorder.check_tape(self.node)
        gradients = sweep([(self.node, gradient)], retain=retain)
        if recorder is not None:
            for leaf, g in gradients.items():
                held = recorder.gradient(leaf)
                recorder.set_gradient(leaf, g if held is None else held + g)
            return
        # Only now that the whole sweep has succeeded is anything changed; and two threads that share
        # parameters must not lose each other's sums.
        with _accumulating:
            for leaf, g in gradients.items():
                leaf.grad = g if leaf.grad is None else leaf.grad + g

    def graph(self, names: Mapping[str, Tensor] | None = None) -> Graph:
        """Return the tape behind this tensor as a graph, which a notebook draws.

        See `thriftgrad.autodiff.graph`. `names` says what leaves are called, as
        `dict(model.named_parameters())` does.

        Raises:
            DifferentiationError: this tensor records nothing.
            FreedTapeError: a backward pass has released the tape.

        Example:
            >>> import numpy as np, thriftgrad as tg
            >>> w = tg.Parameter(np.ones(3), name="w")
            >>> np.sum(w * w).graph({"w": w})
            Graph of 3 nodes that keep 0 B
        """
        from thriftgrad.autodiff.graph import graph

        return graph(self, names)

    # How NumPy's calls arrive

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        """Record a call of a ufunc (NEP 13)."""
        if not kwargs and method == "__call__":
            return evaluate(ufunc, ufunc, inputs)
        if kwargs.get("out") is not None:
            _refuse_out(describe(ufunc))
        if method != "__call__":
            return dispatch(getattr(ufunc, method), inputs, kwargs)
        known = kwargs.keys() & {"where", "dtype", "casting", "order", "subok", "out"}
        if len(known) < len(kwargs):
            unknown = ", ".join(f"{k}={kwargs[k]!r}" for k in kwargs.keys() - known)
            raise NoRuleError(
                f"{describe(ufunc)} was called with {unknown}, which thriftgrad cannot differentiate; "
                f"leave it out"
            )
        # NumPy drops out=None on its way here, by which a person says that entries outside of `where`
        # are meant to be left undefined; without it NumPy would warn.
        where = kwargs.get("where", True)
        if isinstance(where, Tensor):
            raise NoRuleError(
                f"{describe(ufunc)} was called with a tensor as where=; a mask is boolean and has no "
                f"gradient: pass a comparison such as t > 0"
            )
        out = None if ufunc.nout == 1 else (None,) * ufunc.nout
        return evaluate(ufunc, partial(ufunc, **{**kwargs, "out": out}), inputs, where)

    def __array_function__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
    ) -> Any:
        """Record a call of one of NumPy's other functions (NEP 18)."""
        return dispatch(function, args, kwargs)

    # Leaving the tape, only ever on purpose

    def item(self, *index: Any) -> Any:
        """Return one entry as a Python number, which is no longer recorded."""
        if not index and isinstance(self.value, float | complex):
            return self.value
        return self.value.item(*index)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        if self._records():
            raise DetachError(
                "a tensor that records was to become a plain array (np.array([t]), np.asarray(t), "
                "a[i] = t, or a function outside NumPy), which would cut off its gradient; use "
                "np.stack or np.concatenate on tensors, or t.value if no gradient should flow"
            )
        return np.array(self.value, dtype=dtype, copy=copy)

    def __float__(self) -> float:
        return float(self._leave("float"))

    def __int__(self) -> int:
        return int(self._leave("int"))

    def __complex__(self) -> complex:
        return complex(self._leave("complex"))

    def __index__(self) -> int:
        return operator.index(self._leave("an index"))

    def _leave(self, kind: str) -> Any:
        if self._records():
            raise DetachError(
                f"a tensor that records was to become {kind} (by float(t), math.sin(t) or the like), "
                f"which would cut off its gradient; use NumPy's functions (np.sin), or t.item() if no "
                f"gradient should flow"
            )
        return self.value

    def _records(self) -> bool:
        return self.node is not None and self.level > _floor.get()

    def __bool__(self) -> bool:
        return bool(self.value)

    def __format__(self, spec: str) -> str:
        return format(self.value, spec)

    def __repr__(self) -> str:
        inner = _innermost(self)
        if _recorder() is not None and not isinstance(inner, (np.ndarray, np.generic)):
            return f"Tensor({inner!r})"  # what stands for an array in a recording
        text = np.array2string(np.asarray(inner), separator=", ", prefix="Tensor(", threshold=100)
        return f"Tensor({text}, dtype={self.dtype})"

    def _repr_html_(self) -> str:
        kind = (
            "leaf" if isinstance(self.node, Leaf) else "records" if self._records() else "constant"
        )
        name = f" {self.name}" if isinstance(self, Parameter) and self.name else ""
        head = f"{type(self).__name__}{name}, shape {self.shape}, {self.dtype}, {self.nbytes:,} bytes, {kind}"
        shown = np.array2string(
            np.asarray(_innermost(self)), separator=", ", threshold=60, edgeitems=3
        )
        if self.grad is None:
            gradient = ""
        else:
            norm = float(np.linalg.norm(np.ravel(np.asarray(_innermost(self.grad)))))
            gradient = f"<p>gradient of norm {norm:.6g}</p>"
        return f"<p><b>{escape(head)}</b></p><pre>{escape(shown)}</pre>{gradient}"

    def __reduce__(self) -> NoReturn:
        raise DetachError(
            "a tensor is a place on a tape and cannot be copied or pickled; use t.value for its array"
        )

    # Being a container

    def __len__(self) -> int:
        return len(self.value)

    def __iter__(self) -> Iterator[Any]:
        if self.ndim == 0:
            raise TypeError("iteration over a 0-d tensor")
        return iter(dispatch(tuple, (self,), {}))

    def __getitem__(self, index: Any) -> Any:
        return dispatch(operator.getitem, (self, index), {})

    def __setitem__(self, index: Any, value: Any) -> NoReturn:
        raise InPlaceError(
            "a tensor's entries cannot be assigned (t[i] = v): a derivative may still need the old "
            "ones; build a new one with np.where(mask, v, t), np.concatenate or np.stack, or change "
            "t.value before the forward pass"
        )

    # NumPy's methods, by NumPy's functions

    @property
    def T(self) -> Any:  # noqa: N802 - NumPy's name
        """The transpose: all axes in reverse order."""
        return np.transpose(self)

    @property
    def mT(self) -> Any:  # noqa: N802 - NumPy's name
        """The matrix transpose: the last two axes exchanged."""
        if self.ndim < 2:
            raise ValueError(f"mT needs at least two axes, this tensor has shape {self.shape}")
        return np.swapaxes(self, -1, -2)

    @property
    def real(self) -> Any:
        """The real part."""
        return np.real(self)

    @property
    def imag(self) -> Any:
        """The imaginary part."""
        return np.imag(self)

    @property
    def flat(self) -> Iterator[Any]:
        """The entries, one after the other."""
        return iter(np.reshape(self, -1))

    def reshape(self, *shape: Any, order: str = "C") -> Any:
        """Return the entries in another shape; see `np.reshape`."""
        return np.reshape(self, shape[0] if len(shape) == 1 else shape, order=order)  # type: ignore[call-overload]

    def transpose(self, *axes: Any) -> Any:
        """Return the axes in another order; see `np.transpose`."""
        if not axes or axes == (None,):
            return np.transpose(self)
        return np.transpose(self, axes[0] if len(axes) == 1 and np.ndim(axes[0]) else axes)

    def flatten(self, order: str = "C") -> Any:
        """Return the entries along one axis."""
        return np.reshape(self, -1, order=order)  # type: ignore[call-overload]

    def astype(self, dtype: Any, **options: Any) -> Any:
        """Return the entries in another dtype; a cotangent comes back in this one.

        Options of NumPy's method are passed on, but for `copy`: a tensor is always a new one.
        """
        options.pop("copy", None)
        if options:
            _innermost(self).astype(dtype, **options)  # raises what it must
        return cast(self, dtype)

    def dot(self, other: Any) -> Any:
        """Return the dot product; see `np.dot`."""
        return np.dot(self, other)

    def fill(self, value: Any) -> NoReturn:
        """Refuse, as every write into a tensor."""
        self[...] = value

    all = _method(np.all)
    any = _method(np.any)
    argmax = _method(np.argmax)
    argmin = _method(np.argmin)
    argpartition = _method(np.argpartition)
    argsort = _method(np.argsort)
    choose = _method(np.choose)
    clip = _method(np.clip)
    compress = _method(np.compress, 1)
    copy = _method(np.copy)
    cumprod = _method(np.cumprod)
    cumsum = _method(np.cumsum)
    diagonal = _method(np.diagonal)
    max = _method(np.max)
    mean = _method(np.mean)
    min = _method(np.min)
    nonzero = _method(np.nonzero)
    prod = _method(np.prod)
    ptp = _method(np.ptp)
    ravel = _method(np.ravel)
    repeat = _method(np.repeat)
    round = _method(np.round)
    searchsorted = _method(np.searchsorted)
    squeeze = _method(np.squeeze)
    std = _method(np.std)
    sum = _method(np.sum)
    swapaxes = _method(np.swapaxes)
    take = _method(np.take)
    trace = _method(np.trace)
    var = _method(np.var)

    # Operators: Python's own, so that a Python float stays one and promotes nothing

    __add__, __radd__ = _operators(operator.add, np.add)
    __sub__, __rsub__ = _operators(operator.sub, np.subtract)
    __mul__, __rmul__ = _operators(operator.mul, np.multiply)
    __truediv__, __rtruediv__ = _operators(operator.truediv, np.divide)
    __floordiv__, __rfloordiv__ = _operators(operator.floordiv, np.floor_divide)
    __mod__, __rmod__ = _operators(operator.mod, np.remainder)
    __divmod__, __rdivmod__ = _operators(divmod, np.divmod)
    __pow__, __rpow__ = _operators(operator.pow, np.power)
    __matmul__, __rmatmul__ = _operators(operator.matmul, np.matmul)
    __lt__, __gt__ = _operators(operator.lt, np.less)
    __le__, __ge__ = _operators(operator.le, np.less_equal)
    __eq__, _ = _operators(operator.eq, np.equal)
    __ne__, _ = _operators(operator.ne, np.not_equal)

    def __neg__(self) -> Any:
        return evaluate(np.negative, operator.neg, (self,))

    def __pos__(self) -> Any:
        return evaluate(np.positive, operator.pos, (self,))

    def __abs__(self) -> Any:
        return evaluate(np.absolute, operator.abs, (self,))

    def conjugate(self) -> Any:
        """Return the complex conjugate."""
        return evaluate(np.conjugate, np.conjugate, (self,))

    conj = conjugate

    __hash__ = object.__hash__


_OPERANDS += (Tensor,)


class Parameter(Tensor):
    """A named leaf that an optimiser may change.

    The array is copied, so that training never writes into one of the caller's. Optimisers update
    `value` in place between steps; a person may also assign a new one.

    Args:
        value: a floating-point or complex array, or what `np.array` makes one of.
        name: what messages and saved files call it.

    Raises:
        DifferentiationError: the values are not real or complex floating-point numbers.

    Example:
        >>> import numpy as np, thriftgrad as tg
        >>> w = tg.Parameter(np.ones((3, 2)), name="w")
        >>> t = np.tanh(np.ones((1, 3)) @ w)
        >>> t.backward(np.ones_like(t.value))
        >>> w.grad.shape
        (3, 2)
    """

    __slots__ = ("name",)

    def __init__(self, value: Array, name: str = "") -> None:
        super().__init__(value)
        self.name = name

    def _place(self, value: Array) -> None:
        _value.__set__(self, np.array(value))

    @property
    def value(self) -> Any:
        """The array that holds the parameter's present value."""
        recorder = _recorder()
        array = _value.__get__(self)
        return array if recorder is None else recorder.parameter(self, array)

    @value.setter
    def value(self, value: Array) -> None:
        value = as_differentiable(value, f"the value of parameter {self.name!r}")
        recorder = _recorder()
        if recorder is not None:
            recorder.assign(self, value)
            return
        shape, dtype = _describe_value(value)
        assert isinstance(self.node, Leaf)
        self.node.replace()
        if (shape, dtype) != (self.shape, self.dtype):
            self.node = Leaf(shape, dtype)  # a gradient of another shape belongs to what was
        self._place(value)

    def __repr__(self) -> str:
        name = f"{self.name!r}, " if self.name else ""
        return f"Parameter({name}shape={self.shape}, dtype={self.dtype})"

    def touch(self) -> None:
        """Say that `value` has been written into, as optimisers do after a step.

        A backward pass through what was recorded before, and would need the old entries, then raises
        an error instead of giving a wrong gradient.
        """
        assert isinstance(self.node, Leaf)
        recorder = _recorder()
        if recorder is None:
            self.node.touch(self.value)
        else:
            recorder.touched(self)

    def __reduce__(self) -> Any:
        return type(self), (self.value, self.name)


_value: Any = Tensor.__dict__["value"]


def dispatch(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Evaluate `function(*args, **kwargs)`, recording it if a tensor among the arguments records.

    Three ways lead to the same record. Nearly all calls have one tensor, at the front of a function that
    is differentiated there alone, or only positional arguments; both are spelled out, for they take a
    third of the time of the general way.
    """
    rule = RULES.get(function)
    if type(rule) is not Rule:
        rule = lookup(function)
    if kwargs and kwargs.get("out") is not None:
        _refuse_out(describe(function))
    if type(rule) is not Rule:
        if type(rule) is Composed:
            return rule.definition(*args, **kwargs)
        # By a list: a tuple that is made of an iterator is one more in Python's store of spare tuples.
        return function(*[_strip(a) for a in args], **{n: _strip(v) for n, v in kwargs.items()})
    ready = rule._ready or rule.ready
    floor = _floor.get()
    if (
        ready.only_first
        and args
        and isinstance(args[0], Tensor)
        and args[0].level > floor
        and not _tensors_behind(args, kwargs)
    ):
        tensor = args[0]
        args = (tensor.value, *args[1:])
        values: Sequence[Any] = args
        if kwargs or len(args) != ready.complete:
            values = _bound(ready, function, args, kwargs)
        ans = function(*args, **kwargs)
        pull, pick = ready.vjps[0]
        edge = (tensor.node, pull, pick((ans, *values)))
        return _recorded(ans, (edge,), tensor.level)  # type: ignore[arg-type]
    if ready.plain and not kwargs:
        level, mask, bit, alike = floor, 0, 1, True
        plain = []
        for value in args:
            if isinstance(value, Tensor):
                if value.level == level and mask:
                    mask |= bit
                else:
                    alike = not mask and value.level > level
                    if value.level > level:
                        level, mask = value.level, bit
                value = value.value
            elif isinstance(value, (list, tuple)) and _is_sequence_of_tensors(value):
                return _dispatch_any(function, ready, floor, args, kwargs)
            plain.append(value)
            bit <<= 1
        if not alike:  # some tensors are at other levels
            plain = [_unwrap(a, level, floor) for a in args]
        if not mask:
            return _constant(function(*plain))
        values = plain
        if len(plain) != ready.complete:
            values = _bound(ready, function, plain, kwargs)
        ans = function(*plain)
        call = (ans, *values)
        edges = [(args[i].node, pull, pick(call)) for i, pull, pick in rule.plan(mask)]
        return _recorded(ans, edges, level)
    return _dispatch_any(function, ready, floor, args, kwargs)


def _dispatch_any(
    function: Callable[..., Any],
    ready: Resolved,
    floor: int,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> Any:
    """Evaluate and record a call with tensors in any place that its rule allows."""
    signature = ready.signature
    variadic = signature.variadic
    if variadic is not None:
        named_first = [name for name in signature.names[len(args) : variadic] if name in kwargs]
        args = (*args, *(kwargs[name] for name in named_first))
        kwargs = {name: value for name, value in kwargs.items() if name not in named_first}
        args = (*args[:variadic], args[variadic:])
    for i in ready.sequences:  # an array is a sequence of its parts
        name = signature.names[i]
        if i < len(args) and isinstance(args[i], Tensor):
            args = (*args[:i], list(args[i]), *args[i + 1 :])
        elif isinstance(kwargs.get(name), Tensor):
            kwargs = {**kwargs, name: list(kwargs[name])}
        elif i < len(args) and _is_odd_sequence(args[i]):
            args = (*args[:i], list(args[i]), *args[i + 1 :])
    found = [(i, value) for i, value in enumerate(args) if _holds_tensor(value)]
    named = [(name, value) for name, value in kwargs.items() if _holds_tensor(value)]
    level = floor
    for _, value in [*found, *named]:
        level = _highest(value, level)
    positional = list(args)
    for i, value in found:
        positional[i] = _unwrap(value, level, floor)
    keywords = kwargs
    if named:
        keywords = {**kwargs, **{name: _unwrap(value, level, floor) for name, value in named}}
    given = positional
    if variadic is not None:
        given = [*positional[:variadic], *positional[variadic]]
    if level == floor:
        return _constant(function(*given, **keywords))
    values = _bound(ready, function, positional, keywords, given)
    ans = function(*given, **keywords)
    call = (ans, *values)
    edges: list[Edge] = []
    joined: dict[int, Node] = {}
    for i, value in [*found, *((signature.index[name], value) for name, value in named)]:
        if i in ready.constants or _highest(value, floor) < level:
            continue
        if not isinstance(value, Tensor):
            edges += _edges_of_sequence(function, ready, i, value, level, call)
        elif ready.joint is not None and i in ready.joint[0]:
            joined[i] = value.node  # type: ignore[assignment]
        else:
            pull, pick = ready.vjp(i)
            edges.append((value.node, pull, pick(call)))  # type: ignore[arg-type]
    if joined:
        assert ready.joint is not None
        together, (pull, pick) = ready.joint
        edges.append((tuple([joined.get(i) for i in together]), pull, pick(call)))
    return _recorded(ans, edges, level)


def _edges_of_sequence(
    function: Callable[..., Any],
    ready: Resolved,
    place: int,
    sequence: Sequence[Any],
    level: int,
    call: Sequence[Any],
) -> list[Edge]:
    """Return an edge for each tensor in an argument that is a list or tuple of arrays."""
    pull, pick = ready.vjp(place)
    if place not in ready.sequences:
        raise NoRuleError(
            f"{describe(function)} was given a list or tuple with tensors in it as "
            f"{ready.signature.names[place]!r}; make one tensor of them by np.stack or np.concatenate"
        )
    nodes = [
        each.node if isinstance(each, Tensor) and each.level == level else None for each in sequence
    ]
    if not ready.sequences[place]:
        return [(tuple(nodes), pull, pick(call))]
    return [
        (node, pull, pick((*call, position)))
        for position, node in enumerate(nodes)
        if node is not None
    ]


def _bound(
    ready: Resolved,
    function: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    given: Sequence[Any] | None = None,
) -> list[Any]:
    """Bind a call, and refuse in it what the rule does not know.

    `given` is how the positional arguments were written, where a variadic parameter took some.
    """
    values = ready.signature.bind(args, kwargs)
    if values is None:
        function(
            *(args if given is None else given), **kwargs
        )  # its own TypeError says best what is wrong
        raise NoRuleError(
            f"{describe(function)} was called with arguments that thriftgrad does not know: it takes "
            f"{', '.join(ready.signature.names)}"
        )
    if ready.checked:
        ready.check(values)
    if ready.out is not None and values[ready.out] is not None:
        _refuse_out(describe(function))
    return values


def evaluate(
    key: Callable[..., Any], function: Callable[..., Any], args: Sequence[Any], where: Any = True
) -> Any:
    """Evaluate `function(*args)`, which is differentiated as `key`; the quick way for ufuncs.

    `dispatch` does the same for any signature; here all arguments are positional and may all have a
    derivative.
    """
    rule = RULES.get(key)
    if type(rule) is not Rule:
        rule = lookup(key)  # a table that comes late, a constant, or an error
        if type(rule) is not Rule:
            return function(*[_strip(a) for a in args])
    floor = _floor.get()
    values: Sequence[Any]
    # The level that records, and a bit for each argument that is at it. Calls of one or two
    # arguments are nearly all there are, and are spelled out.
    if len(args) == 1:
        level, mask, values = args[0].level, 1, (args[0].value,)
    elif len(args) == 2 and not isinstance(args[1], Tensor):
        level, mask, values = args[0].level, 1, (args[0].value, args[1])
    elif len(args) == 2 and not isinstance(args[0], Tensor):
        level, mask, values = args[1].level, 2, (args[0], args[1].value)
    elif len(args) == 2 and args[0].level == args[1].level:
        level, mask, values = args[0].level, 3, (args[0].value, args[1].value)
    else:
        level, mask = _recording(args, floor)
        values = [_unwrap(a, level, floor) for a in args]
    ans = function(*values)
    if level <= floor:
        return _constant(ans)
    call = (ans, *values)
    edges: list[Edge] = []
    for i, pull, pick in rule.plan(mask):
        edges.append((args[i].node, pull if where is True else _masked(pull, where), pick(call)))
    return _recorded(ans, edges, level)


def primitive(function: Callable[P, Any]) -> Callable[P, Any]:
    """Make a function that `defvjp` can give a rule to, so that it is recorded as one call.

    Tensors among its arguments, or in lists and tuples there, reach the function as plain arrays.

    Example:
        >>> import numpy as np, thriftgrad as tg
        >>> @tg.primitive
        ... def softplus(x):
        ...     return np.logaddexp(x, 0.0)
        >>> tg.defvjp(softplus, x=lambda g, x: g / (1.0 + np.exp(-x)))
        >>> tg.grad(softplus)(0.0)
        0.5
    """

    @wraps(function)
    def recordable(*args: P.args, **kwargs: P.kwargs) -> Any:
        simple = not kwargs
        for value in args:
            if type(value) in _SIMPLE:
                continue
            if isinstance(value, Tensor) or _is_sequence_of_tensors(value):
                return dispatch(recordable, args, kwargs)
            simple = False
        if simple:  # as nearly always
            return function(*args, **kwargs)
        for value in kwargs.values():
            if _holds_tensor(value):
                return dispatch(recordable, args, kwargs)
        for value in (*args, *kwargs.values()):
            if isinstance(value, (dict, list, tuple)) and _hides_tensor(value):
                raise NoRuleError(
                    f"{describe(function)} was given a tensor inside nested containers, where its rule "
                    f"cannot see it; pass tensors as arguments of their own, or in one list or tuple"
                )
        return function(*args, **kwargs)

    return recordable


_SIMPLE = frozenset({np.ndarray, int, float, bool, str, type(None)})
"""Types whose values are no tensors and hold none."""


@primitive
def cast(x: Array, dtype: Any) -> Array:
    """Return `x` in another dtype: `x.astype(dtype)` for a tensor."""
    return x.astype(dtype) if hasattr(x, "astype") else np.dtype(dtype).type(x)


def as_differentiable(value: Any, what: str) -> Any:
    """Return `value` as something that has a derivative: an inexact array or Python number.

    Raises:
        DifferentiationError: it is an integer, a boolean, or no number; the message names `what`.
    """
    if isinstance(value, float | complex) and not isinstance(value, np.generic):
        return value
    if not hasattr(value, "__array_ufunc__") or not hasattr(value, "dtype"):
        value = np.asarray(value)
    if isinstance(value, np.ndarray) and type(value) not in _PLAIN:
        raise DifferentiationError(
            f"{what} is a {type(value).__name__}, which has an arithmetic of its own; pass a plain array "
            f"(np.asarray)"
        )
    if value.dtype.kind not in "fc":
        remedy = "pass a float, such as 3.0 or x.astype(float)" if value.dtype.kind in "iub" else ""
        raise DifferentiationError(
            f"{what} has dtype {value.dtype}, which has no derivative; "
            f"{remedy or 'expected floating-point or complex numbers'}"
        )
    return value


def _recorded(ans: Any, edges: Sequence[Edge], level: int) -> Any:
    if isinstance(ans, Tensor) and ans.level >= level:
        raise NoRuleError(
            "a tensor was given where thriftgrad expects a plain number or array, and NumPy computed "
            "with it; pass its .value if no gradient should flow through it"
        )
    try:
        dtype = ans.dtype
        shape = ans.shape
    except AttributeError:  # several results, or a Python number
        if isinstance(ans, (tuple, list)):
            return _forked(ans, edges, level)
        shape, dtype = _describe_value(ans)
    if type(ans) is not np.ndarray:
        _check_kind(ans)
    if dtype.kind not in "fc" or not edges:
        if edges and dtype.kind not in "biu":
            raise DetachError(
                f"a call on a tensor gave an array of dtype {dtype}, which cannot carry a gradient; convert "
                f"the other arrays to numbers first (a.astype(float)), or pass t.value if that is meant"
            )
        return ans
    scout = _scout()
    tensor = _new(Tensor)
    tensor.value = ans
    tensor.node = (scout and scout.visit(edges, level)) or Node(edges, shape, dtype)
    tensor.level = level
    return tensor


def _forked(answers: Any, edges: Sequence[Edge], level: int) -> Any:
    """Wrap each result of a call with several, in a container of the same kind."""
    for ans in answers:
        if isinstance(ans, (dict, list, tuple)) and _hides_number(ans):
            raise DetachError(
                f"a call on a tensor gave arrays in nested containers ({type(ans).__name__} in "
                f"{type(answers).__name__}), where no gradient can be recorded; return one flat tuple"
            )
    specs = [_describe_value(ans) for ans in answers]
    scout = _scout()
    marker = scout and scout.visit(edges, level)
    fork = Fork(edges, specs)
    wrapped = [
        _tensor(ans, marker or Output(fork, i), level) if dtype.kind in "fc" else ans
        for i, (ans, (_, dtype)) in enumerate(zip(answers, specs, strict=True))
    ]
    kind = type(answers)
    return kind(*wrapped) if hasattr(kind, "_fields") else kind(wrapped)


_scout = scouting.get
_PLAIN = (np.ndarray, np.memmap)


def _check_kind(ans: Any) -> None:
    """Refuse a result whose type computes in ways that no rule knows of."""
    if isinstance(ans, np.ndarray):
        known = type(ans) in _PLAIN
    elif isinstance(ans, (np.generic, float, complex, int)):
        known = True
    else:
        known = hasattr(ans, "__array_function__") and hasattr(ans, "__array_ufunc__")
    if not known:
        raise DetachError(
            f"a call on a tensor gave a {type(ans).__name__}, which has an arithmetic of its own that "
            f"thriftgrad does not know; make a plain array of it first (np.asarray, .to_numpy(), .toarray())"
        )


def _hides_number(value: Any) -> bool:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return any(map(_hides_number, value))
    return hasattr(value, "dtype") and value.dtype.kind in "fcO"


def _constant(ans: Any) -> Any:
    if isinstance(ans, (tuple, list)):
        parts = [_constant(each) for each in ans]
        return type(ans)(*parts) if hasattr(ans, "_fields") else type(ans)(parts)
    if isinstance(ans, Tensor) or _describe_value(ans)[1].kind not in "fc":
        return ans
    return _tensor(ans, None, _CONSTANT)


def as_constant(value: Any) -> Tensor:
    """Return a tensor that records nothing."""
    return _tensor(value, None, _CONSTANT)


_new = Tensor.__new__


def _tensor(value: Any, node: Node | None, level: int) -> Tensor:
    tensor = _new(Tensor)
    tensor.value = value
    tensor.node = node
    tensor.level = level
    return tensor


def traced(value: Any, level: int) -> tuple[Tensor, Leaf]:
    """Return a tensor that is a leaf at `level`, and its leaf; for the transforms."""
    leaf = Leaf(*_describe_value(value))
    return _tensor(value, leaf, level), leaf


def _describe_value(value: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
    try:
        return value.shape, value.dtype
    except AttributeError:  # a Python number
        return (), np.dtype(type(value))


def _highest(value: Any, level: int) -> int:
    """Return the level of a tensor, or the highest in a sequence, if it is above `level`."""
    if isinstance(value, Tensor):
        return value.level if value.level > level else level
    return max([level, *(each.level for each in value if isinstance(each, Tensor))])


def _recording(values: Sequence[Any], floor: int) -> tuple[int, int]:
    """Return the highest level above `floor` among tensors, and a bit for each tensor at it."""
    level, mask = floor, 0
    for i, value in enumerate(values):
        if isinstance(value, Tensor):
            if value.level > level:
                level, mask = value.level, 1 << i
            elif mask and value.level == level:
                mask |= 1 << i
    return level, mask


def _unwrap(value: Any, level: int, floor: int) -> Any:
    """Take off the layer at `level` and whatever does not record; lower levels stay on."""
    if isinstance(value, Tensor):
        return value.value if value.level == level or value.level <= floor else value
    if isinstance(value, (list, tuple)) and any(isinstance(v, Tensor) for v in value):
        return type(value)([_unwrap(v, level, floor) for v in value])
    return value


def _strip(value: Any) -> Any:
    """Take off one layer, for a call whose result carries no gradient."""
    if isinstance(value, Tensor):
        return value.value
    if isinstance(value, (list, tuple)) and any(isinstance(v, Tensor) for v in value):
        return type(value)([_strip(v) for v in value])
    return value


def _tensors_behind(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Tell whether there is a tensor behind the first argument."""
    for value in [*args[1:], *kwargs.values()] if kwargs else args[1:]:  # noqa: SIM110 - half the time
        if isinstance(value, Tensor):
            return True
    return False


def _holds_tensor(value: Any) -> bool:
    """Tell whether `value` is a tensor or a list or tuple with one in it."""
    return isinstance(value, Tensor) or _is_sequence_of_tensors(value)


def _is_sequence_of_tensors(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        for each in value:
            if isinstance(each, Tensor):
                return True
    return False


def _is_odd_sequence(value: Any) -> bool:
    """Tell whether `value` is a sequence that is not rebuilt by its type: a deque, a named tuple."""
    return type(value) not in (list, tuple, np.ndarray) and isinstance(value, Iterable)


def _hides_tensor(value: Any) -> bool:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return any(map(_hides_tensor, value))
    return isinstance(value, Tensor)


def _innermost(value: Any) -> Any:
    while isinstance(value, Tensor):
        value = value.value
    return value


def _masked(pull: Callable[..., Any], where: Any) -> Callable[..., Any]:
    """Let nothing through where a ufunc's `where=` left the result uncomputed."""

    def masked(g: Array, *residuals: Any) -> Array:
        # The formula may well be infinite at the entries that the call was told to leave alone.
        with np.errstate(all="ignore"):
            part = pull(np.where(where, g, 0), *residuals)
            return None if part is None else np.where(where, part, 0)

    return masked


def _refuse_out(name: str) -> NoReturn:
    raise InPlaceError(
        f"{name} was called with out=, which would write where a derivative may still need the old "
        f"values; leave out= away and use the result (for a += t write a = a + t)"
    )
