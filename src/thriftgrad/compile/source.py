"""The NumPy text that a program is.

The text is a module: one block of memory, arrays at fixed places in it, and a function. It is what a
compiled function runs, and what a person reads. All arrays that a call can write to lie in the block;
what NumPy can only return newly made (a fancy index, a solution of linear equations) lies outside it,
until a `del` behind its last use.

Arrays that the program writes into, parameters and an optimiser's state, are written as soon as all is
done that can fail (`order`). Floating-point errors from there on are reported when all is written, so that
an exception leaves the parameters as they were or as they are to be.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any

from thriftgrad.compile import spell
from thriftgrad.compile.budget.schedule import within
from thriftgrad.compile.memory import Memory
from thriftgrad.compile.names import PLAIN, Names, called_after_layers, dtype_text, with_arrays
from thriftgrad.compile.order import Group, calls_of, choose_bands, ordered, read_late
from thriftgrad.compile.place import ALIGNMENT, Buffer, most_alive, place
from thriftgrad.compile.program import Call, Input, Program, Variable, converted
from thriftgrad.compile.rewrite import rewritten
from thriftgrad.compile.tiles import Fusing, Tiles
from thriftgrad.units import show_bytes


@dataclass(frozen=True)
class Written:
    """A program as text.

    Attributes:
        text: the module.
        name: of the function in it.
        inputs: its arguments, in order.
        arguments: their names.
        objects: what the text cannot make itself, by the names that it uses for it.
        complaints: those among them that make exceptions.
        memory: where everything lies.
        late: which inputs, only read, are read when others may have been written into. They must not
            share memory with these.
        kernels: the kernels that the text calls, by the names that it uses for them.
    """

    text: str
    name: str
    inputs: tuple[Input, ...]
    arguments: tuple[str, ...]
    objects: dict[str, Any]
    complaints: dict[str, Any]
    memory: Memory
    late: tuple[int, ...] = ()
    kernels: dict[str, Any] = field(default_factory=dict)


def write(
    program: Program,
    name: str,
    budget: int | None = None,
    *,
    worth: float | None = None,
    fusing: Fusing | None = None,
) -> Written:
    """Return the text of a program whose function is called `name`.

    Args:
        program: as recorded and simplified.
        name: of the function.
        budget: the most bytes that the block may have; None for what it takes.
        worth: from how many bytes on, written and read again, a chain is made in tiles; None for
            `order.WORTH`.
        fusing: what makes kernels of chains and updates, of any size; None for NumPy alone.

    Raises:
        BudgetError: no program known with these results is so small.
    """
    program = spell.spelled(rewritten(called_after_layers(program)))
    choose_bands(program)
    if budget is None:
        return Writer(program, name, worth, fusing).written()
    return within(
        program,
        budget,
        lambda each: Writer(each, name, worth, fusing).written(),
        lambda each: Writer(each, name, inf, fusing).written(),
    )


class Writer:
    """One text, while it is being written.

    Attributes:
        names: what the text calls things.
        last: the step that reads the memory of a variable last.
        fusing: what makes kernels, if there is something.
        kernels: those made.
    """

    def __init__(
        self, program: Program, name: str, worth: float | None = None, fusing: Fusing | None = None
    ) -> None:
        self.program = program
        self.names = Names(name, program.inputs)
        self.fusing = fusing
        self.kernels: dict[str, Any] = {}
        self.last: dict[Variable, int] = {}
        self._steps = (
            ordered(program, worth)
            if fusing is None
            else ordered(program, 1 if worth is None else worth, fusing.takes)
        )
        self._buffers: list[Buffer] = []
        self._layouts: dict[Buffer, Variable] = {}
        self._tiles: dict[Group, Tiles] = {}
        self._static: dict[str, str] = {}  # lines that are run once, by what they make
        self._views: dict[str, str] = {}  # names of those that are views, by what they are
        self._static_variables: set[Variable] = set()
        self._outside: list[tuple[str, int]] = []
        self._let_go: dict[int, list[str]] = {}  # names of what lies outside, by its last step
        self._complaints: dict[str, Any] = {}

    def written(self) -> Written:
        """Return the text."""
        self._find_lifetimes()
        body = list(self._body())
        block = place(self._buffers)
        memory = Memory(
            block, most_alive(self._buffers), tuple(self._buffers), tuple(self._outside)
        )
        late = read_late(self.program, self._steps)
        return Written(
            self._module(body, block),
            self.names.function,
            tuple(self.program.inputs),
            self._arguments,
            self.names.objects,
            self._complaints,
            memory,
            tuple(i for i, each in enumerate(self.program.inputs) if each.variable in late),
            self.kernels,
        )

    # What lies where

    def _find_lifetimes(self) -> None:
        """Decide what lies in the block, what shares a buffer, and from when to when."""
        uses: dict[Variable, int] = {}
        for i, step in enumerate(self._steps):
            for call in calls_of(step):
                for v in call.operands:
                    self.last[v.root] = i
                    uses[v] = uses.get(v, 0) + 1
        for v in self.program.ends:
            self.last[v.root] = len(self._steps)
            uses[v] = uses.get(v, 0) + 2
        for i, step in enumerate(self._steps):
            if isinstance(step, Group):
                self._tiles[step] = Tiles(self, step, i)
            elif step.kind == "number" and uses.get(step.result, 0) < 2:
                self.names.inlined[step.result] = step
            elif spell.takes_out(step) and not self.names.is_literal(step.results[0]):
                self._give_buffers(i, step)

    def _give_buffers(self, i: int, call: Call) -> None:
        for result in call.results:
            result.strides = result.packed
            buffer = self._reused(i, call)
            self.keep_in(buffer or self.new_buffer_of(call, result, i), result, i)

    def new_buffer_of(self, call: Call, result: Variable, step: int) -> Buffer:
        """Return a buffer that is called after a result, or what makes it."""
        name = result.hint or getattr(call.function, "__name__", "value")
        if call.function is converted and any(v.number for v in call.operands):
            name = "factor"
        return self.new_buffer(PLAIN.get(name, name), result, step)

    def new_buffer(self, wish: str, like: Variable, step: int) -> Buffer:
        """Return a buffer for an array that is used in one step only, so far."""
        buffer = Buffer(self.names.new(wish), like.nbytes, step, step)
        self._buffers.append(buffer)
        self._layouts[buffer] = like
        return buffer

    def keep_in(self, buffer: Buffer, result: Variable, step: int) -> None:
        """Let a result lie in a buffer for as long as it is needed."""
        if result.hint and not self._layouts[buffer].hint:
            buffer.name = self.names.new(result.hint)
            self._layouts[buffer] = result
        buffer.last = max(buffer.last, self.last.get(result, step))
        self.names.in_block[result] = buffer

    def _reused(self, i: int, call: Call) -> Buffer | None:
        """Return the buffer of an argument that this call is the last to need."""
        for v in spell.reusable(call):
            if v in self.names.in_block and self.last[v] == i:
                return self.names.in_block[v]
        return None

    def is_fixed(self, v: Variable) -> bool:
        """Tell whether an array lies in one place in all runs."""
        return v in self.names.in_block or v in self._static_variables

    def fixed(self, text: str, wish: str) -> str:
        """Return the name of a view of what lies in one place, which is made once."""
        name = self._views.get(text)
        if name is None:
            name = self._views[text] = self.names.new(wish)
            self._static[name] = f"{name} = {text}"
        return name

    # The lines

    def _body(self) -> Iterator[str]:
        """Yield the lines of the function."""
        errors: dict[str, str] | None = None
        has_written = False
        for i, step in enumerate(self._steps):
            if isinstance(step, Group) and step.targets and not has_written:
                yield from _HOLDING_BACK
                has_written, errors = True, None
            found = self._tiles[step].lines() if isinstance(step, Group) else self._lines(i, step)
            if not found:
                continue
            if isinstance(step, Call) and step.recomputed:
                found[0] += "  # recomputed"
            indent = "    " * has_written
            wanted = calls_of(step)[0].errors or None
            if wanted and errors != wanted:
                options = ", ".join(f"{k}={v!r}" for k, v in wanted.items())
                yield f"{indent}with np.errstate({options}):"
            errors = wanted
            indent += "    " * bool(wanted)
            for line in found:
                yield indent + line
            if i in self._let_go:  # as names would hold what is not in the block to the end
                yield f"{indent}del {', '.join(self._let_go[i])}"
        made = {v for tiles in self._tiles.values() for v in tiles.group.targets}
        for each in self.program.writes:
            if each.final not in made:
                if not has_written:
                    yield from _HOLDING_BACK
                    has_written = True
                yield f"    np.copyto({self.names.of(each.variable)}, {self.names.of(each.final)})"
        self.holds_back = has_written
        if has_written:
            yield "if errors:"
            yield "    report()"
        yield self._return()

    def _lines(self, i: int, call: Call) -> list[str]:
        names = self.names
        if call.kind == "require":
            holds, *rest = call.args
            complaint = names.of_object(call.kwargs["complaint"])
            self._complaints[complaint] = names.objects[complaint]
            given = ", ".join(names.of(each) for each in rest)
            return [f"if not {names.of(holds)}:", f"    raise {complaint}({given})"]
        if all(names.is_literal(v) for v in call.results):
            return []
        if call.kind == "number":
            if call.result in names.inlined:
                return []
            text = spell.number_text(call, names.of)
            names.known[call.result] = names.new("number")
            return [f"{names.known[call.result]} = {text[1:-1] if text[0] == '(' else text}"]
        call = with_arrays(call)
        if all(v in names.in_block for v in call.results):
            outs = [names.in_block[v].name for v in call.results]
            out = outs[0] if len(outs) == 1 else f"({', '.join(outs)})"
            cut = spell.pieces(call)
            if cut > 1:
                return [self._product_in_blocks(call, out, cut)]
            return spell.lines(call, names.of, out)
        return self._newly_made(i, call)

    def _newly_made(self, i: int, call: Call) -> list[str]:
        """Return the lines of a call that makes a view, or an array outside of the block."""
        names = self.names
        text = spell.free(call, names.of)
        title = getattr(call.function, "__name__", "value")
        title = names.view(call) if call.kind == "view" else PLAIN.get(title, title)
        is_fixed = call.kind == "view" and all(map(self.is_fixed, call.operands))
        for v in call.results:
            names.known[v] = names.new(v.hint or title)
        left = ", ".join(names.known[v] for v in call.results)
        left += "," * (len(call.results) > 1)
        if is_fixed:
            self._static_variables.update(call.results)
            self._static[left] = f"{left} = {text}"
            return []
        if call.kind != "view":
            self._outside += [(names.known[v], v.nbytes) for v in call.results]
        for v in call.results:
            if v.root.shape and v.root not in names.in_block and v.root not in names.inputs:
                self._let_go.setdefault(self.last.get(v.root, i), []).append(names.known[v])
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
        blocks = f"({count}, {rows // count}, {y.shape[1]})"
        target = self.fixed(f"{out}.reshape{blocks}", f"{out}_blocks")
        given = f"{self.names.of(x)}.reshape({count}, {rows // count}, {inner})"
        if self.is_fixed(x):
            given = self.fixed(given, f"{self.names.of(x)}_blocks")
        return f"np.matmul({given}, {self.names.of(y)}, out={target})"

    def _return(self) -> str:
        parts = []
        for v in [*self.program.outputs, *(v for _, v in self.program.gradients if v is not None)]:
            name = self.names.of(v)
            if v.number:
                parts.append(name)
            elif v in self.names.inputs:
                parts.append(f"np.array({name})[()]" if v.scalar else f"np.array({name})")
            else:
                parts.append(f"{name}[()]" if v.scalar else f"{name}.copy()")
        return f"return {parts[0]}," if len(parts) == 1 else f"return {', '.join(parts) or '()'}"

    # The module

    @property
    def _arguments(self) -> tuple[str, ...]:
        return tuple(self.names.of(each.variable) for each in self.program.inputs)

    def _module(self, body: list[str], block: int) -> str:
        function = self.names.function
        indented = "\n".join(f"    {line}" for line in body)
        definition = f"{signature(function, self._arguments)}\n{indented}\n"
        fixed = "\n".join(self._static.values())
        count = sum(len(calls_of(step)) for step in self._steps)
        calls = "1 call" if count == 1 else f"{count} calls"
        prelude = [
            f'"""`{function}` as {calls} in a block of {show_bytes(block)}, written by '
            f'thriftgrad.compile."""'
        ]
        prelude.append("\n".join([*spell.imports(definition + fixed), "import numpy as np"]))
        needs = dict.fromkeys(kernel.needs for kernel in self.kernels.values())
        prelude[-1] += "".join(f"\n{each}" for each in needs)
        if self.holds_back:
            prelude[-1] = f"import warnings\n\n{prelude[-1]}"
        if self._buffers:
            prelude.append(_BLOCK.format(block=max(block, 1), alignment=ALIGNMENT))
            prelude.append("\n".join(self._array(buffer) for buffer in self._buffers))
        if self.names.constants:
            prelude.append("\n".join(line for _, line in self.names.constants.values()))
        if fixed:
            prelude.append(fixed)
        prelude += [f"\n{kernel.text}" for kernel in self.kernels.values()]
        if self.holds_back:
            prelude.append(_HELD_BACK)
        return re.sub("\n{4,}", "\n\n\n", "\n\n".join(prelude) + "\n\n\n" + definition)

    def _array(self, buffer: Buffer) -> str:
        like = self._layouts[buffer]
        strides = "" if like.strides == like.c_strides else f", {like.strides}"
        place = f"{buffer.offset}, {like.shape}, {dtype_text(like.dtype)!r}{strides}"
        return f"{buffer.name} = at({place})"


