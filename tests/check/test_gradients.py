"""Gradients against differences: what is right passes, what is wrong does not, whatever the function."""

import numpy as np
import pytest
from check.hand_written import ACTIVATIONS, Network, arguments
from hypothesis import given, settings
from hypothesis import strategies as st

import thriftgrad as tg
from thriftgrad import check, nn
from thriftgrad.errors import ConfigError, DifferentiationError, NonFiniteError, ThriftgradError


def test_no_false_alarm_over_a_thousand_networks():
    unsure = blocks = 0
    for seed in range(1000):
        rng = np.random.default_rng([seed, 1])
        activation = list(ACTIVATIONS)[seed % 4]
        network = Network(activation, output=bool(rng.integers(2)))
        sizes = tuple(rng.integers(1, 5, size=rng.integers(2, 4)))
        args = arguments(seed, sizes, int(rng.integers(1, 6)), 10 ** rng.uniform(-2, 1))
        analytic = network.backward if seed % 8 else None
        report = check.gradients(network.loss, args, analytic=analytic, rng=seed)
        assert report.ok, f"seed {seed}\n{report}"
        unsure += sum(block.verdict == "unsure" for block in report.blocks)
        blocks += len(report.blocks)
    # Saturated networks have gradients of 1e-13, which double precision cannot difference.
    assert unsure < 0.01 * blocks


def softmax_loss(w, x):
    z = x @ w
    z = z - z.max(axis=1, keepdims=True)
    return -np.mean((z - np.log(np.exp(z).sum(axis=1, keepdims=True)))[:, 0])


def test_no_false_alarm_where_a_softmax_is_saturated():
    """Slopes of 1e-30 that vanish beside the numbers on the way, so that the values do not move."""
    args = (np.array([[1.0, -1.0], [0.0, 0.5]]), np.array([[30.0, -20.0]]))
    check.gradients(softmax_loss, args).raise_if_wrong()
    for seed in range(300):
        rng = np.random.default_rng([seed, 2])
        inputs, classes, batch = rng.integers(2, 5, 3)
        w = 10 ** rng.uniform(0, 2) * rng.normal(size=(inputs, classes))
        report = check.gradients(softmax_loss, (w, rng.normal(size=(batch, inputs))), rng=seed)
        assert report.ok, f"seed {seed}\n{report}"


def test_a_wrong_gradient_where_nothing_changes():
    relu = lambda x: np.sum(np.maximum(x, 0))
    report = check.gradients(relu, (np.array([-3.0, 2.0]),), analytic=np.array([1e-9, 1.0]))
    assert report.blocks[0].wrong == 1


def test_what_a_block_says():
    x = np.array([[1.0, 2.0], [3.0, 4.0]])
    wrong = 2 * x
    wrong[1, 0] += 0.5
    (block,) = check.gradients(lambda x: np.sum(x**2), (x,), analytic=wrong).blocks
    assert (block.name, block.shape, block.entries, block.checked) == ("x", (2, 2), 4, 4)
    assert block.worst.index == (1, 0)
    assert block.worst.analytic == 6.5
    assert block.worst.numeric == pytest.approx(6.0)
    assert block.worst.difference == pytest.approx(0.5)
    assert block.wrong == 1
    assert block.total_difference == pytest.approx(0.5)
    assert block.max_relative == pytest.approx(0.5 / 12.5)
    assert block.mean_relative == pytest.approx(0.5 / 12.5 / 4)
    norms = np.linalg.norm(wrong) + np.linalg.norm(2 * x)
    assert block.difference == pytest.approx(0.5 / norms)
    assert block.verdict == "wrong"


def test_relative_differences_of_what_is_wrong():
    """Entries that fail are not excused by how badly they could be measured."""
    f = lambda x: 1e12 + np.sum(np.abs(x) ** 2)
    x = np.array([1.0, 2.0])
    (block,) = check.gradients(f, (x,), analytic=np.array([2.0, -4.0])).blocks
    assert block.wrong == 1
    assert block.max_relative == pytest.approx(1.0, rel=1e-3)
    assert block.mean_relative == pytest.approx(0.5, rel=1e-2)


