"""`thriftgrad train`: train a network and keep the run in a folder."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from thriftgrad import plots
from thriftgrad.cli import _config
from thriftgrad.cli._config import (
    ACTIVATIONS,
    DTYPES,
    KERNELS,
    LOSSES,
    OPTIMIZERS,
    Config,
    parse_hidden,
)
from thriftgrad.cli._images import absolute, hold_out, load_images, picture
from thriftgrad.cli._options import at_least, one_of, parse_update
from thriftgrad.data import Dataset, Split, one_hot
from thriftgrad.errors import ConfigError
from thriftgrad.memory import Plan
from thriftgrad.memory import plan as memory_plan
from thriftgrad.memory.plan import strategy_for
from thriftgrad.nn import Sequential
from thriftgrad.optim import Optimizer
from thriftgrad.train import Callback, MetricsFile, Norms, State, evaluate, fit
from thriftgrad.train.callbacks import ProgressBar
from thriftgrad.train.history import HEADER, line

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

_PROBED = 256
"""So many validation images tell how large gradients and activations are."""


def _option(name: str, text: str, **more: Any) -> Any:
    # An option not given is None, so that --resume can tell it from one that repeats the default.
    return typer.Option(help=f"{text}  [default: {_DEFAULTS[name]}]", **more)


def _widths(given: str | None) -> str | None:
    try:
        parse_hidden(given or "")
    except ConfigError as error:
        raise typer.BadParameter(str(error)) from error
    return given


def _memory(given: str | None) -> str | None:
    if given is not None:
        try:
            strategy_for(given)
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
        _option("activation", "What stands between layers.", **one_of(ACTIVATIONS)),
    ] = None,
    loss: Annotated[
        str | None,
        _option(
            "loss",
            "cross_entropy, of softmax; or mse or squared_error, of a sigmoid layer against "
            "one-hot rows.",
            **one_of(LOSSES),
        ),
    ] = None,
    optimizer: Annotated[
        str | None,
        _option("optimizer", "How to step.", **one_of(OPTIMIZERS)),
    ] = None,
    lr: Annotated[
        float | None,
        typer.Option(
            help="Learning rate at the start; it falls by 30 % each epoch.  [default: "
            + ", ".join(f"{lr:g} for {name}" for name, (_, lr) in OPTIMIZERS.items())
            + "]",
            **at_least(0, float),
        ),
    ] = None,
    epochs: Annotated[
        int | None, _option("epochs", "How often to go through the images.", **at_least(1))
    ] = None,
    batch_size: Annotated[
        int | None, _option("batch_size", "Images in a step.", **at_least(1))
    ] = None,
    dtype: Annotated[str | None, _option("dtype", "Of all numbers.", **one_of(DTYPES))] = None,
    seed: Annotated[
        int | None,
        _option("seed", "The same seed on the same machine gives the same bits.", **at_least(0)),
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(
            help="Bytes that a step may hold beyond the data set, such as 64MB, for the fastest step "
            "that fits; or which activations to keep: all, none, sqrt, revolve, every:2, at:2,5. "
            "The weights are those of --no-compile to the last bit.  [default: a plain backward pass]",
            metavar="SIZE|STRATEGY",
            callback=_memory,
        ),
    ] = None,
    update: Annotated[
        str | None,
        typer.Option(
            help="With --memory: update weights after the backward pass, or during it, layer by "
            "layer, so that gradients never exist together.  [default: after]",
            **one_of(("after", "during")),
        ),
    ] = None,
    compile: Annotated[
        bool | None,
        typer.Option(
            "--compile/--no-compile",
            help="Record the step once and run it as plain NumPy: the same weights up to rounding, in "
            "less time.  [default: yes, without --memory]",
            show_default=False,
        ),
    ] = None,
    kernels: Annotated[
        str | None,
        typer.Option(
            help="What a compiled step makes of calls that go through arrays entry by entry: numpy "
            "calls, or loops in machine code by numba, a package that thriftgrad[fast] brings along. "
            "[default: numpy]",
            **one_of(KERNELS),
        ),
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
    """Train a network that tells images apart, and keep the run.

    One image in twelve is held out for validation where the data have no such split; the test set
    is looked at once, at the end. The folder then holds config.json, metrics.csv, norms.csv (the
    size of each layer's gradients and outputs), snapshot.safetensors and curves.png, and with
    --memory the plan as memory.png. A snapshot is written after every epoch: a run that was killed
    and is resumed ends with the same bits as one that was not.
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
            "memory": memory,
            "update": update,
            "compile": compile,
            "kernels": kernels,
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
    planned = _plan(config, images.train, model, stepper)
    if config.kernels == "numba":
        from thriftgrad.compile import machine_code

        machine_code.require()
    _config.write(folder, config)
    try:
        _run(folder, config, images, model, stepper, planned)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"thriftgrad train --out {folder} --resume goes on") from None


