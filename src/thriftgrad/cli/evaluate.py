"""`thriftgrad evaluate`: how well a run does on the test set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from thriftgrad import nn
from thriftgrad import train as training
from thriftgrad.cli import _config
from thriftgrad.cli._images import load_images
from thriftgrad.cli.train import targets
from thriftgrad.errors import DataError


def evaluate(
    run: Annotated[
        Path, typer.Argument(help="Folder of a run, as train makes it.", show_default=False)
    ],
    data: Annotated[
        str | None,
        typer.Option(
            help="Use the test set of these data.  [default: those that the run was trained on]",
            metavar="mnist|FILE",
        ),
    ] = None,
) -> None:
    """Print a run's loss and accuracy on the test set, also by class."""
    config, model = trained(run)
    name = data or config.data
    images, _ = load_images(name, config.dtype)
    if images.test.x.shape[1] != config.inputs or images.classes > config.classes:
        raise DataError(
            f"{name} has images of {images.test.x.shape[1]} numbers in {images.classes} classes; "
            f"the run in {run} is for {config.inputs} numbers and {config.classes} classes"
        )
    scores = training.evaluate(model, targets(images.test, config), loss=config.loss_function)
    taken_for = np.argmax(training.predict(model, images.test.x), axis=1)
    typer.echo(f"{name}: {len(images.test.x):,} test images")
    typer.echo(f"loss      {scores.loss:.4f}")
    typer.echo(f"accuracy  {100 * scores.accuracy:.2f} %")
    typer.echo("")
    typer.echo("class  images  accuracy  most often mistaken for")
    for each in range(config.classes):
        typer.echo(_row(each, taken_for[images.test.y == each]))


def trained(run: Path) -> tuple[_config.Config, nn.Sequential]:
    """Return the configuration and the model of a run.

    Raises:
        ConfigError: there is no run in the folder, or its configuration is damaged.
        SnapshotError: its snapshot is missing, damaged, or of another model.
    """
    config = _config.read(run)
    model = _config.build_model(config)
    training.load(model, run / _config.SNAPSHOT)
    return config, model


def _row(label: int, taken_for: NDArray[Any]) -> str:
    if not len(taken_for):
        return f"{label:5d}  {0:6,d}         -"
    wrong = taken_for[taken_for != label]
    mistaken = ""
    if len(wrong):
        counts = np.bincount(wrong)
        mistaken = f"  {np.argmax(counts)} ({counts.max()} times)"
    return f"{label:5d}  {len(taken_for):6,d}  {100 * np.mean(taken_for == label):6.2f} %{mistaken}"
