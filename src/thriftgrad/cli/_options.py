"""What several commands' options share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from thriftgrad.memory import Update


def one_of(choices: Iterable[str]) -> dict[str, Any]:
    """Return the settings of an option that must be one of `choices`."""

    def check(given: str | None) -> str | None:
        if given is not None and given not in choices:
            raise typer.BadParameter(f"{given!r} is not one of {', '.join(choices)}")
        return given

    return {"callback": check, "metavar": "|".join(choices)}


def parse_update(given: str | None) -> Update:
    """Return when parameters are updated, by its first word."""
    return "during backward" if given == "during" else "after backward"
