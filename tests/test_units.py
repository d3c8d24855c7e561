"""Sizes and times as people write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thriftgrad.errors import ConfigError
from thriftgrad.units import budget_bytes, parse_bytes, show_bytes, show_seconds


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("64", 64),
        ("64B", 64),
        ("1 kB", 1000),
        ("1K", 1000),
        ("2 KiB", 2048),
        ("64 MB", 64_000_000),
        ("64mb", 64_000_000),
        (" 1.5 GiB ", 3 * 2**29),
        ("1,000 MB", 10**9),
        ("1_000", 1000),
        (".5k", 500),
        ("1 TiB", 2**40),
    ],
)
def test_sizes_are_read(text: str, count: int) -> None:
    assert parse_bytes(text) == count
    assert budget_bytes(text) == count


@pytest.mark.parametrize(
    "text", ["", "MB", "sqrt", "every:2", "-1 MB", "1 XB", "1 iB", "1.2.3", "1e6", "∞"]
)
def test_what_is_no_size_is_none(text: str) -> None:
    assert parse_bytes(text) is None
    with pytest.raises(ConfigError, match="expected a number of bytes above 0"):
        budget_bytes(text)


@pytest.mark.parametrize("given", [0, -5, 1.5, True, None, "0 MB"])
def test_a_budget_is_a_whole_number_above_zero(given: object) -> None:
    with pytest.raises(ConfigError, match="expected a number of bytes above 0"):
        budget_bytes(given)  # type: ignore[arg-type]


@given(st.integers(0, 10**15))
def test_a_shown_size_reads_back_to_within_its_three_digits(count: int) -> None:
    back = parse_bytes(show_bytes(count))
    assert back is not None
    assert abs(back - count) <= max(0.0051 * count, 0.5)


@given(st.floats(1e-6, 1e5))
def test_a_shown_time_has_its_value(seconds: float) -> None:
    number, unit = show_seconds(seconds).split()
    back = float(number.replace(",", "")) * {"s": 1, "ms": 1e-3, "µs": 1e-6}[unit]
    assert abs(back - seconds) <= 0.0051 * seconds
