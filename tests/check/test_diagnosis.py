"""Each mistake that people make, planted in a hand-written network, is caught and named."""

import numpy as np
import pytest
from check.hand_written import OF_VALUE, Network, arguments

import thriftgrad as tg
from thriftgrad import check

NAMES = {
    "divided twice": "divided twice by the batch size",
    "sum": "sum instead of mean over the batch",
    "bias mean": "mean instead of sum over the batch for the bias",
    "sign": "sign",
    "factor": "a constant factor",
    "missing": "missing derivative of the activation",
    "of activation": "derivative taken of the activation instead of the pre-activation",
    "of pre-activation": "derivative in terms of the activation taken of the pre-activation",
    "once more": "derivative of the activation applied once too often",
    "transposed": "transposed weights",
    "transposed gradient": "transposed weights",
    "transposed shape": "transposed weights",
    "bias unsummed": "not summed over the batch",
    "bias column": "right values in the wrong shape",
    "stale": "a stale cache",
    "accumulating": "gradients accumulate over calls",
    "decay": "the gradient of a penalty on the weights is missing or has the wrong factor",
    "nan": "not finite",
    "zero": "no gradient arrives",
}
RELU_HAS_NOT = {"of activation", "of pre-activation", "once more"}


@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "relu", "softplus"])
@pytest.mark.parametrize("fault", NAMES)
def test_planted_faults_are_named(activation, fault):
    if activation == "relu" and fault in RELU_HAS_NOT:
        pytest.skip("that is no mistake with a ReLU, whose derivative is 0 or 1")
    if fault == "of pre-activation" and activation not in OF_VALUE:
        pytest.skip("nobody writes it in terms of the activation")
    network = Network(activation, fault)
    report = check.gradients(network.loss, arguments(0), analytic=network.backward)
    assert not report.ok
    assert report.diagnosis == NAMES[fault], report
    assert f"probably {NAMES[fault]}" in " ".join(str(report).split())


@pytest.mark.parametrize("fault", ["missing", "of activation", "once more", "transposed", "stale"])
def test_with_an_activation_at_the_output(fault):
    network = Network("tanh", fault, output=True)
    report = check.gradients(network.loss, arguments(1), analytic=network.backward)
    assert report.diagnosis == NAMES[fault], report


def test_the_evidence_names_blocks_and_activation():
    network = Network("sigmoid", "missing")
    report = check.gradients(network.loss, arguments(0), analytic=network.backward)
    (finding,) = report.findings
    assert finding.blocks == ("params[1][0]", "params[1][1]")
    assert "σ = sigmoid" in finding.evidence
    assert "may follow from that: params[0][0], params[0][1]" in str(report)


def test_a_factor_of_two_in_a_batch_of_two():
    """Only with another batch is a forgotten 2 told from a batch of two."""
    args = arguments(0, batch=2)
    for fault in ("factor", "sum"):
        network = Network("tanh", fault)
        report = check.gradients(network.loss, args, analytic=network.backward)
        assert report.diagnosis == NAMES[fault], report


def test_a_cache_that_was_filled_before_the_check():
    network = Network("sigmoid", "stale")
    network.backward(*arguments(7))
    report = check.gradients(network.loss, arguments(0), analytic=network.backward)
    assert report.diagnosis == "a stale cache"


