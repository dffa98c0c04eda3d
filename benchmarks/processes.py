"""Code that is measured in a Python process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

__all__ = ["measure"]

ROOT = Path(__file__).resolve().parent.parent


def measure(code: str, environment: Mapping[str, str] | None = None, **values: object) -> dict[str, float]:
    """Run code in a new process, with `values` filled in, and return the numbers that it prints as JSON.

    Raises
    ------
    RuntimeError
        If it fails; the message is the end of what it wrote.
    """
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    done = subprocess.run(
        [sys.executable, "-c", code.format(**values)],
        env={**os.environ, "PYTHONPATH": paths, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-300:])
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found
