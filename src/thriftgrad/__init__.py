"""thriftgrad: plain NumPy in, gradients out, inside the memory you give it."""

from thriftgrad.autodiff import (
    Parameter,
    Tensor,
    defvjp,
    grad,
    no_grad,
    primitive,
    value_and_grad,
    vjp,
)

__version__ = "0.1.0"
__all__ = [
    "Parameter",
    "Tensor",
    "defvjp",
    "grad",
    "no_grad",
    "primitive",
    "value_and_grad",
    "vjp",
]
