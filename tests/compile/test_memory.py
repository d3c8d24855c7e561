"""What a compiled step holds: one block, as large as it must be, and nothing beside it."""

from __future__ import annotations

import gc
import tracemalloc
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from support import step_of

import thriftgrad as tg
from thriftgrad import nn, optim
from thriftgrad.units import show_bytes

KIB = 1024


def training(sizes: list[int], batch: int, way: str, **options: Any) -> tuple[Any, Any, Any]:
    """Return a compiled step of a network, and its arguments."""
    rng = np.random.default_rng(0)
    layers: list[Any] = []
    for k, (inputs, outputs) in enumerate(pairwise(sizes)):
        layers += [nn.Linear(inputs, outputs, rng=k), nn.sigmoid if way == "SGD" else nn.relu]
    model = nn.Sequential(*(layers if way == "SGD" else layers[:-1]))
    x = rng.random((batch, sizes[0]), np.float32)
    labels = rng.integers(0, sizes[-1], batch)
    loss, optimizer, y = nn.cross_entropy, optim.Adam(model.parameters(), lr=1e-3), labels
    if way == "SGD":
        y = np.eye(sizes[-1], dtype=np.float32)[labels]
        loss, optimizer = nn.mse, optim.SGD(model.parameters(), lr=0.1)
    step = tg.compile(step_of(model, optimizer, loss), **options)
    step(x, y)
    return step, x, y


NETWORKS = {
    "784-30-10 sigmoid, SGD": ([784, 30, 10], 100, "SGD"),
    "784-512-512-10 ReLU, Adam": ([784, 512, 512, 10], 128, "Adam"),
    "64-[32]x20-10 ReLU, Adam": ([64, *[32] * 20, 10], 16, "Adam"),
}


def most_at_once(memory: Any) -> int:
    """Return the largest sum of buffers in use, by looking at every call."""
    calls = max(each.last for each in memory.buffers) + 1
    return max(
        sum(each.nbytes for each in memory.buffers if each.first <= k <= each.last)
        for k in range(calls)
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_the_block_is_little_more_than_what_is_in_use_at_once(name: str) -> None:
    step, *_ = training(*NETWORKS[name])
    memory = step.memory
    assert most_at_once(memory) <= memory.most_alive <= memory.block <= 1.1 * most_at_once(memory)


@pytest.mark.parametrize(
    ("name", "runs", "kernels"),
    [
        ("784-30-10 sigmoid, SGD", 1000, "numpy"),
        ("784-512-512-10 ReLU, Adam", 60, "numpy"),
        ("784-512-512-10 ReLU, Adam", 60, "numba"),
    ],
)
def test_replays_hold_nothing_beside_the_block(name: str, runs: int, kernels: str) -> None:
    if kernels == "numba":
        pytest.importorskip("numba")
    step, x, y = training(*NETWORKS[name], kernels=kernels)
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        # Python itself keeps up to 2,000 tuples of each length for later, until it collects garbage.
        for _ in range(2200 if runs >= 1000 else 20):
            step(x, y)
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        for _ in range(runs):
            step(x, y)
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        gc.enable()
    assert after - before < (1 if runs >= 1000 else 16) * KIB
    assert peak - before <= 64 * KIB


def test_what_stays_behind_a_first_call_is_the_block() -> None:
    """Of the values that were seen while recording, none is kept."""
    sizes, batch, way = [256, 512, 512, 10], 2048, "SGD"
    training([256, 8, 10], 4, way)  # imports and caches
    gc.collect()
    tracemalloc.start()
    try:
        step, x, y = training(sizes, batch, way)
        gc.collect()
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    parameters = sum(4 * (n + 1) * m for n, m in pairwise(sizes))
    assert held <= step.memory.block + parameters + x.nbytes + y.nbytes + 512 * KIB


def test_what_lies_outside_the_block_goes_after_its_last_use() -> None:
    """In `y + np.roll(y, 1)`, made 50 times, each roll is needed once: two of them are never held."""

    @tg.compile
    def smoothed(x):
        y = x
        for _ in range(50):
            y = 0.5 * (y + np.roll(y, 1)[::-1])
        return y

    x = np.random.default_rng(0).normal(size=10_000)
    smoothed(x)
    tracemalloc.start()
    smoothed(x)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(smoothed.memory.outside) == 50
    assert peak < 3 * x.nbytes  # the result, one roll, and one being made


def test_the_picture_shows_every_array_where_it_lies() -> None:
    pytest.importorskip("matplotlib")
    step, *_ = training(*NETWORKS["784-30-10 sigmoid, SGD"])
    memory = step.memory
    axes = memory.draw()
    drawn = [path.vertices for each in axes.collections for path in each.get_paths()]
    assert len(drawn) == len(memory.buffers)
    assert f"at most {show_bytes(memory.most_alive)} in use" in axes.figure.axes[0].get_title(
        "left"
    )
    for each in memory.buffers:
        if each.room > 0.01 * memory.block:
            corner = (each.first, each.offset)
            far = (each.last + 1, each.offset + each.room)
            assert any(tuple(v[0]) == corner and tuple(v[2]) == far for v in drawn)


def test_the_picture_goes_to_a_file_and_into_axes(tmp_path: Any) -> None:
    matplotlib = pytest.importorskip("matplotlib.figure")
    step, *_ = training([8, 6, 4], 3, "SGD")
    step.memory.draw(tmp_path / "block.png")
    assert (tmp_path / "block.png").stat().st_size > 1000
    axes = matplotlib.Figure().add_subplot()
    assert step.memory.draw(axes=axes) is axes
    assert "arrays, at most" in axes.get_title(loc="left")


def test_the_table_names_what_lies_in_the_block() -> None:
    step, *_ = training([8, 6, 4], 3, "SGD")
    lines = str(step.memory).splitlines()
    assert lines[0].startswith("block of ")
    assert len(lines) == 2 + len(step.memory.buffers) + len(step.memory.outside)
    for each in step.memory.buffers:
        assert any(line.endswith(f"  {each.name}") for line in lines[2:])
    assert step.memory._repr_html_() == f"<pre>{step.memory}</pre>"
