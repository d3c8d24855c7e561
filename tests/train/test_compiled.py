"""fit with compiled steps: what eager steps give, what they promise, and what is said of each."""

from __future__ import annotations

import re
import sys
from typing import Any

import numpy as np
import pytest

from thriftgrad import nn, optim, train
from thriftgrad.compile import machine_code
from thriftgrad.errors import (
    ConfigError,
    DataError,
    MissingExtraError,
    NonFiniteError,
    RecordError,
)
from thriftgrad.optim import schedules

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 3, 50)
X = (np.eye(3)[LABELS] @ RNG.normal(size=(3, 6)) * 2 + RNG.normal(size=(50, 6))).astype(np.float32)
HOT = np.eye(3, dtype=np.float32)[LABELS]


def network(*extra: Any, dtype: Any = np.float32) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(6, 8, rng=1, dtype=dtype), nn.tanh, *extra, nn.Linear(8, 3, rng=2, dtype=dtype)
    )


def trained(
    compile: bool | None,
    model: Any = None,
    data: Any = (X, LABELS),
    optimizer: Any = lambda p: optim.Adam(p, lr=0.02),
    **options: Any,
) -> tuple[Any, train.History, optim.Optimizer]:
    model = network() if model is None else model
    rule = optimizer(model.parameters())
    options = {"loss": nn.cross_entropy, "epochs": 3, "batch_size": 16, **options}
    history = train.fit(model, data, optimizer=rule, compile=compile, **options)
    return model, history, rule


def bits(model: nn.Module) -> bytes:
    return b"".join(array.tobytes() for array in model.state_dict().values())


CASES: dict[str, dict[str, Any]] = {
    "Adam": {},
    "double": {
        "model": lambda: network(dtype=np.float64),
        "data": (X.astype(np.float64), LABELS),
    },
    "one-hot rows": {"data": (X, HOT), "loss": nn.mse},
    "rows of probabilities": {"data": (X, (HOT + 1) / 4)},
    "regression": {"data": (X, X[:, :3]), "loss": nn.squared_error},
    "dropout": {"model": lambda: network(nn.Dropout(0.3, rng=5))},
    "clipped": {"optimizer": lambda p: optim.SGD(p, lr=0.1, clip_norm=0.05)},
    "momentum": {"optimizer": lambda p: optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01)},
    "schedule": {"optimizer": lambda p: optim.AdamW(p, lr=schedules.cosine(0.05, steps=12))},
    "stopping": {"patience": 1, "validation": (X, (LABELS + 1) % 3), "epochs": 6},
    "some parameters": {"optimizer": lambda p: optim.SGD(p[2:], lr=0.1)},
    "batches of one": {"batch_size": 1, "epochs": 1},
    "one batch": {"batch_size": 64},
}


@pytest.mark.parametrize("name", CASES)
def test_equals_eager(name: str) -> None:
    case = {"model": network, **CASES[name]}
    make = case.pop("model")
    model, history, rule = trained(True, make(), **case)
    eager, expected, other = trained(False, make(), **case)
    tolerance = 1e-10 if name == "double" else 1e-4
    for path, array in eager.state_dict().items():
        difference = np.linalg.norm(model.state_dict()[path] - array)
        assert difference <= tolerance * np.linalg.norm(array), path
    for column in ("train_loss", "validation_loss"):
        a, b = getattr(history, column), getattr(expected, column)
        np.testing.assert_allclose(a, b, rtol=1e-5)
    np.testing.assert_array_equal(history.train_accuracy, expected.train_accuracy)
    np.testing.assert_array_equal(history.learning_rate, expected.learning_rate)
    assert (rule.steps, rule.updates) == (other.steps, other.updates)
    assert all(parameter.grad is None for parameter in model.parameters())
    for a, b in zip(_draws(model), _draws(eager), strict=True):
        assert a == b
    assert (history.step, expected.step) == ("compiled", "eager, as compile=False asks")


