"""Writing a file so that whoever looks, at any moment, finds either the old one or the new one."""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

SUFFIX = ".part"
"""What a file that is being written ends in; a process that is killed may leave one behind."""


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Replace the file at `path` by one that holds `text`."""
    replace(path, lambda temporary: temporary.write_text(text, encoding="utf-8", newline=""))


def replace(path: str | os.PathLike[str], write: Callable[[Path], object]) -> None:
    """Replace the file at `path` by what `write(temporary)` leaves in the file it is given.

    The content has reached the disk before the name points to it, and the name has before this
    returns: neither a killed process nor a lost power supply leaves half a file.

    Raises:
        OSError: the file cannot be written; the one that was there is as it was.
    """
    path = Path(path)
    # One name, not a new one each time: what a killed process has left is then written over.
    temporary = path.with_name(f".{path.name}{SUFFIX}")
    try:
        write(temporary)
        _flush(temporary)
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None:
            # Nobody knows the temporary file by name, and a full disk names none at all.
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    if os.name == "posix":  # elsewhere a folder cannot be opened
        _flush(path.parent)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
