"""Learning curves: what is in the picture, without looking at pixels."""

import builtins
import math
import threading
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest

from thriftgrad.errors import ConfigError
from thriftgrad.plots import curves
from thriftgrad.plots._style import _apart
from thriftgrad.train import Epoch, History

NAN = math.nan


def history(n=6, accuracy=True, validation=True, start=1.0):
    return History(
        Epoch(
            i,
            start / i**2,
            1 - 0.2 / i if accuracy else NAN,
            start / i if validation else NAN,
            1 - 0.3 / i if accuracy and validation else NAN,
            0.1,
            1.0,
        )
        for i in range(1, n + 1)
    )


def texts(axes):
    return [text.get_text() for text in axes.texts]


def lines(axes):
    return [line for line in axes.lines if len(line.get_xdata()) > 1]


def test_one_history():
    loss, accuracy = curves(history())
    assert loss.get_yscale() == "log"
    assert accuracy.get_yscale() == "linear"
    training, validation = lines(loss)
    np.testing.assert_allclose(training.get_ydata(), 1 / np.arange(1, 7) ** 2)
    np.testing.assert_allclose(validation.get_ydata(), 1 / np.arange(1, 7))
    np.testing.assert_allclose(lines(accuracy)[1].get_ydata(), 100 * (1 - 0.3 / np.arange(1, 7)))
    assert texts(loss) == ["training 0.0278", "validation 0.167"]
    assert texts(accuracy) == ["validation 95.00 %", "training 96.67 %"]
    assert loss.get_legend() is None


def test_anything_with_the_columns_is_a_history():
    ours = history()
    theirs = SimpleNamespace(**ours.arrays())
    assert texts(curves(theirs)[1]) == texts(curves(ours)[1])


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_files(tmp_path, suffix):
    path = tmp_path / f"curves.{suffix}"
    curves(history(), path)
    head = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[suffix]
    assert path.read_bytes().startswith(head)


def test_without_accuracy_there_is_one_panel():
    (loss,) = curves(history(accuracy=False))
    assert len(lines(loss)) == 2


def test_without_validation_there_is_one_line():
    loss, accuracy = curves(history(validation=False))
    assert [len(lines(axes)) for axes in (loss, accuracy)] == [1, 1]
    assert texts(loss) == ["training 0.0278"]


def test_several_histories_have_a_colour_each():
    loss, _ = curves({"adam": history(), "sgd": history(start=3.0), "blank": History()})
    colours = [line.get_color() for line in lines(loss)]
    assert colours[0] == colours[1] != colours[2] == colours[3]
    assert [text.split()[0] for text in texts(loss)] == ["adam", "sgd"]


@pytest.mark.parametrize("n", [1, 2, 200])
def test_any_number_of_epochs(tmp_path, n):
    curves(history(n), tmp_path / "curves.png")


def test_losses_without_a_logarithm():
    negative = History(
        [Epoch(1, -1.0, NAN, NAN, NAN, 0.1, 1.0), Epoch(2, -2.0, NAN, NAN, NAN, 0.1, 1.0)]
    )
    (loss,) = curves(negative)
    assert loss.get_yscale() == "linear"


def test_into_axes_of_ones_own():
    from matplotlib.figure import Figure

    axes = Figure().subplots(1, 2)
    assert curves(history(), axes=axes) == tuple(axes)
    assert len(lines(axes[0])) == 2


def test_labels_do_not_overlap():
    close = {name: history(start=1 + i / 1000) for i, name in enumerate("abcdef")}
    loss, _ = curves(close)
    loss.figure.canvas.draw()
    boxes = sorted((text.get_window_extent() for text in loss.texts), key=lambda box: box.y0)
    assert all(low.y1 <= high.y0 + 1 for low, high in pairwise(boxes))


def test_moving_apart():
    assert _apart([0.0, 1.0], 0.5) == [0.0, 1.0]
    np.testing.assert_allclose(_apart([0.5, 0.5, 0.5], 0.1), [0.4, 0.5, 0.6])
    np.testing.assert_allclose(_apart([0.0, 0.1, 0.9], 0.3), [-0.1, 0.2, 0.9])
    assert _apart([], 0.1) == []


def test_in_a_thread(tmp_path):
    thread = threading.Thread(target=curves, args=(history(), tmp_path / "curves.png"))
    thread.start()
    thread.join()
    assert (tmp_path / "curves.png").exists()


def test_nothing_to_draw():
    for nothing in (History(), {}, {"a": History()}):
        with pytest.raises(ConfigError, match="no history with an epoch"):
            curves(nothing)


def test_without_matplotlib(monkeypatch):
    original = builtins.__import__

    def absent(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ImportError(f"No module named {name!r}", name=name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(ImportError, match=r"pip install 'thriftgrad\[plots\]'"):
        curves(history())
