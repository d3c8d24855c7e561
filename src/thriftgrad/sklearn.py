"""Multilayer perceptrons as scikit-learn estimators: for pipelines, grid searches and all its tools.

model = make_pipeline(StandardScaler(), MLPClassifier((100,), random_state=0))
model.fit(X, y).predict_proba(X)

The estimators keep scikit-learn's contract: constructors store, `fit` validates, what is learnt ends
in an underscore. Parameters have the names, the meaning and the defaults of scikit-learn's own
`MLPClassifier` and `MLPRegressor`. The network is a `thriftgrad.nn.Sequential`, and
`thriftgrad.train.fit` trains it; here is only what lies between the two.
"""

# mypy: allow-subclassing-any

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from itertools import pairwise
from math import inf, isfinite, sqrt
from numbers import Integral, Real
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from thriftgrad import nn, optim, train
from thriftgrad.autodiff import defvjp, primitive
from thriftgrad.errors import ConfigError, DataError, MissingExtraError, NonFiniteError

try:
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.model_selection import train_test_split
    from sklearn.preprocessing import LabelEncoder
    from sklearn.utils import check_array, check_random_state, check_scalar, column_or_1d
    from sklearn.utils.class_weight import compute_sample_weight
    from sklearn.utils.multiclass import check_classification_targets, type_of_target
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as error:
    raise MissingExtraError(
        "thriftgrad.sklearn needs scikit-learn 1.6 or later: pip install 'thriftgrad[sklearn]'"
    ) from error

__all__ = ["MLPClassifier", "MLPRegressor"]

Array = NDArray[Any]

_ACTIVATIONS: dict[str, Callable[[Any], Any] | None] = {
    "relu": nn.relu,
    "tanh": nn.tanh,
    "logistic": nn.sigmoid,
    "identity": None,
}
_AUTO_BATCH = 200
_ROWS_AT_ONCE = 1024
"""How many rows are dense, and have activations, at once where only outputs are wanted."""

_INPUTS: dict[str, Any] = {"accept_sparse": "csr", "dtype": (np.float64, np.float32)}
"""What X may be; anything else is converted to the first dtype, and to CSR."""


