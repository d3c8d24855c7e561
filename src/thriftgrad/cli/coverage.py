"""`thriftgrad coverage`: which NumPy calls are differentiated."""

from __future__ import annotations

from collections import Counter
from difflib import get_close_matches
from typing import Annotated

import typer

from thriftgrad.autodiff import coverage as registry
from thriftgrad.errors import ConfigError


def coverage(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="Functions to look up: np.linalg.svd, svd, expit.", metavar="[NAME]..."
        ),
    ] = None,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the page of the documentation.")
    ] = False,
) -> None:
    """List the NumPy calls that are differentiated, or look some up."""
    if names and markdown:
        raise ConfigError("--markdown prints the whole page; leave the names out")
    if markdown:
        typer.echo(registry.markdown(), nl=False)
        return
    rows = registry.rows()
    if names:
        found = {name: registry.find(name, rows) for name in names}
        for row in dict.fromkeys(row for answer in found.values() for row in answer):
            typer.echo(str(row))
        unknown = [_unknown(name, rows) for name, answer in found.items() if not answer]
        if unknown:
            raise ConfigError("; ".join(unknown))
        return
    width = max(len(row.name) for row in rows)
    for group, title in registry.GROUPS.items():
        members = [row for row in rows if row.group == group]
        if members:
            typer.echo(f"{title}: {_counted(members)}")
            for row in members:
                typer.echo(
                    f"  {row.name:<{width}}  {row.kind}  {', '.join(row.arguments)}".rstrip()
                )
            typer.echo("")
    typer.echo(f"{_counted(rows)}, with {registry.versions()}")


def _counted(rows: list[registry.Row]) -> str:
    counts = Counter(row.kind for row in rows)
    return ", ".join(f"{number} {kind}" for kind, number in sorted(counts.items()))


def _unknown(name: str, rows: list[registry.Row]) -> str:
    names = {row.name.rpartition(".")[2] for row in rows}
    close = get_close_matches(name.rpartition(".")[2], sorted(names), n=3)
    hint = f" (did you mean {', '.join(close)}?)" if close else ""
    return (
        f"{name}: no function of that name is handed to other array types by NumPy, nor has one a "
        f"rule{hint}; a call of it with a tensor is refused"
    )
