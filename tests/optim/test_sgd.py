"""SGD against a textbook loop over plain Python numbers."""

import numpy as np
import pytest
from support import stand_in

from thriftgrad.errors import ConfigError
from thriftgrad.optim import SGD


def textbook(p, gradients, lr, momentum, nesterov, weight_decay):
    """One scalar; the velocity starts at the first gradient, as PyTorch's does."""
    v = None
    for g in gradients:
        g = g + weight_decay * p
        v = g if v is None else momentum * v + g
        p -= lr * (g + momentum * v if nesterov else v)
    return p


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)])
def test_agrees_with_the_textbook(momentum, nesterov, weight_decay):
    rng = np.random.default_rng(0)
    start, gradients = rng.normal(size=(2, 3)), rng.normal(size=(20, 2, 3))
    w = stand_in(value=start.copy(), grad=None, name="w")
    optimizer = SGD([w], 0.05, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay)
    for gradient in gradients:
        w.grad = gradient
        optimizer.step()
    for i in np.ndindex(2, 3):
        column = gradients[(slice(None), *i)].tolist()
        expected = textbook(float(start[i]), column, 0.05, momentum, nesterov, weight_decay)
        assert w.value[i] == pytest.approx(expected, rel=1e-13)


def test_heavy_ball_by_hand():
    w = stand_in(value=np.array([1.0]), grad=None, name="w")
    optimizer = SGD([w], lr=0.1, momentum=0.5)
    trace = []
    for g in (2.0, 4.0, 0.0):
        w.grad = np.array([g])
        optimizer.step()
        trace.append(float(w.value[0]))
    # v = 2, 5, 2.5
    assert trace == pytest.approx([0.8, 0.3, 0.05])


def test_no_momentum_keeps_no_state():
    w = stand_in(value=np.ones(3), grad=None, name="w")
    assert SGD([w], 0.1).state == [{}]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"momentum": 1.0}, r"momentum = 1.0: expected a number in \[0, 1\)"),
        ({"momentum": -0.1}, "momentum"),
        ({"momentum": True}, "momentum = True"),
        ({"weight_decay": -1.0}, "weight_decay"),
        ({"weight_decay": float("nan")}, "weight_decay = nan"),
        ({"nesterov": True}, "nesterov=True with momentum = 0"),
        ({"clip_norm": 0.0}, r"clip_norm = 0.0: expected a number in \(0, inf\)"),
    ],
)
def test_options_are_checked(options, message):
    w = stand_in(value=np.ones(3), grad=None, name="w")
    with pytest.raises(ConfigError, match=message):
        SGD([w], 0.1, **options)
