"""Where numbers turned NaN or infinite: asked once, after a step has failed."""

from __future__ import annotations

import cmath
import copy
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thriftgrad.autodiff import Tensor, no_grad
from thriftgrad.autodiff.recording import whole
from thriftgrad.nn import Module

Array = NDArray[Any]


def finite(array: Array) -> bool:
    """Say whether all entries are finite."""
    # A sum of squares is a quarter of the time, but may overflow where no entry has.
    return cmath.isfinite(np.vdot(array, array)) or bool(np.all(np.isfinite(array)))


@whole
def all_finite(arrays: Sequence[Array]) -> np.bool_:
    """Say whether all entries of all arrays are finite."""
    return np.bool_(cmath.isfinite(sum(map(np.vdot, arrays, arrays))) or all(map(finite, arrays)))


def bad_weights(model: Module) -> str | None:
    """Return the name of the first parameter that is not finite, if there is one."""
    for name, parameter in model.named_parameters():
        if not finite(parameter.value):
            return name
    return None


def where(model: Module, x: Array, outputs: Any) -> str:
    """Say where in the forward pass from `x` to `outputs` the first bad number turned up."""
    if x.dtype.kind in "fc" and not finite(x):
        return "the batch itself has NaN or infinite values in x"
    name = bad_weights(model)
    if name is not None:
        return f"the weights {name} are not finite since the step before"
    if _has_finite_values(outputs):
        return "the model's output is finite, the loss function made of it is not"
    try:
        layer = _first_bad_layer(model, x)
    except Exception:  # a second pass may fail in any way; what is reported is the first
        layer = None
    if layer is None:
        return "the model's output is not finite, x and all weights are"
    return f"the output of {layer} is the first that is not finite"


def layers(model: Module) -> list[str]:
    """Return the path and the kind of everything in the model that can be called, in order."""
    return [f"{path} {_kind(layer)}".strip() for path, layer, _ in _layers(model)]


def _first_bad_layer(model: Module, x: Array) -> str | None:
    # A copy, so that generators and whatever else a layer keeps stay as they were.
    model = copy.deepcopy(model)
    paths: dict[int, str] = {}
    found: list[str] = []

    def note(path: str, layer: Any, output: Any) -> Any:
        if not found and not _has_finite_values(output):
            found.append(f"layer {path} ({_kind(layer)})" if path else f"the {_kind(layer)} itself")
        return output

    def watched(path: str, function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args, **options: note(path, function, function(*args, **options))

    for path, layer, holder in list(_layers(model)):
        if isinstance(layer, Module):
            paths[id(layer)] = path
        else:
            setattr(holder, path.rpartition(".")[2], watched(path, layer))

    def after(module: Module, output: Any) -> None:
        if id(module) in paths:  # else it is of another model, in another thread
            note(paths[id(module)], module, output)

    forward: Any = model
    with no_grad(), _after_calls({type(module) for module in model.modules()}, after):
        forward(x)
    return found[0] if found else None


@contextmanager
def _after_calls(classes: set[type], after: Callable[[Any, Any], None]) -> Iterator[None]:
    """Call `after(object, result)` whenever an object of these classes has been called."""
    # A call looks for __call__ in the class, never in the object.
    owners: set[Any] = {c for kind in classes for c in kind.__mro__ if "__call__" in vars(c)}
    originals = {owner: vars(owner)["__call__"] for owner in owners}

    def through(original: Any) -> Callable[..., Any]:
        def call(self: Any, *args: Any, **options: Any) -> Any:
            result = original.__get__(self, type(self))(*args, **options)
            after(self, result)
            return result

        return call

    try:
        for owner, original in originals.items():
            owner.__call__ = through(original)
        yield
    finally:
        for owner, original in originals.items():
            owner.__call__ = original


def _layers(model: Module) -> Iterator[tuple[str, Any, Any]]:
    """Yield path, layer and holder of each module and of each function that is an attribute."""
    seen: set[int] = set()

    def walk(path: str, item: Any, holder: Any) -> Iterator[tuple[str, Any, Any]]:
        inner: Iterable[tuple[Any, Any]] = ()
        if isinstance(item, Module | dict | list | tuple):
            if id(item) in seen:
                return
            seen.add(id(item))
        if isinstance(item, Module):
            yield path, item, holder
            inner = vars(item).items()
        elif isinstance(item, dict):
            inner = item.items()
        elif isinstance(item, list | tuple):
            inner = enumerate(item)
        elif callable(item) and isinstance(holder, Module) and not isinstance(item, type):
            yield path, item, holder
        for name, value in list(inner):
            yield from walk(f"{path}.{name}".lstrip("."), value, item)

    return walk("", model, None)


def _kind(layer: Any) -> str:
    if isinstance(layer, Module):
        return type(layer).__name__
    # The address in a repr is another in every process.
    return getattr(layer, "__name__", None) or re.sub(r" at 0x[0-9a-fA-F]+", "", repr(layer))


def values_of(outputs: Any) -> Any:
    """Return outputs with arrays in the place of tensors."""
    if isinstance(outputs, list | tuple):
        return [values_of(each) for each in outputs]
    if isinstance(outputs, dict):
        return [values_of(each) for each in outputs.values()]
    return outputs.value if isinstance(outputs, Tensor) else outputs


def _has_finite_values(output: Any) -> bool:
    if isinstance(output, list | tuple):
        return all(map(_has_finite_values, output))
    if isinstance(output, dict):
        return all(map(_has_finite_values, output.values()))
    array = np.asarray(output.value if isinstance(output, Tensor) else output)
    return array.dtype.kind not in "fc" or finite(array)
