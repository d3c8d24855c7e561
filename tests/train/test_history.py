"""History: plain columns, a readable table, and a CSV file that gives back the very same numbers."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from thriftgrad.errors import DataError
from thriftgrad.train import Epoch, History

ROWS = [
    Epoch(1, 0.1 + 0.2, 0.5, 1 / 3, 0.25, 1e-3, 0.01),
    Epoch(2, 5e-324, math.nan, math.nan, math.nan, 0.0, 1e9),
]


def test_columns_are_plain_arrays():
    history = History(ROWS)
    assert {name: column.dtype.kind for name, column in history.arrays().items()} == {
        "epoch": "i",
        **dict.fromkeys(Epoch._fields[1:], "f"),
    }
    np.testing.assert_array_equal(history.epoch, [1, 2])
    np.testing.assert_array_equal(history.train_loss, [0.1 + 0.2, 5e-324])
    np.testing.assert_array_equal(history.validation_accuracy, [0.25, np.nan])
    assert len(history) == 2


def test_empty():
    assert len(History()) == 0
    assert History().train_loss.shape == (0,)
    assert repr(History()) == "History of no epochs"


def test_table_has_a_line_an_epoch_of_one_width():
    lines = repr(History(ROWS)).splitlines()
    assert len(lines) == 3
    assert "0.3000" in lines[1]
    assert "25.00 %" in lines[1]
    assert "nan" not in lines[2]


positive = st.floats(min_value=0, allow_infinity=False) | st.just(math.nan)


@given(st.lists(st.tuples(*[positive] * 6), max_size=4))
def test_csv_gives_back_the_same_bits(tmp_path_factory, columns):
    path = tmp_path_factory.mktemp("csv") / "metrics.csv"
    history = History(Epoch(n, *row) for n, row in enumerate(columns, start=1))
    history.to_csv(path)
    again = History.from_csv(path).arrays()
    for name, column in history.arrays().items():
        np.testing.assert_array_equal(again[name], column)


def test_a_failing_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "metrics.csv"
    History(ROWS[:1]).to_csv(path)
    before = path.read_bytes()
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("no")))
    with pytest.raises(OSError, match="no"):
        History(ROWS).to_csv(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.csv"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has the columns \\(none\\); expected epoch, train_loss"),
        (b"a,b\n1,2\n", "has the columns a, b; expected epoch"),
        (b"\xff\xfe", "is not a CSV file"),
        ((",".join(Epoch._fields) + "\n1,2\n").encode(), "line 2: '1,2' is not a line of 7"),
        ((",".join(Epoch._fields) + "\n1,x,,,,,\n").encode(), "line 2"),
        ((",".join(Epoch._fields) + "\n1,2,3,4,5,6,7,8\n").encode(), "line 2"),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    path = tmp_path / "metrics.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        History.from_csv(path)
