"""Chains of unequal stages in the terms of the reference values, and at random."""

from random import Random
from typing import Any

from memory.chains import reference

from thriftgrad.memory.stages import Chain, Stage

ROWS: list[dict[str, Any]] = reference("heterogeneous_chains.json")["chains"]


def chain_of(row: dict[str, Any]) -> Chain:
    """Return a chain of the reference file: every tape contains its output and needs its input."""
    cw, cbw, fw, bw, ft, bt = (row[name] for name in ("cw", "cbw", "fw", "bw", "ft", "bt"))
    length = row["L"]
    return Chain(
        stages=tuple(
            Stage(
                output=cw[k + 1],
                cotangent=cw[k + 1],
                tape=cbw[k + 1] - cw[k + 1],
                needs_input=True,
                forward_extra=ft[k],
                tape_extra=ft[k],
                backward_extra=bt[k],
                forward_seconds=fw[k],
                tape_seconds=fw[k],
                backward_seconds=bw[k],
            )
            for k in range(length)
        ),
        input=cw[0],
        input_cotangent=cw[0],
        loss_extra=bt[length],
        loss_seconds=bw[length],
    )


def random_chain(seed: int, length: int, unit: int = 1) -> Chain:
    """Return a chain like those of the reference file, its sizes multiples of a unit or nearly so."""
    random = Random(seed)

    def sizes(low: int, high: int, count: int) -> list[int]:
        return [
            random.randint(low, high) * unit + random.randint(0, unit // 9) for _ in range(count)
        ]

    cw = sizes(1, 6, length + 1)
    return chain_of(
        {
            "L": length,
            "cw": cw,
            "cbw": [a + b for a, b in zip(cw, sizes(0, 5, length + 1), strict=True)],
            "fw": [random.randint(1, 9) for _ in range(length)],
            "bw": [random.randint(1, 18) for _ in range(length + 1)],
            "ft": sizes(0, 3, length),
            "bt": sizes(0, 3, length + 1),
        }
    )
