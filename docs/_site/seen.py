"""The pictures on the page of pictures, and a run's report: of a small training, made with the site."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

NAMES = ("live.png", "curves.svg", "confusion.svg", "worst.svg", "weights.svg", "norms.svg")
NAMES += ("memory.svg", "block.svg", "report.html")


def on_files(files: Any, config: Any) -> Any:
    """Add them."""
    from mkdocs.structure.files import File

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        draw(folder)
        for made in NAMES:
            content = (folder / made).read_bytes()
            files.append(File.generated(config, f"seen/{made}", content=content))
    return files


def draw(folder: Path) -> None:
    """Train, and write a file for each name."""
    import numpy as np

    import thriftgrad as tg
    from thriftgrad import plots

    train, test = tg.data.mnist()
    rng = np.random.default_rng(0)
    model = tg.nn.Sequential(
        *(tg.nn.Linear(784, 64, rng=rng), tg.nn.relu, tg.nn.Linear(64, 10, rng=rng))
    )
    norms = tg.train.Norms((test.x[:256], test.y[:256]), tg.nn.cross_entropy)
    live = tg.train.Live((test.x[8:16], test.y[8:16]), path=folder / "live.png")
    history = tg.train.fit(
        model,
        (train.x[:10_000], train.y[:10_000]),
        loss=tg.nn.cross_entropy,
        optimizer=tg.optim.Adam(model.parameters(), lr=1e-3),
        epochs=8,
        batch_size=50,
        validation=test,
        callbacks=[live, norms],
        rng=0,
    )
    outputs = tg.train.predict(model, test.x)
    plots.curves(history, path=folder / "curves.svg")
    plots.confusion(test.y, np.argmax(outputs, axis=1), path=folder / "confusion.svg")
    plots.worst(test.x, test.y, outputs, most=16, path=folder / "worst.svg")
    plots.weights(model[0].weight.value, path=folder / "weights.svg")
    norms.draw(folder / "norms.svg")

    deep = [layer for i in range(12) for layer in (tg.nn.Linear(256, 256, rng=i), np.tanh)]
    x = rng.normal(size=(2048, 256)).astype(np.float32)
    tg.memory.plan(deep, x, budget="24 MB").draw(folder / "memory.svg")
    compiled_step().memory.draw(folder / "block.svg")

    for command in (
        ["train", "--hidden", "64", "--epochs", "3", "--memory", "4MB", "--out", "small"],
        ["report", "small", "--out", "report.html"],
    ):
        subprocess.run(
            [sys.executable, "-m", "thriftgrad", *command],
            cwd=folder,
            check=True,
            capture_output=True,
        )


def compiled_step() -> Any:
    """Return a step of a network 784-512-512-10, compiled and run once."""
    import numpy as np

    import thriftgrad as tg

    sizes = ((784, 512), (512, 512), (512, 10))
    layers = [
        part for i, shape in enumerate(sizes) for part in (tg.nn.Linear(*shape, rng=i), tg.nn.relu)
    ]
    model = tg.nn.Sequential(*layers[:-1])
    optimizer = tg.optim.Adam(model.parameters(), lr=1e-3)

    @tg.compile
    def step(x: Any, y: Any) -> Any:
        loss = tg.nn.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss

    step(np.zeros((128, 784), np.float32), np.zeros(128, np.int64))
    return step
