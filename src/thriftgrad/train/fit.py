"""The training loop, and only the loop; callbacks watch it."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from thriftgrad.data import batches
from thriftgrad.data.arrays import as_rows
from thriftgrad.errors import ConfigError, DataError, NonFiniteError
from thriftgrad.nn import Module
from thriftgrad.optim import Optimizer
from thriftgrad.train import snapshot as snapshots
from thriftgrad.train._diagnosis import bad_weights, layers
from thriftgrad.train.callbacks import (
    Callback,
    EarlyStopping,
    ProgressBar,
    State,
    check_callbacks,
)
from thriftgrad.train.evaluate import evaluate, rows_are_one_hot
from thriftgrad.train.history import Epoch, History
from thriftgrad.train.step import Loss, Step, make_step

if TYPE_CHECKING:
    from thriftgrad.compile.replay import Kernels
    from thriftgrad.memory import Plan, Strategy, Update

Array = NDArray[Any]

_ROWS = 4096
_log = logging.getLogger("thriftgrad.train")


def fit(
    model: Module,
    train: tuple[Any, Any],
    *,
    loss: Loss,
    optimizer: Optimizer,
    epochs: int,
    batch_size: int = 128,
    validation: tuple[Any, Any] | None = None,
    rng: int | np.random.Generator = 0,
    patience: int | None = None,
    snapshot: str | os.PathLike[str] | None = None,
    resume: bool = False,
    memory: int | str | Strategy | Plan | None = None,
    update: Update = "after backward",
    compile: bool | None = None,
    kernels: Kernels = "numpy",
    callbacks: Sequence[Callback] = (),
    progress: bool | None = None,
) -> History:
    """Train a model on examples (x, y), in mini-batches, and return what came of each epoch.

    Each epoch goes through all examples in a new order. The same seeds, data and machine give the
    same bits, whether the training was interrupted and resumed or not.

    Args:
        model: the model; it is trained in place.
        train: x and y of one length: arrays, memory maps (batches are read from disk), sparse
            matrices (batches are made dense), data frames and series, lists.
        loss: takes the model's output and y of a batch; returns a scalar tensor, the mean over the
            examples.
        optimizer: holds parameters of this model, all or some.
        epochs: how often to go through the examples, >= 1, counted from the very beginning where a
            run is resumed.
        batch_size: how many examples make a step; the last batch of an epoch may be smaller.
        validation: x and y for loss and accuracy after each epoch, in evaluation mode and in
            batches.
        rng: shuffles the examples; a seed or a generator.
        patience: stop after so many epochs without a lower validation loss (training loss where
            there is no validation). The model then ends with the weights of the best epoch, also
            where all epochs were made. None: no stopping, and the weights are the last ones.
        snapshot: a file, `.safetensors` by custom, to save weights, optimiser, random generators
            and history to at the start and after each epoch, each time replaced as a whole.
        resume: go on from `snapshot` where that file is there, else start; without this, a file
            that is there already is an error. Where the optimiser's learning rate is a number, the
            saved one goes on, whatever the optimiser was made with this time.
        memory: the bytes that a step may hold beyond the data set, such as "64 MB", for the fastest
            step that fits; or which activations to keep: "all", "none", "sqrt", "revolve",
            "every:2", "at:2,5", or a strategy of `thriftgrad.memory`. The model then runs by its
            stages, and the weights are those of `compile=False` to the last bit. None: a plain
            backward pass.
            The order of the examples, 8 bytes each, counts with the data set; a copy of the
            weights for `patience`, and what callbacks keep, come on top.
        update: with "during backward", each parameter is updated as soon as its gradient is
            complete, which is then freed: gradients never exist together. Needs `memory`, and an
            optimiser without `clip_norm`.
        compile: whether the step is compiled, that is, recorded at the first batch and run as plain
            NumPy from then on (see `thriftgrad.compile`, which also says what a recording cannot
            see: what the model prints, it prints once). True: an error where that cannot be; False: no;
            None: yes if it can be, and there are 100 steps to be made or a `snapshot` to go on
            from, as a recording takes the time that it saves in so many. `history.step` says what
            was done, and why; so does the log, `logging.getLogger("thriftgrad.train")`, with a
            warning where a model cannot be recorded. Eager and compiled weights are equal up to
            rounding; those of two runs of one kind, to the last bit.
        kernels: what a compiled step makes of calls that follow each other entry by entry, such as an
            optimiser's update: "numpy" calls, or with "numba" one loop in machine code, which pays most
            for Adam and large layers, and takes some tenths of a second to compile for the first time
            on a machine (see `thriftgrad.compile`). Needs `pip install 'thriftgrad[fast]'`.
        callbacks: called along the way, in this order; see `Callback`.
        progress: show a progress bar; None shows one in terminals and notebooks.

    Returns:
        The history of all epochs, those before a resumption included.

    Raises:
        NonFiniteError: a loss or gradient turned NaN or infinite. The message names epoch, step and
            layer; the weights are those from before that step. Or weights did, in the last step of
            an epoch; a snapshot is then still that of the epoch before.
        BudgetError: no schedule keeps to `memory`; the message says what is the least that would do.
        ConfigError: an argument makes no sense, or `snapshot` exists and `resume` is not set.
        MissingExtraError: `kernels="numba"` without Numba.
        RecordError: with `compile=True`, where the step cannot be recorded; the message says why.
        DataError: x and y differ in length or are empty, or x is of a type not to learn from.
        SnapshotError: the snapshot is damaged, or of another model, optimiser or setting.
        OSError: the snapshot cannot be read or written.

    Example:
        >>> import numpy as np, thriftgrad as tg
        >>> x = np.linspace(-1, 1, 64, dtype=np.float32)[:, np.newaxis]
        >>> model = tg.nn.Sequential(tg.nn.Linear(1, 1, rng=0))
        >>> history = tg.train.fit(
        ...     model, (x, 3 * x), loss=tg.nn.mse, epochs=20, batch_size=8,
        ...     optimizer=tg.optim.SGD(model.parameters(), lr=0.5),
        ... )
        >>> len(history), bool(history.train_loss[-1] < 1e-6)
        (20, True)
    """
    if not isinstance(model, Module):
        raise ConfigError(
            f"model is a {type(model).__name__}; expected a thriftgrad.nn.Module such as "
            f"nn.Sequential(...)"
        )
    train = _examples(train, "train")
    validation = None if validation is None else _examples(validation, "validation")
    _check_optimizer(optimizer, model)
    if not callable(loss):
        raise ConfigError(
            f"loss is a {type(loss).__name__}; expected a function of outputs and y, such as "
            f"nn.cross_entropy"
        )
    epochs = _whole("epochs", epochs)
    patience = None if patience is None else _whole("patience", patience)
    if resume and snapshot is None:
        raise ConfigError(
            "resume=True without a snapshot to resume from; pass snapshot=PATH as well"
        )

    generator = _generator(rng)
    loader = batches(*train, size=batch_size, rng=generator)
    state = State(model, optimizer, generator, epochs, len(loader))
    stopping = None if patience is None else EarlyStopping(patience)
    watching = check_callbacks(callbacks)
    if progress or (progress is None and ProgressBar.wanted()):
        watching.append(ProgressBar())
    if stopping is not None:
        watching.append(stopping)

    if update != "after backward" and memory is None:
        raise ConfigError(
            f'update = {update!r} without memory; pass memory="all" as well, or a budget'
        )
    if not isinstance(compile, bool | None):
        hint = (
            '; kernels="numba" compiles with loops of Numba\'s' if isinstance(compile, str) else ""
        )
        raise ConfigError(f"compile = {compile!r}; expected True, False or None{hint}")
    if compile and memory is not None:
        raise ConfigError(
            "compile=True with memory: a step that keeps to a plan is not compiled; leave one of them "
            "away"
        )
    _check_kernels(kernels, compile, memory)
    if memory is not None:
        state.plan = _plan(model, train, loss, optimizer, batch_size, memory, update)

    settings = _settings(model, loss, batch_size, patience, train, validation)
    if snapshot is not None:
        if not Path(snapshot).exists():
            snapshots.save_training(snapshot, state, stopping, settings)
        elif resume:
            snapshots.resume_training(snapshot, state, stopping, settings)
        else:
            raise ConfigError(
                f"there is a snapshot at {snapshot} already; pass resume=True to go on from it, "
                f"name another file, or delete it"
            )

    def say(how: str) -> None:
        state.history.step = how
        level, hint = (
            (logging.WARNING, "; compile=False says that this is all right")
            if how.startswith("eager, as it cannot")
            else (logging.INFO, "")
        )
        _log.log(level, "the training step is %s%s", how, hint)

    one_hot = memory is None and _one_hot(train[1])
    # Whoever resumes may go on for longer, and gets the bits of a run that was as long at once.
    ahead = math.inf if snapshot is not None else epochs * len(loader)
    step = make_step(
        model,
        loss,
        optimizer,
        state.plan,
        compile=compile,
        kernels=kernels,
        one_hot=one_hot,
        ahead=ahead,
        say=say,
    )
    optimizer.zero_grad()
    try:
        with _training(model):
            _tell(watching, "on_train_begin", state)
            while len(state.history) < epochs and not state.stop:
                started = time.perf_counter()
                state.epoch = len(state.history) + 1
                trained = _epoch(step, loader, state, watching)
                _check_weights(state)
                validated = _validate(state, validation, loss, batch_size)
                seconds = time.perf_counter() - started
                rate = trained[2]
                state.history.append(Epoch(state.epoch, *trained[:2], *validated, rate, seconds))
                _tell(watching, "on_epoch_end", state)
                if snapshot is not None:
                    snapshots.save_training(snapshot, state, stopping, settings)
            if stopping is not None and stopping.best is not None:
                model.load_state_dict(stopping.best)
    finally:
        _tell(watching, "on_train_end", state)
    return state.history


def _plan(
    model: Module,
    train: tuple[Array, Array],
    loss: Loss,
    optimizer: Optimizer,
    batch_size: int,
    memory: int | str | Strategy | Plan,
    update: Update,
) -> Plan:
    """Plan the steps on the first full batch: every other one is laid out alike, or smaller."""
    from thriftgrad.memory import Plan
    from thriftgrad.memory import plan as make_plan

    if isinstance(memory, Plan):
        if update not in ("after backward", memory.chain.update):
            raise ConfigError(
                f"update = {update!r} with a plan for updates {memory.chain.update}; pass update to "
                f"memory.plan(...)"
            )
        if len(memory.chain) != len(model.stages()):
            raise ConfigError(
                f"memory is a plan for a chain of {len(memory.chain)} stages and the model has "
                f"{len(model.stages())}; make it from this model, by memory.plan(model, x, y, ...)"
            )
        return memory
    x, y = next(iter(batches(*train, size=batch_size)))
    with _training(model), np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        return make_plan(model, x, y, budget=memory, loss=loss, optimizer=optimizer, update=update)


@contextmanager
def _training(model: Module) -> Iterator[None]:
    """Put all modules in training mode, and each back in its own at the end."""
    modes = [(module, module.training) for module in model.modules()]
    model.train()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _epoch(
    step: Step, loader: Iterable[tuple[Array, Array]], state: State, watching: Sequence[Callback]
) -> tuple[float, float, float]:
    """Make the steps of one epoch; return mean loss, accuracy and the last learning rate."""
    total = right = rate = 0.0
    seen = 0
    optimizer, endings = state.optimizer, [each.on_step_end for each in watching]
    state.step = 0
    for x, y in loader:  # enumerate would hold a batch while the next one is made
        state.step += 1
        rate = optimizer.lr
        try:
            state.loss, hits = step(x, y)
        except NonFiniteError as error:
            during = state.plan is not None and state.plan.chain.update == "during backward"
            weights = (
                "Weights of later layers may have been updated in this step already"
                if during
                else "The weights are those from before this step"
            )
            raise NonFiniteError(
                f"epoch {state.epoch}, step {state.step} of {state.steps}: {error}. {weights}; try a "
                f"lower learning rate than {rate:g} or clip_norm= in the optimiser, and look for "
                f"NaN, infinity or unscaled values in the data"
            ) from None
        total += len(x) * state.loss
        right += hits
        seen += len(x)
        state.mean_loss = total / seen
        del x, y
        for on_step_end in endings:
            on_step_end(state)
    return total / seen, right / seen, rate


def _check_weights(state: State) -> None:
    """Refuse weights that the last step of an epoch has spoilt: no later step would notice."""
    with np.errstate(over="ignore", invalid="ignore"):
        name = bad_weights(state.model)
    if name is not None:
        raise NonFiniteError(
            f"epoch {state.epoch}: the weights {name} are not finite after the last step; try a "
            f"lower learning rate than {state.optimizer.lr:g} or clip_norm= in the optimiser"
        )


def _validate(
    state: State, validation: tuple[Array, Array] | None, loss: Loss, batch_size: int
) -> tuple[float, float]:
    if validation is None:
        return math.nan, math.nan
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        scores = evaluate(state.model, validation, loss=loss, batch_size=batch_size)
    if not math.isfinite(scores.loss):
        raise NonFiniteError(
            f"epoch {state.epoch}: the validation loss after the last step is {scores.loss}; try a "
            f"lower learning rate, and look for NaN, infinity or unscaled values in the validation "
            f"data"
        )
    return scores


def _examples(data: tuple[Any, Any], what: str) -> tuple[Array, Array]:
    """Return x and y in a form that batches can be cut from."""
    if not isinstance(data, tuple | list) or len(data) != 2:
        raise DataError(f"{what} is a {type(data).__name__}; expected a pair of arrays (x, y)")
    x, y = (as_rows(part, f"{what}: {name}") for name, part in zip("xy", data, strict=True))
    if x.shape[0] != y.shape[0]:
        raise DataError(f"{what}: x has {x.shape[0]} examples but y has {y.shape[0]}")
    if x.shape[0] == 0:
        raise DataError(f"{what}: x and y are empty; expected at least one example")
    # Signed integers may be indices into a table of embeddings; bytes are pictures not yet scaled.
    if x.dtype.kind not in "fci":
        raise DataError(
            f"{what}: x has dtype {x.dtype}; expected floating-point numbers, for pictures of "
            f"bytes x.astype(np.float32) / 255"
        )
    return x, y


def _one_hot(y: Any) -> bool:
    """Say whether y has one-hot rows, all of them."""
    return len(y.shape) == 2 and all(map(rows_are_one_hot, batches(y, size=_ROWS)))


def _check_optimizer(optimizer: Optimizer, model: Module) -> None:
    if not isinstance(optimizer, Optimizer):
        raise ConfigError(
            f"optimizer is a {type(optimizer).__name__}; expected a thriftgrad.optim.Optimizer "
            f"such as optim.Adam(model.parameters())"
        )
    own = {id(parameter) for parameter in model.parameters()}
    foreign = sum(id(parameter) not in own for parameter in optimizer.parameters)
    if foreign:
        raise ConfigError(
            f"{foreign} of the optimizer's {len(optimizer.parameters)} parameters are not the "
            f"model's; make the optimizer from this very model: "
            f"{type(optimizer).__name__}(model.parameters())"
        )


def _check_kernels(kernels: Kernels, compile: bool | None, memory: Any) -> None:
    if kernels == "numpy":
        return
    if compile is False or memory is not None:
        other = "compile=False" if compile is False else "memory"
        raise ConfigError(
            f"kernels={kernels!r} with {other}: a step that is not compiled has none; leave one of them "
            f"away"
        )
    from thriftgrad.compile.machine_code import check

    check(kernels)


def _whole(name: str, given: Any) -> int:
    if isinstance(given, bool) or not isinstance(given, int | np.integer) or given < 1:
        raise ConfigError(f"{name} = {given!r}: expected a whole number of at least 1")
    return int(given)


def _generator(rng: Any) -> np.random.Generator:
    if isinstance(rng, np.random.Generator):
        return rng
    if isinstance(rng, bool) or not isinstance(rng, int | np.integer) or rng < 0:
        raise ConfigError(
            f"rng = {rng!r}: expected a seed of at least 0 or a numpy.random.Generator"
        )
    return np.random.default_rng(int(rng))


def _settings(
    model: Module,
    loss: Loss,
    batch_size: int,
    patience: int | None,
    train: tuple[Array, Array],
    validation: tuple[Array, Array] | None,
) -> dict[str, Any]:
    """Return what must be the same where a training is resumed, as plain data."""
    return {
        "layers": ", ".join(layers(model)),
        "loss": getattr(loss, "__name__", type(loss).__name__),
        "batch_size": int(batch_size),
        "patience": patience,
        "train": [f"{a.dtype} {list(a.shape)}" for a in train],
        "validation": validation and [f"{a.dtype} {list(a.shape)}" for a in validation],
    }


def _tell(watching: Sequence[Callback], event: str, state: State) -> None:
    for callback in watching:
        getattr(callback, event)(state)
