"""Factors: numbers that arrays are multiplied by, moved to where they take the shortest passes.

This is one of the rewrites that `rewrite` makes. Whether a factor may move is seen from the whole program:
all that comes of an array has to be multiplied by it.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np

from thriftgrad.compile.program import Call, Program, Variable, users_of

Number = Any  # a Python number, a variable that is one, or an array whose entries are one constant


def move_factors(program: Program) -> None:
    """Multiply by numbers as early, and so as seldom, as possible.

    In `lr * (X.T @ D)` the factor passes over an array as large as the weights; in `X.T @ (lr * D)` over
    one as large as the batch; and where D is a multiple already, over none. This is done only where all
    that comes of D is multiplied by the same factor, and where it makes the passes shorter in sum.
    SGD on weights of 784 x 30: 2 of 120 µs; of 784 x 100: 8 of 300.
    """
    _Factors(program).move()


# Moving factors


@dataclass(frozen=True)
class _Factor:
    """A product of numbers: of those that are known now, and of those that are known in a run."""

    known: float = 1.0
    live: tuple[Variable, ...] = ()


_ONE = _Factor()


class _Factors:
    """What each array of a program is multiplied by in all that comes of it.

    `wanted[v]` is the factor that every use of v ends in: found backwards, through calls that are
    linear in v. An array with such a factor is made with the factor in it, and its uses go without.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.users = users_of(program)
        self.ends = set(program.ends)
        self.position = {v: i for i, call in enumerate(program.calls) for v in call.results}
        self.order = {each.variable: i for i, each in enumerate(program.inputs)}
        self.order.update((v, i + len(self.order)) for v, i in self.position.items())
        self.carrier = self._find_carriers()
        self.wanted: dict[Variable, _Factor] = {}
        for call in reversed(program.calls):
            for v in call.results:
                self.wanted[v] = self._wanted_of(v) if len(call.results) == 1 else _ONE

    def move(self) -> None:
        """Change the program, if that shortens the passes."""
        before = sum(prod(c.result.shape) for c in self.program.calls if _scaling(c) is not None)
        calls, after = self._moved()
        if after >= before:
            return
        for v, factor in self.wanted.items():
            if factor != _ONE and v.hint:
                v.hint = f"scaled_{v.hint}"  # for a reader would take grad_weight at its word
        for call in calls:  # a view that is scaled is a view no more, and may itself be viewed
            if _scaling(call) is not None:
                call.result.base = None
            elif call.kind == "view" and call.result.base is not None:
                call.result.base = call.operands[0]
        self.program.calls = calls
        self.program.calls = _numbers_first(self.program)

    def _find_carriers(self) -> dict[Call, Variable]:
        """Return, for each call that is linear in an array that comes of a scaled one, that array.

        Of two, it is the one that was made later: the cotangent, and not what it is multiplied by.
        """
        scaled: set[Variable] = set()
        carrier: dict[Call, Variable] = {}
        for call in self.program.calls:
            if _scaling(call) is not None:
                scaled.add(call.result)
                continue
            found = [v for v in _linear_in(call) if v in scaled]
            if found:
                carrier[call] = max(found, key=lambda v: self.position.get(v.root, -1))
                scaled.update(call.results)
        return carrier

    def _wanted_of(self, v: Variable) -> _Factor:
        users = self.users.get(v, [])
        if not users or v in self.ends or v.constant is not None or not is_exact(v):
            return _ONE
        # A use that multiplies by a number can make up for any factor, another use for none.
        firm = {self._wanted_by(call, v) for call in users if _scaling(call) is None}
        free = [self._wanted_by(call, v) for call in users if _scaling(call) is not None]
        first, *others = firm or free
        if (firm and others) or not 1e-20 < abs(first.known) < 1e20:  # far inside of float32
            return _ONE
        if all(each == first for each in free):
            return first
        return first if not first.live and 1e-6 < abs(first.known) < 1e6 else _ONE

    def _wanted_by(self, call: Call, v: Variable) -> _Factor:
        if not call.results:
            return _ONE
        wanted = self.wanted[call.results[0]]
        found = _scaling(call)
        if found is not None:
            return _ONE if call.result in self.ends else self._times(wanted, found[0])
        if squared(call) is v and not wanted.live and wanted.known > 0:
            return _Factor(wanted.known**0.5)
        return wanted if self.carrier.get(call) is v else _ONE

    def _times(self, factor: _Factor, number: Number) -> _Factor:
        if isinstance(number, Variable) and number.constant is None:
            live = sorted((*factor.live, number), key=self.order.__getitem__)
            return _Factor(factor.known, tuple(live))
        value = number.constant if isinstance(number, Variable) else number
        return _Factor(factor.known * float(value), factor.live)

    def _moved(self) -> tuple[list[Call], int]:
        """Return the new calls, and the length of the passes; one by 1 is for others to leave out."""
        calls: list[Call] = []
        length = 0
        for call in self.program.calls:
            found = _scaling(call)
            wanted = self.wanted[call.results[0]] if call.results else _ONE
            if found is not None:
                number, x = found
                total, has = self._times(wanted, number), self.wanted.get(x, _ONE)
                if (wanted, has) != (_ONE, _ONE):
                    left = _ONE if total == has else total
                    if has != _ONE != left:
                        left = _Factor(total.known / has.known, total.live)
                    call = Call(np.multiply, (self._number(left, calls), x), {}, call.results)
                calls.append(call)
                length += 0 if total == has else prod(call.result.shape)
                continue
            source = self.carrier.get(call, squared(call) if call.results else None)
            has = self.wanted.get(source, _ONE) if source is not None else _ONE
            passes = source is not None and has != _ONE and has == self._wanted_by(call, source)
            if wanted == _ONE or passes:
                calls.append(call)
                continue
            result = call.result
            plain = Variable(result.shape, result.dtype, result.strides, base=result.base)
            calls.append(replace(call, results=(plain,)))
            number = self._number(wanted, calls)
            calls.append(Call(np.multiply, (number, plain), {}, (result,)))
            length += prod(result.shape)
        return calls, length

    def _number(self, factor: _Factor, calls: list[Call]) -> Number:
        number: Number = factor.known
        for each in factor.live:
            if isinstance(number, float) and number == 1:
                number = each
                continue
            result = Variable((), np.dtype(float), number=True)
            calls.append(Call(operator.mul, (each, number), {}, (result,), "number"))
            number = result
        return number


