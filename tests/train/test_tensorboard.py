"""The TensorBoard callback: TensorBoard reads back what was written, whatever ends the training."""

import struct
import warnings

import numpy as np
import pytest

from thriftgrad import nn, optim, train
from thriftgrad.train.tensorboard import _checksum

X = np.random.default_rng(0).normal(size=(10, 2)).astype(np.float32)
Y = (X[:, 0] > 0).astype(int)


def run(folder, *callbacks, loss=nn.cross_entropy, **options):
    model = nn.Sequential(nn.Linear(2, 2, rng=0))
    optimizer = optim.SGD(model.parameters(), lr=optim.schedules.exponential_decay(0.1, 0.5, 3))
    options = {"epochs": 3, "batch_size": 4, **options}
    watching = [train.TensorBoard(folder), *callbacks]
    return train.fit(model, (X, Y), loss=loss, optimizer=optimizer, callbacks=watching, **options)


def read(folder):
    """Return the scalars of a run as TensorBoard itself reads them: (step, value) by tag."""
    pytest.importorskip("tensorboard")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a foreign library, about itself
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        accumulator = EventAccumulator(str(folder)).Reload()
    return {
        tag: [(event.step, event.value) for event in accumulator.Scalars(tag)]
        for tag in accumulator.Tags()["scalars"]
    }


def expected(values, first=1):
    return [(epoch, float(np.float32(value))) for epoch, value in enumerate(values, first)]


def test_tensorboard_reads_what_was_measured(tmp_path):
    history = run(tmp_path, validation=(X, Y))
    assert read(tmp_path / "train") == {
        "loss": expected(history.train_loss),
        "accuracy": expected(history.train_accuracy),
        "learning_rate": expected(history.learning_rate),
    }
    assert read(tmp_path / "validation") == {
        "loss": expected(history.validation_loss),
        "accuracy": expected(history.validation_accuracy),
    }


def test_what_was_not_measured_is_not_there(tmp_path):
    run(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["train"]


def test_each_epoch_can_be_read_while_training_goes_on(tmp_path):
    lengths = []

    class Read(train.Callback):
        def on_step_end(self, state):
            lengths.append(len(read(tmp_path / "train").get("loss", ())))

    run(tmp_path, Read(), batch_size=10)
    assert lengths == [0, 1, 2]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_files_are_closed_and_whole_when_training_breaks_off(error, tmp_path):
    class Interrupt(train.Callback):
        def on_step_end(self, state):
            if state.epoch == 3:
                raise error

    board = train.TensorBoard(tmp_path)
    with pytest.raises(error):
        run(tmp_path / "other", board, Interrupt(), validation=(X, Y))
    assert board._files == {}
    assert [step for step, _ in read(tmp_path / "train")["loss"]] == [1, 2]
    assert [step for step, _ in read(tmp_path / "validation")["loss"]] == [1, 2]


def test_a_resumed_training_goes_on_in_the_same_charts(tmp_path):
    class DieBeforeTheSnapshot(train.Callback):
        def on_epoch_end(self, state):
            if state.epoch == 2:
                raise KeyboardInterrupt

    options = {"validation": (X, Y), "snapshot": tmp_path / "snapshot.safetensors", "resume": True}
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, DieBeforeTheSnapshot(), **options)
    assert len(read(tmp_path / "train")["loss"]) == 2  # of which the snapshot knows one
    history = run(tmp_path, **options)
    assert read(tmp_path / "train")["loss"] == expected(history.train_loss)
    assert read(tmp_path / "validation")["loss"] == expected(history.validation_loss)


def test_records_by_their_definition(tmp_path):
    """Lengths and checksums add up; TensorBoard may skip what it finds damaged."""
    # The check value of CRC-32C in catalogues, masked as the format says.
    crc = 0xE3069283
    masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
    assert _checksum(b"123456789") == struct.pack("<I", masked)

    run(tmp_path)
    (path,) = (tmp_path / "train").iterdir()
    content, records = path.read_bytes(), 0
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        assert content[8:12] == _checksum(content[:8])
        assert content[12 + length : 16 + length] == _checksum(content[12 : 12 + length])
        content = content[16 + length :]
        records += 1
    assert records == 2 + 3


def test_a_folder_that_cannot_be_made_is_found_before_the_first_step(tmp_path):
    (tmp_path / "file").write_text("")
    steps = []

    class Count(train.Callback):
        def on_step_end(self, state):
            steps.append(state.step)

    with pytest.raises(OSError, match="file"):
        run(tmp_path / "file", Count())
    assert steps == []
