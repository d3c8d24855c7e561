"""The application: its commands, `--version`, and what errors look like."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any

import typer

from thriftgrad import __version__
from thriftgrad.cli._threads import one_blas_thread
from thriftgrad.cli.check import check
from thriftgrad.cli.coverage import coverage
from thriftgrad.cli.evaluate import evaluate
from thriftgrad.cli.plan import plan
from thriftgrad.cli.predict import predict
from thriftgrad.cli.report import report
from thriftgrad.cli.train import train
from thriftgrad.errors import ThriftgradError

INTERRUPTED = 130

app = typer.Typer(
    help="Train small neural networks on images, in plain NumPy and little memory.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"thriftgrad {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Show the version and exit.", is_eager=True, callback=_show_version
        ),
    ] = False,
) -> None:
    """Train small neural networks on images, in plain NumPy and little memory."""


def _reporting(command: Callable[..., None]) -> Callable[..., None]:
    """Make what may be expected to go wrong one line on stderr, instead of a traceback."""

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            with one_blas_thread():
                command(*args, **kwargs)
        except BrokenPipeError:  # nobody reads on, as under `| head`: typer ends quietly
            raise
        except (ThriftgradError, OSError, ImportError) as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(1) from error
        except MemoryError as error:
            typer.echo(f"error: not enough memory{f': {error}' if str(error) else ''}", err=True)
            raise typer.Exit(1) from error
        except KeyboardInterrupt as error:
            typer.echo(f"interrupted{f': {error}' if str(error) else ''}", err=True)
            raise typer.Exit(INTERRUPTED) from error

    return run


for each in (train, plan, evaluate, predict, report, check, coverage):
    app.command()(_reporting(each))
