"""Measuring the slopes of a problem, by the best method that its function allows."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thriftgrad.check.differences import (
    Slope,
    complex_step,
    look,
    random_direction,
    second_opinion,
    slope,
)
from thriftgrad.check.problem import Problem
from thriftgrad.errors import NonFiniteError

Array = NDArray[Any]

_COMPLEX_ERROR = 1e-13


class Probe:
    """Slopes of a problem's function, by complex steps where these agree with differences.

    Args:
        problem: what to probe.
        references: for each variable, a size of slopes in it that counts as large. Errors far below
            it are as good as none.
        tolerance: the relative error that slopes should stay below.
        rng: for the directions in which the function is looked at first.

    Raises:
        DifferentiationError, NonFiniteError: the function cannot be differenced; see
            `Problem.checked_value`.
    """

    def __init__(
        self,
        problem: Problem,
        references: list[float],
        tolerance: float,
        rng: np.random.Generator,
    ) -> None:
        self.problem = problem
        self.references = references
        self.tolerance = tolerance
        directions = [random_direction(v.scale, rng) for v in problem.variables]
        self.values = look(problem.along_all(directions), problem.checked_value(), 1.0)
        self.analytic_in = [
            self._takes_complex(k, direction) for k, direction in enumerate(directions)
        ]

    def elsewhere(self, problem: Problem) -> Probe:
        """Return a probe of the same function at other arguments, without another look at it.

        Raises:
            NonFiniteError: the function is NaN or infinite there.
        """
        other = copy.copy(self)
        other.problem = problem
        middle = float(problem())
        if not math.isfinite(middle):
            raise NonFiniteError(f"{problem.name} is {middle} there")
        larger = max(1.0, abs(middle) / max(abs(self.values.middle), 1e-300))
        other.values = self.values._replace(middle=middle, noise=self.values.noise * larger)
        return other

    def entry(self, k: int, i: int) -> Slope:
        """Return the slope along one coordinate of a variable, by the quickest means."""
        if self.analytic_in[k]:
            found = complex_step(self.problem.entry(k, i))
            if found is not None:
                return Slope(found, _COMPLEX_ERROR * (abs(found) + self.references[k]))
        scale = float(self.problem.variables[k].scale[i])
        return slope(self.problem.entry(k, i), self.values, scale, self._good(self.references[k]))

    def entry_again(self, k: int, i: int) -> Slope:
        """Return the slope along one coordinate by differences, on which an alarm may rest."""
        scale = float(self.problem.variables[k].scale[i])
        line = self.problem.entry(k, i)
        return second_opinion(line, self.values, scale, self._good(self.references[k]))

    def direction(self, k: int, direction: Array) -> Slope:
        """Return the slope along a direction in one variable, in which a step of 1 is large."""
        line = self.problem.along(k, direction)
        if self.analytic_in[k]:
            found = complex_step(line)
            if found is not None:
                reference = self.references[k] * float(np.linalg.norm(direction))
                return Slope(found, _COMPLEX_ERROR * (abs(found) + reference))
        return self._along(k, direction)

    def direction_again(self, k: int, direction: Array) -> Slope:
        """Return the slope along a direction by differences, on which an alarm may rest."""
        reference = self.references[k] * float(np.linalg.norm(direction))
        line = self.problem.along(k, direction)
        return second_opinion(line, self.values, 1.0, self._good(reference))

    def _along(self, k: int, direction: Array) -> Slope:
        reference = self.references[k] * float(np.linalg.norm(direction))
        return slope(self.problem.along(k, direction), self.values, 1.0, self._good(reference))

    def _takes_complex(self, k: int, direction: Array) -> bool:
        """Tell whether complex steps in a variable give what differences give.

        A function that takes the absolute value or the real part of something along the way takes
        complex numbers and has another derivative there. In a random direction that shows.
        """
        if any(v.is_complex for v in self.problem.variables):
            return False
        found = complex_step(self.problem.along(k, direction))
        if found is None:
            return False
        by_differences = self._along(k, direction)
        size = max(abs(found), self.references[k] * float(np.linalg.norm(direction)))
        return (
            not by_differences.jump
            and by_differences.error <= 1e-4 * size
            and abs(by_differences.value - found)
            <= 4 * by_differences.error + self.tolerance * abs(found)
        )

    def _good(self, reference: float) -> Any:
        tolerance = self.tolerance
        floor = 1e-3 * tolerance * reference if math.isfinite(reference) else 0.0
        return lambda value: max(0.1 * tolerance * abs(value), floor)
