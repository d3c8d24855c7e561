"""Learning curves: how loss and accuracy went, epoch by epoch."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from thriftgrad.errors import ConfigError
from thriftgrad.plots._style import COLOURS, End, label_ends, new_figure, plain, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = NDArray[np.float64]


class Measured(Protocol):
    """What `curves` asks of a history: arrays with one entry an epoch, NaN where nothing was measured.

    A `thriftgrad.train.History` is one. Accuracies are from 0 to 1.
    """

    @property
    def epoch(self) -> NDArray[np.int64]:
        """Numbers of the epochs."""

    @property
    def train_loss(self) -> Array:
        """Loss on the training examples."""

    @property
    def train_accuracy(self) -> Array:
        """Accuracy on the training examples."""

    @property
    def validation_loss(self) -> Array:
        """Loss on the validation examples."""

    @property
    def validation_accuracy(self) -> Array:
        """Accuracy on the validation examples."""


def curves(
    histories: Measured | Mapping[str, Measured],
    path: str | os.PathLike[str] | None = None,
    axes: Sequence[Axes] | None = None,
) -> tuple[Axes, ...]:
    """Draw loss on a logarithmic scale and, where there is one, accuracy beside it.

    One history gives a line for training and one for validation. Several, as a dict from name to
    history, have a colour each: solid for validation, dashed for training, and dashed alone where
    there is no validation.

    Args:
        histories: of `thriftgrad.train.fit`, or anything with their columns (see `Measured`); at
            least one with at least one epoch.
        path: also write the picture there, as its suffix says: `.png`, `.svg`, `.pdf`.
        axes: draw into these instead of a new figure: one, or two for accuracy as well.

    Returns:
        The axes, of loss first; `axes[0].figure` is the figure.

    Raises:
        ConfigError: there is nothing to draw.
        MissingExtraError: matplotlib is missing.
        OSError: the file cannot be written.

    Example:
        >>> from thriftgrad.train import Epoch, History
        >>> history = History(Epoch(n, 1 / n, 1 - 0.2 / n, 1.2 / n, 0.9, 0.1, 1) for n in (1, 2, 3))
        >>> loss, accuracy = curves(history)
        >>> loss.get_yscale()
        'log'
    """
    if isinstance(histories, Mapping):
        runs = dict(histories)
        several = True
    else:
        runs = {"": histories}
        several = False
    runs = {name: history for name, history in runs.items() if len(history.epoch)}
    if not runs:
        raise ConfigError("curves: there is no history with an epoch in it; train first")

    measured = ["loss"]
    if any(
        not np.isnan(_column(history, "accuracy", split)).all()
        for history in runs.values()
        for split in _SPLIT
    ):
        measured.append("accuracy")
    if axes is None:
        # So that long names at the ends of the lines take nothing from the panels.
        names = 0.07 * max(len(name) for name in runs) if several else 0.6
        figure = new_figure((4.6 + names) * len(measured), 3.6)
        axes = [figure.add_subplot(1, len(measured), i + 1) for i in range(len(measured))]
    for each, quantity in zip(axes, measured, strict=False):
        _panel(each, runs, quantity, several)
    if path is not None:
        save(axes[0].figure, path)
    return tuple(axes)


def _panel(axes: Axes, runs: Mapping[str, Measured], quantity: str, several: bool) -> None:
    percent = 100.0 if quantity == "accuracy" else 1.0
    ends: list[End] = []
    drawn: list[Array] = []
    for number, (name, history) in enumerate(runs.items()):
        epochs = history.epoch
        for split in ("train", "validation"):
            values = percent * _column(history, quantity, split)
            if np.isnan(values).all():
                continue
            drawn.append(values)
            colour = COLOURS[number % len(COLOURS)] if several else _SPLIT[split]
            axes.plot(
                epochs,
                values,
                color=colour,
                linewidth=1.8,
                linestyle=(0, (3, 2)) if several and split == "train" else "solid",
                marker="o" if len(epochs) == 1 else None,
                solid_capstyle="round",
            )
            axes.plot(epochs[-1:], values[-1:], "o", color=colour, markersize=4.5)
            last = f"{values[-1]:.2f} %" if quantity == "accuracy" else f"{values[-1]:.3g}"
            if not several:
                ends.append(End(epochs[-1], values[-1], f"{_SAID[split]} {last}", colour))
            elif split == "validation" or np.isnan(_column(history, quantity)).all():
                ends.append(End(epochs[-1], values[-1], f"{name} {last}", colour))
    axes.margins(x=0.03)
    plain(axes, quantity.capitalize())
    both = several and any(line.get_linestyle() == "--" for line in axes.lines)
    axes.set_xlabel("epoch (dashed: training)" if both else "epoch", fontsize=9)
    _scale(axes, np.concatenate(drawn), quantity)
    label_ends(axes, ends)


_SPLIT = {"train": COLOURS[1], "validation": COLOURS[0]}
_SAID = {"train": "training", "validation": "validation"}


def _scale(axes: Axes, values: Array, quantity: str) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
    if quantity == "accuracy":
        axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} %"))
        return
    low, high = np.nanmin(values), np.nanmax(values)
    if low <= 0:  # a loss that may be negative has no logarithm
        return
    axes.set_yscale("log")
    # On less than a decade, ticks at powers of ten alone would say nothing.
    if high / low > 1000:
        axes.yaxis.set_major_locator(LogLocator())
    elif high / low > 8:
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    else:
        axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _column(history: Measured, quantity: str, split: str = "validation") -> Array:
    values: Array = getattr(history, f"{split}_{quantity}")
    return values
