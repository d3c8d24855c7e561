"""Modules: finding parameters, saving and loading them, being a tree, copies, and repr."""

import collections
import copy
import pickle

import numpy as np
import pytest

import thriftgrad as tg
from thriftgrad import nn, optim, tree
from thriftgrad.errors import ConfigError, SnapshotError

X = np.random.default_rng(0).normal(size=(7, 4))
Y = np.array([0, 1, 2, 0, 1, 2, 0])


class Net(nn.Module):
    """Holds parameters in every way there is; does not call the constructor of Module."""

    def __init__(self, dtype=np.float64):
        self.hidden = nn.Linear(4, 5, rng=0, dtype=dtype)
        self.blocks = [nn.Linear(5, 5, rng=1, dtype=dtype), np.tanh]
        self.by_name = {"scale": tg.Parameter(np.full(5, 1.5, dtype)), "note": "plain", "n": 3}
        self.pair = (tg.Parameter(np.full(5, 0.1, dtype)), nn.Dropout(0, rng=3))
        self.out = nn.Sequential(nn.relu, nn.Linear(5, 3, rng=2, dtype=dtype))
        self.constant = np.ones(5, dtype)
        self.log = []

    def __call__(self, x):
        h = self.hidden(x)
        for block in self.blocks:
            h = block(h)
        h = h * self.by_name["scale"] * self.constant + self.pair[0]
        self.log.append(type(h))
        return self.out(self.pair[1](h))


PATHS = [
    "hidden.weight",
    "hidden.bias",
    "blocks.0.weight",
    "blocks.0.bias",
    "by_name.scale",
    "pair.0",
    "out.1.weight",
    "out.1.bias",
]


class Tied(nn.Module):
    """An autoencoder whose decoder uses the encoder's weight; a layer is held twice as well."""

    def __init__(self):
        self.encoder = nn.Linear(4, 4, rng=0, dtype=np.float64)
        self.again = self.encoder
        self.decoder_weight = self.encoder.weight
        self.shift = tg.Parameter(np.zeros(4))

    def __call__(self, x):
        return np.tanh(self.again(self.encoder(x))) @ self.decoder_weight.T + self.shift


def loss(model, x, y):
    return nn.cross_entropy(model(x), y)


def by_backward(model, *args, loss=loss):
    for p in model.parameters():
        p.grad = None
    value = loss(model, *args)
    value.backward()
    return value.value, {name: p.grad for name, p in model.named_parameters()}


# ---- finding


def test_parameters_are_found_in_order_of_assignment_and_named_by_path():
    net = Net()
    assert [name for name, _ in net.named_parameters()] == PATHS
    assert all(p is q for p, (_, q) in zip(net.parameters(), net.named_parameters(), strict=True))
    assert net.parameters()[0] is net.hidden.weight
    assert [p.name for p in net.parameters()] == PATHS
    assert net.parameter_count == sum(p.value.size for p in net.parameters()) == 83
    assert net.nbytes == 83 * 8


def test_names_of_a_sequential_are_positions():
    model = nn.Sequential(nn.Linear(4, 5), np.tanh, nn.Sequential(nn.Linear(5, 3)))
    assert list(model.state_dict()) == ["0.weight", "0.bias", "2.0.weight", "2.0.bias"]


def test_the_outermost_module_names_a_parameter_and_a_name_of_ones_own_stays():
    net = Net()
    net.by_name["scale"].name = "gain"
    net.out.parameters()
    assert net.out[1].weight.name == "1.weight"
    net.parameters()
    assert net.out[1].weight.name == "out.1.weight"
    net.out.parameters()
    assert net.out[1].weight.name == "out.1.weight"
    assert net.by_name["scale"].name == "gain"


def test_names_make_the_keys_of_an_optimiser_unique():
    model = nn.Sequential(nn.Linear(4, 5), np.tanh, nn.Linear(5, 3))
    state = optim.SGD(model.parameters(), lr=0.1, momentum=0.9).state_dict()
    assert list(state["updates"]) == ["0.weight", "0.bias", "2.weight", "2.bias"]


def test_what_is_held_twice_appears_once():
    tied = Tied()
    assert [n for n, _ in tied.named_parameters()] == ["encoder.weight", "encoder.bias", "shift"]
    assert tied.parameter_count == 4 * 4 + 4 + 4
    assert [type(m) for m in tied.modules()] == [Tied, nn.Linear]


