"""Derivatives of linear algebra, of one matrix or of a stack of them.

A gradient is G with du = Re Σ G∘dX. The literature mostly writes X̄ = conj(G) for it; the longer
derivations below do so too, in variables whose names end in `_bar`, and conjugate on the way in and
out. What begins with `in_` is not conjugated. The formulas are those of M. Giles, "Collected matrix
derivative results for forward and reverse mode algorithmic differentiation" (2008), unless a comment
names another source.

Some conventions:

 - Functions that read one triangle of a Hermitian matrix (`cholesky`, `eigh`, `eigvalsh`, and `svd` and
   `pinv` with `hermitian=True`) are differentiated as functions of a Hermitian matrix, whichever
   triangle they read: the gradient is Hermitian too. It is the one to follow, and right under the chain
   rule wherever the matrix is Hermitian by construction.
 - A complex eigenvector or pair of singular vectors is determined up to a phase, which the derivatives
   of `eigh` and `svd` take to stand still. What depends on the phase has no derivative, and asking for
   it is an error. `eig` fixes the phase (the largest entry of a vector is real), and so it is followed.
 - Vectors of equal eigenvalues or singular values are not determined one by one. A result that uses
   the values alone, or vectors of other values, has the right derivative. Where one of such vectors
   would have to turn into another the gradient is NaN: zero would be wrong for functions of a matrix
   such as V·h(Λ)·Vᴴ, whose derivative is h′ there and is not to be had from the vectors' cotangents.
   (It goes unnoticed where these cancel to nothing, as those of V·h(Λ)·V⁻¹ do at a multiple of the
   identity, and where h is 0.) The second derivatives of equal values alone are NaN too.
 - A norm's derivative is 0 where the norm is, and entries that share a maximum or minimum share its
   cotangent equally.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from thriftgrad.autodiff.adjoint import Array, unbroadcast
from thriftgrad.autodiff.recording import whole
from thriftgrad.autodiff.registry import constant, defvjp, refuse
from thriftgrad.autodiff.rules.contraction import _left, _matmul_left, _matmul_right, _pairs, _right
from thriftgrad.autodiff.rules.indexing import scatter
from thriftgrad.autodiff.tensor import primitive
from thriftgrad.errors import DifferentiationError, NoRuleError

# Inverses and linear systems

defvjp(np.linalg.inv, a=lambda g, ans: -_t(ans) @ g @ _t(ans))
defvjp(np.linalg.solve, joint=(("a", "b"), lambda g, ans, a: _solve(g, ans, a)))
defvjp(np.linalg.tensorinv, a=lambda g, ans, a_shape, ind: _tensorinv(g, ans, a_shape, ind))
defvjp(
    np.linalg.tensorsolve,
    joint=(("a", "b"), lambda g, ans, a, axes: _tensorsolve(g, ans, a, axes)),
)
defvjp(
    np.linalg.pinv,
    constants=("rcond", "rtol"),
    a=lambda g, ans, a, rcond, rtol, hermitian: _pinv(
        g, ans, a, rtol if rcond is None else rcond, hermitian
    ),
)
defvjp(
    np.linalg.lstsq,
    constants=("rcond",),
    joint=(("a", "b"), lambda g, ans, a, b, rcond: _lstsq(g, ans, a, b, rcond)),
)
defvjp(np.linalg.matrix_power, a=lambda g, a, n: _matrix_power(g, a, n))

# Determinants

defvjp(np.linalg.det, a=lambda g, ans, a: _each(g) * _cofactors(a, ans))
defvjp(np.linalg.slogdet, a=lambda g, ans, a: _each(_of_log(g, ans)) * _t(np.linalg.inv(a)))

# Factorisations

defvjp(np.linalg.cholesky, a=lambda g, ans, upper: _cholesky(g, ans, upper))
defvjp(np.linalg.qr, a=lambda g, ans, a, mode: _qr(g, ans, a, mode))
defvjp(np.linalg.eigh, a=lambda g, ans, UPLO: _eigh(g[0], g[1], *ans))
defvjp(np.linalg.eigvalsh, a=lambda g, a, UPLO: _eigh(g, None, *np.linalg.eigh(a, UPLO)))
defvjp(np.linalg.eig, a=lambda g, ans: _eig(g[0], g[1], *ans))
defvjp(np.linalg.eigvals, a=lambda g, ans, a: _eigvals(g, ans, *np.linalg.eig(a)))
defvjp(
    np.linalg.svd,
    a=lambda g, ans, a, full_matrices, compute_uv, hermitian: _svd(g, ans, a, hermitian),
)
defvjp(np.linalg.svdvals, x=lambda g, x: _of_values(g, *_thin(x)))
constant(np.linalg.matrix_rank)

# Norms

defvjp(
    np.linalg.norm,
    x=lambda g, ans, x, ord, axis, keepdims: _norm(g, ans, x, ord, axis, keepdims),
)
defvjp(
    np.linalg.vector_norm,
    x=lambda g, ans, x, ord, axis, keepdims: _vector_norm(
        _kept(g, axis, keepdims), _kept(ans, axis, keepdims), x, ord, axis
    ),
)
defvjp(
    np.linalg.matrix_norm,
    x=lambda g, ans, x, ord, keepdims: _norm(g, ans, x, ord, (-2, -1), keepdims),
)
defvjp(np.linalg.cond, x=lambda g, ans, x, p: _cond(g, ans, x, p))

# Products and parts: those of the array API, which take the last axes where np's take the first or all

defvjp(
    np.linalg.multi_dot,
    arrays=lambda g, arrays, position: _multi_dot(g, arrays, position),
)
defvjp(
    np.linalg.matmul,
    x1=lambda g, x1_shape, x2: _matmul_left(g, x1_shape, x2),
    x2=lambda g, x1, x2_shape: _matmul_right(g, x1, x2_shape),
)
defvjp(
    np.linalg.tensordot,
    x1=lambda g, x1_shape, x2, axes: _left(g, x1_shape, x2, _pairs(axes, x1_shape, np.shape(x2))),
    x2=lambda g, x1, x2_shape, axes: _right(g, x1, x2_shape, _pairs(axes, np.shape(x1), x2_shape)),
)
defvjp(np.linalg.outer, x1=lambda g, x2: g @ x2, x2=lambda g, x1: x1 @ g)
defvjp(
    np.linalg.cross,
    x1=lambda g, x1_shape, x2, axis: _cross(g, x1_shape, x2, axis),
    x2=lambda g, x1, x2_shape, axis: _cross(-g, x2_shape, x1, axis),
)
defvjp(
    np.linalg.vecdot,
    x1=lambda g, x1_shape, x2, axis: _conj(_vecdot(g, x1_shape, x2, axis)),
    x2=lambda g, x1, x2_shape, axis: _vecdot(g, x2_shape, np.conjugate(x1), axis),
)
defvjp(
    np.linalg.trace,
    x=lambda g, x_shape, offset: _each(g) * np.eye(x_shape[-2], x_shape[-1], offset, dtype=g.dtype),
)
defvjp(
    np.linalg.diagonal,
    x=lambda g, x_shape, offset: scatter(g, _diagonal(g.shape[-1], offset), x_shape),
)
defvjp(np.linalg.matrix_transpose, x=lambda g: _t(g))

Shape = tuple[int, ...]


def _t(x: Array) -> Array:
    return np.swapaxes(x, -1, -2)


def _h(x: Array) -> Array:
    return _conj(_t(x))


def _conj(x: Array) -> Array:
    """Return the conjugate; of a real array, itself, where NumPy would copy."""
    return np.conjugate(x) if np.iscomplexobj(x) else x


def _hermitian(x: Array) -> Array:
    return (x + _h(x)) * 0.5


def _each(x: Array) -> Array:
    """Give a number for each matrix the axes to be multiplied with it."""
    return np.expand_dims(x, (-2, -1))


def _columns(x: Array, factors: Array) -> Array:
    return x * np.expand_dims(factors, -2)


def _eps(x: Array) -> float:
    return float(np.finfo(x.dtype).eps)


# Inverses and linear systems


def _solve(g: Array, ans: Array, a: Array) -> tuple[Array, Array]:
    if np.ndim(ans) < np.ndim(a):  # b is one vector for all matrices
        in_a, in_b = _solve(np.expand_dims(g, -1), np.expand_dims(ans, -1), a)
        return in_a, np.squeeze(in_b, -1)
    in_b = np.linalg.solve(_t(a), g)
    return -in_b @ _t(ans), in_b


def _tensorinv(g: Array, ans: Array, shape: Shape, ind: int) -> Array:
    rows = prod(shape[:ind])
    inverse = np.reshape(ans, (-1, rows))
    return np.reshape(-_t(inverse) @ np.reshape(g, (-1, rows)) @ _t(inverse), shape)


def _tensorsolve(g: Array, ans: Array, a: Array, axes: Sequence[int] | None) -> tuple[Array, Array]:
    moved = [] if axes is None else list(axes)
    order = [*(i for i in range(np.ndim(a)) if i not in moved), *moved]
    there = np.transpose(a, order)
    flat_g, flat_ans = np.reshape(g, -1), np.reshape(ans, -1)
    in_a, in_b = _solve(flat_g, flat_ans, np.reshape(there, (-1, *flat_g.shape)))
    back = [order.index(i) for i in range(len(order))]
    return (
        np.transpose(np.reshape(in_a, there.shape), back),
        np.reshape(in_b, there.shape[: there.ndim - g.ndim]),
    )


def _pinv(g: Array, y: Array, a: Array, cut: Any, hermitian: bool) -> Array:
    """Differentiate the pseudo-inverse y where the rank stands still.

    G. Golub & V. Pereyra, "The differentiation of pseudo-inverses and nonlinear least squares problems
    whose variables separate" (1973).
    """
    size = max(a.shape[-2:])
    if cut is not None and np.any(cut > 10 * size * _eps(a)):
        values = np.linalg.svdvals(a)
        _refuse_cut("np.linalg.pinv", values, values <= np.expand_dims(cut, -1) * values[..., :1])
    y_bar, y_h = _conj(g), _h(y)
    twice = y_h @ y  # (aᴴ)⁺ a⁺
    into_rest = _h(y_bar) - _h(y_bar) @ y @ a
    from_rest = _h(y_bar) - a @ (y @ _h(y_bar))
    a_bar = twice @ into_rest + from_rest @ y @ y_h - y_h @ y_bar @ y_h
    return _conj(_hermitian(a_bar) if hermitian else a_bar)


def _lstsq(g: Sequence[Array], ans: Any, a: Array, b: Array, rcond: Any) -> tuple[Array, Array]:
    """Differentiate x = a⁺b as the product that it is, the squares |b − ax|² and the singular values."""
    in_x, in_squares, _, in_values = g
    x, squares, rank, values = ans
    shape = np.shape(b)
    if x.ndim == 1:
        x, in_x = np.expand_dims(x, -1), np.expand_dims(in_x, -1)
    b = np.reshape(b, (shape[0], prod(shape[1:])))
    _refuse_cut("np.linalg.lstsq", values, np.arange(values.size) >= rank)
    eps = _eps(x)
    cut = max(np.shape(a)) * eps if rcond is None else eps if rcond < 0 else rcond
    y = np.linalg.pinv(a, rcond=cut)
    x_bar = _conj(in_x)
    rest = b - a @ x
    b_bar = _h(y) @ x_bar
    a_bar = rest @ _h(y @ b_bar) + _h(y) @ x @ (_h(x_bar) - _h(b_bar) @ a) - b_bar @ _h(x)
    if squares.size:
        push = rest * (2 * in_squares)
        a_bar, b_bar = a_bar - push @ _h(x), b_bar + push
    in_a = _conj(a_bar)
    if np.any(in_values != 0):
        in_a = in_a + _of_values(in_values, *_thin(a))
    return in_a, np.reshape(_conj(b_bar), shape)


def _refuse_cut(name: str, values: Array, dropped: Any) -> None:
    """Refuse a cut-off that drops more than rounding errors.

    The vectors that are dropped then turn into those that are kept, which a formula without singular
    vectors cannot tell.
    """
    if np.any(dropped & (values > np.squeeze(_noise(values, 10 * values.shape[-1]), -1))):
        raise NoRuleError(
            f"{name} was called with a cut-off that drops singular values which are not zero; to "
            f"differentiate such a call write it by the factors: u, s, vh = np.linalg.svd(a, "
            f"full_matrices=False), and of these the ones to be kept"
        )


def _matrix_power(g: Array, a: Array, n: int) -> Array:
    """Read the derivative off a power of a block matrix, which takes log₂ n products, not n.

    R. Mathias, "A chain rule for matrix functions and applications" (1996): f of [[A, E], [0, A]] has
    the derivative of f along E in its corner.
    """
    size, a_t = a.shape[-1], _t(a)
    upper = np.concatenate([a_t, g], axis=-1)
    lower = np.concatenate([np.zeros_like(g), a_t], axis=-1)
    return np.linalg.matrix_power(np.concatenate([upper, lower], axis=-2), n)[..., :size, size:]


# Determinants


def _cofactors(a: Array, det: Array) -> Array:
    """Return the cofactors, which are det·A⁻ᵀ where A has an inverse.

    That also holds to rounding errors where A is nearly singular, as both factors come from the same
    pivots: G. Stewart, "On the adjugate matrix" (1998). A pivot that is exactly 0 needs another way.
    """
    return _cofactors_by_case(a, det)


@whole
def _cofactors_by_case(a: Array, det: Array) -> Array:
    singular = det == 0
    if not np.any(singular):
        return _each(det) * _t(np.linalg.inv(a))
    singular = _each(singular)
    regular = np.where(singular, np.eye(a.shape[-1], dtype=a.dtype), a)
    return np.where(singular, singular_cofactors(a), _each(det) * _t(np.linalg.inv(regular)))


@primitive
def singular_cofactors(a: Array) -> Array:
    """Return the cofactors of any matrix, from its singular values: no division, no pivots."""
    u, s, vh = np.linalg.svd(a)
    own = np.eye(s.shape[-1], dtype=bool)
    others = np.prod(np.where(own, 1, np.expand_dims(s, -2)), axis=-1)
    orientation = np.linalg.det(u) * np.linalg.det(vh)
    return _each(orientation) * (_columns(_conj(u), others) @ _conj(vh))


refuse(
    "the determinant of an exactly singular matrix has a first derivative here, no second one; "
    "move the matrix a little",
    singular_cofactors,
)


def _of_log(g: Sequence[Array], ans: Any) -> Array:
    """Return the cotangent of log(det) from those of its phase and its modulus' logarithm."""
    sign, _ = ans
    if not np.iscomplexobj(sign):
        return g[1]
    turned = g[0] * sign
    return g[1] + (turned - np.conjugate(turned)) * 0.5  # of which the imaginary part is left


