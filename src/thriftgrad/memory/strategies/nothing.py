"""Recompute everything from the input."""

from thriftgrad.memory.schedule import Schedule, Strategy, tidy
from thriftgrad.memory.stages import Chain
from thriftgrad.memory.strategies.fuse import cut_where_useful
from thriftgrad.memory.strategies.revolve import reverse


def nothing() -> Strategy:
    """Keep x_0 alone and run up to each stage again from there: L (L − 1) / 2 untaped runs.

    It is `revolve(slots=1)`. Among stages of equal size no schedule holds less. Stages between which it
    is of no use to cut count as one (`useful_cuts`).

    Example:
        >>> from thriftgrad.memory.stages import homogeneous
        >>> print(nothing()(homogeneous(2)))
        keep 0, tape 1, drop 1, loss 2, drop 2, backward 1, tape 0, drop 0–1, backward 0
    """

    def strategy(chain: Chain) -> Schedule:
        return tidy(reverse(0, len(chain), 1, len(chain)), chain, "none")

    return lambda chain: cut_where_useful(strategy, chain)
