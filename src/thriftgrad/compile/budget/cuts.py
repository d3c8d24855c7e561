"""Schedules for programs whose forward pass is a chain, by the planners of `thriftgrad.memory`.

A cut is a value through which all later calls of the forward pass see the earlier ones. The cuts that
the backward pass reads divide a program into stages. What a stage costs is read off the program as it
runs without a budget; the planners answer with actions on stages, and each action stands for calls.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from thriftgrad.compile.budget.graph import LONGEST, Graph, heavy, held, lives, tidied
from thriftgrad.memory.schedule import Kind, Schedule
from thriftgrad.memory.stages import Chain, Stage
from thriftgrad.memory.strategies.optimal import frontier


def chained(graph: Graph) -> list[list[int]]:
    """Return sequences for a graph whose forward pass is a chain, of all sizes; none for others."""
    cut = find_cuts(graph)
    if len(cut.ends) < 2:
        return []
    found = (tidied(graph, _calls(each.schedule, cut)) for each in frontier(_chain(graph, cut)))
    return [sequence for sequence in found if len(sequence) <= LONGEST * len(graph)]


@dataclass(frozen=True)
class Cut:
    """A program in stages.

    Attributes:
        ends: for each stage, the call that makes its output.
        blocks: for each stage, and for the loss behind the last, the calls of its backward pass.
        loss: the calls before these.
    """

    ends: tuple[int, ...]
    blocks: tuple[range, ...]
    loss: range

    def stage(self, k: int) -> range:
        """Return the calls of a stage's forward pass."""
        return range(self.ends[k - 1] + 1 if k else 0, self.ends[k] + 1)


def find_cuts(graph: Graph) -> Cut:
    """Return the stages that a program's forward pass falls into.

    The forward pass is taken to end where there are most cuts: the backward pass reads values from far
    back, and none of those in between is a cut for it any more.
    """
    large = heavy(graph)
    open_cuts: list[int] = []
    best: list[int] = []
    turn = 0
    for j in range(len(graph)):
        earliest = min((n for n in graph.needs[j] if n in large), default=j)
        while open_cuts and open_cuts[-1] > earliest:
            open_cuts.pop()
        if j in large:
            open_cuts.append(j)
        if len(open_cuts) >= len(best):
            best, turn = list(open_cuts), j
    read = {n for j in range(turn + 1, len(graph)) for n in graph.needs[j]}
    ends = [c for c in best if c in read and c not in graph.once]
    if not ends:
        return Cut((), (), range(0))
    starts: list[int] = []  # of blocks, from the last stage's to the first's
    for j in range(ends[-1] + 1, len(graph)):
        for n in graph.needs[j]:
            if n <= ends[-1] and n in large:
                k = bisect_left(ends, n)
                k += n == ends[k]  # a stage's output is read in the block of the next stage
                starts += [j] * (len(ends) - k - len(starts))
    starts += [len(graph)] * (len(ends) + 1 - len(starts))
    blocks = tuple(range(a, b) for a, b in pairwise(starts))
    return Cut(tuple(ends), blocks[::-1], range(ends[-1] + 1, starts[0]))


def _chain(graph: Graph, cut: Cut) -> Chain:
    """Return what the stages cost, as the program shows it where everything is kept."""
    found = lives(graph, range(len(graph)))
    births = [first for _, first, _ in found]
    large = heavy(graph)

    def born(part: range) -> list[tuple[int, int, int]]:
        return found[bisect_left(births, part.start) : bisect_left(births, part.stop)]

    def extra(part: range) -> int:
        """Return the most bytes held at once of what does not leave this part."""
        inside = [(n, a - part.start, b - part.start) for n, a, b in born(part) if b < part.stop]
        return max(held(inside, len(part)), default=0)

    def lasts(birth: int, death: int) -> bool:
        """Tell whether a value of the backward pass outlives the next two blocks."""
        k = min(_block_of(cut, birth) - 2, len(cut.ends) - 1)
        return death >= (cut.blocks[k].stop if k >= 0 else len(graph))

    stages = []
    for k, end in enumerate(cut.ends):
        part, block = cut.stage(k), cut.blocks[k]
        start = block.start
        read = {n for j in block for n in graph.needs[j]}
        tape = [i for i in part[:-1] if i in read and i in large and i not in graph.once]
        cost = sum(graph.cost[i] for i in part if i not in graph.once)
        recent = born(range(cut.blocks[min(k + 3, len(cut.ends) - 1)].start, start))
        handed = [n for n, a, b in recent if a >= cut.loss.start and b >= start and not lasts(a, b)]
        stages.append(
            Stage(
                output=graph.nbytes[end],
                cotangent=sum(handed),
                tape=sum(graph.nbytes[i] for i in tape),
                holds_output=False,
                needs_input=k > 0 and cut.ends[k - 1] in read,
                gradient=sum(n for n, a, b in born(block) if lasts(a, b)),
                forward_extra=extra(part),
                tape_extra=extra(part),
                backward_extra=extra(block),
                forward_seconds=cost,
                tape_seconds=cost,
                backward_seconds=sum(graph.cost[j] for j in block),
            )
        )
    return Chain(stages=tuple(stages), loss_extra=extra(cut.loss))


def _block_of(cut: Cut, call: int) -> int:
    """Return the block that a call of the backward pass belongs to; that of the loss is the last."""
    starts = [-block.start for block in cut.blocks]
    return bisect_left(starts, -call)


def _calls(schedule: Schedule, cut: Cut) -> Iterator[int]:
    """Yield the calls that the actions of a schedule stand for."""
    for action in schedule:
        match action.kind:
            case Kind.ADVANCE | Kind.KEEP | Kind.TAPE:
                yield from cut.stage(action.index)
            case Kind.LOSS:
                yield from cut.loss
            case Kind.BACKWARD:
                yield from cut.blocks[action.index]