# Factorisations


def _cholesky(g: Array, ans: Array, upper: bool) -> Array:
    """I. Murray, "Differentiation of the Cholesky decomposition" (2016)."""
    factor, in_factor = (_h(ans), _h(g)) if upper else (ans, g)
    inverse = np.linalg.inv(factor)
    return _hermitian(_t(inverse) @ _t(_upper_half(_t(in_factor) @ factor)) @ _conj(inverse))


def _upper_half(x: Array) -> Array:
    """Return the upper triangle of a square matrix with half the diagonal."""
    size = x.shape[-1]
    return x * (np.tri(size, dtype=x.dtype).T - 0.5 * np.eye(size, dtype=x.dtype))


def _qr(g: Any, ans: Any, a: Array, mode: str) -> Array:
    """S. Walter, L. Lehmann & R. Lamour, "On evaluating higher-order derivatives of the QR decomposition
    of tall matrices with full column rank in forward and reverse mode algorithmic differentiation"
    (2012); for wide matrices, the first columns make Q, and the others are Q times the rest of R.
    """  # fmt: skip
    rows, columns = a.shape[-2:]
    if mode == "r":
        q, r = np.linalg.qr(a)
        q_bar, r_bar = np.zeros_like(q), _conj(g)
    elif mode == "reduced" or (mode == "complete" and rows <= columns):
        q, r = ans
        q_bar, r_bar = _conj(g[0]), _conj(g[1])
    else:
        raise NoRuleError(
            f"np.linalg.qr was called with mode={mode!r} on matrices of {rows} rows and {columns} "
            f"columns, which thriftgrad cannot differentiate: "
            + (
                "the columns of Q beyond those of the matrix are arbitrary; use mode='reduced'"
                if mode == "complete"
                else "use mode='reduced' or 'r'"
            )
        )
    size = q.shape[-1]
    rest = r_bar[..., size:]
    q_bar = q_bar + a[..., size:] @ _h(rest)
    r, r_bar = r[..., :size], r_bar[..., :size]
    upper = _upper_half(r_bar @ _h(r) - _h(q) @ q_bar)
    first = _h(np.linalg.solve(r, _h(q_bar + q @ (upper + _h(upper)))))
    return _conj(np.concatenate([first, q @ rest], axis=-1))


