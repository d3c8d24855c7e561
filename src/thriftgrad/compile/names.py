"""What the text of a program calls things: arrays, numbers, constants, functions, and all else."""

from __future__ import annotations

import builtins
import keyword
import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Any
from unicodedata import normalize

import numpy as np

from thriftgrad.compile import spell
from thriftgrad.compile.place import Buffer
from thriftgrad.compile.program import Call, Input, Program, Variable, is_literal

RESERVED = {
    *("np", "block", "at", "i", "row", "special", "operator", "builtins", "warnings", "errors"),
    *("wanted", "note", "report"),
    *keyword.kwlist,
    *dir(builtins),
}


class Names:
    """The names in one text.

    Attributes:
        known: the names of variables that lie outside of the block.
        in_block: the buffers of those in it.
        inlined: the calls whose results are written as expressions where they are used.
        constants: by value and dtype, the name of a constant and the line that makes it.
        objects: what the text cannot make itself, by the names that it uses for it.
    """

    def __init__(self, function: str, inputs: Iterable[Input]) -> None:
        self.function = identifier(function)
        while self.function in RESERVED:
            self.function += "_"
        self._taken: set[str] = {*RESERVED, self.function}
        self._counts: dict[str, int] = {}  # of names that were wished for alike
        self.inputs = {each.variable: each for each in inputs}
        self.known = {v: self.new(each.name) for v, each in self.inputs.items()}
        self.in_block: dict[Variable, Buffer] = {}
        self.inlined: dict[Variable, Call] = {}
        self.constants: dict[Any, tuple[str, str]] = {}
        self.objects: dict[str, Any] = {}
        self._names_of_objects: dict[int, str] = {}

    def new(self, wish: str) -> str:
        """Return a name like the one wished for that nothing else has."""
        name = stem = identifier(wish)
        while name in self._taken:
            self._counts[stem] = self._counts.get(stem, 1) + 1
            name = f"{stem}_{self._counts[stem]}"
        self._taken.add(name)
        return name

    def is_literal(self, v: Variable) -> bool:
        """Tell whether a variable is one number, the same in all runs."""
        return is_literal(v, self.inputs)

    def of(self, value: Any) -> str:
        """Return the expression for an argument."""
        if isinstance(value, Variable):
            return self._of_variable(value)
        if isinstance(value, np.dtype):
            text = dtype_text(value)
            return f"np.{text}" if hasattr(np, text) else f"np.dtype({text!r})"
        if isinstance(value, type):
            if issubclass(value, np.generic):
                return f"np.{value.__name__}"
            if value in (int, float, complex, bool):
                return value.__name__
        if isinstance(value, np.generic):
            return self._of_constant(value, value.dtype)
        if isinstance(value, float | complex):
            return _float_text(value)
        if value is None or isinstance(value, bool | int | str):
            return repr(value)
        if isinstance(value, tuple):
            inside = ", ".join(map(self.of, value))
            return f"({inside},)" if len(value) == 1 else f"({inside})"
        if isinstance(value, list):
            return f"[{', '.join(map(self.of, value))}]"
        if isinstance(value, dict):
            return "{" + ", ".join(f"{k!r}: {self.of(v)}" for k, v in value.items()) + "}"
        if isinstance(value, slice):
            return f"slice({', '.join(map(self.of, (value.start, value.stop, value.step)))})"
        if value is Ellipsis:
            return "..."
        return spell.function_text(value) or self.of_object(value)

    def view(self, call: Call) -> str:
        """Return what to call a view: `x_T`, `x_flat`, `x_4x100x196`."""
        shape, given = call.results[0].shape, call.operands[0]
        if call.function is np.transpose and len(shape) == 2:
            return f"{self.of(given)}_T"
        if call.function in _SAME_ENTRIES and shape:
            kind = "flat" if len(shape) == 1 else "x".join(map(str, shape))
            is_named = given.root in self.known or given.root in self.in_block
            return f"{self.of(given.root if is_named else given)}_{kind}"
        title = getattr(call.function, "__name__", "view")
        return f"{self.of(given)}_{PLAIN.get(title, title)}"

    def of_object(self, value: Any) -> str:
        """Return the name of something that the text cannot make."""
        known = self._names_of_objects.get(id(value))
        if known is None:
            known = self.new(getattr(value, "__name__", "thing"))
            self._names_of_objects[id(value)] = known
            self.objects[known] = value
        return known

    def _of_variable(self, v: Variable) -> str:
        if v in self.known:
            return self.known[v]
        if self.is_literal(v):
            return self._of_constant(v.constant, v.dtype)
        if v in self.in_block:
            return self.in_block[v].name
        if v.constant is not None:
            return self._of_filled(v)
        return spell.number_text(self.inlined[v], self.of)

    def _of_constant(self, value: Any, dtype: np.dtype[Any]) -> str:
        """Return the name of an array of one entry, which a call takes more quickly than a number."""
        item = np.asarray(value).item()
        key = repr(item), dtype
        if key not in self.constants:
            label = re.sub(r"\W+", "_", f"{item:g}" if isinstance(item, float) else str(item))
            name = self.new(f"c{label.strip('_')}" if label[0] != "_" else f"minus{label}")
            text = _float_text(item) if isinstance(item, float | complex) else repr(item)
            self.constants[key] = name, f"{name} = np.array({text}, {dtype_text(dtype)!r})"
        return self.constants[key][0]

    def _of_filled(self, v: Variable) -> str:
        """Return the name of an array of one entry many times, which stands beside the block."""
        key = repr(v.constant), v.dtype, v.shape
        if key not in self.constants:
            stem = "ones" if v.constant == 1 else "filled"
            name = self.new("_".join([stem, *map(str, v.shape)]))
            text = f"np.ones({self.of(v.shape)}, {dtype_text(v.dtype)!r})"
            if v.constant != 1:
                text = f"np.full({self.of(v.shape)}, {self._of_constant(v.constant, v.dtype)})"
            self.constants[key] = name, f"{name} = {text}"
        return self.constants[key][0]


