"""Carry out a schedule on real arrays.

A stage that runs untaped runs under `no_grad`; one that runs taped is recorded from its input on, and
its backward sweeps that piece of tape alone. Pieces meet at an ordinary node, and each sweep goes on
with the sums that the ones before it have begun, so that every operation of plain backpropagation
takes place, on the same numbers in the same order: gradients are the same to the last bit.

What the simulator does not count, this does not hold. A reference that lives one action too long is a
defect here, however harmless it looks.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from contextvars import ContextVar, copy_context
from os import PathLike
from types import CellType, FunctionType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thriftgrad.autodiff.tape import Leaf, Node, _pass, reachable, sweep
from thriftgrad.autodiff.tensor import Parameter, Tensor, _accumulating, no_grad, traced
from thriftgrad.errors import ConfigError, DifferentiationError, ScheduleError
from thriftgrad.memory.generators import bit_generators
from thriftgrad.memory.reach import parameters_of
from thriftgrad.memory.schedule import Action, Kind, Schedule
from thriftgrad.memory.spill import Spill

Array = NDArray[Any]
StageFunction = Callable[[Any], Any]
Loss = Callable[[Any], Any]
"""From x_L, a tensor, to the objective, a scalar tensor; what it is compared with is closed over."""
Step = Callable[[Array, Loss], Any]


def execute(
    schedule: Schedule,
    stages: Sequence[StageFunction],
    x: Array,
    loss: Loss,
    *,
    apply: Callable[[Any], None] | None = None,
    folder: str | PathLike[str] | None = None,
) -> Any:
    """Carry out a schedule once: the forward and backward pass of `loss(stages(x))`.

    The gradients are added to the `grad` of each parameter as `loss(model(x)).backward()` adds them,
    and are the same to the last bit. Generators of random numbers that a stage uses
    (`np.random.Generator`, found through its attributes, closure and globals) give a stage that runs
    again the same draws again, and end as if nothing had.

    Stages see their input and hand on their output: what else one leaves for another, such as an
    activation for a skip connection, is not followed. The first stages, up to one with parameters,
    see plain arrays that they cannot write into.

    Args:
        schedule: what to do.
        stages: functions of one array that return one array; their composition is the model.
        x: what goes into the first stage. No gradient of it is computed.
        loss: takes the last stage's output, a tensor, and returns a scalar tensor.
        apply: called with a parameter as soon as its `grad` is complete, which is None again
            afterwards (`Optimizer.apply`). None: gradients stay until all are there.
        folder: where to make the folder of spilled activations.

    Returns:
        The value of the objective.

    Raises:
        ScheduleError: an action uses what is not there, or a backward is missing.
        ConfigError: a stage returned something else than one array, or a parameter that was applied
            already turned up in a stage that does not show it among its attributes.
        DifferentiationError: `loss` did not return a real scalar tensor that records.
        SpillError: the disk failed.

    On these and on any other exception, KeyboardInterrupt included, every `grad` is as it was before
    and nothing is left on disk. Updates that `apply` has made are made.

    Example:
        >>> import thriftgrad as tg
        >>> layer, x = tg.nn.Linear(2, 2, rng=0), np.ones((3, 2), np.float32)
        >>> forth = [Action(Kind.KEEP, 0), Action(Kind.TAPE, 1), Action(Kind.LOSS, 2)]
        >>> back = [Action(Kind.BACKWARD, 1), Action(Kind.TAPE, 0), Action(Kind.BACKWARD, 0)]
        >>> value = execute(Schedule((*forth, *back)), [layer, np.tanh], x, np.sum)
        >>> gradient, layer.weight.grad = layer.weight.grad, None
        >>> np.sum(np.tanh(layer(x))).backward()
        >>> np.array_equal(gradient, layer.weight.grad)
        True
    """
    return executor(schedule, stages, apply=apply, folder=folder)(x, loss)


def executor(
    schedule: Schedule,
    stages: Sequence[StageFunction],
    *,
    apply: Callable[[Any], None] | None = None,
    folder: str | PathLike[str] | None = None,
) -> Step:
    """Return the function that carries out a schedule on `(x, loss)`; see `execute`.

    What the stages hold, in parameters and generators, is looked up here, once for all steps.
    """
    stages = tuple(stages)
    bound = Bound(stages)
    runs = Counter(action.index for action in schedule if action.kind in _RUNS)

    def step(x: Array, loss: Loss) -> Any:
        # In a context of its own: an interrupt may come while `no_grad` ends, and would leave it on.
        return copy_context().run(carry_out, x, loss)

    def carry_out(x: Array, loss: Loss) -> Any:
        with ExitStack() as stack:
            run = Run(bound, x, loss, runs, apply, lambda: stack.enter_context(Spill(folder)))
            watch = watching.get()
            if watch is not None:
                watch(run, None)
            for action in schedule:
                run.act(action)
                if watch is not None:
                    watch(run, action)
            return run.finish()

    return step


watching: ContextVar[Callable[[Run, Action | None], None] | None] = ContextVar(
    "thriftgrad_watching", default=None
)
"""Called when a step begins, and after each of its actions."""

_RUNS = (Kind.ADVANCE, Kind.KEEP, Kind.TAPE)


class Bound:
    """Stages, and what they can reach: the generators of each, the last use of each parameter."""

    def __init__(self, stages: Sequence[StageFunction]) -> None:
        self.stages = stages
        self.parameters = [parameters_of(stage) for stage in stages]
        self.generators = [bit_generators(stage) for stage in stages]
        self.lowest: dict[Leaf, tuple[int, Parameter]] = {}
        for k in reversed(range(len(stages))):
            for parameter in self.parameters[k]:
                assert isinstance(parameter.node, Leaf)
                self.lowest[parameter.node] = k, parameter


class Run:
    """What is held while a schedule is carried out, and one method for each kind of action."""

    __slots__ = (
        "applied",
        "apply",
        "at",
        "bound",
        "cotangent",
        "disk",
        "drawn",
        "gradients",
        "loss",
        "open_disk",
        "runs",
        "states",
        "tapes",
        "tracked",
        "value",
    )

    def __init__(
        self,
        bound: Bound,
        x: Array,
        loss: Loss,
        runs: Counter[int],
        apply: Callable[[Any], None] | None,
        open_disk: Callable[[], Spill],
    ) -> None:
        if not isinstance(x, np.ndarray):
            raise ConfigError(f"x is a {type(x).__name__}; expected an array (np.asarray)")
        length = len(bound.stages)
        self.bound = bound
        self.loss = loss
        self.apply = apply
        self.open_disk = open_disk
        self.disk: Spill | None = None
        self.runs = runs
        # As lists, whose size does not depend on how much is held.
        self.states: list[Array | None] = [x] + [None] * length
        self.tapes: list[_Tape | None] = [None] * length
        # Whether plain backpropagation would have a tensor here; known once a stage has run.
        self.tracked: list[bool | None] = [False] + [None] * length
        self.drawn: dict[int, tuple[int, list[Any]]] = {}
        self.gradients: dict[Leaf, Array] = {}
        self.applied: set[Leaf] = set()
        self.at = length + 1
        self.cotangent: Array | None = None
        self.value: Any = None

    def act(self, action: Action) -> None:
        """Carry out one action."""
        k = action.index
        last = len(self.tapes) - (action.kind in _OF_STAGES)
        if not 0 <= k <= last or (action.kind is Kind.LOSS and k != last):
            raise ScheduleError(f"{action}: there is no such place in {len(self.tapes)} stages")
        _METHODS[action.kind](self, k)

    def advance(self, k: int) -> None:
        """Run stage k untaped, and let go of its input."""
        self.keep(k)
        self.states[k] = None

    def keep(self, k: int) -> None:
        """Run stage k untaped."""
        x = self._state(k, "run stage", k)
        with no_grad():
            y = self._call(k, traced(x, 0)[0] if self.tracked[k] else readonly(x))
        self.states[k + 1] = self._plain(k, y)

    def tape(self, k: int) -> None:
        """Run stage k taped."""
        x = self._state(k, "tape stage", k)
        given, entry = self._recording(k, x)
        y = self._call(k, given)
        node = y.node if isinstance(y, Tensor) else None
        if isinstance(y, Tensor) and y.level > 0:
            raise DifferentiationError(
                f"stage {k} gave a tensor of a function that is being differentiated; a schedule "
                f"cannot be carried out inside grad, vjp or another transform"
            )
        if type(node) is Leaf:
            # A parameter handed on as it is: its sum goes on from what later stages gave it.
            node = Node(((node, _pass, ()),), node.shape, node.dtype)
        self.states[k + 1] = array = self._plain(k, y)
        self.tapes[k] = _Tape(node, entry, array)

    def turn(self, _: int) -> None:
        """Compute the objective, and its cotangent at x_L."""
        last = len(self.tapes)
        x = self._state(last, "compute the loss of", last)
        given, entry = self._recording(last, x)
        objective = self.loss(given)
        del given
        _check_objective(objective)
        self.value = objective.value
        roots = [(objective.node, np.ones_like(objective.value))]
        del objective
        self._sweep(roots, entry)
        self.at = last

    def backward(self, k: int) -> None:
        """Sweep the tape of stage k."""
        tape = self.tapes[k]
        if tape is None:
            raise ScheduleError(f"backward {k}: stage {k} has no tape; tape it before")
        if self.at != k + 1:
            raise ScheduleError(
                f"backward {k}: the cotangent of state {k + 1} is not there; "
                + (
                    "the loss comes first"
                    if self.at > len(self.tapes)
                    else f"backward {self.at - 1} comes next"
                )
            )
        self.tapes[k] = None
        roots, entry = [(tape.node, self.cotangent)], tape.entry
        self.cotangent = None
        del tape  # it may be the last to hold the stage's output
        self._sweep(roots, entry)
        self.at = k
        if self.apply is not None:
            self._apply(k)

    def drop(self, i: int) -> None:
        """Let go of x_i."""
        if self.states[i] is None and self._taken(i) is None:
            raise ScheduleError(f"drop {i}: state {i} is not there")
        self.states[i] = None

    def drop_tape(self, k: int) -> None:
        """Let go of t_k."""
        if self.tapes[k] is None:
            raise ScheduleError(f"drop tape {k}: stage {k} has no tape")
        self.tapes[k] = None

    def spill(self, i: int) -> None:
        """Write x_i to disk."""
        x = self._state(i, "spill state", i)
        if self.disk is None:
            self.disk = self.open_disk()
        self.disk.write(i, x)

    def load(self, i: int) -> None:
        """Read x_i from disk."""
        self.states[i] = self._on_disk("load", i).read(i)

    def drop_disk(self, i: int) -> None:
        """Delete x_i on disk."""
        self._on_disk("drop disk", i).drop(i)

    def finish(self) -> Any:
        """Hand the gradients over to the parameters, and return the value of the objective."""
        if self.at != 0:
            raise ScheduleError(
                f"the schedule ends before backward {min(self.at, len(self.tapes)) - 1}: it must "
                f"compute the loss and go back through all stages"
            )
        if self.apply is not None:
            self._apply_rest()
        _accumulate(self.gradients)
        return self.value

    def _recording(self, i: int, x: Array) -> tuple[Any, Node | None]:
        """Return x_i as what plain backpropagation would have there, and the node of a tensor."""
        if not self.tracked[i]:
            return readonly(x), None
        tensor, _ = traced(x, 0)
        # A leaf would be given a copy of what a plain node is given as it is.
        tensor.node = entry = Node((), x.shape, x.dtype)
        return tensor, entry

    def _call(self, k: int, given: Any) -> Any:
        """Run stage k, on the draws that it had before if it runs again."""
        generators = self.bound.generators[k]
        if not generators or (k not in self.drawn and self.runs[k] < 2):
            return self.bound.stages[k](given)
        if k not in self.drawn:
            self.drawn[k] = self.runs[k] - 1, [each.state for each in generators]
            return self.bound.stages[k](given)
        remaining, states = self.drawn.pop(k)
        if remaining > 1:
            self.drawn[k] = remaining - 1, states
        now = [each.state for each in generators]
        try:
            for each, state in zip(generators, states, strict=True):
                each.state = state
            return self.bound.stages[k](given)
        finally:
            for each, state in zip(generators, now, strict=True):
                each.state = state

    def _plain(self, k: int, y: Any) -> Array:
        """Return what stage k gave as an array, and note whether a gradient may flow through it."""
        array: Array = y.value if isinstance(y, Tensor) else y
        if not isinstance(array, np.ndarray | np.generic):
            raise ConfigError(
                f"stage {k} returned a {type(array).__name__}; expected one array: join what it returns by "
                f"np.concatenate or np.stack, or make one stage of this and the next"
            )
        if self.tracked[k + 1] is None:
            self.tracked[k + 1] = array.dtype.kind in "fc" and (
                isinstance(y, Tensor) or bool(self.tracked[k])
            )
        return array

    def _state(self, i: int, what: str, which: int) -> Array:
        x = self.states[i]
        if x is None:
            x = self._taken(i)
        if x is None:
            raise ScheduleError(
                f"cannot {what} {which}: state {i} is not there; keep it, load it or compute it again"
            )
        return x

    def _taken(self, i: int) -> Array | None:
        """Return x_i from the tape that holds it, if there is one."""
        tape = self.tapes[i - 1] if i else None
        return None if tape is None else tape.output()

    def _on_disk(self, what: str, i: int) -> Spill:
        if self.disk is None or i not in self.disk:
            raise ScheduleError(f"{what} {i}: state {i} is not on disk; spill it before")
        return self.disk

    def _sweep(self, roots: list[tuple[Node | None, Any]], entry: Node | None) -> None:
        """Go back from the only root, which is used up, to the entry and the parameters."""
        if roots[0][0] is None or roots[0][1] is None:
            self.cotangent = None
            return
        ends = frozenset() if entry is None else frozenset((entry,))
        found = sweep(_emptying(roots), ends=ends, before=self.gradients)
        self.cotangent = None if entry is None else found.pop(entry, None)
        self.gradients.update(found)

    def _apply(self, k: int) -> None:
        """Update the parameters whose gradient is complete after the backward of stage k."""
        apply = self.apply
        assert apply is not None
        complete = []
        for leaf in self.gradients:
            lowest, parameter = self.bound.lowest.get(leaf, (None, None))
            if leaf in self.applied:
                name = getattr(parameter, "name", "")
                raise ConfigError(
                    f"the gradient of parameter {name!r} was complete after the backward of stage "
                    f"{lowest}, as far as can be seen, and stage {k} uses it too; hold it as an "
                    f'attribute there, or use update="after backward"'
                )
            if lowest == k or (k == -1 and parameter is not None):
                complete.append((leaf, parameter))
        for leaf, parameter in complete:
            before = leaf.grad
            _accumulate({leaf: self.gradients.pop(leaf)})
            try:
                apply(parameter)
            finally:
                leaf.grad = before
            self.applied.add(leaf)

    def _apply_rest(self) -> None:
        """Update the parameters of the loss, and those that were used where they are not seen."""
        lowest = self.bound.lowest
        if any(leaf not in lowest for leaf in self.gradients):
            for parameter in parameters_of(self.loss):
                assert isinstance(parameter.node, Leaf)
                lowest.setdefault(parameter.node, (len(self.tapes), parameter))
        self._apply(-1)
        for leaf in self.gradients:
            raise ConfigError(
                f"a parameter of shape {leaf.shape} has a gradient, but neither a stage nor the loss "
                f"shows it, so it cannot be updated; hold it as an attribute there, or use "
                f'update="after backward"'
            )


_METHODS: dict[Kind, Callable[[Run, int], None]] = {
    Kind.ADVANCE: Run.advance,
    Kind.KEEP: Run.keep,
    Kind.TAPE: Run.tape,
    Kind.LOSS: Run.turn,
    Kind.BACKWARD: Run.backward,
    Kind.DROP: Run.drop,
    Kind.DROP_TAPE: Run.drop_tape,
    Kind.SPILL: Run.spill,
    Kind.LOAD: Run.load,
    Kind.DROP_DISK: Run.drop_disk,
}
_OF_STAGES = (*_RUNS, Kind.BACKWARD, Kind.DROP_TAPE)


class _Tape:
    """The tape of one stage: its last node, the one it begins with, and a way to its output."""

    __slots__ = ("_output", "entry", "node")

    def __init__(self, node: Node | None, entry: Node | None, output: Array) -> None:
        self.node = node
        self.entry = entry
        # A view of an array that the tape keeps would be lost with the state, so it is kept; all else
        # is only there as long as the tape itself keeps it.
        self._output: Any = output
        if isinstance(output, np.ndarray) and not (
            output.base is not None
            and node is not None
            and any(owner(output) is held for held in buffers(node, entry))
        ):
            self._output = weakref.ref(output)

    def output(self) -> Array | None:
        """Return the output of the stage, if the tape keeps it."""
        held = self._output
        return held() if isinstance(held, weakref.ref) else held


def owner(array: Any) -> Any:
    """Return the object whose memory an array lives in: itself, if it is no view."""
    while isinstance(array, np.ndarray) and array.base is not None:
        array = array.base
    return array


def buffers(node: Node, entry: Node | None = None) -> list[Any]:
    """Return the owner of each array that a tape keeps, each once: residuals, and masks of pulls."""
    found: dict[int, Any] = {}
    ends = frozenset() if entry is None else frozenset((entry,))
    todo = [
        (residuals, getattr(pull, "__closure__", None))
        for each in reachable([node], ends)
        for _, pull, residuals in each.edges or ()
    ]
    stack: list[Any] = list(todo)
    while stack:
        value = stack.pop()
        if isinstance(value, np.ndarray):
            held = owner(value)
            found.setdefault(id(held), held)
        elif isinstance(value, tuple | list):
            stack += value
        elif isinstance(value, dict):
            stack += value.values()
        elif isinstance(value, CellType):
            stack.append(value.cell_contents)
        elif isinstance(value, FunctionType):
            stack.append(value.__closure__)
    return list(found.values())


def readonly(x: Array) -> Array:
    """Return a view of an array that a stage cannot write into: it may have to run on it again."""
    if not isinstance(x, np.ndarray):
        return x
    view = x.view()
    view.setflags(write=False)
    return view


def _emptying(roots: list[tuple[Any, Any]]) -> Iterator[tuple[Any, Any]]:
    """Yield what is in a list, each the last reference to it."""
    while roots:
        yield roots.pop()


def _accumulate(gradients: Mapping[Leaf, Array]) -> None:
    """Add to the `grad` of each leaf as a backward pass does, to all or, on an exception, to none."""
    before = [(leaf, leaf.grad) for leaf in gradients]
    try:
        with _accumulating:
            for leaf, g in gradients.items():
                leaf.grad = g if leaf.grad is None else leaf.grad + g
    except BaseException:
        for leaf, grad in before:
            leaf.grad = grad
        raise


def _check_objective(objective: Any) -> None:
    if not isinstance(objective, Tensor) or objective.node is None or objective.level > 0:
        raise DifferentiationError(
            f"loss(outputs) returned a {type(objective).__name__} that records nothing; expected a "
            f"tensor computed from the outputs by NumPy's functions, and stages with parameters"
        )
    if objective.shape != () or objective.dtype.kind != "f":
        raise DifferentiationError(
            f"loss(outputs) returned a tensor of shape {objective.shape} and type "
            f"{objective.dtype}; expected a real scalar: reduce it by np.sum or np.mean"
        )
