"""`thriftgrad report`: all there is to see of a run, in one page that needs no network."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from thriftgrad import __version__
from thriftgrad import train as training
from thriftgrad.cli import _config
from thriftgrad.cli._config import Config
from thriftgrad.cli._images import load_images
from thriftgrad.cli.check import of_run
from thriftgrad.cli.evaluate import trained
from thriftgrad.cli.train import targets
from thriftgrad.data import Split
from thriftgrad.nn import Sequential
from thriftgrad.train import History, Norms
from thriftgrad.train._write import write_text
from thriftgrad.train.snapshot import made_steps

REPORT = "report.html"

_PROBED = 256
"""So many test images tell which units are dead."""


def report(
    run: Annotated[
        Path, typer.Argument(help="Folder of a run, as train makes it.", show_default=False)
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="File to write.  [default: report.html in the folder]", metavar="FILE"),
    ] = None,
) -> None:
    """Write a page with all there is to see of a run.

    That is curves, mistakes, weights, gradients, memory, gradient check and options. It is one file,
    which loads nothing: it can be mailed, and opened without a network.
    """
    path = out or run / REPORT
    page = write_page(run)
    write_text(path, page)
    typer.echo(f"{path} ({len(page.encode()) / 1000:,.0f} kB)")


def write_page(run: Path) -> str:
    """Return the page about a run, as HTML.

    Raises:
        ConfigError, SnapshotError, DataError: the folder holds no run, or a damaged one.
        MissingExtraError: matplotlib is missing.
    """
    from thriftgrad.plots.inline import STYLE

    config, model = trained(run)
    history = History.from_csv(run / _config.METRICS)
    images, _ = load_images(config.data, config.dtype)
    test = images.test
    outputs = training.predict(model, test.x)
    scores = training.evaluate(model, targets(test, config), loss=config.loss_function)

    sections = [
        *_curves(history),
        *_mistakes(test, outputs, config),
        *_weights(model, config),
        *_norms(run, test, model, config),
        *_memory(run, config),
        *_check(run),
        *_setting(run, model, config),
    ]
    facts = {
        "test accuracy": f"{100 * scores.accuracy:.2f} %",
        "test loss": f"{scores.loss:.4f}",
        "epochs": f"{len(history)}" + (f" of {config.epochs}" * (len(history) < config.epochs)),
        "training time": _duration(float(np.sum(history.seconds))),
        "parameters": f"{model.parameter_count:,}",
    }
    cells = "".join(f"<div><dt>{k}</dt><dd>{escape(v)}</dd></div>" for k, v in facts.items())
    name = escape(run.resolve().name)
    links = "".join(f'<a href="#{_anchor(title)}">{escape(title)}</a>' for title, _ in sections)
    body = "".join(
        f'<section id="{_anchor(title)}"><h2>{escape(title)}</h2>{content}</section>'
        for title, content in sections
    )
    return _PAGE.format(
        name=name,
        data=escape("MNIST" if config.data == "mnist" else Path(config.data).name),
        style=STYLE + _STYLE,
        facts=cells,
        links=links,
        body=body,
        version=__version__,
    )


Sections = Iterator[tuple[str, str]]
"""Headings, and the HTML under each."""


def _curves(history: History) -> Sections:
    from thriftgrad import plots

    axes = plots.curves(history)
    yield "Learning curves", _figure(axes[0], "loss and accuracy of each epoch")


def _mistakes(test: Split, outputs: Any, config: Config) -> Sections:
    from thriftgrad import plots

    found = np.argmax(outputs, axis=1)
    names = [str(k) for k in range(config.classes)]
    yield (
        "Which class is taken for which",
        _figure(
            plots.confusion(test.y, found, names),
            "confusion matrix of the test set",
            "The test set, a row for each class. The stronger the colour, the larger the part of the row.",
        ),
    )
    if config.image is not None and np.all(found == test.y):
        yield "Worst mistakes", "<p>There is none in the test set.</p>"
    elif config.image is not None:
        yield (
            "Worst mistakes",
            _figure(
                plots.worst(test.x, test.y, outputs, shape=config.image),
                "test images that are classified worst",
                "Test images whose own class is furthest behind another one, the worst first.",
            ),
        )


def _weights(model: Sequential, config: Config) -> Sections:
    from thriftgrad import plots

    if config.image is not None:
        first = model[0].weight.value
        yield (
            "First-layer weights",
            _figure(
                plots.weights(first, shape=config.image),
                "weights of the first layer as images",
                "Bright pixels on blue raise a unit's output, on orange they lower it.",
            ),
        )


def _norms(run: Path, test: Split, model: Sequential, config: Config) -> Sections:
    title = "Gradients and activations"
    if (run / _config.NORMS).exists():
        norms = Norms.read(run / _config.NORMS)
        yield title, _figure(norms.draw()[0], "norms of gradients and activations of each layer")
        return
    few = Split(test.x[:_PROBED], test.y[:_PROBED])
    norms = Norms(targets(few, config), config.loss_function)
    norms.take(model, 0.0)
    said = norms.said()
    rows = [
        (
            layer,
            f"{norms.gradients[layer][-1]:.3g}" if layer in norms.gradients else "",
            f"{size[-1]:.3g}",
            said.get(layer, ""),
        )
        for layer, size in norms.activations.items()
    ]
    yield (
        title,
        _table(("layer", "gradient norm", "output, root mean square", "quiet units"), rows)
        + f"<p>At the end of the training, on {len(few.x)} test images.</p>",
    )


def _memory(run: Path, config: Config) -> Sections:
    title = "Memory"
    picture = run / _config.MEMORY
    if picture.exists():
        data = b64encode(picture.read_bytes()).decode("ascii")
        alternative = "bytes held during a training step, by kind"
        yield (
            title,
            f'<figure class="paper"><img alt="{alternative}" src="data:image/png;base64,{data}"></figure>',
        )
    elif config.memory is None:
        yield (
            title,
            (
                "<p>Trained without a memory budget, so that there was nothing to plan. With one, as in "
                "<code>thriftgrad train --memory 64MB</code>, the bytes of a step are drawn here.</p>"
            ),
        )
    else:
        yield title, f"<p>The plan for {escape(config.memory)} was not drawn in the training.</p>"


def _check(run: Path) -> Sections:
    said = (
        "Of each array of parameters some entries, and some directions (d) in which all of them change, "
        "are compared with differences of the loss. Norm, mean and max are relative differences; total "
        "is their absolute sum."
    )
    yield "Gradient check", f'<div class="wide">{of_run(run)._repr_html_()}</div><p>{said}</p>'


def _setting(run: Path, model: Sequential, config: Config) -> Sections:
    yield "Model", f'<div class="wide">{model._repr_html_()}</div>'
    options = {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in asdict(config).items()
    }
    steps = made_steps(run / _config.SNAPSHOT)
    if steps:
        options["training step"] = steps
    yield "Configuration", _table((), list(options.items()))


def _figure(axes: Any, description: str, caption: str = "") -> str:
    from thriftgrad.plots.inline import inline_svg

    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f"<figure>{inline_svg(axes, description)}{below}</figure>"


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    heading = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    lines = "".join(
        f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows
    )
    top = f"<thead><tr>{heading}</tr></thead>" if head else ""
    return f'<div class="wide"><table>{top}<tbody>{lines}</tbody></table></div>'


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-")


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"


# The page forbids itself to load anything, whatever may be in it.
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
      content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{name} – thriftgrad</title>
<style>{style}</style>
</head>
<body>
<header><h1>{name}</h1><p>A network that tells the images of {data} apart.</p>
<dl>{facts}</dl><nav>{links}</nav></header>
<main>{body}</main>
<footer>thriftgrad {version}</footer>
</body>
</html>
"""

