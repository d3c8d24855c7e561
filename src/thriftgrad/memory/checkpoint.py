"""`checkpoint`: run a function without a tape, and make its tape again when the sweep comes by.

The function runs under a `Scout`, which keeps nothing of its calls but a list of the nodes from outside
that they have met: arguments, and tensors and parameters that came by closure. The results get one
`deferred` fork, from which the sweep goes on to exactly these. When a sweep reaches the fork, the
function runs again, recorded this time, and the sweep runs through what was recorded.
"""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import Context, copy_context
from copy import copy
from functools import partial, wraps
from typing import Any, NoReturn, ParamSpec, TypeVar

import numpy as np

from thriftgrad import tree
from thriftgrad.autodiff import Tensor, recording
from thriftgrad.autodiff.tape import Leaf, Node, Output, Scout, deferred, scouting
from thriftgrad.autodiff.tensor import new_level
from thriftgrad.errors import ConfigError, InPlaceError, ReplayError
from thriftgrad.memory.generators import bit_generators

P = ParamSpec("P")
R = TypeVar("R")


def checkpoint(function: Callable[P, R], *, check: bool = False) -> Callable[P, R]:
    """Return `function` as one that keeps its inputs for the reverse pass and nothing else.

    What it computes in between is computed again when the reverse pass needs it. A chain of n calls cut
    into k checkpointed segments holds k inputs and the tape of one segment, k + n/k in place of n, and
    each segment runs twice; k = √n is best. Gradients are those without a checkpoint, to the last bit
    (derivatives of higher order to rounding).

    Tensors and parameters that `function` gets by closure receive their gradients. Random numbers from
    every `np.random.Generator` that it reaches (by arguments, closure, globals, attributes) are drawn
    again, and leave the generator as if drawn once. It must otherwise compute the same again: the state
    of NumPy's global generator, of clocks and of mutable objects is not kept.

    Can decorate functions and methods, nest, and be differentiated to any order. What comes back is a
    function, and a model does not find the parameters of a layer in it: let the model hold the layer, and
    checkpoint it where it is called.

    Args:
        function: takes and returns anything; tensors and arrays in tuples, lists and dicts are followed.
        check: compare what it returns the second time with the first, bit by bit. -0.0 and 0.0 differ,
            NaN equals the same NaN.

    Raises:
        ConfigError: `function` cannot be called.
        ReplayError: in the reverse pass, when it did not compute the same again: another number,
            shape or dtype of results, other tensors used, or, with `check`, another value.
        InPlaceError: in the reverse pass, when a parameter it uses has been changed in between.
        FreedTapeError: a second reverse pass without `retain`.

    References: Griewank & Walther (2000), Algorithm 799: revolve. Chen, Xu, Zhang & Guestrin (2016),
    Training deep nets with sublinear memory cost.

    Example:
        >>> import numpy as np, thriftgrad as tg
        >>> w = tg.Parameter(np.array([1.0, 2.0]), name="w")
        >>> @tg.checkpoint
        ... def block(x):
        ...     return np.sqrt(x * x) * w
        >>> np.sum(block(block(np.ones(2)))).backward()
        >>> w.grad
        array([2., 4.])
        >>> tg.grad(lambda v: tg.checkpoint(lambda x: x * v)(v * 2.0))(3.0)
        12.0
    """
    if not callable(function):
        raise ConfigError(
            f"checkpoint was given {type(function).__name__!r}, which cannot be called; pass the function "
            f"and call what comes back: checkpoint(block)(x)"
        )

    @wraps(function, updated=())
    def checkpointed(*args: P.args, **kwargs: P.kwargs) -> R:
        given = _copied((args, kwargs))
        context = copy_context()
        before = [(source, source.state) for source in bit_generators(function, args, kwargs)]
        first_draw = recording.draws()
        scout = Scout(new_level(), scouting.get())
        token = scouting.set(scout)
        try:
            result = function(*args, **kwargs)
        finally:
            scouting.reset(token)
            scout.end()
        leaves, structure = tree.flatten(result)
        levels = sorted({t.level for t in _layers(leaves) if t.node is scout.marker})
        if not levels:
            return result
        drawn = [(source, state) for source, state in before if not _same(source.state, state)]
        call = _Call(
            function,
            given,
            context,
            drawn,
            first_draw,
            scout,
            structure,
            [_Trace(v, check) for v in leaves],
        )
        places: dict[int, Node] = {}
        for level in levels:
            places |= _deferred(call, scout, level, leaves)
        return tree.unflatten(structure, [_placed(leaf, places) for leaf in leaves])  # type: ignore

    return checkpointed


