"""The picture that `train.Live` shows, made to be redrawn in a few milliseconds.

Drawing eighteen panels takes matplotlib a third of a second. All but a few lines, markers and words is
the same from one time to the next, though: that is drawn once and kept as pixels, and only what moves
is drawn over a copy of it. The panels of loss and accuracy are drawn anew when their limits change,
which they do in strides, a few times in a training.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from thriftgrad.plots._style import COLOURS, FAINT, INK, LABEL_SIZE, colour_map, lone_figure, plain

Array = NDArray[Any]

RIGHT, WRONG = COLOURS[2], COLOURS[1]
TRAINING, VALIDATION = COLOURS[1], COLOURS[0]
SAMPLES = 8

_WIDTH, _HEIGHT = 0.145, 0.1635
"""Of a stem plot, as parts of the figure."""
_MIDDLE = 0.518
"""Where the panel of loss ends, as a part of the figure, and that of accuracy begins."""
_TOP = 1.04
"""The output at the upper rim of a stem plot, a little above the largest."""


class Curves(NamedTuple):
    """What there is to show of a training: times in epochs, and values, for each of four lines.

    Accuracies are from 0 to 1.
    """

    loss: tuple[Array, Array]
    validation_loss: tuple[Array, Array]
    accuracy: tuple[Array, Array]
    validation_accuracy: tuple[Array, Array]


class Board:
    """Loss above accuracy on the left; on the right up to eight images, each beside the outputs for it.

    Args:
        epochs: how far the axes of time go.
        images: (n, height, width), n at most 8; empty for curves alone.
        labels: their classes.
        names: what the classes are called.
    """

    def __init__(self, epochs: int, images: Array, labels: Array, names: Sequence[str]) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        self.labels = labels
        self.names = names
        self.epochs = epochs
        wide = len(images) > 0
        self.figure = lone_figure(10.0 if wide else 4.6, 5.2)
        self.figure.set_layout_engine("none")
        self.canvas: Any = FigureCanvasAgg(self.figure)
        width = 0.28 if wide else 0.62
        left = 0.062 if wide else 0.135
        self.panels = [
            _Panel(self.figure.add_axes((left, bottom, width, 0.365)), title, epochs)
            for bottom, title in ((0.56, "Loss"), (0.085, "Accuracy"))
        ]
        self.stems = _Stems(self.figure, images, names) if wide else None
        # Three layers of pixels: what never changes; the panels on it; on these the words, which take
        # most of the time of all that moves, and seldom change.
        self._still: list[Any] = []
        self._panelled: Any = None
        self._titled: Any = None
        self._said: list[Any] = []

    def draw(self, curves: Curves, outputs: Array | None) -> Array:
        """Return the picture as an array of bytes (height, width, 4)."""
        loss, accuracy = self.panels
        changed = [
            loss.show(curves.loss, curves.validation_loss),
            accuracy.show(
                *((x, 100 * y) for x, y in (curves.accuracy, curves.validation_accuracy))
            ),
        ]
        if self.stems is not None and outputs is not None:
            self.stems.show(outputs, self.labels)
        renderer = self.canvas.get_renderer()
        if not self._still:
            self._draw_still()
            changed = [True, True]
        elif any(changed):
            self.canvas.restore_region(self._panelled)
        if any(changed):
            for panel, still, its in zip(self.panels, self._still, changed, strict=True):
                if its:
                    self.canvas.restore_region(still)
                    panel.axes.draw(renderer)
            self._panelled = self.canvas.copy_from_bbox(self.figure.bbox)
        words = [
            text for each in (*self.panels, self.stems) if each is not None for text in each.words
        ]
        said = [(text.get_text(), text.get_position()) for text in words]
        if any(changed) or said != self._said:
            self.canvas.restore_region(self._panelled)
            for text in words:
                text.draw(renderer)
            self._said = said
            self._titled = self.canvas.copy_from_bbox(self.figure.bbox)
        self.canvas.restore_region(self._titled)
        for each in (*self.panels, self.stems):
            for artist in each.moving if each is not None else ():
                artist.draw(renderer)
        pixels: Array = np.asarray(self.canvas.buffer_rgba())
        return pixels

    def _draw_still(self) -> None:
        """Draw all but the panels, and keep the upper and the lower half of that."""
        from matplotlib.transforms import Bbox

        for panel in self.panels:
            panel.axes.set_visible(False)
        self.canvas.draw()
        for panel in self.panels:
            panel.axes.set_visible(True)
        _, _, width, height = self.figure.bbox.bounds
        middle = round(_MIDDLE * height)
        self._still = [
            self.canvas.copy_from_bbox(Bbox.from_extents(0, bottom, width, top))
            for bottom, top in ((middle, height), (0, middle))
        ]


class _Panel:
    """Axes with a line for training and one for validation, and their names at the right end."""

    def __init__(self, axes: Any, title: str, epochs: int) -> None:
        self.axes = axes
        self.percent = title == "Accuracy"
        self.limits: tuple[float, float] | None = None
        plain(axes, title)
        axes.set_xlim(0, epochs)
        axes.set_xlabel("epoch" if self.percent else "", fontsize=LABEL_SIZE)
        self.lines = [
            axes.plot([], [], color=colour, linewidth=width, animated=True)[0]
            for colour, width in ((TRAINING, 1.2), (VALIDATION, 1.8))
        ]
        self.ends = [
            axes.plot([], [], "o", color=colour, markersize=4.5, clip_on=False, animated=True)[0]
            for colour in (TRAINING, VALIDATION)
        ]
        self.texts = [
            axes.text(0, 0, "", color=colour, fontsize=LABEL_SIZE, va="center", animated=True)
            for colour in (TRAINING, VALIDATION)
        ]
        for text in self.texts:
            text.set_transform(axes.transAxes)
        # The loss of the training has another value each time.
        often = 0 if self.percent else 1
        self.moving = [*self.lines, *self.ends, *self.texts[:often]]
        self.words = self.texts[often:]
        self._ticks()

    def show(self, training: tuple[Array, Array], validation: tuple[Array, Array]) -> bool:
        """Take over the numbers; say whether the limits have changed."""
        both = (training, validation)
        values = np.concatenate([y[np.isfinite(y)] for _, y in both])
        limits = _percent_limits(values) if self.percent else _loss_limits(values, self.limits)
        changed = limits != self.limits
        if changed:
            self.limits = limits
            self.axes.set_yscale("log" if not self.percent and limits[0] > 0 else "linear")
            self.axes.set_ylim(*limits)
            self._ticks()
        heights = []
        for (x, y), line, end in zip(both, self.lines, self.ends, strict=True):
            line.set_data(x, y)
            end.set_data(x[-1:], y[-1:])
            heights.append(float(self._height(y[-1])) if len(y) else math.nan)
        if abs(heights[0] - heights[1]) < 0.09:  # the one that moves less often keeps its place
            heights[0] = heights[1] + (0.09 if heights[0] >= heights[1] else -0.09)
        for text, name, height, (_, y) in zip(
            self.texts, ("training", "validation"), heights, both, strict=True
        ):
            shown = math.isfinite(height)
            text.set_text(f"{name} {self._said(y[-1])}" if shown else "")
            text.set_position((1.03, height if shown else 0.0))
        return changed

    def _said(self, value: float) -> str:
        return f"{value:.2f} %" if self.percent else f"{value:.3g}"

    def _height(self, value: float) -> float:
        low, high = self.limits or (0.0, 1.0)
        if self.axes.get_yscale() == "log":
            low, high, value = math.log(low), math.log(high), math.log(value)
        return (value - low) / (high - low)

    def _ticks(self) -> None:
        from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

        self.axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
        unit = " %" if self.percent else ""
        low, high = self.limits or (0.0, 1.0)
        if self.axes.get_yscale() == "log":
            self.axes.yaxis.set_major_locator(
                LogLocator(subs=(1,) if high / low > 1000 else (1, 2, 5))
            )
        else:
            self.axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
        self.axes.yaxis.set_minor_locator(NullLocator())
        self.axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}{unit}"))


class _Stems:
    """A grid of four by four: images in the first and third column, outputs beside each."""

    def __init__(self, figure: Any, images: Array, names: Sequence[str]) -> None:
        from matplotlib.collections import LineCollection

        self.names = names
        classes = len(names)
        self.corners: list[tuple[float, float]] = []
        self.titles = []
        dark = float(np.max(images)) or 1.0
        for i, image in enumerate(images):
            # Down the first pair of columns, then down the second.
            column, row = divmod(i, 4)
            left, bottom = 0.478 + 0.268 * column, 0.768 - 0.2275 * row
            picture = figure.add_axes((left, bottom, 0.085, _HEIGHT))
            picture.imshow(image, cmap=colour_map("ink"), vmin=0, vmax=dark)
            picture.set(xticks=[], yticks=[])
            axes = figure.add_axes((left + 0.098, bottom, _WIDTH, _HEIGHT))
            axes.set(xlim=(-0.6, classes - 0.4), ylim=(0, _TOP), yticks=[])
            every = -(-classes // 10)
            places = range(0, classes, every)
            short = max(len(names[k]) for k in places) <= 2
            axes.set_xticks(places, [names[k] if short else str(k) for k in places])
            axes.tick_params(length=0, colors=INK, labelsize=6.5, pad=3)
            for spine in (*picture.spines.values(), *axes.spines.values()):
                spine.set_color(FAINT)
            axes.spines[["top", "right", "left"]].set_visible(False)
            axes.spines["bottom"].set_color("#999999")
            self.corners.append((left + 0.098, bottom))
            self.titles.append(
                figure.text(
                    left + 0.098,
                    bottom + 0.166,
                    "",
                    fontsize=LABEL_SIZE,
                    va="bottom",
                    animated=True,
                )
            )
        # All stems are one collection and all heads another, in the figure's coordinates.
        self.bars: Any = LineCollection(
            [], linewidths=1.6, transform=figure.transFigure, animated=True
        )
        self.heads = figure.add_artist(_markers(figure))
        figure.add_artist(self.bars)
        self.moving = [self.bars, self.heads]
        self.words = self.titles

    def show(self, outputs: Array, labels: Array) -> None:
        """Take over the outputs."""
        found = np.argmax(outputs, axis=1)
        for f, label, title in zip(found, labels, self.titles, strict=True):
            title.set_text(
                f"✓ {self.names[f]}" if f == label else f"✗ {self.names[f]}, is {self.names[label]}"
            )
            title.set_color(RIGHT if f == label else WRONG)
        n, classes = outputs.shape
        feet, heads = np.empty((n, classes, 2)), np.empty((n, classes, 2))
        corners = np.array(self.corners)
        feet[..., 0] = heads[..., 0] = corners[:, :1] + _WIDTH * (np.arange(classes) + 0.6) / (
            classes + 0.2
        )
        feet[..., 1] = corners[:, 1:]
        heads[..., 1] = corners[:, 1:] + _HEIGHT / _TOP * np.clip(outputs, 0.0, 1.0)
        colours = np.full((n, classes), "#888888", dtype=object)
        colours[np.arange(n), found] = WRONG
        colours[np.arange(n), labels] = RIGHT
        self.bars.set_segments(np.stack([feet, heads], axis=2).reshape(-1, 2, 2))
        self.heads.set_offsets(heads.reshape(-1, 2))
        for each in (self.bars, self.heads):
            each.set_color(list(colours.flat))


def _markers(figure: Any) -> Any:
    from matplotlib.collections import CircleCollection
    from matplotlib.transforms import IdentityTransform

    heads = CircleCollection(
        [9.0], offsets=[(0.0, 0.0)], offset_transform=figure.transFigure, animated=True
    )
    heads.set_transform(IdentityTransform())
    return heads


def png(pixels: Array) -> bytes:
    """Return a picture as a PNG file, in half the time that Pillow takes.

    The rows are compressed as they are and in a hurry: the next picture soon takes this one's place.
    """
    height, width = pixels.shape[:2]
    rows = np.zeros((height, 1 + 4 * width), np.uint8)  # a row begins with 0: it is told as it is
    rows[:, 1:] = pixels.reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(rows.data, 1)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    )


def _loss_limits(values: Array, before: tuple[float, float] | None) -> tuple[float, float]:
    """Return limits that hold all values, and those before as long as they do."""
    if not len(values):
        return before or (0.1, 10.0)
    low, high = float(values.min()), float(values.max())
    if before and before[0] <= low and high <= before[1]:
        return before
    if low > 0 and not (before and before[0] <= 0):
        # With room to fall further: half a decade now saves drawing all anew at every step.
        old_low, old_high = before or (low, high)
        return (
            low / 3 if low < old_low or not before else old_low,
            high * 1.3 if high > old_high or not before else old_high,
        )
    span = (high - low) or abs(high) or 1.0
    return min(low - 0.5 * span, 0.0), high + 0.1 * span


def _percent_limits(values: Array) -> tuple[float, float]:
    """Return limits for accuracies: from a round number below the lowest to 100 %."""
    lowest = float(values.min()) if len(values) else 0.0
    floor = max((f for f in (0.0, 50.0, 80.0, 90.0, 95.0, 98.0) if f <= lowest), default=0.0)
    return floor, 100.0 + 0.02 * (100.0 - floor)
