"""How kernels are compiled, and where the result is kept: with numba, of the "fast" extra.

Compiled code is kept in a folder named after the sources of all kernels, because numba's own cache does not
notice that a function which a kernel calls has changed.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.util
import os
from pathlib import Path
from typing import Any

__all__ = ["SOURCES", "compiled", "folder", "ready"]

SOURCES = ("compilation.py", "tableaus.py", "vectors.py", "kernels.py", "interpolants.py", "journeys.py")
"""The files of which compiled code is made."""


@functools.cache
def folder() -> Path:
    """Return where the compiled code of these sources is kept, in the cache of the user."""
    here = Path(__file__).parent
    digest = hashlib.sha256(b"".join((here / name).read_bytes() for name in SOURCES)).hexdigest()
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(home) / "evodyn" / digest[:16]


_FOUND: set[Path] = set()
"""The folders that were found to be filled: to look again costs as much as a short step."""


def ready() -> bool:
    """Tell whether kernels can be used at once: numba is there, and they were compiled before."""
    if folder() not in _FOUND and (folder() / "done").exists() and importlib.util.find_spec("numba"):
        _FOUND.add(folder())
    return folder() in _FOUND


def compiled(**options: Any) -> Any:
    """Return a decorator that compiles a function and keeps the result in `folder`."""
    numba: Any = importlib.import_module("numba")

    def decorate(function: Any) -> Any:
        before = numba.config.CACHE_DIR
        numba.config.CACHE_DIR = str(folder())
        try:
            return numba.njit(error_model="numpy", nogil=True, cache=True, **options)(function)
        except RuntimeError:  # no folder can be written to: compile in every process
            return numba.njit(error_model="numpy", nogil=True, **options)(function)
        finally:
            numba.config.CACHE_DIR = before

    return decorate
