"""Strategies: each is a function that returns a `Strategy`, a function from a chain to a schedule."""

from thriftgrad.memory.strategies.at import at
from thriftgrad.memory.strategies.every import every
from thriftgrad.memory.strategies.everything import everything
from thriftgrad.memory.strategies.mixed import mixed
from thriftgrad.memory.strategies.nothing import nothing
from thriftgrad.memory.strategies.optimal import optimal
from thriftgrad.memory.strategies.revolve import revolve
from thriftgrad.memory.strategies.sqrt import sqrt
from thriftgrad.memory.strategies.two_level import two_level

__all__ = [
    "at",
    "every",
    "everything",
    "mixed",
    "nothing",
    "optimal",
    "revolve",
    "sqrt",
    "two_level",
]