# As dataclasses, for scikit-learn wants every parameter in the constructor's own signature, and
# stored under its name: this way each is written down once.
@dataclass(eq=False, repr=False)
class _Perceptron(BaseEstimator):
    """What classifier and regressor share: everything but what targets and outputs mean."""

    hidden_layer_sizes: Any = (100,)
    activation: str = "relu"
    _: KW_ONLY
    solver: str = "adam"
    alpha: float = 1e-4
    batch_size: Any = "auto"
    learning_rate_init: float = 1e-3
    momentum: float = 0.9
    max_iter: int = 200
    tol: float = 1e-4
    n_iter_no_change: int = 10
    early_stopping: bool = False
    validation_fraction: float = 0.1
    random_state: Any = None
    warm_start: bool = False
    verbose: bool = False
    memory: Any = None

    @property
    def coefs_(self) -> list[Array]:
        """The weights of each layer, (inputs, outputs); the network's own arrays."""
        return [p.value for p in self.network_.parameters() if p.value.ndim == 2]

    @property
    def intercepts_(self) -> list[Array]:
        """The biases of each layer, (outputs,); the network's own arrays."""
        return [p.value for p in self.network_.parameters() if p.value.ndim == 1]

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train until the loss stands still or `max_iter` epochs are over.

        Training starts anew, or with `warm_start` at the weights of the fit before.

        Args:
            X: (examples, features): an array, memory map, data frame or sparse matrix.
            y: a target for each example.
            sample_weight: (examples,), how much each counts, >= 0: with weight 2 like two of its
                kind, with 0 not at all. None: all count alike.

        Raises:
            ValueError: data or parameters that make no sense; where scikit-learn's own checks find
                a value of a wrong type, TypeError.
            NonFiniteError: loss or weights turned NaN or infinite.
            BudgetError: no step keeps to `memory`.
        """
        fitted = self.warm_start and hasattr(self, "network_")
        x, examples = self._examples(X, y, sample_weight, fitted)
        self._begin(x, fitted)
        held_out = None
        if self.early_stopping:
            kept, other = self._split(examples)
            held_out = _Rows(x, other), examples[other]
            x, examples = _Rows(x, kept), examples[kept]
        stopping = _Stopping(self.tol, self.n_iter_no_change, held_out and self._measure(held_out))
        self._train(x, examples, self.max_iter, [stopping])
        if self.early_stopping:
            self.network_.load_state_dict(stopping.best)
            self.validation_loss_curve_ = stopping.losses
        if not stopping.stopped:
            warnings.warn(
                f"{type(self).__name__}: the loss was still falling after max_iter = "
                f"{self.max_iter} epochs; allow more of them, or a larger tol than {self.tol}",
                ConvergenceWarning,
                stacklevel=2,
            )
        return self

    def _partial_fit(self, X: Any, y: Any, sample_weight: Any, classes: Any) -> Self:
        if self.early_stopping:
            raise ConfigError(
                "partial_fit with early_stopping=True: it makes one epoch, and there is nothing to "
                "stop; set early_stopping=False"
            )
        fitted = hasattr(self, "network_")
        x, examples = self._examples(X, y, sample_weight, fitted, classes)
        if not fitted:
            self._begin(x, fitted)
        self._train(x, examples, 1, [])
        return self

    def _examples(
        self, X: Any, y: Any, sample_weight: Any, fitted: bool, classes: Any = None
    ) -> tuple[Any, Array]:
        """Return X as it is trained on, and a record of target and weight for each row."""
        self._check_parameters()
        x, y = validate_data(
            self, X, y, reset=not fitted, multi_output=True, y_numeric=self._y_numeric, **_INPUTS
        )
        targets = self._encoded(y, classes, fitted)
        weight = _weights(sample_weight, x) * self._class_weights(y)
        if fitted:
            self._check_network(x)
        # One array for both, since a batch for `train.fit` is a pair.
        kinds = [("target", targets.dtype, targets.shape[1:]), ("weight", x.dtype)]
        examples = np.empty(len(targets), np.dtype(kinds, align=True))
        examples["target"], examples["weight"] = targets, weight
        return x, examples

    def _begin(self, x: Any, fitted: bool) -> None:
        """Make the generator and the optimiser of a fit, and the network unless there is one."""
        seed = check_random_state(self.random_state).randint(np.iinfo(np.int32).max)
        self._rng = np.random.default_rng(seed)
        if not fitted:
            self.network_ = _network(self._widths(x), self.activation, self._rng, x.dtype)
            self.n_iter_ = 0
            self.loss_curve_: list[float] = []
        parameters, rate = self.network_.parameters(), self.learning_rate_init
        self._optimizer: optim.Optimizer
        if self.solver == "adam":
            self._optimizer = optim.Adam(parameters, rate)
        else:
            self._optimizer = optim.SGD(
                parameters, rate, momentum=self.momentum, nesterov=self.momentum > 0
            )

    def _train(self, x: Any, examples: Array, epochs: int, callbacks: list[train.Callback]) -> None:
        history = train.fit(
            self.network_,
            (x, examples),
            loss=self._objective(examples, self.alpha),
            optimizer=self._optimizer,
            epochs=epochs,
            batch_size=_AUTO_BATCH if self.batch_size == "auto" else self.batch_size,
            rng=self._rng,
            memory=self.memory,
            callbacks=callbacks,
            progress=bool(self.verbose),
        )
        self.loss_curve_ = self.loss_curve_ + history.train_loss.tolist()
        self.loss_ = self.loss_curve_[-1]
        self.n_iter_ = len(self.loss_curve_)

    def _objective(self, examples: Array, alpha: float) -> Callable[[Any, Array], Any]:
        """Return the loss of a batch of records.

            (Σᵢ wᵢ lossᵢ + alpha/2 Σ W²) / (B w̄)

        with the mean w̄ of all weights, not the batch's: a batch of heavy examples is to count for
        more than one of light ones.
        """
        mean = float(np.mean(examples["weight"], dtype=np.float64))
        if mean == 0:
            raise DataError("the weights of all examples are zero; expected some to learn from")
        matrices = [p for p in self.network_.parameters() if p.value.ndim == 2] if alpha else []

        def objective(outputs: Any, batch: Array) -> Any:
            scale = 1 / (len(batch) * mean)
            result = np.vdot(self._losses(outputs, batch["target"]), batch["weight"] * scale)
            for matrix in matrices:
                result = _penalised(result, matrix, alpha * scale)
            return result

        return objective

    def _split(self, examples: Array) -> tuple[Array, Array]:
        """Return the indices of examples to train on, and of those to be held out."""
        seed = int(self._rng.integers(np.iinfo(np.int32).max))
        kept, held_out = train_test_split(
            np.arange(len(examples)),
            test_size=self.validation_fraction,
            random_state=seed,
            stratify=self._strata(examples["target"]),
        )
        return kept, held_out

    def _measure(self, held_out: tuple[Any, Array]) -> Callable[[], float]:
        loss = self._objective(held_out[1], alpha=0.0)
        return lambda: (
            train.evaluate(self.network_, held_out, loss=loss, batch_size=_ROWS_AT_ONCE).loss
        )

    def _outputs(self, X: Any) -> Array:
        check_is_fitted(self)
        x = validate_data(self, X, reset=False, **_INPUTS)
        return train.predict(self.network_, x, batch_size=_ROWS_AT_ONCE)

    def _widths(self, x: Any) -> list[int]:
        return [x.shape[1], *_sizes(self.hidden_layer_sizes), self.n_outputs_]

    def _check_network(self, x: Any) -> None:
        widths = self._widths(x)
        if list(pairwise(widths)) != [weight.shape for weight in self.coefs_]:
            raise ConfigError(
                f"the network to go on with has other layers than {'-'.join(map(str, widths))}, "
                f"which hidden_layer_sizes = {self.hidden_layer_sizes!r} makes now; to start anew, "
                f"fit with warm_start=False"
            )

    def _check_parameters(self) -> None:
        _sizes(self.hidden_layer_sizes)
        for name, known in (("activation", _ACTIVATIONS), ("solver", ("adam", "sgd"))):
            if getattr(self, name) not in known:
                raise ConfigError(
                    f"{name} = {getattr(self, name)!r}; expected one of {', '.join(known)}"
                )
        whole, real = {"target_type": Integral, "min_val": 1}, {"target_type": Real, "min_val": 0}
        if self.batch_size != "auto":
            check_scalar(self.batch_size, "batch_size", **whole)
        for name in ("max_iter", "n_iter_no_change"):
            check_scalar(getattr(self, name), name, **whole)
        for name in ("alpha", "tol"):
            check_scalar(getattr(self, name), name, **real)
        check_scalar(
            self.learning_rate_init, "learning_rate_init", include_boundaries="neither", **real
        )
        check_scalar(self.momentum, "momentum", max_val=1, include_boundaries="left", **real)
        check_scalar(
            self.validation_fraction,
            "validation_fraction",
            max_val=1,
            include_boundaries="neither",
            **real,
        )

    # What a subclass says of its targets and outputs.

    _y_numeric = False

    def _class_weights(self, y: Array) -> Any:
        return 1

    def _encoded(self, y: Any, classes: Any, fitted: bool) -> Array:
        """Return y as the losses take it; set `n_outputs_` unless fitted, else hold y to it."""
        raise NotImplementedError

    def _losses(self, outputs: Any, targets: Array) -> Any:
        """Return the loss of each example."""
        raise NotImplementedError

    def _strata(self, targets: Array) -> Array | None:
        return None

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


@dataclass(eq=False, repr=False)
class MLPClassifier(ClassifierMixin, _Perceptron):
    """A multilayer perceptron that tells classes apart, with scikit-learn's interface.

    Its outputs are probabilities: by softmax where an example has one class, which is trained by
    cross-entropy; by a sigmoid each where y is a matrix of 0 and 1 and an example has any number of
    labels, which is trained by the sum of binary cross-entropies.

    X in float32 is computed with in float32, half the memory and twice the speed, and all else in
    float64, as is scikit-learn's custom. Rows of a memory map stay on disk, and those of a sparse
    matrix sparse, but for the batch in work.

    Args:
        hidden_layer_sizes: the width of each hidden layer; empty for a linear model.
        activation: after each hidden layer: "relu", "tanh", "logistic" or "identity".
        solver: "adam", or "sgd" with Nesterov's momentum.
        alpha: weight of the penalty alpha/2 Σ W², in a batch's sum of losses; biases are free.
        batch_size: examples a step; "auto" is 200. With fewer examples than that they are one batch.
        learning_rate_init: the learning rate, which stays what it is.
        momentum: of "sgd", in [0, 1); "adam" has no use for it.
        max_iter: the most epochs that a fit makes.
        tol: how far a loss has to fall below the best before to count as progress.
        n_iter_no_change: a fit is over when more epochs than this were without progress.
        early_stopping: hold out part of the examples, watch the loss of these in place of the
            training loss, and end with the weights of the best epoch.
        validation_fraction: which part to hold out, in (0, 1); of each class alike.
        random_state: for weights, shuffling and what is held out: a seed for the same bits in each
            fit, a `numpy.random.RandomState`, or None.
        warm_start: whether a fit goes on from the weights of the one before.
        verbose: whether to show a progress bar.
        memory: the bytes that a step may hold beyond the data, such as "64 MB", or which activations
            to keep; see `thriftgrad.train.fit`. Steps are then not compiled, and the result is the
            same up to rounding.
        class_weight: what the examples of a class count, times their own weights: a dict from
            classes (for label matrices, a list of one for each column), "balanced" for the inverse
            of how many there are, or None.

    Attributes:
        classes_: the classes, sorted; for label matrices the numbers of the columns.
        network_: the network, a `thriftgrad.nn.Sequential` that returns logits.
        coefs_, intercepts_: its weights and biases, layer by layer.
        loss_curve_: the training loss of each epoch, penalty included.
        validation_loss_curve_: of the held-out examples, with early stopping.
        loss_: the last training loss.
        n_iter_: how many epochs there were, those before a warm start and all of `partial_fit`
            included.
        n_features_in_, feature_names_in_, n_outputs_: as everywhere in scikit-learn.

    Example:
        >>> import numpy as np
        >>> from thriftgrad.sklearn import MLPClassifier
        >>> X, y = np.array([[0.0], [1.0], [2.0], [3.0]] * 50), np.array(list("abba") * 50)
        >>> model = MLPClassifier((20,), learning_rate_init=0.05, random_state=0).fit(X, y)
        >>> model.predict([[0.0], [1.5], [3.5]])
        array(['a', 'b', 'a'], dtype='<U1')
        >>> model.predict_proba([[1.5]]).shape
        (1, 2)
    """

    _: KW_ONLY
    class_weight: Any = None

    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> Self:
        """Go through these examples once, with what was learnt and the optimiser's state so far.

        Args:
            X: as in `fit`.
            y: as in `fit`.
            classes: all the classes there will ever be; needed in the first call only.
            sample_weight: as in `fit`; what counts is how it compares within this call.

        Raises:
            ValueError: as in `fit`; or the first call has no `classes`, `early_stopping` is set, or
                `class_weight` is "balanced", which takes all examples to compute.
        """
        if self.class_weight == "balanced":
            raise ConfigError(
                "partial_fit with class_weight='balanced': how many examples a class has is not "
                "known yet; give a dict from classes to weights"
            )
        if classes is None and not hasattr(self, "classes_"):
            raise ConfigError(
                "partial_fit without classes: the first call has to name all there will ever be"
            )
        return self._partial_fit(X, y, sample_weight, classes)

    def predict(self, X: Any) -> Array:
        """Return the most probable class of each row, or for label matrices a row of 0 and 1."""
        outputs = self._outputs(X)
        if self._by_column:
            return (outputs > 0).astype(np.int64)
        best: Array = self.classes_[np.argmax(outputs, axis=1)]
        return best

    def predict_proba(self, X: Any) -> Array:
        """Return the probability of each class, (examples, classes), in the order of `classes_`."""
        outputs = self._outputs(X)
        probabilities: Array = nn.sigmoid(outputs) if self._by_column else nn.softmax(outputs)
        return probabilities

    def _encoded(self, y: Any, classes: Any, fitted: bool) -> Array:
        check_classification_targets(y)
        by_column = type_of_target(y) == "multilabel-indicator"
        if not by_column and y.ndim == 2 and y.shape[1] > 1:
            raise DataError(
                f"y has shape {y.shape} with other numbers than 0 and 1; expected a class for each "
                f"example, or a matrix of 0 and 1 with a column for each label"
            )
        if not fitted:
            self._by_column = by_column
            self.classes_ = (
                np.arange(y.shape[1]) if by_column else np.unique(y if classes is None else classes)
            )
            self.n_outputs_ = len(self.classes_)
        elif by_column != self._by_column or (by_column and y.shape[1] != self.n_outputs_):
            raise DataError(f"y has shape {y.shape}, which is not what this was fitted to before")
        if by_column:
            dense: Array = y.toarray() if hasattr(y, "toarray") else y
            return dense.astype(np.int8)
        encoder = LabelEncoder()
        encoder.classes_ = self.classes_
        labels: Array = encoder.transform(column_or_1d(y, warn=True))
        return labels

    def _class_weights(self, y: Any) -> Any:
        return 1 if self.class_weight is None else compute_sample_weight(self.class_weight, y)

    def _losses(self, outputs: Any, targets: Array) -> Any:
        if self._by_column:
            return np.sum(np.logaddexp(0.0, outputs) - outputs * targets, axis=1)
        return nn.nll(outputs, targets)

    def _strata(self, targets: Array) -> Array | None:
        return None if self._by_column else targets

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags


class MLPRegressor(RegressorMixin, _Perceptron):
    """A multilayer perceptron that predicts numbers, with scikit-learn's interface.

    Trained by half the squared error, summed over the columns of y where that is a matrix. Targets
    are learnt as they are: ones far from 0, or of large scale, are learnt much faster within
    `sklearn.compose.TransformedTargetRegressor`.

    Args and attributes are those of `MLPClassifier`, without `class_weight` and `classes_`.

    Example:
        >>> import numpy as np
        >>> from thriftgrad.sklearn import MLPRegressor
        >>> X = np.linspace(-1, 1, 200)[:, np.newaxis]
        >>> model = MLPRegressor((30,), learning_rate_init=0.01, random_state=0).fit(X, abs(X[:, 0]))
        >>> bool(model.score(X, abs(X[:, 0])) > 0.95)
        True
    """

    _y_numeric = True

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Go through these examples once, with what was learnt and the optimiser's state so far.

        Args:
            X: as in `fit`.
            y: as in `fit`.
            sample_weight: as in `fit`; what counts is how it compares within this call.

        Raises:
            ValueError: as in `fit`, or `early_stopping` is set.
        """
        return self._partial_fit(X, y, sample_weight, None)

    def predict(self, X: Any) -> Array:
        """Return a number for each row, or for several targets a row of them."""
        outputs = self._outputs(X)
        return outputs[:, 0] if self._flat else outputs

    def _encoded(self, y: Array, classes: Any, fitted: bool) -> Array:
        columns = y[:, np.newaxis] if y.ndim == 1 else y
        if not fitted:
            self.n_outputs_ = columns.shape[1]
            self._flat = y.ndim == 1
        elif columns.shape[1] != self.n_outputs_:
            raise DataError(
                f"y has {columns.shape[1]} targets an example, and had {self.n_outputs_} before"
            )
        return columns

    def _losses(self, outputs: Any, targets: Array) -> Any:
        return 0.5 * np.sum(np.square(outputs - targets), axis=1)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


