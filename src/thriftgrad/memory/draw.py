"""Memory over the course of a step, drawn: in characters for a terminal, or by matplotlib."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from thriftgrad.memory.schedule import Action, Kind
from thriftgrad.units import show_bytes

_EIGHTHS = " ▁▂▃▄▅▆▇█"
_RUNS = frozenset({Kind.ADVANCE, Kind.KEEP, Kind.TAPE})
LEGEND = "f forward, r forward again, l loss, b backward, d disk"


def text_picture(
    held: NDArray[np.int64],
    durations: NDArray[np.float64],
    letters: str,
    budget: int | None = None,
    *,
    width: int = 72,
    height: int = 12,
) -> str:
    """Return bytes over the time of a step as a picture in characters.

    Args:
        held: bytes during each action.
        durations: seconds of each action.
        letters: one for each action, as `letters_of` returns them.
        budget: drawn as a line across.
        width: characters of the picture itself; the scale at its left comes on top.
        height: lines of the picture itself.

    Example:
        >>> kilobytes = np.array([1, 2, 4, 3, 1])
        >>> print(text_picture(kilobytes * 1000, np.ones(5), "fflbb", 4500, width=10, height=3))
         4.50 kB ┤────▅▅────
         3.00 kB ┤  ▃▃████
         1.50 kB ┤▅▅██████▅▅
               0 └ffffllbbbb
    """
    columns = _columns(durations, width)
    bars, marks = np.zeros(width), [" "] * width
    for most, letter, (first, last) in zip(held, letters, columns, strict=True):
        bars[first:last] = np.maximum(bars[first:last], most)
        for column in range(first, last):
            marks[column] = min(marks[column], letter, key=_BY_WEIGHT.index)
    top = max(int(held.max()), budget or 0)
    lines = []
    for row in range(height, 0, -1):
        low, high = top * (row - 1) / height, top * row / height
        share = np.clip((bars - low) / (high - low), 0, 1)
        cells = [_EIGHTHS[int(8 * part + 0.5)] for part in share]
        if budget is not None and low < budget <= high:
            cells = ["─" if cell == " " else cell for cell in cells]
        lines.append(f"{show_bytes(high):>8} ┤{''.join(cells)}".rstrip())
    return "\n".join([*lines, f"{'0':>8} └{''.join(marks)}"])


def letters_of(actions: Sequence[Action]) -> str:
    """Return a letter for each action: see `LEGEND`; a dot where something is let go.

    Example:
        >>> from thriftgrad.memory.stages import homogeneous
        >>> from thriftgrad.memory.strategies.revolve import revolve
        >>> letters_of(revolve(slots=1)(homogeneous(2)).actions)
        'ff.l.br..b'
    """
    seen: set[int] = set()
    letters = []
    for action in actions:
        if action.kind in _RUNS:
            letters.append("r" if action.index in seen else "f")
            seen.add(action.index)
        else:
            letters.append(_LETTERS.get(action.kind, "."))
    return "".join(letters)


_LETTERS = {Kind.LOSS: "l", Kind.BACKWARD: "b", Kind.SPILL: "d", Kind.LOAD: "d"}
_BY_WEIGHT = "ldrbf. "


def _columns(durations: NDArray[np.float64], width: int) -> list[tuple[int, int]]:
    """Return the columns, from and to, that each action covers: at least one."""
    ends = np.cumsum(durations)
    scale = width / ends[-1] if ends[-1] > 0 else 0.0
    first = np.minimum(((ends - durations) * scale + 1e-9).astype(int), width - 1)
    last = np.minimum(np.ceil(ends * scale - 1e-9).astype(int), width)
    return list(zip(first.tolist(), np.maximum(last, first + 1).tolist(), strict=True))
