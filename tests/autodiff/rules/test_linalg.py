"""Points without a derivative, equal values, conventions and refusals of the table linalg."""

import numpy as np
import pytest

import thriftgrad as tg
from thriftgrad.errors import DifferentiationError, NoRuleError

EYE, ONES = np.eye(3), np.ones((3, 3))
WEIGHTS = np.arange(9.0).reshape(3, 3)
HERMITIAN = np.array([[2.0, 1 + 1j, 0.5j], [1 - 1j, 4.0, 1.0], [-0.5j, 1.0, -1.0]])


def minors(a):
    """Cofactors by their definition."""
    n = len(a)
    return np.array(
        [
            [(-1) ** (i + j) * np.linalg.det(np.delete(np.delete(a, i, 0), j, 1)) for j in range(n)]
            for i in range(n)
        ]
    )


def exponential(a):
    w, v = np.linalg.eigh(a)
    return (v * np.exp(w)[..., None, :]) @ np.conjugate(np.swapaxes(v, -1, -2))


def real_sum(x):
    return np.real(np.sum(x))


# Determinants


@pytest.mark.parametrize(
    "a",
    [
        np.array([[1.0, 2, 3], [4, 5, 6], [7, 8, 9]]),  # its pivot is a rounding error, not 0
        np.diag([1.0, 2.0, 0.0]),
        np.diag([1.0, 0.0, 0.0]),
        np.array([[0, 1.0, 0], [0, 0, 2], [0, 0, 0]]),
        np.zeros((3, 3)),
        np.zeros((2, 2)),
        np.zeros((1, 1)),
        np.diag([1j, 2.0, 0.0]),
        np.array([[1.0, 1j], [1j, -1.0]]),
    ],
)
def test_determinant_of_a_singular_matrix(a):
    g = tg.grad(lambda a: np.real(np.linalg.det(a)))(a)
    np.testing.assert_allclose(g, minors(a), atol=1e-12)


def test_determinants_of_a_stack_of_which_one_is_singular():
    a = np.stack([WEIGHTS + EYE, np.diag([1.0, 2.0, 0.0])])
    g = tg.grad(lambda a: np.sum(np.linalg.det(a)))(a)
    np.testing.assert_allclose(g, [minors(each) for each in a], atol=1e-12)


def test_second_derivative_of_a_singular_determinant_is_refused():
    def slope(a):
        return np.sum(tg.grad(np.linalg.det)(a) * WEIGHTS)

    tg.grad(slope)(EYE)
    with pytest.raises(NoRuleError, match="exactly singular matrix"):
        tg.grad(slope)(np.diag([1.0, 1.0, 0.0]))


def test_slogdet_of_a_singular_matrix_has_no_derivative():
    with pytest.raises(np.linalg.LinAlgError):
        tg.grad(lambda a: np.linalg.slogdet(a)[1])(np.diag([1.0, 0.0]))


# One triangle, or both


@pytest.mark.parametrize("a", [WEIGHTS @ WEIGHTS.T + EYE, HERMITIAN + 5 * EYE])
@pytest.mark.parametrize(
    "function",
    [
        lambda a: np.linalg.cholesky(a),
        lambda a: np.linalg.cholesky(a, upper=True),
        lambda a: np.linalg.eigvalsh(a),
        lambda a: np.linalg.eigvalsh(a, "U"),
        lambda a: np.abs(np.linalg.eigh(a)[1]),
        lambda a: np.linalg.pinv(a, hermitian=True),
        lambda a: np.linalg.svd(a, hermitian=True, compute_uv=False),
    ],
)
def test_functions_of_hermitian_matrices_have_hermitian_gradients(function, a):
    def loss(a):
        out = function(a)
        return np.real(np.sum(out * np.random.default_rng(0).normal(size=out.shape)))

    g = tg.grad(loss)(a)
    assert np.abs(g).max() > 1e-3
    np.testing.assert_allclose(g, np.conj(g.T), atol=1e-12)


def test_the_triangle_that_is_read_does_not_change_the_gradient():
    g, h = (tg.grad(lambda a, t=t: np.sum(np.linalg.eigvalsh(a, t) ** 3))(HERMITIAN) for t in "LU")
    np.testing.assert_allclose(g, h, atol=1e-12)


