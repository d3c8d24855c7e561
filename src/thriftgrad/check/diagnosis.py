"""What is probably wrong with a gradient.

Each mistake that people make leaves its own pattern in the ratio of analytic to numeric: a constant, a
constant that changes with the size of the batch, the reciprocal of an activation's derivative. A
hypothesis is a function of the case that returns what it can explain, with its evidence, or nothing. It
sees values only, never the code. The hypotheses are tried in order, those that need the least first,
and each block is explained once.

The patterns of a network show best for a single example. There the gradient of a weight matrix is an
outer product of the layer's input and δ, the gradient of its pre-activation, so that the ratio of
analytic to numeric at any entry of a layer's weights or bias is the ratio of the two δ of one unit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thriftgrad import tree
from thriftgrad.check.activations import MISTAKES, explains
from thriftgrad.check.compared import Compared, reference
from thriftgrad.check.given import Analytic
from thriftgrad.check.probe import Probe
from thriftgrad.check.problem import Problem
from thriftgrad.check.report import Block, Finding

Array = NDArray[Any]

_NEAR = 1e-4
_UNITS = 24
"""Up to so many units of a layer are looked at for a single example."""
_EXAMPLES = 3


@dataclass
class Case:
    """All that is known of a gradient that is wrong.

    Attributes:
        problem, given, probe: the function, the gradient to check, and how slopes are measured.
        blocks: the comparisons, of which some are wrong.
        compared: the numbers behind them.
        rng: for further directions.
    """

    problem: Problem
    given: Analytic
    probe: Probe
    blocks: list[Block]
    compared: list[Compared]
    rng: np.random.Generator

    def wrong(self) -> list[int]:
        """Return the numbers of the blocks that are wrong."""
        return [k for k, block in enumerate(self.blocks) if not block.ok]

    def pairs(self, k: int) -> tuple[Array, Array]:
        """Return analytic and numeric values of block `k`, of entries and of directions."""
        c = self.compared[k]
        smooth = [
            (c.analytic[i], n) for i, n, j in zip(c.index, c.numeric, c.jump, strict=True) if not j
        ]
        along = [(a, n) for a, n, _, _, jump in c.along if not jump]
        both = np.array([*smooth, *along]).reshape(-1, 2)
        return both[:, 0], both[:, 1]

    def worst(self, k: int) -> list[int]:
        """Return the compared entries of block `k` that are furthest from what was measured."""
        c = self.compared[k]
        apart = [
            (-abs(float(c.analytic[i]) - n), i)
            for i, n, j in zip(c.index, c.numeric, c.jump, strict=True)
            if not j
        ]
        return [i for _, i in sorted(apart)[:6]]

    def differs(self, k: int, analytic: Array) -> bool:
        """Tell whether another gradient for block `k` disagrees with what was measured."""
        c = self.compared[k]
        other = Compared(analytic, c.rounding / 1000, c.tolerance)
        apart = [
            not abs(analytic[i] - n) <= other.allowed(analytic[i], n, e)
            for i, n, e, j in zip(c.index, c.numeric, c.error, c.jump, strict=True)
            if not j
        ]
        return not apart or any(apart)

    def numeric(self, problem: Problem, k: int, entries: Sequence[int]) -> Array | None:
        """Return slopes measured at other arguments, or None where the function allows none."""
        try:
            probe = self.probe.elsewhere(problem)
            found = [probe.entry(k, i) for i in entries]
        except Exception:  # a person's function at arguments that it was not given
            return None
        return np.array([np.nan if s.jump else s.value for s in found])

    def batch(self) -> tuple[int, int] | None:
        """Return the axis and the length of what looks like the batch in the other arguments."""
        shapes = [
            np.shape(leaf)
            for i, a in enumerate(self.problem.args)
            if i not in self.problem.positions
            for leaf in tree.flatten(a)[0]
            if isinstance(leaf, np.ndarray) and leaf.ndim
        ]
        for axis in (0, -1):
            lengths = Counter(shape[axis] for shape in shapes)
            # Most have it: among x, y and some constants the batch is what x and y share.
            for length, count in lengths.most_common(1):
                if count == len(shapes) or (count > 1 and 2 * count > len(shapes)):
                    return axis, length
        return None

    def part(self, start: int, stop: int) -> Problem | None:
        """Return the problem with only some examples of the batch."""
        batch = self.batch()
        if batch is None:
            return None
        axis, length = batch

        def cut(leaf: Any) -> Any:
            if not isinstance(leaf, np.ndarray) or not leaf.ndim or leaf.shape[axis] != length:
                return leaf
            return leaf[start:stop] if axis == 0 else leaf[..., start:stop]

        args = [
            a if i in self.problem.positions else tree.map(cut, a)
            for i, a in enumerate(self.problem.args)
        ]
        return self.problem.at(args)

    def examples(self) -> Iterator[tuple[Problem, list[Array]]]:
        """Yield problems with a single example, and the analytic gradient there."""
        batch = self.batch()
        count = min(_EXAMPLES, batch[1]) if batch else 1
        for i in range(count):
            problem = self.part(i, i + 1) or self.problem
            gradient = self.given.coordinates_at(problem)
            if gradient is not None:
                yield problem, gradient


def diagnose(case: Case) -> list[Finding]:
    """Return the mistakes that explain what is wrong in a case, the first that fits for each block."""
    findings: list[Finding] = []
    unexplained = case.wrong()
    for hypothesis in HYPOTHESES:
        if not unexplained:
            break
        explained: dict[tuple[str, str], list[int]] = {}
        for name, evidence, blocks in hypothesis(case, unexplained):
            explained.setdefault((name, evidence), []).extend(blocks)
        for (name, evidence), found in explained.items():
            names = tuple(case.blocks[k].name for k in sorted(found))
            findings.append(Finding(name, evidence, names))
            unexplained = [k for k in unexplained if k not in found]
    return findings


Explanations = Iterator[tuple[str, str, list[int]]]
"""Name, evidence, and the blocks that are explained by it."""


def another_shape(case: Case, wrong: list[int]) -> Explanations:
    """Look for the parameter's shape in a gradient that has another one."""
    for k in wrong:
        raw, variable = case.given.raw[k], case.problem.variables[k]
        if raw.shape == variable.shape:
            continue
        ways: list[tuple[str, Callable[[Array], Array]]] = [
            ("transposed weights", np.transpose),
            ("right values in the wrong shape", _without_ones),
            ("not summed over the batch", lambda g: _without_ones(g.sum(axis=0))),
            ("not summed over the batch", lambda g: _without_ones(g.sum(axis=-1))),
        ]
        for name, way in ways:
            candidate = way(raw) if raw.ndim else raw
            if way is np.transpose and candidate.shape != variable.shape:
                continue
            if _without_ones(candidate).shape != _without_ones(np.empty(variable.shape)).shape:
                continue
            entries = _some(variable.x.size, case.rng)
            numeric = case.numeric(case.problem, k, entries)
            flat = variable.coordinates(candidate)
            if numeric is not None and _close(flat[entries], numeric):
                evidence = f"its shape is {raw.shape}; brought to {variable.shape} it is right"
                yield name, evidence, [k]
                break