def _deferred(call: _Call, scout: Scout, level: int, leaves: Sequence[Any]) -> dict[int, Node]:
    """Return a node for every tensor at `level` that the call has computed, by its identity."""
    tensors = _results(leaves, level, lambda node: node is scout.marker)
    outputs = [(tensor.shape, tensor.dtype) for tensor in tensors]
    fork = deferred(
        tuple(scout.met[level]), outputs, partial(call.again, level), tuple(_arrays(call.given))
    )
    call.number = fork.number
    call.recorded[level] = len(tensors)
    assert fork.edges is not None
    marker = scout.outside and scout.outside.visit(fork.edges, level)
    return {id(tensor): marker or Output(fork, i) for i, tensor in enumerate(tensors)}


def _placed(value: Any, places: dict[int, Node]) -> Any:
    """Return a tensor that is at the places found for it, its values inside included."""
    if not isinstance(value, Tensor) or not any(id(each) in places for each in _layers([value])):
        return value
    tensor = Tensor.__new__(Tensor)
    tensor.value = _placed(value.value, places)
    tensor.node = places.get(id(value), value.node)
    tensor.level = value.level
    return tensor


class _Call:
    """What it takes to run a function again, and to see that it is the same again."""

    __slots__ = (
        "calls",
        "context",
        "drawn",
        "first_draw",
        "function",
        "given",
        "met",
        "number",
        "recorded",
        "structure",
        "traces",
    )

    def __init__(
        self,
        function: Callable[..., Any],
        given: tuple[Any, Any],
        context: Context,
        drawn: Sequence[tuple[np.random.BitGenerator, Any]],
        first_draw: int,
        scout: Scout,
        structure: Any,
        traces: Sequence[_Trace],
    ) -> None:
        self.function = function
        self.given = given
        self.context = context
        self.drawn = drawn
        self.first_draw = first_draw
        self.met = scout.met
        self.calls = scout.calls
        self.structure = structure
        self.traces = traces
        self.recorded: dict[int, int] = {}
        self.number = 0

    def again(self, level: int) -> list[Node]:
        """Run the function again, recorded at `level`; return the nodes of its results there."""
        self._check_parameters()
        scout = Scout(new_level(), scouting.get(), level)
        try:
            # In a copy of the context of the first run, so that no_grad, np.errstate and the person's own
            # variables are as they were, and whatever happens leaves nothing behind.
            result = self.context.copy().run(self._run, scout)
        finally:
            scout.end()
        leaves = self._checked(result)
        first = scout.marker.number
        tensors = _results(
            leaves, level, lambda node: node.number > first and type(node) is not Leaf
        )
        self._check_record(scout, level, len(tensors))
        return [tensor.node for tensor in tensors]  # type: ignore[misc]

    def _run(self, scout: Scout) -> Any:
        scouting.set(scout)
        args, kwargs = _copied(self.given)
        with _drawing_again(self.drawn), recording.rerun(self.first_draw):
            return self.function(*args, **kwargs)

    def _check_parameters(self) -> None:
        """Refuse to run again with parameters that are not what they were."""
        for nodes in self.met.values():
            for leaf in nodes:
                if type(leaf) is Leaf and (
                    (leaf.changed is not None and leaf.changed[0] > self.number)
                    or (leaf.replaced is not None and leaf.replaced > self.number)
                ):
                    raise InPlaceError(
                        f"a parameter of shape {leaf.shape} that {_name(self.function)} uses under "
                        f"checkpoint was changed (by an optimiser, load_state_dict, an assignment to its "
                        f"value or the like) before the backward pass, which has to compute with the "
                        f"old one again; finish all backward passes before the step, or run the "
                        f"forward pass again"
                    )

    def _checked(self, result: Any) -> list[Any]:
        """Return the leaves of a second result if it is the same as the first, as far as was noted."""
        leaves, structure = tree.flatten(result)
        if structure != self.structure or len(leaves) != len(self.traces):
            self._refuse(
                f"it returned {structure or 'one array'} and had returned "
                f"{self.structure or 'one array'}"
            )
        for i, (leaf, trace) in enumerate(zip(leaves, self.traces, strict=True)):
            difference = trace.difference(leaf)
            if difference:
                self._refuse(f"{tree.paths(result, 'result')[i]} {difference}")
        return leaves

    def _check_record(self, scout: Scout, level: int, recorded: int) -> None:
        """Refuse a second run that has used other tensors than the first."""
        met, again = self.met[level].keys(), scout.met.get(level, {}).keys()
        if met != again:
            self._refuse(
                f"it used {len(again - met)} tensors or parameters from outside that it had not used, and "
                f"did not use {len(met - again)} that it had (a tensor made by tg.Tensor inside the "
                f"function is a new one each time, and one that is kept for the next call is another)"
            )
        if self.calls[level] != scout.calls[level]:
            self._refuse(
                f"it made {scout.calls[level]} calls on tensors and had made {self.calls[level]}"
            )
        if recorded != self.recorded[level]:
            self._refuse(
                f"it computed {recorded} of its results from tensors and had computed "
                f"{self.recorded[level]}"
            )

    def _refuse(self, what: str) -> NoReturn:
        hint = (
            ""
            if self.traces and self.traces[0].digest
            else "; checkpoint(function, check=True) compares all values"
        )
        raise ReplayError(
            f"{_name(self.function)} under checkpoint did not compute the same again in the backward pass: "
            f"{what}. Usual causes: random numbers from np.random.*, random, or a generator that cannot be "
            f"found from the function (pass it as an argument); an argument, a variable of the closure or "
            f"an attribute that was changed in between; a counter, a cache, a clock{hint}"
        )


