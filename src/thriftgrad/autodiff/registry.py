"""The registry: what thriftgrad knows of each NumPy function.

A function is *differentiable* (it has a `Rule`), *constant* (its result carries no gradient), or
*refused* (with the reason). One that is in no table is refused too, by name, when it is met.
"""

from __future__ import annotations

import inspect
import sys
import threading
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import numpy as np

from thriftgrad.autodiff.adjoint import Signature, describe, selector
from thriftgrad.autodiff.tape import Pull
from thriftgrad.errors import NoRuleError, ThriftgradError

# Keywords that choose how a result is computed or laid out, and never what its derivative is. That
# of `dtype` is a cast, and every cotangent is cast to its argument's dtype anyway.
_HARMLESS = frozenset({"casting", "dtype", "optimize", "order", "subok"})

Picked = Callable[[Sequence[Any]], tuple[Any, ...]]
Vjp = tuple[Pull, Picked]
"""A vector-Jacobian product, and what picks its residuals out of a call `(ans, *arguments)`."""


class Rule:
    """How one function is differentiated: a vector-Jacobian product for each argument.

    The function's signature is read when the rule is first used, not when the table is imported.
    """

    __slots__ = ("_plans", "_ready", "_text", "constants", "function", "joint", "sequences", "vjps")

    def __init__(
        self,
        function: Callable[..., Any],
        text: str | None,
        constants: Sequence[str],
        vjps: dict[str, Pull],
        joint: tuple[tuple[str, ...], Pull] | None,
        sequences: Sequence[str],
    ) -> None:
        self.function = function
        self.constants = frozenset(constants)
        self.sequences = frozenset(sequences)
        self.vjps = vjps
        self.joint = joint
        self._text = text
        self._ready: Resolved | None = None
        self._plans: dict[int, tuple[tuple[int, Pull, Picked], ...]] = {}

    @property
    def ready(self) -> Resolved:
        """The rule, resolved when it is first used."""
        if self._ready is None:
            self._ready = Resolved(self)
        return self._ready

    def plan(self, mask: int) -> tuple[tuple[int, Pull, Picked], ...]:
        """Return `(position, pull, residuals)` for each argument whose bit is set in `mask`."""
        try:
            return self._plans[mask]
        except KeyError:
            ready = self.ready
            plan = tuple(
                (i, *ready.vjp(i))
                for i in range(mask.bit_length())
                if mask >> i & 1 and i not in ready.constants
            )
            self._plans[mask] = plan
            return plan


class Resolved:
    """A rule with every name in it resolved to a position in the function's signature."""

    __slots__ = (
        "checked",
        "complete",
        "constants",
        "joint",
        "only_first",
        "out",
        "plain",
        "rule",
        "sequences",
        "signature",
        "vjps",
    )

    def __init__(self, rule: Rule) -> None:
        function = rule.function
        text = rule._text
        if text is None and isinstance(function, np.ufunc):
            text = "x" if function.nin == 1 else "x, y"
        self.rule = rule
        self.signature = signature = Signature(function, text)
        names = signature.names

        def resolve(pull: Pull) -> Vjp:
            try:
                wanted = list(inspect.signature(pull).parameters)[1:]
            except (TypeError, ValueError):
                raise NoRuleError(
                    f"the rule for {describe(function)} is {pull!r}; expected a Python function of the "
                    f"cotangent g and of what the tape shall keep, such as lambda g, x: g * np.cos(x)"
                ) from None
            named.update(wanted)
            return pull, selector(wanted, names, function)

        named: set[str] = {*rule.constants, *_HARMLESS, "out"}
        unknown = [name for name in rule.vjps if name not in names]
        if unknown:
            raise NoRuleError(
                f"the rule for {describe(function)} is given for {', '.join(unknown)}; the arguments "
                f"of the function are {', '.join(names)}"
            )
        self.vjps = {names.index(name): resolve(pull) for name, pull in rule.vjps.items()}
        named.update(rule.vjps)
        by_position = {
            name
            for name, pull in rule.vjps.items()
            if "position" in inspect.signature(pull).parameters and "position" not in names
        }
        self.sequences = {
            names.index(name): name in by_position for name in {*rule.sequences, *by_position}
        }
        self.out = signature.index.get("out")
        self.joint: tuple[tuple[int, ...], Vjp] | None = None
        if rule.joint is not None:
            arguments, pull = rule.joint
            self.joint = tuple(names.index(name) for name in arguments), resolve(pull)
            named.update(arguments)
        named |= {name.removesuffix("_shape") for name in named}
        # Whether there are no sequences or joint products; and whether, beside that, the first argument
        # is the only one that a gradient can flow to.
        self.plain = not (self.joint or self.sequences or signature.variadic is not None)
        self.only_first = self.plain and set(self.vjps) == {0}
        # What neither the rule nor the engine minds must be left at its default.
        self.checked = tuple(
            (i, name, signature.defaults[i])
            for i, name in enumerate(names)
            if name not in named and not signature.required[i]
        )
        # How many positional arguments leave nothing to be filled in or checked.
        self.complete = -1 if self.checked or self.out is not None else len(names)
        # Where a tensor may stand although no gradient flows through.
        self.constants = frozenset(names.index(name) for name in rule.constants)

    def vjp(self, position: int) -> Vjp:
        """Return the product for the argument at `position`, or refuse it by name."""
        try:
            return self.vjps[position]
        except KeyError:
            name = describe(self.rule.function)
            argument = self.signature.names[position]
            raise NoRuleError(
                f"{name} has no derivative with respect to {argument!r}; pass that argument as a "
                f"plain array (tensor.value) if no gradient should flow through it"
            ) from None

    def check(self, values: Sequence[Any]) -> None:
        """Refuse a keyword that the rule does not know, rather than ignore it."""
        for i, name, default in self.checked:
            value = values[i]
            if value is not default and not (value is None or value is np._NoValue):
                if type(value) is type(default) and value == default:
                    continue
                function = describe(self.rule.function)
                raise NoRuleError(
                    f"{function} was called with {name}={value!r}, which thriftgrad cannot "
                    f"differentiate; leave {name} out, or give your own rule for {function} by "
                    f"thriftgrad.defvjp"
                )


