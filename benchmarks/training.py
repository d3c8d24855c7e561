"""A training step, compiled: beside PyTorch, JAX and others, and by the time of its matrix products.

    python benchmarks/training.py              # everything, some nine minutes on two quiet cores
    python benchmarks/training.py --quick      # a check that all of it runs and agrees; times mean nothing
    python benchmarks/training.py W1 W3 memory # some parts: W1 to W6, epoch, first, memory; see contenders.py

Every library works in two processes of its own, one with one thread and one with two, set before the
library is loaded, so that none is disturbed by the threads of another. (One thread also means one core:
JAX knows no other way.) One process at a time makes steps, a few milliseconds of them, and the next one
takes its turn; the figures are medians over all turns, and each contender is shown at its better number
of threads. Whoever is four times as slow as the fastest rests after two rounds.

Beforehand all gradients are compared with those of NumPy in float64, and so is what a call leaves of the
parameters. If one differs, nothing is timed. Each step has another batch; whoever can keep batches in
arrays of its own has them there from the start, and nobody is asked for a loss as a Python number.

| | network | loss | batch | optimiser |
|---|---|---|---|---|
| W1 | 784-30-10 sigmoid | mean squared error | 100 | SGD |
| W2 | 784-100-30-10 sigmoid | mean squared error | 100 | SGD |
| W3 | 784-512-512-10 ReLU | cross-entropy | 128 | Adam |
| W4 | 784-[256]×50-10 tanh | cross-entropy | 128 | SGD with momentum |
| W5 | 784-6-10 sigmoid | cross-entropy | all 20,000 | one gradient, three trials of a line search |
| W6 | 784-2048-2048-2048-10 ReLU | cross-entropy | 256 | SGD |

"Floor" is the matrix products of the step and nothing else, with one thread, each plain or as blocks of
rows, whichever is quicker. The last part measures memory: resident memory that training takes beyond the
data (W4 and W6), and what checkpoints save of the block and cost in time.

The exit status is 1 if gradients differ, or if a bar is missed.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import math
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
from contenders import (
    CONTENDERS,
    MOMENTUM,
    OURS,
    TINY,
    WORKLOADS,
    Arrays,
    Contender,
    NotHereError,
    Workload,
    drawn_data,
    drawn_parameters,
    textbook,
    thriftgrad_model,
    thriftgrad_step,
)

GRADIENTS_AGREE, UPDATES_AGREE = 1e-4, 1e-2
# Of half a million ReLU units, rounding to float32 turns one or two on or off, in any library.
KINKS_AGREE = 5e-3
PIECE = 0.004  # seconds between two looks at the clock, at least

# Ratios of our time to theirs that are to be reached: (plain NumPy, Numba).
BARS: dict[str, dict[str, tuple[float, float]]] = {
    "W1": {
        "PyTorch": (0.33, 0.33),
        "JAX jit": (0.65, 0.65),
        "JAX scan": (0.80, 0.80),
        "floor": (1.20, 1.20),
    },
    "epoch": {"PyTorch": (0.30, 0.30), "JAX scan": (0.65, 0.65)},
    "W2": {
        "PyTorch": (0.50, 0.50),
        "JAX jit": (0.75, 0.75),
        "JAX scan": (0.90, 0.90),
        "floor": (1.10, 1.10),
    },
    "W3": {"PyTorch": (0.70, 0.56), "JAX jit": (1.10, 0.85), "floor": (1.30, 1.10)},
    "W4": {"PyTorch": (0.78, 0.71), "JAX jit": (1.18, 1.07), "floor": (1.20, 1.10)},
    "W5": {"PyTorch": (0.30, 0.30), "JAX jit": (0.45, 0.45)},
    "W6": {"PyTorch": (0.90, 0.90), "JAX jit": (1.02, 1.02), "floor": (1.08, 1.08)},
}
EAGER_BARS = {"W1": 0.40, "W2": 1.0, "W3": 1.0, "W4": 1.0, "W6": 1.0}


# Processes, of which one at a time works


class Worker:
    """A process with one library and a number of threads, which does as it is asked."""

    def __init__(self, threads: int, **environment: str) -> None:
        for name in ("OMP", "OPENBLAS", "MKL", "NUMEXPR", "NUMBA"):
            environment[f"{name}_NUM_THREADS"] = str(threads)
        context = multiprocessing.get_context("spawn")
        self.pipe, end = context.Pipe()
        self.process = context.Process(target=work, args=(end,), daemon=True)
        before = dict(os.environ)
        cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
        os.environ |= environment
        try:
            if cores:
                os.sched_setaffinity(0, sorted(cores)[-threads:])
            self.process.start()
        finally:
            os.environ.clear()
            os.environ |= before
            if cores:
                os.sched_setaffinity(0, cores)

    def ask(self, task: Callable[..., Any], *arguments: Any) -> Any:
        """Return what a function of this file returns there."""
        self.begin(task, *arguments)
        return self.answer()

    def begin(self, task: Callable[..., Any], *arguments: Any) -> None:
        """Ask, and do not wait."""
        self.pipe.send((task.__name__, arguments))

    def answer(self) -> Any:
        """Return what was asked for."""
        kind, found = self.pipe.recv()
        if kind == "failed":
            raise SystemExit(f"a worker failed:\n{found}")
        if kind == "not here":
            raise NotHereError(found)
        return found

    def end(self) -> None:
        """Let the process go."""
        self.pipe.close()
        self.process.join()


def work(pipe: Any) -> None:
    import traceback

    while True:
        try:
            task, arguments = pipe.recv()
        except EOFError:
            return
        try:
            answer = "done", globals()[task](*arguments)
        except NotHereError as reason:
            answer = "not here", str(reason)
        except BaseException:
            answer = "failed", traceback.format_exc()
        pipe.send(answer)


class Prepared(NamedTuple):
    """What a contender came to in its first call, of so many steps."""

    gradients: Arrays
    parameters: Arrays
    steps: int


CURRENT: dict[str, Any] = {}  # in a worker: its contenders, and how many calls make a piece


def prepare(name: str, w: Workload) -> Prepared:
    contender = CONTENDERS[name][1](w)
    CURRENT[name] = [contender, w.batches, 1, 0]
    gradients = contender.gradients()
    contender.step(0)
    contender.finish()
    return Prepared(gradients, contender.parameters(), contender.steps)


def turn(name: str, seconds: float) -> list[float]:
    """Return seconds a step, of pieces that take so long together."""
    contender, batches, calls, k = CURRENT[name]
    found: list[float] = []
    gc.collect()
    if calls > 1:
        contender.step(k % batches)  # to wake up
        contender.finish()
    until = time.perf_counter() + seconds
    while not found or time.perf_counter() < until:
        started = time.perf_counter()
        for _ in range(calls):
            k += 1
            contender.step(k % batches)
        contender.finish()
        took = time.perf_counter() - started
        if took < PIECE:
            calls *= 2
        else:
            found.append(took / (calls * contender.steps))
    CURRENT[name] = [contender, batches, calls, k]
    return found


def forget() -> None:
    CURRENT.clear()
    drawn_data.cache_clear()
    drawn_parameters.cache_clear()
    gc.collect()


def threads_of(name: str) -> tuple[int, ...]:
    return (1,) if name == "floor" else (1, 2)


@contextlib.contextmanager
def all_workers(names: Sequence[str]) -> Iterator[dict[tuple[str, int], Worker]]:
    libraries = dict.fromkeys(CONTENDERS[name][0] for name in names)
    workers = {
        (library, n): Worker(
            n, **({"XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false"} if n == 1 else {})
        )
        for library in libraries
        for n in (1, 2)
    }
    try:
        yield workers
    finally:
        for each in workers.values():
            each.end()


Times = dict[tuple[str, int], float]


def race(w: Workload, names: Sequence[str], workers: Any, rounds: int, seconds: float) -> Times:
    """Return the median seconds of a step of each contender, by number of threads."""
    runners = []
    reference = References(w)
    for name in names:
        library, _, where = CONTENDERS[name]
        if w.name not in where.split():
            continue
        crew = {n: workers[library, n] for n in threads_of(name)}
        for worker in crew.values():  # at once, as compilers take their time
            worker.begin(prepare, name, w)
        absent = ""
        for n, worker in crew.items():
            try:
                reference.compare(f"{w.name}, {name}, threads {n}", worker.answer())
                runners.append((name, n))
            except NotHereError as reason:
                absent = str(reason)
        if absent:
            print(f"({w.name}: without {name}: {absent})", file=sys.stderr)
    pieces: dict[tuple[str, int], list[float]] = {each: [] for each in runners}
    for name, n in runners:  # a round for nothing, while compilers may be at work still
        workers[CONTENDERS[name][0], n].ask(turn, name, seconds)
    for each in range(rounds):
        resting = set()
        if each >= 2:
            medians = {runner: statistics.median(found) for runner, found in pieces.items()}
            most = 4 * min(medians.values())
            resting = {runner for runner, median in medians.items() if median > most}
        for runner in runners if each % 2 else reversed(runners):
            if runner not in resting:
                name, n = runner
                pieces[runner] += workers[CONTENDERS[name][0], n].ask(turn, name, seconds)
    for worker in workers.values():
        worker.ask(forget)
    return {runner: statistics.median(found) for runner, found in pieces.items()}


class References:
    """Gradients and parameters by NumPy in float64."""

    def __init__(self, w: Workload) -> None:
        self.start = w.parameters(np.float64)
        self.w = w
        self.contender: Contender | None = None
        self.gradients: Arrays = []
        self.after: dict[int, Arrays] = {}

    def compare(self, who: str, found: Prepared) -> None:
        """Leave with a message if something differs from what it should be."""
        if not found.gradients:
            return
        if not self.gradients:
            once = replace(self.w, batches=1) if self.w.optimizer == "epoch" else self.w
            contender = textbook(once, np.float64)
            self.gradients = contender.gradients()
            if found.parameters:
                contender.step(0)
                self.after[contender.steps] = [p.copy() for p in contender.parameters()]
        if found.parameters and found.steps not in self.after:
            contender = textbook(self.w, np.float64)
            for k in range(found.steps):
                contender.step(k)
            self.after[found.steps] = [p.copy() for p in contender.parameters()]
        tolerance = KINKS_AGREE if self.w.activation == "relu" else GRADIENTS_AGREE
        check(f"{who}: a gradient", found.gradients, self.gradients, tolerance)
        if found.parameters:
            ours, theirs = (
                [b - a for a, b in zip(self.start, values, strict=True)]
                for values in (found.parameters, self.after[found.steps])
            )
            check(f"{who}: the change of a parameter", ours, theirs, UPDATES_AGREE)


def check(what: str, found: Arrays, expected: Arrays, tolerance: float) -> None:
    for k, (a, b) in enumerate(zip(found, expected, strict=True)):
        error = float(np.linalg.norm(a - b) / np.linalg.norm(b))
        if not error <= tolerance:
            raise SystemExit(
                f"{what}, the {k}th of {len(expected)}, differs from NumPy's in float64 by "
                f"{error:.1e} of it; at most {tolerance:.0e} would do. Nothing was timed."
            )


# Memory


def taken(name: str, w: Workload) -> float:
    """Return the resident bytes that training takes beyond data and library, at their highest."""
    make = CONTENDERS[name][1]
    small = make(TINY)
    for k in (0, 1, 0):
        small.step(k)
    small.finish()
    del small
    w.data(), w.parameters()  # which are kept, so that they are there already
    before = resident()
    contender = make(w)
    contender.step(0)
    contender.finish()
    resident()
    with open("/proc/self/clear_refs", "w") as refs:
        refs.write("5")  # forget the highest mark so far
    contender.step(1)
    contender.finish()
    with open("/proc/self/status") as status:
        lines = dict(line.split(":", 1) for line in status if line.startswith("Vm"))
    return 1024 * int(lines["VmHWM"].split()[0]) - before


def resident() -> int:
    """Return the resident bytes, when all that is free has gone back to the system."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Saved(NamedTuple):
    """Blocks in bytes, seconds of a step, and of the first one: plain, and in two ways with less."""

    block: dict[str, int]
    seconds: dict[str, float]
    first: dict[str, float]


