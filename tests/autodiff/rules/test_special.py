"""scipy.special: late loading, the ends of the number range, poles, and what cannot work."""

import math
import subprocess
import sys

import numpy as np
import pytest
from laws import cases_special
from laws.harness import active, gradients, outputs
from scipy import special as sp

import thriftgrad as tg
from thriftgrad.autodiff.registry import RULES, Rule
from thriftgrad.errors import DetachError, NoRuleError

INF = math.inf


def fresh(code: str) -> str:
    """Run `code` in an interpreter that has not loaded the table yet."""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


@pytest.mark.parametrize(
    "order", ["thriftgrad as tg, scipy.special", "scipy.special, thriftgrad as tg"]
)
def test_the_very_first_call_is_differentiated(order) -> None:
    code = f"import {order}; print(tg.grad(scipy.special.expit)(0.0))"
    assert fresh(code) == "0.25"


def test_a_rule_of_ones_own_is_not_replaced() -> None:
    code = (
        "import thriftgrad as tg, scipy.special as sp;"
        "tg.defvjp(sp.expit, x=lambda g, x: 7.0 * g);"
        "print(tg.grad(sp.erf)(0.0) > 1, tg.grad(sp.expit)(0.0))"
    )
    assert fresh(code) == "True 7.0"


@pytest.mark.parametrize("case", cases_special.CASES, ids=lambda case: case.name)
def test_scalars_and_empty_arrays(case) -> None:
    """What the law of this name says, which these cases are kept out of."""

    def total(*args):
        return sum(np.real(np.sum(out)) for out in outputs(case.call(*args)))

    drawn = case.draw()
    plain = [i for i in range(len(drawn)) if i not in active(case)]
    for i in plain:
        if isinstance(drawn[i], np.ndarray):
            drawn = (*drawn[:i], drawn[i].ravel()[0], *drawn[i + 1 :])
    first = [a.ravel()[0].item() if i not in plain else a for i, a in enumerate(drawn)]
    arrays = [a.ravel()[:1].reshape(()) if i not in plain else a for i, a in enumerate(drawn)]
    empty = [a.ravel()[:0] if i not in plain else a for i, a in enumerate(drawn)]
    for g, h, e, i in zip(
        gradients(case, total, first),
        gradients(case, total, arrays),
        gradients(case, total, empty),
        active(case),
        strict=True,
    ):
        assert type(g) is type(first[i])
        assert np.shape(h) == ()
        assert g == pytest.approx(h[()], rel=1e-12)
        assert e.shape == (0,)


# Values at removable singularities, conventions and limits; no warning is allowed here.
POINTS = [
    (sp.xlogy, (0.0, 0.0), 1, 0.0),
    (sp.xlogy, (0.0, 2.0), 0, math.log(2)),
    (sp.xlog1py, (0.0, -1.0), 1, 0.0),
    (sp.rel_entr, (0.0, 0.0), 1, 0.0),
    (sp.kl_div, (0.0, 0.0), 1, 1.0),
    (sp.huber, (1.0, 1.0), 1, 1.0),
    (sp.huber, (1.0, 3.0), 1, 1.0),
    (sp.huber, (1.0, 3.0), 0, 2.0),
    (sp.huber, (1.0, 0.5), 0, 0.0),
    (sp.exprel, (0.0,), 0, 0.5),
    (sp.spence, (1.0,), 0, -1.0),
    (sp.boxcox, (2.0, 0.0), 1, math.log(2) ** 2 / 2),
    (sp.boxcox, (2.0, 0.0), 0, 0.5),
    (sp.inv_boxcox, (1.0, 0.0), 1, -math.e / 2),
    (sp.lambertw, (0.0,), 0, 1.0),
    (sp.ellipk, (0.0,), 0, math.pi / 8),
    (sp.ellipe, (0.0,), 0, -math.pi / 8),
    (sp.rgamma, (0.0,), 0, 1.0),
    (sp.rgamma, (-1.0,), 0, -1.0),
    (sp.rgamma, (-3.0,), 0, -6.0),
    (sp.gammainc, (1.0, 0.0), 1, 1.0),
    (sp.j1, (0.0,), 0, 0.5),
    (sp.i1, (0.0,), 0, 0.5),
    (sp.i0e, (0.0,), 0, 0.0),
    (sp.i1e, (0.0,), 0, 0.5),
    (sp.jv, (1, 0.0), 1, 0.5),
    (sp.eval_chebyu, (2, 1.0), 1, 8.0),
    (sp.eval_legendre, (3, 1.0), 1, 6.0),
    (sp.eval_legendre, (0, 1.0), 1, 0.0),
    # Far out
    (sp.expit, (-1000.0,), 0, 0.0),
    (sp.expit, (1000.0,), 0, 0.0),
    (sp.log_expit, (-1000.0,), 0, 1.0),
    (sp.log_expit, (1000.0,), 0, 0.0),
    (sp.erf, (1e200,), 0, 0.0),
    (sp.log_ndtr, (-1e8,), 0, 1e8),
    (sp.log_ndtr, (100.0,), 0, 0.0),
    (sp.log_ndtr, (0.0,), 0, math.sqrt(2 / math.pi)),
    (sp.i0e, (1e4,), 0, sp.i1e(1e4) - sp.i0e(1e4)),
    (sp.kve, (2, 1e4), 1, sp.kve(2, 1e4) - (sp.kve(1, 1e4) + sp.kve(3, 1e4)) / 2),
    (sp.gammaln, (1e300,), 0, math.log(1e300)),
    (sp.exp1, (1000.0,), 0, 0.0),
]  # fmt: skip


