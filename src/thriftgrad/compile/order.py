"""In which order a program's calls are made, and which of them are made together.

Calls that work entry by entry on arrays of one shape form a `Group`: it can be made tile by tile, in the
cache, and what lies between its first and its last call needs no more memory than a tile. Groups are of
two kinds. A *chain* is such calls, one behind the other, on arrays that are large enough for tiles to
pay. An *update* ends in live arrays, which outlive the run: parameters and an optimiser's state. With it
goes the product that makes a large gradient for it alone, in bands of rows, so that the gradient is never
there as a whole.

An update is made as soon as it can be: once its gradient is there, which is then still in the cache and
needed no longer, and once the old entries have been read for the last time. But a run that fails must
leave all live arrays as they were or as they are to be. So nothing is written before the last call that
can fail, floating-point errors apart, which can be held back; and calls on Python numbers, which can fail
too, come first of all.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from thriftgrad.compile import spell
from thriftgrad.compile.program import (
    Call,
    Program,
    Variable,
    after,
    converted,
    drawn,
    makers_of,
    users_of,
    with_entries,
)
from thriftgrad.compile.spell import is_elementwise

WORTH = 6 << 20
"""Bytes written and read again inside of a chain from which on tiles pay.

Measured with 2 MiB of second-level cache, in float32: a sigmoid's eight calls on 256 x 1,024 entries
take 0.42 ms one by one and 0.38 in tiles, on 4,096 x 2,048 entries 33 ms and 16. Two calls pay from
1,024 x 2,048 entries on.
"""

TILE = 1 << 15
"""Entries of a tile: a handful of tiles stay in the second-level cache."""

BANDED = 1 << 22
"""Bytes of a gradient from which on it is made in bands.

