"""Memory over time: what is stacked where, and how high the picture says the peak is."""

import numpy as np
import pytest
from matplotlib.colors import to_hex

from thriftgrad.errors import DataError
from thriftgrad.plots import memory

KINDS = {"parameters": [2e6] * 4, "tape": [0, 1e6, 3e6, 1e6]}


def areas(axes):
    """Return for each filled area its bottom and top at each edge between actions."""

    def span(points, x):
        there = points[np.isclose(points[:, 0], x), 1]
        return there.min(), there.max()

    return {
        area.get_label(): [span(area.get_paths()[0].vertices, x) for x in range(5)]
        for area in axes.collections
        if area.get_label() in KINDS
    }


def test_kinds_are_stacked_in_order():
    stacked = areas(memory(KINDS))
    assert all(low == 0 and high == 2e6 for low, high in stacked["parameters"])
    assert all(low == 2e6 for low, _ in stacked["tape"])
    assert max(high for _, high in stacked["tape"]) == 5e6


def test_the_title_says_the_peak():
    axes = memory(KINDS, budget=6e6, measured=[2e6, 3e6, 4.5e6, 3e6])
    assert axes.get_title(loc="left") == "Memory: peak 5.00 MB, measured 4.50 MB, budget 6.00 MB"
    lines = {line.get_label(): line for line in axes.lines}
    assert set(lines["budget"].get_ydata()) == {6e6}
    np.testing.assert_array_equal(lines["measured"].get_ydata()[:4], [2e6, 3e6, 4.5e6, 3e6])
    assert axes.get_ylim()[1] > 6e6


def test_the_legend_runs_as_the_stack_does():
    legend = memory(KINDS, budget=6e6).get_legend()
    assert [t.get_text() for t in legend.get_texts()] == ["budget", "tape", "parameters"]


def test_recomputation_is_marked_where_it_happens():
    axes = memory(KINDS, recomputed=[False, False, True, True], durations=[1, 2, 3, 4])
    (marked,) = (c for c in axes.collections if c.get_label() == "recomputed")
    spans = [(p.vertices[:, 0].min(), p.vertices[:, 0].max()) for p in marked.get_paths()]
    assert spans == [(3, 6), (6, 10)]
    assert axes.get_xlim() == (0, 10)
    assert axes.get_xlabel() == "s"


@pytest.mark.parametrize(
    ("duration", "unit", "end"), [(0.5, "s", 2), (0.002, "ms", 8), (2e-6, "µs", 8), (0, "µs", 0)]
)
def test_times_have_a_unit_that_fits(duration, unit, end):
    axes = memory(KINDS, durations=[duration] * 4)
    assert axes.get_xlabel() == unit
    if end:
        np.testing.assert_allclose(axes.get_xlim(), (0, end))


def test_kinds_without_bytes_are_left_out():
    legend = memory({**KINDS, "bookkeeping": [0] * 4}).get_legend()
    assert [t.get_text() for t in legend.get_texts()] == ["tape", "parameters"]


def colours(axes):
    return {a.get_label(): to_hex(a.get_facecolor()[0]) for a in axes.collections}


def test_a_kind_has_the_same_colour_in_every_picture():
    names = ["parameters", "optimizer state", "batch", "bookkeeping", "activations", "tapes"]
    names += ["cotangents", "gradients", "temporaries"]
    all_of_them = colours(memory({name: [1e6] for name in names}))
    assert list(all_of_them) == names
    assert len(set(all_of_them.values())) == len(names)
    for name in names:
        assert colours(memory({"mine": [1e6], name: [1e6]}))[name] == all_of_them[name]
    greys = {name for name, colour in all_of_them.items() if len({*map(ord, colour[1::2])}) == 1}
    assert greys == set(names[:4])


def test_what_cannot_be_seen_is_drawn_together():
    thin = {f"thin {i}": [1e4, 0, 0, 0] for i in range(3)}
    axes = memory({**thin, **KINDS, "thick": [0, 0, 3e4, 0]})
    assert [t.get_text() for t in axes.get_legend().get_texts()] == [
        *("other", "thick", "tape", "parameters")
    ]
    (other,) = (a for a in axes.collections if a.get_label() == "other")
    assert np.ptp(other.get_paths()[0].vertices[:2, 1]) == 3e4
    axes = memory({**KINDS, "thin": [0, 0, 1e4, 0]})
    assert [t.get_text() for t in axes.get_legend().get_texts()] == ["tape", "parameters"]
    assert axes.get_title(loc="left") == "Memory: peak 5.01 MB"


def test_marks(tmp_path):
    axes = memory(KINDS, marks={2: "loss"}, path=tmp_path / "m.svg")
    (text,) = axes.texts
    assert text.get_text() == "loss"
    assert text.xy[0] == 2
    assert "loss" in (tmp_path / "m.svg").read_text()


@pytest.mark.parametrize(
    ("kinds", "more", "message"),
    [
        ({}, {}, "at least one kind"),
        ({"tape": []}, {}, "at least one kind"),
        ({"tape": [1, 2], "data": [1]}, {}, "lengths {'tape': 2, 'data': 1"),
        ({"tape": [-1.0]}, {}, "none negative"),
        ({"tape": [np.nan]}, {}, "numbers of bytes"),
        ({"tape": [1.0]}, {"measured": [1, 2]}, "'measured': 2"),
        ({"tape": [1.0]}, {"recomputed": [True, False]}, "'recomputed': 2"),
    ],
)
def test_refuses(kinds, more, message):
    with pytest.raises(DataError, match=message):
        memory(kinds, **more)
