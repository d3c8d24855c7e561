"""Calls of the table signal."""

import numpy as np
from laws.harness import Drawn, case, complex_, distinct, inside, positive, real, square

from thriftgrad.autodiff.rules.signal import i0_derivative, sinc_derivative


def rising(n: int) -> Drawn:
    """Coordinates in ascending order, unevenly spaced."""
    return Drawn(lambda rng: np.cumsum(rng.uniform(0.5, 1.5, n)), f"rising({n})")


def near(*values: float) -> Drawn:
    """Numbers close to those given, which keep clear of kinks."""
    return Drawn(
        lambda rng: np.squeeze(values + rng.uniform(-0.02, 0.02, len(values))), f"{values}"
    )


EVEN = Drawn(lambda rng: np.arange(5.0), "even")

DIFFERENCES = [
    case(np.diff, real(3, 4)),
    case(np.diff, complex_(5), 2),
    case(np.diff, real(5, 2), 3, 0),
    case(np.diff, real(3), n=0),
    case(np.diff, real(3, 2), n=4, axis=0),
    case(np.diff, real(3), n=5),
    case(lambda a, p, q: np.diff(a, prepend=p, append=q), real(2, 3), real(), real(2, 2), _name="diff a"),
    case(lambda a, p, q: np.diff(a, 2, 0, p, q), real(2, 3), real(3, 3), real(), _name="diff twice"),
    case(np.diff, real(2), prepend=1.0, append=[2.0, 3.0], _single=False),
    case(np.ediff1d, real(2, 3)),
    case(np.ediff1d, real(4), real(2), real()),
    case(np.ediff1d, real(1), real(2)),
    case(np.ediff1d, real(3), to_begin=1.0),
    case(np.gradient, real(5)),
    case(np.gradient, complex_(4), 0.5),
    case(np.gradient, real(2, 3)),
    case(np.gradient, real(4, 3), edge_order=2),
    case(np.gradient, real(4, 3), 2.0, axis=-2),
    case(np.gradient, real(4, 3), 2.0, axis=(0,)),
    case(np.gradient, real(5), rising(5)),
    case(np.gradient, real(5), EVEN, _tolerance=1e-5),
    case(np.gradient, real(5), positive()),
    case(np.gradient, real(5), rising(5), edge_order=2),
    case(np.gradient, real(3, 4), rising(3), positive(), edge_order=2),
    case(np.gradient, real(3, 4), rising(4), rising(3), axis=(1, 0)),
    case(np.gradient, real(3, 4), positive(), axis=(0, -1)),
    case(np.trapezoid, real(5)),
    case(np.trapezoid, complex_(5), rising(5)),
    case(np.trapezoid, real(3, 4), real(3, 4), axis=0),
    case(np.trapezoid, real(3, 4, 2), rising(4), axis=-2),
    case(np.trapezoid, real(3, 4), real(4), axis=1),
    case(lambda y, dx: np.trapezoid(y, dx=dx), real(3, 4), real(), _name="trapezoid y, dx"),
    case(lambda y, dx: np.trapezoid(y, dx=dx), real(3, 4), real(3, 1), _name="trapezoid y, dxs"),
]  # fmt: skip

CONVOLUTIONS = [
    *(
        case(f, real(n), real(m), mode, _name=f"{f.__name__} {n} {m} {mode}")
        for f in (np.convolve, np.correlate)
        for mode in ("full", "same", "valid")
        for n, m in (
            (5, 3),
            (3, 5),
            (6, 4),
            (4, 6),
            (5, 4),
            (4, 5),
            (6, 3),
            (3, 6),
            (4, 4),
            (1, 3),
            (3, 1),
        )
    ),
    *(
        case(f, complex_(n), complex_(m), mode, _name=f"{f.__name__} {n} {m} {mode} complex")
        for f in (np.convolve, np.correlate)
        for mode in ("full", "same", "valid")
        for n, m in ((5, 3), (4, 5))
    ),
    case(np.convolve, real(3), complex_(2)),
    case(np.convolve, real(), real(3)),
    case(np.correlate, real(3), real(2)),
]

