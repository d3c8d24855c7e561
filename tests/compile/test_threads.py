"""Small programs run on one thread of OpenBLAS, and leave the number of threads as it was."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import thriftgrad as tg
from thriftgrad.compile import threads


class Library:
    """What stands for OpenBLAS."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.set: list[int] = []

    def read(self) -> int:
        return self.count

    def write(self, count: int) -> None:
        self.count = count
        self.set.append(count)


@pytest.fixture
def library(monkeypatch: Any) -> Library:
    made = Library(2)
    monkeypatch.setattr(threads, "switches", lambda: ((made.read, made.write),))
    return made


def product(n: int) -> Any:
    return tg.compile(lambda x: x @ x), np.ones((n, n), np.float32)


def test_operations_of_products() -> None:
    counted: list[float] = []
    is_small = threads.is_small

    def counting(program: Any) -> bool:
        counted.append(threads.operations(program))
        return is_small(program)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threads, "is_small", counting)
        a, b = np.ones((5, 7)), np.ones((7, 11))
        tg.compile(lambda a, b: a @ b + 1)(a, b)
        tg.compile(lambda a, b: np.dot(a, b[:, 0]))(a, b)
        tg.compile(lambda a: np.matmul(a, np.swapaxes(a, 1, 2)))(np.ones((3, 5, 7)))
        tg.compile(lambda a: np.exp(a))(a)
    np.testing.assert_allclose(counted, [2 * 5 * 7 * 11, 2 * 5 * 7, 2 * 3 * 5 * 7 * 5, 0])


def test_a_small_program_turns_to_one_thread_and_back(library: Library) -> None:
    g, a = product(8)
    g(a)
    assert library.set == [1, 2]
    library.count = 1
    g(a)
    assert library.set == [1, 2]  # nothing to do


def test_a_large_one_and_one_without_products_do_not(library: Library) -> None:
    g, a = product(400)
    g(a)
    tg.compile(lambda x: np.exp(x))(a)
    assert library.set == []


def test_an_error_turns_back(library: Library) -> None:
    g, a = product(8)
    g(a)
    with np.errstate(all="raise"), pytest.raises(FloatingPointError):
        tg.compile(lambda x: np.exp(x @ x))(a * 1e3)
    assert library.count == 2


def test_programs_side_by_side_turn_back_once(library: Library) -> None:
    inside = threading.Barrier(2)
    first_is_out = threading.Event()

    def one() -> None:
        threads.on_one(lambda: inside.wait(5))()
        first_is_out.set()

    def other() -> None:
        def work() -> None:
            inside.wait(5)
            assert first_is_out.wait(5)
            assert library.count == 1

        threads.on_one(work)()

    with ThreadPoolExecutor(2) as pool:
        for future in [pool.submit(one), pool.submit(other)]:
            future.result()
    assert library.set == [1, 2]


def test_the_switches_that_there_are() -> None:
    controllers = pytest.importorskip("threadpoolctl")
    with controllers.threadpool_limits(2, user_api="blas"):
        before = [read() for read, _ in threads.switches()]
        g, a = product(8)
        g(a)
        assert [read() for read, _ in threads.switches()] == before
        found = {each["num_threads"] for each in controllers.threadpool_info()}
    assert set(before) <= found


def test_without_threadpoolctl_threads_are_left_alone(monkeypatch: Any) -> None:
    monkeypatch.setitem(__import__("sys").modules, "threadpoolctl", None)
    threads.switches.cache_clear()
    try:
        assert threads.switches() == ()
        work = object()
        assert threads.on_one(work) is work  # type: ignore[arg-type]
    finally:
        threads.switches.cache_clear()
