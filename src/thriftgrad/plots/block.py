"""A block of memory over time: which array lies where, from when to when."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from thriftgrad.errors import DataError
from thriftgrad.plots._style import INK, LABEL_SIZE, new_figure, plain, save
from thriftgrad.units import show_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PEAK = "#B00020"
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
_GREY = "#9A9A9A"
_NAME_SIZE = 7.5
_SEEN = 0.002
"""An array that is this part of the block is drawn at least so high."""


class Piece(NamedTuple):
    """What lies in a block.

    Attributes:
        name: written into its rectangle, where there is room.
        kind: has a colour of its own; "scratch" is grey.
        offset: where it begins, in bytes.
        nbytes: its size.
        first: the call that writes it, counted from 0.
        last: the last call that reads it.
    """

    name: str
    kind: str
    offset: int
    nbytes: int
    first: int
    last: int


def block(
    pieces: Sequence[Piece],
    *,
    size: int | None = None,
    path: str | os.PathLike[str] | None = None,
    axes: Axes | None = None,
) -> Axes:
    """Draw what lies where in a block of memory, and when: a rectangle for each array.

    Calls run to the right, from the first one that makes an array large enough to be seen, and bytes
    upwards. The dashed line is the first call at which most bytes are in use, and the step above it
    all shows how many are in use at each call.

    Args:
        pieces: the arrays.
        size: bytes of the block; None for where the highest piece ends.
        path: also write the picture there, as its suffix says: `.png`, `.svg`, `.pdf`.
        axes: draw into these instead of a new figure; without the step.

    Raises:
        DataError: a piece that ends before it begins, or lies outside of the block.
        MissingExtraError: matplotlib is missing.
        OSError: the file cannot be written.

    Example:
        >>> pieces = [Piece("x", "values", 0, 4000, 0, 3), Piece("y", "values", 4096, 2000, 1, 2)]
        >>> block(pieces).figure.axes[0].get_title(loc="left")
        'Block of 6.10 kB: 2 arrays, at most 6.00 kB in use'
    """
    ends = [p.offset + p.nbytes for p in pieces]
    size = max(ends, default=0) if size is None else size
    for p, end in zip(pieces, ends, strict=True):
        if p.last < p.first or p.first < 0 or p.offset < 0 or end > size:
            raise DataError(
                f"block: {p}; expected 0 <= first <= last, and a place within the {size} bytes of the block"
            )
    calls = max((p.last for p in pieces), default=0) + 1
    used = _in_use(pieces, calls)
    peak = int(used.argmax())
    strip = None
    if axes is None:
        figure = new_figure(9.0, 5.0)
        strip, axes = figure.subplots(2, height_ratios=(1, 5), sharex=True)
    colours = _colours(pieces)
    # Where hundreds lie side by side, borders would be all that there is to see.
    border = 0.7 if len(pieces) < 100 else 0.25
    for kind, colour in colours.items():
        _draw(axes, [p for p in pieces if p.kind == kind], size, colour, border)
    arrays = f"{len(pieces)} array" + "s" * (len(pieces) != 1)
    title = f"Block of {show_bytes(size)}: {arrays}, at most {show_bytes(int(used.max()))} in use"
    plain(axes, title if strip is None else "")
    if strip is not None:
        plain(strip, title)
        _step(strip, used, size)
    begin = min((p.first for p in pieces if p.nbytes > _SEEN * size), default=0)
    _finish(axes, size, begin, calls, len(colours) > 1)
    for each in (axes, strip):
        if each is not None and pieces:
            each.axvline(peak + 0.5, color=PEAK, linewidth=1.0, linestyle=(0, (4, 2)), zorder=3)
    if pieces:
        _mark(strip or axes, peak, peak > (begin + calls) / 2, int(used.max()))
    _name(axes, pieces, size, calls - begin, colours)
    if path is not None:
        save(axes.figure, path)
    return axes


def _in_use(pieces: Sequence[Piece], calls: int) -> NDArray[np.int64]:
    changes = np.zeros(calls + 1, np.int64)
    for p in pieces:
        changes[p.first] += p.nbytes
        changes[p.last + 1] -= p.nbytes
    return np.cumsum(changes)[:-1]


def _colours(pieces: Sequence[Piece]) -> dict[str, str]:
    kinds = list(dict.fromkeys(p.kind for p in pieces))
    others = [kind for kind in kinds if kind != "scratch"]
    return {
        k: _GREY if k == "scratch" else _COLOURS[others.index(k) % len(_COLOURS)] for k in kinds
    }


def _draw(axes: Axes, pieces: Sequence[Piece], size: int, colour: str, border: float) -> None:
    from matplotlib.collections import PolyCollection

    corners = []
    for p in pieces:
        high = max(p.nbytes, _SEEN * size)
        low = min(p.offset, size - high)
        left, right = p.first, p.last + 1
        corners.append([(left, low), (right, low), (right, low + high), (left, low + high)])
    axes.add_collection(
        PolyCollection(
            corners,
            facecolor=colour,
            edgecolor="white",
            linewidth=border,
            label=pieces[0].kind,
            zorder=2,
        )
    )


def _step(strip: Axes, used: NDArray[np.int64], size: int) -> None:
    edges = np.arange(len(used) + 1)
    strip.fill_between(
        edges, np.append(used, used[-1:]), step="post", facecolor="#C9D6DF", linewidth=0
    )
    strip.set_ylim(0, 1.05 * (size or 1))
    strip.set_yticks([size], [show_bytes(size)])
    strip.set_ylabel("in use", fontsize=LABEL_SIZE, color=INK)


def _finish(axes: Axes, size: int, begin: int, calls: int, legend: bool) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    scale, unit = 1.0, "B"
    for factor, name in ((1e3, "kB"), (1e6, "MB"), (1e9, "GB"), (1e12, "TB")):
        if size >= factor:
            scale, unit = factor, name
    axes.set_xlim(begin, calls)
    axes.set_ylim(0, size or 1.0)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / scale:g} {unit}"))
    axes.set_xlabel("call", fontsize=LABEL_SIZE)
    axes.set_ylabel("offset in the block", fontsize=LABEL_SIZE, color=INK)
    if legend:
        axes.legend(
            loc="upper left",
            bbox_to_anchor=(1.0, 1.02),
            frameon=False,
            fontsize=LABEL_SIZE,
            labelcolor=INK,
            handlelength=1.2,
        )


def _mark(axes: Axes, peak: int, left: bool, most: int) -> None:
    axes.annotate(
        f"{show_bytes(most)} at call {peak}",
        (peak + 0.5, 0.0),
        xycoords=("data", "axes fraction"),
        xytext=(-4 if left else 4, 4),
        textcoords="offset points",
        ha="right" if left else "left",
        va="bottom",
        fontsize=LABEL_SIZE,
        color=PEAK,
    )


def _name(
    axes: Axes, pieces: Sequence[Piece], size: int, calls: int, colours: dict[str, str]
) -> None:
    """Write names where there is room for them: along the rectangle, else upright."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()  # which settles the layout
    box = axes.get_window_extent()
    wide = box.width * 72 / figure.dpi / max(calls, 1)  # points a call
    high = box.height * 72 / figure.dpi / max(size, 1)  # points a byte
    for p in pieces:
        width, height = wide * (p.last + 1 - p.first) - 4, high * p.nbytes - 2
        length, line = 0.62 * _NAME_SIZE * len(p.name), 1.15 * _NAME_SIZE
        if length <= width and line <= height:
            turned = 0
        elif length <= height and line <= width:
            turned = 90
        else:
            continue
        middle = (p.first + p.last + 1) / 2, p.offset + p.nbytes / 2
        axes.annotate(
            p.name,
            middle,
            rotation=turned,
            ha="center",
            va="center",
            fontsize=_NAME_SIZE,
            color="white" if colours[p.kind] == _COLOURS[0] else "black",
            bbox={"facecolor": colours[p.kind], "linewidth": 0, "pad": 0.8},  # over the dashed line
            zorder=4,
        )
