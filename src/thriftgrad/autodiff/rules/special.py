"""Derivatives of the functions of scipy.special that are ufuncs, which reach a tensor by themselves.

The table is loaded when a program that has imported scipy.special first needs it; thriftgrad does not
depend on SciPy. A derivative of every order exists where the rule is made of functions that have
rules, as nearly all here are. Orders, degrees and shape parameters whose derivative is no function
that SciPy has (ν of a Bessel function, a of the incomplete gamma function) are refused by name; pass
them as plain numbers.

SciPy has some functions that are no ufuncs but Python, of which `zeta`, `lambertw` and `softplus` work
on tensors because a ufunc is inside; `logsumexp`, `softmax`, `log_softmax`, `polygamma`, the spherical
Bessel functions and others turn their argument into a plain array and so end in a `DetachError`.

At points without a derivative: 0 where `xlogy`, `xlog1py`, `rel_entr` and `kl_div` are 0 for x = 0,
whatever y; 0 for the factor exp(−|x|) of a scaled Bessel function at 0.
"""

import math
from typing import Any

import numpy as np
from scipy import special as sp  # type: ignore[import-untyped]

from thriftgrad.autodiff.adjoint import Array
from thriftgrad.autodiff.registry import constant, defvjp

_ROOT_PI = math.sqrt(math.pi)
_ROOT_2PI = math.sqrt(2 * math.pi)
_DEGREE = math.pi / 180

# Logistic function

defvjp(sp.expit, x=lambda g, ans: g * (ans * (1 - ans)))
defvjp(sp.logit, x=lambda g, x: g / (x * (1 - x)))
defvjp(sp.log_expit, x=lambda g, x: g * sp.expit(-x))

# Error function and normal distribution

defvjp(sp.erf, x=lambda g, x: g * (2 / _ROOT_PI * np.exp(-x * x)))
defvjp(sp.erfc, x=lambda g, x: g * (-2 / _ROOT_PI * np.exp(-x * x)))
defvjp(sp.erfcx, x=lambda g, ans, x: g * (2 * x * ans - 2 / _ROOT_PI))
defvjp(sp.erfi, x=lambda g, x: g * (2 / _ROOT_PI * np.exp(x * x)))
defvjp(sp.dawsn, x=lambda g, ans, x: g * (1 - 2 * x * ans))
defvjp(sp.wofz, x=lambda g, ans, x: g * (2j / _ROOT_PI - 2 * x * ans))
defvjp(sp.erfinv, x=lambda g, ans: g * (_ROOT_PI / 2 * np.exp(ans * ans)))
defvjp(sp.erfcinv, x=lambda g, ans: g * (-_ROOT_PI / 2 * np.exp(ans * ans)))
defvjp(sp.ndtr, x=lambda g, x: g * _density(x))
defvjp(sp.log_ndtr, x=lambda g, x: g * _hazard(x))
defvjp(sp.ndtri, x=lambda g, ans: g * (_ROOT_2PI * np.exp(ans * ans / 2)))
defvjp(sp.ndtri_exp, x=lambda g, ans: g / _hazard(ans))
defvjp(
    sp.owens_t,
    "h, a",
    h=lambda g, h, a: g * (-0.5 * _density(h) * sp.erf(a * h / math.sqrt(2))),
    a=lambda g, h, a: g * (np.exp(-0.5 * h * h * (1 + a * a)) / (2 * math.pi * (1 + a * a))),
)

# Gamma function

defvjp(sp.gamma, x=lambda g, ans, x: g * (ans * sp.psi(x)))
defvjp(sp.gammaln, x=lambda g, x: g * sp.psi(x))
defvjp(sp.loggamma, x=lambda g, x: g * sp.psi(x))
defvjp(sp.rgamma, x=lambda g, ans, x: g * _rgamma_slope(ans, x))
defvjp(sp.psi, x=lambda g, x: g * sp.zeta(2, x))
_zeta = getattr(sp._ufuncs, "_zeta", None)  # which `zeta` calls
if _zeta is not None:
    defvjp(_zeta, "x, q", q=lambda g, x, q: g * (-x * sp.zeta(x + 1, q)))
