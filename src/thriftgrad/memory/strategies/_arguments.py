"""Checks of what a person gives to a strategy."""

from math import inf
from numbers import Integral, Real
from reprlib import repr as short

from thriftgrad.errors import ConfigError


def whole(call: str, name: str, given: object, low: int) -> int:
    """Return `given` as a Python int if it is a whole number of at least `low`.

    Raises:
        ConfigError: it is not.
    """
    if isinstance(given, Integral) and not isinstance(given, bool) and int(given) >= low:
        return int(given)
    raise ConfigError(f"{call}: {name} = {short(given)}; expected a whole number of at least {low}")


def price(call: str, name: str, given: object) -> float:
    """Return `given` as a Python float if it is a finite number of at least 0.

    Raises:
        ConfigError: it is not.
    """
    if isinstance(given, Real) and not isinstance(given, bool) and 0 <= float(given) < inf:
        return float(given)
    raise ConfigError(f"{call}: {name} = {short(given)}; expected seconds, a finite number >= 0")
