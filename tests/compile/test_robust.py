"""Whatever is done to a compiled function, it does what the function would: eager beside compiled."""

from __future__ import annotations

import copy
import os
import pickle
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st
from oracle.programs import Program, programs
from support import step_of

import thriftgrad as tg
from thriftgrad import nn, optim
from thriftgrad.errors import BudgetError

BATCH, INPUTS, CLASSES = 8, 12, 5


class Training:
    """A model, its optimiser, and a step, which may be compiled."""

    def __init__(self, compiled: bool, dtype: Any = np.float64, **options: Any) -> None:
        self.model = nn.Sequential(
            nn.Linear(INPUTS, 9, rng=0, dtype=dtype),
            np.tanh,
            nn.Linear(9, 7, rng=1, dtype=dtype),
            nn.relu,
            nn.Linear(7, CLASSES, rng=2, dtype=dtype),
        )
        self.optimizer = optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9)
        self.function = step_of(self.model, self.optimizer, nn.cross_entropy)
        self.step = tg.compile(self.function, **options) if compiled else self.function

    def parameters(self) -> list[np.ndarray]:
        return [p.value.copy() for p in self.model.parameters()]


def both(dtype: Any = np.float64) -> tuple[Training, Training]:
    return Training(False, dtype), Training(True, dtype)


def batch(seed: int, dtype: Any = np.float64) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(BATCH, INPUTS)).astype(dtype), rng.integers(0, CLASSES, BATCH)


def assert_alike(eager: Training, compiled: Training, tolerance: float = 1e-12) -> None:
    for a, b in zip(eager.parameters(), compiled.parameters(), strict=True):
        assert a.dtype == b.dtype
        assert np.linalg.norm(a - b) <= tolerance * np.linalg.norm(a)


# What is passed in


def unaligned(x: np.ndarray) -> np.ndarray:
    room = np.zeros(x.nbytes + 1, np.uint8)[1:]
    result = room.view(x.dtype).reshape(x.shape)
    result[...] = x
    return result


def with_gaps(x: np.ndarray) -> np.ndarray:
    wide = np.full((2 * x.shape[0], 3 * x.shape[1]), np.nan, x.dtype)
    wide[::2, ::3] = x
    return wide[::2, ::3]


def read_only(x: np.ndarray) -> np.ndarray:
    x = x.copy()
    x.flags.writeable = False
    return x


LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "in the order of Fortran": np.asfortranarray,
    "with gaps": with_gaps,
    "backwards": lambda x: x[::-1, ::-1].copy()[::-1, ::-1],
    "read-only": read_only,
    "not aligned": unaligned,
    "one row for all": lambda x: np.broadcast_to(x[:1], x.shape),
    "in the other byte order": lambda x: x.astype(x.dtype.newbyteorder()),
    "a view of a larger one": lambda x: np.vstack([x, x])[BATCH // 2 : -BATCH // 2],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_step_on_batches_of_any_layout(layout: str) -> None:
    eager, compiled = both()
    for seed in range(3):  # plain ones in between: the program of one layout must not serve another
        x, y = batch(seed)
        for each in (LAYOUTS[layout](x), x):
            wanted, found = (t.step(each, y).item() for t in (eager, compiled))
            assert found == pytest.approx(wanted, rel=1e-12)
    assert_alike(eager, compiled)


def test_arguments_that_share_memory() -> None:
    def f(x, y, z):
        return x @ y, np.tanh(x) + z, np.cumsum(y, axis=0) * z

    g = tg.compile(f)
    base = np.random.default_rng(0).normal(size=(7, 7))
    apart = base[:5, :5].copy(), base[1:6, :5].copy(), base[:5, 1:6].copy()
    cases = [
        (base[:5, :5], base[1:6, :5], base[:5, 1:6]),
        (base[:5, :5],) * 3,
        (base[:5, :5], base[:5, :5], base[:5, :5].T),
        apart,
    ]
    for _ in range(2):
        for case in cases:
            before = base.copy()
            for ours, theirs in zip(g(*case), f(*case), strict=True):
                np.testing.assert_allclose(ours, theirs, rtol=1e-12)
            np.testing.assert_array_equal(base, before)


def test_results_may_be_passed_in_again() -> None:
    def f(x, y):
        return np.tanh(x @ y), y + 0.1 * x

    g = tg.compile(f)
    ours = theirs = batch(0)[0][:, :BATCH].copy(), np.eye(BATCH)
    for _ in range(20):
        ours, theirs = g(*ours), f(*theirs)
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-11)


def test_a_batch_that_is_filled_anew() -> None:
    eager, compiled = both()
    x, y = np.empty((BATCH, INPUTS)), np.empty(BATCH, np.int64)
    for seed in range(5):
        x[...], y[...] = batch(seed)
        wanted = eager.step(x, y).item()
        assert compiled.step(x, y).item() == pytest.approx(wanted, rel=1e-12)
        x[...] = np.nan  # nothing may look at it between calls
    assert_alike(eager, compiled)


# What is changed between calls