def _eigh(in_w: Array, in_v: Array | None, w: Array, v: Array) -> Array:
    """Differentiate the eigenvalues w of a Hermitian matrix, and its vectors v where they are used."""
    if in_v is None:
        return _conj(_hermitian(_columns(v, in_w) @ _h(v)))
    v_bar = _conj(in_v)
    turn = _h(v) @ v_bar  # at i, j: what it is worth to turn the j-th vector to the i-th
    _refuse_phase("np.linalg.eigh", np.linalg.diagonal(turn), v_bar)
    counts = _counts(turn, turn)
    inner = _over(turn, _gaps(w), _noise(w, w.shape[-1]), counts | _t(counts))
    inner = np.where(_own(w), np.expand_dims(in_w, -2), inner)
    return _conj(_hermitian(v @ inner @ _h(v)))


def _eig(in_w: Array, in_v: Array, w: Array, v: Array) -> Array:
    """Differentiate the eigenvalues w of any matrix, and its vectors v.

    C. Boeddeker et al., "On the computation of complex-valued gradients with application to
    statistically optimum beamforming" (2017), where the vectors keep their length; here they keep
    their phase too. LAPACK gives a vector the length 1 and makes its largest entry real.
    """
    v_bar = _conj(in_v)
    along = np.sum(_conj(v) * v_bar, axis=-2, keepdims=True)
    turn = _h(v) @ (v_bar - v * np.real(along) - _at_real_entry(v, along))
    # Unlike those of `eigh` the vectors may come back by an inverse, and what they are worth to each
    # other then cancels. So every pair is undetermined of which one is used at all.
    used = _counts(np.sum(np.abs(v_bar), axis=-2, keepdims=True), v_bar)
    inner = _over(turn, _conj(_gaps(w)), _noise(w, w.shape[-1]), used | _t(used))
    inner = np.where(_own(w), np.expand_dims(_conj(in_w), -2), inner)
    return _conj(np.linalg.solve(_h(v), inner @ _h(v)))


