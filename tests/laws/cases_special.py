"""Calls of the table special. What is no ufunc but works on tensors has its line here too."""

import numpy as np
from laws import harness
from laws.harness import Case, Drawn, above_one, complex_, inside, positive, real, unit
from scipy import special as sp

from thriftgrad.autodiff.rules import special as _table  # noqa: F401 - it is loaded late otherwise


def case(function, *args, **kwargs) -> Case:
    """Name the default of `casting`, which keeps a ufunc out of the law on `where=`.

    Until xsf's pull request 146 (May 2026), SciPy's own loops wrote and read out of bounds under a
    mask, on plain arrays too. `tests/autodiff/rules/test_special.py` has the scalars and empty arrays.
    """
    if isinstance(function, np.ufunc) and function.nout == 1:
        kwargs["casting"] = "same_kind"
    return harness.case(function, *args, **kwargs)


NEGATIVE = Drawn(lambda rng: -rng.uniform(0.1, 5.0, size=3), "negative(3)")
SHAPES = np.array([0.7, 1.0, 2.5])
DEGREES = np.array([0, 1, 4])

_LOGISTIC = [
    *(case(f, real(3, 4)) for f in (sp.expit, sp.log_expit)),
    case(sp.logit, unit(3)),
    *([case(sp.softplus, real(3))] if hasattr(sp, "softplus") else []),
]

_ERROR_FUNCTION = [
    *(case(f, real(3)) for f in (sp.erf, sp.erfc, sp.erfcx, sp.erfi, sp.dawsn)),
    *(case(f, complex_(3)) for f in (sp.erf, sp.erfc, sp.erfcx, sp.erfi, sp.dawsn, sp.wofz)),
    case(sp.erfinv, inside(3)),
    *(case(f, unit(3)) for f in (sp.erfcinv, sp.ndtri)),
    *(case(f, real(3)) for f in (sp.ndtr, sp.log_ndtr)),
    case(sp.ndtr, complex_(3)),
    case(sp.ndtri_exp, NEGATIVE),
    case(sp.owens_t, real(3), real(3)),
]  # fmt: skip

_GAMMA = [
    *(case(f, positive(3)) for f in (sp.gamma, sp.gammaln, sp.loggamma, sp.rgamma, sp.psi)),
    *(case(f, inside(3)) for f in (sp.gamma, sp.gammaln, sp.rgamma)),
    # The derivative of the digamma function of a complex number is not in SciPy.
    *(case(f, complex_(3), _second=False) for f in (sp.gamma, sp.loggamma, sp.rgamma)),
    case(sp.zeta, 2.5, positive(3)),
    case(sp._ufuncs._zeta, 2.5, positive(3)),
    *(case(f, positive(3), positive(4, 1)) for f in (sp.beta, sp.betaln)),
    *(case(f, SHAPES, positive(3), _single=False) for f in (sp.gammainc, sp.gammaincc)),
    *(case(f, 1.5, unit(3)) for f in (sp.gammainc, sp.gammaincc, sp.gammaincinv, sp.gammainccinv)),
    *(case(f, 1.5, 0.7, unit(3)) for f in (sp.betainc, sp.betaincinv)),
    *(case(f, 1.5, 0.7, unit(3)) for f in (sp.betaincc, sp.betainccinv)),
]  # fmt: skip

_LOGARITHMS = [
    *(case(f, real(3), positive(3)) for f in (sp.xlogy, sp.xlog1py)),
    *(case(f, complex_(3), complex_(3)) for f in (sp.xlogy, sp.xlog1py)),
    case(sp.entr, positive(3)),
    *(case(f, positive(3), positive(3)) for f in (sp.rel_entr, sp.kl_div)),
    case(sp.huber, above_one(4), inside(3, 1)),
    case(sp.huber, unit(4), above_one(3, 1) ),
    case(sp.pseudo_huber, positive(4), real(3, 1)),
    *(case(f, positive(3), real(4, 1)) for f in (sp.boxcox, sp.boxcox1p)),
    *(case(f, positive(3), positive(4, 1)) for f in (sp.inv_boxcox, sp.inv_boxcox1p)),
    case(sp.wrightomega, real(3)),
    case(sp.wrightomega, complex_(3)),
    case(sp.lambertw, complex_(3), _single=False),
    case(sp._ufuncs._lambertw, positive(3), 0, 1e-8, _single=False),
]  # fmt: skip

