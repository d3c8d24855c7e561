"""The lessons as pages: each is run from top to bottom, and shown with what it printed and drew.

A lesson is a program in jupytext's percent format. It runs in a process of its own, and what came of
it is kept in build/lessons until the lesson or the library changes.
"""

from __future__ import annotations

import ast
import base64
import contextlib
import hashlib
import io
import json
import linecache
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
LESSONS = ROOT / "docs" / "lessons"
KEPT = ROOT / "build" / "lessons"

Cell = tuple[str, str]
"""A kind, "markdown" or "code", and the source."""


def on_config(config: Any) -> Any:
    """Put the lessons in the place that the navigation holds for them."""
    pages = ["lessons/README.md"]
    pages += [{_title(path): f"lessons/{path.stem}.md"} for path in lessons()]
    for entry in config.nav:
        for name, value in entry.items():
            if value == "lessons/*":
                entry[name] = pages
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add a page for each lesson, its pictures, and the program itself."""
    from mkdocs.structure.files import File, InclusionLevel

    for path in lessons():
        page, pictures = rendered(path)
        files.append(File.generated(config, f"lessons/{path.stem}.md", content=page))
        for name, content in pictures.items():
            files.append(File.generated(config, f"lessons/{name}", content=content))
        program = files.get_file_from_path(f"lessons/{path.name}")
        if program is not None:
            program.inclusion = InclusionLevel.INCLUDED
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Let links to a lesson lead to its page: in the repository they lead to the program."""
    return re.sub(r"\]\((lessons/)?(\d\w+)\.py\)(?!\{)", r"](\1\2.md)", markdown)


def lessons() -> list[Path]:
    """Return the lessons, in order."""
    return sorted(LESSONS.glob("[0-9]*.py"))


def cells(text: str) -> list[Cell]:
    r"""Cut a program in percent format into its cells; what stands before the first is no part of it.

    Example:
        >>> cells('''# %% [markdown]
        ... # Once
        ... #
        ... # upon
        ... # %%
        ... x = 1
        ... ''')
        [('markdown', 'Once\n\nupon'), ('code', 'x = 1')]
    """
    found = []
    parts = re.split(r"^# %%(.*)\n", text, flags=re.MULTILINE)
    for header, body in zip(parts[1::2], parts[2::2], strict=True):
        if "[markdown]" in header:
            found.append(("markdown", re.sub(r"^# ?", "", body, flags=re.MULTILINE).strip()))
        else:
            found.append(("code", body.strip()))
    return found


def rendered(path: Path) -> tuple[str, dict[str, bytes]]:
    """Return a lesson as Markdown, and its pictures by name."""
    pictures: dict[str, bytes] = {}
    lines = []
    for (kind, source), outputs in zip(cells(path.read_text("utf-8")), _outputs(path), strict=True):
        if kind == "markdown":
            lines += [source, ""]
            continue
        if source:
            lines += ["```python", source, "```", ""]
        for form, content, width in outputs:
            if form == "text":
                lines += ["```{.text .output}", content.rstrip("\n"), "```", ""]
            elif form == "html":
                lines += [f'<div class="output">{content}</div>', ""]
            else:
                name = f"{path.stem}-{len(pictures) + 1}.png"
                pictures[name] = base64.b64decode(content)
                lines += [f"![What the code above draws]({name}){{ width={width} }}", ""]
    note = f"[This page as a program]({path.name}){{ download }}, which jupytext turns into a notebook."
    return "\n".join([*lines, "---", "", note, ""]), pictures


def _title(path: Path) -> str:
    found = re.search(r"^# # (.+)$", path.read_text("utf-8"), re.MULTILINE)
    if found is None:
        raise ValueError(f"{path} has no title: a first cell that begins with '# # '")
    return found[1]


def _outputs(path: Path) -> list[list[list[Any]]]:
    """Return what each cell gives, from a run of the lesson or from the last one like it."""
    digest = hashlib.sha256()
    for each in (path, Path(__file__), *sorted((ROOT / "src").rglob("*.py"))):
        digest.update(each.read_bytes())
    kept = KEPT / f"{path.stem}-{digest.hexdigest()[:16]}.json"
    if not kept.exists():
        KEPT.mkdir(parents=True, exist_ok=True)
        for old in KEPT.glob(f"{path.stem}-*.json"):
            old.unlink()
        with tempfile.TemporaryDirectory() as folder:
            result = Path(folder, "result.json")
            command = [sys.executable, __file__, str(path), str(result)]
            run = subprocess.run(
                command, cwd=folder, env={**os.environ, "MPLBACKEND": "Agg"}, check=False
            )
            if run.returncode:
                raise RuntimeError(f"{path} ends with an error; see above")
            kept.write_bytes(result.read_bytes())
    return json.loads(kept.read_text("utf-8"))  # type: ignore[no-any-return]


# In the lesson's own process


def run(path: Path) -> list[list[list[Any]]]:
    """Run a lesson, and return for each cell what it printed, what its last line is, and pictures."""
    names: dict[str, Any] = {"__name__": "__main__"}
    outputs: list[list[list[Any]]] = []
    for number, (kind, source) in enumerate(cells(path.read_text("utf-8"))):
        outputs.append([] if kind == "markdown" else _run_cell(source, f"{path} [{number}]", names))
    return outputs


def _run_cell(source: str, filename: str, names: dict[str, Any]) -> list[list[Any]]:
    # So that tracebacks, and whoever asks for a function's source, find it.
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    body = ast.parse(source).body
    last = body.pop() if body and isinstance(body[-1], ast.Expr) else None
    printed, value = io.StringIO(), None
    with contextlib.redirect_stdout(printed):
        exec(compile(ast.Module(body, []), filename, "exec"), names)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), filename, "eval"), names)
    found: list[list[Any]] = []
    if printed.getvalue().strip():
        found.append(["text", printed.getvalue(), 0])
    if hasattr(value, "_repr_html_"):
        found.append(["html", value._repr_html_(), 0])
    elif value is not None and not _drawn(value) and not source.rstrip().endswith(";"):
        found.append(["text", repr(value), 0])
    return found + _figures()


def _drawn(value: Any) -> bool:
    """Say whether a value is a part of a picture, which is shown anyway."""
    while isinstance(value, list | tuple) and value:
        value = value[0]
    return type(value).__module__.startswith("matplotlib")


def _figures() -> list[list[Any]]:
    if "matplotlib.pyplot" not in sys.modules:
        return []
    import matplotlib.pyplot as plt

    found: list[list[Any]] = []
    for number in plt.get_fignums():
        figure, content = plt.figure(number), io.BytesIO()
        figure.savefig(content, format="png", dpi=192)
        width = round(96 * figure.get_figwidth())
        found.append(["png", base64.b64encode(content.getvalue()).decode(), width])
    plt.close("all")
    return found


if __name__ == "__main__":
    lesson, target = map(Path, sys.argv[1:])
    target.write_text(json.dumps(run(lesson)), "utf-8")
