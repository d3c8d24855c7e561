"""Snapshots: a run that is killed and resumed ends with the bits of one that never was.

The real thing first: processes that are killed with SIGKILL, at random moments and in the middle of
writing. Then what each file must and must not be.
"""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from thriftgrad import nn, optim, train
from thriftgrad.errors import ConfigError, SnapshotError
from thriftgrad.train.snapshot import made_steps

SCRIPT = textwrap.dedent(
    """
    import sys
    import numpy as np
    from thriftgrad import nn, optim, train

    def fit(snapshot, epochs=30, patience=4):
        rng = np.random.default_rng(0)
        x = rng.normal(size=(1200, 16)).astype(np.float32)
        y = (x[:, :4].sum(axis=1) + rng.normal(size=1200) > 0).astype(int)
        model = nn.Sequential(
            nn.Linear(16, 24, rng=1), nn.relu, nn.Dropout(0.3, rng=2), nn.Linear(24, 3, rng=3)
        )
        optimizer = optim.Adam(
            model.parameters(), lr=optim.schedules.exponential_decay(0.002, 0.95, steps=90)
        )
        history = train.fit(
            model, (x[:900], y[:900]), loss=nn.cross_entropy, optimizer=optimizer, epochs=epochs,
            batch_size=10, validation=(x[900:], y[900:]), rng=4,
            patience=patience, snapshot=snapshot, resume=True, progress=False,
        )
        return model, history

    if __name__ == "__main__":
        model, history = fit(sys.argv[1])
        np.savez(sys.argv[2], loss=history.train_loss, **model.state_dict())
    """
)


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    """The script's path, and what it comes to when nobody disturbs it."""
    folder = tmp_path_factory.mktemp("script")
    path = folder / "train_it.py"
    path.write_text(SCRIPT)
    begun = time.perf_counter()
    subprocess.run([sys.executable, path, folder / "s.safetensors", folder / "out.npz"], check=True)
    seconds = time.perf_counter() - begun
    with np.load(folder / "out.npz") as arrays:
        return path, dict(arrays), seconds


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
@pytest.mark.parametrize("seed", [0, 1])
def test_killed_at_random_moments_and_resumed(script, tmp_path, seed):
    path, expected, seconds = script
    rng = np.random.default_rng(seed)
    snapshot, out = tmp_path / "s.safetensors", tmp_path / "out.npz"
    kills = 0
    for _ in range(40):
        process = subprocess.Popen([sys.executable, path, snapshot, out])
        try:
            # Starting takes most of a short run; the moments are spread over the part that trains.
            assert process.wait(timeout=seconds * rng.uniform(0.35, 0.75)) == 0
            break
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            kills += 1
        if snapshot.exists():
            train.load(network(), snapshot)  # whole, whenever one looks
        if kills == 8:
            subprocess.run([sys.executable, path, snapshot, out], check=True)
            break
    assert kills > 0
    with np.load(out) as arrays:
        assert set(arrays) == set(expected)
        for name, array in expected.items():
            np.testing.assert_array_equal(arrays[name], array, strict=True)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_killed_while_writing(script, tmp_path, moment):
    """Die before the third snapshot's bytes are flushed, or just before it takes the old one's name."""
    path, expected, _ = script
    snapshot, out = tmp_path / "s.safetensors", tmp_path / "out.npz"
    at = 5 if moment == "fsync" else 3  # a writing flushes twice, file and folder, and renames once
    killer = textwrap.dedent(
        f"""
        import os, runpy, signal, sys
        original, calls = os.{moment}, 0
        def deadly(*args):
            global calls
            calls += 1
            if calls == {at}:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args)
        os.{moment} = deadly
        sys.argv = sys.argv[1:]
        runpy.run_path(sys.argv[0], run_name="__main__")
        """
    )
    died = subprocess.run([sys.executable, "-c", killer, path, snapshot, out])
    assert died.returncode == -signal.SIGKILL
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        ".s.safetensors.part",
        "s.safetensors",
    ]
    train.load(network(), snapshot)
    assert len(facts(snapshot)["history"]) == 1
    subprocess.run([sys.executable, path, snapshot, out], check=True)
    assert [p.name for p in tmp_path.glob(".*")] == []
    with np.load(out) as arrays:
        for name, array in expected.items():
            np.testing.assert_array_equal(arrays[name], array, strict=True)


