"""Kernels compiled by Numba, and kept on disk for other processes.

To compile a loop takes some tenths of a second, which each process would pay anew. What is kept is run as
it is, so that it lies in a folder that nobody else can write to.
"""

from __future__ import annotations

import builtins
import hashlib
import os
import stat
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from thriftgrad.compile.kernels import JIT, Kernel
from thriftgrad.errors import ConfigError, MissingExtraError


def require() -> Any:
    """Return the module Numba.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import numba  # type: ignore[import-not-found, import-untyped, unused-ignore]
    except ImportError:
        raise MissingExtraError(
            f"kernels={'numba'!r} needs Numba, which is not installed: pip install 'thriftgrad[fast]'; "
            f"kernels={'numpy'!r} runs without"
        ) from None
    return numba


def check(kernels: str) -> None:
    """Refuse kernels that are not to be had.

    Raises:
        ConfigError: they are neither "numpy" nor "numba".
        MissingExtraError: they are "numba", which is not installed.
    """
    if kernels not in ("numpy", "numba"):
        raise ConfigError(f"kernels = {kernels!r}; expected 'numpy' or 'numba'")
    if kernels == "numba":
        require()


def load(kernel: Kernel) -> Callable[..., None]:
    """Return the function that a kernel is, compiled for its arguments.

    Its machine code is kept in `$XDG_CACHE_HOME/thriftgrad/kernels`, or `~/.cache/thriftgrad/kernels`,
    for this text, these versions and this processor. Where this folder cannot be written, or could be
    written by others, it is compiled in each process, with a warning.

    Raises:
        MissingExtraError: Numba is not installed.
    """
    numba = require()
    types = [numba.types.Array(numba.from_dtype(a.dtype), a.axes, "C") for a in kernel.arguments]
    key = kernel.text, tuple((a.dtype, a.axes) for a in kernel.arguments)
    with _lock:
        if key not in _loaded:
            path = _written(kernel, numba.__version__)
            try:
                function = _compiled(kernel, types, path)
            except Exception:
                if path is None:
                    raise
                with suppress(OSError):  # what was kept is damaged
                    for each in path.parent.glob(f"__pycache__/{path.stem}.*"):
                        each.unlink()
                function = _compiled(kernel, types, None)
            _loaded[key] = function
        return _loaded[key]


_loaded: dict[Any, Callable[..., None]] = {}
_lock = threading.Lock()


def _module(kernel: Kernel) -> str:
    """Return the text of the module that a kernel is kept in."""
    function = kernel.text.replace(JIT, f"{JIT}, cache=True", 1)
    return f"import numpy as np\n{kernel.needs}\n\n\n{function}"


def _compiled(kernel: Kernel, types: Sequence[Any], path: Path | None) -> Callable[..., None]:
    text = _module(kernel)
    if path is None:
        text = text.replace(f"{JIT}, cache=True", JIT)
    name = f"thriftgrad_{kernel.name}"
    filename = f"<{name}>" if path is None else str(path)
    module = ModuleType(name)
    exec(builtins.compile(text, filename, "exec"), vars(module))
    sys.modules[name] = module  # where Numba looks for the globals of what it has kept
    function: Any = getattr(module, kernel.name)
    if hasattr(function, "compile"):  # under NUMBA_DISABLE_JIT it stays a function of Python
        function.compile(tuple(types))
    made: Callable[..., None] = function
    return made


def _written(kernel: Kernel, version: str) -> Path | None:
    """Return the file with the text of a kernel, beside which Numba keeps its machine code."""
    try:
        folder = _folder()
        text = _module(kernel)
        key = f"{text}{version}{np.__version__}{sys.version}"
        path = folder / f"{kernel.name}_{hashlib.sha256(key.encode()).hexdigest()[:16]}.py"
        if path.exists() and path.read_bytes() == text.encode():
            return path
        handle, temporary = tempfile.mkstemp(dir=folder, suffix=".new")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(text.encode())
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
        return path
    except OSError as error:
        _warn_once(str(error))
        return None


def _folder() -> Path:
    """Return the folder for machine code, which nobody else can write to."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):
        base = os.environ.get("LOCALAPPDATA") or os.path.expanduser("~/.cache")
    if not os.path.isabs(base):
        raise OSError("there is no home folder")
    path = Path(base, "thriftgrad", "kernels")
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = os.lstat(path)
    if hasattr(os, "getuid") and (
        not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022
    ):
        raise PermissionError(f"others can write to {path}")
    return path


_warned: set[str] = set()


def _warn_once(reason: str) -> None:
    if not _warned:
        warnings.warn(
            f"compiled kernels are not kept, and each process compiles them anew: {reason}; set "
            f"XDG_CACHE_HOME to a folder of your own",
            RuntimeWarning,
            stacklevel=4,
        )
    _warned.add(reason)