class _Stopping(train.Callback):
    """End the training when a loss stands still, and keep the weights of the best epoch.

    The loss is the training loss, or what `measure` returns; only with that are weights kept.
    """

    def __init__(self, tol: float, patience: int, measure: Callable[[], float] | None) -> None:
        self.tol, self.patience, self.measure = tol, patience, measure
        self.losses: list[float] = []
        self.lowest, self.waited, self.stopped = inf, 0, False
        self.best: dict[str, Array] = {}

    def on_epoch_end(self, state: train.State) -> None:
        """Compare the epoch's loss with the lowest before."""
        loss = self.measure() if self.measure else state.history.rows[-1].train_loss
        if not isfinite(loss):
            raise NonFiniteError(
                f"epoch {state.epoch}: the loss of the held-out examples is {loss}; try a lower "
                f"learning_rate_init, and scale the features"
            )
        self.losses.append(loss)
        self.waited = 0 if loss < self.lowest - self.tol else self.waited + 1
        if loss < self.lowest:
            self.lowest = loss
            if self.measure:
                self.best = state.model.state_dict()
        self.stopped = state.stop = self.waited > self.patience


class _Rows:
    """Some rows of x, in place of a copy of them: what a batch takes is looked up in x itself."""

    def __init__(self, x: Any, rows: NDArray[np.int64]) -> None:
        self.x, self.rows = x, rows
        self.dtype, self.shape = x.dtype, (len(rows), *x.shape[1:])

    def __getitem__(self, part: Any) -> Any:
        return self.x[self.rows[part]]


