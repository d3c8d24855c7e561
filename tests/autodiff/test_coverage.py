"""Every function that NumPy hands to other array types is in some table."""

import re
from pathlib import Path

import numpy as np
import pytest

import thriftgrad as tg
from thriftgrad.autodiff import coverage
from thriftgrad.errors import InPlaceError, NoRuleError

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "supported.md"


def test_nothing_is_unclassified() -> None:
    assert coverage.unclassified() == []
    assert [row.name for row in coverage.rows() if row.kind == coverage.UNKNOWN] == []


def test_a_new_function_of_numpys_would_be_noticed(monkeypatch) -> None:
    from numpy.testing import overrides

    def brand_new(x):
        return x

    known = overrides.get_overridable_numpy_array_functions()
    monkeypatch.setattr(
        overrides, "get_overridable_numpy_array_functions", lambda: {*known, brand_new}
    )
    assert any("brand_new" in name for name in coverage.unclassified())


def test_lists_are_whole() -> None:
    functions, ufuncs = coverage.listed()
    assert len(functions) > 250
    assert len(ufuncs) > 100
    names = {row.name for row in coverage.rows()}
    assert {"np.sum", "np.linalg.svd", "np.fft.rfft", "np.emath.sqrt", "np.add.reduce"} <= names
    assert not any(name.rpartition(".")[2].startswith("_") for name in names)


def test_what_the_page_says_is_what_happens() -> None:
    """A constant or refused function is met with just the answer that the page gives."""
    t = tg.Tensor(np.array([1.5, 2.0]))
    assert not isinstance(np.floor(t), tg.Tensor)
    for row in coverage.find("intersect1d", coverage.rows()):
        with pytest.raises(NoRuleError, match=re.escape(row.reason)):
            np.intersect1d(t, t)


@pytest.mark.parametrize(
    "call",
    [
        lambda t: np.array([1.0], like=t),
        lambda t: np.asarray([t, t], like=t),
        lambda t: np.full(3, 1.0, like=t),
        lambda t: np.arange(3.0, like=t),
        lambda t: np.full_like(np.ones(3), t[0]),
        lambda t: np.save("never-written.npy", t),
        lambda t: np.union1d(t, t),
        lambda t: np.strings.str_len(t),
        lambda t: np.is_busday(t),
    ],
)
def test_refusals_say_why(call) -> None:
    with pytest.raises((NoRuleError, InPlaceError), match="is not differentiated: ") as error:
        call(tg.Tensor(np.array([1.5, 2.0])))
    assert any(word in str(error.value) for word in ("use", "pass", "write", "select", "build"))
    assert not Path("never-written.npy").exists()


def test_creation_by_like_gives_constants() -> None:
    t = tg.Tensor(np.ones(2))
    for made in (
        np.zeros(2, like=t),
        np.ones(2, like=t),
        np.eye(2, like=t),
        np.zeros_like(t),
    ):
        assert not isinstance(made, tg.Tensor)


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("sum", ["np.sum"]),
        ("numpy.sum", ["np.sum"]),
        ("abs", ["np.absolute"]),
        ("np.abs", ["np.absolute"]),
        ("linalg.svd", ["np.linalg.svd"]),
        ("svd", ["np.linalg.svd"]),
        ("cross", ["np.cross"]),
        ("nonsense", []),
    ],
)
def test_find(asked: str, found: list[str]) -> None:
    assert [row.name for row in coverage.find(asked, coverage.rows())] == found


def test_the_page_is_up_to_date() -> None:
    page = PAGE.read_text(encoding="utf-8")
    made_with = re.search(r"with (NumPy .*)\.$", page, re.MULTILINE)
    assert made_with is not None
    if made_with[1] != coverage.versions():
        pytest.skip(f"the page was made with {made_with[1]}, here is {coverage.versions()}")
    assert page == coverage.markdown(), "run: thriftgrad coverage --markdown > docs/supported.md"


def test_the_page_was_made_with_the_versions_that_are_pinned() -> None:
    """With these the page is compared, wherever `make test` runs; so it cannot go stale unseen."""
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    pinned = [re.search(rf"^{name}==(.*)$", pins, re.MULTILINE)[1] for name in ("numpy", "scipy")]
    page = PAGE.read_text(encoding="utf-8")
    assert "with NumPy {}, SciPy {}.".format(*pinned) in page
