"""Automatic differentiation of plain NumPy code."""

from thriftgrad.autodiff import rules as _rules  # noqa: F401 - fills the registry
from thriftgrad.autodiff.registry import defvjp
from thriftgrad.autodiff.tensor import Parameter, Tensor, no_grad, primitive
from thriftgrad.autodiff.transforms import grad, value_and_grad, vjp

__all__ = ["Parameter", "Tensor", "defvjp", "grad", "no_grad", "primitive", "value_and_grad", "vjp"]
