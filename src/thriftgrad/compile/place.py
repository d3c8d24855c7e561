"""Where each buffer of a program lies in one block of memory.

Buffers whose lifetimes overlap must not overlap in memory. The largest is placed first, each in the
smallest gap that it fits into among those that are placed and live at the same time (best fit); the same
is tried in the order of their births, and the smaller block is taken. The problem is NP-hard; the sum
over the largest set of buffers that are alive at once bounds what any placement needs.

Source: Pisarchyk and Lee, "Efficient memory management for deep neural net inference", 2020, greedy by
size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

ALIGNMENT = 64
"""Bytes: a cache line, and the widest of the processor's registers."""


@dataclass(eq=False)
class Buffer:
    """Memory for one value after another.

    Attributes:
        name: what the source calls it.
        nbytes: its size.
        first: the step that it is written to first.
        last: the step that it is read from last.
        offset: where in the block it begins, in bytes.
    """

    name: str
    nbytes: int
    first: int
    last: int
    offset: int = 0

    @property
    def room(self) -> int:
        """Its size, up to where the next one may begin."""
        return -(-self.nbytes // ALIGNMENT) * ALIGNMENT


def place(buffers: Sequence[Buffer]) -> int:
    """Give every buffer its offset; return the size of the block.

    Example:
        >>> a, b, c = Buffer("a", 640, 0, 1), Buffer("b", 64, 1, 2), Buffer("c", 640, 2, 3)
        >>> place([a, b, c]), a.offset == c.offset
        (704, True)
    """
    orders = [
        sorted(buffers, key=lambda b: (-b.room, b.first)),
        sorted(buffers, key=lambda b: (b.first, -b.room)),
    ]
    sizes = [_place_in_order(order) for order in orders]
    return min(sizes) if sizes[1] < sizes[0] else _place_in_order(orders[0])


def most_alive(buffers: Sequence[Buffer]) -> int:
    """Return the size of the largest set of buffers that are alive at once: no block is smaller."""
    changes: dict[int, int] = {}
    for each in buffers:
        changes[each.first] = changes.get(each.first, 0) + each.room
        changes[each.last + 1] = changes.get(each.last + 1, 0) - each.room
    most = alive = 0
    for step in sorted(changes):
        alive += changes[step]
        most = max(most, alive)
    return most


def _place_in_order(buffers: Sequence[Buffer]) -> int:
    placed: list[Buffer] = []  # in the order of their offsets
    for buffer in buffers:
        best = None
        end = 0
        for other in placed:
            if other.last < buffer.first or buffer.last < other.first:
                continue
            gap = other.offset - end
            if gap >= buffer.room and (best is None or gap < best[0]):
                best = gap, end
            end = max(end, other.offset + other.room)
        buffer.offset = end if best is None else best[1]
        position = next((i for i, b in enumerate(placed) if b.offset > buffer.offset), len(placed))
        placed.insert(position, buffer)
    return max((b.offset + b.room for b in buffers), default=0)
