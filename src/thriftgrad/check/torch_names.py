"""NumPy's names for torch: enough for losses and networks written in plain NumPy."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from thriftgrad.errors import ConfigError

# One argument in, elementwise, under the same name.
_SAME = frozenset(
    {"abs", "arccos", "arccosh", "arcsin", "arcsinh", "arctan", "arctanh", "ceil", "cos", "cosh"}
    | {
        "exp",
        "exp2",
        "expm1",
        "floor",
        "imag",
        "isfinite",
        "isnan",
        "log",
        "log10",
        "log1p",
        "log2",
    }
    | {"logical_not", "real", "sign", "sin", "sinh", "sqrt", "square", "tan", "tanh"}
)
_PAIRS = {
    "add": "add",
    "subtract": "sub",
    "multiply": "mul",
    "divide": "div",
    "true_divide": "div",
    "power": "pow",
    "maximum": "maximum",
    "minimum": "minimum",
    "logaddexp": "logaddexp",
    "arctan2": "atan2",
    "hypot": "hypot",
    "matmul": "matmul",
    "greater": "gt",
    "less": "lt",
    "greater_equal": "ge",
    "less_equal": "le",
    "equal": "eq",
}
_REDUCTIONS = {
    "max": "amax",
    "amax": "amax",
    "min": "amin",
    "amin": "amin",
    "sum": "sum",
    "mean": "mean",
}
_VALUES = {"pi": math.pi, "e": math.e, "inf": math.inf, "nan": math.nan, "newaxis": None}
_TYPES = {"float64": "float64", "float32": "float32", "int64": "int64", "bool_": "bool"}


class TorchNumpy:
    """A namespace in which `np.exp` and its like are functions of torch tensors.

    Raises:
        ConfigError: a name is used that has no translation.
    """

    def __init__(self, torch: Any) -> None:
        self._torch = torch

    def __getattr__(self, name: str) -> Any:
        torch = self._torch
        if name in _VALUES:
            return _VALUES[name]
        if name in _TYPES:
            return getattr(torch, _TYPES[name])
        if name in _SAME:
            return self._lifted(getattr(torch, name))
        if name in {"absolute", "fabs"}:
            return self._lifted(torch.abs)
        if name == "negative":
            return self._lifted(torch.neg)
        if name in _PAIRS:
            return self._lifted(getattr(torch, _PAIRS[name]))
        if name in _REDUCTIONS:
            return self._reduction(getattr(torch, _REDUCTIONS[name]))
        own = _OWN.get(name)
        if own is None:
            raise ConfigError(
                f"the function uses np.{name}, which has no translation to torch here; write it with "
                f"other NumPy calls, or compare with jax or autograd"
            )
        return lambda *args, **kwargs: own(self, *args, **kwargs)

    def tensor(self, value: Any) -> Any:
        """Return a number or nested list as a tensor, Python's floats in float64."""
        torch = self._torch
        if isinstance(value, torch.Tensor):
            return value
        if isinstance(value, list | tuple):
            return torch.stack([self.tensor(each) for each in value])
        return torch.tensor(value, dtype=torch.float64 if isinstance(value, float) else None)

    def _lifted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def lifted(*args: Any) -> Any:
            # Two arguments of different types are promoted as NumPy does it.
            tensors = [self.tensor(a) for a in args]
            if len(tensors) == 2:
                dtype = self._torch.promote_types(tensors[0].dtype, tensors[1].dtype)
                tensors = [t.to(dtype) for t in tensors]
            return function(*tensors)

        return lifted

    def _reduction(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def reduce(a: Any, axis: Any = None, keepdims: bool = False) -> Any:
            a = self.tensor(a)
            axis = tuple(range(a.ndim)) if axis is None else axis
            return function(a, dim=axis, keepdim=keepdims) if a.ndim else a

        return reduce


def _spread(root: bool) -> Callable[..., Any]:
    def spread(
        np_: TorchNumpy, a: Any, axis: Any = None, ddof: float = 0, keepdims: bool = False
    ) -> Any:
        a = np_.tensor(a)
        axis = tuple(range(a.ndim)) if axis is None else axis
        function = np_._torch.std if root else np_._torch.var
        return function(a, dim=axis, correction=ddof, keepdim=keepdims)

    return spread


def _transpose(np_: TorchNumpy, a: Any, axes: Any = None) -> Any:
    return a.permute(*(axes if axes is not None else reversed(range(a.ndim))))


def _clip(np_: TorchNumpy, a: Any, a_min: Any = None, a_max: Any = None) -> Any:
    low = None if a_min is None else np_.tensor(a_min)
    high = None if a_max is None else np_.tensor(a_max)
    return np_._torch.clamp(np_.tensor(a), low, high)


_OWN: dict[str, Callable[..., Any]] = {
    "arange": lambda np_, *args: np_._torch.arange(*args),
    "array": lambda np_, a: np_.tensor(a),
    "asarray": lambda np_, a: np_.tensor(a),
    "clip": _clip,
    "concatenate": lambda np_, arrays, axis=0: np_._torch.cat(list(arrays), dim=axis),
    "cumsum": lambda np_, a, axis: np_._torch.cumsum(a, dim=axis),
    "dot": lambda np_, a, b: np_._torch.matmul(a, b),
    "einsum": lambda np_, text, *arrays: np_._torch.einsum(text, *arrays),
    "expand_dims": lambda np_, a, axis: a.unsqueeze(axis),
    "eye": lambda np_, n: np_._torch.eye(n, dtype=np_._torch.float64),
    "ones": lambda np_, shape: np_._torch.ones(shape, dtype=np_._torch.float64),
    "ones_like": lambda np_, a: np_._torch.ones_like(a),
    "outer": lambda np_, a, b: np_._torch.outer(a.reshape(-1), b.reshape(-1)),
    "reshape": lambda np_, a, shape: a.reshape(shape),
    "shape": lambda np_, a: tuple(np_.tensor(a).shape),
    "squeeze": lambda np_, a, axis=None: a.squeeze() if axis is None else a.squeeze(axis),
    "stack": lambda np_, arrays, axis=0: np_._torch.stack(list(arrays), dim=axis),
    "std": _spread(root=True),
    "swapaxes": lambda np_, a, one, other: a.swapaxes(one, other),
    "trace": lambda np_, a: np_._torch.trace(a),
    "transpose": _transpose,
    "var": _spread(root=False),
    "where": lambda np_, c, x, y: np_._torch.where(c, np_.tensor(x), np_.tensor(y)),
    "zeros": lambda np_, shape: np_._torch.zeros(shape, dtype=np_._torch.float64),
    "zeros_like": lambda np_, a: np_._torch.zeros_like(a),
}