def checkpoints(w: Workload, share: float, rounds: int) -> Saved:
    """Return what a step takes plain, with √n checkpoints, and by a budget, in turns."""
    import thriftgrad as tg

    x, y = w.data()

    def step_of(model: Any, **options: Any) -> Any:
        optimizer = tg.optim.SGD(model.parameters(), lr=w.lr, momentum=MOMENTUM)
        return tg.compile(thriftgrad_step(model, tg.nn.cross_entropy, optimizer), **options)

    layers = len(w.sizes) - 1
    steps: dict[str, Any] = {}
    first: dict[str, float] = {}

    def add(name: str, step: Any) -> None:
        started = time.perf_counter()
        step(x[0], y[0])
        first[name] = time.perf_counter() - started
        steps[name] = step

    add("plain", step_of(thriftgrad_model(w)))
    add("√n checkpoints", step_of(thriftgrad_model(w, round(layers**0.5))))
    budget = steps["plain"].memory.block - math.ceil(share * activations_of(w))
    try:
        add("by a budget", step_of(thriftgrad_model(w), budget=budget))
    except tg.errors.BudgetError as error:
        print(f"({layers} layers: {error})", file=sys.stderr)
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            started = time.perf_counter()
            step(x[0], y[0])
            times[name].append(time.perf_counter() - started)
    return Saved(
        {name: step.memory.block for name, step in steps.items()},
        {name: statistics.median(found) for name, found in times.items()},
        first,
    )


