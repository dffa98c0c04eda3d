"""Runs a study as its command line does, and keeps what its sweeps would send to other processes.

``travelling.py FOLDER STUDY ...`` runs a study; ``travelling.py FOLDER`` is the other process, where all of
that has to arrive.
"""

from __future__ import annotations

import importlib
import runpy
import sys
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

from evodyn.core.pickles import packed, unpacked


def keep(folder: Path, study: str) -> None:
    """Let sweeps keep their function and the kind of its points in the folder."""
    module = importlib.import_module("evodyn.sweeps.sweep")
    outcomes = module.outcomes

    def kept(function: Callable[..., Any], points: Sequence[Any], *how: Any) -> Generator[Any, None, None]:
        if points:
            name = f"{study}.{function.__name__}"
            # Points themselves are plain, but may tell this process alone how far they are.
            (folder / name).write_bytes(packed((function, type(points[0].value)), study))
        yield from outcomes(function, points, *how)

    module.outcomes = kept  # type: ignore[attr-defined]


if __name__ == "__main__":
    folder, script = Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else None
    if script is None:
        for file in sorted(folder.iterdir()):
            function, kind = unpacked(file.read_bytes())
            print(file.name, function.__name__, kind.__name__)
    else:
        del sys.argv[:2]
        keep(folder, Path(script).stem)
        sys.path[0] = str(Path(script).parent)
        runpy.run_path(script, run_name="__main__")
