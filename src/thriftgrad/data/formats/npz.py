"""NumPy archives in the layout that Keras uses: x_train, y_train, x_test, y_test."""

import math
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from thriftgrad.data.formats.source import DEFLATE_RATIO, LIMIT, Raw
from thriftgrad.errors import DataError

NAME = "a Keras-layout .npz"
ARRAYS = ("x_train", "y_train", "x_test", "y_test")


def matches(head: bytes) -> bool:
    """Say whether the content is a zip archive, an empty one included."""
    return head.startswith((b"PK\x03\x04", b"PK\x05\x06"))


def read(path: Path) -> Raw:
    """Read the four arrays; each member's and header's size is checked before it is believed."""
    with zipfile.ZipFile(path) as archive:
        members = {member.filename: member for member in archive.infolist()}
        missing = [name for name in ARRAYS if f"{name}.npy" not in members]
        if missing:
            raise DataError(
                f"{path} is a zip archive without {', '.join(missing)}; it holds "
                f"{sorted(members)[:20]}. Expected the arrays {', '.join(ARRAYS)}"
            )
        arrays = [_array(archive, members[f"{name}.npy"], path) for name in ARRAYS]
    return Raw(train=(arrays[0], arrays[1]), test=(arrays[2], arrays[3]))


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> NDArray[Any]:
    what = f"{path}: {member.filename}"
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise DataError(f"{what} is packed by a method that numpy.savez does not use")
    room = min(member.compress_size, path.stat().st_size) * DEFLATE_RATIO
    if member.file_size > min(LIMIT, room):
        raise DataError(
            f"{what} announces {member.file_size} bytes, more than {member.compress_size} packed "
            f"bytes can hold or than the {LIMIT >> 30} GiB that thriftgrad reads"
        )
    with archive.open(member) as stream:
        shape, dtype, start = _header(stream, what)
    if dtype.kind not in "uif":
        raise DataError(f"{what} is of type {str(dtype)[:80]}; expected plain numbers")
    announced = start + math.prod(shape) * dtype.itemsize
    if announced != member.file_size:
        raise DataError(
            f"{what} announces {announced} bytes by its shape but has {member.file_size}"
        )
    with archive.open(member) as stream:
        array: NDArray[Any] = npy.read_array(stream, allow_pickle=False)
        # The checksum is compared only when the end of the member has been read.
        stream.read(1)
    return array


def _header(stream: BinaryIO | Any, what: str) -> tuple[tuple[int, ...], np.dtype[Any], int]:
    version = npy.read_magic(stream)
    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    if version not in readers:
        raise DataError(f"{what} is in .npy version {version}; expected (1, 0) or (2, 0)")
    try:
        shape, _, dtype = readers[version](stream)
    except (MemoryError, RecursionError) as error:
        # Ten thousand nested brackets in the header exhaust Python's parser, not the memory.
        raise DataError(f"{what} has a header that cannot be parsed") from error
    return shape, dtype, stream.tell()
