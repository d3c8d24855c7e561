"""The cheapest sequence of a small program's calls within a budget, of those that fall into stages.

A mixed-integer linear programme as in Checkmate. Stage t ends with the first run of call t, and may
before that run earlier calls again, each at most once and in the program's order; in a last stage, what
has to be there at the end may. Binary variables say which calls run in which stage.

Where Checkmate has variables for what is kept from stage to stage and for what is freed after which
run, here every value has a variable for each stretch between two runs that may make or read it: whether
it is held meanwhile. That says the same, needs no products of variables, follows from the runs (only
these have to be integers), and lets a result take the memory of an operand that ends with it.

What the stages rule out: another order of first runs, repeats of one call within a stage, and repeats
in another order. `search` looks at these too, and answers for fewer programs. Fixing the stages is what
makes the programme solvable: without it, its linear relaxation says next to nothing.

Source: Jain et al., "Checkmate: breaking the memory wall with optimal tensor rematerialization", MLSys
2020.
"""

from __future__ import annotations

from importlib import import_module
from math import gcd
from typing import Any

from thriftgrad.compile.budget.graph import Graph, UnprovenError, peak, tidied
from thriftgrad.compile.budget.steps import Step, joined, plain_order, spread

LARGEST = 20
"""Calls, where those best made together count as one (`steps.joined`): a training step of two or three
layers. Such a programme takes up to a second, nearly all of it before it branches; one of 30 took six."""

NODES = 20
"""Linear programmes that a solution may branch into: a count and not a time, for equal results anywhere."""


def exact(graph: Graph, budget: int) -> list[int] | None:
    """Return the cheapest sequence whose peak is within a budget of bytes, or None if there is none.

    Cheapest and none are meant within the stages above, and the price is least to 1e-9 of the program's.
    First runs that only the stages ask for, and nobody reads, are then left out.

    Raises:
        UnprovenError: there are more than `LARGEST` calls, `NODES` were not enough, or SciPy is not
            installed and the budget is too small for a plain order.

    Example:
        >>> graph = Graph(
        ...     needs=((), (0,), (1,), (0, 2)), nbytes=(8, 8, 16, 16), cost=(1, 1, 1, 1),
        ...     reuses=((), (), (), (2,)), kept=frozenset({3}),
        ... )
        >>> exact(graph, 32), exact(graph, 31), exact(graph, 23)
        ([0, 1, 2, 3], [0, 1, 2, 0, 3], None)
    """
    for order in _plain(graph):
        if peak(graph, order) <= budget:
            return order
    model = _Model(joined(graph))
    unit = gcd(*graph.nbytes, *graph.scratch) or 1
    # Half a unit more lets in no other sequence, and none is kept out by rounding.
    room = budget // unit * unit + unit / 2
    scale = max(budget, unit)
    for terms in model.memory:
        model.at_most([(v, b / scale) for v, b in terms], room / scale)
    costs = {v: model.steps[k].cost for k, v in model.runs}
    total = sum(step.cost for step in model.steps) or 1.0
    for v, cost in costs.items():
        model.objective[v] = 1000 * cost / total
    found = _solved(model, gap=0.0)
    if found is None:
        return None
    sequence = tidied(graph, model.sequence(found.x))
    if peak(graph, sequence) > budget:
        raise UnprovenError(
            f"the solver cannot tell {peak(graph, sequence)} bytes from a budget of {budget}"
        )
    return sequence


def least(graph: Graph) -> tuple[int, list[int]]:
    """Return the fewest bytes that a sequence in stages gets by with, and such a sequence.

    The sequence need not be the cheapest: `exact` with these bytes is.

    Raises:
        UnprovenError: there are more than `LARGEST` calls, `NODES` were not enough, or SciPy is not
            installed.

    Example:
        >>> graph = Graph(
        ...     needs=((), (0,), (1,), (0, 2)), nbytes=(8, 8, 16, 16), cost=(1, 1, 1, 1),
        ...     reuses=((), (), (), (2,)), kept=frozenset({3}),
        ... )
        >>> least(graph)
        (24, [0, 1, 2, 0, 3])
    """
    most, order = min((peak(graph, order), order) for order in _plain(graph))
    if not most:
        return 0, order
    model = _Model(joined(graph))
    share = model.variable(0.0, 1.0)  # of what the plain order takes
    model.objective[share] = 1.0
    for terms in model.memory:
        model.at_most([*((v, b / most) for v, b in terms), (share, -1.0)], 0.0)
    unit = gcd(*graph.nbytes, *graph.scratch)
    found = _solved(model, gap=unit / most / 2)
    if found is None:  # the program's own order, where joined calls cannot keep to it, is the best
        return most, order
    sequence = tidied(graph, model.sequence(found.x))
    bytes_ = peak(graph, sequence)
    proven = found.fun if found.mip_dual_bound is None else found.mip_dual_bound
    if proven * most <= bytes_ - unit:
        raise UnprovenError(f"the solver cannot tell {bytes_} bytes from {bytes_ - unit}")
    return bytes_, sequence


