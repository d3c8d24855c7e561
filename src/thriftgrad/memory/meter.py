"""What a planned step really holds: live bytes by kind after each action, and the peak within it."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thriftgrad.memory.execute import Run, buffers, owner, watching
from thriftgrad.memory.schedule import Action

KINDS = ("activations", "tapes", "cotangents", "gradients", "temporaries")


@dataclass
class Measured:
    """Live bytes over the last step that ran by a schedule, beyond what was held when it began.

    Attributes:
        actions: what was done, in order.
        during: the most bytes during each action, by `tracemalloc`: arrays and Python's objects.
        after: bytes left after each action, likewise.
    """

    actions: list[Action] = field(default_factory=list)
    during: list[int] = field(default_factory=list)
    after: list[int] = field(default_factory=list)
    _held: list[tuple[int, ...]] = field(default_factory=list, repr=False)
    _base: int = field(default=0, repr=False)
    _batch: int = field(default=0, repr=False)

    @property
    def peak(self) -> int:
        """The most bytes at any time."""
        return max(self.during, default=0)

    @property
    def by_kind(self) -> dict[str, NDArray[np.int64]]:
        """The most bytes during each action, by kind.

        Activations, tapes, cotangents and gradients are counted on the arrays themselves, as they are
        held after the action; all that was there beyond these are temporaries.
        """
        held = np.array(self._held, np.int64).reshape(-1, len(KINDS) - 1)
        rest = np.array(self.during, np.int64) - held.sum(axis=1)
        return dict(zip(KINDS, [*held.T, rest], strict=True))

    def _note(self, run: Run, action: Action | None) -> None:
        current, peak = tracemalloc.get_traced_memory()
        if action is None:  # a step begins
            for each in (self.actions, self.during, self.after, self._held):
                each.clear()
            self._base = current
            self._batch = id(owner(run.states[0]))
        else:
            self.actions.append(action)
            self.during.append(peak - self._base)
            self.after.append(current - self._base)
            self._held.append(_bytes_held(run, self._batch))
        # What was just noted down is not the step's.
        self._base += tracemalloc.get_traced_memory()[0] - current
        tracemalloc.reset_peak()


@contextmanager
def meter() -> Iterator[Measured]:
    """Record what each step that runs by a schedule inside this context really holds.

    Steps run by `execute`, or by `fit` with `memory`, are recorded; the last one is kept. Python's
    `tracemalloc` does the measuring, which slows the step; where it is at work already it stays so,
    but its peak is reset.

    Example:
        >>> import numpy as np, thriftgrad as tg
        >>> model = tg.nn.Sequential(*[tg.nn.Linear(64, 64, rng=i) for i in range(4)])
        >>> x = np.ones((512, 64), np.float32)
        >>> plan = tg.memory.plan(model, x, budget="sqrt")
        >>> with tg.memory.meter() as measured:
        ...     _ = tg.memory.execute(plan.schedule, list(model), x, np.sum)
        >>> len(measured.during) == len(plan.schedule)
        True
    """
    measured = Measured()
    tracing = tracemalloc.is_tracing()
    if not tracing:
        tracemalloc.start()
    token = watching.set(measured._note)
    try:
        yield measured
    finally:
        watching.reset(token)
        if not tracing:
            tracemalloc.stop()


def _bytes_held(run: Run, batch: int) -> tuple[int, ...]:
    """Return the bytes of activations, tapes, cotangents and gradients: memory once, however shared."""
    seen: set[int] = {batch}
    parameters = {id(owner(p.value)) for each in run.bound.parameters for p in each}
    states = [state for state in run.states if state is not None]
    tapes: list[Any] = []
    for tape in run.tapes:
        if tape is not None and tape.node is not None:
            output = tape.output()
            states += [] if output is None else [output]
            tapes += buffers(tape.node, tape.entry)
    cotangents = [] if run.cotangent is None else [run.cotangent]

    def count(arrays: list[Any]) -> int:
        total = 0
        for array in map(owner, arrays):
            if id(array) not in seen and id(array) not in parameters:
                seen.add(id(array))
                total += getattr(array, "nbytes", 0)
        return total

    return (
        count(states),
        count(tapes),
        count(cotangents),
        count(list(run.gradients.values())),
    )
