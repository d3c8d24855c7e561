"""The documentation: what it says of other libraries is so, every error is explained, links lead somewhere."""

import ast
import importlib.util
import inspect
import re
import warnings
from pathlib import Path

import numpy as np
import pytest

from thriftgrad import errors, nn, optim  # noqa: F401  (before the rules are noted that are put back)

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.glob("*.md"), DOCS / "lessons" / "README.md"])


def load(name):
    spec = importlib.util.spec_from_file_location(f"site_{name}", DOCS / "_site" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# Errors

ERRORS = [
    name
    for name, kind in inspect.getmembers(errors, inspect.isclass)
    if kind.__module__ == errors.__name__
]


@pytest.mark.parametrize("name", ERRORS)
def test_every_error_is_explained_with_an_example_and_a_remedy(name):
    text = (DOCS / "errors.md").read_text(encoding="utf-8")
    assert name in text
    if name == "ThriftgradError":
        return
    section = re.search(rf"^### {name}\n(.*?)(?=^##|\Z)", text, re.M | re.S)
    assert section, f"docs/errors.md has no section on {name}"
    assert f"thriftgrad.errors.{name}:" in section[1], "an example that raises it, which is run"
    assert "**What to do.**" in section[1]
    builtin = next(base for base in getattr(errors, name).__mro__ if base.__module__ == "builtins")
    assert f"| [`{name}`](#{name.lower()}) | `{builtin.__name__}` |" in text


# Moving from other libraries: both columns are run, row by row, and compared

IMPORTS = {
    "autograd": """
import autograd.numpy as np
from autograd import (checkpoint, elementwise_grad, grad, grad_and_aux, hessian,
    hessian_vector_product, holomorphic_grad, jacobian, make_jvp, make_vjp, value_and_grad)
from autograd.extend import defvjp, primitive
from autograd.test_util import check_grads
""",
    "MyGrad": """
import mygrad as mg
import numpy as np
from mygrad.nnet.activations import logsoftmax, relu, sigmoid, softmax
from mygrad.nnet.losses import softmax_crossentropy
""",
    "PyTorch": """
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset
import types
np = types.SimpleNamespace(sum=torch.sum, tanh=torch.tanh, sin=torch.sin, array=lambda a:
    torch.tensor(a, dtype=torch.float64 if isinstance(a, list) and a and "." in str(a) else None))
""",
    "JAX": """
import jax, jax.scipy.special
jax.config.update("jax_enable_x64", True)
import jax.numpy as np
from jax.test_util import check_grads
""",
}
MODULES = {"autograd": "autograd", "MyGrad": "mygrad", "PyTorch": "torch", "JAX": "jax"}


def moving(library):
    """Return the rows of a library's table: the code of both columns."""
    text = (DOCS / "moving.md").read_text(encoding="utf-8")
    section = re.search(rf"^## {library}\n(.*?)(?=^## |\Z)", text, re.M | re.S)[1]
    rows = re.findall(r"^\| `(.+)` \| `(.+)` \|$", section, re.MULTILINE)
    assert len(rows) == section.count("\n|") - 2, "a row that is not code on both sides"
    return rows


def preamble():
    block = re.search(r"```python\n(.*?)```", (DOCS / "moving.md").read_text("utf-8"), re.S)[1]
    return [line.removeprefix(">>> ") for line in block.splitlines() if line.startswith(">>> ")]


def ran(code, names):
    """Run a cell; return the value of what it ends in, or None for a statement."""
    body = ast.parse(code).body
    last = body.pop() if isinstance(body[-1], ast.Expr) else None
    exec(compile(ast.Module(body, []), code, "exec"), names)
    return last and eval(compile(ast.Expression(last.value), code, "eval"), names)


def plain(value):
    """Return the numbers in what a library returns, as a list of arrays, or None if it holds others."""
    if isinstance(value, dict):
        value = [value[key] for key in sorted(value)]
    if isinstance(value, list | tuple):
        parts = [plain(part) for part in value]
        return None if any(p is None for p in parts) else [array for p in parts for array in p]
    for attribute in ("detach", "data", "value"):
        inner = getattr(value, attribute, None)
        if (
            type(value).__module__.split(".")[0] in {"torch", "mygrad", "thriftgrad"}
            and inner is not None
        ):
            value = inner() if callable(inner) else inner
            break
    if value is None or isinstance(value, str) or callable(value):
        return None
    try:
        array = np.asarray(value)
    except Exception:
        return None
    return [array] if array.dtype.kind in "biufc" else None


def environment(library=None):
    names = {}
    exec("import numpy as np, scipy.special, thriftgrad as tg", names)
    setup, *rest = preamble()
    assert setup == "import numpy as np, thriftgrad as tg"
    if library:
        exec(IMPORTS[library], names)
        rest = [line for line in rest if "tg." not in line]
    for line in rest:
        exec(line, names)
    return names


@pytest.mark.parametrize("library", MODULES)
def test_the_right_column_runs(library, rules_put_back):
    pytest.importorskip("scipy")
    names = environment()
    for _, ours in moving(library):
        ran(ours, names)


@pytest.mark.parametrize("library", MODULES)
def test_both_columns_give_the_same(library, rules_put_back):
    pytest.importorskip(MODULES[library])
    pytest.importorskip("scipy")
    compared = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of foreign libraries, about themselves
        left, right = environment(library), environment()
        for theirs, ours in moving(library):
            a, b = plain(ran(theirs, left)), plain(ran(ours, right))
            if a is None or b is None:
                continue
            compared += 1
            assert len(a) == len(b), theirs
            for one, other in zip(a, b, strict=True):
                np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-9, err_msg=theirs)
    assert compared > len(moving(library)) / 3


