"""What every rule needs around its one line of calculus, done once.

Three things: bind a call to its function's own signature, so that a rule can ask for an argument by
name; undo broadcasting; and give each cotangent the shape and dtype of the argument it belongs to.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np

from thriftgrad.errors import NoRuleError

Array = Any
"""Whatever speaks NumPy's two dispatch protocols: an ndarray, a NumPy scalar, a Tensor, ..."""


_SMALL = 4096


def fit(cotangent: Array, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Return `cotangent` with the shape and dtype of the argument that it belongs to."""
    if cotangent.shape != shape:
        cotangent = unbroadcast(cotangent, shape)
    if cotangent.dtype != dtype:
        if cotangent.dtype.kind == "c" and dtype.kind != "c":
            cotangent = np.real(cotangent)
        cotangent = cotangent.astype(dtype)
    return cotangent


def unbroadcast(cotangent: Array, shape: tuple[int, ...]) -> Array:
    """Return `cotangent` in the shape of its argument.

    Broadcasting repeats an argument's entries, and the adjoint of repeating is summing.
    """
    extra = cotangent.ndim - len(shape)
    if extra > 0:
        cotangent = cotangent.sum(axis=tuple(range(extra)))
    if extra >= 0:
        ones = tuple(i for i, n in enumerate(shape) if n == 1 and cotangent.shape[i] != 1)
        if ones:
            cotangent = cotangent.sum(axis=ones, keepdims=True)
    if cotangent.shape == shape:
        return cotangent
    # A rule may give one number for many entries, as that of a sum does. Any other shape is a rule in
    # error, and both ways of broadcasting say so. Up to some size a copy is quicker than a view.
    if isinstance(cotangent, (np.ndarray, np.generic)) and prod(shape) <= _SMALL:
        repeated = np.empty(shape, cotangent.dtype)
        repeated[...] = cotangent
        return repeated
    return np.broadcast_to(cotangent, shape)


class Signature:
    """The parameters of a NumPy function, for binding its calls quickly.

    `inspect.Signature.bind` does the same in ten times the time. A call that does not fit is left to
    the function itself, whose own TypeError says it best: `bind` then returns None.
    """

    __slots__ = ("defaults", "index", "names", "required", "variadic")

    def __init__(self, function: Callable[..., Any], text: str | None = None) -> None:
        # Many of NumPy's functions in C tell Python no signature; the tables give it in Python's words.
        parameters = [
            p
            for p in _signature(function, text).parameters.values()
            if p.kind != inspect.Parameter.VAR_KEYWORD
        ]
        self.names = tuple(p.name for p in parameters)
        self.variadic = next(
            (i for i, p in enumerate(parameters) if p.kind == inspect.Parameter.VAR_POSITIONAL),
            None,
        )
        self.required = [p.default is p.empty for p in parameters]
        # NumPy marks "not given" by a sentinel that is true in a condition; None is not.
        self.defaults: list[Any] = [
            None if p.default is p.empty or p.default is np._NoValue else p.default
            for p in parameters
        ]
        self.index = {name: i for i, name in enumerate(self.names)}

    def bind(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any] | None:
        """Return the arguments in the order of the parameters, defaults filled in.

        What a variadic parameter takes is one tuple in `args`.
        """
        if len(args) > len(self.names):
            return None
        values = [*args, *self.defaults[len(args) :]]
        if not kwargs:
            return values
        for name, value in kwargs.items():
            position = self.index.get(name)
            if position is None:
                return None
            values[position] = None if value is np._NoValue else value
        return values


def _signature(function: Callable[..., Any], text: str | None) -> inspect.Signature:
    if text is None:
        return inspect.signature(function)
    arguments = ast.parse(f"lambda {text}: 0", mode="eval").body.args  # type: ignore[attr-defined]
    kind = inspect.Parameter
    positional = [kind(a.arg, kind.POSITIONAL_OR_KEYWORD) for a in arguments.args]
    for i, default in enumerate(reversed(arguments.defaults), 1):
        positional[-i] = positional[-i].replace(default=ast.literal_eval(default))
    variadic = [kind(arguments.vararg.arg, kind.VAR_POSITIONAL)] if arguments.vararg else []
    keywords = [
        kind(a.arg, kind.KEYWORD_ONLY, default=ast.literal_eval(d) if d else kind.empty)
        for a, d in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    ]
    return inspect.Signature([*positional, *variadic, *keywords])


def selector(
    wanted: Sequence[str], names: Sequence[str], function: Callable[..., Any]
) -> Callable[[Sequence[Any]], tuple[Any, ...]]:
    """Return the function that picks a rule's residuals out of a call `(ans, *arguments)`.

    A rule names what it needs: `ans`, an argument by its own name, `<argument>_shape` where the shape
    is enough, or `position`, the place of an array in a sequence. Whatever it does not name is not
    kept alive by the tape.
    """
    picked = []
    for name in wanted:
        stem = name.removesuffix("_shape")
        if name in names:
            picked.append(f"call[{names.index(name) + 1}]")
        elif name == "ans":
            picked.append("call[0]")
        elif name == "position":
            picked.append(f"call[{len(names) + 1}]")
        elif stem in names:
            picked.append(f"shape(call[{names.index(stem) + 1}])")
        else:
            raise NoRuleError(
                f"the rule for {describe(function)} asks for {name!r}; it can have 'ans', 'position' "
                f"or, with or without '_shape' behind the name, one of {', '.join(names)}"
            )
    # This runs once a recorded call; as an expression it takes a third of what a loop does.
    text = f"lambda call: ({''.join(part + ', ' for part in picked)})"
    return eval(text, {"shape": _shape})  # type: ignore[no-any-return]


def _shape(value: Any) -> Any:
    try:
        return value.shape
    except AttributeError:  # a Python number, or a sequence of arrays
        if isinstance(value, (list, tuple)):
            return tuple([_shape(each) for each in value])
        return ()


def describe(function: Callable[..., Any]) -> str:
    """Return the name a person knows `function` by: `np.linalg.svd`, `scipy.special.expit`."""
    name = getattr(function, "__name__", None) or repr(function)
    owner = getattr(function, "__self__", None)
    if isinstance(owner, np.ufunc):
        return f"{describe(owner)}.{name}"
    module = getattr(function, "__module__", None) or ""
    if isinstance(function, np.ufunc) and not module:
        special = sys.modules.get("scipy.special")
        homes = {"numpy": np, "scipy.special": special}
        module = next((m for m, home in homes.items() if getattr(home, name, None) is function), "")
    module = module.replace("numpy", "np", 1) if module.startswith("numpy") else module
    return f"{module}.{name}" if module and module != "builtins" else name
