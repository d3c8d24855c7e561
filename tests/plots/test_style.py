"""To whom a figure belongs: to nobody, but in a notebook, which is to show it."""

import sys

import numpy as np

from thriftgrad.plots import confusion
from thriftgrad.plots._board import Board


def test_outside_of_notebooks_figures_are_in_no_list(monkeypatch):
    from matplotlib import pyplot

    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    confusion([0, 1], [0, 1])
    assert pyplot.get_fignums() == []


def test_a_notebook_shows_a_picture_below_the_cell_that_draws_it(monkeypatch):
    from matplotlib import pyplot

    monkeypatch.setitem(sys.modules, "ipykernel", sys)
    axes = confusion([0, 1], [0, 1])
    # What is open at the end of a cell is what Jupyter shows, and closes.
    assert [pyplot.figure(number) for number in pyplot.get_fignums()] == [axes.figure]
    pyplot.close("all")


def test_the_live_picture_is_shown_by_live_alone(monkeypatch):
    from matplotlib import pyplot

    monkeypatch.setitem(sys.modules, "ipykernel", sys)
    Board(1, np.zeros((0, 1, 1)), np.zeros(0, int), [])
    assert pyplot.get_fignums() == []
