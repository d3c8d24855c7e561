"""Schedules for any program by a heuristic: run it in a limited memory, and let go of what costs least.

The calls are gone through in their order. Where the next value does not fit, the value is dropped for
which recomputation costs least for each byte and for each call that the byte is free for. What comes
back is made when it is read, with whatever it needs that is gone as well. Since the whole program is
known, "how long it has not been used" of the original becomes "how long it will not be used".

Afterwards, runs that the memory left over can spare are taken out again, the costliest first.

Source: Kirisame et al., "Dynamic tensor rematerialization", 2021, heuristic h with equivalence classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import inf

import numpy as np

from thriftgrad.compile.budget.graph import (
    LONGEST,
    Graph,
    heavy,
    held,
    last_uses,
    lives,
    peak,
    tidied,
)

_WORK = 60_000
"""Calls gone through for one program: some two seconds."""
_MOST_LIMITS = 24
_LOWEST = 0.05
"""The least limit that is tried, as a share of what the program takes without one."""


def evicted(graph: Graph) -> Iterator[list[int]]:
    """Yield sequences that hold less and less, down to the least that the heuristic reaches."""
    order = list(range(len(graph)))
    most = peak(graph, order)
    count = max(6, min(_MOST_LIMITS, _WORK // max(len(graph), 1)))
    for k in range(1, count + 1):
        limit = int(most * _LOWEST ** (k / count))
        found = Eviction(graph, limit).sequence(order)
        if found is None:
            break
        yield thinned(graph, tidied(graph, found))


class Eviction:
    """One passage through a program in so many bytes, or as few more as it takes."""

    def __init__(self, graph: Graph, limit: int) -> None:
        self.graph = graph
        self.limit = limit
        count = len(graph)
        # positions to come, the next one last
        self.uses: list[list[int]] = [[] for _ in range(count)]
        self.users: list[list[int]] = [[] for _ in range(count)]
        self.alive: set[int] = set()
        self.droppable: set[int] = set()  # those alive that are worth a thought
        self.locks = [0] * count
        self.held = 0
        self.done: list[int] = []
        # What is gone belongs to a group with what is gone around it: who needs one needs them all.
        self.group: dict[int, int] = {}
        self.parent: list[int] = []
        self.total: list[float] = []
        self.worth = heavy(graph) - graph.once

    def sequence(self, order: Sequence[int]) -> list[int] | None:
        """Return the calls in the order that they run in, or None if they become too many."""
        for i in self.graph.kept:
            self.uses[i].append(len(order))
        for at in range(len(order) - 1, -1, -1):
            for n in self.graph.needs[order[at]]:
                self.uses[n].append(at)
                self.users[n].append(order[at])
        for at, i in enumerate(order):
            for n in self.graph.needs[i]:
                self.uses[n].pop()
            self._make(i, at)
            if len(self.done) > LONGEST * len(order):
                return None
        for i in sorted(self.graph.kept):
            if i not in self.alive:
                self._make(i, len(order))
        return self.done

    def _make(self, wanted: int, at: int) -> None:
        """Run a call, and before it what it needs that is gone."""
        needs = self.graph.needs
        plan: list[int] = []
        planned: set[int] = set()
        waiting = [wanted]
        while waiting:
            i = waiting[-1]
            missing = [n for n in needs[i] if n not in self.alive and n not in planned]
            waiting += missing
            if not missing:
                waiting.pop()
                if i not in planned:
                    planned.add(i)
                    plan.append(i)
        for i in plan:
            for n in needs[i]:
                self.locks[n] += 1
        for i in plan:
            self._run(i, at)

    def _run(self, i: int, at: int) -> None:
        graph = self.graph
        for n in graph.needs[i]:
            self.locks[n] -= 1
        ending = [n for n in graph.needs[i] if self._is_dead(n)]
        reused = any(r in ending for r in graph.reuses[i])
        new = (0 if reused else graph.nbytes[i]) + (graph.scratch[i] if graph.scratch else 0)
        for n in graph.needs[i]:
            self.locks[n] += 1
        while self.held + new > self.limit and self._drop_one(at):
            pass
        for n in graph.needs[i]:
            self.locks[n] -= 1
        self._leave_group(i)
        self.done.append(i)
        self.alive.add(i)
        self.held += graph.nbytes[i]
        if i in self.worth:
            self.droppable.add(i)
        for n in ending:
            self._let_go(n)
        if self._is_dead(i):
            self._let_go(i)

    def _is_dead(self, n: int) -> bool:
        return not self.uses[n] and not self.locks[n] and n in self.alive

    def _let_go(self, n: int) -> None:
        self.alive.discard(n)
        self.droppable.discard(n)
        self.held -= self.graph.nbytes[n]
        self._join_group(n)

    def _drop_one(self, at: int) -> bool:
        """Drop the value that is best dropped; return whether there was one."""
        best, which = inf, -1
        for n in self.droppable:
            if self.locks[n]:
                continue
            idle = self.uses[n][-1] - at if self.uses[n] else 1
            cost = self._cost_of(n) / (self.graph.nbytes[n] * max(idle, 1))
            if cost < best or (cost == best and n < which):
                best, which = cost, n
        if which < 0:
            return False
        self._let_go(which)
        return True

    # Groups of what is gone

    def _groups_around(self, n: int) -> set[int]:
        """Return the groups of what a value needs, and of what needs it and is needed again."""
        found = set()
        for m in self.graph.needs[n]:
            if m in self.group:
                found.add(self._root(m))
        for m in self.users[n]:
            if m in self.group and self.uses[m]:
                found.add(self._root(m))
        return found

    def _root(self, n: int) -> int:
        group, parent = self.group[n], self.parent
        while parent[group] != group:
            parent[group] = group = parent[parent[group]]
        return group

    def _cost_of(self, n: int) -> float:
        return self.graph.cost[n] + sum(self.total[group] for group in self._groups_around(n))

    def _join_group(self, n: int) -> None:
        new = len(self.parent)
        self.total.append(self._cost_of(n))
        for group in self._groups_around(n):
            self.parent[group] = new
        self.parent.append(new)
        self.group[n] = new

    def _leave_group(self, n: int) -> None:
        if n in self.group:
            self.total[self._root(n)] -= self.graph.cost[n]
            del self.group[n]


def thinned(graph: Graph, sequence: list[int], limit: int = 0) -> list[int]:
    """Return the sequence without runs that can be spared in so many bytes, or those of its own peak."""
    limit = max(limit, peak(graph, sequence))
    while True:
        shorter = tidied(graph, _without_spare_runs(graph, sequence, limit))
        if len(shorter) >= len(sequence) or peak(graph, shorter) > limit:
            return sequence
        sequence = shorter


def _without_spare_runs(graph: Graph, sequence: list[int], limit: int) -> list[int]:
    last = last_uses(graph, sequence)
    alive = np.array(held(lives(graph, sequence), len(sequence)), np.int64)
    before: dict[int, int] = {}
    repeats = []
    for at, i in enumerate(sequence):
        if i in before:
            repeats.append((before[i], at, i))
        before[i] = at
    repeats.sort(
        key=lambda each: (-graph.cost[each[2]] / ((each[1] - last[each[0]]) or 1), each[1])
    )
    spared = set()
    for earlier, at, i in repeats:
        # If a later call is made in its memory now, it cannot be any more.
        gap = alive[last[earlier] : at]
        if not len(gap) or gap.max() + graph.nbytes[i] <= limit:
            gap += graph.nbytes[i]
            spared.add(at)
    return [i for at, i in enumerate(sequence) if at not in spared]
