"""The text of a group: calls, entry by entry, made tile by tile in the cache.

A tile is some entries of arrays that follow each other in memory, or, where one of the operands is
repeated along an axis (a bias over the rows of a batch), some rows. All calls are made on one tile before
the next one is begun. What lies between them needs a tile of scratch memory alone. NumPy's calls give the
same entries, to the last bit, however many they are given at once.

Where a product belongs to the group, all of this is done for one band of its rows after the other.

Results go into the live arrays that they are to overwrite, into the memory of what nobody needs any more,
or into memory of their own, if they are needed outside of the group. All others go into scratch memory
where that is in the cache, and nothing is written that nobody reads.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from math import inf, prod
from typing import TYPE_CHECKING, Any, Protocol

from thriftgrad.compile import order, spell
from thriftgrad.compile.names import with_arrays
from thriftgrad.compile.place import Buffer
from thriftgrad.compile.program import Call, Variable

if TYPE_CHECKING:
    from thriftgrad.compile.source import Writer

Home = Variable | Buffer
"""Where a result lies: in a live array, or in the block."""


class Fusing(Protocol):
    """What makes a loop in machine code of calls, as the module `kernels` does."""

    def takes(self, call: Call) -> bool:
        """Tell whether a loop can make a call."""

    def fused(
        self, calls: Sequence[Call], outs: Mapping[Variable, str], name: Callable[[Variable], str]
    ) -> Any:
        """Return a kernel, with `name` and `arguments`, that makes the calls; or None."""


class Tiles:
    """The statements of one group, and where its results lie."""

    def __init__(self, writer: Writer, group: order.Group, step: int) -> None:
        # The writer holds this, and reaches all that the program reads: no cycle may keep that alive.
        self.writer: Writer = weakref.proxy(writer)
        self.names = writer.names
        self.group = group
        self.step = step
        self.made = {call.result: j for j, call in enumerate(group.calls)}
        self.given = [v for call in group.calls for v in call.operands if v not in self.made]
        self.last = {v: j for j, call in enumerate(group.calls) for v in call.operands}
        self.overwritten = {old: self.made[new] for new, old in group.targets.items()}
        self.homes: dict[Variable, Home] = {}
        self.late: list[Variable] = []  # targets that are still read when their new value is made
        self.lent: dict[Home, int] = {}  # up to which call a target's memory may hold another value
        self.scratch: set[Home] = set()
        self.promised: set[Variable] = set()  # kept results whose memory another one holds for them
        self.spare: dict[Any, list[Buffer]] = {}  # memory in the block that nobody needs any more
        for call in group.calls:
            call.result.strides = call.result.packed
        self.kernel = all(new.layout == old.layout for new, old in group.targets.items()) and bool(
            self._fused({v: str(id(v)) for v in self.made}, lambda v: str(id(v)))
        )
        self.band: Buffer | None = None
        if group.product is not None:
            self.band = self.homes[group.product.result] = self._new_band(group.product)
        if self.kernel:  # which reads all of an entry before it writes any
            for v in filter(self._ends_here, dict.fromkeys(self.given)):
                self.spare.setdefault(v.layout, []).append(self.names.in_block[v])
        self.count = self._count()
        for j, call in enumerate(group.calls):
            self._settle(j, call)

    def lines(self) -> list[str]:
        """Return the statements."""
        self.pieces: dict[str, tuple[str, str]] = {}
        self.heads: dict[str, tuple[str, str]] = {}
        lines = [self._kernel_call()] if self.kernel else self._calls()
        lines = [*(line for _, line in self.heads.values()), *lines]
        if self.band is None:
            return lines
        begin = f"for row in range(0, {self.group.shape[0]}, {self.group.rows}):"
        lines = [self._product(self.band), *lines]
        return [f"{begin}  # a band of the gradient at a time", *(f"    {line}" for line in lines)]

    def _calls(self) -> list[str]:
        """Return the statements of calls of NumPy's, in a loop over tiles where they are cut."""
        body: list[str] = []
        for call in self.group.calls:
            for v in call.operands:
                self._name(v)  # so that tiles are cut in the order in which they are read
            out = self._name_of_home(self.homes[call.result])
            lines = spell.lines(with_arrays(call), self._name, out)
            body += [f"{line}  # recomputed" for line in lines] if call.recomputed else lines
        for v in self.late:
            target, new = self.group.targets[v], self._name_of_home(self.homes[v])
            body.append(f"np.copyto({self._name_of_home(target)}, {new})")
        if not self.count:
            return body
        begin = f"for i in range(0, {self.length}, {self.count}):  # in tiles that fit the cache"
        body = [*(line for _, line in self.pieces.values()), *body]
        return [begin, *(f"    {line}" for line in body)]

    def _product(self, band: Buffer) -> str:
        """Return the statement that makes a band of the product."""
        call = self.group.product
        assert call is not None
        x, y = map(self.names.of, call.args)
        # np.dot would copy the rows where x is a transpose.
        return f"np.matmul({x}[row : row + {self.group.rows}], {y}, out={band.name})"

    # Where results lie

    def _count(self) -> int:
        """Return how many entries, or rows, there are in a tile; 0 for all."""
        group = self.group
        size = prod((group.rows, *group.shape[1:]) if self.band else group.shape)
        given = [v for v in self.given if v.shape and not self.names.is_literal(v)]
        arrays = [*given, *self.overwritten, *self.made]
        self.flat = all(v.shape == group.shape and v.is_flat for v in arrays)
        self.length = size if self.flat else group.shape[0] if group.shape else 1
        if self.kernel or size <= order.TILE:
            return 0
        if self.flat:
            return order.TILE
        return 0 if group.targets else order.TILE // prod(group.shape[1:])

    def _settle(self, j: int, call: Call) -> None:
        result = call.result
        target = self.group.targets.get(result)
        if self.kernel and target is None and result not in self.group.kept:
            return
        if target is not None and (self.kernel or self.last.get(target, -1) <= j):
            home: Home = target
        else:
            if target is not None:
                self.late.append(result)
            home = self._memory(j, call)
        self.homes[result] = home
        for v in dict.fromkeys(() if self.kernel else call.operands):
            if self.last[v] == j:
                self._release(v, home)
        if result in self.group.kept:
            assert isinstance(home, Buffer)
            self.writer.keep_in(home, result, self.step)

    def _memory(self, j: int, call: Call) -> Home:
        """Return where a result can be kept for as long as it is needed."""
        result = call.result
        stays = result in self.group.kept
        until = inf if stays or result in self.group.targets else self.last.get(result, j)
        for v in dict.fromkeys(() if self.kernel else call.operands):
            if self.last[v] == j and v.layout == result.layout and not self.names.is_literal(v):
                home = self._inherited(v, stays, until)
                if home is not None:
                    return home
        if stays or self._holds_memory_for_another(result):
            spare = self.spare.get(result.layout)
            return spare.pop() if spare else self.writer.new_buffer_of(call, result, self.step)
        idle = self.spare.get(self._kind(result))
        return idle.pop() if idle else self._new_scratch(result)

    def _inherited(self, v: Variable, stays: bool, until: float) -> Home | None:
        """Return the memory of an operand that is read for the last time, if it may be taken."""
        home = self.homes.get(v)
        if home is not None:
            passing = v not in self.group.kept and v not in self.group.targets
            fits = not stays or (isinstance(home, Buffer) and home not in self.scratch)
            return home if passing and fits and until <= self.lent.get(home, until) else None
        if v in self.overwritten:
            if until > self.overwritten[v]:
                return None
            self.lent[v] = self.overwritten[v]
            return v
        return self.names.in_block[v] if self._ends_here(v) else None

    def _release(self, v: Variable, taken: Home) -> None:
        """Note that the memory of an operand is free, unless the result has taken it."""
        home = self.homes.get(v)
        if home is None and self._ends_here(v):
            home = self.names.in_block[v]
        if not isinstance(home, Buffer) or home is taken:
            return
        if v not in self.group.kept and v not in self.group.targets:
            key = self._kind(v) if home in self.scratch else v.layout
            self.spare.setdefault(key, []).append(home)

    def _ends_here(self, v: Variable) -> bool:
        """Tell whether an array in the block is needed by this group for the last time."""
        if v in self.made or v not in self.names.in_block or self.writer.last[v] != self.step:
            return False
        if self.group.product is not None and v in self.group.product.operands:
            return False  # as the next band is made of it
        return not any(other.root is v and other is not v for other in self.group.operands)

    def _holds_memory_for_another(self, result: Variable) -> bool:
        """Tell whether a result is to lie already where the kept result lies that it leads to.

        Each call on the way is the last to read what it is given, so that all can share that memory.
        """
        if result in self.group.targets:  # which nobody may read
            return False
        start, layout = result, result.layout
        while result not in self.group.kept:
            k = self.last[result]
            result = self.group.calls[k].result
            if result.layout != layout or result in self.group.targets:
                return False
            if self.spare.get(layout) or any(
                v.layout == layout and self.last[v] <= k and self._ends_here(v) for v in self.given
            ):
                return False  # there will be some anyway
        if result in self.promised:
            return False
        self.promised.add(result)
        return result is not start

    def _kind(self, v: Variable) -> Any:
        """Return what scratch memory must agree in to serve for another result."""
        return "scratch", v.dtype, None if self.count else v.strides

    def _new_scratch(self, result: Variable) -> Buffer:
        layout = result
        if self.count or self.band:
            shape = (self.count or self.length, *(() if self.flat else self.group.shape[1:]))
            layout = Variable(shape, result.dtype)
            layout.strides = layout.c_strides
        buffer = self.writer.new_buffer("scratch", layout, self.step)
        self.scratch.add(buffer)
        return buffer

    def _new_band(self, product: Call) -> Buffer:
        rows = Variable((self.group.rows, *self.group.shape[1:]), product.result.dtype)
        rows.strides = rows.c_strides
        return self.writer.new_buffer(f"{product.result.hint or 'product'}_band", rows, self.step)

    # Names

    def _name(self, value: Any) -> str:
        """Return what an argument is called inside of the group."""
        if isinstance(value, Variable):
            if value in self.homes:
                return self._name_of_home(self.homes[value])
            rows = len(value.shape) == len(self.group.shape) and bool(value.shape)
            if rows and self._is_cut and value.shape[0] == self.group.shape[0]:
                return self._part(self.names.of(value), self.writer.is_fixed(value))
        return self.names.of(value)

    def _name_of_home(self, home: Home) -> str:
        if isinstance(home, Variable):
            name, is_fixed = self.names.of(home), self.writer.is_fixed(home)
        else:
            name, is_fixed = home.name, True
        if not self._is_cut:
            return name
        return self._short(name) if home in self.scratch else self._part(name, is_fixed)

    @property
    def _is_cut(self) -> bool:
        """Whether calls are made on parts of arrays."""
        return bool(self.count or self.band)

    def _part(self, name: str, is_fixed: bool) -> str:
        """Return the name of as much of an array as there is in a tile, or in a band without tiles."""
        return self._piece(name, is_fixed) if self.count else self._row_of(name, is_fixed)

    def _piece(self, name: str, is_fixed: bool) -> str:
        """Return the name of what belongs to a tile."""
        if name not in self.pieces:
            whole = self._row_of(name, is_fixed) if self.flat else name
            piece = self.names.new(f"{name}_piece")
            self.pieces[name] = piece, f"{piece} = {whole}[i : i + {self.count}]"
        return self.pieces[name][0]

    def _short(self, name: str) -> str:
        """Return the name of as much scratch memory as the last tile needs."""
        if not self.count or self.length % self.count == 0:
            return name
        if name not in self.pieces:
            piece = self.names.new(f"{name}_piece")
            self.pieces[name] = piece, f"{piece} = {name}[: {self.length} - i]"
        return self.pieces[name][0]

    def _row_of(self, name: str, is_fixed: bool) -> str:
        """Return the name of an array's entries in a row, or of those in a band."""
        is_whole = self.band is None or name == self.band.name
        if is_fixed and is_whole:
            return self.writer.fixed(f"{name}.reshape(-1)", f"{name}_flat")
        if name not in self.heads:
            row = self.names.new(f"{name}_flat" if is_whole else f"{name}_band")
            part = "" if is_whole else f"[row : row + {self.group.rows}]"
            self.heads[name] = row, f"{row} = {name}{part}.reshape(-1)"
        return self.heads[name][0]

    # Kernels

    def _fused(self, outs: dict[Variable, str], name: Callable[[Variable], str]) -> Any:
        """Return the kernel that makes the calls, or None."""
        fusing = self.writer.fusing
        ends = {
            v: out for v, out in outs.items() if v in self.group.kept or v in self.group.targets
        }
        return None if fusing is None else fusing.fused(self.group.calls, ends, name)

    def _kernel_call(self) -> str:
        outs = {v: self._name_of_home(home) for v, home in self.homes.items()}
        kernel = self._fused(outs, self._name_in_kernel)
        self.writer.kernels[kernel.name] = kernel
        again = all(call.recomputed for call in self.group.calls)
        in_block = {buffer.name for buffer in self.names.in_block.values()}
        parts = []
        for each in kernel.arguments:
            if self.band and each.axes:
                parts.append(each.name)  # of entries in a row
                continue
            is_fixed = each.view != each.name and each.name in in_block
            wish = f"{each.name}_entries"
            parts.append(self.writer.fixed(each.view, wish) if is_fixed else each.view)
        return f"{kernel.name}({', '.join(parts)})" + "  # recomputed" * again

    def _name_in_kernel(self, v: Variable) -> str:
        """Return the name of an operand, which is an array."""
        if self.band and v.shape:
            return self._name(v)
        name = self.names.of(v)
        is_array = v.shape or v in self.names.in_block or self.names.is_literal(v)
        return name if is_array else f"np.asarray({name})"
