"""What the simple strategies share: a chain cut into segments, each run again once, taped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise

from thriftgrad.memory.schedule import Action, Kind, Schedule, tidy
from thriftgrad.memory.stages import Chain
from thriftgrad.memory.strategies.fuse import fuse


def segments(kept: Iterable[int], chain: Chain, strategy: str) -> Schedule:
    """Return the schedule that keeps these states on the way forward, and x_0.

    The kept states cut the chain into segments. The last segment is taped straight away; each of the
    others is run untaped on the way forward, and taped when its turn comes on the way back. Unless
    that would gain nothing: where the tapes of a segment hold hardly more than the states at both its
    ends, which are kept anyway, it is taped straight away too, and does not run again. So it is with
    a linear layer and the tanh of it. Hardly more are at most 1 % of these states; or, since the
    Python objects of a tape are not smaller for small arrays, 1 KiB a stage and a third of the states.

    Args:
        kept: which states to keep, 0 to L. Keeping x_L changes nothing: the loss follows at once.
        chain: what they are states of.
        strategy: what the schedule is to be called.

    Example:
        >>> from thriftgrad.memory.stages import Stage, homogeneous
        >>> print(segments([2], homogeneous(3), "by hand"))
        keep 0, advance 1, tape 2, drop 2, loss 3, drop 3, backward 2,
        tape 0, drop 0, tape 1, drop 1–2, backward 1–0
        >>> linear = Stage(output=8, cotangent=8, holds_input=True, holds_output=False)
        >>> tanh = Stage(output=8, cotangent=8)
        >>> print(segments([2], Chain(stages=(linear, tanh, linear)), "by hand"))
        tape 0, drop 0, …, tape 2, drop 2, loss 3, drop 3, backward 2–0
    """
    cuts = sorted({0, len(chain), *kept})
    return tidy(_runs(list(pairwise(cuts)), _at_once(cuts, chain), len(chain)), chain, strategy)


def _runs(parts: list[tuple[int, int]], at_once: list[bool], length: int) -> Iterator[Action]:
    for (start, end), taped in zip(parts, at_once, strict=True):
        yield from (Action(Kind.TAPE if taped else Kind.ADVANCE, k) for k in range(start, end))
    yield Action(Kind.LOSS, length)
    for (start, end), taped in zip(reversed(parts), reversed(at_once), strict=True):
        if not taped:
            yield from (Action(Kind.TAPE, k) for k in range(start, end))
        yield from (Action(Kind.BACKWARD, k) for k in range(end - 1, start - 1, -1))


_SHARE = 1 / 100
_SMALL_CHANGE, _MOST = 1024, 1 / 3


def _at_once(cuts: list[int], chain: Chain) -> list[bool]:
    """Tell of each segment whether it is taped on the way forward."""
    at_once = []
    parts = list(pairwise(cuts))[:-1]
    before = fuse(chain, cuts).chain.stages[:-1] if parts else ()
    for (start, end), segment in zip(parts, before, strict=True):
        ends = chain.size(start) + segment.output
        small = min(_SMALL_CHANGE * (end - start), _MOST * ends)
        at_once.append(segment.tape <= max(_SHARE * ends, small))
    return [*at_once, True]
