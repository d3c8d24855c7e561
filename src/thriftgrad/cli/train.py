"""`thriftgrad train`: train a network and keep the run in a folder."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from thriftgrad.cli import _config
from thriftgrad.cli._config import ACTIVATIONS, DTYPES, LOSSES, OPTIMIZERS, Config, parse_hidden
from thriftgrad.cli._images import absolute, hold_out, load_images, picture
from thriftgrad.data import Dataset, Split, one_hot
from thriftgrad.errors import ConfigError
from thriftgrad.nn import Sequential
from thriftgrad.optim import Optimizer
from thriftgrad.train import Callback, MetricsFile, State, evaluate, fit
from thriftgrad.train.callbacks import ProgressBar
from thriftgrad.train.history import HEADER, History, line

_DEFAULTS: dict[str, Any] = {
    "data": "mnist",
    "hidden": "500,150",
    "activation": "relu",
    "loss": "cross_entropy",
    "optimizer": "adam",
    "epochs": 8,
    "batch_size": 100,
    "dtype": "float32",
    "seed": 0,
}


def _option(name: str, text: str, **more: Any) -> Any:
    # An option not given is None, so that --resume can tell it from one that repeats the default.
    return typer.Option(help=f"{text}  [default: {_DEFAULTS[name]}]", **more)


def _one_of(choices: Iterable[str]) -> Any:
    def check(given: str | None) -> str | None:
        if given is not None and given not in choices:
            raise typer.BadParameter(f"{given!r} is not one of {', '.join(choices)}")
        return given

    return {"callback": check, "metavar": "|".join(choices)}


def _widths(given: str | None) -> str | None:
    try:
        parse_hidden(given or "")
    except ConfigError as error:
        raise typer.BadParameter(str(error)) from error
    return given


def train(
    data: Annotated[
        str | None,
        _option(
            "data",
            "What to learn: mnist, which comes along, or a file or folder of images and labels "
            "(Keras-layout .npz, IDX, mnist.pkl.gz, ARFF).",
            metavar="mnist|FILE",
        ),
    ] = None,
    hidden: Annotated[
        str | None,
        _option(
            "hidden",
            "Widths of the hidden layers; '' for none.",
            metavar="N,N,...",
            callback=_widths,
        ),
    ] = None,
    activation: Annotated[
        str | None,
        _option("activation", "What stands between layers.", **_one_of(ACTIVATIONS)),
    ] = None,
    loss: Annotated[
        str | None,
        _option(
            "loss",
            "cross_entropy, of softmax; or mse or squared_error, of a sigmoid layer against "
            "one-hot rows.",
            **_one_of(LOSSES),
        ),
    ] = None,
    optimizer: Annotated[
        str | None,
        _option("optimizer", "How to step.", **_one_of(OPTIMIZERS)),
    ] = None,
    lr: Annotated[
        float | None,
        typer.Option(
            help="Learning rate at the start; it falls by 30 % each epoch.  [default: "
            + ", ".join(f"{lr:g} for {name}" for name, (_, lr) in OPTIMIZERS.items())
            + "]",
            min=0,
        ),
    ] = None,
    epochs: Annotated[
        int | None, _option("epochs", "How often to go through the images.", min=1)
    ] = None,
    batch_size: Annotated[int | None, _option("batch_size", "Images in a step.", min=1)] = None,
    dtype: Annotated[str | None, _option("dtype", "Of all numbers.", **_one_of(DTYPES))] = None,
    seed: Annotated[
        int | None,
        _option("seed", "The same seed on the same machine gives the same bits.", min=0),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the run; it must be new or empty.  [default: the first free of "
            "runs/DATA-1, runs/DATA-2, ...]",
            metavar="FOLDER",
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on with the run in --out, however it ended. Its options hold; only --epochs "
            "may be raised.",
        ),
    ] = False,
) -> None:
    """Train a network that tells images apart, and keep the run in a folder.

    One image in twelve is held out for validation where the data have no such split; the test set
    is looked at once, at the end. The folder then holds config.json, metrics.csv,
    snapshot.safetensors and curves.png. A snapshot is written after every epoch: a run that was
    killed and is resumed ends with the same bits as one that was not.
    """
    given = {
        name: value
        for name, value in {
            "data": data and absolute(data),
            "hidden": None if hidden is None else parse_hidden(hidden),
            "activation": activation,
            "loss": loss,
            "optimizer": optimizer,
            "lr": lr,
            "epochs": epochs,
            "batch_size": batch_size,
            "dtype": dtype,
            "seed": seed,
        }.items()
        if value is not None
    }
    if resume and out is None:
        raise typer.BadParameter("--resume needs --out FOLDER, the run to go on with")
    if resume and out is not None:
        folder, config = out, _config.resumed(_config.read(out), given, out)
        images, _ = load_images(config.data, config.dtype)
        _check_same(config, images)
        _check_snapshot(folder)
    else:
        options: dict[str, Any] = {
            **_DEFAULTS,
            "hidden": parse_hidden(_DEFAULTS["hidden"]),
            "lr": OPTIMIZERS[optimizer or _DEFAULTS["optimizer"]][1],
            **given,
        }
        folder = _config.new_folder(out, options["data"])
        images, shape = load_images(options["data"], options["dtype"])
        image, background = picture(images.train.x, shape)
        config = Config(
            **options,
            inputs=images.train.x.shape[1],
            classes=images.classes,
            image=image,
            background=background,
        )
    images = hold_out(images)
    # What may fail comes before the first file: the folder of a run that never began is in the way.
    model = _config.build_model(config)
    steps = -(-len(images.train.x) // config.batch_size)
    stepper = _config.build_optimizer(config, model, steps)
    _config.write(folder, config)
    try:
        _run(folder, config, images, model, stepper)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"thriftgrad train --out {folder} --resume goes on") from None


def _run(
    folder: Path, config: Config, images: Dataset, model: Sequential, optimizer: Optimizer
) -> None:
    """Train what is left to train, test, and draw."""
    train, test, validation = images.train, images.test, images.validation
    typer.echo(repr(model))
    typer.echo(
        f"{config.data}: {len(train.x):,} images for training, "
        f"{len(validation.x) if validation else 0:,} for validation, {len(test.x):,} for the test"
    )
    history = fit(
        model,
        targets(train, config),
        loss=config.loss_function,
        optimizer=optimizer,
        epochs=config.epochs,
        batch_size=config.batch_size,
        validation=validation and targets(validation, config),
        rng=config.seed,
        snapshot=folder / _config.SNAPSHOT,
        resume=True,
        callbacks=[MetricsFile(folder / _config.METRICS), _Lines()],
    )
    scores = evaluate(model, targets(test, config), loss=config.loss_function)
    typer.echo(f"test: loss {scores.loss:.4f}, accuracy {100 * scores.accuracy:.2f} %")
    names = [_config.CONFIG, _config.METRICS, _config.SNAPSHOT]
    names += [_config.CURVES] if _draw(history, folder / _config.CURVES) else []
    typer.echo(f"{folder} holds {', '.join(names)}")


def targets(split: Split, config: Config) -> tuple[Any, Any]:
    """Return images and what the loss compares the outputs with: labels or one-hot rows."""
    if config.takes_labels:
        return split.x, split.y
    return split.x, one_hot(split.y, config.classes, config.dtype)


class _Lines(Callback):
    """Say where a resumed run stands, and print a line an epoch where no progress bar does."""

    def __init__(self) -> None:
        self.bar = ProgressBar.wanted()

    def on_train_begin(self, state: State) -> None:
        done = len(state.history)
        if done >= state.epochs:
            typer.echo(f"finished already, after {done} epochs; a higher --epochs trains on")
        elif done:
            typer.echo(f"going on after epoch {done} of {state.epochs}")
        if not self.bar and done < state.epochs:
            typer.echo(HEADER)

    def on_epoch_end(self, state: State) -> None:
        if not self.bar:
            typer.echo(line(state.history.rows[-1]))


def _draw(history: History, path: Path) -> bool:
    from thriftgrad.plots import curves

    try:
        curves(history, path)
    except ImportError as error:  # the picture is an extra of its own; the run is whole without it
        typer.echo(f"{path.name} was not drawn: {error}", err=True)
        return False
    return True


def _check_snapshot(folder: Path) -> None:
    """Refuse to begin anew, without saying so, where the weights of a run have gone."""
    metrics = folder / _config.METRICS
    if (folder / _config.SNAPSHOT).exists() or not metrics.exists():
        return
    epochs = metrics.read_bytes().count(b"\n") - 1
    if epochs > 0:
        raise ConfigError(
            f"{folder} cannot be resumed: {_config.METRICS} has {epochs} epochs, but "
            f"{_config.SNAPSHOT} is gone; put it back, or start a new run in another folder"
        )


def _check_same(config: Config, images: Dataset) -> None:
    found = (images.train.x.shape[1], images.classes)
    if found != (config.inputs, config.classes):
        raise ConfigError(
            f"{config.data} has changed since the run began: images of {found[0]} numbers in "
            f"{found[1]} classes, then {config.inputs} in {config.classes}; start a new run"
        )
