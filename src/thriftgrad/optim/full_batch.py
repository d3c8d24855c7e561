"""The loss of a whole data set, for line searches: the data is read twice a step, however many trials.

Let the first layer be affine, as in nearly every network: Z = x·W + b. Along a direction of the
parameters it is linear in the length of the step,

    Z(t) = x·(W − t·g_W) + (b − t·g_b) = Z − t·S        with S = x·g_W + g_b,

so that one product with the data serves all trials of a search; and the Z of the accepted trial is
that of the next iterate, whose forward pass then needs no product with the data at all. What is left
are S and the gradient xᵀ·D. Both are products of a very tall matrix with a thin one. They are computed
in tiles of some fifty rows, for which a BLAS has its kernels for small matrices, and on all processors.

Where rows are short, Z and what is made of it lie in memory by columns: a NumPy call that broadcasts or
reduces along rows of ten numbers begins a loop for each of them; of columns there are but ten.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from contextvars import copy_context
from typing import Any

import numpy as np

from thriftgrad.autodiff import Parameter, Tensor
from thriftgrad.blas import SMALL
from thriftgrad.errors import ConfigError, DataError
from thriftgrad.nn.layers import Dropout, Linear, linear
from thriftgrad.nn.module import Module, Sequential

Array = Any

_CARRIED = 20
"""Steps for which Z is carried along before it is computed anew."""
_TILE = 50
"""Rows of a tile, or as many as the kernels for small matrices take."""
_CHUNK = 40
"""Tiles that are worked on in one call: their products fit into the cache."""
_THIN = 16
"""Columns of an array that lies by columns, at most; wider ones lie by rows, as anywhere."""


class FullBatch:
    """The loss of a model on a whole data set, as `LineSearch` wants it, at a fraction of the time.

    With Z = x·W + b in the first layer and the gradient g, the loss at the parameters p − t·g is that
    of Z − t·(x·g_W + g_b) under the other layers. A search computes x·g_W + g_b once, a trial costs the
    layers behind the first, and the accepted Z is carried to the next step. It is computed anew every
    20 steps, so that rounding errors are those of 20 sums at most: losses are the plain ones to 1e-6
    relative in float32 and to 1e-12 in float64, and gradients are as accurate as plain ones. It is
    also computed anew wherever somebody else has changed the first layer. All behind the first layer
    runs as by `thriftgrad.compile`.

    Products with the data run on the processors that this process may use, or on as many threads as
    OMP_NUM_THREADS or OPENBLAS_NUM_THREADS says; they end with it. Results do not depend on how many
    there are. Beside the data, it holds five arrays as large as Z, and the blocks of two compiled
    programs.

    Args:
        model: its first stage, the first layer of a `Sequential`, is a `Linear`. Dropout is switched
            off, by `model.eval()`.
        loss: called as loss(outputs, y) with all outputs at once; returns a scalar.
        x: floating-point array (examples, ..., inputs), taken not to change.
        y: what the loss compares with.

    Raises:
        ConfigError: the first stage is not a `Linear`, or `loss` is no function. In a search: `loss`
            returns what cannot be differentiated, or there is dropout in training mode, under which
            losses differ by chance.
        DataError: x is not a floating-point array that fits the first layer.

    Example:
        >>> import thriftgrad as tg
        >>> rng = np.random.default_rng(0)
        >>> x = rng.normal(size=(1000, 20))
        >>> y = (x[:, 0] > x[:, 1]).astype(int)
        >>> model = tg.nn.Sequential(tg.nn.Linear(20, 6, rng=0), tg.nn.sigmoid, tg.nn.Linear(6, 2, rng=1))
        >>> search = tg.optim.LineSearch(model.parameters(), start=16.0)
        >>> objective = tg.optim.FullBatch(model, tg.nn.cross_entropy, x, y)
        >>> losses = [search.step(objective).loss for _ in range(10)]
        >>> losses == sorted(losses, reverse=True)
        True
    """

    def __init__(self, model: Module, loss: Callable[[Any, Any], Any], x: Array, y: Any) -> None:
        from thriftgrad.compile import compile  # late: nothing else here needs it

        first, *rest = _layers(model)
        if type(first) is not Linear:
            name = getattr(first, "__name__", type(first).__name__)
            raise ConfigError(
                f"FullBatch: the model begins with {name}; expected a Linear layer, whose product with "
                f"the data is what is saved. Give x as the first Linear takes it and the model from there "
                f"on, or give LineSearch.step two functions instead"
            )
        if not callable(loss):
            raise ConfigError(
                f"FullBatch: loss is a {type(loss).__name__}; expected a function of outputs and y, such "
                f"as nn.cross_entropy"
            )
        if not isinstance(x, np.ndarray) or x.dtype.kind != "f" or x.ndim < 2 or not x.size:
            given = (
                f"{x.dtype} of shape {x.shape}" if isinstance(x, np.ndarray) else type(x).__name__
            )
            raise DataError(
                f"FullBatch: x is {given}; expected floating-point numbers, (examples, ..., inputs)"
            )
        dtype = linear(x[:1], *_values(first)).dtype  # an error here says what does not fit
        shape = (*x.shape[:-1], first.weight.shape[1])
        thin = shape[-1] <= _THIN
        behind = [_by_columns(layer) if type(layer) is Linear else layer for layer in rest]

        def value(lying: Any, y: Any) -> Any:  # Z, or if it is thin, the transpose
            outputs = np.reshape(np.transpose(lying) if thin else lying, shape)
            for layer in behind:
                outputs = layer(outputs)
            return loss(outputs, y)

        def value_and_slopes(y: Any) -> Any:
            result = value(entry, y)
            if not isinstance(result, Tensor):
                raise ConfigError(
                    f"FullBatch: loss(outputs, y) returned a {type(result).__name__}, which records "
                    f"nothing; expected a thriftgrad.Tensor: compute it from the outputs by NumPy's "
                    f"functions, without .value or .item()"
                )
            result.backward()
            return result

        self.y = np.asarray(y) if isinstance(y, list) else y
        self._model = model
        self._first = first
        self._parameters = model.parameters()
        self._rows = x.reshape(-1, x.shape[-1])
        self._lying: Callable[[Array], Array] = np.transpose if thin else np.asarray
        z = _empty(len(self._rows), shape[-1], dtype)
        self._entry = entry = Parameter(self._lying(z), name="entry")
        self._value = compile(value, fallback="eager")
        self._value_and_slopes = compile(value_and_slopes, fallback="eager")
        self._here = _Place()
        self._tried = _Place()
        self._slope: Any = None
        self._carried = 0
        self._crew = _Crew(_threads())

    def loss_and_gradients(self) -> tuple[Any, None]:
        """Return the loss, and leave the gradient of each of the model's parameters on its `grad`."""
        self._refuse_dropout()
        for parameter in (*self._parameters, self._entry):
            parameter.grad = None
        weight, bias = self._first.weight, self._first.bias
        self._entry.value[...] = self._lying(self._arrived())
        loss = self._value_and_slopes(self.y)
        assert self._entry.grad is not None
        slope = self._lying(self._entry.grad)
        # Added, not assigned: the layers behind, or the loss, may use the parameters once more.
        _add(weight, _tall_transposed(self._crew, self._rows, slope))
        if bias is not None:
            _add(bias, np.matmul(np.ones(len(slope), slope.dtype), slope))
        return loss, None

    def toward(self, parameters: Sequence[Any]) -> None:
        """Get ready for trials along the gradients of these of the parameters."""
        moving = {id(parameter) for parameter in parameters if parameter.grad is not None}
        weight, bias = self._first.weight, self._first.bias
        slope: Any = None
        if id(weight) in moving:
            slope = _tall(self._crew, self._rows, weight.grad)
        if bias is not None and id(bias) in moving:
            own: Any = bias.grad
            slope = own if slope is None else np.add(slope, own, out=slope)
        self._slope = slope

    def after(self, length: float) -> Any:
        """Return the loss at the parameters, which have been moved by −length times the gradients."""
        z: Any = self._here.z
        if self._slope is not None:
            if self._tried.z is None:
                self._tried.z = np.empty_like(z)
            self._tried.holds = None
            z = self._tried.z
            np.multiply(self._slope, -length, out=z)
            np.add(z, self._here.z, out=z)
            self._tried.holds = _values(self._first, copied=True)
        return self._value(self._lying(z), self.y)

    def _refuse_dropout(self) -> None:
        for layer in self._model.modules():
            if isinstance(layer, Dropout) and layer.training and layer.rate:
                raise ConfigError(
                    f"FullBatch: the model has a Dropout({layer.rate}) in training mode, which makes "
                    f"another loss at every call, so that none can be compared; call model.eval() first"
                )

    def _arrived(self) -> Array:
        """Return Z at the present parameters."""
        if self._carried < _CARRIED and self._tried.is_at(self._first):
            self._here, self._tried = self._tried, self._here
            self._carried += 1
        elif not self._here.is_at(self._first):
            weight, bias = _values(self._first, copied=True)
            self._here.holds = None
            z = self._here.z = _tall(self._crew, self._rows, weight)
            if bias is not None:
                np.add(z, bias, out=z)
            self._here.holds = weight, bias
            self._carried = 0
        return self._here.z