_STYLE = """
:root{--page:#fff;--text:#222;--soft:#666;--card:#f6f6f4;color-scheme:light dark}
@media (prefers-color-scheme:dark){:root{--page:#161616;--text:#e4e4e4;--soft:#9a9a9a;--card:#212121}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:62rem;padding:2.5rem 1.5rem 4rem;background:var(--page);color:var(--text);
font:16px/1.55 system-ui,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
h1{font-size:2rem;line-height:1.2;margin:0}
h2{font-size:1.25rem;margin:0 0 .9rem}
header p{margin:.2rem 0 1.4rem;color:var(--soft)}
section{margin-top:2.2rem;padding-top:1.6rem;border-top:1px solid var(--faint)}
dl{display:grid;grid-template-columns:repeat(auto-fit,minmax(9rem,1fr));gap:.7rem;margin:0 0 1.2rem}
dl div{background:var(--card);border-radius:.4rem;padding:.7rem .9rem}
dt{font-size:.8rem;color:var(--soft)}
dd{margin:0;font-size:1.3rem;font-weight:600;font-variant-numeric:tabular-nums}
nav{display:flex;flex-wrap:wrap;gap:.3rem 1.1rem;font-size:.9rem}
a{color:var(--c0)}
figure{margin:0}
figure.paper{background:#fff;border-radius:.4rem;padding:.8rem}
figure img{display:block;width:100%;height:auto}
figure svg{display:block;overflow:visible}
figcaption,section p{color:var(--soft);font-size:.9rem;margin:.6rem 0 0}
.wide{overflow-x:auto}
table{border-collapse:collapse;font-size:.85rem;font-variant-numeric:tabular-nums}
th{text-align:left;font-weight:600;color:var(--soft)}
th,td{padding:.28rem 1rem .28rem 0;border-bottom:1px solid var(--faint);white-space:nowrap}
tbody tr:last-child td{border-bottom:0}
footer{margin-top:3rem;color:var(--soft);font-size:.8rem}
@media print{nav{display:none}section{break-inside:avoid}}
"""
