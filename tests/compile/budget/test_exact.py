"""Exact schedules of small graphs, against searches that try everything one bit of memory at a time."""

from __future__ import annotations

import sys
from heapq import heappop, heappush
from itertools import count
from math import inf

import numpy as np
import pytest

from thriftgrad.compile.budget import exact as exact_module
from thriftgrad.compile.budget import search as search_module
from thriftgrad.compile.budget.exact import exact, least
from thriftgrad.compile.budget.graph import Graph, UnprovenError, peak, price
from thriftgrad.compile.budget.search import fewest, search
from thriftgrad.compile.budget.steps import joined, plain_order, spread

UNIT = 64


def drawn(seed: int, calls: int | None = None) -> Graph:
    rng = np.random.default_rng(seed)
    n = calls or int(rng.integers(4, 9))
    nbytes = UNIT * rng.choice([0, 1, 1, 2, 2, 3, 5], n)
    needs = []
    for i in range(n):
        near = range(max(0, i - 5), i)
        many = min(len(near), int(rng.choice([0, 1, 1, 2, 2, 3])))
        needs.append(tuple(int(k) for k in np.sort(rng.choice(near, many, False))) if many else ())
    read = {k for each in needs for k in each}
    return Graph(
        needs=tuple(needs),
        nbytes=tuple(int(b) for b in nbytes),
        cost=tuple(float(c) for c in rng.integers(1, 10, n)),
        reuses=tuple(
            tuple(k for k in needs[i] if nbytes[k] == nbytes[i] > 0 and rng.random() < 0.6)
            for i in range(n)
        ),
        kept=frozenset(i for i in range(n) if i not in read and rng.random() < 0.6),
        once=frozenset(i for i in range(n) if rng.random() < 0.15),
        must=frozenset(i for i in range(n) if i not in read or rng.random() < 0.2),
        scratch=tuple(int(s) for s in UNIT * rng.choice([0, 0, 0, 1], n)) if seed % 3 == 0 else (),
    )


