"""The lessons: every page runs from top to bottom, and is a notebook in form."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "docs" / "lessons"
LESSONS = sorted(FOLDER.glob("[0-9]*.py"))
HEAD = "# ---\n# jupyter:\n#   jupytext:\n"
pytest.importorskip("matplotlib", reason="the lessons draw: pip install 'thriftgrad[plots]'")


def cells(path: Path) -> list[tuple[str, str]]:
    """Return the kind and the text of each cell of a file in the percent format."""
    parts = re.split(r"^# %%(.*)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return [
        ("text" if "markdown" in mark else "code", body)
        for mark, body in zip(parts[1::2], parts[2::2], strict=True)
    ]


def test_there_are_eight_and_the_index_names_each() -> None:
    index = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert [path.name[:2] for path in LESSONS] == [f"{n}_" for n in range(1, 9)]
    assert [path.name for path in LESSONS] == re.findall(
        r"^\| \d \|.*?\((.+?)\)", index, re.MULTILINE
    )


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_a_lesson_runs(path: Path, tmp_path: Path) -> None:
    # A process of its own, whose warnings are errors too, so that no lesson leans on another.
    env = os.environ | {"MPLBACKEND": "Agg", "OPENBLAS_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, "-W", "error", str(path)],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-3000:]


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_a_lesson_is_a_notebook(path: Path) -> None:
    assert path.read_text(encoding="utf-8").startswith(HEAD)
    found = cells(path)
    assert found[0][0] == "text"
    assert f"# # {path.name[0]}. " in found[0][1]
    for kind, body in found:
        lines = [line for line in body.splitlines() if line]
        if kind == "text":
            assert all(line.startswith("#") for line in lines), body
        else:
            assert len(lines) <= 45, f"a cell of {len(lines)} lines is too long to take in"


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_a_lesson_proves_what_it_says_and_ends_with_exercises(path: Path) -> None:
    found = cells(path)
    code = "".join(body for kind, body in found if kind == "code")
    text = "".join(body for kind, body in found if kind == "text")
    assert code.count("assert ") >= 4
    assert re.search(r"< 1e-(12|15)\b|np\.array_equal", code), "nothing is equal to the last digits"
    assert "## Exercises" in text
    exercises = code.split("exercise_1 = ")[0].rsplit("def ", 2)
    assert "analytic=" in "".join(exercises), "no exercise is solved as an example"
    assert re.search(r"\.gradients\(\*?\w+(, \w+)?, .*analytic=\w*\(?yours", text)


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_links_between_lessons_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8")):
        assert (FOLDER / target).exists(), f"{path.name} links to {target}"
