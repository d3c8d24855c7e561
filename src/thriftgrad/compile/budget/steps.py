"""Calls of a program that are best made together, so that what plans it exactly has less to look at.

Which are joined excludes no cheapest sequence, whatever the budget, where first runs come in any order:
a call whose result takes no memory runs as soon as it can, if nothing is held longer for it; a call in
the memory of its operand, whose only reader it is, follows that at once, if its other operands are
there already.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from thriftgrad.compile.budget.graph import Graph, tidied


@dataclass(eq=False)
class Step:
    """Calls that run one after another.

    Attributes:
        calls: they, in order.
        single: those among them that run the first time only: their results take no memory.
        needs: the steps that it reads, as keys or indices.
        reuses: those among them in whose memory it can be computed, where nobody reads them later.
        once: whether it must not run again.
        after: calls that have to come before, though no memory of theirs is read.
    """

    calls: list[int]
    needs: list[int]
    nbytes: int
    scratch: int
    cost: float
    reuses: list[int]
    kept: bool
    once: bool
    after: set[int]
    single: set[int] = field(default_factory=set)


def joined(graph: Graph) -> list[Step]:
    """Return a graph as steps that some cheapest sequence within any budget consists of."""
    steps = {-1: Step([], [], 0, 0, 0.0, [], kept=False, once=True, after=set())}  # needs nothing
    before: set[int] = set()  # the last call that ran once
    for i in plain_order(graph):
        solid = [n for n in graph.needs[i] if graph.nbytes[n]]
        steps[i] = Step(
            [i], solid, graph.nbytes[i], graph.scratch[i] if graph.scratch else 0, graph.cost[i],
            [r for r in graph.reuses[i] if graph.nbytes[r] == graph.nbytes[i] > 0],
            kept=i in graph.kept and graph.nbytes[i] > 0, once=i in graph.once,
            after={*graph.needs[i]}.difference(solid) | (before if i in graph.once else set()),
        )  # fmt: skip
        before = {i} if i in graph.once else before
    home = {i: i for i in steps}
    while sum(_moved(key, steps, home) for key in sorted(steps) if key >= 0):
        pass
    if not steps[-1].calls:
        del steps[-1]
    index = {key: k for k, key in enumerate(sorted(steps))}
    ordered = [steps[key] for key in index]
    for step in ordered:
        step.needs = [index[n] for n in step.needs]
        step.reuses = [index[r] for r in step.reuses]
    return ordered


def _moved(key: int, steps: dict[int, Step], home: dict[int, int]) -> bool:
    """Join a step to an earlier one, if that excludes no cheapest sequence."""
    step = steps[key]
    waits = {home[i] for i in step.after} - {key}
    if not step.nbytes:
        # It takes no memory and runs once: as soon as all is there, if no more is held for it by then.
        earliest = max({-1, *waits, *step.needs})
        if step.scratch or not {*step.needs} <= {earliest}:
            return False
        into = steps[earliest]
        into.single.update(step.calls)
    else:
        # In the memory of its operand, whose only reader it is: that might as well be held as its
        # result, if all else that is read is there already. Not so where the operand's first run may
        # serve calls that take no memory and nobody else.
        for earliest in step.needs:
            into = steps[earliest]
            others = {*step.needs} - {earliest}
            if (
                earliest in step.reuses
                and not into.kept
                and (into.once or not into.single)
                and others <= {*into.needs}
                and others.isdisjoint(into.reuses)
                and step.scratch <= into.scratch
                and max(waits, default=-1) <= earliest
                and all(earliest not in s.needs for s in steps.values() if s is not step)
            ):
                break
        else:
            return False
        into.cost += step.cost
        into.kept = step.kept
        into.once |= step.once
        into.single |= step.single
    into.calls += step.calls
    into.after |= step.after
    del steps[key]
    home.update(dict.fromkeys(step.calls, earliest))
    for other in steps.values():
        other.needs = [earliest if n == key else n for n in other.needs]
        other.reuses = [earliest if r == key else r for r in other.reuses]
    return True


def spread(steps: list[Step], runs: Iterable[int]) -> list[int]:
    """Return the calls that runs of steps stand for."""
    done: set[int] = set()
    calls: list[int] = []
    for k in runs:
        single = steps[k].single if k in done else ()
        calls += [i for i in steps[k].calls if i not in single]
        done.add(k)
    return calls


def plain_order(graph: Graph) -> list[int]:
    """Return the calls that are needed, each once, in the program's order."""
    return tidied(graph, range(len(graph)))