class Constant:
    """A function whose result carries no gradient: it is piecewise constant or describes an array."""

    __slots__ = ("function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function


class Refused:
    """A function that thriftgrad will not differentiate, and why."""

    __slots__ = ("error", "function", "reason")

    def __init__(
        self, function: Callable[..., Any], reason: str, error: type[ThriftgradError]
    ) -> None:
        self.function = function
        self.reason = reason
        self.error = error


class Composed:
    """A function that is differentiated through a definition of it in simpler calls."""

    __slots__ = ("definition", "function")

    def __init__(self, function: Callable[..., Any], definition: Callable[..., Any]) -> None:
        self.function = function
        self.definition = definition


RULES: dict[Any, Rule | Constant | Refused | Composed] = {}
"""What is known of each function. Keyed by the function: a ufunc, a ufunc's method, a function that
NumPy dispatches, an operator without a ufunc, or a primitive."""


def defvjp(
    function: Callable[..., Any],
    signature: str | None = None,
    /,
    *,
    constants: Sequence[str] = (),
    joint: tuple[tuple[str, ...], Pull] | None = None,
    sequences: Sequence[str] = (),
    **vjps: Pull,
) -> None:
    """Say how `function` is differentiated, by a vector-Jacobian product for each argument.

    For an output y = f(..., x, ...) and its cotangent g = ∂L/∂y, the product for x returns ∂L/∂x =
    g·∂y/∂x. It is written in plain NumPy calls, takes g first, and declares by the names of its
    other parameters what the tape must keep for it: `ans` is the result of the call, an argument's
    name is its value, `<argument>_shape` its shape alone. Undoing broadcasting, `where=` masks and
    dtypes is not its business. A rule for one's own function needs that function to be a `primitive`.

    Args:
        function: a ufunc, a function that NumPy dispatches, or a `primitive`. A rule that exists is
            replaced.
        signature: the parameters, as Python writes them ("a, axis=None"), where Python cannot tell
            them. A ufunc's are "x", or "x, y".
        constants: parameters that may hold a tensor although no gradient flows through them.
        joint: names of several arguments and the one product that returns a tuple of their cotangents,
            where computing them together is cheaper.
        sequences: arguments that are lists or tuples of arrays and whose product returns as many
            cotangents. (A product that names `position`, the place of an array in its sequence, is for
            a sequence as well, and returns the cotangent of that array.)
        **vjps: a vector-Jacobian product for each argument that has a derivative.

    Raises:
        NoRuleError: when the rule is first used, if it names what the function does not have.

    Example:
        >>> import numpy as np, thriftgrad as tg
        >>> @tg.primitive
        ... def cube(x):
        ...     return x * x * x
        >>> tg.defvjp(cube, x=lambda g, x: 3.0 * g * x * x)
        >>> tg.grad(cube)(2.0)
        12.0
    """
    RULES[function] = Rule(function, signature, constants, vjps, joint, sequences)


def constant(*functions: Callable[..., Any]) -> None:
    """Declare that the results of `functions` carry no gradient."""
    for function in functions:
        RULES[function] = Constant(function)


def refuse(
    reason: str, *functions: Callable[..., Any], error: type[ThriftgradError] = NoRuleError
) -> None:
    """Declare that `functions` are not differentiated, with the reason that the error prints."""
    for function in functions:
        RULES[function] = Refused(function, reason, error)


def composed(function: Callable[..., Any], definition: Callable[..., Any]) -> None:
    """Declare that a call of `function` on tensors is one of `definition`, which makes simpler calls.

    The definition has the function's signature and is given the call's arguments, tensors and all.
    """
    RULES[function] = Composed(function, definition)


def lookup(function: Callable[..., Any]) -> Rule | Constant | Composed:
    """Return what is known of `function`.

    Raises:
        NoRuleError: nothing is known of it, or that it is refused (InPlaceError: for writing).
    """
    rule = RULES.get(function)
    if rule is None and _load_late_tables():
        rule = RULES.get(function)
    if rule is None:
        name = describe(function)
        raise NoRuleError(
            f"{name} has no rule in thriftgrad; give it one by thriftgrad.defvjp, write it with other "
            f"NumPy calls, or pass plain arrays (tensor.value) if no gradient should flow through it"
        )
    if type(rule) is Refused:
        raise rule.error(f"{describe(function)} is not differentiated: {rule.reason}")
    return rule  # type: ignore[return-value]


_late = {
    "numpy.fft": "thriftgrad.autodiff.rules.fft",
    "scipy.special": "thriftgrad.autodiff.rules.special",
}
"""Tables for modules that a program need not have loaded, by the module whose functions they are for."""


_loading = threading.RLock()


def _load_late_tables() -> bool:
    """Load the tables for modules that the program has imported since."""
    if not _late:
        return False
    with _loading:
        due = [module for module in _late if module in sys.modules]
        for module in due:
            known = dict(RULES)
            import_module(_late[module])
            RULES.update(known)  # a rule that a person gave before stays
            del _late[module]
    return True  # another thread may have loaded them while this one waited
