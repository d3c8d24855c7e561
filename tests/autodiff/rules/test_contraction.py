"""Products at the edges: refused keywords, vectors of the plane, einsum's notations."""

import numpy as np
import pytest

import thriftgrad as tg
from thriftgrad.errors import NoRuleError


@pytest.mark.parametrize(
    ("function", "options"),
    [
        (np.matmul, {"axes": [(0, 1), (0, 1), (0, 1)]}),
        (np.vecdot, {"axis": 0}),
        (np.vecdot, {"keepdims": True}),
        *([(np.matvec, {"axes": [(0, 1), 0, 0]})] if hasattr(np, "matvec") else []),
    ],
)
def test_axes_of_products_are_refused(function, options) -> None:
    name = next(iter(options))
    with pytest.raises(NoRuleError, match=f"was called with {name}="):
        tg.grad(lambda a: np.sum(function(a, np.ones((3, 3)), **options)))(np.ones((3, 3)))


@pytest.mark.filterwarnings("ignore:Arrays of 2-dimensional vectors:DeprecationWarning")
@pytest.mark.parametrize(("m", "n"), [(2, 2), (2, 3), (3, 2)])
def test_cross_of_plane_vectors(m, n) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(4, m)), rng.normal(size=(n,))
    weights = np.cross(a, b) * 0 + rng.normal(size=np.cross(a, b).shape)

    def lifted(v):
        return v if v.shape[-1] == 3 else np.concatenate([v, np.zeros((*v.shape[:-1], 1))], -1)

    def plain(a, b):
        product = np.cross(lifted(a), lifted(b))
        return np.sum(weights * (product[..., 2] if m == n == 2 else product))

    found = tg.grad(lambda a, b: np.sum(weights * np.cross(a, b)), argnums=(0, 1))(a, b)
    for x, y in zip(found, tg.grad(plain, argnums=(0, 1))(a, b), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-12)

    def twice(cross):
        first = tg.grad(lambda a: np.sum(weights * cross(a, b) ** 2))
        return tg.grad(lambda a: np.sum(first(a) ** 2))(a)

    def full(a, b):
        product = np.cross(lifted(a), lifted(b))
        return product[..., 2] if m == n == 2 else product

    np.testing.assert_allclose(twice(np.cross), twice(full), rtol=1e-12)


def test_einsum_path_is_a_constant() -> None:
    paths = []

    def f(a):
        paths.append(np.einsum_path("ij,jk->ik", a, np.ones((3, 2)))[0])
        return np.sum(a)

    tg.grad(f)(np.ones((2, 3)))
    assert paths == [["einsum_path", (0, 1)]]


def test_empty_products() -> None:
    a, b = np.ones((2, 0)), np.ones((0, 3))
    for function in (np.matmul, np.dot, lambda a, b: np.einsum("ij,jk", a, b)):
        g = tg.grad(lambda a, b, f=function: np.sum(f(a, b)), argnums=(0, 1))(a, b)
        assert [x.shape for x in g] == [a.shape, b.shape]


def kept(f, *arrays) -> int:
    """Return how many of the arrays a tape keeps."""
    tensors = [tg.Tensor(a) for a in arrays]
    node = f(*tensors).node
    residuals = [r for _, _, held in node.edges for r in held]
    return sum(any(r is t.value for r in residuals) for t in tensors)


def test_einsum_keeps_no_more_than_it_needs() -> None:
    a, b = np.ones((2, 3)), np.ones((3, 2))
    assert kept(lambda a: np.einsum("ij->i", a), a) == 0
    assert kept(lambda a: np.einsum("ij,jk->ik", a, b), a) == 0
    assert kept(lambda a, b: np.einsum(a, [0, 1], b, [1, 2]), a, b) == 2
    assert kept(lambda a: np.pad(a, 1), a) == 0
    assert kept(lambda a: np.pad(a, 1, "mean"), a) == 0
    assert kept(lambda a: np.average(a), a) == 0
