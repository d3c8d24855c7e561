"""The picture of norms: two panels that share layers and colours."""

import pytest

from thriftgrad.errors import DataError
from thriftgrad.plots import norms


def test_picture(tmp_path):
    left, right = norms(
        [0, 1, 2],
        {"0 Linear": [1.0, 0.1, 0.0]},
        {"0 Linear": [1.0, 2.0, 3.0], "1 relu": [0.0, 0.0, 0.0]},
        quiet={"1 relu": "6 of 6 units dead"},
        path=tmp_path / "norms.png",
    )
    assert (left.get_yscale(), right.get_yscale()) == ("log", "log")
    assert [t.get_text() for t in left.texts] == ["0 Linear 0"]
    assert "6 of 6 units dead" in right.get_xlabel()
    assert left.lines[0].get_color() == right.lines[0].get_color()


def test_refuses():
    with pytest.raises(DataError, match="at least one layer"):
        norms([0, 1], {}, {"a": [1, 2]})
    with pytest.raises(DataError, match=r"\['a'\] differ in length"):
        norms([0, 1], {"a": [1]}, {"b": [1, 2]})
