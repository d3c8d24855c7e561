"""Pictures as text in a page: well-formed, self-contained, in the page's colours, always the same."""

import re
from xml.etree import ElementTree

import numpy as np

from thriftgrad.plots import confusion, memory, weights
from thriftgrad.plots.inline import STYLE, inline_svg


def test_well_formed_and_self_contained():
    for axes in (
        confusion([0, 1, 1], [0, 1, 0]),
        weights(np.eye(9)),
        memory({"tape": [1, 2]}, budget=3, recomputed=[True, False]),
    ):
        svg = inline_svg(axes, 'a "picture" <of> it')
        root = ElementTree.fromstring(svg)
        assert root.get("aria-label") == 'a "picture" <of> it'
        for link in re.findall(r'(?:href|src)="([^"]*)"', svg):
            assert link.startswith(("#", "data:image/png;base64,"))
        without = re.sub(r'xmlns(:xlink)?="[^"]*"', "", svg)
        assert "http" not in without
        assert "<style" not in svg


def test_words_stay_words_in_colours_of_the_page():
    svg = inline_svg(confusion([0, 1], [0, 1], names=["cat", "dog"]), "")
    assert re.findall(r">(cat|dog)</text>", svg) == ["cat", "dog", "cat", "dog"]
    used = set(re.findall(r"var\(--([a-z0-9]+)\)", svg))
    assert "ink" in used
    assert all(STYLE.count(f"--{name}:") == 2 for name in used)  # by day and by night
    assert "#333333" not in svg


def test_the_same_picture_is_the_same_text():
    one, other = (inline_svg(confusion([0, 1], [0, 1]), "") for _ in range(2))
    assert one == other
