"""Plain backpropagation, as a schedule."""

from thriftgrad.memory.schedule import Schedule, Strategy
from thriftgrad.memory.stages import Chain
from thriftgrad.memory.strategies.segments import segments


def everything() -> Strategy:
    """Tape every stage once and recompute nothing: the fastest schedule, and the largest.

    Example:
        >>> from thriftgrad.memory.stages import homogeneous
        >>> print(everything()(homogeneous(2)))
        tape 0, drop 0, tape 1, drop 1, loss 2, drop 2, backward 1–0
    """

    def strategy(chain: Chain) -> Schedule:
        return segments([], chain, "all")

    return strategy