defvjp(
    sp.beta,
    "a, b",
    a=lambda g, ans, a, b: g * (ans * (sp.psi(a) - sp.psi(a + b))),
    b=lambda g, ans, a, b: g * (ans * (sp.psi(b) - sp.psi(a + b))),
)
defvjp(
    sp.betaln,
    "a, b",
    a=lambda g, a, b: g * (sp.psi(a) - sp.psi(a + b)),
    b=lambda g, a, b: g * (sp.psi(b) - sp.psi(a + b)),
)
defvjp(sp.gammainc, "a, x", x=lambda g, a, x: g * _gamma_density(a, x))
defvjp(sp.gammaincc, "a, x", x=lambda g, a, x: -g * _gamma_density(a, x))
defvjp(sp.gammaincinv, "a, y", y=lambda g, ans, a: g / _gamma_density(a, ans))
defvjp(sp.gammainccinv, "a, y", y=lambda g, ans, a: -g / _gamma_density(a, ans))
defvjp(sp.betainc, "a, b, x", x=lambda g, a, b, x: g * _beta_density(a, b, x))
defvjp(sp.betaincinv, "a, b, y", y=lambda g, ans, a, b: g / _beta_density(a, b, ans))
if hasattr(sp, "betaincc"):  # SciPy 1.11
    defvjp(sp.betaincc, "a, b, x", x=lambda g, a, b, x: -g * _beta_density(a, b, x))
    defvjp(sp.betainccinv, "a, b, y", y=lambda g, ans, a, b: -g / _beta_density(a, b, ans))

# Logarithms, entropy and losses

defvjp(
    sp.xlogy,
    x=lambda g, y: g * np.log(y),
    y=lambda g, x, y: g * _ratio(x, y),
)
defvjp(
    sp.xlog1py,
    x=lambda g, y: g * np.log1p(y),
    y=lambda g, x, y: g * _ratio(x, 1 + y),
)
defvjp(sp.entr, x=lambda g, x: g * (-np.log(x) - 1))
defvjp(
    sp.rel_entr,
    x=lambda g, x, y: g * (np.log(x) - np.log(y) + 1),
    y=lambda g, x, y: -g * _ratio(x, y),
)
defvjp(
    sp.kl_div,
    x=lambda g, x, y: g * (np.log(x) - np.log(y)),
    y=lambda g, x, y: g * (1 - _ratio(x, y)),
)
defvjp(
    sp.huber,
    "delta, r",
    delta=lambda g, delta, r: g * np.maximum(np.abs(r) - delta, 0),
    r=lambda g, delta, r: g * np.clip(r, -delta, delta),
)
defvjp(
    sp.pseudo_huber,
    "delta, r",
    delta=lambda g, ans, delta, r: (
        g * (2 * ans / delta - r * _pseudo_huber_slope(delta, r) / delta)
    ),
    r=lambda g, delta, r: g * _pseudo_huber_slope(delta, r),
)
defvjp(
    sp.boxcox,
    "x, lmbda",
    x=lambda g, x, lmbda: g * np.power(x, lmbda - 1),
    lmbda=lambda g, x, lmbda: g * _boxcox_slope(np.log(x), lmbda),
)
defvjp(
    sp.boxcox1p,
    "x, lmbda",
    x=lambda g, x, lmbda: g * np.power(1 + x, lmbda - 1),
    lmbda=lambda g, x, lmbda: g * _boxcox_slope(np.log1p(x), lmbda),
)
defvjp(
    sp.inv_boxcox,
    "y, lmbda",
    y=lambda g, ans, lmbda: g * np.power(ans, 1 - lmbda),
    lmbda=lambda g, ans, lmbda: -g * (np.power(ans, 1 - lmbda) * _boxcox_slope(np.log(ans), lmbda)),
)
defvjp(
    sp.inv_boxcox1p,
    "y, lmbda",
    y=lambda g, ans, lmbda: g * np.power(1 + ans, 1 - lmbda),
    lmbda=lambda g, ans, lmbda: (
        -g * (np.power(1 + ans, 1 - lmbda) * _boxcox_slope(np.log1p(ans), lmbda))
    ),
)
defvjp(sp.wrightomega, x=lambda g, ans: g * (ans / (1 + ans)))
_lambertw = getattr(sp._ufuncs, "_lambertw", None)  # which `lambertw` calls
if _lambertw is not None:
    defvjp(_lambertw, "z, k, tol", z=lambda g, ans, k, tol: g * (np.exp(-ans) / (1 + ans)))

# Powers and angles as SciPy has them

