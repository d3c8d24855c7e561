"""Activations on disk: a private folder of checksummed files that is gone when it is no longer needed."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import weakref
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from thriftgrad.errors import SpillError

Array = NDArray[Any]


class Spill:
    """Arrays on disk, by number, in a folder of their own that nobody else may enter.

    As a context, it removes the folder at the end, whatever the end is; a program that stops without
    leaving the context removes it as it exits.

    Args:
        folder: where to make that folder; None for the system's place for temporary files.

    Raises:
        SpillError: the folder cannot be made.

    Example:
        >>> with Spill() as disk:
        ...     disk.write(3, np.arange(4.0))
        ...     disk.read(3)
        array([0., 1., 2., 3.])
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None) -> None:
        try:
            self.folder = Path(tempfile.mkdtemp(prefix="thriftgrad-", dir=folder))  # mode 0700
        except OSError as error:
            raise SpillError(
                f"no folder for spilled activations can be made in "
                f"{folder or tempfile.gettempdir()}: {error.strerror}; name another one"
            ) from error
        self._written: dict[int, _Written] = {}
        self._remove = weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)

    def write(self, index: int, array: Array) -> None:
        """Write an array, in its own order in memory.

        Raises:
            SpillError: the disk is full or will not be written to. The file is gone then.
        """
        path = self.folder / f"{index}.bin"
        order = _axes(array)
        flat = np.transpose(array, order)
        try:
            with open(path, "wb") as file:
                crc = 0
                for block in _blocks(flat):
                    crc = zlib.crc32(block, crc)
                    file.write(block)
        except OSError as error:
            path.unlink(missing_ok=True)
            raise SpillError(
                f"{array.nbytes:,} bytes of activations could not be written to {path}: "
                f"{error.strerror}; make room there, name another folder, or plan without disk"
            ) from error
        self._written[index] = _Written(path, flat.shape, array.dtype, order, crc)

    def read(self, index: int) -> Array:
        """Return a written array, as a new one with its axes in the same order in memory.

        Raises:
            SpillError: the file is missing, or does not hold what was written.
        """
        path, shape, dtype, order, crc = self._written[index]
        result: Array = np.empty(shape, dtype)
        if result.nbytes:
            try:
                if path.stat().st_size != result.nbytes:
                    raise SpillError(
                        f"{path} has {path.stat().st_size:,} bytes where {result.nbytes:,} "
                        f"were written; {_ABORT}"
                    )
                result[...] = np.memmap(path, dtype, "r", shape=shape)
            except (OSError, ValueError) as error:
                if isinstance(error, SpillError):
                    raise
                raise SpillError(f"{path} cannot be read back: {error}; {_ABORT}") from error
            if _checksum(result) != crc:
                raise SpillError(f"{path} does not hold what was written to it; {_ABORT}")
        return np.transpose(result, np.argsort(order)) if order != sorted(order) else result

    def drop(self, index: int) -> None:
        """Delete a written array."""
        self._written.pop(index).path.unlink(missing_ok=True)

    def close(self) -> None:
        """Remove the folder and all that is in it."""
        try:
            shutil.rmtree(self.folder, ignore_errors=True)
        finally:  # what an interrupt has left
            self._remove()

    def __contains__(self, index: object) -> bool:
        return index in self._written

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def bandwidth(
    folder: str | os.PathLike[str] | None = None, nbytes: int = 16_000_000
) -> tuple[float, float]:
    """Return the seconds a byte that writing to and reading from disk take, measured once each.

    What was just written is read from the system's cache, as most activations will be.

    Raises:
        SpillError: the disk cannot be written to.

    Example:
        >>> write, read = bandwidth(nbytes=4096)
        >>> write > 0 and read > 0
        True
    """
    array = np.zeros(nbytes, np.uint8)
    with Spill(folder) as disk:
        started = time.perf_counter()
        disk.write(0, array)
        between = time.perf_counter()
        disk.read(0)
        return (between - started) / nbytes, (time.perf_counter() - between) / nbytes


class _Written(NamedTuple):
    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    order: list[int]
    crc: int


_ABORT = (
    "the step was abandoned without changing a gradient; check the disk, and keep other programs from "
    "the folder"
)
_BLOCK = 1 << 20


def _axes(array: Array) -> list[int]:
    """Return the axes from the slowest to the fastest, as they lie in memory.

    What a product of matrices gives to the last bit may depend on that order, so it is kept.
    """
    return sorted(range(array.ndim), key=lambda axis: -abs(array.strides[axis]))


def _blocks(array: Array) -> Iterator[memoryview]:
    """Yield the bytes of an array in its own order, without a copy where it is contiguous."""
    if array.flags.c_contiguous:
        flat = array.reshape(-1).view(np.uint8).data
        for start in range(0, len(flat), _BLOCK):
            yield flat[start : start + _BLOCK]
    elif array.nbytes <= _BLOCK or array.ndim == 0:
        yield np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
    else:
        for part in array:
            yield from _blocks(part)


def _checksum(array: Array) -> int:
    return zlib.crc32(array.reshape(-1).view(np.uint8).data)