def test_a_module_that_holds_itself_is_no_endless_walk():
    net = Net()
    net.out.parent = net
    assert [name for name, _ in net.named_parameters()] == PATHS
    assert tree.map(lambda p: p.value, net).out.parent.log is net.log


def test_two_parameters_under_one_path_are_refused():
    net = nn.Module()
    net.both = {1: tg.Parameter(np.ones(2)), "1": tg.Parameter(np.ones(2))}
    for ask in (net.parameters, net.state_dict, net.named_parameters):
        with pytest.raises(ConfigError, match=r"same path: both\.1"):
            ask()


def test_attributes_may_be_set_and_removed_at_any_time():
    net = Net()
    net.extra = tg.Parameter(np.ones(2))
    assert net.named_parameters()[-1][0] == "extra"
    del net.extra, net.hidden
    assert [name for name, _ in net.named_parameters()] == PATHS[2:]


# ---- training and evaluation


def test_train_and_eval_reach_every_module():
    net = Net()
    assert all(m.training for m in net.modules())
    assert len(net.modules()) == 6
    assert net.eval() is net
    assert not any(m.training for m in net.modules())
    assert net.train() is net
    assert net.pair[1].training


def test_evaluating_puts_back_what_was_even_after_an_error():
    net = Net()
    net.pair[1].eval()

    def fail():
        with net.evaluating() as inside:
            assert inside is net
            assert not any(m.training for m in net.modules())
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert net.training
    assert not net.pair[1].training


# ---- saving and loading


def test_a_state_goes_round_and_is_written_in_place():
    net, other = Net(), Net()
    for p in other.parameters():
        p.value = p.value + 1
    arrays = [p.value for p in other.parameters()]
    state = net.state_dict()
    other.load_state_dict(state)
    assert all(p.value is a for p, a in zip(other.parameters(), arrays, strict=True))
    for name, array in other.state_dict().items():
        np.testing.assert_array_equal(array, state[name])
    state["hidden.weight"][...] = 0
    assert net.hidden.weight.value.any()
    assert other.hidden.weight.value.any()


def test_a_state_may_come_in_another_precision_or_as_parameters():
    net, double = Net(np.float32), Net(np.float64)
    net.load_state_dict({name: 2 * array for name, array in double.state_dict().items()})
    assert net.hidden.weight.dtype == np.float32
    np.testing.assert_allclose(net.hidden.weight.value, 2 * double.hidden.weight.value, rtol=1e-6)
    net.load_state_dict(dict(double.named_parameters()))
    np.testing.assert_allclose(net.hidden.weight.value, double.hidden.weight.value, rtol=1e-6)


def test_a_state_in_error_names_all_that_is_wrong_and_changes_nothing():
    net = Net()
    before = net.state_dict()
    state = {name: array + 1 for name, array in before.items()}
    del state["hidden.weight"]
    state["other"] = np.ones(1)
    state["pair.0"] = np.ones(6)
    state["out.1.bias"] = np.ones(3, int)
    state["hidden.bias"] = np.ones((1, 5))  # would broadcast
    with pytest.raises(SnapshotError) as caught:
        net.load_state_dict(state)
    for part in (
        "missing 'hidden.weight'",
        "unexpected 'other'",
        "'hidden.bias' has shape (1, 5), expected (5,)",
        "'pair.0' has shape (6,), expected (5,)",
        "'out.1.bias' has dtype int64, expected float64",
    ):
        assert part in str(caught.value)
    with pytest.raises(SnapshotError, match=r"pair\.0"):
        net.load_state_dict(state, strict=False)
    for name, array in net.state_dict().items():
        np.testing.assert_array_equal(array, before[name])
    with pytest.raises(SnapshotError, match="mapping"):
        net.load_state_dict([1, 2])


def test_a_number_too_large_for_the_parameters_changes_nothing():
    net = Net(np.float32)
    before = net.state_dict()
    state = {name: array + 1.0 for name, array in before.items()}
    state["out.1.bias"] = np.full(3, 1e300)
    with pytest.raises(RuntimeWarning):
        net.load_state_dict(state)
    np.testing.assert_array_equal(net.hidden.weight.value, before["hidden.weight"])