@pytest.mark.parametrize("size", [1e-3, 3e-6])
def test_small_mistakes_are_seen(size):
    x = np.linspace(0.5, 2.0, 7)
    g = np.exp(x)
    g[3] *= 1 + size
    report = check.gradients(lambda x: np.sum(np.exp(x)), (x,), analytic=g)
    assert report.blocks[0].wrong == 1
    assert check.gradients(lambda x: np.sum(np.abs(np.exp(x))), (x,), analytic=g).ok is False


FUNCTIONS = {
    "a polynomial": lambda x: np.sum(x**3 - 2 * x),
    "products": lambda x: np.prod(x) + x[0] * x[-1],
    "a quotient": lambda x: np.sum(1 / (1 + x**2)),
    "quick waves": lambda x: np.sum(np.sin(300 * x)),
    "steep": lambda x: np.sum(np.exp(20 * x)),
    "logarithms near their edge": lambda x: np.sum(np.log(np.abs(x) + 1e-6)),
    "large plus small": lambda x: 1e8 + np.sum(np.tanh(x)),
    "flat": lambda x: 0.0 * np.sum(x),
    "small": lambda x: 1e-30 * np.sum(np.cosh(x)),
    "large": lambda x: 1e30 * np.sum(np.cosh(x)),
    "a choice": lambda x: np.sum(np.where(x > 0.3, x**2, -x)),
    "sorting": lambda x: np.sum(np.sort(x) * np.arange(x.size)),
    "norm": lambda x: np.sqrt(np.sum(x**2)),
}


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS.keys())
@pytest.mark.parametrize("scale", [1e-6, 1.0, 5.0])
def test_functions_of_many_kinds(function, scale):
    for seed in range(5):
        x = scale * np.random.default_rng(seed).normal(size=5)
        if np.isfinite(function(x)):
            check.gradients(function, (x,), rng=seed).raise_if_wrong()


@settings(max_examples=60, deadline=None)
@given(
    x=st.lists(st.floats(-100, 100, allow_subnormal=False), min_size=1, max_size=4),
    name=st.sampled_from(["tanh", "sin", "arctan", "square", "expm1", "log1p", "abs"]),
)
def test_any_point(x, name):
    function = getattr(np, name)
    inner = (lambda x: np.square(x)) if name == "log1p" else (lambda x: x)
    bound = 1.0 if name != "expm1" else 0.1
    f = lambda x: np.sum(function(inner(x * bound)))
    assert check.gradients(f, (np.array(x),)).ok


def test_kinks_are_told_apart():
    weights = np.array([1.0, 2.0, -3.0])
    f = lambda x: np.sum(np.maximum(x, 0) * weights)
    x = np.array([0.0, 1.0, 0.0])
    report = check.gradients(f, (x,), analytic=np.array([0.0, 2.0, 0.0]))
    assert report.ok
    (block,) = report.blocks
    assert [kink.index for kink in block.kinks] == [(0,), (2,)]
    assert block.kinks[0].numeric == pytest.approx(0.5)
    assert "kink at 2 entries" in str(report)
    assert block.checked == 3
    assert block.verdict == "ok"

    wrong = check.gradients(f, (x,), analytic=np.array([0.0, 2.5, 0.0]))
    assert wrong.blocks[0].wrong == 1
    assert len(wrong.blocks[0].kinks) == 2

    only = check.gradients(lambda x: np.abs(x), (0.0,))
    assert only.ok
    assert only.blocks[0].verdict == "kinks"


@pytest.mark.parametrize("distance", [1e-3, 1e-5, 1e-7, 1e-9])
def test_a_kink_close_by_is_none(distance):
    report = check.gradients(
        lambda x: np.sum(np.maximum(x, 0)), (np.array([distance, -distance, 1]),)
    )
    assert report.ok
    assert not report.blocks[0].kinks
    wrong = check.gradients(
        lambda x: np.sum(np.maximum(x, 0)),
        (np.array([distance, -distance, 1]),),
        analytic=np.ones(3),
    )
    assert [wrong.blocks[0].wrong, wrong.blocks[0].worst.index] == [1, (1,)]


