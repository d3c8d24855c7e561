"""The estimators: scikit-learn's contract, whole, and scikit-learn's own networks as the oracle."""

import pickle
import subprocess
import sys
import tracemalloc

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from sklearn import neural_network
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from thriftgrad.errors import DataError, NonFiniteError
from thriftgrad.sklearn import MLPClassifier, MLPRegressor

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@parametrize_with_checks([MLPClassifier(), MLPRegressor()])
def test_every_check_of_scikit_learn(estimator, check):
    check(estimator)


RNG = np.random.default_rng(0)
X = RNG.normal(size=(120, 5))
LABELS = np.argmax(X[:, :3] + 0.3 * RNG.normal(size=(120, 3)), axis=1)
NAMES = np.array(["ash", "birch", "cedar"])[LABELS]
COLUMNS = (X[:, :3] > 0.5).astype(int)
WEIGHT = RNG.integers(0, 4, 120)

QUICK = {"hidden_layer_sizes": (8, 6), "max_iter": 3, "batch_size": 16, "random_state": 0}


def weights(model):
    return b"".join(array.tobytes() for array in [*model.coefs_, *model.intercepts_])


def assert_equal_up_to_rounding(one, other):
    """Compare a compiled training with one that is not."""
    for a, b in zip(one.coefs_ + one.intercepts_, other.coefs_ + other.intercepts_, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


# What is computed


@pytest.mark.parametrize("activation", ["relu", "tanh", "logistic", "identity"])
@pytest.mark.parametrize("weight", [None, WEIGHT])
@pytest.mark.parametrize(
    ("kind", "y"),
    [
        ("MLPClassifier", NAMES),
        ("MLPClassifier", COLUMNS),
        ("MLPRegressor", X[:, 0] ** 2),
        ("MLPRegressor", X[:, :2] ** 2),
    ],
)
def test_loss_and_step_are_scikit_learns(kind, y, weight, activation):
    # Both from the weights that scikit-learn drew, one step of gradient descent on all examples.
    options = {
        "hidden_layer_sizes": (8, 6),
        "activation": activation,
        "solver": "sgd",
        "momentum": 0.0,
        "alpha": 0.5,
        "batch_size": 120,
        "learning_rate_init": 0.1,
        "random_state": 0,
    }
    classes = {"classes": np.unique(y)} if kind == "MLPClassifier" and y.ndim == 1 else {}
    if kind == "MLPClassifier" and y.ndim == 2:
        classes = {"classes": np.arange(3)}
    theirs = getattr(neural_network, kind)(nesterovs_momentum=False, **options)
    theirs.partial_fit(X, y, **classes)
    ours = globals()[kind](**options).partial_fit(X, y, **classes)
    state = {}
    for layer, (w, b) in zip(
        (0, 2, 4) if activation != "identity" else (0, 1, 2),
        zip(theirs.coefs_, theirs.intercepts_, strict=True),
        strict=True,
    ):
        state |= {f"{layer}.weight": w, f"{layer}.bias": b}
    ours.network_.load_state_dict(state)
    if kind == "MLPRegressor":
        np.testing.assert_allclose(ours.predict(X), theirs.predict(X), rtol=1e-10)
    else:
        np.testing.assert_array_equal(ours.predict(X), theirs.predict(X))

    for model in (theirs, ours):
        model.partial_fit(X, y, sample_weight=weight)
    # For several targets, scikit-learn reports their mean, and descends along their sum.
    if kind == "MLPClassifier" or y.ndim == 1:
        assert ours.loss_ == pytest.approx(theirs.loss_, rel=1e-12)
    for mine, other in zip(
        [*ours.coefs_, *ours.intercepts_], [*theirs.coefs_, *theirs.intercepts_], strict=True
    ):
        np.testing.assert_allclose(mine, other, rtol=1e-10, atol=1e-13)
    if kind == "MLPClassifier":
        np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), rtol=1e-10)


