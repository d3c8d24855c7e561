"""Derivatives of functions that move entries about: the adjoint moves them back."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from thriftgrad.autodiff.registry import defvjp
from thriftgrad.errors import NoRuleError

defvjp(np.reshape, a=lambda g, a_shape, shape, order: np.reshape(g, a_shape, order=_kept(order)))
defvjp(np.ravel, a=lambda g, a_shape, order: np.reshape(g, a_shape, order=_kept(order)))
defvjp(np.transpose, a=lambda g, axes: np.transpose(g, _inverse(axes)))
defvjp(np.swapaxes, "a, axis1, axis2", a=lambda g, axis1, axis2: np.swapaxes(g, axis1, axis2))
defvjp(np.moveaxis, a=lambda g, source, destination: np.moveaxis(g, destination, source))
defvjp(np.expand_dims, a=lambda g, a_shape, axis: g.reshape(a_shape))
defvjp(np.squeeze, a=lambda g, a_shape, axis: g.reshape(a_shape))
defvjp(np.broadcast_to, array=lambda g, shape: g)  # the engine undoes broadcasting
defvjp(np.copy, a=lambda g: g)
defvjp(np.matrix_transpose, x=lambda g: np.matrix_transpose(g))


def _inverse(axes: Sequence[int] | None) -> Sequence[int] | None:
    """Return the permutation that undoes `np.transpose(a, axes)`."""
    if axes is None:
        return None
    back = [0] * len(axes)
    for to, axis in enumerate(axes):
        back[axis] = to
    return back


def _kept(order: str) -> Literal["C", "F"]:
    if order not in ("C", "F"):
        raise NoRuleError(
            f"order={order!r} reads entries in the order of their memory, which the derivative of a "
            f"reshape does not know; use order='C' or 'F'"
        )
    return order  # type: ignore[return-value]
