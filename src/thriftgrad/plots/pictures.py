"""Pictures of pictures: the images that a model is most wrong about, and what its units look for."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thriftgrad.errors import DataError
from thriftgrad.plots._style import (
    FAINT,
    INK,
    LABEL_SIZE,
    colour_map,
    new_figure,
    plain,
    save,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = NDArray[Any]


def worst(
    images: ArrayLike,
    labels: ArrayLike,
    scores: ArrayLike,
    *,
    shape: Sequence[int] | None = None,
    most: int = 24,
    names: Sequence[str] | None = None,
    path: str | os.PathLike[str] | None = None,
    axes: Axes | None = None,
) -> Axes:
    """Draw the images that are classified worst, the worst first.

    An example is the worse, the more the highest score of a wrong class exceeds that of its own:
    maxⱼ≠ᵧ sⱼ − sᵧ. Those where it does not are right, and are not shown.

    Args:
        images: (n, height, width), or rows of pixels; dark is high.
        labels: the true classes, integers from 0, of shape (n,).
        scores: the model's outputs of shape (n, classes), in any unit.
        shape: height and width of an image, where images are rows; None where they are square.
        most: how many to show at most.
        names: what to call the classes; None calls them by their numbers.
        path: also write the picture there, as its suffix says: `.png`, `.svg`, `.pdf`.
        axes: draw into these instead of a new figure.

    Raises:
        DataError: arrays that do not fit together, or images that are no planes of pixels.
        MissingExtraError: matplotlib is missing.
        OSError: the file cannot be written.

    Example:
        >>> images, scores = np.zeros((3, 4, 4)), np.array([[2.0, 1.0], [2.0, 0.0], [0.0, 5.0]])
        >>> axes = worst(images, [0, 1, 1], scores)
        >>> axes.get_title(loc="left"), [text.get_text() for text in axes.texts]
        ('Worst classified: 1 of 1 mistakes', ['1, taken for 0'])
    """
    planes = as_planes(images, shape, "worst: images")
    labels, scores = np.asarray(labels), np.asarray(scores)
    n = len(planes)
    if labels.shape != (n,) or labels.dtype.kind not in "iu" or scores.shape[:1] != (n,):
        raise DataError(
            f"worst: {n} images with labels of shape {labels.shape} and dtype {labels.dtype} and "
            f"scores of shape {scores.shape}; expected an integer and a row of scores for each image"
        )
    if (
        scores.ndim != 2
        or scores.shape[1] < 2
        or not 0 <= labels.min() <= labels.max() < scores.shape[1]
    ):
        raise DataError(
            f"worst: labels from {labels.min()} to {labels.max()} for scores of shape {scores.shape}; "
            f"expected a score for each of two classes or more, counted from 0"
        )
    own = scores[np.arange(n), labels]
    others = scores.astype(np.float64)
    others[np.arange(n), labels] = -np.inf
    margin = others.max(axis=1) - own
    wrong = np.flatnonzero(margin > 0)
    shown = wrong[np.argsort(-margin[wrong], kind="stable")][:most]
    called = list(map(str, range(scores.shape[1]))) if names is None else names
    titles = [f"{called[labels[i]]}, taken for {called[int(others[i].argmax())]}" for i in shown]
    heading = f"Worst classified: {len(shown):,} of {len(wrong):,} mistakes"
    return _mosaic(
        planes[shown],
        heading,
        titles=titles,
        kind="ink",
        path=path,
        axes=axes,
        columns=8,
        room=0.25,
    )


def weights(
    weight: ArrayLike,
    *,
    shape: Sequence[int] | None = None,
    most: int = 40,
    path: str | os.PathLike[str] | None = None,
    axes: Axes | None = None,
) -> Axes:
    """Draw the weights of a first layer as images: what in the input drives each unit.

    Blue weights raise a unit, orange ones lower it, white ones are 0; the deepest colour is the
    largest magnitude shown. Where there are more units than `most`, those with the largest norm are
    shown.

    Args:
        weight: (inputs, units), as `Linear` has it.
        shape: height and width of an image; None where it is square.
        most: how many units to show at most.
        path: also write the picture there, as its suffix says: `.png`, `.svg`, `.pdf`.
        axes: draw into these instead of a new figure.

    Raises:
        DataError: the inputs are no plane of pixels of this shape.
        MissingExtraError: matplotlib is missing.
        OSError: the file cannot be written.

    Example:
        >>> axes = weights(np.eye(16), shape=(4, 4))
        >>> axes.get_title(loc="left")
        'First-layer weights: all 16 units'
    """
    array = np.asarray(weight)
    if array.ndim != 2:
        raise DataError(f"weights: an array of shape {array.shape}; expected (inputs, units)")
    planes = as_planes(array.T, shape, "weights: the columns")
    if len(planes) <= most:
        heading = f"First-layer weights: all {len(planes)} units"
    else:
        norms = np.sum(np.square(planes, dtype=np.float64), axis=(1, 2))
        planes = planes[np.sort(np.argsort(-norms, kind="stable")[:most])]
        heading = f"First-layer weights: the {most} largest of {array.shape[1]} units"
    limit = float(np.abs(planes).max()) or 1.0
    axes = _mosaic(
        planes / limit, heading, kind="signed", path=None, axes=axes, columns=10, room=0.0
    )
    _key(axes, limit)
    if path is not None:
        save(axes.figure, path)
    return axes


def _mosaic(
    planes: Array,
    heading: str,
    *,
    titles: Sequence[str] = (),
    kind: str,
    path: str | os.PathLike[str] | None,
    axes: Axes | None,
    columns: int,
    room: float,
) -> Axes:
    """Draw images in rows, as one image, with `room` heights of an image for a title above each."""
    n = len(planes)
    columns = max(1, min(columns, n))
    rows = max(1, -(-n // columns))
    height, width = planes.shape[1:] if n else (1, 1)
    gap = max(1, round(0.08 * width))
    top = gap + math.ceil(room * height) if n else 0
    board = np.full((rows * (height + top) + gap, columns * (width + gap) + gap), np.nan)
    for i, plane in enumerate(planes):
        y, x = (i // columns) * (height + top) + top, (i % columns) * (width + gap) + gap
        board[y : y + height, x : x + width] = plane
    if axes is None:
        inches = 9.0 if columns > 4 else 1.2 * columns + 0.6
        wide = inches - (0.7 if kind == "signed" else 0.1)
        axes = new_figure(inches, 0.45 + wide * board.shape[0] / board.shape[1]).add_subplot()
    low = -1.0 if kind == "signed" else 0.0
    axes.imshow(board, cmap=colour_map(kind), vmin=low, vmax=1.0, interpolation="nearest")
    plain(axes, heading)
    axes.set_axis_off()
    if not n:
        axes.text(0.5, 0.5, "none", transform=axes.transAxes, ha="center", va="center", color=INK)
    for i in range(n):
        y, x = (i // columns) * (height + top) + top, (i % columns) * (width + gap) + gap
        _frame(axes, x, y, width, height)
        if titles:
            axes.text(
                x, y - 0.06 * height, titles[i], fontsize=LABEL_SIZE - 1, color=INK, va="bottom"
            )
    if path is not None:
        save(axes.figure, path)
    return axes


def _frame(axes: Axes, x: float, y: float, width: int, height: int) -> None:
    from matplotlib.patches import Rectangle

    corner = (x - 0.5, y - 0.5)
    axes.add_patch(Rectangle(corner, width, height, fill=False, edgecolor=FAINT, linewidth=0.7))


def _key(axes: Axes, limit: float) -> None:
    """Write beside the images which colour stands for which weight."""
    bar = axes.inset_axes((1.01, 0.0, 0.012, 1.0))
    bar.imshow(
        np.linspace(1, -1, 256)[:, np.newaxis],
        cmap=colour_map("signed"),
        aspect="auto",
        extent=(0, 1, -1, 1),
    )
    bar.set_xticks([])
    bar.yaxis.tick_right()
    bar.set_yticks([-1, 0, 1], [f"−{limit:.2g}", "0", f"{limit:.2g}"])
    bar.tick_params(length=0, colors=INK, labelsize=LABEL_SIZE)
    for spine in bar.spines.values():
        spine.set_color(FAINT)


def as_planes(images: ArrayLike, shape: Sequence[int] | None, what: str) -> Array:
    """Return images as planes (n, height, width); `what` is what to call them in an error.

    Raises:
        DataError: they are no planes of pixels of this shape.
    """
    array = np.asarray(images)
    if array.ndim == 3 and shape is None:
        return array
    pixels = array.size // max(len(array), 1) if array.ndim in (2, 3) else -1
    if shape is None:
        side = math.isqrt(max(pixels, 0))
        shape = (side, side)
    if len(shape) != 2 or math.prod(shape) != pixels:
        raise DataError(
            f"{what} have shape {array.shape}, which are no images of {tuple(shape)} pixels; pass "
            f"shape=(height, width)"
        )
    return array.reshape(-1, *shape)