With one thread and two, for gradients of 1,024 x 1,024 to 4,096 x 4,096 entries in float32 and batches of 16
to 1,024, a product and its update took 0.64 to 1.05 of the time that they take in one piece, mostly less
where the batch is small; smaller products lose a tenth or more on two threads.
"""

ROWS = 256
"""Rows of a band, at least: with 128 products were measured to lose a tenth, with 512 to gain nothing."""


@dataclass(eq=False)
class Group:
    """Calls, entry by entry, on arrays of one shape.

    Attributes:
        calls: in their order; each has one result.
        shape: of the results.
        targets: the results that live arrays are overwritten by, and these arrays.
        kept: the results that are needed outside of the group.
        product: what makes an operand that the calls alone need, in bands; None for nothing.
    """

    calls: list[Call]
    shape: tuple[int, ...]
    targets: dict[Variable, Variable] = field(default_factory=dict)
    kept: set[Variable] = field(default_factory=set)
    product: Call | None = None

    @property
    def operands(self) -> list[Variable]:
        """What the calls take from outside of the group, each once."""
        own = {call.result for call in calls_of(self)}
        given = [v for call in calls_of(self) for v in call.operands if v not in own]
        return list(dict.fromkeys(given))

    @property
    def rows(self) -> int:
        """How many rows of the product make a band."""
        assert self.product is not None
        return rows_of_band(self.product)


Step = Call | Group


def calls_of(step: Step) -> list[Call]:
    """Return the calls that a step consists of."""
    if isinstance(step, Call):
        return [step]
    return step.calls if step.product is None else [step.product, *step.calls]


def ordered(
    program: Program, worth: float | None = None, takes: Callable[[Call], bool] = lambda call: True
) -> list[Step]:
    """Return the calls in the order in which they are to be made, in groups where that pays.

    What would be overwritten before it is used is copied, and so is what is to be written into an array
    without being the result of a call of its own: the program is changed accordingly.

    Args:
        program: all of it spelled.
        worth: from how many bytes on, written and read again inside of a chain, it becomes a group;
            None for `WORTH`.
        takes: which calls may be part of a chain.
    """
    _copy_what_is_kept(program)
    updates, body = _parted(program)
    makers = makers_of(program)
    for update in updates:
        made = (makers[v] for v in update.operands if v in makers)
        update.product = next((call for call in made if call.in_bands), None)
        if update.product is not None:
            body.remove(update.product)
    worth = WORTH if worth is None else worth
    steps = _in_chains(sorted(body, key=lambda call: not _is_about_numbers(call)), worth, takes)
    steps = _with_updates(steps, updates)
    _find_kept(steps, program)
    return steps


def choose_bands(program: Program) -> None:
    """Note of each product whether it is made in bands, together with an update that it alone is for.

    That is for the program as it is without a budget, and holds for what a budget makes of it too: the
    entries of a product in bands may differ from those of a whole one in the last bit.
    """
    _copy_what_is_kept(program)
    makers, users = makers_of(program), users_of(program)
    written = {each.variable for each in program.writes}  # perhaps before the product is made
    ends = set(program.ends)
    for update in _parted(program)[0]:
        arrays = [v for call in update.calls for v in (*call.operands, call.result) if v.shape]
        arrays += update.targets.values()
        if not all(v.shape == update.shape and v.is_flat for v in arrays):
            continue
        for v in update.operands:
            call = makers.get(v)
            if (
                call is not None
                and call.function in (np.matmul, np.dot)
                and v.nbytes >= BANDED
                and v not in ends
                and call.errors is None
                and all(user in update.calls for user in users[v])
                and not any(each.root in written for each in call.operands)
                and rows_of_band(call)
            ):
                call.in_bands = True
                break


def read_late(program: Program, steps: Iterable[Step]) -> set[Variable]:
    """Return the inputs, only read ones, that are read when another one may have been written into.

    If such an array shared memory with one that is written into, the program would read what is new.
    """
    live = {each.variable for each in program.writes}
    late: set[Variable] = set()
    has_written = False
    for step in steps:
        has_written |= isinstance(step, Group) and bool(step.targets)
        if has_written:
            late.update(v.root for call in calls_of(step) for v in call.operands)
    return late.intersection(each.variable for each in program.inputs) - live


def _copy_what_is_kept(program: Program) -> None:
    written = {each.variable for each in program.writes}

    def copied(v: Variable) -> Variable:
        copy = Variable(v.shape, v.dtype, v.packed, scalar=v.scalar, hint=v.hint)
        program.calls.append(Call(converted, (v, v.shape, v.dtype), {}, (copy,)))
        return copy

    def safe(v: Variable) -> Variable:
        return copied(v) if v.root in written else v

    program.outputs = [safe(v) for v in program.outputs]
    program.gradients = [(at, None if v is None else safe(v)) for at, v in program.gradients]
    made = makers_of(program)
    known: set[Variable] = set()  # as two arrays may be given the same entries
    for each in program.writes:
        final = each.final
        assert final is not None
        is_made = final in made and made[final].kind == "call" and final.base is None
        if not is_made or final in known:
            each.final = copied(final)
        known.add(final)


# Updates


def _parted(program: Program) -> tuple[list[Group], list[Call]]:
    """Return the updates, and the calls that belong to none."""
    in_update = _calls_of_updates(program)
    updates: dict[int, Group] = {}
    body: list[Call] = []
    for call in program.calls:
        if call in in_update:
            update = updates.setdefault(id(in_update[call]), Group([], call.result.shape))
            update.calls.append(call)
        else:
            body.append(call)
    overwritten = {each.final: each.variable for each in program.writes}
    for update in updates.values():
        made = [call.result for call in update.calls]
        update.targets = {new: overwritten[new] for new in made if new in overwritten}
    return list(updates.values()), body


def _calls_of_updates(program: Program) -> dict[Call, set[Call]]:
    """Return, for each call that belongs to an update, the calls of that update."""
    users, maker = users_of(program), makers_of(program)
    finals = {each.final for each in program.writes}
    inputs = {each.variable for each in program.inputs}
    ends = {*program.outputs, *(v for _, v in program.gradients)}
    group: dict[Call, set[Call]] = {}
    for call in reversed(program.calls):
        using = users.get(call.results[0], []) if call.results else []
        ends_there = bool(using) or not finals.isdisjoint(call.results)
        if ends_there and all(user in group for user in using) and _can_wait(call, ends, inputs):
            _join({call}.union(*(group[user] for user in using)), group)
    for each in program.writes:  # who reads an old value must not come after its change
        assert each.final is not None
        touching = [*users.get(each.variable, []), maker[each.final]]
        touching = [call for call in touching if call in group]
        joined: set[Call] = set().union(*(group[call] for call in touching))
        if len({call.result.shape for call in joined}) > 1:
            for call in joined:
                del group[call]
        else:
            _join(joined, group)
    while True:  # take out those whose users were taken out
        stranded = [c for c in group if any(user not in group for user in users.get(c.result, ()))]
        if not stranded:
            return group
        for call in stranded:
            group.pop(call).discard(call)


def _join(calls: set[Call], group: dict[Call, set[Call]]) -> None:
    for call in calls:
        group[call] = calls


def _can_wait(call: Call, ends: set[Variable | None], inputs: set[Variable]) -> bool:
    """Tell whether a call is of the kind that updates are made of."""
    if not _can_be_cut(call) or call.errors is not None or can_fail(call):
        return False
    if call.result in ends:
        return False
    return not any(
        (v.shape != call.result.shape and v.shape) or (v.base is not None and v.root in inputs)
        for v in call.operands
    )


def _with_updates(steps: Sequence[Step], updates: Sequence[Group]) -> list[Step]:
    """Return the steps with each update as early as it may come."""
    made: dict[Variable, int] = {}
    read: dict[Variable, int] = {}
    safe = 0
    for i, step in enumerate(steps, 1):
        for call in calls_of(step):
            made.update(dict.fromkeys(call.results, i))
            read.update((v.root, i) for v in call.operands)
            if can_fail(call):
                safe = i
    due: dict[int, list[Group]] = {}
    for update in updates:
        waits = [made.get(v, 0) for v in update.operands]
        waits += [read.get(old, 0) for old in update.targets.values()]
        due.setdefault(max([safe, *waits]), []).append(update)
    result: list[Step] = [*due.get(0, [])]
    for i, step in enumerate(steps, 1):
        result += [step, *due.get(i, [])]
    return result


def rows_of_band(call: Call) -> int:
    """Return how many rows of a matrix product to make at once: `ROWS`, or as many as its inner axis has.

    For each band the second factor is read anew, which takes as long as the band's own entries where the
    two are of one size. Bands are alike, so they may have down to half as many rows; 0 where no such
    number divides the rows, or where the factors are no matrices.
    """
    if call.kwargs or len(call.args) != 2:
        return 0
    x, y = call.args
    if not (
        isinstance(x, Variable) and isinstance(y, Variable) and len(x.shape) == len(y.shape) == 2
    ):
        return 0
    rows, inner = x.shape
    most = max(ROWS, inner)
    return next((n for n in range(min(most, rows // 2), most // 2 - 1, -1) if rows % n == 0), 0)


def _is_about_numbers(call: Call) -> bool:
    """Tell whether a call is on Python numbers alone, so that it may come first."""
    source = call.args[0] if call.function is converted else None
    is_factor = isinstance(source, Variable) and source.number and call.result.shape == ()
    return call.kind == "number" or is_factor


def can_fail(call: Call) -> bool:
    """Tell whether a call may raise an exception other than for a floating-point error of NumPy's."""
    if call.kind == "view":
        return False
    if _is_about_numbers(call) or not spell.takes_out(call):
        return True
    if call.errors and set(call.errors.values()) != {"ignore"}:
        return True  # an error that the function wants at once
    f = call.function
    if f is with_entries:
        return any(True for _ in _variables_in(call.args[1]))  # which may lie outside
    if f in (after, drawn) or getattr(f, "__name__", "") == "reduceat":
        return True
    text = spell.function_text(f)
    if f is np.power:  # of whole numbers, to a negative one
        return call.result.dtype.kind not in "fc"
    return f is not converted and f is not with_entries and not (text or "").startswith("np.")


