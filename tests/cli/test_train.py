"""`thriftgrad train`: what a run folder holds, resuming, and errors in one line."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from safetensors.numpy import load_file

from thriftgrad import __version__
from thriftgrad.data import mnist
from thriftgrad.train import History, Norms

SMALL = ("--hidden", "8", "--epochs", "3", "--batch-size", "20")
FILES = ["config.json", "curves.png", "metrics.csv", "norms.csv", "snapshot.safetensors"]


def weights(folder):
    return load_file(folder / "snapshot.safetensors")


def same(one, other):
    return one.keys() == other.keys() and all(np.array_equal(one[k], other[k]) for k in one)


def test_a_run_folder(command, pictures, tmp_path):
    result = command("train", "--data", pictures, *SMALL)
    folder = tmp_path / "runs" / "shapes-1"
    assert sorted(p.name for p in folder.iterdir()) == FILES
    config = json.loads((folder / "config.json").read_text())
    assert config["hidden"] == [8]
    assert config["image"] == [8, 8]
    assert config["data"] == str(pictures)
    assert len(History.from_csv(folder / "metrics.csv")) == 3
    assert Norms.read(folder / "norms.csv").epochs == [0, 1, 2, 3]
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert "330 images for training, 30 for validation, 60 for the test" in result.stdout
    assert "Linear  weight (64, 8)" in result.stdout
    assert re.search(r"test: loss 0\.\d+, accuracy \d+\.\d\d %", result.stdout)
    assert "validation loss" in result.stdout
    command("train", "--data", pictures, *SMALL)
    assert same(weights(folder), weights(tmp_path / "runs" / "shapes-2"))


def test_learns(command, pictures):
    result = command(
        "train", "--data", pictures, "--hidden", "16", "--epochs", "8", "--batch-size", "10"
    )
    assert float(re.search(r"accuracy ([\d.]+) %", result.stdout.splitlines()[-2])[1]) > 90


@pytest.mark.parametrize(
    "options",
    [
        ("--hidden", ""),
        ("--hidden", "8, 4"),
        ("--activation", "sigmoid", "--loss", "mse"),
        ("--activation", "tanh", "--loss", "squared_error", "--optimizer", "momentum"),
        ("--optimizer", "sgd", "--dtype", "float64"),
        ("--optimizer", "adamw", "--lr", "0.01", "--seed", "5"),
    ],
)
def test_every_option(command, pictures, tmp_path, options):
    command("train", "--data", pictures, "--epochs", 1, "--out", "r", *options)
    assert "test" not in json.loads((tmp_path / "r" / "config.json").read_text())
    command("evaluate", "r")


def test_steps_are_compiled_unless_one_asks_otherwise(command, pictures, tmp_path):
    run = ("train", "--data", pictures, *SMALL)
    said = command(*run, "--out", "default").stdout
    assert said.count("the training step is compiled\n") == 1
    assert "is compiled" in command(*run, "--compile", "--out", "compiled").stdout
    said = command(*run, "--no-compile", "--out", "eager").stdout
    assert "the training step is eager, as compile=False asks" in said
    assert "eager, by the plan" in command(*run, "--memory", "all", "--out", "planned").stdout
    made = {name: tmp_path / name for name in ("default", "compiled", "eager", "planned")}
    choices = [json.loads((made[n] / "config.json").read_text())["compile"] for n in made]
    assert choices == [None, True, False, None]
    assert same(weights(made["default"]), weights(made["compiled"]))
    assert same(weights(made["eager"]), weights(made["planned"]))
    for name, array in weights(made["eager"]).items():
        np.testing.assert_allclose(weights(made["default"])[name], array, rtol=1e-3, atol=1e-5)
    result = command(*run, "--compile", "--memory", "all", "--out", "both", code=1)
    assert "--compile does not go with --memory" in result.stderr
    result = command("train", "--out", "eager", "--resume", "--compile", code=1)
    assert "--compile True (was False)" in result.stderr


def test_kernels(command, pictures, tmp_path, monkeypatch):
    run = ("train", "--data", pictures, *SMALL)
    for other in (("--memory", "all"), ("--no-compile",)):
        result = command(*run, "--kernels", "numba", *other, "--out", "r", code=1)
        assert f"--kernels numba does not go with {other[0]}" in result.stderr
    command(*run, "--kernels", "cuda", code=2)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "numba", None)
        assert (
            "thriftgrad[fast]" in command(*run, "--kernels", "numba", "--out", "r", code=1).stderr
        )
    assert not (tmp_path / "r").exists()
    pytest.importorskip("numba")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    said = command(*run, "--kernels", "numba", "--out", "r").stdout
    assert "the training step is compiled, with Numba's kernels\n" in said
    assert json.loads((tmp_path / "r" / "config.json").read_text())["kernels"] == "numba"
    result = command("train", "--out", "r", "--resume", "--kernels", "numpy", code=1)
    assert "--kernels numpy (was numba)" in result.stderr


def test_a_run_from_before_there_were_compiled_steps_goes_on_without(command, pictures, tmp_path):
    run = ("train", "--data", pictures, "--hidden", "8", "--batch-size", "20", "--no-compile")
    command(*run, "--epochs", 1, "--out", "old")
    config = tmp_path / "old" / "config.json"
    content = json.loads(config.read_text())
    del content["compile"], content["kernels"]
    config.write_text(json.dumps(content))
    command("train", "--out", "old", "--resume", "--epochs", 2)
    command(*run, "--epochs", 2, "--out", "whole")
    assert same(weights(tmp_path / "old"), weights(tmp_path / "whole"))


def test_resumed_with_more_epochs_is_as_if_asked_for_at_once(command, pictures, tmp_path):
    options = ("--data", pictures, "--hidden", "8", "--batch-size", "20")
    command("train", *options, "--epochs", 4, "--out", "whole")
    command("train", *options, "--epochs", 2, "--out", "parts")
    result = command("train", "--out", "parts", "--resume", "--epochs", 4)
    assert "going on after epoch 2 of 4" in result.stdout
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    assert len(History.from_csv(tmp_path / "parts" / "metrics.csv")) == 4
    result = command("train", "--out", "parts", "--resume")
    assert "finished already, after 4 epochs" in result.stdout
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))


def test_resuming_refuses_other_options(command, pictures):
    command("train", "--data", pictures, *SMALL, "--out", "r")
    result = command(
        "train", "--out", "r", "--resume", "--lr", 0.5, "--hidden", "8", "--epochs", 2, code=1
    )
    assert "--lr 0.5 (was 0.002), --epochs 2 (was 3)" in result.stderr
    assert "--hidden" not in result.stderr


def test_a_run_never_overwrites(command, pictures, tmp_path):
    command("train", "--data", pictures, *SMALL, "--out", "r")
    before = {p.name: p.read_bytes() for p in (tmp_path / "r").iterdir()}
    result = command("train", "--data", pictures, *SMALL, "--out", "r", code=1)
    assert "go on with it by --out r --resume" in result.stderr
    assert {p.name: p.read_bytes() for p in (tmp_path / "r").iterdir()} == before
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("")
    result = command("train", "--data", pictures, "--out", "full", code=1)
    assert "full is not empty" in result.stderr
    (tmp_path / "file").write_text("")
    result = command("train", "--data", pictures, "--out", "file", code=1)
    assert "file is a file; --out takes the folder of a run" in result.stderr
    (tmp_path / "empty").mkdir()
    # What a process leaves that was killed in its first moments is not a run.
    (tmp_path / "empty" / ".config.json.part").write_text("{")
    command("train", "--data", pictures, *SMALL, "--out", "empty")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--activation", "swish"), "'swish' is not one of relu, sigmoid, tanh"),
        (("--loss", "hinge"), "is not one of cross_entropy, mse, squared_error"),
        (("--optimizer", "lion"), "is not one of adam, adamw, momentum, sgd"),
        (("--dtype", "int8"), "is not one of float32, float64"),
        (("--hidden", "12,x"), "'12,x' is not a list of widths"),
        (("--hidden", "0"), "'0' is not a list of widths"),
        (("--hidden", "12,,3"), "is not a list of widths"),
        (("--hidden", "1000001"), "wider than 1,000,000"),
        (("--hidden", "9" * 5000), "wider than 1,000,000"),
        (("--epochs", "0"), "'--epochs': '0' is not a whole number of at least 1"),
        (("--batch-size", "-1"), "'--batch-size': '-1' is not a whole number of at least 1"),
        (("--seed", "-1"), "'--seed': '-1' is not a whole number of at least 0"),
        (("--lr", "-1"), "'--lr': '-1' is not a finite number of at least 0"),
        (("--lr", "much"), "'--lr': 'much' is not a finite number of at least 0"),
        (("--lr", "nan"), "'--lr': 'nan' is not a finite number of at least 0"),
        (("--lr", "inf"), "'--lr': 'inf' is not a finite number of at least 0"),
        (("--seed", "x"), "'--seed': 'x' is not a whole number of at least 0"),
        (("--epochs", "1.5"), "'--epochs': '1.5' is not a whole number of at least 1"),
        (("--resume",), "--resume needs --out"),
        (("--speed", "9"), "--speed"),
        (("extra",), "extra"),
    ],
)
def test_usage_errors(command, pictures, arguments, message, tmp_path):
    result = command("train", "--data", pictures, *arguments, code=2)
    assert message in " ".join(result.stderr.split())
    assert not (tmp_path / "runs").exists()


def test_data_that_are_not_there_or_not_data(command, tmp_path):
    assert "none.npz" in command("train", "--data", "none.npz", code=1).stderr
    (tmp_path / "text.npz").write_text("hello")
    assert "of no known format" in command("train", "--data", "text.npz", code=1).stderr
    assert not (tmp_path / "runs").exists()


def test_a_learning_rate_that_explodes(command, pictures):
    result = command(
        "train",
        "--data",
        pictures,
        *SMALL,
        "--out",
        "r",
        "--lr",
        1e30,
        "--optimizer",
        "sgd",
        code=1,
    )
    assert "epoch 1, step" in result.stderr
    assert "lower learning rate" in result.stderr


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("snapshot.safetensors", b"junk", "snapshot.safetensors is not a snapshot"),
        ("config.json", b"{", "config.json is damaged: it is not JSON"),
        ("config.json", b"[]", "is not a configuration of format 1"),
        ("config.json", b'{"format": 1}', "config.json is damaged: missing ['activation'"),
        ("config.json", b"\xff", "config.json is damaged"),
        ("config.json", None, "holds no run: there is no config.json"),
    ],
)
def test_damaged_runs(command, run_folder, tmp_path, name, content, message):
    shutil.copytree(run_folder, tmp_path / "r")
    (tmp_path / "r" / name).unlink()
    if content is not None:
        (tmp_path / "r" / name).write_bytes(content)
    for arguments in (("train", "--out", "r", "--resume"), ("evaluate", "r")):
        assert message in command(*arguments, code=1).stderr


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hidden", "8"),
        ("hidden", [8.5]),
        ("activation", "swish"),
        ("lr", None),
        ("inputs", True),
        ("hidden", [0]),
        ("hidden", [10**9]),
        ("epochs", 0),
        ("batch_size", 0),
        ("seed", -1),
        ("seed", 10**100),
        ("inputs", 0),
        ("classes", -3),
        ("classes", 10**15),
        ("lr", -0.1),
        ("lr", float("nan")),
        ("lr", float("inf")),
        ("lr", 10**400),
        ("image", [8]),
        ("image", [8, 9]),
        ("image", [-8, -8]),
        ("background", 1.5),
        ("data", "a\0b"),
    ],
)
def test_configurations_that_were_edited_badly(command, run_folder, tmp_path, name, value):
    shutil.copytree(run_folder, tmp_path / "r")
    path = tmp_path / "r" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))
    errors = command("evaluate", "r", code=1).stderr
    assert f"config.json is damaged: {name}" in errors or name == "activation" in errors
    command("train", "--out", "r", "--resume", code=1)


def test_data_that_changed_since(command, run_folder, tmp_path, pictures):
    shutil.copytree(run_folder, tmp_path / "r")
    path = tmp_path / "r" / "config.json"
    other = tmp_path / "other.npz"
    with np.load(pictures) as arrays:
        np.savez(other, **{k: v[:, :4] if v.ndim > 1 else v for k, v in arrays.items()})
    path.write_text(json.dumps({**json.loads(path.read_text()), "data": str(other)}))
    result = command("train", "--out", "r", "--resume", "--epochs", 4, code=1)
    assert "has changed since the run began" in result.stderr


def test_without_matplotlib_the_run_is_whole(command, pictures, monkeypatch, tmp_path):
    def absent(*_):
        raise ImportError("plots need matplotlib")

    monkeypatch.setattr("thriftgrad.plots.curves", absent)
    result = command("train", "--data", pictures, *SMALL, "--out", "r")
    assert "curves.png was not drawn: plots need matplotlib" in result.stderr
    assert sorted(p.name for p in (tmp_path / "r").iterdir()) == [
        f for f in FILES if "png" not in f
    ]


def test_too_little_memory_is_one_line_and_leaves_no_folder(
    command, pictures, monkeypatch, tmp_path
):
    options = ("--data", pictures, "--out", "r", *SMALL)
    for error, message in (
        (MemoryError(), "error: not enough memory\n"),
        (MemoryError("Unable to allocate 4 EiB"), "error: not enough memory: Unable to allocate"),
    ):

        def full(*_, error=error):
            raise error

        monkeypatch.setattr("thriftgrad.cli._config.build_model", full)
        assert command("train", *options, code=1).stderr.startswith(message)
        assert not (tmp_path / "r").exists()
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    command("train", *options)


def test_labels_that_are_no_classes(command, pictures, tmp_path):
    with np.load(pictures) as arrays:
        years = {k: v.astype(int) + 10**9 if k.startswith("y") else v for k, v in arrays.items()}
    np.savez(tmp_path / "years.npz", **years)
    result = command("train", "--data", "years.npz", code=1)
    assert "there are 420 labels, and one of them is 1000000002" in result.stderr


def test_a_snapshot_that_is_gone(command, run_folder, tmp_path):
    shutil.copytree(run_folder, tmp_path / "r")
    (tmp_path / "r" / "snapshot.safetensors").unlink()
    before = (tmp_path / "r" / "metrics.csv").read_bytes()
    result = command("train", "--out", "r", "--resume", code=1)
    assert "metrics.csv has 3 epochs, but snapshot.safetensors is gone" in result.stderr
    assert (tmp_path / "r" / "metrics.csv").read_bytes() == before
    (tmp_path / "r" / "metrics.csv").unlink()  # as after a kill before the first snapshot
    command("train", "--out", "r", "--resume")


def test_interrupted_from_the_keyboard(command, pictures, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("thriftgrad.cli.train.fit", interrupt)
    result = command("train", "--data", pictures, *SMALL, "--out", "r", code=130)
    assert "interrupted: thriftgrad train --out r --resume goes on" in result.stderr


# As a process


def start(*arguments, **options):
    # Where the tests run in the background, SIGINT is ignored, and what they start inherits that.
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from thriftgrad.cli import main; main()"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_killed_and_interrupted_and_resumed(pictures, tmp_path):
    options = ("--data", pictures, "--hidden", "8", "--batch-size", "5", "--epochs", "40")
    whole = start("train", *options, "--out", tmp_path / "whole")
    folder = tmp_path / "parts"
    for sent, arguments in (
        (signal.SIGKILL, options),
        (signal.SIGINT, ("--resume",)),
        (None, ("--resume",)),
    ):
        process = start("train", *arguments, "--out", folder)
        if sent:
            before = epochs(folder)
            while epochs(folder) < before + 2:
                assert process.poll() is None, process.stderr.read()
                time.sleep(0.005)
            process.send_signal(sent)
        _, errors = process.communicate()
        assert process.returncode == {signal.SIGKILL: -9, signal.SIGINT: 130, None: 0}[sent], errors
        assert "Traceback" not in errors
        if sent == signal.SIGINT:
            assert f"--out {folder} --resume goes on" in errors
    _, errors = whole.communicate()
    assert whole.returncode == 0, errors
    assert epochs(folder) == 40
    norms = [(each / "norms.csv").read_bytes() for each in (tmp_path / "whole", folder)]
    assert norms[0] == norms[1]
    assert same(weights(tmp_path / "whole"), weights(folder))


def test_interrupted_while_importing():
    code = (
        "import sys\n"
        "from thriftgrad.cli import main\n"
        "class Finder:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'typer': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Finder())\n"
        "main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "interrupted\n")


@pytest.mark.skipif(os.name != "posix", reason="needs pipes that break")
@pytest.mark.parametrize("buffered", [True, False])
def test_a_reader_that_goes_away(run_folder, buffered):
    environment = {**os.environ, "PYTHONUNBUFFERED": "" if buffered else "1"}
    process = start("evaluate", run_folder, env=environment)
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() == 1
    process.stderr.close()


def test_as_a_module():
    command = [sys.executable, "-m", "thriftgrad", "--version"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == (f"thriftgrad {__version__}\n", "")


def epochs(folder):
    return len(History.from_csv(folder / "metrics.csv")) if (folder / "metrics.csv").exists() else 0


def test_help_is_quick_and_says_what_there_is():
    code = (
        "import sys; from thriftgrad.cli.app import app; import contextlib\n"
        "with contextlib.suppress(SystemExit): app(['train', '--help'])\n"
        "assert not {'matplotlib', 'PIL'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for option in [
        "--data",
        "--hidden",
        "--activation",
        "--loss",
        "--optimizer",
        "--lr",
        "--epochs",
        "--batch-size",
        "--dtype",
        "--seed",
        "--out",
        "--resume",
    ]:
        assert option in done.stdout
    assert "500,150" in done.stdout


def test_version_and_commands(command):
    assert command("--version").stdout == f"thriftgrad {__version__}\n"
    for name in ("train", "evaluate", "predict"):
        assert name in command("--help").stdout


def test_without_typer_there_is_one_line():
    code = "import sys; sys.modules['typer'] = None\nfrom thriftgrad.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert "pip install 'thriftgrad[cli]'" in done.stderr
    assert done.stderr.count("\n") == 1


def test_mnist_is_what_is_learnt_by_default(command, monkeypatch, tmp_path):
    def few(dtype, flatten):
        whole = mnist(dtype, flatten=flatten)
        parts = [type(whole.train)(x[:600], y[:600]) for x, y in whole]
        return type(whole)(*parts, None, whole.classes)

    monkeypatch.setattr("thriftgrad.data.mnist", few)
    result = command("train", "--epochs", 1, "--hidden", "16")
    assert "mnist: 550 images for training, 50 for validation" in result.stdout
    assert json.loads((tmp_path / "runs" / "mnist-1" / "config.json").read_text())["classes"] == 10
    assert os.listdir(tmp_path / "runs") == ["mnist-1"]
