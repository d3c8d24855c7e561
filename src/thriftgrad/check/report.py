"""What a check has found, as data, as a table for a terminal, and as HTML for a notebook."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any, NamedTuple, Self

from thriftgrad.errors import GradientError

WIDTH = 100


@dataclass(frozen=True)
class Entry:
    """One entry of a gradient: its index in the block, and the two values for it."""

    index: tuple[Any, ...]
    analytic: float
    numeric: float

    @property
    def difference(self) -> float:
        """|analytic − numeric|."""
        return abs(self.analytic - self.numeric)


class Finding(NamedTuple):
    """A mistake that would explain what was measured.

    Attributes:
        name: what it is, in a few words.
        evidence: what speaks for it.
        blocks: names of the blocks it was found in.
    """

    name: str
    evidence: str
    blocks: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.name} ({', '.join(self.blocks)}): {self.evidence}"


@dataclass
class Block:
    """The comparison of one block of parameters: one array of the tree that was differentiated.

    With a the analytic gradient and n the numeric one, over the entries that were compared:

    Attributes:
        name: where the array is: `params['w']`, `model.0.weight`.
        shape: of the array.
        entries: how many it has.
        checked: how many were compared one by one.
        directions: along how many random directions the whole block was compared; 0 where every
            entry was.
        difference: ‖a − n‖ / (‖a‖ + ‖n‖).
        mean_relative, max_relative: of |a − n| / (|a| + |n|), where entries that pass and are too
            small to be measured to the tolerance count relative to what could be.
        total_difference: Σ |a − n|.
        worst: the entry that is furthest beyond what rounding explains; None if none was compared.
        error: ‖estimated error of n‖ / ‖a‖, which says how small a mistake would have been seen.
        wrong: how many comparisons failed.
        kinks: entries at which the function has a kink, so that there is no derivative to compare
            with. Their `numeric` is the mean of the slopes on both sides. They are in no other number.
        kinked_directions: how many of the directions ran into kinks, and were not compared.
        method: "complex step" or "differences", or another library's name.
        problem: what keeps the block from being compared at all, such as a wrong shape; else "".
    """

    name: str
    shape: tuple[int, ...]
    entries: int
    checked: int = 0
    directions: int = 0
    difference: float = 0.0
    mean_relative: float = 0.0
    max_relative: float = 0.0
    total_difference: float = 0.0
    worst: Entry | None = None
    error: float = 0.0
    wrong: int = 0
    kinks: list[Entry] = field(default_factory=list)
    kinked_directions: int = 0
    method: str = "differences"
    problem: str = ""

    @property
    def ok(self) -> bool:
        """Whether nothing wrong was found."""
        return not self.wrong and not self.problem

    @property
    def verdict(self) -> str:
        """`wrong`, `kinks` if there was little else to compare, `unsure` or `ok`.

        Unsure is a block in which a mistake of a hundredth would not have been seen.
        """
        if not self.ok:
            return "wrong"
        if self.kinks and len(self.kinks) >= self.checked:
            return "kinks"
        return "unsure" if self.error > 0.01 else "ok"


@dataclass
class Report:
    """What `gradients` or `compare` has found. It prints as a table.

    Attributes:
        function: the function's name.
        against: what the gradient was compared with.
        blocks: the comparison of each block.
        findings: mistakes that would explain what is wrong, the likeliest first.
        evaluations: how often the function was called for the comparison.
        tolerance: relative difference allowed beside the estimated errors.
        unexplained: what to say where something is wrong and there are no findings.
    """

    function: str
    against: str
    blocks: list[Block]
    findings: list[Finding] = field(default_factory=list)
    evaluations: int = 0
    tolerance: float = 1e-6
    unexplained: str = ""

    @property
    def ok(self) -> bool:
        """Whether no block is wrong."""
        return all(block.ok for block in self.blocks)

    @property
    def diagnosis(self) -> str:
        """The names of the findings; empty where nothing is wrong or no pattern is known."""
        return "; ".join(dict.fromkeys(finding.name for finding in self.findings))

    def raise_if_wrong(self) -> Self:
        """Return this report if it is ok.

        Raises:
            GradientError: it is not; the message is the table.
        """
        if not self.ok:
            raise GradientError(f"\n{self}")
        return self

    def __str__(self) -> str:
        rows = [list(_HEADINGS), *(_row(block) for block in self.blocks)]
        room = WIDTH - sum(_width(rows, i) + 2 for i in range(1, len(_HEADINGS)))
        for row in rows:
            row[0] = row[0] if len(row[0]) <= room else "…" + row[0][-(room - 1) :]
        widths = [_width(rows, i) for i in range(len(_HEADINGS))]
        left = {0, len(_HEADINGS) - 1}
        lines = [
            "  ".join(
                cell.ljust(w) if i in left else cell.rjust(w)
                for i, (cell, w) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        ]
        notes = [line for note in self._notes() for line in _wrapped(note)]
        return "\n".join([*_wrapped(self._headline()), *lines, *notes])

    def _repr_html_(self) -> str:
        def line(cells: Sequence[str], tag: str, style: str = "") -> str:
            inner = "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells)
            return f"<tr{style}>{inner}</tr>"

        colours = {"wrong": "#f8d7c8", "kinks": "#fdf0c8", "unsure": "#fdf0c8"}
        body = [
            line(
                [_cells[0], str(block.shape), *_cells[1:]],
                "td",
                f' style="background:{colours[block.verdict]};color:#222"'
                if block.verdict in colours
                else "",
            )
            for block in self.blocks
            for _cells in [_row(block)]
        ]
        head = line([_HEADINGS[0], "shape", *_HEADINGS[1:]], "th")
        notes = "".join(f"<li>{escape(note)}</li>" for note in self._notes())
        return (
            f"<p><b>{escape(self._headline())}</b></p>"
            f"<table><thead>{head}</thead><tbody>{''.join(body)}</tbody></table>"
            + (f"<ul>{notes}</ul>" if notes else "")
        )

    def _headline(self) -> str:
        wrong = [block for block in self.blocks if not block.ok]
        entries = sum(block.entries for block in self.blocks)
        result = f"{len(wrong)} of {_count(len(self.blocks), 'block')} WRONG" if wrong else "ok"
        return f"gradient of {self.function}, {_count(entries, 'entry')}, {self.against}: {result}"

    def _notes(self) -> list[str]:
        notes = [f"{block.name}: {block.problem}" for block in self.blocks if block.problem]
        for block in self.blocks:
            if block.kinks:
                shown = ", ".join(str(entry.index) for entry in block.kinks[:4])
                more = ", ..." if len(block.kinks) > 4 else ""
                notes.append(
                    f"{block.name}: the function has a kink at {_count(len(block.kinks), 'entry')}, "
                    f"where there is no derivative to compare with: {shown}{more}"
                )
            if block.kinked_directions:
                notes.append(
                    f"{block.name}: {block.kinked_directions} of {block.directions} directions ran "
                    f"into kinks and were not compared"
                )
            if block.verdict == "unsure":
                notes.append(
                    f"{block.name}: unsure, since the values are exact enough only for mistakes "
                    f"larger than {block.error:.0%} of the gradient to show"
                )
        if self.findings:
            notes += [f"probably {finding}" for finding in self.findings]
            named = {name for finding in self.findings for name in finding.blocks}
            rest = [block.name for block in self.blocks if not block.ok and block.name not in named]
            if rest:
                notes.append(f"not explained, but it may follow from that: {', '.join(rest)}")
        elif self.unexplained and any(not b.ok and not b.problem for b in self.blocks):
            notes.append(self.unexplained)
        return notes


_HEADINGS = (
    "block",
    "compared",
    "norm",
    "mean",
    "max",
    "total",
    "worst entry",
    "analytic",
    "numeric",
    "",
)


def _row(block: Block) -> list[str]:
    compared = (
        f"{block.checked}" if not block.directions else f"{block.checked}+{block.directions}d"
    )
    worst = block.worst
    return [
        block.name,
        compared,
        *(
            f"{x:.0e}" if block.checked + block.directions else ""
            for x in (
                block.difference,
                block.mean_relative,
                block.max_relative,
                block.total_difference,
            )
        ),
        "[" + ", ".join(map(str, worst.index)) + "]" if worst else "",
        f"{worst.analytic:.3e}" if worst else "",
        f"{worst.numeric:.3e}" if worst else "",
        block.verdict.upper() if block.verdict == "wrong" else block.verdict,
    ]


def _width(rows: Sequence[Sequence[str]], column: int) -> int:
    return max(len(row[column]) for row in rows)


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent="  ", break_long_words=False)


def _count(n: int, what: str) -> str:
    plural = what[:-1] + "ies" if what.endswith("y") else what + "s"
    return f"{n:,} {what if n == 1 else plural}"