def test_relu_networks_at_zero():
    """Zero images and zero biases put every unit on its kink, as at the start of a training."""
    model = nn.Sequential(nn.Linear(3, 4, rng=0), nn.relu, nn.Linear(4, 2, rng=1))
    x, y = np.zeros((2, 3), np.float32), np.array([0, 0])
    report = check.gradients(lambda m, x, y: nn.cross_entropy(m(x), y), (model, x, y))
    assert report.ok
    assert any(block.kinks for block in report.blocks)


def test_complex_steps_are_taken_where_they_are_right():
    x = np.array([0.3, -1.2])
    analytic = check.gradients(lambda x: np.sum(np.exp(x) * np.sin(x)), (x,))
    assert analytic.blocks[0].method == "complex step"
    assert analytic.blocks[0].difference < 1e-15
    for f in (
        lambda x: np.sum(np.abs(x) ** 3),
        lambda x: np.sum(np.real(x) ** 2),
        lambda x: np.sum(x * np.conj(x)),
        lambda x: np.sum(nn.sigmoid(x)),
    ):
        report = check.gradients(f, (x,))
        assert report.ok
        assert report.blocks[0].method == "differences"


def test_trees_and_numbers():
    args = ({"b": 0.5, "w": [np.ones((2, 3)), (np.float64(2.0), np.ones(()))]}, np.ones(2))

    def f(p, x):
        w, (s, t) = p["w"]
        return np.sum(np.tanh(x @ w) * s) * t + p["b"] ** 2

    report = check.gradients(f, args, argnums=(0, 1))
    assert report.ok
    names = [block.name for block in report.blocks]
    assert names == ["p['b']", "p['w'][0]", "p['w'][1][0]", "p['w'][1][1]", "x"]
    assert report.blocks[0].worst.index == ()


def test_complex_arguments():
    z = np.array([1 + 2j, -0.5j])
    f = lambda z: np.sum(np.abs(z) ** 2 + np.real(z**3))
    report = check.gradients(f, (z,))
    assert report.ok
    assert report.blocks[0].checked == 4
    wrong = check.gradients(f, (z,), analytic=tg.grad(f)(z) + np.array([0, 0.1j]))
    assert wrong.blocks[0].worst.index == (1, "im")


def test_numpys_integers_pick_arguments():
    f = lambda x, y: np.sum(x * y)
    for argnums in (np.int64(1), [np.int64(0), 1], np.array([0, 1])):
        assert check.gradients(f, (np.ones(2), np.ones(2)), argnums=argnums).ok
    with pytest.raises(ConfigError, match=r"argnums=0\.0: expected a whole number"):
        check.gradients(f, (np.ones(2), np.ones(2)), argnums=0.0)


def test_models_are_checked_in_float64():
    model = nn.Sequential(nn.Linear(5, 6, rng=0), np.tanh, nn.Linear(6, 3, rng=1))
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(7, 5)).astype(np.float32), rng.integers(0, 3, 7)
    before = model.state_dict()
    report = check.gradients(lambda model, x, y: nn.cross_entropy(model(x), y), (model, x, y))
    assert report.ok
    assert report.blocks[0].name == "model.0.weight"
    assert max(block.difference for block in report.blocks) < 1e-8
    assert all((before[k] == v).all() for k, v in model.state_dict().items())
    assert all(p.dtype == np.float32 and p.grad is None for p in model.parameters())


def test_float32_gradients_get_the_room_they_need():
    x = np.random.default_rng(0).normal(size=50)
    f = lambda x: np.sum(np.tanh(x))
    g = tg.grad(f)(x.astype(np.float32))
    assert check.gradients(f, (x,), analytic=g).ok
    g[7] *= 1.01
    assert not check.gradients(f, (x,), analytic=g).ok


