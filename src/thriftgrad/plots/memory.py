"""Memory over time: how many bytes of which kind a training step holds, action by action."""

from __future__ import annotations

import os
from collections.abc import Mapping
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thriftgrad.errors import DataError
from thriftgrad.plots._style import INK, LABEL_SIZE, new_figure, plain, save
from thriftgrad.units import show_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BUDGET = "#B00020"
# What is always there is grey. The other colours are of Okabe and Ito's palette, in an order in which
# neighbours are far apart for any kind of colour vision, and none of them is near a grey.
_COLOURS = {
    "parameters": "#5F5F5F",
    "optimizer state": "#8C8C8C",
    "batch": "#B3B3B3",
    "bookkeeping": "#D0D0D0",
    "activations": "#0072B2",
    "tapes": "#E69F00",
    "cotangents": "#56B4E9",
    "gradients": "#D55E00",
    "temporaries": "#F0E442",
    "other": "#E4E4E4",
}
_MORE = ("#009E73", "#CC79A7", "#000000", "#7A3300")
"""For kinds of the caller's own, in turn."""

_SEEN = 0.005
"""A layer that is nowhere this part of the peak is thinner than a line."""


def memory(
    by_kind: Mapping[str, ArrayLike],
    *,
    budget: float | None = None,
    recomputed: ArrayLike | None = None,
    measured: ArrayLike | None = None,
    durations: ArrayLike | None = None,
    marks: Mapping[int, str] | None = None,
    path: str | os.PathLike[str] | None = None,
    axes: Axes | None = None,
) -> Axes:
    """Draw the bytes held during each of a sequence of actions, stacked by kind.

    Args:
        by_kind: for each kind, from the bottom of the stack to its top, the bytes that are held at
            the worst moment of each action; arrays of one length. Parameters, optimiser state and
            the like come first, by custom, since they are always there. Kinds that are too thin to
            be seen, at most 0.5 % of the peak, are drawn together as "other".
        budget: a line that the stack is to stay below, in bytes.
        recomputed: for each action whether it computes what was computed before; these are marked
            along the bottom.
        measured: bytes that were measured during each action, drawn as a line over the stack.
        durations: seconds that each action takes, for an axis of time; None counts actions.
        marks: what to write where an action begins, by its index, such as {40: "loss"}.
        path: also write the picture there, as its suffix says: `.png`, `.svg`, `.pdf`.
        axes: draw into these instead of a new figure.

    Raises:
        DataError: no kinds, or arrays that are negative or not of one length.
        MissingExtraError: matplotlib is missing.
        OSError: the file cannot be written.

    Example:
        >>> axes = memory(
        ...     {"parameters": [4e6] * 4, "activations": [1e6, 2e6, 2e6, 0]},
        ...     budget=8e6, recomputed=[False, False, True, False],
        ... )
        >>> axes.get_title(loc="left")
        'Memory: peak 6.00 MB, budget 8.00 MB'
    """
    stack = {name: _bytes(values, name) for name, values in by_kind.items()}
    n = len(next(iter(stack.values()), ()))
    line = None if measured is None else _bytes(measured, "measured")
    again = np.zeros(n, bool) if recomputed is None else np.asarray(recomputed, bool)
    widths = np.ones(n) if durations is None else np.asarray(durations, dtype=np.float64)
    lengths = {name: len(values) for name, values in stack.items()}
    lengths |= {"recomputed": len(again), "durations": len(widths)}
    if line is not None:
        lengths["measured"] = len(line)
    if n == 0 or len(set(lengths.values())) > 1:
        raise DataError(
            f"memory: arrays of lengths {lengths}; expected at least one kind, and one number of "
            f"bytes for each of one or more actions"
        )

    if axes is None:
        axes = new_figure(9.0, 3.8).add_subplot()
    total = np.sum(list(stack.values()), axis=0)
    unit, scale = "action", 1.0
    if durations is not None:
        whole = float(widths.sum())
        unit, scale = next((u, s) for u, s in _TIMES if whole >= 1 / s or u == "µs")
    edges = np.append(0.0, np.cumsum(scale * widths))
    base = np.zeros(n)
    more = cycle(_MORE)
    for number, (name, values) in enumerate(_seen(stack, total).items()):
        colour = _COLOURS.get(name) or next(more)
        axes.fill_between(
            edges,
            _held(base),
            _held(base + values),
            step="post",
            facecolor=colour,
            linewidth=0.6,
            edgecolor=colour,  # so that what is high for a moment only can be seen,
            zorder=1 - 0.01 * number,  # and what is thin does not hide it
            label=name if _thick(values, total) else f"_{name}",  # which legends leave out
        )
        base = base + values
    if line is not None:
        axes.step(edges, _held(line), where="post", color="black", linewidth=1.3, label="measured")
    peak = float(total.max() if line is None else max(total.max(), line.max()))
    title = f"Memory: peak {show_bytes(float(total.max()))}"
    if line is not None:
        title += f", measured {show_bytes(float(line.max()))}"
    if budget is not None:
        axes.axhline(budget, color=BUDGET, linewidth=1.3, linestyle=(0, (5, 2)), label="budget")
        title += f", budget {show_bytes(budget)}"
    plain(axes, title)
    axes.set_xlabel(unit, fontsize=LABEL_SIZE)
    _finish(axes, edges, max(peak, budget or 0.0), again, marks or {})
    if path is not None:
        save(axes.figure, path)
    return axes


