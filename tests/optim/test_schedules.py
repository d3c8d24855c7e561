"""Schedules against values worked out by hand, and as part of an optimiser."""

import json
import math
import pickle

import numpy as np
import pytest
from support import stand_in

from thriftgrad.errors import ConfigError
from thriftgrad.optim import SGD, schedules

EACH = [
    schedules.constant(0.5),
    schedules.exponential_decay(0.5, factor=0.9, steps=7),
    schedules.step_decay(0.5, boundaries=[3, 9], factor=0.1),
    schedules.cosine(0.5, steps=20, final=0.05),
    schedules.warmup(0.5, steps=4),
    schedules.warmup(schedules.cosine(0.5, steps=20), steps=4),
]
each = pytest.mark.parametrize("schedule", EACH, ids=str)


def test_values_by_hand():
    assert schedules.exponential_decay(1.0, 0.25, steps=2)(1) == 0.5
    decay = schedules.step_decay(1.0, [2, 4], 0.5)
    assert [decay(n) for n in range(6)] == [1, 1, 0.5, 0.5, 0.25, 0.25]
    fall = schedules.cosine(3.0, steps=6, final=1.0)
    assert fall(2) == pytest.approx(2 + math.cos(math.pi / 3))
    assert [fall(n) for n in (0, 6, 600)] == [3, 1, 1]
    rise = schedules.warmup(lambda n: 10.0 + n, steps=2)
    assert [rise(n) for n in range(4)] == [5, 10, 10, 11]


@each
def test_rates_are_python_floats_within_range(schedule):
    rates = [schedule(n) for n in range(40)]
    assert all(type(rate) is float for rate in rates)
    assert all(0 <= rate <= 0.5 for rate in rates)


@each
def test_prints_as_the_call_that_makes_it(schedule):
    again = eval(repr(schedule), {name: getattr(schedules, name) for name in dir(schedules)})
    assert again == schedule


@each
def test_is_plain_data_and_pickles(schedule):
    plain = schedules.describe(schedule)
    assert json.loads(json.dumps(plain)) == plain
    assert pickle.loads(pickle.dumps(schedule)) == schedule


def test_foreign_callables_are_described_without_an_address():
    class Custom:
        def __call__(self, step):
            return 0.1

    assert schedules.describe(math.sqrt) == {"callable": "math.sqrt"}
    assert schedules.describe(Custom())["callable"].endswith("Custom")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: schedules.constant(-1), "lr = -1"),
        (lambda: schedules.constant("fast"), "lr = 'fast'"),
        (lambda: schedules.exponential_decay(1, 0), r"factor = 0: expected a number in \(0, 1\]"),
        (lambda: schedules.exponential_decay(1, 0.5, 0), "steps = 0: expected a whole number"),
        (lambda: schedules.step_decay(1, [3, 3]), "expected step counts that rise"),
        (lambda: schedules.step_decay(1, [0.5]), "boundaries = 0.5"),
        (lambda: schedules.cosine(1, 10.0), "steps = 10.0"),
        (lambda: schedules.cosine(1, 10, -1), "final = -1"),
        (lambda: schedules.warmup(-0.1, 5), "lr = -0.1"),
        (lambda: schedules.warmup(0.1, 0), "steps = 0"),
    ],
)
def test_arguments_are_checked(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_an_optimiser_follows_its_schedule():
    w = stand_in(value=np.zeros(1), grad=np.ones(1), name="w")
    optimizer = SGD([w], schedules.step_decay(1.0, [2], 0.5))
    rates = []
    for _ in range(4):
        rates.append(optimizer.lr)
        optimizer.step()
    assert rates == [1, 1, 0.5, 0.5]
    assert w.value.tolist() == [-3]
    optimizer.lr = 0.25
    optimizer.step()
    assert w.value.tolist() == [-3.25]


def test_a_schedule_that_returns_nonsense_stops_the_step():
    w = stand_in(value=np.zeros(1), grad=np.ones(1), name="w")
    optimizer = SGD([w], lambda step: float("nan") if step else 1.0)
    optimizer.step()
    with pytest.raises(ConfigError, match="lr at step 1 = nan"):
        optimizer.step()
    assert (w.value.tolist(), optimizer.steps) == ([-1], 1)
