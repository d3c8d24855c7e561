"""Programs within a budget: which results are dropped, and computed again when they are needed.

- `schedule`: the way in. A program becomes a graph, a sequence of its calls a program again, and of all
  sequences considered the cheapest is taken whose block is no larger than the budget.
- `graph`: calls as plain numbers, and what a sequence of them holds and costs.

Planners answer with sequences:

- `cuts`: for chains, such as deep networks, by the planners of `thriftgrad.memory`.
- `evict`: for any program, by a heuristic.
- `search`, `exact`: the cheapest of all for small programs, by A* and by a mixed-integer programme; both
  look at `steps`, calls that are best made together.
"""
