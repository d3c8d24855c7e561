"""ARFF, Weka's text format, in which OpenML gives out MNIST as one table of 70,000 rows.

    @RELATION mnist_784
    @ATTRIBUTE pixel1 real
    ...
    @ATTRIBUTE class {0,1,2,3,4,5,6,7,8,9}
    @DATA
    0,0,...,5           or sparse, what is not named being the first value:  {130 51, 784 5}

Rows are parsed a block at a time, so that the text, its floats and the bytes they end up as are in
memory together only for a block.
"""

import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from thriftgrad.data.formats.source import LIMIT, Raw, opened, shorten
from thriftgrad.errors import DataError

NAME = "ARFF with a class of numbers"
ATTRIBUTE = re.compile(
    r"""@attribute\s+('[^']*'|"[^"]*"|[^\s'"{]+)\s*(integer|real|numeric|\{[^{}]*\})""", re.I
)
BLOCK = 4 << 20
LONGEST_HEADER_LINE = 1 << 20
LONGEST_NUMBER = 64
MOST_ATTRIBUTES = 1 << 20
TEST_SHARE = 7
QUOTES = str.maketrans("", "", "'\"")

Lines = Iterator[tuple[int, str]]


def matches(head: bytes) -> bool:
    """Say whether the content is text whose first line, comments aside, is @relation."""
    return bool(re.match(rb"(?:\s|%[^\n]*\n)*+@relation\b", head, re.I))


def read(path: Path) -> Raw:
    """Read the table and split it: the last of seven equal parts becomes the test set."""
    with opened(path) as stream:
        names, classes, number = _header(_lines(stream, LONGEST_HEADER_LINE, 0, path), path)
        longest = LONGEST_NUMBER * (len(names) + 1)
        x, y = _table(_lines(stream, longest, number, path), names, classes, path)
    tests = len(x) // TEST_SHARE
    if tests == 0:
        raise DataError(
            f"{path} has {len(x)} rows; expected at least {TEST_SHARE}, of which the last "
            "seventh is the test set"
        )
    return Raw(
        train=(x[:-tests], y[:-tests]),
        test=(x[-tests:], y[-tests:]),
        classes=max(classes) + 1,
        flat=True,
    )


def _lines(stream: BinaryIO, longest: int, number: int, path: Path) -> Lines:
    """Give the lines that say something, with their numbers, which go on after `number`."""
    size = 0
    while line := stream.readline(longest + 1):
        number += 1
        size += len(line)
        if len(line) > longest or size > LIMIT:
            raise DataError(
                f"{path}, line {number}: longer than {longest} bytes, or the file than "
                f"{LIMIT >> 30} GiB"
            )
        text = line.decode("latin1").strip()
        if text and not text.startswith("%"):
            yield number, text


def _header(lines: Lines, path: Path) -> tuple[list[str], list[int], int]:
    """Return the features' names, the class's values and the number of the line @data."""
    attributes: list[tuple[str, str]] = []
    for number, text in lines:
        if text.lower() == "@data":
            return *_features_and_classes(attributes, path), number
        if text.lower().startswith("@relation"):
            continue
        attribute = ATTRIBUTE.fullmatch(text)
        if attribute is None or len(attributes) == MOST_ATTRIBUTES:
            raise DataError(
                f"{path}, line {number}: found {shorten(text, 60)!r}; expected @data or an "
                "@attribute that is integer, real, numeric or a list {0,1,...} of classes"
            )
        attributes.append((attribute[1].translate(QUOTES), attribute[2]))
    raise DataError(f"{path} ends within its header, before @data: it is cut off")


def _features_and_classes(
    attributes: list[tuple[str, str]], path: Path
) -> tuple[list[str], list[int]]:
    lists = [i for i, (_, kind) in enumerate(attributes) if kind.startswith("{")]
    if len(attributes) < 2 or lists != [len(attributes) - 1]:
        raise DataError(
            f"{path} has {len(attributes)} attributes, {len(lists)} of them a list of classes; "
            "expected features that are numbers, then the class as the last attribute"
        )
    values = [v.strip() for v in attributes[-1][1].strip("{}").translate(QUOTES).split(",")]
    if not all(re.fullmatch(r"\d{1,15}", value) for value in values):
        raise DataError(
            f"{path} has classes {shorten(str(values), 60)}; expected whole numbers from 0"
        )
    return [name for name, _ in attributes[:-1]], [int(value) for value in values]