def _plain(graph: Graph) -> list[list[int]]:
    """Return sequences without repeats."""
    steps = joined(graph)
    return [plain_order(graph), spread(steps, range(len(steps)))]


# The programme


Terms = list[tuple[int, float]]
"""Variables with their coefficients."""


class _Model:
    """The constraints that hold whatever is asked for, and the variables that they are about.

    Attributes:
        runs: in the order of a sequence, steps and the variables that say whether they run there.
        memory: for each of these runs, the bytes that are alive meanwhile.
    """

    def __init__(self, steps: list[Step]) -> None:
        self.steps = steps
        self.low: list[float] = []
        self.high: list[float] = []
        self.objective: dict[int, float] = {}
        self.integers: list[int] = []
        self.rows: list[tuple[Terms, float]] = []
        self.runs: list[tuple[int, int]] = []
        self.memory: list[Terms] = []
        # for each step, the variable that says whether its value is there
        self.held: dict[int, int] = {}
        self.last = _last_stages(steps)
        for stage in range(len(steps) + 1):
            for k, step in enumerate(steps[:stage]):
                if step.nbytes and not step.once and stage <= self.last[k]:
                    self.run(k, stage)
            if stage < len(steps):
                self.run(stage, stage)
        for k, step in enumerate(steps):
            if step.kept:
                self.low[self.held[k]] = 1.0

    def variable(self, low: float, high: float) -> int:
        """Return a new variable with its bounds."""
        self.low.append(low)
        self.high.append(high)
        return len(self.low) - 1

    def at_most(self, terms: Terms, bound: float) -> None:
        """Add a constraint: the sum of the terms is at most so much."""
        self.rows.append((terms, bound))

    def run(self, k: int, stage: int) -> None:
        """Add what holds where step k may run, or must for the first time."""
        step = self.steps[k]
        runs = self.variable(float(k == stage), 1.0)
        self.runs.append((k, runs))
        if k < stage:
            self.integers.append(runs)
        alive: Terms = [(v, self.steps[i].nbytes) for i, v in self.held.items()]
        alive.append((runs, step.nbytes + step.scratch))
        ended: Terms = []  # operands whose memory the result may take
        for i in step.needs:
            before = self.held.pop(i)
            self.at_most([(runs, 1.0), (before, -1.0)], 0.0)
            if i in step.reuses:
                ended.append((before, -1.0))
            if stage <= self.last[i]:
                self.held[i] = after = self.variable(0.0, 1.0)
                self.at_most([(after, 1.0), (before, -1.0)], 0.0)
                if i in step.reuses:
                    ended.append((after, 1.0))
        if ended:
            shares = self.variable(0.0, 1.0)
            self.at_most([(shares, 1.0), (runs, -1.0)], 0.0)
            self.at_most([(shares, 1.0), *ended], 0.0)
            alive.append((shares, -step.nbytes))
        if step.nbytes:
            after = self.variable(0.0, 1.0)
            makes: Terms = [(after, 1.0), (runs, -1.0)]
            if k in self.held:  # what is there is not made
                makes.append((self.held[k], -1.0))
                self.at_most([(runs, 1.0), (self.held[k], 1.0)], 1.0)
            self.at_most(makes, 0.0)
            self.held[k] = after
        self.memory.append(alive)

    def sequence(self, values: Any) -> list[int]:
        """Return the calls that run, from the variables' values."""
        return spread(self.steps, [k for k, variable in self.runs if values[variable] > 0.5])


def _last_stages(steps: list[Step]) -> list[int]:
    """Return for each step the last stage in which somebody may read its value; the end is one, too."""
    last = [len(steps) if step.kept else -1 for step in steps]
    for k in reversed(range(len(steps))):
        again = steps[k].nbytes and not steps[k].once
        for i in steps[k].needs:
            last[i] = max(last[i], k, last[k] if again else k)
    return last


def _solved(model: _Model, gap: float) -> Any:
    """Return the solver's answer, to a relative gap; None if no sequence keeps to the constraints."""
    if len(model.steps) > LARGEST:
        raise UnprovenError(f"{len(model.steps)} calls are too many; up to {LARGEST} are taken")
    try:
        optimize = import_module("scipy.optimize")
        sparse = import_module("scipy.sparse")
    except ImportError as error:
        raise UnprovenError("SciPy is not installed") from error
    count = len(model.low)
    entries = [(r, v, c) for r, (terms, _) in enumerate(model.rows) for v, c in terms]
    rows, columns, coefficients = zip(*entries, strict=True)
    matrix = sparse.csr_array((coefficients, (rows, columns)), shape=(len(model.rows), count))
    integers = set(model.integers)
    found = optimize.milp(
        [model.objective.get(v, 0.0) for v in range(count)],
        integrality=[int(v in integers) for v in range(count)],
        bounds=optimize.Bounds(model.low, model.high),
        constraints=optimize.LinearConstraint(matrix, ub=[bound for _, bound in model.rows]),
        options={"mip_rel_gap": gap, "node_limit": NODES},
    )
    if found.status == 2:
        return None
    if found.status != 0:
        raise UnprovenError(
            f"{NODES} linear programmes did not prove a schedule best: {found.message}"
        )
    return found
