"""Calls of the table linalg.

Where a function is differentiated as one of Hermitian matrices, its argument passes through the
Hermitian part first, so that differences move along such matrices too. Where a result has a free
phase, what is checked is a function of the result that has not.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from laws.harness import Case, Drawn, complex_, distinct, real, spd, square

from thriftgrad.autodiff.adjoint import describe


@dataclass
class Wrapped(Case):
    """A call whose argument or result passes through a function that makes it well defined."""

    before: Callable[..., Any] = lambda *args: args
    after: Callable[..., Any] = lambda result: result

    def call(self, *args: Any) -> Any:
        return self.after(self.function(*self.before(*args), **self.kwargs))


def case(function: Any, *args: Any, **kwargs: Any) -> Case:
    options = {k[1:]: kwargs.pop(k) for k in list(kwargs) if k.startswith("_")}
    options["name"] = f"{describe(function)} {args} {kwargs or ''}"
    return Wrapped(function, args, kwargs, **options)


def drawn(make: Callable[..., Any]) -> Callable[..., Drawn]:
    return lambda *shape: Drawn(lambda rng: make(rng, shape), f"{make.__name__}{shape}")


@drawn
def complex_square(rng, shape):
    """Complex matrices that are well conditioned."""
    return rng.normal(size=shape) + 1j * rng.normal(size=shape) + 3 * np.eye(shape[-1])


def _unitary(rng, shape, kind):
    noise = rng.normal(size=shape) + (1j * rng.normal(size=shape) if kind == "c" else 0)
    return np.linalg.qr(noise)[0]


def _with_values(rng, shape, kind):
    """Return matrices whose singular values are 1, 2, 3, ... about, those of a stack not the same."""
    *stack, m, n = shape
    k = min(m, n)
    s = np.arange(1, k + 1) + rng.uniform(0, 0.3, size=(*stack, k))
    u, v = _unitary(rng, (*stack, m, k), kind), _unitary(rng, (*stack, n, k), kind)
    return (u * s[..., None, :]) @ np.conjugate(np.swapaxes(v, -1, -2))


@drawn
def apart(rng, shape):
    return _with_values(rng, shape, "f")


@drawn
def complex_apart(rng, shape):
    return _with_values(rng, shape, "c")


def _with_eigenvalues(rng, shape, kind, first):
    u = _unitary(rng, shape, kind)
    w = np.arange(shape[-1]) + first + rng.uniform(0, 0.3, size=shape[:-1])
    return (u * w[..., None, :]) @ np.conjugate(np.swapaxes(u, -1, -2))


@drawn
def symmetric(rng, shape):
    """Symmetric matrices whose eigenvalues, about −1, 0.2, 1.3 and so on, are apart."""
    return _with_eigenvalues(rng, shape, "f", -0.9)


@drawn
def hermitian(rng, shape):
    return _with_eigenvalues(rng, shape, "c", -0.9)


@drawn
def positive_hermitian(rng, shape):
    return _with_eigenvalues(rng, shape, "c", 1.0)


@drawn
def real_eigenvalues(rng, shape):
    """Matrices that are not symmetric and have real eigenvalues, 1, 2, 3, ... about."""
    v = rng.normal(size=shape) + 2 * np.eye(shape[-1])
    w = np.arange(1, shape[-1] + 1) + rng.uniform(0, 0.3, size=shape[:-1])
    return (v * w[..., None, :]) @ np.linalg.inv(v)


@drawn
def turning(rng, shape):
    """Real matrices with complex eigenvalues, in pairs."""
    n = shape[-1]
    quarter = np.kron(np.eye(n // 2 + 1), [[0.0, 1.0], [-1.0, 0.0]])[:n, :n]
    return 0.3 * rng.normal(size=shape) + np.arange(1, n + 1)[:, None] * quarter + np.eye(n)


@drawn
def full_rank(rng, shape):
    """Matrices of any shape that are well conditioned."""
    return rng.normal(size=shape) + 3 * np.eye(*shape[-2:])


def low_rank(rank, sample=real):
    """Make matrices of less than full rank: a product of two that are drawn."""

    def draw(m, n):
        return [sample(m, rank), sample(rank, n)]

    return draw


def hermitian_part(a, *rest):
    return ((a + np.conjugate(np.swapaxes(a, -1, -2))) / 2, *rest)


def product(factors, *rest):
    return (factors[0] @ factors[1], *rest)


def moduli(result):
    """Eigenvectors or singular vectors without their phases, beside the values."""
    return [np.absolute(part) ** 2 for part in result]


def projectors(result):
    """What does not depend on the phases of eigenvectors v, though on how they lie to each other."""
    w, v = result
    return [w, v[..., :, None, :2] * np.conjugate(v)[..., None, :, :2]]


def dyads(result):
    """What does not depend on the phases of pairs of singular vectors."""
    u, s, vh = result
    k = s.shape[-1]
    return [s, u[..., :, None, :k] * np.swapaxes(vh[..., :k, :], -1, -2)[..., None, :, :]]


def thin(result):
    u, s, vh = result
    k = s.shape[-1]
    return [u[..., :k], s, vh[..., :k, :]]


INVERSES = [
    *(case(np.linalg.inv, a) for a in (square(3, 3), square(2, 3, 3), complex_square(3, 3))),
    *(
        case(np.linalg.solve, a, b)
        for a, b in [
            (square(3, 3), real(3)), (square(3, 3), real(3, 2)), (square(2, 3, 3), real(3)),
            (square(2, 3, 3), real(3, 2)), (square(3, 3), real(4, 3, 2)),
            (square(2, 1, 3, 3), real(4, 3, 2)), (square(3, 3, 3), real(3, 3)),
            (complex_square(3, 3), complex_(3)), (square(3, 3), complex_(3, 2)),
            (complex_square(2, 3, 3), real(3, 2)), (square(1, 1), real(1)),
            (square(3, 3), np.ones((3, 2))),
        ]
    ),
    case(np.linalg.solve, 2.0 * np.eye(3), real(3)),
    case(np.linalg.tensorinv, real(2, 3, 6)),
    case(np.linalg.tensorinv, real(4, 2, 2), ind=1),
    case(np.linalg.tensorinv, complex_(3, 2, 6)),
    case(np.linalg.tensorsolve, real(2, 3, 6), real(2, 3)),
    case(np.linalg.tensorsolve, complex_(2, 3, 2, 3), complex_(2, 3)),
    case(np.linalg.tensorsolve, real(2, 6, 3), real(6), axes=(0, 2)),
    case(np.linalg.tensorsolve, real(2, 6, 3), real(6), (2, 0)),
    *(
        case(np.linalg.pinv, a)
        for a in (
            full_rank(4, 3), full_rank(2, 3, 4), full_rank(3, 3), complex_(4, 3), complex_(2, 3, 4),
        )
    ),
    case(np.linalg.pinv, low_rank(2)(4, 3), _before=product, _single=False),
    case(np.linalg.pinv, low_rank(2, complex_)(3, 4), rtol=1e-4, _before=product),
    case(np.linalg.pinv, low_rank(2)(3, 4), 1e-4, _before=product),
    case(np.linalg.pinv, full_rank(4, 3), np.array(0.01)),
    case(np.linalg.pinv, symmetric(2, 3, 3), hermitian=True, _before=hermitian_part),
    case(np.linalg.pinv, hermitian(3, 3), hermitian=True, _before=hermitian_part),
    *(
        case(np.linalg.lstsq, a, b, **options)
        for a, b, options in [
            (full_rank(5, 3), real(5), {}), (full_rank(5, 3), real(5, 2), {}),
            (full_rank(3, 5), real(3, 2), {}), (full_rank(3, 3), real(3), {}),
            (complex_(5, 3), complex_(5, 2), {}), (complex_(3, 4), complex_(3), {}),
            (full_rank(5, 3), complex_(5), {}), (full_rank(5, 3), real(5), {"rcond": 1e-8}),
            (full_rank(5, 3), real(5), {"rcond": -1}), (np.eye(4, 2), real(4, 2), {}),
        ]
    ),
    case(np.linalg.lstsq, low_rank(2)(5, 3), real(5, 2), _before=product, _after=lambda r: r[0],
         _single=False),
    *(
        case(np.linalg.matrix_power, a, n)
        for a in (square(3, 3), complex_square(2, 3, 3))
        for n in (0, 1, 2, 3, 5, -1, -2)
    ),
]  # fmt: skip

DETERMINANTS = [
    case(f, a)
    for f in (np.linalg.det, np.linalg.slogdet)
    for a in (
        square(1, 1),
        square(3, 3),
        square(2, 3, 3),
        complex_square(3, 3),
        complex_square(2, 2, 2),
    )
]

FACTORS = [
    *(
        case(np.linalg.cholesky, a, upper=upper, _before=hermitian_part)
        for a in (spd(3, 3), spd(2, 3, 3), positive_hermitian(3, 3))
        for upper in (False, True)
    ),
    *(
        case(np.linalg.qr, a, mode=mode)
        for a in (full_rank(3, 3), full_rank(3, 4), full_rank(4, 3), full_rank(2, 4, 3),
                  full_rank(2, 2, 4), complex_(3, 3), complex_(4, 3), complex_(2, 3, 4))
        for mode in ("reduced", "r")
    ),
    *(
        case(np.linalg.qr, a, "complete")
        for a in (full_rank(3, 3), full_rank(2, 3, 4), complex_(2, 3))
    ),
]  # fmt: skip

SPECTRA = [
    *(
        case(f, a, _before=hermitian_part)
        for f in (np.linalg.eigh, np.linalg.eigvalsh)
        for a in (symmetric(3, 3), symmetric(2, 3, 3), symmetric(1, 1))
    ),
    *(
        case(np.linalg.eigh, hermitian(*shape), _before=hermitian_part, _after=after)
        for shape in [(3, 3), (2, 3, 3)]
        for after in (moduli, projectors)
    ),
    case(np.linalg.eigh, symmetric(3, 3), _before=hermitian_part, _after=projectors),
    case(np.linalg.eigvalsh, hermitian(2, 3, 3), _before=hermitian_part),
    *(
        case(f, hermitian(3, 3), UPLO="U", _before=hermitian_part, _after=lambda r: np.absolute(r[0]))
        for f in (np.linalg.eigh, np.linalg.eigvalsh)
    ),
    *(
        case(f, a)
        for f in (np.linalg.eig, np.linalg.eigvals)
        for a in (real_eigenvalues(3, 3), real_eigenvalues(2, 3, 3), turning(4, 4), turning(2, 3, 3),
                  complex_square(3, 3), complex_square(2, 3, 3))
    ),
    case(np.linalg.eig, turning(3, 3), _after=projectors),
    case(np.linalg.eig, complex_square(2, 3, 3), _after=moduli),
    *(
        case(np.linalg.svd, a, full_matrices=False)
        for a in (apart(3, 3), apart(4, 3), apart(3, 4), apart(2, 4, 2), apart(2, 2, 3))
    ),
    *(
        case(np.linalg.svd, complex_apart(*shape), full_matrices=False, _after=after)
        for shape in [(3, 3), (4, 3), (2, 2, 4)]
        for after in (moduli, dyads)
    ),
    case(np.linalg.svd, apart(2, 3, 3)),
    case(np.linalg.svd, complex_apart(3, 3), _after=dyads),
    case(np.linalg.svd, apart(2, 4, 3), _after=thin),
    case(np.linalg.svd, apart(3, 5), _after=thin),
    case(np.linalg.svd, complex_apart(3, 4), _after=dyads),
    *(
        case(np.linalg.svd, a, compute_uv=False)
        for a in (apart(3, 3), apart(2, 4, 3), complex_apart(2, 3))
    ),
    *(
        case(np.linalg.svd, a, hermitian=True, compute_uv=uv, _before=hermitian_part, _after=after)
        for a, uv, after in [
            (symmetric(3, 3), True, list), (symmetric(2, 3, 3), False, abs),
            (hermitian(2, 3, 3), True, dyads), (hermitian(3, 3), True, moduli), (hermitian(3, 3), False, abs),
        ]
    ),
    *(case(np.linalg.svdvals, a) for a in (apart(3, 3), apart(2, 4, 3), complex_apart(2, 2, 3))),
]  # fmt: skip

_INF = float("inf")
_VECTOR_ORDERS = (None, 2, 1, _INF, -_INF, 3, 2.5, 0.5, -1, -2)
_MATRIX_ORDERS = (None, "fro", "nuc", 2, -2, 1, -1, _INF, -_INF)


@drawn
def apart_complex(rng, shape):
    """Complex numbers no two of which, and no sums of rows or columns of which, are as large."""
    size = np.asarray(rng.permutation(int(np.prod(shape))).reshape(shape) + 1.0)
    return size**1.3 * np.exp(1j * rng.uniform(0, 6, size=shape))


NORMS = [
    *(case(np.linalg.norm, distinct(5), ord=ord) for ord in _VECTOR_ORDERS),
    *(case(np.linalg.norm, apart_complex(5), ord=ord) for ord in _VECTOR_ORDERS),
    *(case(np.linalg.norm, apart(3, 4), ord=ord) for ord in _MATRIX_ORDERS),
    *(case(np.linalg.norm, complex_apart(4, 3), ord=ord) for ord in _MATRIX_ORDERS),
    *(case(np.linalg.norm, distinct(3, 4), ord=ord, axis=0) for ord in _VECTOR_ORDERS),
    *(
        case(np.linalg.norm, apart_complex(2, 3, 4), ord=ord, axis=(-2,), keepdims=True)
        for ord in _VECTOR_ORDERS
    ),
    *(
        case(np.linalg.norm, real(3, 4, 2), ord=ord, axis=axes, keepdims=keepdims)
        for ord in _MATRIX_ORDERS
        for axes, keepdims in [((0, 1), False), ((2, 0), True), ((-1, -2), False)]
    ),
    case(np.linalg.norm, real(2, 3, 4)),
    case(np.linalg.norm, complex_(2, 3), keepdims=True),
    case(np.linalg.norm, real(3, 4), 1, keepdims=True),
    case(np.linalg.norm, distinct(5), 0, _after=lambda r: r + 0.0),
    *(
        case(np.linalg.vector_norm, distinct(2, 3, 4), ord=ord, **options)
        for ord in _VECTOR_ORDERS[1:]
        for options in ({}, {"axis": 1}, {"axis": (0, 2), "keepdims": True})
    ),
    case(np.linalg.vector_norm, complex_(2, 3)),
    *(case(np.linalg.matrix_norm, apart(2, 3, 4), ord=ord) for ord in _MATRIX_ORDERS),
    *(
        case(np.linalg.matrix_norm, complex_apart(3, 3), ord=ord, keepdims=True)
        for ord in _MATRIX_ORDERS
    ),
    *(
        case(np.linalg.cond, a, p, _tolerance=1e-5)
        for a in (apart(3, 3), complex_apart(2, 3, 3))
        for p in _MATRIX_ORDERS
    ),
    *(case(np.linalg.cond, apart(2, 4, 3), p) for p in (None, 2, -2)),
]

PRODUCTS = [
    *(
        case(np.linalg.multi_dot, arrays)
        for arrays in (
            [real(2, 3), real(3, 4)], [real(2, 3), real(3, 4), real(4, 2)],
            [real(3), real(3, 4), real(4)], [real(3), real(3)], [real(2, 3), real(3)],
            [real(3), real(3, 4), real(4, 2), real(2, 5)], [complex_(2, 3), complex_(3, 4), real(4)],
            (real(2, 3), np.ones((3, 2)), real(2, 3)),
        )
    ),
    *(
        case(np.linalg.matmul, real(*a), real(*b))
        for a, b in [((4,), (4,)), ((3, 4), (4,)), ((4,), (4, 2)), ((3, 4), (5, 4, 2)), ((5, 3, 4), (4, 2))]
    ),
    case(np.linalg.matmul, complex_(2, 3), complex_(3, 2)),
    case(np.linalg.tensordot, real(2, 3, 4), real(3, 4, 5)),
    case(np.linalg.tensordot, real(2, 3, 4), complex_(4, 5, 2), axes=((2, 0), (0, 2))),
    case(np.linalg.tensordot, real(2, 3), real(4), axes=0),
    case(np.linalg.outer, real(3), real(4)),
    case(np.linalg.outer, complex_(3), complex_(2)),
    *(
        case(np.linalg.cross, sample(*a), sample(*b), axis=axis)
        for sample in (real, complex_)
        for a, b, axis in [((3,), (3,), -1), ((2, 3), (3,), -1), ((2, 1, 3), (4, 3), -1), ((3, 2), (3, 2), 0),
                           ((3, 4, 2), (3, 2), 0), ((4, 3, 2), (4, 3, 1), 1), ((3,), (3, 5), 0)]
    ),
    *(
        case(np.linalg.vecdot, sample(*a), sample(*b), axis=axis)
        for sample in (real, complex_)
        for a, b, axis in [((4,), (4,), -1), ((2, 4), (4,), -1), ((2, 1, 4), (3, 4), -1), ((4, 2), (4, 2), 0),
                           ((2, 4, 3), (2, 4, 1), 1), ((4, 3, 2), (4, 2), 0), ((4,), (4, 2), 0)]
    ),
    *(
        case(f, sample(2, 3, 4), offset=offset)
        for f in (np.linalg.trace, np.linalg.diagonal)
        for sample in (real, complex_)
        for offset in (0, 1, -2)
    ),
    case(np.linalg.matrix_transpose, real(2, 3, 4)),
]  # fmt: skip

CASES = [*INVERSES, *DETERMINANTS, *FACTORS, *SPECTRA, *NORMS, *PRODUCTS]
