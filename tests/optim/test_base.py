"""Laws that hold of every optimiser at once, the object around the rules, and clipping."""

import copy
import json

import numpy as np
import pytest
from support import stand_in

from thriftgrad.autodiff import Parameter
from thriftgrad.errors import ConfigError, SnapshotError
from thriftgrad.optim import SGD, Adam, AdamW, clip_by_norm, schedules

MAKERS = {
    "plain": lambda p, **o: SGD(p, 0.1, weight_decay=0.01, **o),
    "momentum": lambda p, **o: SGD(p, 0.1, momentum=0.9, **o),
    "nesterov": lambda p, **o: SGD(p, 0.1, momentum=0.9, nesterov=True, weight_decay=0.01, **o),
    "adam": lambda p, **o: Adam(p, 0.01, weight_decay=0.1, **o),
    "adamw": lambda p, **o: AdamW(p, schedules.cosine(0.05, steps=8), **o),
}
every_optimiser = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
SHAPES = ((3, 2), (4,), (), (0, 2))


def parameters(dtype=np.float64, seed=0):
    rng = np.random.default_rng(seed)
    return [
        stand_in(value=np.array(rng.normal(size=shape), dtype), grad=None, name=f"p{i}")
        for i, shape in enumerate(SHAPES)
    ]


def fill_gradients(some, seed):
    rng = np.random.default_rng(seed)
    for p in some:
        p.grad = np.array(rng.normal(size=p.value.shape), p.value.dtype)


def values(some):
    return [p.value.tobytes() for p in some]


def run(optimizer, first, last):
    for k in range(first, last):
        fill_gradients(optimizer.parameters, seed=k)
        if k % 3 == 1:
            optimizer.parameters[0].grad = None
        optimizer.step()


# ---- laws of the pure rules


@every_optimiser
def test_rules_change_nothing_they_are_given(make):
    optimizer = make(parameters())
    rng = np.random.default_rng(3)
    value, gradient = rng.normal(size=5), rng.normal(size=5)
    _, state = optimizer.update(value, gradient, optimizer.init(value), 0.1, 0)
    given = (value, gradient, state)
    before = copy.deepcopy(given)
    for array in (value, gradient, *state.values()):
        array.flags.writeable = False
    first = optimizer.update(*given, 0.1, 1)
    second = optimizer.update(*given, 0.1, 1)
    for kept, now in zip(before[:2], given[:2], strict=True):
        np.testing.assert_array_equal(kept, now)
    assert {k: v.tobytes() for k, v in state.items()} == {
        k: v.tobytes() for k, v in before[2].items()
    }
    assert first[0].tobytes() == second[0].tobytes()
    assert first[1].keys() == state.keys()
    for new in (first[0], *first[1].values()):
        assert not any(np.shares_memory(new, old) for old in (value, gradient, *state.values()))


@every_optimiser
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_rules_keep_the_type_and_shape(make, dtype, shape):
    optimizer = make(parameters())
    value = np.ones(shape, dtype)
    state = optimizer.init(value)
    for step in range(3):
        value, state = optimizer.update(value, np.ones(shape, dtype), state, 0.1, step)
        for array in (value, *state.values()):
            assert (array.dtype, array.shape) == (dtype, shape)


@every_optimiser
@pytest.mark.parametrize("rate", [np.float64(0.1), lambda step: np.float64(0.1)])
def test_a_strong_scalar_rate_does_not_widen(make, rate):
    some = parameters(np.float32)
    optimizer = make(some, clip_norm=np.float64(1.0))
    optimizer.lr = rate
    assert type(optimizer.lr) is float
    run(optimizer, 0, 3)
    arrays = [*(p.value for p in some), *optimizer.state_dict()["arrays"].values()]
    assert {array.dtype for array in arrays} == {np.dtype(np.float32)}


class Recorded(np.lib.mixins.NDArrayOperatorsMixin):
    """An array of no library's: it allows what goes through NumPy's two protocols, and no more."""

    def __init__(self, array):
        self.array, self.dtype, self.shape = array, array.dtype, array.shape

    def __array_ufunc__(self, ufunc, method, *inputs, **options):
        assert method == "__call__"
        return Recorded(ufunc(*(getattr(x, "array", x) for x in inputs), **options))

    def __array_function__(self, func, types, args, kwargs):
        return Recorded(func(*(getattr(x, "array", x) for x in args), **kwargs))

    def __array__(self, *_, **__):
        raise AssertionError("coerced")

    def __bool__(self):
        raise AssertionError("branched on a value")


