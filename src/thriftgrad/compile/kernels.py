"""Chains of elementwise calls as one loop each, which Numba compiles to machine code.

NumPy goes through memory once for every call; a loop over the entries keeps what lies between the first
operand and the last result in registers. Each call becomes an expression on one entry, with the dtypes,
and the rounding, of NumPy: no product is contracted with a sum, none is reordered. So the results are
those of the calls to the last bit, but for the sign of a NaN, and that of a zero where `np.maximum` and
`np.minimum` choose between 0 and -0 (which NumPy leaves to the processor). What is not known here to be
the same, and what NumPy does better (exp, tanh and their like, of which it computes several entries at
once), is not taken.

A loop reports no floating-point errors: what overflows is inf and what is undefined is NaN, without a
warning, as under `np.errstate(all="ignore")`.

Kernels know dtypes and kinds of operands, and neither shapes nor the values of hyperparameters, so that
one serves all layers that are alike. `machine_code` compiles and keeps them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from thriftgrad.compile.program import Call, Variable


@dataclass(frozen=True)
class Argument:
    """What a kernel is called with.

    Attributes:
        name: of the array, to the caller.
        view: the expression of the array as the kernel takes it: its entries in a row, a table of rows
            where one operand is repeated, or an array of no axes for a number.
        dtype: of its entries.
        axes: of the view.
    """

    name: str
    view: str
    dtype: np.dtype[Any]
    axes: int


@dataclass(frozen=True)
class Kernel:
    """A function that goes through the entries of its arguments once.

    Attributes:
        name: of the function; it says what it does, and is another one for another text.
        text: its definition.
        arguments: what it is called with.
        needs: the import that the text needs beside NumPy's.
    """

    name: str
    text: str
    arguments: tuple[Argument, ...]
    needs: str = "from numba import njit"


def takes(call: Call) -> bool:
    """Tell whether a kernel can make a call, with the results of NumPy."""
    dtypes = _loop(call)
    return dtypes is not None and call.function in _table(dtypes[0])


def fused(
    calls: Sequence[Call], outs: Mapping[Variable, str], name: Callable[[Variable], str]
) -> Kernel | None:
    """Return the kernel that makes calls on arrays of one shape, or None if it cannot.

    Args:
        calls: in order, each of which `takes` accepts; operands have the shape of the results, or are
            repeated along the leading or the trailing axes (a bias, the largest of each row), or are
            numbers.
        outs: the results that are needed outside, and the names of the arrays that they go to, which are
            laid out as they are. Such an array may be an operand as well, by the same name; otherwise it
            overlaps none.
        name: gives the name of an operand. Numbers are asked for as well, unless they are written out.
    """
    if len(calls) < 2 or not all(map(takes, calls)):
        return None
    made = {call.result for call in calls}
    full = [*made, *(v for call in calls for v in call.operands if v not in made and v.shape)]
    shape = calls[0].result.shape
    if 0 in shape or not shape or any(v.shape != shape for v in made):
        return None
    for axes in range(len(shape)):
        forms = [_form(v, shape, axes) for v in full]
        if None not in forms:
            return _Text(calls, outs, name, axes).kernel()
    if len(shape) == 2 and all(v.shape == shape and _is_transposed(v) for v in full):
        return _Text(calls, outs, name, 0, transposed=True).kernel()
    return None


def _form(v: Variable, shape: tuple[int, ...], axes: int) -> str | None:
    """Return how an operand meets a table of which the first `axes` axes are the rows."""
    ones = (1,) * len(shape)
    whole = ones[len(v.shape) :] + v.shape
    if whole != shape and prod(v.shape) == 1:
        return "number"
    if not v.is_flat:
        return None
    if whole == shape:
        return "table" if axes else "entries"
    if whole == ones[:axes] + shape[axes:]:
        return "row"
    if whole == shape[:axes] + ones[axes:]:
        return "column"
    return None


def _is_transposed(v: Variable) -> bool:
    return v.strides == (v.dtype.itemsize, v.dtype.itemsize * v.shape[0])


# What a call is, entry by entry

_ANY: dict[Any, str] = {
    np.add: "{0} + {1}",
    np.subtract: "{0} - {1}",
    np.multiply: "{0} * {1}",
    np.square: "{0} * {0}",
    np.negative: "-{0}",
    np.positive: "{0}",
    np.absolute: "abs({0})",
    np.less: "{0} < {1}",
    np.less_equal: "{0} <= {1}",
    np.greater: "{0} > {1}",
    np.greater_equal: "{0} >= {1}",
    np.equal: "{0} == {1}",
    np.not_equal: "{0} != {1}",
    np.logical_and: "({0} != {zero}) & ({1} != {zero})",
    np.logical_or: "({0} != {zero}) | ({1} != {zero})",
    np.logical_not: "{0} == {zero}",
}
_FLOATS: dict[Any, str] = {
    **_ANY,
    np.divide: "{0} / {1}",
    np.reciprocal: "{one} / {0}",
    np.sqrt: "np.sqrt({0})",
    np.maximum: "{0} if ({0} > {1}) | ({0} != {0}) else {1}",
    np.minimum: "{0} if ({0} < {1}) | ({0} != {0}) else {1}",
    np.sign: "{one} if {0} > {zero} else -{one} if {0} < {zero} else {0} + {zero}",
    np.floor: "np.floor({0})",
    np.ceil: "np.ceil({0})",
    np.trunc: "np.trunc({0})",
    np.isnan: "{0} != {0}",
    np.isfinite: "{0} - {0} == {0} - {0}",
    np.isinf: "({0} == {0}) & ({0} - {0} != {0} - {0})",
}
_BITS: dict[Any, str] = {
    np.bitwise_and: "{0} & {1}",
    np.bitwise_or: "{0} | {1}",
    np.bitwise_xor: "{0} ^ {1}",
}
_WHOLE: dict[Any, str] = {
    **_ANY,
    **_BITS,
    np.invert: "~{0}",
    np.maximum: "{0} if {0} > {1} else {1}",
    np.minimum: "{0} if {0} < {1} else {1}",
}
_WIDE = {
    f: template
    for f, template in _WHOLE.items()
    if f not in (np.add, np.subtract, np.multiply, np.square, np.negative, np.absolute)
}
"""Of signed numbers of 64 bits: without what may overflow. Numba takes it that none does, so that
`abs(a * a)` would be negative where `a * a` is; shorter ones it computes in 64 bits."""
_TRUTHS: dict[Any, str] = {
    **_BITS,
    np.logical_and: "{0} & {1}",
    np.logical_or: "{0} | {1}",
    np.logical_xor: "{0} ^ {1}",
    np.logical_not: "not {0}",
    np.invert: "not {0}",
    np.add: "{0} | {1}",
    np.multiply: "{0} & {1}",
    np.maximum: "{0} | {1}",
    np.minimum: "{0} & {1}",
    np.equal: "{0} == {1}",
    np.not_equal: "{0} != {1}",
}


def _table(dtype: np.dtype[Any]) -> dict[Any, str]:
    """Return what is known of calls on entries of a dtype."""
    if dtype.kind == "f" and dtype.itemsize in (4, 8):
        return _FLOATS
    if dtype.kind in "iu":
        return _WIDE if dtype.kind == "i" and dtype.itemsize == 8 else _WHOLE
    return _TRUTHS if dtype.kind == "b" else {}


def _loop(call: Call) -> tuple[np.dtype[Any], ...] | None:
    """Return the dtypes that a call converts its operands to, and that of its result."""
    f = call.function
    if not isinstance(f, np.ufunc) or f.signature is not None or f.nout != 1 or f.nin > 2:
        return None
    if call.kind != "call" or call.kwargs or call.errors is not None or len(call.args) != f.nin:
        return None
    kinds: list[Any] = []
    for value in call.args:
        if isinstance(value, Variable | np.generic):
            if isinstance(value, Variable) and value.number:
                return None
            kinds.append(value.dtype)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            kinds.append(type(value))
        else:
            return None
    if not any(isinstance(kind, np.dtype) for kind in kinds):
        return None
    resolving: Any = f
    try:
        dtypes: tuple[np.dtype[Any], ...] = resolving.resolve_dtypes((*kinds, None))
    except (TypeError, OverflowError):
        return None
    alike = len({*dtypes[:-1]}) == 1 and dtypes[-1] == call.result.dtype
    given = [kind for kind in kinds if isinstance(kind, np.dtype)]
    known = all(d.isnative and _table(d) for d in (*given, *dtypes))
    return dtypes if alike and known else None


# The text

JIT = '@njit(nogil=True, error_model="numpy"'
"""What a definition begins with, up to where options may follow."""
_LETTERS = "abcdefghkmnqrsuvwxyz"
_PLAIN = {"0.0", "1.0", "-1.0", "2.0", "0.5"}
"""Numbers that are part of a formula, and no hyperparameter."""


class _Text:
    """The definition of a kernel, while it is being written."""

    def __init__(
        self,
        calls: Sequence[Call],
        outs: Mapping[Variable, str],
        name: Callable[[Variable], str],
        axes: int,
        *,
        transposed: bool = False,
    ) -> None:
        self.calls = calls
        self.outs = outs
        self.name = name
        self.axes = axes
        self.transposed = transposed
        self.shape = calls[0].result.shape
        self.arguments: dict[str, Argument] = {}
        self.letters: dict[str, str] = {}
        self.head: dict[str, str] = {}  # what is read once, by the name that it has then
        self.rows: dict[str, str] = {}  # what is read once a row
        self.values: dict[Variable, str] = {}
        self.literals: set[str] = set()
        self.times: dict[Variable, int] = {}
        for call in calls:
            for v in call.operands:
                self.times[v] = self.times.get(v, 0) + 1

    def kernel(self) -> Kernel:
        """Return it."""
        body = [line for call in self.calls for line in self._lines(call)]
        for v, out in self.outs.items():
            body.append(f"{self._entry(v, out)} = {self.values[v]}")
        lines = [self._types(), *(f"{name} = {text}" for name, text in self.head.items())]
        if self.axes:
            table = next(self.letters[a.name] for a in self.arguments.values() if a.axes == 2)
            lines.append(f"for i in range({table}.shape[0]):")
            lines += [f"    {name} = {text}" for name, text in self.rows.items()]
            lines.append(f"    for j in range({table}.shape[1]):")
        else:
            entries = next(self.letters[a.name] for a in self.arguments.values() if a.axes)
            lines.append(f"for i in range({entries}.size):")
        indent = "    " * (2 if self.axes else 1)
        lines += [indent + line for line in body]
        parameters = ", ".join(self.letters.values())
        text = f"({parameters}):\n" + "".join(f"    {line}\n" for line in lines)
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        titles = list(dict.fromkeys(call.function.__name__ for call in self.calls))
        title = "_".join(titles) if len(titles) < 4 else f"{len(self.calls)}_calls"
        title = f"loop_{title}_{digest}"
        return Kernel(title, f"{JIT})\ndef {title}{text}", tuple(self.arguments.values()))

    def _types(self) -> str:
        """Return what the arguments are."""
        kinds: dict[str, list[str]] = {}
        for each in self.arguments.values():
            kind = f"{each.dtype.name} {('numbers', 'entries', 'tables')[each.axes]}"
            kinds.setdefault(kind, []).append(self.letters[each.name])
        parts = [f"{', '.join(letters)}: {kind}" for kind, letters in kinds.items()]
        return f'"""{"; ".join(parts)}."""'

    def _lines(self, call: Call) -> list[str]:
        dtypes = _loop(call)
        assert dtypes is not None
        dtype, result = dtypes[0], call.result
        template = _table(dtype)[call.function]
        given = []
        lines = []
        for k, value in enumerate(call.args):
            text = self._operand(value, dtype)
            short = text.isidentifier() or text in self.literals
            if template.count(f"{{{k}}}") > 1 and not short:
                name = f"t{len(self.values)}_{k}"
                lines.append(f"{name} = {_bare(text)}")
                text = name
            given.append(text)
        text = template.format(*given, zero=_number(0, dtype), one=_number(1, dtype))
        if result.dtype.kind in "iu":
            text = f"np.{result.dtype.name}({text})"
        alone = self.times.get(result, 0) == 1 and result not in self.outs
        if alone and len(text) <= 50:
            self.values[result] = text if _CLOSED.fullmatch(text) else f"({text})"
        else:
            name = f"t{len(self.values)}"
            self.values[result] = name
            lines.append(f"{name} = {text}")
        return lines

    def _operand(self, value: Any, dtype: np.dtype[Any]) -> str:
        """Return the expression of an operand's entry, in the dtype of the loop."""
        constant = not isinstance(value, Variable)
        if isinstance(value, Variable) and value.constant is not None and value.shape == ():
            value, constant = value.constant, True
        if constant:
            item = np.asarray(value).astype(dtype)[()]
            if dtype.kind != "f" or repr(item.item()) in _PLAIN:
                literal = _number(item.item(), dtype)
                self.literals.add(literal)
                return literal
            value = Variable((), dtype, scalar=True, constant=item)
        text = self.values.get(value)
        if text is None:
            text = self._entry(value, self.name(value))
        if value.dtype == dtype:
            return text
        return f"np.{dtype.name}({_bare(text)})"

    def _entry(self, v: Variable, name: str) -> str:
        """Return the expression of an array's entry."""
        form = _form(v, self.shape, self.axes) or "entries"  # those of a transposed array
        if name not in self.letters:
            numbers = len(self.head)
            count = len(self.letters) - numbers
            letter = _LETTERS[count] if count < len(_LETTERS) else f"x{count}"
            view, axes = name, 1
            if form == "number":
                letter = f"p{numbers}"
                view, axes = f"{name}.reshape(())" if v.shape else name, 0
                self.head[letter] = f"{letter}[()]"
            elif form == "table":
                axes = 2
                rows = prod(self.shape[: self.axes])
                table = rows, prod(self.shape) // rows
                view = name if v.shape == table else f"{name}.reshape{table}"
            elif self.transposed:
                view = f"{name}.T.reshape(-1)"
            elif len(v.shape) != 1:
                view = f"{name}.reshape(-1)"
            if form == "column":
                self.rows[f"{letter}_i"] = f"{letter}[i]"
            self.letters[name] = letter
            self.arguments[name] = Argument(name, view, v.dtype, axes)
        letter = self.letters[name]
        places = {"number": "", "column": "_i", "entries": "[i]", "table": "[i, j]", "row": "[j]"}
        return letter + places[form]


_CLOSED = re.compile(r"[\w.]+(\([^()]*\))?")
"""An expression that needs no parentheses inside of another one."""


def _bare(text: str) -> str:
    return text[1:-1] if text[0] == "(" else text


def _number(item: float, dtype: np.dtype[Any]) -> str:
    if dtype.kind == "b":
        return repr(bool(item))
    return f"np.{dtype.name}({item:g})" if dtype.kind == "f" else f"np.{dtype.name}({item})"