def _at_real_entry(v: Array, along: Array) -> Array | float:
    """Return what the phase's standing still takes from the cotangent of each eigenvector."""
    if not np.iscomplexobj(v):
        return 0.0
    real = np.where(np.imag(v) == 0, np.abs(v), -1)
    chosen = np.arange(v.shape[-2])[:, None] == np.expand_dims(np.argmax(real, axis=-2), -2)
    entry = np.sum(np.where(chosen, np.real(v), 0), axis=-2, keepdims=True)
    return np.where(chosen, 1j * np.imag(along) / entry, 0)


def _eigvals(g: Array, ans: Array, w: Array, v: Array) -> Array:
    """Differentiate eigenvalues, given those of `eig`, which LAPACK may give in another order."""
    apart = np.abs(np.expand_dims(w, -1) - np.expand_dims(ans, -2))
    nearest = np.min(apart, axis=-1, keepdims=True, initial=np.inf) == apart
    in_order = np.expand_dims(np.linalg.diagonal(nearest), -1)
    first = nearest & (np.cumsum(nearest, axis=-1) == 1)
    pick = np.where(in_order, _own(w), first).astype(g.dtype)
    in_w = np.squeeze(pick @ np.expand_dims(g, -1), -1)
    return _conj(np.linalg.solve(_h(v), np.expand_dims(_conj(in_w), -1) * _h(v)))


