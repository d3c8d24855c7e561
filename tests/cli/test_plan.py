"""`thriftgrad plan`, and `thriftgrad train --memory`."""

import json
from pathlib import Path
from typing import Any

import pytest

from thriftgrad.cli.plan import parse_layers
from thriftgrad.errors import ConfigError


def test_a_plan_is_printed_as_table_picture_and_words(command: Any, tmp_path: Path) -> None:
    picture = tmp_path / "memory.png"
    result = command(
        "plan", "--layers", "12x64,10", "--batch", "256", "--budget", "900 kB", "--update", "during",
        "--inputs", "32", "--optimizer", "momentum", "--draw", picture,
    )  # fmt: skip
    for words in (
        "optimal: 25 stages",
        "optimizer state",
        "budget",
        "┤",
        "Stages run:",
        "shows it",
    ):
        assert words in result.output
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_budget_that_is_too_small_is_one_line(command: Any) -> None:
    result = command("plan", "--layers", "4x64", "--budget", "10kB", code=1)
    assert "smallest schedule takes" in result.stderr
    assert "Traceback" not in result.output + result.stderr


@pytest.mark.parametrize(
    ("text", "widths"),
    [("512", [512]), ("3x8", [8, 8, 8]), ("784, 2 × 5,10", [784, 5, 5, 10]), ("1*7", [7])],
)
def test_widths_are_read(text: str, widths: list[int]) -> None:
    assert parse_layers(text) == widths


@pytest.mark.parametrize(
    "text", ["", "0", "x5", "0x5", "5x0", "2x3x4", "-1", "99999999", "999999x8"]
)
def test_what_is_no_list_of_widths_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--layers"):
        parse_layers(text)


def test_a_batch_is_a_whole_number(command: Any) -> None:
    result = command("plan", "--layers", 3, "--budget", "all", "--batch", "0.5", code=2)
    assert "'--batch': '0.5' is not a whole number of at least 1" in result.stderr


def test_training_by_a_plan_gives_the_weights_of_plain_training(
    command: Any, pictures: Path, tmp_path: Path
) -> None:
    options = [
        "--data",
        pictures,
        "--hidden",
        "8,8",
        "--epochs",
        "1",
        "--batch-size",
        "90",
        "--optimizer",
        "momentum",
    ]
    plain, planned = tmp_path / "plain", tmp_path / "planned"
    command("train", *options, "--no-compile", "--out", plain)
    result = command(
        "train", *options, "--memory", "200 kB", "--update", "during", "--out", planned
    )
    assert "budget" in result.output
    assert "memory.png" in result.output
    assert (planned / "memory.png").exists()
    config = json.loads((planned / "config.json").read_text())
    assert (config["memory"], config["update"]) == ("200 kB", "during")

    from safetensors.numpy import load_file

    ours, theirs = (load_file(folder / "snapshot.safetensors") for folder in (planned, plain))
    assert all((ours[name] == theirs[name]).all() for name in theirs if name.startswith("model."))


def test_training_refuses_what_is_no_memory(command: Any, tmp_path: Path) -> None:
    result = command("train", "--memory", "sqr", "--out", tmp_path / "run", code=2)
    assert "every:2" in result.stderr
    result = command("train", "--update", "during", "--out", tmp_path / "run", code=1)
    assert "--memory all" in result.stderr
    result = command("train", "--memory", "20 kB", "--out", tmp_path / "run", code=1)
    assert "smallest schedule takes" in result.stderr
    assert not (tmp_path / "run").exists()
