"""Chains of every kind, strategies of every kind, and work chosen at random."""

import json
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

from hypothesis import strategies as st

from thriftgrad.memory.schedule import Action, Kind, Strategy
from thriftgrad.memory.stages import Chain, Stage
from thriftgrad.memory.strategies import (
    at,
    every,
    everything,
    mixed,
    nothing,
    revolve,
    sqrt,
    two_level,
)


def reference(name: str) -> Any:
    """Return the content of a file of reference values."""
    return json.loads((Path(__file__).parent / "reference" / name).read_text(encoding="utf-8"))


SIZES = st.integers(0, 40)
# Halves, so that sums are exact in whatever order they are taken.
SECONDS = st.integers(0, 20).map(lambda n: n / 2)


@st.composite
def stages(draw: Any) -> Stage:
    view, gradient = draw(st.booleans()), draw(SIZES)
    flag = st.booleans()
    return Stage(
        output=0 if view else draw(SIZES),
        cotangent=draw(SIZES),
        tape=draw(SIZES),
        view=view,
        holds_input=draw(flag),
        holds_output=draw(flag),
        needs_input=draw(flag),
        gradient=gradient,
        released=gradient,
        forward_extra=draw(SIZES),
        tape_extra=draw(SIZES),
        backward_extra=draw(st.integers(-60, 40)),
        update_extra=draw(SIZES),
        forward_seconds=draw(SECONDS),
        tape_seconds=draw(SECONDS),
        backward_seconds=draw(SECONDS),
        update_seconds=draw(SECONDS),
    )


@st.composite
def chains(draw: Any, longest: int = 7) -> Chain:
    row = draw(st.lists(stages(), min_size=1, max_size=longest))
    if draw(st.booleans()):
        # A parameter that the first and the last stage share is complete with the first.
        shared = row[-1].released
        row[-1] = replace(row[-1], released=0)
        row[0] = replace(row[0], released=row[0].released + shared)
    return Chain(
        stages=tuple(row),
        loss_extra=draw(SIZES),
        loss_seconds=draw(SECONDS),
        input=draw(st.sampled_from([0, 7, 25])),
        input_cotangent=draw(st.sampled_from([0, 7])),
        fixed=draw(st.sampled_from([{}, {"parameters": 100, "batch": 11}, {"gradients": 5}])),
        update=draw(st.sampled_from(["after backward", "during backward"])),
        write=draw(SECONDS),
        read=draw(SECONDS),
    )


def strategies(length: int) -> list[Strategy]:
    """Return every strategy, with arguments around the ends of what makes sense for the length."""
    counts = sorted({1, 2, 3, max(1, length - 1), length, length + 3})
    return [
        everything(),
        nothing(),
        sqrt(),
        revolve(),
        *map(every, counts),
        *(at(i) for i in range(-length, length)),
        at(*range(length)),
        at(0, -1),
        *map(revolve, counts),
        *map(mixed, counts),
        *(two_level(ram, disk, w, r) for ram in (1, 2) for disk in (1, 4) for w, r in PRICES),
        two_level(0, 1),
        two_level(0, length),
        two_level(3, 0),
    ]


PRICES = [(None, None), (0.0, 0.0), (1.5, 0.25), (100.0, 100.0)]


def random_work(rng: Random, chain: Chain) -> list[Action]:
    """Return runs that reverse the chain, with states kept, spilled and taped at random, no drops."""
    length, work = len(chain), []

    def add(kind: Kind, index: int) -> None:
        work.append(Action(kind, index))

    def reverse(a: int, n: int, in_tape: bool = False) -> None:
        if n == 0:
            add(Kind.LOSS, length)
        elif n == 1 or rng.random() < 0.4:
            add(Kind.TAPE, a)
            if a + 1 == length or n > 1:
                reverse(a + 1, n - 1, in_tape=chain.stages[a].holds_output)
            add(Kind.BACKWARD, a)
        else:
            m = rng.randrange(1, n)
            # What lies in the batch cannot be spilled, and what lies in a tape would be there twice.
            spill = chain.size(a) > 0 and not in_tape and rng.random() < 0.5
            if spill:
                add(Kind.SPILL, a)
            for k in range(a, a + m):
                add(Kind.ADVANCE, k)
            reverse(a + m, n - m)
            if spill:
                add(Kind.LOAD, a)
            reverse(a, m, in_tape)

    reverse(0, length)
    return work