def _svd(g: Any, ans: Any, a: Array, hermitian: bool) -> Array:
    values_only = not isinstance(ans, tuple)
    if values_only:
        u, s, vh = np.linalg.svd(a, full_matrices=False, hermitian=hermitian)
    else:
        u, s, vh = ans
    if hermitian:  # v = ±u, with the sign of the eigenvalue
        sign = np.sign(np.real(np.sum(u * _t(vh), axis=-2)))
        if values_only:
            return _eigh(g * sign, None, s * sign, u)
        return _eigh(g[1] * sign, g[0] + _columns(_h(g[2]), sign), s * sign, u)
    if values_only:
        return _of_values(g, u, s, vh)
    in_u, in_s, in_vh = g
    size = s.shape[-1]
    if np.any(in_u[..., size:] != 0) or np.any(in_vh[..., size:, :] != 0):
        raise NoRuleError(
            f"np.linalg.svd was called with full_matrices=True on matrices of {a.shape[-2]} rows and "
            f"{a.shape[-1]} columns, and the gradient flows through singular vectors that belong to no "
            f"singular value and are arbitrary; use full_matrices=False"
        )
    return _thin_svd(
        in_u[..., :size], in_s, in_vh[..., :size, :], u[..., :size], s, vh[..., :size, :]
    )