def test_a_weight_counts_in_small_batches_too():
    # A heavy example is to pull as hard wherever the others of its batch come from.
    y = X[:, 0]
    heavy = np.where(np.arange(120) < 60, 3.0, 1.0)
    options = {"solver": "sgd", "momentum": 0.0, "learning_rate_init": 1e-6, "alpha": 0.0}
    steps = [
        MLPRegressor((), max_iter=1, batch_size=size, random_state=0, **options).fit(X, y, heavy)
        for size in (1, 120)
    ]
    start = MLPRegressor((), max_iter=1, random_state=0, **{**options, "learning_rate_init": 1e-30})
    start = start.fit(X, y).coefs_[0]
    small, whole = (model.coefs_[0] - start for model in steps)
    # 120 steps of one example each, at so low a rate that the weights do not move in between.
    np.testing.assert_allclose(small / 120, whole, rtol=1e-3)


def test_class_weights_are_weights_of_examples():
    counts = np.bincount(LABELS)
    options = {**QUICK, "alpha": 0.0}
    balanced = (120 / (3 * counts))[LABELS]
    given = dict(zip(["ash", "birch", "cedar"], 120 / (3 * counts), strict=True))
    models = [
        MLPClassifier(**options, class_weight="balanced").fit(X, NAMES),
        MLPClassifier(**options, class_weight=given).fit(X, NAMES),
        MLPClassifier(**options).fit(X, NAMES, sample_weight=balanced),
        MLPClassifier(**options, class_weight="balanced").fit(X, NAMES, np.full(120, 0.5)),
    ]
    for model in models[1:]:
        np.testing.assert_allclose(model.predict_proba(X), models[0].predict_proba(X), rtol=1e-9)


def test_partial_fits_are_the_epochs_of_a_fit():
    whole = MLPClassifier(**QUICK).fit(X, NAMES)
    part = MLPClassifier(**QUICK)
    for _ in range(3):
        part.partial_fit(X, NAMES, classes=np.unique(NAMES))
        part = pickle.loads(pickle.dumps(part))
    assert_equal_up_to_rounding(part, whole)  # few steps are not compiled
    np.testing.assert_allclose(part.loss_curve_, whole.loss_curve_, rtol=1e-12)
    assert part.n_iter_ == whole.n_iter_ == 3


def test_a_seed_gives_the_same_bits_and_none_does_not():
    assert weights(MLPClassifier(**QUICK).fit(X, NAMES)) == weights(
        clone(MLPClassifier(**QUICK)).fit(X, NAMES)
    )
    free = {**QUICK, "random_state": None}
    assert weights(MLPClassifier(**free).fit(X, NAMES)) != weights(
        MLPClassifier(**free).fit(X, NAMES)
    )


def test_warm_start_goes_on():
    model = MLPClassifier(**QUICK, warm_start=True).fit(X, NAMES)
    first = list(model.loss_curve_)
    model.fit(X, NAMES)
    assert model.n_iter_ == 6
    assert model.loss_curve_[:3] == first
    assert model.loss_curve_[3] < first[0]


def test_early_stopping_ends_with_the_best_weights():
    y = RNG.integers(0, 2, 120)  # noise: the better the training, the worse what is held out
    options = {**QUICK, "batch_size": 32, "learning_rate_init": 0.03, "max_iter": 200}
    model = MLPClassifier(**options, early_stopping=True, n_iter_no_change=5, tol=0.0)
    model.fit(X, y)
    losses = model.validation_loss_curve_
    best = int(np.argmin(losses))
    assert len(losses) == model.n_iter_ == best + 1 + 6
    short = clone(model).set_params(max_iter=best + 1).fit(X, y)
    assert_equal_up_to_rounding(short, model)  # few steps are not compiled


def test_stands_still_before_max_iter_without_a_warning(recwarn):
    model = MLPRegressor((), learning_rate_init=0.03, max_iter=400, random_state=0)
    model.fit(X, X[:, 0])
    assert model.n_iter_ < 400
    assert not recwarn.list
    assert model.score(X, X[:, 0]) > 0.99


@pytest.mark.filterwarnings("default")
def test_not_done_at_max_iter_is_said():
    with pytest.warns(ConvergenceWarning, match="max_iter = 3 epochs"):
        MLPClassifier(**QUICK).fit(X, NAMES)


# What data may be


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("make", [scipy.sparse.csr_array, scipy.sparse.coo_matrix])
def test_sparse_is_dense_to_the_bit(make, early):
    x = np.where(X > 0.5, X, 0.0)
    dense = MLPClassifier(**QUICK, early_stopping=early).fit(x, NAMES)
    sparse = MLPClassifier(**QUICK, early_stopping=early).fit(make(x), NAMES)
    assert weights(sparse) == weights(dense)
    np.testing.assert_array_equal(sparse.predict_proba(make(x)), dense.predict_proba(x))


