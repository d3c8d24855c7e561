"""Steps that go by a plan train the same weights, and say what they must when they cannot."""

from typing import Any

import numpy as np
import pytest

import thriftgrad as tg
from thriftgrad.errors import BudgetError, ConfigError, NonFiniteError

RNG = np.random.default_rng(0)
X = RNG.standard_normal((150, 12))
Y = RNG.integers(0, 4, size=150)


def network(dtype: Any, dropout: bool = True) -> Any:
    rng = np.random.default_rng(1)
    layers: list[Any] = []
    for width in (12, 20, 16, 24):
        layers += [
            tg.nn.Linear(width, {12: 20, 20: 16, 16: 24, 24: 4}[width], rng=rng, dtype=dtype)
        ]
        layers += [np.tanh] + [tg.nn.Dropout(0.3, rng=rng)] * dropout
    return tg.nn.Sequential(*layers[:-1])


def trained(
    memory: Any, dtype: Any = np.float32, update: Any = "after backward", **more: Any
) -> Any:
    model = network(dtype)
    optimizer = tg.optim.Adam(model.parameters(), lr=0.01)
    history = tg.train.fit(
        model,
        (X.astype(dtype), Y),
        loss=tg.nn.cross_entropy,
        optimizer=optimizer,
        epochs=2,
        batch_size=40,  # and a last batch of 30
        memory=memory,
        update=update,
        compile=False,
        progress=False,
        **more,
    )
    return model, history, optimizer


STRATEGIES = ["all", "none", "sqrt", "revolve", "every:2", "at:2,-3", "1 MB", "120 kB"]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("memory", STRATEGIES)
def test_weights_are_those_of_a_plain_run_to_the_last_bit(memory: str, dtype: Any) -> None:
    plain, history, _ = trained(None, dtype)
    for update in ("after backward", "during backward"):
        model, same, optimizer = trained(memory, dtype, update)
        for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
            assert np.array_equal(ours.value, theirs.value)
        assert np.array_equal(same.train_loss, history.train_loss)
        assert np.array_equal(same.train_accuracy, history.train_accuracy)
        assert all(parameter.grad is None for parameter in model.parameters())
        assert optimizer.steps == 8
        assert set(optimizer.updates) == {8}


def test_disk_and_slots_are_strategies_too() -> None:
    plain, _, _ = trained(None)
    for strategy in (tg.memory.two_level(1, 3, write=0.1, read=0.1), tg.memory.mixed(3)):
        model, _, _ = trained(strategy)
        for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
            assert np.array_equal(ours.value, theirs.value)


def test_clipping_goes_with_updates_after_the_backward_pass_only() -> None:
    def clipped(memory: Any, update: Any = "after backward") -> Any:
        model = network(np.float32)
        optimizer = tg.optim.SGD(model.parameters(), lr=0.1, clip_norm=0.01)
        tg.train.fit(
            model, (X.astype(np.float32), Y), loss=tg.nn.cross_entropy, optimizer=optimizer, epochs=1,
            memory=memory, update=update, compile=False, progress=False,
        )  # fmt: skip
        return model

    for ours, theirs in zip(clipped("sqrt").parameters(), clipped(None).parameters(), strict=True):
        assert np.array_equal(ours.value, theirs.value)
    with pytest.raises(ConfigError, match="clip_norm"):
        clipped("sqrt", "during backward")


def test_a_budget_that_cannot_be_kept_fails_before_anything_is_written(tmp_path: Any) -> None:
    with pytest.raises(BudgetError, match="smallest schedule takes") as caught:
        trained("3 kB", snapshot=tmp_path / "run.safetensors")
    assert caught.value.least > 3000
    assert not list(tmp_path.iterdir())


def test_a_plan_can_be_made_beforehand_and_callbacks_see_it() -> None:
    seen = []

    class Watch(tg.train.Callback):
        def on_train_begin(self, state: Any) -> None:
            seen.append(state.plan)

    model = network(np.float32)
    x = X.astype(np.float32)
    plan = tg.memory.plan(model, x[:40], Y[:40], budget="sqrt", loss=tg.nn.cross_entropy)
    trained(plan, callbacks=[Watch()])
    trained(None, callbacks=[Watch()])
    assert seen == [plan, None]


