"""What the stages of a model cost, measured on the model itself.

Bytes are those that the executor's own methods allocate: each distinct stage is run by them, alone, under
`tracemalloc`, so that temporaries and the small change of Python's objects are in the figures as well.
Which arrays a tape shares with the states beside it is read off the tape. Seconds are taken in runs of
their own, without tracing.

Two stages are equal if they are built alike and meet arrays that are laid out alike. Equal stages are
measured once, so that equal layers have equal costs, and ten thousand of them are soon measured.
"""

from __future__ import annotations

import gc
import sys
import threading
import time
import tracemalloc
import weakref
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import inf, prod
from types import CellType, FunctionType, MethodType
from typing import Any, NamedTuple, NoReturn, get_args

import numpy as np
from numpy.typing import NDArray

from thriftgrad.autodiff.tape import Leaf, Node, reachable
from thriftgrad.autodiff.tensor import Parameter, Tensor, new_level, no_grad
from thriftgrad.errors import ConfigError, ReplayError
from thriftgrad.memory.execute import Bound, Loss, Run, StageFunction, owner, readonly
from thriftgrad.memory.stages import Chain, Stage, Update

Array = NDArray[Any]


def measure(
    model: Any,
    x: Array,
    *,
    loss: Callable[[Any, Any], Any] | None = None,
    y: Any = None,
    optimizer: Any = None,
    update: Update = "after backward",
) -> Chain:
    """Return what each stage of a model costs on a batch, in bytes and seconds.

    Nothing is changed by it: parameters, gradients, the optimiser's state and the states of random
    generators are afterwards what they were. One stage at a time is held in memory. Each is run on
    what the stages before it make of x, and backwards on a cotangent that is laid out as the
    real one. Where `tracemalloc` is at work already it stays so, but its peak is reset, and the
    seconds are those of a program that is traced. What other threads allocate meanwhile is taken for
    the stages'.

    Args:
        model: its stages are those of `model.stages()`; or a sequence of functions of one array.
        x: a batch of inputs.
        loss: loss(outputs, y), a scalar; None stands for the sum of the squared outputs.
        y: what the loss compares the outputs with.
        optimizer: whose state and temporaries are counted; None counts none.
        update: when parameters are updated.

    Raises:
        ConfigError: no stages, or ones that are not what the model computes; a stage that does not
            return one array; or an optimiser that cannot update during the backward pass.
        ReplayError: a stage gave another output when it was run again.

    Example:
        >>> import thriftgrad as tg
        >>> model = tg.nn.Sequential(tg.nn.Linear(100, 50, rng=0), np.tanh)
        >>> chain = measure(model, np.ones((1000, 100), np.float32))
        >>> linear, tanh = chain.stages
        >>> linear.holds_output, tanh.holds_output, chain.fixed["parameters"]
        (False, True, 20200)
        >>> 200_000 <= linear.output <= 200_200
        True
    """
    stages = stages_of(model)
    if update not in get_args(Update):
        raise ConfigError(
            f"update = {update!r}: expected one of {', '.join(map(repr, get_args(Update)))}"
        )
    if update == "during backward" and getattr(optimizer, "clip_norm", None) is not None:
        raise ConfigError(
            'update="during backward" with clip_norm: the joint norm needs all gradients at once; '
            'use update="after backward" or an optimiser without clip_norm'
        )
    bound = Bound(stages)
    _leave_small_numbers()
    # Cotangents that are all zeros may meet derivatives that are infinite.
    with _measuring, np.errstate(all="ignore"):
        with _unchanged(bound.generators):
            costs, end = _Model(bound, x, _objective(loss, y)).measured()
        if hasattr(model, "stages"):
            _check_composition(model, bound, x)
        return Chain(
            stages=_priced(bound, costs, end, _Updates(optimizer)),
            loss_extra=end.extra,
            loss_seconds=end.seconds,
            fixed=_fixed(bound, x, y, optimizer, costs, end),
            update=update,
        )