def replaced(training: Training) -> None:
    weight = training.model[0].weight
    weight.value = weight.value + 0.5


def replaced_by_a_view(training: Training) -> None:
    weight = training.model[2].weight
    weight.value = np.repeat(weight.value, 2, axis=0)[::2]


def written_into(training: Training) -> None:
    training.model[4].bias.value[...] = 1.0


def loaded(training: Training) -> None:
    state = training.model.state_dict()
    training.model.load_state_dict({name: -0.5 * value for name, value in state.items()})


def at_another_rate(training: Training) -> None:
    training.optimizer.lr = 0.01


def without_momentum(training: Training) -> None:
    training.optimizer.momentum = 0.5


def with_gradients_left(training: Training) -> None:
    for p in training.model.parameters():
        p.grad = np.full_like(p.value, 0.25)


def with_the_state_of_before(training: Training) -> None:
    training.optimizer.load_state_dict(training.optimizer.state_dict())


CHANGES = [
    replaced,
    replaced_by_a_view,
    written_into,
    loaded,
    at_another_rate,
    without_momentum,
    with_gradients_left,
    with_the_state_of_before,
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_change_between_calls(change: Callable[[Training], None]) -> None:
    eager, compiled = both()
    for seed in range(6):
        for training in (eager, compiled):
            if seed in (2, 4):
                change(training)
            training.step(*batch(seed))
    assert_alike(eager, compiled)


def test_two_steps_of_one_model_in_turns() -> None:
    """One model, two optimisers and losses, and eager steps between: as all of them eager."""
    results = []
    for compiled in (False, True):
        training = Training(compiled)
        other = optim.Adam(training.model.parameters(), lr=0.01)

        def second(x, y, model=training.model, other=other):
            loss = nn.mse(model(x), np.ones((BATCH, CLASSES)))
            loss.backward()
            other.step()
            other.zero_grad()
            return loss

        if compiled:
            second = tg.compile(second)
        for seed in range(4):
            training.step(*batch(seed))
            second(*batch(seed + 10))
            training.function(*batch(seed + 20))
        results.append(training)
    assert_alike(*results)


# Exceptions in the middle


@pytest.mark.parametrize("where", range(7))
def test_an_overflow_anywhere_leaves_parameters_as_before_or_as_after(where: int) -> None:
    """In the data, or in any of the parameters; errors are raised, as the person wished."""

    def prepared(compiled: bool) -> tuple[Training, np.ndarray, np.ndarray]:
        training = Training(compiled, np.float32)
        training.step(*batch(0, np.float32))
        x, y = batch(1, np.float32)
        target = x if where == 0 else list(training.model.parameters())[where - 1].value
        target *= np.float32(5e37)
        return training, x, y

    after, x, y = prepared(False)
    with np.errstate(all="ignore"):
        after.step(x, y)
    training, x, y = prepared(True)
    before = training.parameters()
    with (
        np.errstate(over="raise", divide="raise", invalid="raise"),
        suppress(FloatingPointError),
    ):
        training.step(x, y)
    now = training.parameters()
    unchanged = [np.array_equal(a, b) for a, b in zip(now, before, strict=True)]
    changed = [
        np.allclose(a, b, rtol=1e-4, equal_nan=True)
        for a, b in zip(now, after.parameters(), strict=True)
    ]
    assert all(unchanged) or all(changed)
    assert training.optimizer.steps == (1 if all(unchanged) else 2)


def test_an_error_at_any_line_leaves_parameters_as_before_or_as_after() -> None:
    """Each line of the program fails in turn, as for want of memory, but for those that only write."""
    training, twin = Training(True), Training(True)
    for each in (training, twin):
        each.step(*batch(0))
    source = training.step.source.splitlines()
    start = next(i for i, line in enumerate(source, 1) if line.startswith("def step"))
    unchanged = 0
    for line in range(start + 1, len(source) + 1):
        before = training.parameters()
        with suppress(MemoryError), failing_at(line):
            training.step(*batch(line))
        now = training.parameters()
        if all(map(np.array_equal, before, now)):
            unchanged += 1
        else:
            twin.step(*batch(line))
            assert all(map(np.array_equal, twin.parameters(), now)), source[line - 1]
    assert unchanged >= 10


@contextmanager
def failing_at(wanted: int) -> Iterator[None]:
    """Raise a MemoryError in front of one line of a compiled step, outside of where it writes."""

    def trace(frame: Any, event: str, _: Any) -> Any:
        if frame.f_code.co_name != "step" or "compile" not in frame.f_code.co_filename:
            return None
        return line if event == "call" else None

    def line(frame: Any, event: str, _: Any) -> Any:
        if event == "line" and frame.f_lineno == wanted and not np.geterrcall():
            raise MemoryError("as if")
        return line

    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(None)


def test_after_an_exception_the_next_run_is_right() -> None:
    eager, compiled = both()
    for training in (eager, compiled):
        training.step(*batch(0))
        x, y = batch(1)
        with pytest.raises(tg.errors.DataError):
            training.step(x, np.full_like(y, CLASSES))
        with pytest.raises(tg.errors.DataError):
            training.step(x[:, :-1], y)
        for p in training.model.parameters():
            assert p.grad is None
        training.step(x, y)
    assert_alike(eager, compiled)


# Threads


def test_steps_of_one_model_in_many_threads() -> None:
    """Each run is made as a whole: none is lost, and none sees half of another."""
    w = tg.Parameter(np.zeros(50))
    optimizer = optim.SGD([w], lr=1.0)
    torn = []

    @tg.compile
    def step(x):
        loss = np.sum(w * x)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return w.value * 1.0

    def work() -> None:
        for _ in range(100):
            seen = step(np.ones(50))
            torn.extend(seen[seen != seen[0]])

    in_threads(work for _ in range(6))
    assert torn == []
    assert w.value.tolist() == [-600.0] * 50
    assert optimizer.steps == 600


def test_models_of_their_own_in_many_threads() -> None:
    wanted = Training(False)
    for seed in range(30):
        wanted.step(*batch(seed))
    found = [Training(True) for _ in range(6)]

    def work(training: Training) -> None:
        for seed in range(30):
            training.step(*batch(seed))

    in_threads((lambda t=t: work(t)) for t in found)
    for each in found:
        assert_alike(wanted, each)


def test_an_exception_in_one_thread_stops_no_other() -> None:
    g = tg.compile(lambda x, y: nn.cross_entropy(x, y))
    x, y = np.eye(4), np.arange(4)
    right = float(nn.cross_entropy(x, y))
    wrong = []

    def work(k: int) -> None:
        for _ in range(60):
            if k % 2:
                with suppress(tg.errors.DataError):
                    wrong.append(g(x, y + 1))
            elif float(g(x, y)) != pytest.approx(right, rel=1e-12):
                wrong.append(k)

    in_threads((lambda k=k: work(k)) for k in range(6))
    assert wrong == []


def in_threads(works: Any) -> None:
    failed = []

    def run(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []


# Copies


class Scaled:
    """What compiles one of its own methods."""

    def __init__(self) -> None:
        self.scale = 2.0
        self.call = tg.compile(self.scaled)

    def scaled(self, x):
        return x * self.scale


@tg.compile
def doubled(x):
    return x * 2


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda each: pickle.loads(pickle.dumps(each))])
def test_copies_record_anew(copied: Callable[[Any], Any]) -> None:
    thing = Scaled()
    np.testing.assert_array_equal(thing.call(np.ones(3)), np.full(3, 2.0))
    other = copied(thing)
    other.scale = 3.0
    np.testing.assert_array_equal(other.call(np.ones(3)), np.full(3, 3.0))
    np.testing.assert_array_equal(thing.call(np.ones(3)), np.full(3, 2.0))
    assert copied(doubled) is doubled


