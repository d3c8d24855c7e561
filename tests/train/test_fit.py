"""fit: what an epoch is, what it measures, and what it refuses."""

import math

import numpy as np
import pytest

import thriftgrad as tg
from thriftgrad import nn, optim, train
from thriftgrad.errors import ConfigError, DataError, NonFiniteError


def blobs(n=90, seed=0, dtype=np.float32):
    """Three classes around three corners."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, n)
    x = np.eye(3)[y] * 3 + rng.normal(size=(n, 3))
    return x.astype(dtype), y


def network(seed=0, *extra):
    rng = np.random.default_rng(seed)
    return nn.Sequential(nn.Linear(3, 8, rng=rng), nn.tanh, *extra, nn.Linear(8, 3, rng=rng))


def run(model=None, data=None, lr=0.05, **options):
    model = network() if model is None else model
    optimizer = optim.Adam(model.parameters(), lr=lr)
    options = {"loss": nn.cross_entropy, "epochs": 4, "batch_size": 16, **options}
    history = train.fit(model, blobs() if data is None else data, optimizer=optimizer, **options)
    return model, history


def weights(model):
    return b"".join(array.tobytes() for array in model.state_dict().values())


def test_learns():
    model, history = run(epochs=15, validation=blobs(60, 1))
    assert history.validation_accuracy[-1] > 0.9
    assert history.train_loss[-1] < history.train_loss[0] / 2
    np.testing.assert_array_equal(history.epoch, np.arange(1, 16))
    np.testing.assert_array_equal(history.learning_rate, 0.05)
    assert (history.seconds > 0).all()
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("compile", [False, True])
def test_is_the_loop_that_anyone_would_write(compile):
    model, history = run(network(3), epochs=2, rng=7, compile=compile)
    by_hand = network(3)
    optimizer = optim.Adam(by_hand.parameters(), lr=0.05)
    x, y = blobs()
    rng = np.random.default_rng(7)
    losses = []
    for _ in range(2):
        order = rng.permutation(90)
        total = 0.0
        for start in range(0, 90, 16):
            part = order[start : start + 16]
            loss = nn.cross_entropy(by_hand(x[part]), y[part])
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            total += loss.item() * len(part)
        losses.append(total / 90)
    if compile:  # equal up to rounding
        for ours, theirs in zip(model.parameters(), by_hand.parameters(), strict=True):
            np.testing.assert_allclose(ours.value, theirs.value, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(history.train_loss, losses, rtol=1e-6)
    else:
        assert weights(model) == weights(by_hand)
        np.testing.assert_array_equal(history.train_loss, losses)


def test_same_seed_same_bits():
    runs = [
        run(network(0, nn.Dropout(0.3, rng=5)), rng=1, validation=blobs(50, 2)) for _ in range(2)
    ]
    assert weights(runs[0][0]) == weights(runs[1][0])
    for name in ("train_loss", "train_accuracy", "validation_loss", "validation_accuracy"):
        np.testing.assert_array_equal(
            runs[0][1].arrays()[name], runs[1][1].arrays()[name], strict=True
        )
    other, _ = run(network(0, nn.Dropout(0.3, rng=5)), rng=2)
    assert weights(other) != weights(runs[0][0])


def test_watching_changes_nothing():
    plain, _ = run(validation=blobs(50, 2), progress=False)
    bare, _ = run(progress=True)
    assert weights(plain) == weights(bare)


def test_losses_are_means_over_examples_whatever_the_batches():
    # With a learning rate of 0 nothing moves, and every batch size measures the same.
    x, y = blobs(50)
    model = network()
    expected = nn.cross_entropy(model(x).value, y)
    right = np.mean(np.argmax(model(x).value, axis=1) == y)
    for size in (1, 7, 50, 64):
        _, history = run(network(), (x, y), lr=0.0, epochs=1, batch_size=size, validation=(x, y))
        assert history.train_loss[0] == pytest.approx(float(expected), rel=1e-5)
        assert history.validation_loss[0] == pytest.approx(float(expected), rel=1e-5)
        assert history.train_accuracy[0] == pytest.approx(right)
        assert history.validation_accuracy[0] == pytest.approx(right)


def test_validation_is_in_evaluation_mode_in_batches_and_records_nothing():
    seen = []

    class Spy(nn.Module):
        def __call__(self, x):
            seen.append((self.training, x.shape[0], isinstance(x, tg.Tensor) and x.node is None))
            return x

    model = network(0, Spy())
    spy = model.layers[2]
    spy.training = False
    run(model, epochs=1, batch_size=32, validation=blobs(50, 2))
    assert seen == [(True, 32, False)] * 2 + [
        (True, 26, False),
        (False, 32, True),
        (False, 18, True),
    ]
    assert not spy.training  # as it was before
    assert model.training


def test_accuracy_of_one_hot_rows_and_none_where_it_means_nothing():
    x, y = blobs()
    model, history = run(data=(x, y), validation=(x, y))
    _, rows = run(
        data=(x, np.eye(3, dtype=np.float32)[y]), validation=(x, np.eye(3, dtype=np.float32)[y])
    )
    np.testing.assert_allclose(rows.validation_accuracy, history.validation_accuracy, atol=0.05)

    _, regression = run(data=(x, x), loss=nn.mse)
    assert np.isnan(regression.train_accuracy).all()
    assert np.isnan(regression.validation_loss).all()
    assert np.isfinite(regression.train_loss).all()
    scores = train.evaluate(model, (x, y), loss=nn.cross_entropy, batch_size=11)
    assert scores.accuracy == np.mean(np.argmax(train.predict(model, x, 7), axis=1) == y)


def test_one_hot_rows_are_told_from_other_rows():
    x, _ = blobs(6)
    soft = np.full((6, 3), 1 / 3, np.float32)
    _, history = run(data=(x, soft))
    assert np.isnan(history.train_accuracy).all()


def test_early_stopping_keeps_the_best_weights():
    # Validation labels that are wrong: the better the training, the worse the validation.
    x, y = blobs()
    kept = []

    class Keep(train.Callback):
        def on_epoch_end(self, state):
            kept.append(weights(state.model))

    model, history = run(
        data=(x, y), validation=(x, (y + 1) % 3), epochs=30, patience=3, callbacks=[Keep()]
    )
    best = int(np.argmin(history.validation_loss))
    assert len(history) == best + 1 + 3
    assert weights(model) == kept[best]


def test_patience_without_validation_watches_the_training_loss():
    _, history = run(lr=0.0, epochs=9, patience=2, loss=lambda z, y: np.sum(z * 0.0) + 1.0)
    assert len(history) == 3


def test_patience_that_does_not_run_out_still_gives_the_best_weights():
    x, y = blobs()
    model, history = run(data=(x, y), validation=(x, (y + 1) % 3), epochs=4, patience=10)
    assert len(history) == 4
    loss = train.evaluate(model, (x, (y + 1) % 3), loss=nn.cross_entropy, batch_size=16).loss
    assert loss == history.validation_loss.min() < history.validation_loss[-1]


# What goes wrong, and is said


def test_a_loss_that_turns_infinite_names_epoch_step_and_layer():
    x, y = blobs(64)
    model = nn.Sequential(nn.Linear(3, 8, rng=0), nn.relu, nn.Linear(8, 3, rng=1))
    bad = x.copy()
    bad[0] = 1e38  # finite itself; times the first layer's weights it is not
    model.layers[0].weight.value[:] *= 100
    before = model.state_dict()
    with pytest.raises(NonFiniteError) as error:
        run(model, (bad, y), batch_size=64, lr=1e-3)
    assert "epoch 1, step 1 of 1" in str(error.value)
    assert "layer 0 (Linear)" in str(error.value)
    assert "learning rate than 0.001" in str(error.value)
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


def test_a_layer_that_divides_by_zero_is_named():
    def inverse(x):
        return x / (x - x)

    x, y = blobs()
    with pytest.raises(NonFiniteError, match=r"the output of layer 2 \(inverse\)"):
        run(nn.Sequential(nn.Linear(3, 3, rng=0), nn.tanh, inverse), (x, y))


class Inverse(nn.Module):
    """A layer with a function, a generator and a count of its own; 1/0 is its output."""

    def __init__(self):
        self.function = np.log
        self.rng = np.random.default_rng(3)
        self.calls = 0

    def __call__(self, x):
        self.calls += 1
        self.rng.random(2)
        return self.function(x * 0)


class Net(nn.Module):
    def __init__(self, inner):
        self.blocks = {"first": nn.Linear(3, 3, rng=0), "second": inner}

    def __call__(self, x):
        return self.blocks["second"](self.blocks["first"](x))


@pytest.mark.parametrize(
    ("inner", "message"),
    [
        (
            nn.Sequential(np.tanh, nn.Sequential(lambda x: x / 0)),
            r"blocks\.second\.1\.0 \(<lambda>\)",
        ),
        (Inverse(), r"layer blocks\.second\.function \(log\)"),
        (nn.Sequential(nn.Linear(3, 3, rng=0), Inverse()), r"blocks\.second\.1\.function \(log\)"),
    ],
)
def test_a_layer_deep_inside_is_named_and_all_is_as_it_was(inner, message):
    model = Net(inner)
    calls = {kind: kind.__call__ for kind in (Net, Inverse, nn.Sequential, nn.Linear)}
    with pytest.raises(NonFiniteError, match=message):
        run(model)
    assert all(kind.__call__ is call for kind, call in calls.items())
    for module in model.modules():
        if isinstance(module, Inverse):
            assert module.calls == 1
            assert module.function is np.log
            rng = np.random.default_rng(3)
            rng.random(2)
            assert module.rng.bit_generator.state == rng.bit_generator.state


def test_a_model_that_makes_bad_numbers_itself_or_cannot_be_copied():
    class Root(nn.Module):
        def __init__(self):
            self.linear = nn.Linear(3, 3, rng=0)

        def __call__(self, x):
            self.hidden = self.linear(x)
            return np.log(self.hidden * 0)

    with pytest.raises(NonFiniteError, match="output is not finite, x and all weights are"):
        run(Root())  # a tensor in it is not to be copied

    class Other(Root):
        def __call__(self, x):
            return np.log(self.linear(x) * 0)

    with pytest.raises(NonFiniteError, match="the output of the Other itself is the first"):
        run(Other())


def test_weights_spoilt_by_the_very_last_step(tmp_path):
    class Burst(optim.SGD):
        def update(self, value, gradient, state, lr, step):
            value, state = super().update(value, gradient, state, lr, step)
            return value * np.float32("inf" if step >= 5 else 1), state

    model = network()
    optimizer = Burst(model.parameters(), lr=0.1)
    options = dict(loss=nn.cross_entropy, epochs=1, batch_size=16, snapshot=tmp_path / "s")
    with (
        np.errstate(invalid="ignore"),
        pytest.raises(
            NonFiniteError,
            match=r"epoch 1: the weights 0\.weight are not finite after the last step",
        ),
    ):
        train.fit(model, blobs(), optimizer=optimizer, **options)
    train.load(model, tmp_path / "s")
    assert all(np.isfinite(p.value).all() for p in model.parameters())


def test_data_that_are_not_finite_are_named():
    x, y = blobs()
    x[17, 1] = np.nan
    with pytest.raises(NonFiniteError, match="the batch itself has NaN"):
        run(data=(x, y))


def test_a_gradient_that_is_not_finite_is_named_and_nothing_moves():
    # The root of 0 is finite; its slope is not.
    model = nn.Sequential(nn.Linear(3, 2, rng=0), np.sqrt)
    model.layers[0].weight.value[:] = 0
    before = weights(model)
    with pytest.raises(NonFiniteError, match=r"epoch 1, step 1 of 6.*gradient of 0\.bias"):
        run(model, (np.ones((90, 3), np.float32), np.ones((90, 2), np.float32)), loss=nn.mse)
    assert weights(model) == before


def test_large_but_finite_gradients_are_not_refused():
    # The squares of these overflow in float32, which the quick check must not mistake.
    model = nn.Sequential(nn.Linear(3, 1, rng=0))
    x = np.ones((8, 3), np.float32)
    optimizer = optim.SGD(model.parameters(), lr=0.0)
    history = train.fit(
        model,
        (x, x[:, :1]),
        loss=lambda p, y: np.mean(p) * np.float32(1e30),
        optimizer=optimizer,
        epochs=1,
    )
    assert len(history) == 1


def test_a_validation_loss_that_is_not_finite():
    x, y = blobs()
    bad = x.copy()
    bad[0] = np.inf
    with pytest.raises(NonFiniteError, match="epoch 1: the validation loss"):
        run(data=(x, y), validation=(bad, y))


def test_history_up_to_an_error_is_in_the_callbacks_hands():
    class Sabotage(train.Callback):
        ended = 0

        def on_epoch_end(self, state):
            if state.epoch == 2:
                state.model.layers[0].weight.value[0, 0] = np.nan

        def on_train_end(self, state):
            self.ended = len(state.history)

    watcher = Sabotage()
    with pytest.raises(NonFiniteError, match=r"epoch 3, step 1 of 6.*weights 0\.weight are not"):
        run(callbacks=[watcher])
    assert watcher.ended == 2


X, Y = blobs(12)


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"data": (X, Y[:-1])}, DataError, "train: x has 12 examples but y has 11"),
        ({"data": (X[:0], Y[:0])}, DataError, "train: x and y are empty"),
        ({"data": ([["a"]] * 12, Y)}, DataError, "train: x is a list of <U1; expected numbers"),
        ({"data": X}, DataError, "train is a ndarray; expected a pair"),
        ({"data": ((X * 9).astype(np.uint8), Y)}, DataError, r"x\.astype\(np\.float32\) / 255"),
        ({"validation": (X, Y[1:])}, DataError, "validation: x has 12 examples but y has 11"),
        ({"epochs": 0}, ConfigError, "epochs = 0: expected a whole number of at least 1"),
        ({"epochs": 2.5}, ConfigError, "epochs = 2.5"),
        ({"batch_size": 0}, ConfigError, "size must be a whole number"),
        ({"patience": 0}, ConfigError, "patience = 0"),
        ({"rng": -1}, ConfigError, "rng = -1: expected a seed"),
        ({"rng": "x"}, ConfigError, "rng = 'x': expected a seed"),
        ({"resume": True}, ConfigError, "resume=True without a snapshot"),
        ({"callbacks": [print]}, ConfigError, "callbacks has a builtin_function_or_method"),
        ({"callbacks": print}, ConfigError, "expected a list"),
        ({"loss": lambda z, y: z}, ConfigError, r"returned a Tensor of shape \(12, 3\)"),
        ({"loss": "mse"}, ConfigError, "loss is a str; expected a function"),
        ({"data": (np.ma.masked_less(X, 0), Y)}, DataError, "train: x is a masked array"),
        ({"data": (X, np.ma.masked_less(Y, 1))}, DataError, "train: y is a masked array"),
        ({"loss": lambda z, y: 1.0}, ConfigError, "returned a float; expected a real scalar"),
        ({"loss": lambda z, y: np.mean(z.value)}, ConfigError, "which records nothing"),
    ],
)
def test_arguments_that_make_no_sense(change, kind, message):
    model = network()
    before = weights(model)
    with pytest.raises(kind, match=message):
        run(model, **{"data": (X, Y), **change})
    assert weights(model) == before


def test_an_optimizer_of_another_model():
    other = optim.SGD(network().parameters(), lr=0.1)
    with pytest.raises(ConfigError, match="4 of the optimizer's 4 parameters are not the model's"):
        train.fit(network(), (X, Y), loss=nn.cross_entropy, optimizer=other, epochs=1)


def test_an_optimizer_of_some_of_the_parameters_trains_those():
    model = network()
    before = model.state_dict()
    optimizer = optim.SGD(model.layers[2].parameters(), lr=0.1)
    train.fit(model, (X, Y), loss=nn.cross_entropy, optimizer=optimizer, epochs=1)
    after = model.state_dict()
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert changed == {"2.weight", "2.bias"}


def test_things_that_are_no_model_or_optimizer():
    model = network()
    with pytest.raises(ConfigError, match=r"model is a function; expected a thriftgrad\.nn"):
        train.fit(blobs, (X, Y), loss=nn.mse, optimizer=None, epochs=1)
    with pytest.raises(ConfigError, match="optimizer is a str"):
        train.fit(model, (X, Y), loss=nn.mse, optimizer="adam", epochs=1)


def test_gradients_from_before_do_not_count():
    model, fresh = network(), network()
    nn.cross_entropy(model(X), Y).backward()
    run(model, (X, Y), epochs=1)
    run(fresh, (X, Y), epochs=1)
    assert weights(model) == weights(fresh)


def test_evaluate_is_exact_on_a_short_last_batch():
    model = network()
    whole = train.evaluate(model, (X, Y), loss=nn.cross_entropy, batch_size=12)
    parts = train.evaluate(model, (X, Y), loss=nn.cross_entropy, batch_size=5)
    assert math.isclose(whole.loss, parts.loss, rel_tol=1e-6)
    assert whole.accuracy == parts.accuracy
