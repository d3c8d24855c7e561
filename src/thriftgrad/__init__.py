"""thriftgrad: plain NumPy in, gradients out, inside the memory you give it."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from thriftgrad.autodiff import (
    Parameter,
    Tensor,
    defvjp,
    elementwise_grad,
    grad,
    hessian,
    holomorphic_grad,
    hvp,
    jacobian,
    jvp,
    no_grad,
    primitive,
    value_and_grad,
    vjp,
)

if TYPE_CHECKING:
    from thriftgrad import check, data, export, memory, nn, optim, plots, train, tree
    from thriftgrad.compile.compiled import compile
    from thriftgrad.memory.checkpoint import checkpoint

__version__ = "0.1.0"
__all__ = [
    "Parameter",
    "Tensor",
    "check",
    "checkpoint",
    "compile",
    "data",
    "defvjp",
    "elementwise_grad",
    "export",
    "grad",
    "hessian",
    "holomorphic_grad",
    "hvp",
    "jacobian",
    "jvp",
    "memory",
    "nn",
    "no_grad",
    "optim",
    "plots",
    "primitive",
    "train",
    "tree",
    "value_and_grad",
    "vjp",
]

_ROOMS = {"check", "compile", "data", "export", "memory", "nn", "optim", "plots", "train", "tree"}


def __getattr__(name: str) -> Any:
    # The rooms come when they are first asked for, so that a program pays for what it uses.
    if name == "checkpoint":
        return import_module("thriftgrad.memory.checkpoint").checkpoint
    if name in _ROOMS:
        return import_module(f"thriftgrad.{name}")
    raise AttributeError(f"module 'thriftgrad' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_ROOMS, "checkpoint"})
