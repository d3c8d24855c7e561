"""Memory and disk, against published costs and an exhaustive search."""

from typing import Any

import pytest
from memory.chains import reference
from memory.strategies.search import Rules, least_price

from thriftgrad.errors import ConfigError
from thriftgrad.memory.schedule import Kind
from thriftgrad.memory.simulate import simulate
from thriftgrad.memory.stages import Chain, Stage, homogeneous
from thriftgrad.memory.strategies import revolve, two_level

ROWS = reference("binomial.json")["two_level"]["rows"]
PRICES = ("uf", "ub", "wd", "rd")


def priced(length: int, uf: float, ub: float, wd: float, rd: float) -> Chain:
    stage = Stage(
        output=1, cotangent=1, forward_seconds=uf, tape_seconds=ub / 4, backward_seconds=ub * 3 / 4
    )
    return homogeneous(length, stage, write=wd, read=rd)


def test_reference_values() -> None:
    for row in ROWS:
        prices = [row[price] for price in PRICES]
        chain = priced(row["l"], *prices)
        for strategy in (
            two_level(row["cm"], row["cd"]),
            two_level(row["cm"], row["cd"], write=row["wd"], read=row["rd"]),
        ):
            simulation = simulate(strategy(chain), chain)
            assert simulation.seconds == row["optimum"], row
            assert simulation.most_states <= row["cm"], row
            assert simulation.most_disk <= row["cd"], row
            assert (simulation.tapes == 1).all()


@pytest.mark.parametrize("length", [2, 4, 6])
@pytest.mark.parametrize("slots", [(0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (2, 1), (2, 2)])
@pytest.mark.parametrize(
    "prices", [(1, 1, 2, 2), (1, 2.5, 0.3, 0.7), (0.37, 1, 0.41, 0.05), (2, 1, 0, 3)]
)
def test_no_schedule_is_cheaper(length: int, slots: tuple[int, int], prices: Any) -> None:
    chain = priced(length, *prices)
    uf, ub, wd, rd = prices
    simulation = simulate(two_level(*slots)(chain), chain)
    rules = Rules(*slots, forward=uf, reverse=ub, write=wd, read=rd)
    assert simulation.seconds == pytest.approx(least_price(length, rules), rel=1e-12)
    assert simulation.most_states <= slots[0]
    assert simulation.most_disk <= slots[1]


def test_more_room_and_lower_prices_never_cost_more() -> None:
    def seconds(ram: int, disk: int, write: float = 3.0, read: float = 3.0) -> float:
        chain = priced(40, 1, 2, write, read)
        return simulate(two_level(ram, disk)(chain), chain).seconds

    for ram in (1, 2, 4):
        for disk in (0, 1, 3):
            here = seconds(ram, disk)
            assert seconds(ram + 1, disk) <= here
            assert seconds(ram, disk + 1) <= here
            assert seconds(ram, disk, write=1.0) <= here
            assert seconds(ram, disk, read=1.0) <= here


def test_a_disk_that_is_not_worth_it_is_not_used() -> None:
    chain = priced(30, 1, 2, 1e6, 1e6)
    assert two_level(3, 10)(chain).actions == revolve(3)(chain).actions
    assert two_level(3, 0)(chain).actions == revolve(3)(chain).actions


def test_prices_a_state_take_the_place_of_the_bandwidth() -> None:
    chain = homogeneous(20, Stage(output=1000, cotangent=1000), write=0.002, read=0.005)
    assert two_level(1, 2)(chain) == two_level(1, 2, write=2.0, read=5.0)(chain)
    assert two_level(1, 2)(chain) != two_level(1, 2, write=50.0, read=50.0)(chain)


def test_the_batch_is_not_written_to_disk() -> None:
    stages = homogeneous(20).stages
    view = Stage(output=0, cotangent=1, view=True)
    chain = Chain(stages=(view, *stages))  # x_0 and x_1 are the batch, which is held anyway
    schedule = two_level(0, 3)(chain)
    spilled = {action.index for action in schedule if action.kind is Kind.SPILL}
    assert spilled
    assert not spilled & {0, 1}
    assert simulate(schedule, chain).peak_disk <= 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 0), r"two_level\(0, 0\): expected at least one slot"),
        ((-1, 2), "two_level: ram = -1; expected a whole number of at least 0"),
        ((1, 2.5), "two_level: disk = 2.5; expected a whole number"),
        ((1, 1, -1.0, 0.0), "two_level: write = -1.0; expected seconds, a finite number >= 0"),
        ((1, 1, 0.0, float("nan")), "two_level: read = nan; expected seconds"),
        ((1, 1, "fast", 0.0), "two_level: write = 'fast'; expected seconds"),
    ],
)
def test_arguments_are_checked(arguments: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        two_level(*arguments)
