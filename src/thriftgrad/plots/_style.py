"""What all pictures share: matplotlib once it is needed, colours, axes without ornament."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from thriftgrad.errors import MissingExtraError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, which people with any kind of colour vision can tell apart, without its
# yellow, which is too faint on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
INK = "#333333"
FAINT = "#DDDDDD"
LABEL_SIZE = 9.0


class End(NamedTuple):
    """What a line is to be called at its right end, and where that is."""

    x: float
    y: float
    text: str
    colour: str


# What stands for nothing is transparent, so that the pictures can lie on any ground.
_MAPS = {
    "ink": ("#FFFFFF", "#000000"),
    "mistakes": ("#D55E0000", "#D55E0060", "#D55E00", "#7A3300"),
    "signed": (
        *("#8A3D00", "#D55E00", "#D55E0080", "#D55E0000"),
        *("#0072B200", "#0072B280", "#0072B2", "#003F66"),
    ),
}


def colour_map(kind: str) -> Any:
    """Return a scale of colours: "ink" on paper, "mistakes", or "signed" numbers, orange to blue."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list(kind, _MAPS[kind])


def new_figure(width: float, height: float) -> Figure:
    """Return a figure of so many inches, which a notebook shows below the cell that it is drawn in.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    if "ipykernel" not in sys.modules:
        return lone_figure(width, height)
    with _matplotlib():
        from matplotlib import pyplot
    # Jupyter shows the figures that pyplot knows of when a cell has ended, and closes them.
    return pyplot.figure(figsize=(width, height), layout="constrained", facecolor="white")


def lone_figure(width: float, height: float) -> Figure:
    """Return a figure of so many inches that belongs to nobody: no window, no list of open figures.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    with _matplotlib():
        from matplotlib.figure import Figure
    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


@contextmanager
def _matplotlib() -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise MissingExtraError(
            "plots need matplotlib, which is not installed: pip install 'thriftgrad[plots]'"
        ) from error


def save(figure: Any, path: str | os.PathLike[str]) -> None:
    """Write a figure to a file whose suffix says in which format.

    Raises:
        OSError: the file cannot be written.
        ValueError: matplotlib does not know the format.
    """
    figure.savefig(path, dpi=150)


def plain(axes: Axes, title: str) -> None:
    """Leave of an axes' furniture what helps reading: a faint grid, and a title at the left."""
    axes.set_title(title, loc="left", fontsize=12, fontweight="bold", color=INK, pad=8)
    axes.grid(visible=True, color=FAINT, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", length=0, colors=INK, labelsize=LABEL_SIZE)
    axes.xaxis.label.set_color(INK)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color("#999999")


def label_ends(axes: Axes, ends: Sequence[End]) -> None:
    """Write each line's name beside its right end, moved apart where two would overlap.

    To be called when the limits and scales of the axes are final.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    points = figure.get_figheight() * 72 * axes.get_position().height
    gap = 1.35 * LABEL_SIZE / points
    to_fraction = axes.transScale + axes.transLimits
    right = axes.get_xlim()[1]
    placed = sorted(((to_fraction.transform((end.x, end.y))[1], end) for end in ends), key=_first)
    heights = _apart([height for height, _ in placed], gap)
    for height, (_, end) in zip(heights, placed, strict=True):
        axes.annotate(
            end.text,
            (to_fraction.transform((right, end.y))[0], height),
            xycoords="axes fraction",
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            color=end.colour,
            fontsize=LABEL_SIZE,
            annotation_clip=False,
        )


def _first(pair: tuple[float, End]) -> float:
    return pair[0]


def _apart(heights: list[float], gap: float) -> list[float]:
    """Move rising heights until they are `gap` apart, in groups that keep their mean."""
    groups: list[list[float]] = []
    for height in heights:
        groups.append([height])
        while len(groups) > 1 and _bottom(groups[-1], gap) - _top(groups[-2], gap) < gap:
            last = groups.pop()
            groups[-1] += last
    return [_bottom(group, gap) + i * gap for group in groups for i in range(len(group))]


def _bottom(group: list[float], gap: float) -> float:
    return sum(group) / len(group) - gap * (len(group) - 1) / 2


def _top(group: list[float], gap: float) -> float:
    return _bottom(group, gap) + gap * (len(group) - 1)
