"""`thriftgrad coverage`: the whole list, one function, and the page of the documentation."""

import pytest
import typer
from typer.testing import CliRunner

from thriftgrad.autodiff.coverage import markdown, rows
from thriftgrad.cli.coverage import coverage
from thriftgrad.errors import ConfigError


def run(*arguments):
    app = typer.Typer()
    app.command()(coverage)
    return CliRunner().invoke(app, arguments)


def test_lists_every_function():
    result = run()
    assert result.exit_code == 0
    for row in rows():
        assert f"  {row.name} " in result.stdout
    assert "\nnp.linalg: " in result.stdout


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("np.sin", "np.sin: differentiable in x"),
        ("numpy.linalg.det", "np.linalg.det: differentiable in a"),
        ("det", "np.linalg.det: differentiable in a"),
        ("abs", "np.absolute: differentiable in x"),
        ("argmax", "np.argmax: constant, its result carries no gradient"),
        ("save", "np.save: refused: what is written to a file has no gradient"),
    ],
)
def test_one_function(name, answer):
    result = run(name)
    assert result.exit_code == 0
    assert result.stdout.startswith(answer)


def test_several_functions():
    assert run("exp", "log").stdout.splitlines()[:2] == [
        "np.exp: differentiable in x",
        "np.log: differentiable in x",
    ]


def test_each_answer_is_given_once():
    assert run("svd", "np.linalg.svd").stdout.count("np.linalg.svd: ") == 1


def test_an_unknown_function_among_others():
    result = run("exp", "exq", "log", "sinn")
    assert [line.partition(":")[0] for line in result.stdout.splitlines()] == ["np.exp", "np.log"]
    assert result.exit_code == 1
    assert isinstance(result.exception, ConfigError)
    assert "exq: no function" in str(result.exception)
    assert "sinn: no function" in str(result.exception)


def test_an_unknown_function():
    result = run("np.exq")
    assert isinstance(result.exception, ConfigError)
    assert "did you mean exp" in str(result.exception)


def test_the_page():
    assert run("--markdown").stdout == markdown()
    assert isinstance(run("--markdown", "exp").exception, ConfigError)
