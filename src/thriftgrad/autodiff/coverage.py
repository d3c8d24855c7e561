"""What thriftgrad knows of every function that NumPy hands to other array types.

NumPy lists these functions itself. `rows` looks each of them up in the registry; the page of supported
calls in the documentation, and `thriftgrad coverage`, are made of what it finds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np

from thriftgrad.autodiff.adjoint import Signature
from thriftgrad.autodiff.registry import RULES, Composed, Constant, Refused, Rule, lookup
from thriftgrad.autodiff.rules import elementwise
from thriftgrad.autodiff.rules.refused import refuse_rare_parts
from thriftgrad.errors import NoRuleError

DIFFERENTIABLE = "differentiable"
CONSTANT = "constant"
REFUSED = "refused"
UNKNOWN = "unknown"

GROUPS = {
    "functions": "NumPy functions",
    "ufuncs": "NumPy ufuncs",
    "methods": "Methods of ufuncs",
    "np.linalg": "np.linalg",
    "np.fft": "np.fft",
    "np.emath": "np.emath",
    "np.strings": "np.strings and np.char",
    "other": "Other parts of NumPy",
    "scipy.special": "scipy.special",
}
"""The tables of the page, in their order, by the name of a group."""


@dataclass(frozen=True)
class Row:
    """What is known of one function.

    Attributes:
        name: as a person writes it, `np.linalg.svd`.
        group: a key of `GROUPS`.
        kind: "differentiable", "constant" (its result carries no gradient), "refused" or "unknown".
        arguments: those that have a derivative.
        reason: why it is refused, and what to do instead.
    """

    name: str
    group: str
    kind: str
    arguments: tuple[str, ...] = ()
    reason: str = ""

    def __str__(self) -> str:
        if self.kind == DIFFERENTIABLE:
            return f"{self.name}: differentiable in {', '.join(self.arguments)}"
        if self.kind == CONSTANT:
            return f"{self.name}: constant, its result carries no gradient"
        if self.kind == REFUSED:
            return f"{self.name}: refused: {self.reason}"
        return f"{self.name}: unknown to thriftgrad"


def rows() -> list[Row]:
    """Return a row for each function on NumPy's lists, ufunc method with a rule, and SciPy rule.

    SciPy's part is left out where SciPy is not installed.
    """
    found = {row.name: row for row in _all_rows()}
    order = {group: i for i, group in enumerate(GROUPS)}
    return sorted(found.values(), key=lambda row: (order[row.group], row.name.lower(), row.name))


def find(name: str, among: Iterable[Row]) -> list[Row]:
    """Return the rows of the functions that a person may mean by `svd`, `linalg.svd` or `np.abs`.

    An exact name wins over others that end in it, and NumPy's other names for a function are known.
    """
    for prefix, module in _ABBREVIATED.items():
        if name.startswith(prefix):
            name = module + name[len(prefix) :]
    among = list(among)
    stem = name.removeprefix("np.")
    proper = getattr(_at(np, stem), "__name__", stem)  # np.abs is called absolute
    exact = [row for row in among if row.name in (name, f"np.{proper}")]
    return exact or [row for row in among if row.name.endswith(f".{stem}")]


_ABBREVIATED = {
    "numpy.": "np.",
    "sp.special.": "scipy.special.",
    "special.": "scipy.special.",
    "np.lib.scimath.": "np.emath.",
}


def versions() -> str:
    """Return the versions of the libraries that `rows` depends on: "NumPy 2.4.6, SciPy 1.17.1"."""
    text = f"NumPy {np.__version__}"
    scipy = _module("scipy")
    return f"{text}, SciPy {scipy.__version__}" if scipy else text


def markdown() -> str:
    """Return the page of supported calls."""
    every = rows()
    conventions = (elementwise.__doc__ or "").partition("instead of NaN:\n\n")[2].partition("\n\n")
    lines = [
        "# Supported NumPy calls",
        "",
        f"Made from the registry by `thriftgrad coverage --markdown`, with {versions()}.",
        "",
        "A function is *differentiable*, in the arguments given; *constant*, so that its result",
        "carries no gradient; or *refused*, with the reason that the error prints. Whatever is not",
        "here is refused by name. Indexing (`t[rows, 2]`), Python's operators and the usual methods of",
        "arrays (`t.sum(axis=0)`) go by the functions below. A rule of your own comes by",
        "`thriftgrad.defvjp`.",
        "",
        "| | differentiable | constant | refused |",
        "|---|---:|---:|---:|",
        *(
            _counts(title, [r for r in every if r.group == group])
            for group, title in GROUPS.items()
        ),
        _counts("**all**", every),
        "",
        "At a point without a derivative this is what comes instead of NaN:",
        "",
        "```text",
        *(line.removeprefix("    ") for line in conventions[0].splitlines()),
        *_CONVENTIONS,
        "```",
        "",
        "√0 has the derivative ∞, as NumPy's 1/0 has it, so the gradient of `np.sqrt(np.sum(x**2))` at",
        "x = 0 is NaN; that of `np.linalg.norm(x)` is 0 there.",
    ]
    for group, title in GROUPS.items():
        members = [row for row in every if row.group == group]
        if members:
            lines += ["", f"## {title}", "", *_table(members)]
    return "\n".join(lines) + "\n"


_CONVENTIONS = """\
np.linalg.norm, vector_norm, matrix_norm     0 where the norm is
std, nanstd                                  0 where the deviation is
max, min, ptp, and norms of ord=±inf         equal parts for all entries that share the extreme
maximum.accumulate and the like              half at each tie, as maximum
prod, cumprod                                right where factors are 0: nothing is divided
nansum, nanmax and the like                  0 for a NaN; max of a NaN gives nobody anything
sort, partition, median, quantile            equal entries in the order of the stable sort
unique                                       all for the first of equal entries
quantile, percentile with respect to q       the slope to the right, at a data point; 0 for methods
                                             that do not interpolate, and with weights
