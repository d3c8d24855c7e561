"""A schedule is data: the list of actions that takes a chain forward and back again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from html import escape

from thriftgrad.memory.stages import Chain


class Kind(StrEnum):
    """What an action does. `index` is k or i as named here.

    A state is *held* from when it is made until it is dropped, or used up by `ADVANCE`. What uses a
    state takes the one that is held, or else the one that a tape keeps (`Stage.holds_output`).
    """

    ADVANCE = "advance"  # run stage k untaped: x_k → x_{k+1}; x_k is let go
    KEEP = "keep"  # run stage k untaped: x_k → x_{k+1}; x_k stays, a checkpoint
    TAPE = "tape"  # run stage k taped: x_k → x_{k+1} and t_k; x_k stays
    LOSS = "loss"  # x_L → d_L; x_L stays; index is L
    BACKWARD = "backward"  # d_{k+1}, t_k → d_k and gradients; d_{k+1} and t_k are used up
    DROP = "drop"  # let go of x_i
    DROP_TAPE = "drop tape"  # let go of t_k
    SPILL = "spill"  # write x_i to disk; x_i stays
    LOAD = "load"  # read x_i from disk; the copy on disk stays
    DROP_DISK = "drop disk"  # delete the copy of x_i on disk


@dataclass(frozen=True, slots=True)
class Action:
    """One step of a schedule: what, and at which stage or state."""

    kind: Kind
    index: int

    def __str__(self) -> str:
        return f"{self.kind} {self.index}"


@dataclass(frozen=True, slots=True)
class Schedule:
    """The actions that reverse a chain, in order, and the name of the strategy that chose them.

    `simulate(schedule, chain)` says what it costs and refuses one that cannot be carried out;
    `execute` carries it out. Printed, actions that only count on are written as the first and last.

    Example:
        >>> from thriftgrad.memory.strategies.revolve import revolve
        >>> from thriftgrad.memory.stages import homogeneous
        >>> print(revolve(slots=1)(homogeneous(3)))
        keep 0, advance 1, tape 2, drop 2, loss 3, drop 3, backward 2, keep 0, tape 1, drop 1–2,
        backward 1, tape 0, drop 0–1, backward 0
    """

    actions: tuple[Action, ...]
    strategy: str = ""

    def __len__(self) -> int:
        return len(self.actions)

    def __iter__(self) -> Iterator[Action]:
        return iter(self.actions)

    def __str__(self) -> str:
        return ", ".join(_rows(self.actions))

    def _repr_html_(self) -> str:
        return _picture(self)


Strategy = Callable[[Chain], Schedule]
"""What every function in `strategies` returns: a function from a chain to a schedule."""


def tidy(actions: Iterable[Action], chain: Chain, strategy: str = "") -> Schedule:
    """Return the schedule of the same work that holds each thing exactly as long as it is used.

    A strategy need only say what is run, when: it may leave out all drops, and advance and keep mean
    the same here. Whatever is made is held until its last use before it is made again, which is both
    enough and the least. Runs, copies and loads that nothing depends on are left out, and a taped run
    whose tape is not used becomes an untaped one. This is also what makes one strategy right for
    every chain: whether a backward needs the input of its stage is looked up here.

    Example:
        >>> from thriftgrad.memory.stages import homogeneous
        >>> work = [(Kind.ADVANCE, 0), (Kind.TAPE, 1), (Kind.LOSS, 2), (Kind.BACKWARD, 1),
        ...         (Kind.TAPE, 0), (Kind.BACKWARD, 0)]
        >>> print(tidy([Action(kind, index) for kind, index in work], homogeneous(2)))
        keep 0, tape 1, drop 1, loss 2, drop 2, backward 1, tape 0, drop 0–1, backward 0
    """
    # From the end to the beginning, so that it is known of each thing whether it is used again.
    backwards: list[Action] = []
    wanted: set[_Thing] = set()
    for action in reversed(list(actions)):
        kind, i = action.kind, action.index
        if kind in (Kind.DROP, Kind.DROP_TAPE, Kind.DROP_DISK):
            continue
        if kind is Kind.TAPE and (_TAPE, i) not in wanted:
            kind = Kind.ADVANCE
        used, given = _touched(kind, i, chain)
        if given and wanted.isdisjoint(given):
            continue
        last = [thing for thing in (*given, *used) if thing not in wanted]
        if kind in (Kind.ADVANCE, Kind.KEEP):
            # The one that uses up its input does with it what a drop would do.
            kind = Kind.ADVANCE if (_STATE, i) in last else Kind.KEEP
            last.clear()
        backwards += [Action(_DROPS[what], index) for what, index in last if what in _DROPS]
        backwards.append(Action(kind, i))
        wanted.difference_update(given)
        wanted.update(used)
    return Schedule(tuple(reversed(backwards)), strategy)


_Thing = tuple[str, int]
_STATE, _TAPE, _COPY = "state", "tape", "copy on disk"
_DROPS = {_STATE: Kind.DROP, _COPY: Kind.DROP_DISK}  # a backward uses its tape up


def _touched(kind: Kind, i: int, chain: Chain) -> tuple[list[_Thing], list[_Thing]]:
    """Return what an action uses and what it gives, cotangents and gradients aside."""
    match kind:
        case Kind.ADVANCE | Kind.KEEP:
            return [(_STATE, i)], [(_STATE, i + 1)]
        case Kind.TAPE:
            return [(_STATE, i)], [(_STATE, i + 1), (_TAPE, i)]
        case Kind.BACKWARD:
            return [(_TAPE, i)] + [(_STATE, i)] * chain.stages[i].needs_input, []
        case Kind.SPILL:
            return [(_STATE, i)], [(_COPY, i)]
        case Kind.LOAD:
            return [(_COPY, i)], [(_STATE, i)]
    return [(_STATE, i)], []  # the loss


def _rows(actions: Sequence[Action]) -> Iterator[str]:
    """Write out the actions, and where a block of them only counts on, its first and last round."""
    start = 0
    while start < len(actions):
        period = max((1, 2, 3), key=lambda p: p * (_rounds(actions, start, p) - 1))
        rounds = _rounds(actions, start, period)
        end = start + period * rounds
        if period == 1 and rounds > 1:
            yield f"{actions[start]}–{actions[end - 1].index}"
        elif rounds > 2:
            yield from map(str, actions[start : start + period])
            yield "…"
            yield from map(str, actions[end - period : end])
        else:
            end = start + 1
            yield str(actions[start])
        start = end


def _rounds(actions: Sequence[Action], start: int, period: int) -> int:
    """Return how often the block of so many actions occurs in a row, each time one on or back."""
    end = start + period
    if end >= len(actions) or abs(step := actions[end].index - actions[start].index) != 1:
        return 1
    while (
        end < len(actions)
        and actions[end].kind is actions[end - period].kind
        and actions[end].index - actions[end - period].index == step
    ):
        end += 1
    return (end - start) // period


_COLOURS = {
    "forward": "#56B4E9",
    "forward, input kept": "#0072B2",
    "taped": "#E69F00",
    "loss": "#999999",
    "backward": "#009E73",
    "to or from disk": "#CC79A7",
}
_DRAWN = {
    Kind.ADVANCE: "forward",
    Kind.KEEP: "forward, input kept",
    Kind.TAPE: "taped",
    Kind.LOSS: "loss",
    Kind.BACKWARD: "backward",
    Kind.SPILL: "to or from disk",
    Kind.LOAD: "to or from disk",
}
_MOST = 5000


def _picture(schedule: Schedule) -> str:
    """Return HTML with a cell for each action: to the right in time, upwards in the chain."""
    shown = [a for a in schedule.actions if a.kind in _DRAWN]
    head = f"<p><b>{escape(schedule.strategy or 'schedule')}</b>, {len(schedule):,} actions</p>"
    if not 0 < len(shown) <= _MOST:
        return head
    high = 1 + max(action.index for action in shown)
    side = max(2, min(12, 720 // len(shown)))
    cells = "".join(
        f'<rect x="{i}" y="{high - 1 - a.index}" width=".92" height=".92" '
        f'fill="{_COLOURS[_DRAWN[a.kind]]}"><title>{a}</title></rect>'
        for i, a in enumerate(shown)
    )
    used = dict.fromkeys(_DRAWN[action.kind] for action in shown)
    legend = " ".join(f'<span style="color:{_COLOURS[each]}">■</span> {each}' for each in used)
    return (
        f'{head}<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {len(shown)} {high}" '
        f'preserveAspectRatio="none" width="{side * len(shown)}" height="{side * high}" '
        f'style="max-width:100%;max-height:400px">{cells}</svg><p>{legend}</p>'
    )