defvjp(sp.expm1, x=lambda g, ans: g * (ans + 1))
defvjp(sp.exprel, x=lambda g, x: g * (0.5 * sp.hyp1f1(2, 3, x)))
defvjp(sp.log1p, x=lambda g, x: g / (x + 1))
defvjp(sp.exp2, x=lambda g, ans: g * (ans * math.log(2)))
defvjp(sp.exp10, x=lambda g, ans: g * (ans * math.log(10)))
defvjp(sp.cbrt, x=lambda g, ans: g / (3 * ans * ans))
defvjp(
    sp.powm1,
    x=lambda g, x, y: g * (y * np.power(x, y - 1)),
    y=lambda g, ans, x: g * ((ans + 1) * np.log(x)),
)
defvjp(sp.cosm1, x=lambda g, x: -g * np.sin(x))
defvjp(sp.sindg, x=lambda g, x: g * (_DEGREE * sp.cosdg(x)))
defvjp(sp.cosdg, x=lambda g, x: -g * (_DEGREE * sp.sindg(x)))
defvjp(sp.tandg, x=lambda g, ans: g * (_DEGREE * (1 + ans * ans)))
defvjp(sp.cotdg, x=lambda g, ans: -g * (_DEGREE * (1 + ans * ans)))
defvjp(
    sp.radian,
    "d, m, s",
    d=lambda g: g * _DEGREE,
    m=lambda g: g * (_DEGREE / 60),
    s=lambda g: g * (_DEGREE / 3600),
)

# Integrals

defvjp(sp.exp1, x=lambda g, x: -g * (np.exp(-x) / x))
defvjp(sp.expi, x=lambda g, x: g * (np.exp(x) / x))
defvjp(sp.expn, "n, x", x=lambda g, n, x: g * _expn_slope(n, x))
defvjp(sp.spence, x=lambda g, x: -g * _log_over(x))
defvjp(sp.sici, x=lambda g, x: g[0] * _sine_over(np.sin, x) + _ratio(g[1] * np.cos(x), x))
defvjp(sp.shichi, x=lambda g, x: g[0] * _sine_over(np.sinh, x) + _ratio(g[1] * np.cosh(x), x))
defvjp(
    sp.fresnel,
    x=lambda g, x: g[0] * np.sin(math.pi / 2 * x * x) + g[1] * np.cos(math.pi / 2 * x * x),
)
defvjp(sp.ellipk, x=lambda g, x: g * (math.pi / 8 * sp.hyp2f1(1.5, 1.5, 2, x)))
defvjp(sp.ellipe, x=lambda g, x: g * (-math.pi / 8 * sp.hyp2f1(0.5, 1.5, 2, x)))
defvjp(sp.ellipkinc, "phi, m", phi=lambda g, phi, m: g / np.sqrt(1 - m * np.sin(phi) ** 2))
defvjp(sp.ellipeinc, "phi, m", phi=lambda g, phi, m: g * np.sqrt(1 - m * np.sin(phi) ** 2))
defvjp(
    sp.ellipj,
    "u, m",
    u=lambda g, ans, m: (
        ans[1] * ans[2] * g[0] - ans[0] * ans[2] * g[1] - m * ans[0] * ans[1] * g[2] + ans[2] * g[3]
    ),
)

# Bessel and Airy functions

defvjp(sp.j0, x=lambda g, x: -g * sp.j1(x))
defvjp(sp.j1, x=lambda g, x: g * (0.5 * (sp.j0(x) - sp.jv(2, x))))
defvjp(sp.y0, x=lambda g, x: -g * sp.y1(x))
defvjp(sp.y1, x=lambda g, x: g * (0.5 * (sp.y0(x) - sp.yv(2, x))))
defvjp(sp.i0, x=lambda g, x: g * sp.i1(x))
defvjp(sp.i1, x=lambda g, x: g * (0.5 * (sp.i0(x) + sp.iv(2, x))))
defvjp(sp.k0, x=lambda g, x: -g * sp.k1(x))
defvjp(sp.k1, x=lambda g, x: g * (-0.5 * (sp.k0(x) + sp.kv(2, x))))
defvjp(sp.i0e, x=lambda g, ans, x: g * (sp.i1e(x) - np.sign(x) * ans))
defvjp(sp.i1e, x=lambda g, ans, x: g * (0.5 * (sp.i0e(x) + sp.ive(2, x)) - np.sign(x) * ans))
defvjp(sp.k0e, x=lambda g, ans, x: g * (ans - sp.k1e(x)))
defvjp(sp.k1e, x=lambda g, ans, x: g * (ans - 0.5 * (sp.k0e(x) + sp.kve(2, x))))

