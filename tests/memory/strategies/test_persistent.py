"""The dynamic program, against reference values and against a search through all schedules."""

from typing import Any

import pytest
from hypothesis import given, settings
from memory.chains import chains
from memory.strategies.heterogeneous import ROWS, chain_of, random_chain

from thriftgrad.errors import BudgetError
from thriftgrad.memory.simulate import simulate
from thriftgrad.memory.stages import Chain, Stage, homogeneous
from thriftgrad.memory.strategies import everything, mixed
from thriftgrad.memory.strategies.exact import exact, exact_frontier
from thriftgrad.memory.strategies.persistent import Table, persistent, splits


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"chain {row['id']}")
def test_reference_values(row: dict) -> None:
    chain = chain_of(row)
    for case in row["cases"]:
        if case["dp_paper"] is None:
            with pytest.raises(BudgetError):
                persistent(chain, case["M"])
            continue
        simulation = simulate(persistent(chain, case["M"]), chain)
        assert simulation.seconds == case["dp_paper"], case
        assert simulation.peak <= case["M"], case


@settings(deadline=None, max_examples=100)
@given(chain=chains(longest=5))
def test_a_schedule_keeps_to_its_room_whatever_the_chain(chain: Chain) -> None:
    most = simulate(everything()(chain), chain).peak
    beside = sum(chain.fixed.values())
    least = beside + Table(chain, most).least
    for memory in {least, (least + most) // 2, most}:
        if memory >= least:
            assert simulate(persistent(chain, memory), chain).peak <= memory
    if least > beside:
        with pytest.raises(BudgetError, match=f"holds less than {least:,}") as refused:
            persistent(chain, least - 1)
        assert refused.value.least == least


@pytest.mark.parametrize("seed", range(40))
def test_on_abstract_chains_no_schedule_is_smaller_than_the_least_persistent_one(seed: int) -> None:
    chain = random_chain(seed, length=3 + seed % 3)
    with pytest.raises(BudgetError) as refused:
        persistent(chain, 1)
    least = refused.value.least
    assert simulate(persistent(chain, least), chain).peak == least
    with pytest.raises(BudgetError):
        exact(chain, least - 1)


def test_more_memory_is_never_slower_though_sizes_are_rounded() -> None:
    chain = random_chain(7, length=20, unit=997)
    table = Table(chain, 200_000)
    assert table.rounds
    seconds = [
        simulate(persistent(chain, int(room)), chain).seconds
        for room in table.room[table.room > table.least][::40]
    ]
    assert seconds == sorted(seconds, reverse=True)
    finite = table.seconds[table.room >= table.least * 1.1]
    assert (finite[1:] <= finite[:-1]).all()


def test_gradients_that_accumulate_are_taken_from_the_memory_of_earlier_stages() -> None:
    stage = Stage(output=1, cotangent=1, needs_input=True, gradient=5, released=5)
    after = homogeneous(6, stage)
    during = Chain(stages=after.stages, input=1, input_cotangent=1, update="during backward")
    least = []
    for chain in (after, during):
        with pytest.raises(BudgetError) as refused:
            persistent(chain, 1)
        least.append(refused.value.least)
    # All gradients with x_0, x_1, d_1, d_0; or one, with x_k, x_{k+1}, d_{k+1}, d_k, and x_0.
    assert least == [6 * 5 + 4, 5 + 5]


@pytest.mark.parametrize("update", ["after backward", "during backward"])
def test_a_state_that_no_tape_needs_is_not_counted_once_it_is_taped(update: Any) -> None:
    linear = Stage(output=9, cotangent=9, tape=1, holds_input=True, holds_output=False)
    tanh = Stage(output=9, cotangent=9, tape=2, gradient=3, released=3)
    chain = Chain(stages=(linear, tanh) * 3, input=4, update=update)
    best = [simulate(schedule, chain) for schedule in exact_frontier(chain)]
    plain = best[0]
    assert simulate(persistent(chain, plain.peak), chain).seconds == plain.seconds
    assert Table(chain, plain.peak).least == best[-1].peak


def test_equal_stages_are_solved_once() -> None:
    assert splits(homogeneous(200)) < 2 * 200 * 201
    unequal = [Stage(output=k + 1, cotangent=k + 1) for k in range(40)]
    assert splits(Chain(stages=tuple(unequal))) == sum(n * (42 - n) for n in range(1, 42))


@pytest.mark.parametrize("slots", [1, 3, 10])
def test_where_stages_are_equal_it_is_no_worse_than_what_is_best_for_them(slots: int) -> None:
    chain = homogeneous(50, Stage(output=1, cotangent=1, needs_input=True))
    best = simulate(mixed(slots)(chain), chain)
    assert simulate(persistent(chain, best.peak), chain).seconds <= best.seconds