interp with respect to x                     the slope to the right, at a sample
angle(z)                                     0 at 0
det                                          the cofactors, for a singular matrix too; then no
                                             second derivative
eigh, eig, svd                               NaN where one of the vectors of equal values would have
                                             to turn into another; right where the values alone, or
                                             vectors of other values, are used
singular values                              0 at 0
cholesky, eigh, eigvalsh                     as functions of a Hermitian matrix, whichever triangle
                                             they read
xlogy, xlog1py, rel_entr, kl_div             0 where they are 0 for x = 0, whatever y
""".splitlines()
"""What the tables say beside that of elementwise functions."""

_COMPOSED: dict[Any, tuple[str, ...]] = {
    np.average: ("a", "weights"),
    np.einsum: ("operands",),
    np.pad: ("array", "constant_values", "end_values"),
}
"""The arguments with a derivative, where the definition of a composed function has others too."""


def _counts(title: str, members: list[Row]) -> str:
    kinds = [row.kind for row in members]
    numbers = (str(kinds.count(kind)) for kind in (DIFFERENTIABLE, CONSTANT, REFUSED))
    return f"| {title} | {' | '.join(numbers)} |"


def _table(members: list[Row]) -> Iterator[str]:
    """One line for all functions with the same answer."""
    yield "| | |"
    yield "|---|---|"
    collected: dict[str, list[str]] = {}
    for kind in (DIFFERENTIABLE, CONSTANT, REFUSED, UNKNOWN):
        for row in members:
            if row.kind == kind:
                collected.setdefault(_answer(row), []).append(f"`{row.name}`")
    for answer, names in collected.items():
        yield f"| {answer} | {', '.join(names)} |"


def _answer(row: Row) -> str:
    if row.kind == DIFFERENTIABLE:
        return f"in {', '.join(f'`{name}`' for name in row.arguments)}"
    return f"{row.kind}: {row.reason}".replace("|", "\\|") if row.reason else row.kind


def unclassified() -> list[str]:
    """Return the names of functions on NumPy's lists that no table has; there should be none."""
    functions, ufuncs = listed()
    return sorted(f"{f.__module__}.{f.__name__}" for f in functions if f not in RULES) + sorted(
        f.__name__ for f in ufuncs if f not in RULES
    )


