"""A plan: which activations of a training step are kept, recomputed or spilled, and what that costs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from html import escape
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from thriftgrad.errors import BudgetError, ConfigError
from thriftgrad.memory import chain as costs
from thriftgrad.memory.draw import LEGEND, letters_of, text_picture
from thriftgrad.memory.meter import Measured
from thriftgrad.memory.schedule import Kind, Schedule, Strategy
from thriftgrad.memory.simulate import Simulation, simulate
from thriftgrad.memory.spill import bandwidth
from thriftgrad.memory.stages import Chain, Update
from thriftgrad.memory.strategies import (
    at,
    every,
    everything,
    mixed,
    nothing,
    optimal,
    revolve,
    sqrt,
    two_level,
)
from thriftgrad.memory.strategies.improve import Point
from thriftgrad.memory.strategies.optimal import frontier
from thriftgrad.units import budget_bytes, parse_bytes, show_bytes, show_seconds

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = NDArray[Any]


def plan(
    model: Any,
    x: Array,
    y: Array | None = None,
    *,
    budget: int | str | Strategy,
    loss: Any = None,
    optimizer: Any = None,
    update: Update = "after backward",
) -> Plan:
    """Measure a model on a batch, and plan a training step that keeps to a budget.

    Args:
        model: its stages are those of `model.stages()`, the layers of a `Sequential`; or a list of
            callables, which are applied one after the other.
        x: a batch of inputs.
        y: what the loss compares the outputs with.
        budget: the bytes that a step may hold beyond the data set, a number or a text such as
            "64 MB"; or a strategy, or a text that names one: "all", "none", "sqrt", "revolve",
            "every:2", "at:2,5".
        loss: loss(outputs, y), a scalar; None plans for the model alone.
        optimizer: whose state and whose temporaries are counted; None counts none.
        update: when parameters are updated; see `Chain`.

    Raises:
        BudgetError: no schedule keeps to the budget; the error's `least` is the least that would do.
        ConfigError: `budget` is neither a size nor a strategy, or `loss` cannot be called.

    Example:
        >>> import numpy as np, thriftgrad as tg
        >>> model = tg.nn.Sequential(*[tg.nn.Linear(64, 64, rng=i) for i in range(8)])
        >>> plan = tg.memory.plan(model, np.ones((512, 64), np.float32), budget="1.5 MB")
        >>> plan.peak_bytes <= 1_500_000
        True
    """
    if loss is not None and not callable(loss):
        raise ConfigError(
            f"loss = {loss!r}; expected a function loss(outputs, y) that returns a scalar, or None"
        )
    strategy = strategy_for(budget)
    chain = costs.measure(model, x, loss=loss, y=y, optimizer=optimizer, update=update)
    limit = None if callable(budget) or names_strategy(budget) else budget_bytes(budget)
    try:
        schedule = strategy(chain)
    except BudgetError as error:
        if len(chain) == 1:
            raise BudgetError(
                f"{error}. The model is a single stage, {chain.stages[0].name}, which cannot be cut: "
                f"give it a method stages() that returns its blocks, as nn.Sequential has",
                least=error.least,
            ) from None
        least = frontier(replace(chain, update="during backward"))[0].peak
        clipping = getattr(optimizer, "clip_norm", None) is not None
        if error.least is None or clipping or least > 0.98 * error.least:
            raise
        raise BudgetError(
            f'{error}. With update="during backward", {show_bytes(least)} would do',
            least=error.least,
        ) from None
    if not isinstance(schedule, Schedule):
        raise ConfigError(
            f"memory = {_called(strategy)} returned a {type(schedule).__name__} for a chain; expected "
            f"{_EXPECTED}"
        )
    if any(action.kind is Kind.SPILL for action in schedule):
        # Only now that a disk is to be used is it worth the time to see how fast it is.
        write, read = bandwidth()
        chain = replace(chain, write=write, read=read)
        schedule = strategy(chain)
    return Plan(chain, schedule, limit)


def strategy_for(memory: int | str | Strategy) -> Strategy:
    """Return the strategy that a size, a name or a strategy stands for.

    Raises:
        ConfigError: it is none of these.

    Example:
        >>> from thriftgrad.memory.stages import homogeneous
        >>> strategy_for("every:2")(homogeneous(4)).strategy
        'every(2)'
    """
    if callable(memory):
        if memory in _MAKERS:
            raise ConfigError(
                f"memory = {_called(memory)} is what makes a strategy; call it: {_called(memory)}(...)"
            )
        return memory
    if not isinstance(memory, str) or not names_strategy(memory):
        if (parse_bytes(memory) if isinstance(memory, str) else _whole(memory)) is None:
            raise ConfigError(f"memory = {memory!r}: expected {_EXPECTED}")
        return optimal(budget_bytes(memory))
    name, _, numbers = memory.strip().partition(":")
    try:
        given = [int(part) for part in numbers.split(",")] if numbers else []
        strategy: Strategy = _NAMED[name](*given)
    except (TypeError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"memory = {memory!r}: expected {_EXPECTED}") from error
    return strategy


def names_strategy(memory: object) -> bool:
    """Tell whether a text begins with the name of a strategy."""
    return isinstance(memory, str) and memory.strip().partition(":")[0] in _NAMED


_NAMED: dict[str, Any] = {
    "all": everything,
    "none": nothing,
    "sqrt": sqrt,
    "revolve": revolve,
    "every": every,
    "at": at,
}
_MAKERS = (*_NAMED.values(), mixed, optimal, two_level)
_EXPECTED = (
    "a size such as '64 MB', one of 'all', 'none', 'sqrt', 'revolve', 'revolve:8', 'every:2' and "
    "'at:2,5', or a strategy such as thriftgrad.memory.every(2)"
)


def _called(function: Any) -> str:
    return getattr(function, "__name__", type(function).__name__)


def _whole(given: Any) -> int | None:
    return int(given) if isinstance(given, int | np.integer) else None


@dataclass(frozen=True, repr=False)
class Plan:
    """A schedule for a measured chain, and all that is known of it beforehand.

    Attributes:
        chain: what each stage costs.
        schedule: what is done when.
        budget: the bytes that were allowed, or None where a strategy was asked for.
    """

    chain: Chain
    schedule: Schedule
    budget: int | None = None

    @cached_property
    def simulation(self) -> Simulation:
        """Bytes at each action, and seconds."""
        return simulate(self.schedule, self.chain)

    @property
    def peak_bytes(self) -> int:
        """The most bytes that a step holds at once, parameters and batch included."""
        return self.simulation.peak

    @property
    def seconds(self) -> float:
        """How long a step should take."""
        return self.simulation.seconds

    @cached_property
    def plain(self) -> Simulation:
        """What the same step costs if everything is kept."""
        return simulate(everything()(self.chain), self.chain)

    @cached_property
    def curve(self) -> tuple[Point, ...]:
        """The fastest schedules there are, from the least memory to the most; no other is on it."""
        return frontier(self.chain)

    def by_kind(self) -> dict[str, int]:
        """Return what the bytes at the peak are made of."""
        return {kind: count for kind, count in self.simulation.at_peak.items() if count}

    def __str__(self) -> str:
        """Return a table of the peak by kind, and what the plan costs in time."""
        peak, kinds = self.peak_bytes, self.by_kind()
        width = max(map(len, kinds))
        lines = [f"{self.schedule.strategy}: {len(self.chain)} stages"]
        for kind, count in kinds.items():
            lines.append(f"  {kind:{width}}  {show_bytes(count):>8}  {100 * count / peak:5.1f} %")
        lines.append(f"  {'peak':{width}}  {show_bytes(peak):>8}  {self._place()}")
        if self.budget is not None:
            lines.append(f"  {'budget':{width}}  {show_bytes(self.budget):>8}")
        lines.append(f"  {'plain':{width}}  {show_bytes(self.plain.peak):>8}  everything kept")
        lines.append(
            f"  {show_seconds(self.seconds)} a step, {self.seconds / self.plain.seconds:.2f} times the "
            f"plain one; {self._recomputed()} of {len(self.chain)} stages run again"
        )
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}\n\n{escape(self.text())}</pre>"

    def explain(self) -> str:
        """Say in words what is kept, what is recomputed how often, and what other budgets would buy."""
        return "\n".join([*self._kept(), self._again(), *self._other_budgets()])

    def text(self, width: int = 72, height: int = 12) -> str:
        """Return the memory over the actions of a step as a picture in characters."""
        found = self.simulation
        letters = letters_of(self.schedule.actions)
        picture = text_picture(
            found.during, found.durations, letters, self.budget, width=width, height=height
        )
        return f"{picture}\n{'':10}{LEGEND}"

    def draw(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        measured: Measured | None = None,
        axes: Any = None,
    ) -> Axes:
        """Draw memory over time against the budget, by kind, with recomputation marked.

        Args:
            path: a PNG, SVG or PDF file to write.
            measured: what `meter` recorded of a step by this plan; its line is drawn over the plan's.
            axes: draw into these instead of a new figure.

        Raises:
            ConfigError: `measured` is of a step by another plan.
            MissingExtraError: matplotlib is not installed.
            OSError: the file cannot be written.
        """
        from thriftgrad import plots

        line = None
        if measured is not None:
            if measured.actions != list(self.schedule.actions):
                raise ConfigError(
                    f"measured is of a step of {len(measured.actions)} actions, this plan has "
                    f"{len(self.schedule)} others; run the step by this plan inside meter()"
                )
            line = np.array(measured.during) + sum(self.chain.fixed.values())
        letters = letters_of(self.schedule.actions)
        return plots.memory(
            self.simulation.by_kind,
            budget=self.budget,
            recomputed=[letter == "r" for letter in letters],
            measured=line,
            durations=self.simulation.durations,
            marks={letters.index("l"): "loss"},
            path=path,
            axes=axes,
        )

    def _place(self) -> str:
        return f"at {self.schedule.actions[self.simulation.peak_at]}"

    def _recomputed(self) -> int:
        return sum(runs > 1 for runs in self.simulation.runs)

    def _kept(self) -> list[str]:
        held, tapes = set(), set()  # when the loss is reached
        for action in self.schedule.actions:
            if action.kind is Kind.LOSS:
                break
            if action.kind is Kind.KEEP:
                held.add(action.index)
            elif action.kind is Kind.TAPE:
                tapes.add(action.index)
            elif action.kind in (Kind.DROP, Kind.ADVANCE):
                held.discard(action.index)
        kept, taped = sorted(held), sorted(tapes)
        sentences = []
        outputs = [k - 1 for k in kept if k]
        if kept:
            parts = ["the input"] if kept[0] == 0 else []
            if outputs:
                parts.append(f"the output{'s' * (len(outputs) > 1)} of {_stages(outputs)}")
            sentences.append(f"On the way forward {' and '.join(parts)} stay as checkpoints.")
        if taped:
            sentences.append(f"Taped in the first pass: {_stages(taped)}.")
        spilled = sorted({a.index for a in self.schedule.actions if a.kind is Kind.SPILL})
        if spilled:
            sentences.append(f"To disk go the states {_ranges(spilled)}.")
        return sentences

    def _again(self) -> str:
        times: dict[int, list[int]] = {}
        for k, runs in enumerate(self.simulation.runs):
            times.setdefault(int(runs), []).append(k)
        if list(times) == [1]:
            return "Nothing is computed twice."
        parts = [
            f"{_ranges(stages)} {_TIMES.get(runs, f'{runs} times')}"
            for runs, stages in sorted(times.items())
        ]
        return f"Stages run: {'; '.join(parts)}."

    def _other_budgets(self) -> list[str]:
        sentences = []
        at_hand = [point for point in self.curve if point.peak <= self.peak_bytes]
        larger = [point for point in self.curve if point.peak > self.peak_bytes]
        least, fastest = self.curve[0], self.curve[-1]
        if at_hand and at_hand[-1].seconds < self.seconds * _NOTABLE:
            better = at_hand[-1]
            sentences.append(
                f"The fastest schedule in no more memory takes {self._share(better)} of this one's time: "
                f"memory={better.peak}."
            )
        worth = [point for point in larger if point.seconds < self.seconds * _NOTABLE]
        if worth:
            more = worth[0]
            sentences.append(
                f"With {show_bytes(more.peak)}, {show_bytes(more.peak - self.peak_bytes)} more, a step "
                f"would take {self._share(more)} of the time"
                + (
                    f"; with {show_bytes(fastest.peak)}, {self._share(fastest)}."
                    if fastest is not more
                    else "."
                )
            )
        if least.peak < self.peak_bytes:
            sentences.append(
                f"The least possible is {show_bytes(least.peak)}, in {self._share(least)} of the time."
            )
        return sentences

    def _share(self, point: Point) -> str:
        return f"{100 * point.seconds / self.seconds:.0f} %"


_NOTABLE = 0.98
_TIMES = {1: "once", 2: "twice"}


def _stages(numbers: Sequence[int]) -> str:
    return f"stage{'s' * (len(numbers) > 1)} {_ranges(numbers)}"


def _ranges(numbers: Sequence[int]) -> str:
    """Return rising numbers, runs drawn together, the middle left out where there are many: 0, 3–5."""
    runs = []
    for _, group in groupby(enumerate(numbers), lambda pair: pair[1] - pair[0]):
        members = [number for _, number in group]
        runs.append(str(members[0]) if len(members) == 1 else f"{members[0]}–{members[-1]}")
    if len(runs) > _MOST_RUNS:
        runs = [*runs[:3], "...", runs[-1] + f" ({len(numbers)} in all)"]
    return ", ".join(runs)


_MOST_RUNS = 8
