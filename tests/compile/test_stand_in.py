"""What a function sees of its arrays while it is recorded: what it would see of them without."""

from __future__ import annotations

import math
import numbers
import operator
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import pytest

import thriftgrad as tg
from thriftgrad import nn, optim
from thriftgrad.errors import RecordError

X = np.arange(6.0).reshape(2, 3)

KINDS: dict[str, Callable[[Any], bool]] = {
    "an array": lambda x: isinstance(x, np.ndarray),
    "a scalar is no array": lambda x: isinstance(np.sum(x), np.ndarray),
    "a scalar": lambda x: isinstance(np.sum(x), np.floating),
    "a scalar of another dtype": lambda x: isinstance(np.sum(x), np.integer),
    "a scalar of Python's": lambda x: isinstance(np.sum(x), float),
    "a number": lambda x: isinstance(np.sum(x), numbers.Number),
    "np.isscalar": lambda x: np.isscalar(np.sum(x)),
    "an array is no number": lambda x: isinstance(x, float | numbers.Number),
    "a sequence": lambda x: isinstance(x, list | tuple),
    "a flag": lambda x: isinstance(np.any(x > 0), np.bool_),
    "its class": lambda x: issubclass(x.__class__, np.ndarray),
}


@pytest.mark.parametrize("name", KINDS)
def test_isinstance_goes_as_it_does_without(name: str) -> None:
    def f(x):
        return x + 1 if KINDS[name](x) else x - 1

    np.testing.assert_array_equal(tg.compile(f)(X), f(X))


def test_a_layer_that_looks_at_its_input_trains_as_without() -> None:
    class Scaled(nn.Module):
        def __init__(self):
            self.linear = nn.Linear(3, 2, rng=0)

        def __call__(self, x):
            return self.linear((x - 50) / 10 if isinstance(x, np.ndarray) else x)

    x, y = (
        np.random.default_rng(0).normal(50, 10, size=(40, 3)).astype(np.float32),
        np.arange(40) % 2,
    )
    weights = []
    for compiled in (False, True):
        model = Scaled()
        rule = optim.SGD(model.parameters(), lr=0.1)
        tg.train.fit(
            model,
            (x, y),
            loss=nn.cross_entropy,
            optimizer=rule,
            epochs=2,
            compile=compiled,
            progress=False,
        )
        weights.append(model.linear.weight.value)
    np.testing.assert_allclose(*weights, rtol=1e-5)


def caught(x: Any) -> Any:
    try:
        scale = float(np.sum(x))
    except Exception:
        scale = 0.0
    return x * scale


def suppressed(x: Any) -> Any:
    with suppress(TypeError):
        if x[0, 0] > 1:
            return x
    return -x


def of_another_shape(x: Any) -> Any:
    with suppress(ValueError, TypeError):
        return np.sum(x[x > 2])
    return np.sum(x)


@pytest.mark.parametrize("function", [caught, suppressed, of_another_shape])
def test_a_refusal_that_is_caught_is_one_all_the_same(function: Any) -> None:
    compiled = tg.compile(function)
    with pytest.raises(RecordError, match=rf"{__file__}:\d+"):
        compiled(X)
    eager = tg.compile(function, fallback="eager")
    with pytest.warns(RuntimeWarning, match="runs as it is"):
        np.testing.assert_array_equal(eager(X), function(X))


def test_a_refusal_names_the_line_of_a_cell() -> None:
    scope: dict[str, Any] = {}
    text = "\n\ndef f(x):\n    return 1 if x > 0 else 2\n"
    exec(compile(text, "<ipython-input-3-abc>", "exec"), scope)
    with pytest.raises(RecordError, match="at <ipython-input-3-abc>:4"):
        tg.compile(scope["f"])(np.array(1.0))


@pytest.mark.parametrize(
    ("dtype", "digits"),
    [(np.float64, 2), (np.float64, 0), (np.float64, -2), (np.float32, 1), (np.int64, 1)],
)
def test_a_scalar_is_rounded_as_without(dtype: Any, digits: int) -> None:
    def f(x):
        return round(np.max(x), digits)

    compiled = tg.compile(f)
    for x in (np.array([123.4567, 2]), np.array([2.675, -80.125])):
        ours, plain = compiled(x.astype(dtype)), f(x.astype(dtype))
        assert ours == plain
        assert type(ours) is type(plain)


def test_a_number_is_rounded_as_python_does(tmp_path: Any) -> None:
    f = tg.compile(lambda x, k: x * round(k, 2))
    for k in (2.675, 1.005, -7.1):
        assert f(1.0, k) == round(k, 2)
    np.testing.assert_array_equal(f(X, 2.675), X * 2.67)
    f.save(tmp_path / "f.py")
    assert "round(k, 2)" in (tmp_path / "f.py").read_text()