def not_finite(case: Case, wrong: list[int]) -> Explanations:
    """Look for NaN and infinities."""
    found = [k for k in wrong if not np.isfinite(case.given.here[k]).all()]
    if found:
        count = sum(int(np.count_nonzero(~np.isfinite(case.given.here[k]))) for k in found)
        yield "not finite", f"{count} entries are NaN or infinite, and the slopes are not", found


def history(case: Case, wrong: list[int]) -> Explanations:
    """Look whether the gradient depends on what it was asked before."""
    again = case.given.coordinates_at(case.problem)
    if again is None:
        return
    changed = [k for k in wrong if not _close(again[k], case.given.here[k])]
    summing = [k for k in changed if not case.differs(k, again[k] - case.given.here[k])]
    if summing:
        evidence = "each further call adds the gradient to what the calls before returned"
        yield "gradients accumulate over calls", evidence, summing
    changed = [k for k in changed if k not in summing]
    if changed:
        evidence = "two calls with the same arguments give different gradients"
        yield "a stale cache, or random numbers", evidence, changed
    rest = [k for k in wrong if k not in changed and k not in summing]
    if case.given.before is None or not rest:
        return
    there, raw = case.given.before
    if any(g.shape != v.shape for g, v in zip(raw, there.variables, strict=True)):
        return
    stale = []
    for k in rest:
        then = there.variables[k].coordinates(raw[k])
        # The first call was right where it changed most and where it is wrong now, so that what is
        # wrong here is what has changed since.
        entries = list(dict.fromkeys([*_largest(then - case.given.here[k], 6), *case.worst(k)]))
        numeric = case.numeric(there, k, entries)
        if numeric is not None and _close(then[entries], numeric, 1e-6):
            stale.append(k)
    if stale:
        evidence = (
            "the very first call was right, at other arguments, and later calls are not: values that "
            "were computed then are used again"
        )
        yield "a stale cache", evidence, stale


