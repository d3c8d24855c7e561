"""`thriftgrad report`: a page that holds all there is, loads nothing, and opens in a browser."""

import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest

import thriftgrad as tg
from thriftgrad.cli._config import MEMORY, NORMS
from thriftgrad.plots import memory
from thriftgrad.train import Norms

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
browser = pytest.mark.skipif(
    CHROMIUM is None and not os.environ.get("CI"),
    reason="no Chromium to open the page with; apt install chromium",
)

SECTIONS = [
    "Learning curves",
    "Which class is taken for which",
    "Worst mistakes",
    "First-layer weights",
    "Gradients and activations",
    "Memory",
    "Gradient check",
    "Model",
    "Configuration",
]


class Page(HTMLParser):
    """What is in a page, and whether every element that is opened is closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.headings, self.links, self.words = [], [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.links += [v for k, v in attributes if k in ("src", "href", "xlink:href", "srcset")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert tag in ("meta", "img") or self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)
        if "style" not in self.open:
            self.words.append(data)


@pytest.fixture(scope="module")
def full_run(run_folder, tmp_path_factory):
    """A copy of the run with all that a training can leave behind."""
    folder = tmp_path_factory.mktemp("full") / "a <run> & more"
    shutil.copytree(run_folder, folder)
    memory({"parameters": [4e6] * 3, "tape": [0, 2e6, 1e6]}, budget=8e6, path=folder / MEMORY)
    model = tg.nn.Sequential(tg.nn.Linear(2, 3, rng=0), tg.nn.relu)
    norms = Norms((np.ones((4, 2)), np.zeros(4, int)), tg.nn.cross_entropy, path=folder / NORMS)
    for epoch in (0.0, 1.0, 2.0):
        norms.take(model, epoch)
    return folder


def test_all_of_it(command, full_run, tmp_path):
    result = command("report", full_run, "--out", tmp_path / "page.html")
    assert re.fullmatch(r".*page\.html \(\d+ kB\)\n", result.stdout)
    text = (tmp_path / "page.html").read_text()
    page = Page(text)
    assert page.headings == SECTIONS
    words = " ".join(" ".join(page.words).split())
    config = json.loads((full_run / "config.json").read_text())
    for name in ("activation", "lr", "epochs", "batch_size", "seed", "classes"):
        assert f"{name} {config[name]}" in words
    accuracy = re.search(r"accuracy +([\d.]+ %)", command("evaluate", full_run).stdout)[1]
    assert f"test accuracy {accuracy}" in words
    assert "a <run> & more" in words
    for expected in (
        "against differences: ok",
        "model.0.weight",
        "Linear weight (64, 8), bias (8,)",
        "Gradient norm of each layer",
        "First-layer weights: all 8 units",
        "Confusion:",
        "training step compiled",
    ):
        assert expected in words
    for link in page.links:
        assert link.startswith(("#", "data:image/png;base64,"))
    assert re.search(r"url\((?!#)|@import", text) is None


def test_a_run_as_it_comes(command, run_folder, tmp_path):
    shutil.copytree(run_folder, tmp_path / "r")
    command("report", "r")
    first = (tmp_path / "r" / "report.html").read_text()
    page = Page(first)
    assert page.headings == SECTIONS
    assert "without a memory budget" in first
    assert "Gradient norm of each layer" in first
    command("report", "r")
    assert (tmp_path / "r" / "report.html").read_text() == first
    command("train", "--out", "r", "--resume")  # the page is not in the way


def test_a_run_without_norms(command, run_folder, tmp_path):
    shutil.copytree(run_folder, tmp_path / "r")
    (tmp_path / "r" / NORMS).unlink()
    command("report", "r")
    assert (
        "At the end of the training, on 60 test images" in (tmp_path / "r/report.html").read_text()
    )


def test_data_that_are_no_images(command, tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.random((60, 7)), np.arange(60) % 2
    np.savez("rows.npz", x_train=x, y_train=y, x_test=x[:20], y_test=y[:20])
    options = ("--hidden", "", "--loss", "mse", "--epochs", 1)
    command("train", "--data", "rows.npz", *options, "--out", "r")
    command("report", "r")
    headings = Page((tmp_path / "r" / "report.html").read_text()).headings
    assert headings == [h for h in SECTIONS if h not in ("Worst mistakes", "First-layer weights")]


def test_no_run(command, tmp_path):
    assert "holds no run" in command("report", tmp_path, code=1).stderr


def opened(page, tmp_path, *options):
    """Open a page in Chromium, which can reach nothing, and return what it prints."""
    command = [
        CHROMIUM,
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--hide-scrollbars",
        "--host-resolver-rules=MAP * ~NOTFOUND",
        f"--user-data-dir={tmp_path / 'profile'}",
        *options,
        page.as_uri(),
    ]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


_LOOK = """<script>
let violations = 0;
document.addEventListener("securitypolicyviolation", () => violations++);
addEventListener("load", () => {
  const boxes = [...document.querySelectorAll("figure svg, figure img")].map(
    e => e.getBoundingClientRect()).map(b => [b.width, b.height]);
  const found = {
    boxes, violations,
    width: document.documentElement.scrollWidth, window: innerWidth,
    broken: [...document.images].filter(i => !i.naturalWidth).length,
    loaded: performance.getEntriesByType("resource").map(e => e.name),
    words: getComputedStyle(document.querySelector("figure svg text")).fill,
    text: document.body.innerText.length,
  };
  document.body.insertAdjacentHTML("beforeend",
    "<pre id=found>" + btoa(JSON.stringify(found)) + "</pre>");
});
</script>"""


@browser
@pytest.mark.parametrize(("width", "dark"), [(1100, False), (600, True)])
def test_in_a_browser(command, full_run, tmp_path, width, dark):
    import base64

    assert CHROMIUM is not None, "no Chromium to open the page with; apt install chromium"
    command("report", full_run, "--out", "page.html")
    page = tmp_path / "page.html"
    # The page lets no script run; a copy lets the one that looks around.
    text = page.read_text().replace(
        "default-src 'none';", "default-src 'none'; script-src 'unsafe-inline';"
    )
    looked_at = tmp_path / "looked-at.html"
    looked_at.write_text(text.replace("<title>", f"{_LOOK}<title>"))
    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    window = f"--window-size={width},1600"
    dom = opened(looked_at, tmp_path, window, scheme, "--dump-dom")
    found = json.loads(base64.b64decode(re.search(r'<pre id="found">([^<]*)', dom)[1]))
    assert found["violations"] == 0
    assert found["loaded"] == []
    assert found["broken"] == 0
    assert found["width"] <= found["window"] == width
    assert len(found["boxes"]) >= 5  # a run without a mistake has no pictures of them
    assert all(100 < w <= width and h > 60 for w, h in found["boxes"])
    assert found["words"] == ("rgb(214, 214, 214)" if dark else "rgb(51, 51, 51)")
    picture = tmp_path / "page.png"
    opened(page, tmp_path, window, scheme, f"--screenshot={picture}")
    _check_picture(picture, dark)


def _check_picture(path, dark):
    from matplotlib.image import imread

    pixels = imread(path)[..., :3]
    ground = np.median(pixels)
    assert ground < 0.15 if dark else ground > 0.95
    assert len(np.unique((pixels * 15).astype(int).reshape(-1, 3), axis=0)) > 50
