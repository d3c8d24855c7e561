"""Transforms: functions of functions. Everything here derives from `vjp`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import numpy as np

from thriftgrad import tree
from thriftgrad.autodiff.adjoint import Array
from thriftgrad.autodiff.tape import Leaf, Node, sweep
from thriftgrad.autodiff.tensor import Parameter, Tensor, as_differentiable, new_level, traced
from thriftgrad.errors import ConfigError, DifferentiationError

Pullback = Callable[[Any], Any]


def vjp(
    function: Callable[..., Any], argnums: int | Sequence[int] = 0, has_aux: bool = False
) -> Callable[..., Any]:
    """Return a function that gives the value of `function` and its vector-Jacobian product.

    For y = f(x) the pullback maps a cotangent g, of the shape of y, to g·∂y/∂x, of the shape of x. It
    may be called any number of times.

    Args:
        function: takes arrays, Python floats, or trees of these (dict, list, tuple, modules), and
            returns an array or a tree of arrays.
        argnums: which positional arguments to differentiate, one or several.
        has_aux: `function` returns `(value, aux)`, and aux is passed on as it is.

    Returns:
        A function of the same arguments that returns `(value, pullback)`, or `(value, pullback, aux)`.
        The pullback returns a tree shaped like the argument, or a tuple of such for several argnums;
        at a module's parameters it has plain arrays.

    Raises:
        DifferentiationError: an argument holds integers or no numbers, or a cotangent has the wrong
            shape.

    Example:
        >>> import numpy as np, thriftgrad as tg
        >>> y, pullback = tg.vjp(np.square)(np.array([1.0, 2.0]))
        >>> pullback(np.array([1.0, 10.0]))
        array([ 2., 40.])
    """

    @wraps(function)
    def with_pullback(*args: Any, **kwargs: Any) -> Any:
        run = _Run(function, argnums, args, kwargs, has_aux)
        outputs, structure = tree.flatten(run.result)

        def pullback(cotangent: Any) -> Any:
            given, given_structure = tree.flatten(cotangent)
            if given_structure != structure:
                raise DifferentiationError(
                    f"the pullback was given a cotangent with the structure {given_structure}; the "
                    f"value has the structure {structure}"
                )
            roots = [
                (out.node, _as_cotangent(g, out))
                for out, g in zip(outputs, given, strict=True)
                if run.records(out)
            ]
            return run.gradients(roots, retain=True)

        value = run.strip(run.result)
        return (value, pullback, run.strip(run.aux)) if has_aux else (value, pullback)

    return with_pullback


def value_and_grad(
    function: Callable[..., Any], argnums: int | Sequence[int] = 0, has_aux: bool = False
) -> Callable[..., Any]:
    """Return a function that gives the value and the gradient of a scalar `function`.

    For a real function of complex z = x + iy the gradient is ∂f/∂x − i·∂f/∂y.

    Args:
        function: as for `vjp`, and its value is a scalar.
        argnums: which positional arguments to differentiate, one or several.
        has_aux: `function` returns `(value, aux)`; the new one then returns `((value, aux), gradient)`.

    Returns:
        A function of the same arguments that returns `(value, gradient)`. The gradient is a tree shaped
        like the argument, each leaf of the shape and dtype of the argument's, or a tuple of such
        trees for several argnums.

    Raises:
        DifferentiationError: the value is not a real scalar, or an argument holds integers.

    Example:
        >>> import numpy as np, thriftgrad as tg
        >>> def loss(p, x):
        ...     return np.sum((x @ p["w"] + p["b"]) ** 2)
        >>> p = {"w": np.array([1.0, -1.0]), "b": 0.5}
        >>> value, gradient = tg.value_and_grad(loss)(p, np.array([[3.0, 1.0]]))
        >>> float(value), gradient
        (6.25, {'w': array([15.,  5.]), 'b': 5.0})
    """

    @wraps(function)
    def with_gradient(*args: Any, **kwargs: Any) -> Any:
        run = _Run(function, argnums, args, kwargs, has_aux)
        result = run.result
        if run.records(result):
            _check_scalar(result.shape, result.dtype, function)
            gradient = run.gradients([(result.node, np.ones_like(result.value))])
        else:
            if not isinstance(result, Tensor | np.ndarray | np.generic | float | complex | int):
                raise DifferentiationError(
                    f"the gradient of {_name(function)} was asked for, and it returned "
                    f"{_a(result)}; expected a scalar (with has_aux=True, a pair of a scalar and "
                    f"anything)"
                )
            _check_scalar(np.shape(result), np.result_type(result), function)
            gradient = run.gradients([])
        value = run.strip(result)
        return ((value, run.strip(run.aux)) if has_aux else value), gradient

    return with_gradient


def grad(
    function: Callable[..., Any], argnums: int | Sequence[int] = 0, has_aux: bool = False
) -> Callable[..., Any]:
    """Return the gradient of a scalar function, as a function; see `value_and_grad`.

    Gradients nest: `grad(grad(f))` is the second derivative.

    Args:
        function: as for `value_and_grad`.
        argnums: which positional arguments to differentiate, one or several.
        has_aux: `function` returns `(value, aux)`; the new one then returns `(gradient, aux)`.

    Raises:
        DifferentiationError: the value is not a real scalar, or an argument holds integers.

    Example:
        >>> import numpy as np, thriftgrad as tg
        >>> tg.grad(np.tanh)(0.0)
        1.0
        >>> tg.grad(tg.grad(lambda x: x ** 3))(2.0)
        12.0
    """
    both = value_and_grad(function, argnums, has_aux)

    @wraps(function)
    def gradient_only(*args: Any, **kwargs: Any) -> Any:
        value, gradient = both(*args, **kwargs)
        return (gradient, value[1]) if has_aux else gradient

    return gradient_only


class _Run:
    """One traced evaluation: the result, and the leaves that its gradients arrive at."""

    def __init__(
        self,
        function: Callable[..., Any],
        argnums: int | Sequence[int],
        args: Sequence[Any],
        kwargs: dict[str, Any],
        has_aux: bool,
    ) -> None:
        self.level = new_level()
        self.single = isinstance(argnums, int)
        self.arguments: list[tuple[Any, list[Any], list[Leaf]]] = []
        traced_args = list(args)
        for i in _positions(argnums, len(args), function):
            values, structure = tree.flatten(args[i])
            values = [_differentiable(v, i, k, args[i], function) for k, v in enumerate(values)]
            tensors = [traced(value, self.level) for value in values]
            traced_args[i] = tree.unflatten(structure, [tensor for tensor, _ in tensors])
            self.arguments.append((structure, values, [leaf for _, leaf in tensors]))
        self.result = function(*traced_args, **kwargs)
        self.aux: Any = None
        if has_aux:
            if not isinstance(self.result, tuple) or len(self.result) != 2:
                raise DifferentiationError(
                    f"has_aux=True needs {_name(function)} to return a pair (value, aux); it returned "
                    f"{_a(self.result)}"
                )
            self.result, self.aux = self.result

    def records(self, value: Any) -> bool:
        return isinstance(value, Tensor) and value.level == self.level

    def strip(self, result: Any) -> Any:
        """Take this run's layer off every tensor in a tree."""
        if result is None:
            return None
        if isinstance(result, Tensor):
            return result.value if result.level == self.level or result.node is None else result
        return tree.map(lambda v: self.strip(v) if isinstance(v, Tensor) else v, result)

    def gradients(self, roots: Sequence[tuple[Node, Array]], *, retain: bool = False) -> Any:
        found = sweep(roots, retain=retain)
        gradients = [
            tree.unflatten(
                structure,
                [_gradient(found.get(leaf), v) for leaf, v in zip(leaves, values, strict=True)],
            )
            for structure, values, leaves in self.arguments
        ]
        return gradients[0] if self.single else tuple(gradients)


