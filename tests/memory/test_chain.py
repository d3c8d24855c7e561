"""What is measured of a model: sizes that can be told by hand, and nothing changed by measuring."""

import time
import tracemalloc

import numpy as np
import pytest

import thriftgrad as tg
from thriftgrad.errors import ConfigError, ReplayError
from thriftgrad.memory.chain import footprint, measure, stages_of
from thriftgrad.memory.simulate import simulate
from thriftgrad.memory.strategies.everything import everything
from thriftgrad.nn import Dropout, Linear, Module, Sequential, cross_entropy, mse

N, WIDTH = 256, 64
SIZE = N * WIDTH * 4  # bytes of one activation
WEIGHT = (WIDTH * WIDTH + WIDTH) * 4
SMALL = 3_000  # Python's own objects, at most


def batch():
    return np.random.default_rng(0).standard_normal((N, WIDTH)).astype(np.float32)


def near(size, wanted):
    return wanted <= size <= wanted + SMALL


def table(**functions):
    """Measure a chain with one stage in question between two others."""
    (stage,) = functions.values()
    model = [Linear(WIDTH, WIDTH, rng=0), stage, Linear(WIDTH, WIDTH, rng=1)]
    return measure(model, batch()).stages[1]


def test_a_linear_layer_keeps_its_input():
    stage = table(linear=Linear(WIDTH, WIDTH, rng=2))
    assert near(stage.output, SIZE)
    assert near(stage.cotangent, SIZE)
    assert near(stage.tape, 0)
    assert (stage.holds_input, stage.holds_output, stage.view) == (True, False, False)
    assert near(stage.gradient, WEIGHT)
    assert stage.released == stage.gradient
    assert near(stage.update_extra, 0)


def test_tanh_keeps_its_output():
    stage = table(tanh=np.tanh)
    assert near(stage.output, SIZE)
    assert near(stage.tape, 0)
    assert (stage.holds_input, stage.holds_output, stage.view) == (False, True, False)
    assert stage.gradient == 0
    # Its rule is g * (1 - ans * ans): one array beside what it gives, but for NumPy's own reuse.
    assert near(stage.backward_extra, SIZE) or near(stage.backward_extra, 0)