def activations_of(w: Workload) -> int:
    """Return the bytes of what the layers return, but for the last."""
    return 4 * w.batch * sum(w.sizes[1:-1])


# First calls


def first_call(name: str) -> tuple[float, float]:
    """Return the seconds of W3's first call and of the one after it, in a process that is new."""
    w = WORKLOADS["W3"]
    contender = CONTENDERS[name][1](w)
    found = []
    for k in range(2):
        started = time.perf_counter()
        contender.step(k)
        contender.finish()
        found.append(time.perf_counter() - started)
    return found[0], found[1]


def import_time() -> tuple[float, float]:
    """Return the median seconds of `import thriftgrad` after NumPy, and of NumPy."""
    program = (
        "import time; a = time.perf_counter(); import numpy; b = time.perf_counter(); "
        "import thriftgrad; print(b - a, time.perf_counter() - b)"
    )
    found = []
    for _ in range(9):
        run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
        found.append(tuple(map(float, run.stdout.split())))
    bare, ours = map(statistics.median, zip(*found, strict=True))
    return ours, bare


# What is printed


class Verdicts:
    """Ratios against bars, as rows of a table."""

    def __init__(self) -> None:
        self.rows: list[str] = []
        self.missed = 0

    def add(self, what: str, value: float, bar: float, *, least: bool = False) -> None:
        """Note a ratio, and the most that it may be, or the least."""
        met = value >= bar if least else value <= bar
        self.missed += not met
        sign = "≥" if least else "≤"
        self.rows.append(
            f"| {what} | {value:.2f} | {sign} {bar:.2f} | {'yes' if met else '**no**'} |"
        )

    def show(self) -> None:
        """Print the table."""
        print("\n| | measured | bar | met |\n|---|---|---|---|")
        print("\n".join(self.rows))


