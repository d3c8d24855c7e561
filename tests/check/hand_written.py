"""Small networks with backpropagation written by hand, and the mistakes people make in it."""

from itertools import pairwise

import numpy as np

ACTIVATIONS = {
    "sigmoid": (lambda z: 1 / (1 + np.exp(-z)), lambda z: np.exp(-z) / (1 + np.exp(-z)) ** 2),
    "tanh": (np.tanh, lambda z: 1 - np.tanh(z) ** 2),
    "relu": (lambda z: np.maximum(z, 0), lambda z: (z > 0) * 1.0),
    "softplus": (lambda z: np.logaddexp(z, 0), lambda z: 1 / (1 + np.exp(-z))),
}
OF_VALUE = {"sigmoid": lambda y: y * (1 - y), "tanh": lambda y: 1 - y * y}


class Network:
    """x → σ(xW + b) → ... → xW + b or σ of it, with half the squared error, mean over the batch.

    `fault` plants a mistake in `backward`.
    """

    def __init__(self, activation="sigmoid", fault="", output=False):
        self.activation, self.fault, self.output = activation, fault, output
        self.cache = None
        self.sum = None

    def forward(self, params, x):
        sigma, _ = ACTIVATIONS[self.activation]
        zs, hs = [], [x]
        for i, (w, b) in enumerate(params):
            zs.append(hs[-1] @ w + b)
            last = i == len(params) - 1
            hs.append(zs[-1] if last and not self.output else sigma(zs[-1]))
        return zs, hs

    def loss(self, params, x, y):
        _, hs = self.forward(params, x)
        return np.sum((hs[-1] - y) ** 2) / (2 * len(x))

    def backward(self, params, x, y):
        fault = self.fault
        sigma, derivative = ACTIVATIONS[self.activation]
        zs, hs = self.forward(params, x)
        if fault == "stale":
            if self.cache is None:
                self.cache = zs, hs
            zs, hs = self.cache
        if fault == "missing":
            derivative = lambda z: 1.0
        if fault == "of activation":
            right = derivative
            derivative = lambda z: right(sigma(z))
        if fault == "of pre-activation":
            derivative = OF_VALUE[self.activation]
        if fault == "once more":
            right = derivative
            derivative = lambda z: right(z) ** 2
        n = len(x)
        delta = (hs[-1] - y) / n
        if self.output:
            delta = delta * derivative(zs[-1])
        if fault == "divided twice":
            delta = delta / n
        if fault == "sum":
            delta = delta * n
        if fault == "sign":
            delta = -delta
        if fault == "factor":
            delta = 2 * delta
        gradients = []
        for i in reversed(range(len(params))):
            w, _ = params[i]
            dw, db = hs[i].T @ delta, delta.sum(axis=0)
            if fault == "bias mean":
                db = delta.mean(axis=0)
            if fault == "bias unsummed":
                db = delta
            if fault == "bias column":
                db = db[:, None]
            if fault == "transposed gradient" and dw.shape[0] == dw.shape[1]:
                dw = dw.T
            if fault == "transposed shape":
                dw = dw.T
            if fault == "decay":
                dw = dw + 0.01 * w
            if fault == "nan" and i == 0:
                dw[0, 0] = np.nan
            if fault == "zero" and i == 0:
                dw, db = 0 * dw, 0 * db
            gradients.append((dw, db))
            if i:
                square = w.shape[0] == w.shape[1]
                back = w if fault == "transposed" and square else w.T
                delta = (delta @ back) * derivative(zs[i - 1])
        gradients.reverse()
        if fault == "accumulating":
            if self.sum is not None:
                gradients = [
                    tuple(new + old for new, old in zip(pair, before, strict=True))
                    for pair, before in zip(gradients, self.sum, strict=True)
                ]
            self.sum = gradients
        return gradients


def arguments(seed=0, sizes=(3, 4, 4, 2), batch=5, spread=1.0):
    """Return parameters, x and y of a random network."""
    rng = np.random.default_rng(seed)
    params = [
        (spread * rng.normal(size=(i, o)), 0.5 * spread * rng.normal(size=o))
        for i, o in pairwise(sizes)
    ]
    return params, rng.normal(size=(batch, sizes[0])), rng.uniform(size=(batch, sizes[-1]))
