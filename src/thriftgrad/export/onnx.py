"""ONNX files: a model as a graph that onnxruntime and many others run without Python.

The export goes by layers. A `Linear` is a product and a sum, an activation is one operator, and a
function that only moves entries about, such as a reshaping, is found out by having it move tokens
that cannot be calculated with. Everything else is refused by name.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thriftgrad import nn
from thriftgrad.errors import ConfigError, MissingExtraError
from thriftgrad.nn import Dropout, Linear, Module, Sequential
from thriftgrad.train._write import replace

Array = NDArray[Any]
Shape = tuple[int, ...]

OPSET = 17
"""The version of ONNX's operators; onnxruntime 1.12 and all since know it."""

_IR_VERSION = 8  # the file format that came with these operators
_LARGEST = 2**31 - 2**20  # bytes of parameters: a file is one protocol buffer, of less than 2 GiB

_FUNCTIONS: tuple[tuple[Callable[..., Any], str], ...] = (
    (nn.relu, "Relu"),
    (nn.sigmoid, "Sigmoid"),
    (nn.softmax, "Softmax"),
    (nn.log_softmax, "LogSoftmax"),
)
# Those that onnxruntime has in float64 too. By name, so that SciPy's need not be installed.
_UFUNCS = {
    "absolute": "Abs",
    "ceil": "Ceil",
    "cos": "Cos",
    "exp": "Exp",
    "expit": "Sigmoid",
    "fabs": "Abs",
    "floor": "Floor",
    "log": "Log",
    "negative": "Neg",
    "positive": "Identity",
    "reciprocal": "Reciprocal",
    "rint": "Round",
    "sign": "Sign",
    "sin": "Sin",
    "sqrt": "Sqrt",
    "tanh": "Tanh",
}
_WITH_AXIS = frozenset({"Softmax", "LogSoftmax"})


def onnx(model: Module, path: str | os.PathLike[str], *, input_shape: Shape | None = None) -> None:
    """Write a model to an ONNX file, as it is in evaluation, for batches of any size.

    The graph has one input, "input" of shape (batch, *input_shape), and one output, "output", both
    in the dtype of the parameters, which it holds under their paths ("0.weight"). onnx's own checker
    has passed it before the file, which is replaced as a whole, is there.

    Layers that can be exported: `Linear`, `Dropout` (which does nothing), `Sequential` in any
    nesting, `nn.relu`, `nn.sigmoid`, `nn.softmax`, `nn.log_softmax`, ufuncs that ONNX has as well
    (`np.tanh`, `np.sin`, `np.exp`, `scipy.special.expit` and the like), and any function or module
    that moves the entries of each example about without calculating: `lambda x: x.reshape(len(x), -1)`.

    Args:
        model: the model.
        path: the file, `.onnx` by custom.
        input_shape: shape of one example. Where a `Linear` comes first it is known: (inputs,).

    Raises:
        ConfigError: a layer that cannot be exported, named by its path; or the shape of an example
            is neither given nor known.
        MissingExtraError: onnx is not installed.
        OSError: the file cannot be written.

    Example:
        >>> import tempfile, onnx, thriftgrad as tg
        >>> model = tg.nn.Sequential(tg.nn.Linear(784, 100, rng=0), np.tanh, tg.nn.Linear(100, 10, rng=1))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     tg.export.onnx(model, folder + "/model.onnx")
        ...     graph = onnx.load(folder + "/model.onnx").graph
        >>> [node.op_type for node in graph.node]
        ['MatMul', 'Add', 'Tanh', 'MatMul', 'Add']
        >>> [weights.name for weights in graph.initializer]
        ['0.weight', '0.bias', '2.weight', '2.bias']
    """
    try:
        from onnx import checker, helper, numpy_helper
    except ImportError as error:
        raise MissingExtraError(
            "exporting to ONNX needs onnx, which is not installed: pip install 'thriftgrad[onnx]'"
        ) from error
    if not isinstance(model, Module):
        raise ConfigError(
            f"model is a {type(model).__name__}; expected a thriftgrad.nn.Module such as "
            f"nn.Sequential(...)"
        )
    graph = _Graph(model)
    shape = first = _first_shape(model) if input_shape is None else _checked(input_shape)
    with model.evaluating():
        for layer_path, layer in _layers("", model):
            shape = graph.add(layer_path, layer, shape)
    graph.finish()

    dtype = helper.np_dtype_to_tensor_dtype(graph.dtype)
    content = helper.make_model(
        helper.make_graph(
            [
                helper.make_node(op, into, out, name, **options)
                for name, op, into, out, options in graph.nodes
            ],
            type(model).__name__,
            [helper.make_tensor_value_info("input", dtype, ["batch", *first])],
            [helper.make_tensor_value_info("output", dtype, ["batch", *shape])],
            [numpy_helper.from_array(array, name) for name, array in graph.arrays.items()],
        ),
        producer_name="thriftgrad",
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=_IR_VERSION,
    )
    checker.check_model(content, full_check=True)
    replace(path, lambda temporary: temporary.write_bytes(content.SerializeToString()))