class _Trace:
    """What is noted of a result, for the second one to be compared with."""

    __slots__ = ("digest", "first", "kind", "size")

    def __init__(self, value: Any, check: bool) -> None:
        value = _plain(value)
        self.kind = _kind(value)
        self.digest: bytes | None = None
        if check:
            self.digest = _digest(value)
            self.size = _size(value)
            # An array may live on as the input of what follows, and must not live on by this.
            held = isinstance(value, np.ndarray)
            self.first: Callable[[], Any] = weakref.ref(value) if held else lambda: value

    def difference(self, value: Any) -> str:
        """Say in what way `value` is another one, or return nothing."""
        value = _plain(value)
        if _kind(value) != self.kind:
            return f"is {_described(_kind(value))} and was {_described(self.kind)}"
        if self.digest is None or _digest(value) == self.digest:
            return ""
        what = f"({_described(self.kind)}) has changed"
        first = self.first()
        if not self.size:
            return f"{what}: it is {value!r} and was {first!r}"
        if first is None or _digest(first) != self.digest:
            return f"{what}: its mean size is {_size(value)} and was {self.size}"
        changed = (first != value) & ~(np.isnan(first) & np.isnan(value))
        if not np.any(changed):
            return f"{what} in the sign of a zero, or the bits of a NaN"
        with np.errstate(all="ignore"):
            gap = np.abs(np.subtract(value, first, dtype=np.result_type(value, np.float64)))
        most = np.max(gap, where=changed & ~np.isnan(gap), initial=0)
        return f"{what} in {np.count_nonzero(changed)} of {gap.size} entries, by up to {most:.3g}"