@pytest.mark.parametrize(("function", "args", "position", "expected"), POINTS)
def test_points(function, args, position, expected) -> None:
    found = tg.grad(lambda *a: np.real(function(*a)), argnums=position)(*args)
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-300)


def test_second_derivatives_at_removable_singularities() -> None:
    assert tg.grad(tg.grad(lambda x: sp.sici(x)[0]))(0.0) == 0.0
    assert tg.grad(tg.grad(sp.exprel))(0.0) == pytest.approx(1 / 3)
    assert tg.grad(tg.grad(sp.spence))(1.0) == pytest.approx(0.5)
    # 1/Γ(x) = x + γx² + ...
    assert tg.grad(tg.grad(sp.rgamma))(0.0) == pytest.approx(2 * np.euler_gamma)
    assert tg.grad(tg.grad(sp.log_ndtr))(-1e3) == pytest.approx(-1.0, rel=1e-5)


def test_poles_are_infinite_and_warn() -> None:
    for function, expected in ((sp.entr, INF), (sp.logit, INF)):
        with pytest.warns(RuntimeWarning, match="divide by zero"):
            assert tg.grad(function)(np.float64(0.0)) == expected
    with pytest.warns(RuntimeWarning, match="divide by zero"):
        assert tg.grad(sp.xlogy)(np.float64(1.0), 0.0) == -INF


@pytest.mark.parametrize(
    ("function", "args", "name"),
    [
        (sp.jv, (0.5, 1.0), "v"),
        (sp.gammainc, (0.5, 1.0), "a"),
        (sp.betainc, (0.5, 1.0, 0.5), "a"),
        (lambda m: sp.ellipkinc(0.5, m), (0.5,), "m"),
        (sp.hyp2f1, (0.5, 0.5, 1.0, 0.5), "a"),
        (lambda s: sp.zeta(s, 2.0), (2.0,), "x"),
    ],
)
def test_a_parameter_without_a_derivative_is_refused_by_name(function, args, name) -> None:
    with pytest.raises(NoRuleError, match=f"no derivative with respect to '{name}'"):
        tg.grad(function)(*args)


def test_a_ufunc_without_a_rule_is_refused_by_name() -> None:
    with pytest.raises(NoRuleError, match=r"scipy\.special\.mathieu_a"):
        tg.grad(lambda x: sp.mathieu_a(1, x))(1.0)


@pytest.mark.parametrize(
    "function",
    [sp.logsumexp, sp.softmax, sp.log_softmax, lambda x: sp.polygamma(1, x)],
)
def test_what_makes_plain_arrays_does_not_lose_the_gradient_unseen(function) -> None:
    with pytest.raises(DetachError):
        tg.grad(lambda x: np.sum(function(x)))(np.array([1.0, 2.0]))


def test_every_rule_names_a_function_of_scipy() -> None:
    rules = [f for f, rule in RULES.items() if isinstance(f, np.ufunc) and isinstance(rule, Rule)]
    special = [f for f in rules if getattr(sp, f.__name__, None) is f]
    assert len(special) > 90
