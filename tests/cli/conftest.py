"""What the tests of the command line share: a small data set of pictures, and how to run a command."""

import numpy as np
import pytest
from typer.testing import CliRunner

from thriftgrad.cli.app import app


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """An .npz of 8 × 8 pictures: light on dark, class 0 a column, 1 a row, 2 a square."""
    rng = np.random.default_rng(0)

    def draw(n):
        y = rng.integers(0, 3, n)
        x = rng.integers(0, 20, (n, 8, 8))
        for picture, label in zip(x, y, strict=True):
            at = rng.integers(2, 5)
            if label == 0:
                picture[1:7, at] = 250
            elif label == 1:
                picture[at, 1:7] = 250
            else:
                picture[2:6, 2:6] = 250
        return x.astype(np.uint8), y.astype(np.uint8)

    (x_train, y_train), (x_test, y_test) = draw(360), draw(60)
    path = tmp_path_factory.mktemp("data") / "shapes.npz"
    np.savez(path, x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    return path


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Run a command in a new folder; a traceback on stderr is a failure."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments, code=0):
        result = CliRunner().invoke(app, [str(each) for each in arguments])
        assert result.exit_code == code, result.output
        assert "Traceback" not in result.output
        if code == 1:
            assert result.stderr.startswith("error: ")
            assert result.stderr.count("\n") == 1
        return result

    return run


SMALL = ("--hidden", "8", "--epochs", "3", "--batch-size", "20")


@pytest.fixture(scope="session")
def run_folder(pictures, tmp_path_factory):
    """A run on the small data set, which tests may read and not change."""
    folder = tmp_path_factory.mktemp("runs") / "shapes"
    arguments = ["train", "--data", pictures, "--out", folder, *SMALL, "--lr", "0.02"]
    result = CliRunner().invoke(app, [str(each) for each in arguments])
    assert result.exit_code == 0, result.output
    return folder
