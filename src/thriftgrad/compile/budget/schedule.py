"""A program that keeps to a budget: what does not fit is dropped, and computed again when it is needed.

The program becomes a `Graph`, planners answer with sequences of calls, and a sequence becomes a program
again, in which a call that comes twice has two results. Calls that run again are the same calls on the
same layouts, so that results are the same to the last bit whatever the budget.

There is one family of sequences for every program, which does not depend on the budget: the program as
it is, those of the planners for chains (`cuts`), those that a heuristic finds at some limits (`evict`),
and, where values under 1 % of all bytes count for nothing, those that a beam finds for programs that are
not large, and the best there are for small ones (`search`, and `exact` where SciPy is installed). Of
those that fit, which the block that they are really written into decides, the cheapest is taken. So more
memory never costs more, but for budgets within some bytes of the least, where the smallest program is
taken as it is written, though it was planned larger.

How exact the least budget is: it is the smallest block of this family, in which no program is longer
than `graph.LONGEST` times the plain one. For chains it is that of the best planners known; for others
it is what beams and the heuristic reach, and where a proof is found for a small program, it is within
1 % of the least there is, what placement loses aside.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import inf, prod
from typing import TYPE_CHECKING, Any

import numpy as np

from thriftgrad.compile import spell
from thriftgrad.compile.budget import exact
from thriftgrad.compile.budget.cuts import chained
from thriftgrad.compile.budget.evict import evicted, thinned
from thriftgrad.compile.budget.graph import Graph, UnprovenError, heavy, peak, price
from thriftgrad.compile.budget.search import beam, fewest, search
from thriftgrad.compile.budget.steps import joined
from thriftgrad.compile.order import TILE, Group, calls_of, can_fail, ordered
from thriftgrad.compile.place import ALIGNMENT, room
from thriftgrad.compile.program import Call, Program, Variable, drawn, is_literal, replaced
from thriftgrad.errors import BudgetError
from thriftgrad.units import show_bytes

if TYPE_CHECKING:
    from thriftgrad.compile.source import Written


def within(
    program: Program,
    budget: int,
    write: Callable[[Program], Written],
    write_apart: Callable[[Program], Written],
) -> Written:
    """Write a program with the same results into a block no larger than the budget.

    It is planned call by call. What is written in tiles or kernels afterwards mostly takes less; where it
    takes too much, calls are left apart.

    Args:
        program: as it is to be written (`spell.spelled`).
        budget: bytes.
        write: what writes it, as without a budget.
        write_apart: what writes it call by call, but for updates.

    Raises:
        BudgetError: no program known is so small. Its `least` is the size of the smallest.
    """
    plain = write(program)
    if plain.memory.block <= budget:
        return plain
    flow = Flow(program)
    family = Family(flow, write_apart)
    found = family.cheapest(budget)
    if found is None and family.smallest[0] <= budget:  # which takes less than it was planned to
        found = family.smallest[1]
    if found is not None:
        together = write(flow.program(found.sequence))
        return together if together.memory.block <= budget else family.written(found)
    least = min(plain.memory.block, family.smallest[0])
    raise BudgetError(
        f"a budget of {show_bytes(budget)} ({budget:,} bytes) is too small: the smallest block "
        f"known for this function takes {least:,} bytes; give it that, or make the batch smaller",
        least=least,
    )


class Flow:
    """The graph of a program, and the way back from sequences to programs.

    Calls that take no memory in the block of their own, views and Python numbers, are no calls of the
    graph: they are made again wherever they are needed.
    """

    def __init__(self, program: Program) -> None:
        self.origin = program
        self.calls: list[Call] = []
        self.maker: dict[Variable, Call] = {}
        self.inputs = {each.variable for each in program.inputs}
        updating: dict[Call, int] = {}  # and what each takes while it runs
        flat: list[Call] = []
        for step in ordered(program, inf):
            flat += calls_of(step)
            if isinstance(step, Group):
                updating |= _scratch(step)
        for call in flat:
            self.maker.update(dict.fromkeys(call.results, call))
            if not self._is_free(call):
                self.calls.append(call)
        self.index = {call: i for i, call in enumerate(self.calls)}
        self.graph = self._graph(updating)

    def program(self, sequence: Sequence[int]) -> Program:
        """Return the program that makes these calls in this order."""
        return _Unrolled(self, sequence).program()

    def _is_free(self, call: Call) -> bool:
        if call.kind in ("view", "number"):
            return True
        return bool(call.results) and all(is_literal(v, self.inputs) for v in call.results)

    def _graph(self, updating: dict[Call, int]) -> Graph:
        needs, nbytes, reuses, scratch = [], [], [], []
        once = set()
        for i, call in enumerate(self.calls):
            for result in call.results:
                result.strides = result.packed
            sources = dict.fromkeys(n for v in call.operands for n in self._sources(v))
            in_block = spell.takes_out(call) and call not in updating
            needs.append(tuple(sources))
            nbytes.append(sum(room(v.nbytes) for v in call.results) if in_block else 0)
            reuses.append(tuple(self._reusable(call)) if in_block else ())
            scratch.append(updating.get(call, 0))
            if not in_block or call.function is drawn or can_fail(call):
                once.add(i)  # an update waits for the last call that can fail
            elif any(n in once and nbytes[n] >= nbytes[i] > 0 for n in sources):
                once.add(i)  # running it again would keep what cannot run again, and is no smaller
        must = {i for i, call in enumerate(self.calls) if call.kind == "require"}
        kept = {n for v in self.origin.ends for n in self._sources(v)}
        return Graph(
            needs=tuple(needs),
            nbytes=tuple(nbytes),
            cost=tuple(map(cost, self.calls)),
            reuses=tuple(reuses),
            kept=frozenset(kept),
            once=frozenset(once),
            must=frozenset(must),
            scratch=tuple(scratch),
        )

    def _sources(self, v: Variable) -> Iterator[int]:
        """Yield the calls of the graph in whose memory a variable lies, or of which it is made."""
        waiting = [v]
        while waiting:
            call = self.maker.get(waiting.pop())
            if call in self.index:
                yield self.index[call]
            elif call is not None:
                waiting += call.operands

    def _reusable(self, call: Call) -> Iterator[int]:
        for v in spell.reusable(call):
            maker = self.maker.get(v)
            if maker in self.index and spell.takes_out(maker) and len(maker.results) == 1:
                yield self.index[maker]


class _Unrolled:
    """The program of a sequence: every run of a call has results of its own."""

    def __init__(self, flow: Flow, sequence: Sequence[int]) -> None:
        self.flow = flow
        self.sequence = sequence
        self.latest: dict[Variable, Variable] = {}
        self.free: dict[Any, tuple[Variable, ...]] = {}
        self.calls: list[Call] = []

    def program(self) -> Program:
        """Return it."""
        seen: set[int] = set()
        for i in self.sequence:
            call = self.flow.calls[i]
            self._run(call, recomputed=call.recomputed or i in seen)
            seen.add(i)
        origin = self.flow.origin
        inputs = [
            replace(e, final=None if e.final is None else self.current(e.final))
            for e in origin.inputs
        ]
        gradients = [(at, None if v is None else self.current(v)) for at, v in origin.gradients]
        outputs = [self.current(v) for v in origin.outputs]
        return Program(inputs, self.calls, outputs, gradients, origin.afterwards)

    def current(self, v: Variable) -> Variable:
        """Return what stands for a variable now, with the views that it takes."""
        call = self.flow.maker.get(v)
        if call is None:
            return v
        if call in self.flow.index:
            return self.latest[v]
        given = tuple(self.current(each) for each in call.operands)
        key = call, given
        if key not in self.free:
            self.free[key] = self._run(call, recomputed=call.recomputed)
        return self.free[key][call.results.index(v)]

    def _run(self, call: Call, recomputed: bool) -> tuple[Variable, ...]:
        args = replaced(call.args, self.current)
        kwargs = replaced(call.kwargs, self.current)
        results = tuple(
            replace(v, base=None if v.base is None else self.current(v.base)) for v in call.results
        )
        self.latest.update(zip(call.results, results, strict=True))
        self.calls.append(
            replace(call, args=args, kwargs=kwargs, results=results, recomputed=recomputed)
        )
        return results


@dataclass(eq=False)
class Candidate:
    """A sequence, with what it costs and holds as a model of it tells."""

    sequence: list[int]
    cost: float
    peak: int


class Family:
    """The sequences that are considered for a program, whatever the budget."""

    def __init__(self, flow: Flow, write: Callable[[Program], Written]) -> None:
        self.flow = flow
        self.graph = flow.graph
        self.write = write
        self._sizes: dict[tuple[int, ...], int] = {}
        self._answers: dict[Any, Any] = {}
        self.plain = self._candidate(list(range(len(flow.graph))))

    def cheapest(self, budget: int) -> Candidate | None:
        """Return the cheapest candidate whose block is no larger than the budget."""
        if self._size(self.plain, budget) <= budget:
            return self.plain
        for each in self._known:
            if self._size(each, budget) <= budget:
                return self._proven(budget, each)
        return self._proven(budget, None)

    @cached_property
    def smallest(self) -> tuple[int, Candidate]:
        """The size of the smallest block, and the candidate that takes it."""
        smallest = min(self._known, key=lambda each: each.peak)
        least, best = min(
            ((self._size(each), each) for each in (self.plain, smallest)), key=lambda two: two[0]
        )
        while (found := self.cheapest(least - 1)) is not None:
            least, best = self._size(found), found
        return least, best

    def written(self, each: Candidate) -> Written:
        """Return a candidate's program, written call by call."""
        found = self.write(self.flow.program(each.sequence))
        self._sizes[tuple(each.sequence)] = found.memory.block
        return found

    def _size(self, each: Candidate, enough: int = sys.maxsize) -> int:
        """Return the size of a block, or of as much of it as the model vouches for, if that is enough.

        To write a large program takes a second, so it is not written where it will be too large.
        """
        sure = int(each.peak * (0.98 if self._steps > _MEDIUM else 0.8))
        if sure > enough:
            return sure
        key = tuple(each.sequence)
        size = self._sizes[key] if key in self._sizes else self.written(each).memory.block
        return max(sure, size)

    def _candidate(self, sequence: list[int]) -> Candidate:
        return Candidate(sequence, price(self.graph, sequence), peak(self.graph, sequence))

    @cached_property
    def _frontier(self) -> list[Candidate]:
        """Return those of which no other is as cheap and as small, from the cheapest on.

        Planners leave gaps where chains are long. There the two cheapest that are smaller are given
        what is missing, for runs that can be spared in it.
        """
        found = [self.plain, *map(self._candidate, chained(self.graph))]
        found += map(self._candidate, evicted(self.graph))
        frontier = _undominated(found)
        smallest, most = max(frontier[-1].peak, 1), self.plain.peak
        rounds = max(8, min(32, _EASED // max(len(self.graph), 1)))
        for k in range(rounds):
            limit = int(smallest * (most / smallest) ** (k / rounds))
            for each in [each for each in frontier if each.peak <= limit][:2]:
                found.append(self._candidate(thinned(self.graph, each.sequence, limit)))
        return _undominated(found)

    @cached_property
    def _light(self) -> Graph:
        """The graph in which the smallest values count for nothing: a training step is small in that."""
        return _without_crumbs(self.graph)

    @cached_property
    def _steps(self) -> float:
        """How many steps there are in that, if it is not large."""
        few = sum(nbytes > 0 for nbytes in self._light.nbytes) <= 2 * _MEDIUM
        return len(joined(self._light)) if few else inf

    @cached_property
    def _known(self) -> list[Candidate]:
        """What is known whatever the budget is, from the cheapest on."""
        levels = [self.plain.peak * k // _BEAMS for k in range(1, _BEAMS)]
        found = [beam(self._light, level) for level in levels if self._steps <= _MEDIUM]
        beams = [self._candidate(each) for each in found if each is not None]
        return sorted([*self._frontier, *beams], key=lambda each: each.cost)

    def _proven(self, budget: int, rival: Candidate | None) -> Candidate | None:
        """Return the best sequence of a small graph for this budget, if it is cheaper than its rival.

        The sequences are asked for at fixed steps of bytes, down to where one is known whose block fits,
        so that a larger budget finds no dearer one. Where `search` knows the best in any order, `exact`,
        which knows that in stages, is asked for more bytes only.
        """
        if self._steps > _SMALL:
            return rival
        step = max(-(-self.plain.peak // _STEPS // ALIGNMENT), 1) * ALIGNMENT
        best, known = rival, 0
        planners = [(search, fewest), (exact.exact, exact.least)]
        for planner in planners if self._steps <= exact.LARGEST else planners[:1]:
            for level, found in self._best(range(budget // step * step, known, -step), *planner):
                each = self._candidate(found)
                is_cheaper = best is None or each.cost < best.cost
                if not is_cheaper or self._size(each, budget) <= budget:
                    best, known = each if is_cheaper else best, level
                    break
        return best

    def _best(
        self, levels: Iterable[int], within: Callable[..., Any], least: Callable[..., Any]
    ) -> Iterator[tuple[int, list[int]]]:
        """Yield the best sequences in so many bytes and less, where known; that in the fewest last."""
        for level in levels:
            found = self._answer(within, level)
            if found:
                yield level, found
            elif found is None:
                if smallest := self._answer(least):
                    yield level, smallest[1]
                return

    def _answer(self, planner: Callable[..., Any], *level: int) -> Any:
        """Return what a planner answers, which is asked once; False where it proves nothing."""
        if (planner, level) not in self._answers:
            try:
                self._answers[planner, level] = planner(self._light, *level)
            except UnprovenError:
                self._answers[planner, level] = False
        return self._answers[planner, level]


def _without_crumbs(graph: Graph) -> Graph:
    """Return a graph in which small values take nothing and are made once."""
    large = heavy(graph)
    small = sum(graph.nbytes) / 100
    return replace(
        graph,
        nbytes=tuple(b if i in large else 0 for i, b in enumerate(graph.nbytes)),
        once=graph.once.union(set(range(len(graph))) - large),
        scratch=tuple(b if b > small else 0 for b in graph.scratch),
    )


def _undominated(candidates: Iterable[Candidate]) -> list[Candidate]:
    frontier: list[Candidate] = []
    for each in sorted(candidates, key=lambda each: (each.cost, each.peak)):
        if not frontier or each.peak < frontier[-1].peak:
            frontier.append(each)
    return frontier


_EASED = 100_000
"""Calls gone through to fill the gaps between schedules."""
_MEDIUM = 80
"""Steps of a graph up to which beams are sent through it, ..."""
_BEAMS = 12
"""... at so many parts of what the program takes."""
_SMALL = 40
"""Steps up to which the best sequence is searched for."""
_STEPS = 32
"""Into how many budgets what a program takes is divided for that."""


def cost(call: Call) -> float:
    """Return what a call costs, in the bytes that could be moved meanwhile.

    It is a measure for comparison alone, and the same on every machine. Measured with one thread on
    arrays of 2,048 x 256 entries, float32 and float64: 28 GB/s are moved, 160 and 67 billion operations a
    second go into matrix products, so 6 and 3 for a byte; `tanh`, `log` or `exp` take as long as moving
    one and two arrays more, and `sin`, `cos` and `tan` one and 25.
    """
    moved = sum(v.nbytes for v in (*call.operands, *call.results) if not v.number)
    f = call.function
    if not call.results or (f not in _SLOW and f not in (np.matmul, np.dot)):
        return float(moved)
    result = call.results[0]
    size = result.dtype.itemsize
    if f in _SLOW:
        arrays = 25.0 if f in _TRIGONOMETRIC and size > 4 else size / 4
        return moved + arrays * result.nbytes
    if not all(isinstance(v, Variable) and v.shape for v in call.args[:2]):
        return float(moved)
    inner: int = call.args[0].shape[-1]
    return moved + 2 * prod(result.shape) * inner * size / 24


_TRIGONOMETRIC = {np.sin, np.cos, np.tan}
_SLOW = {
    *_TRIGONOMETRIC,
    *(np.exp, np.expm1, np.exp2, np.log, np.log1p, np.log2, np.log10, np.logaddexp),
    *(np.sinh, np.cosh, np.tanh, np.arcsin, np.arccos, np.arctan, np.arctan2),
    *(np.power, np.float_power, np.hypot, np.cbrt),
}


def _scratch(update: Group) -> dict[Call, int]:
    """Return what calls of an update hold beside what it is given: a tile, but for what they overwrite.

    Where it makes its gradient in bands, a band is there all the time.
    """
    last = {v: j for j, call in enumerate(update.calls) for v in call.operands}
    found, band = {}, 0
    if update.product is not None:
        band = found[update.product] = update.product.result.nbytes // update.shape[0] * update.rows
    for j, call in enumerate(update.calls):
        v = call.result
        overwrites = v in update.targets and last.get(update.targets[v], -1) <= j
        found[call] = band + (0 if overwrites else min(room(v.nbytes), TILE * v.dtype.itemsize))
    return found
