"""Faster schedules out of given ones: what could have been kept is not computed again.

A persistent schedule holds less than it may for most of the time, since what it keeps must fit at the
worst moment of its interval. In the room that is left, a state can stay from one run of its stage to
the next, which is then not needed, nor what led up to it; or a stage is taped in an earlier run, and
its tape stays. Either makes a schedule faster, and larger at most by what is kept.

The search is Pareto local search (Paquete, Chiarandini, Stützle 2004) over all budgets at once: of the
schedules found so far, those stay of which no other is both as small and as fast. Of all ways to
better one of them, that which promises most is tried next: how much faster it is than what is there
for as many bytes. What is tried is priced by the simulator. So a schedule that was planned for a smaller
budget and has been filled up to this one competes with what was planned for it.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from heapq import heappop, heappush
from itertools import count
from typing import NamedTuple

from thriftgrad.memory.schedule import Action, Kind, Schedule, tidy
from thriftgrad.memory.simulate import Simulation, simulate
from thriftgrad.memory.stages import Chain


class Point(NamedTuple):
    """A schedule and what it costs."""

    peak: int  # bytes
    seconds: float
    schedule: Schedule


class Frontier:
    """Schedules of which none is both as small and as fast as another, by rising peak."""

    def __init__(self) -> None:
        self.points: list[Point] = []
        self._peaks: list[int] = []

    def beats(self, peak: int, seconds: float) -> bool:
        """Tell whether one of the schedules is at least as small and as fast as this."""
        at = bisect_right(self._peaks, peak)
        return at > 0 and self.points[at - 1].seconds <= seconds

    def add(self, point: Point) -> bool:
        """Add a schedule, drop those it beats, and tell whether it was not beaten itself."""
        if self.beats(point.peak, point.seconds):
            return False
        start = end = bisect_left(self._peaks, point.peak)
        while end < len(self.points) and self.points[end].seconds >= point.seconds:
            end += 1
        self.points[start:end] = [point]
        self._peaks[start:end] = [point.peak]
        return True

    def gain(self, peak: int, seconds: float) -> float:
        """Return how much faster this is than what is here and no larger, as a share; at most 1."""
        at = bisect_right(self._peaks, peak)
        if not at:
            return 1.0
        here = self.points[at - 1].seconds
        return 1 - seconds / here if here else 0.0


def improve(schedules: Iterable[Schedule], chain: Chain, work: int) -> Frontier:
    """Return the best schedules that the given ones lead to.

    Args:
        schedules: where to begin.
        chain: what the stages cost.
        work: how many actions may be simulated, given schedules not counted.

    Example:
        >>> from thriftgrad.memory.stages import homogeneous
        >>> from thriftgrad.memory.strategies.revolve import revolve
        >>> chain = homogeneous(8)
        >>> start = revolve(2)(chain)
        >>> [(point.peak, point.seconds) for point in improve([start], chain, 10_000).points]
        [(5, 25.0), (6, 20.0), (7, 19.0), (8, 18.0), (9, 17.0), (10, 16.0)]
    """
    frontier = Frontier()
    simulations: dict[int, Simulation] = {}
    for schedule in schedules:
        simulation = simulate(schedule, chain)
        if frontier.add(Point(simulation.peak, simulation.seconds, schedule)):
            simulations[id(schedule)] = simulation
    number = count()
    queue: list[tuple[float, int, _Saving]] = []

    def look_at(schedule: Schedule, simulation: Simulation) -> None:
        for saving in _savings(schedule, simulation, chain):
            gain = frontier.gain(saving.peak, saving.seconds)
            if gain > 0:
                heappush(queue, (-gain, next(number), saving))

    for point in frontier.points:
        look_at(point.schedule, simulations[id(point.schedule)])
    while queue and work > 0:
        promised, _, saving = heappop(queue)
        gain = frontier.gain(saving.peak, saving.seconds)
        if gain <= 0:
            continue
        if gain < -promised and queue and gain < -queue[0][0]:
            heappush(queue, (-gain, next(number), saving))
            continue
        schedule = saving.schedule(chain)
        work -= len(schedule)
        simulation = simulate(schedule, chain)
        if frontier.add(Point(simulation.peak, simulation.seconds, schedule)):
            look_at(schedule, simulation)
    return frontier


class _Saving(NamedTuple):
    """Runs that need not be, if an earlier one is taped or its state is kept."""

    peak: int  # at most, but for a tape that keeps its input
    seconds: float  # at most
    start: Schedule
    without: frozenset[int]  # places in the schedule
    taped: int | None

    def schedule(self, chain: Chain) -> Schedule:
        actions = list(self.start.actions)
        if self.taped is not None:
            actions[self.taped] = Action(Kind.TAPE, actions[self.taped].index)
        left = (action for i, action in enumerate(actions) if i not in self.without)
        return tidy(left, chain, self.start.strategy)


def _savings(schedule: Schedule, simulation: Simulation, chain: Chain) -> Iterator[_Saving]:
    """Yield what may be saved in a schedule."""
    actions, during, durations = schedule.actions, simulation.during, simulation.durations.tolist()
    made: dict[int, list[int]] = {}  # of each state, where it was made
    gone: dict[int, int] = {}  # and where it was last let go

    def most(start: int, end: int) -> int:
        return int(during[start:end].max()) if start < end else 0

    for i, action in enumerate(actions):
        kind, k = action.kind, action.index
        if kind is Kind.DROP or kind is Kind.ADVANCE:
            gone[k] = i
        if kind not in _FORWARD:
            continue
        stage, before = chain.stages[k], made.setdefault(k + 1, [])
        left = simulation.seconds - durations[i] - _lead(actions, durations, i)
        if before and kind is not Kind.TAPE:
            peak = max(simulation.peak, most(gone[k + 1] + 1, i) + stage.output)
            yield _Saving(peak, left, schedule, frozenset((i,)), None)
        elif before:
            without = {i}
            free = gone[k + 1] + 1
            for e in reversed(before):
                if actions[e].kind is Kind.TAPE:
                    break
                peak = max(
                    simulation.peak,
                    most(e, i) + stage.tape,
                    most(free, i) + stage.tape + stage.output,
                )
                yield _Saving(peak, left, schedule, frozenset(without), e)
                left -= durations[e] + _lead(actions, durations, e)
                without.add(e)
                free = e + 1
        before.append(i)


_FORWARD = frozenset({Kind.ADVANCE, Kind.KEEP, Kind.TAPE})


def _lead(actions: Sequence[Action], durations: Sequence[float], i: int) -> float:
    """Return the seconds of the plain runs that do nothing but lead up to this one."""
    seconds = 0.0
    while i > 0:
        action, before = actions[i], actions[i - 1]
        follows = before.kind in (Kind.ADVANCE, Kind.KEEP) and before.index == action.index - 1
        if action.kind is Kind.KEEP or not follows:
            break
        i -= 1
        seconds += durations[i]
    return seconds
