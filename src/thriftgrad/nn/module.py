"""Modules: plain Python objects whose parameters can be found, saved, and differentiated.

A module keeps its parameters as attributes, and is itself a tree for `thriftgrad.grad`: the leaves
are its parameters, in the order in which attributes were first assigned, and what comes back is a
copy of the module with gradients in their places. Such a copy is a tree of the same structure, and
so is `arrays = tree.map(lambda p: p.value, model)`, the model on plain arrays. A step of gradient
descent is then `tree.map(lambda a, g: a - lr * g, arrays, gradient)`, and can be called like a model.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from html import escape
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from thriftgrad import tree
from thriftgrad.autodiff import Parameter, Tensor
from thriftgrad.errors import ConfigError, SnapshotError

Path = tuple[Any, ...]
"""Where something is held: an attribute's name, then indices and keys of the containers there."""

_PLACES = "_places"
"""The attribute that only a rebuilt module has: a key for every path where a leaf was put.

An array in the place of a parameter cannot be told from any other array by its looks. The key, an
`object()`, is shared by the places that one parameter had.
"""


class Module:
    """Base of everything that has parameters.

    Attributes that are parameters or modules are found, and so are those in lists, tuples and
    dicts. A module is called like a function; the subclass says how by its own `__call__`. There is
    no constructor to remember.

    Paths name the parameters: "hidden.weight", "blocks.0.bias". Whenever a module is asked for its
    parameters, each that has no name yet, or only the tail of its path, takes the path as its name:
    what the outermost module calls it is what error messages, optimisers and saved files call it.

    Attributes:
        training: whether layers such as `Dropout` behave as in training; see `train` and `eval`.

    Example:
        >>> import thriftgrad as tg
        >>> from thriftgrad.nn import Linear, Module, cross_entropy
        >>> class Net(Module):
        ...     def __init__(self):
        ...         self.hidden = Linear(4, 8, rng=0)
        ...         self.heads = [Linear(8, 2, rng=1), Linear(8, 3, rng=2)]
        ...         self.scale = tg.Parameter(np.ones((), np.float32))
        ...     def __call__(self, x):
        ...         h = np.tanh(self.hidden(x)) * self.scale
        ...         return [head(h) for head in self.heads]
        >>> net = Net()
        >>> net
        Net  scale ()                              86 parameters, 344 bytes
          hidden   Linear  weight (4, 8), bias (8,)  40
          heads.0  Linear  weight (8, 2), bias (2,)  18
          heads.1  Linear  weight (8, 3), bias (3,)  27
        >>> [name for name, _ in net.named_parameters()][:3]
        ['hidden.weight', 'hidden.bias', 'heads.0.weight']
        >>> x, y = np.ones((5, 4), np.float32), np.zeros(5, int)
        >>> gradient = tg.grad(lambda net: cross_entropy(net(x)[0], y))(net)
        >>> gradient.heads[0].bias.shape
        (2,)
    """

    training: bool = True

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        tree.register(cls, Module._flatten, Module._unflatten)

    def parameters(self) -> list[Parameter]:
        """Return the parameters, each once; see `named_parameters`."""
        return [parameter for _, parameter in self.named_parameters()]

    def named_parameters(self) -> list[tuple[str, Parameter]]:
        """Return the path and the parameter of each, in the order of assignment.

        One that is held in several places appears once, under its first path. A parameter without a
        name, or named by the tail of the path, is given the path as its name.

        Raises:
            ConfigError: two parameters have the same path, as under the dict keys 1 and "1".
        """
        leaves = _leaves(self)
        for path, leaf in leaves:
            if isinstance(leaf, Parameter) and f".{path}".endswith(
                f".{leaf.name}" * bool(leaf.name)
            ):
                leaf.name = path
        return leaves

    def modules(self) -> list[Module]:
        """Return this module and all modules inside, each once, outer before inner."""
        found: list[Module] = []
        _leaves(self, found)
        return found

    @property
    def parameter_count(self) -> int:
        """The number of entries of all parameters."""
        return sum(_array(leaf).size for _, leaf in _leaves(self))

    @property
    def nbytes(self) -> int:
        """The bytes that all parameters take."""
        return sum(_array(leaf).nbytes for _, leaf in _leaves(self))

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Return a copy of each parameter's array, by path.

        Raises:
            ConfigError: two parameters have the same path.
        """
        return {path: _array(leaf).copy() for path, leaf in _leaves(self)}

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True) -> None:
        """Write the arrays of a `state_dict` into the parameters, all of them or, on error, none.

        The parameters' own arrays are kept and written into, in their own dtype.

        Args:
            state: arrays by path.
            strict: whether every path must be in both; if not, what is only in one is left alone.

        Raises:
            SnapshotError: paths are missing or unexpected, or a shape or kind of number differs.
        """
        if not isinstance(state, Mapping):
            raise SnapshotError(
                f"load_state_dict was given a {type(state).__name__}; expected a mapping from "
                f"names to arrays, as state_dict() returns"
            )
        own = dict(_leaves(self))
        problems = []
        if strict:
            problems += [f"missing {path!r}" for path in own if path not in state]
            problems += [f"unexpected {path!r}" for path in state if path not in own]
        ready = []
        for path, leaf in own.items():
            if path not in state:
                continue
            array, given = _array(leaf), _array(state[path])
            if given.shape != array.shape:
                problems.append(f"{path!r} has shape {given.shape}, expected {array.shape}")
            elif given.dtype.kind != array.dtype.kind:
                problems.append(f"{path!r} has dtype {given.dtype}, expected {array.dtype}")
            else:
                ready.append((leaf, given.astype(array.dtype, copy=False)))
        if problems:
            raise SnapshotError(
                f"the state does not fit this {type(self).__name__}, which is unchanged: "
                + "; ".join(problems)
                + ("" if not strict else " (strict=False ignores missing and unexpected names)")
            )
        for leaf, given in ready:
            _array(leaf)[...] = given
            if isinstance(leaf, Parameter):
                leaf.touch()

    def stages(self) -> tuple[Callable[[Any], Any], ...]:
        """Return functions of one array whose composition is this module.

        A budget of memory is kept by computing some of these anew in the backward pass. A module is one
        stage, and so cannot be cut, unless its class says here what its blocks are. They may share
        parameters, but must hand on nothing but their output.

        Example:
            >>> from thriftgrad.nn import Linear
            >>> class Net(Module):
            ...     def __init__(self):
            ...         self.embed = Linear(4, 8, rng=0)
            ...         self.blocks = [Linear(8, 8, rng=k) for k in range(3)]
            ...     def stages(self):
            ...         return (self.embed, *(lambda x, b=b: x + np.tanh(b(x)) for b in self.blocks))
            ...     def __call__(self, x):
            ...         for stage in self.stages():
            ...             x = stage(x)
            ...         return x
            >>> len(Net().stages())
            4
        """
        if not callable(self):
            raise ConfigError(f"a {type(self).__name__} cannot be called; give it a __call__")
        return (self,)

    def train(self, mode: bool = True) -> Self:
        """Set `training` here and in all modules inside, and return this module."""
        for module in self.modules():
            module.training = mode
        return self

    def eval(self) -> Self:
        """Make this module and all inside behave as in evaluation, and return this module."""
        return self.train(False)

    @contextmanager
    def evaluating(self) -> Iterator[Self]:
        """Be as after `eval()` inside this context; then set each module back to what it was.

        Example:
            >>> from thriftgrad.nn import Dropout, Sequential
            >>> model = Sequential(np.tanh, Dropout(0.5, rng=0))
            >>> with model.evaluating():
            ...     y = model(np.zeros(3))
            >>> y, model.training
            (array([0., 0., 0.]), True)
        """
        before = [(module, module.training) for module in self.modules()]
        self.eval()
        try:
            yield self
        finally:
            for module, mode in before:
                module.training = mode

    def __repr__(self) -> str:
        count = self.parameter_count
        total = f"{count:,} parameter{'s' * (count != 1)}, {self.nbytes:,} bytes"
        return _table(_rows(self, "", "", set()), total)

    def _repr_html_(self) -> str:
        (_, heading, _), *inner = _rows(self, "", "", set())
        count = self.parameter_count
        total = f"{count:,} parameter{'s' * (count != 1)}, {self.nbytes:,} bytes"
        lines = "".join(
            f'<tr><td style="text-align:left;padding-left:{len(name) - len(name.lstrip()) - 1}em">'
            f'{escape(name.lstrip())}</td><td style="text-align:left">{escape(text)}</td>'
            f'<td style="text-align:right">{number}</td></tr>'
            for name, text, number in inner
        )
        table = f"<table><tbody>{lines}</tbody></table>" if inner else ""
        return f"<p><b>{escape(heading)}</b>, {total}</p>{table}"

    def _describe(self) -> str:
        """Return what `repr` says of this module itself; its parameters are added to that."""
        return type(self).__name__

    def _flatten(self) -> tuple[list[Any], _Structure, tuple[str, ...]]:
        leaves = _leaves(self)
        paths = tuple(path for path, _ in leaves)
        return [leaf for _, leaf in leaves], _Structure(self, paths), paths

    @staticmethod
    def _unflatten(structure: _Structure, leaves: Sequence[Any]) -> Module:
        return _rebuilt(structure.module, leaves)


tree.register(Module, Module._flatten, Module._unflatten)


class Sequential(Module):
    """Layers applied one after the other.

    Any callable on arrays is a layer: a module, `np.tanh`, a function of one's own.

    Args:
        *layers: the layers. Parameters are named by position: "0.weight", "2.weight".

    Raises:
        ConfigError: a layer that cannot be called, or a class where an object of it was meant.

    Example:
        >>> from thriftgrad.nn import Linear
        >>> model = Sequential(Linear(784, 100, rng=0), np.tanh, Linear(100, 10, rng=1))
        >>> model(np.zeros((32, 784), np.float32)).shape
        (32, 10)
        >>> model
        Sequential                                    79,510 parameters, 318,040 bytes
          0  Linear  weight (784, 100), bias (100,)  78,500
          1  tanh
          2  Linear  weight (100, 10), bias (10,)     1,010
        >>> model[0].bias.shape, len(model), list(model)[1]
        ((100,), 3, <ufunc 'tanh'>)
    """

    def __init__(self, *layers: Callable[[Any], Any]) -> None:
        for position, layer in enumerate(layers):
            if not callable(layer) or isinstance(layer, type):
                given = (
                    f"the class {layer.__name__}, not an object of it"
                    if isinstance(layer, type)
                    else f"of type {type(layer).__name__}"
                )
                raise ConfigError(
                    f"Sequential: layer {position} is {given}; each layer is an argument of its "
                    f"own and a callable on arrays: Sequential(Linear(784, 10), np.tanh)"
                )
            inside = getattr(layer, "__wrapped__", None)
            if isinstance(inside, Module):
                raise ConfigError(
                    f"Sequential: layer {position} is a function around a "
                    f"{type(inside).__name__}, whose parameters it hides; give the module "
                    f"itself, and for less memory memory= to fit, or wrap the function that calls it"
                )
            # As attributes of these names they are found under the paths that they should have.
            setattr(self, str(position), layer)

    @property
    def layers(self) -> tuple[Callable[[Any], Any], ...]:
        """The layers, in order."""
        return tuple(value for name, value in vars(self).items() if name.isdigit())

    def stages(self) -> tuple[Callable[[Any], Any], ...]:
        """Return the layers."""
        return self.layers

    def __call__(self, x: Any) -> Any:
        """Return what the last layer makes of what those before it made of x."""
        for layer in self.layers:
            x = layer(x)
        return x

    def __len__(self) -> int:
        return len(self.layers)

    def __iter__(self) -> Iterator[Callable[[Any], Any]]:
        return iter(self.layers)

    def __getitem__(self, index: int) -> Any:
        return self.layers[index]


# Finding and replacing. Both are one walk over what a module holds, here spelled out once.


def _visited(value: Any, path: Path, places: Mapping[Path, object], visit: _Visit) -> Any:
    """Return `value` with every parameter and module in it replaced by what `visit` returns.

    `visit(path, value, key)` is called with a key that is the same wherever the same thing is held.
    A container in which nothing changed is returned itself, so that it stays shared.
    """
    if path in places:
        return visit(path, value, places[path])
    if isinstance(value, Parameter | Module):
        return visit(path, value, value)
    if isinstance(value, list | tuple):
        items = [_visited(v, (*path, i), places, visit) for i, v in enumerate(value)]
        if all(new is old for new, old in zip(items, value, strict=True)):
            return value
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if isinstance(value, dict):
        changed = {k: _visited(v, (*path, k), places, visit) for k, v in value.items()}
        if all(changed[k] is value[k] for k in value):
            return value
        result = copy.copy(value)
        result.update(changed)
        return result
    return value


_Visit = Callable[[Path, Any, object], Any]


def _leaves(root: Module, modules: list[Module] | None = None) -> list[tuple[str, Any]]:
    """Return the path and the value of every leaf, and collect every module in `modules`."""
    found: dict[int, tuple[str, Any]] = {}
    seen: set[int] = set()

    def enter(module: Module, prefix: str) -> None:
        seen.add(id(module))
        if modules is not None:
            modules.append(module)
        places = vars(module).get(_PLACES, {})

        def visit(path: Path, value: Any, key: object) -> Any:
            name = prefix + ".".join(map(str, path))
            if not isinstance(key, Module):
                found.setdefault(id(key), (name, value))
            elif id(key) not in seen:
                enter(key, name + ".")
            return value

        for attribute, value in vars(module).items():
            if attribute != _PLACES:
                _visited(value, (attribute,), places, visit)

    enter(root, "")
    # It refers to itself, and would keep all of this until the next garbage collection.
    enter = None  # type: ignore[assignment]
    leaves = list(found.values())
    if len({name for name, _ in leaves}) < len(leaves):
        names = [name for name, _ in leaves]
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ConfigError(
            f"{type(root).__name__} holds several parameters under the same path: "
            f"{', '.join(twice)}; rename a key or an attribute"
        )
    return leaves


def _rebuilt(root: Module, leaves: Sequence[Any]) -> Module:
    """Return a copy of `root` that holds `leaves` in the places of its own, in the same order."""
    remaining = iter(leaves)
    copies: dict[int, Module] = {}
    put: dict[int, tuple[object, Any]] = {}

    def rebuild(module: Module) -> Module:
        result = copies[id(module)] = object.__new__(type(module))
        places = vars(module).get(_PLACES, {})
        new_places: dict[Path, object] = {}

        def visit(path: Path, value: Any, key: object) -> Any:
            if isinstance(key, Module):
                return copies[id(key)] if id(key) in copies else rebuild(key)
            if id(key) not in put:
                put[id(key)] = object(), next(remaining)
            new_places[path], leaf = put[id(key)]
            return leaf

        attributes = {
            name: _visited(value, (name,), places, visit)
            for name, value in vars(module).items()
            if name != _PLACES
        }
        vars(result).update(attributes)
        vars(result)[_PLACES] = new_places
        return result

    try:
        return rebuild(root)
    finally:
        # It refers to itself, and would keep the leaves until the next garbage collection.
        rebuild = None  # type: ignore[assignment]


class _Structure:
    """What two modules of one class must agree in to be trees of one structure: their paths.

    Static attributes do not count: a generator that has moved on makes no other model.
    """

    __slots__ = ("module", "paths")

    def __init__(self, module: Module, paths: tuple[str, ...]) -> None:
        self.module = module
        self.paths = paths

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Structure) and self.paths == other.paths

    def __hash__(self) -> int:
        return hash(self.paths)

    def __repr__(self) -> str:
        return ", ".join(self.paths)


def _array(leaf: Any) -> NDArray[Any]:
    return leaf.value if isinstance(leaf, Tensor) else np.asarray(leaf)


# What repr prints


def _rows(module: Module, name: str, indent: str, seen: set[int]) -> list[list[str]]:
    """Return a row [name, description, count] for this module and for each callable inside."""
    seen.add(id(module))
    own: list[str] = []
    inner: list[list[str]] = []
    count = 0
    places = vars(module).get(_PLACES, {})
    deeper = indent + "  "

    def visit(path: Path, value: Any, key: object) -> Any:
        nonlocal count
        label = ".".join(map(str, path))
        if not isinstance(key, Module):
            if id(key) not in seen:
                seen.add(id(key))
                count += np.size(value)
            own.append(f"{label} {np.shape(value)}")
        elif id(key) in seen:
            inner.append([deeper + label, f"{key._describe()} (shared)", ""])
        else:
            inner.extend(_rows(key, label, deeper, seen))
        return value

    for attribute, value in vars(module).items():
        if callable(value) and not isinstance(value, Module):
            inner.append([deeper + attribute, getattr(value, "__name__", repr(value)), ""])
        elif attribute != _PLACES:
            _visited(value, (attribute,), places, visit)
    description = "  ".join([module._describe(), ", ".join(own)]).rstrip()
    return [[indent + name, description, f"{count:,}" if count else ""], *inner]


def _table(rows: list[list[str]], total: str) -> str:
    """Lay the rows out in columns, the first one as a heading with the total behind it."""
    (_, heading, count), *inner = rows
    if not inner:
        return f"{heading}  {total}" if count else heading
    names = max(len(name) for name, _, _ in inner)
    texts = max(len(text) for _, text, _ in inner)
    counts = max(len(count) for _, _, count in inner)
    lines = [f"{name:<{names}}  {text:<{texts}}  {count:>{counts}}" for name, text, count in inner]
    width = max(len(heading), names + texts + 2)
    return "\n".join([f"{heading:<{width}}  {total}", *(line.rstrip() for line in lines)])