def test_what_cannot_be_rounded_without_cannot_with() -> None:
    for f in (lambda x: round(x, 1), lambda x: round(np.sum(x) * 1j, 1), lambda x: round(x > 1)):
        with pytest.raises(TypeError, match="__round__"):
            f(X)
        with pytest.raises(TypeError, match="__round__"):
            tg.compile(f)(X)
    with pytest.raises(TypeError, match="type complex doesn't define __round__"):
        tg.compile(lambda x, k: x * round(k * 1j, 1))(X, 2.0)
    for f in (lambda k: round(k), lambda k: round(k > 1), lambda k: round(np.float64(1) * k)):
        with pytest.raises(RecordError, match=r"^round\(\) to an int \(for which np\.round\(y\)"):
            tg.compile(f)(2.0)


def test_a_stand_in_is_printed_but_no_text_of_it_is_a_result(capsys: Any) -> None:
    def f(x, write):
        return {"sum": np.sum(x), "said": write(np.sum(x))}

    tg.compile(f)(X, print)
    assert capsys.readouterr().out == "<stand-in for an array of shape () and dtype float64>\n"
    for write in (str, repr, "sum: {!s}".format, lambda y: "%s" % y):  # noqa: UP031
        with pytest.raises(
            RecordError, match=r"a text, result\['said'\], made of a value that is being"
        ):
            tg.compile(f)(X, write)


def test_a_tensor_can_be_printed_while_it_is_recorded(capsys: Any) -> None:
    @tg.compile
    def f(x):
        loss = np.sum(layer(x))
        print(loss)
        return loss.value

    layer = nn.Linear(3, 2, rng=0, dtype=np.float64)
    f(X)
    assert capsys.readouterr().out.startswith("Tensor(<stand-in for an array of shape ()")


def test_whole_numbers_are_rounded_as_without() -> None:
    f = tg.compile(lambda x: np.round(x, -2))
    for x in (np.array([149, 250, 351]), np.array([151, 50, -260])):
        np.testing.assert_array_equal(f(x), np.round(x, -2))


FAILING: dict[str, Any] = {
    "int of an array": lambda x: int(x),
    "float of an array": lambda x: float(x),
    "item of an array": lambda x: x.item(),
    "the truth of an array": lambda x: bool(x),
    "an index of floats": lambda x: range(x),
    "a list's entry": lambda x: [1, 2][x],
    "math": lambda x: math.sqrt(x),
    "a format": lambda x: f"{x:.2f}",
    "a hash of an array": lambda x: {x: 1},
    "a scalar's entry": lambda x: operator.setitem(np.sum(x), 0, 1.0),
    "a scalar's index": lambda x: operator.index(np.sum(x)),
    "an attribute that an array has not": lambda x: x.is_integer(),
    "round of an array": lambda x: round(x, 2),
}


@pytest.mark.parametrize("name", FAILING)
def test_what_fails_without_fails_alike(name: str) -> None:
    """Shape and dtype alone make it fail, in every run; so a function may well catch it."""

    def f(x):
        try:
            FAILING[name](x)
        except Exception as error:
            return x * (2 if isinstance(error, TypeError) else 3)
        return x

    np.testing.assert_array_equal(tg.compile(f)(X), f(X))


NAN = np.array([np.nan, 1.0])
CAUGHT: dict[str, Any] = {
    "int of an entry that may be NaN": lambda x: int(x[0]),
    "a hash of a scalar": lambda x: len({np.sum(x), np.sum(x)}),
    "a method of scalars": lambda x: np.sum(x).is_integer(),
}


@pytest.mark.parametrize("name", CAUGHT)
def test_what_hangs_on_entries_is_refused(name: str) -> None:
    def f(x):
        with suppress(Exception):
            return x * CAUGHT[name](x)
        return -x

    with pytest.raises(RecordError):
        tg.compile(f)(NAN)


def test_eager_where_stand_ins_are_not_enough() -> None:
    def f(x):
        return x * np.ndarray.sum(x)  # which takes real arrays alone

    run = tg.compile(f, fallback="eager")
    with pytest.warns(
        RuntimeWarning, match="cannot be recorded and runs as it is: descriptor 'sum'"
    ):
        np.testing.assert_array_equal(run(X), f(X))
    np.testing.assert_array_equal(run(X), f(X))
    with pytest.raises(TypeError, match="descriptor"):
        tg.compile(f)(X)


def test_the_sign_of_a_complex_zero() -> None:
    for number in (
        complex(-1, -0.0),
        complex(-0.0, 2),
        np.complex64(complex(-1, -0.0)),
        complex(-np.inf, np.nan),
    ):
        f = lambda x, number=number: np.angle(x * number)
        with np.errstate(invalid="ignore"):
            np.testing.assert_array_equal(tg.compile(f)(np.ones(2)), f(np.ones(2)))