def _plan(config: Config, train: Split, model: Sequential, optimizer: Optimizer) -> Plan | None:
    """Return the plan of the steps, where the run has a budget or a strategy."""
    if config.memory is None:
        return None
    first = Split(train.x[: config.batch_size], train.y[: config.batch_size])
    return memory_plan(
        model,
        *targets(first, config),
        budget=config.memory,
        loss=config.loss_function,
        optimizer=optimizer,
        update=parse_update(config.update),
    )


def _run(
    folder: Path,
    config: Config,
    images: Dataset,
    model: Sequential,
    optimizer: Optimizer,
    planned: Plan | None,
) -> None:
    """Train what is left to train, test, and draw."""
    train, test, validation = images.train, images.test, images.validation
    typer.echo(repr(model))
    typer.echo(
        f"{config.data}: {len(train.x):,} images for training, "
        f"{len(validation.x) if validation else 0:,} for validation, {len(test.x):,} for the test"
    )
    if planned is not None:
        typer.echo(str(planned))
    # Of a planned run no more than a batch: the plan has no room for more.
    count = _PROBED if planned is None else min(_PROBED, config.batch_size)
    few = Split(*(each[:count] for each in validation or train))
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
        memory=planned,
        compile=config.compile,
        kernels=config.kernels,
        callbacks=[
            MetricsFile(folder / _config.METRICS),
            Norms(targets(few, config), config.loss_function, path=folder / _config.NORMS),
            _Lines(),
        ],
    )
    scores = evaluate(
        model, targets(test, config), loss=config.loss_function, batch_size=config.batch_size
    )
    typer.echo(f"test: loss {scores.loss:.4f}, accuracy {100 * scores.accuracy:.2f} %")
    names = [_config.CONFIG, _config.METRICS, _config.NORMS, _config.SNAPSHOT]
    names += _drawn(folder / _config.CURVES, partial(plots.curves, history))
    if planned is not None:
        names += _drawn(folder / _config.MEMORY, planned.draw)
    typer.echo(f"{folder} holds {', '.join(names)}")


def targets(split: Split, config: Config) -> tuple[Any, Any]:
    """Return images and what the loss compares the outputs with: labels or one-hot rows."""
    if config.takes_labels:
        return split.x, split.y
    return split.x, one_hot(split.y, config.classes, config.dtype)


class _Lines(Callback):
    """Say where a resumed run stands and how steps are made, and print a line an epoch without a bar."""

    def __init__(self) -> None:
        self.bar = ProgressBar.wanted()

    def on_train_begin(self, state: State) -> None:
        done = len(state.history)
        if done >= state.epochs:
            typer.echo(f"finished already, after {done} epochs; a higher --epochs trains on")
        elif done:
            typer.echo(f"going on after epoch {done} of {state.epochs}")
        self.told = done >= state.epochs

    def on_step_end(self, state: State) -> None:
        if not self.told:
            self.told = True
            typer.echo(f"the training step is {state.history.step}")
            if not self.bar:
                typer.echo(HEADER)

    def on_epoch_end(self, state: State) -> None:
        if not self.bar:
            typer.echo(line(state.history.rows[-1]))


def _drawn(path: Path, draw: Callable[[Path], Any]) -> list[str]:
    """Draw a picture; return its name in a list, or none where that cannot be done."""
    try:
        draw(path)
    except (
        ImportError
    ) as error:  # pictures are an extra of their own; the run is whole without them
        typer.echo(f"{path.name} was not drawn: {error}", err=True)
        return []
    return [path.name]


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
