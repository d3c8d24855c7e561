"""How large gradients and activations are, layer by layer over time, and which units have gone quiet."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from thriftgrad import plots, tree
from thriftgrad.autodiff import Parameter, Tensor, no_grad, value_and_grad
from thriftgrad.errors import ConfigError, DataError
from thriftgrad.nn import Module, Sequential, relu, sigmoid
from thriftgrad.train._write import write_text
from thriftgrad.train.callbacks import Callback, State

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from thriftgrad.memory import Plan

Array = NDArray[Any]

_SLOPE = 0.05
"""A unit is saturated where its slope is below this part of the largest there is."""


class Norms(Callback):
    """Take the size of gradients and activations on a few examples, before training and as it goes.

    The layers are those of a `Sequential`, also within one another; a module of one's own counts as
    one layer. The examples go forward and back once each time, in evaluation mode, with the weights
    as they are: the training itself is not touched, and ends with the same bits. Where `fit` steps by
    a plan, they go by it as well, and hold what a step holds if they are no more than a batch.

    A unit of a `relu` is *dead* where it is 0 for all of the examples; one of a `sigmoid` or a `tanh`
    is *saturated* where, for all of them, its slope is below a twentieth of the largest. Neither
    learns from these examples.

    Args:
        data: x and y of the examples; some hundred are enough.
        loss: takes the model's output and y; returns a scalar, as for `fit`.
        every: take them every so many steps; None: after each epoch.
        path: a CSV file to keep them in, rewritten each time; see `read`.

    Attributes:
        epochs: when they were taken, in epochs.
        gradients: for each layer with parameters the norm of their gradient, ‖∂loss/∂parameters‖₂.
        activations: for each layer the root mean square of its output.
        quiet: for each layer with such units how many are dead or saturated.
        units: for each such layer how many units there are, and the word for it.

    Example:
        >>> import thriftgrad as tg
        >>> x = np.random.default_rng(0).normal(size=(64, 2)).astype(np.float32)
        >>> y = (x[:, 0] > 0).astype(int)
        >>> model = tg.nn.Sequential(tg.nn.Linear(2, 3, rng=0), tg.nn.relu, tg.nn.Linear(3, 2, rng=1))
        >>> model[0].bias.value[1] = -9.0
        >>> norms = Norms((x, y), tg.nn.cross_entropy)
        >>> history = tg.train.fit(model, (x, y), loss=tg.nn.cross_entropy, epochs=2,
        ...                        optimizer=tg.optim.SGD(model.parameters(), 0.1), callbacks=[norms])
        >>> norms.epochs, list(norms.gradients), list(norms.activations)
        ([0.0, 1.0, 2.0], ['0 Linear', '2 Linear'], ['0 Linear', '1 relu', '2 Linear'])
        >>> norms.said()
        {'1 relu': '1 of 3 units dead'}
    """

    def __init__(
        self,
        data: tuple[Array, Array],
        loss: Callable[[Any, Any], Any],
        *,
        every: int | None = None,
        path: str | os.PathLike[str] | None = None,
    ) -> None:
        if every is not None and (isinstance(every, bool) or every < 1):
            raise ConfigError(f"Norms: every={every!r}; expected a number of steps, at least 1")
        self.x, self.y = data
        self.loss = loss
        self.every = every
        self.path = path
        self.epochs: list[float] = []
        self.gradients: dict[str, list[float]] = {}
        self.activations: dict[str, list[float]] = {}
        self.quiet: dict[str, list[float]] = {}
        self.units: dict[str, tuple[int, str]] = {}
        self._plan: Plan | None = None

    def on_train_begin(self, state: State) -> None:
        """Take the norms before the first step, or where a resumed run goes on.

        Raises:
            DataError: the file to go on with holds something else.
        """
        self._plan = state.plan
        done = len(state.history)
        if self.path is not None and done and Path(self.path).exists():
            self._go_on(state.model, done)
        if not self.epochs or self.epochs[-1] < done:
            self.take(state.model, float(done))
        elif self.path is not None:  # after a crash the file may be ahead of the snapshot
            self.to_csv(self.path)

    def on_step_end(self, state: State) -> None:
        """Take the norms if it is time."""
        if self.every and ((state.epoch - 1) * state.steps + state.step) % self.every == 0:
            self.take(state.model, state.epoch - 1 + state.step / state.steps)

    def on_epoch_end(self, state: State) -> None:
        """Take the norms after an epoch."""
        if self.every is None:
            self.take(state.model, float(state.epoch))

    def take(self, model: Module, epoch: float) -> None:
        """Take the norms of a model as it is, and note that this was so many epochs after the start.

        Raises:
            OSError: the file cannot be written.
        """
        owners = {place: _called(place, layer) for place, layer in _layers(model)}
        layer_of = {}
        for path, parameter in model.named_parameters():
            place = max((o for o in owners if f"{path}.".startswith(f"{o}.")), key=len, default="")
            layer_of[id(parameter)] = owners.get(place, path)
        squares = dict.fromkeys(layer_of.values(), 0.0)

        def note(parameter: Parameter, gradient: Array) -> None:
            if id(parameter) in layer_of:  # a loss may have parameters of its own
                squares[layer_of[id(parameter)]] += _sum_of_squares(gradient)

        self.epochs.append(epoch)
        # The training's own checks say more than NumPy's warnings would.
        with model.evaluating(), np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            self._forth(model)
            self._back(model, note)
        for name, square in squares.items():
            self.gradients.setdefault(name, []).append(square**0.5)
        if self.path is not None:
            self.to_csv(self.path)

    def _forth(self, model: Module) -> None:
        with no_grad():
            for name, layer, output in _outputs(model, self.x):
                self._note_output(name, layer, output)

    def _back(self, model: Module, note: Callable[[Parameter, Array], None]) -> None:
        """Hand over each parameter's gradient; by the plan, if there is one, never all at once."""
        if self._plan is None:
            _, gradient = value_and_grad(lambda m: self.loss(m(self.x), self.y))(model)
            for parameter, g in zip(model.parameters(), tree.flatten(gradient)[0], strict=True):
                note(parameter, g)
            return
        from thriftgrad.memory.chain import stages_of
        from thriftgrad.memory.execute import executor

        run = executor(
            self._plan.schedule, stages_of(model), apply=lambda each: note(each, each.grad)
        )
        run(np.asarray(self.x), lambda outputs: self.loss(outputs, self.y))

    def _go_on(self, model: Module, done: int) -> None:
        """Take from the file what it holds of the first epochs of this training."""
        assert self.path is not None
        before = Norms.read(self.path)
        layers = [_called(place, layer) for place, layer in _layers(model)]
        if list(before.activations) != layers:
            raise DataError(
                f"{self.path} holds norms of the layers {', '.join(before.activations) or '(none)'}; "
                f"expected {', '.join(layers)}: delete it, and new ones are taken from here on"
            )
        keep = sum(epoch <= done for epoch in before.epochs)
        self.epochs = before.epochs[:keep]
        for name in ("gradients", "activations", "quiet"):
            setattr(self, name, {k: v[:keep] for k, v in getattr(before, name).items()})
        self.units = before.units

    def said(self) -> dict[str, str]:
        """Return for each layer with quiet units, as it was last seen, what is to be said of it."""
        return {
            name: f"{counts[-1]:.0f} of {self.units[name][0]} units {self.units[name][1]}"
            for name, counts in self.quiet.items()
            if counts[-1]
        }

    def draw(
        self, path: str | os.PathLike[str] | None = None, axes: Sequence[Axes] | None = None
    ) -> tuple[Axes, Axes]:
        """Draw what was taken; see `plots.norms`."""
        return plots.norms(self.epochs, self.gradients, self.activations, self.said(), path, axes)

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write what was taken to a CSV file, replacing it as a whole.

        Raises:
            OSError: the file cannot be written.
        """
        columns: dict[str, Sequence[float]] = {"epoch": self.epochs}
        columns |= {f"gradient: {name}": values for name, values in self.gradients.items()}
        columns |= {f"output: {name}": values for name, values in self.activations.items()}
        for name, counts in self.quiet.items():
            units, word = self.units[name]
            columns[f"{word} of {units}: {name}"] = counts
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
        write_text(path, text.getvalue())

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Norms:
        """Return what `to_csv` wrote, to draw it; it cannot take any more.

        Raises:
            DataError: the file is something else.
            OSError: it cannot be read.
        """
        norms = cls((np.empty(0), np.empty(0)), _no_loss)
        try:
            with Path(path).open(newline="", encoding="utf-8") as file:
                header, *rows = list(csv.reader(file)) or [[]]
            columns = {name: [float(row[i]) for row in rows] for i, name in enumerate(header)}
            norms.epochs = columns.pop("epoch")
            for title, values in columns.items():
                what, _, name = title.partition(": ")
                if what in ("gradient", "output"):
                    (norms.gradients if what == "gradient" else norms.activations)[name] = values
                else:
                    word, _, units = what.partition(" of ")
                    norms.quiet[name], norms.units[name] = values, (int(units), word)
        except (ValueError, KeyError, IndexError, csv.Error) as error:
            raise DataError(
                f"{path} holds no norms as thriftgrad.train.Norms writes them; delete it, and a resumed "
                f"training begins a new one"
            ) from error
        return norms

    def _note_output(self, name: str, layer: Any, output: Any) -> None:
        values = np.asarray(output.value if isinstance(output, Tensor) else output)
        size = (_sum_of_squares(values) / max(1, values.size)) ** 0.5
        self.activations.setdefault(name, []).append(size)
        slopes = _SLOPES.get(layer) if layer.__hash__ else None
        if slopes is None or values.ndim < 2:
            return
        word, slope, least = slopes
        quiet = np.all(slope(values).reshape(-1, values.shape[-1]) <= least, axis=0)
        self.units[name] = (values.shape[-1], word)
        self.quiet.setdefault(name, []).append(float(np.count_nonzero(quiet)))


_SLOPES: dict[Any, tuple[str, Callable[[Array], Array], float]] = {
    relu: ("dead", lambda y: y > 0, 0.0),
    sigmoid: ("saturated", lambda y: 4 * y * (1 - y), _SLOPE),
    np.tanh: ("saturated", lambda y: 1 - y * y, _SLOPE),
}
"""For each activation what its quiet units are called, its slope as a function of its value relative
to the largest, and up to where that is called quiet."""


def _sum_of_squares(values: Array) -> float:
    """Return Σ|v|² in double precision, a piece at a time: a copy of all would need memory."""
    flat = values.ravel("K")
    pieces = (flat[i : i + 4096] for i in range(0, flat.size, 4096))
    return sum(float(np.sum(np.square(np.abs(piece), dtype=np.float64))) for piece in pieces)


def _no_loss(outputs: Any, y: Any) -> Any:
    raise ConfigError("these Norms were read from a file, and have no examples to take any more")


def _layers(model: Module, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield path and layer of all that is called in turn."""
    if type(model) is not Sequential:
        yield path, model
        return
    for i, layer in enumerate(model):
        place = f"{path}.{i}".lstrip(".")
        if isinstance(layer, Module):
            yield from _layers(layer, place)
        else:
            yield place, layer


def _outputs(model: Module, x: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yield name, layer and output of each layer in turn."""
    for path, layer in _layers(model):
        x = layer(x)
        yield _called(path, layer), layer, x


def _called(path: str, layer: Any) -> str:
    name = type(layer).__name__ if isinstance(layer, Module) else getattr(layer, "__name__", "")
    return f"{path} {name or type(layer).__name__}".strip()