def _variables_in(index: Any) -> Iterable[Variable]:
    return Call(operator.getitem, (index,), {}, ()).operands


# Chains


def _in_chains(calls: Sequence[Call], worth: float, takes: Callable[[Call], bool]) -> list[Step]:
    """Return the calls, with those as groups that follow each other and pay in tiles.

    A loss is a small sum, and the gradient goes on without it: so what is small may come after a chain.
    """
    steps: list[Step] = []
    chain: list[Call] = []
    beside: list[Call] = []  # to come after the chain
    passed: list[Call] = []  # all of them, as they were
    made: set[Variable] = set()  # by the chain
    waiting: set[Variable] = set()  # made beside it

    def finish() -> None:
        again = sum(call.result.nbytes for call in chain[:-1])
        if len(chain) > 1 and again >= worth:
            steps.extend([Group([*chain], chain[0].result.shape), *beside])
        else:
            steps.extend(passed)
        for each in (chain, beside, passed, made, waiting):
            each.clear()

    for call in calls:
        fits = _can_be_cut(call) and _is_plain(call) and takes(call)
        roots = {v.root for v in call.operands}
        if call.kind == "view" and roots.isdisjoint(made) and roots.isdisjoint(waiting):
            steps.append(call)  # it may as well come before the chain
            continue
        if chain and fits and _follows(call, chain, made, waiting):
            chain.append(call)
            made.update(call.results)
        elif chain and _is_small(call, chain):
            beside.append(call)
            waiting.update(call.results)
        else:
            finish()
            if not fits:
                steps.append(call)
                continue
            chain.append(call)
            made.update(call.results)
        passed.append(call)
    finish()
    return steps


