"""What all readers share: opening a file that may be gzipped, and never believing a length.

A header's announced size is compared with what the file can hold before anything is read, and
memory grows with the bytes that arrive, not with the bytes that are promised.
"""

import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

from numpy.typing import NDArray

from thriftgrad.errors import DataError

LIMIT = 4 << 30
"""No file may unpack to more bytes than this: 4 GiB, twenty times MNIST in float32."""

BLOCK = 1 << 20
DEFLATE_RATIO = 1032  # zlib's own bound: 258 bytes from 2 bits

Pair = tuple[NDArray[Any], NDArray[Any]]


class Raw(NamedTuple):
    """Images and labels as they lie in a file: `flat` where images are rows by format."""

    train: Pair
    test: Pair
    validation: Pair | None = None
    classes: int = 0
    flat: bool = False


@contextmanager
def refusing(path: Path, kind: str) -> Iterator[None]:
    """Turn whatever a damaged or hostile file provokes into a DataError that names it."""
    try:
        yield
    except (DataError, FileNotFoundError, PermissionError, MemoryError):
        raise
    except Exception as error:
        said = shorten(str(error)) or type(error).__name__
        raise DataError(
            f"{path} looks like {kind} but cannot be read as one: {said}. It is cut off, damaged "
            "or not what it claims to be; fetch it again from a source you trust"
        ) from error


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Open the file's content, unpacked if it is gzipped."""
    with path.open("rb") as file:
        if not _gzipped(path):
            yield file
            return
        with gzip.open(file) as unpacked:
            yield cast(BinaryIO, unpacked)


def head(path: Path, size: int) -> bytes:
    """Return the first `size` bytes of the content, or all there is."""
    with opened(path) as stream:
        return bytes(read_up_to(stream, size))


def capacity(path: Path) -> int:
    """Return the most bytes of content that the file at `path` may and can hold."""
    size = path.stat().st_size
    return min(LIMIT, size * DEFLATE_RATIO if _gzipped(path) else size)


def read_up_to(stream: BinaryIO, size: int) -> bytearray:
    """Read `size` bytes, or what there is, in memory that grows only as bytes arrive."""
    data = bytearray()
    while len(data) < size and (block := stream.read(min(BLOCK, size - len(data)))):
        data += block
    return data


def shorten(text: str, most: int = 200) -> str:
    """Cut what a file says about itself to a length that fits an error message."""
    return text if len(text) <= most else text[: most - 1] + "…"


def _gzipped(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(2) == b"\x1f\x8b"