_measuring = threading.Lock()  # Python traces allocations for all threads together


def stages_of(model: Any) -> tuple[StageFunction, ...]:
    """Return the stages of a model, or of what a person names as such.

    Raises:
        ConfigError: there are none, or one cannot be called.

    Example:
        >>> stages_of([np.tanh, np.sin])
        (<ufunc 'tanh'>, <ufunc 'sin'>)
    """
    given = model.stages() if hasattr(model, "stages") else model
    if not isinstance(given, Sequence):
        raise ConfigError(
            f"the stages of a {type(model).__name__} are not known; pass a model with a method "
            f"stages(), such as nn.Sequential, or a list of functions of one array"
        )
    if not given:
        raise ConfigError(f"{type(model).__name__} has no stages; expected at least one")
    for k, stage in enumerate(given):
        if not callable(stage):
            raise ConfigError(f"stage {k} is a {type(stage).__name__}, which cannot be called")
    return tuple(given)


def _check_composition(model: Any, bound: Bound, x: Array) -> None:
    """Refuse stages that are not the model: another one would be trained."""
    with _unchanged(bound.generators), no_grad():
        whole = model(readonly(x))
    if isinstance(whole, Tensor):
        whole = whole.value
    run = Run(bound, x, _no_loss, Counter(), None, _no_disk)
    with _unchanged(bound.generators):
        for k in range(len(bound.stages)):
            run.advance(k)
    composed = run.states[-1]
    assert composed is not None
    if np.shape(whole) != np.shape(composed) or _digest(whole) != _digest(composed):
        name = type(model).__name__
        raise ConfigError(
            f"the stages of {name}, one after the other, give another output than {name} itself, so that "
            f"another model would be trained; let stages() return what __call__ goes through: "
            f"`for stage in self.stages(): x = stage(x)`"
        )


# The stages, one after the other


