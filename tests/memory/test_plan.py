"""A plan keeps to its budget, says what it does, and is what `fit` then does."""

import re
import sys
from typing import Any

import numpy as np
import pytest

import thriftgrad as tg
from thriftgrad.errors import BudgetError, ConfigError
from thriftgrad.memory.plan import strategy_for

X = np.random.default_rng(0).standard_normal((256, 64), np.float32)
Y = np.random.default_rng(1).standard_normal((256, 16), np.float32)


def network(depth: int = 8) -> Any:
    rng = np.random.default_rng(2)
    layers: list[Any] = []
    for _ in range(depth):
        layers += [tg.nn.Linear(64, 64, rng=rng), np.tanh]
    return tg.nn.Sequential(*layers, tg.nn.Linear(64, 16, rng=rng))


def planned(budget: Any, **settings: Any) -> Any:
    model = network()
    optimizer = tg.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    return tg.memory.plan(
        model, X, Y, budget=budget, loss=tg.nn.mse, optimizer=optimizer, **settings
    )


def test_a_budget_is_kept_and_a_larger_one_is_never_slower() -> None:
    plain = planned("all", update="during backward")
    curve = plain.curve
    assert len(curve) > 5
    for point in curve:
        chosen = tg.memory.optimal(point.peak)(plain.chain)
        found = tg.memory.simulate(chosen, plain.chain)
        assert found.peak <= point.peak
        assert found.seconds <= point.seconds
    seconds = [point.seconds for point in curve]
    assert seconds == sorted(seconds, reverse=True)


def test_the_least_budget_is_tight_and_the_error_says_what_holds_it_up() -> None:
    plain = planned("all", update="during backward")
    least = plain.curve[0].peak
    assert tg.memory.simulate(tg.memory.optimal(least)(plain.chain), plain.chain).peak == least
    with pytest.raises(
        BudgetError, match=rf"the smallest schedule takes {least:,} bytes"
    ) as caught:
        tg.memory.optimal(least - 1)(plain.chain)
    assert caught.value.least == least


def test_a_budget_too_small_for_all_gradients_at_once_says_what_would_do() -> None:
    with pytest.raises(BudgetError, match=r'With update="during backward", [\d.]+ kB would do'):
        planned("400 kB")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("all", "all"),
        ("none", "none"),
        ("sqrt", "sqrt"),
        ("revolve", r"revolve(3)"),
        ("revolve:2", "revolve(2)"),
        ("every:2", "every(2)"),
        ("at:2,5", "at(2, 5)"),
        ("at: 2, 5", "at(2, 5)"),
        ("10 MB", "optimal"),
    ],
)
def test_strategies_have_names(text: str, name: str) -> None:
    chain = tg.memory.homogeneous(17)
    assert strategy_for(text)(chain).strategy == name


@pytest.mark.parametrize(
    "text", ["", "sqr", "every", "every:x", "at:", "all:3", "revolve:1,2", "64 XB"]
)
def test_what_names_nothing_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="expected"):
        strategy_for(text)


def test_the_table_adds_up() -> None:
    plan = planned("sqrt")
    assert sum(plan.by_kind().values()) == plan.peak_bytes
    text = str(plan)
    for kind in ("parameters", "optimizer state", "batch", "activations", "gradients", "peak"):
        assert kind in text
    shares = [float(share) for share in re.findall(r"([\d.]+) %", text)]
    assert abs(sum(shares) - 100) < 0.5
    assert re.search(r"17 stages.*\n", text)


def test_the_explanation_is_true_of_the_schedule() -> None:
    plan = planned("every:4", update="during backward")
    text = plan.explain()
    assert "the input and the outputs of stages 3, 7, 11 stay as checkpoints" in text
    assert "Taped in the first pass: stage 16." in text
    assert "16 once; 0–15 twice" in text
    assert "The least possible is" in text
    everything = planned("all").explain()
    assert "Nothing is computed twice." in everything
    assert "Taped in the first pass: stages 0–16." in everything
    assert "checkpoint" not in everything


def test_the_picture_in_characters_has_the_budget_and_the_phases() -> None:
    plain = planned("all", update="during backward")
    budget = (plain.peak_bytes + plain.curve[0].peak) // 2
    picture = planned(budget, update="during backward").text(width=60, height=8).splitlines()
    assert "─" in "".join(picture[:8])
    assert set(picture[8].split("└")[1]) <= set("frlb.")
    assert {"f", "l", "b", "r"} <= set(picture[8])
    assert all(len(line) <= 70 for line in picture[:9])