defvjp(sp.jv, "v, z", z=lambda g, v, z: g * (0.5 * (sp.jv(v - 1, z) - sp.jv(v + 1, z))))
defvjp(sp.yv, "v, z", z=lambda g, v, z: g * (0.5 * (sp.yv(v - 1, z) - sp.yv(v + 1, z))))
defvjp(sp.iv, "v, z", z=lambda g, v, z: g * (0.5 * (sp.iv(v - 1, z) + sp.iv(v + 1, z))))
defvjp(sp.kv, "v, z", z=lambda g, v, z: g * (-0.5 * (sp.kv(v - 1, z) + sp.kv(v + 1, z))))
defvjp(
    sp.hankel1,
    "v, z",
    z=lambda g, v, z: g * (0.5 * (sp.hankel1(v - 1, z) - sp.hankel1(v + 1, z))),
)
defvjp(
    sp.hankel2,
    "v, z",
    z=lambda g, v, z: g * (0.5 * (sp.hankel2(v - 1, z) - sp.hankel2(v + 1, z))),
)
defvjp(
    sp.ive,  # iv · exp(−|Re z|)
    "v, z",
    z=lambda g, ans, v, z: (
        g * (0.5 * (sp.ive(v - 1, z) + sp.ive(v + 1, z))) - np.sign(np.real(z)) * np.real(g * ans)
    ),
)
defvjp(
    sp.kve,  # kv · exp(z)
    "v, z",
    z=lambda g, ans, v, z: g * (ans - 0.5 * (sp.kve(v - 1, z) + sp.kve(v + 1, z))),
)
defvjp(
    sp.airy,
    "z",
    z=lambda g, ans, z: g[0] * ans[1] + g[1] * (z * ans[0]) + g[2] * ans[3] + g[3] * (z * ans[2]),
)
defvjp(
    sp.struve,
    "v, x",
    x=lambda g, v, x: g * (0.5 * (sp.struve(v - 1, x) - sp.struve(v + 1, x) + _struve_term(v, x))),
)
defvjp(
    sp.modstruve,
    "v, x",
    x=lambda g, v, x: (
        g * (0.5 * (sp.modstruve(v - 1, x) + sp.modstruve(v + 1, x) + _struve_term(v, x)))
    ),
)

# Hypergeometric functions and orthogonal polynomials

defvjp(sp.hyp0f1, "v, z", z=lambda g, v, z: g * (sp.hyp0f1(v + 1, z) / v))
defvjp(
    sp.hyp1f1,
    "a, b, x",
    x=lambda g, a, b, x: g * (a / b * sp.hyp1f1(a + 1, b + 1, x)),
)
defvjp(sp.hyperu, "a, b, x", x=lambda g, a, b, x: g * (-a * sp.hyperu(a + 1, b + 1, x)))
defvjp(
    sp.hyp2f1,
    "a, b, c, z",
    z=lambda g, a, b, c, z: g * (a * b / c * sp.hyp2f1(a + 1, b + 1, c + 1, z)),
)
defvjp(
    sp.eval_legendre,
    "n, x",
    x=lambda g, n, x: g * _below(n, lambda k: sp.eval_gegenbauer(k, 1.5, x)),
)
defvjp(
    sp.eval_chebyt,
    "n, x",
    x=lambda g, n, x: g * _below(n, lambda k: n * sp.eval_chebyu(k, x)),
)
defvjp(
    sp.eval_chebyu,
    "n, x",
    x=lambda g, n, x: g * _below(n, lambda k: 2 * sp.eval_gegenbauer(k, 2, x)),
)
defvjp(
    sp.eval_gegenbauer,
    "n, alpha, x",
    x=lambda g, n, alpha, x: (
        g * _below(n, lambda k: 2 * alpha * sp.eval_gegenbauer(k, alpha + 1, x))
    ),
)
defvjp(
    sp.eval_jacobi,
    "n, alpha, beta, x",
    x=lambda g, n, alpha, beta, x: (
        g
        * _below(
            n,
            lambda k: 0.5 * (n + alpha + beta + 1) * sp.eval_jacobi(k, alpha + 1, beta + 1, x),
        )
    ),
)
defvjp(
    sp.eval_laguerre,
    "n, x",
    x=lambda g, n, x: -g * _below(n, lambda k: sp.eval_genlaguerre(k, 1, x)),
)
defvjp(
    sp.eval_genlaguerre,
    "n, alpha, x",
    x=lambda g, n, alpha, x: -g * _below(n, lambda k: sp.eval_genlaguerre(k, alpha + 1, x)),
)
defvjp(
    sp.eval_hermite,
    "n, x",
    x=lambda g, n, x: g * _below(n, lambda k: 2 * n * sp.eval_hermite(k, x)),
)
defvjp(
    sp.eval_hermitenorm,
    "n, x",
    x=lambda g, n, x: g * _below(n, lambda k: n * sp.eval_hermitenorm(k, x)),
)

