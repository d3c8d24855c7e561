"""Schedules on real arrays: the same bits as plain backpropagation, and no trace left of what fails."""

import gc
import itertools
import tracemalloc
from collections import Counter

import numpy as np
import pytest

import thriftgrad as tg
from thriftgrad.errors import ConfigError, DifferentiationError, ScheduleError, SpillError
from thriftgrad.memory.execute import execute, executor
from thriftgrad.memory.schedule import Action, Kind, Schedule
from thriftgrad.memory.stages import homogeneous
from thriftgrad.memory.strategies.at import at
from thriftgrad.memory.strategies.every import every
from thriftgrad.memory.strategies.everything import everything
from thriftgrad.memory.strategies.mixed import mixed
from thriftgrad.memory.strategies.nothing import nothing
from thriftgrad.memory.strategies.revolve import revolve
from thriftgrad.memory.strategies.sqrt import sqrt
from thriftgrad.nn import Dropout, Linear, Module, Sequential, cross_entropy

STRATEGIES = {
    "all": everything(),
    "none": nothing(),
    "every": every(2),
    "at": at(1, 3),
    "sqrt": sqrt(),
    "revolve": revolve(2),
    "mixed": mixed(3),
}


class Gate(Module):
    """A stage that uses its input three times, and draws."""

    def __init__(self, width, rng, dtype):
        self.inner = Sequential(Linear(width, width, rng=rng, dtype=dtype), Dropout(0.3, rng=rng))

    def __call__(self, x):
        return x + x * tg.nn.sigmoid(self.inner(x))


def model(dtype=np.float32, seed=0):
    rng = np.random.default_rng(seed)
    shared = Linear(6, 6, rng=rng, dtype=dtype)
    scale = tg.Parameter(np.asarray(0.5, dtype), name="scale")
    return Sequential(
        Linear(4, 6, rng=rng, dtype=dtype),
        np.tanh,
        Gate(6, 5, dtype),
        shared,
        lambda x: np.reshape(x, (-1, 2, 3)),
        lambda x: np.transpose(x, (2, 0, 1)),
        lambda x: np.reshape(np.transpose(x, (1, 2, 0)), (-1, 6)),
        shared,
        Dropout(0.4, rng=7),
        lambda x, w=scale: np.sin(x) * w + x[:, ::-1],
        shared,
        tg.nn.relu,
        Linear(6, 3, rng=rng, dtype=dtype),
    )


def batch(dtype=np.float32):
    rng = np.random.default_rng(1)
    return rng.standard_normal((9, 4)).astype(dtype), rng.integers(0, 3, 9)


def gradients(net):
    found = [p.grad for p in everyone(net)]
    for parameter in everyone(net):
        parameter.grad = None
    return found


def everyone(net):
    return [*net.parameters(), net[9].__defaults__[0]]


def draws(net):
    return [net[2].inner[1].rng.random(), net[8].rng.random()]


