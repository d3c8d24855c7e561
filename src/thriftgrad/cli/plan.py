"""`thriftgrad plan`: what a training step would hold, and how long it would take, without training."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from thriftgrad import memory, nn
from thriftgrad.cli._config import ACTIVATIONS, DTYPES, LOSSES, MAX_WIDTH, OPTIMIZERS
from thriftgrad.cli._options import at_least, one_of, parse_update
from thriftgrad.errors import ConfigError

_MOST_LAYERS = 100_000
_LAYER = re.compile(r"(?:(\d{1,6})\s*[x×*]\s*)?(\d{1,9})")


def plan(
    layers: Annotated[
        str,
        typer.Option(
            help="Widths of the layers, the last one's outputs included; 100x512 is a hundred of 512.",
            metavar="N,KxN,...",
        ),
    ],
    budget: Annotated[
        str,
        typer.Option(
            help="Bytes that a step may hold, such as 64MB; or which activations to keep: all, "
            "none, sqrt, revolve, every:2, at:2,5.",
            metavar="SIZE|STRATEGY",
        ),
    ],
    batch: Annotated[int, typer.Option(help="Examples in a step.", **at_least(1))] = 128,
    inputs: Annotated[
        int | None,
        typer.Option(
            help="Numbers that make one example.  [default: the first width]", **at_least(1)
        ),
    ] = None,
    activation: Annotated[
        str, typer.Option(help="What stands between layers.", **one_of(ACTIVATIONS))
    ] = "tanh",
    loss: Annotated[str, typer.Option(help="What is minimised.", **one_of(LOSSES))] = "mse",
    optimizer: Annotated[str, typer.Option(help="How to step.", **one_of(OPTIMIZERS))] = "sgd",
    update: Annotated[
        str,
        typer.Option(
            help="When weights are updated: after the backward pass, or during it, layer by layer, so "
            "that gradients never exist together.",
            **one_of(("after", "during")),
        ),
    ] = "after",
    dtype: Annotated[str, typer.Option(help="Of all numbers.", **one_of(DTYPES))] = "float32",
    draw: Annotated[
        Path | None,
        typer.Option(help="Draw memory over time into this file.", metavar="PNG|SVG|PDF"),
    ] = None,
) -> None:
    """Say what a training step would hold, and how long it would take.

    Each kind of layer is run once to measure it; nothing else is computed. What is planned for is
    printed by kind, as a picture and in words: parameters, optimiser state, batch, kept
    activations, tapes, gradients and temporaries all count.
    """
    widths = parse_layers(layers)
    model = _model(inputs or widths[0], widths, activation, np.dtype(dtype))
    x, y = _examples(batch, inputs or widths[0], widths[-1], loss, np.dtype(dtype))
    make, lr = OPTIMIZERS[optimizer]
    found = memory.plan(
        model,
        x,
        y,
        budget=budget,
        loss=LOSSES[loss],
        optimizer=make(model.parameters(), lr),
        update=parse_update(update),
    )
    typer.echo(str(found))
    typer.echo(f"\n{found.text()}\n")
    typer.echo(found.explain())
    if draw is not None:
        found.draw(draw)
        typer.echo(f"{draw} shows it")


def parse_layers(text: str) -> list[int]:
    """Return the widths in a text such as `784,50x256,10`.

    Raises:
        ConfigError: it is something else, or there are none, too wide ones or too many.

    Example:
        >>> parse_layers("3x512,10")
        [512, 512, 512, 10]
    """
    widths: list[int] = []
    for part in text.split(","):
        match = _LAYER.fullmatch(part.strip())
        times, width = (int(match[1] or 1), int(match[2])) if match else (0, 0)
        if not (times and 1 <= width <= MAX_WIDTH):
            raise ConfigError(
                f"--layers {text!r}: {part.strip()!r} is not a width from 1 to {MAX_WIDTH:,}, nor a "
                f"number of layers of one width, such as 100x512"
            )
        if len(widths) + times > _MOST_LAYERS:
            raise ConfigError(f"--layers {text!r}: more than {_MOST_LAYERS:,} layers")
        widths += [width] * times
    return widths


def _model(inputs: int, widths: list[int], activation: str, dtype: np.dtype[Any]) -> nn.Sequential:
    function, init = ACTIVATIONS[activation]
    rng = np.random.default_rng(0)
    layers: list[Callable[[Any], Any]] = []
    for before, width in pairwise([inputs, *widths]):
        layers += [nn.Linear(before, width, init=init, rng=rng, dtype=dtype), function]
    return nn.Sequential(*layers[:-1])


def _examples(
    batch: int, inputs: int, outputs: int, loss: str, dtype: np.dtype[Any]
) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((batch, inputs), np.float32).astype(dtype, copy=False)
    if loss == "cross_entropy":
        return x, rng.integers(outputs, size=batch)
    return x, np.zeros((batch, outputs), dtype)
