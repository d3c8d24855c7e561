"""The least price of reversing a chain of equal steps, found by looking at every way to do it.

The rules are those that come with the reference values; nothing here knows of a recursion. What is at
hand, kept in memory, kept on disk and reversed so far is a node of a graph, and Dijkstra's algorithm
finds the cheapest way through.
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heappop, heappush
from itertools import count
from typing import NamedTuple


class Rules(NamedTuple):
    """How many slots there are, and what each thing costs."""

    ram: int
    disk: int = 0
    forward: float = 1.0
    reverse: float = 1.0
    write: float = 0.0
    read: float = 0.0
    tapes: bool = False  # a slot in memory may hold a tape, which costs `forward` to make


class Node(NamedTuple):
    """Where a reversal stands: the step that is next, the working state, what is kept."""

    left: int
    working: int | None
    ram: frozenset[int]
    disk: frozenset[int]
    tapes: frozenset[int]


def least_price(length: int, rules: Rules) -> float:
    """Return the least price of reversing so many steps."""
    start = Node(length, 0, frozenset(), frozenset(), frozenset())
    order = count()
    queue: list[tuple[float, int, Node]] = [(0.0, next(order), start)]
    settled = set()
    while queue:
        price, _, node = heappop(queue)
        if node.left == 0:
            return price
        if node in settled:
            continue
        settled.add(node)
        for cost, other in _moves(node, rules):
            if other not in settled:
                heappush(queue, (price + cost, next(order), other))
    raise AssertionError("there is no way to reverse the chain")


def _moves(node: Node, rules: Rules) -> Iterator[tuple[float, Node]]:
    left, working, ram, disk, tapes = node
    room = len(ram) + len(tapes) < rules.ram
    if working is not None:
        if working + 1 < left:
            yield rules.forward, node._replace(working=working + 1)
            if rules.tapes and room and working not in tapes:
                made = node._replace(working=working + 1, tapes=tapes | {working})
                yield rules.forward, made
        if working + 1 == left:
            yield rules.reverse, node._replace(left=left - 1, working=None)
        if room and working not in ram:
            yield 0.0, node._replace(ram=ram | {working})
        if len(disk) < rules.disk and working not in disk:
            yield rules.write, node._replace(disk=disk | {working})
    if left - 1 in tapes:
        yield rules.reverse - rules.forward, node._replace(left=left - 1, tapes=tapes - {left - 1})
    for i in ram:
        yield 0.0, node._replace(working=i)
        yield 0.0, node._replace(ram=ram - {i})
    for i in disk:
        yield rules.read, node._replace(working=i)
        yield 0.0, node._replace(disk=disk - {i})
