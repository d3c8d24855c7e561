"""A training to look at while it goes on: in a notebook, in a file that is rewritten, or as text."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thriftgrad.autodiff import Tensor, no_grad
from thriftgrad.errors import ConfigError, MissingExtraError
from thriftgrad.nn import softmax
from thriftgrad.plots._board import SAMPLES, Board, Curves, png
from thriftgrad.plots.pictures import as_planes
from thriftgrad.train.callbacks import Callback, State

Array = NDArray[Any]

_BINS = 200
"""The loss of single steps is noise: the picture shows means over so many parts of the training."""


class Live(Callback):
    """Show loss, accuracy and the outputs for eight images while `fit` is at work.

    In a notebook a figure stands below the cell and is updated in place. Elsewhere a PNG is
    rewritten, which most viewers follow, or a text is drawn over itself in the terminal. On the left
    there are the loss, and the accuracy on training and validation examples after each epoch; on the
    right the images, each with a stem for each output of the network. A title is green and ticked
    where the highest output is that of the right class; else it is orange and crossed, and says what
    is right.

    Updates cost at most `share` of the time: when they would cost more, they become rarer. The figure
    itself is made once, before the first step, in a third of a second.

    Args:
        samples: x and y of images to show the outputs for, the first eight of them; y are integer
            labels. None: the curves alone.
        output: what makes of the model's output for one batch the numbers from 0 to 1 to be drawn.
            The default suits models with `cross_entropy`; None takes the outputs as they are, for a
            model that ends in a sigmoid or softmax of its own.
        names: what to call the classes; None calls them by their numbers.
        shape: height and width of an image, where images are rows and not square.
        path: a `.png` to rewrite; by default none in notebooks or with `text`, and elsewhere
            `live.png` in the present folder.
        text: draw with text characters on standard output, by plotext; best with `progress=False`
            in `fit`.
        rate: updates a second, at most.
        share: part of the time that updates may take, at most.

    Attributes:
        updates: how many there were.
        seconds: how long these took, all together.

    Raises:
        ConfigError: samples that are no images with labels, or numbers that make no sense.
        MissingExtraError: when the training begins, where matplotlib, or plotext for `text`, is missing.
        OSError: in training, where the PNG cannot be written.

    Example:
        >>> import tempfile, numpy as np, thriftgrad as tg
        >>> x, y = np.random.default_rng(0).random((64, 16), np.float32), np.arange(64) % 3
        >>> model = tg.nn.Sequential(tg.nn.Linear(16, 3, rng=0))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     live = tg.train.Live((x, y), path=folder + "/live.png")
        ...     history = tg.train.fit(model, (x, y), loss=tg.nn.cross_entropy, epochs=2,
        ...                            optimizer=tg.optim.Adam(model.parameters()), callbacks=[live])
        >>> live.updates >= 1
        True
    """

    def __init__(
        self,
        samples: tuple[Array, Array] | None = None,
        *,
        output: Callable[[Any], Any] | None = softmax,
        names: Sequence[str] | None = None,
        shape: Sequence[int] | None = None,
        path: str | os.PathLike[str] | None = None,
        text: bool = False,
        rate: float = 1.0,
        share: float = 0.02,
    ) -> None:
        if not rate > 0 or not 0 < share <= 1:
            raise ConfigError(
                f"Live: rate={rate!r}, share={share!r}; expected updates a second above 0, and a part "
                f"of the time above 0 and up to 1"
            )
        self.x, self.y = _samples(samples)
        self.images = as_planes(self.x, shape, "Live: samples") if len(self.x) else self.x
        self.output = output
        self.names = names
        self.text = text
        self.notebook = "ipykernel" in sys.modules
        self.path = Path("live.png") if path is None and not (text or self.notebook) else path
        self.rate = rate
        self.share = share
        self.updates = 0
        self.seconds = 0.0
        self._board: Board | None = None
        self._handle: Any = None
        self._lines = 0
        self._began: float | None = None

    def on_train_begin(self, state: State) -> None:
        """Make the figure and show it."""
        total = max(1, state.epochs * state.steps)
        self._bins = min(_BINS, total)
        self._per_step = self._bins / total
        self._sums, self._counts = np.zeros(self._bins), np.zeros(self._bins)
        self._board, self._handle, self._lines, self._began = None, None, 0, None
        outputs = self._outputs(state)
        if self._shows_picture:
            classes = 1 if outputs is None else outputs.shape[1]
            names = self.names or [str(k) for k in range(classes)]
            self._board = Board(state.epochs, self.images, self.y, names)
        if self.text:
            _plotext()
        self._show(state)
        self.updates, self.seconds, self._cost = 0, 0.0, 0.0
        self._began = self._last = time.perf_counter()

    def on_step_end(self, state: State) -> None:
        """Note the loss, and update the picture if it is time."""
        i = int(((state.epoch - 1) * state.steps + state.step - 1) * self._per_step)
        self._sums[i] += state.loss
        self._counts[i] += 1
        now = time.perf_counter()
        if now - self._last < 1 / self.rate:
            return
        # As if the next one took as long as the last, and so did the one at the end.
        if self.seconds + 2 * self._cost <= self.share * (now - (self._began or now)):
            self._update(state)

    def on_train_end(self, state: State) -> None:
        """Show how it ended, however it did."""
        if self._began is not None:  # else it was the figure itself that failed
            self._update(state)

    @property
    def _shows_picture(self) -> bool:
        return self.notebook or self.path is not None

    def _update(self, state: State) -> None:
        started = time.perf_counter()
        self._show(state)
        self._last = time.perf_counter()
        self._cost = self._last - started
        self.updates += 1
        self.seconds += self._cost

    def _show(self, state: State) -> None:
        curves = self._curves(state)
        outputs = self._outputs(state)
        if self._board is not None:
            picture = png(self._board.draw(curves, outputs))
            if self.path is not None:
                # Whoever looks finds a whole picture. That it reaches the disk is not worth waiting for.
                temporary = Path(f"{self.path}.part")
                temporary.write_bytes(picture)
                temporary.replace(self.path)
            if self.notebook:
                self._display(picture)
        if self.text:
            self._print(_as_text(curves, outputs, self.y))

    def _outputs(self, state: State) -> Array | None:
        """Return what the model makes of the samples, as numbers from 0 to 1."""
        if not len(self.x):
            return None
        forward: Any = state.model
        with state.model.evaluating(), no_grad(), np.errstate(all="ignore"):
            outputs = forward(self.x)
            outputs = self.output(outputs) if self.output is not None else outputs
        outputs = np.asarray(outputs.value if isinstance(outputs, Tensor) else outputs)
        n = len(self.x)
        if outputs.ndim != 2 or len(outputs) != n or outputs.shape[1] <= self.y.max():
            raise ConfigError(
                f"Live: the model's outputs for {n} samples with labels up to {self.y.max()} have shape "
                f"{outputs.shape}; expected ({n}, classes)"
            )
        if self.names is not None and len(self.names) != outputs.shape[1]:
            raise ConfigError(f"Live: {len(self.names)} names for {outputs.shape[1]} classes")
        return outputs

    def _curves(self, state: State) -> Curves:
        history = state.history
        done = np.flatnonzero(self._counts)
        times = (done + 0.5) / self._per_step / state.steps
        losses = self._sums[done] / self._counts[done]
        if (
            len(done) == 0 or times[0] > 1
        ):  # epochs before a resumption are known by their means alone
            before = history.epoch < (times[0] if len(done) else np.inf)
            times = np.concatenate([history.epoch[before] - 0.5, times])
            losses = np.concatenate([history.train_loss[before], losses])

        def measured(values: Array) -> tuple[Array, Array]:
            there = ~np.isnan(values)
            return history.epoch[there].astype(float), values[there]

        return Curves(
            (times, losses),
            measured(history.validation_loss),
            measured(history.train_accuracy),
            measured(history.validation_accuracy),
        )

    def _display(self, picture: bytes) -> None:
        notebook = import_module("IPython.display")
        image = notebook.Image(picture, format="png")
        # One figure that changes: a display for each update would pile them up, and clearing the
        # cell's output before each would flicker.
        if self._handle is None:
            self._handle = notebook.display(image, display_id=True)
        else:
            self._handle.update(image)

    def _print(self, text: str) -> None:
        out = sys.stdout
        if self._lines and out.isatty():
            out.write(f"\x1b[{self._lines}F\x1b[J")
        out.write(text + "\n")
        out.flush()
        self._lines = text.count("\n") + 1


def _samples(samples: Any) -> tuple[Array, Array]:
    if samples is None:
        return np.empty((0, 0)), np.empty(0, int)
    try:
        x, y = (np.asarray(each[:SAMPLES]) for each in samples)
    except (TypeError, ValueError):
        x = y = np.empty(())
    if x.ndim < 2 or y.shape != x.shape[:1] or y.dtype.kind not in "iu" or not len(y):
        raise ConfigError(
            f"Live: samples with x of shape {x.shape} and y of shape {y.shape} and dtype {y.dtype}; "
            f"expected images and an integer label for each, such as (x_test[:8], y_test[:8]) (of "
            f"one-hot rows np.argmax(y, axis=1))"
        )
    return x, y


def _plotext() -> Any:
    try:
        return import_module("plotext").figure
    except (ImportError, AttributeError) as error:
        raise MissingExtraError(
            "Live(text=True) needs plotext 6 or newer, which is not installed: pip install "
            "'thriftgrad[plots]'"
        ) from error


def _as_text(curves: Curves, outputs: Array | None, labels: Array) -> str:
    """Return the curves as text, and a line with what the samples are taken for."""
    figure = _plotext()
    figure.clear()
    figure.subplots(1, 2)
    figure.plot_size(96, 15)
    panels = (
        ("loss", curves.loss, curves.validation_loss),
        ("accuracy %", curves.accuracy, curves.validation_accuracy),
    )
    for column, (name, *both) in enumerate(panels, start=1):
        panel = figure.subplot(1, column)
        panel.theme("colorless")
        said = []
        for (x, y), marker, split in zip(
            both, ("braille", "dot"), ("training", "validation"), strict=True
        ):
            if not len(y):
                continue
            factor = 1.0 if name == "loss" else 100.0
            said.append(f"{split} {factor * y[-1]:.4g}")
            logarithmic = name == "loss" and np.all(y > 0)
            signal = panel.signal(
                x.tolist(),
                (np.log10(y) if logarithmic else factor * y).tolist(),
                marker=marker,
            )
            panel.draw(signal.lines())
        panel.title(f"{name}: {', '.join(said)}" if said else name)
    text = "\n".join(line.rstrip() for line in str(figure.build()).splitlines())
    if outputs is None:
        return text
    found = np.argmax(outputs, axis=1)
    words = [
        f"{f}" if f == label else f"{f} (is {label})"
        for f, label in zip(found, labels, strict=True)
    ]
    return f"{text}\nsamples: {',  '.join(words)}"