def _thin_svd(in_u: Array, in_s: Array, in_vh: Array, u: Array, s: Array, vh: Array) -> Array:
    """Differentiate as many singular vectors as there are singular values.

    J. Townsend, "Differentiating the singular value decomposition" (2016); for complex vectors Z. Wan
    & S. Zhang, "Automatic differentiation for complex valued SVD" (2019).
    """
    v = _h(vh)
    u_bar, v_bar = _conj(in_u), _t(in_vh)
    turn_u, turn_v = _h(u) @ u_bar, _h(v) @ v_bar
    phases = np.linalg.diagonal(turn_u) + np.linalg.diagonal(turn_v)
    _refuse_phase("np.linalg.svd", phases, u_bar, v_bar)

    noise = _noise(s, max(u.shape[-2], v.shape[-2]))
    of_row, of_column = np.expand_dims(s, -1), np.expand_dims(s, -2)
    turn = np.abs(turn_u) + np.abs(turn_v)
    counts = _counts(turn, turn)
    both = (turn_u - _h(turn_u)) * of_column + of_row * (turn_v - _h(turn_v))
    both = both / np.where(of_row + of_column == 0, 1, of_row + of_column)
    inner = _over(both, _gaps(s), noise, counts | _t(counts))
    own = np.where(of_column > noise, np.expand_dims(in_s, -2), 0)
    if np.iscomplexobj(u):
        phase = np.expand_dims(np.imag(np.linalg.diagonal(turn_u)), -2)
        own = own + 1j * _over(phase, of_column, noise, _counts(phase, turn))
    a_bar = u @ np.where(_own(s), own, inner) @ vh
    if u.shape[-2] > s.shape[-1]:
        beyond = u_bar - u @ turn_u
        a_bar = a_bar + _over(beyond, of_column, noise, _counts(beyond, u_bar)) @ vh
    if v.shape[-2] > s.shape[-1]:
        beyond = v_bar - v @ turn_v
        a_bar = a_bar + u @ _h(_over(beyond, of_column, noise, _counts(beyond, v_bar)))
    return _conj(a_bar)


def _thin(a: Array) -> Any:
    return np.linalg.svd(a, full_matrices=False)


