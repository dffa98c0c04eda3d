"""Writing a file so that it is either complete or not there."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

__all__ = ["PARTIAL", "replacing", "write_bytes"]

PARTIAL = ".partial"
"""Suffix of files that are being written; whoever is killed meanwhile leaves one behind."""


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`, which takes its place when the block ends without an error.

    The content reaches the disk before the name does, so that neither a killed process nor a power cut
    leaves a half-written file under `path`. Missing folders are made.

    Parameters
    ----------
    path : path-like
        The file to write or replace.

    Yields
    ------
    pathlib.Path
        Where to write; removed if the block raises.

    Raises
    ------
    IsADirectoryError
        If there is a folder of that name.

    Examples
    --------
    >>> folder = Path(tempfile.mkdtemp())
    >>> with replacing(folder / "note.txt") as temporary:
    ...     _ = temporary.write_text("done")
    >>> [file.name for file in folder.iterdir()], (folder / "note.txt").read_text()
    (['note.txt'], 'done')
    """
    target = Path(path)
    if target.is_dir():
        raise IsADirectoryError(f"{str(target)!r} is a folder; expected the name of a file, perhaps in it.")
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=PARTIAL, dir=target.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp makes files that only their owner may read; results follow the umask like any other.
        temporary.chmod(0o666 & ~_umask())
        _flush(temporary)
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if os.name == "posix":
        _flush(target.parent)


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Write or replace a file: complete, or not at all.

    Raises
    ------
    OSError
        If it cannot be written, on a full disk for example; the file before is then still there.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def _flush(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on the disk."""
    handle = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
