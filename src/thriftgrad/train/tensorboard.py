"""Curves for TensorBoard, without TensorBoard: its event files are simple enough to write by hand.

A file is a sequence of records: the length of the content in eight bytes, a checksum of these, the
content, a checksum of that. The content is an `Event`, a protocol buffer of which four fields are
enough. Both formats have not changed since 2015, and are read by every version.
"""

from __future__ import annotations

import math
import os
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from thriftgrad.train.callbacks import Callback, State


class TensorBoard(Callback):
    """Write each epoch's loss, accuracy and learning rate where TensorBoard finds them.

    `tensorboard --logdir FOLDER` shows them while the training goes on. Training and validation are
    runs of their own, the folders `train` and `validation`, so that they share a chart: "loss",
    "accuracy" (from 0 to 1) and, for training, "learning_rate", each against the number of the epoch.
    What was not measured is left out. A training that is resumed goes on in the same charts, and
    epochs that it makes again are shown once.

    Args:
        folder: where to write; it is made if need be.

    Raises:
        OSError: in training, where the files cannot be written.

    Example:
        >>> import tempfile, numpy as np, thriftgrad as tg
        >>> x = np.linspace(-1, 1, 64, dtype=np.float32)[:, np.newaxis]
        >>> model = tg.nn.Sequential(tg.nn.Linear(1, 1, rng=0))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     history = tg.train.fit(
        ...         model, (x, 3 * x), loss=tg.nn.mse, epochs=2, validation=(x, 3 * x),
        ...         optimizer=tg.optim.SGD(model.parameters(), lr=0.5),
        ...         callbacks=[tg.train.TensorBoard(folder)],
        ...     )
        ...     sorted(path.name for path in Path(folder).iterdir())
        ['train', 'validation']
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self._files: dict[str, BinaryIO] = {}

    def on_train_begin(self, state: State) -> None:
        """Open the file of the training's curves, so that a bad folder is found at once."""
        self._close()
        self._open("train", len(state.history) + 1)

    def on_epoch_end(self, state: State) -> None:
        """Write the epoch, and see to it that whoever watches finds it."""
        row = state.history.rows[-1]
        train = {
            "loss": row.train_loss,
            "accuracy": row.train_accuracy,
            "learning_rate": row.learning_rate,
        }
        validation = {"loss": row.validation_loss, "accuracy": row.validation_accuracy}
        for run, scalars in (("train", train), ("validation", validation)):
            measured = {name: value for name, value in scalars.items() if not math.isnan(value)}
            if measured:
                file = self._files.get(run) or self._open(run, row.epoch)
                file.write(_record(_event(row.epoch, _summary(measured))))
                file.flush()

    def on_train_end(self, state: State) -> None:
        """Close the files, also where an error has ended the training."""
        self._close()

    def _open(self, run: str, first: int) -> BinaryIO:
        """Start a file that tells readers to forget epochs from `first` on in those before it."""
        folder = self.folder / run
        folder.mkdir(parents=True, exist_ok=True)
        # Files are read in the order of their names.
        file = (folder / f"events.out.tfevents.{time.time_ns()}").open("xb")
        self._files[run] = file
        file.write(_record(_event(0, _field(3, b"brain.Event:2"))))
        file.write(_record(_event(first, _field(7, _number(1, _SESSION_START)))))
        file.flush()
        return file

    def _close(self) -> None:
        while self._files:
            _, file = self._files.popitem()
            file.close()


_SESSION_START = 1


def _event(step: int, content: bytes) -> bytes:
    return b"\x09" + struct.pack("<d", time.time()) + _number(2, step) + content


def _summary(scalars: Mapping[str, float]) -> bytes:
    values = (
        _field(1, name.encode()) + b"\x15" + struct.pack("<f", value)
        for name, value in scalars.items()
    )
    return _field(5, b"".join(_field(1, value) for value in values))


def _field(number: int, content: bytes) -> bytes:
    """Return a field of a protocol buffer that holds bytes: a string, or a message in turn."""
    return bytes([number << 3 | 2]) + _varint(len(content)) + content


def _number(number: int, value: int) -> bytes:
    return bytes([number << 3]) + _varint(value)


def _varint(value: int) -> bytes:
    """Return a whole number in groups of seven bits, the lowest first, all but the last marked."""
    result = bytearray()
    while value > 0x7F:
        result.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*result, value])


def _record(content: bytes) -> bytes:
    length = struct.pack("<Q", len(content))
    return length + _checksum(length) + content + _checksum(content)


def _checksum(content: bytes) -> bytes:
    """Return the CRC-32C, rotated and shifted, as the format has it lest a CRC be taken of a CRC."""
    crc = 0xFFFFFFFF
    for byte in content:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def _castagnoli(byte: int) -> int:
    """Return what one byte adds to a CRC-32C.

    Castagnoli, Bräuer, Herrmann (1993), Optimization of cyclic redundancy-check codes with 24 and 32
    parity bits.
    """
    for _ in range(8):
        byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
    return byte


_TABLE = tuple(map(_castagnoli, range(256)))
