"""Neural networks: modules, layers, activations, losses and initial weights."""

from thriftgrad.nn import init
from thriftgrad.nn.activations import log_softmax, relu, sigmoid, softmax, tanh
from thriftgrad.nn.layers import Dropout, Linear, linear
from thriftgrad.nn.losses import cross_entropy, mse, nll, squared_error
from thriftgrad.nn.module import Module, Sequential

__all__ = [
    "Dropout",
    "Linear",
    "Module",
    "Sequential",
    "cross_entropy",
    "init",
    "linear",
    "log_softmax",
    "mse",
    "nll",
    "relu",
    "sigmoid",
    "softmax",
    "squared_error",
    "tanh",
]
