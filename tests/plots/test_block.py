"""Blocks of memory, drawn."""

from __future__ import annotations

from typing import Any

import pytest

from thriftgrad.errors import DataError
from thriftgrad.plots.block import Piece, block

pytest.importorskip("matplotlib")

PIECES = [
    Piece("first", "values", 0, 60_000, 0, 9),
    Piece("second", "values", 60_000, 40_000, 2, 5),
    Piece("grad_first", "gradients", 60_000, 20_000, 6, 9),
    Piece("thin", "scratch", 99_990, 10, 7, 7),
]


def texts(axes: Any) -> list[str]:
    return [each.get_text() for each in axes.texts]


def test_rectangles_names_and_peak() -> None:
    axes = block(PIECES)
    strip = axes.figure.axes[0]
    assert strip.get_title(loc="left") == "Block of 100 kB: 4 arrays, at most 100 kB in use"
    assert texts(strip) == ["100 kB at call 2"]
    assert sorted(texts(axes)) == ["first", "grad_first", "second"]
    kinds = {each.get_label(): len(each.get_paths()) for each in axes.collections}
    assert kinds == {"values": 2, "gradients": 1, "scratch": 1}
    assert [each.get_text() for each in axes.get_legend().get_texts()] == list(kinds)


def test_names_stay_within_their_rectangles() -> None:
    axes = block(
        [*PIECES, Piece("a_name_too_long_for_two_calls" * 9, "values", 80_000, 15_000, 8, 9)]
    )
    axes.figure.draw_without_rendering()
    boxes = [
        path.get_extents(axes.transData) for each in axes.collections for path in each.get_paths()
    ]
    assert len(axes.texts) == 3
    for text in axes.texts:
        found = text.get_window_extent()
        assert any(
            box.x0 <= found.x0 and found.x1 <= box.x1 and box.y0 <= found.y0 and found.y1 <= box.y1
            for box in boxes
        )


def test_a_narrow_name_stands_upright() -> None:
    axes = block(
        [Piece("grad_weight", "gradients", 0, 1000, 0, 0), Piece("x", "values", 0, 500, 1, 20)]
    )
    assert [each.get_rotation() for each in axes.texts] == [90, 0]


def test_nothing_in_a_block() -> None:
    axes = block([], size=0)
    assert not axes.collections
    assert axes.figure.axes[0].get_title(loc="left") == "Block of 0 B: 0 arrays, at most 0 B in use"


@pytest.mark.parametrize(
    "piece",
    [
        Piece("late", "values", 0, 10, 3, 2),
        Piece("high", "values", 95, 10, 0, 1),
        Piece("low", "values", -1, 10, 0, 1),
    ],
)
def test_a_piece_that_cannot_be(piece: Piece) -> None:
    with pytest.raises(DataError, match="expected 0 <= first <= last"):
        block([piece], size=100)
