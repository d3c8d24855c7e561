"""The comparison of one block: analytic against numeric, entry by entry and along directions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thriftgrad.check.differences import Slope
from thriftgrad.check.problem import Variable
from thriftgrad.check.report import Block, Entry

Array = NDArray[Any]


class Compared:
    """What has been compared in one block so far.

    Attributes:
        analytic: the whole gradient of the block, as coordinates.
        index, numeric, error, jump: of each entry compared; a jump that is not 0 marks a kink.
        along: analytic, numeric, error, allowed difference and jump for each direction.
    """

    def __init__(self, analytic: Array, precision: float, tolerance: float) -> None:
        self.analytic = analytic
        self.tolerance = tolerance
        # The analytic gradient has rounding errors too, of the type that it was computed in.
        self.rounding = 1000 * precision
        self.floor = 0.1 * reference(analytic)
        self.index: list[int] = []
        self.numeric: list[float] = []
        self.error: list[float] = []
        self.jump: list[float] = []
        self.along: list[tuple[float, float, float, float, float]] = []

    def allowed(self, a: Any, n: Any, error: Any) -> Any:
        """Return how far apart an entry's two values may be."""
        exact = self.tolerance * (np.abs(a) + np.abs(n)) + 4 * np.asarray(error)
        return exact + self.rounding * (np.abs(a) + self.floor)

    def differs(self, i: int, found: Slope) -> bool:
        """Tell whether entry `i` is further from what was found than allowed."""
        a = float(self.analytic[i])
        with np.errstate(all="ignore"):
            allowed = self.allowed(a, found.value, found.error)
            return not (math.isfinite(a) and abs(a - found.value) <= allowed)

    def add(self, i: int, found: Slope) -> bool:
        """Take note of what was found for entry `i`, and tell whether it is wrong."""
        if not math.isfinite(found.error):
            return False  # the function is infinite on both sides: nothing to compare with
        self.index.append(i)
        self.numeric.append(found.value)
        self.error.append(found.error)
        self.jump.append(found.jump)
        return not found.jump and self.differs(i, found)

    def excess_along(self, v: Array, found: Slope) -> float:
        """Return by how many times the allowed difference a direction is off."""
        own, size = self._own_along(v)
        if not math.isfinite(own):
            return math.inf
        allowed = self._allowed_along(own, size, found)
        return abs(own - found.value) / max(allowed, 1e-300)

    def differs_along(self, v: Array, found: Slope) -> bool:
        """Tell whether the gradient is further from what was found along `v` than allowed."""
        own, size = self._own_along(v)
        allowed = self._allowed_along(own, size, found)
        return not (math.isfinite(own) and abs(own - found.value) <= allowed)

    def add_direction(self, v: Array, found: Slope) -> bool:
        """Take note of what was found along `v`, and tell whether the gradient is wrong there."""
        if not math.isfinite(found.error):
            return False
        own, size = self._own_along(v)
        allowed = self._allowed_along(own, size, found)
        self.along.append((own, found.value, found.error, allowed, found.jump))
        return not found.jump and self.differs_along(v, found)

    def extend(self, analytic: Array, numeric: Array, error: Array, kink: Array) -> None:
        """Take note of a whole gradient at once."""
        self.analytic = np.concatenate([self.analytic, analytic])
        self.floor = 0.1 * reference(self.analytic)
        self.index += range(len(self.index), len(self.index) + len(analytic))
        self.numeric += numeric.tolist()
        self.error += error.tolist()
        self.jump += np.where(kink, 1.0, 0.0).tolist()

    def _own_along(self, v: Array) -> tuple[float, float]:
        with np.errstate(all="ignore"):
            return float(self.analytic @ v), float(np.linalg.norm(self.analytic * v))

    def _allowed_along(self, own: float, size: float, found: Slope) -> float:
        relative = self.tolerance * max(abs(own) + abs(found.value), size)
        return relative + 4 * found.error + self.rounding * (abs(own) + size)


def reference(gradient: Array) -> float:
    """Return the largest size of an entry, infinities and NaN apart."""
    sizes = np.abs(gradient[np.isfinite(gradient)])
    return float(np.max(sizes, initial=0.0))


def summarise(variable: Variable, compared: Compared, largest: float, method: str) -> Block:
    """Return the comparison as what a report says of a block.

    Args:
        variable: what the block is the gradient for.
        compared: the comparison.
        largest: the largest entry of the whole gradient.
        method: what it was compared with.
    """
    with np.errstate(all="ignore"):  # a gradient under suspicion may hold anything
        return _summarised(variable, compared, largest, method)


def _summarised(variable: Variable, compared: Compared, largest: float, method: str) -> Block:
    entries = math.prod(variable.shape)
    block = Block(variable.name, variable.shape, entries, method=method)
    index = np.array(compared.index, dtype=int)
    a = compared.analytic[index] if index.size else np.empty(0)
    n, error, jump = (np.array(x) for x in (compared.numeric, compared.error, compared.jump))
    smooth = jump == 0 if index.size else np.empty(0, bool)
    block.checked = index.size
    block.kinks = [
        _entry(variable, int(i), x, y)
        for i, x, y in zip(index[~smooth], a[~smooth], n[~smooth], strict=True)
    ]
    index, a, n, error = index[smooth], a[smooth], n[smooth], error[smooth]
    if index.size:
        apart = np.abs(a - n)
        allowed = compared.allowed(a, n, error)
        fine = (apart <= allowed) & np.isfinite(a)
        size = np.abs(a) + np.abs(n)
        size = np.where(fine, np.maximum(size, error / compared.tolerance), size)
        relative = np.where(apart == 0, 0.0, apart / np.where(size == 0, 1.0, size))
        off = apart / np.maximum(allowed, np.finfo(float).tiny)
        worst = int(np.argmax(np.where(np.isfinite(a), off, np.inf)))
        block.worst = _entry(variable, int(index[worst]), a[worst], n[worst])
        block.mean_relative = float(np.mean(relative))
        block.max_relative = float(np.max(relative))
        block.total_difference = float(np.sum(apart))
        block.wrong = int(np.count_nonzero(~fine))
    along = np.array(compared.along).reshape(-1, 5)
    block.directions = len(along)
    block.kinked_directions = int(np.count_nonzero(along[:, 4]))
    along = along[along[:, 4] == 0]
    if len(along):
        a, n, error, allowed = along[:, :4].T
        block.wrong += int(np.count_nonzero(~((np.abs(a - n) <= allowed) & np.isfinite(a))))
    total = float(np.linalg.norm(a) + np.linalg.norm(n))
    block.difference = float(np.linalg.norm(a - n)) / total if total else 0.0
    # A block whose gradient is as good as nothing beside that of the others is not in doubt.
    visible = max(float(np.linalg.norm(a)), 1e-6 * largest)
    block.error = float(np.linalg.norm(error)) / visible if visible else 0.0
    return block


def _entry(variable: Variable, i: int, analytic: float, numeric: float) -> Entry:
    size = max(variable.x.size, 1)
    return Entry(variable.index(i % size), float(analytic), float(numeric))
