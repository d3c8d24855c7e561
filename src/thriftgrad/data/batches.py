"""Mini-batches of a data set, in order or shuffled, without ever copying the data set."""

import math
import operator
from collections.abc import Iterator
from typing import Any, Generic, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from thriftgrad.data.arrays import as_rows
from thriftgrad.errors import ConfigError, DataError

Array = NDArray[Any]
Batch = TypeVar("Batch")


@overload
def batches(
    x: Any,
    y: None = None,
    size: int = 128,
    rng: int | np.random.Generator | None = None,
    drop_last: bool = False,
) -> "Batches[Array]": ...
@overload
def batches(
    x: Any,
    y: Any,
    size: int = 128,
    rng: int | np.random.Generator | None = None,
    drop_last: bool = False,
) -> "Batches[tuple[Array, Array]]": ...
def batches(
    x: Any,
    y: Any = None,
    size: int = 128,
    rng: int | np.random.Generator | None = None,
    drop_last: bool = False,
) -> "Batches[Any]":
    """Cut `x`, and `y` along with it, into batches of `size` samples along the first axis.

    Gives `(x_batch, y_batch)`, or `x_batch` alone without `y`. There are ⌈n / size⌉ batches, the
    last of which may be smaller, or ⌊n / size⌋ with `drop_last=True`.

    Without `rng` the batches are in order, and are views. With `rng`, a seed or a generator, every
    pass draws a new permutation from that generator: who saves the generator's state between two
    passes can go on with the third as if nothing had happened. Beside the data there are then n
    indices and one batch in memory; batches of a memory-mapped array, or of a sparse matrix, are
    plain arrays in memory. Data frames, series and lists are made arrays of first, as a whole.

    Raises:
        ConfigError: `size` is not a whole number of at least 1, `rng` is not a seed or generator,
            or `drop_last` would drop all there is.
        DataError: `x` or `y` has no first axis, is empty, holds something other than numbers, or
            they differ in length.

    Example:
        >>> import numpy as np
        >>> from thriftgrad.data import batches
        >>> x, y = np.arange(10.0).reshape(5, 2), np.arange(5)
        >>> [(a.shape, b.tolist()) for a, b in batches(x, y, size=2)]
        [((2, 2), [0, 1]), ((2, 2), [2, 3]), ((1, 2), [4])]
        >>> shuffled = batches(y, size=5, rng=0)
        >>> sorted(next(iter(shuffled)).tolist())
        [0, 1, 2, 3, 4]

    """
    given = {"x": x} if y is None else {"x": x, "y": y}
    arrays = {name: as_rows(data, f"batches: {name}") for name, data in given.items()}
    lengths = {name: int(array.shape[0]) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise DataError(f"batches: x has {lengths['x']} samples but y has {lengths['y']}")
    if lengths["x"] == 0:
        raise DataError("batches: x is empty; expected at least one sample")
    size = _size(size)
    if drop_last and size > lengths["x"]:
        raise ConfigError(
            f"batches: with drop_last=True and size={size}, nothing is left of {lengths['x']} "
            "samples; make size smaller"
        )
    return Batches(tuple(arrays.values()), size, _generator(rng), drop_last)


class Batches(Generic[Batch]):
    """What `batches` returns: iterate it once a pass; `len` is the number of batches.

    Attributes:
        rng: the generator that passes are shuffled with, or None if they are in order.

    """

    def __init__(
        self,
        arrays: tuple[Array, ...],
        size: int,
        rng: np.random.Generator | None,
        drop_last: bool,
    ) -> None:
        self.arrays, self.size, self.rng, self.drop_last = arrays, size, rng, drop_last

    def __len__(self) -> int:
        n = int(self.arrays[0].shape[0])
        return n // self.size if self.drop_last else math.ceil(n / self.size)

    def __iter__(self) -> Iterator[Batch]:
        # Drawn here and not at the first `next`, so that passes draw in the order they were begun.
        n = self.arrays[0].shape[0]
        return self._cut(None if self.rng is None else self.rng.permutation(n))

    def _cut(self, order: NDArray[np.int64] | None) -> Iterator[Any]:
        for start in range(0, len(self) * self.size, self.size):
            part: Any = slice(start, start + self.size)
            if order is not None:
                part = order[part]
            yield self._batch(part)  # under no name, which would hold it while the next is made

    def _batch(self, part: Any) -> Any:
        batch = tuple(_rows(array, part) for array in self.arrays)
        return batch if len(batch) > 1 else batch[0]


def _rows(array: Array, part: Any) -> Array:
    # `take` picks short rows in half the time; of an array in another order it would copy all of it.
    if type(array) is np.ndarray and array.flags.c_contiguous and not isinstance(part, slice):
        return array.take(part, axis=0)  # type: ignore[no-any-return]
    return _in_memory(array[part])


def _in_memory(batch: Array) -> Array:
    if hasattr(batch, "toarray"):  # sparse
        return batch.toarray()  # type: ignore[no-any-return]
    # A slice of a memory map would be read from disk at every use, and hold the file open.
    return np.array(batch, subok=False) if isinstance(batch, np.memmap) else batch


def _size(size: int) -> int:
    try:
        whole = operator.index(size)
    except TypeError:
        whole = 0
    if whole < 1 or isinstance(size, bool):
        raise ConfigError(f"batches: size must be a whole number of at least 1; got {size!r}")
    return whole


def _generator(rng: int | np.random.Generator | None) -> np.random.Generator | None:
    if rng is None:
        return None
    try:
        if isinstance(rng, bool):
            raise TypeError
        return np.random.default_rng(rng)
    except (TypeError, ValueError):
        raise ConfigError(
            f"batches: rng must be a seed of at least 0 or a numpy.random.Generator; got {rng!r}"
        ) from None
