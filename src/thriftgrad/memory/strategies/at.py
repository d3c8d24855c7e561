"""Checkpoints where the person says."""

from operator import index
from reprlib import repr as short

from thriftgrad.errors import ConfigError
from thriftgrad.memory.schedule import Schedule, Strategy
from thriftgrad.memory.stages import Chain
from thriftgrad.memory.strategies.segments import segments


def at(*indices: int) -> Strategy:
    """Keep the outputs of the stages with these indices, and rerun what lies between.

    Stages count as the layers of a `Sequential` do: `at(2, 5)` keeps what `model[2]` and `model[5]`
    return, the states x_3 and x_6, and −1 is the last one. What follows the last kept output is taped
    straight away; every other stage runs twice, but for those between two kept outputs whose tapes
    hold hardly more than these two (see `segments`).

    Raises:
        ConfigError: no index, or one that is not a whole number; and, when the strategy meets a
            chain, one that the chain does not have.

    Example:
        >>> from thriftgrad.memory.stages import homogeneous
        >>> from thriftgrad.memory.simulate import simulate
        >>> chain = homogeneous(6)
        >>> simulate(at(1, -2)(chain), chain).runs.tolist()
        [2, 2, 2, 2, 2, 1]
    """
    if not indices:
        raise ConfigError(
            "at(): expected the index of at least one stage, as in at(2, 5); "
            "everything() recomputes nothing, nothing() recomputes all"
        )
    for given in indices:
        if not hasattr(given, "__index__") or isinstance(given, bool):
            raise ConfigError(
                f"at(...): {short(given)} is not the index of a stage; expected an int"
            )
    places = [index(given) for given in indices]
    call = f"at({', '.join(map(str, places))})"

    def strategy(chain: Chain) -> Schedule:
        length = len(chain)
        for place in places:
            if not -length <= place < length:
                raise ConfigError(
                    f"{call}: the chain has {length} stages; expected indices from {-length} to "
                    f"{length - 1}"
                )
        return segments((place % length + 1 for place in places), chain, call)

    return strategy