def schedule(strategy, net):
    return STRATEGIES[strategy](homogeneous(len(net)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_gradients_have_the_bits_of_plain_backpropagation(strategy, dtype):
    x, y = batch(dtype)
    plain, net = model(dtype), model(dtype)
    step = executor(schedule(strategy, net), net.stages())
    for _ in range(3):  # the generators go on as if nothing had been run again
        objective = cross_entropy(plain(x), y)
        objective.backward()
        value = step(x, lambda outputs: cross_entropy(outputs, y))
        assert value == objective.value
        for own, wanted in zip(gradients(net), gradients(plain), strict=True):
            assert own.dtype == dtype
            assert own.strides == wanted.strides
            assert np.array_equal(own, wanted)
    assert draws(net) == draws(plain)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_updates_during_the_backward_pass_are_those_of_one_step(strategy):
    x, y = batch()
    plain, net = model(), model()
    optimizers = [tg.optim.Adam(everyone(each), lr=0.01) for each in (plain, net)]
    step = executor(schedule(strategy, net), net.stages(), apply=optimizers[1].apply)
    for _ in range(3):
        cross_entropy(plain(x), y).backward()
        optimizers[0].step()
        optimizers[0].zero_grad()
        step(x, lambda outputs: cross_entropy(outputs, y))
        optimizers[1].end_step()
        assert all(parameter.grad is None for parameter in everyone(net))
    for own, wanted in zip(everyone(net), everyone(plain), strict=True):
        assert np.array_equal(own.value, wanted.value)


def test_a_gradient_that_is_there_is_added_to():
    x, y = batch()
    plain, net = model(), model()
    for _ in range(2):
        cross_entropy(plain(x), y).backward()
        execute(schedule("sqrt", net), net.stages(), x, lambda outputs: cross_entropy(outputs, y))
    for own, wanted in zip(gradients(net), gradients(plain), strict=True):
        assert np.array_equal(own, wanted)


def test_each_stage_is_called_as_often_as_the_schedule_says():
    calls = Counter()

    def counting(k):
        def stage(x):
            calls[k] += 1
            return np.tanh(x)

        return stage

    stages = [Linear(4, 4, rng=0), *(counting(k) for k in range(1, 10))]
    for strategy in STRATEGIES.values():
        plan = strategy(homogeneous(10))
        calls.clear()
        execute(plan, stages, batch()[0], np.sum)
        runs = Counter(a.index for a in plan if a.kind in (Kind.ADVANCE, Kind.KEEP, Kind.TAPE))
        assert {k: n for k, n in runs.items() if k} == calls


def test_integers_and_stages_without_gradient_come_first():
    table = tg.Parameter(np.arange(12.0).reshape(4, 3), name="table")
    stages = [lambda i: i % 4, lambda i: i[:, ::-1], lambda i: table[i], np.tanh]
    x = np.arange(10).reshape(5, 2)
    np.sum(np.tanh(table[(x % 4)[:, ::-1]]) ** 2).backward()
    wanted, table.grad = table.grad, None
    for strategy in STRATEGIES.values():
        execute(strategy(homogeneous(4)), stages, x, lambda t: np.sum(t**2))
        assert np.array_equal(table.grad, wanted)
        table.grad = None


def test_an_output_that_does_not_depend_on_the_input_ends_the_sweep():
    first, second = Linear(3, 3, rng=0), tg.Parameter(np.ones(3, np.float32), name="second")
    stages = [first, lambda x: second * 2.0, np.tanh]
    for strategy in ("all", "none", "every"):
        execute(STRATEGIES[strategy](homogeneous(3)), stages, np.ones((2, 3), np.float32), np.sum)
        assert first.weight.grad is None
        assert second.grad is not None
        second.grad = None


def test_a_spilled_state_comes_back_with_its_bits_and_its_order(tmp_path):
    K = Kind
    stages = [
        Linear(4, 6, rng=0),
        np.transpose,
        np.tanh,
        lambda x: x.T @ np.ones((6, 2), np.float32),
    ]
    x = batch()[0]
    plan = [(K.KEEP, 0), (K.ADVANCE, 1), (K.SPILL, 2), (K.ADVANCE, 2), (K.TAPE, 3), (K.LOSS, 4)]
    plan += [(K.BACKWARD, 3), (K.DROP, 3), (K.LOAD, 2), (K.DROP_DISK, 2), (K.TAPE, 2), (K.DROP, 2)]
    plan += [(K.BACKWARD, 2), (K.KEEP, 0), (K.TAPE, 1), (K.BACKWARD, 1)]
    plan += [(K.TAPE, 0), (K.BACKWARD, 0)]
    whole = Schedule(tuple(Action(*each) for each in plan))
    execute(whole, stages, x, np.sum, folder=tmp_path)
    own, stages[0].weight.grad = stages[0].weight.grad, None
    np.sum(Sequential(*stages)(x)).backward()
    assert np.array_equal(own, stages[0].weight.grad)
    assert not list(tmp_path.iterdir())


class StopError(Exception):
    pass


@pytest.mark.parametrize("error", [StopError, KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize("moment", range(1, 40, 4))
def test_an_exception_at_any_call_changes_no_gradient(error, moment):
    x, y = batch()
    net = model()
    count = 0

    def guarded(stage):
        def call(value):
            nonlocal count
            count += 1
            if count == moment:
                raise error
            return stage(value)

        return call

    stages = [guarded(stage) for stage in net.stages()]
    before = [np.full_like(p.value, 3) for p in everyone(net)]
    for parameter, gradient in zip(everyone(net), before, strict=True):
        parameter.grad = gradient
    plan = schedule("revolve", net)
    ahead = model()
    if moment > len(net):  # a first forward pass has gone through, and moved them once
        ahead(x)
    else:
        ahead = None
    with pytest.raises(error):
        execute(plan, stages, x, lambda outputs: cross_entropy(outputs, y))
    for parameter, gradient in zip(everyone(net), before, strict=True):
        assert parameter.grad is gradient
    if ahead is not None:
        assert draws(net) == draws(ahead)


def test_nothing_is_left_on_disk_after_an_interrupt(tmp_path):
    def interrupted(_):
        assert list(tmp_path.iterdir())
        raise KeyboardInterrupt

    plan = Schedule((Action(Kind.SPILL, 0), Action(Kind.KEEP, 0), Action(Kind.LOSS, 1)))
    with pytest.raises(KeyboardInterrupt):
        execute(plan, [Linear(4, 4, rng=0)], batch()[0], interrupted, folder=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_damaged_spill_file_gives_no_gradient(tmp_path):
    layer = Linear(4, 4, rng=0)

    def damage(x):
        (file,) = next(tmp_path.iterdir()).iterdir()
        file.write_bytes(b"\1" + file.read_bytes()[1:])
        return np.tanh(x)

    kinds = [(Kind.TAPE, 0), (Kind.SPILL, 1), (Kind.ADVANCE, 1), (Kind.LOSS, 2), (Kind.LOAD, 1)]
    kinds += [(Kind.TAPE, 1), (Kind.BACKWARD, 1), (Kind.BACKWARD, 0)]
    plan = Schedule(tuple(Action(*each) for each in kinds))
    with pytest.raises(SpillError, match=r"1\.bin does not hold"):
        execute(plan, [layer, damage], batch()[0], np.sum, folder=tmp_path)
    assert layer.weight.grad is None
    assert not list(tmp_path.iterdir())


def test_a_stage_that_writes_into_its_input_is_stopped():
    def writes(x):
        x += 1
        return x

    x = np.zeros((2, 2), np.float32)
    layer = Linear(2, 2, rng=0)
    with pytest.raises(ValueError, match="read-only"):
        execute(STRATEGIES["none"](homogeneous(2)), [writes, layer], x, np.sum)
    # Behind a parameter the input is a tensor, of which += makes a new one, untaped too.
    execute(STRATEGIES["none"](homogeneous(3)), [layer, writes, np.tanh], x, np.sum)
    own, layer.bias.grad = layer.bias.grad, None
    np.sum(np.tanh(layer(x) + 1)).backward()
    assert np.array_equal(own, layer.bias.grad)


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        ([(Kind.KEEP, 1)], "state 1 is not there"),
        ([(Kind.KEEP, 5)], "no such place in 2 stages"),
        ([(Kind.KEEP, 0), (Kind.ADVANCE, 1), (Kind.LOSS, 1)], "no such place"),
        ([(Kind.KEEP, 0), (Kind.ADVANCE, 1), (Kind.LOSS, 2)], "ends before backward 1"),
        ([(Kind.TAPE, 0), (Kind.BACKWARD, 0)], "the loss comes first"),
        ([(Kind.TAPE, 0), (Kind.TAPE, 1), (Kind.LOSS, 2), (Kind.BACKWARD, 0)], "backward 1 comes"),
        ([(Kind.DROP, 1)], "state 1 is not there"),
        ([(Kind.DROP_TAPE, 1)], "has no tape"),
        ([(Kind.BACKWARD, 1)], "has no tape"),
        ([(Kind.LOAD, 1)], "not on disk"),
        ([(Kind.DROP_DISK, 1)], "not on disk"),
    ],
)
def test_a_schedule_that_cannot_be_carried_out_is_refused(actions, message):
    layer = Linear(4, 4, rng=0)
    plan = Schedule(tuple(Action(*each) for each in actions))
    with pytest.raises(ScheduleError, match=message):
        execute(plan, [layer, np.tanh], batch()[0], np.sum)
    assert layer.weight.grad is None


def test_what_a_stage_or_loss_must_return():
    plan = STRATEGIES["all"](homogeneous(2))
    layer, x = Linear(4, 4, rng=0), batch()[0]
    with pytest.raises(ConfigError, match="stage 1 returned a tuple"):
        execute(plan, [layer, lambda x: (x, x)], x, np.sum)
    with pytest.raises(DifferentiationError, match="shape"):
        execute(plan, [layer, np.tanh], x, np.tanh)
    with pytest.raises(DifferentiationError, match="records nothing"):
        execute(plan, [layer, np.tanh], x, lambda outputs: 3.0)
    with pytest.raises(DifferentiationError, match="records nothing"):
        execute(plan, [np.sin, np.tanh], x, np.sum)
    with pytest.raises(ConfigError, match="x is a list"):
        execute(plan, [layer, np.tanh], [1.0], np.sum)


class Vault:
    """Something that the search for parameters does not look into."""

    def __init__(self, parameter):
        self.held = itertools.repeat(parameter)

    def __call__(self, x):
        return x * next(self.held)


def test_a_parameter_hidden_from_sight_is_not_updated_twice():
    weight = tg.Parameter(np.ones(4, np.float32), name="hidden")
    optimizer = tg.optim.SGD([weight], lr=0.1)
    plan = STRATEGIES["all"](homogeneous(2))
    stages = [Vault(weight), lambda x: x * weight]
    with pytest.raises(ConfigError, match=r"'hidden' was complete .* stage 0 uses it too"):
        execute(plan, stages, batch()[0], np.sum, apply=optimizer.apply)
    execute(plan, stages, batch()[0], np.sum)  # after the backward pass all is known
    assert weight.grad is not None


def test_parameters_of_the_loss_are_updated_as_well():
    x, plain, net = batch()[0], Linear(4, 4, rng=0), Linear(4, 4, rng=0)
    scales = [tg.Parameter(np.ones(4, np.float32), name="scale") for _ in range(2)]
    optimizers = [
        tg.optim.SGD([*layer.parameters(), scale], lr=0.1)
        for layer, scale in zip((plain, net), scales, strict=True)
    ]
    np.sum(plain(x) * scales[0]).backward()
    optimizers[0].step()
    plan = STRATEGIES["all"](homogeneous(1))
    execute(plan, [net], x, lambda outputs: np.sum(outputs * scales[1]), apply=optimizers[1].apply)
    optimizers[1].end_step()
    assert np.array_equal(scales[0].value, scales[1].value)
    assert np.array_equal(plain.weight.value, net.weight.value)
    vault = Vault(scales[1])
    with pytest.raises(ConfigError, match="shows it"):
        execute(plan, [net], x, lambda outputs: np.sum(vault(outputs)), apply=optimizers[1].apply)


@pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES)
def test_a_stage_that_hands_on_a_parameter_adds_to_what_later_stages_gave_it(strategy):
    w, a = tg.Parameter(np.array([1.0, 2.0, 3.0]), name="w"), tg.Parameter(np.ones(3), name="a")
    stages = [lambda x: x * a, lambda x: w, np.tanh, lambda h: h * w]
    execute(strategy(homogeneous(4)), stages, np.ones(3), np.sum)
    planned, w.grad = w.grad, None
    np.sum(np.tanh(w) * w).backward()
    assert np.array_equal(planned, w.grad)


def test_whatever_ends_a_step_leaves_recording_as_it_was():
    left_open = []

    def interrupted(x):
        left_open.append(tg.no_grad())  # as if the interrupt came while a no_grad ends
        left_open[0].__enter__()
        raise KeyboardInterrupt

    w = tg.Parameter(np.ones(3), name="w")
    with pytest.raises(KeyboardInterrupt):
        execute(everything()(homogeneous(2)), [lambda x: x * w, interrupted], np.ones(3), np.sum)
    np.sum(w * 2.0).backward()
    assert np.array_equal(w.grad, [2.0, 2.0, 2.0])


def test_a_stage_that_runs_often_does_not_fill_the_interpreters_stores():
    rng = np.random.default_rng(0)
    stages = [Linear(8, 8, rng=rng), Dropout(0.2, rng=rng)] * 4
    step = executor(nothing()(homogeneous(len(stages))), stages)
    x = np.ones((4, 8), np.float32)
    step(x, np.sum)
    gc.collect()
    tracemalloc.start()
    for _ in range(20):
        step(x, np.sum)
    grown = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert grown < 40_000  # a tuple in each run of a stage that draws would be twice that