def network():
    return nn.Sequential(
        nn.Linear(16, 24, rng=1), nn.relu, nn.Dropout(0.3, rng=2), nn.Linear(24, 3, rng=3)
    )


def facts(path):
    with safe_open(path, framework="numpy") as file:
        return json.loads(file.metadata()["thriftgrad"])


# In one process


X = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
Y = (X[:, 0] > 0).astype(int)


def small(rng=0, dtype=np.float32, width=6, activation=nn.relu):
    return nn.Sequential(
        nn.Linear(4, width, rng=rng, dtype=dtype),
        activation,
        nn.Dropout(0.2, rng=9),
        nn.Linear(width, 2, rng=rng, dtype=dtype),
    )


def fit(path, epochs, model=None, make=optim.Adam, resume=True, **options):
    model = small() if model is None else model
    options = {"loss": nn.cross_entropy, "batch_size": 8, **options}
    history = train.fit(
        model,
        (X, Y),
        optimizer=make(model.parameters(), lr=0.05),
        epochs=epochs,
        snapshot=path,
        resume=resume,
        **options,
    )
    return model, history


def same(one, other):
    return all(
        np.array_equal(array, other.state_dict()[name]) for name, array in one.state_dict().items()
    )


@pytest.mark.parametrize(
    "make",
    [
        optim.Adam,
        optim.SGD,
        lambda p, lr: optim.SGD(p, lr, momentum=0.9, nesterov=True),
        lambda p, lr: optim.AdamW(p, lr, clip_norm=1.0),
    ],
)
def test_epochs_in_two_goes_are_epochs_in_one(tmp_path, make):
    whole, expected = fit(tmp_path / "whole", 5, make=make)
    fit(tmp_path / "parts", 2, make=make)
    # The weights, seeds and generators of the second go are of no account.
    parts, history = fit(tmp_path / "parts", 5, small(rng=77), make=make, rng=123)
    assert same(whole, parts)
    np.testing.assert_array_equal(history.train_loss, expected.train_loss)
    plain, _ = fit(None, 5, make=make, resume=False, compile=True)  # as few steps else are not
    assert same(whole, plain)  # and writing snapshots changes nothing


@pytest.mark.parametrize("bits", [np.random.MT19937, np.random.Philox, np.random.SFC64])
def test_any_of_numpys_generators(tmp_path, bits):
    def model():
        return nn.Sequential(
            nn.Linear(4, 6, rng=0),
            nn.Dropout(0.5, rng=np.random.Generator(bits(3))),
            nn.Linear(6, 2, rng=0),
        )

    def rng():
        return np.random.Generator(bits(1))

    whole, _ = fit(tmp_path / "whole", 3, model(), rng=rng())
    fit(tmp_path / "parts", 1, model(), rng=rng())
    parts, _ = fit(tmp_path / "parts", 3, model(), rng=np.random.Generator(bits(2)))
    assert same(whole, parts)
    with pytest.raises(SnapshotError, match="no state for a random generator of kind PCG64"):
        fit(tmp_path / "parts", 4, model(), rng=0)


def test_a_rate_that_was_changed_on_the_way_is_kept(tmp_path):
    class Halve(train.Callback):
        def on_epoch_end(self, state):
            state.optimizer.lr = state.optimizer.lr / 2

    whole, _ = fit(tmp_path / "whole", 4, callbacks=[Halve()])
    fit(tmp_path / "parts", 2, callbacks=[Halve()])
    parts, history = fit(tmp_path / "parts", 4, callbacks=[Halve()])
    assert same(whole, parts)
    np.testing.assert_array_equal(history.learning_rate, [0.05, 0.025, 0.0125, 0.00625])


