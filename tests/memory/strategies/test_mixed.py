"""Slots for states or tapes, against published costs and an exhaustive search."""

import pytest
from memory.chains import reference
from memory.strategies.search import Rules, least_price

from thriftgrad.errors import ConfigError
from thriftgrad.memory.simulate import simulate
from thriftgrad.memory.stages import Stage, homogeneous
from thriftgrad.memory.strategies import mixed, revolve

ROWS = reference("binomial.json")["one_level"]["rows"]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['l']}-{row['s']}")
def test_reference_values(row: dict[str, int]) -> None:
    chain = homogeneous(row["l"])
    simulation = simulate(mixed(row["s"])(chain), chain)
    assert simulation.runs.sum() == row["mixed_total"]
    assert simulation.most_slots <= row["s"]


@pytest.mark.parametrize("length", range(1, 8))
@pytest.mark.parametrize("slots", [1, 2, 3])
def test_no_schedule_runs_fewer_stages(length: int, slots: int) -> None:
    chain = homogeneous(length)
    simulation = simulate(mixed(slots)(chain), chain)
    assert simulation.runs.sum() == least_price(length, Rules(ram=slots, tapes=True))
    assert simulation.most_slots <= slots


def test_never_more_runs_than_with_states_alone() -> None:
    for length in (1, 2, 7, 30, 64):
        chain = homogeneous(length)
        for slots in (1, 2, 5, 12):
            ours = simulate(mixed(slots)(chain), chain)
            theirs = simulate(revolve(slots)(chain), chain)
            assert ours.runs.sum() <= theirs.runs.sum()


def test_with_a_slot_for_each_tape_nothing_runs_again() -> None:
    chain = homogeneous(12)
    for slots in (11, 12, 40):
        assert simulate(mixed(slots)(chain), chain).runs.tolist() == [1] * 12
    assert simulate(mixed(10)(chain), chain).runs.sum() > 12


def test_inputs_that_backwards_need_are_held_beside_the_tapes() -> None:
    chain = homogeneous(20, Stage(output=1, cotangent=1, needs_input=True, holds_output=False))
    simulation = simulate(mixed(4)(chain), chain)
    assert simulation.runs.sum() == simulate(mixed(4)(homogeneous(20)), homogeneous(20)).runs.sum()


def test_slots_are_counted() -> None:
    with pytest.raises(
        ConfigError, match="mixed: slots = 0; expected a whole number of at least 1"
    ):
        mixed(0)