def nothing_arrives(case: Case, wrong: list[int]) -> Explanations:
    """Look for blocks that are zero."""
    here, problems = case.given.here, case.given.problems
    zero = [k for k in wrong if not problems[k] and here[k].size and not here[k].any()]
    if zero:
        yield "no gradient arrives", "it is zero everywhere, and the slopes are not", zero


def constant_factor(case: Case, wrong: list[int]) -> Explanations:
    """Look for a factor that all entries of a block share, and at what it has to do with the batch."""
    factors: dict[float, list[int]] = {}
    for k in wrong:
        factor = _ratio(*case.pairs(k))
        if factor is not None:
            key = next((f for f in factors if abs(f - factor) <= _NEAR * abs(f)), factor)
            factors.setdefault(key, []).append(k)
    right = [k for k in range(len(case.blocks)) if k not in wrong]
    for factor, blocks in factors.items():
        if abs(factor + 1) < _NEAR:
            yield "sign", "analytic = −numeric", blocks
            continue
        batch = _of_batch(case, factor, blocks)
        biases = all(_is_bias(case.problem.variables[k].shape) for k in blocks)
        matrices = [k for k in right if not _is_bias(case.problem.variables[k].shape)]
        where = "for the bias" if biases and matrices else ""
        if batch and factor < 1 and where:
            name = "mean instead of sum over the batch for the bias"
        elif batch and factor < 1:
            name = "divided twice by the batch size"
        elif batch:
            name = f"sum instead of mean over the batch {where}".strip()
        else:
            name = "a constant factor"
        evidence = f"analytic = {factor:.6g} × numeric in every entry"
        yield name, f"{evidence}{'; ' + batch if batch else ''}", blocks


