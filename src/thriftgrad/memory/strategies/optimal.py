"""The fastest schedule that keeps to a budget of bytes, and with it the whole time-memory curve.

For every chain there is one family of schedules, which does not depend on what budget is asked for:
that of plain backpropagation, those read out of tables of persistent schedules (`persistent`), some
that are best for equal stages (`revolve`, `mixed`), those that the latter two were bettered to
(`improve`), and for short chains those that no schedule surpasses (`exact`). Each is priced by the
simulator. Those of which no other is both as small and as fast are the curve, and a budget gets the
fastest of them that fits. Thus a larger budget is never slower, and the least budget is exact to the
byte.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import fields
from functools import lru_cache
from math import inf
from typing import Any

from thriftgrad.errors import BudgetError
from thriftgrad.memory.schedule import Action, Kind, Schedule, Strategy, tidy
from thriftgrad.memory.simulate import simulate
from thriftgrad.memory.stages import Chain
from thriftgrad.memory.strategies.everything import everything
from thriftgrad.memory.strategies.exact import exact_frontier
from thriftgrad.memory.strategies.fuse import Fused, even_cuts, fuse, useful_cuts
from thriftgrad.memory.strategies.improve import Frontier, Point, improve
from thriftgrad.memory.strategies.mixed import leads
from thriftgrad.memory.strategies.mixed import reverse as mixed
from thriftgrad.memory.strategies.persistent import Table, splits
from thriftgrad.memory.strategies.revolve import reverse as revolve
from thriftgrad.units import budget_bytes, show_bytes

# What one chain may cost to plan: about two seconds for each.
_SEARCHED_STAGES = 6
_MOST_GROUPS = 400
_MOST_SPLITS = 250_000
_IMPROVED_STAGES = 150
_IMPROVING = 150_000  # actions simulated
_PRICED = 100_000
_LONGEST = 100_000  # actions of one schedule
_FEW_SLOTS = 8  # up to which it is no worse to keep states alone, in no more bytes


def optimal(budget: int | str) -> Strategy:
    """Spend a budget of bytes on the fastest schedule that fits.

    Args:
        budget: the bytes that may be held at once, `Chain.fixed` included; a number, or a text such
            as "64 MB".

    Raises:
        ConfigError: `budget` is no size.
        BudgetError: on a chain that no schedule known takes through so few bytes. Its `least` is the
            fewest that do.

    Example:
        >>> from thriftgrad.memory.stages import homogeneous
        >>> chain = homogeneous(50)
        >>> [simulate(optimal(budget)(chain), chain).seconds for budget in (53, 20, 10)]
        [100.0, 132.0, 156.0]
        >>> optimal(2)(chain)
        Traceback (most recent call last):
        thriftgrad.errors.BudgetError: a budget of 2 bytes is too small: ...
    """
    limit = budget_bytes(budget)

    def strategy(chain: Chain) -> Schedule:
        points = frontier(chain)
        fitting = [point for point in points if point.peak <= limit]
        if not fitting:
            raise BudgetError(
                f"a budget of {limit:,} bytes is too small: the smallest schedule takes "
                f"{points[0].peak:,} bytes, {_largest_part(points[0].schedule, chain)}",
                least=points[0].peak,
            )
        return fitting[-1].schedule

    return strategy


def frontier(chain: Chain) -> tuple[Point, ...]:
    """Return the time-memory curve: schedules from the smallest to the fastest.

    Each is faster and larger than the one before it. The last is as fast as plain backpropagation,
    and no larger.

    Example:
        >>> from thriftgrad.memory.stages import homogeneous
        >>> [(point.peak, point.seconds) for point in frontier(homogeneous(3))]
        [(4, 7.0), (5, 6.0)]
    """
    # What is held all the while moves every peak by as much, and has no say in what is best.
    fixed = sum(chain.fixed.values())
    points = _frontier(*(getattr(chain, name) for name in _COSTS))
    return tuple(point._replace(peak=point.peak + fixed) for point in points)


_COSTS = tuple(field.name for field in fields(Chain) if field.name != "fixed")


@lru_cache(maxsize=16)
def _frontier(*costs: Any) -> tuple[Point, ...]:
    chain = Chain(**dict(zip(_COSTS, costs, strict=True)))
    found = Frontier()
    for point in _family(chain):
        found.add(point)
    return tuple(found.points)


def _family(chain: Chain) -> Iterator[Point]:
    """Yield all schedules that are considered."""
    yield _point(everything()(chain), chain)
    fused = fuse(chain, useful_cuts(chain))
    whole = fuse(chain, range(len(chain) + 1))
    for each in (whole, fused):
        if len(each.chain) <= _SEARCHED_STAGES:
            for schedule in exact_frontier(each.chain):
                yield _point(each.expand(schedule), chain)
            break
    coarse = _coarse(fused.chain)
    starts = [fused.expand(coarse.expand(runs)) for runs in _persistent(coarse)]
    if coarse.cuts[-1] == len(coarse.chain):
        starts += [fused.expand(runs) for runs in _of_slots(len(fused.chain))]
    if len(fused.chain) < len(chain) <= _MOST_GROUPS and splits(chain) <= _MOST_SPLITS:
        starts += _persistent(whole)
    if len(chain) > _IMPROVED_STAGES:
        yield from (_point(runs, chain) for runs in starts)
    else:
        schedules = (tidy(runs, chain, "optimal") for runs in starts)
        yield from improve(schedules, chain, _IMPROVING).points


def _point(runs: Iterable[Action], chain: Chain) -> Point:
    schedule = tidy(runs, chain, "optimal")
    simulation = simulate(schedule, chain)
    return Point(simulation.peak, simulation.seconds, schedule)


def _persistent(coarse: Fused) -> Iterator[list[Action]]:
    """Yield the runs of persistent schedules, from the fastest to the smallest.

    Each is slower than the one before it by some part, which is the larger the slower it is.
    """
    chain, length = coarse.chain, coarse.cuts[-1]
    room = simulate(everything()(chain), chain).peak
    table = Table(chain, room)
    fastest = table.seconds.min()
    steps = max(_PRICED // (6 * length), 10)
    slower = 0.0
    for finest, room, seconds in (*_steps(chain, table), (table, table.least, inf)):
        if seconds < slower:
            continue
        slower = seconds * (1 + seconds / (fastest * steps)) if fastest else seconds
        runs = finest.runs(room)
        if len(runs) * length > _LONGEST * len(chain):
            return
        yield runs


def _of_slots(length: int) -> Iterator[Iterable[Action]]:
    """Yield the runs that are best for equal stages, from few slots to many."""
    lead, slots = leads(length, length), 2
    while slots < length:
        if slots <= _FEW_SLOTS:
            yield revolve(0, length, slots, length)
        else:
            yield mixed(length, slots, lead)
        slots += 1 + slots // 4


def _steps(chain: Chain, table: Table) -> Iterator[tuple[Table, int, float]]:
    """Yield what bytes make a difference, falling, with a table that is fine enough there, and seconds."""
    while True:
        least = table.room[-1] // 4 if table.rounds else 0
        for slot in range(len(table.room) - 1, 0, -1):
            if table.room[slot] <= max(least, table.least):
                break
            if table.seconds[slot] < table.seconds[slot - 1]:
                yield table, int(table.room[slot]), float(table.seconds[slot])
        if least <= table.least:
            return
        table = Table(chain, int(least))


def _coarse(chain: Chain) -> Fused:
    """Return the chain in as many groups as can be planned."""
    groups = len(chain)
    while True:
        cuts = even_cuts(chain, groups) if groups < len(chain) else list(range(len(chain) + 1))
        coarse = fuse(chain, cuts)
        if len(coarse.chain) <= _MOST_GROUPS and splits(coarse.chain) <= _MOST_SPLITS:
            return coarse
        groups = min(_MOST_GROUPS, len(coarse.chain) * 4 // 5)


def _largest_part(schedule: Schedule, chain: Chain) -> str:
    """Say what takes most of the memory where a schedule is at its peak."""
    simulation = simulate(schedule, chain)
    action = schedule.actions[simulation.peak_at]
    kind, size = max(simulation.at_peak.items(), key=lambda item: item[1])
    part = f"{show_bytes(size)} of them for {kind}"
    states, tapes = _held(schedule.actions[: simulation.peak_at], action, chain)
    single = {
        "tapes": [(chain.stages[k].tape, f"that of {_name(chain, k)}") for k in tapes],
        "activations": [
            (chain.size(i), f"the output of {_name(chain, i - 1)}" if i else "the input")
            for i in states
        ],
        "gradients": [
            (stage.gradient, f"that of {_name(chain, k)}") for k, stage in enumerate(chain.stages)
        ],
    }.get(kind, [])
    if single:
        most, which = max(single)
        part += f", the largest {which} with {show_bytes(most)}"
    return f"{part} (at the {action.kind} of {_name(chain, action.index)})"


def _held(actions: Iterable[Action], now: Action, chain: Chain) -> tuple[set[int], set[int]]:
    """Return the states and the tapes that are in memory during an action, after those before it."""
    states, tapes = {0}, set()
    for action in (*actions, now):
        k, kind = action.index, action.kind
        made = kind in (Kind.ADVANCE, Kind.KEEP, Kind.TAPE)
        states |= {k + 1} if made else set()
        tapes |= {k} if kind is Kind.TAPE else set()
        if action is not now:
            states -= {k} if kind in (Kind.ADVANCE, Kind.DROP) else set()
            tapes -= {k} if kind is Kind.BACKWARD else set()
    stages = chain.stages
    states |= {k for k in tapes if stages[k].holds_input}
    states |= {k + 1 for k in tapes if stages[k].holds_output}
    return states, tapes


def _name(chain: Chain, k: int) -> str:
    if k == len(chain):
        return "the outputs"
    name = chain.stages[k].name
    return f"stage {k} ({name!r})" if name else f"stage {k}"
