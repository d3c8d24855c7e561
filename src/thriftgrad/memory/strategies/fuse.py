"""A chain of fewer, larger stages: neighbours are planned as one.

Two reasons to do so. A cut between two stages may be good for nothing, as between a matrix product and
the tanh of it: the tape keeps the tanh's output and not its input. And a chain of thousands of stages
is planned in groups, whose plan is then written out stage by stage.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from thriftgrad.memory.schedule import Action, Kind, Schedule, Strategy, tidy
from thriftgrad.memory.simulate import simulate
from thriftgrad.memory.stages import Chain, Stage


@dataclass(frozen=True, slots=True)
class Fused:
    """A chain whose stage g stands for the stages `cuts[g]` to `cuts[g + 1]` − 1 of another."""

    chain: Chain
    cuts: Sequence[int]

    def expand(self, actions: Iterable[Action]) -> list[Action]:
        """Return the runs of the other chain that those of this one stand for; `tidy` adds the drops."""
        expanded = []
        for kind, g in ((action.kind, action.index) for action in actions):
            if kind in (Kind.LOSS, Kind.SPILL, Kind.LOAD):
                expanded.append(Action(kind, self.cuts[g]))
            elif kind not in (Kind.DROP, Kind.DROP_TAPE, Kind.DROP_DISK):
                group = range(self.cuts[g], self.cuts[g + 1])
                order = group[::-1] if kind is Kind.BACKWARD else group
                expanded += [Action(kind, k) for k in order]
        return expanded


def fuse(chain: Chain, cuts: Sequence[int]) -> Fused:
    """Return the chain with one stage from each cut to the next.

    The costs of a group are those of running its stages one after the other, and letting go of every
    state as soon as its backward does not need it.

    Args:
        chain: any chain.
        cuts: indices of states, increasing, the first 0 and the last L.

    Example:
        >>> linear = Stage(output=8, cotangent=8, holds_input=True, holds_output=False)
        >>> tanh = Stage(output=8, cotangent=8)
        >>> group = fuse(Chain(stages=(linear, tanh)), [0, 2]).chain.stages[0]
        >>> group.output, group.tape, group.forward_extra, group.holds_input, group.holds_output
        (8, 0, 8, True, True)
    """
    known: dict[tuple[int, int, tuple[Stage, ...]], Stage] = {}
    groups = []
    for first, end in pairwise(cuts):
        stages = tuple(replace(stage, name="") for stage in chain.stages[first:end])
        if end - first == 1:
            group = chain.stages[first]
        else:
            key = chain.size(first), chain.cotangent(first), stages
            if key not in known:
                known[key] = _group(chain, *key)
            names = chain.stages[first].name, chain.stages[end - 1].name
            group = replace(known[key], name=" … ".join(names) if all(names) else "")
        if first and chain.stages[first - 1].view and len(cuts) <= len(chain):
            # That a tape within the group before it holds what its input is a view of, is not seen.
            group = replace(group, backward_saving=0)
        groups.append(group)
    return Fused(replace(chain, stages=tuple(groups)), tuple(cuts))


def cut_where_useful(strategy: Strategy, chain: Chain) -> Schedule:
    """Return what a strategy that takes all stages for equal makes of a chain cut at useful states.

    Example:
        >>> from thriftgrad.memory.strategies.nothing import nothing
        >>> linear = Stage(output=8, cotangent=8, holds_input=True, holds_output=False)
        >>> chain = Chain(stages=(linear, Stage(output=8, cotangent=8)) * 2)
        >>> print(nothing()(chain))
        keep 0, advance 1, tape 2, drop 2, tape 3, drop 3, loss 4, drop 4, backward 3–2,
        tape 0, drop 0, tape 1, drop 1–2, backward 1–0
    """
    fused = fuse(chain, useful_cuts(chain))
    schedule = strategy(fused.chain)
    return tidy(fused.expand(schedule), chain, schedule.strategy)


def useful_cuts(chain: Chain) -> list[int]:
    """Return the states between stages that are worth considering, with the first and the last.

    A state that the next stage only views is hardly: the view has its bytes, and is one run further
    on. Nor is one that neither of the tapes beside it keeps, where one of its neighbours is no larger.
    Least bytes can need such a cut all the same, so that the two tapes need not exist together.
    """
    stages, length = chain.stages, len(chain)
    cuts = [0]
    for i in range(1, length):
        before, after = stages[i - 1], stages[i]
        size = chain.size(i)
        kept = before.holds_output or after.holds_input or after.needs_input
        beside = [chain.size(i + 1)] + ([chain.size(i - 1)] if cuts[-1] == i - 1 > 0 else [])
        in_input = all(stage.view for stage in stages[:i])
        if not (after.view or in_input or (not kept and min(beside) <= size)):
            cuts.append(i)
    return [*cuts, length]


def even_cuts(chain: Chain, groups: int) -> list[int]:
    """Return cuts into at most so many groups whose tapes are about equally large."""
    sizes = [stage.output + stage.tape for stage in chain.stages]
    share, filled, cuts = max(1, -(-sum(sizes) // groups)), 0, [0]
    for i, size in enumerate(sizes):
        if filled >= share:
            cuts.append(i)
            filled = 0
        filled += size
    return [*cuts, len(chain)]


def _group(chain: Chain, size: int, cotangent: int, stages: tuple[Stage, ...]) -> Stage:
    """Return what stages cost as one, by a plain run, a taped run and a backward of them alone."""
    during = chain.update == "during backward"
    alone = tuple(stage if during else replace(stage, update_extra=0) for stage in stages)
    # A byte for an input without any, so that it can be seen whether the tape keeps it.
    given = size or 1
    part = Chain(stages=alone, input=given, input_cotangent=cotangent, update=chain.update)
    count, last = len(stages), stages[-1]
    view = all(stage.view for stage in stages)
    output = 0 if view else part.size(count)

    plain = [Action(Kind.KEEP if k == 0 else Kind.ADVANCE, k) for k in range(count)]
    taped = []
    for k in range(count):
        taped.append(Action(Kind.TAPE, k))
        if k and not (stages[k].needs_input and not stages[k - 1].holds_output):
            taped.append(Action(Kind.DROP, k))
    kept = {k for k in range(1, count) if Action(Kind.DROP, k) not in taped}
    back = []
    for k in reversed(range(count)):
        back.append(Action(Kind.BACKWARD, k))
        if k in kept:
            back.append(Action(Kind.DROP, k))
    drop = [Action(Kind.DROP, count)]
    before = [*plain, *drop, *taped, Action(Kind.LOSS, count), *drop]
    costs = simulate([*before, *back], part)
    a, b = len(plain), len(plain) + 1 + len(taped)
    tape = int(costs.after[b + 1]) - last.cotangent - given - last.holds_output * output
    held = given + tape + last.holds_output * output + last.cotangent
    gradient = sum(stage.gradient - (stage.released if during else 0) for stage in stages)
    needs_input, holds_input, saving = stages[0].needs_input, False, 0
    if not needs_input:
        dropped = simulate([*before, Action(Kind.DROP, 0), *back], part)
        holds_input = bool(dropped.after[b + 2] == costs.after[b + 1])
        if holds_input and size:
            saving = int(costs.during[b + 2 :].max() - dropped.during[b + 3 :].max())
    return Stage(
        output=output,
        cotangent=last.cotangent,
        tape=tape,
        view=view,
        holds_input=holds_input,
        holds_output=last.holds_output,
        needs_input=needs_input,
        gradient=max(gradient, 0),
        released=max(-gradient, 0),
        forward_extra=int(costs.during[:a].max()) - given - output,
        tape_extra=max(0, int(costs.during[a + 1 : b].max()) - given - output - tape),
        backward_extra=int(costs.during[b + 2 :].max()) - held - cotangent - max(gradient, 0),
        backward_saving=saving,
        update_extra=0 if during else max(stage.update_extra for stage in stages),
        forward_seconds=sum(stage.forward_seconds for stage in stages),
        tape_seconds=sum(stage.tape_seconds for stage in stages),
        backward_seconds=sum(stage.backward_seconds for stage in stages),
        update_seconds=sum(stage.update_seconds for stage in stages),
    )
