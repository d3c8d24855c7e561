"""How each call is written: which NumPy functions take `out=`, and what is said better in other words."""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np

from thriftgrad.blas import SMALL, has_small_kernels
from thriftgrad.compile.program import (
    Call,
    Program,
    Variable,
    after,
    converted,
    drawn,
    needed,
    with_entries,
)


def spelled(program: Program) -> Program:
    """Return the program in the calls that it will be written in.

    A mean is a sum and a division, since `np.mean` takes twice the time of both. Numbers that change
    from run to run become arrays of one entry before they meet an array, and arrays that are the same
    number everywhere become that number.
    """
    calls: list[Call] = []
    known: dict[Any, Variable] = {}
    for call in program.calls:
        if _is_plain_mean(call):
            _spell_mean(call, calls)
            continue
        if is_elementwise(call):
            call.args = tuple(_operand(call, i, calls, known) for i in range(len(call.args)))
        calls.append(call)
    program.calls = calls
    return needed(program)


def is_elementwise(call: Call) -> bool:
    """Tell whether every entry of the one result depends on the entries at its own place alone."""
    f = call.function
    return (
        isinstance(f, np.ufunc)
        and call.kind == "call"
        and f.signature is None
        and f.nout == 1
        and call.kwargs.get("where", True) is True
        and "signature" not in call.kwargs
    )


def _is_plain_mean(call: Call) -> bool:
    if call.function is not np.mean or not isinstance(call.args[0], Variable) or len(call.args) > 2:
        return False
    dtype = call.args[0].dtype
    few = call.kwargs.keys() <= {"axis", "keepdims"}
    return few and dtype.kind == "f" and dtype.itemsize > 2 and call.result.nbytes > 0


def _spell_mean(call: Call, calls: list[Call]) -> None:
    a, result = call.args[0], call.result
    total = Variable(result.shape, result.dtype, result.strides, scalar=result.scalar)
    axis = call.args[1] if len(call.args) > 1 else call.kwargs.get("axis")
    options = {"axis": axis, **{k: v for k, v in call.kwargs.items() if k != "axis"}}
    calls.append(Call(np.add.reduce, (a,), options, (total,), errors=call.errors))
    entries = prod(a.shape) // prod(result.shape)
    calls.append(Call(np.divide, (total, entries), {}, (result,), errors=call.errors))


def _operand(call: Call, i: int, calls: list[Call], known: dict[Any, Variable]) -> Any:
    value = call.args[i]
    if not isinstance(value, Variable):
        return value
    if value.number:
        dtype = loop_dtype(call, i)
        if dtype is None:
            return value
        if (value, dtype) not in known:
            known[value, dtype] = new = Variable((), dtype, scalar=True, hint=value.hint)
            calls.append(Call(converted, (value, (), dtype), {}, (new,)))
        return known[value, dtype]
    others = [a for j, a in enumerate(call.args) if j != i and isinstance(a, Variable)]
    shape = np.broadcast_shapes(*(other.shape for other in others)) if others else None
    if value.constant is not None and value.shape and shape == call.result.shape:
        return Variable((), value.dtype, scalar=True, constant=value.constant)
    return value


def loop_dtype(call: Call, i: int) -> np.dtype[Any] | None:
    """Return the dtype that a ufunc converts its i-th argument, a Python number, to."""
    if call.kwargs:
        return None
    kinds: list[Any] = []
    for value in call.args:
        if isinstance(value, Variable):
            kinds.append(value.dtype.type if value.number else value.dtype)
        else:
            kinds.append(type(value) if isinstance(value, int | float | complex) else None)
    weak = {np.int64: int, np.float64: float, np.complex128: complex, np.bool_: bool}
    for j, value in enumerate(call.args):
        if isinstance(value, Variable) and value.number:
            kinds[j] = weak.get(value.dtype.type)
    if any(kind is None or kind is bool for kind in kinds):  # a dtype may be equal to either
        return None
    f: Any = call.function
    try:
        found: np.dtype[Any] = f.resolve_dtypes((*kinds, *(None,) * f.nout))[i]
        return found
    except (TypeError, OverflowError):
        return None


def pieces(call: Call) -> int:
    """Return into how many row blocks a matrix product is best cut; 1 for leaving it whole.

    OpenBLAS has quicker kernels for products of up to 10⁶ multiplications in float32, where there is
    AVX-512, and NumPy makes one product after the other along a leading axis. Blocks of rows pay where
    the first factor is a transpose, as in a weight's gradient, and for some narrow results (see
    `inner_pieces`). Over 221 gradients of up to 1,024 x 256 x 256 this rule took 0.86 of the time of the
    whole products, and the best choice for each 0.85. In float64, nothing is gained.
    """
    shape = _shape_of_product(call)
    if shape is None or inner_pieces(call) > 1:
        return 1
    rows, inner, columns = shape
    count = _count(rows, rows * inner * columns)
    if call.args[0].strides[1] != call.args[0].dtype.itemsize:
        return count if columns <= 256 and rows // count >= 24 else 1
    return count if columns <= 64 and columns % 16 == 0 and rows // count >= 16 else 1