def _draws(model: Any) -> list[float]:
    return [each.rng.random() for each in model if isinstance(each, nn.Dropout)]


class Said(nn.Module):
    """A layer that prints when it is called."""

    def __call__(self, x: Any) -> Any:
        print("called")
        return x


def test_each_size_of_batch_is_recorded_once(capsys: Any) -> None:
    trained(True, network(Said()))  # 16, 16, 16 and 2, three times
    assert capsys.readouterr().out == "called\n" * 2


def test_few_steps_are_not_worth_a_recording(tmp_path: Any) -> None:
    def made(epochs: int, **options: Any) -> tuple[str, bytes]:
        model, history, _ = trained(options.pop("compile", None), epochs=epochs, **options)
        return history.step, bits(model)

    said, weights = made(24)
    assert said == "eager, as 96 steps are too few to be worth a recording"
    assert weights == made(24, compile=False)[1]
    assert made(25)[0] == "compiled"
    assert made(1, compile=True)[0] == "compiled"
    path = tmp_path / "there may be more to come"
    assert made(1, snapshot=path)[0] == "compiled"
    resumed = made(25, snapshot=path, resume=True)
    assert resumed == made(25)


class Several(nn.Module):
    """A model of two outputs, which have no accuracy."""

    def __init__(self) -> None:
        self.body, self.head = nn.Linear(6, 3, rng=0), nn.Linear(6, 2, rng=1)

    def __call__(self, x: Any) -> Any:
        return self.body(x), {"size": self.head(x)}


@pytest.mark.parametrize("compile", [False, True])
def test_a_model_of_several_outputs(compile: bool) -> None:
    def loss(outputs: Any, y: Any) -> Any:
        return nn.cross_entropy(outputs[0], y) + np.mean(np.square(outputs[1]["size"]))

    _, history, _ = trained(compile, Several(), loss=loss, epochs=5, validation=(X, LABELS))
    assert history.train_loss[-1] < history.train_loss[0]
    assert history.validation_loss[-1] < history.validation_loss[0]
    assert np.all(np.isnan(history.train_accuracy) & np.isnan(history.validation_accuracy))
    with pytest.raises(NonFiniteError, match="the batch itself has NaN"):
        trained(compile, Several(), loss=loss, data=(_with(X, 49, np.nan), LABELS))


class Branch(nn.Module):
    def __call__(self, x: Any) -> Any:
        return x if np.max(np.abs(x.value)) < 0.9 else x * 0.5


class Counter(nn.Module):
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, x: Any) -> Any:
        self.calls += 1
        return x * (1.0 / self.calls)


class Centred(nn.Module):
    """What a batch normalisation keeps: a running mean."""

    def __init__(self, width: int = 8) -> None:
        self.mean: Any = np.zeros(width, np.float32)

    def __call__(self, x: Any) -> Any:
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * np.mean(x.value, axis=0)
        return x - self.mean


class Noise(nn.Module):
    def __init__(self) -> None:
        self.rng = np.random.default_rng(4)

    def __call__(self, x: Any) -> Any:
        return x + self.rng.normal(size=x.shape).astype(np.float32)


class Picky(nn.Module):
    """A layer that does not know what a stand-in is."""

    def __call__(self, x: Any) -> Any:
        if type(x.value) is not np.ndarray:
            raise TypeError("an array, please")
        return x * 2.0


class Keeps(nn.Module):
    def __call__(self, x: Any) -> Any:
        self.last = x
        return x


