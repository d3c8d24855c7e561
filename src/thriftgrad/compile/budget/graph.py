"""What planners of a program's memory look at: which call needs which, and what each takes and costs.

A planner answers with a *sequence*: indices of calls in the order they are to run, in which a call may
come several times. Whoever reads the value of a call reads that of its latest run; a value lives from
its run to the last reading before the next run. So a sequence says by itself what is dropped when.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from thriftgrad.errors import ScheduleError

LONGEST = 4
"""How many times as many calls as the program a sequence may have: its text is that much longer."""


class UnprovenError(Exception):
    """A search for the best sequence that ended without a proof that there is no better one."""


@dataclass(frozen=True)
class Graph:
    """Calls as plain numbers. Their order in the program is one in which they can run.

    Attributes:
        needs: for each call, the earlier calls whose values it reads, each once; inputs and views are
            no calls.
        nbytes: what its value takes in the block; 0 for none there.
        cost: of one run, in the bytes that could be moved meanwhile.
        reuses: for each call, those of its needs in whose memory it can be computed, where nobody reads
            them later; they take as many bytes. The first such is taken.
        kept: the calls whose values must be there at the end.
        once: the calls that must not run again. They run in their order.
        must: the calls that have to run though nobody may read them. Those in `kept` do as well.
        scratch: bytes that a call takes beside its value while it runs; () for none at all.
    """

    needs: tuple[tuple[int, ...], ...]
    nbytes: tuple[int, ...]
    cost: tuple[float, ...]
    reuses: tuple[tuple[int, ...], ...]
    kept: frozenset[int]
    once: frozenset[int] = frozenset()
    must: frozenset[int] = frozenset()
    scratch: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.needs)


def price(graph: Graph, sequence: Sequence[int]) -> float:
    """Return what all runs of a sequence cost together."""
    return sum(graph.cost[i] for i in sequence)


def peak(graph: Graph, sequence: Sequence[int]) -> int:
    """Return the most bytes that are alive at once.

    Raises:
        ScheduleError: the sequence reads what has not been made, repeats or reorders what must run once,
            or leaves out what must run.

    Example:
        >>> graph = Graph(
        ...     needs=((), (0,), (1,), (0, 2)), nbytes=(8, 8, 16, 16), cost=(1, 1, 1, 1),
        ...     reuses=((), (), (), (2,)), kept=frozenset({3}),
        ... )
        >>> peak(graph, [0, 1, 2, 3]), peak(graph, [0, 1, 2, 0, 3])
        (32, 24)
    """
    return max(held(lives(graph, sequence), len(sequence)), default=0)


def held(found: Sequence[tuple[int, int, int]], length: int) -> list[int]:
    """Return the bytes that are alive at each of so many positions."""
    change = [0] * (length + 2)
    for nbytes, first, last in found:
        change[first] += nbytes
        change[last + 1] -= nbytes
    return list(accumulate(change[: length + 1]))


def lives(graph: Graph, sequence: Sequence[int]) -> list[tuple[int, int, int]]:
    """Return bytes, first and last position of every buffer that a sequence writes to.

    Raises:
        ScheduleError: as in `peak`.
    """
    last = last_uses(graph, sequence)
    latest: dict[int, int] = {}
    buffer_of: list[int] = []  # for each run
    found: list[tuple[int, int, int]] = []
    for at, i in enumerate(sequence):
        for r in graph.reuses[i]:
            if last[latest[r]] == at:
                buffer = buffer_of[latest[r]]
                nbytes, first, _ = found[buffer]
                found[buffer] = nbytes, first, last[at]
                break
        else:
            buffer = len(found)
            found.append((graph.nbytes[i], at, last[at]))
        if graph.scratch and graph.scratch[i]:
            found.append((graph.scratch[i], at, at))
        buffer_of.append(buffer)
        latest[i] = at
    return found


def last_uses(graph: Graph, sequence: Sequence[int]) -> list[int]:
    """Return for each run of a sequence the position of the last reading of its value.

    It is the run's own position where nobody reads it, and the length of the sequence for what is kept.

    Raises:
        ScheduleError: as in `peak`.
    """
    last = list(range(len(sequence)))
    latest: dict[int, int] = {}
    before = -1  # the last call that ran once
    for at, i in enumerate(sequence):
        for n in graph.needs[i]:
            if n not in latest:
                raise ScheduleError(f"call {i} at {at} needs call {n}, which has not run by then")
            last[latest[n]] = at
        if i in graph.once:
            if i <= before:
                raise ScheduleError(
                    f"call {i} at {at} comes after call {before}; both must run once, in their order"
                )
            before = i
        latest[i] = at
    missing = (graph.kept | graph.must) - latest.keys()
    if missing:
        raise ScheduleError(f"call {min(missing)} must run, and is not in the sequence")
    for i in graph.kept:
        last[latest[i]] = len(sequence)
    return last


def heavy(graph: Graph) -> set[int]:
    """Return the calls whose values are worth a thought: all but the smallest, 1 % of all bytes together."""
    by_size = sorted(range(len(graph)), key=lambda i: graph.nbytes[i])
    sums = accumulate(graph.nbytes[i] for i in by_size)
    small = sum(graph.nbytes) / 100
    return {i for i, total in zip(by_size, sums, strict=True) if total > small}


def tidied(graph: Graph, sequence: Iterable[int]) -> list[int]:
    """Return a sequence with what is missing put in, and what nobody reads left out.

    A call of `graph.once` is left out where it comes again.
    """
    done: set[int] = set()
    whole: list[int] = []

    def add(i: int) -> None:
        waiting = [i]
        while waiting:
            missing = [n for n in graph.needs[waiting[-1]] if n not in done]
            waiting += missing
            if not missing:
                done.add(waiting[-1])
                whole.append(waiting.pop())

    for i in sequence:
        if i not in done or i not in graph.once:
            add(i)
    for i in sorted((graph.kept | graph.must) - done):
        add(i)
    backwards = []
    wanted = set(graph.kept | graph.must)
    for i in reversed(whole):
        if i in wanted:
            wanted.discard(i)
            wanted.update(graph.needs[i])
            backwards.append(i)
    return backwards[::-1]
