"""`thriftgrad check`: a run's model, and functions in a module."""

import sys

import pytest
import typer
from typer.testing import CliRunner

from thriftgrad.check import GradientError
from thriftgrad.cli.check import check
from thriftgrad.errors import ConfigError

MODULE = """
import numpy as np

def loss(w, b):
    return np.sum(np.tanh(w @ b))

def line(p, x):
    return np.mean(x @ p["w"])

data = ({"w": np.ones(2)}, np.ones((5, 2)))

def make():
    return data

def right(p, x):
    return {"w": x.mean(axis=0)}

def wrong(p, x):
    return {"w": -x.mean(axis=0)}

def fails(p, x):
    raise RuntimeError("two\\nlines")

number = 3.0
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "checked_module.py").write_text(MODULE)
    app = typer.Typer()
    app.command()(check)

    def run(*arguments):
        return CliRunner().invoke(app, [str(each) for each in arguments])

    (tmp_path / "broken_module.py").write_text("def f(x:\n")
    (tmp_path / "needy_module.py").write_text("import no_such_library\n")
    (tmp_path / "raising_module.py").write_text("raise ValueError('no')\n")
    yield run
    sys.modules.pop("checked_module", None)


def test_a_run(run, run_folder):
    result = run(run_folder, "--examples", 4)
    assert result.exit_code == 0, result.output
    assert "model.0.weight" in result.stdout
    assert "ok" in result.stdout.splitlines()[0]


def test_a_function_with_drawn_arguments(run):
    result = run("checked_module:loss", "--shape", "3,4", "--shape", "4", "--second-order")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("gradient of loss, ")
    assert "(H·v)b" in result.stdout


@pytest.mark.parametrize("name", ["data", "make"])
def test_a_gradient_written_by_hand(run, name):
    assert run("checked_module:line", "--args", name, "--gradient", "right").exit_code == 0
    result = run("checked_module:line", "--args", name, "--gradient", "wrong")
    assert isinstance(result.exception, GradientError)
    assert "probably sign" in result.stdout


def test_another_library(run):
    pytest.importorskip("autograd")
    result = run("checked_module:line", "--args", "data", "--with", "autograd")
    assert "against autograd: ok" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["checked_module:loss"], "what to call it with"),
        (["checked_module:loss", "--shape", "3", "--args", "data"], "what to call it with"),
        (["checked_module:loss", "--shape", "3,x"], "expected whole numbers"),
        (["checked_module:loss", "--args", "none"], "nothing called 'none'"),
        (["checked_module:loss", "--args", "number"], "expected a tuple"),
        (["checked_module:number", "--shape", "3"], "expected a function"),
        (["no_such_module:loss", "--shape", "3"], "no module 'no_such_module'"),
        (["checked_module.py:loss", "--shape", "3"], "without .py: checked_module:loss"),
        (["broken_module:f", "--shape", "3"], "broken_module cannot be imported: SyntaxError"),
        (["needy_module:f", "--shape", "3"], "No module named 'no_such_library'"),
        (["raising_module:f", "--shape", "3"], "raising_module cannot be imported: ValueError: no"),
        (["no_such.module:f", "--shape", "3"], "no module 'no_such.module'"),
        ([":f", "--shape", "3"], "no module ''"),
        (
            ["checked_module:loss", "--shape", "3,4", "--shape", "5"],
            "of shapes (3, 4), (5,): Value",
        ),
        (["checked_module:loss", *["--shape", "3"] * 3], "of shapes (3,), (3,), (3,): TypeError"),
        (
            ["checked_module:line", "--args", "data", "--gradient", "fails"],
            "RuntimeError: two lines",
        ),
        (
            ["checked_module:line", "--args", "data", "--with", "jax", "--second-order"],
            "give one of the two",
        ),
        (
            ["checked_module:loss", "--shape", "3,4", "--shape", "5", "--with", "jax"],
            "of shapes (3, 4), (5,): Value",
        ),
        (["nothing_here"], "holds no run"),
        (["nothing_here", "--shape", "3"], "taken for the folder of a run"),
    ],
)
def test_what_makes_no_sense(run, arguments, message):
    result = run(*arguments)
    assert isinstance(result.exception, ConfigError)
    assert message in str(result.exception)
    assert "\n" not in str(result.exception)