def test_a_partial_state():
    net = Net()
    net.load_state_dict({"pair.0": np.zeros(5), "other": np.ones(1)}, strict=False)
    assert not net.pair[0].value.any()


# ---- being a tree


@pytest.mark.parametrize("make", [Net, Tied])
def test_the_gradient_is_a_module_with_what_backward_leaves(make):
    model = make()
    value, expected = by_backward(model, X, Y)
    ours, gradient = tg.value_and_grad(loss)(model, X, Y)
    assert ours == value
    assert type(gradient) is make
    found = dict(gradient.named_parameters())
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert type(found[name]) is np.ndarray
        np.testing.assert_allclose(found[name], array, rtol=1e-12)


def test_a_tied_gradient_is_the_sum_and_stands_in_all_its_places():
    tied = Tied()
    gradient = tg.grad(loss)(tied, X, Y)
    assert gradient.decoder_weight is gradient.encoder.weight
    assert gradient.again is gradient.encoder
    moved = tree.map(lambda p, g: p.value - 0.1 * g, tied, gradient)
    assert moved.decoder_weight is moved.encoder.weight
    direction = np.random.default_rng(1).normal(size=(4, 4))

    def along(t):
        twin = copy.deepcopy(tied)
        twin.encoder.weight.value += t * direction
        return loss(twin, X, Y).item()

    slope = (along(1e-5) - along(-1e-5)) / 2e-5
    assert np.sum(gradient.encoder.weight * direction) == pytest.approx(slope, rel=1e-6)


def test_equal_leaves_in_different_places_stay_apart():
    # One object in all places must not be mistaken for one shared parameter.
    flat = tree.map(lambda p: 0.0, Net())
    assert len(tree.flatten(flat)[0]) == len(PATHS)
    assert tree.map(lambda p, z: p.value.ndim, Net(), flat).pair[0] == 1


def test_a_step_of_descent_by_tree_map_lowers_the_loss_and_leaves_the_model_alone():
    net = Net()
    before = net.state_dict()
    step = tree.map(lambda p: p.value, net)
    values = []
    for _ in range(5):
        value, gradient = tg.value_and_grad(loss)(step, X, Y)
        values.append(value)
        step = tree.map(lambda p, g: p - 0.1 * g, step, gradient)
    assert np.all(np.diff(values) < 0)
    assert type(step(X)) is np.ndarray
    for name, array in net.state_dict().items():
        np.testing.assert_array_equal(array, before[name])
    net.load_state_dict(step.state_dict())
    assert loss(net, X, Y).item() == loss(step, X, Y)


def test_structures_agree_across_what_the_leaves_are_and_differ_by_class_and_paths():
    net, gradient = Net(), tg.grad(loss)(Net(), X, Y)
    net.pair[1].rng.random()
    structures = [tree.flatten(t)[1] for t in (net, gradient, Net(np.float32))]
    assert structures[0] == structures[1] == structures[2]
    assert len({hash(s) for s in structures}) == 1
    net.shift = net.pair[0]
    net.pair = net.pair[1]
    assert len(tree.flatten(net)[0]) == len(tree.flatten(gradient)[0])
    assert tree.flatten(net)[1] != structures[1]
    with pytest.raises(ValueError):
        tree.map(lambda p, g: p, net, gradient)
    with pytest.raises(ValueError):
        tree.map(lambda p, g: p, Tied(), gradient)


def test_leaves_may_be_anything_trees_included():
    net = Net()
    states = tree.map(lambda p: {"m": np.zeros_like(p.value), "v": [p.value]}, net)
    leaves, structure = tree.flatten(states)
    assert len(leaves) == 2 * len(PATHS)
    again = tree.unflatten(structure, leaves)
    assert again.hidden.weight["v"][0] is net.hidden.weight.value
    inner = tree.map(lambda p: nn.Linear(1, 1), net)
    assert len(tree.flatten(inner)[0]) == 2 * len(PATHS)


def test_a_rebuilt_module_shares_what_is_not_a_parameter():
    net = Net()
    gradient = tg.grad(loss)(net, X, Y)
    assert gradient.constant is net.constant
    assert gradient.log is net.log
    assert net.log == [tg.Tensor]
    assert gradient.pair[1].rng is net.pair[1].rng
    assert gradient.by_name["note"] == "plain"
    assert gradient.training is net.training


