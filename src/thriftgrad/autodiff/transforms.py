"""Transforms: functions of functions. Everything here derives from `vjp`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import wraps
from typing import Any

import numpy as np

from thriftgrad import tree
from thriftgrad.autodiff.adjoint import Array
from thriftgrad.autodiff.tape import Leaf, Node, reachable, sweep
from thriftgrad.autodiff.tensor import Parameter, Tensor, as_differentiable, new_level, traced
from thriftgrad.errors import ConfigError, DifferentiationError


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


def jvp(
    function: Callable[..., Any], argnums: int | Sequence[int] = 0, has_aux: bool = False
) -> Callable[..., Any]:
    """Return a function that gives the value of `function` and its Jacobian-vector product.

    For y = f(x) the pushforward maps a tangent v, of the shape of x, to ∂y/∂x·v, of the shape of y. It
    comes from two reverse passes: the pullback g ↦ g·∂y/∂x is linear in g, and its own pullback is the
    pushforward.

    Args:
        function: as for `vjp`.
        argnums: which positional arguments to differentiate, one or several.
        has_aux: `function` returns `(value, aux)`, and aux is passed on as it is.

    Returns:
        A function of the same arguments that returns `(value, pushforward)`, or
        `(value, pushforward, aux)`. The pushforward takes a tree shaped like the argument, or a tuple of
        such for several argnums, any number of times.

    Raises:
        DifferentiationError: as for `vjp`.

    Reference: Townsend (2017), A new trick for calculating Jacobian vector products.

    Example:
        >>> import numpy as np, thriftgrad as tg
        >>> y, pushforward = tg.jvp(np.square)(np.array([1.0, 2.0]))
        >>> pushforward(np.array([1.0, 10.0]))
        array([ 2., 40.])
    """

    @wraps(function)
    def with_pushforward(*args: Any, **kwargs: Any) -> Any:
        value, pullback, *aux = vjp(function, argnums, has_aux)(*args, **kwargs)
        outputs, structure = tree.flatten(value)
        inexact = [i for i, out in enumerate(outputs) if np.result_type(_plain(out)).kind in "fc"]
        zeros = [np.zeros_like(out) for out in outputs]

        def pulled(cotangents: list[Any]) -> Any:
            whole = zeros.copy()
            for i, g in zip(inexact, cotangents, strict=True):
                whole[i] = g
            return pullback(tree.unflatten(structure, whole))

        _, push = vjp(pulled)([zeros[i] for i in inexact])

        def pushforward(tangent: Any) -> Any:
            whole = zeros.copy()  # an integer stays what it is
            for i, v in zip(inexact, push(tangent), strict=True):
                whole[i] = v
            return tree.unflatten(structure, whole)

        return value, pushforward, *aux

    return with_pushforward


def jacobian(
    function: Callable[..., Any], argnums: int | Sequence[int] = 0, has_aux: bool = False
) -> Callable[..., Any]:
    """Return the Jacobian of a function of arrays, as a function.

    For y = f(x) it is ∂y/∂x, of shape `y.shape + x.shape`, a row for each entry of y and as many reverse
    passes over one tape.

    Args:
        function: as for `vjp`.
        argnums: which positional arguments to differentiate, one or several.
        has_aux: `function` returns `(value, aux)`; the new one then returns `(jacobian, aux)`.

    Returns:
        A function of the same arguments. For trees, a tree shaped like the value, with a tree shaped
        like the argument at each leaf.

    Raises:
        DifferentiationError: as for `vjp`; or a complex value of a real argument.

    Example:
        >>> import numpy as np, thriftgrad as tg
        >>> tg.jacobian(lambda x: np.array([[1.0, 2.0], [3.0, 4.0]]) @ x)(np.ones(2))
        array([[1., 2.],
               [3., 4.]])
    """

    @wraps(function)
    def rows(*args: Any, **kwargs: Any) -> Any:
        value, pullback, *aux = vjp(function, argnums, has_aux)(*args, **kwargs)
        outputs, structure = tree.flatten(value)
        blocks = []
        for i, out in enumerate(outputs):
            units = [
                tree.unflatten(
                    structure,
                    [*map(np.zeros_like, outputs[:i]), unit, *map(np.zeros_like, outputs[i + 1 :])],
                )
                for unit in _units(out)
            ]
            found = [pullback(unit) for unit in units]
            blocks.append(
                _stacked(found, np.shape(out), lambda: pullback(tree.map(np.zeros_like, value)))
            )
            _check_holomorphic(out, blocks[-1], function)
        result = tree.unflatten(structure, blocks)
        return (result, *aux) if has_aux else result

    return rows


def hessian(
    function: Callable[..., Any], argnums: int | Sequence[int] = 0, has_aux: bool = False
) -> Callable[..., Any]:
    """Return the Hessian of a scalar function, as a function: the Jacobian of the gradient.

    For y = f(x) it is ∂²y/∂x², of shape `x.shape + x.shape`; for trees, a tree of trees.

    Args:
        function: as for `grad`.
        argnums: which positional arguments to differentiate, one or several.
        has_aux: `function` returns `(value, aux)`; the new one then returns `(hessian, aux)`.

    Raises:
        DifferentiationError: as for `grad`.

    Example:
        >>> import numpy as np, thriftgrad as tg
        >>> tg.hessian(lambda x: x[0] ** 2 * x[1])(np.array([3.0, 5.0]))
        array([[10.,  6.],
               [ 6.,  0.]])
    """
    return jacobian(grad(function, argnums, has_aux), argnums, has_aux)


def hvp(
    function: Callable[..., Any], argnums: int | Sequence[int] = 0, has_aux: bool = False
) -> Callable[..., Any]:
    """Return the product of a scalar function's Hessian with a vector, as a function.

    For y = f(x) it is ∂²y/∂x²·v, the gradient of ⟨∂y/∂x, v⟩. It costs a few evaluations of f, whatever
    the size of x.

    Args:
        function: as for `grad`.
        argnums: which positional arguments to differentiate, one or several.
        has_aux: `function` returns `(value, aux)`; the new one then returns `(product, aux)`.

    Returns:
        A function of the same arguments and, behind them, v: shaped like the argument, or a tuple of
        such for several argnums.

    Raises:
        DifferentiationError: as for `grad`; or v is not shaped like the argument.

    Reference: Pearlmutter (1994), Fast exact multiplication by the Hessian.

    Example:
        >>> import numpy as np, thriftgrad as tg
        >>> tg.hvp(lambda x: np.sum(x ** 3))(np.array([1.0, 2.0]), np.array([1.0, 0.5]))
        array([6., 6.])
    """

    @wraps(function)
    def product(*args_and_vector: Any, **kwargs: Any) -> Any:
        *args, vector = args_and_vector

        def along(*args: Any) -> Any:
            gradient, *aux = _listed(grad(function, argnums, has_aux)(*args, **kwargs), has_aux)
            slope = _inner(gradient, vector)
            return (slope, *aux) if has_aux else slope

        return grad(along, argnums, has_aux)(*args)

    return product


def elementwise_grad(
    function: Callable[..., Any], argnums: int | Sequence[int] = 0, has_aux: bool = False
) -> Callable[..., Any]:
    """Return the derivative of a function that works entry by entry, as such a function.

    It is the gradient of the sum of the result. Where an entry of the result depends on several entries
    of the argument, that is no longer the derivative of one by the other: use `jacobian`.

    Args:
        function: as for `vjp`, and its value is real.
        argnums: which positional arguments to differentiate, one or several.
        has_aux: `function` returns `(value, aux)`; the new one then returns `(derivative, aux)`.

    Raises:
        DifferentiationError: as for `vjp`.

    Example:
        >>> import numpy as np, thriftgrad as tg
        >>> tg.elementwise_grad(np.sin)(np.array([0.0, np.pi]))
        array([ 1., -1.])
    """

    @wraps(function)
    def derivative(*args: Any, **kwargs: Any) -> Any:
        value, pullback, *aux = vjp(function, argnums, has_aux)(*args, **kwargs)
        result = pullback(tree.map(np.ones_like, value))
        return (result, *aux) if has_aux else result

    return derivative


def holomorphic_grad(
    function: Callable[..., Any], argnums: int | Sequence[int] = 0, has_aux: bool = False
) -> Callable[..., Any]:
    """Return the complex derivative f′(z) of a holomorphic scalar function, as a function.

    For a function that is not holomorphic (one that uses `np.conj`, `np.abs`, `np.real`, ...) there is no
    such derivative, and what is returned is that of no function.

    Args:
        function: takes complex arrays and returns a complex scalar.
        argnums: which positional arguments to differentiate, one or several.
        has_aux: `function` returns `(value, aux)`; the new one then returns `(derivative, aux)`.

    Raises:
        DifferentiationError: an argument or the value is not complex, or the value is not a scalar.

    Example:
        >>> import numpy as np, thriftgrad as tg
        >>> tg.holomorphic_grad(lambda z: z ** 2)(1.0 + 2.0j)
        (2+4j)
    """

    @wraps(function)
    def derivative(*args: Any, **kwargs: Any) -> Any:
        value, pullback, *aux = vjp(function, argnums, has_aux)(*args, **kwargs)
        if np.shape(value) != () or not np.iscomplexobj(value):
            raise DifferentiationError(
                f"holomorphic_grad needs {_name(function)} to return a complex scalar; it returned an "
                f"array of shape {np.shape(value)} and dtype {np.result_type(value)}"
            )
        result = pullback(np.ones_like(value))
        if not all(np.iscomplexobj(g) for g in tree.flatten(result)[0]):
            raise DifferentiationError(
                f"holomorphic_grad of {_name(function)} was given a real argument; pass complex numbers "
                f"(x + 0j, x.astype(complex))"
            )
        return (result, *aux) if has_aux else result

    return derivative


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
        self.single = isinstance(argnums, int | np.integer)
        self.arguments: list[tuple[Any, list[Any], list[Leaf]]] = []
        self.parameters: set[Node | None] = set()
        traced_args = list(args)
        for i in _positions(argnums, len(args), function):
            values, structure = tree.flatten(args[i])
            self.parameters |= {v.node for v in values if isinstance(v, Parameter)}
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
        self._check_result(function)

    def _check_result(self, function: Any) -> None:
        """Refuse results through which a gradient would be lost."""
        for out in tree.flatten((self.result, self.aux))[0]:
            if isinstance(out, Tensor) and out.level > self.level:
                raise DifferentiationError(
                    f"{_name(function)} returned a tensor that was made inside a grad, vjp or the like in "
                    f"it, and kept there beyond its end; return it from there by has_aux=True"
                )
        for out in tree.flatten(self.result)[0]:
            if isinstance(out, Tensor | np.ndarray | np.generic) and out.dtype.kind != "O":
                continue
            if not isinstance(out, float | complex | int) and not hasattr(
                out, "__array_function__"
            ):
                raise DifferentiationError(
                    f"{_name(function)} returned {_a(out)}; expected arrays, or a dict, list or tuple of "
                    f"arrays (anything else can be returned beside them with has_aux=True)"
                )
        self._check_parameters(function)

    def _check_parameters(self, function: Any) -> None:
        """Refuse a result that depends on a parameter itself where a copy of it was the argument."""
        outside = [
            out.node
            for out in tree.flatten(self.strip(self.result))[0]
            if isinstance(out, Tensor) and out.level == 0 and out.node is not None
        ]
        if outside and self.parameters and not self.parameters.isdisjoint(reachable(outside)):
            raise DifferentiationError(
                f"{_name(function)} used a parameter itself instead of the one in its argument, to which "
                f"the gradient belongs (lambda m: loss(model) for lambda m: loss(m), or a method bound "
                f"to the original module); use the argument, or parameter.value for a constant"
            )

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
    positions = [argnums] if isinstance(argnums, int | np.integer) else list(argnums)
    for i in positions:
        whole = isinstance(i, int | np.integer) and not isinstance(i, bool)
        if not whole or not -given <= i < given:
            raise ConfigError(
                f"argnums={argnums!r} does not fit: {_name(function)} was called with {given} "
                f"positional argument{'s' * (given != 1)}"
            )
    positions = [int(i) % given for i in positions]
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
        if isinstance(value, np.ndarray) and value.dtype.kind in "fc":
            as_differentiable(
                value, f"{where} of {_name(function)}"
            )  # a type with its own arithmetic
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
    g = g if hasattr(g, "__array_ufunc__") else np.asarray(g)
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


def _units(out: Any) -> Iterator[Any]:
    """Return, one after the other, the arrays like `out` that are 1 at one entry and 0 elsewhere."""
    size = int(np.size(out))
    for i in range(size):
        yield np.reshape(np.eye(1, size, i, dtype=np.result_type(_plain(out))), np.shape(out))


def _stacked(rows: list[Any], shape: tuple[int, ...], nothing: Callable[[], Any]) -> Any:
    """Stack trees leaf by leaf, with `shape` for the axes of the stack."""
    if not rows:
        return tree.map(lambda leaf: np.zeros_like(leaf, shape=shape + np.shape(leaf)), nothing())
    return tree.map(
        lambda *leaves: np.reshape(np.stack(leaves), shape + np.shape(leaves[0])), *rows
    )


def _check_holomorphic(out: Any, block: Any, function: Any) -> None:
    if np.iscomplexobj(_plain(out)) and not all(
        np.iscomplexobj(_plain(leaf)) for leaf in tree.flatten(block)[0]
    ):
        raise DifferentiationError(
            f"the Jacobian of {_name(function)} was asked for, whose value is complex while the argument "
            f"is real; take the Jacobians of its np.real and np.imag"
        )


def _listed(result: Any, has_aux: bool) -> Sequence[Any]:
    return result if has_aux else (result,)


def _inner(gradient: Any, vector: Any) -> Any:
    """Return Re Σ g·v over the leaves of two trees of one structure: the change along v."""
    leaves, structure = tree.flatten(gradient)
    directions, given = tree.flatten(vector)
    shapes = [np.shape(leaf) for leaf in leaves]
    if given != structure or [np.shape(v) for v in directions] != shapes:
        raise DifferentiationError(
            f"the vector that the Hessian is multiplied with must be shaped like the argument, with "
            f"arrays of shapes {shapes}; it has {[np.shape(v) for v in directions]}"
        )
    return sum(np.real(np.sum(g * v)) for g, v in zip(leaves, directions, strict=True))


def _plain(value: Any) -> Any:
    while isinstance(value, Tensor):
        value = value.value
    return value