@every_optimiser
def test_rules_run_on_stand_in_arrays(make):
    optimizer = make(parameters())
    value, gradient = np.array([1.0, -2.0]), np.array([0.5, 3.0])
    plain = (value, optimizer.init(value))
    stand_in = (Recorded(value), optimizer.init(Recorded(value)))
    for step in range(3):
        plain = optimizer.update(plain[0], gradient, plain[1], 0.1, step)
        stand_in = optimizer.update(stand_in[0], Recorded(gradient), stand_in[1], 0.1, step)
    assert isinstance(stand_in[0], Recorded)
    assert stand_in[0].array.tobytes() == plain[0].tobytes()


# ---- the object around a rule


@every_optimiser
def test_step_is_the_rule_applied_in_place(make):
    some = parameters()
    arrays, views = [p.value for p in some], [p.value[...] for p in some]
    optimizer = make(some)
    expected = [(p.value.copy(), optimizer.init(p.value)) for p in some]
    for k in range(3):
        lr = optimizer.lr
        fill_gradients(some, seed=k)
        expected = [
            optimizer.update(value, p.grad, state, lr, k)
            for p, (value, state) in zip(some, expected, strict=True)
        ]
        optimizer.step()
    assert optimizer.steps == 3
    for p, array, view, (value, _) in zip(some, arrays, views, expected, strict=True):
        assert p.value is array
        np.testing.assert_array_equal(array, value)
        np.testing.assert_array_equal(view, value)


def test_a_rule_of_ones_own_is_not_passed_over():
    class Upwards(SGD):
        def update(self, value, gradient, state, lr, step):
            return value + lr * gradient, {}

    class Onwards(Upwards):
        pass

    class Up:
        update = Upwards.update

    class MixedIn(Up, SGD):
        pass

    for kind in (Upwards, Onwards, MixedIn):
        w = Parameter(np.array([1.0, 2.0]), name="w")
        w.grad = np.array([1.0, -1.0])
        kind([w], lr=0.5).step()
        assert w.value.tolist() == [1.5, 1.5]


@every_optimiser
@pytest.mark.parametrize("start", [0, 1])
def test_a_gradient_may_be_the_parameters_own_array(make, start):
    """As is that of ½‖p‖², or lie over it in part."""
    array = np.array([1.0, -2.0, 3.0, 0.5])
    one = make([stand_in(value=array[:3], grad=array[start : start + 3], name="w")])
    other = make([stand_in(value=array[:3].copy(), grad=array[start : start + 3].copy(), name="w")])
    for optimizer in (one, other):
        optimizer.step()
    assert values(one.parameters) == values(other.parameters)
    for ours, theirs in zip(one.state, other.state, strict=True):
        assert {k: v.tolist() for k, v in ours.items()} == {
            k: v.tolist() for k, v in theirs.items()
        }


@every_optimiser
def test_apply_and_end_step_make_one_step(make):
    whole, parts = parameters(), parameters()
    one, other = make(whole), make(parts)
    for k in range(4):
        fill_gradients(whole, k)
        one.step()
        fill_gradients(parts, k)
        for p in reversed(parts):
            other.apply(p)
            p.grad = None
        other.end_step()
    assert values(whole) == values(parts)
    assert (one.steps, one.updates) == (other.steps, other.updates)


def test_apply_is_hard_to_misuse():
    some = parameters()
    optimizer = SGD(some, 0.1)
    with pytest.raises(ConfigError, match=r"end_step\(\) without an update"):
        optimizer.end_step()
    with pytest.raises(ConfigError, match="gradient of parameter 'p0' is a NoneType"):
        optimizer.apply(some[0])
    with pytest.raises(ConfigError, match="not one of this optimiser's 4 parameters"):
        optimizer.apply(parameters()[0])
    fill_gradients(some, 0)
    optimizer.apply(some[0])
    with pytest.raises(ConfigError, match="'p0' was updated in this step already"):
        optimizer.apply(some[0])
    for call in (optimizer.step, optimizer.state_dict, lambda: optimizer.load_state_dict({})):
        with pytest.raises(ConfigError, match="middle of a step: 1 parameters"):
            call()
    with pytest.raises(ConfigError, match="joint norm needs all gradients"):
        SGD(some, 0.1, clip_norm=1.0).apply(some[0])