def inner_pieces(call: Call) -> int:
    """Return into how many products, over blocks of the inner axis, a product is best cut.

    The reason is that of `pieces`. The products are to be summed, so that this pays for results that
    are small beside the factors: 221 forward products took 0.89 of the time of the whole ones.
    """
    shape = _shape_of_product(call)
    if shape is None or call.args[0].strides[1] != call.args[0].dtype.itemsize:
        return 1
    rows, inner, columns = shape
    count = _count(inner, rows * inner * columns)
    return count if inner // count >= 96 and rows * columns <= 32 * inner else 1


def _shape_of_product(call: Call) -> tuple[int, int, int] | None:
    """Return rows, inner length and columns of a product that may be cut."""
    if call.function is not np.matmul or call.kwargs or not _HAS_SMALL_KERNELS:
        return None
    x, y = call.args
    if not isinstance(x, Variable) or not isinstance(y, Variable):
        return None
    if len(x.shape) != 2 or len(y.shape) != 2 or x.dtype != y.dtype or x.dtype != np.float32:
        return None
    if y.strides[1] != y.dtype.itemsize or y.shape[1] < 8:
        return None
    return *x.shape, y.shape[1]


def _count(length: int, total: int) -> int:
    """Return the least number of even pieces of an axis that makes the products small enough; or 1."""
    if total <= SMALL:
        return 1
    return next((n for n in range(2, 9) if length % n == 0 and total <= n * SMALL), 1)


_HAS_SMALL_KERNELS = has_small_kernels()


# Calls with out=

Names = Callable[[Any], str]

_REDUCTIONS: dict[Callable[..., Any], np.ufunc] = {
    np.sum: np.add,
    np.prod: np.multiply,
    np.max: np.maximum,
    np.min: np.minimum,
    np.all: np.logical_and,
    np.any: np.logical_or,
}
_WITH_OUT: set[Callable[..., Any]] = {
    *(np.dot, np.concatenate, np.stack, np.clip, np.cumsum, np.cumprod, np.argmax, np.argmin),
    *(np.einsum, np.outer, np.trace, np.mean, np.var, np.std, np.round),
}
_FILLED = {np.zeros_like: "0", np.ones_like: "1"}


def takes_out(call: Call) -> bool:
    """Tell whether a call can write its result where it is told to."""
    if call.kind != "call" or any(v.dtype.kind not in "biufc" for v in call.results):
        return False
    f = call.function
    if isinstance(f, np.ufunc):
        return True
    if isinstance(getattr(f, "__self__", None), np.ufunc):
        return getattr(f, "__name__", "") in ("reduce", "accumulate", "reduceat", "outer")
    if f is np.sort:
        return len(call.args) <= 2 and call.args[0].shape == call.result.shape
    if f is np.where:
        return len(call.args) == 3
    if f is np.round:  # which rounds whole numbers in floating point
        return call.result.dtype.kind in "fc"
    return f in {np.empty_like, *_REDUCTIONS, *_WITH_OUT, *_FILLED, *_IN_PLACE}


_IN_PLACE = {converted, with_entries, after, drawn}


def reusable(call: Call) -> list[Variable]:
    """Return the arguments in whose memory, if nobody needs them any more, the result may be computed.

    They are laid out as the result is, and the call takes no view of them. A call that does not go
    entry by entry must not read them twice, as what it reads the second time would be overwritten.
    """
    f, operands = call.function, call.operands
    if is_elementwise(call):
        found = list(call.args)
    elif f in (with_entries, after, np.sort, converted):
        found = [call.args[0]]
    elif f is np.where and len(call.args) == 3:
        found = [call.args[2]] if call.args[2] not in call.args[:2] else []
    else:
        found = []
    return [
        v
        for v in found
        if isinstance(v, Variable)
        and v.layout == call.result.layout
        and not any(other.root is v and other is not v for other in operands)
        and (is_elementwise(call) or operands.count(v) == 1)
    ]


def lines(call: Call, name: Names, out: str) -> list[str]:
    """Return the statements that compute a call's result into `out`."""
    f, args = call.function, call.args
    if f is converted:
        source = args[0]
        if isinstance(source, Variable) and not source.number:
            if name(source) == out:
                return []
            return [f'np.copyto({out}, {name(source)}, casting="unsafe")']
        text = name(source)
        return [f"{out}[...] = {text[1:-1] if text[0] == '(' else text}"]
    if f is drawn:
        return [f"{name(args[0])}.random(out={out}, dtype={name(args[2])})"]
    if f in (with_entries, after, np.sort):
        start = [] if name(args[0]) == out else [f"np.copyto({out}, {name(args[0])})"]
        if f is with_entries:
            return [*start, f"{out}[{index_text(args[1], name)}] = {name(args[2])}"]
        if f is after:
            parts = [out, *map(name, args[2:]), *_keywords(call.kwargs, name)]
            return [*start, f"{name(args[1])}({', '.join(parts)})"]
        options = _keywords({"axis": args[1], **call.kwargs} if args[1:] else call.kwargs, name)
        return [*start, f"{out}.sort({', '.join(options)})"]
    if f is np.where:
        condition, x, y = map(name, args)
        start = [] if y == out else [f"np.copyto({out}, {y})"]
        return [*start, f"np.copyto({out}, {x}, where={condition})"]
    if f is np.empty_like:
        return []
    if f in _FILLED:
        return [f"{out}.fill({_FILLED[f]})"]
    if f in _REDUCTIONS:
        return [_reduction(call, name, out)]
    parts = [*map(name, args), *_keywords(call.kwargs, name), f"out={out}"]
    return [f"{function_text(f)}({', '.join(parts)})"]


