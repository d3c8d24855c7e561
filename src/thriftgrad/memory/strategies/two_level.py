"""The best use of slots in memory and on disk."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from thriftgrad.errors import ConfigError
from thriftgrad.memory.schedule import Action, Kind, Schedule, Strategy, tidy
from thriftgrad.memory.stages import Chain
from thriftgrad.memory.strategies._arguments import price, whole
from thriftgrad.memory.strategies.fuse import cut_where_useful
from thriftgrad.memory.strategies.revolve import reverse, untaped_runs


def two_level(
    ram: int, disk: int, write: float | None = None, read: float | None = None
) -> Strategy:
    """Keep at most `ram` states in memory and `disk` on disk, chosen for the least time.

    With f the seconds of an untaped run, and R(n) = f × the untaped runs of `revolve(ram)`, the least
    time beyond taped runs and backwards in which n stages are reversed, d places on disk being free:

        A(n, d) = min( R(n), write + B(n, d) ),  A(n, 0) = R(n)             nothing on disk yet
        B(n, d) = min( R(n), min over 0 < m < n of                           the first state there
                             m f + A(n − m, d − 1) + read + B(m, d) )

    This is the least possible for stages of equal cost and states of equal size, which this strategy
    takes them for: f is the mean over the stages, of which those between which it is of no use to cut
    count as one (`useful_cuts`). States that take no bytes of their own, as x_0 does where it is the
    batch, stay in memory. Planning takes O(L² disk) time and O(L disk) memory.

    Args:
        ram: slots in memory; x_0 takes one while it is kept, the state being worked on takes none.
        disk: places on disk.
        write: seconds to write a state. By default what the chain's bandwidth, `Chain.write`,
            makes of the mean size of its states.
        read: seconds to read one, likewise.

    Raises:
        ConfigError: a number of slots that is not whole or below 0, none of either kind, or a price
            below 0.

    Example:
        >>> from thriftgrad.memory.stages import homogeneous
        >>> from thriftgrad.memory.simulate import simulate
        >>> chain = homogeneous(20, write=2.0, read=2.0)
        >>> simulation = simulate(two_level(ram=1, disk=4)(chain), chain)
        >>> simulation.seconds, simulation.most_states, simulation.most_disk
        (100.0, 1, 4)
        >>> simulate(two_level(ram=1, disk=0)(chain), chain).seconds
        230.0

    J. Herrmann, G. Pallez: H-Revolve: a framework for adjoint computation on synchronous hierarchical
    platforms. ACM Transactions on Mathematical Software 46(2), 2020.
    """
    ram, disk = whole("two_level", "ram", ram, 0), whole("two_level", "disk", disk, 0)
    if ram + disk == 0:
        raise ConfigError("two_level(0, 0): expected at least one slot, in memory or on disk")
    write = None if write is None else price("two_level", "write", write)
    read = None if read is None else price("two_level", "read", read)

    def strategy(chain: Chain) -> Schedule:
        sizes = [chain.size(i) for i in range(len(chain))]
        mean = sum(sizes) / len(sizes)
        lead, spill = _tables(
            len(chain),
            ram,
            min(disk, len(chain)),
            forward=sum(stage.forward_seconds for stage in chain.stages) / len(chain),
            write=chain.write * mean if write is None else write,
            read=chain.read * mean if read is None else read,
        )
        actions = (
            action
            for action in _reverse(len(chain), ram, lead, spill)
            if action.kind not in (Kind.SPILL, Kind.LOAD) or sizes[action.index]
        )
        return tidy(actions, chain, f"two_level({ram}, {disk})")

    return lambda chain: cut_where_useful(strategy, chain)


def _reverse(
    length: int, ram: int, lead: NDArray[np.int32], spill: NDArray[np.bool_]
) -> Iterator[Action]:
    waiting = [(0, length, spill.shape[1] - 1, False)]
    while waiting:
        a, n, d, on_disk = waiting.pop()
        if on_disk:
            yield Action(Kind.LOAD, a)
        elif spill[n, d]:
            yield Action(Kind.SPILL, a)
        m = int(lead[n, d]) if on_disk or spill[n, d] else 0
        if m:
            yield from (Action(Kind.ADVANCE, k) for k in range(a, a + m))
            waiting += [(a, m, d, True), (a + m, n - m, d - 1, False)]
        else:
            yield from reverse(a, n, ram, length)


def _tables(
    length: int, ram: int, disk: int, *, forward: float, write: float, read: float
) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """Return for each n and d the m that attains B (0 where R does), and whether A is to write."""
    in_ram = np.full(length + 1, np.inf)
    in_ram[1] = 0.0
    if ram:
        in_ram[1:] = [forward * untaped_runs(n, ram) for n in range(1, length + 1)]
    unsaved = np.repeat(in_ram[:, None], disk + 1, axis=1)  # A
    saved = unsaved.copy()  # B; its column d = 0 is not used
    lead = np.zeros((length + 1, disk + 1), np.int32)
    spill = np.zeros((length + 1, disk + 1), np.bool_)
    for n in range(2, length + 1):
        m = np.arange(1, n)[:, None]
        cut = m * forward + unsaved[n - 1 : 0 : -1, :-1] + read + saved[1:n, 1:]
        best = cut.argmin(axis=0)
        least = cut[best, np.arange(disk)]
        lead[n, 1:] = np.where(least < in_ram[n], best + 1, 0)
        saved[n, 1:] = np.minimum(in_ram[n], least)
        spill[n, 1:] = write + saved[n, 1:] < in_ram[n]
        unsaved[n, 1:] = np.minimum(in_ram[n], write + saved[n, 1:])
    return lead, spill
