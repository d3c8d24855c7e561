"""Who watches a training run: the progress bar, early stopping, the file of metrics, and you."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from thriftgrad.errors import ConfigError
from thriftgrad.nn import Module
from thriftgrad.optim import Optimizer
from thriftgrad.train.history import History

if TYPE_CHECKING:
    from thriftgrad.memory import Plan


@dataclass
class State:
    """A training run as it stands; what every callback is given.

    Attributes:
        model: the model being trained.
        optimizer: its optimiser; a callback may set `optimizer.lr`.
        rng: the generator that shuffles the examples.
        epochs: how many epochs there are to be.
        steps: how many steps, and so batches, an epoch has.
        epoch: the present epoch, counted from 1.
        step: the present step of this epoch, counted from 1.
        loss: mean loss of the examples of the step just made.
        mean_loss: mean loss of the examples of this epoch so far.
        history: the epochs that are over.
        plan: what each step holds when, where `fit` was given `memory`.
        stop: set it to end the training after this epoch.
    """

    model: Module
    optimizer: Optimizer
    rng: np.random.Generator
    epochs: int
    steps: int
    epoch: int = 0
    step: int = 0
    loss: float = float("nan")
    mean_loss: float = float("nan")
    history: History = field(default_factory=History)
    plan: Plan | None = None
    stop: bool = False


class Callback:
    """Base of what `fit` calls along the way: override the methods that you need.

    What a callback itself remembers is not part of a snapshot.

    Example:
        >>> class HalveOnPlateau(Callback):
        ...     def on_epoch_end(self, state):
        ...         losses = state.history.validation_loss
        ...         if len(losses) > 1 and losses[-1] > losses[-2]:
        ...             state.optimizer.lr = state.optimizer.lr / 2
    """

    def on_train_begin(self, state: State) -> None:
        """Act before the first step; where a run is resumed, with its history so far."""

    def on_step_end(self, state: State) -> None:
        """Act after an update of the weights."""

    def on_epoch_end(self, state: State) -> None:
        """Act when the epoch's line is in the history, and before its snapshot is written."""

    def on_train_end(self, state: State) -> None:
        """Act at the end, also where it is an error or a person that ends the training."""


class MetricsFile(Callback):
    """Keep the history so far in a CSV file; see `History.to_csv`.

    Args:
        path: where to write it.

    Raises:
        OSError: in training, where the file cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = path

    def on_train_begin(self, state: State) -> None:
        """Write what there is: after a crash the file may be an epoch ahead of the snapshot."""
        state.history.to_csv(self.path)

    def on_epoch_end(self, state: State) -> None:
        """Write the file with one more line."""
        state.history.to_csv(self.path)


class EarlyStopping(Callback):
    """Stop after `patience` epochs without a lower loss, and keep the weights of the best epoch.

    The loss is that of validation, or of training where there is no validation. `fit(patience=...)`
    uses this one, restores the weights and makes it part of the snapshot.

    Attributes:
        best: the weights after the best epoch so far, or None before the first.
    """

    def __init__(self, patience: int) -> None:
        self.patience = patience
        self.best: dict[str, NDArray[Any]] | None = None

    def on_epoch_end(self, state: State) -> None:
        """Compare the last epoch with those before."""
        history = state.history
        losses = history.validation_loss
        if np.isnan(losses[-1]):
            losses = history.train_loss
        # All from the history, so that a resumed run comes to the same decision.
        waited = len(losses) - 1 - int(np.argmin(losses))
        if waited == 0:
            self.best = state.model.state_dict()
        if waited >= self.patience:
            state.stop = True


class ProgressBar(Callback):
    """A bar for each epoch with the loss so far and the steps a second, in terminal or notebook."""

    def __init__(self) -> None:
        self.bar: Any = None

    @staticmethod
    def wanted() -> bool:
        """Say whether a person is likely to be watching: a terminal or a notebook."""
        # A notebook's kernel is no terminal, and shows a bar all the same.
        return "ipykernel" in sys.modules or (sys.stderr is not None and sys.stderr.isatty())

    def on_step_end(self, state: State) -> None:
        """Move the bar on by one step."""
        if self.bar is None:
            self.bar = tqdm(
                total=state.steps,
                desc=f"epoch {state.epoch:{len(str(state.epochs))}d}/{state.epochs}",
                unit="step",
                dynamic_ncols=True,
            )
        self.bar.set_postfix_str(f"loss {state.mean_loss:.4f}", refresh=False)
        self.bar.update()

    def on_epoch_end(self, state: State) -> None:
        """Leave the epoch's bar standing, with what validation has found."""
        row = state.history.rows[-1]
        parts = [f"loss {row.train_loss:.4f}"]
        if not np.isnan(row.validation_loss):
            parts.append(f"validation {row.validation_loss:.4f}")
        accuracy = row.train_accuracy
        if not np.isnan(row.validation_loss):
            accuracy = row.validation_accuracy
        if not np.isnan(accuracy):
            parts.append(f"{100 * accuracy:.2f} %")
        self.bar.set_postfix_str(", ".join(parts))
        self._close()

    def on_train_end(self, state: State) -> None:
        """Let go of the terminal's line where an epoch was cut short."""
        self._close()

    def _close(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None


def check_callbacks(callbacks: Sequence[Callback]) -> list[Callback]:
    """Return the callbacks as a list.

    Raises:
        ConfigError: one of them is not a `Callback`.
    """
    if not isinstance(callbacks, list | tuple):
        raise ConfigError(
            f"callbacks is a {type(callbacks).__name__}; expected a list of "
            f"thriftgrad.train.Callback"
        )
    for callback in callbacks:
        if not isinstance(callback, Callback):
            raise ConfigError(
                f"callbacks has a {type(callback).__name__}; expected an instance of a class "
                f"derived from thriftgrad.train.Callback"
            )
    return list(callbacks)
