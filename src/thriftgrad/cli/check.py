"""`thriftgrad check`: whether a gradient is right, of a trained network or of a function in a file."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from thriftgrad import check as checks
from thriftgrad import tree
from thriftgrad.check.problem import copied
from thriftgrad.cli._options import at_least
from thriftgrad.errors import ConfigError, ThriftgradError


def check(
    what: Annotated[
        str,
        typer.Argument(
            help="Folder of a run, as train makes it; or a scalar function in plain NumPy.",
            metavar="RUN|MODULE:FUNCTION",
            show_default=False,
        ),
    ],
    shape: Annotated[
        list[str] | None,
        typer.Option(
            help="Shape of an argument of the function, to be drawn at random, once for each "
            "argument; '' for a number.",
            metavar="N,N,...",
        ),
    ] = None,
    args: Annotated[
        str | None,
        typer.Option(
            help="Name in the module of a tuple of arguments, or of a function that returns one; the "
            "gradient is that for the first.",
            metavar="NAME",
        ),
    ] = None,
    gradient: Annotated[
        str | None,
        typer.Option(
            help="Name in the module of a gradient written by hand, with the function's arguments; it "
            "is checked in the place of thriftgrad's.",
            metavar="NAME",
        ),
    ] = None,
    with_: Annotated[
        str | None,
        typer.Option(
            "--with",
            help="Compare with another library's gradient of the function, not with differences.",
            metavar="jax|torch|autograd",
        ),
    ] = None,
    second_order: Annotated[
        bool, typer.Option("--second-order", help="Check second derivatives too.")
    ] = False,
    examples: Annotated[
        int, typer.Option(help="How many images of a run to use.", **at_least(1))
    ] = 16,
    seed: Annotated[int, typer.Option(help="Of everything drawn at random.", **at_least(0))] = 0,
) -> None:
    """Compare a gradient with differences, and say what is wrong.

    The exit code is 1 if it is wrong.
    """
    if Path(what).exists() or ":" not in what:
        if shape or args or gradient or with_:
            raise ConfigError(
                f"{what} is taken for the folder of a run, and --shape, --args, --gradient and --with "
                f"are for a function: MODULE:FUNCTION"
            )
        report = of_run(Path(what), examples, second_order, seed)
    else:
        if with_ and second_order:
            raise ConfigError(
                "--second-order checks second derivatives against differences, and --with compares "
                "first ones with another library's; give one of the two"
            )
        module, function = _function(what)
        given, argnums = _arguments(module, shape, args, what, seed)
        analytic = _attribute(module, gradient, "--gradient") if gradient else None
        if callable(analytic):
            analytic = _explaining(analytic, f"{what}: --gradient {gradient}")
        if with_:
            # Where it is rebuilt for another library, the function has to be as it was written.
            _explaining(function, what)(*copied(given))
            report = checks.compare(
                function, given, with_=with_, analytic=analytic, argnums=argnums
            )
        else:
            report = checks.gradients(
                _explaining(function, what),
                given,
                analytic=analytic,
                argnums=argnums,
                second_order=second_order,
                rng=seed,
            )
    typer.echo(str(report))
    if not report.ok:
        raise checks.GradientError(f"the gradient of {report.function} is wrong")


def of_run(
    folder: Path, examples: int = 16, second_order: bool = False, seed: int = 0
) -> checks.Report:
    """Return the check of a run's gradient on so many of its training images."""
    from thriftgrad.cli._images import load_images
    from thriftgrad.cli.evaluate import trained
    from thriftgrad.cli.train import targets
    from thriftgrad.data import Split

    config, model = trained(folder)
    images, _ = load_images(config.data, config.dtype)
    x, y = targets(Split(images.train.x[:examples], images.train.y[:examples]), config)

    def loss(model: Any, x: Any, y: Any) -> Any:
        return config.loss_function(model(x), y)

    with model.evaluating():
        return checks.gradients(loss, (model, x, y), second_order=second_order, rng=seed)


def _function(what: str) -> tuple[Any, Callable[..., Any]]:
    name, _, attribute = what.partition(":")
    # As with `python -m`, a module in the folder that the command is given in.
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    if name.endswith(".py"):
        dotted = ".".join(Path(name).with_suffix("").parts)
        raise ConfigError(
            f"{what}: write the module as Python imports it, without .py: {dotted}:{attribute}"
        )
    try:
        module = import_module(name) if name and find_spec(name) else None
    except Exception as error:  # whatever a person's module does when it is imported
        if not isinstance(error, ModuleNotFoundError) or not _is_part(error.name, name):
            raise ConfigError(f"{what}: {name} cannot be imported: {_one_line(error)}") from error
        module = None
    if module is None:
        raise ConfigError(
            f"{what}: there is no module {name!r} here; write MODULE:FUNCTION, as Python imports it, or "
            f"the folder of a run"
        )
    function = _attribute(module, attribute, what)
    if not callable(function):
        raise ConfigError(f"{what} is a {type(function).__name__}; expected a function")
    return module, function


def _explaining(function: Callable[..., Any], what: str) -> Callable[..., Any]:
    """Return a function that says in one line what it was called with when it fails."""

    @wraps(function)
    def explaining(*args: Any) -> Any:
        try:
            return function(*args)
        except ThriftgradError:
            raise
        except Exception as error:  # whatever a person's code raises
            shapes = ", ".join(str(np.shape(leaf)) for a in args for leaf in tree.flatten(a)[0])
            raise ConfigError(
                f"{what} fails with arguments of shapes {shapes}: {_one_line(error)}"
            ) from error

    return explaining


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split()) or 'no message'}"


def _is_part(missing: str | None, name: str) -> bool:
    """Tell whether it is the module itself that is missing, or a package that it would be in."""
    return missing is not None and f"{name}.".startswith(f"{missing}.")


def _arguments(
    module: Any, shapes: list[str] | None, name: str | None, what: str, seed: int
) -> tuple[tuple[Any, ...], int | tuple[int, ...]]:
    """Return the arguments to call the function with, and which of them to differentiate."""
    if (shapes is None or not shapes) == (name is None):
        raise ConfigError(
            f"{what}: what to call it with? Either --shape for each argument, such as --shape 3,4 "
            f"--shape 4, or --args with a tuple in the module"
        )
    if name is not None:
        given = _attribute(module, name, "--args")
        given = given() if callable(given) else given
        if not isinstance(given, tuple | list):
            raise ConfigError(f"--args {name} is a {type(given).__name__}; expected a tuple")
        return tuple(given), 0
    rng = np.random.default_rng(seed)
    drawn = tuple(rng.normal(size=_shape(text)) for text in shapes or ())
    return drawn, tuple(range(len(drawn))) if len(drawn) > 1 else 0


def _shape(text: str) -> tuple[int, ...]:
    parts = text.replace(" ", "").split(",") if text.strip() else []
    if not all(part.isascii() and part.isdigit() for part in parts):
        raise ConfigError(
            f"--shape {text!r}: expected whole numbers, such as 3,4, or '' for a number"
        )
    return tuple(map(int, parts))


def _attribute(module: Any, name: str, option: str) -> Any:
    found = module
    for part in name.split("."):
        found = getattr(found, part, None)
        if found is None:
            raise ConfigError(f"{option}: {module.__name__} has nothing called {name!r}")
    return found