def best(times: Times, name: str) -> tuple[float, int] | None:
    found = [(seconds, n) for (who, n), seconds in times.items() if who == name]
    return min(found) if found else None


def report_race(w: Workload, times: Times, verdicts: Verdicts) -> None:
    of_an_epoch = "an epoch of `fit` on W1" if w.name == "epoch" else w.name
    for ours, column in zip(OURS, (0, 1), strict=True):
        mine = best(times, ours)
        if mine is None:
            continue
        for name, bars in BARS[w.name].items():
            theirs = best(times, name)
            if theirs is None:
                continue
            ratio = mine[0] / theirs[0]
            if name == "floor":
                ratio = times[ours, 1] / theirs[0]
            verdicts.add(f"{of_an_epoch}, {ours} to {name}", ratio, bars[column])
    eager, torch = best(times, "thriftgrad eager"), best(times, "PyTorch")
    if eager and torch and w.name in EAGER_BARS:
        verdicts.add(f"{w.name}, eager to PyTorch", eager[0] / torch[0], EAGER_BARS[w.name])


def table(workloads: Sequence[Workload], times: dict[str, Times], names: Sequence[str]) -> None:
    """Print all times, with the number of threads that was better."""
    print("| | " + " | ".join(names) + " |\n|---|" + "---|" * len(names))
    for w in workloads:
        cells = []
        for name in names:
            found = best(times[w.name], name)
            scale = 1e6 if w.unit == "µs" else 1e3
            cells.append(f"{figure(found[0] * scale)} ({found[1]})" if found else "–")
        print(f"| {w.name} ({w.unit}) | " + " | ".join(cells) + " |")