class _Place:
    """A Z, and the weight and bias that it belongs to."""

    def __init__(self) -> None:
        self.z: Any = None
        self.holds: tuple[Any, Any] | None = None

    def is_at(self, layer: Linear) -> bool:
        return self.holds is not None and all(
            present is None if held is None else np.array_equal(held, present)
            for held, present in zip(self.holds, _values(layer), strict=True)
        )


def _layers(model: Any) -> Iterator[Any]:
    """Yield what the model is made of, and what the `Sequential`s in it are made of."""
    for stage in model.stages() if isinstance(model, Module) else (model,):
        if type(stage) is Sequential:
            yield from _layers(stage)
        else:
            yield stage


def _by_columns(layer: Linear) -> Callable[[Any], Any]:
    """Return the layer; if it is thin, as a function that returns x·W + b by columns."""
    if max(layer.weight.shape) > _THIN:
        return layer  # a product of one that lies by rows with the other by columns is slow

    def apply(x: Any) -> Any:
        if np.ndim(x) != 2 or np.shape(x)[1] != layer.weight.shape[0]:
            return layer(x)  # which also says what does not fit
        result = np.matmul(np.transpose(layer.weight), np.transpose(x))
        if layer.bias is not None:
            result = result + np.expand_dims(layer.bias, 1)
        return np.transpose(result)

    return apply