def _positions(argnums: int | Sequence[int], given: int, function: Any) -> list[int]:
    positions = [argnums] if isinstance(argnums, int) else list(argnums)
    for i in positions:
        if not isinstance(i, int) or isinstance(i, bool) or not -given <= i < given:
            raise ConfigError(
                f"argnums={argnums!r} does not fit: {_name(function)} was called with {given} "
                f"positional argument{'s' * (given != 1)}"
            )
    positions = [i % given for i in positions]
    if len(set(positions)) < len(positions):
        raise ConfigError(f"argnums={argnums!r} names an argument twice")
    return positions


def _differentiable(value: Any, position: int, leaf: int, argument: Any, function: Any) -> Any:
    if isinstance(value, Parameter):
        return value.value
    if isinstance(value, Tensor):
        return value
    try:
        return as_differentiable(value, "it")
    except DifferentiationError:
        where = tree.paths(argument, f"argument {position}")[leaf]
        given = f"an array of {value.dtype}" if isinstance(value, np.ndarray) else _a(value)
        raise DifferentiationError(
            f"the derivative of {_name(function)} was asked for with respect to {where}, which is "
            f"{given} and has no derivative; pass floating-point numbers (3.0, x.astype(float)), or "
            f"choose other arguments by argnums"
        ) from None


def _gradient(found: Any, value: Any) -> Any:
    """Return the gradient for one leaf: zero where nothing arrived, a number for a Python number."""
    if found is None:
        found = np.zeros_like(value)
    if type(value) in (float, complex) and not isinstance(found, Tensor):
        return type(value)(found)
    return found


def _as_cotangent(g: Any, out: Tensor) -> Any:
    if np.shape(g) != out.shape:
        raise DifferentiationError(
            f"the pullback was given a cotangent of shape {np.shape(g)} for a value of shape "
            f"{out.shape}; the two must be equal"
        )
    g = g if isinstance(g, Tensor) else np.asarray(g)
    return g if g.dtype == out.dtype else g.astype(out.dtype)


def _check_scalar(shape: tuple[int, ...], dtype: np.dtype[Any], function: Any) -> None:
    if shape != ():
        raise DifferentiationError(
            f"the gradient of {_name(function)} was asked for, and it returned an array of shape "
            f"{shape}; a gradient is that of a scalar: reduce the value (np.sum, np.mean), or use vjp"
        )
    if dtype.kind == "c":
        raise DifferentiationError(
            f"the gradient of {_name(function)} was asked for, and it returned a complex number; take "
            f"np.real, np.abs or another real function of it, or use vjp"
        )


def _name(function: Any) -> str:
    return getattr(function, "__name__", repr(function))


def _a(value: Any) -> str:
    return (
        f"{value!r}" if isinstance(value, bool | int | float | str) else f"a {type(value).__name__}"
    )
