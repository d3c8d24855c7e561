"""What the site's pages are made of beside their text: reference, sections of the README, formulas.

mkdocs calls the functions whose names begin with `on_`.
"""

from __future__ import annotations

import ast
import html
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "thriftgrad"
FRONT = "thriftgrad"
ROOMS = (
    FRONT,
    *(
        "tree",
        "memory",
        "compile",
        "nn",
        "optim",
        "data",
        "train",
        "check",
        "plots",
        "export",
        "sklearn",
    ),
    "errors",
)
"""The pages of the reference, in the order of the house."""


def on_config(config: Any) -> Any:
    """Put the reference's pages in the place that the navigation holds for them."""
    fill(config, "reference/*", [{title(room): f"reference/{room}.md"} for room in rooms()])
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the reference's pages."""
    from mkdocs.structure.files import File

    for room in rooms():
        files.append(File.generated(config, f"reference/{room}.md", content=reference(room)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fetch what a page takes from the README, and tell sessions from programs."""
    markdown = re.sub(r"<!-- README: (.+) -->", lambda found: section(found[1]), markdown)
    return re.sub(r"^```python\n(?=>>>)", "```pycon\n", markdown, flags=re.MULTILINE)


def on_page_content(content: str, **_: Any) -> str:
    """Turn formulas from TeX into MathML, which browsers show without a script."""
    content = re.sub(r'<span class="arithmatex">\\\((.*?)\\\)</span>', _inline, content, flags=re.S)
    return re.sub(
        r'<div class="arithmatex">\s*\\\[(.*?)\\\]\s*</div>', _display, content, flags=re.S
    )


def fill(config: Any, place: str, pages: list[Any]) -> None:
    """Replace a placeholder in the navigation by pages."""
    for entry in config.nav:
        for name, value in entry.items():
            if value == place:
                entry[name] = pages


def rooms() -> list[str]:
    """Return the rooms that are there, for some are optional."""
    return [room for room in ROOMS if module(room).exists()]


def module(room: str) -> Path:
    """Return the file that holds a room's docstring and public names."""
    if room == FRONT:
        return SOURCE / "__init__.py"
    folder = SOURCE / room / "__init__.py"
    return folder if folder.exists() else SOURCE / f"{room}.py"


def title(room: str) -> str:
    """Return what a room is called."""
    return room if room == FRONT else f"{FRONT}.{room}"


def reference(room: str) -> str:
    """Return the page of a room: its docstring, then every public name."""
    lines = [f"# {title(room)}", ""]
    if module(room).name != "__init__.py":
        return "\n".join([*lines, f"::: {title(room)}", *_options(), ""])
    if room != FRONT:
        lines += [f"::: {title(room)}", *_options(members="false"), ""]
    for name in public(module(room)):
        home = defined(module(room), title(room), name)
        is_module = home == f"{title(room)}.{name}"
        if is_module and room == FRONT:  # it has a page of its own
            continue
        if is_module:
            lines += [f"## {name}", "", f"::: {home}", *_options(heading_level="3"), ""]
        else:
            lines += [f"::: {home}", ""]
    return "\n".join(lines)


def defined(path: Path, package: str, name: str) -> str:
    """Return the full name under which something is defined that a package passes on.

    A function is often called like its module, and the two cannot be told by the name alone.
    """
    for statement in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(statement, ast.ImportFrom) or statement.module is None:
            continue
        if name not in {alias.asname or alias.name for alias in statement.names}:
            continue
        folder = SOURCE.joinpath(*statement.module.split(".")[1:])
        inner = folder / "__init__.py"
        if statement.module != package and inner.exists():
            return defined(inner, statement.module, name)
        return f"{statement.module}.{name}"
    return f"{package}.{name}"


def public(path: Path) -> list[str]:
    """Return a file's `__all__` without running it: its libraries may not be installed."""
    for statement in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "__all__":
            return list(ast.literal_eval(statement.value))
    return []


def section(heading: str) -> str:
    """Return what stands under a heading of the README, so that a figure is written down once."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", text, re.M | re.S)
    if found is None:
        raise ValueError(f"README.md has no section {heading!r}, which the documentation shows")
    return found[1].strip()


def _options(**options: str) -> list[str]:
    """Return the options of a module, whose name is in a heading already."""
    options |= {"show_root_heading": "false", "show_root_toc_entry": "false"}
    return ["    options:", *(f"      {name}: {value}" for name, value in options.items())]


def _inline(found: re.Match[str]) -> str:
    return _mathml(found[1], "inline")


def _display(found: re.Match[str]) -> str:
    formula, tags = re.subn(r"\\tag\{(.*?)\}", "", found[1])
    tag = re.search(r"\\tag\{(.*?)\}", found[1]) if tags else None
    number = f'<span class="tag">({tag[1]})</span>' if tag else ""
    return f'<div class="formula">{_mathml(formula, "block")}{number}</div>'


def _mathml(tex: str, display: str) -> str:
    from latex2mathml.converter import convert

    return convert(html.unescape(tex).strip(), display=display)