def _follows(
    call: Call, chain: Sequence[Call], made: set[Variable], waiting: set[Variable]
) -> bool:
    """Tell whether a call may be made together with those before it."""
    return (
        call.result.shape == chain[0].result.shape
        and call.errors == chain[0].errors
        and not any(
            v in waiting or v.root in waiting or (v.root is not v and v.root in made)
            for v in call.operands
        )
    )


def _is_small(call: Call, chain: Sequence[Call]) -> bool:
    """Tell whether to hold a call back until the chain is made takes next to no memory."""
    if call.kind not in ("call", "view") or can_fail(call):
        return False
    size = 0 if call.kind == "view" else sum(v.nbytes for v in call.results)
    return size <= chain[0].result.nbytes // 16


def _can_be_cut(call: Call) -> bool:
    """Tell whether a call gives the same entries, to the last bit, if it is made tile by tile."""
    is_known = not any(v.constant is not None and v.shape for v in call.operands)
    return is_elementwise(call) and not call.kwargs and call.function not in _BY_LENGTH and is_known


_BY_LENGTH: set[Callable[..., Any]] = {np.power, np.float_power, np.arctan2}
"""NumPy takes a single entry another way here than many: it has no stride, as a number has none."""


def _is_plain(call: Call) -> bool:
    """Tell whether tiles can be cut: from entries in the order of C, and from whole rows else."""
    shape = call.result.shape
    result = Variable(shape, call.result.dtype, call.result.packed)
    return (
        bool(shape)
        and result.nbytes > 0
        and result.is_flat
        and call.result.constant is None
        and all(
            v.is_flat if v.shape == shape else not v.shape or prod(shape[1:]) <= TILE
            for v in call.operands
        )
    )


def _find_kept(steps: Sequence[Step], program: Program) -> None:
    """Note of each chain which results are needed outside, by updates too."""
    ends = {v.root for v in program.ends}
    users: dict[Variable, set[int]] = {}
    for i, step in enumerate(steps):
        for call in calls_of(step):
            for v in call.operands:
                users.setdefault(v.root, set()).add(i)
    for i, step in enumerate(steps):
        if isinstance(step, Group) and not step.targets:
            made = [call.result for call in step.calls]
            step.kept = {v for v in made if v in ends or users.get(v, set()) - {i}}