# The site's own machinery


def slugs(text):
    """Return the anchors of a page's headings, as Markdown's table of contents makes them."""
    headings = re.findall(
        r"^#{1,6} (.+?)(?: \{.*\})?$", re.sub(r"```.*?```", "", text, flags=re.S), re.M
    )
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", h).strip().lower()) for h in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_between_pages_lead_somewhere(page):
    site = load("pages")
    text = page.read_text(encoding="utf-8")
    made = {f"reference/{room}.md" for room in site.rooms()}
    made |= {f"schedules/{name}.svg" for name in load("pictures").NAMES}
    made |= {f"seen/{name}" for name in load("seen").NAMES}
    for target in re.findall(
        r"\]\(([^)\s]+)\)", re.sub(r"```.*?```|`[^`\n]+`", "`", text, flags=re.S)
    ):
        path, _, anchor = target.partition("#")
        if path in made or "://" in path:
            continue
        assert not path or (page.parent / path).exists(), f"{page.name} links to {target}"
        if anchor:
            other = (page.parent / path).read_text(encoding="utf-8") if path else text
            assert anchor in slugs(other), f"{page.name} links to {target}"


def test_every_page_is_in_the_navigation():
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for page in DOCS.glob("*.md"):
        assert re.search(rf"(- |: ){re.escape(page.name)}$", text, re.MULTILINE), page.name


def test_every_picture_is_shown():
    text = (DOCS / "schedules.md").read_text(encoding="utf-8")
    assert set(re.findall(r"schedules/(\w+)\.svg", text)) == set(load("pictures").NAMES)
    text = (DOCS / "seen.md").read_text(encoding="utf-8")
    assert set(re.findall(r"\(seen/([\w.]+)\)", text)) == set(load("seen").NAMES)


def test_a_timetable_is_drawn_from_the_schedule():
    pytest.importorskip("matplotlib")
    from thriftgrad.memory import every, homogeneous, two_level

    pictures = load("pictures")
    plain = pictures.timetable(every(3)(homogeneous(6)), homogeneous(6))
    assert b"<svg" in plain
    chain = homogeneous(6, write=1.0, read=1.0)
    assert len(pictures.timetable(two_level(1, 2)(chain), chain)) > len(plain)


def test_the_reference_has_every_public_name():
    site = load("pages")
    for room in site.rooms():
        page = site.reference(room)
        if f"::: {site.title(room)}\n" in page and "members: false" not in page:
            continue  # a module, shown as a whole
        for name in site.public(site.module(room)):
            shown = re.search(rf"^::: thriftgrad\S*\.{name}$", page, re.MULTILINE)
            assert shown or (room == "thriftgrad" and name in site.rooms()), (room, name)


def test_functions_are_told_from_modules_of_the_same_name():
    site = load("pages")
    where = {
        room: re.findall(r"^::: (\S+)$", site.reference(room), re.M) for room in ("check", "nn")
    }
    assert "thriftgrad.check.gradients.gradients" in where["check"]
    assert "thriftgrad.nn.layers.Linear" in where["nn"]
    assert "thriftgrad.nn.init" in where["nn"]


def test_sections_of_the_readme_are_shown_and_missed():
    site = load("pages")
    text = (DOCS / "measured.md").read_text(encoding="utf-8")
    shown = site.on_page_markdown(text)
    assert "README:" not in shown
    assert "|" in shown
    with pytest.raises(ValueError, match="no section 'Nowhere'"):
        site.section("Nowhere")
    assert site.on_page_markdown("```python\n>>> 1\n```") == "```pycon\n>>> 1\n```"


def test_formulas_become_mathml():
    pytest.importorskip("latex2mathml")
    site = load("pages")
    inline = site.on_page_content(r'<p><span class="arithmatex">\(a &lt; b\)</span></p>')
    assert inline.startswith("<p><math")
    assert "&#x0003C;" in inline
    assert "arithmatex" not in inline
    display = site.on_page_content('<div class="arithmatex">\n\\[x \\tag{3}\\]\n</div>')
    assert 'display="block"' in display
    assert '<span class="tag">(3)</span>' in display


def test_cells_of_a_lesson_run_and_show_what_they_make(tmp_path):
    lessons = load("lessons")
    path = tmp_path / "1_test.py"
    path.write_text(
        "# ---\n# kernel: none\n# ---\n\n# %% [markdown]\n# # Title\n#\n# See [two](2_two.py).\n\n"
        "# %%\nx = 2\nprint(x)\nx + 1\n\n# %%\n'quiet';\n",
        encoding="utf-8",
    )
    assert [kind for kind, _ in lessons.cells(path.read_text())] == ["markdown", "code", "code"]
    outputs = lessons.run(path)
    assert outputs == [[], [["text", "2\n", 0], ["text", "3", 0]], []]
    lessons._outputs = lambda path: outputs
    page, pictures = lessons.rendered(path)
    assert page.startswith("# Title\n\nSee [two](2_two.py).")
    shown = lessons.on_page_markdown(page)
    assert "[two](2_two.md)" in shown
    assert "(1_test.py){ download }" in shown
    assert "```{.text .output}\n2\n```" in page
    assert pictures == {}
    assert lessons._title(path) == "Title"


def test_a_lesson_that_fails_fails_the_site(tmp_path):
    lessons = load("lessons")
    lessons.KEPT = tmp_path / "kept"
    path = tmp_path / "1_test.py"
    path.write_text("# %%\nassert False\n", encoding="utf-8")
    with pytest.raises(RuntimeError, match=r"1_test\.py ends with an error"):
        lessons._outputs(path)


def test_every_lesson_has_a_title():
    lessons = load("lessons")
    for path in lessons.lessons():
        assert lessons._title(path)