@pytest.mark.parametrize("make", [lambda p: SGD(p, lr=0.1, momentum=0.9), lambda p: AdamW(p)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_pieces_of_a_large_parameter_are_updated_to_the_same_bits(make, order):
    rng = np.random.default_rng(0)
    start = rng.normal(size=(601, 257)).astype(np.float32)  # no whole number of pieces
    gradients = rng.normal(size=(3, 601, 257)).astype(np.float32)

    def trained(in_pieces):
        parameter = Parameter(np.array(start, order=order), name="w")
        optimizer = make([parameter])
        seen = []
        rule = optimizer.update_in_place
        optimizer.elementwise = in_pieces
        optimizer.update_in_place = lambda v, *rest: seen.append(v.size) or rule(v, *rest)
        for gradient in gradients:
            parameter.grad = np.array(gradient, order=order)
            optimizer.step()
        return parameter.value, optimizer.state[0], seen

    value, state, seen = trained(in_pieces=True)
    expected, expected_state, _ = trained(in_pieces=False)
    assert sum(seen) == 3 * start.size
    assert (max(seen) < start.size) == (order == "C")
    np.testing.assert_array_equal(value, expected)
    for key, array in expected_state.items():
        np.testing.assert_array_equal(state[key], array)


def test_step_skips_parameters_without_gradient():
    some = parameters()
    before = values(some)
    optimizer = SGD(some, 0.1)
    some[1].grad = np.ones(4)
    optimizer.step()
    assert [a != b for a, b in zip(before, values(some), strict=True)] == [
        False,
        True,
        False,
        False,
    ]


def test_step_without_any_gradient():
    with pytest.raises(ConfigError, match=r"none of the 4 parameters .* call backward\(\)"):
        SGD(parameters(), 0.1).step()


def _read_only(p):
    p.value.flags.writeable = False


def _reshaped(p):
    p.value, p.grad = np.ones(7), np.ones(7)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (
            lambda p: setattr(p, "grad", np.ones(5)),
            r"shape \(5,\) and type float64; expected \(4,\)",
        ),
        (lambda p: setattr(p, "grad", np.ones(4, np.float32)), "type float32; .* float64"),
        (lambda p: setattr(p, "grad", [1.0] * 4), "gradient of parameter 'p1' is a list"),
        (lambda p: setattr(p, "grad", 1.0), "is a float; expected an array"),
        (lambda p: setattr(p, "grad", Recorded(np.ones(4))), "is a Recorded; expected an array"),
        (_read_only, "parameter 'p1' holds a read-only array"),
        (_reshaped, r"now has shape \(7,\) .* made for \(4,\)"),
    ],
)
@every_optimiser
def test_a_failing_step_changes_nothing(make, fault, message):
    some = parameters()
    optimizer = make(some)
    run(optimizer, 0, 1)
    fill_gradients(some, 1)
    fault(some[1])
    before = values(some), repr(optimizer.state_dict())
    with pytest.raises(ConfigError, match=message):
        optimizer.step()
    assert (values(some), repr(optimizer.state_dict())) == before


def test_shared_weights_are_kept_once():
    a, b, *_ = parameters()
    optimizer = SGD((p for p in (a, b, a)), 1.0)
    assert len(optimizer.parameters) == 2
    before = a.value.copy()
    a.grad = np.ones_like(a.value)
    optimizer.step()
    np.testing.assert_array_equal(a.value, before - 1)


def test_equal_parameters_are_not_shared_ones():
    assert len(SGD([parameters()[0], parameters()[0]], 1.0).parameters) == 2


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "the list of parameters is empty"),
        (parameters()[0], r"parameters is a SimpleNamespace; expected a list .* \[parameter\]"),
        (3, "parameters is a int"),
        ([np.ones(3)], r"parameters\[0\] is a ndarray; .*wrap an array as Parameter"),
        ({"w": parameters()[0]}, r"parameters\[0\] is a str"),
        ([stand_in(value=[1.0], grad=None, name="w")], "'w' holds a list"),
        ([stand_in(value=np.ones(2, int), grad=None, name="")], "number 0 holds int64"),
    ],
)
def test_what_is_not_a_parameter_is_named(given, message):
    with pytest.raises(ConfigError, match=message):
        SGD(given, 0.1)


@pytest.mark.parametrize("lr", [-0.1, float("inf"), float("nan"), "0.1", None, True])
def test_lr_is_checked(lr):
    with pytest.raises(ConfigError, match="lr = "):
        SGD(parameters(), lr)
    optimizer = SGD(parameters(), 0.1)
    with pytest.raises(ConfigError, match="lr = "):
        optimizer.lr = lr
    assert optimizer.lr == 0.1


