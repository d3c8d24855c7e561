"""Saving a model or a whole training state in one file, and going on from there.

A file is safetensors: arrays under `model.<name>`, `best.<name>` (the weights of the best epoch,
under early stopping) and `optimizer.<key>`, and everything that is not an array as JSON in the
header's metadata. One file, so that one renaming replaces all of it at once. Reading it runs
nothing.
"""

from __future__ import annotations

import json
import math
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_bytes

from thriftgrad.errors import SnapshotError
from thriftgrad.nn import Module
from thriftgrad.train._write import replace
from thriftgrad.train.callbacks import EarlyStopping, State
from thriftgrad.train.history import Epoch

Array = NDArray[Any]
Arrays = dict[str, dict[str, Array]]

_KEY = "thriftgrad"
_CHECKSUM = "thriftgrad.crc32"
_FORMAT = 1
_GROUPS = ("model", "best", "optimizer")


def save(model: Module, path: str | os.PathLike[str]) -> None:
    """Write a model's weights to a safetensors file, which is replaced as a whole.

    Raises:
        OSError: the file cannot be written.

    Example:
        >>> import tempfile, thriftgrad as tg
        >>> a, b = (tg.nn.Sequential(tg.nn.Linear(2, 3, rng=seed)) for seed in (0, 1))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     tg.train.save(a, folder + "/model.safetensors")
        ...     tg.train.load(b, folder + "/model.safetensors")
        >>> all((p.value == q.value).all() for p, q in zip(a.parameters(), b.parameters()))
        True
    """
    _write(path, {"model": model.state_dict()}, {})


def load(model: Module, path: str | os.PathLike[str]) -> None:
    """Put saved weights into a model: what `save` or `fit(snapshot=...)` has written.

    From a training with early stopping come the weights of the best epoch, as `fit` leaves them.

    Raises:
        SnapshotError: the file is damaged or something else, or does not fit the model, which is
            then as it was.
        OSError: the file cannot be read.
    """
    arrays, _ = _read(path)
    _load_weights(model, arrays.get("best") or arrays["model"], path)


def save_training(
    path: str | os.PathLike[str],
    state: State,
    stopping: EarlyStopping | None,
    settings: Mapping[str, Any],
) -> None:
    """Write all that the epochs to come depend on; see `resume_training`."""
    optimizer = state.optimizer.state_dict()
    arrays = {"model": state.model.state_dict(), "optimizer": optimizer.pop("arrays")}
    if stopping is not None and stopping.best is not None:
        arrays["best"] = stopping.best
    generators = {name: rng.bit_generator.state for name, rng in _generators(state).items()}
    facts = {
        "settings": settings,
        "history": [[None if math.isnan(v) else v for v in row] for row in state.history.rows],
        "stop": state.stop,
        "step": state.history.step,
        "optimizer": optimizer,
        "generators": generators,
    }
    _write(path, arrays, facts)


def resume_training(
    path: str | os.PathLike[str],
    state: State,
    stopping: EarlyStopping | None,
    settings: Mapping[str, Any],
) -> None:
    """Bring model, optimiser, generators and history to where `save_training` left them.

    Raises:
        SnapshotError: the file is damaged, or of another model, optimiser or setting. Nothing has
            changed then.
        OSError: the file cannot be read.
    """
    arrays, facts = _read(path)
    if "settings" not in facts:
        raise SnapshotError(
            f"{path} holds a model's weights but no training to resume; put them into the model by "
            f"thriftgrad.train.load and give another path as snapshot"
        )
    try:
        rows = [_row(row) for row in facts["history"]]
        saved, stop, numbers = facts["settings"], bool(facts["stop"]), facts["optimizer"]
        states = facts["generators"]
        # A snapshot of before there were layers in it is taken at its word.
        saved = {"layers": settings.get("layers"), **saved}
        differing = [key for key in settings if saved[key] != settings[key]]
    except (KeyError, TypeError) as error:
        raise SnapshotError(f"{path} is not a whole training state: {error!r}") from error
    if differing:
        raise SnapshotError(
            f"{path} was saved with "
            + " and ".join(f"{key} = {saved[key]!r}, now {settings[key]!r}" for key in differing)
            + "; resume with the saved ones, or start anew with another snapshot"
        )
    generators = _generators(state)
    if states.keys() != generators.keys():
        raise SnapshotError(
            f"{path} has the random generators {', '.join(states)}; the model has "
            f"{', '.join(generators)}"
        )
    checked = {name: _checked(path, rng, states[name]) for name, rng in generators.items()}

    before = state.model.state_dict()
    for name, array in arrays["model"].items():
        if name in before and array.dtype != before[name].dtype:
            raise SnapshotError(
                f"{path} has {name} in {array.dtype}, the model in {before[name].dtype}; going on "
                f"in another type would not give the same numbers"
            )
    # The model comes before the optimiser, and has to go back if the optimiser refuses.
    _load_weights(state.model, arrays["model"], path)
    try:
        state.optimizer.load_state_dict({**numbers, "arrays": arrays.get("optimizer", {})})
    except SnapshotError as error:
        state.model.load_state_dict(before)
        raise SnapshotError(f"{path}: {error}") from error
    for name, rng in generators.items():
        rng.bit_generator.state = checked[name]
    state.history.rows[:] = rows
    state.history.step = str(facts.get("step", ""))
    state.epoch = len(rows)
    state.stop = stop
    if stopping is not None:
        stopping.best = arrays.get("best")


