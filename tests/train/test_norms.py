"""Norms of gradients and activations: against formulas, planted faults, and a training left alone."""

import tracemalloc

import numpy as np
import pytest

import thriftgrad as tg
from thriftgrad.errors import ConfigError, DataError
from thriftgrad.train import Norms

X = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float64)
Y = (X[:, 0] > 0).astype(int)


def network(*, rng=0, activation=tg.nn.relu):
    rng = np.random.default_rng(rng)
    return tg.nn.Sequential(
        tg.nn.Linear(3, 6, rng=rng, dtype=float),
        activation,
        tg.nn.Linear(6, 2, rng=rng, dtype=float),
    )


def taken(model, x=X, y=Y):
    found = Norms((x, y), tg.nn.cross_entropy)
    found.take(model, 0.0)
    return found


def test_against_formulas():
    model = network()
    found = taken(model)
    w, b = model[0].weight.value, model[0].bias.value
    v, c = model[2].weight.value, model[2].bias.value
    z = X @ w + b
    h = np.maximum(z, 0)
    scores = h @ v + c
    p = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    delta = (p - np.eye(2)[Y]) / len(X)
    below = (delta @ v.T) * (z > 0)
    norm = lambda *grads: sum(np.sum(g**2) for g in grads) ** 0.5
    expected = {
        "0 Linear": norm(X.T @ below, below.sum(axis=0)),
        "2 Linear": norm(h.T @ delta, delta.sum(axis=0)),
    }
    assert found.gradients.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found.gradients[name], [value], rtol=1e-12)
    for name, output in zip(["0 Linear", "1 relu", "2 Linear"], [z, h, scores], strict=True):
        np.testing.assert_allclose(found.activations[name], [np.sqrt(np.mean(output**2))])


@pytest.mark.parametrize(
    ("activation", "bias", "word"),
    [
        (tg.nn.relu, -100.0, "dead"),
        (tg.nn.sigmoid, 50.0, "saturated"),
        (np.tanh, -50.0, "saturated"),
    ],
)
def test_planted_quiet_units_are_named(activation, bias, word):
    model = network(activation=activation)
    model[0].weight.value[...] *= 0.1
    model[0].bias.value[...] = 0.5
    name = f"1 {activation.__name__}"
    assert taken(model).said() == {}
    model[0].bias.value[[1, 4]] = bias
    assert taken(model).said() == {name: f"2 of 6 units {word}"}


def test_nested_and_own_modules():
    class Own(tg.nn.Module):
        def __init__(self):
            self.w = tg.Parameter(np.ones((6, 2)))

        def __call__(self, x):
            return x @ self.w

    model = tg.nn.Sequential(tg.nn.Sequential(tg.nn.Linear(3, 6, rng=0), np.tanh), Own())
    found = taken(model)
    assert list(found.activations) == ["0.0 Linear", "0.1 tanh", "1 Own"]
    assert list(found.gradients) == ["0.0 Linear", "1 Own"]
    assert list(taken(Own(), np.ones((40, 6))).gradients) == ["Own"]


def fitted(callbacks, epochs=3, **more):
    model = tg.nn.Sequential(*network(), tg.nn.Dropout(0.3, rng=1))
    tg.train.fit(
        model,
        (X, Y),
        loss=tg.nn.cross_entropy,
        optimizer=tg.optim.SGD(model.parameters(), 0.1),
        epochs=epochs,
        batch_size=10,
        callbacks=callbacks,
        **more,
    )
    return model.state_dict()


def test_the_training_is_left_alone():
    plain, watched = fitted([]), fitted([Norms((X, Y), tg.nn.cross_entropy, every=1)])
    assert all(np.array_equal(plain[k], watched[k]) for k in plain)


def test_times():
    each_epoch, each_third = (Norms((X, Y), tg.nn.cross_entropy, every=n) for n in (None, 3))
    fitted([each_epoch, each_third])
    assert each_epoch.epochs == [0, 1, 2, 3]
    assert each_third.epochs == [0, 0.75, 1.5, 2.25, 3]
    assert all(len(v) == 5 for v in each_third.gradients.values())


