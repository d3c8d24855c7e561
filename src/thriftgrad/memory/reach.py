"""Which parameters a stage can reach; the sibling of `generators`, and it looks where that looks."""

from __future__ import annotations

from typing import Any

from thriftgrad.autodiff import Parameter
from thriftgrad.memory.generators import inside


def parameters_of(*roots: Any) -> list[Parameter]:
    """Return every parameter that `roots` can reach, each once, the nearest first.

    Example:
        >>> w = Parameter([1.0], name="w")
        >>> parameters_of([lambda x, w=w: x * w, lambda x: x @ w]) == [w]
        True
    """
    found: list[Parameter] = []
    # The objects themselves, as an id means something only as long as its object lives.
    seen: dict[int, Any] = {}
    queue = list(roots)
    for each in queue:
        if id(each) in seen or isinstance(each, str | int | float):
            continue
        seen[id(each)] = each
        if isinstance(each, Parameter):
            found.append(each)
        else:
            queue.extend(inside(each))
    return found