class _Layout(NamedTuple):
    """How an array lies in memory, and in how much of it."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    strides: tuple[int, ...]
    size: int
    offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cost:
    """What one stage costs on its own; see `Stage`. `arrives` and `leaves` are the cotangents."""

    output: int
    state: _Layout
    tracked: bool
    view: bool
    holds_input: bool
    holds_output: bool
    tape: int
    forward_extra: int
    tape_extra: int
    backward_extra: int
    backward_saving: int
    seconds: tuple[float, float, float]
    arrives: _Layout | None
    leaves: _Layout | None
    leaves_bytes: int
    used: tuple[int, ...]
    strangers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _End:
    """What the loss costs."""

    extra: int
    seconds: float
    leaves: _Layout | None
    leaves_bytes: int
    gradient: int


class _Like:
    """The layout that is guessed for a cotangent: that of its state."""


_Guess = _Layout | None | type[_Like]


class _Model:
    """A forward pass over the stages that stops at each one whose cost is not known yet."""

    def __init__(self, bound: Bound, x: Array, objective: Loss) -> None:
        self.bound = bound
        self.x = x
        self.objective = objective
        self.keys = [_key(stage, {}) for stage in bound.stages]
        self.known: dict[Any, _Cost] = {}
        self.end: _End | None = None
        self.restart()

    def restart(self) -> None:
        """Go back to x_0."""
        self.at, self.run = 0, Run(self.bound, self.x, self.objective, Counter(), None, _no_disk)

    def state(self, k: int) -> Array:
        """Return x_k."""
        if self.at > k:
            self.restart()
        while self.at < k:
            self.run.advance(self.at)
            self.at += 1
        x = self.run.states[k]
        assert x is not None
        return x

    def measured(self) -> tuple[list[_Cost], _End]:
        """Return the costs of the stages and of the loss.

        How a cotangent is laid out is known only when the stage above has been measured, and how much
        a shared parameter costs only when it is known who shares it. Both are guessed first; where
        the guess was wrong, the stage is measured again.
        """
        length = len(self.bound.stages)
        arrives: list[_Guess] = [_Like] * length
        begun: list[tuple[int, ...]] = [()] * length
        for _ in range(length + 2):
            costs, end = self.forward(arrives, begun)
            wanted = [*(cost.leaves for cost in costs[1:]), end.leaves]
            shared = _begun(self.bound, costs)
            if wanted == [cost.arrives for cost in costs] and shared == begun:
                break
            arrives, begun = [*wanted], shared
        return costs, end

    def forward(
        self, arrives: list[_Guess], begun: list[tuple[int, ...]]
    ) -> tuple[list[_Cost], _End]:
        """Return the costs if the guesses are right, measuring what is not known yet."""
        costs: list[_Cost] = []
        layout, tracked = _layout(self.x), False
        for k, key in enumerate(self.keys):
            whole = (key, layout, tracked, arrives[k], begun[k])
            if whole not in self.known:
                cost = _measured(self.bound, k, self.state(k), tracked, arrives[k], begun[k])
                self.known[whole] = self.known[(*whole[:3], cost.arrives, begun[k])] = cost
            costs.append(self.known[whole])
            layout, tracked = costs[-1].state, costs[-1].tracked
        if self.end is None:
            self.end = _measured_end(self.objective, self.state(len(self.keys)), tracked)
        return costs, self.end


def _measured(
    bound: Bound, k: int, x: Array, tracked: bool, arrives: _Guess, begun: tuple[int, ...]
) -> _Cost:
    """Measure one stage on x.

    Args:
        bound: the stages.
        k: which.
        x: its input.
        tracked: whether x is a tensor in plain backpropagation.
        arrives: how its output's cotangent is laid out.
        begun: which of its parameters have a gradient from stages above.
    """
    stage, parameters = bound.stages[k], bound.parameters[k]
    alone = Bound((stage,))
    draws = [(each, each.state) for each in alone.generators[0]]
    run = Run(alone, x, _no_loss, Counter(), None, _no_disk)
    run.tracked[0] = tracked
    sums = {parameters[i].node: np.zeros_like(parameters[i].value) for i in begun}
    cotangent: _Layout | None

    def again() -> None:
        for each, state in draws:
            each.state = state
        run.states[0], run.states[1] = x, None

    def forward() -> None:
        run.keep(0)

    def taped() -> None:
        run.tape(0)

    def turn() -> None:
        run.states[1] = None
        run.cotangent = None if cotangent is None else _stand_in(cotangent)
        run.gradients = dict(sums)  # type: ignore[arg-type]
        run.at = 1

    def backward() -> None:
        run.backward(0)

    def rest() -> None:
        run.cotangent = None
        run.gradients = {}

    try:
        # Once to warm up: what is computed when a rule is first used is no cost of the stage. And to
        # see what comes out, and that the same comes out again.
        again()
        forward()
        y = run.states[1]
        assert y is not None
        state, output, first = _layout(y), footprint(y), _digest(y)
        is_view = owner(y) is owner(x)
        del y
        again()
        taped()
        y, tape = run.states[1], run.tapes[0]
        assert y is not None
        assert tape is not None
        if _digest(y) != first:
            _refuse_other_output(stage, k)
        if arrives is _Like:
            arrives = _layout(np.empty_like(y))
        cotangent = arrives  # type: ignore[assignment]
        contents = _Contents(tape, x, y)
        nodes = [] if tape.node is None else reachable([tape.node])
        places = {parameter.node: i for i, parameter in enumerate(parameters)}
        leaves = [node for node in nodes if type(node) is Leaf]
        used = tuple(sorted(places[leaf] for leaf in leaves if leaf in places))
        strangers = sum(_gradient_bytes(leaf) for leaf in leaves if leaf not in places)
        news = sum(_gradient_bytes(parameters[i].node) for i in used if i not in begun) + strangers
        del y, tape, nodes, leaves
        turn()
        backward()
        departs = run.cotangent
        leaving = None if departs is None else _layout(departs)
        leaving_bytes = 0 if departs is None else footprint(departs)
        del departs
        of_tape = contents.bytes()

        again()
        seconds = _timed(((again, forward), (again, taped), (turn, backward)))
        rest()

        with _tracing():
            again()
            keep_peak = _peak(forward)
            again()
            tape_peak = _peak(taped)
            turn()
            back_peak = alone_peak = _peak(backward)
            if contents.holds_input and k > 0:
                # What only the tape still holds, the sweep may free before its end.
                rest()
                again()
                run.states[0] = x.copy("K")
                taped()
                run.states[0] = None
                turn()
                alone_peak = _peak(backward)
    finally:
        rest()
        again()
    own = 0 if is_view else output
    return _Cost(
        output=own,
        state=state,
        tracked=bool(run.tracked[1]),
        view=is_view,
        holds_input=contents.holds_input,
        holds_output=contents.holds_output,
        tape=of_tape,
        forward_extra=max(0, keep_peak - own),
        tape_extra=max(0, tape_peak - own - of_tape),
        backward_extra=back_peak - leaving_bytes - news,
        backward_saving=max(0, back_peak - alone_peak),
        seconds=seconds,
        arrives=cotangent,
        leaves=leaving,
        leaves_bytes=leaving_bytes,
        used=used,
        strangers=strangers,
    )


def _measured_end(objective: Loss, x: Array, tracked: bool) -> _End:
    run = Run(Bound(()), x, objective, Counter(), None, _no_disk)
    run.tracked[0] = tracked

    def again() -> None:
        run.cotangent = None
        run.gradients = {}

    def turn() -> None:
        run.turn(0)

    turn()
    d = run.cotangent
    leaves, leaves_bytes = (None, 0) if d is None else (_layout(d), footprint(d))
    del d
    gradient = sum(map(footprint, run.gradients.values()))
    (seconds,) = _timed(((again, turn),))
    again()
    with _tracing():
        peak = _peak(turn)
    return _End(
        extra=max(0, peak - leaves_bytes - gradient),
        seconds=seconds,
        leaves=leaves,
        leaves_bytes=leaves_bytes,
        gradient=gradient,
    )


# From costs of single stages to those of the chain


def _begun(bound: Bound, costs: Sequence[_Cost]) -> list[tuple[int, ...]]:
    """Return, for each stage, which of its parameters stages above it use as well."""
    seen: set[Any] = set()
    result: list[tuple[int, ...]] = []
    for parameters, cost in zip(reversed(bound.parameters), reversed(costs), strict=True):
        nodes = [parameters[i].node for i in cost.used]
        result.append(tuple(i for i, node in zip(cost.used, nodes, strict=True) if node in seen))
        seen.update(nodes)
    return result[::-1]


def _priced(
    bound: Bound, costs: Sequence[_Cost], end: _End, updates: _Updates
) -> tuple[Stage, ...]:
    """Return the stages with what depends on their neighbours, and on the optimiser."""
    begun = _begun(bound, costs)
    used: dict[Any, Parameter] = {}
    for k, cost in enumerate(costs):
        used.update((bound.parameters[k][i].node, bound.parameters[k][i]) for i in cost.used)
    complete: list[list[Parameter]] = [[] for _ in costs]
    for node, parameter in used.items():
        complete[bound.lowest[node][0]].append(parameter)
    stages: dict[
        Any, Stage
    ] = {}  # equal stages are one object, which is less to hold and to compare
    priced = []
    for k, cost in enumerate(costs):
        news = [bound.parameters[k][i] for i in cost.used if i not in begun[k]]
        prices = [updates.price(parameter) for parameter in complete[k]]
        stage = Stage(
            name=_name(bound.stages[k]),
            output=cost.output,
            cotangent=costs[k + 1].leaves_bytes if k + 1 < len(costs) else end.leaves_bytes,
            tape=cost.tape,
            view=cost.view,
            holds_input=cost.holds_input,
            holds_output=cost.holds_output,
            gradient=sum(_gradient_bytes(p.node) for p in news) + cost.strangers,
            released=sum(_gradient_bytes(p.node) for p in complete[k]),
            forward_extra=cost.forward_extra,
            tape_extra=cost.tape_extra,
            backward_extra=cost.backward_extra,
            backward_saving=cost.backward_saving,
            update_extra=max((extra for extra, _ in prices), default=0),
            forward_seconds=cost.seconds[0],
            tape_seconds=cost.seconds[1],
            backward_seconds=cost.seconds[2],
            update_seconds=sum(seconds for _, seconds in prices),
        )
        priced.append(stages.setdefault(stage, stage))
    return tuple(priced)


class _Updates:
    """What updates cost: bytes at their worst, and seconds, measured once for each kind of parameter."""

    def __init__(self, optimizer: Any) -> None:
        self.optimizer = optimizer
        self.own = {id(p) for p in optimizer.parameters} if optimizer is not None else set()
        self.known: dict[Any, tuple[int, float]] = {}

    def price(self, parameter: Parameter) -> tuple[int, float]:
        if id(parameter) not in self.own:
            return 0, 0.0
        key = parameter.shape, parameter.dtype, parameter.value.strides
        if key not in self.known:
            twin = Parameter(np.zeros_like(parameter.value))
            twin.grad = np.zeros_like(twin.value)
            step = self.optimizer.like([twin]).step
            step()
            with _tracing():
                peak = _peak(step)
            (seconds,) = _timed(((_nothing, step),))
            self.known[key] = peak, seconds
        return self.known[key]


_ENTRY = 180  # bytes that a gradient takes in the executor's and the optimiser's tables, at most
_VIEW = 150  # and a view, beside the memory that it shares


def _fixed(
    bound: Bound, x: Array, y: Any, optimizer: Any, costs: Sequence[_Cost], end: _End
) -> dict[str, int]:
    """Return the bytes that are held all the while, by kind."""
    parameters = {id(p): p for each in bound.parameters for p in each}
    if optimizer is not None:
        parameters.update((id(p), p) for p in optimizer.parameters)
    states = optimizer.state if optimizer is not None else ()
    tables = Run(bound, x, _no_loss, Counter(), None, _no_disk)
    small = sys.getsizeof(tables) + sum(
        map(sys.getsizeof, (tables.states, tables.tapes, tables.tracked))
    )
    small += sum(_VIEW for cost in costs if cost.view)
    small += sum(_state_bytes(each) for generators in bound.generators for each in generators)
    weights = sum(p.value.nbytes for p in parameters.values())
    batch = x.nbytes + getattr(y, "nbytes", 0)
    return {
        "parameters": weights,
        "optimizer state": sum(array.nbytes for state in states for array in state.values()),
        "batch": batch,
        "bookkeeping": small
        + _ENTRY * len(parameters)
        + end.gradient
        + _reserve(len(costs), weights + batch),
    }


def _reserve(length: int, nbytes: int) -> int:
    """Return what Python's and NumPy's lists of free objects may come to hold during a step.

    They are traced as if in use. They fill up as more stages run, and there is an end to it.
    """
    return min(20_000, 4_000 + 330 * length) + nbytes // 400


# What is equal


def _key(value: Any, seen: dict[int, tuple[int, Any]]) -> Any:
    """Return something that is equal for values that are built alike.

    Parameters count by their layout, plain data by value, modules by their attributes, functions by
    their code and what they close over, and all else by identity.
    """
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        return type(value), value
    if id(value) in seen:
        return "seen", seen[id(value)][0]
    seen[id(value)] = len(seen), value
    if isinstance(value, Parameter):
        array = value.value
        return Parameter, array.shape, array.dtype, array.strides
    if isinstance(value, np.random.Generator):
        return type(value), type(value.bit_generator)
    parts: Any
    if isinstance(value, list | tuple):
        parts = value
    elif isinstance(value, dict):
        parts = [part for item in value.items() for part in item]
    elif isinstance(value, partial):
        parts = value.func, value.args, value.keywords
    elif isinstance(value, MethodType):
        parts = value.__func__, value.__self__
    elif isinstance(value, FunctionType):
        cells = [cell for cell in value.__closure__ or () if cell != CellType()]
        closed = [cell.cell_contents for cell in cells]
        parts = closed, value.__defaults__, value.__kwdefaults__, vars(value)
        return value.__code__, id(value.__globals__), _key(parts, seen)
    elif hasattr(value, "parameters") and hasattr(value, "__dict__"):
        parts = [getattr(value, "training", None), vars(value)]
    else:
        return "identity", id(value)
    return type(value), tuple([_key(part, seen) for part in parts])


# What is measured with


def footprint(array: Any) -> int:
    """Return the bytes that an array takes, that of which it is a view included."""
    if not isinstance(array, np.ndarray):
        return sys.getsizeof(array)
    # NumPy keeps shape and strides apart from the array object, where sys.getsizeof misses them.
    own = sys.getsizeof(array) + 16 * array.ndim
    held = owner(array)
    if held is array:
        return own
    if isinstance(held, np.ndarray):
        return own + footprint(held)
    return own + _layout(array).size


class _Contents:
    """What a tape holds beyond what was there before it and its stage's input and output."""

    def __init__(self, tape: Any, x: Array, y: Array) -> None:
        self.small = sys.getsizeof(tape) + sys.getsizeof(weakref.ref(y))
        self.arrays: list[tuple[Any, int]] = []
        seen: dict[int, Any] = {id(each): each for each in (x, owner(x), y, owner(y))}
        stack: list[Any] = [] if tape.node is None else reachable([tape.node])
        buffers = set()
        while stack:
            value = stack.pop()
            if value is None or id(value) in seen:
                if isinstance(value, np.ndarray):
                    buffers.add(id(owner(value)))
                continue
            if (
                isinstance(value, Leaf | type)
                or (isinstance(value, tuple) and not value)
                or (type(value) is int and value < 257)
            ):
                continue  # what Python has only one of is not the tape's either
            seen[id(value)] = value
            if isinstance(value, np.ndarray):
                buffers.add(id(owner(value)))
                size = sys.getsizeof(value) + 16 * value.ndim
                self.arrays.append((weakref.ref(value), size))
                stack.append(value.base)
            elif isinstance(value, FunctionType):
                self.arrays.append((weakref.ref(value), sys.getsizeof(value)))
                stack.append(value.__closure__)
            else:
                self.small += sys.getsizeof(value)
                if isinstance(value, Node):
                    self.small += sys.getsizeof(value.number)
                    stack += [value.edges, value.shape]
                elif isinstance(value, tuple | list):
                    stack += value
                elif isinstance(value, dict):
                    stack += value.values()
                elif isinstance(value, CellType):
                    stack.append(value.cell_contents)
        self.holds_input = id(owner(x)) in buffers
        self.holds_output = id(owner(y)) in buffers

    def bytes(self) -> int:
        """Return the bytes, once the tape is gone: what is still there then was there before."""
        return self.small + sum(size for reference, size in self.arrays if reference() is None)


