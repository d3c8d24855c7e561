"""IDX, the format MNIST was published in: a magic number, the dimensions, then the values.

    00 00  type  ndim  |  ndim × uint32, big-endian  |  values, big-endian

A data set is four such files, which nothing but their names tells apart, and names get lost. Here
images and labels are known by their number of dimensions, partners by their count, and the training
set by being the larger one. Where that leaves two readings, it is an error and not a guess.
"""

import hashlib
import math
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from thriftgrad.data.formats.source import (
    BLOCK,
    Raw,
    capacity,
    head,
    opened,
    read_up_to,
    refusing,
)
from thriftgrad.errors import DataError

NAME = "IDX (the format of MNIST's own files)"
TYPES = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
MOST_DIMENSIONS = 8
MOST_LISTED = 12


class Header(NamedTuple):
    """What an IDX file says of itself; the values begin at byte `start` of its content."""

    path: Path
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    start: int

    def __str__(self) -> str:
        return f"{self.path.name} ({self.dtype.name}, {' × '.join(map(str, self.shape))})"


def matches(head: bytes) -> bool:
    """Say whether the content begins with an IDX magic number."""
    return (
        len(head) >= 4
        and head[:2] == b"\0\0"
        and head[2] in TYPES
        and 1 <= head[3] <= MOST_DIMENSIONS
    )


def read(path: Path) -> Raw:
    """Read the four files in the folder `path`, or those that the image file `path` belongs to."""
    folder = path if path.is_dir() else path.parent
    files = sorted(file for file in folder.iterdir() if file.is_file())
    found = [header for file in files if (header := _header(file))]
    images = [h for h in found if len(h.shape) > 1]
    labels = [h for h in found if len(h.shape) == 1 and h.dtype.kind in "ui"]
    if path != folder:
        images = _like(path, images)
    (train, test) = _pairs(_distinct(images), _distinct(labels), folder, files)
    return Raw(
        train=(_values(train[0]), _values(train[1])),
        test=(_values(test[0]), _values(test[1])),
    )


def _header(path: Path) -> Header | None:
    try:
        start = head(path, 4 + 4 * MOST_DIMENSIONS)
    except (OSError, EOFError, zlib.error):
        # A neighbour that cannot be opened or unpacked is none of the four. If it should have
        # been one, the error about the missing file lists it.
        return None
    if not matches(start) or len(start) < 4 + 4 * start[3]:
        return None
    shape = np.frombuffer(start, ">u4", count=start[3], offset=4).tolist()
    return Header(path, np.dtype(TYPES[start[2]]), tuple(shape), 4 + 4 * start[3])


def _like(path: Path, images: list[Header]) -> list[Header]:
    asked = _header(path)
    if asked is None:
        raise DataError(f"{path} is cut off within its IDX header")
    if len(asked.shape) == 1:
        raise DataError(
            f"{path} has one dimension and so is an IDX labels file; give its image file or folder"
        )
    return [h for h in images if (h.dtype, h.shape[1:]) == (asked.dtype, asked.shape[1:])]


def _distinct(headers: list[Header]) -> list[Header]:
    """Keep one of each set of equal files: unpacking leaves a.gz and a side by side."""
    seen: dict[object, Header] = {}
    for header in headers:
        kind: tuple[object, ...] = (header.dtype, header.shape)
        if sum((h.dtype, h.shape) == kind for h in headers) > 1:
            kind += (_digest(header),)
        seen.setdefault(kind, header)
    return list(seen.values())


def _pairs(
    images: list[Header], labels: list[Header], folder: Path, files: list[Path]
) -> list[tuple[Header, Header]]:
    """Return (images, labels) of the training set, then of the test set."""
    if len(images) < 2 or len(labels) < 2:
        raise DataError(
            f"{folder} has {len(images)} IDX image files that go together and {len(labels)} label "
            f"files; expected two of each (for another format, give the file itself). "
            f"The folder holds: {_listing(files)}"
        )
    if len(images) > 2 or images[0].shape[0] == images[1].shape[0]:
        raise DataError(
            f"{folder}: which of {', '.join(map(str, images))} is the training set and which the "
            "test set is ambiguous; expected two that differ in count, the larger one for "
            "training. Put one data set's four files in a folder of their own"
        )
    pairs = []
    for image in sorted(images, key=lambda h: -h.shape[0]):
        partners = [h for h in labels if h.shape[0] == image.shape[0]]
        if len(partners) != 1:
            raise DataError(
                f"{folder}: {image} needs one labels file of the same count and has "
                f"{len(partners)}; the labels files are {', '.join(map(str, labels))}"
            )
        pairs.append((image, partners[0]))
    return pairs


def _values(header: Header) -> NDArray[Any]:
    with refusing(header.path, NAME):
        size = math.prod(header.shape) * header.dtype.itemsize
        most = capacity(header.path) - header.start
        if size > most:
            raise DataError(
                f"{header.path} announces {size} bytes of values; it can hold {most} at most, "
                "and seems cut off"
            )
        with opened(header.path) as stream:
            stream.read(header.start)
            data = read_up_to(stream, size)
            rest = stream.read(1)
        if len(data) != size or rest:
            raise DataError(
                f"{header.path} announces {size} bytes of values and has "
                f"{'more' if rest else len(data)}"
            )
        return np.frombuffer(data, header.dtype).reshape(header.shape)


def _digest(header: Header) -> bytes:
    with refusing(header.path, NAME), opened(header.path) as stream:
        left = min(capacity(header.path), math.prod(header.shape) * 8 + BLOCK)
        digest = hashlib.blake2b()
        while left > 0 and (block := stream.read(min(BLOCK, left))):
            digest.update(block)
            left -= len(block)
        return digest.digest()


def _listing(files: list[Path]) -> str:
    names = [f"{file.name} ({file.stat().st_size} bytes)" for file in files[:MOST_LISTED]]
    if len(files) > MOST_LISTED:
        names.append(f"and {len(files) - MOST_LISTED} more")
    return ", ".join(names) or "no files"
