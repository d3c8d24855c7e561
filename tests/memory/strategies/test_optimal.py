"""The fastest schedule within a budget: monotone, tight, and never worse than any other strategy."""

import itertools
from collections import Counter

import pytest
from hypothesis import given, settings
from memory.chains import chains
from memory.strategies.heterogeneous import ROWS, chain_of, random_chain

from thriftgrad.errors import BudgetError, ConfigError
from thriftgrad.memory.simulate import simulate
from thriftgrad.memory.stages import Chain, Stage, homogeneous
from thriftgrad.memory.strategies import every, everything, mixed, nothing, revolve, sqrt
from thriftgrad.memory.strategies.optimal import frontier, optimal


@pytest.mark.parametrize("row", ROWS[::4], ids=lambda row: f"chain {row['id']}")
def test_reference_values(row: dict) -> None:
    chain = chain_of(row)
    for case in row["cases"]:
        if case["brute"] is None:
            with pytest.raises(BudgetError):
                optimal(case["M"])(chain)
        else:
            assert simulate(optimal(case["M"])(chain), chain).seconds == case["brute"]


@settings(deadline=None, max_examples=50)
@given(chain=chains(longest=5))
def test_it_is_monotone_tight_and_exact_on_chains_of_any_kind(chain: Chain) -> None:
    points = frontier(chain)
    for point in points:
        simulation = simulate(point.schedule, chain)
        assert (simulation.peak, simulation.seconds) == (point.peak, point.seconds)
    for before, after in itertools.pairwise(points):
        assert before.peak < after.peak
        assert before.seconds > after.seconds
    plain = simulate(everything()(chain), chain)
    assert points[-1].seconds <= plain.seconds
    assert points[-1].peak <= plain.peak
    if points[0].peak > 1:
        assert optimal(points[0].peak)(chain) == points[0].schedule
        with pytest.raises(BudgetError, match=f"{points[0].peak:,} bytes") as refused:
            optimal(points[0].peak - 1)(chain)
        assert refused.value.least == points[0].peak


@pytest.mark.parametrize("seed", range(3))
def test_no_other_strategy_is_both_as_small_and_faster(seed: int) -> None:
    chain = random_chain(seed, length=24, unit=1000)
    for strategy in (every(2), every(5), sqrt(), nothing(), revolve(4), mixed(6), everything()):
        other = simulate(strategy(chain), chain)
        assert simulate(optimal(other.peak)(chain), chain).seconds <= other.seconds


def test_a_refusal_names_what_the_memory_is_needed_for() -> None:
    wide = Stage(name="wide", output=100, cotangent=100, tape=5000)
    narrow = Stage(name="narrow", output=10, cotangent=10)
    with pytest.raises(BudgetError, match=r"5\.00 kB of them for tapes.*stage 1 \('wide'\)"):
        optimal(3000)(Chain(stages=(narrow, wide, narrow), input=10, input_cotangent=10))
    with pytest.raises(BudgetError, match=r"1\.00 MB of them for parameters"):
        optimal("1 kB")(Chain(stages=(narrow,), fixed={"parameters": 1_000_000}))
    with pytest.raises(ConfigError, match="budget of '1 mile'"):
        optimal("1 mile")


def test_what_is_held_all_the_while_moves_the_curve_and_does_not_change_it() -> None:
    bare = homogeneous(9)
    heavy = Chain(stages=bare.stages, input=1, input_cotangent=1, fixed={"parameters": 50})
    assert [(p.peak + 50, p.seconds) for p in frontier(bare)] == [
        (p.peak, p.seconds) for p in frontier(heavy)
    ]


def test_thousands_of_stages_fit_in_a_fiftieth() -> None:
    stage = Stage(output=4096, cotangent=4096, holds_input=True)
    chain = Chain(stages=(stage,) * 3_000)
    limit = 4096 * 3_000 // 50
    simulation = simulate(optimal(limit)(chain), chain)
    assert simulation.peak <= limit
    assert simulation.runs.sum() <= 3 * 3_000
    assert Counter(simulation.tapes.tolist()) == {1: 3_000}


def test_stages_that_take_no_time_are_planned_by_their_bytes() -> None:
    stage = Stage(
        output=10,
        cotangent=10,
        holds_input=True,
        forward_seconds=0.0,
        tape_seconds=0.0,
        backward_seconds=0.0,
    )
    curve = frontier(Chain(stages=(stage,) * 12))
    assert {point.seconds for point in curve} == {0.0}
    assert len(curve) == 1  # for nothing is bought with more bytes
    assert curve[0].peak < 12 * 10
