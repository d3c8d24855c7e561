"""In which order a program's calls are made: what writes into live arrays comes last.

Such a write is mostly the end of a few calls, entry by entry, on arrays of one shape: an optimiser's
update. These calls are taken together, so that they can be made piece by piece, and into the memory that
they are to change. All that can fail has been done by then.
"""

from __future__ import annotations

from dataclasses import dataclass

from thriftgrad.compile.program import Call, Program, Variable, converted
from thriftgrad.compile.spell import is_elementwise


@dataclass(eq=False)
class Update:
    """Calls, entry by entry, on arrays of one shape, that end in arrays which are written into."""

    calls: list[Call]
    shape: tuple[int, ...]

    @property
    def operands(self) -> list[Variable]:
        """What the calls take from outside of the update, each once."""
        own = {call.result for call in self.calls}
        given = [v for call in self.calls for v in call.operands if v not in own]
        return list(dict.fromkeys(given))


Step = Call | Update


def ordered(program: Program) -> list[Step]:
    """Return the calls in their order, with the updates at the end.

    What would be overwritten before it is used is copied, and so is what is to be written into an array
    without being the result of a call of its own: the program is changed accordingly.
    """
    _copy_what_is_kept(program)
    group = _grouped(program)
    updates: dict[int, Update] = {}
    steps: list[Step] = []
    for call in program.calls:
        if call in group:
            update = updates.setdefault(id(group[call]), Update([], call.result.shape))
            update.calls.append(call)
        else:
            steps.append(call)
    return [*steps, *updates.values()]


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
    made = {v: call for call in program.calls for v in call.results}
    for each in program.writes:
        final = each.final
        assert final is not None
        if final not in made or made[final].kind != "call" or final.base is not None:
            each.final = copied(final)


def _grouped(program: Program) -> dict[Call, set[Call]]:
    """Return, for each call that belongs to an update, the calls of that update."""
    users: dict[Variable, list[Call]] = {}
    for call in program.calls:
        for v in call.operands:
            users.setdefault(v, []).append(call)
    finals = {each.final for each in program.writes}
    group: dict[Call, set[Call]] = {}
    for call in reversed(program.calls):
        using = users.get(call.results[0], []) if call.results else []
        ends_there = bool(using) or not finals.isdisjoint(call.results)
        if ends_there and all(user in group for user in using) and _can_wait(call, program):
            _join({call}.union(*(group[user] for user in using)), group)
    for each in program.writes:  # who reads an old value must not come after its change
        readers = users.get(each.variable, [])
        makers = [call for call in program.calls if each.final in call.results]
        touching = [call for call in (*readers, *makers) if call in group]
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


def _can_wait(call: Call, program: Program) -> bool:
    """Tell whether a call is of the kind that updates are made of."""
    if not is_elementwise(call) or call.errors is not None or call.kwargs:
        return False
    if call.result in program.outputs or any(call.result is v for _, v in program.gradients):
        return False
    live = {each.variable for each in program.writes}
    inputs = {each.variable for each in program.inputs}
    # An array that is only read may share memory with one that is written into by then.
    return not any(
        (v.shape != call.result.shape and (v.shape or v in inputs))
        or (v in inputs and v not in live)
        or (v.base is not None and v.root in inputs)
        for v in call.operands
    )
