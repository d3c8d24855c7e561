"""What a data set is here, and how raw arrays from a file become one.

A `Dataset` is a training pair and a test pair of arrays, and a validation pair where the source has
one. Readers of file formats give a `Raw`: arrays as they lie in the file. `prepare` turns one into
the other, so that what is promised of a data set (scaled pixels, finite features, whole labels,
matching counts) is checked once, whatever the format.
"""

import math
import operator
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from thriftgrad.data.formats.source import LIMIT, Raw
from thriftgrad.errors import ConfigError, DataError

SPARE_CLASSES = 1000
"""Labels may name so many classes more than there are labels. What names more, such as a year or a
post code, is no class number; a model with an output for each would fill the memory."""


class Split(NamedTuple):
    """Features `x`, one row a sample, and their labels `y`; unpacks as `x, y`."""

    x: NDArray[Any]
    y: NDArray[Any]


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """A training and a test split, unpacked as `train, test = dataset`.

    Attributes:
        train: features of shape (n, ...) and labels of shape (n,), or (n, classes) if one-hot.
        test: the same, for samples that training does not see.
        validation: a third split where the source has one, else None.
        classes: the number of classes; labels run from 0 to `classes - 1`.

    Example:
        >>> import numpy as np
        >>> from thriftgrad.data import Dataset, Split
        >>> pair = Split(np.zeros((2, 3)), np.array([0, 1]))
        >>> Dataset(train=pair, test=pair, validation=None, classes=2)
        Dataset(train=2 × 3 float64, test=2 × 3 float64, classes=2)

    """

    train: Split
    test: Split
    validation: Split | None
    classes: int

    def __iter__(self) -> Iterator[Split]:
        yield self.train
        yield self.test

    def __repr__(self) -> str:
        splits = {"train": self.train, "test": self.test, "validation": self.validation}
        parts = [f"{k}={_size(v.x)} {v.x.dtype}" for k, v in splits.items() if v is not None]
        return f"Dataset({', '.join(parts)}, classes={self.classes})"


def one_hot(labels: ArrayLike, classes: int, dtype: DTypeLike = np.float32) -> NDArray[Any]:
    """Turn whole-number labels into rows with a single 1, in the label's column.

    `out[i, j] = 1 if labels[i] == j else 0`, of shape (n, classes) for labels of shape (n,).

    Raises:
        ConfigError: `classes` is not a whole number of at least 1, or `dtype` not a float type.
        DataError: `labels` are not one-dimensional integers from 0 to `classes - 1`.

    Example:
        >>> from thriftgrad.data import one_hot
        >>> one_hot([2, 0], classes=3)
        array([[0., 0., 1.],
               [1., 0., 0.]], dtype=float32)

    """
    dtype = float_dtype(dtype)
    try:
        classes = operator.index(classes)
    except TypeError:
        raise ConfigError(f"classes must be a whole number; got {classes!r}") from None
    if classes < 1:
        raise ConfigError(f"classes must be at least 1; got {classes}")
    y = _labels(np.asarray(labels), "one_hot")
    if y.size and y.max() >= classes:
        raise DataError(
            f"one_hot: label {y.max()} does not fit {classes} classes, whose labels run from 0 to "
            f"{classes - 1}; give more classes"
        )
    rows = np.zeros((y.size, classes), dtype)
    rows[np.arange(y.size), y] = 1
    return rows


def float_dtype(dtype: DTypeLike) -> np.dtype[Any]:
    """Return the native float type that `dtype` names, or raise ConfigError."""
    try:
        named = np.dtype(dtype)
    except (TypeError, ValueError):
        named = None
    if named is None or named.kind != "f":
        raise ConfigError(
            f"dtype must be a floating-point type such as numpy.float32; got {dtype!r}"
        )
    return named.newbyteorder("=")


