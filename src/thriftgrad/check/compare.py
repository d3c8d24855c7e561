"""The same gradient from another library, side by side.

The function is rebuilt with the other library's namespace in the place of NumPy: wherever its code, or
that of a Python function of the same package that it calls, says `np`, the copy says `jax.numpy`,
`autograd.numpy`, or a translation to torch. Nothing of the person's is changed; the copy shares the
code and has globals and closures of its own.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any, NoReturn

import numpy as np

from thriftgrad import tree
from thriftgrad.autodiff import grad
from thriftgrad.check.compared import Compared, reference, summarise
from thriftgrad.check.differences import Slope
from thriftgrad.check.given import Analytic
from thriftgrad.check.problem import Problem
from thriftgrad.check.report import Report
from thriftgrad.check.torch_names import TorchNumpy
from thriftgrad.errors import ConfigError, MissingExtraError

LIBRARIES = ("autograd", "jax", "torch")


def compare(
    function: Callable[..., Any],
    args: Sequence[Any],
    *,
    with_: str,
    analytic: Any = None,
    argnums: int | Sequence[int] = 0,
    tolerance: float = 1e-6,
) -> Report:
    """Compare a gradient with the one that JAX, PyTorch or autograd makes of the same function.

    For an entry a of one and n of the other, |a − n| ≤ tolerance·(|a| + |n|), with room for rounding;
    both in float64. Where a function has a kink the libraries need not agree on a value; `gradients`
    tells kinks apart.

    Args:
        function: plain NumPy code, called as in `gradients`; it may call functions of its own module,
            and be a method whose instance holds arrays and other methods.
        args: the arguments; trees of dicts, lists, tuples and arrays.
        with_: "jax", "torch" or "autograd".
        analytic: what to compare, as in `gradients`; None for thriftgrad's gradient.
        argnums: which arguments the gradient is for, one or several.
        tolerance: relative difference to allow.

    Returns:
        The same report as that of `gradients`.

    Raises:
        ConfigError: another name, a function that is not plain NumPy, one that the library cannot
            run, or one whose value is another there.
        MissingExtraError: the library is not installed.

    Example:
        >>> import numpy as np
        >>> from thriftgrad import check
        >>> report = check.compare(  # doctest: +SKIP
        ...     lambda x: np.sum(np.tanh(x)), (np.ones(3),), with_="jax")
    """
    if with_ not in LIBRARIES:
        raise ConfigError(f"with_={with_!r}: expected one of {', '.join(map(repr, LIBRARIES))}")
    problem = Problem(function, args, argnums)
    value = float(problem.checked_value())
    given = Analytic(grad(function, problem.argnums) if analytic is None else analytic, problem)
    try:
        other, found = _BACKENDS[with_](function, problem.args, tuple(problem.positions))
    except ImportError as error:
        raise MissingExtraError(
            f"compare(with_={with_!r}) needs {with_}, which is not installed: pip install {with_}"
        ) from error
    if not abs(other - value) <= 1e-9 * (abs(other) + abs(value)):
        raise ConfigError(
            f"{problem.name} is {value!r} in NumPy and {other!r} in {with_}: a name means something "
            f"else there, so that the gradients cannot be compared"
        )
    leaves = [leaf for gradient in found for leaf in tree.flatten(gradient)[0]]
    blocks = []
    for k, variable in enumerate(problem.variables):
        compared = Compared(given.here[k], given.precisions[k], tolerance)
        numeric = variable.coordinates(leaves[k])
        rounding = 1e-13 * reference(numeric)
        for i, n in enumerate(numeric if not given.problems[k] else ()):
            compared.add(i, Slope(float(n), rounding))
        block = summarise(variable, compared, reference(given.here[k]), with_)
        block.problem = given.problems[k]
        blocks.append(block)
    return Report(problem.name, f"against {with_}", blocks, [], problem.calls, tolerance)


Result = tuple[float, tuple[Any, ...]]
"""The value, and for each argument a tree with NumPy arrays."""


def _autograd(
    function: Callable[..., Any], args: Sequence[Any], argnums: tuple[int, ...]
) -> Result:
    names = import_module("autograd.numpy")
    differentiate = import_module("autograd").grad
    rebuilt = _Rebuilder(names, lambda x: x, "autograd").function(function)
    with _explaining(function, "autograd"):
        return float(rebuilt(*args)), tuple(differentiate(rebuilt, i)(*args) for i in argnums)


def _jax(function: Callable[..., Any], args: Sequence[Any], argnums: tuple[int, ...]) -> Result:
    jax = import_module("jax")
    names = import_module("jax.numpy")
    # The context has moved from one module to the other; it puts back what it found.
    home = jax if hasattr(jax, "enable_x64") else import_module("jax.experimental")
    with home.enable_x64(True), _explaining(function, "jax"):
        rebuilt = _Rebuilder(names, names.asarray, "jax").function(function)
        there = [tree.map(lambda leaf: _converted(leaf, names.asarray), a) for a in args]
        value, found = jax.value_and_grad(rebuilt, argnums)(*there)
        return float(value), tuple(tree.map(np.asarray, gradient) for gradient in found)


def _torch(function: Callable[..., Any], args: Sequence[Any], argnums: tuple[int, ...]) -> Result:
    torch = import_module("torch")
    leaves: list[Any] = []

    def tensor(leaf: Any) -> Any:
        # A copy: torch does not take arrays that run backwards, and must not share the caller's.
        return torch.tensor(np.array(leaf))

    def variable(leaf: Any) -> Any:
        leaves.append(tensor(leaf).requires_grad_())
        return leaves[-1]

    with _explaining(function, "torch"):
        rebuilt = _Rebuilder(TorchNumpy(torch), tensor, "torch").function(function)
        there = [
            tree.map(variable, a) if i in argnums else tree.map(lambda x: _converted(x, tensor), a)
            for i, a in enumerate(args)
        ]
        value = rebuilt(*there)
        value.backward()
    gradients = []
    for i in argnums:
        own = tree.flatten(there[i])[0]
        zero = [torch.zeros_like(x) if x.grad is None else x.grad for x in own]
        # torch's gradient of a complex number is the conjugate of NumPy's libraries'.
        plain = [g.conj().resolve_conj().numpy() for g in zero]
        gradients.append(tree.unflatten(tree.flatten(there[i])[1], plain))
    return float(value.detach()), tuple(gradients)


_BACKENDS = {"autograd": _autograd, "jax": _jax, "torch": _torch}


@contextmanager
def _explaining(function: Callable[..., Any], library: str) -> Iterator[None]:
    """Turn what another library raises into the statement that the code does not allow it."""
    try:
        yield
    except (ConfigError, ImportError):
        raise
    except Exception as error:
        name = getattr(function, "__name__", repr(function))
        raise ConfigError(
            f"{name} cannot be run with {library}: {type(error).__name__}: "
            f"{str(error).strip().splitlines()[0] if str(error).strip() else 'no message'}"
        ) from error


def _converted(leaf: Any, convert: Callable[[Any], Any]) -> Any:
    return convert(leaf) if isinstance(leaf, np.ndarray | np.generic) else leaf


class _Rebuilder:
    """Copies functions with another library in the place of NumPy."""

    def __init__(self, names: Any, convert: Callable[[Any], Any], peer: str) -> None:
        self.names = names
        self.convert = convert
        self.peer = peer
        self.done: dict[int, Callable[..., Any]] = {}

    def function(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a copy of a function, or the library's own of the same name for one of NumPy's."""
        replaced = self.value(function)
        if replaced is not function:
            return replaced  # type: ignore[no-any-return]
        raise ConfigError(
            f"{getattr(function, '__name__', repr(function))} is no Python function with NumPy calls "
            f"in it, but a {type(function).__name__}; give compare a def or a lambda"
        )

    def value(self, value: Any) -> Any:
        """Return what stands for a global or closed-over value in a copy."""
        if isinstance(value, types.ModuleType):
            return self._module(value)
        if isinstance(value, np.ndarray):
            return self.convert(value)
        if isinstance(value, types.FunctionType):
            if _package(value) == "numpy":
                return self._named(self.names, value.__name__)
            if _package(value) == "thriftgrad":
                self._refuse(f"{value.__module__}.{value.__name__}")
            if hasattr(value, "__wrapped__") and _home(value) == "thriftgrad":
                return self.value(value.__wrapped__)  # a primitive
            return self._copy(value)
        if isinstance(value, types.MethodType):
            if _package(value.__func__) == "thriftgrad":
                self._refuse(f"{value.__func__.__module__}.{value.__func__.__qualname__}")
            # What it finds in self is to be rebuilt as well, other methods too.
            return types.MethodType(self.value(value.__func__), _Self(value.__self__, self))
        if callable(value) and "thriftgrad" in map(_package, type(value).__mro__):
            self._refuse(f"a {type(value).__name__} of thriftgrad")
        if isinstance(value, np.ufunc) or (
            callable(value) and str(getattr(value, "__module__", "")).startswith("numpy")
        ):
            return self._named(self.names, value.__name__)
        return value

    def _refuse(self, what: str) -> NoReturn:
        raise ConfigError(
            f"the function calls {what}, which {self.peer} does not know; compare takes functions "
            f"in plain NumPy calls"
        )

    def _module(self, module: types.ModuleType) -> Any:
        if module is np:
            return self.names
        if module.__name__.startswith("numpy."):
            found = self.names
            for part in module.__name__.split(".")[1:]:
                found = self._named(found, part)
            return found
        if module.__name__.partition(".")[0] == "thriftgrad":
            return _Namespace(module, self)
        if module.__name__ == "scipy.special":
            where = {"jax": "jax.scipy.special", "autograd": "autograd.scipy.special"}
            return import_module(where.get(self.peer, "torch.special"))
        return module

    def _named(self, names: Any, name: str) -> Any:
        try:
            return getattr(names, name)
        except AttributeError:
            raise ConfigError(
                f"{self.peer} has nothing under the name np.{name}, which the function uses"
            ) from None

    def _copy(self, function: types.FunctionType) -> Callable[..., Any]:
        if id(function) in self.done:
            return self.done[id(function)]
        variables = dict(function.__globals__)
        copy = types.FunctionType(
            function.__code__,
            variables,
            function.__name__,
            function.__defaults__,
            tuple(types.CellType() for _ in function.__closure__ or ()),
        )
        copy.__kwdefaults__ = function.__kwdefaults__
        self.done[id(function)] = copy  # before its globals: it may well call itself
        for name in _names(function.__code__):
            if name in variables:
                variables[name] = self.value(variables[name])
        for cell, old in zip(copy.__closure__ or (), function.__closure__ or (), strict=True):
            cell.cell_contents = self.value(old.cell_contents)
        if function.__defaults__:
            copy.__defaults__ = tuple(self.value(d) for d in function.__defaults__)
        return copy


