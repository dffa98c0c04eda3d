"""Text files whose checksums stand beside them, in the form that ``sha256sum --check`` reads."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from evodyn.core.atomic import write_bytes

__all__ = ["SUMS", "read_text", "write_text"]

SUMS = "SHA256SUMS"
"""Name of the file with the checksums of its folder."""


def write_text(path: str | os.PathLike[str], text: str) -> None:
    r"""Write a text file atomically, and enter its checksum into its folder's list.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "table.csv"
    >>> write_text(path, "a,b\n")
    >>> read_text(path)
    ('a,b\n', True)
    """
    path, content = Path(path), text.encode()
    sums = path.with_name(SUMS)
    if _entries(sums).pop(path.name, None) is not None:
        # First of all, so that whoever is killed in between leaves a file without a checksum, not with a
        # wrong one.
        _enter(sums, {k: v for k, v in _entries(sums).items() if k != path.name})
    write_bytes(path, content)
    _enter(sums, _entries(sums) | {path.name: hashlib.sha256(content).hexdigest()})


def read_text(path: str | os.PathLike[str]) -> tuple[str, bool]:
    """Return the content of a file, and whether it has a checksum, which then is right.

    Raises
    ------
    OSError
        If there is no such file, or it cannot be read.
    ValueError
        If it is damaged: it does not match its checksum, or is no text.
    """
    path = Path(path)
    content = path.read_bytes()
    stated = _entries(path.with_name(SUMS)).get(path.name)
    if stated not in (None, hashlib.sha256(content).hexdigest()):
        raise ValueError(
            f"{str(path)!r} does not match its checksum in {SUMS}: it is damaged, or was changed by hand. "
            "Make it again, or delete its line there if the change is meant."
        )
    try:
        return content.decode(), stated is not None
    except UnicodeDecodeError as error:
        raise ValueError(f"{str(path)!r} is damaged: it is no text ({error}).") from error


def _entries(sums: Path) -> dict[str, str]:
    """Return the checksums of a folder by file name."""
    lines = sums.read_text(encoding="utf-8", errors="replace").splitlines() if sums.exists() else []
    pairs = (line.split("  ", 1) for line in lines)
    return {name: checksum for checksum, name in (pair for pair in pairs if len(pair) == 2)}


def _enter(sums: Path, listed: dict[str, str]) -> None:
    lines = [f"{checksum}  {name}\n" for name, checksum in sorted(listed.items())]
    write_bytes(sums, "".join(lines).encode())
