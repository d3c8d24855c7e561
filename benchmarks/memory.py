"""What memory costs in time: thriftgrad's schedules beside PyTorch's and autograd's checkpoints.

    OPENBLAS_NUM_THREADS=1 python benchmarks/memory.py             # all tables, some minutes
    OPENBLAS_NUM_THREADS=1 python benchmarks/memory.py exactness   # predicted against measured peaks

Tables, each made in one run:

1. `mnist`: 784-100-30-10 on MNIST, every second layer's output kept, against plain backpropagation: the
   time of an epoch, and the accuracy.
2. `deep`: networks of tanh layers, 256 units, batch 128. The peak of a step beyond what is held before it
   (weights and batch), and its time by that of the same library's plain step. Each contender runs in
   processes of its own: one is timed; in the other, large blocks go back to the system at once, so that
   resident memory tells what is in use. They take turns, and the figures are medians. Each updates weights
   during its backward pass, where it can, so that gradients do not pile up.
3. `tiny`: one step of a network of 10,000 layers, by a budget of a hundredth of its activations.
4. `limited`: a process under RLIMIT_DATA, with which the plain step dies of a MemoryError.
5. `exactness`: 200 random models by 10 budgets: tracemalloc's peak against the plan's. An hour or so.
"""

import argparse
import ctypes
import gc
import json
import os
import statistics
import subprocess
import sys
import time
from importlib.util import find_spec
from itertools import pairwise
from typing import Any

import numpy as np

WIDTH, BATCH = 256, 128
ROUNDS = 3


def resident() -> dict[str, int]:
    """Return this process's resident memory, now and at its highest, in bytes."""
    with open("/proc/self/status") as status:
        lines = dict(line.split(":", 1) for line in status if line.startswith("Vm"))
    return {name: 1024 * int(lines[name].split()[0]) for name in ("VmRSS", "VmHWM", "VmData")}


def observed(step: Any, repeats: int) -> dict[str, float]:
    """Return the median time of a step, or with no repeats its peak beyond what was resident before."""
    step()  # imports, caches, the library's own warming up
    if repeats:
        times = []
        for _ in range(repeats):
            started = time.perf_counter()
            step()
            times.append(time.perf_counter() - started)
        return {"seconds": statistics.median(times)}
    gc.collect()
    ctypes.CDLL(None).malloc_trim(
        0
    )  # what is free but still resident would hide what the step takes
    before = resident()["VmRSS"]
    with open("/proc/self/clear_refs", "w") as refs:
        refs.write("5")  # forget the highest mark so far
    step()
    return {"peak": resident()["VmHWM"] - before}


# The contenders of table 2: each returns the figures of one way to train one network.