def test_batches_along_the_last_axis():
    """Columns as examples: x is (features, batch) and weights are (outputs, inputs)."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(3, 6)), rng.uniform(size=(2, 6))
    p = {
        "W1": rng.normal(size=(4, 3)),
        "b1": rng.normal(size=(4, 1)),
        "W2": rng.normal(size=(2, 4)),
        "b2": rng.normal(size=(2, 1)),
    }

    def loss(p, x, y):
        h = np.tanh(p["W1"] @ x + p["b1"])
        return np.sum((p["W2"] @ h + p["b2"] - y) ** 2) / (2 * x.shape[1])

    def backward(p, x, y, fault=""):
        m = x.shape[1]
        h = np.tanh(p["W1"] @ x + p["b1"])
        d2 = p["W2"] @ h + p["b2"] - y
        d1 = p["W2"].T @ d2 * (1 if fault == "missing" else 1 - h**2)
        scale = m * m if fault == "divided twice" else m
        return {
            "W1": d1 @ x.T / scale,
            "b1": np.sum(d1, axis=1, keepdims=True) / scale / (m if fault == "bias mean" else 1),
            "W2": d2 @ h.T / scale,
            "b2": np.sum(d2, axis=1, keepdims=True) / scale / (m if fault == "bias mean" else 1),
        }

    assert check.gradients(loss, (p, x, y), analytic=backward).ok
    for fault in ("missing", "divided twice", "bias mean"):
        report = check.gradients(
            loss, (p, x, y), analytic=lambda p, x, y, fault=fault: backward(p, x, y, fault)
        )
        assert report.diagnosis == NAMES[fault], report


def test_constants_beside_the_batch():
    params, x, y = arguments(0, batch=5)
    network = Network("tanh", "sum")
    report = check.gradients(
        lambda params, x, y, scale: network.loss(params, x, y) * scale[0],
        (params, x, y, np.ones(2)),
        analytic=lambda params, x, y, scale: network.backward(params, x, y),
    )
    assert report.diagnosis == "sum instead of mean over the batch"


def test_data_in_a_closure_still_give_a_name():
    params, x, y = arguments(0, batch=8)
    network = Network("tanh", "divided twice")
    report = check.gradients(
        lambda params: network.loss(params, x, y),
        (params,),
        analytic=lambda params: network.backward(params, x, y),
    )
    assert report.diagnosis == "divided twice by the batch size"
    assert "if 8 is the size of the batch" in report.findings[0].evidence


def test_given_gradients_are_diagnosed_as_far_as_they_can_be():
    args = arguments(0)
    for fault in ("sign", "divided twice", "bias mean", "transposed gradient", "missing"):
        wrong = Network("sigmoid", fault).backward(*args)
        report = check.gradients(Network("sigmoid").loss, args, analytic=wrong)
        assert not report.ok
        assert report.diagnosis == ("" if fault == "missing" else NAMES[fault])


def test_what_is_not_known_is_not_named():
    network = Network("sigmoid")

    def noisy(params, x, y):
        rng = np.random.default_rng(0)
        return [
            tuple(g * (1 + 0.1 * rng.normal(size=g.shape)) for g in pair)
            for pair in network.backward(params, x, y)
        ]

    report = check.gradients(network.loss, arguments(0), analytic=noisy)
    assert not report.ok
    assert not report.findings
    assert "none of the known mistakes" in str(report)


def test_in_large_networks():
    args = arguments(0, sizes=(20, 40, 40, 5), batch=10, spread=0.3)
    for fault in ("divided twice", "bias mean", "sign", "missing", "stale", "transposed", "decay"):
        network = Network("sigmoid", fault)
        report = check.gradients(network.loss, args, analytic=network.backward)
        assert report.blocks[0].directions
        assert report.diagnosis == NAMES[fault], report


def test_a_forgotten_column_is_no_stale_cache():
    network = Network("sigmoid")

    def forgetful(params, x, y):
        gradients = [list(pair) for pair in network.backward(params, x, y)]
        gradients[1][0][:, 2] = 0.0
        return gradients

    args = arguments(0, sizes=(3, 6, 8, 2))
    args = ([list(pair) for pair in args[0]], *args[1:])
    report = check.gradients(network.loss, args, analytic=forgetful)
    assert [block.name for block in report.blocks if not block.ok] == ["params[1][0]"]
    assert "cache" not in report.diagnosis, report


def complex_loss(w, x):
    return np.sum(np.abs(np.tanh(x @ w)) ** 2)


@pytest.mark.parametrize("shape", [(3, 3), (3, 2)])
def test_complex_gradients(shape):
    rng = np.random.default_rng(0)
    w = rng.normal(size=shape) + 1j * rng.normal(size=shape)
    x = rng.normal(size=(4, 3)) / 4
    right = tg.grad(complex_loss)
    names = {
        "conjugated": lambda w, x: np.conj(right(w, x)),
        "sign": lambda w, x: -right(w, x),
        "": lambda w, x: right(w, x) + 1j,
    }
    if shape == (3, 3):
        names["transposed weights"] = lambda w, x: right(w, x).T
    for name, wrong in names.items():
        report = check.gradients(complex_loss, (w, x), analytic=wrong)
        assert not report.ok
        assert report.diagnosis == name


def test_the_wrong_shape_is_not_called_zero():
    report = check.gradients(
        lambda w, x: np.sum(np.tanh(x @ w)),
        (np.ones((3, 2)), np.ones((4, 3))),
        analytic=lambda w, x: np.ones((5, 7)),
    )
    assert not report.ok
    assert report.diagnosis == ""
    assert "the gradient has shape (5, 7), the parameter has (3, 2)" in str(report)


def test_what_a_closure_hides_is_asked_for():
    params, x, y = arguments(0)
    network = Network("tanh", "missing")
    inside = check.gradients(
        lambda params: network.loss(params, x, y),
        (params,),
        analytic=lambda params: network.backward(params, x, y),
    )
    assert not inside.findings
    assert "pass x and y as arguments" in " ".join(str(inside).split())
    outside = check.gradients(network.loss, (params, x, y), analytic=network.backward)
    assert outside.diagnosis == NAMES["missing"]
    assert "pass x and y" not in str(outside)


@pytest.mark.parametrize("spread", [1.0, 3.0])
def test_another_wrong_derivative_of_a_saturated_tanh(spread):
    """1 − h in the place of 1 − h² differs from 1 only by what is lost far out."""
    network = Network("tanh")

    def wrong(params, x, y):
        _, (_, h, out) = network.forward(params, x)
        d2 = (out - y) / len(x)
        d1 = d2 @ params[1][0].T * (1 - h)
        return [(x.T @ d1, d1.sum(axis=0)), (h.T @ d2, d2.sum(axis=0))]

    for seed in range(4):
        args = arguments(seed, (3, 4, 2), spread=spread)
        report = check.gradients(network.loss, args, analytic=wrong)
        assert not report.ok
        assert "missing derivative" not in report.diagnosis, f"seed {seed}\n{report}"
