"""The binomial schedule against its published costs and an exhaustive search."""

import pytest
from memory.chains import reference
from memory.strategies.search import Rules, least_price

from thriftgrad.errors import ConfigError
from thriftgrad.memory.simulate import simulate
from thriftgrad.memory.stages import homogeneous
from thriftgrad.memory.strategies import nothing, revolve
from thriftgrad.memory.strategies.revolve import untaped_runs

ROWS = reference("binomial.json")["one_level"]["rows"]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['l']}-{row['s']}")
def test_reference_values(row: dict[str, int]) -> None:
    chain = homogeneous(row["l"])
    simulation = simulate(revolve(row["s"])(chain), chain)
    assert simulation.forwards.sum() == row["t"]
    assert simulation.runs.sum() == row["total"]
    assert simulation.most_states <= row["s"]


@pytest.mark.parametrize("length", range(1, 8))
@pytest.mark.parametrize("slots", [1, 2, 3])
def test_no_schedule_runs_fewer_stages(length: int, slots: int) -> None:
    chain = homogeneous(length)
    simulation = simulate(revolve(slots)(chain), chain)
    assert simulation.runs.sum() == least_price(length, Rules(ram=slots))


def test_the_schedule_attains_the_formula_at_every_length() -> None:
    for slots in (1, 2, 3, 4, 7, 60):
        before = 0
        for length in range(1, 60):
            chain = homogeneous(length)
            simulation = simulate(revolve(slots)(chain), chain)
            assert simulation.forwards.sum() == untaped_runs(length, slots) >= before
            assert simulation.most_states <= min(slots, length)
            assert (simulation.tapes == 1).all()
            before = untaped_runs(length, slots)


def test_one_slot_is_nothing_kept_and_enough_slots_rerun_each_stage_once() -> None:
    chain = homogeneous(9)
    assert revolve(1)(chain).actions == nothing()(chain).actions
    for slots in (8, 9, 20):
        assert simulate(revolve(slots)(chain), chain).forwards.tolist() == [1] * 8 + [0]


@pytest.mark.parametrize(
    ("length", "slots"), [(1, 1), (2, 1), (3, 2), (6, 2), (7, 3), (70, 4), (71, 5)]
)
def test_by_default_slots_and_repetitions_grow_together(length: int, slots: int) -> None:
    chain = homogeneous(length)
    assert revolve()(chain).strategy == f"revolve({slots})"
    assert simulate(revolve()(chain), chain).forwards.max() <= slots


def test_ten_thousand_stages() -> None:
    chain = homogeneous(10_000)
    simulation = simulate(revolve(20)(chain), chain)
    assert simulation.forwards.sum() == untaped_runs(10_000, 20)
    assert simulation.most_states == 20


@pytest.mark.parametrize("slots", [0, -3, 1.5, True, "4"])
def test_slots_are_counted(slots: object) -> None:
    with pytest.raises(
        ConfigError, match=r"revolve: slots = .*; expected a whole number of at least 1"
    ):
        revolve(slots)  # type: ignore[arg-type]
