"""Arrays that share memory with those that a program writes into.

A program writes into a parameter once its gradient is there, while the function that it was recorded from
did so at its end. An array that the program reads later than that must not lie in the same memory, or it
would be read as it is to be and not as it was. To look for that costs less than a microsecond where, as
nearly always, arrays own their memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import is_
from typing import Any

import numpy as np

from thriftgrad.compile.program import Input
from thriftgrad.errors import RecordError
from thriftgrad.memory.execute import owner


class Apart:
    """What of a program's inputs may share memory with what it writes into.

    Args:
        inputs: of the program.
        refused: those that the recorded function itself reads after a write.
        copied: those that only the program does. They are read from a copy where they share memory.
    """

    def __init__(
        self, inputs: Sequence[Input], refused: Iterable[int], copied: Iterable[int]
    ) -> None:
        self._inputs = inputs
        self._written = [i for i, each in enumerate(inputs) if each.final is not None]
        self._refused = set(refused).difference(self._written)
        late = self._refused.union(copied).difference(self._written) if self._written else ()
        self._late = [i for i in sorted(late) if not inputs[i].variable.number]
        self._known: Sequence[Any] = [None] * len(self._written)  # what is written into
        self._owners: set[int] = set()
        self._foreign = False  # whether some of it lies in memory that does not belong to an array

    def checked(self, bound: list[Any]) -> list[Any]:
        """Return the inputs of a run, with copies in the place of those that share memory.

        Raises:
            RecordError: two arrays that are written into share memory; or an array that is read after a
                write shares memory with one that is written into.
        """
        written = [bound[i] for i in self._written]
        if not all(map(is_, written, self._known)):
            self._learn(written)
        given = bound
        for i in self._late:
            array = bound[i]
            base = getattr(array, "base", None)
            root = array if base is None else base
            is_plain = type(root) is np.ndarray and root.base is None and not self._foreign
            if is_plain and id(root) not in self._owners:
                continue
            j = next((j for j in self._written if _touch(array, bound[j])), None)
            if j is None:
                continue
            if i in self._refused:
                raise RecordError(
                    f"{self._inputs[i].name} shares memory with {self._inputs[j].name}, which the compiled "
                    f"function writes into before it reads the former; give it a copy"
                )
            given = [*given]
            given[i] = np.array(array)
        return given

    def _learn(self, written: list[Any]) -> None:
        """Look at arrays that have not been written into before."""
        spans = []
        for i, array in zip(self._written, written, strict=True):
            low, high = np.lib.array_utils.byte_bounds(array)
            if array.size:
                spans.append((low, high, i, array))
        spans.sort(key=lambda each: each[:3])
        for n, (_, high, i, array) in enumerate(spans):
            for low, _, j, other in spans[n + 1 :]:
                if low >= high:
                    break
                if _share(array, other):
                    raise RecordError(
                        f"{self._inputs[i].name} and {self._inputs[j].name} share memory, and the compiled "
                        f"function writes into both; make them one, or give each an array of its own"
                    )
        owners = [owner(array) for array in written]
        self._owners = set(map(id, owners))
        self._foreign = not all(type(o) is np.ndarray and o.flags.owndata for o in owners)
        self._known = written


def _touch(read: Any, written: Any) -> bool:
    return isinstance(read, np.ndarray) and np.may_share_memory(read, written)


def _share(a: Any, b: Any) -> bool:
    try:
        return np.shares_memory(a, b, max_work=_WORK)
    except np.exceptions.TooHardError:
        return True


_WORK: Any = 10_000
"""What an exact answer may cost; without one, arrays whose spans overlap are taken to share memory."""
