"""Callbacks: when they are called, what they see, and the ones that come along."""

import io
import sys

import numpy as np
import pytest

from thriftgrad import nn, optim, train
from thriftgrad.train.callbacks import ProgressBar

X = np.random.default_rng(0).normal(size=(10, 2)).astype(np.float32)
Y = (X[:, 0] > 0).astype(int)


def run(*callbacks, **options):
    model = nn.Sequential(nn.Linear(2, 2, rng=0))
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    options = {"loss": nn.cross_entropy, "epochs": 2, "batch_size": 4, **options}
    return train.fit(model, (X, Y), optimizer=optimizer, callbacks=callbacks, **options)


class Diary(train.Callback):
    def __init__(self):
        self.events = []

    def on_train_begin(self, state):
        self.events.append(("begin", state.steps, state.epochs, len(state.history)))

    def on_step_end(self, state):
        self.events.append((state.epoch, state.step))
        assert np.isfinite([state.loss, state.mean_loss]).all()

    def on_epoch_end(self, state):
        self.events.append(("epoch", state.epoch, len(state.history)))

    def on_train_end(self, state):
        self.events.append("end")


def test_order():
    diary = Diary()
    run(diary)
    assert diary.events == [
        ("begin", 3, 2, 0),
        (1, 1),
        (1, 2),
        (1, 3),
        ("epoch", 1, 1),
        (2, 1),
        (2, 2),
        (2, 3),
        ("epoch", 2, 2),
        "end",
    ]


def test_mean_loss_ends_as_the_epochs_loss():
    class Mean(train.Callback):
        def on_epoch_end(self, state):
            assert state.mean_loss == state.history.train_loss[-1]

    run(Mean())


def test_stopping_and_changing_the_learning_rate():
    class Halve(train.Callback):
        def on_epoch_end(self, state):
            state.optimizer.lr = state.optimizer.lr / 2
            state.stop = state.epoch == 3

    history = run(Halve(), epochs=10)
    np.testing.assert_array_equal(history.learning_rate, [0.1, 0.05, 0.025])


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_an_interruption_ends_the_watching_and_goes_on(error, capsys):
    class Interrupt(Diary):
        def on_step_end(self, state):
            super().on_step_end(state)
            if (state.epoch, state.step) == (2, 2):
                raise error

    diary = Interrupt()
    with pytest.raises(error):
        run(diary, progress=True)
    assert diary.events[-2:] == [(2, 2), "end"]


def test_metrics_file_has_whole_lines_at_every_moment(tmp_path):
    path = tmp_path / "metrics.csv"

    class Read(train.Callback):
        lengths = ()

        def on_step_end(self, state):
            self.lengths = (*self.lengths, len(train.History.from_csv(path)))

    reader = Read()
    history = run(train.MetricsFile(path), reader)
    assert reader.lengths == (0, 0, 0, 1, 1, 1)
    assert repr(train.History.from_csv(path)) == repr(history)


def test_progress_bar_shows_loss_and_rate(monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(sys, "stderr", screen)
    run(progress=True, validation=(X, Y))
    text = screen.getvalue()
    assert "epoch 2/2" in text
    assert "3/3" in text
    assert "step/s" in text
    assert "loss 0." in text
    assert "validation 0." in text
    assert " %" in text
    assert text.endswith("\n")


def test_progress_is_quiet_where_nobody_watches(monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(sys, "stderr", screen)
    run()
    assert screen.getvalue() == ""
    screen.isatty = lambda: True
    assert ProgressBar.wanted()
    run()
    assert "epoch 2/2" in screen.getvalue()
    screen.isatty = lambda: False
    monkeypatch.setitem(sys.modules, "ipykernel", sys)
    assert ProgressBar.wanted()
