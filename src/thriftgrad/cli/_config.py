"""What a run is: its options, the model they make, and the folder that keeps both."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from thriftgrad import __version__, nn, optim
from thriftgrad.errors import ConfigError
from thriftgrad.memory.plan import strategy_for
from thriftgrad.train._write import SUFFIX, write_text

if TYPE_CHECKING:
    from thriftgrad.compile.replay import Kernels

CONFIG = "config.json"
SNAPSHOT = "snapshot.safetensors"
METRICS = "metrics.csv"
NORMS = "norms.csv"
CURVES = "curves.png"
MEMORY = "memory.png"

DECAY = 0.7
"""What the learning rate is multiplied by over an epoch. The number of epochs has no part in it, so
that training on with a higher `--epochs` is the same as having asked for them at once."""

_FORMAT = 1

ACTIVATIONS: dict[str, tuple[Callable[[Any], Any], nn.init.Init]] = {
    "relu": (nn.relu, nn.init.kaiming_normal),
    "sigmoid": (nn.sigmoid, nn.init.glorot_uniform),
    "tanh": (nn.tanh, nn.init.glorot_uniform),
}
LOSSES: dict[str, Callable[[Any, Any], Any]] = {
    "cross_entropy": nn.cross_entropy,
    "mse": nn.mse,
    "squared_error": nn.squared_error,
}
OPTIMIZERS: dict[str, tuple[Callable[..., optim.Optimizer], float]] = {
    "adam": (optim.Adam, 0.002),
    "adamw": (optim.AdamW, 0.002),
    "momentum": (lambda p, lr: optim.SGD(p, lr, momentum=0.9), 0.05),
    "sgd": (optim.SGD, 0.1),
}
DTYPES = ("float32", "float64")
KERNELS = ("numpy", "numba")

MAX_WIDTH = 1_000_000
"""A layer wider than this is a slip of the keyboard, or a damaged file."""

_RANGES = {
    "epochs": (1, 10**9),
    "batch_size": (1, 10**9),
    "seed": (0, 2**128 - 1),
    "inputs": (1, 10**9),
    "classes": (1, 10**9),
}


@dataclass(frozen=True)
class Config:
    """The options of a run, and what is to be known of its data to make the model.

    Attributes:
        data: `mnist` or the absolute path of a file.
        hidden: widths of the hidden layers.
        activation, loss, optimizer, dtype: names, as in `--help`.
        lr: learning rate at the start.
        epochs, batch_size, seed: whole numbers.
        inputs: numbers that make one image.
        classes: how many there are.
        image: height and width, where an image is a plane of pixels from 0 to 1; else None.
        background: what the pixels at the rim of the training images are on average.
        memory: bytes that a step may hold, or a strategy, as in `--help`; None for a plain step.
        update: "after" or "during" the backward pass.
        compile: whether steps are compiled; None: if they can be.
        kernels: "numpy" or "numba", of compiled steps.

    Raises:
        ConfigError: a value that makes no sense.
    """

    data: str
    hidden: list[int]
    activation: str
    loss: str
    optimizer: str
    lr: float
    epochs: int
    batch_size: int
    dtype: str
    seed: int
    inputs: int
    classes: int
    image: list[int] | None
    background: float
    memory: str | None = None
    update: str = "after"
    compile: bool | None = None
    kernels: Kernels = "numpy"

    def __post_init__(self) -> None:
        _choice("activation", self.activation, ACTIVATIONS)
        _choice("loss", self.loss, LOSSES)
        _choice("optimizer", self.optimizer, OPTIMIZERS)
        _choice("dtype", self.dtype, dict.fromkeys(DTYPES))
        for name, (least, most) in _RANGES.items():
            _within(name, getattr(self, name), least, most)
        for width in self.hidden:
            _within("hidden", width, 1, MAX_WIDTH)
        if not 0 <= self.lr <= sys.float_info.max:  # JSON may hold a longer integer, too
            raise ConfigError(f"lr is {short(self.lr)}; expected a finite number of at least 0")
        if not 0 <= self.background <= 1:
            raise ConfigError(f"background is {self.background!r}; expected a number from 0 to 1")
        if self.image is not None:
            for side in self.image:
                _within("image", side, 1, self.inputs)
            if len(self.image) != 2 or math.prod(self.image) != self.inputs:
                raise ConfigError(
                    f"image is {self.image}; expected height and width of {self.inputs} pixels"
                )
        _choice("update", self.update, {"after": None, "during": None})
        if self.memory is not None:
            strategy_for(self.memory)
        elif self.update == "during":
            raise ConfigError("--update during goes with --memory: add --memory all, or a budget")
        if self.memory is not None and self.compile:
            raise ConfigError("--compile does not go with --memory: leave one of them away")
        _choice("kernels", self.kernels, dict.fromkeys(KERNELS))
        if self.kernels != "numpy" and (self.memory is not None or self.compile is False):
            other = "--memory" if self.memory is not None else "--no-compile"
            raise ConfigError(
                f"--kernels {self.kernels} does not go with {other}: leave one of them away"
            )
        if "\0" in self.data:
            raise ConfigError(f"data is {self.data!r}, which cannot be the name of a file")

    @property
    def takes_labels(self) -> bool:
        """Whether the loss takes integer labels and raw scores: the others take one-hot rows."""
        return self.loss == "cross_entropy"

    @property
    def loss_function(self) -> Callable[[Any, Any], Any]:
        """The loss that the name stands for."""
        return LOSSES[self.loss]


def parse_hidden(text: str) -> list[int]:
    """Return the widths in a text such as `128,64`; the empty text stands for no hidden layer.

    Raises:
        ConfigError: it is something else.
    """
    parts = text.replace(" ", "").split(",") if text.strip() else []
    # int refuses a number of thousands of digits: they are counted first.
    digits = [part.lstrip("0") if part.isascii() and part.isdigit() else "" for part in parts]
    if not all(digits):
        raise ConfigError(
            f"{short(text)} is not a list of widths of layers, such as 128,64, or '' for none"
        )
    if any(len(part) > 9 or int(part) > MAX_WIDTH for part in digits):
        raise ConfigError(f"{short(text)} has a layer wider than {MAX_WIDTH:,}, the most there is")
    return [int(part) for part in digits]


def build_model(config: Config) -> nn.Sequential:
    """Make the model: affine maps, activations between; for one-hot rows a sigmoid at the end."""
    activation, init = ACTIVATIONS[config.activation]
    rng, dtype = np.random.default_rng(config.seed), np.dtype(config.dtype)
    layers: list[Callable[[Any], Any]] = []
    width = config.inputs
    for hidden in config.hidden:
        layers += [nn.Linear(width, hidden, init=init, rng=rng, dtype=dtype), activation]
        width = hidden
    layers.append(nn.Linear(width, config.classes, rng=rng, dtype=dtype))
    if not config.takes_labels:
        layers.append(nn.sigmoid)
    return nn.Sequential(*layers)


def build_optimizer(config: Config, model: nn.Module, steps: int) -> optim.Optimizer:
    """Make the optimiser, whose learning rate falls by 30 % over the `steps` of an epoch."""
    make, _ = OPTIMIZERS[config.optimizer]
    rate = optim.schedules.exponential_decay(config.lr, factor=DECAY, steps=steps)
    return make(model.parameters(), rate)


def new_folder(out: Path | None, data: str) -> Path:
    """Return the folder for a new run: `out`, or the first free of `runs/<data>-1`, `-2`, ...

    Raises:
        ConfigError: there is something in it already.
    """
    if out is None:
        stem = Path(data).name.partition(".")[0] or "data"
        return next(free for n in count(1) if not (free := Path("runs") / f"{stem}-{n}").exists())
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is a file; --out takes the folder of a run")
    if out.is_dir() and any(not name.endswith(SUFFIX) for name in os.listdir(out)):
        if (out / CONFIG).exists():
            remedy = f"go on with it by --out {out} --resume, or name another folder"
        else:
            remedy = "name another folder by --out"
        raise ConfigError(f"{out} is not empty, and a run never overwrites anything; {remedy}")
    return out


def write(folder: Path, config: Config) -> None:
    """Write `config.json`, and make the folder if need be.

    Raises:
        OSError: that cannot be done.
    """
    folder.mkdir(parents=True, exist_ok=True)
    content = {"format": _FORMAT, "thriftgrad": __version__, **asdict(config)}
    write_text(folder / CONFIG, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def read(folder: Path) -> Config:
    """Read `config.json`.

    Raises:
        ConfigError: there is none, or it is not what `write` writes.
    """
    path = folder / CONFIG
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            f"{folder} holds no run: there is no {CONFIG} in it; `thriftgrad train --out {folder}` "
            f"makes one"
        ) from None
    except NotADirectoryError:
        raise ConfigError(f"{folder} is a file; expected the folder of a run") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is damaged: it is not JSON ({error})") from error
    if not isinstance(content, dict) or content.pop("format", None) != _FORMAT:
        raise ConfigError(f"{path} is not a configuration of format {_FORMAT}")
    content.pop("thriftgrad", None)
    names = {field.name for field in fields(Config)}
    # Runs from before there were budgets, and compiled steps.
    then = {"memory": None, "update": "after", "compile": False, "kernels": "numpy"}
    content = {**then, **content}
    if content.keys() != names:
        raise ConfigError(
            f"{path} is damaged: missing {sorted(names - content.keys()) or 'nothing'}, unexpected "
            f"{sorted(content.keys() - names) or 'nothing'}"
        )
    for name, kind in _KINDS.items():
        if not isinstance(content[name], kind) or isinstance(content[name], bool):
            raise ConfigError(f"{path} is damaged: {name} is {content[name]!r}")
    if not all(type(width) is int for width in content["hidden"] + (content["image"] or [])):
        raise ConfigError(f"{path} is damaged: hidden or image are not whole numbers")
    if content["compile"] is not None and not isinstance(content["compile"], bool):
        raise ConfigError(f"{path} is damaged: compile is {content['compile']!r}")
    try:
        return Config(**content)
    except ConfigError as error:
        raise ConfigError(f"{path} is damaged: {error}") from error


_KINDS: dict[str, Any] = {
    "data": str,
    "hidden": list,
    "lr": float | int,
    "epochs": int,
    "batch_size": int,
    "seed": int,
    "inputs": int,
    "classes": int,
    "image": list | None,
    "background": float | int,
    "memory": str | None,
}


def resumed(config: Config, given: Mapping[str, Any], folder: Path) -> Config:
    """Return the configuration of a run to go on with, given the options of this command.

    Raises:
        ConfigError: an option differs from the run's, other than by more epochs.
    """
    conflicts = [
        f"--{name.replace('_', '-')} {value} (was {getattr(config, name)})"
        for name, value in given.items()
        if value != getattr(config, name) and not (name == "epochs" and value > config.epochs)
    ]
    if conflicts:
        raise ConfigError(
            f"{folder} cannot be resumed with other options: {', '.join(conflicts)}. Leave them "
            f"out; only --epochs may be given, to raise it"
        )
    return replace(config, epochs=given.get("epochs", config.epochs))


def _within(name: str, given: int, least: int, most: int) -> None:
    if not least <= given <= most:
        raise ConfigError(
            f"{name} is {short(given)}; expected a whole number from {least} to {most:,}"
        )


def short(given: Any) -> str:
    """Return what was given, for a message: its beginning and end where it is long."""
    text = repr(given)
    return text if len(text) <= 60 else f"{text[:40]}...{text[-10:]}"


def _choice(name: str, given: Any, table: Mapping[str, Any]) -> None:
    if not isinstance(given, str) or given not in table:
        raise ConfigError(f"--{name} {given!r}: expected one of {', '.join(table)}")
