"""What a training run was like, epoch by epoch, as plain arrays."""

from __future__ import annotations

import csv
import math
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from thriftgrad.errors import DataError
from thriftgrad.train._write import write_text


class Epoch(NamedTuple):
    """One line of a history; NaN stands for what was not measured.

    Attributes:
        epoch: counted from 1.
        train_loss: mean over the epoch's examples, each as its batch met it: the weights changed in
            between, and dropout was on.
        train_accuracy: part of those examples that were classified right, from 0 to 1.
        validation_loss: at the weights after the epoch, in evaluation mode.
        validation_accuracy: likewise.
        learning_rate: of the epoch's last step.
        seconds: wall time, validation included.
    """

    epoch: int
    train_loss: float
    train_accuracy: float
    validation_loss: float
    validation_accuracy: float
    learning_rate: float
    seconds: float


class History:
    """The epochs of a training run; each column is an array with one entry an epoch.

    Columns are those of `Epoch`. Accuracies and validation columns are NaN where there was nothing
    to measure.

    Args:
        epochs: the lines, in order.

    Attributes:
        rows: the same, as a list that `fit` appends to.
        step: how `fit` made its steps, in words, such as "compiled"; "" where that is not known.

    Example:
        >>> history = History([Epoch(1, 0.5, 0.8, 0.4, 0.9, 0.001, 2.0)])
        >>> history.append(Epoch(2, 0.25, 0.9, 0.3, 0.95, 0.001, 2.0))
        >>> history.validation_accuracy
        array([0.9 , 0.95])
        >>> history
        epoch  train loss  accuracy  validation loss  accuracy       lr  seconds
            1      0.5000   80.00 %           0.4000   90.00 %    0.001     2.00
            2      0.2500   90.00 %           0.3000   95.00 %    0.001     2.00
    """

    def __init__(self, epochs: Iterable[Epoch] = ()) -> None:
        self.rows = list(epochs)
        self.step = ""

    def append(self, row: Epoch) -> None:
        """Add the line of one more epoch."""
        self.rows.append(row)

    @property
    def epoch(self) -> NDArray[np.int64]:
        """Numbers of the epochs, from 1."""
        return np.array([row.epoch for row in self.rows], dtype=np.int64)

    @property
    def train_loss(self) -> NDArray[np.float64]:
        """Mean loss of the training examples during each epoch."""
        return self._column("train_loss")

    @property
    def train_accuracy(self) -> NDArray[np.float64]:
        """Accuracy on the training examples during each epoch, from 0 to 1."""
        return self._column("train_accuracy")

    @property
    def validation_loss(self) -> NDArray[np.float64]:
        """Mean loss of the validation examples after each epoch."""
        return self._column("validation_loss")

    @property
    def validation_accuracy(self) -> NDArray[np.float64]:
        """Accuracy on the validation examples after each epoch, from 0 to 1."""
        return self._column("validation_accuracy")

    @property
    def learning_rate(self) -> NDArray[np.float64]:
        """Learning rate of the last step of each epoch."""
        return self._column("learning_rate")

    @property
    def seconds(self) -> NDArray[np.float64]:
        """Wall time of each epoch, validation included."""
        return self._column("seconds")

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return all columns by name."""
        return {name: getattr(self, name) for name in Epoch._fields}

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write the columns to a CSV file whose first line names them.

        Numbers are written so that `from_csv` reads the very same ones; what is NaN is left empty.
        The file is replaced as a whole, so that it never holds half a line.

        Raises:
            OSError: the file cannot be written.

        Example:
            >>> import tempfile
            >>> from pathlib import Path
            >>> history = History([Epoch(1, 0.5, 0.8, float("nan"), float("nan"), 0.1, 2.0)])
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     history.to_csv(folder + "/metrics.csv")
            ...     print(Path(folder, "metrics.csv").read_text())
            ...     assert str(History.from_csv(folder + "/metrics.csv")) == str(history)
            epoch,train_loss,train_accuracy,validation_loss,validation_accuracy,learning_rate,seconds
            1,0.5,0.8,,,0.1,2.0
        """
        lines = [",".join(Epoch._fields), *(",".join(map(_cell, row)) for row in self.rows)]
        write_text(path, "\n".join(lines) + "\n")

    @classmethod
    def from_csv(cls, path: str | os.PathLike[str]) -> History:
        """Read what `to_csv` wrote.

        Raises:
            DataError: the file has other columns, or a cell that is no number.
            OSError: the file cannot be read.
        """
        try:
            with Path(path).open(newline="", encoding="utf-8") as file:
                header, *lines = list(csv.reader(file)) or [[]]
        except (UnicodeDecodeError, csv.Error) as error:
            raise DataError(f"{path} is not a CSV file: {error}") from error
        if header != list(Epoch._fields):
            raise DataError(
                f"{path} has the columns {', '.join(header) or '(none)'}; expected "
                f"{', '.join(Epoch._fields)}"
            )
        history = cls()
        for number, line in enumerate(lines, start=2):
            try:
                first, *rest = line
                history.append(Epoch(int(first), *(float(c) if c else math.nan for c in rest)))
            except (TypeError, ValueError) as error:
                raise DataError(
                    f"{path}, line {number}: {','.join(line)!r} is not a line of "
                    f"{len(Epoch._fields)} numbers"
                ) from error
        return history

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        return "\n".join([HEADER, *map(line, self.rows)]) if self.rows else "History of no epochs"

    def _repr_html_(self) -> str:
        def row(cells: Iterable[str], tag: str) -> str:
            return f"<tr>{''.join(f'<{tag}>{cell}</{tag}>' for cell in cells)}</tr>"

        # Of a long training, how it began and how it ended.
        rows = [*self.rows[:5], None, *self.rows[-25:]] if len(self.rows) > 40 else self.rows
        lines = [row(_cells(each) if each else "…" * len(_HEADINGS), "td") for each in rows]
        return (
            f"<table><thead>{row(_HEADINGS, 'th')}</thead><tbody>{''.join(lines)}</tbody></table>"
        )

    def _column(self, name: str) -> NDArray[np.float64]:
        return np.array([getattr(row, name) for row in self.rows], dtype=np.float64)


HEADER = "epoch  train loss  accuracy  validation loss  accuracy       lr  seconds"


_HEADINGS = [heading.strip() for heading in re.split("  +", HEADER)]


def line(row: Epoch) -> str:
    """Return one epoch as a line under `HEADER`."""
    return "  ".join(
        f"{cell:>{width}}" for cell, width in zip(_cells(row), (5, 10, 8, 15, 8, 7, 7), strict=True)
    )


def _cells(row: Epoch) -> list[str]:
    return [
        f"{row.epoch}",
        _loss(row.train_loss),
        _percent(row.train_accuracy),
        _loss(row.validation_loss),
        _percent(row.validation_accuracy),
        f"{row.learning_rate:.3g}",
        f"{row.seconds:.2f}",
    ]


def _loss(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:#.4g}" if value < 1e4 else f"{value:.3e}"


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.2f} %"


def _cell(value: float) -> str:
    return "" if math.isnan(value) else repr(value)
