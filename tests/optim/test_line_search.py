"""Line search: the Armijo condition, what a step costs, and what a failure leaves behind."""

import tracemalloc

import numpy as np
import pytest
from support import stand_in

from thriftgrad.autodiff import Parameter
from thriftgrad.errors import ConfigError, DifferentiationError, LineSearchError
from thriftgrad.optim import LineSearch


def parameter(value, name="w"):
    return stand_in(value=np.array(value), grad=None, name=name)


def rosenbrock(p):
    """The banana valley, as its value and its gradient."""
    x, y = p.value

    def loss():
        x, y = p.value
        return (1 - x) ** 2 + 100 * (y - x * x) ** 2

    return loss, np.array([-2 * (1 - x) - 400 * x * (y - x * x), 200 * (y - x * x)])


@pytest.mark.parametrize("reduction", [0.5, 0.8])
def test_each_step_is_the_first_length_to_satisfy_armijo(reduction):
    w = parameter([-1.2, 1.0])
    search = LineSearch([w], reduction=reduction, decrease=0.1)
    for _ in range(30):
        at = w.value.copy()
        loss, gradient = rosenbrock(w)
        before, slope = loss(), float(gradient @ gradient)
        result = search.step(lambda loss=loss, g=gradient: (loss(), [g]), loss)

        def probe(t, at=at, gradient=gradient):
            return rosenbrock(parameter(at - t * gradient))[0]()

        lengths = [reduction**k for k in range(result.trials)]
        enough = [probe(t) <= before - 0.1 * t * slope for t in lengths]
        assert enough == [False] * (result.trials - 1) + [True]
        assert result.step == pytest.approx(lengths[-1])
        np.testing.assert_array_equal(w.value, at - result.step * gradient)
        assert result.loss == loss() < before
        assert result.gradient_norm == pytest.approx(np.sqrt(slope))


def test_a_quadratic_by_hand():
    # f = 2 w², w = 1, g = 4: t = 1 gives 18, t = 0.5 gives 2, t = 0.25 gives 0.
    w = parameter([1.0])
    result = LineSearch([w]).step(
        lambda: (2 * w.value[0] ** 2, [4 * w.value]), lambda: 2 * w.value[0] ** 2
    )
    assert result == (0.0, 0.25, 3, 4.0)


def test_a_trial_is_one_call_of_loss_and_gradients_are_computed_once():
    w, calls = parameter([1.0]), []

    def loss():
        calls.append("loss")
        return float(50 * w.value[0] ** 2)

    def both():
        calls.append("both")
        return 50 * w.value[0] ** 2, [100 * w.value]

    result = LineSearch([w]).step(both, loss)
    assert calls == ["both"] + ["loss"] * result.trials
    assert result.trials > 3


def test_gradients_may_be_left_on_the_parameters():
    w, frozen = parameter([3.0, 4.0]), parameter([1.0], "frozen")
    w.grad = np.array([100.0, 100.0])  # of an earlier pass: must not be added to

    def both():
        w.grad = 2 * w.value if w.grad is None else w.grad + 2 * w.value
        return np.array(float(w.value @ w.value)), None

    result = LineSearch([w, frozen]).step(both, lambda: w.value @ w.value)
    assert result.gradient_norm == 10
    assert w.value.tolist() == [0, 0]
    assert w.grad.tolist() == [6, 8]
    assert (frozen.value.tolist(), frozen.grad) == ([1], None)


def test_trials_record_nothing():
    w, recorded = Parameter(np.array([3.0, 4.0]), name="w"), []

    def loss():
        value = np.sum(10.0 * w**2)
        recorded.append(value.node is not None)
        return value

    def both():
        value = loss()
        value.backward()
        return value, None

    result = LineSearch([w]).step(both, loss)
    assert recorded == [True] + [False] * result.trials
    assert w.grad.tolist() == [60, 80]
    before = w.value.copy()
    with pytest.raises(DifferentiationError, match="no_grad"):
        LineSearch([w]).step(both, lambda: both()[0])
    assert w.value.tobytes() == before.tobytes()


def test_a_gradient_that_is_the_parameter_itself():
    w = parameter([2.0, -6.0])
    half_square = lambda: 0.5 * float(w.value @ w.value)
    result = LineSearch([w], start=4.0).step(lambda: (half_square(), [w.value]), half_square)
    assert w.value.tolist() == [0, 0]
    assert (result.step, result.trials) == (1, 3)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_in_place_and_of_one_type(dtype):
    w = parameter(np.array([1.0, 2.0], dtype))
    array = w.value
    LineSearch([w], start=0.1).step(lambda: (w.value @ w.value, [2 * w.value]), lambda: 0.0)
    assert w.value is array
    np.testing.assert_array_equal(array, np.array([1, 2], dtype) - 0.1 * np.array([2, 4], dtype))
    assert array.dtype == dtype


