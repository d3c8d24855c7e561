"""What lies where in the block of a compiled function, and when: as a table, and as a picture."""

from __future__ import annotations

import os
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from thriftgrad.compile.place import Buffer
from thriftgrad.units import show_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Memory:
    """What lies where, and when, in the block of a compiled function.

    Attributes:
        block: size of the block in bytes.
        most_alive: the largest sum of what is needed at once; no block is smaller.
        buffers: what lies in it, in the order of first use. Times count the calls of the program.
        outside: what NumPy can only make outside of the block, name and bytes.

    Example:
        >>> import numpy as np, thriftgrad as tg
        >>> f = tg.compile(lambda x: x @ x @ x)
        >>> _ = f(np.eye(100))
        >>> print(f.memory)
        block of 160 kB; at most 160 kB are needed at once
              offset        bytes       calls  array
                   0       80,000         0-1  matmul
              80,000       80,000         1-2  matmul_2
    """

    block: int
    most_alive: int
    buffers: tuple[Buffer, ...]
    outside: tuple[tuple[str, int], ...]

    def __str__(self) -> str:
        rows = [
            f"block of {show_bytes(self.block)}; at most {show_bytes(self.most_alive)} are needed at once",
            f"{'offset':>12} {'bytes':>12} {'calls':>11}  array",
        ]
        for each in self.buffers:
            calls = f"{each.first}-{each.last}"
            rows.append(f"{each.offset:>12,} {each.nbytes:>12,} {calls:>11}  {each.name}")
        rows += [f"{'outside':>12} {nbytes:>12,} {'':>11}  {name}" for name, nbytes in self.outside]
        return "\n".join(rows)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"

    def draw(self, path: str | os.PathLike[str] | None = None, *, axes: Axes | None = None) -> Axes:
        """Draw the block: a rectangle for each array, from its first call to its last.

        Args:
            path: a PNG, SVG or PDF file to write.
            axes: draw into these instead of a new figure.

        Raises:
            MissingExtraError: matplotlib is not installed.
            OSError: the file cannot be written.
        """
        from thriftgrad.plots.block import Piece, block

        pieces = [
            Piece(each.name, _kind(each.name), each.offset, each.room, each.first, each.last)
            for each in self.buffers
        ]
        return block(pieces, size=self.block, path=path, axes=axes)


def _kind(name: str) -> str:
    if "grad_" in name:
        return "gradients"
    return "scratch" if name.startswith("scratch") else "values"
