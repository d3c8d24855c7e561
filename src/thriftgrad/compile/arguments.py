"""What is passed to a compiled function: which program it asks for, and what stands for it in a recording.

A program is recorded for the layout of arrays (shape, dtype, strides), for the type of Python floats,
whose value may change, and for the value of all else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from inspect import signature
from typing import Any

import numpy as np

from thriftgrad import tree
from thriftgrad.autodiff import Parameter, Tensor
from thriftgrad.errors import RecordError


def flattened(args: Any, kwargs: Any) -> tuple[list[Any], Any]:
    """Return what is passed without its structure, and the structure."""
    if not kwargs:
        for each in args:
            if type(each) is not np.ndarray:
                break
        else:
            return args, len(args)
    return tree.flatten((args, kwargs))


def which_are_one(leaves: Sequence[Any]) -> Any:
    """Return which arguments are one object, for a function that asks `x is y`."""
    ids = list(map(id, leaves))
    return len(set(ids)) < len(ids) and tuple(map(ids.index, ids))


class _Object:
    """What has settings of its own; it is equal to itself alone, whatever its class says of it."""

    def __init__(self, it: Any) -> None:
        self._it = it  # kept, as an id means something while an object lives

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Object) and other._it is self._it

    def __hash__(self) -> int:
        return id(self._it)


def layout_of(value: Any) -> Any:
    """Return what a program is recorded for, of an argument."""
    if type(value) is np.ndarray:
        return value.shape, value.dtype, value.strides
    if isinstance(value, Parameter):
        return Parameter, id(value)  # which its program keeps alive
    if isinstance(value, Tensor):
        raise RecordError(
            "a compiled function was given a tensor, whose gradient would be lost; pass its .value, and "
            "compile the function that differentiates: tg.compile(tg.value_and_grad(f))"
        )
    if isinstance(value, np.ndarray):
        raise RecordError(
            f"a compiled function was given a {type(value).__name__}, which has an arithmetic of its own; "
            f"pass np.asarray of it"
        )
    if isinstance(value, np.generic):
        return type(value), value.dtype
    if type(value) in (float, complex):
        return type(value)
    try:
        hash(value)
    except TypeError:
        instead = "; pass np.asarray of it" if hasattr(value, "__array__") else ""
        raise RecordError(
            f"a compiled function was given a {type(value).__name__}; expected arrays, numbers, what can "
            f"be compared by a hash, and trees of these{instead}"
        ) from None
    plain = type(value).__module__ == "builtins" and not callable(value)
    return type(value), value if plain else _Object(value)


def standing(
    function: Any, args: Any, kwargs: Any, stand: Callable[[Any, str, int], Any]
) -> tuple[Any, Any]:
    """Return the arguments with stand-ins for arrays and Python floats."""
    names = _names(function, args, kwargs)
    leaves, structure = tree.flatten((args, kwargs))
    given = [
        stand(leaf, name, i)
        if isinstance(leaf, np.ndarray | np.generic | float | complex)
        else leaf
        for i, (leaf, name) in enumerate(zip(leaves, names, strict=True))
    ]
    result: tuple[Any, Any] = tree.unflatten(structure, given)
    return result


def _names(function: Any, args: Any, kwargs: Any) -> list[str]:
    """Return what the arguments are called, each leaf of a tree by its path."""
    try:
        accepted = signature(function)
        titles: list[str] = []
        for name, value in accepted.bind(*args, **kwargs).arguments.items():
            parameter = accepted.parameters[name]
            if parameter.kind is parameter.VAR_POSITIONAL:
                titles += [f"{name}_{i}" for i in range(len(value))]
            elif parameter.kind is not parameter.VAR_KEYWORD:
                titles.append(name)
    except (TypeError, ValueError):
        titles = []
    titles = [*titles, *(f"argument_{i}" for i in range(len(titles), len(args)))]
    names: list[str] = []
    for value, title in zip(args, titles, strict=False):
        names += tree.paths(value, title)
    for title, value in sorted(kwargs.items()):
        names += tree.paths(value, title)
    return names


def objects_in(arguments: Any) -> list[Any]:
    """Return what is passed beside arrays and numbers: modules, and other objects with settings."""
    if isinstance(arguments, dict):
        arguments = list(arguments.values())
    if isinstance(arguments, list | tuple):
        return [found for each in arguments for found in objects_in(each)]
    return [] if isinstance(arguments, np.ndarray) else [arguments]