def budgets(graph: Graph, seed: int) -> int:
    """Return a budget: too small, just enough, or somewhere up to what the plain order takes."""
    low, high = fewest(graph)[0], peak(graph, plain_order(graph))
    return [low - UNIT, low, low + UNIT, (low + high) // 2, low][seed % 5]


def least_price(graph: Graph, budget: int, *, staged: bool) -> float:
    """Return the least price by Dijkstra's algorithm: every drop and every run is a move of its own.

    A state is what has run, what is held, and, in stages, which call has run last in this stage.
    """
    n, wanted = len(graph), set(plain_order(graph))
    start = frozenset[int](), frozenset[int](), -1
    best = {start: 0.0}
    tie = count()
    heap = [(0.0, next(tie), start)]
    while heap:
        spent, _, state = heappop(heap)
        if spent > best[state]:
            continue
        done, held, slot = state
        if done == wanted and graph.kept <= held:
            return spent
        moves = [(0.0, (done, held - {i}, slot)) for i in held if graph.nbytes[i]]
        upcoming = min(wanted - done, default=n)
        for i in wanted:
            again = i in done
            if not {*graph.needs[i]} <= held or (again and (i in graph.once or i in held)):
                continue
            if not again and i in graph.once and any(j < i for j in (graph.once & wanted) - done):
                continue
            if staged and (i <= slot or i > upcoming):
                continue
            to = done | {i}, held | {i}, (i if again else -1) if staged else -1
            taken = sum(graph.nbytes[k] for k in to[1])
            taken += graph.scratch[i] if graph.scratch else 0
            if taken <= budget:
                moves.append((graph.cost[i], to))
            if graph.reuses[i] and taken - graph.nbytes[i] <= budget:
                moves += [(graph.cost[i], (to[0], to[1] - {r}, to[2])) for r in graph.reuses[i]]
        for cost, to in moves:
            if spent + cost < best.get(to, inf):
                best[to] = spent + cost
                heappush(heap, (spent + cost, next(tie), to))
    return inf


def as_graph(graph: Graph) -> Graph:
    """Return a graph whose calls are the steps of another."""
    steps = joined(graph)
    return Graph(
        needs=tuple(tuple(step.needs) for step in steps),
        nbytes=tuple(step.nbytes for step in steps),
        cost=tuple(step.cost for step in steps),
        reuses=tuple(tuple(step.reuses) for step in steps),
        kept=frozenset(k for k, step in enumerate(steps) if step.kept),
        once=frozenset(k for k, step in enumerate(steps) if step.once),
        must=frozenset(range(len(steps))),
        scratch=tuple(step.scratch for step in steps),
    )


def paid(graph: Graph, sequence: list[int] | None, budget: int) -> float:
    if sequence is None:
        return inf
    assert peak(graph, sequence) <= budget
    return price(graph, sequence)


CHAIN = Graph(
    needs=((), (0,), (1,), (0, 2)),
    nbytes=(8, 8, 16, 16),
    cost=(1, 1, 1, 1),
    reuses=((), (), (), (2,)),
    kept=frozenset({3}),
)


def network(depth: int) -> Graph:
    """Return a step of a network: products, activations in place, and backwards with gradients kept."""
    needs: list[tuple[int, ...]] = []
    nbytes: list[int] = []
    reuses: list[tuple[int, ...]] = []

    def call(*operands: int, size: int = 6, over: tuple[int, ...] = ()) -> int:
        needs.append(operands)
        nbytes.append(size * UNIT)
        reuses.append(over)
        return len(needs) - 1

    kept, outputs = [], []
    for k in range(depth):
        product = call(*outputs[-1:])
        outputs.append(call(product, size=6 + k % 2, over=() if k % 2 else (product,)))
    cotangent = call(outputs[-1])
    for k in reversed(range(depth)):
        slope = call(outputs[k])
        cotangent = call(slope, cotangent, over=(slope, cotangent))
        kept.append(call(cotangent, *outputs[k - 1 : k], size=2))
        if k:
            cotangent = call(cotangent)
    heavy = {i for i, each in enumerate(nbytes) if each == 6 * UNIT}
    cost = tuple(10.0 if i in heavy else 1.0 for i in range(len(needs)))
    return Graph(tuple(needs), tuple(nbytes), cost, tuple(reuses), frozenset(kept))


@pytest.mark.parametrize("start", range(0, 150, 25))
def test_as_cheap_as_the_cheapest_of_all(start: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(start, start + 25):
        graph = drawn(seed)
        budget = budgets(graph, seed)
        anyhow = paid(graph, search(graph, budget), budget)
        assert anyhow == least_price(graph, budget, staged=False), seed
        found = exact(graph, budget)
        with monkeypatch.context() as patch:  # what the programme finds, with what nobody reads
            patch.setattr(exact_module, "tidied", lambda graph, sequence: sequence)
            staged = paid(graph, exact(graph, budget), budget)
        rest = price(graph, plain_order(graph)) - sum(step.cost for step in joined(graph))
        expected = rest + least_price(as_graph(graph), budget, staged=True)
        if peak(graph, plain_order(graph)) <= budget:
            expected = price(graph, plain_order(graph))
        assert staged == expected, seed
        assert anyhow <= paid(graph, found, budget) <= staged


@pytest.mark.parametrize("start", range(0, 60, 20))
def test_in_fewer_bytes_there_is_none(start: int) -> None:
    for seed in range(start, start + 20):
        graph = drawn(seed)
        (fewest_bytes, one), (least_bytes, other) = fewest(graph), least(graph)
        assert (peak(graph, one), peak(graph, other)) == (fewest_bytes, least_bytes)
        assert search(graph, fewest_bytes - UNIT) is None
        assert exact(graph, least_bytes - UNIT) is None
        assert exact(graph, least_bytes) is not None
        assert least_price(graph, fewest_bytes - UNIT, staged=False) == inf
        assert least_price(graph, fewest_bytes, staged=False) < inf


def test_more_bytes_are_never_dearer() -> None:
    for graph in (network(2), network(3)):
        low, _ = least(graph)
        high = peak(graph, plain_order(graph))
        assert low < high
        prices = [
            paid(graph, exact(graph, budget), budget) for budget in range(low, high + 1, 2 * UNIT)
        ]
        assert prices == sorted(prices, reverse=True)
        assert prices[0] > price(graph, plain_order(graph))


def test_a_result_in_the_memory_of_its_operand_counts_once() -> None:
    chain = Graph(((), (0,), (1,)), (8, 8, 8), (1, 1, 1), ((), (0,), (1,)), frozenset({2}))
    assert least(chain) == fewest(chain) == (8, [0, 1, 2])
    apart = Graph(chain.needs, chain.nbytes, chain.cost, ((), (), ()), chain.kept)
    assert least(apart)[0] == fewest(apart)[0] == 16


def test_joined_calls_are_made_together_and_those_without_memory_once() -> None:
    # 1 in the memory of 0, 4 in that of 3
    graph = Graph(
        needs=((), (0,), (1,), (1,), (1, 3)),
        nbytes=(8, 8, 0, 16, 16),
        cost=(1, 1, 1, 1, 1),
        reuses=((), (0,), (), (), (3,)),
        kept=frozenset({2, 4}),
        once=frozenset({2}),
    )
    steps = joined(graph)
    assert [step.calls for step in steps] == [[0, 1, 2], [3, 4]]
    assert spread(steps, [0, 1, 0]) == [0, 1, 2, 3, 4, 0, 1]


def test_a_run_for_calls_without_memory_alone_need_not_be_more() -> None:
    # 0 runs first for 1 alone, and again for 3, which would be in the way of 2 and 4.
    graph = Graph(
        needs=((), (0,), (), (0, 1), (1,)),
        nbytes=(24, 0, 16, 24, 24),
        cost=(8, 6, 1, 4, 7),
        reuses=((), (), (), (0,), ()),
        kept=frozenset({3}),
        must=frozenset({2, 4}),
    )
    found = search(graph, 24)
    assert found is not None
    assert price(graph, found) == least_price(graph, 24, staged=False) == 34


def test_what_nobody_asks_for_is_not_run() -> None:
    graph = Graph(((), (), (0,)), (8, 800, 8), (1, 1, 1), ((), (), ()), frozenset({2}))
    assert exact(graph, 16) == search(graph, 16) == [0, 2]


def test_nothing_to_run() -> None:
    empty = Graph((), (), (), (), frozenset())
    assert exact(empty, 0) == search(empty, 0) == []
    assert least(empty) == fewest(empty) == (0, [])


def test_the_same_answer_each_time() -> None:
    graph = network(2)
    budget, order = least(graph)
    assert (budget, order) == least(graph)
    assert exact(graph, budget) == exact(graph, budget)


def test_no_proof_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_module, "MOVES", 3)
    with pytest.raises(UnprovenError, match="not ended after 3 moves"):
        search(CHAIN, 24)
    monkeypatch.setattr(exact_module, "LARGEST", 2)
    with pytest.raises(UnprovenError, match="4 calls are too many"):
        exact(CHAIN, 24)
    with pytest.raises(UnprovenError, match="up to 2"):
        least(CHAIN)


def test_the_solver_stopped_early_is_no_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    from scipy import optimize

    milp = optimize.milp

    def stopped(*args: object, **kwargs: object) -> object:
        found = milp(*args, **kwargs)
        found.status = 4  # what HiGHS answers at its limit of nodes, with the best so far
        return found

    monkeypatch.setattr(optimize, "milp", stopped)
    with pytest.raises(UnprovenError, match="did not prove"):
        exact(CHAIN, 24)


def test_without_scipy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    assert exact(CHAIN, 32) == [0, 1, 2, 3]
    with pytest.raises(UnprovenError, match="SciPy"):
        exact(CHAIN, 31)
    assert search(CHAIN, 31) == [0, 1, 2, 0, 3]
