"""Automatic differentiation of plain NumPy code."""

from thriftgrad.autodiff import rules as _rules  # noqa: F401 - fills the registry
from thriftgrad.autodiff.registry import defvjp
from thriftgrad.autodiff.tensor import Parameter, Tensor, no_grad, primitive
from thriftgrad.autodiff.transforms import (
    elementwise_grad,
    grad,
    hessian,
    holomorphic_grad,
    hvp,
    jacobian,
    jvp,
    value_and_grad,
    vjp,
)

__all__ = [
    "Parameter",
    "Tensor",
    "defvjp",
    "elementwise_grad",
    "grad",
    "hessian",
    "holomorphic_grad",
    "hvp",
    "jacobian",
    "jvp",
    "no_grad",
    "primitive",
    "value_and_grad",
    "vjp",
]
