"""Adam and AdamW against the papers' algorithms, over plain Python numbers."""

import math

import numpy as np
import pytest
from support import stand_in

from thriftgrad.errors import ConfigError
from thriftgrad.optim import Adam, AdamW


def textbook(p, gradients, lr, beta1, beta2, eps, l2=0.0, decay=0.0):
    """Kingma and Ba's algorithm 1 with corrected averages; None is a step without a gradient."""
    m = v = 0.0
    t = 0
    for g in gradients:
        if g is None:
            continue
        t += 1
        p *= 1 - lr * decay
        g = g + l2 * p
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g * g
        p -= lr * (m / (1 - beta1**t)) / (math.sqrt(v / (1 - beta2**t)) + eps)
    return p


@pytest.mark.parametrize("weight_decay", [0.0, 0.2])
@pytest.mark.parametrize("kind", [Adam, AdamW])
def test_agrees_with_the_papers(kind, weight_decay):
    rng = np.random.default_rng(1)
    start, gradients = rng.normal(size=(2, 3)), rng.normal(size=(30, 2, 3))
    w = stand_in(value=start.copy(), grad=None, name="w")
    optimizer = kind([w], 0.03, betas=(0.8, 0.95), eps=1e-3, weight_decay=weight_decay)
    for gradient in gradients:
        w.grad = gradient
        optimizer.step()
    decay = {"l2" if kind is Adam else "decay": weight_decay}
    for i in np.ndindex(2, 3):
        column = gradients[(slice(None), *i)].tolist()
        expected = textbook(float(start[i]), column, 0.03, 0.8, 0.95, 1e-3, **decay)
        assert w.value[i] == pytest.approx(expected, rel=1e-12)


def test_numbers_from_pytorch():
    # torch 2.13, float64: AdamW(lr=0.05, weight_decay=0.3, betas=(0.8, 0.95), eps=1e-3)
    w = stand_in(value=np.array([1.0, -2.0, 0.5]), grad=None, name="w")
    optimizer = AdamW([w], 0.05, weight_decay=0.3, betas=(0.8, 0.95), eps=1e-3)
    for k in range(5):
        w.grad = np.array([0.1, -0.2, 0.3]) * (k - 1.5)
        optimizer.step()
    expected = [0.9900725558605293, -1.917569668177713, 0.5268390215846314]
    np.testing.assert_allclose(w.value, expected, rtol=1e-12)


def test_first_step_is_lr_whatever_the_gradient():
    w = stand_in(value=np.zeros(3), grad=np.array([1e-3, -1.0, 1e3]), name="w")
    Adam([w], 0.1).step()
    np.testing.assert_allclose(w.value, [-0.1, 0.1, -0.1], rtol=1e-4)


def test_eps_stands_outside_the_corrected_root():
    w = stand_in(value=np.zeros(1), grad=np.array([2.0]), name="w")
    Adam([w], 1.0, eps=2.0).step()
    # corrected m = 2, corrected root = 2
    assert w.value[0] == pytest.approx(-2 / (2 + 2))


def test_a_thawed_parameter_is_corrected_for_its_own_updates():
    frozen_then_thawed = [None] * 50 + [0.3, -0.2]
    w = stand_in(value=np.array([1.0]), grad=None, name="w")
    other = stand_in(value=np.array([1.0]), grad=np.array([1.0]), name="other")
    optimizer = Adam([w, other], 0.1)
    for g in frozen_then_thawed:
        w.grad = None if g is None else np.array([g])
        optimizer.step()
    expected = textbook(1.0, frozen_then_thawed, 0.1, 0.9, 0.999, 1e-8)
    assert w.value[0] == pytest.approx(expected, rel=1e-12)
    assert (optimizer.steps, optimizer.updates) == (52, [2, 52])


def test_adamw_decays_where_adam_does_not_move():
    for kind, expected in ((Adam, 1.0), (AdamW, 0.95)):
        w = stand_in(value=np.ones(1), grad=np.zeros(1), name="w")
        weight_decay = 0.0 if kind is Adam else 0.5
        kind([w], 0.1, weight_decay=weight_decay).step()
        assert w.value[0] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"betas": (0.9, 1.0)}, r"betas\[1\] = 1.0"),
        ({"betas": (-0.1, 0.9)}, r"betas\[0\] = -0.1"),
        ({"betas": 0.9}, "betas = 0.9: expected two numbers"),
        ({"eps": 0.0}, r"eps = 0.0: expected a number in \(0, inf\)"),
        ({"weight_decay": -1}, "weight_decay = -1"),
    ],
)
@pytest.mark.parametrize("kind", [Adam, AdamW])
def test_options_are_checked(kind, options, message):
    w = stand_in(value=np.ones(3), grad=None, name="w")
    with pytest.raises(ConfigError, match=message):
        kind([w], 0.1, **options)


def test_eps_that_vanishes_in_half_precision_is_refused():
    w = stand_in(value=np.ones(3, np.float16), grad=np.zeros(3, np.float16), name="w")
    with pytest.raises(ConfigError, match="eps = 1e-08 is zero in the float16 of parameter 'w'"):
        Adam([w], 0.1)
    with pytest.raises(ConfigError, match=r"eps = 1e-07 is zero .* expected 1.88e-06 or more"):
        Adam([w], 0.1, eps=1e-7)  # times sqrt(1 - 0.999)
    Adam([w], 0.1, eps=1e-7, betas=(0.9, 0.0))
    Adam([w], 0.1, eps=1e-6).step()
    assert w.value.tolist() == [1, 1, 1]
