"""Checkpoints at regular distances."""

from thriftgrad.memory.schedule import Schedule, Strategy
from thriftgrad.memory.stages import Chain
from thriftgrad.memory.strategies._arguments import whole
from thriftgrad.memory.strategies.segments import segments


def every(n: int) -> Strategy:
    """Keep the output of every n-th stage, and rerun the n stages of a segment when its turn comes.

    The states x_n, x_{2n}, ... are kept, and the last segment is taped straight away; each other stage
    runs twice. With n = 1 every state is kept, but only one tape at a time. With n >= L there is
    one segment, and nothing runs again. Nor does a segment whose tapes hold hardly more than the
    states at both its ends, which are kept anyway (see `segments`): `every(2)` over layers that are
    linear and sigmoid in turn is as fast, and holds as much, as plain backpropagation.

    Raises:
        ConfigError: `n` is not a whole number of at least 1.

    Example:
        >>> from thriftgrad.memory.stages import homogeneous
        >>> from thriftgrad.memory.simulate import simulate
        >>> chain = homogeneous(6)
        >>> simulate(every(2)(chain), chain).runs.tolist()
        [2, 2, 2, 2, 1, 1]
    """
    n = whole("every", "n", n, 1)

    def strategy(chain: Chain) -> Schedule:
        return segments(range(n, len(chain), n), chain, f"every({n})")

    return strategy