def _of_values(g: Array, u: Array, s: Array, vh: Array) -> Array:
    """Differentiate singular values alone. At 0, where they bend like |x|, the derivative is 0."""
    noise = np.squeeze(_noise(s, max(u.shape[-2], vh.shape[-1])), -1)
    return _conj(_columns(u, np.where(s > noise, g, 0)) @ vh)


def _own(values: Array) -> Any:
    """Return where a matrix with these eigenvalues or singular values has them, its diagonal."""
    return np.eye(values.shape[-1], dtype=bool)


def _gaps(values: Array) -> Array:
    return np.expand_dims(values, -2) - np.expand_dims(values, -1)


def _noise(values: Array, size: int) -> Array:
    """Return, for each matrix, what rounding errors may make of a 0 among its values."""
    return np.max(np.abs(_each(values)), axis=-3, initial=0) * (size * _eps(values))


def _counts(x: Array, among: Array) -> Any:
    """Tell what is more than a rounding error beside the largest entry of `among`."""
    largest = np.max(np.abs(among), axis=(-2, -1), keepdims=True, initial=0)
    return np.abs(x) > largest * _eps(x) ** 0.5


def _over(x: Array, gaps: Array, noise: Array, counts: Any) -> Array:
    """Divide x by gaps; where there is no gap return 0, or NaN if the quotient counts."""
    closed = np.abs(gaps) <= noise
    quotient = x / np.where(closed, 1, gaps)
    return np.where(closed & counts, np.nan, np.where(closed, 0, quotient))


def _refuse_phase(name: str, turn: Array, *bars: Array) -> None:
    """Refuse what depends on the phases of complex vectors: `turn` says what turning them is worth."""
    if np.iscomplexobj(turn):
        lengths = sum(np.sqrt(np.sum(np.abs(x) ** 2, axis=-2)) for x in bars)
        if np.any(np.abs(np.imag(turn)) > lengths * _eps(turn) ** 0.25):
            raise DifferentiationError(
                f"the gradient of a function of {name}'s complex vectors was asked for that depends on "
                f"their phase, which is arbitrary; use what does not depend on it (np.abs(v), "
                f"v @ v.conj().T), or divide each vector by the phase of one of its entries"
            )


# Norms


def _norm(g: Array, ans: Array, x: Array, ord: Any, axis: Any, keepdims: bool) -> Array:
    axes = (
        range(np.ndim(x)) if axis is None else axis if isinstance(axis, tuple | list) else (axis,)
    )
    axes = tuple(axes)
    g, ans = _kept(g, axes, keepdims), _kept(ans, axes, keepdims)
    if len(axes) == 1 or (axis is None and ord is None):
        return _vector_norm(g, ans, x, 2 if ord is None else ord, axes)
    return _matrix_norm(g, ans, x, ord, axes)


def _kept(x: Array, axis: Any, keepdims: bool) -> Array:
    return x if keepdims or axis is None else np.expand_dims(x, axis)


def _vector_norm(g: Array, ans: Array, x: Array, ord: Any, axis: Any) -> Array:
    """Differentiate (Σ|x|ᵖ)^(1/p) and its limits."""
    size = np.where(ans == 0, 1, ans)
    if ord == 2:
        return g * (_conj(x) / size)
    if ord == 0:  # a count
        return np.zeros_like(x)
    if ord == 1:
        return g * _direction(x)
    if abs(ord) == np.inf:
        return g * (_extreme(np.abs(x), axis, ord) * _direction(x))
    zero = (x == 0) | (ans == 0)
    ratio = np.where(zero, 1, np.abs(x) / size)
    return g * (np.where(zero, 0, ratio ** (float(ord) - 1)) * _direction(x))