# Equal values


@pytest.mark.parametrize(
    "values",
    [
        np.linalg.eigvalsh,
        np.linalg.svdvals,
        lambda a: np.linalg.eigh(a)[0],
        lambda a: np.linalg.eig(a)[0],
        np.linalg.eigvals,
        lambda a: np.linalg.svd(a)[1],
        lambda a: np.linalg.svd(a, hermitian=True)[1],
    ],
)
@pytest.mark.parametrize("a", [EYE, ONES, np.diag([2.0, 2.0, 5.0]), np.zeros((3, 3))])
def test_values_that_are_equal(values, a):
    g = tg.grad(lambda a: real_sum(values(a) ** 2))(a)
    np.testing.assert_allclose(g, 2 * a, atol=1e-12)


def test_second_derivatives_of_values_that_are_equal_are_nan():
    def slope(a):
        return np.sum(tg.grad(lambda a: np.sum(np.linalg.eigvalsh(a) ** 2))(a) * WEIGHTS)

    assert np.isnan(tg.grad(slope)(EYE)).any()


def test_a_vector_beside_equal_values():
    """The projector on the first eigenvector of ones moves only against the other two."""

    def overlap(a):
        return np.linalg.eigh(a)[1][0, -1] ** 2

    step = 1e-6
    g = tg.grad(overlap)(ONES)
    for e in (np.diag([1.0, 0, 0]), np.array([[0, 1.0, 0], [1, 0, 0], [0, 0, 0]])):
        numeric = (overlap(ONES + step * e) - overlap(ONES - step * e)) / (2 * step)
        assert np.sum(g * e) == pytest.approx(numeric, abs=1e-8)


def test_functions_of_a_matrix_with_equal_eigenvalues_are_right_or_nan():
    for a in (EYE, ONES):
        g = tg.grad(lambda a: np.trace(exponential(a)))(a)
        np.testing.assert_allclose(g, exponential(a), atol=1e-12)
    stack = np.stack([EYE, WEIGHTS + WEIGHTS.T])
    g = tg.grad(lambda a: np.sum(exponential(0.1 * a)[:, 0, 1]))(stack)
    assert np.isnan(g[0]).all()
    assert np.isfinite(g[1]).all()


def test_singular_vectors_of_equal_values_are_nan_if_they_count():
    assert np.isnan(tg.grad(lambda a: np.linalg.svd(a)[0][0, 1])(EYE)).any()
    assert np.isnan(tg.grad(lambda a: np.linalg.eig(a)[1][0, 1])(EYE)).any()


def test_singular_vectors_of_a_zero_are_nan_if_they_count():
    a = np.array([[1.0, 1.0], [1.0, 1.0], [1.0, 1.0]])

    def entry(a, j):
        return np.abs(np.linalg.svd(a, full_matrices=False)[0][1, j])

    assert np.isfinite(tg.grad(entry)(a, 0)).all()
    assert np.isnan(tg.grad(entry)(a, 1)).any()


# Phases


@pytest.mark.parametrize(
    ("name", "entry"),
    [
        ("eigh", lambda a: np.linalg.eigh(a)[1][1, 0]),
        ("svd", lambda a: np.linalg.svd(a)[0][1, 0]),
        ("svd", lambda a: np.linalg.svd(a[:, :2], full_matrices=False)[2][1, 0]),
    ],
)
def test_what_depends_on_a_phase_is_refused(name, entry):
    with pytest.raises(DifferentiationError, match=rf"np\.linalg\.{name}.*phase"):
        tg.grad(lambda a: np.real(entry(a) * 1j) + np.real(entry(a)))(HERMITIAN)
    tg.grad(lambda a: np.abs(entry(a)))(HERMITIAN)


def test_a_phase_that_was_fixed_is_accepted():
    def fixed(a):
        v = np.linalg.eigh(a)[1]
        return np.imag(np.sum(v * np.conjugate(v[:1] / np.abs(v[:1])) * WEIGHTS))

    g, step = tg.grad(fixed)(HERMITIAN), 1e-6
    e = np.array([[0, 1j, 0], [-1j, 0, 2], [0, 2, 1]])
    numeric = (fixed(HERMITIAN + step * e) - fixed(HERMITIAN - step * e)) / (2 * step)
    assert real_sum(g * e) == pytest.approx(numeric, rel=1e-6)


