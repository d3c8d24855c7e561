"""The line search's whole data set: the plain losses and gradients, with one product a search."""

import gc
import threading
import warnings
from concurrent.futures import Future
from itertools import pairwise

import numpy as np
import pytest

import thriftgrad as tg
from thriftgrad.errors import ConfigError, DataError
from thriftgrad.nn import Linear, Sequential, cross_entropy, mse, sigmoid
from thriftgrad.optim import SGD, FullBatch, LineSearch, full_batch

TOLERANCE = {np.dtype("float32"): 1e-6, np.dtype("float64"): 1e-12}


def network(dtype=np.float64, inputs=30, **options):
    return Sequential(
        Linear(inputs, 6, rng=0, dtype=dtype, **options),
        sigmoid,
        Linear(6, 3, rng=1, dtype=dtype, bias_init=tg.nn.init.standard_normal),
    )


def task(rows=1203, inputs=30, dtype=np.float64):
    rng = np.random.default_rng(2)
    x = rng.normal(size=(rows, inputs)).astype(dtype)
    return x, np.argmax(x[:, :3] + rng.normal(size=(rows, 3)), axis=1)


def plain(model, loss, x, y):
    """The loss and gradients by the plain way, at the model's present parameters."""
    for parameter in model.parameters():
        parameter.grad = None
    value = loss(model(x), y)
    value.backward()
    return value.item(), [parameter.grad for parameter in model.parameters()]


def assert_plain(objective, model, loss, x, y):
    """Check the objective against the plain way where the model is now."""
    value = objective.loss_and_gradients()[0].item()
    gradients = [parameter.grad for parameter in model.parameters()]
    wanted, their_gradients = plain(model, loss, x, y)
    tolerance = TOLERANCE[model.parameters()[0].dtype]
    assert value == pytest.approx(wanted, rel=tolerance)
    for ours, theirs in zip(gradients, their_gradients, strict=True):
        assert ours.shape == theirs.shape
        assert ours.dtype == theirs.dtype
        assert np.linalg.norm(ours - theirs) <= tolerance * np.linalg.norm(theirs)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_losses_are_the_plain_ones_all_the_way(dtype):
    x, y = task(dtype=dtype)
    model = network(dtype)
    search = LineSearch(model.parameters(), start=16.0, decrease=0.3)
    objective = FullBatch(model, cross_entropy, x, y)
    trials = 0
    for _ in range(50):
        found = search.step(objective)
        trials += found.trials
        assert found.loss == pytest.approx(
            cross_entropy(model(x), y).item(), rel=TOLERANCE[np.dtype(dtype)]
        )
    assert trials > 100


def test_gradients_are_as_good_as_plain_ones_all_the_way():
    x, y = task(dtype=np.float32)
    model, exact = network(np.float32), network(np.float64)
    search = LineSearch(model.parameters(), start=16.0, decrease=0.3)
    objective = FullBatch(model, cross_entropy, x, y)
    errors = []
    for _ in range(50):
        search.step(objective)
        exact.load_state_dict(model.state_dict())
        objective.loss_and_gradients()
        ours = [parameter.grad for parameter in model.parameters()]
        _, plain_ones = plain(model, cross_entropy, x, y)
        _, exact_ones = plain(exact, cross_entropy, x.astype(np.float64), y)
        errors.append(
            [
                [np.linalg.norm(g - e) for g, e in zip(given, exact_ones, strict=True)]
                for given in (ours, plain_ones)
            ]
        )
    ours, theirs = np.max(errors, axis=0)
    assert np.all(ours <= 2 * theirs)


def test_it_goes_where_two_functions_go():
    x, y = task()
    one, two = network(), network()
    search = LineSearch(one.parameters(), start=16.0)
    found = [search.step(FullBatch(one, cross_entropy, x, y)) for _ in range(2)]
    objective = FullBatch(one, cross_entropy, x, y)
    found += [search.step(objective) for _ in range(40)]
    search = LineSearch(two.parameters(), start=16.0)
    for step in found:
        their = search.step(
            lambda: (plain(two, cross_entropy, x, y)[0], None),
            lambda: cross_entropy(two(x), y),
        )
        assert (step.step, step.trials) == (their.step, their.trials)
        assert step.loss == pytest.approx(their.loss, rel=1e-12)
        assert step.gradient_norm == pytest.approx(their.gradient_norm, rel=1e-11)
    for ours, theirs in zip(one.parameters(), two.parameters(), strict=True):
        np.testing.assert_allclose(ours.value, theirs.value, rtol=0, atol=1e-11)