class _Graph:
    """Nodes and arrays as they gather; each node is (name, operator, inputs, outputs, options)."""

    def __init__(self, model: Module) -> None:
        self.nodes: list[tuple[str, str, list[str], list[str], dict[str, Any]]] = []
        self.arrays: dict[str, Array] = {}
        self.dtype = _dtype(model)
        self._value = "input"
        self._names: dict[int, str] = {}

    def add(self, path: str, layer: Any, shape: Shape) -> Shape:
        """Append a layer that is given examples of `shape`; return the shape that it makes."""
        name = path or type(layer).__name__
        if _is(layer, Linear):
            if shape[-1:] != layer.weight.shape[:1]:
                raise ConfigError(
                    f"layer {name} takes {layer.weight.shape[0]} inputs and would be given examples "
                    f"of shape {shape}"
                )
            self._node(f"{name}.product", "MatMul", self._array(path, "weight", layer.weight))
            if layer.bias is not None:
                self._node(f"{name}.sum", "Add", self._array(path, "bias", layer.bias))
            return (*shape[:-1], layer.weight.shape[1])
        if _is(layer, Dropout):
            return shape
        if (operator := _operator(layer)) is not None:
            self._node(name, operator, **{"axis": -1} if operator in _WITH_AXIS else {})
            return shape
        order, after = _movement(name, layer, shape)
        if not np.array_equal(order, np.arange(math.prod(shape))):
            self._reshape(f"{name}.rows", (math.prod(shape),))
            self.arrays[f"{name}.order"] = order
            self._node(f"{name}.gather", "Gather", f"{name}.order", axis=1)
            self._reshape(f"{name}.reshape", after)
        elif after != shape:
            self._reshape(name, after)
        return after

    def finish(self) -> None:
        """Call what the last node makes "output"."""
        if not self.nodes:
            self._node("identity", "Identity")
        self.nodes[-1][3][:] = ["output"]

    def _node(self, name: str, operator: str, *more: str, **options: Any) -> None:
        self.nodes.append((name, operator, [self._value, *more], [f"{name}.value"], options))
        self._value = f"{name}.value"

    def _reshape(self, name: str, shape: Shape) -> None:
        # A 0 leaves that axis, the batch, as long as it is.
        self.arrays[f"{name}.shape"] = np.array([0, *shape], np.int64)
        self._node(name, "Reshape", f"{name}.shape")

    def _array(self, path: str, attribute: str, parameter: Any) -> str:
        """Return the name of a parameter's array, the first path where it is shared."""
        name = self._names.setdefault(id(parameter), f"{path}.{attribute}".removeprefix("."))
        self.arrays[name] = np.asarray(getattr(parameter, "value", parameter))
        return name


def _layers(path: str, layer: Any) -> Iterator[tuple[str, Any]]:
    """Yield path and layer of each layer, in the order in which they are applied."""
    if not _is(layer, Sequential):
        yield path, layer
        return
    for position, inner in enumerate(layer):
        yield from _layers(f"{path}.{position}".removeprefix("."), inner)


def _is(layer: Any, kind: type[Module]) -> bool:
    """Say whether a layer does what `kind` does: a subclass may have a `__call__` of its own."""
    return isinstance(layer, kind) and type(layer).__call__ is kind.__call__


def _operator(layer: Any) -> str | None:
    if isinstance(layer, np.ufunc):
        return _UFUNCS.get(layer.__name__)
    return next((operator for function, operator in _FUNCTIONS if function is layer), None)


def _first_shape(model: Module) -> Shape:
    for path, layer in _layers("", model):
        if _is(layer, Linear):
            return (layer.weight.shape[0],)
        if not _is(layer, Dropout) and _operator(layer) is None:
            raise ConfigError(
                f"layer {path} ({_called(layer)}) comes before the first Linear, so that the shape of "
                f"an example is not known; pass it, as in input_shape=(28, 28)"
            )
    raise ConfigError(
        "the model has no Linear that would tell the shape of an example; pass it, as in "
        "input_shape=(784,)"
    )


