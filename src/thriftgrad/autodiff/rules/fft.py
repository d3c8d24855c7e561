"""Derivatives of discrete Fourier transforms.

A transform of one axis crops it or pads it with zeros, then multiplies by a matrix. The matrix of the
complex transforms is symmetric, and gradients are not conjugated here, so these are their own adjoint:
the transform of the cotangent, then padded where the argument was cropped and the other way round.

The transforms between real signals and halves of Hermitian spectra come in two pairs, each the adjoint
of the other up to a weight: a frequency strictly inside the half stands for two, its own and its mirror
image. What the transforms to real signals ignore, the imaginary part of a frequency that is its own
mirror image, receives a zero by itself.

`norm` says which direction divides by what, and the adjoint goes in the same direction.

Transforms of several axes are those of one, in turn; their adjoints are taken in the opposite order.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from thriftgrad.autodiff.adjoint import Array
from thriftgrad.autodiff.registry import defvjp

# One axis. `n` is named where it is not needed, so that the engine knows it is minded: what it did to
# the axis shows in the shapes of the argument and of the cotangent.

defvjp(np.fft.fft, a=lambda g, a_shape, n, axis, norm: _fft(g, a_shape[axis], axis, norm))
defvjp(np.fft.ifft, a=lambda g, a_shape, n, axis, norm: _ifft(g, a_shape[axis], axis, norm))
defvjp(np.fft.rfft, a=lambda g, a_shape, n, axis, norm: _rfft(g, a_shape[axis], n, axis, norm))
defvjp(np.fft.irfft, a=lambda g, a_shape, n, axis, norm: _irfft(g, a_shape[axis], axis, norm))
defvjp(np.fft.hfft, a=lambda g, a_shape, n, axis, norm: _hfft(g, a_shape[axis], axis, norm))
defvjp(np.fft.ihfft, a=lambda g, a_shape, n, axis, norm: _ihfft(g, a_shape[axis], n, axis, norm))

# Several axes

defvjp(np.fft.fft2, a=lambda g, a_shape, s, axes, norm: _fftn(g, a_shape, s, axes, norm))
defvjp(np.fft.fftn, a=lambda g, a_shape, s, axes, norm: _fftn(g, a_shape, s, axes, norm))
defvjp(np.fft.ifft2, a=lambda g, a_shape, s, axes, norm: _ifftn(g, a_shape, s, axes, norm))
defvjp(np.fft.ifftn, a=lambda g, a_shape, s, axes, norm: _ifftn(g, a_shape, s, axes, norm))
defvjp(np.fft.rfft2, a=lambda g, a_shape, s, axes, norm: _rfftn(g, a_shape, s, axes, norm))
defvjp(np.fft.rfftn, a=lambda g, a_shape, s, axes, norm: _rfftn(g, a_shape, s, axes, norm))
defvjp(np.fft.irfft2, a=lambda g, a_shape, s, axes, norm: _irfftn(g, a_shape, s, axes, norm))
defvjp(np.fft.irfftn, a=lambda g, a_shape, s, axes, norm: _irfftn(g, a_shape, s, axes, norm))

# The order of frequencies

defvjp(np.fft.fftshift, x=lambda g, axes: np.fft.ifftshift(g, axes))
defvjp(np.fft.ifftshift, x=lambda g, axes: np.fft.fftshift(g, axes))

Shape = tuple[int, ...]
Norm = Any  # one of "backward", "ortho", "forward", None
Steps = Sequence[tuple[int, int]]
"""Of a transform of several axes, in the order of the transforms: an axis, and its new length."""


def _fft(g: Array, length: int, axis: int, norm: Norm) -> Array:
    return _resized(np.fft.fft(g, axis=axis, norm=norm), length, axis)


def _ifft(g: Array, length: int, axis: int, norm: Norm) -> Array:
    return _resized(np.fft.ifft(g, axis=axis, norm=norm), length, axis)


def _rfft(g: Array, length: int, n: int | None, axis: int, norm: Norm) -> Array:
    n = length if n is None else n
    return _resized(np.fft.hfft(_halved_inside(g, n, axis), n, axis, norm), length, axis)


def _ihfft(g: Array, length: int, n: int | None, axis: int, norm: Norm) -> Array:
    n = length if n is None else n
    return _resized(np.fft.irfft(_halved_inside(g, n, axis), n, axis, norm), length, axis)


def _irfft(g: Array, length: int, axis: int, norm: Norm) -> Array:
    spectrum = np.fft.ihfft(g, axis=axis, norm=norm)
    return _resized(_doubled_inside(spectrum, g.shape[axis], axis), length, axis)


def _hfft(g: Array, length: int, axis: int, norm: Norm) -> Array:
    spectrum = np.fft.rfft(g, axis=axis, norm=norm)
    return _resized(_doubled_inside(spectrum, g.shape[axis], axis), length, axis)


def _fftn(g: Array, shape: Shape, s: Any, axes: Any, norm: Norm) -> Array:
    return _back(_fft, g, shape, _steps(shape, s, axes)[::-1], norm)


def _ifftn(g: Array, shape: Shape, s: Any, axes: Any, norm: Norm) -> Array:
    return _back(_ifft, g, shape, _steps(shape, s, axes)[::-1], norm)


def _rfftn(g: Array, shape: Shape, s: Any, axes: Any, norm: Norm) -> Array:
    """Undo the complex transforms, then the real one of the last axis, which came first."""
    *others, (axis, n) = _steps(shape, s, axes)
    half = (*shape[:axis], n // 2 + 1, *shape[axis + 1 :])
    return _rfft(_back(_fft, g, half, others[::-1], norm), shape[axis], n, axis, norm)


def _irfftn(g: Array, shape: Shape, s: Any, axes: Any, norm: Norm) -> Array:
    """Undo the real transform of the last axis, which came last, then the complex ones."""
    *others, (axis, _) = _steps(shape, s, axes)
    length = dict(others).get(axis, shape[axis])
    return _back(_ifft, _irfft(g, length, axis, norm), shape, others, norm)


def _steps(shape: Shape, s: Any, axes: Any) -> list[tuple[int, int]]:
    """Return each transformed axis and the length it is brought to, in the order of `axes`."""
    rank = len(shape)
    if axes is None:
        axes = range(rank - (rank if s is None else len(s)), rank)
    lengths = [-1] * len(axes) if s is None else s
    return [
        (axis % rank, shape[axis] if n is None or n == -1 else n)
        for axis, n in zip(axes, lengths, strict=True)
    ]


def _back(adjoint: Callable[..., Array], g: Array, shape: Shape, steps: Steps, norm: Norm) -> Array:
    """Apply the adjoints of transforms of an array of `shape`; an axis may come up repeatedly."""
    lengths = list(shape)
    before = []
    for axis, n in steps:
        before.append((lengths[axis], axis))
        lengths[axis] = n
    for length, axis in reversed(before):
        g = adjoint(g, length, axis, norm)
    return g


def _resized(x: Array, length: int, axis: int) -> Array:
    """Crop an axis, or pad it with zeros."""
    axis %= x.ndim
    missing = length - x.shape[axis]
    if missing > 0:
        padding = np.zeros_like(x, shape=(*x.shape[:axis], missing, *x.shape[axis + 1 :]))
        return np.concatenate([x, padding], axis=axis)
    return x[(slice(None),) * axis + (slice(length),)] if missing < 0 else x


def _halved_inside(spectrum: Array, n: int, axis: int) -> Array:
    return np.where(_unpaired(spectrum, n, axis), spectrum, spectrum * 0.5)


def _doubled_inside(spectrum: Array, n: int, axis: int) -> Array:
    return np.where(_unpaired(spectrum, n, axis), spectrum, spectrum * 2)


def _unpaired(spectrum: Array, n: int, axis: int) -> Any:
    """Tell which frequencies of half a spectrum of n are their own mirror image: 0 and n/2."""
    k = np.arange(n // 2 + 1)
    axis %= spectrum.ndim
    return ((k == 0) | (2 * k == n)).reshape([-1 if i == axis else 1 for i in range(spectrum.ndim)])