def test_a_module_inside_other_trees():
    model = {"net": Net(), "temperature": np.float64(2.0)}

    def scaled(model, x, y):
        return nn.cross_entropy(model["net"](x) / model["temperature"], y)

    gradient = tg.grad(scaled)(model, X, Y)
    _, expected = by_backward(
        model["net"], X, Y, loss=lambda net, x, y: nn.cross_entropy(net(x) / 2.0, y)
    )
    np.testing.assert_allclose(gradient["net"].pair[0], expected["pair.0"], rtol=1e-12)
    assert gradient["temperature"].shape == ()


def test_a_class_made_inside_a_function_is_a_tree():
    def make():
        class Local(nn.Module):
            def __init__(self):
                self.w = tg.Parameter(np.ones(4))

            def __call__(self, x):
                return x @ self.w

        return Local()

    one, other = make(), make()
    gradient = tg.grad(lambda m: np.sum(m(X)))(one)
    np.testing.assert_allclose(gradient.w, X.sum(axis=0))
    assert tree.flatten(one)[1] != tree.flatten(other)[1]  # two classes, whatever their names


def test_containers_keep_their_class():
    Pair = collections.namedtuple("Pair", "w note")
    net = nn.Module()
    net.pair = Pair(tg.Parameter(np.ones(2)), "n")
    net.ordered = collections.OrderedDict(b=tg.Parameter(np.ones(1)), a=1)
    net.default = collections.defaultdict(list, k=tg.Parameter(np.ones(1)))
    twin = tree.map(lambda p: p.value * 2, net)
    assert isinstance(twin.pair, Pair)
    assert twin.pair.w.tolist() == [2, 2]
    assert list(twin.ordered) == ["b", "a"]
    assert isinstance(twin.ordered, collections.OrderedDict)
    assert twin.default["new"] == []
    assert isinstance(net.ordered["b"], tg.Parameter)


def test_second_derivatives_through_a_module():
    net = Net()
    direction = tree.map(lambda p: np.random.default_rng(p.size).normal(size=p.shape), net)

    def slope(model):
        parts = tree.map(lambda g, d: np.sum(g * d), tg.grad(loss)(model, X, Y), direction)
        return sum(tree.flatten(parts)[0])

    product = tg.grad(slope)(net)
    h = 1e-5
    ahead, behind = (
        tg.grad(loss)(tree.map(lambda p, d, s=s: p.value + s * d, net, direction), X, Y)
        for s in (h, -h)
    )
    for name, difference in tree.map(
        lambda a, b: (a - b) / (2 * h), ahead, behind
    ).named_parameters():
        found = dict(product.named_parameters())[name]
        np.testing.assert_allclose(found, difference, rtol=1e-5, atol=1e-8)


def test_float32_all_the_way():
    net, x = Net(np.float32), X.astype(np.float32)
    value, gradient = tg.value_and_grad(loss)(net, x, Y)
    assert value.dtype == np.float32
    assert {g.dtype for _, g in gradient.named_parameters()} == {np.dtype(np.float32)}
    value, gradients = by_backward(net, x, Y)
    assert value.dtype == np.float32
    assert {g.dtype for g in gradients.values()} == {np.dtype(np.float32)}


def test_descent_from_the_parameters_themselves_is_recorded_like_all_that_is_done_with_them():
    net = Net()
    gradient = tg.grad(loss)(net, X, Y)
    moved = tree.map(lambda p, g: p - 0.1 * g, net, gradient)
    after = loss(moved, X, Y)
    assert after.item() < loss(net, X, Y).item()
    after.backward()
    assert net.hidden.weight.grad is not None


# ---- copies


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
@pytest.mark.parametrize("make", [Net, Tied])
def test_copies_are_equal_and_apart(copied, make):
    model = make()
    twin = copied(model)
    np.testing.assert_array_equal(twin(X).value, model(X).value)
    assert [n for n, _ in twin.named_parameters()] == [n for n, _ in model.named_parameters()]
    twin.parameters()[0].value[...] = 0
    assert model.parameters()[0].value.any()


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_of_a_gradient_are_trees_of_the_same_structure(copied):
    tied = Tied()
    gradient = tg.grad(loss)(tied, X, Y)
    twin = copied(gradient)
    difference = tree.map(lambda a, b: a - b, gradient, twin)
    assert all(not d.any() for d in tree.flatten(difference)[0])
    assert len(tree.flatten(twin)[0]) == 3