def test_zero_grad():
    some = parameters()
    fill_gradients(some, 0)
    SGD(some, 0.1).zero_grad()
    assert [p.grad for p in some] == [None] * 4


@every_optimiser
def test_real_parameters_are_trained_to_the_least_squares_solution(make):
    rng = np.random.default_rng(0)
    A, target = rng.normal(size=(20, 2)), np.array([0.3, -0.2])
    w = Parameter(np.zeros(2), name="w")
    optimizer = make([w], clip_norm=5.0)
    optimizer.lr = 0.05
    losses = []
    for _ in range(60):
        loss = np.mean((A @ w - A @ target) ** 2)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.05 * losses[0]
    with pytest.raises(ConfigError, match=r"parameters\[0\] is a Tensor; expected a Parameter"):
        make([w * 2.0])


# ---- saving and resuming


@every_optimiser
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_resuming_is_bit_identical_to_never_stopping(make, dtype):
    straight = parameters(dtype)
    one = make(straight, clip_norm=2.0)
    run(one, 0, 7)

    stopped = parameters(dtype)
    first = make(stopped, clip_norm=2.0)
    run(first, 0, 4)
    saved = first.state_dict()
    arrays = saved.pop("arrays")
    saved = {**json.loads(json.dumps(saved)), "arrays": arrays}
    kept = [p.value.copy() for p in stopped]
    run(first, 4, 6)  # what was saved must not follow

    resumed = parameters(dtype, seed=99)
    for p, value in zip(resumed, kept, strict=True):
        p.value[...] = value
    second = make(resumed, clip_norm=2.0)
    second.load_state_dict(saved)
    run(second, 4, 7)

    assert values(resumed) == values(straight)
    assert repr(second.state_dict()) == repr(one.state_dict())


def test_a_rate_set_along_the_way_is_restored():
    optimizer = SGD(parameters(), 0.1)
    optimizer.lr = 0.025
    other = SGD(parameters(), 0.1)
    other.load_state_dict(optimizer.state_dict())
    assert other.lr == 0.025


def test_parameters_go_by_name_or_else_by_position():
    a, b = parameters()[:2]
    saved = SGD([a, b], 0.1, momentum=0.9)
    saved.state[1]["momentum"] += 5
    reordered = SGD([b, a], 0.1, momentum=0.9)
    reordered.load_state_dict(saved.state_dict())
    assert reordered.state[0]["momentum"].tolist() == [5, 5, 5, 5]
    for names in (("", "b"), ("same", "same"), ("", "0")):
        a.name, b.name = names
        assert list(saved.state_dict()["arrays"]) == ["0.momentum", "1.momentum"]


def _edited(**changes):
    def edit(saved):
        for path, value in changes.items():
            *parents, last = path.split("__")
            inner = saved
            for parent in parents:
                inner = inner[parent]
            last = last.replace("_of_", ".")
            if value is None:
                del inner[last]
            else:
                inner[last] = value

    return edit


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (_edited(steps=None), r"missing \['steps'\]"),
        (_edited(extra=1), r"unexpected \['extra'\]"),
        (_edited(steps=-1), "steps in the state of SGD is -1; expected a count"),
        (_edited(steps=1.5), "steps .* 1.5"),
        (_edited(updates__p1=None), r"updates of SGD does not fit: missing \['p1'\]"),
        (_edited(updates__p1="x"), "p1 in the state of SGD is 'x'"),
        (_edited(arrays__p1_of_momentum=None), r"missing \['p1.momentum'\]"),
        (_edited(arrays__p9_of_momentum=np.ones(1)), r"unexpected \['p9.momentum'\]"),
        (_edited(arrays__p3_of_momentum=np.ones(2)), r"p3.momentum .* shape \(2,\)"),
        (_edited(arrays__p3_of_momentum=np.ones((0, 2), np.float32)), "p3.momentum .* float32"),
        (_edited(arrays__p3_of_momentum=[]), "p3.momentum is a list"),
        (_edited(arrays=3), "arrays of SGD is a int; expected a dict"),
        (_edited(config__class="Adam"), "that of a Adam; expected a SGD"),
        (_edited(config__momentum=0.5), "momentum = 0.5 and is now built with 0.9"),
        (_edited(config__lr={"schedule": "constant", "lr": 0.1}), "saved with lr = .*schedule"),
        (_edited(config__lr=-1.0), "lr = -1.0"),
    ],
)
def test_a_state_that_does_not_fit_changes_nothing(edit, message):
    source = SGD(parameters(), 0.3, momentum=0.9)
    run(source, 0, 3)
    saved = source.state_dict()
    edit(saved)
    optimizer = SGD(parameters(), 0.1, momentum=0.9)
    run(optimizer, 5, 6)
    before = repr(optimizer.state_dict())
    with pytest.raises(SnapshotError, match=message):
        optimizer.load_state_dict(saved)
    assert repr(optimizer.state_dict()) == before


