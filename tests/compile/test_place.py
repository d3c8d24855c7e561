"""Placing buffers: nothing overlaps, and the block is close to the least there can be."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from thriftgrad.compile.place import ALIGNMENT, Buffer, most_alive, place


def drawn(seed: int, count: int) -> list[Buffer]:
    rng = np.random.default_rng(seed)
    made = []
    for i in range(count):
        first = int(rng.integers(0, 2 * count))
        last = first + int(rng.integers(0, count))
        made.append(Buffer(f"b{i}", int(rng.integers(0, 40)) * 50, first, last))
    return made


def assert_apart(buffers: list[Buffer], block: int) -> None:
    for i, a in enumerate(buffers):
        assert a.offset % ALIGNMENT == 0
        assert 0 <= a.offset <= a.offset + a.nbytes <= block
        for b in buffers[:i]:
            if a.first <= b.last and b.first <= a.last and a.nbytes and b.nbytes:
                assert a.offset + a.nbytes <= b.offset or b.offset + b.nbytes <= a.offset


@pytest.mark.parametrize("seed", range(30))
def test_nothing_overlaps(seed: int) -> None:
    buffers = drawn(seed, 40)
    block = place(buffers)
    assert_apart(buffers, block)
    assert most_alive(buffers) <= block <= 1.35 * most_alive(buffers)


@pytest.mark.parametrize("seed", range(15))
def test_close_to_the_best_of_all_orders(seed: int) -> None:
    """Every placement is found by putting each buffer, in some order, as low as it fits."""
    buffers = drawn(seed, 6)
    best = min(_lowest(order) for order in permutations(buffers))
    assert most_alive(buffers) <= best <= place(buffers) <= 1.25 * best


def _lowest(order: tuple[Buffer, ...]) -> int:
    placed: list[tuple[int, Buffer]] = []
    for buffer in order:
        others = [(o, b) for o, b in placed if b.first <= buffer.last and buffer.first <= b.last]
        starts = sorted([0, *(o + b.room for o, b in others)])
        offset = next(
            s for s in starts if all(s + buffer.room <= o or o + b.room <= s for o, b in others)
        )
        placed.append((offset, buffer))
    return max(o + b.room for o, b in placed)


def test_most_alive() -> None:
    assert most_alive([]) == place([]) == 0
    assert most_alive([Buffer("a", 1, 0, 3), Buffer("b", 65, 2, 2), Buffer("c", 64, 4, 9)]) == 192
