"""The search for the true optimum, against reference values and every order of runs that there is."""

import itertools
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from memory.chains import chains
from memory.strategies.heterogeneous import ROWS, chain_of, random_chain

from thriftgrad.errors import BudgetError
from thriftgrad.memory.schedule import Action, Kind, tidy
from thriftgrad.memory.simulate import simulate
from thriftgrad.memory.stages import Chain
from thriftgrad.memory.strategies.exact import exact, exact_frontier
from thriftgrad.memory.strategies.persistent import persistent


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"chain {row['id']}")
def test_reference_values(row: dict) -> None:
    chain = chain_of(row)
    for case in row["cases"]:
        if case["brute"] is None:
            with pytest.raises(BudgetError, match="no schedule"):
                exact(chain, case["M"])
            continue
        simulation = simulate(exact(chain, case["M"]), chain)
        assert simulation.seconds == case["brute"], case
        assert simulation.peak <= case["M"], case


def orders(length: int, spare: int) -> Iterator[list[Action]]:
    """Yield every order of runs with at most so many plain runs, possible or not as bytes go."""

    def go(
        runs: list[Action], made: frozenset[int], taped: frozenset[int], p: int, spare: int
    ) -> Iterator[list[Action]]:
        if p == 0:
            yield runs
        if p > length and length in made:
            yield from go([*runs, Action(Kind.LOSS, length)], made, taped, length, spare)
        if p <= length and p - 1 in taped:
            yield from go([*runs, Action(Kind.BACKWARD, p - 1)], made, taped, p - 1, spare)
        for k in made - {length}:
            if k < p and k not in taped:
                yield from go([*runs, Action(Kind.TAPE, k)], made | {k + 1}, taped | {k}, p, spare)
            if k + 1 < p and spare:
                run = [*runs, Action(Kind.ADVANCE, k)]
                yield from go(run, made | {k + 1}, taped, p, spare - 1)

    yield from go([], frozenset([0]), frozenset(), length + 1, spare)


ORDERS = [list(orders(1, 1)), list(orders(2, 2))]


@settings(deadline=None, max_examples=150)
@given(chain=chains(longest=2))
def test_no_order_of_runs_is_better_on_chains_of_any_kind(chain: Chain) -> None:
    # A tape that is made for its state alone is not among the orders, nor sought.
    plain = [stage.forward_seconds <= stage.tape_seconds for stage in chain.stages]
    viewless = not any(stage.view for stage in chain.stages)
    if not (all(plain) and viewless):
        return
    best = [simulate(schedule, chain) for schedule in exact_frontier(chain)]
    for runs in ORDERS[len(chain) - 1]:
        found = simulate(tidy(runs, chain), chain)
        assert any(b.peak <= found.peak and b.seconds <= found.seconds for b in best), str(runs)


@pytest.mark.parametrize("seed", range(12))
def test_the_curve_is_that_of_the_single_searches(seed: int) -> None:
    chain = random_chain(seed, length=4)
    curve = [simulate(schedule, chain) for schedule in exact_frontier(chain)]
    for at, after in itertools.pairwise(curve):
        assert at.seconds <= after.seconds
        assert at.peak > after.peak
        for memory in (at.peak - 1, after.peak):
            assert simulate(exact(chain, memory), chain).seconds == after.seconds
    with pytest.raises(BudgetError):
        exact(chain, curve[-1].peak - 1)


@pytest.mark.parametrize("seed", range(12))
def test_it_is_never_slower_than_persistent(seed: int) -> None:
    chain = random_chain(seed, length=5)
    for schedule in exact_frontier(chain):
        simulation = simulate(schedule, chain)
        other = simulate(persistent(chain, simulation.peak), chain)
        assert simulation.seconds <= other.seconds