def _table(
    lines: Lines, names: list[str], classes: list[int], path: Path
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    columns = len(names) + 1
    pixels = all(name.lower().startswith("pixel") for name in names)
    features, labels, size, sparse = [], [], 0, None
    while block := list(islice(lines, max(1, BLOCK // (8 * columns)))):
        if sparse is None:
            sparse = block[0][1].startswith("{")
        rows = _sparse(block, columns, classes[0], path) if sparse else _dense(block, columns, path)
        _check(rows, block, classes, path)
        x = rows[:, :-1]
        whole = pixels and x.min() >= 0 and x.max() <= 255 and bool((x == np.rint(x)).all())
        features.append(x.astype(np.uint8) if whole else x.copy())
        labels.append(rows[:, -1].astype(np.int64))
        # Three bytes of a sparse row may stand for a million zeros.
        size += features[-1].nbytes
        if size > LIMIT:
            raise DataError(f"{path} holds a table of more than {LIMIT >> 30} GiB")
    if not features:
        raise DataError(f"{path} has no rows after @data")
    return np.concatenate(features), np.concatenate(labels)


def _dense(block: list[tuple[int, str]], columns: int, path: Path) -> NDArray[np.float64]:
    rows = [text.translate(QUOTES) for _, text in block]
    try:
        table = np.loadtxt(rows, delimiter=",", comments=None, ndmin=2)
    except ValueError:
        table = None
    if table is None or table.shape != (len(block), columns):
        raise _blame(block, columns, path)
    return table


def _blame(block: list[tuple[int, str]], columns: int, path: Path) -> DataError:
    """Find the first row that is not as many numbers as there are attributes."""
    for number, text in block:
        values = text.translate(QUOTES).split(",")
        if len(values) != columns:
            return DataError(
                f"{path}, line {number}: {len(values)} values; expected {columns}, one for each "
                "attribute"
            )
        for value in values:
            try:
                float(value)
            except ValueError:
                return DataError(
                    f"{path}, line {number}: {shorten(value, 40)!r} is not a number (nor may a "
                    "value be missing)"
                )
    return DataError(f"{path}, lines {block[0][0]} to {block[-1][0]}: not rows of numbers")


def _sparse(
    block: list[tuple[int, str]], columns: int, first: int, path: Path
) -> NDArray[np.float64]:
    table = np.zeros((len(block), columns))
    table[:, -1] = first
    for row, (number, text) in zip(table, block, strict=True):
        try:
            if not (text.startswith("{") and text.endswith("}")):
                raise ValueError("no braces")
            inside = text[1:-1].translate(QUOTES).strip()
            pairs = [pair.split() for pair in inside.split(",")] if inside else []
            places = [int(place) for place, _ in pairs]
            if len(set(places)) != len(places) or (places and min(places) < 0):
                raise ValueError("a place twice, or before the first")
            row[places] = [float(value) for _, value in pairs]
        except (ValueError, IndexError):
            raise DataError(
                f"{path}, line {number}: {shorten(text, 40)!r}; expected a sparse row "
                f"{{place value, ...}} with places from 0 to {columns - 1}, each at most once"
            ) from None
    return table


def _check(
    rows: NDArray[np.float64], block: list[tuple[int, str]], classes: list[int], path: Path
) -> None:
    finite = np.isfinite(rows).all(axis=1)
    if not finite.all():
        raise DataError(f"{path}, line {block[finite.argmin()][0]}: a value is not finite")
    known = np.isin(rows[:, -1], classes)
    if not known.all():
        bad = int(known.argmin())
        raise DataError(
            f"{path}, line {block[bad][0]}: class {rows[bad, -1]:g} is not among the declared "
            f"{shorten(str(classes), 60)}"
        )