def test_eig_follows_the_phase_where_two_entries_are_as_large():
    a = np.array([[0.0, 1.0], [-1.0, 0.0]])
    e = np.array([[0.3, 0.5], [0.2, -0.7]])

    def entries(a):
        return real_sum(np.linalg.eig(a)[1] * np.array([[1.0, 2j], [3.0, 0.5]]))

    g, step = tg.grad(entries)(a + 0.1 * e), 1e-6
    numeric = (entries(a + (0.1 + step) * e) - entries(a + (0.1 - step) * e)) / (2 * step)
    assert real_sum(g * e) == pytest.approx(numeric, rel=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_eigvals_in_another_order_than_eig(seed):
    """LAPACK orders the eigenvalues of large matrices by the way it finds them."""
    a = np.random.default_rng(seed).normal(size=(200, 200))
    weights = np.random.default_rng(9).normal(size=200)
    values, pullback = tg.vjp(np.linalg.eigvals)(a)
    g = pullback(weights.astype(complex))
    assert np.sum(g * a) == pytest.approx(np.real(values @ weights))  # eigenvalues scale with a
    assert np.trace(g) == pytest.approx(weights.sum())


# Modes and cut-offs


def test_svd_refuses_vectors_without_a_value():
    a = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    with pytest.raises(NoRuleError, match="full_matrices=False"):
        tg.grad(lambda a: np.linalg.svd(a)[0][0, 2])(a)
    with pytest.raises(NoRuleError, match="full_matrices=False"):
        tg.grad(lambda a: np.linalg.svd(a)[2][2, 0])(a.T)


@pytest.mark.parametrize("mode", ["complete", "raw"])
def test_qr_refuses_modes(mode):
    a = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    with pytest.raises(NoRuleError, match=f"mode='{mode}'.*mode='reduced'"):
        tg.grad(lambda a: np.sum(np.linalg.qr(a, mode=mode)[0]))(a)


def test_cut_offs_that_drop_something_are_refused():
    a = np.diag([1.0, 2.0, 5.0])
    with pytest.raises(NoRuleError, match=r"np\.linalg\.pinv.*cut-off"):
        tg.grad(lambda a: np.sum(np.linalg.pinv(a, 0.5)))(a)
    with pytest.raises(NoRuleError, match=r"np\.linalg\.pinv.*cut-off"):
        tg.grad(lambda a: np.sum(np.linalg.pinv(np.stack([a, a]), rtol=np.array([0.5, 0.1]))))(a)
    with pytest.raises(NoRuleError, match=r"np\.linalg\.lstsq.*cut-off"):
        tg.grad(lambda a: np.sum(np.linalg.lstsq(a, np.ones(3), rcond=0.5)[0]))(a)


def test_an_unused_result_needs_no_gradient():
    x, b = np.array([[1.0, 0.0], [1.0, 1.0], [1.0, 2.0]]), np.array([1.0, 2.0, 4.0])
    g = tg.grad(lambda b: np.linalg.lstsq(x, b)[0][1])(b)
    np.testing.assert_allclose(g, [-0.5, 0, 0.5], atol=1e-14)


def test_results_keep_their_types():
    kinds = []

    def f(a):
        results = np.linalg.eigh(a), np.linalg.svd(a), np.linalg.qr(a), np.linalg.slogdet(a)
        kinds.extend(type(result).__name__ for result in results)
        return np.linalg.slogdet(a).logabsdet

    tg.grad(f)(EYE)
    assert kinds == ["EighResult", "SVDResult", "QRResult", "SlogdetResult"]


def test_rank_carries_no_gradient():
    assert tg.grad(lambda a: np.linalg.matrix_rank(a) * np.sum(a))(EYE).tolist() == [[3.0] * 3] * 3


# Norms


@pytest.mark.parametrize("order", [None, "fro", "nuc", 2, -2, 1, -1, np.inf, -np.inf])
def test_matrix_norm_at_zero(order):
    g = tg.grad(lambda a: np.linalg.norm(a, order))(np.zeros((2, 3)))
    np.testing.assert_array_equal(g, np.zeros((2, 3)))


@pytest.mark.parametrize("kind", [float, complex])
@pytest.mark.parametrize("order", [None, 2, 1, np.inf, -np.inf, 0, 3, 0.5])
def test_vector_norm_at_zero(order, kind):
    for f in (np.linalg.norm, lambda x, o: np.linalg.vector_norm(x, ord=2 if o is None else o)):
        g = tg.grad(lambda x, f=f: f(x, order))(np.zeros(3, kind))
        np.testing.assert_array_equal(g, np.zeros(3, kind))


@pytest.mark.parametrize(("order", "there"), [(1, 1.0), (3, 0.0), (0.5, 0.0), (2, 0.0), (0, 0.0)])
def test_vector_norm_beside_a_zero(order, there):
    g = tg.grad(lambda x: np.linalg.norm(x, order))(np.array([0.0, 3.0, 4.0]))
    assert g[0] == 0
    assert np.isfinite(g).all()


def test_ties_share():
    assert tg.grad(lambda x: np.linalg.norm(x, np.inf))(np.array([2.0, -2.0, 1.0])).tolist() == [
        0.5,
        -0.5,
        0.0,
    ]
    g = tg.grad(lambda a: np.linalg.norm(a, 2))(np.eye(2))
    np.testing.assert_allclose(g, np.eye(2) / 2)
    g = tg.grad(lambda a: np.linalg.norm(a, 1))(np.ones((2, 2)))
    np.testing.assert_allclose(g, np.full((2, 2), 0.5))


def test_condition_number_of_the_identity_does_not_change_with_scale():
    for p in (None, 2, -2, 1, "fro"):
        g = tg.grad(lambda a, p=p: np.linalg.cond(a, p))(WEIGHTS + 4 * EYE)
        assert np.sum(g * (WEIGHTS + 4 * EYE)) == pytest.approx(0, abs=1e-9)
    assert tg.grad(np.linalg.cond)(np.array([[3.0]])).tolist() == [[0.0]]


# Shapes


def test_empty_stacks():
    empty = np.zeros((0, 3, 3))
    for f in (
        np.linalg.det,
        np.linalg.inv,
        lambda a: np.linalg.eigh(a)[1],
        lambda a: np.linalg.svd(a)[0],
        np.linalg.eigvals,
        lambda a: np.linalg.norm(a, 2, axis=(1, 2)),
    ):
        assert tg.grad(lambda a, f=f: real_sum(f(a)))(empty).shape == empty.shape


def test_one_right_hand_side_for_a_stack_of_matrices():
    a, b = np.stack([2 * EYE, 4 * EYE]), np.ones(3)
    g = tg.grad(lambda b: np.sum(np.linalg.solve(a, b)))(b)
    np.testing.assert_allclose(g, [0.75] * 3)


def test_lists_are_matrices_too():
    g = tg.grad(lambda b: np.sum(np.linalg.solve([[2.0, 0.0], [0.0, 4.0]], b)))(np.ones(2))
    np.testing.assert_allclose(g, [0.5, 0.25])
    g = tg.grad(lambda b: np.sum(np.linalg.lstsq([[2.0, 0.0], [0.0, 4.0]], b)[0]))(np.ones(2))
    np.testing.assert_allclose(g, [0.5, 0.25])
    g = tg.grad(lambda a: np.sum(np.linalg.lstsq(a, [1.0, 1.0])[0]))(2 * np.eye(2))
    np.testing.assert_allclose(g, np.full((2, 2), -0.25))


def test_norm_of_a_number() -> None:
    assert tg.grad(np.linalg.norm)(-1.5) == -1.0


@pytest.mark.parametrize(("a", "b"), [((0, 3), (0,)), ((0, 3), (0, 2)), ((3, 0), (3,))])
def test_least_squares_of_nothing(a, b) -> None:
    found = tg.grad(lambda a, b: np.sum(np.linalg.lstsq(a, b)[0]), argnums=(0, 1))(
        np.ones(a), np.ones(b)
    )
    assert [g.shape for g in found] == [a, b]
