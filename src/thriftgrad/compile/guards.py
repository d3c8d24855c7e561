"""The quick look before a run: one function of comparisons, written for one program.

Before each run everything that a recording hangs on is compared with what it was then. Nearly always all
of it is the very same objects, and to see that must cost next to nothing beside the run. So the text of
a function is made that asks `is` for each of them, in one expression:

    def unchanged(given):
        try:
            x0, x1 = given
            return (
                type(x0) is ndarray and x0.shape == (100, 784) and x0.dtype is value_1 and ...
                and object_4["momentum"] is value_5
                and ...

What it refuses is not settled: the slow look compares by value, and has the last word.
"""

from __future__ import annotations

import builtins
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from operator import is_, itemgetter
from types import FunctionType
from typing import Any

import numpy as np

from thriftgrad.autodiff.tensor import is_off
from thriftgrad.compile.program import Input
from thriftgrad.compile.surroundings import Place, Surroundings

FEW = 16
"""Values of one owner that are compared each by an expression of its own."""


def guard(
    given: Sequence[Any] | None,
    gradients: Sequence[tuple[Any, Any, bool]],
    surroundings: Surroundings,
    live: Sequence[tuple[int, Input]],
    bound: list[Any],
) -> Callable[[Sequence[Any]], bool]:
    """Return a function that tells whether all is as it is now, and binds live inputs if it is.

    Args:
        given: the arrays that are passed; or None, where the function need not look at them.
        gradients: holders of leaves, the leaves, and whether these have a gradient.
        surroundings: what the function can look up.
        live: the inputs that are fetched, and which place of `bound` each of them has.
        bound: what the program is called with.
    """
    text = _Text({"ndarray": np.ndarray, "is_": is_, "is_off": is_off, "bound": bound})
    if given is not None:
        _arguments(text, given)
    for holder, leaf, there in gradients:
        text.ask(f"{text(holder)}.node is {text(leaf)}")
        text.ask(f"{text(leaf)}.grad is {'not ' * there}None")
    for place in surroundings.places:
        _surroundings(text, place)
    for _, read, then in surroundings.samples:
        text.ask(f"{text(read)}() == {text(then)}")
    text.ask("live()")
    lines = [line for i, each in live for line in _fetched(text, i, each)]
    return text.function(lines)


def _arguments(text: _Text, given: Sequence[Any]) -> None:
    names = [f"x{i}" for i in range(len(given))]
    text.first = f"{', '.join(names)}, = given" if names else "() = given"
    for name, array in zip(names, given, strict=True):
        text.ask(f"type({name}) is ndarray")
        text.ask(f"{name}.shape == {array.shape}")
        text.ask(f"{name}.dtype is {text(array.dtype)}")
        text.ask(f"{name}.strides == {array.strides}")
    if len(names) == 2:
        text.ask("x0 is not x1")
    elif names:
        text.ask(f"len({{{', '.join(f'id({name})' for name in names)}}}) == {len(names)}")
    text.ask(f"is_off() is {is_off()}")


def _surroundings(text: _Text, place: Place) -> None:
    owner, values = place.owner, place.values
    # First, as to ask a defaultdict for what it lacks would put that there.
    if place.in_order and (len(values) > 1 or hasattr(type(owner), "__missing__")):
        text.ask(f"[*{text(owner)}] == {text(list(place.names))}")
    elif place.size is not None or isinstance(owner, list | deque | set):
        text.ask(f"len({text(owner)}) == {len(values) if place.size is None else place.size}")
    if isinstance(owner, tuple):
        for cell, value in zip(owner, values, strict=True):
            text.ask(f"{text(cell)}.cell_contents is {text(value)}")
    elif isinstance(owner, np.ndarray):
        text.ask(f"{text(owner)}.tobytes() == {text(values[0])}")
    elif isinstance(owner, deque | set) or len(values) > FEW:
        name, then, now = text(owner), text(values), text(owner)
        if isinstance(owner, dict):
            now = f"{text(itemgetter(*place.names))}({name})"
        elif not isinstance(owner, list | deque | set):
            now = f"{text(place.read)}({name})"
        text.ask(f"all(map(is_, {now}, {then}))")
    elif isinstance(owner, dict | list | type):
        name = text(vars(owner) if isinstance(owner, type) else owner)
        for key, value in zip(place.names, values, strict=True):
            at = repr(key) if type(key) in (str, int) else text(key)
            text.ask(f"{name}[{at}] is {text(value)}")
    else:
        for key, value in zip(place.names, values, strict=True):
            text.ask(f"{text(owner)}.{key} is {text(value)}")


def _fetched(text: _Text, i: int, each: Input) -> list[str]:
    """Return the lines that fetch a live input and see whether it can take its place."""
    v, fetch = each.variable, text(each.fetch)
    if isinstance(each.fetch, partial) and len(each.fetch.args) == 1 and not each.fetch.keywords:
        now = f"{text(each.fetch.func)}({text(each.fetch.args[0])})"
    else:
        now = f"{fetch}()"
    if v.number:
        fits = f"type(now) is {text(_NUMBERS.get(v.dtype))}"
    elif v.dtype.hasobject:  # a random generator
        fits = "False"
    else:
        fits = f"type(now) is ndarray and now.dtype is {text(v.dtype)} and "
        fits += f"now.shape == {v.shape} and now.strides == {v.strides}"
    lines = [
        f"now = {now}",
        f"if now is not bound[{i}]:",
        f"    if not ({fits}):",
        "        return False",
        f"    bound[{i}] = now",
    ]
    if each.final is not None:  # which the same array may have been a run ago, and be no more
        lines += ["if not now.flags.writeable:", "    return False"]
    return lines


_NUMBERS = {np.dtype(kind): kind for kind in (bool, int, float, complex)}


class _Text:
    """The text as it grows: what is asked, and what it calls the objects in it."""

    def __init__(self, scope: dict[str, Any]) -> None:
        self.scope = scope
        self.names: dict[int, str] = {}
        self.asked: list[str] = []
        self.first = "pass"

    def __call__(self, value: Any) -> str:
        """Return the expression for an object."""
        if value is None or value is True or value is False:
            return repr(value)
        name = self.names.get(id(value))
        if name is None:
            kind = "function" if isinstance(value, FunctionType) else "object"
            name = self.names[id(value)] = f"{kind}_{len(self.names)}"
            self.scope[name] = value
        return name

    def ask(self, expression: str) -> None:
        """Note what must be true."""
        self.asked.append(expression)

    def function(self, live: list[str]) -> Callable[[Sequence[Any]], bool]:
        """Return the function that asks all of it."""
        inside = "\n            and ".join(self.asked)
        fetching = "\n".join(f"    {line}" for line in [*live, "return True"])
        source = _TEMPLATE.format(first=self.first, inside=inside, fetching=fetching)
        exec(builtins.compile(source, "guard of a compiled function", "exec"), self.scope)
        result: Callable[[Sequence[Any]], bool] = self.scope["unchanged"]
        return result


_TEMPLATE = """
def unchanged(given):
    try:
        {first}
        return (
            {inside}
        )
    except (LookupError, AttributeError, ValueError):
        return False


def live():
{fetching}
"""