def _seen(
    stack: Mapping[str, NDArray[np.float64]], total: NDArray[np.float64]
) -> dict[str, NDArray[np.float64]]:
    """Return the kinds that can be seen, and on top of them the sum of the others, if there is any."""
    seen = {name: values for name, values in stack.items() if _thick(values, total)}
    rest = total - np.sum([np.zeros(len(total)), *seen.values()], axis=0)
    if any(values.any() for name, values in stack.items() if name not in seen):
        seen["other"] = seen.pop("other", 0.0) + rest
    return seen


def _thick(values: NDArray[np.float64], total: NDArray[np.float64]) -> bool:
    return bool(values.max() > _SEEN * total.max())


def _finish(
    axes: Axes,
    edges: NDArray[np.float64],
    high: float,
    again: NDArray[Any],
    marks: Mapping[int, str],
) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    # In the stacks' own units: a tick of 0.05 GB says less than one of 50 MB.
    scale, unit = 1.0, "B"
    for factor, name in ((1e3, "kB"), (1e6, "MB"), (1e9, "GB"), (1e12, "TB")):
        if high >= factor:
            scale, unit = factor, name
    axes.set_xlim(0, edges[-1] or 1.0)
    axes.set_ylim(-0.05 * high if again.any() else 0, 1.12 * (high or 1.0))
    counted = axes.get_xlabel() == "action"
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=counted, min_n_ticks=1))
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_formatter(
        FuncFormatter(lambda value, _: f"{value / scale:g} {unit}" if value >= 0 else "")
    )
    if again.any():
        axes.broken_barh(
            list(zip(edges[:-1][again], np.diff(edges)[again], strict=True)),
            (-0.045 * high, 0.03 * high),
            facecolor="black",
            linewidth=0,
            label="recomputed",
        )
    for index, text in marks.items():
        axes.axvline(edges[index], color=INK, linewidth=0.7, linestyle=(0, (1, 2)))
        axes.annotate(
            text,
            (edges[index], 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(3, -2),
            textcoords="offset points",
            va="top",
            fontsize=LABEL_SIZE,
            color=INK,
        )
    # From top to bottom as the stack is, lines before it.
    handles, names = axes.get_legend_handles_labels()
    order = sorted(range(len(names)), key=lambda i: -i)
    axes.legend(
        [handles[i] for i in order],
        [names[i] for i in order],
        loc="upper left",
        bbox_to_anchor=(1.0, 1.02),
        frameon=False,
        fontsize=LABEL_SIZE,
        labelcolor=INK,
        handlelength=1.4,
    )


_TIMES = (("s", 1.0), ("ms", 1e3), ("µs", 1e6))


def _held(values: NDArray[Any]) -> NDArray[Any]:
    """Return the values at the edges between actions: a step needs its last one twice."""
    return np.append(values, values[-1:])


def _bytes(values: Any, name: str) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not np.isfinite(array).all() or (array < 0).any():
        raise DataError(
            f"memory: {name} has shape {array.shape}; expected numbers of bytes, one an action, none "
            f"negative"
        )
    return array
