"""Data files from elsewhere, recognised by what is in them and never by what they are called.

One reader a format lies in `thriftgrad.data.formats`; each says by a file's first bytes whether it
is at home there. No reader runs code that a file brings along, and none takes a header's word for
how much memory to set aside.
"""

import os
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike

from thriftgrad.data.dataset import Dataset, float_dtype, prepare
from thriftgrad.data.formats import arff, idx, npz, pickles
from thriftgrad.data.formats.source import Raw, head, refusing
from thriftgrad.errors import DataError

HEAD = 1 << 16
FORMATS = (
    (npz.NAME, npz.matches, npz.read),
    (idx.NAME, idx.matches, idx.read),
    (pickles.NAME, pickles.matches, pickles.read),
    (arff.NAME, arff.matches, arff.read),
)


def load(
    path: str | os.PathLike[str],
    dtype: DTypeLike = np.float32,
    one_hot: bool = False,
    flatten: bool = True,
) -> Dataset:
    """Read a data set of images and labels from a file or folder, in any of four formats.

    - A Keras-layout `.npz`: arrays x_train, y_train, x_test, y_test.
    - IDX, plain or gzipped: a folder with two image and two label files, or one of the image files,
      whose partners are then sought beside it. Images and labels pair by count; the larger pair
      is train. A file that is there twice, plain and gzipped, counts once.
    - The pickle known as `mnist.pkl.gz`, plain or gzipped: (train, validation, test), each
      (images, labels). It is read by an interpreter that can only make numeric arrays.
    - ARFF such as OpenML's mnist_784, dense or sparse, plain or gzipped: the last attribute is the
      class. It is one table, of which the last seventh is the test set: 60,000 and 10,000 of
      70,000 rows. Nothing in an ARFF file tells how many rows there should be, so one that is cut
      between two rows is read as a shorter table.

    uint8 pixels, and ARFF attributes named pixel… that are whole numbers from 0 to 255, are divided
    by 255; other numbers are taken as they are. Features come in `dtype`, of shape (n, features),
    or with `flatten=False` in the images' own shape; pickle and ARFF hold flat rows, which then
    become squares. Labels are int64 of shape (n,), or rows of `dtype` of shape (n, classes).

    Raises:
        ConfigError: `dtype` is not a floating-point type.
        DataError: the file is of no known format, cut off, damaged or hostile; counts or shapes
            do not match; features are not finite or labels not whole numbers from 0; or a folder
            leaves open which file is which.
        FileNotFoundError: there is nothing at `path`.

    Example:
        >>> import numpy as np, tempfile
        >>> from thriftgrad.data import load
        >>> x, y = np.full((7, 2, 2), 255, np.uint8), np.arange(7)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.savez(folder + "/small.npz", x_train=x, y_train=y, x_test=x, y_test=y)
        ...     load(folder + "/small.npz")
        Dataset(train=7 × 4 float32, test=7 × 4 float32, classes=7)

    """
    float_dtype(dtype)
    path = Path(path)
    return prepare(_read(path), path, dtype, one_hot, flatten)


def _read(path: Path) -> Raw:
    path.stat()  # so that what is missing stays a FileNotFoundError
    if path.is_dir():
        return idx.read(path)
    if not path.is_file():
        raise DataError(f"{path} is neither a regular file nor a folder")
    with refusing(path, "a data file"):
        start = head(path, HEAD)
    for name, matches, read in FORMATS:
        if matches(start):
            with refusing(path, name):
                return read(path)
    raise DataError(
        f"{path} is of no known format: its content begins with {start[:16]!r}. Expected "
        + ", ".join(name for name, _, _ in FORMATS)
    )