def test_what_has_ended_stays_ended(tmp_path):
    path = tmp_path / "s"
    model, history = fit(path, 50, validation=(X, 1 - Y), patience=2)
    assert len(history) < 50
    content = path.read_bytes()
    again, same_history = fit(path, 60, small(rng=5), validation=(X, 1 - Y), patience=2)
    assert same(model, again)
    assert repr(same_history) == repr(history)
    assert same_history.step == history.step == made_steps(path) == "compiled"
    assert path.read_bytes() == content

    loaded = small(rng=6)
    train.load(loaded, path)
    assert same(loaded, model)  # the best weights, as fit has left them


def test_stopping_by_a_callback_is_remembered(tmp_path):
    class Stop(train.Callback):
        def on_epoch_end(self, state):
            state.stop = True

    fit(tmp_path / "s", 9, callbacks=[Stop()])
    _, history = fit(tmp_path / "s", 9)
    assert len(history) == 1


def test_a_snapshot_that_is_there_is_not_overwritten(tmp_path):
    fit(tmp_path / "s", 1)
    before = (tmp_path / "s").read_bytes()
    with pytest.raises(ConfigError, match="pass resume=True to go on"):
        fit(tmp_path / "s", 1, resume=False)
    assert (tmp_path / "s").read_bytes() == before


def test_a_folder_that_is_not_there_is_found_out_before_training(tmp_path):
    started = []

    class Start(train.Callback):
        def on_train_begin(self, state):
            started.append(state)

    with pytest.raises(FileNotFoundError):
        fit(tmp_path / "none" / "s", 1, callbacks=[Start()])
    assert not started


def test_save_and_load(tmp_path):
    one, other = small(rng=1), small(rng=2)
    train.save(one, tmp_path / "m.safetensors")
    train.load(other, tmp_path / "m.safetensors")
    assert same(one, other)
    # It is a plain safetensors file, for any other reader.
    arrays = load_file(tmp_path / "m.safetensors")
    assert set(arrays) == {f"model.{name}" for name in one.state_dict()}
    if os.name == "posix":
        plain = tmp_path / "plain"
        plain.write_text("")
        assert (tmp_path / "m.safetensors").stat().st_mode == plain.stat().st_mode


def test_unusual_arrays_survive(tmp_path):
    class Odd(nn.Module):
        def __init__(self, fill):
            import thriftgrad as tg

            self.scalar = tg.Parameter(np.full((), fill))
            self.empty = tg.Parameter(np.full((0, 3), fill))
            self.columns = tg.Parameter(np.full((3, 2), fill, np.float16).T)

        def __call__(self, x):
            return x

    one, other = Odd(0.5), Odd(0.0)
    one.columns.value[:] = np.arange(6).reshape(2, 3)
    train.save(one, tmp_path / "m")
    train.load(other, tmp_path / "m")
    for (name, p), (_, q) in zip(one.named_parameters(), other.named_parameters(), strict=True):
        np.testing.assert_array_equal(p.value, q.value, strict=True, err_msg=name)


# What is refused, with everything left as it was


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"batch_size": 16}, "batch_size = 8, now 16"),
        ({"loss": nn.mse}, "loss = 'cross_entropy', now 'mse'"),
        ({"patience": 3}, "patience = None, now 3"),
        ({"validation": (X, Y)}, "validation = None, now"),
        ({"make": optim.SGD}, "config of SGD does not fit"),
        ({"make": lambda p, lr: optim.Adam(p, lr, eps=1e-3)}, "saved with eps = 1e-08"),
        ({"model": small(width=7)}, r"shape \(4, 6\), expected \(4, 7\)"),
        ({"model": small(dtype=np.float64)}, "in float32, the model in float64"),
        ({"model": nn.Sequential(nn.Linear(4, 2, rng=0))}, "layers = "),
        ({"model": small(activation=nn.tanh)}, "1 relu.*, now '.*1 tanh"),
    ],
)
def test_a_training_that_does_not_fit(tmp_path, second, message):
    fit(tmp_path / "s", 1)
    before = (tmp_path / "s").read_bytes()
    second = {"model": small(rng=3), **second}
    weights = second["model"].state_dict()
    with pytest.raises(SnapshotError, match=message):
        fit(tmp_path / "s", 2, **second)
    for name, array in second["model"].state_dict().items():
        np.testing.assert_array_equal(array, weights[name], strict=True)
    assert (tmp_path / "s").read_bytes() == before