def thriftgrad_step(layers: int, how: str, repeats: int) -> dict[str, float]:
    import thriftgrad as tg
    from thriftgrad.memory.chain import stages_of
    from thriftgrad.memory.execute import executor

    model, x, y = network(layers)
    optimizer = tg.optim.SGD(model.parameters(), 0.01)
    if how == "plain":

        def step() -> None:
            tg.nn.mse(model(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()

        return observed(step, repeats)

    budget: Any = how
    settings: dict[str, Any] = {
        "loss": tg.nn.mse,
        "optimizer": optimizer,
        "update": "during backward",
    }
    if how.endswith("%"):
        everything = tg.memory.plan(model, x, y, budget="all", **settings)
        held = sum(everything.chain.fixed.values())
        budget = held + int((everything.peak_bytes - held) * float(how[:-1]) / 100)
    planned = time.perf_counter()
    plan = tg.memory.plan(model, x, y, budget=budget, **settings)
    planned = time.perf_counter() - planned
    run = executor(plan.schedule, stages_of(model), apply=optimizer.apply)

    def step() -> None:
        run(x, lambda outputs: tg.nn.mse(outputs, y))
        optimizer.zero_grad()
        optimizer.end_step()

    found = observed(step, repeats)
    predicted = plan.peak_bytes - sum(plan.chain.fixed.values())
    return {**found, "predicted": predicted, "predicted_seconds": plan.seconds, "planning": planned}


def torch_step(layers: int, how: str, repeats: int) -> dict[str, float]:
    import torch
    from torch.utils.checkpoint import checkpoint_sequential

    torch.set_num_threads(1)
    modules: list[Any] = []
    for _ in range(layers):
        modules += [torch.nn.Linear(WIDTH, WIDTH), torch.nn.Tanh()]
        # As thriftgrad's; by PyTorch's own, a signal dies out over 400 layers, and tiny numbers are slow.
        torch.nn.init.xavier_uniform_(modules[-2].weight)
        torch.nn.init.zeros_(modules[-2].bias)
    model = torch.nn.Sequential(*modules)
    x, y = torch.randn(BATCH, WIDTH), torch.zeros(BATCH, WIDTH)
    for parameter in model.parameters():
        optimizer = torch.optim.SGD([parameter], lr=0.01)

        def update(parameter: Any, optimizer: Any = optimizer) -> None:
            optimizer.step()
            optimizer.zero_grad()

        parameter.register_post_accumulate_grad_hook(update)
    segments = round(layers**0.5)

    def step() -> None:
        if how == "plain":
            outputs = model(x)
        else:
            outputs = checkpoint_sequential(model, segments, x, use_reentrant=False)
        torch.nn.functional.mse_loss(outputs, y).backward()

    return observed(step, repeats)


def autograd_step(layers: int, how: str, repeats: int) -> dict[str, float]:
    import autograd.numpy as anp
    from autograd import checkpoint, grad

    rng = np.random.default_rng(0)
    scale = WIDTH**-0.5  # as thriftgrad's
    weights = [
        rng.standard_normal((WIDTH, WIDTH), np.float32) * np.float32(scale) for _ in range(layers)
    ]
    biases = [np.zeros(WIDTH, np.float32) for _ in range(layers)]
    x = rng.standard_normal((BATCH, WIDTH), np.float32)
    size = max(1, round(layers**0.5))

    def part(x: Any, weights: Any, biases: Any) -> Any:
        for w, b in zip(weights, biases, strict=True):
            x = anp.tanh(anp.dot(x, w) + b)
        return x

    def loss(parameters: Any) -> Any:
        weights, biases = parameters
        outputs = x
        for start in range(0, layers, size):
            run = part if how == "plain" else checkpoint(part)
            outputs = run(outputs, weights[start : start + size], biases[start : start + size])
        return anp.mean(outputs**2)

    gradient = grad(loss)

    def step() -> None:
        by_weights, by_biases = gradient((weights, biases))
        for value, g in zip([*weights, *biases], [*by_weights, *by_biases], strict=True):
            value -= np.float32(0.01) * g

    return observed(step, repeats)


CONTENDERS = {"thriftgrad": thriftgrad_step, "torch": torch_step, "autograd": autograd_step}


def network(layers: int) -> tuple[Any, Any, Any]:
    """Return thriftgrad's network of so many tanh layers, and a batch."""
    import thriftgrad as tg

    rng = np.random.default_rng(0)
    parts: list[Any] = []
    for _ in range(layers):
        parts += [tg.nn.Linear(WIDTH, WIDTH, rng=rng), np.tanh]
    x = rng.standard_normal((BATCH, WIDTH), np.float32)
    return tg.nn.Sequential(*parts), x, np.zeros((BATCH, WIDTH), np.float32)


def in_a_process(*arguments: str, exact: bool = False) -> Any:
    """Run this file with arguments in a process of its own, and return what it prints, as JSON.

    With `exact`, blocks of 64 KiB and more come from the system and go back to it when freed.
    """
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    if exact:
        environment |= {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
        environment["MALLOC_MMAP_MAX_"] = "1000000"
    run = subprocess.run(
        [sys.executable, __file__, *arguments], env=environment, capture_output=True, text=True
    )
    if run.returncode:
        raise SystemExit(run.stderr)
    return json.loads(run.stdout.splitlines()[-1])


def deep() -> None:
    for layers, repeats in ((50, 15), (400, 5)):
        rows = [("torch", "plain"), ("torch", "sqrt"), ("autograd", "plain"), ("autograd", "sqrt")]
        rows = [row for row in rows if find_spec(row[0])]
        rows += [("thriftgrad", how) for how in ("plain", "all", "sqrt", "revolve")]
        rows += [("thriftgrad", f"{share}%") for share in (75, 50, 33, 20, 15)]
        found: dict[Any, list[Any]] = {row: [] for row in rows}
        for _ in range(ROUNDS):
            for row in rows:
                found[row].append(figures_of(*row, layers, repeats))
        print(f"\n{layers} layers of {WIDTH} tanh units, batch {BATCH}")
        print(
            f"{'':24}{'peak':>10}  {'of plain':>8}  {'time':>9}  {'by plain':>8}  predicted peak, time"
        )
        for who, how in rows:
            figures = found[who, how]
            plain = found[who, "plain"]
            peak, seconds = (median(figures, key) for key in ("peak", "seconds"))
            line = (
                f"{who:12}{how:12}{peak / 1e6:7.1f} MB  {peak / median(plain, 'peak'):8.3f}  "
                f"{seconds * 1e3:6.1f} ms  {seconds / median(plain, 'seconds'):8.2f}"
            )
            if "predicted" in figures[0]:
                line += (
                    f"  {median(figures, 'predicted') / 1e6:7.1f} MB  "
                    f"{median(figures, 'predicted_seconds') * 1e3:6.1f} ms"
                )
            print(line)


def figures_of(who: str, how: str, layers: int, repeats: int) -> Any:
    """Return time and peak of a step, each from a process that is set up for it."""
    return {
        **in_a_process("child", who, how, str(layers), "0", exact=True),
        **in_a_process("child", who, how, str(layers), str(repeats)),
    }


def median(figures: list[Any], key: str) -> float:
    return statistics.median(each[key] for each in figures)


def mnist() -> None:
    """Print the time and the accuracy of 784-100-30-10, with and without checkpoints."""
    import thriftgrad as tg

    data = tg.data.mnist()
    x, y = data.train.x, tg.data.one_hot(data.train.y, 10, np.float32)
    test = data.test.x, tg.data.one_hot(data.test.y, 10, np.float32)

    def train(memory: Any, blocks: bool) -> tuple[float, float, Any]:
        rng = np.random.default_rng(0)
        layers: list[Any] = []
        for inputs, outputs in pairwise([784, 100, 30, 10]):
            pair = [tg.nn.Linear(inputs, outputs, rng=rng), tg.nn.sigmoid]
            layers += [tg.nn.Sequential(*pair)] if blocks else pair
        model = tg.nn.Sequential(*layers)
        loss = tg.nn.squared_error
        history = tg.train.fit(
            model,
            (x, y),
            loss=loss,
            optimizer=tg.optim.SGD(model.parameters(), 3.0),
            epochs=3,
            batch_size=100,
            memory=memory,
            progress=False,
        )
        accuracy = tg.train.evaluate(model, test, loss=loss).accuracy
        return min(history.seconds), accuracy, [p.value for p in model.parameters()]

    print(
        "\n784-100-30-10 sigmoid on MNIST, batch 100: every second layer's output kept, against all"
    )
    for blocks in (False, True):
        ratios = []
        for _ in range(ROUNDS):
            plain, accuracy, first = train(None, blocks)
            kept, same, second = train(tg.memory.every(2), blocks)
            ratios.append(kept / plain)
        equal = all(map(np.array_equal, first, second))
        print(
            f"{'three layers, each with its sigmoid' if blocks else 'six layers':36}"
            f"time ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}), "
            f"accuracy {accuracy:.4f} and {same:.4f}, weights equal: {equal}"
        )


def tiny() -> None:
    """Print what a step of 10,000 layers holds by a budget of 1 % of its activations."""
    found = figures_of("thriftgrad", "0.9%", 10_000, 1)
    activations = 10_000 * BATCH * WIDTH * 4
    print(
        f"\n10,000 layers, {activations / 1e6:,.0f} MB of activations in a plain step: "
        f"{found['peak'] / 1e6:.1f} MB measured ({100 * found['peak'] / activations:.2f} %), "
        f"{found['seconds']:.1f} s a step, planned in {found['planning']:.1f} s"
    )


def limited() -> None:
    """Print how the plain step and the planned one fare under one RLIMIT_DATA."""
    print(
        "\nUnder RLIMIT_DATA of 400 MB beyond model and data: 200 layers, batch 8,192, 2 steps an epoch"
    )
    for how in ("plain", "planned"):
        print(f"{how:8} {in_a_process('limited-child', how)}")


def limited_child(how: str) -> str:
    import resource

    import thriftgrad as tg

    model, _, _ = network(200)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((16_384, WIDTH), np.float32)
    y = np.zeros((16_384, WIDTH), np.float32)
    optimizer = tg.optim.SGD(model.parameters(), 0.01)
    limit = resident()["VmData"] + 400_000_000
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    batch = 2 * 8192 * WIDTH * 4
    memory = None if how == "plain" else model.nbytes + batch + 200_000_000
    try:
        history = tg.train.fit(
            model,
            (x, y),
            loss=tg.nn.mse,
            optimizer=optimizer,
            epochs=2,
            batch_size=8192,
            memory=memory,
            update="after backward" if memory is None else "during backward",
            progress=False,
        )
    except MemoryError as error:
        return f"MemoryError: {error}"
    losses = ", ".join(f"{loss:.4f}" for loss in history.train_loss)
    return f"trained to completion, losses {losses}, {statistics.median(history.seconds):.1f} s an epoch"


def exactness(models: int = 200, budgets: int = 10) -> None:
    """Print how far the predicted peaks of random models are from those measured, at many budgets."""
    sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "tests", "memory"))
    from random_models import draw, peaks

    import thriftgrad as tg

    found = []
    with np.errstate(all="ignore"):
        for seed in range(models):
            case = draw(seed)
            chain = case.measure()
            curve = tg.memory.frontier(chain)
            for budget in np.linspace(curve[0].peak, curve[-1].peak, budgets).astype(int):
                schedule = tg.memory.optimal(int(budget))(chain)
                case.stepper(schedule)()  # caches
                predicted, measured = peaks(case, chain, schedule)
                found.append((predicted, measured, int(budget)))
            if (seed + 1) % 10 == 0:
                report(found, seed + 1)
    report(found, models)


def report(found: list[tuple[int, int, int]], models: int) -> None:
    predicted, measured, budget = np.array(found, float).T
    above = 100 * (predicted / measured - 1)
    large = measured >= 3e6
    print(
        f"{models} models, {len(found)} steps: over the budget {int(np.sum(measured > budget))}; "
        f"predicted above measured by {above.min():.2f} to {above.max():.2f} %, median "
        f"{np.median(above):.2f} %; by more than 1 % {int(np.sum(above > 1))}, of the "
        f"{int(large.sum())} steps of 3 MB and more {int(np.sum(above[large] > 1))}",
        flush=True,
    )


TABLES = {"mnist": mnist, "deep": deep, "tiny": tiny, "limited": limited, "exactness": exactness}


def main() -> None:
    if sys.argv[1:2] == ["child"]:
        who, how, layers, repeats = sys.argv[2:]
        print(json.dumps(CONTENDERS[who](int(layers), how, int(repeats))))
        return
    if sys.argv[1:2] == ["limited-child"]:
        print(json.dumps(limited_child(sys.argv[2])))
        return
    parser = argparse.ArgumentParser(description="What memory costs in time.")
    parser.add_argument("tables", nargs="*", choices=[*TABLES, []], help="all but exactness")
    for table in parser.parse_args().tables or [name for name in TABLES if name != "exactness"]:
        TABLES[table]()


if __name__ == "__main__":
    main()