def _values(layer: Linear, copied: bool = False) -> tuple[Any, Any]:
    weight, bias = layer.weight.value, None if layer.bias is None else layer.bias.value
    if copied:
        return weight.copy(), None if bias is None else bias.copy()
    return weight, bias


def _add(parameter: Parameter, gradient: Any) -> None:
    gradient = gradient.astype(parameter.dtype, copy=False)
    parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient


# Products of the data with thin matrices.


def _empty(rows: int, columns: int, dtype: Any) -> Array:
    return np.empty((rows, columns), dtype, order="F" if columns <= _THIN else "C")


def _tall(crew: _Crew, x: Array, w: Array) -> Array:
    """Return x·w, for x with many rows and w with few columns."""
    result = _empty(len(x), w.shape[1], np.result_type(x, w))
    if w.shape[1] <= _THIN:
        w = np.asfortranarray(w)  # by rows, the product would take half as long again

    def product(start: int, stop: int, tile: int) -> None:
        tiles = x[start:stop].reshape(-1, tile, x.shape[1])
        np.matmul(tiles, w, out=result[start:stop].reshape(-1, tile, w.shape[1]))

    crew.do(product, _cuts(x, w))
    return result


def _tall_transposed(crew: _Crew, x: Array, d: Array) -> Array:
    """Return xᵀ·d, for x and d with many rows and d with few columns."""

    def product(start: int, stop: int, tile: int) -> Array:
        tiles = x[start:stop].reshape(-1, tile, x.shape[1])
        slopes = d[start:stop].reshape(-1, tile, d.shape[1])
        return np.sum(np.matmul(slopes.transpose(0, 2, 1), tiles), axis=0)

    return np.ascontiguousarray(sum(crew.do(product, _cuts(x, d))).T)


def _cuts(x: Array, thin: Array) -> list[tuple[int, int, int]]:
    """Return (start, stop, rows of a tile) of the chunks of rows that x is worked on in."""
    rows = len(x)
    tile = min(_TILE, SMALL // max(x.shape[1] * thin.shape[1], 1))
    if tile < 16 or x.dtype != thin.dtype or not x.flags.c_contiguous:
        return [(0, rows, rows)]  # a product as any other, which the BLAS does well as a whole
    whole = rows - rows % tile
    cuts = [(i, min(i + _CHUNK * tile, whole), tile) for i in range(0, whole, _CHUNK * tile)]
    return cuts if whole == rows else [*cuts, (whole, rows, rows - whole)]


class _Crew:
    """Threads that wait from one product to the next: starting them took a sixth of its time."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._begin()

    def _begin(self) -> None:
        self._pool = ThreadPoolExecutor(
            max(self._threads - 1, 1)
        )  # which starts none before it must
        self._process = os.getpid()

    def do(
        self, work: Callable[[int, int, int], Any], cuts: list[tuple[int, int, int]]
    ) -> list[Any]:
        """Return work(*cut) of all cuts, in their order."""
        results: list[Any] = [None] * len(cuts)
        left = deque(enumerate(cuts))

        def work_off() -> None:
            while left:
                try:
                    i, cut = left.popleft()
                except IndexError:  # another thread was quicker
                    return
                results[i] = work(*cut)

        if self._process != os.getpid():  # after a fork, which takes no threads along
            self._begin()
        others: list[Future[None]] = []
        with suppress(RuntimeError):  # at the end of the process threads take no work any more
            others.extend(
                # In a context like this one, for how floating-point errors are handled.
                self._pool.submit(copy_context().run, work_off)
                for _ in range(min(self._threads, len(cuts)) - 1)
            )
        try:
            work_off()
        finally:
            left.clear()  # after an exception, the others stop at their next cut
            begun = [other for other in others if not other.cancel()]
            wait(begun)
        for other in begun:
            other.result()
        return results


def _threads() -> int:
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        asked = os.environ.get(name, "")
        if asked.isdigit() and int(asked):
            return int(asked)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