def test_weights_alone_are_no_training(tmp_path):
    train.save(small(), tmp_path / "m")
    with pytest.raises(SnapshotError, match="no training to resume"):
        fit(tmp_path / "m", 1)


def test_every_cut_and_every_flipped_bit_is_noticed(tmp_path):
    model = nn.Sequential(nn.Linear(2, 1, rng=0))
    path = tmp_path / "m"
    train.save(model, path)
    content = path.read_bytes()
    before = model.state_dict()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(SnapshotError):
            train.load(model, path)
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 1 << (place % 8)
        path.write_bytes(changed)
        try:
            train.load(model, path)
        except SnapshotError:
            continue
        # A name in the header's padding, or a space for a line break in it, changes no content.
        for name, array in model.state_dict().items():
            np.testing.assert_array_equal(array, before[name])


def test_files_of_others(tmp_path):
    model = small()
    path = tmp_path / "m"
    save_file(model.state_dict(), path, {"format": "np"})
    with pytest.raises(SnapshotError, match=r"thriftgrad has not written it.*they have format"):
        train.load(model, path)
    save_file(model.state_dict(), path)
    with pytest.raises(SnapshotError, match="they have nothing"):
        train.load(model, path)
    path.write_bytes(b"PK\x03\x04 not a snapshot")
    with pytest.raises(SnapshotError, match="expected a safetensors file"):
        train.load(model, path)
    path.write_bytes(b"")
    with pytest.raises(SnapshotError, match="expected a safetensors file"):
        train.load(model, path)
    with pytest.raises(FileNotFoundError):
        train.load(model, tmp_path / "none")
    with pytest.raises(IsADirectoryError if os.name == "posix" else PermissionError):
        train.load(model, tmp_path)


def test_a_file_from_the_future(tmp_path, monkeypatch):
    monkeypatch.setattr("thriftgrad.train.snapshot._FORMAT", 99)
    train.save(small(), tmp_path / "m")
    monkeypatch.undo()
    with pytest.raises(SnapshotError, match=r"a snapshot of format 99; .* reads format 1"):
        train.load(small(), tmp_path / "m")


def test_a_failing_write_leaves_the_old_snapshot(tmp_path, monkeypatch):
    path = tmp_path / "m"
    train.save(small(rng=1), path)
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        train.save(small(rng=2), path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["m"]
    with pytest.raises(OSError, match=r"No space left.*m'$"):
        train.save(small(rng=2), path)
    monkeypatch.undo()
    with pytest.raises(FileNotFoundError, match=r"none.m'$"):
        train.save(small(), tmp_path / "none" / "m")


def test_numbers_of_a_type_that_numpy_does_not_have(tmp_path):
    header = json.dumps({"model.w": {"dtype": "F8_E4M3", "shape": [1], "data_offsets": [0, 1]}})
    (tmp_path / "m").write_bytes(len(header).to_bytes(8, "little") + header.encode() + b"\0")
    with pytest.raises(SnapshotError, match="expected a safetensors file"):
        train.load(small(), tmp_path / "m")


def test_a_learning_rate_in_the_snapshot_goes_on(tmp_path):
    fit(tmp_path / "s", 1)
    _, history = fit(tmp_path / "s", 2, make=lambda p, lr: optim.Adam(p, lr=0.5))
    assert history.learning_rate.tolist() == [0.05, 0.05]


def test_a_function_without_a_name_is_the_same_in_every_process():
    from functools import partial

    from thriftgrad.train._diagnosis import layers

    named = layers(nn.Sequential(partial(lambda x, by: x * by, by=2)))
    assert named[0] == "Sequential"
    assert " at 0x" not in named[1]
