"""What must hold of every rule, tested on every line of every table."""

import importlib
import pkgutil
from pathlib import Path

import numpy as np
import pytest
from laws.harness import (
    Case,
    active,
    assert_slope_matches,
    direction_like,
    gradients,
    inner,
    outputs,
    weighted,
)

import thriftgrad as tg
from thriftgrad import tree
from thriftgrad.autodiff.adjoint import describe
from thriftgrad.autodiff.registry import RULES, Composed, Rule
from thriftgrad.autodiff.tensor import Tensor
from thriftgrad.errors import NoRuleError

TABLES = [
    importlib.import_module(f"laws.{module.name}")
    for module in pkgutil.iter_modules([str(Path(__file__).parent)])
    if module.name.startswith("cases_")
]
CASES = [case for table in TABLES for case in table.CASES]
every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def mapped(function, args):
    return tuple(
        tree.map(lambda a: function(a) if isinstance(a, np.ndarray) else a, a) for a in args
    )


@every_case
def test_forward_is_numpys(case: Case) -> None:
    args = case.draw()
    plain = case.call(*args)
    traced = []

    def f(*inner_args):
        traced.append(case.call(*inner_args))
        return 0.0

    tg.grad(f, argnums=tuple(active(case)))(*args)
    for p, t in zip(outputs(plain), outputs(traced[0]), strict=True):
        assert isinstance(t, Tensor)
        assert t.shape == np.shape(p)
        assert t.dtype == np.asarray(p).dtype
        np.testing.assert_array_equal(t.value, p)


@every_case
def test_first_derivative(case: Case) -> None:
    assert_slope_matches(case, weighted(case), case.draw(), seed=1)


@pytest.mark.parametrize("case", [c for c in CASES if c.second], ids=lambda case: case.name)
def test_second_derivative(case: Case) -> None:
    args = case.draw(seed=3)
    v = direction_like([args[i] for i in active(case)], np.random.default_rng(5))

    def slope_along_v(*inner_args):
        return inner(gradients(case, weighted(case), inner_args), v)

    assert_slope_matches(case, slope_along_v, args, seed=2)


@every_case
def test_cotangent_has_the_shape_and_dtype_of_its_argument(case: Case) -> None:
    args = case.draw()
    for g, i in zip(gradients(case, weighted(case), args), active(case), strict=True):
        tree.map(assert_alike, args[i], g)


@pytest.mark.parametrize("case", [c for c in CASES if c.single], ids=lambda case: case.name)
def test_single_precision_never_widens(case: Case) -> None:
    narrow = {"f": np.float32, "c": np.complex64}
    args = mapped(
        lambda a: a.astype(narrow[a.dtype.kind]) if a.dtype.kind in narrow else a, case.draw()
    )
    plain = case.call(*args)
    wide = [np.asarray(p).dtype for p in outputs(plain)]
    assert all(dtype.itemsize <= 8 for dtype in wide), f"NumPy itself widens here: {wide}"
    reference = gradients(case, weighted(case), case.draw())
    for g, r, i in zip(gradients(case, weighted(case), args), reference, active(case), strict=True):
        tree.map(assert_alike, args[i], g)
        tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-3), g, r)


@every_case
def test_memory_order_does_not_matter_and_nothing_is_written(case: Case) -> None:
    args = case.draw()
    expected = gradients(case, weighted(case), args)

    def spaced(a):
        wide = np.zeros((*a.shape, 2), a.dtype)
        wide[..., 0] = a
        return wide[..., 0]

    def frozen(a):
        a = a.copy()
        a.flags.writeable = False
        return a

    for layout in (lambda a: np.asarray(a, order="F"), spaced, frozen):
        found = gradients(case, weighted(case), mapped(layout, args))
        tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), found, expected
        )
    before = mapped(np.copy, args)
    gradients(case, weighted(case), args)
    tree.map(lambda a, b: np.testing.assert_array_equal(a, b), before, args)


ELEMENTWISE = [
    c
    for c in CASES
    if isinstance(c.function, np.ufunc) and c.function.signature is None and not c.kwargs
]