def _scaling(call: Call) -> tuple[Number, Variable] | None:
    """Return the number and the array of a call that multiplies the one by the other."""
    if call.function is not np.multiply or not is_plain(call) or len(call.args) != 2 or call.errors:
        return None
    for number, x in (call.args, call.args[::-1]):
        if not isinstance(x, Variable) or x.constant is not None or not is_exact(x):
            continue
        if not x.shape or (x.shape, x.dtype) != (call.result.shape, call.result.dtype):
            continue
        if _is_weak(number) or _is_number(number):
            return number, x
        if isinstance(number, Variable) and number.constant is not None and number.dtype == x.dtype:
            return (number, x) if np.isfinite(number.constant) else None
    return None


def _linear_in(call: Call) -> Sequence[Variable]:
    """Return the operands that a call is linear in, if the others stay as they are."""
    if len(call.results) != 1 or call.result.number or not is_exact(call.result) or call.errors:
        return ()
    f = call.function
    found = [v for v in call.args if isinstance(v, Variable) and not v.number]
    if f in (np.matmul, np.dot, np.multiply):
        linear = is_plain(call) and len(set(found)) == 2
    elif f in (np.sum, np.add.reduce):
        linear = call.kwargs.keys() <= {"axis", "keepdims"} and len(call.args) <= 2
    elif f is np.negative:
        linear = is_plain(call)
    else:
        linear = call.kind == "view" and f in (np.transpose, np.reshape, np.expand_dims)
    wanted = call.result.dtype
    return [v for v in found if v.dtype == wanted and v.constant is None] if linear else ()


def _put_before(program: Program, call: Call, calls: Sequence[Call]) -> None:
    at = program.calls.index(call)
    program.calls[at:at] = calls


def _numbers_first(program: Program) -> list[Call]:
    """Return the calls with those on numbers alone at the front, so that any call can use them."""
    early = {each.variable for each in program.inputs if each.variable.number}
    first, rest = [], []
    for call in program.calls:
        if call.kind == "number" and early.issuperset(call.operands):
            early.update(call.results)
            first.append(call)
        else:
            rest.append(call)
    return [*first, *rest]


# What a call is


def is_exact(v: Variable) -> bool:
    """Tell whether an array is of a kind that is rewritten."""
    return v.dtype in (np.float32, np.float64) and v.dtype.isnative and not v.number


def is_plain(call: Call) -> bool:
    """Tell whether a call is neither a view nor made with keywords."""
    return call.kind == "call" and not call.kwargs


def _is_number(value: Any) -> bool:
    """Tell whether it is a real Python number that is known in a run only."""
    return isinstance(value, Variable) and value.number and value.dtype.kind in "if"


def _is_weak(value: Any) -> bool:
    """Tell whether it is a finite real Python number that is known now."""
    if isinstance(value, bool | np.generic) or not isinstance(value, int | float):
        return False
    return bool(np.isfinite(float(value)))


def squared(call: Call) -> Variable | None:
    """Return the array whose square a call makes."""
    if not is_plain(call) or call.errors or len(call.results) != 1 or call.result.scalar:
        return None
    x = call.args[0]
    if not isinstance(x, Variable) or x.constant is not None or x.dtype != call.result.dtype:
        return None
    if call.function is np.square or (call.function is np.multiply and call.args[1] is x):
        return x
    return None
