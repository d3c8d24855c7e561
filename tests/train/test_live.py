"""`Live`: what it shows, where, how often, and that the training is left alone."""

import io
import re
import sys
import types

import numpy as np
import pytest

import thriftgrad as tg
from thriftgrad.errors import ConfigError, MissingExtraError, NonFiniteError
from thriftgrad.train import Live, live

RNG = np.random.default_rng(0)
X, Y = RNG.random((60, 16)).astype(np.float32), np.arange(60) % 3


def decoded(picture):
    from matplotlib.image import imread

    return imread(io.BytesIO(picture))


def fitted(callbacks, epochs=3, **more):
    model = tg.nn.Sequential(
        tg.nn.Linear(16, 3, rng=0), tg.nn.Dropout(0.2, rng=1), tg.nn.Linear(3, 3, rng=2)
    )
    history = tg.train.fit(
        model,
        (X, Y),
        loss=tg.nn.cross_entropy,
        optimizer=tg.optim.SGD(model.parameters(), 0.1),
        epochs=epochs,
        batch_size=6,
        validation=(X[:20], Y[:20]),
        callbacks=callbacks,
        **more,
    )
    return model, history


def test_a_file_is_rewritten(tmp_path):
    path = tmp_path / "live.png"
    watching = Live((X, Y), path=path, rate=1e6, share=1)
    model, history = fitted([watching])
    assert decoded(path.read_bytes()).shape == (520, 1000, 4)
    assert watching.updates >= 2
    assert [p.name for p in tmp_path.iterdir()] == ["live.png"]
    shown = watching._curves(tg.train.State(model, None, None, 3, 10, history=history))
    np.testing.assert_allclose(shown.validation_loss[1], history.validation_loss)
    np.testing.assert_allclose(shown.loss[1].reshape(3, 10).mean(axis=1), history.train_loss)
    np.testing.assert_allclose(shown.accuracy, [[1, 2, 3], history.train_accuracy])
    outputs = watching._outputs(tg.train.State(model, None, None, 3, 10))
    with model.evaluating():
        np.testing.assert_allclose(outputs, tg.nn.softmax(model(X[:8])).value)


def test_the_training_is_left_alone(tmp_path):
    plain, watched = (
        fitted(callbacks)[0].state_dict()
        for callbacks in ([], [Live((X, Y), path=tmp_path / "l.png", rate=100, share=1)])
    )
    assert all(np.array_equal(plain[k], watched[k]) for k in plain)


def test_a_resumed_run_shows_what_was_before(tmp_path):
    fitted([], 2, snapshot=tmp_path / "s")
    watching = Live(path=tmp_path / "l.png")
    model, history = fitted([watching], 4, snapshot=tmp_path / "s", resume=True)
    times, losses = watching._curves(tg.train.State(model, None, None, 4, 10, history=history)).loss
    assert times[:2].tolist() == [0.5, 1.5]
    np.testing.assert_allclose(losses[:2], history.train_loss[:2])
    assert np.all(np.diff(times) > 0)


@pytest.mark.parametrize(("rate", "share"), [(1.0, 0.02), (10.0, 0.1), (0.2, 0.5)])
def test_updates_cost_no_more_than_their_share(monkeypatch, rate, share):
    clock = types.SimpleNamespace(now=0.0)
    monkeypatch.setattr(live, "time", types.SimpleNamespace(perf_counter=lambda: clock.now))

    def show(self, state):
        clock.now += RNG.uniform(0.01, 0.05)

    monkeypatch.setattr(Live, "_show", show)
    watching = Live(path="nowhere.png", rate=rate, share=share)
    state = tg.train.State(None, None, None, 1, 10_000, epoch=1)
    watching.on_train_begin(state)
    began, updates = clock.now, []
    for state.step in range(1, 10_001):
        clock.now += 0.01
        before = watching.updates
        watching.on_step_end(state)
        if watching.updates > before:
            updates.append(clock.now)
        assert watching.seconds <= share * (clock.now - began) + 0.05
    assert np.diff(updates).min() >= 1 / rate
    # It is not idle either: either the rate or the share is used up.
    elapsed = clock.now - began
    assert len(updates) > 0.8 * min(rate, share / 0.03) * elapsed


