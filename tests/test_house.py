"""The house itself: rooms know only the rooms below them, and the front door opens quickly."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import thriftgrad

SOURCE = Path(thriftgrad.__file__).parent
FLOORS = [
    {"errors"},
    {"tree", "units", "blas"},
    {"plots"},
    {"autodiff"},
    {"memory"},
    {"compile"},
    {"nn"},
    {"optim"},
    {"data", "train", "check"},
    {"export", "sklearn"},
    {"cli"},
    {"__main__"},
]
FLOOR = {room: i for i, floor in enumerate(FLOORS) for room in floor}
ROOMS_IN_USE = sorted(
    {p.relative_to(SOURCE).parts[0].removesuffix(".py") for p in SOURCE.rglob("*.py")}
    - {"__init__"}
)


def imports(path: Path) -> set[str]:
    """Return the rooms that a file names in its imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            parts = node.module.split(".")
            if parts == ["thriftgrad"]:
                found |= {alias.name for alias in node.names}
            elif parts[0] == "thriftgrad":
                found.add(parts[1])
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("thriftgrad.")}
    return found & set(FLOOR)


@pytest.mark.parametrize("room", ROOMS_IN_USE)
def test_a_room_knows_only_rooms_below_it(room: str) -> None:
    assert room in FLOOR, f"{room} has no floor: give it one in docs/architecture.md and here"
    files = (
        [SOURCE / f"{room}.py"]
        if (SOURCE / f"{room}.py").exists()
        else (SOURCE / room).rglob("*.py")
    )
    for path in files:
        for other in imports(path) - {room}:
            below = FLOOR[other] < FLOOR[room] or {room, other} <= {"data", "train", "check"}
            assert below, f"{path.relative_to(SOURCE)} imports {other}, which is not below {room}"


def test_the_front_door_loads_nothing_it_does_not_need() -> None:
    code = (
        "import sys, numpy; before = set(sys.modules); import thriftgrad;"
        "new = {m.split('.')[0] for m in set(sys.modules) - before};"
        "print(*sorted(new & {'optree', 'tqdm', 'safetensors', 'scipy', 'matplotlib', 'typer', 'numba',"
        " 'thriftgrad.nn'}))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == ""


def test_every_public_name_is_there_and_documented() -> None:
    for name in thriftgrad.__all__:
        assert getattr(thriftgrad, name).__doc__, name
        assert name in dir(thriftgrad)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = thriftgrad.nonsense