def _kind(value: Any) -> Any:
    return (value.shape, value.dtype) if hasattr(value, "dtype") else type(value)


def _described(kind: Any) -> str:
    return f"shape {kind[0]}, {kind[1]}" if isinstance(kind, tuple) else kind.__name__


def _digest(value: Any) -> bytes:
    """Return a hash of the bits of an array or number; what is neither is not compared."""
    if isinstance(value, np.ndarray | np.generic) and not value.dtype.hasobject:
        bits = np.ascontiguousarray(value).reshape(-1).view(np.uint8)
        return hashlib.blake2b(bits.data, digest_size=16).digest()
    if isinstance(value, np.ndarray):
        return repr(value.tolist()).encode()
    return repr(value).encode() if isinstance(value, int | float | complex | str | bytes) else b"-"


def _size(value: Any) -> str:
    """Return the mean absolute value to a few digits, or nothing where there is none."""
    if not isinstance(value, np.ndarray | np.generic | float | complex):
        return ""
    if np.result_type(value).kind not in "biufc" or not np.size(value):
        return ""
    with np.errstate(all="ignore"):
        return f"{np.mean(np.abs(value)):.6g}"


# What a call is given and gives


def _copied(value: Any) -> Any:
    """Return lists, dicts and tuples as new ones: theirs may have other contents when it runs again."""
    if isinstance(value, tuple):
        items = [_copied(each) for each in value]
        if all(new is old for new, old in zip(items, value, strict=True)):
            return value
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if isinstance(value, list):
        result: Any = copy(value)
        result[:] = map(_copied, value)
        return result
    if isinstance(value, dict):
        result = copy(value)
        result.update((key, _copied(each)) for key, each in value.items())
        return result
    return value


def _arrays(value: Any) -> Iterator[Any]:
    """Return the arrays in lists, dicts and tuples."""
    if isinstance(value, list | tuple):
        for each in value:
            yield from _arrays(each)
    elif isinstance(value, dict):
        yield from _arrays(list(value.values()))
    else:
        value = _plain(value)
        if isinstance(value, np.ndarray):
            yield value


def _layers(leaves: Iterable[Any]) -> Iterator[Tensor]:
    """Return every tensor among `leaves`, and those inside it, of lower levels."""
    for leaf in leaves:
        while isinstance(leaf, Tensor):
            yield leaf
            leaf = leaf.value


def _results(
    leaves: Iterable[Any], level: int, computed: Callable[[Node], bool]
) -> Sequence[Tensor]:
    """Return the tensors at `level` that were computed in the call, each once, in order."""
    found = {
        id(tensor): tensor
        for tensor in _layers(leaves)
        if tensor.level == level and tensor.node is not None and computed(tensor.node)
    }
    return list(found.values())


def _plain(value: Any) -> Any:
    while isinstance(value, Tensor):
        value = value.value
    return value


@contextmanager
def _drawing_again(drawn: Sequence[tuple[np.random.BitGenerator, Any]]) -> Iterator[None]:
    """Take random generators back to the states they had, for the time of this context."""
    now = [(source, source.state) for source, _ in drawn]
    try:
        for source, state in drawn:
            source.state = state
        yield
    finally:
        for source, state in now:
            source.state = state


def _same(state: Any, other: Any) -> bool:
    """Tell whether two states of a generator are equal, arrays in them included."""
    if isinstance(state, dict):
        return all(_same(each, other[key]) for key, each in state.items())
    return bool(np.array_equal(state, other)) if isinstance(state, np.ndarray) else state == other


def _name(function: Any) -> str:
    while isinstance(function, partial):
        function = function.func
    return getattr(function, "__name__", type(function).__name__)