# Random programs


def random_programs(share: int) -> Any:
    """Return what runs a test on random programs: some, or as many as ORACLE_PROGRAMS says."""
    return settings(
        max_examples=int(os.environ.get("ORACLE_PROGRAMS", share)),
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )


@random_programs(40)
@given(program=programs(), seed=st.integers(0, 2**16))
def test_random_programs_in_both_precisions(program: Program, seed: int) -> None:
    """Other entries than those recorded with, and twice, which gives the same bits."""
    note(f"{program}\nseed {seed}")
    eager = tg.value_and_grad(lambda inputs: program(np, inputs))
    compiled = tg.compile(eager)
    for dtype, tolerance in ((np.float64, 1e-12), (np.float32, 2e-5)):
        for k in range(2):
            inputs = [v.astype(dtype) for v in program.draw_inputs(seed + k)]
            found, wanted = flat(compiled(inputs)), flat(eager(inputs))
            assert bits(compiled(inputs)) == bits(found)
            assert type(found[0]) is type(wanted[0])
            for ours, theirs in zip(found, wanted, strict=True):
                assert np.asarray(ours).dtype == np.asarray(theirs).dtype
                scale = max(1.0, float(np.max(np.abs(theirs), initial=0)))
                np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * scale)


@random_programs(5)
@given(program=programs(most=20), seed=st.integers(0, 2**16), share=st.floats(0.3, 1.0))
def test_random_programs_by_any_budget(program: Program, seed: int, share: float) -> None:
    note(f"{program}\nseed {seed}")
    function = tg.value_and_grad(lambda inputs: program(np, inputs))
    plain, inputs = tg.compile(function), program.draw_inputs(seed)
    wanted = bits(flat(plain(inputs)))
    budget = int(share * plain.memory.block)
    smaller = tg.compile(function, budget=budget)
    with suppress(BudgetError):
        assert bits(flat(smaller(inputs))) == wanted
        assert smaller.memory.block <= budget


def flat(result: tuple[Any, list[Any]]) -> list[Any]:
    value, gradient = result
    return [value, *gradient]


def bits(result: Any) -> list[bytes]:
    arrays = flat(result) if isinstance(result, tuple) else result
    return [np.asarray(each).tobytes() for each in arrays]
