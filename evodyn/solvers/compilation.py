"""How kernels are compiled, and where the result is kept: with numba, of the "fast" extra.

Code that a process compiles itself may round a sum in another order than the same code loaded from a file.
Results would depend on which process ran first. Therefore kernels are compiled in a process of their own, and
all others load what that process left, or do without.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import importlib.metadata
import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

__all__ = ["SOURCES", "compiled", "folder", "prepare", "prepare_if_possible", "ready"]

_KERNELS = (
    "tableaus",
    "vectors",
    "kernels",
    "matrices",
    "interpolants",
    "games",
    "points",
    "journeys",
    "absorption",
    "members",
    "maps",
)
SOURCES = ("compilation.py", *(f"{name}.py" for name in _KERNELS))
"""The files of which compiled code is made."""


@functools.cache
def folder() -> Path:
    """Return where the compiled code of these sources is kept, in the cache of the user.

    Its name depends on all that the code depends on: the sources (numba's own cache does not see that a
    function which a kernel calls has changed), Python, numba and its compiler, and the processor. It does not
    depend on where the package is installed.
    """
    binding: Any = importlib.import_module("llvmlite.binding")
    made_with = (
        f"{sys.version_info[:2]} numba {importlib.metadata.version('numba')} "
        f"llvmlite {importlib.metadata.version('llvmlite')} "
        f"{binding.get_host_cpu_name()} {binding.get_host_cpu_features().flatten()}"
    )
    here = Path(__file__).parent
    digest = hashlib.sha256(b"".join((here / name).read_bytes() for name in SOURCES) + made_with.encode())
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(home) / "evodyn" / f"compiled-{digest.hexdigest()[:16]}"


_FOUND: set[Path] = set()
"""The folders that were found: to look again costs as much as a short step."""


def ready() -> bool:
    """Tell whether kernels can be used at once: numba is there, and they were compiled before."""
    if _FOUND and folder() in _FOUND:
        return True
    if not importlib.util.find_spec("numba"):
        return False
    if folder().exists():
        _FOUND.add(folder())
        # Kernels that were imported before it was there would be compiled in this process.
        for name in _KERNELS:
            sys.modules.pop(f"{__package__}.{name}", None)
    return folder() in _FOUND


def prepare() -> None:
    """Compile kernels in a process of its own, and put the whole result in its place at once.

    Raises
    ------
    OSError
        If the cache of the user cannot be written to, or no process can be started.
    subprocess.CalledProcessError
        If the process failed.
    """
    folder().parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder().parent) as aside:
        paths = os.pathsep.join(filter(None, sys.path))
        subprocess.run(
            [sys.executable, "-c", "from evodyn.compile import compile_here; compile_here()"],
            check=True,
            env={**os.environ, "XDG_CACHE_HOME": aside, "PYTHONPATH": paths},
        )
        try:
            (Path(aside) / "evodyn" / folder().name).rename(folder())
        except OSError:  # another process was faster, which is as good
            if not folder().exists():
                raise


@functools.cache
def prepare_if_possible() -> None:
    """Compile kernels for all processes, unless they are ready; where they cannot be kept, do nothing."""
    if not ready():
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            prepare()


class Kept:
    """Where numba looks for compiled functions and keeps them: in `folder`, once it is there."""

    def __init__(self, line: int) -> None:
        self._line = line

    @classmethod
    def from_function(cls, function: Any, file: str) -> Kept | None:
        """Return the place for a function, or None where nothing can be kept."""
        return cls(function.__code__.co_firstlineno) if os.access(folder(), os.W_OK) else None

    def ensure_cache_path(self) -> None:
        """Do nothing: the folder is there."""

    def get_cache_path(self) -> str:
        """Return the folder."""
        return str(folder())

    def get_source_stamp(self) -> str:
        """Return what changes when a source does."""
        return folder().name

    def get_disambiguator(self) -> str:
        """Return what tells functions of one name apart."""
        return str(self._line)


def compiled(**options: Any) -> Any:
    """Return a decorator that compiles a function, or loads what was kept of it."""
    numba: Any = importlib.import_module("numba")

    def decorate(function: Any) -> Any:
        before = numba.config.CACHE_LOCATOR_CLASSES
        numba.config.CACHE_LOCATOR_CLASSES = f"{__name__}.{Kept.__name__}"
        try:
            return numba.njit(error_model="numpy", nogil=True, cache=True, **options)(function)
        except RuntimeError:  # nothing is kept: compile in every process
            return numba.njit(error_model="numpy", nogil=True, **options)(function)
        finally:
            numba.config.CACHE_LOCATOR_CLASSES = before

    return decorate