def prepare(raw: Raw, path: Path, dtype: DTypeLike, one_hot: bool, flatten: bool) -> Dataset:
    """Check what a reader found in the file at `path` and bring it to the promised form."""
    dtype = float_dtype(dtype)
    pairs = {"train": raw.train, "test": raw.test, "validation": raw.validation}
    splits = {
        name: Split(
            _features(pair[0], f"{path}: {name} images", dtype, flatten, raw.flat),
            _labels(pair[1], f"{path}: {name} labels"),
        )
        for name, pair in pairs.items()
        if pair is not None
    }
    for name, (x, y) in splits.items():
        if len(x) != len(y):
            raise DataError(f"{path}: {name} has {len(x)} images but {len(y)} labels")
        if x.shape[1:] != splits["train"].x.shape[1:]:
            raise DataError(
                f"{path}: the images of train and {name} differ in shape: "
                f"{splits['train'].x.shape[1:]} and {x.shape[1:]}"
            )
    highest = max(int(s.y.max()) for s in splits.values())
    count = sum(len(s.y) for s in splits.values())
    if highest >= count + SPARE_CLASSES:
        raise DataError(
            f"{path}: there are {count} labels, and one of them is {highest}; expected class "
            f"numbers counted from 0"
        )
    classes = max(raw.classes, highest + 1)
    if one_hot:
        splits = {n: Split(s.x, _one_hot(s.y, classes, dtype, path)) for n, s in splits.items()}
    return Dataset(splits["train"], splits["test"], splits.get("validation"), classes)


def _features(
    x: NDArray[Any], what: str, dtype: np.dtype[Any], flatten: bool, flat: bool
) -> NDArray[Any]:
    if x.dtype.kind not in "uif":
        raise DataError(f"{what} are of type {x.dtype}; expected numbers")
    if x.ndim < 2 or x.size == 0:
        raise DataError(f"{what} have shape {x.shape}; expected at least one, each with features")
    shape: tuple[int, ...] = x.shape
    if flatten:
        shape = (len(x), -1)
    elif flat:
        side = math.isqrt(x.shape[1])
        if side * side != x.shape[1]:
            raise DataError(
                f"{what} are flat rows of {x.shape[1]} values, which make no square image; "
                "load with flatten=True"
            )
        shape = (len(x), side, side)
    if x.dtype == np.uint8:
        # Divided in `dtype` and in place: exact at 0 and 1, without a float64 copy, and ten times
        # as fast as a division that converts on the way.
        scaled = x.astype(dtype, order="C")
        scaled /= 255
        return scaled.reshape(shape)
    # A read-only array is a view of the file's bytes: what is given out may be written to.
    with np.errstate(over="ignore"):
        cast = x.astype(dtype, order="C", copy=not x.flags.writeable)
    if not np.isfinite(cast).all():
        raise DataError(f"{what} hold values that are not finite in {dtype}; expected numbers")
    return cast.reshape(shape)


def _labels(y: NDArray[Any], what: str) -> NDArray[np.int64]:
    if y.ndim != 1 or y.dtype.kind not in "ui":
        raise DataError(
            f"{what}: got {y.dtype} of shape {y.shape}; expected one-dimensional integers"
        )
    if y.size and (y.min() < 0 or y.max() >= 2**63 - 1):
        raise DataError(
            f"{what} run from {y.min()} to {y.max()}; expected class numbers counted from 0"
        )
    return y.astype(np.int64)


def _one_hot(y: NDArray[np.int64], classes: int, dtype: np.dtype[Any], path: Path) -> NDArray[Any]:
    # A file of a few bytes may name the class 10**15; its row alone would fill the memory.
    if y.size * classes * dtype.itemsize > LIMIT:
        raise DataError(
            f"{path}: {y.size} labels up to {classes - 1} would make one-hot rows of more than "
            f"{LIMIT >> 30} GiB; load with one_hot=False"
        )
    return one_hot(y, classes, dtype)


def _size(x: NDArray[Any]) -> str:
    return " × ".join(map(str, x.shape))