# ---- Sequential


def test_the_tour():
    model = nn.Sequential(nn.Linear(784, 100, rng=0), np.tanh, nn.Linear(100, 10, rng=1))
    rng = np.random.default_rng(0)
    x, y = rng.random((32, 784), dtype=np.float32), rng.integers(0, 10, 32)
    value = nn.cross_entropy(model(x), y)
    value.backward()
    assert value.dtype == np.float32
    assert [p.grad.shape for p in model.parameters()] == [(784, 100), (100,), (100, 10), (10,)]
    with tg.no_grad():
        assert nn.cross_entropy(model(x), y).item() == value.item()


def test_sequential_refuses_a_function_that_hides_a_module():
    with pytest.raises(ConfigError, match="a function around a Linear, whose parameters it hides"):
        nn.Sequential(np.tanh, tg.checkpoint(nn.Linear(2, 2, rng=0)))


def test_sequential_is_a_sequence_of_callables():
    layers = [nn.Linear(4, 5, rng=0), np.tanh, lambda x: 2 * x, nn.Dropout(0.5, rng=0)]
    model = nn.Sequential(*layers).eval()
    assert len(model) == 4
    assert list(model) == list(model.layers) == layers
    assert model[-1] is layers[-1]
    np.testing.assert_array_equal(model(X).value, 2 * np.tanh(layers[0](X).value))
    assert nn.Sequential()(X) is X
    assert nn.Sequential(nn.Sequential())(X) is X
    gradient = tg.grad(lambda m: np.sum(m(X)))(nn.Sequential(nn.Sequential(), layers[0]))
    assert len(gradient[0]) == 0


def test_eleven_layers_keep_their_order():
    model = nn.Sequential(*[nn.Linear(2, 2, rng=i) for i in range(11)])
    gradient = tree.map(lambda p: p.value, pickle.loads(pickle.dumps(model)))
    assert [p.split(".")[0] for p, _ in gradient.named_parameters()][::2] == [
        str(i) for i in range(11)
    ]
    np.testing.assert_array_equal(gradient.layers[10].weight, model[10].weight.value)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([np.tanh, 3], "layer 1 is of type int"),
        ([[np.tanh, np.sin]], "layer 0 is of type list"),
        ([np.tanh, nn.Dropout], "layer 1 is the class Dropout"),
        ([nn.Module()], "layer 0 is of type Module"),
    ],
)
def test_layers_that_cannot_be_called(layers, message):
    with pytest.raises(ConfigError, match=message):
        nn.Sequential(*layers)


# ---- repr


def test_repr_has_a_line_for_each_layer_and_the_total():
    model = nn.Sequential(
        nn.Linear(784, 100), np.tanh, nn.Dropout(0.3), nn.Sequential(nn.Linear(100, 10), nn.relu)
    )
    assert repr(model) == (
        "Sequential                                     79,510 parameters, 318,040 bytes\n"
        "  0    Linear  weight (784, 100), bias (100,)  78,500\n"
        "  1    tanh\n"
        "  2    Dropout(0.3)\n"
        "  3    Sequential\n"
        "    0  Linear  weight (100, 10), bias (10,)     1,010\n"
        "    1  relu"
    )
    assert repr(nn.Dropout(0.3)) == "Dropout(0.3)"
    one = nn.Module()
    one.w = tg.Parameter(1.0)
    assert repr(one) == "Module  w ()  1 parameter, 8 bytes"


def test_repr_counts_what_is_shared_once():
    assert repr(Tied()) == (
        "Tied  decoder_weight (4, 4), shift (4,)      24 parameters, 192 bytes\n"
        "  encoder  Linear  weight (4, 4), bias (4,)  20\n"
        "  again    Linear (shared)"
    )


def test_repr_of_a_gradient():
    net = Net()
    assert repr(tg.grad(loss)(net, X, Y)) == repr(net)