def test_the_state_of_another_class_is_refused():
    with pytest.raises(SnapshotError, match=r"Adam.*AdamW|AdamW.*Adam"):
        AdamW(parameters(), 0.1).load_state_dict(Adam(parameters(), 0.1).state_dict())


def test_another_schedule_is_refused():
    saved = SGD(parameters(), schedules.cosine(0.1, 10)).state_dict()
    with pytest.raises(SnapshotError, match="build it as saved, load the state, then change"):
        SGD(parameters(), schedules.cosine(0.1, 20)).load_state_dict(saved)


# ---- clipping


def test_clipping_shortens_to_the_norm_and_keeps_the_direction():
    rng = np.random.default_rng(0)
    gradients = [rng.normal(size=shape) for shape in SHAPES]
    flat = np.concatenate([g.ravel() for g in gradients])
    before = [g.copy() for g in gradients]
    clipped, norm = clip_by_norm(gradients, 0.5)
    assert norm == pytest.approx(np.linalg.norm(flat), rel=1e-14)
    out = np.concatenate([g.ravel() for g in clipped])
    np.testing.assert_allclose(out, flat * 0.5 / np.linalg.norm(flat), rtol=1e-14)
    for g, kept, c in zip(gradients, before, clipped, strict=True):
        np.testing.assert_array_equal(g, kept)
        assert c.shape == g.shape


def test_short_gradients_come_back_bit_for_bit():
    g = np.random.default_rng(0).normal(size=5).astype(np.float32)
    clipped, _ = clip_by_norm([g], 100.0)
    assert clipped[0].tobytes() == g.tobytes()
    clipped, norm = clip_by_norm([np.zeros(3)], 1.0)
    assert (clipped[0].tolist(), norm) == ([0, 0, 0], 0)


@pytest.mark.parametrize(
    ("size", "dtype"), [(1e30, np.float32), (1e-30, np.float32), (1e300, float), (1e-300, float)]
)
def test_the_norm_neither_overflows_nor_underflows(size, dtype):
    gradients = [np.full(3, size, dtype), np.full((1, 1), size, dtype)]
    clipped, norm = clip_by_norm(gradients, size)
    assert norm == pytest.approx(2 * size, rel=1e-6)
    for c in clipped:
        assert c.dtype == dtype
        np.testing.assert_allclose(c, size / 2, rtol=1e-6)


def test_each_gradient_keeps_its_own_type():
    clipped, _ = clip_by_norm([np.ones(2, np.float32), np.ones(2, np.float64)], 0.1)
    assert [c.dtype for c in clipped] == [np.float32, np.float64]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_bad_entry_stays_visible_everywhere(bad):
    clipped, norm = clip_by_norm([np.array([1e30, bad], np.float32), np.ones(2)], 1.0)
    assert not np.isfinite(norm)
    assert all(np.isnan(c).all() for c in clipped)


@pytest.mark.parametrize("max_norm", [0, -1.0, float("nan"), float("inf"), None])
def test_max_norm_is_checked(max_norm):
    with pytest.raises(ConfigError, match="max_norm"):
        clip_by_norm([np.ones(2)], max_norm)
    with pytest.raises(ConfigError, match="list of gradients is empty"):
        clip_by_norm([], 1.0)


@every_optimiser
def test_clip_norm_is_clipping_and_then_a_step(make):
    inside, outside = parameters(), parameters()
    one, other = make(inside, clip_norm=0.7), make(outside)
    for k in range(3):
        fill_gradients(inside, k)
        fill_gradients(outside, k)
        given = [p.grad.copy() for p in inside]
        clipped, _ = clip_by_norm([p.grad for p in outside], 0.7)
        for p, gradient in zip(outside, clipped, strict=True):
            p.grad = gradient
        one.step()
        other.step()
        for p, gradient in zip(inside, given, strict=True):
            np.testing.assert_array_equal(p.grad, gradient)
    assert values(inside) == values(outside)
