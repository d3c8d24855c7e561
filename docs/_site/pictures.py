"""The pictures on the page of schedules: each is drawn from a schedule that the library returns.

Nothing in them is set by hand. Who runs when, and for how long, is what `simulate` says.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from thriftgrad.memory import Chain, Schedule

BLUE, ORANGE, GREEN, GREY, INK = "#0072B2", "#D55E00", "#009E73", "#BBBBBB", "#333333"
LENGTH = 12
NAMES = ("all", "every", "at", "sqrt", "revolve", "mixed", "two_level", "optimal", "trade")


def on_files(files: Any, config: Any) -> Any:
    """Add the pictures."""
    from mkdocs.structure.files import File

    for name, content in pictures():
        files.append(File.generated(config, f"schedules/{name}.svg", content=content))
    return files


def pictures() -> Iterator[tuple[str, bytes]]:
    """Yield the name and the content of each picture."""
    from thriftgrad import memory
    from thriftgrad.memory import homogeneous, simulate

    chain = homogeneous(LENGTH)
    for name, strategy in {
        "all": memory.everything(),
        "every": memory.every(3),
        "at": memory.at(1, 6),
        "sqrt": memory.sqrt(),
        "revolve": memory.revolve(3),
        "mixed": memory.mixed(3),
    }.items():
        yield name, timetable(strategy(chain), chain)
    slow = homogeneous(LENGTH, write=1.0, read=1.0)
    yield "two_level", timetable(memory.two_level(ram=1, disk=3)(slow), slow)

    uneven = unequal()
    plain = simulate(memory.everything()(uneven), uneven).peak
    yield "optimal", timetable(memory.optimal(2 * plain // 3)(uneven), uneven)
    yield "trade", trade()


def unequal() -> Chain:
    """Return a chain whose stages get smaller and slower, as those of many networks do."""
    from thriftgrad.memory import Chain, Stage

    sizes = [24, 24, 20, 20, 16, 16, 12, 12, 8, 8, 4, 4]
    stages = tuple(
        Stage(
            output=size,
            cotangent=size,
            forward_seconds=1 + k / 6,
            tape_seconds=1 + k / 6,
            backward_seconds=1 + k / 6,
        )
        for k, size in enumerate(sizes)
    )
    return Chain(stages=stages, input=24, input_cotangent=24)


def timetable(schedule: Schedule, chain: Chain) -> bytes:
    """Draw which stage runs when, and from when to when each state and tape is held."""
    from matplotlib.patches import Rectangle

    from thriftgrad.memory import simulate

    simulation = simulate(schedule, chain)
    figure = _figure(7.2, 2.9)
    axes = figure.add_subplot()
    now = 0.0
    states: dict[int, float] = {0: 0.0}
    tapes: dict[int, float] = {}
    disk: dict[int, float] = {}

    def held(i: float, begin: float, colour: str, width: float) -> None:
        axes.plot(
            [begin, now], [i, i], color=colour, linewidth=width, solid_capstyle="butt", zorder=1
        )

    def let_go(i: int, of: dict[int, float], colour: str, height: float) -> None:
        if i in of:
            held(i + height, of.pop(i), colour, 2.2 if of is not tapes else 5)

    for action, seconds in zip(schedule, simulation.durations, strict=True):
        kind, k = action.kind.name, action.index
        colour = {"TAPE": BLUE, "BACKWARD": ORANGE, "ADVANCE": "white", "KEEP": "white"}.get(kind)
        if colour is not None:
            box = (now, k + 0.12), seconds, 0.76
            axes.add_patch(
                Rectangle(*box, facecolor=colour, edgecolor=INK, linewidth=0.7, zorder=3)
            )
        now += seconds
        if kind == "ADVANCE":
            let_go(k, states, GREY, 0)
        if kind in {"ADVANCE", "KEEP", "TAPE"}:
            let_go(k + 1, states, GREY, 0)
            states[k + 1] = now
        if kind == "TAPE":
            tapes[k] = now
        elif kind in {"BACKWARD", "DROP_TAPE"}:
            let_go(k, tapes, "#9CC9E3", 0.5)
        elif kind == "DROP":
            let_go(k, states, GREY, 0)
        elif kind == "SPILL":
            disk[k] = now
        elif kind == "LOAD":
            states[k] = now
        elif kind == "DROP_DISK":
            let_go(k, disk, GREEN, -0.15)
    for of, colour, height in ((states, GREY, 0.0), (tapes, BLUE, 0.5), (disk, GREEN, -0.15)):
        for i in list(of):
            let_go(i, of, colour, height)

    runs = int(simulation.runs.sum())
    title = f"{schedule.strategy}: {runs} runs of {len(chain)} stages, {simulation.seconds:g} s, "
    title += f"peak {simulation.peak} bytes"
    if simulation.most_disk:
        title += f", {simulation.most_disk} states on disk"
    axes.set_title(title, loc="left", fontsize=10, color=INK)
    axes.set_xlim(0, simulation.seconds)
    axes.set_ylim(len(chain) + 0.3, -0.3)
    axes.set_xlabel("seconds", color=INK, fontsize=9)
    axes.set_ylabel("stage", color=INK, fontsize=9)
    _plain(axes)
    return _svg(figure)


def trade() -> bytes:
    """Draw how often stages run against how many states or tapes may be kept, for 100 stages."""
    from thriftgrad import memory
    from thriftgrad.memory import homogeneous, simulate

    chain = homogeneous(100)
    figure = _figure(7.2, 3.2)
    axes = figure.add_subplot()
    for name, strategies, style in (
        ("revolve", [memory.revolve(s) for s in range(2, 41)], {"color": BLUE}),
        ("mixed", [memory.mixed(s) for s in range(2, 41)], {"color": ORANGE}),
        (
            "every(n)",
            [memory.every(n) for n in range(3, 26)],
            {"color": GREEN, "marker": ".", "linestyle": "none"},
        ),
        ("sqrt", [memory.sqrt()], {"color": INK, "marker": "o", "linestyle": "none"}),
    ):
        found = [simulate(strategy(chain), chain) for strategy in strategies]
        slots = [each.most_slots for each in found]
        axes.plot(slots, [each.runs.sum() / 100 for each in found], label=name, **style)
    axes.set_title("100 equal stages", loc="left", fontsize=10, color=INK)
    axes.set_xlim(0, 41)
    axes.set_ylim(1, 6)
    axes.set_xlabel("states and tapes held at once", color=INK, fontsize=9)
    axes.set_ylabel("runs of each stage, on average", color=INK, fontsize=9)
    axes.legend(frameon=False, fontsize=9)
    _plain(axes)
    return _svg(figure)


def _figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def _plain(axes: Axes) -> None:
    axes.tick_params(length=0, colors=INK, labelsize=8)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _svg(figure: Any) -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format="svg", metadata={"Date": None})
    return content.getvalue()
