"""The pickle known as mnist.pkl.gz, read without trusting it.

A pickle is a program for a small stack machine, and that machine can call any function of any
module. The file is wanted all the same: years of course notes point to it. So two things are done.
First its instructions are read, none being run, and all but those that make numbers, bytes, tuples,
lists and calls are refused. Then they are run with a handful of names to call, behind none of which
is NumPy: each is a stand-in below that checks its arguments and does nothing but keep them.
"""

import math
import pickle
import pickletools
import re
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from thriftgrad.data.formats.source import Pair, Raw, capacity, opened, read_up_to, shorten
from thriftgrad.errors import DataError

NAME = "a pickle of (train, validation, test)"

# What NumPy's arrays need in protocols 0 to 5. Without dictionaries and sets, nothing can set
# attributes or take for ever to hash; without NEWOBJ and the like, nothing makes objects.
INSTRUCTIONS = frozenset(
    re.findall(
        r"\w+",
        """
        PROTO FRAME STOP GLOBAL STACK_GLOBAL REDUCE BUILD
        PUT BINPUT LONG_BINPUT MEMOIZE GET BINGET LONG_BINGET
        MARK TUPLE EMPTY_TUPLE TUPLE1 TUPLE2 TUPLE3 LIST EMPTY_LIST APPEND APPENDS
        NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1
        STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8
        BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8
        """,
    )
)
# Six arrays take about 250 instructions. The bound also holds for memo numbers, as the reader makes
# a table as long as the highest.
MOST_INSTRUCTIONS = 4096
MOST_DIMENSIONS = 32


def matches(head: bytes) -> bool:
    """Say whether the content begins as a pickle: by its protocol, or by naming a function."""
    return (head[:1] == b"\x80" and len(head) > 1 and head[1] <= pickle.HIGHEST_PROTOCOL) or bool(
        re.match(rb"[(\]l]*c[\w.]+\n[\w.]+\n", head)
    )


def read(path: Path) -> Raw:
    """Read (train, validation, test), each (images, labels)."""
    most = capacity(path)
    with opened(path) as stream:
        _scan(_Bounded(stream, most))
        # At the end a gzipped file's checksum is compared.
        if stream.read(1):
            raise DataError(f"{path} goes on after the end of its pickle")
    with opened(path) as stream:
        splits = _Unpickler(stream, most).load()
    if not _is_row(splits, 3) or not all(_is_row(split, 2) for split in splits):
        raise DataError(
            f"{path} is a pickle but not of three splits (train, validation, test), each a pair "
            "(images, labels)"
        )
    train, validation, test = (_pair(split, path) for split in splits)
    return Raw(train, test, validation, flat=True)


def _is_row(value: Any, length: int) -> bool:
    return isinstance(value, (tuple, list)) and len(value) == length


def _pair(split: Any, path: Path) -> Pair:
    images, labels = (v.value if isinstance(v, _Array) else None for v in split)
    if images is None or labels is None or images.ndim != 2:
        raise DataError(f"{path}: expected each split to be a matrix of images and its labels")
    return images, labels


def _scan(stream: "_Bounded") -> None:
    """Read all instructions, run none; raise if one is not allowed or its argument is cut off."""
    least = stream.left
    for count, (opcode, argument, _) in enumerate(pickletools.genops(cast(IO[bytes], stream))):
        if opcode.name not in INSTRUCTIONS:
            raise pickle.UnpicklingError(
                f"it has the instruction {opcode.name}, which arrays do not need"
            )
        memo = int(argument) if argument and opcode.name.endswith(("PUT", "GET")) else 0
        if max(count, memo) > MOST_INSTRUCTIONS:
            raise pickle.UnpicklingError("it has far more instructions than six arrays need")
        if opcode.name == "FRAME":
            least = min(least, stream.left - cast(int, argument))
    # Of a frame, only its length has been read; what is in it are the instructions that follow.
    if least < stream.left:
        raise EOFError("it announces a frame that is longer than the rest of it")


