"""How large gradients and activations are, layer by layer over time."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thriftgrad.errors import DataError
from thriftgrad.plots._style import COLOURS, LABEL_SIZE, End, label_ends, new_figure, plain, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = NDArray[Any]


def norms(
    epochs: ArrayLike,
    gradients: Mapping[str, ArrayLike],
    activations: Mapping[str, ArrayLike],
    quiet: Mapping[str, str] | None = None,
    path: str | os.PathLike[str] | None = None,
    axes: Sequence[Axes] | None = None,
) -> tuple[Axes, Axes]:
    r"""Draw the size of each layer's gradient and, beside it, of its output, over time.

    Both axes are logarithmic: what matters is whether they differ by a factor from layer to layer.

    Args:
        epochs: when the norms were taken, in epochs; (n,).
        gradients: for each layer the norm of its parameters' gradient; (n,) each.
        activations: for each layer the root mean square of its output; (n,) each.
        quiet: for each layer with units that no longer learn what is to be said of it; it is written
            below the pictures.
        path: also write the picture there, as its suffix says: `.png`, `.svg`, `.pdf`.
        axes: draw into these two instead of a new figure.

    Raises:
        DataError: no layers, or arrays that are not as long as `epochs`.
        MissingExtraError: matplotlib is missing.
        OSError: the file cannot be written.

    Example:
        >>> left, right = norms(
        ...     [0, 1, 2], {"0 Linear": [1.0, 0.1, 0.01]}, {"1 relu": [0.5, 0.4, 0.3]},
        ...     quiet={"1 relu": "3 of 30 units dead"},
        ... )
        >>> left.get_yscale(), right.get_xlabel()
        ('log', 'epoch\n1 relu: 3 of 30 units dead')
    """
    times = np.asarray(epochs, dtype=np.float64)
    series = [
        {name: np.asarray(values, dtype=np.float64) for name, values in each.items()}
        for each in (gradients, activations)
    ]
    wrong = [name for each in series for name, v in each.items() if v.shape != times.shape]
    if times.ndim != 1 or not len(times) or wrong or not all(series):
        raise DataError(
            f"norms: epochs of shape {times.shape}, {len(series[0])} layers with gradients and "
            f"{len(series[1])} with activations, of which {wrong or 'none'} differ in length; expected "
            f"at least one layer each, and one number for each time"
        )
    if axes is None:
        figure = new_figure(9.6, 3.6 + 0.14 * len(quiet or {}))
        axes = [figure.add_subplot(1, 2, i + 1) for i in range(2)]
    first, second = axes
    # A layer has one colour in both pictures.
    colours = {
        name: COLOURS[i % len(COLOURS)]
        for i, name in enumerate(dict.fromkeys([*series[1], *series[0]]))
    }
    for each, title, lines in (
        (first, "Gradient norm of each layer", series[0]),
        (second, "Output of each layer, root mean square", series[1]),
    ):
        _panel(each, title, times, lines, colours)
    notes = [f"{name}: {what}" for name, what in (quiet or {}).items()]
    second.set_xlabel("\n".join(["epoch", *notes]), fontsize=LABEL_SIZE)
    if path is not None:
        save(first.figure, path)
    return first, second


def _panel(
    axes: Axes, title: str, times: Array, lines: Mapping[str, Array], colours: Mapping[str, str]
) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    ends = []
    for name, values in lines.items():
        colour = colours[name]
        # A norm of exactly 0 has no logarithm: the line breaks off there, and its name says it.
        drawn = np.where(values > 0, values, np.nan)
        axes.plot(times, drawn, color=colour, linewidth=1.8, marker="o", markersize=3)
        if values[-1] > 0:
            ends.append(End(times[-1], values[-1], f"{name} {values[-1]:.2g}", colour))
        elif np.any(values > 0):
            ends.append(End(times[-1], float(np.nanmin(drawn)), f"{name} 0", colour))
    axes.margins(x=0.03)
    plain(axes, title)
    axes.set_xlabel("epoch", fontsize=LABEL_SIZE)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
    positive = np.concatenate([v[v > 0] for v in lines.values()])
    if len(positive):
        axes.set_yscale("log")
        decades = np.log10(positive.max() / positive.min())
        subs = (1,) if decades > 3 else (1, 2, 5)
        axes.yaxis.set_major_locator(LogLocator(subs=subs))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        # At least two ticks, however close together the norms are.
        low, high = positive.min(), positive.max()
        if high / low < 4:
            middle = (low * high) ** 0.5
            axes.set_ylim(min(middle / 2.2, low / 1.1), max(middle * 2.2, high * 1.1))
    label_ends(axes, ends)
