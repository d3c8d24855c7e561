"""The tape as a graph: what a backward pass will go through, and what each call keeps for it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from thriftgrad.autodiff.adjoint import describe
from thriftgrad.autodiff.registry import RULES, Rule
from thriftgrad.autodiff.tape import Fork, Leaf, Node, Output, reachable
from thriftgrad.autodiff.tensor import Tensor
from thriftgrad.errors import DifferentiationError, MissingExtraError

MOST = 400
"""A notebook draws no graph of more nodes than this: nobody could read it, and it takes minutes."""


class Graph:
    """A tape as a graph, which a notebook draws where Graphviz's `dot` is installed.

    Attributes:
        dot: the graph in Graphviz's language.
        nodes: how many nodes it has.
        nbytes: how many bytes the tape keeps alive, each array counted once.
    """

    def __init__(self, dot: str, nodes: int, nbytes: int) -> None:
        self.dot = dot
        self.nodes = nodes
        self.nbytes = nbytes

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the graph to a file: as text if it ends in `.dot`, else a picture (`.svg`, `.png`).

        Raises:
            MissingExtraError: a picture is asked for, and there is no `dot`.
            ValueError: `dot` does not know the format.
            OSError: the file cannot be written.
        """
        path = Path(path)
        if path.suffix in (".dot", ".gv"):
            path.write_text(self.dot, encoding="utf-8")
        else:
            path.write_bytes(_drawn(self.dot, path.suffix.lstrip(".")))

    def __str__(self) -> str:
        return self.dot

    def __repr__(self) -> str:
        return f"Graph of {self.nodes:,} nodes that keep {_bytes(self.nbytes)}"

    def _repr_svg_(self) -> str | None:
        if self.nodes > MOST or shutil.which("dot") is None:
            return None
        svg = _drawn(self.dot, "svg").decode("utf-8")
        return svg[svg.index("<svg") :]


def graph(tensor: Tensor, names: Mapping[str, Tensor] | None = None) -> Graph:
    r"""Return the tape behind a tensor, from the leaves at the top to the tensor at the bottom.

    A box is a recorded call: its function, the shape and dtype of its result, and the bytes that it
    keeps for its derivative, where no call above it has kept the same memory already. Filled boxes keep
    something; dashed ones are checkpoints, which keep their inputs and are computed again. Rounded boxes
    are leaves.

    Args:
        tensor: where the backward pass would begin.
        names: what to call leaves, such as `dict(model.named_parameters())`. What these hold is not
            counted: it is there in any case.

    Raises:
        DifferentiationError: the tensor records nothing.
        FreedTapeError: a backward pass has released the tape.

    Example:
        >>> w = Tensor(np.ones((3, 2)))
        >>> g = np.sum(np.tanh(np.ones((4, 3)) @ w)).graph({"w": w})
        >>> g
        Graph of 4 nodes that keep 160 B
        >>> print(g)
        digraph tape {
          ...
          n0 [label="w\n(3, 2) float64", shape=box, style=rounded];
          n1 [label="np.matmul\n(4, 2) float64\nkeeps 96 B", style=filled];
          n2 [label="np.tanh\n(4, 2) float64\nkeeps 64 B", style=filled];
          n3 [label="np.sum\n() float64"];
          n0 -> n1; n1 -> n2; n2 -> n3;
        }
    """
    if tensor.node is None:
        raise DifferentiationError(
            "graph() of a tensor that records nothing: it was computed under no_grad, or from constants "
            "only"
        )
    named = {id(t.node): name for name, t in (names or {}).items()}
    counted = {id(_owner(t.value)) for t in (names or {}).values()}
    functions = _functions()
    nodes = [n for n in reachable([tensor.node]) if type(n) is not Output]
    number = {id(node): i for i, node in enumerate(nodes)}
    lines, arrows, total = [], [], 0
    for i, node in enumerate(nodes):
        kept = 0
        for array in _held(node):
            if id(array) not in counted:
                counted.add(id(array))
                kept += array.nbytes
        total += kept
        lines.append(f"  n{i} [{_box(node, kept, named.get(id(node), ''), functions)}];")
        arrows += [f"n{number[id(parent)]} -> n{i};" for parent in _parents(node)]
    wrapped = [" ".join(arrows[i : i + 8]) for i in range(0, len(arrows), 8)]
    text = "\n".join([_HEAD, *lines, *(f"  {each}" for each in wrapped), "}"])
    return Graph(text, len(nodes), total)


