"""Checkpoints at distances of √L."""

from math import isqrt

from thriftgrad.memory.schedule import Schedule, Strategy
from thriftgrad.memory.stages import Chain
from thriftgrad.memory.strategies.fuse import useful_cuts
from thriftgrad.memory.strategies.segments import segments


def sqrt() -> Strategy:
    """Cut the chain into ⌈√L⌉ segments as equal as can be: about 2 √L states and tapes at once.

    Each stage before the last segment runs twice. Stages between which it is of no use to cut count as
    one (`useful_cuts`): a linear layer and the tanh of it.

    Example:
        >>> from thriftgrad.memory.stages import homogeneous
        >>> from thriftgrad.memory.simulate import simulate
        >>> chain = homogeneous(100)
        >>> simulation = simulate(sqrt()(chain), chain)
        >>> simulation.most_states, int(simulation.runs.sum())
        (9, 190)

    T. Chen, B. Xu, C. Zhang, C. Guestrin: Training deep nets with sublinear memory cost, 2016.
    """

    def strategy(chain: Chain) -> Schedule:
        cuts = useful_cuts(chain)
        length = len(cuts) - 1
        count = isqrt(length - 1) + 1
        return segments((cuts[i * length // count] for i in range(1, count)), chain, "sqrt")

    return strategy
