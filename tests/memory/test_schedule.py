"""Schedules as data: tidying them, and printing them."""

from collections.abc import Iterable
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from memory.chains import chains, random_work

from thriftgrad.errors import ScheduleError
from thriftgrad.memory.schedule import Action, Kind, Schedule, tidy
from thriftgrad.memory.simulate import simulate
from thriftgrad.memory.stages import Chain, Stage, homogeneous
from thriftgrad.memory.strategies import everything, revolve

DROPS = (Kind.DROP, Kind.DROP_TAPE, Kind.DROP_DISK)


@settings(max_examples=100, deadline=None)
@given(chains(), st.randoms(use_true_random=False))
def test_tidy_does_the_same_work_and_lets_go_as_early_as_possible(
    chain: Chain, rng: Random
) -> None:
    work = random_work(rng, chain)
    schedule = tidy(work, chain)
    assert [untyped(a) for a in schedule if a.kind not in DROPS] == [untyped(a) for a in work]
    bytes_of_work = during_work(schedule, chain)
    for place, action in enumerate(schedule):
        if action.kind in DROPS:
            earlier = list(schedule)
            here = place
            while earlier[here - 1].kind in DROPS:
                here -= 1
            earlier.insert(here - 1, earlier.pop(place))
            # One action earlier, a drop takes away what that action uses or makes; unless a tape has
            # it too, and then nothing is gained.
            try:
                assert during_work(earlier, chain) == bytes_of_work
            except ScheduleError:
                continue


def during_work(actions: Iterable[Action], chain: Chain) -> list[int]:
    """Return the bytes during each action that is not a drop."""
    simulation = simulate(actions := list(actions), chain)
    during = simulation.during.tolist()
    return [b for b, action in zip(during, actions, strict=True) if action.kind not in DROPS]


def untyped(action: Action) -> tuple[bool, int] | Action:
    """Return the action, where advance and keep are the same."""
    untaped = action.kind in (Kind.ADVANCE, Kind.KEEP)
    return (untaped, action.index) if untaped else action


@settings(max_examples=50, deadline=None)
@given(chains(), st.randoms(use_true_random=False))
def test_tidying_twice_changes_nothing(chain: Chain, rng: Random) -> None:
    schedule = tidy(random_work(rng, chain), chain, "random")
    assert tidy(schedule, chain, "random") == schedule


def test_tidy_leaves_out_what_nothing_depends_on() -> None:
    chain = homogeneous(3)
    work = everything()(chain).actions
    idle = [Action(Kind.KEEP, 0), Action(Kind.SPILL, 1), Action(Kind.LOAD, 1), Action(Kind.TAPE, 1)]
    assert tidy([*idle, *work], chain, "all") == everything()(chain)
    run_again = [Action(Kind.TAPE, 0), *work]
    assert tidy(run_again, chain, "all") == everything()(chain)


def test_tidy_tapes_only_for_a_backward() -> None:
    chain = homogeneous(2)
    work = [
        Action(Kind.TAPE, 0),
        Action(Kind.TAPE, 1),
        Action(Kind.LOSS, 2),
        Action(Kind.BACKWARD, 1),
        Action(Kind.TAPE, 0),
        Action(Kind.BACKWARD, 0),
    ]
    assert simulate(tidy(work, chain), chain).tapes.tolist() == [1, 1]


def test_tidy_looks_up_what_backwards_need() -> None:
    work = everything()(homogeneous(3)).actions
    chain = homogeneous(3, Stage(output=1, cotangent=1, needs_input=True, holds_output=False))
    with pytest.raises(ScheduleError):
        simulate(work, chain)
    assert simulate(tidy(work, chain), chain).peak == 5


def test_a_schedule_prints_in_a_line_that_does_not_grow_with_the_chain() -> None:
    assert str(everything()(homogeneous(1))) == "tape 0, drop 0, loss 1, drop 1, backward 0"
    assert (
        str(everything()(homogeneous(1000)))
        == "tape 0, drop 0, …, tape 999, drop 999, loss 1000, drop 1000, backward 999–0"
    )
    assert str(revolve(2)(homogeneous(10))).startswith("keep 0, advance 1–5, keep 6, advance 7")


def test_a_schedule_is_a_sequence_of_its_actions() -> None:
    schedule = Schedule((Action(Kind.TAPE, 0), Action(Kind.LOSS, 1)), "by hand")
    assert len(schedule) == 2
    assert list(schedule) == list(schedule.actions)
    assert str(Schedule(())) == ""