@pytest.mark.parametrize("layer", [Branch, Counter, Centred, Noise, Picky, Keeps])
def test_what_cannot_be_recorded_is_trained_as_ever_and_said(layer: Any, caplog: Any) -> None:
    model, history, _ = trained(None, network(layer()), epochs=25)
    expected, same, _ = trained(False, network(layer()), epochs=25)
    assert bits(model) == bits(expected)
    np.testing.assert_array_equal(history.train_loss, same.train_loss)
    assert history.step.startswith("eager, as it cannot be recorded: ")
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    said = f"the training step is {history.step}; compile=False says that this is all right"
    assert record.message == said

    refused = network(layer())
    before = bits(refused)
    with pytest.raises((RecordError, TypeError)) as e:
        trained(True, refused)
    assert not re.search("fallback|budget", f"{e.value} {history.step}")  # which fit does not have
    assert bits(refused) == before
    assert not hasattr(refused[2], "last")


@pytest.mark.parametrize("layer", [Counter, Centred, Noise])
def test_a_recording_that_failed_leaves_no_trace(layer: Any) -> None:
    model, fresh = network(layer()), layer()
    with pytest.raises(RecordError):
        trained(True, model)
    for name, value in vars(fresh).items():
        if isinstance(value, np.random.Generator):
            assert model[2].rng.bit_generator.state == value.bit_generator.state
        else:
            np.testing.assert_array_equal(getattr(model[2], name), value)


def test_a_setting_that_a_callback_changes_counts_from_then_on() -> None:
    class Scale(nn.Module):
        def __init__(self) -> None:
            self.factor = 1.0

        def __call__(self, x: Any) -> Any:
            return x * self.factor

    class Change(train.Callback):
        def on_step_end(self, state: train.State) -> None:
            state.model[2].factor = 1.0 / state.step  # type: ignore[index]
            state.optimizer.lr = 0.01 * state.step

    runs = [trained(each, network(Scale()), callbacks=[Change()]) for each in (True, False)]
    for a, b in zip(*(model.parameters() for model, _, _ in runs), strict=True):
        np.testing.assert_allclose(a.value, b.value, rtol=1e-4, atol=1e-6)


def test_what_changes_at_every_step_is_not_recorded_for_ever(caplog: Any) -> None:
    class Log(train.Callback):
        def __init__(self) -> None:
            self.losses: list[float] = []

        def loss(self, outputs: Any, y: Any) -> Any:
            return nn.cross_entropy(outputs, y)

        def on_step_end(self, state: train.State) -> None:
            self.losses.append(state.loss)

    log = Log()
    _, history, _ = trained(None, loss=log.loss, callbacks=[log], epochs=25)
    assert len(log.losses) == 100
    assert history.step.startswith("eager, as it cannot be recorded for long: 11 recordings in 11")
    assert [record.levelname for record in caplog.records if "eager" in record.message] == [
        "WARNING"
    ]


def refusal(compile: bool | None, **options: Any) -> tuple[str, bytes]:
    """Return what a training ends with, and the weights then."""
    model = options.pop("model", network)()
    with pytest.raises((NonFiniteError, DataError, ConfigError)) as e:
        trained(compile, model, **options)
    return f"{type(e.value).__name__}: {e.value}", bits(model)


def _with(values: Any, row: int, value: Any) -> Any:
    changed = values.copy()
    changed[row] = value
    return changed


def steep() -> nn.Module:
    model = nn.Sequential(nn.Linear(6, 3, rng=0), np.sqrt)  # the slope of which is infinite at 0
    for parameter in model.parameters():
        parameter.value[...] = 0
    return model


def faint() -> nn.Module:
    model = nn.Sequential(nn.Linear(6, 3, rng=0))
    for parameter in model.parameters():
        parameter.value[...] *= np.float32(1e-30)
    return model