def _gradient_bytes(leaf: Any) -> int:
    return int(
        footprint(np.empty(0)) + 16 * (len(leaf.shape) - 1) + prod(leaf.shape) * leaf.dtype.itemsize
    )


def _state_bytes(generator: Any) -> int:
    """Return the bytes that the state of a generator takes."""
    states, size = [generator.state], 0
    for state in states:
        for value in state.values():
            size += 0 if isinstance(value, str) else sys.getsizeof(value)
            if isinstance(value, dict):
                states.append(value)
    return size + sys.getsizeof(states[0])


def _layout(array: Any) -> _Layout:
    held = owner(array)
    low, high = np.lib.array_utils.byte_bounds(np.asarray(array))
    start = low
    size = high - low
    if isinstance(held, np.ndarray):
        start, end = np.lib.array_utils.byte_bounds(held)
        size = end - start
    first = array.__array_interface__["data"][0] if isinstance(array, np.ndarray) else start
    return _Layout(array.shape, array.dtype, array.strides, size, first - start)


def _stand_in(layout: _Layout) -> Array:
    """Return zeros that lie in memory as the layout says."""
    shape, dtype, strides, size, offset = layout
    for order in "CF":
        whole: Array = np.empty(shape, dtype, order=order)  # type: ignore[call-overload]
        if whole.strides == strides and whole.nbytes == size:
            whole.fill(0)  # np.zeros would leave it to the first user to get the memory
            return whole
    buffer = np.empty(size, np.uint8)
    buffer.fill(0)
    return np.ndarray(shape, dtype, buffer, offset, strides)


