"""The machine that times are of."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path

from benchmarks.libraries import absent, versions

__all__ = ["busy", "described"]


def described() -> dict[str, str]:
    """Return date, processor, load, versions, and the peers that are absent."""
    about = {
        "date": time.strftime("%Y-%m-%d"),
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "python": platform.python_version(),
        "load": ", ".join(f"{load:.1f}" for load in os.getloadavg()),
        "versions": ", ".join(f"{name} {version}" for name, version in versions().items()),
    }
    return about | {"absent peers": ", ".join(absent()) or "none"}


def busy() -> bool:
    """Tell whether the machine has other work to do."""
    return os.getloadavg()[0] > 0.5 * (os.cpu_count() or 1)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