def burning() -> nn.Module:
    model = network()
    model[0].weight.value *= 1e30
    return nn.Sequential(*model, lambda x: x * 1e30, nn.relu, lambda x: x * 1e30)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "an infinite input, late": (
        {"data": (_with(X, 49, np.inf), LABELS), "rng": 3},
        r"NonFiniteError: epoch 1, step \d of 4: the loss is nan: the batch itself has NaN",
    ),
    "a layer that overflows": (
        {"model": burning},
        r"step 1 of 4: the loss is (nan|inf): the output of layer 5 \(<lambda>\) is the first",
    ),
    "a gradient": (
        {"model": steep, "data": (np.abs(X), HOT), "loss": nn.mse},
        r"step 1 of 4: the loss is 0\.\d+, but the gradient of 0\.bias is not finite",
    ),
    "a gradient that nothing is to come of": (
        {
            "model": steep,
            "data": (np.abs(X), HOT),
            "loss": nn.mse,
            "optimizer": lambda p: optim.SGD(p, lr=0.0),
        },
        r"step 1 of 4: the loss is 0\.\d+, but the gradient of 0\.bias is not finite",
    ),
    "a gradient that is finite times the learning rate": (
        {
            "model": faint,
            "data": (np.abs(X) * np.float32(1e30), LABELS),
            "loss": lambda z, y: np.mean(z) * 1e12,
            "optimizer": lambda p: optim.SGD(p, lr=1e-6),
        },
        r"step 1 of 4: the loss is .*, but the gradient of 0\.weight is not finite",
    ),
    "a label, late": ({"data": (X, _with(LABELS, 49, 7)), "rng": 3}, r"DataError: .*first is 7"),
    "an array for a loss": ({"loss": lambda z, y: z}, r"returned a Tensor of shape \(16, 3\)"),
    "a loss without a tape": ({"loss": lambda z, y: np.mean(z.value)}, "which records nothing"),
    "a learning rate": (
        {"optimizer": lambda p: optim.SGD(p, lr=lambda n: 0.1 - n)},
        "lr at step 1",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_goes_wrong_is_said_as_ever_and_nothing_moves(name: str) -> None:
    options, message = BAD[name]
    said, weights = refusal(True, **options)
    assert re.search(message, said)
    expected, others = refusal(False, **options)
    assert said == expected
    assert refusal(None, epochs=25, **options) == (said, weights)
    for a, b in zip(*(np.frombuffer(each, np.float32) for each in (weights, others)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


RATES: dict[str, Any] = {
    "zero at times": lambda p: optim.SGD(p, lr=lambda n: 0.5 * (n % 3)),
    "next to nothing": lambda p: optim.SGD(p, lr=1e-30),
    "more than one": lambda p: optim.SGD(p, lr=7.0),
    "a schedule down to zero": lambda p: optim.SGD(p, lr=schedules.cosine(0.9, steps=11)),
    "of Adam, zero at times": lambda p: optim.Adam(p, lr=lambda n: 0.01 * (n % 3)),
}


@pytest.mark.parametrize("name", RATES)
def test_rates_of_any_size(name: str) -> None:
    options: Any = {"optimizer": RATES[name], "data": (X, HOT), "loss": _flat}
    model, history, _ = trained(True, **options)
    eager, expected, _ = trained(False, **options)
    for a, b in zip(model.parameters(), eager.parameters(), strict=True):
        assert np.linalg.norm(a.value - b.value) <= 1e-4 * np.linalg.norm(b.value)
    np.testing.assert_allclose(history.train_loss, expected.train_loss, rtol=1e-5)
    assert history.step == "compiled"


def _flat(outputs: Any, y: Any) -> Any:
    return nn.mse(outputs, y) * 0.01


@pytest.mark.parametrize("given", ["numba", "yes", 1, 0, np.True_])
def test_compile_is_true_or_false_or_none(given: Any) -> None:
    hint = '; kernels="numba" compiles' if isinstance(given, str) else "$"
    message = re.escape(f"compile = {given!r}; expected True, False or None") + hint
    with pytest.raises(ConfigError, match=message):
        trained(given)


def test_kernels_are_for_compiled_steps(monkeypatch: Any) -> None:
    with pytest.raises(ConfigError, match="kernels = 'cuda'; expected 'numpy' or 'numba'"):
        trained(True, kernels="cuda")
    with pytest.raises(ConfigError, match="kernels='numba' with compile=False"):
        trained(False, kernels="numba")
    with pytest.raises(ConfigError, match="kernels='numba' with memory"):
        trained(None, kernels="numba", memory="all")
    assert trained(False, kernels="numpy", memory="all")[1].step.startswith("eager")
    monkeypatch.setitem(sys.modules, "numba", None)
    with pytest.raises(MissingExtraError, match=r"thriftgrad\[fast\]"):
        trained(None, kernels="numba", epochs=1)


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: Any) -> Any:
    """A folder of its own for machine code, where there is Numba."""
    pytest.importorskip("numba")
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        patch.setattr(machine_code, "_loaded", {})  # as other tests may have compiled the same
        yield folder / "thriftgrad" / "kernels"


@pytest.mark.parametrize("name", ["Adam", "one-hot rows"])
def test_numbas_kernels(name: str, kernels: Any, caplog: Any) -> None:
    case = {"model": network, **CASES[name]}
    make = case.pop("model")
    with caplog.at_level("INFO", "thriftgrad.train"):
        model, history, _ = trained(True, make(), kernels="numba", **case)
    assert list(kernels.iterdir())
    eager, expected, _ = trained(False, make(), **case)
    for a, b in zip(model.parameters(), eager.parameters(), strict=True):
        assert np.linalg.norm(a.value - b.value) <= 1e-4 * np.linalg.norm(b.value)
    np.testing.assert_allclose(history.train_loss, expected.train_loss, rtol=1e-5)
    assert history.step == "compiled, with Numba's kernels"
    assert caplog.records[0].message == f"the training step is {history.step}"


@pytest.mark.parametrize("name", ["a gradient", "a layer that overflows"])
def test_numbas_kernels_leave_the_checks_as_they_are(name: str, kernels: Any) -> None:
    options, _ = BAD[name]
    assert refusal(True, kernels="numba", **options) == refusal(True, **options)


def test_two_goes_and_an_interrupt_give_the_bits_of_one(tmp_path: Any) -> None:
    class Interrupt(train.Callback):
        def on_step_end(self, state: train.State) -> None:
            if (state.epoch, state.step) == (3, 2):
                raise KeyboardInterrupt

    def made(epochs: int, path: str, callbacks: Any = ()) -> Any:
        return trained(
            True, network(nn.Dropout(0.2, rng=3)), epochs=epochs, snapshot=tmp_path / path,
            resume=True, callbacks=callbacks,
        )[0]  # fmt: skip

    whole = made(5, "whole")
    made(2, "parts")
    with pytest.raises(KeyboardInterrupt):
        made(5, "parts", [Interrupt()])
    assert bits(made(5, "parts")) == bits(whole)


def test_modes_are_those_of_training_and_evaluation() -> None:
    model = network(nn.Dropout(0.5, rng=1))
    model.eval()
    _, history, _ = trained(True, model, validation=(X, LABELS), epochs=1, optimizer=still)
    scores = train.evaluate(model, (X, LABELS), loss=nn.cross_entropy, batch_size=16)
    assert history.validation_loss[0] == scores.loss != history.train_loss[0]
    assert not model[2].training


def still(parameters: Any) -> optim.Optimizer:
    return optim.SGD(parameters, lr=0.0)


def test_two_compiled_steps_of_one_model_see_each_other() -> None:
    model = network()
    trained(True, model, epochs=1)
    by_hand = network()
    trained(False, by_hand, epochs=1)
    trained(True, model, loss=lambda z, y: np.mean(np.square(z)), epochs=1)
    trained(False, by_hand, loss=lambda z, y: np.mean(np.square(z)), epochs=1)
    for a, b in zip(model.parameters(), by_hand.parameters(), strict=True):
        np.testing.assert_allclose(a.value, b.value, rtol=1e-4, atol=1e-6)
