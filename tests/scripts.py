"""Studies and figure scripts as tests run them: in a process of their own, or imported from their file.

They are copies in a temporary folder, for they write beside themselves: no test touches results/ or figures/.
"""

from __future__ import annotations

import atexit
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent

COPY = Path(tempfile.mkdtemp(prefix="evodyn-"))
atexit.register(shutil.rmtree, COPY, ignore_errors=True)
for _folder in ("studies", "paper_figures"):
    shutil.copytree(ROOT / _folder, COPY / _folder, ignore=shutil.ignore_patterns("__pycache__"))

# Warnings are errors, unless the interpreter of the tests was told otherwise (with the oldest libraries).
WARNINGS = [f"-W{option}" for option in sys.warnoptions or ("error",)]


def start(script: str, *arguments: str | Path, columns: int = 200) -> subprocess.Popen[str]:
    """Start a script in a process group of its own, before a terminal of so many columns."""
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    return subprocess.Popen(
        [sys.executable, *WARNINGS, str(COPY / script), *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": paths, "COLUMNS": str(columns)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def call(script: str, *arguments: str | Path, code: int = 0, columns: int = 200) -> tuple[str, str]:
    """Run a script to its end and return what it wrote to standard output and error."""
    process = start(script, *arguments, columns=columns)
    out, err = process.communicate(timeout=300)
    assert process.returncode == code, err
    return out, err


def smoke_run(study: str, paths: pytest.TempPathFactory) -> tuple[Path, str]:
    """Return the folder of a study's smoke run and what it printed."""
    folder = paths.mktemp(study)
    out, _ = call(f"studies/{study}.py", "--smoke", "--out", folder)
    return folder, out


def module(script: str) -> Any:
    """Return a script as a module; it finds its neighbours by where it stands."""
    path = COPY / script
    spec = importlib.util.spec_from_file_location(f"{path.parent.name}_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = made  # where its dataclasses look for their names
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(made)
    finally:
        sys.path.remove(str(path.parent))
    return made


def command_line(study: str) -> Any:
    """Return a study's command line, to be invoked in this process."""
    made = module(f"studies/{study}.py")
    return made._shared.command_line(made.main)