def test_dropout_keeps_its_mask():
    stage = table(dropout=Dropout(0.5, rng=0))
    assert near(stage.tape, SIZE // 4)
    assert (stage.holds_input, stage.holds_output) == (False, False)
    # Beside its output it holds the mask, and what NumPy casts it in, piece by piece.
    assert SIZE // 4 <= stage.forward_extra <= SIZE // 4 + 40_000


def test_views_have_no_bytes_of_their_own():
    for view in (lambda x: np.reshape(x, (N, -1)), lambda x: x[:, ::-1], lambda x: x):
        stage = table(view=view)
        assert stage.view
        assert stage.output == 0
        assert near(stage.tape, 0)


def test_several_operations_keep_what_each_needs():
    stage = table(gate=lambda x: x * tg.nn.sigmoid(x))
    assert near(stage.tape, SIZE)  # the sigmoid, which also is a factor
    assert stage.holds_input
    assert not stage.holds_output
    # Where only the tape holds x, it goes once the product has been passed.
    assert abs(stage.backward_saving - SIZE) <= SMALL


def test_what_was_there_before_is_not_counted():
    noise = np.ones((N, WIDTH), np.float32)
    assert near(table(add=lambda x: np.multiply(x, noise)).tape, 0)
    assert near(table(mask=lambda x: np.sin(x, where=noise > 0, out=None)).tape, SIZE // 4)


def test_a_shared_parameter_is_counted_at_its_ends():
    shared = Linear(WIDTH, WIDTH, rng=0)
    chain = measure([shared, np.tanh, shared, np.sin, shared], batch())
    gradient = [stage.gradient for stage in chain.stages]
    released = [stage.released for stage in chain.stages]
    assert near(gradient[4], WEIGHT)
    assert near(released[0], WEIGHT)
    assert gradient[:4] == [0, 0, 0, 0]
    assert released[1:] == [0, 0, 0, 0]
    # The sum that was there stays until the new one is.
    assert chain.stages[2].backward_extra > chain.stages[4].backward_extra


def test_fixed_bytes():
    model = Sequential(Linear(WIDTH, WIDTH, rng=0), np.tanh)
    x, y = batch(), batch()
    optimizer = tg.optim.Adam(model.parameters())
    fixed = measure(model, x, loss=mse, y=y, optimizer=optimizer).fixed
    assert fixed["parameters"] == WEIGHT
    assert fixed["optimizer state"] == 2 * WEIGHT
    assert fixed["batch"] == 2 * SIZE
    assert fixed["bookkeeping"] < 10_000


def test_an_update_holds_temporaries_once():
    model = Sequential(Linear(WIDTH, WIDTH, rng=0), Linear(WIDTH, 8, rng=0))
    extras = {}
    for name, optimizer in {
        "none": None,
        "sgd": tg.optim.SGD(model.parameters(), lr=0.1),
        "clipped": tg.optim.SGD(model.parameters(), lr=0.1, clip_norm=1.0),
        "adam": tg.optim.Adam(model.parameters()),
    }.items():
        chain = measure(model, batch(), optimizer=optimizer)
        extras[name] = [stage.update_extra for stage in chain.stages]
    assert extras["none"] == [0, 0]
    assert near(extras["sgd"][0], WIDTH * WIDTH * 4)
    assert extras["sgd"][0] > extras["sgd"][1]
    assert extras["clipped"][0] >= 2 * WIDTH * WIDTH * 4
    assert near(extras["adam"][0], WIDTH * WIDTH * 4)


def test_nothing_is_changed():
    model = Sequential(
        Linear(WIDTH, WIDTH, rng=0), Dropout(0.5, rng=3), np.tanh, Linear(WIDTH, 4, rng=1)
    )
    x, y = batch(), np.zeros(N, int)
    optimizer = tg.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    rng = model[1].rng
    before = rng.bit_generator.state, model.state_dict(), optimizer.state_dict()
    grads = [np.ones_like(p.value) for p in model.parameters()]
    for parameter, gradient in zip(model.parameters(), grads, strict=True):
        parameter.grad = gradient
    x_before = x.copy()
    measure(model, x, loss=cross_entropy, y=y, optimizer=optimizer)
    assert rng.bit_generator.state == before[0]
    assert np.array_equal(x, x_before)
    for name, array in model.state_dict().items():
        assert np.array_equal(array, before[1][name])
    assert optimizer.state_dict()["updates"] == before[2]["updates"]
    assert all(p.grad is g for p, g in zip(model.parameters(), grads, strict=True))
    assert not tracemalloc.is_tracing()


def test_tracing_that_was_on_stays_on_and_measures_the_same():
    model = Sequential(Linear(WIDTH, WIDTH, rng=0), np.tanh, lambda x: x * x)
    alone = measure(model, batch())
    tracemalloc.start()
    try:
        traced = measure(model, batch())
        assert tracemalloc.is_tracing()
    finally:
        tracemalloc.stop()
    for one, other in zip(alone.stages, traced.stages, strict=True):
        for what in ("output", "tape", "cotangent", "backward_extra", "forward_extra"):
            assert abs(getattr(one, what) - getattr(other, what)) <= SMALL


def test_equal_stages_cost_the_same_and_are_measured_once():
    rng = np.random.default_rng(0)
    calls = 0

    def counted(x):
        nonlocal calls
        calls += 1
        return np.tanh(x)

    class Block(Module):
        def __init__(self):
            self.inner = [Linear(8, 8, rng=rng), counted]

        def __call__(self, x):
            return x + self.inner[1](self.inner[0](x))

    started = time.perf_counter()
    chain = measure([Block() for _ in range(300)], np.ones((4, 8), np.float32))
    assert calls < 600 + 40
    assert time.perf_counter() - started < 60
    # All but the first, which is given no tensor, and the last, below the loss, are one object.
    assert len(set(map(id, chain.stages[1:-1]))) == 1
    different = measure([Block(), Block(), Linear(8, 9, rng=0), np.tanh, np.sin], np.ones((4, 8)))
    assert len(set(different.stages)) == 5


def test_a_cotangent_that_is_a_broadcast_number_takes_a_number():
    chain = measure([Linear(WIDTH, WIDTH, rng=0), np.tanh], batch(), loss=lambda o, _: np.sum(o))
    assert chain.stages[-1].cotangent < SMALL
    assert near(chain.stages[0].cotangent, SIZE)


@pytest.mark.parametrize("depth", [1, 3])
def test_the_prediction_of_a_plain_step_is_what_the_parts_add_up_to(depth):
    model = Sequential(*[Linear(WIDTH, WIDTH, rng=k) for k in range(depth)])
    chain = measure(model, batch())
    peak = simulate(everything()(chain), chain).peak - sum(chain.fixed.values())
    # Outputs, one cotangent, squares and their cotangent in the loss.
    assert peak >= (depth + 1) * SIZE
    assert peak <= (depth + 4) * SIZE + depth * WEIGHT + depth * SMALL


def test_a_stage_that_computes_something_else_is_found_out():
    count = 0

    def counter(x):
        nonlocal count
        count += 1
        return x * count

    with pytest.raises(ReplayError, match=r"stage 1 \(counter\)"):
        measure([Linear(WIDTH, WIDTH, rng=0), counter], batch())

    def noisy(x):
        return x + np.random.rand(*x.shape)  # noqa: NPY002 - the global one, which cannot be replayed

    with pytest.raises(ReplayError, match="default_rng"):
        measure([Linear(WIDTH, WIDTH, rng=0), noisy], batch())
    rng = np.random.default_rng(0)
    measure([Linear(WIDTH, WIDTH, rng=0), lambda x: x + rng.normal(size=x.shape)], batch())


def test_what_has_no_stages_is_refused():
    with pytest.raises(ConfigError, match="stages"):
        stages_of(np.tanh)
    with pytest.raises(ConfigError, match="no stages"):
        stages_of([])
    with pytest.raises(ConfigError, match="stage 1 is a int"):
        stages_of([np.tanh, 3])
    layer = Linear(WIDTH, WIDTH, rng=0)
    optimizer = tg.optim.SGD(layer.parameters(), lr=1, clip_norm=1.0)
    with pytest.raises(ConfigError, match="clip_norm"):
        measure([layer], batch(), optimizer=optimizer, update="during backward")
    module = Linear(WIDTH, WIDTH, rng=0)
    assert stages_of(module) == (module,)
    assert stages_of(Sequential(module, np.tanh)) == (module, np.tanh)


def test_footprint_is_what_is_allocated():
    for shape in [(), (100,), (10, 20, 30)]:
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        array = np.ones(shape)
        size = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
        assert abs(footprint(array) - size) <= 100
    assert footprint(np.ones((100, 100))[::2]) >= 80_000


class Residual(Sequential):
    def __call__(self, x):
        return x + super().__call__(x)


class Forgetful(Module):
    def __init__(self):
        self.first, self.second = Linear(WIDTH, WIDTH, rng=0), Linear(WIDTH, WIDTH, rng=1)

    def __call__(self, x):
        return self.second(self.first(x))

    def stages(self):
        return (self.first,)


@pytest.mark.parametrize("model", [Residual(Linear(WIDTH, WIDTH, rng=0)), Forgetful()])
def test_stages_that_are_not_the_model_are_refused(model):
    with pytest.raises(ConfigError, match="give another output than"):
        measure(model, batch())


def test_stages_that_draw_are_the_model_all_the_same():
    rng = np.random.default_rng(0)
    model = Sequential(Linear(WIDTH, WIDTH, rng=rng), Dropout(0.5, rng=rng))
    before = rng.bit_generator.state
    measure(model, batch())
    assert rng.bit_generator.state == before


@pytest.mark.parametrize("update", ["never", "during", None, True])
def test_an_update_at_no_known_time_is_refused(update):
    with pytest.raises(ConfigError, match="expected one of 'after backward', 'during backward'"):
        measure([np.tanh, Linear(WIDTH, WIDTH, rng=0)], batch(), update=update)
