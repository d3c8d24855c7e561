"""The fastest persistent schedule under a limit of bytes: dynamic programming over intervals.

A schedule is persistent where a state, once it is chosen to be kept, stays until its stage is taped.
Then the problem falls apart into intervals. Let C(s, t, m) be the least time for the forward and the
backward of stages s to t (stage L is the loss), where x_s is held beside m, d_{t+1} is in m, and m counts
what is held beyond the parameter gradients of the stages after t. Let D(s, t, m) be the same where x_s
is in m, and may be let go. With b = 0 for C and b = x_s for D, either stage s is taped at once, and its
tape a_s stays while the rest is done,

    tape_s + backward_s + C(s+1, t, m − a_s − x_{s+1}), or D(s+1, t, m − a_s) where a_s does not hold x_{s+1},

for D less the b that a_s holds or its backward needs; or the forward pass goes on untaped to some x_j,
with which j to t are done, and later the stages s to j−1 are done anew from x_s, with the gradients of
j to t held as well:

    min over j of  forward_s + … + forward_{j−1} + D(j, t, m − b) + (C or D)(s, j−1, m − gradients of j to t).

Each applies where what its runs hold at their worst fits in m. Time is tabulated over m in slots of
a unit, and all bytes that are taken from m are rounded up to it. Two things keep that from costing
much. A schedule is read out of the table in bytes, so that what one rounding loses is not lost for
the choices below it; and beside the table stands, for every interval, the least m in bytes at which it
can be done at all, so that a schedule is found wherever there is one.

The costs of an interval are those of its stages and of nothing else. Intervals with equal stages are
one entry, which is what makes deep networks of equal layers quick to plan.

Source: Beaumont, Eyraud-Dubois, Herrmann, Joly, Shilova: Optimal checkpointing for heterogeneous
chains: how to train deep neural networks with limited memory (Inria RR-9302, 2019); the gradients,
shared memory, states that no tape holds, and reading out in bytes are additions.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import accumulate
from math import gcd, inf
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thriftgrad.errors import BudgetError
from thriftgrad.memory.schedule import Action, Kind, Schedule, tidy
from thriftgrad.memory.stages import Chain

_Ints = NDArray[np.int64]
SLOTS = 500
_EXACT_SLOTS = 1000  # as many as a table may have where that makes it free of rounding


def persistent(chain: Chain, memory: int) -> Schedule:
    """Return the fastest persistent schedule that holds at most `memory` bytes.

    Exact where all sizes are multiples of a unit of which `memory` has no more than a thousand;
    else to within the rounding of sizes to a 500th of the memory.

    Raises:
        BudgetError: there is none.

    Example:
        >>> from thriftgrad.memory.stages import Stage
        >>> chain = Chain(stages=(Stage(output=8, cotangent=8),) * 4)
        >>> from thriftgrad.memory.simulate import simulate
        >>> [simulate(persistent(chain, memory), chain).seconds for memory in (32, 40, 48)]
        [10.0, 9.0, 8.0]
    """
    room = memory - sum(chain.fixed.values())
    table = Table(chain, room)
    if room < table.least:
        needed = memory - room + table.least
        raise BudgetError(
            f"a budget of {memory:,} bytes: no persistent schedule holds less than {needed:,}",
            least=needed,
        )
    return tidy(table.runs(room), chain, "persistent")


def splits(chain: Chain) -> int:
    """Return how many ways into an interval a table of a chain compares, which is its cost."""
    return sum(t - s + 1 for s, t in _entries(_Costs(chain))[1])


class Table:
    """C and D for all intervals of a chain, and m up to `room` bytes.

    Attributes:
        least: the fewest bytes beside `chain.fixed` with which the whole chain can be done.
        room: bytes for each slot of `seconds`, beside the same.
        seconds: least time of the whole chain; infinite where there is no schedule.
        rounds: sizes had to be rounded.
    """

    def __init__(self, chain: Chain, room: int) -> None:
        self._costs = costs = _Costs(chain)
        self._unit, slots = _unit(costs.taken, room)
        # Slots are counted down from `room`, so that the limit itself is hit exactly.
        self._offset, self._slots = room - slots * self._unit, slots
        self.rounds = any(size % self._unit for size in costs.taken)
        ids, distinct = _entries(costs)
        # Of each interval two entries, C and D.
        self._ids = np.stack((ids, ids + len(distinct)))
        count = 2 * len(distinct)
        self._tables = np.full((count, slots + 1), inf)
        self._first = np.full(count, slots + 1)  # slot from which on a table is finite
        self._least = np.zeros(count, np.int64)
        self._least_seconds = np.zeros(count)
        self._best: dict[tuple[int, int], int] = {}
        beside = np.zeros(len(distinct), np.bool_)
        for s in range(1, len(costs.content)):
            beside[ids[s, s:]] |= costs.holds_output[s - 1] or costs.view[s - 1]
        for entry, (s, t) in enumerate(distinct):
            if beside[entry]:
                self._solve(entry, s, t, _BESIDE)
            if beside[entry] and costs.holds_input[s]:
                self._shift(entry + len(distinct), entry, costs.state[s])
            else:
                self._solve(entry + len(distinct), s, t, _WITHIN)
        whole = self._ids[_WITHIN, 0, -1]
        self.least = int(self._least[whole])
        self.seconds = self._tables[whole]
        self.room = self._offset + self._unit * np.arange(slots + 1)

    def runs(self, room: int) -> list[Action]:
        """Return the runs of the fastest schedule found within `room` bytes, at least `least`."""
        costs, last = self._costs, len(self._costs.content) - 1
        runs: list[Action] = []
        todo: list[tuple[int, int, int, int] | Action] = [(_WITHIN, 0, last, room)]
        while todo:
            item = todo.pop()
            if isinstance(item, Action):
                runs.append(item)
                continue
            where, s, t, m = item
            if s == t == last:
                runs.append(Action(Kind.LOSS, s))
                continue
            j = self._choice(where, s, t, m)
            if j == s:
                runs.append(Action(Kind.TAPE, s))
                todo.append(Action(Kind.BACKWARD, s))
                if s < t:
                    then, taken = costs.after_tape(s, where)
                    todo.append((then, s + 1, t, m - taken))
            else:
                runs += [Action(Kind.ADVANCE, i) for i in range(s, j)]
                todo.append((where, s, j - 1, m - costs.gradients(j, t)))
                todo.append((_WITHIN, j, t, m - costs.state[s] * where))
        return runs

    def _shift(self, entry: int, other: int, taken: int) -> None:
        """Fill the entry of an interval by that of the same with so many bytes less."""
        shift = -(-taken // self._unit)
        end = max(0, self._slots + 1 - shift)
        self._tables[entry, min(shift, self._slots + 1) :] = self._tables[other, :end]
        self._first[entry] = min(self._first[other] + shift, self._slots + 1)
        self._least[entry] = self._least[other] + taken
        self._least_seconds[entry] = self._least_seconds[other]

    def _solve(self, entry: int, s: int, t: int, where: int) -> None:
        """Fill the entry of one interval, those within it being there."""
        costs, unit, end = self._costs, self._unit, self._slots + 1
        tables, first = self._tables, self._first
        seconds = tables[entry]
        taped = costs.taped(s, t, where)
        if s == t:
            self._least[entry], self._least_seconds[entry] = taped, costs.seconds[s]
            first[entry] = min(self._slot(taped), end)
            seconds[first[entry] :] = costs.seconds[s]
            return
        then, used = costs.after_tape(s, where)
        rest = self._ids[then, s + 1, t]
        shift = -(-used // unit)
        start = max(self._slot(taped), shift + int(first[rest]))
        if start < end:
            seconds[start:] = tables[rest, start - shift : end - shift] + costs.seconds[s]
        needs, times, after, taken, before, held = self._ways(s, t, where)
        shift, backs = -(-taken // unit), -(-held // unit)
        starts = np.maximum(-((self._offset - needs) // unit), shift + first[after])
        starts = np.maximum(starts, backs + first[before])
        for way in np.flatnonzero(starts < end).tolist():
            start, back = max(0, int(starts[way])), int(backs[way])
            new = tables[after[way], start - shift : end - shift] + times[way]
            new += tables[before[way], start - back : end - back]
            np.minimum(seconds[start:], new, out=seconds[start:])
        finite = np.flatnonzero(seconds < inf)
        first[entry] = finite[0] if len(finite) else end
        # The same in bytes: first what room is needed at least, then the fastest way that needs no more.
        least = np.maximum(
            needs, np.maximum(taken + self._least[after], held + self._least[before])
        )
        time = times + self._least_seconds[after] + self._least_seconds[before]
        least = np.append(least, max(taped, used + int(self._least[rest])))
        time = np.append(time, costs.seconds[s] + self._least_seconds[rest])
        self._least[entry] = least.min()
        self._least_seconds[entry] = time[least == least.min()].min()

    def _ways(
        self, s: int, t: int, where: int
    ) -> tuple[_Ints, NDArray[np.float64], _Ints, int, _Ints, _Ints]:
        """Return the ways into an interval that advance, to j = s + 1 … t.

        For each: the bytes it needs, its seconds, the entry to be done first and the bytes that are
        taken from it (the same for all), the entry to be done last and the bytes that are taken from
        that.
        """
        costs = self._costs
        steps = costs.steps[s:t].copy()
        steps[0] -= costs.states[s]  # x_s is beside m, or counted as `taken`
        taken = costs.state[s] * where
        way = costs.ways(s, t)
        return (
            np.maximum.accumulate(steps)[way] + (costs.cotangent[t + 1] + taken),
            costs.elapsed[s + 1 : t + 1][way] - costs.elapsed[s],
            self._ids[_WITHIN, s + 1 : t + 1, t][way],
            taken,
            self._ids[where, s, s:t][way],
            np.maximum(0, costs.kept[t + 1] - costs.kept[s + 1 : t + 1][way]),
        )

    def _choice(self, where: int, s: int, t: int, m: int) -> int:
        """Return the best way into an interval with m bytes: the j to advance to, or s to tape it."""
        if s == t:
            return s
        key = int(self._ids[where, s, t]), m
        if key not in self._best:
            costs = self._costs
            needs, times, after, taken, before, held = self._ways(s, t, where)
            times = times + self._at(after, m - taken) + self._at(before, m - held)
            times[needs > m] = inf
            way = int(times.argmin())
            then, used = costs.after_tape(s, where)
            rest = costs.seconds[s] + self._at(self._ids[then, s + 1, t], m - used)
            tape = costs.taped(s, t, where) <= m and rest <= times[way]
            self._best[key] = 0 if tape else int(costs.ways(s, t)[way]) + 1
        return s + self._best[key]

    def _at(self, entries: Any, m: Any) -> Any:
        """Return the time of intervals with m bytes each, as far as it is known."""
        slots = np.clip((m - self._offset) // self._unit, 0, self._slots)
        known = slots >= self._first[entries]
        seconds = np.where(known, self._tables[entries, slots], self._least_seconds[entries])
        return np.where(m < self._least[entries], inf, seconds)

    def _slot(self, size: int) -> int:
        return max(0, -((self._offset - size) // self._unit))


_BESIDE, _WITHIN = 0, 1  # where x_s is counted: for C and for D; the factor of its bytes


class _Costs:
    """The costs of a chain as the recurrences name them, the loss being stage L."""

    def __init__(self, chain: Chain) -> None:
        stages, length = chain.stages, len(chain)
        during = chain.update == "during backward"
        self.state = [chain.size(i) for i in range(length + 1)]  # a view keeps its buffer
        self.cotangent = [chain.cotangent(i) for i in range(length + 1)] + [0]
        self.view = [stage.view for stage in stages]
        self.holds_output = [stage.holds_output for stage in stages]
        # The loss has x_L beside it; a view that is held holds what it is of.
        self.holds_input = [
            stage.holds_input or stage.needs_input or (stage.view and stage.holds_output)
            for stage in stages
        ] + [True]
        self.tape = [stage.tape + stage.holds_output * stage.output for stage in stages] + [0]
        self.advance = [stage.output + stage.forward_extra for stage in stages]
        self.forward_seconds = [stage.forward_seconds for stage in stages]
        self.seconds = [
            stage.tape_seconds + stage.backward_seconds + stage.update_seconds for stage in stages
        ] + [chain.loss_seconds]
        # What a taped run needs beside x_s and d_{t+1}, and what a backward needs beside what is held
        # of x_s and the gradients of later stages. The output is there then only if the tape keeps it.
        self._forward = [stage.output + stage.tape + stage.tape_extra for stage in stages] + [0]
        self._backward = [(0, 0)] * (length + 1)
        last_update = max((stage.update_extra for stage in stages), default=0)
        for k, stage in enumerate(stages):
            given = self.tape[k] + stage.cotangent
            new = chain.cotangent(k) + stage.gradient
            update = stage.update_extra if during else last_update if k == 0 else 0
            extra = stage.backward_extra
            # Of an input of its own that is in m, nothing but the tape is left.
            alone = stage.holds_input and not stage.needs_input and chain.state(k) > 0
            beside, within = (
                max(given, given + new + extra - saving, new + update)
                for saving in (0, stage.backward_saving * alone)
            )
            self._backward[k] = beside, within
        self._backward[length] = (self.cotangent[length] + chain.loss_extra,) * 2
        kept = [stage.gradient - (stage.released if during else 0) for stage in stages] + [0]
        self.kept = np.array([0, *accumulate(kept)])
        self.states = np.array(self.state)
        self.steps = np.array([self.state[k] + self.advance[k] for k in range(length)])
        self.elapsed = np.array([0.0, *accumulate(self.forward_seconds)])
        numbers: dict[Any, int] = {}
        rows = zip(
            [*self.state[1:], 0],
            self.cotangent[1:],
            self.tape,
            [*self.advance, 0],
            [*self.forward_seconds, 0.0],
            self.seconds,
            self._forward,
            self._backward,
            kept,
            self.holds_input,
            [*self.holds_output, None],
            [*self.view, None],
            strict=True,
        )
        self.content = [numbers.setdefault(row, len(numbers)) for row in rows]
        self.taken = [size for size in self.state + self.tape + kept if size > 0]
        self.all = np.arange(length + 1)
        # Up to where stages are like this one.
        self.alike = list(range(1, length + 2))
        for k in reversed(range(length)):
            if self.content[k] == self.content[k + 1]:
                self.alike[k] = self.alike[k + 1]

    def ways(self, s: int, t: int) -> _Ints:
        """Return how many stages less one an interval may be advanced, be it s + 1 … t.

        Of many equal stages not all are tried: with their number, the best one comes to matter less.
        """
        return _thinned(t - s) if t - s > _DENSE and t <= self.alike[s] else self.all[: t - s]

    def gradients(self, j: int, t: int) -> int:
        """Return the bytes of parameter gradients that the backward of stages j to t leaves held."""
        return max(0, int(self.kept[t + 1] - self.kept[j]))

    def taped(self, s: int, t: int, where: int) -> int:
        """Return the bytes that taping stage s takes of m, now and at its backward."""
        state = self.state[s] * where
        now = state + self._forward[s] + self.cotangent[t + 1]
        then = state * self.holds_input[s] + self._backward[s][where]
        return max(now, then + self.gradients(s + 1, t))

    def after_tape(self, s: int, where: int) -> tuple[int, int]:
        """Return where x_{s+1} is counted when stage s has been taped, and what is taken from m."""
        beside = self.holds_output[s]
        if self.view[s]:
            beside = where == _BESIDE or self.holds_input[s]
        return (
            _BESIDE if beside else _WITHIN,
            self.tape[s] + self.state[s] * (where and self.holds_input[s]),
        )


_DENSE = 64


@lru_cache(maxsize=1000)
def _thinned(count: int) -> _Ints:
    """Return some of 0 … count − 1: all at either end, and fewer the further they are from it."""
    half = _DENSE // 2
    near, step = list(range(half)), 2
    while near[-1] < count:
        near += range(near[-1] + step, near[-1] + step * (half // 2 + 1), step)
        step *= 2
    low = np.array([each for each in near if each <= count // 2])
    return np.unique(np.concatenate((low, count - 1 - low)))


def _entries(costs: _Costs) -> tuple[NDArray[np.int64], list[tuple[int, int]]]:
    """Return the entry of each interval (s, t), and an interval for each entry, short ones first."""
    length = len(costs.content)
    ids = np.full((length, length), -1)
    # Beside its stages, what an interval costs depends on x_s and d_s alone.
    known: dict[tuple[Any, int], int] = {}
    intervals: list[tuple[int, int]] = []
    for span in range(length):
        for s in range(length - span):
            t = s + span
            before = int(ids[s, t - 1]) if span else (costs.state[s], costs.cotangent[s])
            key = before, costs.content[t]
            if key not in known:
                known[key] = len(intervals)
                intervals.append((s, t))
            ids[s, t] = known[key]
    return ids, intervals


def _unit(taken: list[int], room: int) -> tuple[int, int]:
    """Return the unit for a table, and the number of slots.

    Where the sizes are multiples of one that is large enough, that is the unit and nothing is rounded.
    Else it is, of those that make 400 to 500 slots, the one that rounding up to wastes least.
    """
    exact = gcd(*taken) or 1
    if room // exact <= _EXACT_SLOTS:
        return exact, max(room, 0) // exact
    sizes = np.array(taken)
    units = [-(-room // slots) for slots in range(SLOTS, SLOTS * 4 // 5, -1)]
    unit = min(units, key=lambda unit: int((-sizes % unit).sum()))
    return unit, room // unit