def _digest(array: Any) -> int:
    return zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


@contextmanager
def _tracing() -> Iterator[None]:
    """Trace allocations inside, with nothing freed by the garbage collector meanwhile."""
    collecting, at_work = gc.isenabled(), tracemalloc.is_tracing()
    frozen = gc.get_freeze_count() > 0
    gc.disable()
    if not frozen:
        gc.freeze()  # what there is need not be looked through in each of the collections to come
    if not at_work:
        tracemalloc.start()
    try:
        yield
    finally:
        if not at_work:
            tracemalloc.stop()
        if not frozen:
            gc.unfreeze()
        if collecting:
            gc.enable()


def _peak(action: Callable[[], Any]) -> int:
    """Return how many bytes more are held during an action at its worst."""
    # A full collection empties Python's lists of free objects, whose reuse would go untraced.
    gc.collect()
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    action()
    return tracemalloc.get_traced_memory()[1] - before


def _leave_small_numbers() -> None:
    """Take the numbers of nodes and levels beyond 256.

    Python has the numbers up to there ready made, and each of those that follow takes bytes, as it will in
    nearly every step: what is measured first would differ from what is measured next.
    """
    while min(new_level(), Node((), (), np.dtype(object)).number) <= 256:
        pass


_ROUNDS = 5
_ENOUGH = 0.02  # seconds after which a stage is timed well enough