def _reduction(call: Call, name: Names, out: str) -> str:
    signature: tuple[str, ...] = ("axis", "dtype", "out", "keepdims", "initial", "where")
    if call.function not in (np.sum, np.prod):
        signature = ("axis", "out", "keepdims", "initial", "where")
    if call.function in (np.all, np.any):
        signature = ("axis", "out", "keepdims")
    options = {"axis": None, **dict(zip(signature, call.args[1:], strict=False)), **call.kwargs}
    options = {k: v for k, v in options.items() if v is not None or k == "axis"}
    if call.function in (np.all, np.any):
        options["dtype"] = bool
    text = function_text(_REDUCTIONS[call.function])
    return f"{text}.reduce({', '.join([name(call.args[0]), *_keywords(options, name)])}, out={out})"


def free(call: Call, name: Names) -> str:
    """Return the expression of a call that makes an array, or a view, of its own."""
    if call.function is operator.getitem:
        return f"{name(call.args[0])}[{index_text(call.args[1], name)}]"
    if call.function is np.transpose and len(call.args) == 1 and not call.kwargs:
        return f"{name(call.args[0])}.T"
    if call.function is np.transpose and len(call.args) == 2 and not call.kwargs:
        return f"{name(call.args[0])}.transpose({name(call.args[1])})"
    if call.function is np.reshape and len(call.args) == 2 and not call.kwargs:
        return f"{name(call.args[0])}.reshape({name(call.args[1])})"
    parts = [*map(name, call.args), *_keywords(call.kwargs, name)]
    return f"{name(call.function)}({', '.join(parts)})"


_SYMBOLS: dict[Callable[..., Any], str] = {
    operator.add: "+",
    operator.sub: "-",
    operator.mul: "*",
    operator.truediv: "/",
    operator.floordiv: "//",
    operator.mod: "%",
    operator.pow: "**",
    operator.neg: "-",
    operator.pos: "+",
}


def number_text(call: Call, name: Names) -> str:
    """Return the expression of a call on Python numbers, in parentheses."""
    symbol = _SYMBOLS.get(call.function)
    parts = [name(each) for each in call.args]
    if symbol is None:
        return f"{name(call.function)}({', '.join(parts)})"
    return f"({symbol}{parts[0]})" if len(parts) == 1 else f"({parts[0]} {symbol} {parts[1]})"


def index_text(index: Any, name: Names) -> str:
    """Return what stands between the brackets."""
    if isinstance(index, tuple) and index:
        return ", ".join(index_text(each, name) for each in index) + "," * (len(index) == 1)
    if isinstance(index, slice):
        start, stop, step = (
            "" if v is None else name(v) for v in (index.start, index.stop, index.step)
        )
        return f"{start}:{stop}" + (f":{step}" if step else "")
    return "..." if index is Ellipsis else name(index)


def _keywords(options: dict[str, Any], name: Names) -> list[str]:
    return [f"{key}={name(value)}" for key, value in options.items()]


def function_text(function: Any) -> str | None:
    """Return the expression that a NumPy function is known by, or None."""
    owner = getattr(function, "__self__", None)
    if isinstance(owner, np.ufunc):
        text = function_text(owner)
        return None if text is None else f"{text}.{function.__name__}"
    title = getattr(function, "__name__", "")
    for module, text in _MODULES.items():
        home = sys.modules.get(module)
        if home is not None and getattr(home, title, None) is function:
            return f"{text}.{title}"
    if function is np.max:
        return "np.max"
    return None


_MODULES = {
    "numpy": "np",
    "numpy.linalg": "np.linalg",
    "numpy.fft": "np.fft",
    "numpy.emath": "np.emath",
    "numpy.lib.scimath": "np.emath",
    "numpy.lib.stride_tricks": "np.lib.stride_tricks",
    "scipy.special": "special",
    "operator": "operator",
    "builtins": "builtins",
}


def imports(text: str) -> Sequence[str]:
    """Return the imports that a text needs beside NumPy's."""
    wanted = {
        "special.": "from scipy import special",
        "operator.": "import operator",
        "builtins.": "import builtins",
    }
    return [line for name, line in wanted.items() if name in text]