_HEAD = """digraph tape {
  bgcolor=transparent; ranksep=0.25;
  node [shape=box, fontname="Helvetica", fontsize=10, height=0.3, color="#555555", fillcolor="#CFE5F3"];
  edge [color="#888888", arrowsize=0.6];"""


def _box(node: Node, kept: int, name: str, functions: Mapping[int, frozenset[str]]) -> str:
    keeps = [f"keeps {_bytes(kept)}"] if kept else []
    if isinstance(node, Leaf):
        what = _label([name or "leaf", _kind(node.shape, node.dtype)])
        return f'label="{what}", shape=box, style=rounded'
    if isinstance(node, Fork):
        kinds = [_kind(shape, dtype) for shape, dtype in node.outputs]
        if getattr(node, "replay", None) is not None:
            return f'label="{_label(["checkpoint", *kinds, *keeps, "recomputed"])}", style=dashed'
    else:
        kinds = [_kind(node.shape, node.dtype)]
    label = _label([_called(node, functions), *kinds, *keeps])
    return f'label="{label}"' + (", style=filled" if kept else "")


def _label(lines: Iterable[str]) -> str:
    return "\\n".join(line.replace("\\", "\\\\").replace('"', '\\"') for line in lines)


def _kind(shape: tuple[int, ...], dtype: Any) -> str:
    return f"{shape} {dtype}"


def _called(node: Node, functions: Mapping[int, frozenset[str]]) -> str:
    """Return the function that was called; a node knows it by its rule alone."""
    found: frozenset[str] = frozenset()
    for _, pull, _ in node.edges or ():
        possible = next(
            (functions[id(f)] for f in _within(pull) if id(f) in functions), frozenset()
        )
        found = (found & possible) or possible if found else possible
    return " or ".join(sorted(found, key=lambda name: (len(name), name))[:2]) or "call"


def _within(pull: Any) -> Iterator[Any]:
    """Yield a rule, and what it wraps if it was made for `where=`."""
    yield pull
    for cell in getattr(pull, "__closure__", None) or ():
        if callable(cell.cell_contents):
            yield cell.cell_contents


def _functions() -> dict[int, frozenset[str]]:
    """Return by the identity of each rule the functions that it differentiates."""
    found: dict[int, set[str]] = {}
    for function, rule in RULES.items():
        if isinstance(rule, Rule):
            pulls = [*rule.vjps.values(), *([rule.joint[1]] if rule.joint is not None else [])]
            for pull in pulls:
                name = describe(function)
                if not name.startswith(("np.", "scipy.")):
                    name = name.rpartition(".")[2].lstrip("_")
                found.setdefault(id(pull), set()).add(name)
    return {key: frozenset(names) for key, names in found.items()}


def _parents(node: Node) -> Iterator[Node]:
    for parent, _, _ in node.edges or ():
        for each in parent if isinstance(parent, tuple) else (parent,):
            if each is not None:
                # The results of a call with several are drawn as the call itself.
                edges = each.edges or ()
                yield edges[0][0] if type(each) is Output else each  # type: ignore[misc]


def _held(node: Node) -> Iterator[Any]:
    """Yield the arrays whose memory a node keeps alive."""
    for _, _, residuals in node.edges or ():
        stack = list(residuals)
        while stack:
            value = stack.pop()
            if isinstance(value, (list, tuple)):
                stack += value
            elif isinstance(value, dict):
                stack += value.values()
            elif isinstance(value, (np.ndarray, Tensor)):
                yield _owner(value)


def _owner(value: Any) -> Any:
    """Return the array that the memory belongs to: a view keeps all of it."""
    while isinstance(value, Tensor):
        value = value.value
    while isinstance(getattr(value, "base", None), np.ndarray):
        value = value.base
    return value


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5 or unit == "GB":
            break
        count /= 1000
    return f"{count:.0f} B" if unit == "B" else f"{count:.3g} {unit}"


def _drawn(dot: str, kind: str) -> bytes:
    program = shutil.which("dot")
    if program is None:
        raise MissingExtraError(
            "a picture of a graph needs the program dot of Graphviz, which is not installed; install "
            "graphviz by the system's package manager, or save the text to a .dot file"
        )
    run = subprocess.run(
        [program, f"-T{kind}"], input=dot.encode("utf-8"), capture_output=True, check=False
    )
    if run.returncode:
        raise ValueError(f"dot makes no {kind!r}: {run.stderr.decode(errors='replace').strip()}")
    return run.stdout
