"""What several commands' options share."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import typer

from thriftgrad.cli._config import short

if TYPE_CHECKING:
    from thriftgrad.memory import Update


def one_of(choices: Iterable[str]) -> dict[str, Any]:
    """Return the settings of an option that must be one of `choices`."""

    def check(given: str | None) -> str | None:
        if given is not None and given not in choices:
            raise typer.BadParameter(f"{given!r} is not one of {', '.join(choices)}")
        return given

    return {"callback": check, "metavar": "|".join(choices)}


def at_least(least: int, kind: type[int] | type[float] = int) -> dict[str, Any]:
    """Return the settings of an option that is a finite number, or a whole one, of at least `least`."""

    def parse(given: Any) -> int | float:
        try:
            number = kind(given)
            if least <= number < math.inf:
                return number
        except ValueError:
            pass
        what = "whole number" if kind is int else "finite number"
        raise typer.BadParameter(f"{short(given)} is not a {what} of at least {least}")

    return {"parser": parse, "metavar": "N" if kind is int else "X"}


def parse_update(given: str | None) -> Update:
    """Return when parameters are updated, by its first word."""
    return "during backward" if given == "during" else "after backward"
