"""What the simple strategies share: a chain cut into segments, each run again once, taped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise

from thriftgrad.memory.schedule import Action, Kind, Schedule, tidy
from thriftgrad.memory.stages import Chain


def segments(kept: Iterable[int], chain: Chain, strategy: str) -> Schedule:
    """Return the schedule that keeps these states on the way forward, and x_0.

    The kept states cut the chain into segments. The last segment is taped straight away; each of the
    others is run untaped on the way forward, and taped when its turn comes on the way back.

    Args:
        kept: which states to keep, 0 to L. Keeping x_L changes nothing: the loss follows at once.
        chain: what they are states of.
        strategy: what the schedule is to be called.

    Example:
        >>> from thriftgrad.memory.stages import homogeneous
        >>> print(segments([2], homogeneous(3), "by hand"))
        keep 0, advance 1, tape 2, drop 2, loss 3, drop 3, backward 2,
        tape 0, drop 0, tape 1, drop 1–2, backward 1–0
    """
    cuts = sorted({0, len(chain), *kept})
    return tidy(_runs(list(pairwise(cuts)), len(chain)), chain, strategy)


def _runs(parts: list[tuple[int, int]], length: int) -> Iterator[Action]:
    last = parts[-1][0]
    yield from (Action(Kind.ADVANCE, k) for k in range(last))
    for start, end in reversed(parts):
        yield from (Action(Kind.TAPE, k) for k in range(start, end))
        if end == length:
            yield Action(Kind.LOSS, length)
        yield from (Action(Kind.BACKWARD, k) for k in range(end - 1, start - 1, -1))