def test_functions_that_compute_in_float32():
    closed = lambda x: np.sum(np.tanh(x.astype(np.float32)))
    x = np.linspace(-1, 1, 6)
    assert check.gradients(closed, (x,)).ok
    assert not check.gradients(closed, (x,), analytic=2 * tg.grad(closed)(x)).ok
    inside = lambda x: np.sum(np.tanh(x.astype(np.float32)).astype(np.float64))
    for seed in range(10):
        assert check.gradients(inside, (np.random.default_rng(seed).normal(size=9),)).ok


def large():
    model = nn.Sequential(nn.Linear(100, 80, rng=0), nn.relu, nn.Linear(80, 10, rng=1))
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(20, 100)).astype(np.float32), rng.integers(0, 10, 20)
    return (lambda model, x, y: nn.cross_entropy(model(x), y)), (model, x, y)


def test_large_models_are_checked_along_directions():
    function, args = large()
    report = check.gradients(function, args).raise_if_wrong()
    first, *_, last = report.blocks
    assert first.directions == 4
    assert 4 <= first.checked <= 8
    assert last.directions == 0
    assert last.checked == 10
    assert report.evaluations < 500


def test_one_wrong_entry_among_thousands_is_found():
    function, args = large()

    def wrong(model, x, y):
        g = tg.grad(function)(model, x, y)
        weight = np.array(g[0].weight)
        weight[17, 42] += 0.01
        leaves, structure = tg.tree.flatten(g)
        return tg.tree.unflatten(structure, [weight, *leaves[1:]])

    report = check.gradients(function, args, analytic=wrong)
    assert [block.ok for block in report.blocks] == [False, True, True, True]
    assert report.blocks[0].worst.index == (17, 42)


def test_directions_on_request():
    report = check.gradients(lambda x: np.sum(x**2), (np.ones(30),), directions=2)
    assert report.blocks[0].directions == 2
    assert report.blocks[0].checked < 30


def test_second_order():
    f = lambda p: np.sum(np.tanh(p["a"]) * np.exp(p["b"]))
    p = {"a": np.linspace(-1, 1, 3), "b": np.linspace(0, 1, 3)}
    report = check.gradients(f, (p,), second_order=True)
    assert report.ok
    assert [b.name for b in report.blocks] == ["p['a']", "p['b']", "(H·v)p['a']", "(H·v)p['b']"]
    assert report.blocks[3].max_relative < 1e-8

    @tg.primitive
    def cube(x):
        return x**3

    # The first derivative is right, and what it is made of is not.
    tg.defvjp(cube, x=lambda g, x: g * 3 * tg.Tensor(x * 1.0).value ** 2)
    assert check.gradients(lambda x: np.sum(cube(x)), (np.ones(2),)).ok

    @tg.primitive
    def slope(x):
        return 3 * x**2

    tg.defvjp(cube, x=lambda g, x: g * slope(x))
    tg.defvjp(slope, x=lambda g, x: g * 5 * x)
    report = check.gradients(lambda x: np.sum(cube(x)), (np.ones(2),), second_order=True)
    assert [block.ok for block in report.blocks] == [True, False]


def test_a_rule_in_error_is_caught():
    @tg.primitive
    def softplus(x):
        return np.logaddexp(x, 0.0)

    tg.defvjp(softplus, x=lambda g, x: g / (1 + np.exp(x)))
    report = check.gradients(lambda x: np.sum(softplus(x)), (np.linspace(-1, 1, 4),))
    assert not report.ok
    with pytest.raises(check.GradientError, match="WRONG") as caught:
        report.raise_if_wrong()
    assert isinstance(caught.value, ThriftgradError)
    assert isinstance(caught.value, AssertionError)


def test_random_functions_are_recognised():
    model = nn.Sequential(nn.Linear(3, 8, rng=0), nn.Dropout(0.5, rng=0), nn.Linear(8, 1, rng=0))
    f = lambda model, x: np.sum(model(x))
    with pytest.raises(DifferentiationError, match=r"model\.eval\(\)"):
        check.gradients(f, (model, np.ones((2, 3))))
    assert check.gradients(f, (model.eval(), np.ones((2, 3)))).ok


