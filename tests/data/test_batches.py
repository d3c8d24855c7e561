"""Batches cover the data once a pass, copy no more than themselves, and resume by generator."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thriftgrad.data import batches
from thriftgrad.errors import ConfigError, DataError


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 40),
    size=st.integers(1, 45),
    rng=st.one_of(st.none(), st.integers(0, 9)),
    drop_last=st.booleans(),
)
def test_a_pass_covers_the_data_once(n, size, rng, drop_last):
    x = np.arange(2 * n).reshape(n, 2)
    y = np.arange(n)
    if drop_last and size > n:
        with pytest.raises(ConfigError, match="nothing is left"):
            batches(x, y, size, rng, drop_last)
        return
    cut = batches(x, y, size, rng, drop_last)
    parts = list(cut)
    assert len(parts) == len(cut) == (n // size if drop_last else -(-n // size))
    assert all(len(a) == len(b) == size for a, b in parts[:-1])
    seen = np.concatenate([b for _, b in parts])
    assert (np.concatenate([a for a, _ in parts])[:, 0] == 2 * seen).all()
    assert len(set(seen.tolist())) == len(seen) == (n // size * size if drop_last else n)
    if rng is None:
        assert (seen == np.arange(len(seen))).all()


def test_in_order_batches_are_views_and_shuffled_ones_are_not():
    x = np.arange(10)
    assert all(np.shares_memory(x, batch) for batch in batches(x, size=3))
    assert not any(np.shares_memory(x, batch) for batch in batches(x, size=3, rng=0))


def test_without_y_a_batch_is_the_array_alone():
    assert [b.tolist() for b in batches(np.arange(3), size=2)] == [[0, 1], [2]]


def test_each_pass_is_a_fresh_permutation_and_a_seed_repeats_them():
    x = np.arange(100)
    one, two = batches(x, size=100, rng=7), batches(x, size=100, rng=np.random.default_rng(7))
    passes = [next(iter(one)).tolist() for _ in range(3)]
    assert passes == [next(iter(two)).tolist() for _ in range(3)]
    assert len(set(map(tuple, passes))) == 3


def test_the_generators_state_is_all_that_resuming_needs():
    x = np.arange(50)
    first = batches(x, size=7, rng=3)
    list(first)
    saved = first.rng.bit_generator.state
    rest = [b.tolist() for _ in range(2) for b in first]
    rng = np.random.default_rng()
    rng.bit_generator.state = saved
    again = batches(x, size=7, rng=rng)
    assert [b.tolist() for _ in range(2) for b in again] == rest


def test_a_pass_draws_when_it_is_begun():
    x = np.arange(50)
    one, two = batches(x, size=50, rng=3), batches(x, size=50, rng=3)
    early, late = iter(one), iter(one)
    assert next(late).tolist() != next(iter(two)).tolist()
    assert next(early).tolist() == next(iter(batches(x, size=50, rng=3))).tolist()


@pytest.mark.parametrize("rng", [None, 0])
def test_a_memory_map_gives_plain_arrays_in_the_same_order(tmp_path, rng):
    plain = np.arange(60, dtype=np.float32).reshape(20, 3)
    plain.tofile(tmp_path / "x")
    mapped = np.memmap(tmp_path / "x", np.float32, "r", shape=(20, 3))
    expected = list(batches(plain, size=6, rng=rng))
    for batch, same in zip(batches(mapped, size=6, rng=rng), expected, strict=True):
        assert type(batch) is np.ndarray
        assert not np.shares_memory(batch, mapped)
        assert batch.flags.writeable
        assert (batch == same).all()


@pytest.mark.parametrize("dtype", ["float32", ">f8", "i8", "bool", [("a", "i8"), ("b", "f4")]])
def test_shuffled_batches_are_rows_by_index_in_any_layout(dtype):
    plain = np.zeros((40, 3, 2), dtype)
    plain.view(np.uint8)[...] = np.random.default_rng(0).integers(0, 2, plain.view(np.uint8).shape)
    read_only = plain.copy()
    read_only.flags.writeable = False
    for x in (
        plain,
        np.asfortranarray(plain),
        plain[::2],
        plain[:, ::-1],
        plain[:, 0, 0],
        read_only,
    ):
        order = np.random.default_rng(5).permutation(len(x))
        for k, batch in enumerate(batches(x, size=7, rng=5)):
            expected = x[order[7 * k : 7 * k + 7]]
            assert type(batch) is np.ndarray
            assert batch.flags.writeable
            assert (batch.dtype, batch.shape) == (expected.dtype, expected.shape)
            assert np.array_equal(batch, expected)


def test_the_data_is_never_copied():
    x = np.zeros((1000, 1000))
    tracemalloc.start()
    try:
        for _ in batches(x, np.zeros(1000), size=10, rng=0):
            pass
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < x.nbytes / 10


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ((np.zeros(3), np.zeros(4)), DataError, "3 samples but y has 4"),
        ((np.zeros((0, 3)),), DataError, "empty"),
        ((["a", "b"],), DataError, "x is a list of <U1; expected numbers"),
        ((np.zeros(2), [[1], [1, 2]]), DataError, "y is a list that makes no array"),
        ((np.float64(1),), DataError, "x is a float64; expected .* one entry for each example"),
        ((np.zeros(3), None, 0), ConfigError, "at least 1; got 0"),
        ((np.zeros(3), None, 2.0), ConfigError, "whole number"),
        ((np.zeros(3), None, True), ConfigError, "whole number"),
        ((np.zeros(3), None, 2, "seed"), ConfigError, "seed"),
        ((np.zeros(3), None, 2, -1), ConfigError, "seed"),
        ((np.zeros(3), None, 2, True), ConfigError, "seed"),
    ],
)
def test_refuses(arguments, error, said):
    with pytest.raises(error, match=said):
        batches(*arguments)


def test_size_may_be_a_numpy_integer():
    assert len(batches(np.zeros(5), size=np.int64(2))) == 3


def test_one_batch_is_in_memory_at_a_time():
    x = np.zeros((40, 10_000))
    size = x[:10].nbytes
    tracemalloc.start()
    for batch in batches(x, size=10, rng=0):
        assert batch.nbytes == size
        del batch
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert size < peak < 1.1 * size
