"""What every optimiser shares: a pure update rule, and an object that applies it in place.

The rule of an optimiser is two functions of arrays, `init` and `update`. They change nothing they
are given and call nothing but NumPy, so a program recorder can run them on stand-in arrays. The
object around them keeps the count of steps and the state, writes results into the parameters'
own arrays, and refuses a step that it could not finish.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from tracemalloc import is_tracing
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from thriftgrad.autodiff import recording
from thriftgrad.errors import ConfigError, SnapshotError
from thriftgrad.optim._checks import (
    ParameterLike,
    check_gradient,
    check_writable,
    label,
    number,
    parameter_list,
)
from thriftgrad.optim.clip import clip_factor, joint_norm, scaled
from thriftgrad.optim.schedules import Rate, describe

_PIECE = 1 << 19
"""Bytes of a piece: temporaries stay in the cache, and Python's own time does not show."""


class Optimizer(ABC):
    """Base of the optimisers that step along gradients.

        (value, state) = update(value, gradient, state, lr, step)     for each parameter

    A subclass gives `init`, `update` and the names of its `hyperparameters`, sets those, and then
    calls this constructor.

    Args:
        parameters: what to train; any iterable. One that appears twice is kept once.
        lr: learning rate, >= 0, or a schedule: a callable from the number of steps taken so far
            to the rate.
        clip_norm: before a step, shorten all gradients to this joint norm (see `clip_by_norm`);
            None for no clipping.

    Attributes:
        elementwise: set by a subclass to say that `update` treats every entry by itself. Large
            parameters are then updated piece by piece, in the processor's cache: the same bits in
            half the time, with little memory beside.
        parameters: list of the parameters.
        steps: number of steps taken.
        updates: number of updates of each parameter: fewer than `steps` where a gradient was None.
        state: one dict of arrays for each parameter.

    Raises:
        ConfigError: something that is not a parameter, or a value outside its range.

    Example:
        >>> from thriftgrad.autodiff import Parameter
        >>> class SignDescent(Optimizer):
        ...     def init(self, value):
        ...         return {}
        ...     def update(self, value, gradient, state, lr, step):
        ...         return value - lr * np.sign(gradient), {}
        >>> w = Parameter(np.array([1.0, -2.0]), name="w")
        >>> optimizer = SignDescent([w], lr=0.5)
        >>> w.grad = np.array([7.0, -0.1])
        >>> optimizer.step()
        >>> w.value.tolist(), optimizer.steps
        ([0.5, -1.5], 1)
    """

    hyperparameters: ClassVar[tuple[str, ...]] = ()
    elementwise: ClassVar[bool] = False
    live_in_programs: ClassVar[tuple[str, ...]] = (
        *("steps", "updates", "state", "_rate", "_applied", "_layouts", "_places"),
    )

    def __init__(
        self, parameters: Iterable[ParameterLike], lr: Rate, *, clip_norm: float | None = None
    ) -> None:
        self.lr = lr
        self.clip_norm = None if clip_norm is None else number("clip_norm", clip_norm, 0, ends="()")
        self._begin(parameters)

    def _begin(self, parameters: Iterable[ParameterLike]) -> None:
        self.parameters = parameter_list(parameters, type(self).__name__)
        self.steps = 0
        self.updates = [0] * len(self.parameters)
        self.state = [self.init(parameter.value) for parameter in self.parameters]
        self._layouts = [(p.value.shape, p.value.dtype) for p in self.parameters]
        self._places = {id(parameter): i for i, parameter in enumerate(self.parameters)}
        self._applied: set[int] = set()

    @abstractmethod
    def init(self, value: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Return the state before the first step of a parameter with this value."""

    @abstractmethod
    def update(
        self,
        value: NDArray[Any],
        gradient: NDArray[Any],
        state: Mapping[str, NDArray[Any]],
        lr: float,
        step: int,
    ) -> tuple[NDArray[Any], dict[str, NDArray[Any]]]:
        """Return the value and the state after one update, as new arrays.

        Args:
            value: the parameter's array.
            gradient: of the value's shape and type.
            state: what `init` or the last update returned.
            lr: the learning rate, a Python float so that it takes on the arrays' type.
            step: the number of updates that this parameter has had before.
        """

    def update_in_place(
        self,
        value: NDArray[Any],
        gradient: NDArray[Any],
        state: Mapping[str, NDArray[Any]],
        lr: float,
        step: int,
    ) -> None:
        """Write what `update` returns into the arrays that it is given.

        A subclass may do so with fewer temporaries, to the same bits; the gradient may lie in the
        value's own memory, so that the value is written last. One that has an `update` of its own and
        no such method is updated by that.
        """
        new_value, new_state = self.update(value, gradient, state, lr, step)
        value[...] = new_value
        for key, array in new_state.items():
            state[key][...] = array

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        first = next(k for k in cls.__mro__ if {"update", "update_in_place"} & vars(k).keys())
        if "update_in_place" not in vars(first):
            cls.update_in_place = Optimizer.update_in_place  # type: ignore[method-assign]

    @property
    def lr(self) -> float:
        """The learning rate of the next step; set it to a number or to another schedule.

        Raises:
            ConfigError: it, or what the schedule returned, is not a number >= 0.
        """
        if callable(self._rate):
            return number(f"lr at step {self.steps}", self._rate(self.steps), 0.0)
        return self._rate

    @lr.setter
    def lr(self, rate: Rate) -> None:
        self._rate: Rate = rate if callable(rate) else number("lr", rate, 0.0)

    def step(self) -> None:
        """Update every parameter that has a gradient, in place.

        All of them are checked before the first is touched, so only an error in the arithmetic
        itself (a floating-point warning turned into an exception) or Ctrl-C can stop a step half-way:
        some parameters are then updated, and of one perhaps the state and not yet the value. Beyond
        the update rule's temporaries, which live for one parameter at a time, a step allocates
        nothing.

        Raises:
            ConfigError: no parameter has a gradient, a gradient is not an array like its
                parameter, or a parameter's array is read-only or not the kind that the state was
                made for. Nothing has changed then.
        """
        self._refuse_unfinished("step")
        ready = [(i, g) for i, p in enumerate(self.parameters) if (g := p.grad) is not None]
        if not ready:
            raise ConfigError(
                f"{type(self).__name__}.step(): none of the {len(self.parameters)} parameters has "
                "a gradient; call backward() on the loss first"
            )
        for i, gradient in ready:
            self._check_gradient(i, gradient)
        lr = recording.live_number(lambda: self.lr, "lr")
        if self.clip_norm is None:
            for i, gradient in ready:
                self._write(i, gradient, lr)
        else:
            factor = clip_factor(joint_norm([gradient for _, gradient in ready]), self.clip_norm)
            for i, gradient in ready:
                self._write(i, scaled(gradient, factor), lr)
        recording.afterwards(self._count_step)

    def apply(self, parameter: ParameterLike) -> None:
        """Update one parameter now, as a part of a step that `end_step` completes.

        With this a backward pass can use up and release each layer's gradient as soon as it is
        complete, so that the gradients of a whole model never exist together. The result is that
        of one `step()`, bit for bit.

        Raises:
            ConfigError: the parameter is not one of this optimiser's, has no gradient or a bad
                one, or was updated in this step already; or `clip_norm` is set, which needs all
                gradients at once.

        Example:
            >>> from thriftgrad.autodiff import Parameter
            >>> from thriftgrad.optim import SGD
            >>> w, b = Parameter(np.ones(2), name="w"), Parameter(np.zeros(1), name="b")
            >>> optimizer = SGD([w, b], lr=0.5)
            >>> for parameter in (b, w):
            ...     parameter.grad = np.ones_like(parameter.value)
            ...     optimizer.apply(parameter)
            ...     parameter.grad = None
            >>> optimizer.end_step()
            >>> w.value.tolist(), b.value.tolist(), optimizer.steps
            ([0.5, 0.5], [-0.5], 1)
        """
        if self.clip_norm is not None:
            raise ConfigError(
                f"{type(self).__name__}.apply() with clip_norm = {self.clip_norm}: the joint norm "
                "needs all gradients at once; use step(), or set clip_norm to None"
            )
        index = self._places.get(id(parameter))
        if index is None:
            raise ConfigError(
                f"{type(self).__name__}.apply() of a {type(parameter).__name__} that is not one of "
                f"this optimiser's {len(self.parameters)} parameters"
            )
        if index in self._applied:
            raise ConfigError(
                f"{label(parameter, index)} was updated in this step already; "
                "call end_step() before the next one"
            )
        lr = recording.live_number(lambda: self.lr, "lr")
        gradient: Any = parameter.grad
        self._check_gradient(index, gradient)
        self._write(index, gradient, lr)
        self._applied.add(index)

    def end_step(self) -> None:
        """Count the updates made by `apply` as one step.

        Raises:
            ConfigError: there were none.
        """
        if not self._applied:
            raise ConfigError(
                f"{type(self).__name__}.end_step() without an update: call apply() first"
            )
        self._applied.clear()
        recording.afterwards(self._count_step)

    def like(self, parameters: Iterable[ParameterLike]) -> Self:
        """Return an optimiser at rest, with the settings of this one, for other parameters.

        Example:
            >>> from thriftgrad.autodiff import Parameter
            >>> from thriftgrad.optim import SGD
            >>> w, b = Parameter(np.ones(2), name="w"), Parameter(np.zeros(1), name="b")
            >>> SGD([w], lr=0.5).like([b]).lr
            0.5
        """
        other = copy.copy(self)
        other._begin(parameters)
        return other

    def zero_grad(self) -> None:
        """Drop all gradients, and with them their memory."""
        for parameter in self.parameters:
            parameter.grad = None

    def state_dict(self) -> dict[str, Any]:
        """Return all that is needed, beside the parameters' values, to go on as if never stopped.

        Returns:
            `"steps"`, an int; `"updates"`, an int for each parameter; `"arrays"`, copies of the
            state under `"{parameter}.{array}"`; `"config"`, the class and its settings as plain
            data. Parameters go by name if all have one and no two the same, else by position.
            All but `"arrays"` can be written as JSON.

        Raises:
            ConfigError: between `apply` and `end_step`, where a step is half made.

        Example:
            >>> from thriftgrad.autodiff import Parameter
            >>> from thriftgrad.optim import SGD
            >>> SGD([Parameter(np.ones(2), name="w")], lr=0.5, momentum=0.9).state_dict()
            {'steps': 0, 'updates': {'w': 0}, 'arrays': {'w.momentum': array([0., 0.])},
             'config': {'class': 'SGD', 'lr': 0.5, 'clip_norm': None, 'momentum': 0.9,
                        'nesterov': False, 'weight_decay': 0.0}}
        """
        self._refuse_unfinished("state_dict")
        return {
            "steps": self.steps,
            "updates": dict(zip(self._keys(), self.updates, strict=True)),
            "arrays": {key: array.copy() for key, array in self._arrays().items()},
            "config": self._config(),
        }

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Take over a saved state; the steps that follow are then bit for bit the ones missed.

        A learning rate that is a number is taken from the saved state too, since it may have been
        set along the way. All other settings must be as they were saved; to go on with different
        ones, load first and change them afterwards.

        Raises:
            SnapshotError: another class, other settings, parameters or array shapes. Nothing has
                changed then.
        """
        self._refuse_unfinished("load_state_dict")
        name = type(self).__name__
        _check_keys(f"state of {name}", saved, ("steps", "updates", "arrays", "config"))
        own, config = self._config(), saved["config"]
        _check_keys(f"config of {name}", config, own)
        if config["class"] != name:
            raise SnapshotError(f"the state is that of a {config['class']}; expected a {name}")
        numeric = not callable(self._rate) and isinstance(config["lr"], int | float)
        for setting, expected in own.items():
            if config[setting] != expected and not (setting == "lr" and numeric):
                raise SnapshotError(
                    f"{name} was saved with {setting} = {config[setting]!r} and is now built with "
                    f"{expected!r}; build it as saved, load the state, then change the setting"
                )
        _check_keys(f"updates of {name}", saved["updates"], self._keys())
        counts = {"steps": saved["steps"], **saved["updates"]}
        for key, value in counts.items():
            if not isinstance(value, int) or value < 0:
                raise SnapshotError(f"{key} in the state of {name} is {value!r}; expected a count")
        arrays = self._arrays()
        _check_keys(f"arrays of {name}", saved["arrays"], arrays)
        for key, array in arrays.items():
            given = saved["arrays"][key]
            if not isinstance(given, np.ndarray):
                raise SnapshotError(f"{key} is a {type(given).__name__}; expected an array")
            if (given.shape, given.dtype) != (array.shape, array.dtype):
                raise SnapshotError(
                    f"{key} was saved with shape {given.shape} and type {given.dtype}; "
                    f"expected {array.shape} and {array.dtype}"
                )
        if numeric:
            try:
                self.lr = config["lr"]
            except ConfigError as error:
                raise SnapshotError(f"the state of {name} has {error}") from error
        self.steps = saved["steps"]
        self.updates = [saved["updates"][key] for key in self._keys()]
        for key, array in arrays.items():
            array[...] = saved["arrays"][key]

    def _check_gradient(self, index: int, gradient: object) -> None:
        parameter = self.parameters[index]
        value = parameter.value
        shape, dtype = self._layouts[index]
        if (
            type(value) is type(gradient) is np.ndarray
            and value.shape == shape == gradient.shape
            and value.dtype is dtype is gradient.dtype
            and value.flags.writeable
        ):
            return  # as nearly always, and quickly
        check_writable(parameter, index)
        check_gradient(parameter, index, gradient)
        if (value.shape, value.dtype) != (shape, dtype):
            raise ConfigError(
                f"{label(parameter, index)} now has shape {value.shape} and type {value.dtype}, but "
                f"the optimiser was made for {shape} and {dtype}; make a new optimiser"
            )

    def _write(self, index: int, gradient: NDArray[Any], lr: float) -> None:
        # In place, so that views of a parameter, and a program that has recorded where its arrays
        # lie, see every step.
        parameter, state, step = self.parameters[index], self.state[index], self.updates[index]
        value = parameter.value
        if recording.active.get() is not None:
            self._record_write(index, gradient, lr)
        elif (
            self.elementwise
            and value.nbytes > _PIECE
            and _are_contiguous(value, gradient, *state.values())
        ):
            for part, slope, *parts in _pieces(value, gradient, *state.values()):
                self.update_in_place(part, slope, dict(zip(state, parts, strict=True)), lr, step)
            self.updates[index] = step + 1
        else:
            self.update_in_place(value, gradient, state, lr, step)
            self.updates[index] = step + 1
        parameter.touch()

    def _record_write(self, index: int, gradient: NDArray[Any], lr: float) -> None:
        """Do so in a program; it is cut as a whole."""
        state = {name: self._live_state(index, name) for name in self.state[index]}
        title = f"updates_{self.parameters[index].name or index}"
        step = recording.live_number(lambda: self.updates[index], title)
        # By the rule itself: a program plans its temporaries. It updates during its backward pass, after
        # the last call that can fail, and holds floating-point errors back until all is written.
        Optimizer.update_in_place(self, self.parameters[index].value, gradient, state, lr, step)
        recording.afterwards(partial(self._count_update, index))

    def _live_state(self, index: int, name: str) -> Any:
        title = f"{name}_{self.parameters[index].name or index}"
        return recording.live_array(lambda: self.state[index][name], title)

    def _count_update(self, index: int) -> None:
        self.updates[index] += 1

    def _count_step(self) -> None:
        self.steps += 1

    def _refuse_unfinished(self, call: str) -> None:
        if self._applied:
            raise ConfigError(
                f"{type(self).__name__}.{call}() in the middle of a step: {len(self._applied)} "
                "parameters were updated by apply(); call end_step() first"
            )

    def _keys(self) -> list[str]:
        names = [parameter.name for parameter in self.parameters]
        if all(names) and len(set(names)) == len(names):
            return names
        return [str(index) for index in range(len(names))]

    def _arrays(self) -> dict[str, NDArray[Any]]:
        return {
            f"{key}.{part}": array
            for key, state in zip(self._keys(), self.state, strict=True)
            for part, array in state.items()
        }

    def _config(self) -> dict[str, Any]:
        config = {
            "class": type(self).__name__,
            "lr": describe(self._rate),
            "clip_norm": self.clip_norm,
        }
        for name in self.hyperparameters:
            value = getattr(self, name)
            config[name] = list(value) if isinstance(value, tuple) else value
        return config


def _are_contiguous(*arrays: Any) -> bool:
    return all(array.flags.c_contiguous for array in arrays)


def _pieces(*arrays: Any) -> Iterator[list[Any]]:
    """Yield short pieces of each array in turn."""
    flat = [array.reshape(-1) for array in arrays]
    length = _PIECE // arrays[0].itemsize
    for start in range(0, arrays[0].size, length):
        yield [array[start : start + length] for array in flat]


def _keep_freed_pages() -> None:
    """Have the C library keep what a step frees for the next, up to 64 MiB, where it learns from use.

    What one step frees the next allocates again. GNU's library returns free memory at the top of its
    heap to the system from twice the size of the largest mapped array that was ever freed, and each of
    its pages then costs a microsecond or two to come back: a seventh of a step of 50 small layers. One
    array of nearly 32 MiB, the most that it learns from, is freed here; its pages are never touched.
    """
    if not is_tracing():  # it would be in the figures
        np.empty((32 << 20) - (64 << 10), np.uint8)


_keep_freed_pages()


def _check_keys(what: str, given: object, expected: Iterable[str]) -> None:
    if not isinstance(given, Mapping):
        raise SnapshotError(f"the {what} is a {type(given).__name__}; expected a dict")
    missing, unknown = sorted(set(expected) - set(given)), sorted(set(given) - set(expected))
    if missing or unknown:
        raise SnapshotError(
            f"the {what} does not fit: missing {missing or 'nothing'}, "
            f"unexpected {unknown or 'nothing'}"
        )