_POWERS = [
    *(case(f, real(3)) for f in (sp.expm1, sp.exprel, sp.exp2, sp.exp10, sp.cbrt, sp.cosm1)),
    case(sp.log1p, positive(3)),
    *(case(f, complex_(3)) for f in (sp.expm1, sp.log1p)),
    case(sp.powm1, positive(3), real(3)),
    *(case(f, real(3)) for f in (sp.sindg, sp.cosdg, sp.tandg)),
    case(sp.cotdg, above_one(3)),
    case(sp.radian, real(3), real(3), real(3)),
]

_INTEGRALS = [
    *(case(f, positive(3)) for f in (sp.exp1, sp.expi, sp.spence, sp.sici, sp.shichi)),
    *(case(f, complex_(3)) for f in (sp.exp1, sp.expi, sp.spence, sp.sici, sp.shichi)),
    *(case(sp.expn, n, positive(3)) for n in (0, 1, 3)),
    case(sp.expn, DEGREES, positive(3), _single=False),
    case(sp.fresnel, real(3)),
    case(sp.fresnel, complex_(3)),
    *(case(f, inside(3)) for f in (sp.ellipk, sp.ellipe)),
    *(case(f, real(3), 0.6) for f in (sp.ellipkinc, sp.ellipeinc, sp.ellipj)),
]

_BESSEL = [
    *(case(f, real(3)) for f in (sp.j0, sp.j1, sp.i0, sp.i1, sp.i0e, sp.i1e)),
    *(case(f, positive(3)) for f in (sp.y0, sp.y1, sp.k0, sp.k1, sp.k0e, sp.k1e)),
    *(
        case(f, 1.5, positive(3))
        for f in (sp.jv, sp.yv, sp.iv, sp.kv, sp.ive, sp.kve, sp.struve, sp.modstruve)
    ),
    *(case(f, 2, real(3)) for f in (sp.jv, sp.iv, sp.ive)),
    *(
        case(f, 1.5, complex_(3))
        for f in (sp.jv, sp.yv, sp.iv, sp.kv, sp.ive, sp.kve, sp.hankel1, sp.hankel2)
    ),
    case(sp.airy, real(3)),
    case(sp.airy, complex_(3)),
]

_POLYNOMIALS = [
    *(case(f, n, real(3)) for f in (sp.eval_legendre, sp.eval_chebyt, sp.eval_chebyu) for n in (0, 3)),
    *(case(f, n, real(3)) for f in (sp.eval_laguerre,) for n in (0, 3)),
    *(case(f, 4, real(3), _single=False) for f in (sp.eval_hermite, sp.eval_hermitenorm)),
    *(case(f, 0, real(3), _single=False) for f in (sp.eval_hermite, sp.eval_hermitenorm)),
    case(sp.eval_legendre, DEGREES, real(3), _single=False),
    *(case(f, 3, 0.7, real(3)) for f in (sp.eval_gegenbauer, sp.eval_genlaguerre)),
    case(sp.eval_jacobi, 3, 0.7, 1.3, real(3)),
]  # fmt: skip

_HYPERGEOMETRIC = [
    case(sp.hyp0f1, 1.5, real(3)),
    case(sp.hyp1f1, 0.7, 1.5, real(3)),
    case(sp.hyperu, 0.7, 1.5, positive(3)),
    case(sp.hyp2f1, 0.7, 1.5, 2.2, inside(3)),
    case(sp.hyp0f1, 1.5, complex_(3)),
]

CASES = [
    *_LOGISTIC,
    *_ERROR_FUNCTION,
    *_GAMMA,
    *_LOGARITHMS,
    *_POWERS,
    *_INTEGRALS,
    *_BESSEL,
    *_POLYNOMIALS,
    *_HYPERGEOMETRIC,
]
