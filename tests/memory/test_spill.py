"""Activations on disk: back bit by bit, or an error that names the file."""

import os
import shutil
import stat
import subprocess
import sys

import numpy as np
import pytest

from thriftgrad.errors import SpillError
from thriftgrad.memory.spill import Spill, bandwidth

ARRAYS = {
    "plain": np.arange(12.0).reshape(3, 4),
    "fortran": np.asfortranarray(np.arange(12.0, dtype=np.float32).reshape(3, 4)),
    "axes": np.arange(24).reshape(2, 3, 4).transpose(1, 2, 0),
    "every other": np.arange(24.0)[::2],
    "backwards": np.arange(6.0)[::-1],
    "repeated": np.broadcast_to(np.float32(3), (4, 5)),
    "big and cut": np.arange(600_000.0).reshape(3, 200_000)[:, 1:],
    "empty": np.empty((0, 3)),
    "number": np.array(2.5),
    "scalar": np.float32(1.5),
    "complex": np.array([1 + 2j, np.nan]),
    "flags": np.array([True, False]),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_come_back_in_their_order(name, tmp_path):
    array = ARRAYS[name]
    with Spill(tmp_path) as disk:
        disk.write(7, array)
        back = disk.read(7)
        assert back.dtype == array.dtype
        assert back.tobytes() == array.tobytes()
        assert back.shape == array.shape
        slowest = sorted(range(array.ndim), key=lambda axis: -abs(array.strides[axis]))
        assert np.transpose(back, slowest).flags.c_contiguous
        again = disk.read(7)
        assert not np.shares_memory(back, again)
        assert 7 in disk
        disk.drop(7)
        assert 7 not in disk
        assert not list(disk.folder.iterdir())


def test_the_folder_is_private_and_goes(tmp_path):
    with Spill(tmp_path) as disk:
        disk.write(0, np.zeros(3))
        assert stat.S_IMODE(disk.folder.stat().st_mode) == 0o700
    assert not list(tmp_path.iterdir())
    with pytest.raises(ZeroDivisionError), Spill(tmp_path) as disk:
        disk.write(0, np.zeros(1 // (disk is None)))
    assert not list(tmp_path.iterdir())
    disk = Spill(tmp_path)
    disk.write(0, np.zeros(3))
    del disk
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "end", ["import os, signal; os.kill(os.getpid(), signal.SIGINT)", "1 / 0", ""]
)
def test_a_program_that_ends_leaves_nothing(end, tmp_path):
    code = (
        "import signal, sys, numpy as np; from thriftgrad.memory.spill import Spill\n"
        # Where the tests run in the background, SIGINT is ignored, and what they start inherits that.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "disk = Spill(sys.argv[1]); disk.write(0, np.zeros(9)); print(disk.folder.exists())\n" + end
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert run.stdout == "True\n"
    assert (run.returncode != 0) == bool(end)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("damage", ["flip", "cut", "grow", "remove"])
def test_a_file_that_is_not_what_was_written_is_named(damage, tmp_path):
    with Spill(tmp_path) as disk:
        disk.write(4, np.ones(100))
        path = disk.folder / "4.bin"
        data = path.read_bytes()
        if damage == "flip":
            path.write_bytes(data[:50] + bytes([data[50] ^ 1]) + data[51:])
        elif damage == "cut":
            path.write_bytes(data[:-8])
        elif damage == "grow":
            path.write_bytes(data + b"\0")
        else:
            path.unlink()
        with pytest.raises(SpillError, match=r"4\.bin"):
            disk.read(4)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_an_error_that_names_the_file(tmp_path):
    resource = pytest.importorskip("resource")
    signal = pytest.importorskip("signal")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # the write fails instead
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with Spill(tmp_path) as disk:
            with pytest.raises(SpillError, match=r"800,000 bytes .*3\.bin"):
                disk.write(3, np.zeros(100_000))
            assert not list(disk.folder.iterdir())
            assert 3 not in disk
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path):
    with pytest.raises(SpillError, match="name another one"):
        Spill(tmp_path / "missing")


def test_bandwidth_is_measured_and_leaves_nothing(tmp_path):
    write, read = bandwidth(tmp_path, nbytes=100_000)
    assert 0 < write < 1
    assert 0 < read < 1
    assert not os.listdir(tmp_path)


def test_an_interrupt_while_the_folder_is_removed_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(*args, **kwargs):
        monkeypatch.undo()
        raise KeyboardInterrupt

    disk = Spill(tmp_path)
    disk.write(0, np.arange(4.0))
    monkeypatch.setattr(shutil, "rmtree", interrupted)
    with pytest.raises(KeyboardInterrupt):
        disk.close()
    assert not list(tmp_path.iterdir())
