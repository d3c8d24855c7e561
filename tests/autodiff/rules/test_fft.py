"""What the cases of the table fft cannot say: what is ignored, and when the table is loaded."""

import subprocess
import sys

import numpy as np
import pytest

import thriftgrad as tg
from thriftgrad.errors import InPlaceError


@pytest.mark.parametrize(("n", "ignored"), [(6, [0, 3]), (7, [0])])
@pytest.mark.parametrize("transform", [np.fft.irfft, np.fft.hfft])
def test_imaginary_parts_that_are_ignored_have_no_gradient(transform, n, ignored):
    rng = np.random.default_rng(0)
    spectrum = rng.normal(size=4) + 1j * rng.normal(size=4)
    weights = rng.normal(size=n)
    g = tg.grad(lambda a: np.sum(transform(a, n) * weights))(spectrum)
    assert [k for k in range(4) if g[k].imag == 0] == ignored


def test_a_frequency_beyond_the_cut_has_no_gradient():
    g = tg.grad(lambda a: np.sum(np.fft.irfft(a, 4) ** 2))(np.ones(5, complex))
    assert np.all(g[3:] == 0)
    assert np.all(g[:1] != 0)


@pytest.mark.parametrize("norm", [None, "backward", "ortho", "forward"])
def test_there_and_back(norm):
    x, w = np.random.default_rng(0).normal(size=(2, 5, 6))

    def round_trip(x):
        return np.sum(np.fft.irfft2(np.fft.rfft2(x, norm=norm), s=x.shape, norm=norm) * w)

    np.testing.assert_allclose(tg.grad(round_trip)(x), w, atol=1e-12)


def test_power_spectrum_by_parseval():
    x = np.random.default_rng(0).normal(size=7)
    g = tg.grad(lambda x: np.sum(np.abs(np.fft.fft(x, norm="ortho")) ** 2))(x)
    np.testing.assert_allclose(g, 2 * x, atol=1e-12)


def test_lengths_without_axes_mean_the_last_axes():
    x = np.random.default_rng(0).normal(size=(2, 3, 4))
    with pytest.warns(DeprecationWarning, match="axes"):
        g = tg.grad(lambda x: np.real(np.sum(np.fft.fftn(x, s=(2, 5)) ** 2)))(x)
    h = tg.grad(lambda x: np.real(np.sum(np.fft.fftn(x, s=(2, 5), axes=(1, 2)) ** 2)))(x)
    np.testing.assert_allclose(g, h)


def test_out_is_refused():
    with pytest.raises(InPlaceError, match="out="):
        tg.grad(lambda x: np.real(np.sum(np.fft.fft(x, out=np.zeros(3, complex)))))(np.ones(3))


def test_the_table_is_loaded_when_it_is_needed():
    code = (
        "import numpy as np, thriftgrad as tg\n"
        "print(tg.grad(lambda x: np.real(np.fft.fft(x)[0]))(np.ones(2)).tolist())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["[1.0,", "1.0]"]
