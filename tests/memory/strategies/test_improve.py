"""What the improvement finds, against the true optimum and against what it began with."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from memory.chains import chains
from memory.strategies.heterogeneous import random_chain

from thriftgrad.memory.simulate import simulate
from thriftgrad.memory.stages import Chain
from thriftgrad.memory.strategies import everything, nothing, sqrt
from thriftgrad.memory.strategies.exact import exact_frontier
from thriftgrad.memory.strategies.improve import Frontier, Point, improve
from thriftgrad.memory.strategies.persistent import persistent

EMPTY = nothing()(random_chain(0, 1))


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 9)), min_size=1))
def test_a_frontier_holds_what_nothing_beats(given: list[tuple[int, int]]) -> None:
    frontier = Frontier()
    for peak, seconds in given:
        frontier.add(Point(peak, seconds, EMPTY))
    best = {
        (p, s)
        for p, s in given
        if not any(q <= p and r <= s and (q, r) != (p, s) for q, r in given)
    }
    assert [(p, s) for p, s, _ in frontier.points] == sorted(best)


@settings(deadline=None, max_examples=60)
@given(chain=chains(longest=6))
def test_every_schedule_it_makes_is_what_it_says(chain: Chain) -> None:
    starts = [strategy(chain) for strategy in (everything(), nothing(), sqrt())]
    points = improve(starts, chain, 5_000).points
    for point in points:
        simulation = simulate(point.schedule, chain)
        assert (simulation.peak, simulation.seconds) == (point.peak, point.seconds)
    for start in starts:
        simulation = simulate(start, chain)
        assert any(p.peak <= simulation.peak and p.seconds <= simulation.seconds for p in points)


def test_it_closes_more_than_half_of_the_gap_between_persistent_and_best() -> None:
    gaps = []
    for seed in range(8):
        chain = random_chain(seed, length=5)
        best = [simulate(schedule, chain) for schedule in exact_frontier(chain)]
        starts = [persistent(chain, each.peak) for each in best]
        improved = improve(starts, chain, 10**6).points
        for each, start in zip(best, starts, strict=True):
            fastest = min(p.seconds for p in improved if p.peak <= each.peak)
            assert fastest >= each.seconds
            gaps.append((simulate(start, chain).seconds - each.seconds, fastest - each.seconds))
    before, after = np.sum(gaps, axis=0)
    assert before > 0
    assert after < before / 2
