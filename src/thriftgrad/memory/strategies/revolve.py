"""The binomial schedule: the least recomputation that so many kept states allow."""

from __future__ import annotations

from collections.abc import Iterator
from math import comb

from thriftgrad.memory.schedule import Action, Kind, Schedule, Strategy, tidy
from thriftgrad.memory.stages import Chain
from thriftgrad.memory.strategies._arguments import whole
from thriftgrad.memory.strategies.fuse import cut_where_useful


def revolve(slots: int | None = None) -> Strategy:
    """Keep at most `slots` states at once, chosen so that the fewest stages run again.

    With β(s, r) = (s + r)! / (s! r!), a chain of L stages is reversed by

        r L − β(s + 1, r − 1) untaped runs, where r is the least number with β(s, r) >= L,

    and L taped ones. No stage runs untaped more than r times. That is the least there is for stages of
    equal cost and states of equal size, which this strategy takes them for. One slot reruns
    everything from x_0, L (L − 1) / 2 runs; L slots rerun each stage but the last once. Stages between
    which it is of no use to cut count as one (`useful_cuts`): a linear layer and the tanh of it.

    Args:
        slots: s; x_0 takes one while it is kept, the state being worked on takes none. By default
            the least s with β(s, s) >= L, so that neither memory nor repetitions grow faster than
            log L.

    Raises:
        ConfigError: `slots` is not a whole number of at least 1.

    Example:
        >>> from thriftgrad.memory.stages import homogeneous
        >>> from thriftgrad.memory.simulate import simulate
        >>> chain = homogeneous(100)
        >>> simulation = simulate(revolve(slots=10)(chain), chain)
        >>> int(simulation.forwards.sum()), int(simulation.tapes.sum()), simulation.most_states
        (222, 100, 10)

    A. Griewank, A. Walther: Algorithm 799: revolve: an implementation of checkpointing for the reverse
    or adjoint mode of computational differentiation. ACM Transactions on Mathematical Software 26(1),
    2000.
    """
    if slots is not None:
        slots = whole("revolve", "slots", slots, 1)

    def strategy(chain: Chain) -> Schedule:
        length = len(chain)
        s = slots or next(s for s in range(1, length + 2) if comb(2 * s, s) >= length)
        return tidy(reverse(0, length, s, length), chain, f"revolve({s})")

    return lambda chain: cut_where_useful(strategy, chain)


def untaped_runs(length: int, slots: int) -> int:
    """Return the least number of untaped runs that reverse so many stages.

    Example:
        >>> untaped_runs(10, slots=3)
        15
    """
    r = _repetitions(length, slots)
    return r * length - (comb(slots + r, slots + 1) if r else 0)


def reverse(first: int, length: int, slots: int, end: int) -> Iterator[Action]:
    """Yield the runs that reverse the stages from `first` on, with x_first at hand.

    Args:
        first: the first of these stages.
        length: how many.
        slots: how many states may be kept, x_first among them.
        end: L of the whole chain, behind which comes the loss.
    """
    waiting = [(first, length, slots)]  # innermost last; as a recursion it would be L deep
    while waiting:
        a, n, s = waiting.pop()
        if n == 1:
            yield from reverse_stage(a, end)
        elif s == 1:
            for k in range(a + n - 1, a - 1, -1):
                yield from (Action(Kind.ADVANCE, j) for j in range(a, k))
                yield from reverse_stage(k, end)
        else:
            m = _split(n, s)
            yield from (Action(Kind.ADVANCE, j) for j in range(a, a + m))
            waiting += [(a, m, s), (a + m, n - m, s - 1)]


def reverse_stage(k: int, end: int) -> Iterator[Action]:
    """Yield the taped run and the backward of stage k, and the loss between them after the last."""
    yield Action(Kind.TAPE, k)
    if k == end - 1:
        yield Action(Kind.LOSS, end)
    yield Action(Kind.BACKWARD, k)


def _split(length: int, slots: int) -> int:
    """Return how far to run before the next state is kept.

    Optimal is any m for which both parts still get by with the repetitions of the whole, which are
    one fewer for the first part, as it has been run once already.
    """
    r = _repetitions(length, slots)
    least = comb(slots + r - 2, slots) if r >= 2 else 0
    return max(1, least, length - comb(slots - 1 + r, r))


def _repetitions(length: int, slots: int) -> int:
    """Return the least r with β(slots, r) >= length."""
    r, reach = 0, 1
    while reach < length:
        r += 1
        reach = reach * (slots + r) // r
    return r
