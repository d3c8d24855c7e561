"""`thriftgrad predict`: pictures of one's own, however they come."""

import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from thriftgrad.data import load


@pytest.fixture
def picture(pictures):
    """The first test picture of class 0, as bytes."""
    x, y = load(pictures, flatten=False).test
    return np.rint(x[np.argmax(y == 0)] * 255).astype(np.uint8)


def predicted(result):
    return int(re.search(r": (\d+)", result.stdout)[1])


def test_a_picture_as_it_was_trained_on(command, run_folder, picture):
    Image.fromarray(picture).save("column.png")
    result = command("predict", run_folder, "column.png")
    first, *rest = result.stdout.splitlines()
    assert first == "column.png: 0"
    percents = [float(re.search(r"([\d.]+) %", row)[1]) for row in rest]
    assert len(percents) == 3
    assert sum(percents) == pytest.approx(100, abs=0.2)
    assert np.argmax(percents) == 0


def test_however_it_comes_the_prediction_is_the_same(command, run_folder, picture):
    plain = Image.fromarray(picture)
    plain.save("plain.png")
    expected = command("predict", run_folder, "plain.png").stdout.splitlines()[1:]
    rgb = plain.convert("RGB")
    rgb.save("rgb.png")
    Image.fromarray(255 - picture).save("inverted.png")
    ink = Image.new("RGBA", plain.size, (0, 0, 0, 0))
    ink.putalpha(plain)
    ink.save("transparent.png")
    plain.convert("P").save("palette.png")
    for name, note in (
        ("rgb", ""),
        ("inverted", "  (inverted)"),
        ("transparent", "  (put on white, inverted)"),
        ("palette", ""),
    ):
        first, *rest = command("predict", run_folder, f"{name}.png").stdout.splitlines()
        assert first == f"{name}.png: 0{note}"
        assert rest == expected


def test_other_sizes_are_fitted_and_it_is_said(command, run_folder, picture):
    large = Image.fromarray(picture).resize((80, 80), Image.Resampling.NEAREST)
    large.save("large.png")
    wide = Image.new("L", (160, 80), 10)
    wide.paste(large, (40, 0))
    wide.save("wide.png")
    result = command("predict", run_folder, "large.png")
    assert "fitted from 80 × 80 to 8 × 8" in result.stdout
    assert predicted(result) == 0
    assert "fitted from 160 × 80" in command("predict", run_folder, "wide.png").stdout
    thread = Image.new("L", (1, 300), 0)
    thread.paste(255, (0, 0, 1, 150))
    thread.save("thread.png")
    command("predict", run_folder, "thread.png")


def test_light_ink_on_a_transparent_ground(command, run_folder, picture):
    plain = Image.fromarray(picture)
    plain.save("plain.png")
    expected = command("predict", run_folder, "plain.png").stdout.splitlines()[1:]
    ink = Image.new("RGBA", plain.size, "white")
    ink.putalpha(plain)
    ink.save("light.png")
    first, *rest = command("predict", run_folder, "light.png").stdout.splitlines()
    assert first == "light.png: 0  (put on black)"
    assert rest == expected


def test_blank_pictures(command, run_folder):
    Image.new("L", (8, 8), 200).save("paper.png")
    Image.new("RGBA", (30, 20), (0, 0, 0, 0)).save("nothing.png")
    for name in ("paper.png", "nothing.png"):
        result = command("predict", run_folder, name, code=1)
        assert f"{name}: the picture is blank" in result.stderr


def test_several_pictures(command, run_folder, picture):
    Image.fromarray(picture).save("a.png")
    Image.fromarray(picture.T.copy()).save("b.png")
    result = command("predict", run_folder, "a.png", "b.png")
    assert re.findall(r"^(\w)\.png: (\d)", result.stdout, re.M) == [("a", "0"), ("b", "1")]


def test_outputs_of_a_sigmoid_are_not_called_percents(command, pictures, picture):
    command("train", "--data", pictures, "--epochs", 1, "--loss", "mse", "--out", "r")
    Image.fromarray(picture).save("a.png")
    assert "%" not in command("predict", "r", "a.png").stdout


def test_what_is_no_picture(command, run_folder, tmp_path, picture):
    Image.fromarray(picture).save("whole.png")
    content = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(content[: len(content) // 2])
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "empty.png").write_text("")
    for name in ("cut.png", "text.png", "empty.png"):
        result = command("predict", run_folder, name, code=1)
        assert f"{name} is not a picture that can be read" in result.stderr
    assert "none.png" in command("predict", run_folder, "none.png", code=1).stderr
    assert str(tmp_path) in command("predict", run_folder, tmp_path, code=1).stderr
    Image.fromarray(np.zeros((8, 8), np.uint16)).save("deep.png")
    result = command("predict", run_folder, "deep.png", code=1)
    assert "expected 8 bits a channel" in result.stderr
    command("predict", run_folder, code=2)
    assert "holds no run" in command("predict", "none", "whole.png", code=1).stderr


def test_a_run_on_what_are_no_pictures(command, run_folder, tmp_path, picture):
    shutil.copytree(run_folder, tmp_path / "r")
    path = tmp_path / "r" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "image": None}))
    Image.fromarray(picture).save("a.png")
    assert "not trained on grey pictures" in command("predict", "r", "a.png", code=1).stderr


def test_without_pillow(command, run_folder, monkeypatch, tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    monkeypatch.setitem(__import__("sys").modules, "PIL", None)
    result = command("predict", run_folder, "a.png", code=1)
    assert "pip install 'thriftgrad[cli]'" in result.stderr
