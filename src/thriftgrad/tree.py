"""Trees: nested dict, list, tuple and modules with arrays at the leaves.

optree does the work. It is imported when the first real tree comes along, since a plain array is a
tree as well and needs no library.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from types import ModuleType
from typing import Any

_NAMESPACE = "thriftgrad"
_waiting: list[tuple[type, Any, Any]] = []
_optree: ModuleType | None = None


def flatten(tree: Any) -> tuple[list[Any], Any]:
    """Return the leaves of `tree` and its structure. None is a structure without leaves.

    Example:
        >>> leaves, structure = flatten({"a": 1.0, "b": [2.0, 3.0]})
        >>> leaves
        [1.0, 2.0, 3.0]
        >>> unflatten(structure, [10.0, 20.0, 30.0])
        {'a': 10.0, 'b': [20.0, 30.0]}
    """
    if _is_leaf(tree):
        return [tree], None
    leaves, structure = _library().tree_flatten(tree, namespace=_NAMESPACE)
    return leaves, structure


def unflatten(structure: Any, leaves: Sequence[Any]) -> Any:
    """Return the tree of this structure with these leaves."""
    if structure is None:
        return leaves[0]
    return _library().tree_unflatten(structure, leaves)


def map(function: Callable[..., Any], tree: Any, *others: Any) -> Any:
    """Apply `function` leaf by leaf to trees of one structure.

    Raises:
        ValueError: the structures differ.

    Example:
        >>> map(lambda p, g: p - 0.1 * g, {"w": 1.0}, {"w": 2.0})
        {'w': 0.8}
    """
    if _is_leaf(tree):
        return function(tree, *others)
    return _library().tree_map(function, tree, *others, namespace=_NAMESPACE)


def paths(tree: Any, name: str = "") -> list[str]:
    """Return where each leaf of `tree` is, written as the Python that reaches it from `name`.

    Example:
        >>> paths({"a": [1.0, 2.0]}, "p")
        ["p['a'][0]", "p['a'][1]"]
    """
    if _is_leaf(tree):
        return [name]
    accessors, *_ = _library().tree_flatten_with_accessor(tree, namespace=_NAMESPACE)
    return [accessor.codify(name) for accessor in accessors]


def register(
    kind: type,
    flatten: Callable[[Any], tuple[Sequence[Any], Any, Sequence[str]]],
    unflatten: Callable[[Any, Sequence[Any]], Any],
) -> None:
    """Make `kind` a container in trees.

    `flatten(container)` returns the children, a hashable description of the rest, and the children's
    names; `unflatten(description, children)` rebuilds the container around new children. Two trees
    have the same structure where the descriptions are equal.
    """
    if _optree is None:
        _waiting.append((kind, flatten, unflatten))
    else:
        _optree.register_pytree_node(
            kind, flatten, unflatten, path_entry_type=_attribute(_optree), namespace=_NAMESPACE
        )


def _library() -> ModuleType:
    global _optree
    if _optree is None:
        import optree

        _optree = optree
        while _waiting:
            register(*_waiting.pop())
    return _optree


@cache
def _attribute(library: ModuleType) -> type:
    """Return optree's kind of step into a registered container, written as Python's attributes are."""

    class Attribute(library.PyTreeEntry):  # type: ignore[misc,name-defined]
        def codify(self, node: str = "") -> str:
            return f"{node}.{self.entry}"

    return Attribute


def _is_leaf(tree: Any) -> bool:
    # Whatever speaks NumPy's protocol is an array, tensors included.
    return isinstance(tree, float | complex) or hasattr(tree, "__array_ufunc__")
