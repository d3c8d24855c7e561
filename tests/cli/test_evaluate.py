"""`thriftgrad evaluate`: loss and accuracy on the test set, as a whole and for each class."""

import re
import shutil

import numpy as np

from thriftgrad import nn
from thriftgrad.cli.evaluate import trained
from thriftgrad.data import load


def test_agrees_with_the_model(command, run_folder, pictures):
    result = command("evaluate", run_folder)
    _, model = trained(run_folder)
    test = load(pictures).test
    taken_for = np.argmax(model.eval()(test.x).value, axis=1)
    loss = nn.cross_entropy(model(test.x).value, test.y)
    assert f"loss      {loss:.4f}" in result.stdout
    assert f"accuracy  {100 * np.mean(taken_for == test.y):.2f} %" in result.stdout
    for label in range(3):
        of_class = test.y == label
        right = 100 * np.mean(taken_for[of_class] == label)
        assert re.search(rf"^ +{label} +{of_class.sum()} +{right:.2f} %", result.stdout, re.M)


def test_on_other_data(command, run_folder, pictures, tmp_path):
    with np.load(pictures) as arrays:
        changed = {**arrays, "x_test": arrays["x_test"][:7], "y_test": np.zeros(7, np.uint8)}
    np.savez(tmp_path / "other.npz", **changed)
    result = command("evaluate", run_folder, "--data", "other.npz")
    assert "other.npz: 7 test images" in result.stdout
    assert re.search(r"^ +2 +0 +-$", result.stdout, re.M)  # a class without an image


def test_data_that_do_not_fit(command, run_folder):
    result = command("evaluate", run_folder, "--data", "mnist", code=1)
    assert "images of 784 numbers in 10 classes" in result.stderr
    assert "64 numbers and 3 classes" in result.stderr


def test_what_is_not_there(command, run_folder, tmp_path):
    assert "none holds no run" in command("evaluate", "none", code=1).stderr
    (tmp_path / "file").write_text("")
    assert "file is a file" in command("evaluate", "file", code=1).stderr
    assert "none.npz" in command("evaluate", run_folder, "--data", "none.npz", code=1).stderr
    shutil.copytree(run_folder, tmp_path / "r")
    (tmp_path / "r" / "snapshot.safetensors").unlink()
    assert "snapshot.safetensors" in command("evaluate", "r", code=1).stderr
    assert "RUN" in command("evaluate", code=2).stderr.upper()