def made_steps(path: str | os.PathLike[str]) -> str:
    """Return how a training made its steps, as `History.step` has it; "" where that is not known.

    Raises:
        SnapshotError: the file is damaged or something else.
        OSError: the file cannot be read.
    """
    return str(_read(path)[1].get("step", ""))


def _write(
    path: str | os.PathLike[str],
    arrays: Mapping[str, Mapping[str, Array]],
    facts: Mapping[str, Any],
) -> None:
    tensors = {
        f"{group}.{name}": np.asarray(array, order="C")
        for group, members in arrays.items()
        for name, array in members.items()
    }
    text = json.dumps({"format": _FORMAT, **facts}, default=_plain, allow_nan=False)
    metadata = {_KEY: text, _CHECKSUM: str(_checksum(text, tensors))}
    content = to_bytes(tensors, metadata)
    replace(path, lambda temporary: temporary.write_bytes(content))


def _read(path: str | os.PathLike[str]) -> tuple[Arrays, dict[str, Any]]:
    Path(path).open("rb").close()  # for the OSError that names what is wrong with the path
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, ValueError, TypeError, AttributeError, KeyError) as error:
        # The last two are a type of number that NumPy does not have, such as F8_E4M3.
        raise SnapshotError(
            f"{path} is not a snapshot, or a damaged one: expected a safetensors file ({error})"
        ) from error
    if _KEY not in metadata:
        raise SnapshotError(
            f"{path} is a safetensors file, but thriftgrad has not written it: its metadata have "
            f"no {_KEY!r}; they have {', '.join(metadata) or 'nothing'}"
        )
    if metadata.get(_CHECKSUM) != str(_checksum(metadata[_KEY], tensors)):
        raise SnapshotError(f"{path} is damaged: its content does not have the checksum it should")
    try:
        facts = json.loads(metadata[_KEY])
        version = facts["format"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise SnapshotError(
            f"{path} is damaged: its metadata cannot be read ({error!r})"
        ) from error
    if version != _FORMAT:
        raise SnapshotError(
            f"{path} is a snapshot of format {version!r}; this version of thriftgrad reads format "
            f"{_FORMAT}"
        )
    arrays: Arrays = {}
    for key, array in tensors.items():
        group, _, name = key.partition(".")
        arrays.setdefault(group, {})[name] = array
    if "model" not in arrays or not arrays.keys() <= set(_GROUPS):
        raise SnapshotError(
            f"{path} holds arrays of {', '.join(arrays) or 'nothing'}; expected those of a model"
        )
    return arrays, facts


def _load_weights(
    model: Module, weights: Mapping[str, Array], path: str | os.PathLike[str]
) -> None:
    try:
        model.load_state_dict(weights)
    except SnapshotError as error:
        raise SnapshotError(f"{path}: {error}") from error


def _generators(state: State) -> dict[str, np.random.Generator]:
    """Return the shuffling generator and those in the model, such as a dropout layer's."""
    found = {"shuffle": state.rng}
    seen: set[int] = set()
    waiting: list[tuple[str, Any]] = [("model", state.model)]
    while waiting:
        name, item = waiting.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, np.random.Generator):
            found[name] = item
        elif isinstance(item, Module):
            waiting += [(f"{name}.{key}", value) for key, value in vars(item).items()]
        elif isinstance(item, dict):
            waiting += [(f"{name}.{key}", value) for key, value in item.items()]
        elif isinstance(item, list | tuple):
            waiting += [(f"{name}.{key}", value) for key, value in enumerate(item)]
    return found


def _checked(
    path: str | os.PathLike[str], rng: np.random.Generator, given: Any
) -> Mapping[str, Any]:
    """Return a generator's saved state in the form that NumPy wants, having tried it."""
    kind = type(rng.bit_generator)
    try:
        state = _like(rng.bit_generator.state, given)
        kind().state = state
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise SnapshotError(
            f"{path} has no state for a random generator of kind {kind.__name__}: {error}"
        ) from error
    return state  # type: ignore[no-any-return]


def _like(template: Any, given: Any) -> Any:
    if isinstance(template, dict):
        return {key: _like(value, given[key]) for key, value in template.items()}
    if isinstance(template, np.ndarray):
        return np.array(given, dtype=template.dtype).reshape(template.shape)
    return given


def _row(given: list[Any]) -> Epoch:
    epoch, *rest = given
    return Epoch(epoch, *(math.nan if value is None else value for value in rest))


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"a {type(value).__name__} cannot be written as JSON")


def _checksum(text: str, tensors: Mapping[str, Array]) -> int:
    # safetensors finds a file that was cut short, but not one with a flipped bit.
    total = zlib.crc32(text.encode())
    for name in sorted(tensors):
        array = tensors[name]
        total = zlib.crc32(f"{name} {array.dtype.str} {array.shape}".encode(), total)
        total = zlib.crc32(array.reshape(-1).view(np.uint8).data, total)
    return total