@pytest.mark.parametrize("case", ELEMENTWISE, ids=lambda case: case.name)
def test_where_masks(case: Case) -> None:
    if case.function.nout > 1:
        pytest.skip("NumPy gives several results, each with its own mask")
    args = case.draw()
    shape = np.shape(case.call(*args))
    mask = np.random.default_rng(0).random(shape) < 0.5

    def masked(*inner_args):
        out = case.function(*inner_args, where=mask, out=None)
        return np.real(np.sum(np.where(mask, out, 0)))

    def selected(*inner_args):
        return np.real(np.sum(np.where(mask, case.function(*inner_args), 0)))

    tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12),
        gradients(case, masked, args),
        gradients(case, selected, args),
    )


@pytest.mark.parametrize("case", ELEMENTWISE, ids=lambda case: case.name)
def test_scalars_and_empty_arrays(case: Case) -> None:
    args = case.draw()
    scalars = mapped(lambda a: a.ravel()[0].item() if a.dtype.kind in "fc" else a.ravel()[0], args)
    arrays = mapped(lambda a: a.ravel()[:1].reshape(()), args)
    empty = mapped(lambda a: a.ravel()[:0], args)

    def total(*inner_args):
        return sum(np.real(np.sum(out)) for out in outputs(case.call(*inner_args)))

    for g, h, e, i in zip(
        gradients(case, total, scalars),
        gradients(case, total, arrays),
        gradients(case, total, empty),
        active(case),
        strict=True,
    ):
        assert type(g) is type(scalars[i])
        assert np.shape(h) == ()
        assert g == pytest.approx(h[()])
        assert e.shape == (0,)


# What NumPy makes of matrices without axes or entries in these is undocumented; the rules raise errors.
ACCIDENTS = {np.linalg.multi_dot, np.linalg.tensorsolve, np.apply_over_axes}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("kind", ["empty", "0-d", "Python number"])
@every_case
def test_what_numpy_computes_of_odd_shapes_has_a_gradient(case: Case, kind: str) -> None:
    """Where NumPy itself takes an empty array, a 0-d array or a number, so does the rule."""
    change = {
        "empty": lambda a: a[..., :0] if a.ndim else a,
        "0-d": lambda a: a.ravel()[:1].reshape(()),
        "Python number": lambda a: a.ravel()[0].item(),
    }[kind]
    if case.function in ACCIDENTS:
        return
    drawn = case.draw()
    args = tuple(
        tree.map(lambda a: change(a) if isinstance(a, np.ndarray) else a, a)
        if i in active(case)
        else a
        for i, a in enumerate(drawn)
    )
    try:
        plain = weighted(case)(*args)
    except Exception:
        return  # NumPy takes none such here, and neither need we
    if not np.isfinite(plain):
        return
    for g, i in zip(gradients(case, weighted(case), args), active(case), strict=True):
        tree.map(assert_alike, args[i], g)


@pytest.mark.parametrize(
    "rule", [r for r in RULES.values() if isinstance(r, Rule)], ids=lambda r: describe(r.function)
)
def test_a_keyword_that_a_rule_does_not_know_is_refused_by_name(rule: Rule) -> None:
    ready = rule.ready
    for position, name, _ in ready.checked:
        values = list(ready.signature.defaults)
        ready.check(values)
        values[position] = object()
        with pytest.raises(NoRuleError, match=f"{name}=.*leave {name} out"):
            ready.check(values)


def test_every_rule_has_a_case() -> None:
    """A rule that no line of a table calls is a rule that nothing checks."""
    known = {np.amax: np.max, np.amin: np.min}
    covered = {known.get(c.function, c.function) for c in CASES}
    from_numpy = [
        f for f, rule in RULES.items() if isinstance(rule, Rule | Composed) and in_the_house(f)
    ]
    missing = [describe(f) for f in from_numpy if known.get(f, f) not in covered]
    assert missing == []


def test_every_rule_fits_its_function() -> None:
    for rule in RULES.values():
        if isinstance(rule, Rule):
            assert rule.ready.vjps or rule.ready.joint


def in_the_house(function) -> bool:
    module = getattr(function, "__module__", None) or "numpy"
    return module.startswith(("numpy", "scipy", "thriftgrad.autodiff", "_operator"))


def assert_alike(argument, g) -> None:
    if isinstance(argument, np.ndarray):
        assert g.shape == argument.shape
        assert g.dtype == argument.dtype
