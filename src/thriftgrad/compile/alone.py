"""A program as a module that runs on its own, with NumPy, or with Numba where it has kernels.

Its function takes what the person passes, and behind that what else the program reads or writes into:
parameters, an optimiser's state, its learning rate. Short arrays that the function made itself, or found
outside, are written into the module as they are now, and those that count from 0, however long. The module
says what each argument is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from thriftgrad.compile.names import dtype_text
from thriftgrad.compile.program import Input
from thriftgrad.compile.source import Written, signature
from thriftgrad.errors import ConfigError

LONGEST = 1000
"""Entries of an array up to which it is written out."""


def module(written: Written) -> str:
    """Return the text.

    Raises:
        ConfigError: the program calls a function that is no part of NumPy.
    """
    foreign = sorted(written.objects.keys() - written.complaints.keys())
    if foreign:
        homes = {written.objects[each].__module__ for each in foreign}
        raise ConfigError(
            f"{written.name} calls {', '.join(foreign)} (of {', '.join(sorted(homes))}), which NumPy does "
            f"not have, so that its source does not run alone; .source can be read all the same. "
            f"Derivatives that look at entries need such functions: those of sorting, of determinants, "
            f"of an index that was computed"
        )
    inputs = dict(zip(written.arguments, written.inputs, strict=True))
    changing = [each.fetch() for each in written.inputs if each.fetch and each.final]
    made = {name: _array_text(each, changing) for name, each in inputs.items()}
    left = {name: each for name, each in inputs.items() if not made[name]}
    before = signature(written.name, written.arguments)
    after = signature(written.name, list(left))
    fixed = [f"{name} = {text}\n" for name, text in made.items() if text]
    complaints = [_complaint(name) for name in written.complaints]
    head, body = written.text.split(f"\n{before}", 1)
    title, _, rest = head.partition('"""\n')
    width = max(map(len, left), default=0)
    about = "".join(f"    {name:<{width}}  {_about(each)}\n" for name, each in left.items())
    parts = ["".join(fixed), *complaints]
    made_here = "".join(f"{part}\n\n" for part in parts if part)
    return f'{title}{_ABOUT.format(arguments=about)}"""\n{rest}\n{made_here}{after}{body}'


_ABOUT = """

It takes, by position or by name:

{arguments}
What it writes into is changed in place. It returns a tuple: the arrays in what the function returned,
from left to right and dicts by their keys, and then the gradients that it leaves at parameters.
"""


def _array_text(each: Input, changing: Sequence[Any]) -> str:
    """Return the expression of an array that goes into the module; nothing for an argument."""
    if not each.outside or each.fetch is None:
        return ""
    array = np.asarray(each.fetch())
    if array.dtype.kind not in "biuf" or any(np.may_share_memory(array, v) for v in changing):
        return ""
    if array.size and array.dtype.kind in "iu" and np.array_equal(array, np.arange(array.size)):
        return f"np.arange({array.size}, dtype={dtype_text(array.dtype)!r})"
    if (
        not 0 < array.size <= LONGEST
        or not array.flags.c_contiguous
        or not np.isfinite(array).all()
    ):
        return ""
    return f"np.array({array.tolist()}, {dtype_text(array.dtype)!r})"


def _about(each: Input) -> str:
    """Return what an argument is."""
    v = each.variable
    if v.dtype.kind == "O":
        return "a numpy.random.Generator"
    if v.number:
        return f"{np.dtype(v.dtype).type.__name__.rstrip('_0123456789')}, a number"
    text = f"{dtype_text(v.dtype)} {v.shape}"
    if not v.is_flat:
        text += f", strides {v.strides}"
    return f"{text}, written into" if each.final is not None else text


def _complaint(name: str) -> str:
    """Return a function that says what is wrong with an argument; that of the model says more."""
    reason = name.strip("_").replace("_", " ")
    return f'def {name}(*given):\n    return ValueError(f"{reason}: {{given}}")\n'
