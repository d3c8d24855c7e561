"""What objects look like in a notebook: well-formed tables that say what `repr` says."""

from xml.etree import ElementTree

import numpy as np
import pytest

import thriftgrad as tg
from thriftgrad.train import Epoch, History


def parsed(thing):
    return ElementTree.fromstring(f"<div>{thing._repr_html_()}</div>")


def said(thing):
    return " ".join(" ".join(parsed(thing).itertext()).split()).replace(" ,", ",")


def test_tensors():
    w = tg.Parameter(np.ones((3, 2), np.float32), name="<w>")
    assert said(w).startswith("Parameter <w>, shape (3, 2), float32, 24 bytes, leaf")
    t = np.sum(w * 2.0)
    assert said(t).startswith("Tensor, shape (), float32, 4 bytes, records 12.")
    t.backward()
    assert "gradient of norm 4.89898" in said(w)
    with tg.no_grad():
        assert "constant" in said(np.sum(w))
    assert len(said(tg.Tensor(np.zeros((100, 100))))) < 700
    tg.grad(lambda x: said(np.sum(x)) and np.sum(x))(np.ones(3))


def test_modules():
    model = tg.nn.Sequential(tg.nn.Sequential(tg.nn.Linear(4, 3), np.tanh), tg.nn.Linear(3, 2))
    assert said(model).startswith("Sequential, 23 parameters, 92 bytes")
    rows = [["".join(td.itertext()) for td in tr] for tr in parsed(model).iter("tr")]
    lines = repr(model).splitlines()[1:]
    assert len(rows) == len(lines)
    for row, line in zip(rows, lines, strict=True):
        assert all(cell in line for cell in row)
    assert said(tg.nn.Linear(4, 3)).startswith("Linear weight (4, 3), bias (3,), 15 parameters")


@pytest.mark.parametrize("n", [0, 1, 40, 41, 1000])
def test_histories(n):
    history = History(
        Epoch(i, 1 / i, 0.5, float("nan"), float("nan"), 0.1, 2.0) for i in range(1, n + 1)
    )
    rows = [[cell.text for cell in tr] for tr in parsed(history).iter("tr")]
    assert len(rows) == 1 + (n if n <= 40 else 31)
    assert rows[0][:3] == ["epoch", "train loss", "accuracy"]
    if n:
        assert rows[-1] == [str(n), f"{1 / n:#.4g}", "50.00 %", "-", "-", "0.1", "2.00"]
    if n > 40:
        assert rows[6] == ["…"] * 7


def test_reports():
    report = tg.check.gradients(lambda x: np.sum(x**2), (np.arange(3.0),))
    assert said(report).startswith("gradient of <lambda>, 3 entries, against")


def test_schedules():
    from thriftgrad.memory.schedule import Action, Kind, Schedule
    from thriftgrad.memory.stages import homogeneous
    from thriftgrad.memory.strategies.revolve import revolve

    schedule = revolve(slots=2)(homogeneous(6))
    cells = list(parsed(schedule).iter("{http://www.w3.org/2000/svg}rect"))
    runs = [str(a) for a in schedule if "drop" not in a.kind]
    assert [cell[0].text for cell in cells] == runs
    # Further along the chain is higher up.
    assert [6 - float(cell.get("y")) for cell in cells] == [int(run.split()[-1]) for run in runs]
    assert said(Schedule((), "<none>")) == "<none>, 0 actions"
    assert len(Schedule((Action(Kind.LOSS, 0),) * 10_000)._repr_html_()) < 100
