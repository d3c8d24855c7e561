"""Fixtures for all rooms."""

from collections.abc import Iterator

import pytest

from thriftgrad.autodiff.registry import RULES


@pytest.fixture
def rules_put_back() -> Iterator[None]:
    """Undo what a test does to the registry."""
    before = dict(RULES)
    yield
    RULES.clear()
    RULES.update(before)