constant(sp.gammasgn, sp.round)


def _density(x: Array) -> Array:
    """Return the density of the normal distribution."""
    return np.exp(-0.5 * x * x) / _ROOT_2PI


def _hazard(x: Array) -> Array:
    """Return density/distribution of the normal distribution, which is −x far to the left."""
    left = x < 0
    return np.where(
        left,
        math.sqrt(2 / math.pi) / sp.erfcx(np.where(left, x, 0) * -math.sqrt(0.5)),
        _density(x) / sp.ndtr(np.where(left, 0, x)),
    )


def _rgamma_slope(ans: Array, x: Array) -> Array:
    """Return the derivative of 1/Γ, which is as smooth at the poles of Γ as elsewhere.

    There the digamma function is infinite; Γ(x)·Γ(1 − x) = π/sin(πx) leads around it.
    """
    left = np.real(x) < 0.5
    t = np.where(left, x, 0)
    mirrored = sp.gamma(1 - t) * (
        np.cos(math.pi * t) - np.sin(math.pi * t) / math.pi * sp.psi(1 - t)
    )
    return np.where(left, mirrored, -ans * sp.psi(np.where(left, 1, x)))


def _gamma_density(a: Array, x: Array) -> Array:
    return np.exp(sp.xlogy(a - 1, x) - x - sp.gammaln(a))


def _beta_density(a: Array, b: Array, x: Array) -> Array:
    return np.exp(sp.xlogy(a - 1, x) + sp.xlog1py(b - 1, -x) - sp.betaln(a, b))


def _ratio(x: Array, y: Array) -> Array:
    """Return x/y, and 0 for 0/0."""
    return x / np.where(x == 0, 1, y)


def _pseudo_huber_slope(delta: Array, r: Array) -> Array:
    return r / np.hypot(1, r / delta)


def _boxcox_slope(u: Array, power: Array) -> Array:
    """Return the derivative of (exp(power·u) − 1)/power by `power`, also where that is 0."""
    return 0.5 * u * u * sp.hyp1f1(2, 3, power * u)


def _log_over(x: Array) -> Array:
    """Return log(x)/(x − 1), and 1 at 1."""
    if not np.iscomplexobj(x):
        return 1 / sp.exprel(np.log(x))
    one = x == 1
    return np.where(one, 1, np.log(x) / np.where(one, 1, x - 1))


def _sine_over(sine: Any, x: Array) -> Array:
    """Return sin(x)/x or sinh(x)/x, and 1 at 0."""
    zero = x == 0
    return np.where(zero, 1, sine(x) / np.where(zero, 1, x))


def _expn_slope(n: Any, x: Array) -> Array:
    """Return −E(n−1), or the derivative of E(0) = exp(−x)/x."""
    last = -np.exp(-x) * (1 + x) / (x * x)
    if isinstance(n, int):
        return -sp.expn(n - 1, x) if n else last
    return np.where(n == 0, last, -sp.expn(np.where(n == 0, 0, n - 1), x))


def _struve_term(v: Any, x: Array) -> Array:
    return np.power(x / 2, v) * sp.rgamma(v + 1.5) / _ROOT_PI


def _below(n: Any, polynomial: Any) -> Array:
    """Return `polynomial` of the degree n − 1, and 0 where n is 0."""
    if isinstance(n, int):
        return polynomial(n - 1) if n else polynomial(0) * 0
    return np.where(n == 0, 0, polynomial(np.where(n == 0, 0, n - 1)))