def test_one_copy_of_the_parameters_and_no_more():
    w = parameter(np.ones(1_000_000, np.float32))
    gradient = np.ones_like(w.value)
    losses = iter([9.0, 9.0, 9.0, 9.0, -1e9])
    search = LineSearch([w])
    search.step(lambda: (1.0, [gradient]), lambda: -1e9)
    tracemalloc.start()
    try:
        during = []

        def loss():
            during.append(tracemalloc.get_traced_memory()[0])
            tracemalloc.reset_peak()
            return next(losses)

        search.step(lambda: (1.0, [gradient]), loss)
        after_first_trial = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(during) == 5
    for peak in (*during, after_first_trial):
        assert peak == pytest.approx(w.value.nbytes, rel=0.01)


def test_zero_gradient_is_convergence():
    w = parameter([1.0, 2.0])
    never = lambda: pytest.fail("no trial is needed")
    assert LineSearch([w]).step(lambda: (7.0, [np.zeros(2)]), never) == (7.0, 0.0, 0, 0.0)
    assert w.value.tolist() == [1, 2]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_trial_that_is_not_finite_is_too_long(bad):
    w = parameter([1.0])
    losses = iter([bad, bad, 0.0])
    result = LineSearch([w]).step(lambda: (1.0, [np.ones(1)]), lambda: next(losses))
    assert (result.loss, result.step, result.trials) == (0.0, 0.25, 3)


def test_overshooting_makes_no_warnings():
    w = parameter(np.array([3.0], np.float32))
    loss = lambda: np.exp(np.square(w.value))[0]
    both = lambda: (loss(), [2 * w.value * loss()])
    result = LineSearch([w], start=1e36, trials=200).step(both, loss)
    assert result.loss < np.exp(9)


def random_start():
    rng = np.random.default_rng(0)
    return [
        parameter(rng.normal(size=3).astype(np.float32), "a"),
        parameter(rng.normal(size=(2, 2)), "b"),
    ]


def test_an_exhausted_search_says_so_and_restores_every_bit():
    some = random_start()
    before = [p.value.tobytes() for p in some]
    gradients = [np.ones_like(p.value) for p in some]
    with pytest.raises(LineSearchError) as raised:
        LineSearch(some, start=3.0, trials=4).step(lambda: (1.5, gradients), lambda: 2.5)
    for part in ("4 trials", "from 3 down to 0.375", "1.5 at the start", "2.5 at the last trial"):
        assert part in str(raised.value)
    assert [p.value.tobytes() for p in some] == before
    assert [p.grad for p in some] == gradients


def test_a_loss_that_raises_restores_every_bit():
    some = random_start()
    before = [p.value.tobytes() for p in some]
    gradients = [np.ones_like(p.value) for p in some]

    def loss():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        LineSearch(some).step(lambda: (1.5, gradients), loss)
    assert [p.value.tobytes() for p in some] == before


@pytest.mark.parametrize(
    ("returned", "error", "message"),
    [
        ((np.nan, [np.ones(2)]), LineSearchError, "the loss is nan at the start"),
        ((np.inf, [np.ones(2)]), LineSearchError, "the loss is inf at the start"),
        ((1.0, [np.array([1, np.nan])]), LineSearchError, "gradient of parameter 'w' has NaN"),
        ((1.0, [np.ones(3)]), ConfigError, r"shape \(3,\)"),
        ((1.0, [np.ones(2)] * 2), ConfigError, "list of 2; expected a list of 1"),
        ((1.0, np.ones(2)), ConfigError, "ndarray of 2; expected a list of 1"),
        ((1.0, None), ConfigError, "left none on .grad"),
        (1.0, ConfigError, r"returned a float; expected the pair"),
        ((np.ones(2), [np.ones(2)]), ConfigError, "expected one real number"),
        (("1", [np.ones(2)]), ConfigError, "expected one real number"),
    ],
)
def test_a_bad_start_stops_at_once(returned, error, message):
    w = parameter([1.0, 2.0])
    with pytest.raises(error, match=message):
        LineSearch([w]).step(lambda: returned, lambda: pytest.fail("no trial should be made"))
    assert w.value.tolist() == [1, 2]


def test_swapped_callables_are_noticed():
    w = parameter([1.0])
    both = lambda: (1.0, [np.ones(1)])
    with pytest.raises(ConfigError, match="the loss is"):
        LineSearch([w]).step(both, both)
    assert w.value.tolist() == [1]


def test_a_read_only_parameter_is_refused():
    w = parameter([1.0])
    w.value.flags.writeable = False
    with pytest.raises(ConfigError, match="read-only"):
        LineSearch([w]).step(lambda: (1.0, [np.ones(1)]), lambda: 0.0)


@pytest.mark.parametrize(
    "options",
    [
        {"start": 0.0},
        {"start": float("inf")},
        {"reduction": 1.0},
        {"reduction": 0},
        {"decrease": 0.0},
        {"decrease": 1.0},
        {"trials": 0},
        {"trials": 2.5},
    ],
)
def test_options_are_checked(options):
    with pytest.raises(ConfigError, match=f"{next(iter(options))} = "):
        LineSearch([parameter([1.0])], **options)
