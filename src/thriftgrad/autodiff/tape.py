"""The tape: the nodes between the leaves and an output, and the sweep that runs it backwards.

A node stands for one recorded call. It knows the shape and dtype of the call's result and, for each
argument that a gradient flows to, an edge: the argument's node, the function that carries a
cotangent there, and the residuals that this function asked for. It does not hold the result itself:
a value that no rule asked for is freed as soon as the person's code lets go of it.

Nodes are numbered as they are made, so that descending numbers are a topological order of any
graph. The sweep therefore needs no recursion and no counting, and a chain of 100,000 calls is an
ordinary input.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from contextvars import ContextVar
from itertools import count
from operator import attrgetter
from typing import Any

import numpy as np

from thriftgrad.autodiff.adjoint import Array, fit
from thriftgrad.errors import DetachError, FreedTapeError, InPlaceError, ReplayError

_next_number = count().__next__

Pull = Callable[..., Any]
"""A vector-Jacobian product: `pull(g, *residuals)` is the cotangent of one argument."""


class Node:
    """One recorded call: where its cotangent goes, and what carrying it there takes."""

    __slots__ = ("dtype", "edges", "number", "shape")

    def __init__(self, edges: Sequence[Edge], shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.edges: Sequence[Edge] | None = edges
        self.shape = shape
        self.dtype = dtype
        self.number = _next_number()


Edge = tuple["Node | tuple[Node | None, ...]", Pull, tuple[Any, ...]]
"""`(parent, pull, residuals)`. Where one pull serves several arguments, `parent` is a tuple and so is
what `pull` returns; None marks an argument that needs no gradient."""


class Leaf(Node):
    """Where a gradient arrives and stays."""

    __slots__ = ("changed", "grad", "replaced")

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        super().__init__((), shape, dtype)
        self.grad: Array | None = None
        self.changed: tuple[int, Array] | None = (
            None  # when its array was last written into, and it
        )
        self.replaced: int | None = None  # when it was last given another array

    def replace(self) -> None:
        """Note that this leaf has another array now. What a tape holds of the old one stays right."""
        self.replaced = _next_number()

    def touch(self, array: Array) -> None:
        """Note that the array of this leaf has been written into.

        A tape recorded before may hold it as a residual, and a sweep over that would be wrong.
        """
        self.changed = _next_number(), array


class Fork(Node):
    """A call with several results; each result's own node is an `Output` of it.

    With `replay` it stands for a whole part of the tape that was not kept (see `deferred`): `replay()`
    makes that part and returns the node of each result.
    """

    __slots__ = ("outputs", "replay")

    def __init__(
        self,
        edges: Sequence[Edge],
        outputs: Sequence[tuple[tuple[int, ...], np.dtype[Any]]],
        replay: Callable[[], Sequence[Node]] | None = None,
    ) -> None:
        super().__init__(edges, (), np.dtype(object))
        self.outputs = outputs
        self.replay = replay


class Output(Node):
    """The `index`-th result of a fork."""

    __slots__ = ("index",)

    def __init__(self, fork: Fork, index: int) -> None:
        super().__init__(((fork, _pass, ()),), *fork.outputs[index])
        self.index = index


def deferred(
    ends: tuple[Node, ...],
    outputs: Sequence[tuple[tuple[int, ...], np.dtype[Any]]],
    replay: Callable[[], Sequence[Node]],
    held: tuple[Array, ...] = (),
) -> Fork:
    """Return a fork for a part of the tape that is not kept, from `outputs` back to the `ends`.

    `held` are the arrays that `replay` keeps, for whoever asks what a tape holds.
    """
    return Fork(((ends, _pass, held),), outputs, replay)


class Marker(Node):
    """What results have in the place of a node while a `Scout` lets nothing be kept."""

    __slots__ = ()


class Scout:
    """What becomes of the calls in a function that runs without a tape, or runs again.

    Without a tape, at `level=None`: all results have the scout's marker for a node, which keeps
    nothing. Again, for the tape at `level`: calls are recorded there; at higher levels, whose sweeps are
    over, they have the marker; those at lower levels are the business of the scout outside, if there is
    one. Calls at levels begun after the scout, by a `grad` in the function, are recorded as ever.

    Args:
        top: the newest level there was.
        outside: the scout at work already.
        level: the one to record at, or None.

    Attributes:
        met: at each level, the nodes from outside that calls have met: those that are older than the
            scout, and leaves of any age. In the order in which they were met.
        calls: how many calls there were at each level.
    """

    __slots__ = ("calls", "level", "marker", "met", "outside", "top")

    def __init__(self, top: int, outside: Scout | None, level: int | None = None) -> None:
        self.top = top
        self.outside = outside
        self.level = level
        self.marker = Marker((), (), np.dtype(object))
        self.met: dict[int, dict[Node, None]] = {}
        self.calls: dict[int, int] = {}

    def visit(self, edges: Sequence[Edge], level: int) -> Marker | None:
        """Note a call; return what its results have for a node, or None if it is to be recorded."""
        scout: Scout | None = self
        while scout is not None and scout.level is not None and level < scout.level:
            scout = scout.outside
        if scout is None or level > scout.top:
            return None
        first = scout.marker.number
        met = scout.met.setdefault(level, {})
        scout.calls[level] = scout.calls.get(level, 0) + 1
        for parent, _, _ in edges:
            for each in parent if type(parent) is tuple else (parent,):
                if each is not None and (each.number < first or type(each) is Leaf):  # type: ignore
                    met[each] = None  # type: ignore[index]
        return None if level == scout.level else scout.marker

    def end(self) -> None:
        """Turn the marker into one that no sweep passes, as what still has it was kept too long."""
        self.marker.edges = None


scouting: ContextVar[Scout | None] = ContextVar("thriftgrad_scouting", default=None)

_FREED = (
    "this tape has been swept already, or a sweep of it failed, and its residuals are released; run the "
    "forward pass again, or keep the tape by backward(retain=True) in the first sweep"
)


def sweep(
    roots: Iterable[tuple[Node, Array]],
    *,
    retain: bool = False,
    ends: Set[Node] = frozenset(),
    before: Mapping[Leaf, Array] | None = None,
) -> dict[Any, Array]:
    """Carry cotangents from `roots` back to the leaves, and return the gradient at each leaf.

    Each node's residuals are released as the sweep passes it, unless `retain` is set.

    Args:
        roots: where to begin, and the cotangent there.
        retain: keep the residuals for another sweep.
        ends: nodes to stop at as if they were leaves.
        before: gradients that have arrived at leaves in a sweep of a later part of the same
            computation. The sums are then those of one sweep over both parts, to the last bit.

    Raises:
        FreedTapeError: an earlier sweep has released residuals that this one needs.
        InPlaceError: a parameter that the tape holds has been written into since.
    """
    cotangents: dict[Node, Any] = {}
    for node, cotangent in roots:
        held = cotangents.get(node)
        cotangents[node] = cotangent if held is None else held + cotangent
    cotangent = held = None  # what a caller has handed over is freed once it is used
    order = reachable(cotangents, ends)
    _check_unchanged(order)
    if before:
        cotangents.update((leaf, before[leaf]) for leaf in order if leaf in before)  # type: ignore
    gradients: dict[Any, Array] = {}
    while order:
        node = order.pop()
        g = cotangents.pop(node, None)
        if g is None:  # every path to this node was cut by a rule that returned None
            continue
        kind: type = type(node)
        if kind is Leaf or (ends and node in ends):
            gradients[node] = g
            continue
        if kind is Fork:
            if node.replay is not None:  # type: ignore[attr-defined]
                order += _replayed(node, g, cotangents, retain)  # type: ignore[arg-type]
                continue
            g = _filled(g, node.outputs)  # type: ignore[attr-defined]
        edges = node.edges
        if edges is None:
            raise FreedTapeError(_FREED)
        if not retain:
            node.edges = None
        for parent, pull, residuals in edges:
            kind = type(parent)
            if (kind is Node or kind is Leaf) and 0 in parent.shape:  # type: ignore[union-attr]
                # The gradient of an empty array is empty, and no rule need be ready for one.
                like = g[0] if type(g) is list else g
                part = np.zeros_like(like, shape=parent.shape, dtype=parent.dtype)  # type: ignore[union-attr]
            else:
                part = pull(g, *residuals)
            is_own = kind is Leaf and type(part) is np.ndarray and not _borrowed(part, g)
            if (
                (kind is Node or is_own)
                and parent not in cotangents
                and getattr(part, "shape", None) == parent.shape  # type: ignore[union-attr]
                and part.dtype is parent.dtype  # type: ignore[union-attr]
            ):
                cotangents[parent] = part  # type: ignore[index]  # as `_send` would, without the call
            elif kind is tuple:
                for each, its in zip(parent, part, strict=True):  # type: ignore[arg-type]
                    if each is not None:
                        _send(each, its, g, cotangents)
            elif kind is Fork:
                parts = cotangents.setdefault(parent, [None] * len(parent.outputs))  # type: ignore
                parts[node.index] = part  # type: ignore[attr-defined]
            else:
                _send(parent, part, g, cotangents)  # type: ignore[arg-type]
    return gradients


def _replayed(
    fork: Fork, parts: list[Any], cotangents: dict[Node, Any], retain: bool
) -> list[Node]:
    """Make the part of the tape that `fork` stands for, and return its nodes, ready to be swept.

    They are newer than all that waits, so the sweep goes on with them, adds up in the order in which it
    would have if they had been kept, and needs no recursion.
    """
    assert fork.edges is not None
    assert fork.replay is not None
    ends: frozenset[Any] = frozenset(fork.edges[0][0])  # type: ignore[arg-type]
    results = fork.replay()
    if not retain:
        fork.edges = fork.replay = None
    roots = []
    for node, part in zip(results, parts, strict=True):
        if part is not None:
            held = cotangents.get(node)
            cotangents[node] = part if held is None else held + part
            roots.append(node)
    fresh = [node for node in reachable(roots, ends) if node not in ends]
    if fresh and fresh[0].number < fork.number:
        raise ReplayError(
            "a function under checkpoint used tensors from outside of which nothing was seen; all its calls "
            "on tensors must be made in the thread that called it"
        )
    return fresh


def _send(node: Node, part: Array, g: Array, cotangents: dict[Node, Any]) -> None:
    """Add `part`, which a rule made of `g`, to the cotangent that waits at `node`."""
    if part is None:
        return
    if isinstance(part, (float, complex)) and not isinstance(part, np.generic):
        part = np.asarray(part)
    if part.shape != node.shape or part.dtype is not node.dtype:
        part = fit(part, node.shape, node.dtype)
    held = cotangents.get(node)
    if held is not None:
        part = held + part
    elif type(node) is Leaf and isinstance(part, np.ndarray) and _borrowed(part, g):
        # A gradient that stays must not share memory with another one, nor with an input.
        part = part.copy()
    cotangents[node] = part


def _borrowed(part: Any, g: Any) -> bool:
    """Tell whether a rule has passed on memory that is not its own."""
    if part is g or (type(g) is list and any(part is each for each in g)):
        return True
    return part.base is not None or not part.flags.writeable


def _check_unchanged(order: Sequence[Node]) -> None:
    """Refuse a tape with a residual that has been written into since it was recorded."""
    changed = [leaf.changed for leaf in order if type(leaf) is Leaf and leaf.changed is not None]
    if not changed:
        return
    last = max(when for when, _ in changed)
    for node in order:
        if node.number > last:  # all that follow are later still
            return
        for _, _, residuals in node.edges or ():
            for residual in residuals:
                if isinstance(residual, np.ndarray) and any(
                    when > node.number and np.may_share_memory(residual, array)
                    for when, array in changed
                ):
                    raise InPlaceError(
                        f"a parameter of shape {residual.shape} was changed in place (by an optimiser, "
                        f"load_state_dict or the like) after the forward pass that this backward pass "
                        f"goes back through; finish all backward passes before the step, or run the "
                        f"forward pass again"
                    )


def reachable(roots: Iterable[Node], ends: Set[Node] = frozenset()) -> list[Node]:
    """Return every node that the roots depend on, in the order in which they were made.

    What lies behind the `ends` is left out.
    """
    seen = set(roots)
    stack = list(seen)
    while stack:
        node = stack.pop()
        edges = () if ends and node in ends else node.edges
        if edges is None:
            raise _gone(node)
        for parent, _, _ in edges:
            if type(parent) is tuple:
                for each in parent:
                    if each is not None and each not in seen:
                        seen.add(each)
                        stack.append(each)
            elif parent not in seen:
                seen.add(parent)  # type: ignore[arg-type]
                stack.append(parent)  # type: ignore[arg-type]
    return sorted(seen, key=attrgetter("number"))


def _gone(node: Node) -> Exception:
    if type(node) is Marker:
        return DetachError(
            "a tensor made inside a function that ran under checkpoint was kept beyond its end (as an "
            "attribute, in a list, or hidden in an object that was returned), and what it was computed "
            "from is gone; return it from the function, in a tuple, list or dict"
        )
    return FreedTapeError(_FREED)


def _filled(
    parts: list[Any], outputs: Sequence[tuple[tuple[int, ...], np.dtype[Any]]]
) -> list[Any]:
    """Put zeros where a result of a fork was not used."""
    like = next(part for part in parts if part is not None)
    return [
        np.zeros_like(like, shape=shape, dtype=dtype) if part is None else part
        for part, (shape, dtype) in zip(parts, outputs, strict=True)
    ]


def _pass(g: Array) -> Array:
    return g