def signature(function: str, names: Sequence[str]) -> str:
    """Return the line, or the lines, that a function's definition begins with."""
    arguments = ", ".join(names)
    if len(arguments) > 80:
        arguments = "".join(f"\n    {name}," for name in names) + "\n"
    return f"def {function}({arguments}):"


_BLOCK = """\
block = np.empty({block} + {alignment}, np.uint8)
block = block[-block.ctypes.data % {alignment} :][:{block}]


def at(offset, shape, dtype, strides=None):
    return np.ndarray(shape, dtype, block, offset, strides)

"""
_HELD_BACK = """\
# The last calls write into parameters. Were one of them stopped by a floating-point error, some parameters
# would be new and others old. So such errors are noted, and reported once all is written.

errors = set()


def note(kind, flag):
    errors.add(kind)


def report():
    report.called = True  # and stays so if an error is raised
    short = {"divide by zero": "divide", "overflow": "over", "underflow": "under"}
    wanted = {kind: np.geterr()[short.get(kind, "invalid")] for kind in sorted(errors)}
    for kind, way in wanted.items():
        if way == "raise":
            raise FloatingPointError(f"{kind} encountered in an update or after one")
        if way != "ignore":
            warnings.warn(f"{kind} encountered in an update or after one", RuntimeWarning, stacklevel=3)
    report.called = False
"""
_HOLDING_BACK = ("errors.clear()", 'with np.errstate(all="call", call=note):')
