"""The tape as a graph: which calls, which bytes, and pictures by Graphviz where it is installed."""

import os
import re
import shutil

import numpy as np
import pytest

import thriftgrad as tg
from thriftgrad.autodiff import graph as graphs
from thriftgrad.errors import DifferentiationError, FreedTapeError, MissingExtraError

DOT = shutil.which("dot")
drawn = pytest.mark.skipif(
    DOT is None and not os.environ.get("CI"), reason="Graphviz's dot is not installed"
)


def boxes(graph):
    """Return the lines of each box's label."""
    return [
        label.split("\\n")
        for label in re.findall(r'^  n\d+ \[label="([^"]*)"', graph.dot, re.MULTILINE)
    ]


def arrows(graph):
    return re.findall(r"n(\d+) -> n(\d+);", graph.dot)


def test_calls_and_bytes():
    w = tg.Tensor(np.ones((3, 4)))
    x = np.ones((5, 3))
    h = np.tanh(x @ w)
    loss = np.mean(h * h) + np.max(h)
    g = loss.graph({"w": w})
    assert boxes(g) == [
        ["w", "(3, 4) float64"],
        ["np.matmul", "(5, 4) float64", "keeps 120 B"],
        ["np.tanh", "(5, 4) float64", "keeps 160 B"],
        ["np.multiply", "(5, 4) float64"],  # tanh has kept the same array
        ["np.mean", "() float64"],
        ["np.max or np.amax", "() float64"],
        ["np.add", "() float64"],
    ]
    assert arrows(g) == [
        ("0", "1"), ("1", "2"), ("2", "3"), ("2", "3"), ("3", "4"), ("2", "5"), ("4", "6"), ("5", "6"),
    ]  # fmt: skip
    assert g.nbytes == 280
    assert repr(g) == "Graph of 7 nodes that keep 280 B"


def test_a_view_keeps_all_of_its_memory():
    big = np.ones((100, 100))
    t = np.sum(tg.Tensor(np.ones(100)) * big[0])
    assert t.graph().nbytes == big.nbytes


def test_results_of_one_call_are_one_box():
    u, s, _ = np.linalg.svd(tg.Tensor(np.diag([1.0, 2.0])))
    g = (np.sum(u) + np.sum(s)).graph()
    assert boxes(g)[1][:4] == ["np.linalg.svd", "(2, 2) float64", "(2,) float64", "(2, 2) float64"]
    assert arrows(g) == [("0", "1"), ("1", "2"), ("1", "3"), ("2", "4"), ("3", "4")]


def test_rules_of_ones_own_masks_and_sequences_are_named():
    @tg.primitive
    def cube(x):
        return x**3

    tg.defvjp(cube, x=lambda g, x: 3 * g * x * x)
    x = tg.Tensor(np.ones(3))
    masked = np.exp(x, where=np.array([True, False, True]), out=None)
    names = [box[0] for box in boxes(np.sum(np.concatenate([cube(x), masked])).graph())]
    assert names == ["leaf", "np.exp", "cube", "np.concatenate", "np.sum"]


def test_checkpoints_are_marked():
    from thriftgrad.memory import checkpoint

    w = tg.Tensor(np.ones(4))
    block = checkpoint(lambda x: np.tanh(np.sin(x) * w))
    g = np.sum(block(block(w))).graph({"w": w})
    assert [box[0] for box in boxes(g)] == ["w", "checkpoint", "checkpoint", "np.sum"]
    assert [box[-1] for box in boxes(g)][1:3] == ["recomputed"] * 2
    assert g.nbytes == 32  # the input of the second


def test_names_are_quoted():
    w = tg.Tensor(np.ones(2))
    assert r'label="a\"b\\c\n(2,) float64"' in np.sum(w).graph({'a"b\\c': w}).dot


def test_a_long_chain():
    t = tg.Tensor(1.0)
    for _ in range(20_000):
        t = t + 1.0
    g = t.graph()
    assert g.nodes == 20_001
    assert g._repr_svg_() is None


def test_refuses():
    w = tg.Tensor(np.ones(2))
    with tg.no_grad(), pytest.raises(DifferentiationError, match="records nothing"):
        np.sum(w).graph()
    t = np.sum(w * w)
    t.backward()
    with pytest.raises(FreedTapeError):
        t.graph()


def test_text_needs_no_graphviz(tmp_path, monkeypatch):
    monkeypatch.setattr(graphs.shutil, "which", lambda _: None)
    g = np.sum(tg.Tensor(np.ones(2))).graph()
    g.save(tmp_path / "g.dot")
    assert (tmp_path / "g.dot").read_text() == g.dot == str(g)
    assert g._repr_svg_() is None
    with pytest.raises(MissingExtraError, match="Graphviz, which is not installed"):
        g.save(tmp_path / "g.svg")


@drawn
def test_pictures(tmp_path):
    g = np.sum(tg.Tensor(np.ones(2)) * 2.0).graph()
    g.save(tmp_path / "g.svg")
    assert "np.multiply" in (tmp_path / "g.svg").read_text()
    g.save(tmp_path / "g.png")
    assert (tmp_path / "g.png").read_bytes().startswith(b"\x89PNG")
    assert g._repr_svg_().startswith("<svg")
    with pytest.raises(ValueError, match="dot makes no 'nonsense'"):
        g.save(tmp_path / "g.nonsense")