def test_a_frame_gives_its_names_and_a_matrix_of_labels_may_be_sparse():
    frame = pd.DataFrame(X, columns=list("abcde"))
    model = MLPClassifier(**QUICK).fit(frame, pd.Series(NAMES))
    assert model.feature_names_in_.tolist() == list("abcde")
    assert weights(model) == weights(MLPClassifier(**QUICK).fit(X.tolist(), NAMES.tolist()))
    with pytest.raises(ValueError, match="feature names should match"):
        model.predict(frame.rename(columns={"a": "z"}))
    assert weights(MLPClassifier(**QUICK).fit(X, scipy.sparse.csr_array(COLUMNS))) == weights(
        MLPClassifier(**QUICK).fit(X, COLUMNS)
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_precision_is_that_of_the_features(dtype):
    regressor = MLPRegressor(**QUICK).fit(X.astype(dtype), X[:, 0])
    classifier = MLPClassifier(**QUICK).fit(X.astype(dtype), NAMES, WEIGHT)
    for model in (regressor, classifier):
        assert {array.dtype for array in model.coefs_} == {np.dtype(dtype)}
    assert regressor.predict(X.astype(dtype)).dtype == dtype
    assert classifier.predict_proba(X.astype(dtype)).dtype == dtype
    assert MLPRegressor(**QUICK).fit(X.astype(np.int8), X[:, 0]).coefs_[0].dtype == np.float64


@pytest.mark.parametrize("early", [False, True])
def test_features_on_disk_stay_there(tmp_path, early):
    shape = (20_000, 100)
    x = np.memmap(tmp_path / "x", np.float32, "w+", shape=shape)
    x[::2, 0] = 1
    x = np.memmap(tmp_path / "x", np.float32, "r", shape=shape)
    y = np.arange(20_000) % 2
    model = MLPClassifier(
        (4,), max_iter=1, early_stopping=early, learning_rate_init=0.01, random_state=0
    )
    tracemalloc.start()
    try:
        assert model.fit(x, y).score(x, y) > 0.99
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < x.nbytes / 2  # targets, weights and shuffled indices, but not x


def test_pipelines_and_grid_searches():
    grid = GridSearchCV(
        make_pipeline(StandardScaler(), MLPClassifier(**{**QUICK, "max_iter": 10})),
        {"mlpclassifier__learning_rate_init": [1e-6, 3e-2]},
        cv=2,
    )
    grid.fit(X, NAMES)
    assert grid.best_params_ == {"mlpclassifier__learning_rate_init": 3e-2}
    texts = ["good film", "bad film", "good book", "bad book"] * 10
    words = make_pipeline(
        CountVectorizer(), MLPClassifier((4,), learning_rate_init=0.05, random_state=0)
    )
    assert words.fit(texts, texts).score(texts, texts) == 1


@pytest.mark.parametrize("memory", ["none", "sqrt", "1 MB"])
def test_a_budget_changes_nothing(memory):
    for model, y in ((MLPClassifier(**QUICK), NAMES), (MLPRegressor(**QUICK), X[:, 0])):
        thrifty = clone(model).set_params(memory=memory)
        assert_equal_up_to_rounding(thrifty.fit(X, y, WEIGHT), model.fit(X, y, WEIGHT))


def test_the_steps_of_a_fit_are_compiled(caplog):
    with caplog.at_level("INFO", "thriftgrad.train"):
        longer = {**QUICK, "max_iter": 13}  # of 8 steps
        for model, y in ((MLPClassifier(**longer), NAMES), (MLPClassifier(**longer), COLUMNS)):
            model.fit(X, y, WEIGHT)
        MLPRegressor(**{**longer, "solver": "sgd"}).fit(scipy.sparse.csr_array(X), X)
        MLPRegressor(**QUICK).partial_fit(X, X[:, 0])
        MLPRegressor(**{**QUICK, "batch_size": 1}).partial_fit(
            np.repeat(X, 3, axis=0), [0.0] * 3 * len(X)
        )
    told = [record.message for record in caplog.records]
    assert told == [
        *["the training step is compiled"] * 3,
        "the training step is eager, as 8 steps are too few to be worth a recording",
        "the training step is compiled",
    ]


def test_fits_in_threads_are_those_in_turn():
    from concurrent.futures import ThreadPoolExecutor

    models = [MLPClassifier(**{**QUICK, "random_state": seed}) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        beside = list(pool.map(lambda m: weights(clone(m).fit(X, NAMES)), models))
    assert beside == [weights(m.fit(X, NAMES)) for m in models]


# What is refused


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"activation": "swish"}, "activation = 'swish'; expected one of relu, tanh, "),
        ({"solver": "lbfgs"}, "solver = 'lbfgs'; expected one of adam, sgd"),
        ({"hidden_layer_sizes": (8, 0)}, "hidden_layer_sizes == 0, must be >= 1"),
        ({"batch_size": 0}, "batch_size == 0"),
        ({"max_iter": 0}, "max_iter == 0"),
        ({"n_iter_no_change": 0}, "n_iter_no_change == 0"),
        ({"alpha": -1.0}, "alpha == -1.0"),
        ({"tol": -1.0}, "tol == -1.0"),
        ({"learning_rate_init": 0.0}, "learning_rate_init == 0.0"),
        ({"momentum": 1.0}, "momentum == 1.0"),
        ({"validation_fraction": 1.0}, "validation_fraction == 1.0"),
        ({"random_state": "x"}, "cannot be used to seed"),
    ],
)
def test_parameters_that_make_no_sense(change, said):
    with pytest.raises(ValueError, match=said):
        MLPClassifier(**{**QUICK, **change}).fit(X, NAMES)


