"""The best use of slots that hold a state or a tape."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from thriftgrad.memory.schedule import Action, Kind, Schedule, Strategy, tidy
from thriftgrad.memory.stages import Chain
from thriftgrad.memory.strategies._arguments import whole
from thriftgrad.memory.strategies.fuse import cut_where_useful
from thriftgrad.memory.strategies.revolve import reverse_stage


def mixed(slots: int) -> Strategy:
    """Keep at most `slots` states and tapes at once, chosen so that the fewest stages run again.

    The least number of runs, taped ones included, that reverse n stages with s free slots:

        P(1, s) = 1
        P(n, s) = min( 1 + P(n − 1, s − 1),                        tape the first stage and keep that
                       min over 0 < m < n of m + P(n − m, s − 1) + P(m, s) )    or keep its input

    A kept tape saves the run that would make it again, so that never more and mostly fewer stages run
    than with `revolve`. It is for chains whose tapes are hardly larger than their states. Stages
    between which it is of no use to cut count as one (`useful_cuts`). Planning takes O(L² slots) time
    and O(L slots) memory.

    Args:
        slots: s. x_0 takes one while it is kept, a tape that is reversed directly after it was
            made takes none. Where the backward of a stage needs its input beside the tape
            (`Stage.needs_input`), that is held as well, in no slot.

    Raises:
        ConfigError: `slots` is not a whole number of at least 1.

    Example:
        >>> from thriftgrad.memory.stages import homogeneous
        >>> from thriftgrad.memory.simulate import simulate
        >>> chain = homogeneous(100)
        >>> simulation = simulate(mixed(slots=10)(chain), chain)
        >>> int(simulation.runs.sum()), simulation.most_slots
        (237, 10)

    J. R. Maddison: Step-based checkpointing with high-level algorithmic differentiation. Journal of
    Computational Science 82, 2024.
    """
    slots = whole("mixed", "slots", slots, 1)

    def strategy(chain: Chain) -> Schedule:
        # With a slot for every stage but the last, all tapes are kept; more are never used.
        used = max(1, min(slots, len(chain) - 1))
        return tidy(reverse(len(chain), used, leads(len(chain), used)), chain, f"mixed({slots})")

    return lambda chain: cut_where_useful(strategy, chain)


def reverse(length: int, slots: int, lead: NDArray[np.int32]) -> Iterator[Action]:
    """Yield the runs that reverse so many stages, given the `leads` for as many slots or more."""
    waiting: list[tuple[int, int, int]] = [(0, length, slots)]
    while waiting:
        a, n, s = waiting.pop()
        if n == 0:
            yield Action(Kind.BACKWARD, a)
        elif n == 1:
            yield from reverse_stage(a, length)
        elif m := int(lead[n, s]):
            yield from (Action(Kind.ADVANCE, k) for k in range(a, a + m))
            waiting += [(a, m, s), (a + m, n - m, s - 1)]
        else:
            yield Action(Kind.TAPE, a)
            waiting += [(a, 0, s), (a + 1, n - 1, s - 1)]


def leads(length: int, slots: int) -> NDArray[np.int32]:
    """Return for each n and s how many stages to run from a kept state; 0 is to keep a tape."""
    runs = np.full((length + 1, slots + 1), np.inf)
    runs[1] = 1.0
    lead = np.zeros((length + 1, slots + 1), np.int32)
    for n in range(2, length + 1):
        m = np.arange(1, n)[:, None]
        with_state = m + runs[n - 1 : 0 : -1, :-1] + runs[1:n, 1:]
        best = with_state.argmin(axis=0)
        least = with_state[best, np.arange(slots)]
        with_tape = 1 + runs[n - 1, :-1]
        # Where both serve, a state: a tape is the larger of the two.
        runs[n, 1:] = np.minimum(least, with_tape)
        lead[n, 1:] = np.where(with_tape < least, 0, best + 1)
    return lead
