"""Studies and figure scripts as tests run them: in a process of their own, or imported from their file.

They are copies in a temporary folder, for they write beside themselves: no test touches results/ or figures/.
"""

from __future__ import annotations

import atexit
import csv
import functools
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import xarray as xr
from typer.testing import CliRunner

ROOT = Path(__file__).resolve().parent.parent

COPY = Path(tempfile.mkdtemp(prefix="evodyn-"))
atexit.register(shutil.rmtree, COPY, ignore_errors=True)
for _folder in ("studies", "paper_figures"):
    shutil.copytree(ROOT / _folder, COPY / _folder, ignore=shutil.ignore_patterns("__pycache__"))

# Warnings are errors, unless the interpreter of the tests was told otherwise (with the oldest libraries).
WARNINGS = [f"-W{option}" for option in sys.warnoptions or ("error",)]


def start(
    script: str, *arguments: str | Path, columns: int = 200, by: Sequence[str | Path] = ()
) -> subprocess.Popen[str]:
    """Start a script, `by` another if need be, in a process group and a terminal of its own."""
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    return subprocess.Popen(
        [sys.executable, *WARNINGS, *map(str, by), str(COPY / script), *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": paths, "COLUMNS": str(columns)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def call(script: str, *arguments: str | Path, code: int = 0, **how: Any) -> tuple[str, str]:
    """Run a script to its end and return what it wrote to standard output and error; see `start`."""
    process = start(script, *arguments, **how)
    out, err = process.communicate(timeout=300)
    assert process.returncode == code, err
    return out, err


@functools.cache
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


def study(name: str, folder: Path, *options: str, code: int = 0) -> tuple[str, str]:
    """Run a study in this process, as its command line would; return what it wrote to output and error."""
    made = module(f"studies/{name}.py")
    command = made._shared.command_line(made.main)
    result = CliRunner().invoke(command, ["--out", str(folder), *map(str, options)])
    assert result.exit_code == code, result.output
    return result.stdout, " ".join(result.stderr.replace("│", " ").split())


def saved(folder: Path, name: str) -> tuple[xr.Dataset, list[dict[str, str]]]:
    """Return what a study saved: its data, and the rows of its table."""
    data = xr.load_dataset(folder / f"{name}.nc", engine="h5netcdf", decode_times=False)
    with (folder / f"{name}.csv").open(newline="") as file:
        return data, list(csv.DictReader(file))


def caption(figure: str, folder: Path) -> str:
    """Draw a figure in this process from the data in a folder, and return its caption."""
    import matplotlib.pyplot as plt

    script = module(f"paper_figures/{figure}.py")
    with mock.patch.object(sys, "argv", [f"{figure}.py", str(folder)]), plt.rc_context():
        script.main()
    assert all((folder / f"{figure}.{kind}").stat().st_size > 500 for kind in ("pdf", "png", "txt"))
    return (folder / f"{figure}.txt").read_text()


def fits(printed: str, name: str) -> bool:
    """Tell whether what a study printed, but for the paths of its files, fits into 80 columns."""
    lines = [line for line in printed.splitlines() if f"{name}." not in line]
    return max(map(len, lines)) <= 80 and "…" not in printed