def _checked(shape: Any) -> Shape:
    if not isinstance(shape, tuple | list) or not all(
        isinstance(length, int | np.integer) and length > 0 for length in shape
    ):
        raise ConfigError(
            f"input_shape = {shape!r}: expected the lengths of one example's axes, without the batch, "
            f"as in (28, 28)"
        )
    return tuple(map(int, shape))


def _dtype(model: Module) -> np.dtype[Any]:
    """Return the one dtype of all parameters."""
    state = model.state_dict()
    dtypes = {array.dtype for array in state.values()} or {np.dtype(np.float32)}
    names = sorted(map(str, dtypes))
    if len(dtypes) > 1:
        raise ConfigError(
            f"the model's parameters are of several types, {' and '.join(names)}; ONNX calculates in "
            f"one: make all layers with the same dtype="
        )
    if not set(names) <= {"float16", "float32", "float64"}:
        raise ConfigError(
            f"the model's parameters are {names[0]}, which ONNX does not calculate with; make the "
            f"layers with dtype=np.float32 or np.float64"
        )
    nbytes = sum(array.nbytes for array in state.values())
    if nbytes > _LARGEST:
        raise ConfigError(
            f"the model's parameters take {nbytes:,} bytes; a single ONNX file holds less than 2 GiB"
        )
    return dtypes.pop()


class Entry:
    """An entry that can be moved and not calculated with, nor compared, nor asked whether it is true."""

    __slots__ = ("place",)

    def __init__(self, place: int) -> None:
        self.place = place

    def _refuse(self, *_: Any) -> Any:
        raise TypeError("only moving entries about can be exported")

    __eq__ = __bool__ = __hash__ = _refuse


def _movement(name: str, layer: Any, shape: Shape) -> tuple[Array, Shape]:
    """Return from where in an example each entry comes that `layer` returns, and their shape.

    What a function does to entries that admit no calculation it does to all entries.

    Raises:
        ConfigError: it does more than move entries within each example, or cannot be seen into.
    """
    found = {}
    for batch in (2, 3):
        try:
            found[batch] = _moved(layer, batch, shape)
        except Exception as error:
            raise ConfigError(
                f"layer {name} ({_called(layer)}) cannot be exported to ONNX: "
                + _reason(layer, error)
                + "; leave it out of the model that is exported, or write it with the layers that "
                "help(thriftgrad.export.onnx) lists"
            ) from error
    order, after = found[2]
    if after != found[3][1] or not np.array_equal(order, found[3][0]):
        raise ConfigError(
            f"layer {name} ({_called(layer)}) cannot be exported to ONNX: it does not do the same to "
            f"a batch of 2 as to one of 3"
        )
    return order, after


def _moved(layer: Any, batch: int, shape: Shape) -> tuple[Array, Shape]:
    size = math.prod(shape)
    tokens = np.array([Entry(place) for place in range(batch * size)], object)
    result = layer(tokens.reshape(batch, *shape))
    if not isinstance(result, np.ndarray) or result.shape[:1] != (batch,):
        raise TypeError(f"it made {_kind(result)} of a batch of {batch} examples of shape {shape}")
    places = np.array([_place(entry) for entry in result.flat], np.int64).reshape(batch, -1)
    order = places - size * np.arange(batch)[:, np.newaxis]
    if np.any(order != order[0]) or np.any(order < 0) or np.any(order >= size):
        raise TypeError("it moves entries from one example to another")
    # np.nan_to_num leaves entries alone that are no numbers; so numbers have to bear it out.
    numbers = np.resize([np.nan, np.inf, -np.inf, -0.0, -1.5, 1e-310, 1e300], batch * size)
    numbers = np.random.default_rng(0).permutation(numbers)
    moved = np.asarray(layer(numbers.reshape(batch, *shape)))
    if moved.shape != result.shape or moved.tobytes() != numbers[places].tobytes():
        raise TypeError("it treats some numbers otherwise than others")
    return order[0], result.shape[1:]


def _place(entry: Any) -> int:
    if not isinstance(entry, Entry):
        raise TypeError(f"it put in {entry!r}")
    return entry.place


def _kind(result: Any) -> str:
    return (
        f"an array of shape {result.shape}"
        if hasattr(result, "shape")
        else f"a {type(result).__name__}"
    )


def _called(layer: Any) -> str:
    name = getattr(layer, "__name__", None) or type(layer).__name__
    return f"np.{name}" if isinstance(layer, np.ufunc) else name


def _reason(layer: Any, error: Exception) -> str:
    if isinstance(layer, Module):
        return f"a module with a __call__ of its own may only move entries ({error})"
    if isinstance(layer, np.ufunc):
        return "ONNX has no operator for this ufunc"
    return f"a function of one's own may only move entries within each example ({error})"