def test_updates_during_the_backward_pass_need_a_plan() -> None:
    with pytest.raises(ConfigError, match='pass memory="all"'):
        trained(None, update="during backward")


@pytest.mark.parametrize("update", ["after backward", "during backward"])
def test_a_bad_number_is_reported_with_its_layer_and_leaves_no_half_step(update: Any) -> None:
    model = network(np.float32)
    optimizer = tg.optim.SGD(model.parameters(), lr=0.1)
    model[3].weight.value[0, 0] = np.inf
    with pytest.raises(NonFiniteError, match=r"step 1 of 4: .*weights 3\.weight are not finite"):
        tg.train.fit(
            model, (X.astype(np.float32), Y), loss=tg.nn.cross_entropy, optimizer=optimizer, epochs=1,
            batch_size=40, memory="sqrt", update=update, progress=False,
        )  # fmt: skip
    assert all(parameter.grad is None for parameter in model.parameters())
    optimizer.zero_grad()
    for parameter in model.parameters():
        parameter.grad = np.zeros_like(parameter.value)
    optimizer.step()  # no step is half made


def test_a_bad_gradient_during_the_backward_pass_says_what_has_been_updated() -> None:
    @tg.primitive
    def wrong(x: Any) -> Any:
        return x + 0

    tg.defvjp(wrong, x=lambda g: g * np.inf)
    rng = np.random.default_rng(0)
    model = tg.nn.Sequential(tg.nn.Linear(12, 8, rng=rng), wrong, tg.nn.Linear(8, 4, rng=rng))
    optimizer = tg.optim.SGD(model.parameters(), lr=0.1)
    first, last = model[0].weight.value.copy(), model[2].weight.value.copy()
    with pytest.raises(NonFiniteError, match="Weights of later layers may have been updated"):
        tg.train.fit(
            model, (X.astype(np.float32), Y), loss=tg.nn.cross_entropy, optimizer=optimizer, epochs=1,
            memory="all", update="during backward", progress=False,
        )  # fmt: skip
    assert np.array_equal(model[0].weight.value, first)
    assert not np.array_equal(model[2].weight.value, last)
    assert optimizer.steps == 1


@pytest.mark.parametrize("memory", [None, "sqrt"])
def test_gradients_that_no_optimiser_asks_for_do_not_pile_up(memory: Any) -> None:
    held = []

    class Watch(tg.train.Callback):
        def on_step_end(self, state: Any) -> None:
            held.append(sum(p.grad is not None for p in state.model.parameters()))

    model = network(np.float32)
    tg.train.fit(
        model, (X.astype(np.float32), Y), loss=tg.nn.cross_entropy, epochs=1, batch_size=40,
        optimizer=tg.optim.SGD(model.parameters()[-2:], lr=0.1), memory=memory,
        callbacks=[Watch()], progress=False,
    )  # fmt: skip
    assert held == [0, 0, 0, 0]


def test_a_plan_of_something_else_is_refused() -> None:
    x = X.astype(np.float32)[:40]
    plan = tg.memory.plan(network(np.float32), x, Y[:40], budget="all", loss=tg.nn.cross_entropy)
    with pytest.raises(ConfigError, match="plan for updates after backward"):
        trained(plan, update="during backward")
    other = tg.memory.plan(network(np.float32, dropout=False), x, budget="all")
    with pytest.raises(ConfigError, match="chain of 7 stages and the model has 11"):
        trained(other)


def test_an_update_at_no_known_time_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected one of 'after backward'"):
        trained("all", update="during")


def test_an_interrupt_during_the_updates_leaves_no_half_step() -> None:
    model = network(np.float32)
    optimizer = tg.optim.SGD(model.parameters(), lr=0.1)
    apply = optimizer.apply

    def interrupted(parameter: Any) -> None:
        apply(parameter)
        raise KeyboardInterrupt

    optimizer.apply = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        tg.train.fit(
            model, (X.astype(np.float32), Y), loss=tg.nn.cross_entropy, optimizer=optimizer, epochs=1,
            memory="sqrt", update="during backward", progress=False,
        )  # fmt: skip
    assert all(parameter.grad is None for parameter in model.parameters())
    assert optimizer.steps == 1
    optimizer.state_dict()  # which a half-made step has not