def _matrix_norm(g: Array, ans: Array, x: Array, ord: Any, axes: tuple[int, int]) -> Array:
    if ord is None or ord in ("fro", "f"):
        return _vector_norm(g, ans, x, 2, axes)
    if ord == "nuc" or abs(ord) == 2:
        u, s, vh = _thin(np.moveaxis(x, axes, (-2, -1)))
        g = np.squeeze(np.moveaxis(g, axes, (-2, -1)), -1)
        share = np.ones_like(s) if ord == "nuc" else _extreme(s, -1, ord)
        return np.moveaxis(_of_values(g * share, u, s, vh), (-2, -1), axes)
    summed, compared = axes if abs(ord) == 1 else axes[::-1]
    sums = np.sum(np.abs(x), axis=summed, keepdims=True)
    return g * (_extreme(sums, compared, ord) * _direction(x))


def _extreme(values: Array, axis: Any, ord: float) -> Array:
    """Return 1 at the largest value, or the smallest where `ord` is negative; ties share it."""
    choose = np.max if ord > 0 else np.min
    chosen = values == choose(values, axis=axis, keepdims=True)
    ties = np.sum(chosen, axis=axis, keepdims=True, dtype=values.dtype)
    return np.where(chosen, 1 / ties, 0)


def _direction(x: Array) -> Array:
    """Return conj(x)/|x|, and 0 at 0."""
    if not np.iscomplexobj(x):
        return np.sign(x)
    return np.conjugate(x) / np.where(x == 0, 1, np.abs(x))


def _cond(g: Array, ans: Array, x: Array, p: Any) -> Array:
    """Differentiate ‖x‖·‖x⁻¹‖, which for the spectral norm is a quotient of singular values."""
    if p is None or p in (2, -2):
        u, s, vh = _thin(x)
        above, below = (0, -1) if p is None or p == 2 else (-1, 0)
        place = np.arange(s.shape[-1])
        by = np.expand_dims(g / s[..., below], -1)
        share = np.where(place == above % s.shape[-1], by, 0)
        share = share - np.where(place == below % s.shape[-1], by * np.expand_dims(ans, -1), 0)
        return _of_values(share, u, s, vh)
    g = np.real(g)  # early versions of NumPy 2 give this number a complex dtype
    inverse = np.linalg.inv(x)
    axes = (-2, -1)
    of_x, of_inverse = (np.linalg.norm(each, p, axis=axes, keepdims=True) for each in (x, inverse))
    in_x = _matrix_norm(_each(g) * of_inverse, of_x, x, p, axes)
    in_inverse = _matrix_norm(_each(g) * of_x, of_inverse, inverse, p, axes)
    return in_x - _t(inverse) @ in_inverse @ _t(inverse)


# Products and parts


def _multi_dot(g: Array, arrays: Sequence[Array], position: int) -> Array:
    """Multiply g by what stood before and behind the array, as a product in the best order again."""
    shape = np.shape(arrays[position])
    last = len(arrays) - 1
    matrices = [
        np.reshape(x, (1, -1) if i == 0 else (-1, 1)) if i in (0, last) and np.ndim(x) == 1 else x
        for i, x in enumerate(arrays)
    ]
    g = np.reshape(g, (np.shape(matrices[0])[0], np.shape(matrices[last])[1]))
    before = [_t(x) for x in reversed(matrices[:position])]
    behind = [_t(x) for x in reversed(matrices[position + 1 :])]
    return np.reshape(np.linalg.multi_dot([*before, g, *behind]), shape)


def _cross(g: Array, shape: Shape, other: Array, axis: int) -> Array:
    """a·(b × c) does not change when a, b and c trade places in a circle."""
    return _from_last(
        np.linalg.cross(np.moveaxis(other, axis, -1), np.moveaxis(g, axis, -1)), shape, axis
    )


def _vecdot(g: Array, shape: Shape, other: Array, axis: int) -> Array:
    return _from_last(np.expand_dims(g, -1) * np.moveaxis(other, axis, -1), shape, axis)


def _from_last(x: Array, shape: Shape, axis: int) -> Array:
    """Undo the broadcasting of an argument whose axis came last, and move it back."""
    there = list(shape)
    there.append(there.pop(axis))
    return np.moveaxis(unbroadcast(x, tuple(there)), -1, axis)


def _diagonal(length: int, offset: int) -> Any:
    along = np.arange(length)
    return (Ellipsis, along + max(-offset, 0), along + max(offset, 0))
