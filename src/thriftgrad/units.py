"""Bytes and seconds as people write them."""

from __future__ import annotations

import re

import numpy as np

from thriftgrad.errors import ConfigError

_DECIMAL = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_BINARY = {"ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
_BYTES = re.compile(r"\s*([0-9][0-9_,]*\.?[0-9]*|\.[0-9]+)\s*([kmgt]?i?)b?\s*", re.IGNORECASE)


def parse_bytes(text: str) -> int | None:
    """Return the bytes that a text such as "64 MB" or "1.5GiB" stands for, or None if it is no size.

    As everywhere but in old tools, a kB is 1,000 bytes and a KiB is 1,024.

    Example:
        >>> parse_bytes("64 MB"), parse_bytes("1.5GiB"), parse_bytes("sqrt")
        (64000000, 1610612736, None)
    """
    match = _BYTES.fullmatch(text)
    if match is None:
        return None
    number, unit = match[1].replace(",", "").replace("_", ""), match[2].lower()
    factor = {**_DECIMAL, **_BINARY}.get(unit)
    if factor is None:
        return None
    return int(float(number) * factor) if "." in number else int(number) * factor


def budget_bytes(given: int | str) -> int:
    """Return a budget in bytes.

    Raises:
        ConfigError: it is no size, or not above 0.
    """
    found = parse_bytes(given) if isinstance(given, str) else given
    if isinstance(found, np.integer):
        found = int(found)
    if isinstance(found, bool) or not isinstance(found, int) or found <= 0:
        raise ConfigError(
            f"a budget of {given!r}: expected a number of bytes above 0, such as 64_000_000 or '64 MB'"
        )
    return found


def show_bytes(count: float) -> str:
    """Return a number of bytes in three digits or so.

    Example:
        >>> show_bytes(999), show_bytes(64_000_000), show_bytes(1_234_567_890)
        ('999 B', '64.0 MB', '1.23 GB')
    """
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(count) < 999.5 or unit == "TB":
            break
        count /= 1000
    whole = unit == "B" or abs(count) >= 999.5
    return f"{count:,.0f} {unit}" if whole else f"{count:#.3g} {unit}".replace(". ", " ")


def show_seconds(seconds: float) -> str:
    """Return a time in three digits.

    Example:
        >>> show_seconds(0.0000123), show_seconds(0.25), show_seconds(90)
        ('12.3 µs', '250 ms', '90.0 s')
    """
    if seconds >= 999.5:
        return f"{seconds:,.0f} s"
    for unit in ("s", "ms", "µs"):
        if seconds >= 0.9995 or unit == "µs":
            break
        seconds *= 1000
    return f"{seconds:#.3g} {unit}".replace(". ", " ")
