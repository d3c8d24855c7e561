"""A picture as text within a page, which may be dark or light."""

from __future__ import annotations

import re
from html import escape
from io import StringIO
from typing import TYPE_CHECKING

from thriftgrad.plots._style import COLOURS, FAINT, INK

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LIGHT = {
    "ink": INK,
    "faint": FAINT,
    "line": "#999999",
    "grey": "#8C8C8C",
    "budget": "#B00020",
    **{f"c{i}": colour for i, colour in enumerate(COLOURS)},
}
_DARK = {
    "ink": "#D6D6D6",
    "faint": "#3A3A3A",
    "line": "#777777",
    "grey": "#8C8C8C",
    "budget": "#FF6B7E",
    **dict(
        zip(
            (f"c{i}" for i in range(len(COLOURS))),
            ("#4DA6DB", "#F0803C", "#2BBF95", "#DD9CC0", "#EBB43A", "#7CC7F0", "#F5F5F5"),
            strict=True,
        )
    ),
}

STYLE = (
    ":root{"
    + ";".join(f"--{name}:{colour}" for name, colour in _LIGHT.items())
    + "}@media (prefers-color-scheme:dark){:root{"
    + ";".join(f"--{name}:{colour}" for name, colour in _DARK.items())
    + "}}figure svg *{stroke-linejoin:round;stroke-linecap:butt}"
    + "figure svg image{image-rendering:pixelated}"
)
"""The CSS that the pictures need, once a page: their colours by day and by night."""


def inline_svg(axes: Axes, description: str) -> str:
    """Return the figure of these axes as an `<svg>` element to be put into a page with `STYLE`.

    Words stay words, in the page's own font, and colours follow the page's scheme. Nothing is loaded
    from anywhere.

    Args:
        axes: any axes of the figure.
        description: what a screen reader says.

    Example:
        >>> from thriftgrad.plots import confusion
        >>> inline_svg(confusion([0, 1], [0, 1]), "a confusion matrix")[:48]
        '<svg role="img" aria-label="a confusion matrix" '
    """
    from matplotlib import rc_context

    figure = axes.get_figure(root=True)
    assert figure is not None
    text = StringIO()
    # The salt makes ids out of the content alone, so that the same run gives the same page.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "thriftgrad"}):
        figure.savefig(text, format="svg", transparent=True, dpi=220)
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r'style="[^"]*"', _themed, svg)
    width = re.search(r'width="([\d.]+)pt"', svg)
    box = re.search(r'viewBox="[^"]*"', svg)
    assert width is not None
    assert box is not None
    head = (
        f'<svg role="img" aria-label="{escape(description)}" xmlns="http://www.w3.org/2000/svg" '
        f'xmlns:xlink="http://www.w3.org/1999/xlink" {box[0]} '
        f'style="width:100%;max-width:{float(width[1]) * 4 / 3:.0f}px;height:auto">'
    )
    return head + svg[svg.index(">") + 1 :]


_NAMES = {colour.lower(): name for name, colour in _LIGHT.items()}


def _themed(style: re.Match[str]) -> str:
    text = re.sub(
        r"#[0-9a-f]{6}",
        lambda c: f"var(--{_NAMES[c[0]]})" if c[0] in _NAMES else c[0],
        style[0],
    )
    return re.sub(r"(font: [^;]*?px) [^;\"]*", r"\1 inherit", text).replace(
        "px inherit", "px sans-serif"
    )
