"""What `train.Live` costs: the part of a training's time that its updates take.

    python benchmarks/live.py [SECONDS]

trains a network of 784-500-150-10 on MNIST for about so many seconds, 60 unless told, without the
callback and with it, at one update a second. Printed are the time of the updates over the time of the
training, which is what the callback holds to 2 %, and the ratio of the times of an epoch of the two
trainings, which other work on the machine moves by more than that.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import thriftgrad as tg
from thriftgrad.train import Live


def fit(epochs, callbacks):
    train, test = tg.data.mnist()
    rng = np.random.default_rng(0)
    layers = [tg.nn.Linear(784, 500, rng=rng), tg.nn.relu, tg.nn.Linear(500, 150, rng=rng)]
    model = tg.nn.Sequential(*layers, tg.nn.relu, tg.nn.Linear(150, 10, rng=rng))
    return tg.train.fit(
        model,
        train,
        loss=tg.nn.cross_entropy,
        optimizer=tg.optim.Adam(model.parameters(), lr=1e-3),
        epochs=epochs,
        batch_size=100,
        validation=test,
        callbacks=callbacks,
    )


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 60.0
    first = fit(1, [])
    epochs = max(2, round(seconds / first.seconds[0]))
    without = fit(epochs, [])
    test = tg.data.mnist().test
    with tempfile.TemporaryDirectory() as folder:
        live = Live((test.x[:8], test.y[:8]), path=Path(folder) / "live.png")
        started = time.perf_counter()
        watched = fit(epochs, [live])
        whole = time.perf_counter() - started
    training = float(np.sum(watched.seconds))
    n = live.updates
    print(f"{epochs} epochs in {training:.1f} s, {n} updates: {n / training:.2f} a second")
    print(f"an update     {1e3 * live.seconds / n:.1f} ms on average")
    print(f"all updates   {100 * live.seconds / training:.2f} % of the training")
    print(f"and the rest  {whole - training:.2f} s before and after, loading MNIST included")
    ratio = statistics.median(watched.seconds) / statistics.median(without.seconds)
    print(f"an epoch with {ratio:.3f} times an epoch without (medians)")


if __name__ == "__main__":
    main()