def figure(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def report_memory(verdicts: Verdicts, quick: bool) -> None:
    peaks: dict[tuple[str, str], int] = {}
    for w in (WORKLOADS["W4"], WORKLOADS["W6"]):
        print(f"\nResident memory that {w.name} takes beyond data and library, at its highest:")
        for name in ("thriftgrad", "thriftgrad eager", "PyTorch", "JAX jit"):
            if find_spec(CONTENDERS[name][0]) is None:
                continue
            exact = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
            worker = Worker(1, **exact, MALLOC_MMAP_MAX_="1000000")
            peak = peaks[w.name, name] = worker.ask(taken, name, w)
            worker.end()
            print(f"- {name}: {peak / 1e6:.1f} MB")
    if ("W4", "PyTorch") in peaks:
        for name in ("thriftgrad", "thriftgrad eager"):
            ratio = peaks["W4", name] / peaks["W4", "PyTorch"]
            verdicts.add(f"W4's peak, {name} to PyTorch", ratio, 1.0)
    print("\n| layers, batch | | block | activations saved | time by plain | first call |")
    print("|---|---|---|---|---|---|")
    for layers, batch, share, most in ((50, 2048, 0.60, 1.20), (400, 512, 0.85, 1.27)):
        batch = 64 if quick else batch
        deep = replace(WORKLOADS["W4"], sizes=(784, *[256] * layers, 10), batch=batch, batches=1)
        worker = Worker(2 if os.cpu_count() != 1 else 1)
        found = worker.ask(checkpoints, deep, share, 2 if layers > 50 else 5)
        worker.end()
        for name, block in found.block.items():
            saved = (found.block["plain"] - block) / activations_of(deep)
            ratio = found.seconds[name] / found.seconds["plain"]
            print(
                f"| {layers}, {batch:,} | {name} | {block / 1e6:.1f} MB | {saved:.1%} | {ratio:.2f} | "
                f"{found.first[name]:.1f} s |"
            )
            if name != "plain":
                verdicts.add(f"{layers} layers, {name}, saved", saved, share, least=True)
                verdicts.add(f"{layers} layers, {name}, time", ratio, most)


def report_first(names: Sequence[str], verdicts: Verdicts) -> None:
    print("\nThe first call of W3 in a new process, seconds beyond a later call:")
    for name in names:
        if "W3" not in CONTENDERS[name][2] or name in ("floor", "thriftgrad eager"):
            continue
        if CONTENDERS[name][0] in ("numpy", "sklearn", "autograd", "mygrad"):
            continue
        for _ in range(2 if "Numba" in name else 1):  # the first one leaves a cache
            worker = Worker(1)
            try:
                first, later = worker.ask(first_call, name)
            except NotHereError:
                break
            finally:
                worker.end()
        else:
            print(f"- {name}: {first - later:.3f}")
            if name in OURS:
                bar = 1.0 if "Numba" in name else 0.3
                verdicts.add(f"first call of W3, {name}, seconds", first - later, bar)
    ours, bare = import_time()
    print(f"\n`import thriftgrad`: {ours:.3f} s beyond NumPy's {bare:.3f} s")
    verdicts.add("import beyond NumPy, seconds", ours, 0.05)


def main() -> int:
    parts = [*WORKLOADS, "first", "memory"]
    parser = argparse.ArgumentParser(description="The compiled step beside others.")
    parser.add_argument("parts", nargs="*", help=f"of {' '.join(parts)}; all without any")
    parser.add_argument("--quick", action="store_true", help="see whether it runs and agrees")
    options = parser.parse_args()
    unknown = [each for each in options.parts if each not in parts]
    if unknown:
        parser.error(f"{', '.join(unknown)}: expected some of {' '.join(parts)}")
    chosen = options.parts or parts

    names = [name for name, (library, *_) in CONTENDERS.items() if find_spec(library)]
    absent = [name for name in CONTENDERS if name not in names]
    if options.quick and "torch.compile" in names:
        names.remove("torch.compile")
        absent.append("torch.compile (which --quick leaves out)")
    print(
        f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, "
        f"NumPy {np.__version__}; not here: {', '.join(absent) or 'nobody'}\n"
    )
    verdicts = Verdicts()
    times: dict[str, Times] = {}
    workloads = [w for w in WORKLOADS.values() if w.name in chosen]
    if workloads:
        with all_workers(names) as workers:
            for w in workloads:
                rounds, seconds = (2, 0.01) if options.quick else ROUNDS.get(w.name, (9, 0.1))
                started = time.perf_counter()
                times[w.name] = race(w, names, workers, rounds, seconds)
                print(f"({w.name}: {time.perf_counter() - started:.0f} s)", file=sys.stderr)
                report_race(w, times[w.name], verdicts)
        table(workloads, times, names)
    if "first" in chosen:
        report_first(names, verdicts)
    if "memory" in chosen:
        report_memory(verdicts, options.quick)
    verdicts.show()
    return 1 if verdicts.missed and not options.quick else 0


ROUNDS = {"W4": (7, 0.12), "W5": (5, 0.1), "W6": (5, 0.2), "epoch": (3, 0.1)}

if __name__ == "__main__":
    raise SystemExit(main())