_AT = np.array([[-3.0, 0.6], [1.3, 2.5], [3.1, 9.0]])
INTERPOLATION = [
    case(np.interp, real(3, 4), rising(5), real(5), _single=False),
    case(np.interp, _AT, rising(5), complex_(5), _single=False),
    case(np.interp, _AT, rising(3), real(3), real(), real(), _single=False),
    case(np.interp, _AT, rising(3), real(3), right=2.0, _single=False),
    case(np.interp, distinct(7), rising(3), real(3), period=2.3, _single=False),
    case(
        lambda x, xp, fp, period: np.interp(x, xp, fp, period=period),
        near(0.8, -0.7, 4.9), near(0.3, 5.1, -2.2), real(3), near(2.02), _single=False, _name="interp period",
    ),
    case(np.interp, _AT, np.ones(1), real(1), _single=False),
    case(np.interp, real(2), [0.0, 0.3, 0.9], [1.0, -1.0, 4.0], _single=False),
]  # fmt: skip

NUMBERS = [
    case(np.sinc, real(3, 4)),
    case(np.sinc, complex_(5)),
    case(
        np.sinc, Drawn(lambda rng: np.array([0.0, 1e-9, 1e-3, 0.31, 0.33, 0.7, 5.0]), "near zero")
    ),
    case(sinc_derivative, real(4), 2),
    case(np.i0, real(3, 4)),
    case(np.i0, Drawn(lambda rng: np.array([0.0, 1e-9, 7.9, 8.1, -9.0]), "around a seam")),
    case(i0_derivative, real(4), 2),
    case(np.angle, complex_(3)),
    case(np.angle, complex_(3), deg=True),
    case(np.angle, real(3), True),
    case(np.unwrap, distinct(3, 4)),
    case(np.unwrap, distinct(3, 4), 4.0, axis=0, period=5.0),
]

APPLIED = [
    case(np.apply_along_axis, lambda v: v * v[::-1], 1, real(2, 3)),
    case(np.apply_along_axis, np.sum, 0, real(2, 3, 2)),
    case(np.apply_along_axis, lambda v, n: np.outer(v, v)[:n], -2, complex_(2, 3, 2), 2),
    case(np.apply_along_axis, lambda v: [v[0] * v[1], v[0]], 0, real(2, 3)),
    case(np.apply_over_axes, np.sum, real(2, 3, 4), [0, -1]),
    case(np.apply_over_axes, lambda a, axis: np.cos(np.mean(a, axis=axis)), real(2, 3), 1),
]  # fmt: skip

POLYNOMIALS = [
    case(np.polyval, real(4), real(2, 3)),
    case(np.polyval, complex_(3), complex_(2)),
    case(np.polyval, real(1), real()),
    case(np.polyval, real(3, 2), real(2)),
    case(np.polyval, [1.0, 2.0, 3.0], real(2)),
    *(
        case(f, real(n), real(m), _name=f"{f.__name__} {n} {m}")
        for f in (np.polyadd, np.polysub, np.polymul)
        for n, m in ((3, 3), (2, 4), (4, 1))
    ),
    case(np.polymul, real(3), [0.0, 0.0, 1.0, 2.0], _single=False),
    case(np.polymul, complex_(3), complex_(2)),
    # In single precision NumPy may keep more coefficients of the remainder, which are rounding errors.
    *(
        case(np.polydiv, real(n), real(m), _single=False, _name=f"polydiv {n} {m}")
        for n, m in ((5, 3), (4, 1), (2, 3), (3, 3))
    ),
    case(np.polydiv, complex_(4), complex_(2), _single=False),
    case(np.polyder, real(5), _single=False),
    case(np.polyder, real(5), 3, _single=False),
    case(np.polyder, real(3), 0),
    case(np.polyint, real(3), _single=False),
    case(np.polyint, real(3), 2, real(2), _single=False),
    case(np.polyint, real(3), 3, real(), _single=False),
    case(np.roots, Drawn(lambda rng: np.poly([1.0, -2.0, 3.5]) * rng.uniform(1, 2), "cubic")),
    case(np.roots, Drawn(lambda rng: np.array([1.0, 0.3, 2.0, 1.0]) * rng.uniform(1, 2), "turning cubic")),
    case(np.roots, complex_(4), _tolerance=1e-5),
    case(np.poly, inside(4)),
    case(np.poly, complex_(3)),
    case(np.poly, square(3, 3)),
    case(np.vander, real(3), _single=False),
    case(np.vander, complex_(3), 2, _single=False),
    case(np.vander, real(3), 5, increasing=True, _single=False),
    case(np.vander, real(3), 1, _single=False),
]  # fmt: skip

CASES = [
    *DIFFERENCES, *CONVOLUTIONS, *INTERPOLATION, *NUMBERS, *APPLIED, *POLYNOMIALS,
]  # fmt: skip