@pytest.fixture
def products(monkeypatch):
    """The names of the products with the data, as they are made."""
    made = []
    for name in ("_tall", "_tall_transposed"):
        function = getattr(full_batch, name)
        monkeypatch.setattr(
            full_batch,
            name,
            lambda *args, name=name, function=function: (made.append(name), function(*args))[1],
        )
    return made


def test_a_step_makes_two_products_with_the_data(products):
    x, y = task(200)
    model = network()
    search = LineSearch(model.parameters(), start=64.0)
    objective = FullBatch(model, cross_entropy, x, y)
    found = [search.step(objective) for _ in range(41)]
    assert sum(step.trials for step in found) > 82
    assert products.count("_tall_transposed") == 41
    # One for each direction, one at the start, and one after each 20 steps.
    assert products.count("_tall") == 41 + 1 + 1


def test_what_others_do_to_the_parameters_is_seen(products):
    x, y = task(200)
    model = network()
    search = LineSearch(model.parameters(), start=16.0)
    objective = FullBatch(model, cross_entropy, x, y)
    search.step(objective)
    for change in (
        lambda: model.load_state_dict(network().state_dict()),
        lambda: SGD(model.parameters(), lr=0.1).step(),
        lambda: np.multiply(model[0].weight.value, 0.5, out=model[0].weight.value),
        lambda: setattr(model[0].bias, "value", model[0].bias.value + 1),
        lambda: setattr(model[2].bias, "value", model[2].bias.value + 1),
    ):
        change()
        assert_plain(objective, model, cross_entropy, x, y)
        search.step(objective)
        assert_plain(objective, model, cross_entropy, x, y)


def test_parameters_that_stay_put_and_gradients_of_others():
    x, y = task(200)
    model = network()
    objective = FullBatch(model, cross_entropy, x, y)
    for moving in ([0], [1], [2, 3], [1, 2]):
        before = model.state_dict()
        some = [model.parameters()[i] for i in moving]
        found = LineSearch(some, start=16.0).step(objective)
        assert found.loss == pytest.approx(cross_entropy(model(x), y).item(), rel=1e-12)
        moved = [not np.array_equal(p.value, before[p.name]) for p in model.parameters()]
        assert [i for i, has in enumerate(moved) if has] == moving
        assert_plain(objective, model, cross_entropy, x, y)


def test_a_first_layer_that_is_used_twice():
    x, y = task(200, inputs=6)
    first = Linear(6, 6, rng=0, dtype=np.float64)
    model = Sequential(first, np.tanh, first, np.tanh)

    def loss(outputs, y):
        return mse(outputs[:, 0], y) + 0.01 * np.sum(np.square(first.weight))

    objective = FullBatch(model, loss, x, y)
    search = LineSearch(model.parameters())
    for _ in range(3):
        found = search.step(objective)
        assert found.loss == pytest.approx(loss(model(x), y).item(), rel=1e-12)
        assert_plain(objective, model, loss, x, y)


@pytest.mark.parametrize("rows", [1, 49, 50, 2000, 2001, 4321])
def test_any_number_of_rows(rows):
    x, y = task(rows)
    model = network()
    assert_plain(FullBatch(model, cross_entropy, x, y), model, cross_entropy, x, y)


def test_other_inputs_and_first_layers():
    x, y = task(400)
    model, loss = network(), lambda outputs, y: mse(outputs[..., 0], y)
    targets = y.astype(float)
    for given in (x, np.asfortranarray(x), x[::-1], x.astype(np.float32)):
        assert_plain(FullBatch(model, cross_entropy, given, y), model, cross_entropy, given, y)
    stacked = x.reshape(20, 20, 30), targets.reshape(20, 20)
    assert_plain(FullBatch(model, loss, *stacked), model, loss, *stacked)
    without = network(bias=False)
    assert_plain(FullBatch(without, cross_entropy, x, y), without, cross_entropy, x, y)
    wide = Sequential(Linear(30, 5000, rng=0, dtype=np.float64), np.tanh)
    assert_plain(FullBatch(wide, loss, x, targets), wide, loss, x, targets)
    alone = Linear(30, 1, rng=0, dtype=np.float64)
    assert_plain(FullBatch(alone, loss, x, targets), alone, loss, x, targets)
    LineSearch(alone.parameters()).step(FullBatch(alone, loss, x, targets))
    assert_plain(FullBatch(alone, loss, x, targets), alone, loss, x, targets)