def test_a_plan_with_a_disk_counts_its_measured_speed(monkeypatch: Any) -> None:
    monkeypatch.setattr(sys.modules["thriftgrad.memory.plan"], "bandwidth", lambda: (1.0, 2.0))
    model = network()
    stay = tg.memory.plan(model, X, Y, budget=tg.memory.two_level(2, 4), loss=tg.nn.mse)
    assert stay.simulation.most_disk == 0  # at a second a byte, everything is faster than the disk
    monkeypatch.setattr(sys.modules["thriftgrad.memory.plan"], "bandwidth", lambda: (1e-15, 1e-15))
    go = tg.memory.plan(model, X, Y, budget=tg.memory.two_level(2, 4), loss=tg.nn.mse)
    assert go.simulation.most_disk > 0
    assert go.chain.write == 1e-15
    # Counted, as seconds that are measured scatter.
    assert go.simulation.runs.sum() < stay.simulation.runs.sum()


def test_a_notebook_shows_table_and_picture() -> None:
    plan = planned("sqrt")
    shown = plan._repr_html_()
    assert shown.startswith("<pre>sqrt: 17 stages")
    assert "┤" in shown
    assert repr(plan) == str(plan)


def test_drawing_shows_the_measured_line_and_refuses_that_of_another_plan(tmp_path: Any) -> None:
    pytest.importorskip("matplotlib")
    model = network()
    plan = tg.memory.plan(model, X, Y, budget="sqrt", loss=tg.nn.mse)
    with tg.memory.meter() as measured:
        tg.memory.execute(plan.schedule, list(model), X, lambda out: tg.nn.mse(out, Y))
    axes = plan.draw(tmp_path / "memory.png", measured=measured)
    assert (tmp_path / "memory.png").stat().st_size > 1000
    assert "measured" in axes.get_title(loc="left")
    with pytest.raises(ConfigError, match="run the step by this plan"):
        tg.memory.plan(model, X, Y, budget="none", loss=tg.nn.mse).draw(measured=measured)


def test_the_meter_agrees_with_the_plan_kind_by_kind() -> None:
    model = network()
    plan = tg.memory.plan(model, X, Y, budget="every:3", loss=tg.nn.mse)
    for _ in range(2):  # the first step fills caches
        with tg.memory.meter() as measured:
            tg.memory.execute(plan.schedule, list(model), X, lambda out: tg.nn.mse(out, Y))
        for parameter in model.parameters():
            parameter.grad = None
    fixed = sum(plan.chain.fixed.values())
    assert measured.actions == list(plan.schedule.actions)
    assert abs(measured.peak + fixed - plan.peak_bytes) <= 0.01 * plan.peak_bytes
    after = np.array(measured.after) + fixed
    assert np.max(np.abs(after - plan.simulation.after)) <= 0.01 * plan.peak_bytes
    assert all(series.shape == (len(plan.schedule),) for series in measured.by_kind.values())
    assert sum(measured.by_kind.values())[3] == measured.during[3]


def test_the_meter_leaves_tracing_as_it_was() -> None:
    import tracemalloc

    assert not tracemalloc.is_tracing()
    with tg.memory.meter():
        assert tracemalloc.is_tracing()
    assert not tracemalloc.is_tracing()
    tracemalloc.start()
    try:
        with tg.memory.meter():
            pass
        assert tracemalloc.is_tracing()
    finally:
        tracemalloc.stop()


def test_a_model_of_one_stage_is_told_how_to_be_cut() -> None:
    class Whole(tg.nn.Module):
        def __init__(self) -> None:
            self.layers = network()

        def __call__(self, x: Any) -> Any:
            return self.layers(x)

    with pytest.raises(BudgetError, match=r"single stage, Whole, .* a method stages\(\)") as caught:
        tg.memory.plan(Whole(), X, budget="100 kB")
    assert caught.value.least is not None


@pytest.mark.parametrize("budget", [[], 1e6, b"64 MB", None])
def test_what_is_neither_size_nor_strategy_is_told_what_there_is(budget: Any) -> None:
    with pytest.raises(ConfigError, match=r"expected a size such as '64 MB', one of 'all'"):
        strategy_for(budget)


def test_a_number_of_numpys_is_a_budget() -> None:
    assert planned(np.int64(10**7)).budget == 10**7


@pytest.mark.parametrize("maker", [tg.memory.every, tg.memory.sqrt, tg.memory.two_level])
def test_what_makes_a_strategy_is_not_one(maker: Any) -> None:
    with pytest.raises(ConfigError, match=rf"call it: {maker.__name__}\(\.\.\.\)"):
        planned(maker)


def test_a_strategy_that_returns_no_schedule_is_refused() -> None:
    with pytest.raises(ConfigError, match="returned a NoneType for a chain"):
        planned(lambda chain: None)


def test_a_loss_that_cannot_be_called_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"loss = 3; expected a function loss\(outputs, y\)"):
        tg.memory.plan(network(1), X, Y, budget="all", loss=3)
