"""Where each buffer of a program lies in one block of memory.

Buffers whose lifetimes overlap must not overlap in memory. They are placed one after the other, each in
the smallest gap that it fits into among those that are placed and live at the same time (best fit), in
several orders: the largest first, the longest-lived first, by birth, by death. The sum over the largest
set of buffers that are alive at once bounds what any placement needs. Where the best order needs more,
those that stick out over the bound go first in the next order, as often as is worth the time.

The problem is NP-hard. Source: Pisarchyk and Lee, "Efficient memory management for deep neural net
inference", 2020, greedy by size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = Any

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
        return room(self.nbytes)


def room(nbytes: int) -> int:
    """Return so many bytes, up to where something else may begin."""
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


def place(buffers: Sequence[Buffer]) -> int:
    """Give every buffer its offset; return the size of the block.

    Example:
        >>> a, b, c = Buffer("a", 640, 0, 1), Buffer("b", 64, 1, 2), Buffer("c", 640, 2, 3)
        >>> place([a, b, c]), a.offset == c.offset
        (704, True)
    """
    size, offsets = placed([(b.room, b.first, b.last) for b in buffers])
    for buffer, offset in zip(buffers, offsets, strict=True):
        buffer.offset = offset
    return size


def placed(lives: Sequence[tuple[int, int, int]]) -> tuple[int, list[int]]:
    """Return the size of the block, and an offset for each (bytes, first step, last step)."""
    if not lives:
        return 0, []
    rooms, first, last = np.array(lives, np.int64).T
    bound = most_alive_of(rooms, first, last)
    orders = [
        np.lexsort((first, -rooms)),
        np.lexsort((-rooms, first - last)),
        np.lexsort((-rooms, first)),
        np.lexsort((-rooms, -last)),
    ]
    best: tuple[int, Array] | None = None
    for order in orders:
        found = _in_order(order, rooms, first, last)
        if best is None or found[0] < best[0]:
            best, start = found, order
        if found[0] == bound:
            break
    assert best is not None
    order, current = start, best
    for _ in range(min(_SEARCHED // len(lives), _ROUNDS)):
        if best[0] == bound:
            break
        over = current[1] + rooms > bound
        order = np.concatenate([order[over[order]], order[~over[order]]])
        current = _in_order(order, rooms, first, last)
        if current[0] < best[0]:
            best = current
    offsets: list[int] = best[1].tolist()
    return best[0], offsets


_SEARCHED = 20_000  # buffers placed in search of a better order: about a second
_ROUNDS = 60


def most_alive(buffers: Sequence[Buffer]) -> int:
    """Return the size of the largest set of buffers that are alive at once: no block is smaller."""
    if not buffers:
        return 0
    lives = np.array([(b.room, b.first, b.last) for b in buffers], np.int64)
    return most_alive_of(*lives.T)


def most_alive_of(rooms: Array, first: Array, last: Array) -> int:
    """Return the same, of arrays."""
    change = np.zeros(int(last.max()) + 2, np.int64)
    np.add.at(change, first, rooms)
    np.subtract.at(change, last + 1, rooms)
    return int(np.cumsum(change).max())


def _in_order(order: Array, rooms: Array, first: Array, last: Array) -> tuple[int, Array]:
    """Place buffers one after the other by best fit; return the size of the block, and offsets."""
    count = len(order)
    starts, ends, births, deaths = np.zeros((4, count), np.int64)  # of those placed
    offsets = np.zeros(count, np.int64)
    for n, k in enumerate(order.tolist()):
        room, birth, death = rooms[k], first[k], last[k]
        beside = np.flatnonzero((births[:n] <= death) & (deaths[:n] >= birth))
        begin = starts[beside]
        by_place = np.argsort(begin, kind="stable")
        begin = begin[by_place]
        free = np.zeros(len(beside) + 1, np.int64)  # where the gap before each begins
        np.maximum.accumulate(ends[beside][by_place], out=free[1:])
        gaps = begin - free[:-1]
        fitting = np.flatnonzero(gaps >= room)
        at = free[fitting[np.argmin(gaps[fitting])]] if len(fitting) else free[-1]
        offsets[k] = starts[n] = at
        ends[n], births[n], deaths[n] = at + room, birth, death
    return int(ends.max()), offsets