def test_one_figure_in_a_notebook(monkeypatch, tmp_path):
    from IPython.core.displaypub import CapturingDisplayPublisher
    from IPython.core.formatters import DisplayFormatter
    from IPython.core.interactiveshell import InteractiveShell

    monkeypatch.setitem(sys.modules, "ipykernel", types.ModuleType("ipykernel"))
    monkeypatch.chdir(tmp_path)
    published = CapturingDisplayPublisher()
    # What of a shell a display needs; a whole one would take the place of __main__.
    shell = types.SimpleNamespace(display_pub=published, display_formatter=DisplayFormatter())
    monkeypatch.setattr(InteractiveShell, "initialized", lambda: True)
    monkeypatch.setattr(InteractiveShell, "instance", lambda: shell)
    watching = Live((X, Y), rate=1e6, share=1)
    fitted([watching], progress=False)
    first, *later = published.outputs
    assert not first["update"]
    assert all(each["update"] for each in later)
    assert len({each["transient"]["display_id"] for each in published.outputs}) == 1
    assert len(later) == watching.updates
    assert not list(tmp_path.glob("*.png"))


def test_text(capsys, monkeypatch):
    watching = Live((X, Y), text=True, rate=1e6, share=1)
    fitted([watching], progress=False)
    out = capsys.readouterr().out
    assert "\x1b[J" not in out  # a pipe is no terminal to be drawn over
    assert "loss: training" in out
    assert re.search(r"samples: \d( \(is \d\))?,", out)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    fitted([Live((X, Y), text=True, rate=1e6, share=1)], progress=False)
    out = capsys.readouterr().out
    first, *later = re.split(r"\x1b\[(?:\d+)F\x1b\[J", out)
    lines = re.findall(r"\x1b\[(\d+)F", out)
    assert {int(n) for n in lines} == {first.count("\n")} == {each.count("\n") for each in later}


def test_without_plotext(monkeypatch):
    monkeypatch.setitem(sys.modules, "plotext", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'thriftgrad\[plots\]'"):
        fitted([Live(text=True)])


def test_a_training_that_fails_says_why_itself(tmp_path):
    model = tg.nn.Sequential(tg.nn.Linear(16, 3, rng=0))
    with pytest.raises(NonFiniteError):
        tg.train.fit(
            model,
            (1e30 * X, Y),
            loss=tg.nn.cross_entropy,
            optimizer=tg.optim.SGD(model.parameters(), 1.0),
            epochs=2,
            callbacks=[Live((X, Y), path=tmp_path / "live.png", rate=1e6, share=1)],
        )
    assert (tmp_path / "live.png").exists()


def test_the_default_is_a_file_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fitted([Live()])
    assert (tmp_path / "live.png").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"samples": (X, Y.astype(float))}, "dtype float64"),
        ({"samples": (X[:3], Y[:2])}, r"y of shape \(2,\)"),
        ({"samples": 3}, "expected images and an integer label"),
        ({"rate": 0}, "rate=0"),
        ({"share": 0}, "share=0"),
        ({"share": 1.5}, "share=1.5"),
        ({"samples": (X[:, :15], Y)}, r"pass shape=\(height, width\)"),
    ],
)
def test_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        Live(**{"path": "nowhere.png", **arguments})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"samples": (X, Y + 1)}, r"labels up to 3 have shape \(8, 3\)"),
        ({"samples": (X, Y), "names": ["a", "b"]}, "2 names for 3 classes"),
    ],
)
def test_refuses_what_does_not_fit_the_model(arguments, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        fitted([Live(**arguments, path=tmp_path / "live.png")])