def test_file_and_resuming(tmp_path):
    path, snapshot = tmp_path / "norms.csv", tmp_path / "s.safetensors"
    whole = Norms((X, Y), tg.nn.cross_entropy)
    fitted([whole], compile=True)  # as few steps are with a snapshot alone
    for epochs in (2, 3):
        part = Norms((X, Y), tg.nn.cross_entropy, path=path)
        fitted([part], epochs, snapshot=snapshot, resume=True)
    read = Norms.read(path)
    for name in ("epochs", "gradients", "activations", "quiet", "units"):
        assert getattr(read, name) == getattr(whole, name) == getattr(part, name)


def test_a_file_that_is_ahead_of_the_snapshot(tmp_path):
    path, snapshot = tmp_path / "norms.csv", tmp_path / "s.safetensors"
    for epochs in (2, 3):
        fitted(
            [Norms((X, Y), tg.nn.cross_entropy, path=path)], epochs, snapshot=snapshot, resume=True
        )
        if epochs == 2:
            behind = snapshot.read_bytes()
    whole = path.read_bytes()
    snapshot.write_bytes(behind)  # as if killed before the third was written

    class Looks(tg.train.Callback):
        def on_step_end(self, state):
            self.seen = Norms.read(path).epochs if state.step == 1 else self.seen

    looks = Looks()
    callbacks = [Norms((X, Y), tg.nn.cross_entropy, path=path), looks]
    fitted(callbacks, 3, snapshot=snapshot, resume=True)
    assert looks.seen == [0, 1, 2]
    assert path.read_bytes() == whole


def test_a_file_of_another_model(tmp_path):
    path, snapshot = tmp_path / "norms.csv", tmp_path / "s.safetensors"
    fitted([], 2, snapshot=snapshot)
    Norms((X, Y), tg.nn.cross_entropy, path=path).take(tg.nn.Sequential(*network()), 0.0)
    with pytest.raises(DataError, match=r"of the layers .* expected .*3 Dropout: delete it"):
        fitted([Norms((X, Y), tg.nn.cross_entropy, path=path)], 3, snapshot=snapshot, resume=True)


@pytest.mark.parametrize("update", ["after backward", "during backward"])
def test_by_a_plan_they_are_the_same(update):
    # Both step by the same plan, so that only how the norms are taken differs.
    more = {"memory": "none", "update": update}
    planned, plain = (Norms((X[:10], Y[:10]), tg.nn.cross_entropy) for _ in range(2))

    class Plainly(tg.train.Callback):
        def on_train_begin(self, state):
            plain.take(state.model, 0.0)

        def on_epoch_end(self, state):
            plain.take(state.model, float(state.epoch))

    alone, watched = fitted([], **more), fitted([planned, Plainly()], **more)
    assert all(np.array_equal(alone[k], watched[k]) for k in alone)
    for name in ("epochs", "gradients", "activations", "quiet", "units"):
        assert getattr(planned, name) == getattr(plain, name)


def test_by_a_plan_they_hold_no_more_than_a_step():
    model = tg.nn.Sequential(*(f for i in range(8) for f in (tg.nn.Linear(64, 64, rng=i), np.tanh)))
    x, y = np.ones((512, 64), np.float32), np.arange(512) % 64
    optimizer = tg.optim.SGD(model.parameters(), 0.1)
    plan = tg.memory.plan(
        model,
        x,
        y,
        budget="sqrt",
        loss=tg.nn.cross_entropy,
        optimizer=optimizer,
        update="during backward",
    )
    norms = Norms((x, y), tg.nn.cross_entropy)

    def held(plan):
        norms.on_train_begin(tg.train.State(model, optimizer, None, 1, 1, plan=plan))
        norms.take(model, 0.0)
        tracemalloc.start()
        norms.take(model, 0.0)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    room = plan.peak_bytes - sum(plan.chain.fixed.values())
    assert held(plan) < 1.02 * room
    assert held(None) > 1.3 * room


def test_a_foreign_file(tmp_path):
    path = tmp_path / "norms.csv"
    for text in ("", "a,b\n1,2\n", "epoch,gradient: x\n1\n", "epoch,gradient: x\n1,?\n"):
        path.write_text(text)
        with pytest.raises(DataError, match="holds no norms"):
            Norms.read(path)


def test_refuses():
    with pytest.raises(ConfigError, match="every=0"):
        Norms((X, Y), tg.nn.cross_entropy, every=0)