def test_unsure_is_said():
    f = lambda x: 1e12 + np.sum(np.tanh(x))
    report = check.gradients(f, (np.linspace(-1, 1, 3),), analytic=np.full(3, 1e-5))
    assert report.ok or report.blocks[0].wrong
    noisy = check.gradients(
        lambda x: np.round(np.sum(x) * 1e-9, 9) + 1e9, (np.ones(2),), analytic=np.full(2, 1e-9)
    )
    assert noisy.ok
    assert noisy.blocks[0].verdict == "unsure"
    assert "unsure" in str(noisy)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
@pytest.mark.parametrize("directions", [None, 2])
def test_gradients_that_hold_anything(bad, directions):
    x = np.linspace(0.1, 1, 30)
    g = 2 * x
    g[4] = bad
    report = check.gradients(lambda x: np.sum(x**2), (x,), analytic=g, directions=directions)
    assert not report.ok
    assert report.blocks[0].worst.index == (4,)
    assert str(report)
    assert report._repr_html_()


def test_empty_blocks():
    p = {"a": np.empty((0, 3)), "b": np.ones(2)}
    for directions in (None, 2):
        f = lambda p: np.sum(p["a"]) + np.sum(p["b"] ** 2)
        report = check.gradients(f, (p,), directions=directions)
        assert report.ok
        assert report.blocks[0].worst is None
        assert str(report)


def writes(x):
    x += 1.0
    return np.sum(x**2)


@pytest.mark.parametrize(
    ("function", "args", "options", "error", "message"),
    [
        (lambda x: x**2, (np.ones(3),), {}, DifferentiationError, "shape"),
        (lambda x: None, (np.ones(3),), {"analytic": np.ones(3)}, DifferentiationError, "None"),
        (lambda x: np.log(-x), (1.0,), {"analytic": 1.0}, NonFiniteError, "nan"),
        (writes, (np.ones(3),), {"analytic": np.ones(3)}, DifferentiationError, "writes into"),
        (np.sum, (np.arange(3),), {}, DifferentiationError, "int64"),
        (np.sum, np.ones(3), {}, ConfigError, "tuple"),
        (np.sum, (np.ones(3),), {"argnums": 1}, ConfigError, "argnums=1"),
        (np.sum, ({},), {}, ConfigError, "no entries"),
        (np.sum, (np.ones(3),), {"tolerance": 0.0}, ConfigError, "tolerance"),
        (np.sum, (np.ones(3),), {"directions": 0}, ConfigError, "directions"),
        (np.sum, (np.ones(3),), {"analytic": {"a": 1.0}}, ConfigError, r"\['a'\]"),
        (
            np.sum,
            (np.ones(3),),
            {"analytic": np.ones(3), "second_order": True},
            ConfigError,
            "second_order",
        ),
    ],
)
def test_what_cannot_be_checked(function, args, options, error, message):
    with pytest.raises(error, match=message):
        check.gradients(function, args, **options)


def test_gradients_that_write_into_arguments():
    def step(x):
        g = 2 * x
        x -= 0.1 * g
        return g

    with pytest.raises(DifferentiationError, match="step writes"):
        check.gradients(lambda x: np.sum(x**2), (np.ones(3),), analytic=step)


def test_the_table_fits_a_terminal_and_a_notebook():
    params = {f"a_layer_with_a_very_long_name_{i}": np.ones((3, 3)) for i in range(3)}
    f = lambda params: sum(np.sum(p**2) for p in params.values())
    report = check.gradients(f, (params,), analytic={k: -2 * p for k, p in params.items()})
    assert max(map(len, str(report).splitlines())) <= 100
    html = report._repr_html_()
    assert html.count("<tr") == 4
    assert "<script" not in html
    assert "&lt;lambda&gt;" in html
    assert report.diagnosis in html
    import xml.dom.minidom

    xml.dom.minidom.parseString(f"<div>{html}</div>")


def test_the_same_seed_gives_the_same_report():
    function, args = large()
    assert str(check.gradients(function, args, rng=3)) == str(
        check.gradients(function, args, rng=3)
    )
