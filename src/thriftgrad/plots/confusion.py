"""The confusion matrix: which class was taken for which."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thriftgrad.errors import DataError
from thriftgrad.plots._style import FAINT, INK, LABEL_SIZE, colour_map, new_figure, plain, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def confusion(
    labels: ArrayLike,
    taken_for: ArrayLike,
    names: Sequence[str] | None = None,
    path: str | os.PathLike[str] | None = None,
    axes: Axes | None = None,
) -> Axes:
    """Draw how many examples of each class were taken for each class.

    Row i, column j counts the examples of class i that were taken for class j. Mistakes alone are
    shaded, by the part of their row that they are: on the diagonal of a good classifier everything
    would be equally dark.

    Args:
        labels: the true classes, integers from 0, one an example.
        taken_for: what the model took them for, likewise.
        names: what to call the classes; None calls them by their numbers.
        path: also write the picture there, as its suffix says: `.png`, `.svg`, `.pdf`.
        axes: draw into these instead of a new figure.

    Raises:
        DataError: labels that are no integers from 0, or not one for each example.
        MissingExtraError: matplotlib is missing.
        OSError: the file cannot be written.

    Example:
        >>> axes = confusion([0, 0, 1, 2], [0, 1, 1, 2], names=["cat", "dog", "eel"])
        >>> axes.get_title(loc="left")
        'Confusion: 3 of 4 right'
    """
    true, given = _classes(labels, "labels"), _classes(taken_for, "taken_for")
    if len(true) != len(given):
        raise DataError(
            f"confusion: {len(true)} labels for {len(given)} examples in taken_for; expected one for "
            f"each"
        )
    classes = 1 + max(int(true.max()), int(given.max()))
    if names is not None and len(names) < classes:
        raise DataError(f"confusion: {len(names)} names for {classes} classes")
    called = [str(k) for k in range(classes)] if names is None else [str(n) for n in names]
    classes = len(called)
    counts = np.bincount(true * classes + given, minlength=classes**2).reshape(classes, classes)

    if axes is None:
        side = min(2.0 + 0.42 * classes, 11.0)
        axes = new_figure(side, side).add_subplot()
    _cells(axes, counts)
    right = int(np.trace(counts))
    plain(axes, f"Confusion: {right:,} of {len(true):,} right")
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    places = range(0, classes, -(-classes // 40))
    turned = max(map(len, called)) > 3
    axes.set_xticks(places, [called[i] for i in places], rotation=90 if turned else 0)
    axes.set_yticks(places, [called[i] for i in places])
    axes.set_xlabel("taken for", fontsize=LABEL_SIZE)
    axes.set_ylabel("class", fontsize=LABEL_SIZE, color=INK)
    if path is not None:
        save(axes.figure, path)
    return axes


def _cells(axes: Axes, counts: NDArray[np.int64]) -> None:
    classes = len(counts)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    np.fill_diagonal(share, 0.0)
    # A twentieth of a class mistaken for one other is as dark as it gets, unless there is worse.
    darkest = max(0.05, share.max())
    axes.imshow(share, cmap=colour_map("mistakes"), vmin=0, vmax=darkest, interpolation="nearest")
    rim = (-0.5, classes - 0.5)
    for lines in (axes.hlines, axes.vlines):
        lines(np.arange(classes + 1) - 0.5, *rim, color=FAINT, linewidth=0.6, clip_on=False)
    if classes > 20:  # no room for numbers
        return
    for (i, j), count in np.ndenumerate(counts):
        if count:
            axes.text(
                j,
                i,
                f"{count}",
                ha="center",
                va="center",
                fontsize=LABEL_SIZE - 0.25 * max(0, len(str(counts.max())) - 2),
                fontweight="bold" if i == j else "normal",
                color="white" if share[i, j] > 0.6 * darkest else INK,
            )


def _classes(given: ArrayLike, name: str) -> NDArray[Any]:
    array = np.asarray(given)
    if array.ndim != 1 or array.dtype.kind not in "iu" or not len(array):
        raise DataError(
            f"confusion: {name} has shape {array.shape} and dtype {array.dtype}; expected one integer "
            f"for each of at least one example (of scores np.argmax(scores, axis=1))"
        )
    if array.min() < 0:
        raise DataError(f"confusion: {name} has {array.min()}; classes are counted from 0")
    return array.astype(np.int64)
