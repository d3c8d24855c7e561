"""The NumPy text that a program is.

The text is a module: one block of memory, arrays at fixed places in it, and a function. It is what a
compiled function runs, and what a person reads. All arrays that a call can write to lie in the block;
what NumPy can only return newly made (a fancy index, a solution of linear equations) lies outside it.

Arrays that the program writes into, parameters and an optimiser's state, are written last, by calls that
do nothing else, in pieces that stay in the processor's cache. What can fail has not failed by then:
floating-point errors in these calls are reported when all is written, so that an exception leaves the
parameters as they were or as they are to be.
"""

from __future__ import annotations

import builtins
import keyword
import operator
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any
from unicodedata import normalize

import numpy as np

from thriftgrad.compile import spell
from thriftgrad.compile.order import Update, ordered
from thriftgrad.compile.place import ALIGNMENT, Buffer, most_alive, place
from thriftgrad.compile.program import Call, Input, Program, Variable, converted
from thriftgrad.units import show_bytes

PIECE = 1 << 15
"""Entries of a piece: a handful of pieces stay in the cache."""


@dataclass(frozen=True)
class Memory:
    """What lies where, and when, in the block of a compiled function.

    Attributes:
        block: size of the block in bytes.
        most_alive: the largest sum of what is needed at once; no block is smaller.
        buffers: what lies in it, in the order of first use. Times count the calls of the program.
        outside: what NumPy can only make outside of the block, name and bytes.
    """

    block: int
    most_alive: int
    buffers: tuple[Buffer, ...]
    outside: tuple[tuple[str, int], ...]

    def __str__(self) -> str:
        rows = [
            f"block of {show_bytes(self.block)}; at most {show_bytes(self.most_alive)} are needed at once",
            f"{'offset':>12} {'bytes':>12} {'calls':>11}  array",
        ]
        for each in self.buffers:
            calls = f"{each.first}-{each.last}"
            rows.append(f"{each.offset:>12,} {each.nbytes:>12,} {calls:>11}  {each.name}")
        rows += [f"{'outside':>12} {nbytes:>12,} {'':>11}  {name}" for name, nbytes in self.outside]
        return "\n".join(rows)

    __repr__ = __str__


@dataclass(frozen=True)
class Written:
    """A program as text.

    Attributes:
        text: the module.
        name: of the function in it.
        inputs: its arguments, in order.
        objects: what the text cannot make itself, by the names that it uses for it.
        complaints: those among them that make exceptions.
        memory: where everything lies.
    """

    text: str
    name: str
    inputs: tuple[Input, ...]
    objects: dict[str, Any]
    complaints: dict[str, Any]
    memory: Memory


def write(program: Program, name: str) -> Written:
    """Return the text of a program whose function is called `name`."""
    return _Writer(spell.spelled(program), name).written()


