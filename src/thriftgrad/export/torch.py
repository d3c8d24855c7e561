"""Weights to and from PyTorch, in safetensors files, which hold arrays and nothing that could run.

Both libraries name a parameter by the path of attributes, positions and keys that leads to it, so a
model written the same way in both has the same names. Two things differ: PyTorch keeps the weight
of a `Linear` as (outputs, inputs), the transpose of ours, and it names a parameter that is held in
several places once for each.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_bytes

from thriftgrad.autodiff import Parameter
from thriftgrad.errors import SnapshotError
from thriftgrad.nn import Linear, Module
from thriftgrad.train._write import replace

Array = NDArray[Any]


def torch_state_dict(model: Module) -> dict[str, Array]:
    """Return copies of a model's arrays as PyTorch's `state_dict` of the same architecture has them.

    The weight of every `Linear` is transposed, to (outputs, inputs); all other arrays are as they
    are. A parameter that is held in several places appears under the path of each.

    Example:
        >>> import numpy as np, thriftgrad as tg
        >>> model = tg.nn.Sequential(tg.nn.Linear(3, 2, rng=0), np.tanh)
        >>> {name: array.shape for name, array in tg.export.torch_state_dict(model).items()}
        {'0.weight': (2, 3), '0.bias': (2,)}
    """
    return {
        path: np.ascontiguousarray(leaf.value.T if turned else leaf.value).copy()
        for path, leaf, turned in _places(model)
    }


def load_torch_state_dict(model: Module, state: Mapping[str, Any], strict: bool = True) -> None:
    """Write PyTorch's arrays into a model of the same architecture, all of them or, on error, none.

    The parameters keep their own dtype.

    Args:
        model: the model.
        state: arrays by name, as `torch_state_dict` returns them.
        strict: whether every name must be in both; if not, what is only in one is left alone.

    Raises:
        SnapshotError: names are missing or unexpected, a shape or kind of number differs, or the
            places of one shared parameter are given different values.

    Example:
        >>> import thriftgrad as tg
        >>> layer = tg.nn.Linear(2, 1, rng=0)
        >>> tg.export.load_torch_state_dict(layer, {"weight": [[3.0, 4.0]], "bias": [5.0]})
        >>> layer([1.0, 1.0]).item()
        12.0
    """
    if not isinstance(state, Mapping):
        raise SnapshotError(
            f"load_torch_state_dict was given a {type(state).__name__}; expected a mapping from names "
            f"to arrays, as torch_state_dict(model) returns, or PyTorch's state_dict() with "
            f"{{name: tensor.numpy()}} for its items"
        )
    remaining = {name: np.asarray(array) for name, array in state.items()}
    # Our own names have each parameter once; the first place that the state has speaks for all.
    first: dict[int, str] = {}
    own: dict[str, Array] = {}
    for path, leaf, turned in _places(model):
        name = first.setdefault(id(leaf), path)
        if path not in remaining:
            continue
        array = remaining.pop(path)
        array = array.T if turned else array
        if name in own and not np.array_equal(own[name], array, equal_nan=True):
            raise SnapshotError(
                f"the state has different values for {name!r} and {path!r}, which are one parameter "
                f"of this {type(model).__name__}; the model is unchanged"
            )
        own[name] = array
    try:
        model.load_state_dict({**own, **remaining}, strict=strict)
    except SnapshotError as error:
        raise SnapshotError(
            f"{error}. (The weights of Linear layers are meant as PyTorch keeps them, (outputs, "
            f"inputs); the shapes here are after transposing them)"
        ) from error


def save_torch(model: Module, path: str | os.PathLike[str]) -> None:
    """Write a model's weights to a safetensors file that PyTorch reads, replaced as a whole.

    In PyTorch: `net.load_state_dict(safetensors.torch.load_file(path))`.

    Raises:
        OSError: the file cannot be written.

    Example:
        >>> import tempfile, thriftgrad as tg
        >>> a, b = (tg.nn.Sequential(tg.nn.Linear(2, 3, rng=seed)) for seed in (0, 1))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     tg.export.save_torch(a, folder + "/model.safetensors")
        ...     tg.export.load_torch(b, folder + "/model.safetensors")
        >>> all((p.value == q.value).all() for p, q in zip(a.parameters(), b.parameters()))
        True
    """
    content = to_bytes(torch_state_dict(model), {"format": "pt"})
    replace(path, lambda temporary: temporary.write_bytes(content))


def load_torch(model: Module, path: str | os.PathLike[str], strict: bool = True) -> None:
    """Put the weights of a PyTorch model of the same architecture into this one.

    In PyTorch: `safetensors.torch.save_file(net.state_dict(), path)`. Nothing in a safetensors file
    is ever executed; PyTorch's own `.pt` files are pickles, which may run anything, and are refused.

    Args:
        model: the model; unchanged where this raises.
        path: a safetensors file.
        strict: as in `load_torch_state_dict`.

    Raises:
        SnapshotError: the file is not safetensors, or does not fit the model.
        OSError: the file cannot be read.

    Example:
        >>> import tempfile, numpy as np, thriftgrad as tg
        >>> from safetensors.numpy import save_file
        >>> layer = tg.nn.Linear(2, 1, rng=0)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_file({"weight": np.array([[3.0, 4.0]]), "bias": np.array([5.0])}, folder + "/w")
        ...     tg.export.load_torch(layer, folder + "/w")
        >>> layer([1.0, 1.0]).item()
        12.0
    """
    state = _read(path)
    try:
        load_torch_state_dict(model, state, strict)
    except SnapshotError as error:
        raise SnapshotError(f"{path}: {error}") from error


def _read(path: str | os.PathLike[str]) -> dict[str, Array]:
    with Path(path).open("rb") as opened:
        start = opened.read(2)
    # A zip is how torch.save writes; a protocol byte is how pickles begin, and its old files do.
    if start == b"PK" or start[:1] == b"\x80":
        raise SnapshotError(
            f"{path} is a pickle, as torch.save writes it, and reading one may run any code; in "
            f"PyTorch, turn it into safetensors: safetensors.torch.save_file(torch.load(path, "
            f"weights_only=True), 'model.safetensors')"
        )
    try:
        with safe_open(path, framework="numpy") as file:
            if "thriftgrad" in (file.metadata() or {}):
                raise SnapshotError(
                    f"{path} was written by thriftgrad.train, not for PyTorch; read it by "
                    f"thriftgrad.train.load(model, path)"
                )
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (TypeError, AttributeError, KeyError) as error:
        raise SnapshotError(f"{path}: {_STRANGE}") from error
    except (SafetensorError, ValueError) as error:
        if isinstance(error, SnapshotError):
            raise
        raise SnapshotError(
            f"{path} is not a safetensors file, or a damaged one ({error})"
        ) from error
    # Another library may have taught NumPy such a type, which its own functions then do not know.
    if any(array.dtype.kind == "V" for array in arrays.values()):
        raise SnapshotError(f"{path}: {_STRANGE}")
    return arrays


_STRANGE = (
    "it has a type of number that NumPy does not have, such as bfloat16; in PyTorch, save "
    "net.float().state_dict()"
)


def _places(model: Module) -> Iterator[tuple[str, Parameter, bool]]:
    """Yield each place where a parameter is held: path, parameter, and whether PyTorch turns it."""
    inside: list[Module] = []

    def walk(path: str, value: Any, turned: bool) -> Iterator[tuple[str, Parameter, bool]]:
        if isinstance(value, Parameter):
            yield path.removeprefix("."), value, turned
        elif isinstance(value, Module) and not any(value is outer for outer in inside):
            inside.append(value)
            for name, held in vars(value).items():
                turned = name == "weight" and isinstance(value, Linear)
                yield from walk(f"{path}.{name}", held, turned)
            inside.pop()
        elif isinstance(value, list | tuple):
            for position, held in enumerate(value):
                yield from walk(f"{path}.{position}", held, False)
        elif isinstance(value, dict):
            for key, held in value.items():
                yield from walk(f"{path}.{key}", held, False)

    return walk("", model, False)