_SAME_ENTRIES = {np.reshape, np.transpose, np.squeeze, np.expand_dims}


def called_after_layers(program: Program) -> Program:
    """Call products with a weight after its layer: `hidden` going forward, `grad_before_hidden` back.

    Which of the two it is shows in whether the weight is transposed, as the first one goes forward.
    """
    layers = {
        each.variable: each.name.removesuffix(".weight")
        for each in program.inputs
        if each.name.endswith(".weight") and len(each.variable.shape) == 2
    }
    whole: dict[Variable, bool] = {}  # how a weight goes into its first product
    for call in program.calls:
        if call.function not in (np.matmul, np.dot) or call.result.hint:
            continue
        for v in call.operands:
            if v.root in layers and len(v.shape) == 2:
                goes_forward = whole.setdefault(v.root, v is v.root) == (v is v.root)
                layer = layers[v.root]
                call.result.hint = layer if goes_forward else f"grad_before_{layer}"
    return program


def with_arrays(call: Call) -> Call:
    """Return the call with its Python numbers as arrays of one entry, of the loop's dtype."""
    if not isinstance(call.function, np.ufunc) or not any(
        isinstance(v, Variable) and not v.number for v in call.args
    ):
        return call
    args = list(call.args)
    for i, value in enumerate(args):
        if isinstance(value, int | float | complex) and not isinstance(value, np.generic):
            dtype = spell.loop_dtype(call, i)
            if dtype is not None:
                args[i] = Variable((), dtype, constant=np.array(value, dtype)[()])
    return replace(call, args=tuple(args))


PLAIN = {
    **{"sum": "total", "max": "largest", "min": "smallest", "reduce": "total", "all": "every"},
    **{"any": "some", "abs": "absolute", "round": "rounded", "getitem": "entries"},
    **{"converted": "copy", "with_entries": "result", "after": "result", "drawn": "draw"},
}
"""What the result of a function is called, where not as the function is."""


def identifier(wish: str) -> str:
    """Return a name that Python allows, as close as can be to the one wished for."""
    name = re.sub(r"\W+", "_", normalize("NFKC", wish)).strip("_")  # as Python reads names
    if not f"_{name}".isidentifier():  # a letter to re, but none to Python
        name = re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_")
    name = name or "value"
    if keyword.iskeyword(name):
        return f"{name}_"
    return f"layer_{name}" if name[0].isdigit() else name


def dtype_text(dtype: np.dtype[Any]) -> str:
    """Return what NumPy makes this dtype from."""
    return dtype.name if dtype.isnative else dtype.str


def _float_text(value: Any) -> str:
    if isinstance(value, complex):  # `-1-0j` is an expression, whose imaginary part is 0 and not -0
        return f"complex({_float_text(value.real)}, {_float_text(value.imag)})"
    text = repr(value)
    return f'float("{text}")' if "nan" in text or "inf" in text else text
