"""Random NumPy programs, for comparing their derivatives with another library's.

A program is a list of steps, each an operation on values computed before. The same program runs on any
module that speaks NumPy's names. Hypothesis draws programs, and shrinks one that fails to a minimal one.

Operations stay away from kinks, poles and overflow: there, two libraries differ by right, and elsewhere
differences would drown in rounding errors. What selects or sorts sees entries that are far apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy
from hypothesis import strategies as st

Shape = tuple[int, ...]
LARGEST = 64  # entries of a value
LENGTHS = (1, 3)  # of an axis: JAX compiles each operation for each shape, so there are few shapes

FAR_APART = numpy.random.default_rng(5).permutation(4 * LARGEST) * 50.0
WELL_CONDITIONED = numpy.array([[4.0, 1.0, 0.5], [1.0, 3.0, -1.0], [0.0, 0.5, 5.0]])
REPEATED = numpy.array([0, -1, 0])


def apart(x: Any) -> Any:
    """Add constants that keep the entries far from each other."""
    return x + FAR_APART[: x.size].reshape(x.shape)


UNARY: dict[str, Callable[..., Any]] = {
    "exp": lambda np, x: np.exp(-x * x),
    "exp2": lambda np, x: np.exp2(np.sin(x)),
    "expm1": lambda np, x: np.expm1(np.sin(x)),
    "log": lambda np, x: np.log(1 + x * x),
    "log1p": lambda np, x: np.log1p(np.square(x)),
    "log10": lambda np, x: np.log10(2 + np.cos(x)),
    "sqrt": lambda np, x: np.sqrt(1 + x**2),
    "sin": lambda np, x: np.sin(x),
    "cos": lambda np, x: np.cos(x),
    "tan": lambda np, x: np.tan(np.tanh(x)),
    "tanh": lambda np, x: np.tanh(x),
    "arctan": lambda np, x: np.arctan(x),
    "arcsin": lambda np, x: np.arcsin(0.9 * np.sin(x)),
    "arcsinh": lambda np, x: np.arcsinh(x),
    "sinh": lambda np, x: np.sinh(np.tanh(x)),
    "cosh": lambda np, x: np.cosh(np.sin(x)),
    "reciprocal": lambda np, x: np.reciprocal(2 + np.sin(x)),
    "negative": lambda np, x: -x,
    "cube": lambda np, x: np.tanh(x) ** 3,
    "power of 2": lambda np, x: 2.0 ** np.tanh(x),
    "clip": lambda np, x: np.clip(apart(x), -1e4, 1e4) * 1e-3,
    "maximum": lambda np, x: np.maximum(apart(x) - 1000.0, 0.0) * 1e-3,
    "absolute": lambda np, x: np.abs(x * x + 1),
    "ravel": lambda np, x: np.ravel(x)[-3:],
    "transpose": lambda np, x: np.transpose(x),
    "flip": lambda np, x: np.flip(x),
    "roll": lambda np, x: np.roll(x, 1),
    "expand_dims": lambda np, x: np.expand_dims(x, 0),
    "squeeze": lambda np, x: np.squeeze(x),
    "atleast_2d": lambda np, x: np.atleast_2d(x),
    "sum": lambda np, x: np.sum(x),
    "mean": lambda np, x: np.mean(x),
    "max": lambda np, x: np.max(apart(x)) * 1e-3,
    "norm": lambda np, x: np.sqrt(np.sum(x * x) + 1),
    "outer": lambda np, x: np.outer(x, np.sin(x))[:3, :3],
    "stack": lambda np, x: np.stack([x, np.cos(x), x * x]),
    "repeat": lambda np, x: np.repeat(x, 3)[:3],
    "tile": lambda np, x: np.tile(x, 3)[..., 1:4],
    "pad": lambda np, x: np.pad(np.ravel(x)[:3], 1)[:3],
    "sort": lambda np, x: np.sort(np.ravel(apart(x)))[:3] * 1e-3,
    "fft": lambda np, x: np.real(np.fft.fft(np.ravel(x)[:3])),
    "abs of fft": lambda np, x: np.abs(np.fft.rfft(np.ravel(x), 5) + 1j * 3.0),
}
BINARY: dict[str, Callable[..., Any]] = {
    "add": lambda np, x, y: x + y,
    "subtract": lambda np, x, y: x - y,
    "multiply": lambda np, x, y: np.tanh(x) * y,
    "divide": lambda np, x, y: x / (2 + np.cos(y)),
    "arctan2": lambda np, x, y: np.arctan2(x, 2 + np.sin(y)),
    "hypot": lambda np, x, y: np.hypot(x, 1 + y * y),
    "logaddexp": lambda np, x, y: np.logaddexp(x, y),
    "power": lambda np, x, y: (1.5 + np.sin(x)) ** np.tanh(y),
    "where": lambda np, x, y: np.where(apart(x + 0 * y) > 1000.0, x, y),
}
ALONG_AN_AXIS: dict[str, Callable[..., Any]] = {
    "sum": lambda np, x, axis: np.sum(x, axis=axis),
    "sum kept": lambda np, x, axis: np.sum(x, axis=axis, keepdims=True),
    "mean": lambda np, x, axis: np.mean(x, axis=axis, keepdims=True),
    "var": lambda np, x, axis: np.var(x, axis=axis),
    "std": lambda np, x, axis: np.std(np.stack([apart(x), -apart(x)]), axis=axis) * 1e-3,
    "prod": lambda np, x, axis: np.prod(np.tanh(x) + 1.5, axis=axis) * 1e-2,
    "max": lambda np, x, axis: np.max(apart(x), axis=axis, keepdims=True) * 1e-3,
    "min": lambda np, x, axis: np.min(apart(x), axis=axis) * 1e-3,
    "cumsum": lambda np, x, axis: np.cumsum(x, axis=axis),
    "flip": lambda np, x, axis: np.flip(x, axis=axis),
    "take": lambda np, x, axis: np.take(x, REPEATED, axis=axis),
    "concatenate": lambda np, x, axis: np.concatenate([x, np.sin(x), x * x], axis=axis)[:3],
    "diff": lambda np, x, axis: np.diff(np.concatenate([x, x * x], axis=axis), axis=axis)[:3],
    "softmax": lambda np, x, axis: np.exp(x) / np.sum(np.exp(x), axis=axis, keepdims=True),
    "first": lambda np, x, axis: x[(slice(None),) * axis + (0,)],
    "reversed": lambda np, x, axis: x[(slice(None),) * axis + (slice(None, None, -1),)],
    "fancy": lambda np, x, axis: x[(slice(None),) * axis + (REPEATED,)],
}
PRODUCTS: dict[str, Callable[..., Any]] = {
    "matmul": lambda np, x, y: np.matmul(np.tanh(x), y),
    "dot": lambda np, x, y: np.dot(x, np.tanh(y)),
    "einsum": lambda np, x, y: np.einsum("...i,...i->...", np.tanh(x), y),
    "tensordot": lambda np, x, y: np.tensordot(np.tanh(x), y, axes=1),
    "solve": lambda np, x, y: np.linalg.solve(
        WELL_CONDITIONED + 0.1 * np.sin(np.sum(x)), np.tile(np.sum(np.tanh(y)), 3)
    ),
    "inv": lambda np, x, y: np.linalg.inv(WELL_CONDITIONED + 0.1 * np.sin(np.sum(x))) * np.mean(y),
}
OPERATIONS = {
    **{f"{name}(x)": (1, False, f) for name, f in UNARY.items()},
    **{f"{name}(x, y)": (2, False, f) for name, f in {**BINARY, **PRODUCTS}.items()},
    **{f"{name}(x, axis)": (1, True, f) for name, f in ALONG_AN_AXIS.items()},
}


@dataclass(frozen=True)
class Step:
    """An operation of the catalogue, the values it works on, and the axis if it takes one."""

    operation: str
    operands: tuple[int, ...]
    axis: int | None

    def run(self, np: Any, values: Sequence[Any]) -> Any:
        _, along, function = OPERATIONS[self.operation]
        operands = [values[i] for i in self.operands]
        return function(np, *operands, self.axis) if along else function(np, *operands)


@dataclass(frozen=True)
class Program:
    """Shapes of the inputs, and steps. Its result is a number made of every value it computes."""

    inputs: tuple[Shape, ...]
    steps: tuple[Step, ...]

    def __call__(self, np: Any, inputs: Sequence[Any]) -> Any:
        values = list(inputs)
        for step in self.steps:
            values.append(step.run(np, values))
        total = 0.0
        for i, value in enumerate(values):
            total = total + np.sum(np.sin(value + 0.1 * i))
        return total

    def draw_inputs(self, seed: int) -> list[numpy.ndarray]:
        rng = numpy.random.default_rng(seed)
        return [numpy.asarray(rng.normal(size=shape)) for shape in self.inputs]

    def __str__(self) -> str:
        lines = [f"v{i} = input of shape {shape}" for i, shape in enumerate(self.inputs)]
        for i, step in enumerate(self.steps, len(self.inputs)):
            operands = ", ".join(f"v{j}" for j in step.operands)
            axis = "" if step.axis is None else f", axis {step.axis}"
            lines.append(f"v{i} = {step.operation.split('(')[0]}: {operands}{axis}")
        return "\n".join(lines)


@st.composite
def programs(draw: Any, fewest: int = 10, most: int = 40) -> Program:
    """Draw a program, step by step, of operations that the values at hand allow."""
    shape = st.lists(st.sampled_from(LENGTHS), max_size=3).map(tuple)
    inputs = tuple(draw(st.lists(shape, min_size=1, max_size=3)))
    program = Program(inputs, ())
    values: list[Any] = program.draw_inputs(0)
    steps: list[Step] = []
    for _ in range(draw(st.integers(fewest, most))):
        name = draw(st.sampled_from(sorted(OPERATIONS)))
        arity, along, _ = OPERATIONS[name]
        operands = tuple(draw(st.integers(0, len(values) - 1)) for _ in range(arity))
        ndim = values[operands[0]].ndim
        axis = draw(st.integers(0, ndim - 1)) if along and ndim else None
        step = Step(name, operands, axis)
        if along and axis is None:
            continue
        try:
            value = numpy.asarray(step.run(numpy, values))
        except (ValueError, IndexError):  # shapes that do not fit
            continue
        small = value.ndim <= 3 and set(value.shape) <= set(LENGTHS)
        if small and numpy.all(numpy.abs(value) < 1e6):
            values.append(value)
            steps.append(step)
    return Program(inputs, tuple(steps))
