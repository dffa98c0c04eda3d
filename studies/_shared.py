"""What all studies share: options, progress, and results written atomically with their provenance."""

from __future__ import annotations

import contextlib
import csv
import json
import logging
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from evodyn.atomic import replacing
from evodyn.files import provenance as origin
from evodyn.sweeps import SweepError

if TYPE_CHECKING:
    import xarray as xr

__all__ = [
    "Fresh",
    "Out",
    "Scheduler",
    "Seed",
    "Seeds",
    "Smoke",
    "Workers",
    "command_line",
    "folder",
    "progress",
    "provenance",
    "reporting",
    "write_csv",
    "write_json",
    "write_netcdf",
]

ROOT = Path(__file__).resolve().parent.parent
NOTES = Console(stderr=True)

Seed = Annotated[int, typer.Option(min=0, help="Base seed; every random number follows from it.")]
Seeds = Annotated[int, typer.Option(min=1, help="How many populations to draw for each setting.")]
Out = Annotated[
    Path | None, typer.Option(help="Folder for the results, in place of results/STUDY.", show_default=False)
]
Fresh = Annotated[bool, typer.Option("--fresh", help="Compute everything again, finished points too.")]
Smoke = Annotated[bool, typer.Option("--smoke", help="A tiny run to see that it works, kept apart.")]
Workers = Annotated[int, typer.Option(min=1, help="Local processes.")]
Scheduler = Annotated[
    str | None,
    typer.Option(
        help="Address of a running Dask scheduler that you trust (tcp://host:8786), in place of --workers.",
        show_default=False,
    ),
]


def command_line(study: Callable[..., None]) -> typer.Typer:
    """Return the command line of a study's main function."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(study)
    return app


@contextlib.contextmanager
def reporting() -> Iterator[None]:
    """Show what the sweep logs, and turn its errors and bad option values into messages with an exit code."""
    handler = RichHandler(console=NOTES, show_time=False, show_level=False, show_path=False)
    log = logging.getLogger("evodyn")
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    except SweepError as error:
        NOTES.print(str(error), markup=False)
        raise typer.Exit(1) from error
    except KeyboardInterrupt:
        NOTES.print("Interrupted. What is finished is kept: the same command goes on from there.")
        raise typer.Exit(130) from None
    finally:
        log.removeHandler(handler)


@contextlib.contextmanager
def progress(description: str) -> Iterator[Callable[[int, int], None]]:
    """Yield a callback (finished, total) that draws a progress bar on standard error."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=NOTES) as bar:
        task = bar.add_task(description, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def folder(study: str, *, out: Path | None, smoke: bool) -> Path:
    """Return where a study's results go: `out`, results/STUDY, or results/quick/STUDY for smoke runs."""
    return out or ROOT / "results" / ("quick" if smoke else "") / study


def shown(path: Path) -> str:
    """Return a path as short as it can be from where the user stands."""
    return os.path.relpath(path)


def provenance(started: float) -> str:
    """Return as JSON where a result comes from; it changes from run to run and is no part of the result.

    Parameters
    ----------
    started : float
        `time.perf_counter` at the start.
    """
    return json.dumps(
        origin()
        | {
            "revision": _revision(),
            "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
            "python": platform.python_version(),
            "wall_seconds": round(time.perf_counter() - started, 3),
        },
        sort_keys=True,
    )


def _revision() -> str | None:
    """Return the commit that the code is at, marked if it was changed since; None outside a repository."""
    git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    return None


def write_netcdf(
    dataset: xr.Dataset, path: Path, *, specification: Mapping[str, Any], provenance: str
) -> None:
    """Write a dataset whose content follows from `specification`; the provenance is kept apart from it."""
    described = json.dumps(specification, sort_keys=True, allow_nan=False)
    with replacing(path) as temporary:
        dataset.assign_attrs(specification=described, provenance=provenance).to_netcdf(
            temporary, engine="h5netcdf"
        )


def write_json(value: Any, path: Path) -> None:
    """Write a value as JSON."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def write_csv(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write rows, all with the keys of the first, as comma-separated values."""
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