def listed() -> tuple[set[Callable[..., Any]], set[np.ufunc]]:
    """Return the functions and the ufuncs that NumPy hands to other array types.

    All tables are loaded, and all parts of NumPy that add to the list.
    """
    from numpy.testing.overrides import (
        get_overridable_numpy_array_functions,
        get_overridable_numpy_ufuncs,
    )

    for part in _PARTS:
        _module(part)
    with suppress(NoRuleError):
        lookup(_nothing)  # which makes the registry load the tables of those parts
    functions = {_public(f) for f in get_overridable_numpy_array_functions()}
    refuse_rare_parts(functions)
    return functions, get_overridable_numpy_ufuncs()


_PARTS = (
    "numpy.fft",
    "numpy.strings",
    "numpy.char",
    "numpy.polynomial",
    "numpy.lib.recfunctions",
    "scipy.special",
)


def _nothing() -> None:
    """Stand for a function that no table has."""


def _public(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function itself where NumPy lists the one that `like=` goes through."""
    inside = getattr(function, "_implementation", None)
    return inside if inside is not None and _at(np, function.__name__) is inside else function


def _all_rows() -> Iterator[Row]:
    functions, ufuncs = listed()
    for function in functions:
        if not function.__name__.startswith("_"):
            yield _row(function, *_place(function))
    for ufunc in ufuncs:
        name = ufunc.__name__
        # What has no public name, such as the ufuncs under np.strings.replace, nobody looks up.
        if _at(np, name) is ufunc:
            yield _row(ufunc, f"np.{name}", "ufuncs")
        elif _at(_module("numpy.strings"), name) is ufunc:
            yield _row(ufunc, f"np.strings.{name}", "np.strings")
    special = _module("scipy.special")
    for function in RULES:
        name = getattr(function, "__name__", "")
        owner = getattr(function, "__self__", None)
        if isinstance(owner, np.ufunc) and _at(np, owner.__name__) is owner:
            yield _row(function, f"np.{owner.__name__}.{name}", "methods")
            continue
        name = name.removeprefix("_")  # SciPy's zeta is a function with the ufunc _zeta inside
        if isinstance(function, np.ufunc) and function not in ufuncs and hasattr(special, name):
            yield _row(function, f"scipy.special.{name}", "scipy.special")


def _row(function: Callable[..., Any], name: str, group: str) -> Row:
    rule = RULES.get(function)
    if isinstance(rule, Rule):
        given = {*rule.vjps, *(rule.joint[0] if rule.joint else ())}
        names = rule.ready.signature.names
        return Row(name, group, DIFFERENTIABLE, tuple(each for each in names if each in given))
    if isinstance(rule, Composed):
        names = _COMPOSED.get(function) or Signature(function).names
        return Row(name, group, DIFFERENTIABLE, names)
    if isinstance(rule, Constant):
        return Row(name, group, CONSTANT)
    if isinstance(rule, Refused):
        return Row(name, group, REFUSED, reason=rule.reason)
    return Row(name, group, UNKNOWN)


def _place(function: Callable[..., Any]) -> tuple[str, str]:
    """Return the name and the group of a function that is no ufunc."""
    module = function.__module__.replace("numpy", "np", 1)
    if _at(np.emath, function.__name__) is function:
        module = "np.emath"
    if module == "np":
        group = "functions"
    elif module in GROUPS:
        group = module
    else:
        group = "np.strings" if module == "np.char" else "other"
    return f"{module}.{function.__name__}", group


def _at(module: Any, name: str) -> Any:
    return getattr(module, name, None)


def _module(name: str) -> Any:
    """Return a module, or None where it is not installed."""
    try:
        return import_module(name)
    except ImportError:
        return None