@pytest.mark.parametrize(
    "sizes", [(30, 16, 16, 3), (30, 17, 16, 3), (30, 16, 17, 3), (30, 1, 3), (30, 40, 3), (5, 3)]
)
def test_thin_and_wide_layers(sizes):
    x, y = task(1203, sizes[0])
    bias = [True, False, True]
    affine = [
        Linear(
            a,
            b,
            bias=with_bias,
            rng=7 * a + b,
            dtype=np.float64,
            bias_init=tg.nn.init.standard_normal,
        )
        for (a, b), with_bias in zip(pairwise(sizes), bias, strict=False)
    ]
    model = Sequential(affine[0], *(Sequential(np.tanh, layer) for layer in affine[1:]))
    objective = FullBatch(model, cross_entropy, x, y)
    search = LineSearch(model.parameters())
    for _ in range(3):
        assert_plain(objective, model, cross_entropy, x, y)
        found = search.step(objective)
        assert found.loss == pytest.approx(cross_entropy(model(x), y).item(), rel=1e-12)


def test_results_do_not_depend_on_the_number_of_threads(monkeypatch):
    x, y = task(9001, dtype=np.float32)
    arrived = []
    for threads in (1, 2, 5):
        monkeypatch.setattr(full_batch, "_threads", lambda threads=threads: threads)
        model = network(np.float32)
        search, objective = LineSearch(model.parameters()), FullBatch(model, cross_entropy, x, y)
        arrived.append([search.step(objective) for _ in range(5)])
        arrived[-1] += [parameter.value.tobytes() for parameter in model.parameters()]
    assert arrived[0] == arrived[1] == arrived[2]


def test_an_exception_in_another_thread_is_raised_here():
    crew, begun = full_batch._Crew(2), threading.Event()
    cuts = [(i, i, i) for i in range(4)]

    def work(i, *_):
        if threading.current_thread() is threading.main_thread():
            assert begun.wait(30)
            return i
        begun.set()
        raise ValueError("over there")

    with pytest.raises(ValueError, match="over there"):
        crew.do(work, cuts)
    assert crew.do(lambda i, *_: i, cuts) == [0, 1, 2, 3]


def test_work_that_no_other_thread_begins_is_done_here(monkeypatch):
    crew = full_batch._Crew(3)
    monkeypatch.setattr(crew._pool, "submit", lambda *work: Future())  # as after a fork
    assert crew.do(lambda i, *_: i, [(i, i, i) for i in range(4)]) == [0, 1, 2, 3]


def test_threads_end_with_the_objective(monkeypatch):
    monkeypatch.setattr(full_batch, "_threads", lambda: 2)
    x, y = task(5000)
    model = network()
    before = set(threading.enumerate())
    objective = FullBatch(model, cross_entropy, x, y)
    search = LineSearch(model.parameters())
    for _ in range(3):
        search.step(objective)
    others = set(threading.enumerate()) - before
    assert len(others) == 1
    del objective
    gc.collect()
    for other in others:
        other.join(30)
        assert not other.is_alive()


def test_the_environment_says_how_many_threads(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert full_batch._threads() == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "many")
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "2")
    assert full_batch._threads() == 2
    monkeypatch.delenv("OPENBLAS_NUM_THREADS")
    assert full_batch._threads() >= 1


def test_no_search_by_losses_that_differ_by_chance():
    x, y = task(200)
    model = Sequential(network(), tg.nn.Dropout(0.5, rng=0), Linear(3, 3, rng=2, dtype=np.float64))
    search, objective = LineSearch(model.parameters()), FullBatch(model, cross_entropy, x, y)
    before = {name: array.tobytes() for name, array in model.state_dict().items()}
    with pytest.raises(ConfigError, match=r"Dropout\(0.5\) in training mode.* call model.eval"):
        search.step(objective)
    assert {name: array.tobytes() for name, array in model.state_dict().items()} == before
    model.eval()
    search.step(objective)
    assert_plain(objective, model, cross_entropy, x, y)
    model.train()
    with pytest.raises(ConfigError, match="in training mode"):
        search.step(objective)


def test_models_in_models_labels_in_a_list_and_a_loss_with_parameters_of_its_own():
    x, y = task(200)
    model = Sequential(Sequential(network(), np.tanh), Linear(3, 3, rng=2, dtype=np.float64))
    scale = tg.Parameter(np.array(0.5), name="scale")

    def loss(outputs, y):
        return cross_entropy(outputs * scale, y)

    objective = FullBatch(model, loss, x, y.tolist())
    search = LineSearch([*model.parameters(), scale])
    losses = [search.step(objective).loss for _ in range(5)]
    assert losses == sorted(losses, reverse=True)
    assert scale.value != 0.5
    assert losses[-1] == pytest.approx(loss(model(x), y).item(), rel=1e-12)