class _Namespace:
    """Stands for a module in a copy, and hands out what stands for the module's contents."""

    def __init__(self, module: types.ModuleType, rebuilder: _Rebuilder) -> None:
        self._module = module
        self._rebuilder = rebuilder

    def __getattr__(self, name: str) -> Any:
        return self._rebuilder.value(getattr(self._module, name))


class _Self:
    """Stands for an instance in copies of its methods; what they set stays here."""

    def __init__(self, instance: Any, rebuilder: _Rebuilder) -> None:
        self.__dict__["_thriftgrad_found"] = lambda name: rebuilder.value(getattr(instance, name))

    def __getattr__(self, name: str) -> Any:
        found = self.__dict__["_thriftgrad_found"](name)
        if isinstance(found, types.MethodType) and isinstance(found.__self__, _Self):
            return types.MethodType(found.__func__, self)
        return found


def _package(value: Any) -> str:
    return str(getattr(value, "__module__", "")).partition(".")[0]


def _home(function: types.FunctionType) -> str:
    """Return the package that a function's code is in, whatever it has been named after."""
    return str(function.__globals__.get("__name__", "")).partition(".")[0]


def _names(code: types.CodeType) -> set[str]:
    """Return the names of globals in a function's code and in that of functions made inside."""
    found = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            found |= _names(constant)
    return found