def _timed(pairs: Sequence[tuple[Callable[[], None], Callable[[], Any]]]) -> Any:
    """Return the least seconds that the second of each pair takes after the first."""
    best = [inf] * len(pairs)
    spent = 0.0
    for _ in range(_ROUNDS):
        for i, (prepare, action) in enumerate(pairs):
            prepare()
            started = time.perf_counter()
            action()
            took = time.perf_counter() - started
            best[i] = min(best[i], took)
            spent += took
        if spent > _ENOUGH:
            break
    return tuple(best)


@contextmanager
def _unchanged(generators: Sequence[Sequence[Any]]) -> Iterator[None]:
    """Put generators back to where they were."""
    before = {id(each): (each, each.state) for stage in generators for each in stage}
    try:
        yield
    finally:
        for each, state in before.values():
            each.state = state


def _objective(loss: Callable[[Any, Any], Any] | None, y: Any) -> Loss:
    if loss is None:
        return lambda outputs: np.sum(np.square(outputs))
    return lambda outputs: loss(outputs, y)


def _name(stage: Any) -> str:
    return getattr(stage, "__name__", None) or type(stage).__name__


def _nothing() -> None:
    pass


def _no_disk() -> NoReturn:
    raise AssertionError("a stage is measured without a disk")


def _no_loss(_: Any) -> NoReturn:
    raise AssertionError("a stage is measured without a loss")


def _refuse_other_output(stage: Any, k: int) -> NoReturn:
    raise ReplayError(
        f"stage {k} ({_name(stage)}) gave another output when it was run again on the same input, so "
        f"its gradient would not be that of the first run. It may use NumPy's or Python's global "
        f"random numbers (use a np.random.default_rng of its own), a clock, or something that it "
        f"changes itself"
    )
