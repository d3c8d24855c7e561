"""What a schedule costs: its actions are replayed on counters instead of arrays.

The replay knows nothing of how a schedule came about. It holds what the actions make and let go, byte
by byte, and refuses the first action that uses what is not there. What it says is what `execute` does.

States live in buffers. A state that is a view lives in the buffer of the state before it, and a tape may
keep the buffers of its stage's input and output alive. A buffer counts once, while anything holds it. If a
state is made again while a tape still keeps an older buffer of it, both count: so it is with arrays. A
copy on disk is as large as the buffer, and is read back into a new one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from thriftgrad.errors import ScheduleError
from thriftgrad.memory.schedule import Action, Kind
from thriftgrad.memory.stages import Chain


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulation:
    """What a schedule costs, action by action and in all. Bytes include those of `Chain.fixed`.

    Attributes:
        peak: the most bytes at any time.
        peak_at: index of the action, the first one, at which the peak occurs.
        during: the most bytes during each action.
        after: bytes held after each action.
        by_kind: `during` by kind, which it is the sum of: the kinds of `Chain.fixed`, then
            "activations" (buffers of states, whoever holds them), "tapes" (what tapes hold beyond
            those), "cotangents", "gradients" (of parameters), "temporaries".
        durations: seconds of each action. An update belongs to the backward pass before it.
        seconds: the sum of the durations.
        forwards, tapes: how often each stage runs untaped, and taped.
        most_states: the most states held at once when an action starts, not counting the one that
            it works on; the slots of `revolve`. An action works on the state that it advances,
            tapes, writes to disk, or whose stage it reverses (the loss: the last stage). One that
            keeps its input leaves it in a slot.
        most_slots: the same with tapes counted too, all but the one being reversed; the slots of
            `mixed`.
        most_disk: the most copies on disk at once.
        peak_disk: the most bytes on disk at once.
    """

    peak: int
    peak_at: int
    during: NDArray[np.int64]
    after: NDArray[np.int64]
    by_kind: Mapping[str, NDArray[np.int64]]
    durations: NDArray[np.float64]
    seconds: float
    forwards: NDArray[np.int64]
    tapes: NDArray[np.int64]
    most_states: int
    most_slots: int
    most_disk: int
    peak_disk: int

    @property
    def runs(self) -> NDArray[np.int64]:
        """How often each stage runs, taped or not."""
        return self.forwards + self.tapes

    @property
    def at_peak(self) -> dict[str, int]:
        """The bytes at the peak, by kind."""
        return {kind: int(held[self.peak_at]) for kind, held in self.by_kind.items()}


def simulate(schedule: Iterable[Action], chain: Chain) -> Simulation:
    """Replay a schedule on the costs of a chain.

        bytes during an action = held when it begins + what it gives + its extra

    and never less than is held before or after it. Where stages are updated during the backward pass,
    each backward has a second phase, with the stage's gradients and the extra of its update; where
    they are updated after it, the last backward has one, with the largest of these extras. The time is
    O(1) for each action.

    Args:
        schedule: a `Schedule`, or any actions in order.
        chain: what the stages cost.

    Raises:
        ScheduleError: an action uses what is not there, makes what is there already, or names a stage
            or state that the chain does not have; or, at the end, something was not done (the loss, a
            backward) or is left behind (a state other than x_0, a tape, a copy on disk).

    Example:
        >>> from thriftgrad.memory.stages import homogeneous
        >>> from thriftgrad.memory.strategies.revolve import revolve
        >>> chain = homogeneous(10)
        >>> simulation = simulate(revolve(slots=3)(chain), chain)
        >>> simulation.peak, simulation.most_states, int(simulation.forwards.sum())
        (6, 3, 15)
    """
    replay = _Replay(chain)
    during, after, durations = [], [], []
    for number, action in enumerate(schedule):
        most, then, seconds = replay.step(number, action)
        during.append(most)
        after.append(sum(then))
        durations.append(seconds)
    replay.check_complete(len(during))

    fixed = sum(chain.fixed.values())
    held = np.array(during, dtype=np.int64).T
    by_kind: dict[str, NDArray[np.int64]] = {
        kind: np.full(len(during), size, np.int64) for kind, size in chain.fixed.items()
    }
    for kind, row in zip(_Held._fields, held, strict=True):
        by_kind[kind] = by_kind[kind] + row if kind in by_kind else row
    total = held.sum(axis=0) + fixed
    return Simulation(
        peak=int(total.max()),
        peak_at=int(total.argmax()),
        during=total,
        after=np.array(after, dtype=np.int64) + fixed,
        by_kind=by_kind,
        durations=np.array(durations),
        seconds=float(sum(durations)),
        forwards=np.array(replay.forwards, dtype=np.int64),
        tapes=np.array(replay.taped, dtype=np.int64),
        most_states=replay.most_states,
        most_slots=replay.most_slots,
        most_disk=replay.most_disk,
        peak_disk=replay.peak_disk,
    )


class _Held(NamedTuple):
    """Bytes at one moment, by kind."""

    activations: int
    tapes: int
    cotangents: int
    gradients: int
    temporaries: int


@dataclass(slots=True, eq=False)
class _Buffer:
    """Memory that one or several states live in."""

    size: int
    in_batch: bool = False
    holders: int = 0


@dataclass(slots=True, eq=False)
class _Tape:
    """What a taped run leaves behind: bytes of its own, and the buffers that it keeps alive."""

    size: int
    input: _Buffer | None
    output: _Buffer | None
    keeps: list[_Buffer] = field(default_factory=list)


class _Replay:
    """Everything that is held at one moment. `step` moves on by one action."""

    def __init__(self, chain: Chain) -> None:
        self.chain = chain
        self.length = len(chain)
        self.states: dict[int, _Buffer] = {}
        self.tapes: dict[int, _Tape] = {}
        self.disk: dict[int, int] = {}
        self.cotangent: int | None = None  # i of the d_i at hand
        self.lossed = False
        self.sizes = {"activations": 0, "tapes": 0, "cotangents": 0, "gradients": 0}
        self.disk_bytes = self.peak_disk = 0
        self.most_states = self.most_slots = self.most_disk = 0
        self.forwards = [0] * self.length
        self.taped = [0] * self.length
        self.most = self.held()
        # Without bytes of its own x_0 lies in the batch, and what is read back would not.
        self.hold(0, _Buffer(chain.input, in_batch=not chain.input))

    def step(self, number: int, action: Action) -> tuple[_Held, _Held, float]:
        """Carry out an action; return the most that is held during it, what then is, seconds."""
        self.number, self.action = number, action
        kind, index = action.kind, action.index
        on_stage = kind in _ON_STAGES
        if not (self.length if kind is Kind.LOSS else 0) <= index < self.length + (not on_stage):
            self.refuse(
                f"the loss has the index L = {self.length} here"
                if kind is Kind.LOSS
                else f"there are {self.length} stages, of index 0 to {self.length - 1}"
                if on_stage
                else f"there are the states x_0 to x_{self.length}"
            )
        self.most = self.held()
        seconds = _DO[kind](self, index)
        after = self.held()
        self.mark(after)
        return self.most, after, seconds

    # The actions. Each first refuses what cannot be, then takes hold of what it gives, marks what is
    # held now, and lets go of what it used up.

    def advance(self, k: int) -> float:
        self.check_run(k)
        self.count_slots(working=(k,))
        seconds = self.run(k)
        if k in self.states:
            self.drop(k)
        return seconds

    def keep(self, k: int) -> float:
        self.check_run(k)
        self.count_slots()
        return self.run(k)

    def run(self, k: int) -> float:
        stage = self.chain.stages[k]
        self.hold(k + 1, self.find(k) if stage.view else _Buffer(stage.output))
        self.mark(self.held(stage.forward_extra))
        self.forwards[k] += 1
        return stage.forward_seconds

    def tape(self, k: int) -> float:
        self.check_run(k)
        if k in self.tapes:
            self.refuse(f"t_{k} is there already; backward {k} or drop tape {k} comes first")
        self.count_slots(working=(k,))
        stage, x = self.chain.stages[k], self.find(k)
        y = x if stage.view else _Buffer(stage.output)
        tape = _Tape(
            stage.tape, x if stage.holds_input else None, y if stage.holds_output else None
        )
        self.hold(k + 1, y)
        for buffer, kept in ((x, stage.holds_input), (y, stage.holds_output)):
            if kept:
                tape.keeps.append(buffer)
                self.take(buffer)
        self.tapes[k] = tape
        self.sizes["tapes"] += stage.tape
        self.mark(self.held(stage.tape_extra))
        self.taped[k] += 1
        return stage.tape_seconds

    def loss(self, _: int) -> float:
        if self.lossed:
            self.refuse("the loss has been taken already; a schedule takes it once")
        self.find(self.length)
        self.count_slots(working=(self.length, self.length - 1), reversing=self.length - 1)
        self.lossed = True
        self.cotangent = self.length
        self.sizes["cotangents"] += self.chain.cotangent(self.length)
        self.mark(self.held(self.chain.loss_extra))
        return self.chain.loss_seconds

    def backward(self, k: int) -> float:
        if self.cotangent != k + 1:
            before = f"backward {k + 1}" if k + 1 < self.length else f"loss {self.length}"
            self.refuse(
                f"{before} comes first"
                if self.cotangent is None or self.cotangent > k + 1
                else f"backward {k} has been done already"
            )
        if k not in self.tapes:
            self.refuse(f"there is no t_{k}; tape {k} comes first")
        stage = self.chain.stages[k]
        if stage.needs_input:
            self.find(k)
        self.count_slots(working=(k,), reversing=k)
        self.sizes["cotangents"] += self.chain.cotangent(k)
        self.sizes["gradients"] += stage.gradient
        self.mark(self.held(stage.backward_extra - self.saving(k)))
        self.cotangent = k
        self.sizes["cotangents"] -= self.chain.cotangent(k + 1)
        self.drop_tape(k)
        return stage.backward_seconds + self.update(k)

    def saving(self, k: int) -> int:
        tape = self.tapes[k]
        if tape.input is None or tape.input.in_batch:
            return 0
        alone = tape.input.holders == sum(each is tape.input for each in tape.keeps)
        return self.chain.stages[k].backward_saving if alone else 0

    def update(self, k: int) -> float:
        stages = self.chain.stages
        if self.chain.update == "during backward":
            self.mark(self.held(stages[k].update_extra))
            self.sizes["gradients"] -= stages[k].released
            return stages[k].update_seconds
        if k == 0:
            self.mark(self.held(max(stage.update_extra for stage in stages)))
            return sum(stage.update_seconds for stage in stages)
        return 0.0

    def drop(self, i: int) -> float:
        if i not in self.states:
            self.refuse(f"x_{i} is not held by itself, so there is nothing to let go")
        self.let_go(self.states.pop(i))
        return 0.0

    def drop_tape(self, k: int) -> float:
        if k not in self.tapes:
            self.refuse(f"there is no t_{k} to let go")
        tape = self.tapes.pop(k)
        self.sizes["tapes"] -= tape.size
        for buffer in tape.keeps:
            self.let_go(buffer)
        return 0.0

    def spill(self, i: int) -> float:
        buffer = self.find(i)
        if i in self.disk:
            self.refuse(f"a copy of x_{i} is on disk already; drop disk {i} comes first")
        if buffer.in_batch:
            self.refuse(
                f"x_{i} lies in the batch, which is held to the end; keep it instead, for no bytes"
            )
        self.count_slots(working=(i,))
        self.disk[i] = buffer.size
        self.disk_bytes += buffer.size
        self.peak_disk = max(self.peak_disk, self.disk_bytes)
        self.most_disk = max(self.most_disk, len(self.disk))
        return self.chain.write * buffer.size

    def load(self, i: int) -> float:
        if i not in self.disk:
            self.refuse(f"there is no copy of x_{i} on disk; spill {i} comes first")
        self.check_free(i)
        self.count_slots()
        self.hold(i, _Buffer(self.disk[i]))
        return self.chain.read * self.disk[i]

    def drop_disk(self, i: int) -> float:
        if i not in self.disk:
            self.refuse(f"there is no copy of x_{i} on disk to delete")
        self.disk_bytes -= self.disk.pop(i)
        return 0.0

    # What is held

    def hold(self, i: int, buffer: _Buffer) -> None:
        self.states[i] = buffer
        self.take(buffer)

    def take(self, buffer: _Buffer) -> None:
        if not buffer.holders:
            self.sizes["activations"] += buffer.size
        buffer.holders += 1

    def let_go(self, buffer: _Buffer) -> None:
        buffer.holders -= 1
        if not buffer.holders:
            self.sizes["activations"] -= buffer.size

    def find(self, i: int) -> _Buffer:
        """Return the buffer of x_i: the one held by itself, or else the one that a tape keeps."""
        buffer = self.states.get(i)
        if buffer is None and i - 1 in self.tapes:
            buffer = self.tapes[i - 1].output
        if buffer is None:
            self.refuse(
                f"x_{i} is not there; "
                + (
                    f"load {i} comes first"
                    if i in self.disk
                    else f"a run of stage {i - 1} comes first"
                    if i
                    else "keep it until here, nothing can make it again"
                )
            )
        return buffer

    def held(self, extra: int = 0) -> _Held:
        sizes = self.sizes
        activations, tapes, cotangents = sizes["activations"], sizes["tapes"], sizes["cotangents"]
        if extra < 0:
            # What a backward frees along the way is its tape, with what only that kept, and at the
            # end of its way the cotangent.
            tapes, extra = max(tapes + extra, 0), min(tapes + extra, 0)
            activations, extra = max(activations + extra, 0), min(activations + extra, 0)
            cotangents, extra = cotangents + extra, 0
        return _Held(activations, tapes, cotangents, sizes["gradients"], extra)

    def mark(self, held: _Held) -> None:
        if sum(held) > sum(self.most):
            self.most = held

    def count_slots(self, working: tuple[int, ...] = (), reversing: int | None = None) -> None:
        states = len(self.states) - sum(i in self.states for i in working)
        self.most_states = max(self.most_states, states)
        self.most_slots = max(self.most_slots, states + len(self.tapes) - (reversing in self.tapes))

    # What is refused

    def check_run(self, k: int) -> None:
        self.find(k)
        self.check_free(k + 1)

    def check_free(self, i: int) -> None:
        if i in self.states:
            self.refuse(f"x_{i} is held already; drop {i} comes first")

    def check_complete(self, actions: int) -> None:
        if not self.lossed:
            self.refuse_end(actions, f"loss {self.length} is missing")
        if self.cotangent:
            self.refuse_end(actions, f"backward {self.cotangent - 1} is missing")
        left = [f"x_{i} (drop {i})" for i in sorted(self.states) if i]
        left += [f"t_{k} (drop tape {k})" for k in sorted(self.tapes)]
        left += [f"the copy of x_{i} on disk (drop disk {i})" for i in sorted(self.disk)]
        if left:
            self.refuse_end(actions, f"left behind: {', '.join(left)}")

    def refuse(self, why: str) -> NoReturn:
        raise ScheduleError(f"action {self.number}, {self.action}: {why}")

    def refuse_end(self, actions: int, why: str) -> NoReturn:
        raise ScheduleError(f"at the end, after {actions} actions: {why}")


_DO: Mapping[Kind, Callable[[_Replay, int], float]] = {
    Kind.ADVANCE: _Replay.advance,
    Kind.KEEP: _Replay.keep,
    Kind.TAPE: _Replay.tape,
    Kind.LOSS: _Replay.loss,
    Kind.BACKWARD: _Replay.backward,
    Kind.DROP: _Replay.drop,
    Kind.DROP_TAPE: _Replay.drop_tape,
    Kind.SPILL: _Replay.spill,
    Kind.LOAD: _Replay.load,
    Kind.DROP_DISK: _Replay.drop_disk,
}
_ON_STAGES = frozenset({Kind.ADVANCE, Kind.KEEP, Kind.TAPE, Kind.BACKWARD, Kind.DROP_TAPE})