def test_a_loss_that_cannot_be_compiled_runs_as_it_is():
    x, y = task(200)
    model = network()

    def loss(outputs, y):
        value = cross_entropy(outputs, y)
        return value * 2 if value.item() > 1 else value

    objective = FullBatch(model, loss, x, y)
    with pytest.warns(RuntimeWarning, match="cannot be recorded"):
        assert_plain(objective, model, loss, x, y)
    assert_plain(objective, model, loss, x, y)


def test_an_exception_in_a_trial_leaves_all_as_it_was(monkeypatch):
    x, y = task(200)
    model = network()
    search, objective = LineSearch(model.parameters()), FullBatch(model, cross_entropy, x, y)
    before = {name: array.tobytes() for name, array in model.state_dict().items()}

    def interrupted(z, y):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(objective, "_value", interrupted)
        with pytest.raises(KeyboardInterrupt):
            search.step(objective)
    assert {name: array.tobytes() for name, array in model.state_dict().items()} == before
    assert_plain(objective, model, cross_entropy, x, y)
    found = search.step(objective)
    assert found.loss == pytest.approx(cross_entropy(model(x), y).item(), rel=1e-12)


def test_an_interrupted_product_is_made_again(monkeypatch):
    x, y = task(5000)
    model = network()
    monkeypatch.setattr(full_batch, "_threads", lambda: 2)
    objective = FullBatch(model, cross_entropy, x, y)
    matmul = np.matmul

    def interrupted(a, b, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(full_batch.np, "matmul", interrupted)
    with pytest.raises(KeyboardInterrupt):
        objective.loss_and_gradients()
    monkeypatch.setattr(full_batch.np, "matmul", matmul)
    assert_plain(objective, model, cross_entropy, x, y)


def test_what_it_is_not_for():
    x, y = task(20)
    with pytest.raises(ConfigError, match="begins with tanh; expected a Linear"):
        FullBatch(Sequential(np.tanh, *network().layers), cross_entropy, x, y)
    with pytest.raises(ConfigError, match="begins with <lambda>; expected a Linear"):
        FullBatch(lambda x: x, cross_entropy, x, y)
    with pytest.raises(DataError, match="x is int64 of shape"):
        FullBatch(network(), cross_entropy, np.ones((20, 30), np.int64), y)
    with pytest.raises(DataError, match=r"x is float64 of shape \(0, 30\)"):
        FullBatch(network(), cross_entropy, x[:0], y[:0])
    with pytest.raises(DataError, match="x is list"):
        FullBatch(network(), cross_entropy, x.tolist(), y)
    with pytest.raises(DataError, match="weight of shape"):
        FullBatch(network(), cross_entropy, x[:, :7], y)
    misfit = Sequential(*network().layers, Linear(4, 2, rng=0))
    with pytest.raises(
        DataError, match=r"an input of shape \(20, 3\) for a weight of shape \(4, 2\)"
    ):
        FullBatch(misfit, cross_entropy, x, y).loss_and_gradients()
    with pytest.raises(ConfigError, match="loss is a str; expected a function"):
        FullBatch(network(), "mse", x, y)
    for loss in (lambda outputs, y: 0.5, lambda outputs, y: np.mean(outputs.value)):
        with pytest.raises(ConfigError, match="which records nothing"):
            FullBatch(network(), loss, x, y).loss_and_gradients()
    others = LineSearch(network().parameters())
    with pytest.raises(ConfigError, match="give a FullBatch the model whose parameters"):
        others.step(FullBatch(network(), cross_entropy, x, y))
    model = network()
    objective, search = FullBatch(model, cross_entropy, x, y), LineSearch(model.parameters())
    for arguments in ((objective, lambda: 1.0), (lambda: (1.0, None),)):
        with pytest.raises(ConfigError, match="or a FullBatch alone"):
            search.step(*arguments)


@pytest.mark.parametrize("handling", ["ignore", "raise"])
def test_floating_point_errors_are_handled_alike_in_all_threads(handling):
    crew = full_batch._Crew(3)
    x = np.full((8000, 30), 1e30, np.float32)
    for _ in range(10):
        with np.errstate(all=handling), warnings.catch_warnings():
            warnings.simplefilter("error")
            if handling == "raise":
                with pytest.raises(FloatingPointError):
                    full_batch._tall(crew, x, x[:30, :4] * np.float32(1e8))
            else:
                assert np.isinf(full_batch._tall(crew, x, x[:30, :4])).all()