class _Writer:
    def __init__(self, program: Program, name: str) -> None:
        self.program = program
        self.function = _identifier(name)
        while self.function in _RESERVED:
            self.function += "_"
        self.names: dict[Any, str] = {}
        self.taken: set[str] = {*_RESERVED, self.function}
        self.objects: dict[str, Any] = {}
        self.constants: dict[Any, tuple[str, str]] = {}
        self.inputs = {each.variable: each for each in program.inputs}
        self.inlined: dict[Variable, Call] = {}
        self.buffers: list[Buffer] = []
        self.in_block: dict[Variable, Buffer] = {}
        self.layouts: dict[Buffer, Variable] = {}
        self.static: dict[Any, str] = {}
        self.outside: list[tuple[str, int]] = []
        self.complaints: dict[str, Any] = {}
        self.holds_back = False
        for each in program.inputs:
            self.names[each.variable] = self.new_name(each.name)

    def written(self) -> Written:
        self.steps = ordered(self.program)
        self._find_lifetimes()
        body = [line for group in self._body() for line in group]
        block = place(self.buffers)
        memory = Memory(block, most_alive(self.buffers), tuple(self.buffers), tuple(self.outside))
        text = self._module(body, block)
        inputs = tuple(self.program.inputs)
        return Written(text, self.function, inputs, self.objects, self.complaints, memory)

    # What lies where

    def _find_lifetimes(self) -> None:
        """Decide what lies in the block, what shares a buffer, and from when to when."""
        self.last: dict[Variable, int] = {}
        uses: dict[Variable, int] = {}
        for i, step in enumerate(self.steps):
            for call in step.calls if isinstance(step, Update) else (step,):
                for v in call.operands:
                    self.last[v.root] = i
                    uses[v] = uses.get(v, 0) + 1
        for v in self.program.ends:
            self.last[v.root] = len(self.steps)
            uses[v] = uses.get(v, 0) + 2
        for i, step in enumerate(self.steps):
            if isinstance(step, Update):
                continue
            if step.kind == "number" and uses.get(step.result, 0) < 2:
                self.inlined[step.result] = step
            elif spell.takes_out(step) and not self.is_literal(step.results[0]):
                self._give_buffers(i, step)

    def _give_buffers(self, i: int, call: Call) -> None:
        for result in call.results:
            result.strides = result.packed
            buffer = self._reused(i, call, result)
            if buffer is None:
                name = result.hint or getattr(call.function, "__name__", "value")
                if call.function is converted and any(v.number for v in call.operands):
                    name = "factor"
                name = _PLAIN_NAMES.get(name, name)
                buffer = self.new_buffer(name, result, i)
            elif result.hint and not self.layouts[buffer].hint:
                self._rename(buffer, result)
            buffer.last = max(buffer.last, self.last.get(result, i))
            self.in_block[result] = buffer

    def new_buffer(self, wish: str, like: Variable, step: int) -> Buffer:
        """Return a buffer for an array that is used in one step only, so far."""
        buffer = Buffer(self.new_name(wish), like.nbytes, step, step)
        self.buffers.append(buffer)
        self.layouts[buffer] = like
        return buffer

    def _rename(self, buffer: Buffer, result: Variable) -> None:
        buffer.name = self.new_name(result.hint)
        self.layouts[buffer] = result

    def _reused(self, i: int, call: Call, result: Variable) -> Buffer | None:
        """Return the buffer of an argument that this call is the last to need."""
        operands = call.operands
        for v in spell.reusable(call):
            if (
                v in self.in_block
                and v.layout == result.layout
                and self.last[v] == i
                and not any(other.root is v and other is not v for other in operands)
                and not (not spell.is_elementwise(call) and operands.count(v) > 1)
            ):
                return self.in_block[v]
        return None

    # Names

    def new_name(self, wish: str) -> str:
        """Return a name like the one wished for that nothing else has."""
        name = stem = _identifier(wish)
        number = 1
        while name in self.taken:
            number += 1
            name = f"{stem}_{number}"
        self.taken.add(name)
        return name

    def is_literal(self, v: Variable) -> bool:
        """Tell whether a variable is one number, the same in all runs."""
        return v.constant is not None and v.shape == () and v not in self.inputs

    def name(self, value: Any) -> str:
        """Return the expression for an argument."""
        if isinstance(value, Variable):
            return self._variable_name(value)
        if isinstance(value, np.dtype):
            text = _dtype_text(value)
            return f"np.{text}" if hasattr(np, text) else f"np.dtype({text!r})"
        if isinstance(value, type):
            if issubclass(value, np.generic):
                return f"np.{value.__name__}"
            if value in (int, float, complex, bool):
                return value.__name__
        if isinstance(value, np.generic):
            return self._constant(value, value.dtype)
        if isinstance(value, float | complex):
            return _float_text(value)
        if value is None or isinstance(value, bool | int | str):
            return repr(value)
        if isinstance(value, tuple):
            inside = ", ".join(map(self.name, value))
            return f"({inside},)" if len(value) == 1 else f"({inside})"
        if isinstance(value, list):
            return f"[{', '.join(map(self.name, value))}]"
        if isinstance(value, dict):
            return "{" + ", ".join(f"{k!r}: {self.name(v)}" for k, v in value.items()) + "}"
        if isinstance(value, slice):
            return f"slice({', '.join(map(self.name, (value.start, value.stop, value.step)))})"
        if value is Ellipsis:
            return "..."
        return spell.function_text(value) or self._object(value)

    def _variable_name(self, v: Variable) -> str:
        if v in self.names:
            return self.names[v]
        if self.is_literal(v):
            return self._constant(v.constant, v.dtype)
        if v in self.in_block:
            return self.in_block[v].name
        call = self.inlined[v]
        return spell.number_text(call, self.name)

    def _constant(self, value: Any, dtype: np.dtype[Any]) -> str:
        """Return the name of an array of one entry, which a call takes more quickly than a number."""
        item = np.asarray(value).item()
        key = repr(item), dtype
        if key not in self.constants:
            label = re.sub(r"\W+", "_", f"{item:g}" if isinstance(item, float) else str(item))
            name = self.new_name(f"c{label.strip('_')}" if label[0] != "_" else f"minus{label}")
            text = _float_text(item) if isinstance(item, float | complex) else repr(item)
            self.constants[key] = name, f"{name} = np.array({text}, {_dtype_text(dtype)!r})"
        return self.constants[key][0]

    def _object(self, value: Any) -> str:
        known = self.names.get(id(value))
        if known is None:
            known = self.names[id(value)] = self.new_name(getattr(value, "__name__", "thing"))
            self.objects[known] = value
        return known

    def with_arrays(self, call: Call) -> Call:
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
        return Call(call.function, tuple(args), call.kwargs, call.results, call.kind, call.errors)

    # The lines

    def _body(self) -> Iterable[list[str]]:
        groups: list[list[str]] = []
        errors: dict[str, str] | None = None
        updates = [step for step in self.steps if isinstance(step, Update)]
        for i, step in enumerate(self.steps):
            if isinstance(step, Update):
                continue
            found = self._lines(i, step)
            if not found:
                continue
            if step.errors:
                if errors != step.errors:
                    options = ", ".join(f"{k}={v!r}" for k, v in step.errors.items())
                    groups.append([f"with np.errstate({options}):"])
                groups.append([f"    {line}" for line in found])
            else:
                groups.append(found)
            errors = step.errors
        groups.append(self._writes(updates))
        groups.append([self._return()])
        return groups

    def _lines(self, i: int, call: Call) -> list[str]:
        if call.kind == "require":
            holds, *rest = call.args
            complaint = self._object(call.kwargs["complaint"])
            self.complaints[complaint] = self.objects[complaint]
            given = ", ".join(self.name(each) for each in rest)
            return [f"if not {self.name(holds)}:", f"    raise {complaint}({given})"]
        if all(self.is_literal(v) for v in call.results):
            return []
        if call.kind == "number":
            if call.result in self.inlined:
                return []
            text = spell.number_text(call, self.name)
            self.names[call.result] = self.new_name("number")
            return [f"{self.names[call.result]} = {text[1:-1] if text[0] == '(' else text}"]
        call = self.with_arrays(call)
        if all(v in self.in_block for v in call.results):
            outs = [self.in_block[v].name for v in call.results]
            out = outs[0] if len(outs) == 1 else f"({', '.join(outs)})"
            cut = spell.pieces(call)
            if cut > 1:
                return [self._product_in_blocks(call, out, cut)]
            return spell.lines(call, self.name, out)
        text = spell.free(call, self.name)
        fixed = call.kind == "view" and all(self.is_fixed(v) for v in call.operands)
        title = getattr(call.function, "__name__", "value")
        title = "_".join(filter(None, [self._stem(call), _PLAIN_NAMES.get(title, title)]))
        for v in call.results:
            self.names[v] = self.new_name(v.hint or title)
        left = ", ".join(self.names[v] for v in call.results)
        left += "," * (len(call.results) > 1)
        if fixed:
            for v in call.results:
                self.static[v] = f"{left} = {text}"
            return []
        if call.kind != "view":
            self.outside += [(self.names[v], v.nbytes) for v in call.results]
        made = [f"{left} = {text}"]
        if call.function is operator.getitem and any(
            v.dtype.kind == "b" for v in call.operands[1:]
        ):
            # A mask from outside may have become another one.
            made.append(f"if {left}.shape != {call.result.shape}:")
            made.append(f'    raise ValueError("{left}: a mask has another number of entries now")')
        return made

    def _product_in_blocks(self, call: Call, out: str, count: int) -> str:
        """Return a matrix product as one of several blocks of rows, along a new leading axis."""
        x, y = call.args
        rows, inner = x.shape
        columns = y.shape[1]
        blocks = f"({count}, {rows // count}, {columns})"
        target = self.new_name(f"{out}_blocks")
        self.static[target] = f"{target} = {out}.reshape{blocks}"
        given = f"{self.name(x)}.reshape({count}, {rows // count}, {inner})"
        if self.is_fixed(x):
            name = self.new_name(f"{self.name(x)}_blocks")
            self.static[name] = f"{name} = {given}"
            given = name
        return f"np.matmul({given}, {self.name(y)}, out={target})"

    def _stem(self, call: Call) -> str:
        """Return the name of what a view is of."""
        if call.kind != "view":
            return ""
        return self.name(next(v for v in call.operands))

    def is_fixed(self, v: Variable) -> bool:
        """Tell whether an array lies in one place in all runs."""
        return v in self.in_block or v in self.static

    def _return(self) -> str:
        parts = []
        for v in [*self.program.outputs, *(v for _, v in self.program.gradients if v is not None)]:
            name = self.name(v)
            if v.number:
                parts.append(name)
            elif v in self.inputs:
                parts.append(f"np.array({name})[()]" if v.scalar else f"np.array({name})")
            else:
                parts.append(f"{name}[()]" if v.scalar else f"{name}.copy()")
        return f"return {parts[0]}," if len(parts) == 1 else f"return {', '.join(parts) or '()'}"

    # Updates

    def _writes(self, updates: Sequence[Update]) -> list[str]:
        """Return the lines that write into live arrays."""
        result: list[str] = []
        covered: set[Variable] = set()
        for update in updates:
            result += _UpdateText(self, update, covered).lines()
        for each in self.program.writes:
            if each.final not in covered:
                result.append(f"np.copyto({self.names[each.variable]}, {self.name(each.final)})")
        if not result:
            return []
        self.holds_back = True
        return [
            "with held_back():",
            *(f"    {line}" for line in result),
            "if errors:",
            "    report()",
        ]

    # The module

    def _module(self, body: list[str], block: int) -> str:
        names = [self.names[each.variable] for each in self.program.inputs]
        arguments = ", ".join(names)
        if len(arguments) > 80:
            arguments = "".join(f"\n    {name}," for name in names) + "\n"
        indented = "\n".join(f"    {line}" for line in body)
        definition = f"def {self.function}({arguments}):\n{indented}\n"
        fixed = "\n".join(dict.fromkeys(self.static.values()))
        calls = sum(len(step.calls) if isinstance(step, Update) else 1 for step in self.steps)
        prelude = [
            f'"""`{self.function}` as {calls} calls in a block of {show_bytes(block)}, written by '
            f'thriftgrad.compile."""'
        ]
        prelude.append("\n".join([*spell.imports(definition + fixed), "import numpy as np"]))
        if self.holds_back:
            prelude[-1] = f"import warnings\n\n{prelude[-1]}"
        if self.buffers:
            prelude.append(_BLOCK.format(block=max(block, 1), alignment=ALIGNMENT))
            prelude.append("\n".join(self._array(buffer) for buffer in self.buffers))
        if self.constants:
            prelude.append("\n".join(line for _, line in self.constants.values()))
        if fixed:
            prelude.append(fixed)
        if self.holds_back:
            prelude.append(_HELD_BACK)
        return re.sub("\n{4,}", "\n\n\n", "\n\n".join(prelude) + "\n\n\n" + definition)

    def _array(self, buffer: Buffer) -> str:
        like = self.layouts[buffer]
        strides = "" if like.strides == like.c_strides else f", {like.strides}"
        place = f"{buffer.offset}, {like.shape}, {_dtype_text(like.dtype)!r}{strides}"
        return f"{buffer.name} = at({place})"


