"""The fastest schedule of all for a short chain: a search over what is held.

Persistent schedules are not always the fastest. It can pay to keep a state while there is room for it,
to start again from it, then to drop it for something large, and to compute it once more. Whoever
allows for that meets sets of states and tapes instead of intervals, of which there are exponentially
many; for chains of some six stages they can be searched to the end.

The search is A* (Hart, Nilsson, Raphael 1968). A node is the cotangent at hand, the states held and the
tapes held; an edge is one run. The bound on what is left counts every backward, and a taped run for
every tape that is missing. Three remarks keep the graph small, and lose no schedule that is faster:
 - a state is dropped only where a run would not fit otherwise, and then as few as possible;
 - a tape is never dropped, since a tape that no backward uses could have been a plain run, which is
   taken to be no dearer;
 - what is made is never there already.
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heappop, heappush
from itertools import count
from typing import NamedTuple

from thriftgrad.errors import BudgetError
from thriftgrad.memory.schedule import Action, Kind, Schedule, tidy
from thriftgrad.memory.simulate import simulate
from thriftgrad.memory.stages import Chain


def exact(chain: Chain, memory: int) -> Schedule:
    """Return the fastest schedule of all that holds at most `memory` bytes.

    Of those, that is, in which no state is made anew while a tape still keeps an older copy of it. The
    work grows exponentially with the number of stages: six are a matter of milliseconds, ten of
    minutes.

    Raises:
        BudgetError: there is none.

    Example:
        >>> from thriftgrad.memory.stages import Stage
        >>> chain = Chain(stages=(Stage(output=8, cotangent=8),) * 3)
        >>> [simulate(exact(chain, memory), chain).seconds for memory in (24, 32, 40)]
        [9.0, 7.0, 6.0]
    """
    runs = fastest_runs(chain, memory)
    if runs is None:
        raise BudgetError(
            f"a budget of {memory:,} bytes: no schedule of this chain holds so little"
        )
    return tidy(runs, chain, "exact")


def exact_frontier(chain: Chain) -> Iterator[Schedule]:
    """Yield the fastest schedule of all, then the fastest that is smaller than it, and so on."""
    memory = simulate(_everything(chain), chain).peak
    while (runs := fastest_runs(chain, memory)) is not None:
        schedule = tidy(runs, chain, "exact")
        yield schedule
        # An older copy of a state beside a newer one would make it larger than what was searched for.
        memory = min(memory, simulate(schedule, chain).peak) - 1


class _Node(NamedTuple):
    cotangent: int  # i of the d_i at hand; L + 1 before the loss
    states: int  # bit i: x_i is held, by itself or by the tape t_{i-1}
    tapes: int  # bit k: t_k is held


def fastest_runs(chain: Chain, memory: int) -> list[Action] | None:
    """Return the runs of the fastest schedule, or None where there is none."""
    search = _Search(chain, memory)
    start = _Node(len(chain) + 1, 1, 0)
    came: dict[_Node, tuple[_Node, Action]] = {}
    spent = {start: 0.0}
    number = count()
    queue = [(search.bound(start), next(number), start)]
    done: set[_Node] = set()
    while queue:
        _, _, node = heappop(queue)
        if node in done:
            continue
        if node.cotangent == 0:
            return _path(came, node)
        done.add(node)
        for action, seconds, after in search.steps(node):
            time = spent[node] + seconds
            if time < spent.get(after, float("inf")):
                spent[after], came[after] = time, (node, action)
                heappush(queue, (time + search.bound(after), -next(number), after))
    return None


def _path(came: dict[_Node, tuple[_Node, Action]], node: _Node) -> list[Action]:
    runs = []
    while node in came:
        node, action = came[node]
        runs.append(action)
    return runs[::-1]


def _everything(chain: Chain) -> Schedule:
    stages = range(len(chain))
    forward = [*(Action(Kind.TAPE, k) for k in stages), Action(Kind.LOSS, len(chain))]
    return tidy(forward + [Action(Kind.BACKWARD, k) for k in stages[::-1]], chain)


class _Search:
    """The graph that is searched: the runs that are possible, what they cost, what they leave."""

    def __init__(self, chain: Chain, memory: int) -> None:
        self.chain, self.memory = chain, memory - sum(chain.fixed.values())
        length, stages = len(chain), chain.stages
        self.during = chain.update == "during backward"
        self.last_update = max((stage.update_extra for stage in stages), default=0)
        kept = [stage.gradient - (stage.released if self.during else 0) for stage in stages]
        self.gradients = [sum(kept[k:]) for k in range(length + 2)]
        self.cotangents = [chain.cotangent(i) for i in range(length + 1)] + [0]
        # Buffers: bit i for that of x_i, or of the state that x_i is a view of.
        self.buffer = [1] * (length + 1)
        for k, stage in enumerate(stages):
            self.buffer[k + 1] = self.buffer[k] if stage.view else 2 << k
        self.kept_by = [
            self.buffer[k] * stage.holds_input | self.buffer[k + 1] * stage.holds_output
            for k, stage in enumerate(stages)
        ]
        self.sizes: dict[tuple[int, int], int] = {}
        backward = [stage.backward_seconds + stage.update_seconds for stage in stages]
        self.backward = [sum(backward[:i]) for i in range(length + 1)]
        self.backward.append(self.backward[-1] + chain.loss_seconds)

    def bound(self, node: _Node) -> float:
        """Return the seconds that are needed at least from here to the end."""
        stages = self.chain.stages[: node.cotangent]
        missing = (s.tape_seconds for k, s in enumerate(stages) if not node.tapes >> k & 1)
        return self.backward[node.cotangent] + sum(missing)

    def size(self, states: int, tapes: int) -> int:
        """Return the bytes of all buffers and tapes that are held."""
        key = states, tapes
        if key not in self.sizes:
            buffers = total = 0
            for i, buffer in enumerate(self.buffer):
                if states >> i & 1:
                    buffers |= buffer
            for k, stage in enumerate(self.chain.stages):
                if tapes >> k & 1:
                    buffers |= self.kept_by[k]
                    total += stage.tape
            total += sum(self.chain.state(i) for i in range(len(self.buffer)) if buffers >> i & 1)
            self.sizes[key] = total
        return self.sizes[key]

    def steps(self, node: _Node) -> Iterator[tuple[Action, float, _Node]]:
        """Yield what can be run next, its seconds, and what is then held."""
        stages, length = self.chain.stages, len(self.chain)
        p, states, tapes = node
        if p > length:
            if states >> length & 1:
                action = Action(Kind.LOSS, length)
                peak = self.cotangents[length] + self.chain.loss_extra
                for held in self.fitting(node, 1 << length, states, peak):
                    yield action, self.chain.loss_seconds, self.useful(length, held, tapes)
        elif tapes >> (p - 1) & 1:
            k = p - 1
            needed = 1 << k if stages[k].needs_input else 0
            if states & needed == needed:
                yield from self.backwards(node, needed)
        for k in range(min(p, length)):
            stage, made = stages[k], 2 << k
            if not states >> k & 1:
                continue
            if k + 1 < length and tapes >> (k + 1) & 1 and stages[k + 1].holds_input:
                continue
            output = 0 if stage.view else stage.output
            if not states & made and k + 1 < p:
                for held in self.fitting(node, 1 << k, states, output + stage.forward_extra):
                    after = _Node(p, held | made, tapes)
                    yield Action(Kind.ADVANCE, k), stage.forward_seconds, after
            if tapes >> k & 1:
                continue
            peak = output + stage.tape + stage.tape_extra
            for held in self.fitting(node, 1 << k, states & ~made, peak):
                after = self.useful(p, held | made, tapes | 1 << k)
                yield Action(Kind.TAPE, k), stage.tape_seconds, after

    def backwards(self, node: _Node, needed: int) -> Iterator[tuple[Action, float, _Node]]:
        p, states, tapes = node
        k = p - 1
        stage = self.chain.stages[k]
        new = self.cotangents[k] + stage.gradient
        update = stage.update_extra if self.during else self.last_update if k == 0 else 0
        if not needed and not (k and self.keeps(tapes, k - 1)):
            states &= ~(1 << k)
        extra = stage.backward_extra - self.saving(k, states, tapes & ~(1 << k))
        for held in self.fitting(node, needed, states, max(0, new + extra)):
            rest = self.useful(k, held, tapes & ~(1 << k))
            later = new + update + self.gradients[p] + self.size(held & ~(1 << p), rest.tapes)
            if later <= self.memory:
                yield (
                    Action(Kind.BACKWARD, k),
                    stage.backward_seconds + stage.update_seconds,
                    rest,
                )

    def saving(self, k: int, states: int, others: int) -> int:
        """Return the bytes that a backward saves if only its tape holds the input."""
        stage, buffer = self.chain.stages[k], self.buffer[k]
        if not stage.holds_input or (buffer == 1 and not self.chain.input):
            return 0
        held = any(states >> i & 1 and self.buffer[i] == buffer for i in range(k + 1))
        kept = any(others >> j & 1 and self.kept_by[j] & buffer for j in range(k))
        return 0 if held or kept else stage.backward_saving

    def useful(self, p: int, states: int, tapes: int) -> _Node:
        """Return the node less the states that nothing can use any more."""
        return _Node(p, states & ((1 << p) - 1), tapes)

    def fitting(self, node: _Node, needed: int, states: int, new: int) -> Iterator[int]:
        """Yield the largest sets of states to hold on to so that a run fits that needs `new` more."""
        tapes = node.tapes
        room = self.memory - self.cotangents[node.cotangent] - self.gradients[node.cotangent] - new
        if self.size(states, tapes) <= room:
            yield states
            return
        free = [
            1 << i
            for i in range(states.bit_length())
            if states >> i & 1 and not needed >> i & 1 and not (i and self.keeps(tapes, i - 1))
        ]
        least = states & ~sum(free)
        if self.size(least, tapes) > room:
            return
        found: list[int] = []
        for held in sorted(_subsets(free), key=int.bit_count, reverse=True):
            held |= least
            if any(held & ~other == 0 for other in found):
                continue
            if self.size(held, tapes) <= room:
                found.append(held)
                yield held

    def keeps(self, tapes: int, k: int) -> bool:
        return bool(tapes >> k & 1) and self.chain.stages[k].holds_output


def _subsets(bits: list[int]) -> list[int]:
    sums = [0]
    for bit in bits:
        sums += [each | bit for each in sums]
    return sums