def test_data_that_make_no_sense():
    with pytest.raises(DataError, match=r"y has shape \(120, 5\) with other numbers than 0 and 1"):
        MLPClassifier(**QUICK).fit(X, np.round(X).astype(int))
    with pytest.raises(ValueError, match="Unknown label type: continuous"):
        MLPClassifier(**QUICK).fit(X, X[:, 0])
    with pytest.raises(DataError, match=r"sample_weight has shape \(119,\); expected \(120,\)"):
        MLPRegressor(**QUICK).fit(X, X[:, 0], np.ones(119))
    with pytest.raises(DataError, match="sample_weight goes down to -1"):
        MLPRegressor(**QUICK).fit(X, X[:, 0], -np.ones(120))
    with pytest.raises(NonFiniteError, match="learning rate than 1e"):
        MLPRegressor(**QUICK, solver="sgd", learning_rate_init=1e200).fit(X, X[:, 0])


def test_what_going_on_cannot_change():
    model = MLPClassifier(**QUICK).partial_fit(X, NAMES, classes=[*np.unique(NAMES), "oak"])
    assert model.predict_proba(X).shape == (120, 4)
    with pytest.raises(ValueError, match=r"previously unseen labels: .*elm"):
        model.partial_fit(X[:2], ["ash", "elm"])
    with pytest.raises(DataError, match=r"y has shape \(120, 3\), which is not what"):
        model.partial_fit(X, COLUMNS)
    with pytest.raises(ValueError, match="has other layers than 5-3-4"):
        model.set_params(hidden_layer_sizes=3).partial_fit(X, NAMES)
    regressor = MLPRegressor(**QUICK, warm_start=True).fit(X, X[:, :2])
    with pytest.raises(DataError, match="y has 1 targets an example, and had 2 before"):
        regressor.fit(X, X[:, 0])


def test_what_partial_fit_cannot_do():
    with pytest.raises(ValueError, match="partial_fit without classes"):
        MLPClassifier(**QUICK).partial_fit(X, NAMES)
    with pytest.raises(ValueError, match="class_weight='balanced'"):
        MLPClassifier(class_weight="balanced").partial_fit(X, NAMES, classes=NAMES)
    with pytest.raises(ValueError, match="early_stopping=True"):
        MLPRegressor(early_stopping=True).partial_fit(X, X[:, 0])


def test_without_scikit_learn_the_error_says_what_to_install():
    code = (
        "import sys; sys.modules['sklearn'] = None\n"
        "try: import thriftgrad.sklearn\n"
        "except ImportError as error: print(type(error).__name__, error)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.startswith("MissingExtraError thriftgrad.sklearn needs scikit-learn")
