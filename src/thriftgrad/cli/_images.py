"""The data of a run: its images as rows, with some of the training images held out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thriftgrad import data
from thriftgrad.data import Dataset, Split
from thriftgrad.errors import DataError

HELD_OUT = 12
"""One training image in so many is held out for validation where the data have no such split: of
MNIST's 60,000 that is 5,000. The test set is looked at once, at the end."""


def load_images(name: str, dtype: str) -> tuple[Dataset, tuple[int, ...]]:
    """Return the data set called `mnist` or at a path, with images as rows, and an image's shape.

    Raises:
        DataError: the file is not a data set.
        OSError: it cannot be read.
    """
    if name == "mnist":
        loaded = data.mnist(dtype, flatten=False)
    else:
        try:
            loaded = data.load(name, dtype, flatten=False)
        except DataError:
            # Rows that make no square picture can be learnt from all the same; what is really wrong
            # with a file is raised again.
            loaded = data.load(name, dtype)
    shape = loaded.train.x.shape[1:]
    splits = [
        split and Split(split.x.reshape(len(split.x), -1), split.y)
        for split in (loaded.train, loaded.test, loaded.validation)
    ]
    train, test, validation = splits
    assert train is not None
    assert test is not None
    return Dataset(train, test, validation, loaded.classes), shape


def hold_out(images: Dataset) -> Dataset:
    """Return the data with one training image in twelve as validation, where there is none yet.

    Which ones depends on nothing but how many there are, so that runs with different seeds can be
    compared. They are drawn at random, for a file may be sorted by class.
    """
    n = len(images.train.x)
    if images.validation is not None or n < HELD_OUT:
        return images
    held = np.zeros(n, dtype=bool)
    held[np.random.default_rng(0).permutation(n)[: n // HELD_OUT]] = True
    x, y = images.train
    train, validation = Split(x[~held], y[~held]), Split(x[held], y[held])
    return Dataset(train, images.test, validation, images.classes)


def picture(x: NDArray[Any], shape: tuple[int, ...]) -> tuple[list[int] | None, float]:
    """Return height and width where rows are planes of pixels from 0 to 1, and their background."""
    if len(shape) != 2 or x.min() < 0 or x.max() > 1:
        return None, 0.0
    some = x[:1000].reshape(-1, *shape)
    rim = np.concatenate([some[:, 0], some[:, -1], some[:, :, 0], some[:, :, -1]], axis=1)
    return list(shape), round(float(rim.mean()), 4)


def absolute(name: str) -> str:
    """Return a data set's name as it means the same in every folder."""
    return name if name == "mnist" else str(Path(name).resolve())
