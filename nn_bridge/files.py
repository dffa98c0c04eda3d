"""Files that are either there completely or not at all."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

__all__ = ["write_atomically"]


def write_atomically(path: Path, *parts: bytes | memoryview) -> None:
    """Write `parts` to `path`, making its directory if need be; what was there stays until all is written.

    Several processes may write the same file at once: each has a temporary file of its own, and the last
    one to finish wins.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
    try:
        with temporary.open("xb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