class _UpdateText:
    """The statements of an update.

    Each result goes, if possible, into the array that it is to be written into, or into memory whose
    entries nobody needs any more; else into scratch memory of a piece's size.
    """

    def __init__(self, writer: _Writer, update: Update, covered: set[Variable]) -> None:
        self.writer = writer
        self.update = update
        self.covered = covered
        self.step = writer.steps.index(update)
        self.made = {call.result: j for j, call in enumerate(update.calls)}
        self.targets = {e.final: e.variable for e in writer.program.writes if e.final in self.made}
        self.finals = {old: final for final, old in self.targets.items()}
        self.last = {v: j for j, call in enumerate(update.calls) for v in call.operands}
        self.home: dict[Variable, str] = {}
        self.lent: dict[str, int] = {}  # until which call a target's memory may hold something else
        self.free: dict[Any, list[str]] = {}
        self.scratch: set[str] = set()
        self.names: dict[Variable, str] = {}
        self.text: list[str] = []
        for call in update.calls:
            call.result.strides = call.result.packed
        arrays = [
            v for v in update.operands if v.shape == update.shape and not writer.is_literal(v)
        ]
        self.arrays = list(dict.fromkeys([*arrays, *self.finals]))
        self.size = prod(update.shape)
        self.cut = self.size > PIECE and all(v.is_flat for v in (*self.arrays, *self.made))

    def lines(self) -> list[str]:
        """Return the statements."""
        head = self._loop() if self.cut else []
        late = []
        for j, call in enumerate(self.update.calls):
            result = call.result
            target = self.targets.get(result)
            at_once = target is not None and self.last.get(target, -1) <= j
            if target is not None and at_once:
                out = self.name(target)
            else:
                until = len(self.made) if target is not None else self.last.get(result, j)
                out = self._memory(j, call, until)
            if target is not None and not at_once:
                late.append(f"np.copyto({self.name(target)}, {out})")
            self.home[result] = out
            self._release(j, call, out)
            self.text += spell.lines(self.writer.with_arrays(call), self.name, out)
        self.covered.update(self.targets)
        indent = "    " if self.cut else ""
        return [*head, *(indent + line for line in [*self.text, *late])]

    def name(self, value: Any) -> str:
        """Return what an argument is called inside of the update."""
        if isinstance(value, Variable):
            known = self.home.get(value) or self.names.get(value)
            if known is not None:
                return known
        return self.writer.name(value)

    def _loop(self) -> list[str]:
        """Return what opens a loop over the pieces; name the pieces."""
        head = []
        for v in self.arrays:
            name = self.writer.name(v)
            self.names[v] = self.writer.new_name(f"{name}_piece")
            flat = self.writer.new_name(f"{name}_flat")
            if self.writer.is_fixed(v):
                self.writer.static[flat] = f"{flat} = {name}.reshape(-1)"
            else:
                head.append(f"{flat} = {name}.reshape(-1)")
            self.text.append(f"{self.names[v]} = {flat}[i : i + {PIECE}]")
        return [*head, f"for i in range(0, {self.size}, {PIECE}):  # in pieces that fit the cache"]

    def _memory(self, j: int, call: Call, until: int) -> str:
        """Return where a result can be kept until a later call."""
        for v in self._ending(j, call):
            if v in self.home:
                if v not in self.targets and until <= self.lent.get(self.home[v], until):
                    return self.home[v]
            elif v in self.finals:
                if until <= self.made[self.finals[v]]:
                    self.lent[self.name(v)] = self.made[self.finals[v]]
                    return self.name(v)
            elif v in self.writer.in_block and self.writer.last[v] == self.step:
                views = (o for c in self.update.calls for o in c.operands if o is not v)
                if not any(o.root is v for o in views):
                    return self.name(v)
        free = self.free.get(self._kind(call.result))
        return free.pop() if free else self._new_scratch(call.result)

    def _release(self, j: int, call: Call, out: str) -> None:
        """Note which scratch memory is free from now on."""
        for v in self._ending(j, call):
            name = self.home.get(v)
            if name in self.scratch and name != out and v not in self.targets:
                self.free.setdefault(self._kind(v), []).append(name)

    def _ending(self, j: int, call: Call) -> list[Variable]:
        """Return the operands that this call is the last to need, and that are laid out like its result."""
        return [
            v
            for v in dict.fromkeys(call.operands)
            if self.last[v] == j
            and v.layout == call.result.layout
            and not self.writer.is_literal(v)
        ]

    def _kind(self, v: Variable) -> Any:
        return v.dtype, None if self.cut else v.strides

    def _new_scratch(self, result: Variable) -> str:
        layout = result
        if self.cut:
            layout = Variable((PIECE,), result.dtype, (result.dtype.itemsize,))
        name = self.writer.new_buffer("scratch", layout, self.step).name
        if self.cut and self.size % PIECE:
            whole, name = name, self.writer.new_name("scratch_piece")
            self.text.append(f"{name} = {whole}[: {self.size} - i]")
        self.scratch.add(name)
        return name