class _Bounded:
    """A stream that sets no memory aside for bytes that do not come."""

    def __init__(self, stream: BinaryIO, most: int) -> None:
        self.stream, self.left = stream, most

    def read(self, size: int) -> bytes:
        if size > self.left:
            raise EOFError(f"it announces {size} bytes where at most {self.left} can follow")
        data = bytes(read_up_to(self.stream, size))
        self.left -= len(data)
        return data

    def readline(self) -> bytes:
        line = self.stream.readline(self.left + 1)
        self.left -= len(line)
        return line


class _Unpickler(pickle.Unpickler):
    """Runs a scanned pickle with the stand-ins below as the only functions there are."""

    def __init__(self, stream: BinaryIO, most: int) -> None:
        # As bytes, Python 2's strings need no detour over text, which would double the memory.
        super().__init__(stream, encoding="bytes")
        self.left = most

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):
            return self._encode
        try:
            return STAND_INS[module, name]
        except KeyError:
            asked = shorten(f"{module}.{name}", 80)
            raise pickle.UnpicklingError(
                f"it asks for {asked}, which was not called; only NumPy arrays are read"
            ) from None

    def _encode(self, text: str, encoding: str) -> bytes:
        """How Python 3 writes bytes in protocol 2."""
        if not isinstance(text, str) or encoding != "latin1":
            raise pickle.UnpicklingError("it encodes something other than bytes kept as text")
        # One long text may be encoded many times over: all results together fit in the file.
        self.left -= len(text)
        if self.left < 0:
            raise pickle.UnpicklingError("it makes more bytes than it holds")
        return text.encode("latin1")


class _Dtype:
    """Stands in for numpy.dtype, of plain numbers only."""

    def __init__(self, name: Any, align: Any = False, copy: Any = False) -> None:
        name = name.decode("latin1") if isinstance(name, bytes) else name
        if not isinstance(name, str) or not re.fullmatch(r"[<>=|]?[iuf]\d{1,2}", name):
            raise pickle.UnpicklingError("it has an array of something other than numbers")
        self.dtype = np.dtype(name)

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) < 5 or any(s is not None for s in state[2:5]):
            raise pickle.UnpicklingError("it has an array of something other than numbers")
        order = state[1].decode("latin1") if isinstance(state[1], bytes) else state[1]
        if order not in ("<", ">", "=", "|"):
            raise pickle.UnpicklingError("it has an array in no known byte order")
        self.dtype = self.dtype.newbyteorder(cast(Any, order))


class _Array:
    """Stands in for numpy.ndarray: made empty, and filled by its state."""

    value: NDArray[Any] | None = None

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise pickle.UnpicklingError("it has an array in no known form")
        _, shape, dtype, fortran, data = state
        self.value = _view(data, dtype, shape, "F" if fortran == 1 else "C")


def _reconstruct(kind: Any, shape: Any, code: Any) -> _Array:
    # The shape given here is that of a placeholder, (0,); the array's own comes with its state.
    if kind is not _Array:
        raise pickle.UnpicklingError("it has an array of an unknown class")
    return _Array()


def _frombuffer(data: Any, dtype: Any, shape: Any, order: Any) -> _Array:
    array = _Array()
    array.value = _view(data, dtype, shape, "F" if order == "F" else "C")
    return array


def _view(data: Any, dtype: Any, shape: Any, order: Any) -> NDArray[Any]:
    """See `data` as an array, if the shape and the number of bytes agree."""
    if (
        not isinstance(dtype, _Dtype)
        or not isinstance(data, (bytes, bytearray))
        or not isinstance(shape, tuple)
        or len(shape) > MOST_DIMENSIONS
        or not all(isinstance(n, int) and n >= 0 for n in shape)
    ):
        raise pickle.UnpicklingError("it has an array in no known form")
    if math.prod(shape) * dtype.dtype.itemsize != len(data):
        raise pickle.UnpicklingError(
            f"it has an array of shape {shape} and type {dtype.dtype} in {len(data)} bytes"
        )
    return np.frombuffer(data, dtype.dtype).reshape(shape, order=order)


STAND_INS: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy.core.numeric", "_frombuffer"): _frombuffer,
    ("numpy._core.numeric", "_frombuffer"): _frombuffer,
}