# One recorded call a matrix, and no array in the forward pass.
@primitive
def _penalised(loss: Any, weight: Any, factor: float) -> Any:
    """Return loss + factor/2 Σ W²."""
    return loss + 0.5 * factor * np.vdot(weight, weight)


defvjp(
    _penalised,
    loss=lambda g: g,
    weight=lambda g, weight, factor: weight * (g * factor),
)


def _network(
    widths: Sequence[int], activation: str, rng: np.random.Generator, dtype: Any
) -> nn.Sequential:
    layers: list[Callable[[Any], Any]] = []
    between = _ACTIVATIONS[activation]
    for inputs, outputs in pairwise(widths):
        layers.append(
            nn.Linear(inputs, outputs, bias_init=_biases(inputs, outputs), rng=rng, dtype=dtype)
        )
        if between is not None:
            layers.append(between)
    # The last output is a logit or a number, whose range is not to be limited.
    return nn.Sequential(*layers[: None if between is None else -1])


def _biases(inputs: int, outputs: int) -> nn.init.Init:
    """Return an initialiser of biases in the range of the weights.

    Biases of zero put all kinks of a layer at one point, at which features of a few dimensions
    leave them.
    """
    bound = sqrt(6 / (inputs + outputs))
    return lambda shape, rng, dtype: rng.uniform(-bound, bound, shape).astype(dtype)


def _sizes(given: Any) -> list[int]:
    sizes: list[Any] = [given] if isinstance(given, Integral) else list(given)
    for size in sizes:
        check_scalar(size, "hidden_layer_sizes", target_type=Integral, min_val=1)
    return sizes


def _weights(sample_weight: Any, x: Any) -> Array:
    """Return what each example counts by its own weight."""
    n = x.shape[0]
    if sample_weight is None:
        return np.ones(n, x.dtype)
    weight: Array = check_array(
        sample_weight, ensure_2d=False, dtype=x.dtype, input_name="sample_weight"
    )
    if weight.shape != (n,):
        raise DataError(f"sample_weight has shape {weight.shape}; expected ({n},)")
    if weight.min() < 0:
        raise DataError(f"sample_weight goes down to {weight.min():.4g}; expected none below 0")
    return weight