_RESERVED = {
    *(
        "np",
        "block",
        "at",
        "i",
        "special",
        "operator",
        "builtins",
        "warnings",
        "errors",
        "wanted",
        "note",
        "held_back",
        "report",
    ),
    *keyword.kwlist,
    *dir(builtins),
}
_PLAIN_NAMES = {
    **{"sum": "total", "max": "largest", "min": "smallest", "reduce": "total", "all": "every"},
    **{"any": "some", "abs": "absolute", "round": "rounded", "getitem": "entries"},
    **{"converted": "copy", "with_entries": "result", "after": "result", "drawn": "draw"},
}

_BLOCK = """\
block = np.empty({block} + {alignment}, np.uint8)
block = block[-block.ctypes.data % {alignment} :][:{block}]


def at(offset, shape, dtype, strides=None):
    return np.ndarray(shape, dtype, block, offset, strides)

"""
_HELD_BACK = """\
# Floating-point errors are held back until all that is written together is written.

errors = set()
wanted = {}


def note(kind, flag):
    errors.add(kind)


def held_back():
    wanted.update(np.geterr())
    return np.errstate(call=note, **{k: "call" for k, v in wanted.items() if v != "ignore"})


def report():
    report.called = True  # and stays so if an error is raised
    found = sorted(errors)
    errors.clear()
    short = {"divide by zero": "divide", "overflow": "over", "underflow": "under"}
    for kind in found:
        if wanted[short.get(kind, "invalid")] == "raise":
            raise FloatingPointError(f"{kind} encountered in an update")
        warnings.warn(f"{kind} encountered in an update", RuntimeWarning, stacklevel=3)
    report.called = False
"""


def _identifier(wish: str) -> str:
    name = re.sub(r"\W+", "_", normalize("NFKC", wish)).strip("_")  # as Python reads names
    if not f"_{name}".isidentifier():  # a letter to re, but none to Python
        name = re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_")
    name = name or "value"
    if keyword.iskeyword(name):
        return f"{name}_"
    return f"layer_{name}" if name[0].isdigit() else name


def _dtype_text(dtype: np.dtype[Any]) -> str:
    return dtype.name if dtype.isnative else dtype.str


def _float_text(value: Any) -> str:
    text = repr(value)
    if "nan" in text or "inf" in text:
        kind = "complex" if isinstance(value, complex) else "float"
        return f'{kind}("{text}")'
    return text
