"""thriftgrad's estimators beside scikit-learn's own: what they reach, and in what time.

The first table trains both, with the same parameters and from several seeds, on two sets to classify
and two to regress; scores are of data that training has not seen, as mean ± standard deviation over
the seeds. The second times the training of a 784-512-512-10 network in batches of 128, epoch for epoch,
in turns, each at its better of one and two threads. The exit status is 1 if scores differ by more than
their noise, or if the second ratio is below 3.

    OPENBLAS_NUM_THREADS=2 python benchmarks/estimators.py
"""

import statistics
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn import datasets, neural_network
from sklearn.compose import TransformedTargetRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

import thriftgrad as tg
import thriftgrad.sklearn as ours

SEEDS = range(5)
ROUNDS = 5
BAR = 3.0
Data = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def main() -> int:
    """Run both comparisons and print their tables."""
    warnings.simplefilter("ignore", ConvergenceWarning)
    print(
        "| data | network | score | thriftgrad | scikit-learn | time, scikit-learn / thriftgrad |"
    )
    print("|---|---|---|---|---|---|")
    alike = min([compare(*row) for row in rows()])

    print(f"\n784-512-512-10 ReLU, Adam, batch 128, 6,400 images; ms a step, median of {ROUNDS}\n")
    print("| X | thriftgrad, 1 thread | 2 threads | scikit-learn, 1 thread | 2 threads | ratio |")
    print("|---|---|---|---|---|---|")
    ratios = [race(dtype) for dtype in (np.float32, np.float64)]
    return 0 if alike and min(ratios) >= BAR else 1


def rows() -> list[tuple[str, str, str, dict[str, Any], Data, Callable[..., Any]]]:
    """Return data set, kind of estimator, score, parameters, data and what is around it."""
    small = {"hidden_layer_sizes": (100,)}
    x, y = datasets.load_digits(return_X_y=True)
    digits = split((x / 16).astype(np.float32), y)
    (x, y), (x_test, y_test) = tg.data.mnist()
    mnist = x, x_test, y, y_test
    regression = {**small, "max_iter": 500, "learning_rate_init": 0.01, "alpha": 1.0}
    diabetes = split(*datasets.load_diabetes(return_X_y=True))
    friedman = split(*datasets.make_friedman1(2000, noise=1.0, random_state=0))
    classifier, regressor = "MLPClassifier", "MLPRegressor"
    return [
        ("digits", classifier, "accuracy", small, digits, lambda model: model),
        ("MNIST", classifier, "accuracy", {**small, "max_iter": 10}, mnist, lambda model: model),
        ("diabetes", regressor, "R²", {**regression, "max_iter": 30}, diabetes, scaled),
        ("Friedman 1", regressor, "R²", regression, friedman, scaled),
    ]


def split(x: np.ndarray, y: np.ndarray) -> Data:
    """Return training and test features, training and test targets."""
    return tuple(train_test_split(x, y, test_size=0.3, random_state=0))


def scaled(model: Any) -> Any:
    """Return the regressor with features and targets standardised."""
    return TransformedTargetRegressor(
        make_pipeline(StandardScaler(), model), transformer=StandardScaler()
    )


def compare(
    name: str,
    kind: str,
    score: str,
    parameters: dict[str, Any],
    data: Data,
    around: Callable[..., Any],
) -> bool:
    """Print a row of the first table; return whether scores differ by no more than noise."""
    x, x_test, y, y_test = data
    scores: dict[Any, list[float]] = {ours: [], neural_network: []}
    seconds: dict[Any, list[float]] = {ours: [], neural_network: []}
    with threadpool_limits(1):
        for seed in SEEDS:
            for library in scores:
                model = around(getattr(library, kind)(random_state=seed, **parameters))
                start = time.perf_counter()
                model.fit(x, y)
                seconds[library].append(time.perf_counter() - start)
                scores[library].append(model.score(x_test, y_test))
    means = [statistics.mean(values) for values in scores.values()]
    spreads = [statistics.stdev(values) for values in scores.values()]
    # Three standard errors of the difference of two means.
    noise = 3 * (sum(spread**2 for spread in spreads) / len(SEEDS)) ** 0.5
    good = abs(means[0] - means[1]) <= noise
    mark = "" if good else f" **differ by more than {noise:.4f}**"
    ratio = statistics.median(seconds[neural_network]) / statistics.median(seconds[ours])
    sizes = [x.shape[1], *parameters["hidden_layer_sizes"], 10 if kind == "MLPClassifier" else 1]
    cells = [f"{mean:.4f} ± {spread:.4f}" for mean, spread in zip(means, spreads, strict=True)]
    print(
        f"| {name} | {'-'.join(map(str, sizes))} | {score} | {cells[0]} | {cells[1]}{mark} | "
        f"{ratio:.2f} |",
        flush=True,
    )
    return good


def race(dtype: Any) -> float:
    """Print a row of the second table; return how many times faster thriftgrad is."""
    (x, y), _ = tg.data.mnist(dtype=dtype)
    x, y = x[:6_400], y[:6_400]
    options = {"batch_size": 128, "max_iter": 2, "tol": 0.0, "n_iter_no_change": 10**6}
    times: dict[tuple[Any, int], list[float]] = {}
    for _ in range(ROUNDS):
        for library in (ours, neural_network):
            for threads in (1, 2):
                model = library.MLPClassifier((512, 512), random_state=0, **options)
                with threadpool_limits(threads):
                    start = time.perf_counter()
                    model.fit(x, y)
                    seconds = time.perf_counter() - start
                times.setdefault((library, threads), []).append(seconds / 100 * 1e3)
    medians = {key: statistics.median(values) for key, values in times.items()}
    best = {lib: min(medians[lib, 1], medians[lib, 2]) for lib in (ours, neural_network)}
    ratio = best[neural_network] / best[ours]
    mark = "" if ratio >= BAR else f" **below {BAR:g}**"
    cells = " | ".join(f"{value:.2f}" for value in medians.values())
    print(f"| {np.dtype(dtype)} | {cells} | {ratio:.2f}{mark} |", flush=True)
    return ratio


if __name__ == "__main__":
    sys.exit(main())
