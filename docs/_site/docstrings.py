"""Docstrings as griffe wants them: it knows a section "Examples", and ours have one "Example"."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension


class Examples(Extension):
    """Call the section by the name that is known."""

    def on_object(self, *, obj: Any, **_: Any) -> None:
        """Rename it in one docstring."""
        if obj.docstring:
            obj.docstring.value = re.sub(
                r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE
            )