def _of_batch(case: Case, factor: float, blocks: list[int]) -> str:
    """Return evidence that a factor is the batch size or its reciprocal; "" if it is not."""
    size = factor if factor > 1 else 1 / factor
    batch = case.batch()
    if batch is None:
        # Nothing to look at but the number: a whole one, too large for a forgotten 2.
        whole = factor > 0 and abs(size - round(size)) < _NEAR * size and round(size) > 4
        return f"if {round(size)} is the size of the batch" if whole else ""
    if abs(size - batch[1]) > _NEAR * size:
        return ""
    # A factor of 2 may as well come from a square. With another batch it shows.
    length = batch[1]
    for start, stop in ((0, length // 2), (length // 2, length), (0, length - 1), (1, length)):
        if not 0 < stop - start < length:
            continue
        part = case.part(start, stop)
        gradient = case.given.coordinates_at(part) if part else None
        if part is None or gradient is None:
            continue
        for k in blocks:
            entries = _largest(gradient[k], 4)
            found = _ratio(gradient[k][entries], case.numeric(part, k, entries))
            if found is not None:
                wanted = stop - start if factor > 1 else 1 / (stop - start)
                if abs(found - wanted) > 1e-3 * wanted:
                    return ""
                return (
                    f"the batch has {length} examples, and with {stop - start} the factor is "
                    f"{found:.6g}"
                )
    return f"the batch has {length} examples" if length > 2 else ""


def penalty(case: Case, wrong: list[int]) -> Explanations:
    """Look for a difference that is a multiple of the parameter: weight decay that one side lacks."""
    found: dict[float, list[int]] = {}
    for k in wrong:
        c = case.compared[k]
        index = [i for i, j in zip(c.index, c.jump, strict=True) if not j]
        numeric = np.array([n for n, j in zip(c.numeric, c.jump, strict=True) if not j])
        x = case.problem.variables[k].x[index]
        if len(index) >= 3 and np.ptp(np.abs(x)) > 0:
            missing = numeric - c.analytic[index]
            factor = float(missing @ x / (x @ x))
            if _close(missing, factor * x, 1e-3):
                key = next((f for f in found if abs(f - factor) <= 1e-3 * abs(f)), factor)
                found.setdefault(key, []).append(k)
    for factor, blocks in found.items():
        name = "the gradient of a penalty on the weights is missing or has the wrong factor"
        yield name, f"numeric − analytic = {factor:.4g} × parameter in every entry", blocks


def transposed_gradient(case: Case, wrong: list[int]) -> Explanations:
    """Look for square matrices whose gradient is right once transposed."""
    found = []
    for k in wrong:
        shape = case.problem.variables[k].shape
        if len(shape) == 2 and shape[0] == shape[1] > 1:
            # The last axis holds real and imaginary parts, of complex numbers.
            turned = case.given.here[k].reshape(*shape, -1).swapaxes(0, 1).reshape(-1)
            if not case.differs(k, turned):
                found.append(k)
    if found:
        yield "transposed weights", "the gradient itself is transposed: analytic.T = numeric", found


def conjugated(case: Case, wrong: list[int]) -> Explanations:
    """Look for complex gradients that are right once conjugated."""
    found = []
    for k in wrong:
        if case.problem.variables[k].is_complex and not case.given.problems[k]:
            other = case.given.here[k].copy()
            other[1::2] *= -1
            if not case.differs(k, other):
                found.append(k)
    if found:
        evidence = "analytic = conj(numeric), which for z = x + iy is ∂f/∂x − i·∂f/∂y here"
        yield "conjugated", evidence, found


def single_example(case: Case, wrong: list[int]) -> Explanations:
    """Look at the ratio of the two δ of a layer for one example: at activations and transposes."""
    if case.given.function is None:
        return
    explained: set[int] = set()
    for problem, gradient in case.examples():
        for k in wrong:
            if k in explained:
                continue
            for test in (_activation, _rectifier, _transposed_weights):
                found = test(case, problem, gradient, k)
                if found:
                    explained.add(k)
                    yield (*found, [k])
                    break
        if explained:
            break
    # What lies below a wrong δ is wrong as well, in no pattern of its own.


def _activation(
    case: Case, problem: Problem, gradient: list[Array], k: int
) -> tuple[str, str] | None:
    """Look whether the ratio follows a function of the pre-activation as a parameter is moved.

    Moving one weight or bias by t moves one unit's pre-activation from z to z + st. Two measurements
    give z and s for an assumed ratio r(z), and the others tell whether it is the right one.
    """
    votes: Counter[tuple[str, str]] = Counter()
    steps = (0.0, 0.5, -0.5, 0.9, -0.9)
    entries = _largest(gradient[k], 4)
    tried = 0
    for i in entries:
        ratios = []
        for step in steps:
            moved = problem.variables[k].x.copy()
            moved[i] += step
            there = problem.at(problem.arguments({k: moved}))
            a = case.given.coordinates_at(there)
            n = case.numeric(there, k, [i])
            if a is None or n is None or not np.isfinite(n[0]) or n[0] == 0:
                break
            ratios.append(a[k][i] / n[0])
        if len(ratios) < len(steps) or not np.isfinite(ratios).all():
            continue
        tried += 1
        votes.update(explains(np.array(steps), np.array(ratios)))
    if not votes:
        return None
    (kind, activation), count = votes.most_common(1)[0]
    if count < min(2, tried):
        return None
    return kind, MISTAKES[kind].evidence.format(activation=activation)


def _rectifier(
    case: Case, problem: Problem, gradient: list[Array], k: int
) -> tuple[str, str] | None:
    """Look whether the gradient is right but for entries where it should be 0."""
    a = gradient[k]
    entries = _largest(a, _UNITS)
    n = case.numeric(problem, k, entries)
    if n is None or not np.isfinite(n).all():
        return None
    a = a[entries]
    size = reference(a)
    passing = (np.abs(n) <= 1e-9 * size) & (np.abs(a) > 1e-6 * size)
    if not passing.any() or not _close(a[~passing], n[~passing]) or not (n[~passing] != 0).any():
        return None
    return (
        "missing derivative of the activation",
        "right but for units where the slope is 0 and the gradient is not, as for a ReLU",
    )


def _transposed_weights(
    case: Case, problem: Problem, gradient: list[Array], k: int
) -> tuple[str, str] | None:
    """Look whether δ has come back through a square matrix W as Wδ in place of Wᵀδ."""
    if any(v.is_complex for v in problem.variables):
        return None
    shape = problem.variables[k].shape
    entries = _largest(gradient[k], _UNITS)
    n = case.numeric(problem, k, entries)
    if n is None or not np.isfinite(n).all():
        return None
    use = np.abs(n) > 1e-9 * max(reference(n), 1e-300)
    if np.count_nonzero(use) < 2:
        return None
    chosen = np.array(entries)[use]
    ratio = gradient[k][chosen] / n[use]
    if np.ptp(ratio) <= _NEAR * np.max(np.abs(ratio)):
        return None
    units = np.unravel_index(chosen, shape)
    for m, variable in enumerate(problem.variables):
        if m == k or len(variable.shape) != 2 or variable.shape[0] != variable.shape[1]:
            continue
        if not np.isfinite(gradient[m]).all():
            continue
        weights, size = variable.x.reshape(variable.shape), variable.shape[0]
        u, values, v = np.linalg.svd(gradient[m].reshape(variable.shape))
        if size < 2 or not values[0] or values[1] > 1e-8 * values[0]:
            continue  # not an outer product
        for delta in (u[:, 0], v[0]):
            for one, other in (
                (weights @ delta, weights.T @ delta),
                (weights.T @ delta, weights @ delta),
            ):
                for axis, length in enumerate(shape):
                    if length == size and _close((one / other)[units[axis]], ratio):
                        return (
                            "transposed weights",
                            f"for one example the ratio of analytic to numeric is that of Wδ to Wᵀδ "
                            f"for W = {variable.name}",
                        )
    return None


def unmoved(case: Case, wrong: list[int]) -> Explanations:
    """Look for blocks whose gradient stays as it is while a parameter moves that it depends on."""
    here = case.given.coordinates_at(case.problem)
    found = []
    for m, variable in enumerate(case.problem.variables):
        nudge = 0.1 * case.rng.normal(size=variable.x.size) * variable.scale
        there = case.problem.at(case.problem.arguments({m: variable.x + nudge}))
        gradient = case.given.coordinates_at(there)
        if here is None or gradient is None:
            return
        for k in wrong:
            if k in found or not _close(gradient[k], here[k], 1e-12):
                continue
            entries = _largest(here[k], 4)
            before, after = (case.numeric(p, k, entries) for p in (case.problem, there))
            if before is not None and after is not None and not _close(after, before):
                found.append(k)
    if found:
        evidence = "it stays the same while a parameter moves that the slopes depend on"
        yield "a stale cache", evidence, found


HYPOTHESES: tuple[Callable[[Case, list[int]], Explanations], ...] = (
    another_shape,
    not_finite,
    nothing_arrives,
    history,
    constant_factor,
    conjugated,
    transposed_gradient,
    penalty,
    unmoved,
    single_example,
)


def _without_ones(array: Array) -> Array:
    return array.reshape([n for n in array.shape if n != 1])


def _ratio(analytic: Array, numeric: Array | None) -> float | None:
    """Return the factor between two lists of numbers, or None if there is no single one."""
    if numeric is None or not len(numeric) or not np.isfinite(numeric).all():
        return None
    size = float(numeric @ numeric)
    if not size or not np.isfinite(analytic).all():
        return None
    factor = float(analytic @ numeric) / size
    return factor if factor and _close(analytic, factor * numeric) else None


def _close(a: Array, b: Array, relative: float = _NEAR) -> bool:
    """Tell whether two vectors agree, entry by entry, to within a part of the larger of the two."""
    if not np.isfinite(a).all() or not np.isfinite(b).all():
        return False
    size = max(reference(a), reference(b))
    return bool(np.all(np.abs(a - b) <= relative * (np.abs(b) + 1e-3 * size)))


def _largest(values: Array, count: int) -> list[int]:
    order = np.argsort(-np.abs(values), kind="stable")
    return [int(i) for i in order[:count]]


def _some(size: int, rng: np.random.Generator) -> list[int]:
    return [int(i) for i in rng.permutation(size)[:_UNITS]]


def _is_bias(shape: tuple[int, ...]) -> bool:
    return sum(n != 1 for n in shape) <= 1
