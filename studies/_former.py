"""What all studies share: options, progress, and results written atomically with their provenance."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import functools
import hashlib
import inspect
import io
import json
import logging
import os
import platform
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from rich import box
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
from rich.table import Table

from evodyn.core import netcdf
from evodyn.core.checksums import write_text
from evodyn.core.processes import FolderInUseError, held
from evodyn.simulate.schema import provenance as origin
from evodyn.sweeps.sweep import SweepError

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
    "comparison",
    "folder",
    "progress",
    "provenance",
    "reporting",
    "stacked",
    "write_csv",
    "write_json",
    "write_netcdf",
]

ROOT = Path(__file__).resolve().parent.parent
NOTES = Console(stderr=True)
WITHOUT_EFFECT = {"out", "fresh", "smoke", "workers", "scheduler", "data_root", "download"}
"""Options that say how and where to compute, and shape no result."""
ENDING = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
LONGEST = 80
"""Characters in the name of a folder for settings."""

Seed = Annotated[int, typer.Option(min=0, help="Base seed; every random number follows from it.")]
MOST_SEEDS = 100_000
Seeds = Annotated[
    int, typer.Option(min=1, max=MOST_SEEDS, help="How many populations to draw for each setting.")
]
Out = Annotated[
    Path | None,
    typer.Option(
        help="Folder for the results, in place of results/STUDY (and results/STUDY/SETTINGS for settings "
        "other than the defaults).",
        show_default=False,
    ),
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


@dataclasses.dataclass(frozen=True)
class Command:
    """A study that was called from the command line.

    Parameters
    ----------
    settings : mapping
        The options that shape the results and differ from their defaults.
    until_end : ExitStack
        What is released when the study ends.
    """

    settings: Mapping[str, Any]
    until_end: contextlib.ExitStack


_running: list[Command] = []
"""The study in this process, if it came from the command line; a study runs no other."""


def command_line(study: Callable[..., None]) -> typer.Typer:
    """Return the command line of a study's main function."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    # Paragraphs as single lines, so that the terminal's width breaks them and not the source's.
    paragraphs = inspect.cleandoc(study.__doc__ or "").split("\n\n")

    @functools.wraps(study)
    def command(**options: Any) -> None:
        with contextlib.ExitStack() as stack:
            stack.enter_context(_messages())
            stack.enter_context(_interrupted_by(*ENDING))
            _running.append(Command(_changed(study, options), stack))
            stack.callback(_running.pop)
            study(**options)

    app.command(help="\n\n".join(" ".join(part.split()) for part in paragraphs))(command)
    return app


def _changed(study: Callable[..., None], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that shape the results and differ from their defaults."""

    def canonical(value: Any) -> Any:
        return sorted(set(value)) if isinstance(value, list | tuple) else value

    parameters = inspect.signature(study).parameters
    return {
        name: options[name]
        for name, parameter in parameters.items()
        if name not in WITHOUT_EFFECT and canonical(options[name]) != canonical(parameter.default)
    }


@contextlib.contextmanager
def _interrupted_by(*signals: int) -> Iterator[None]:
    """Let signals that would end the process at once interrupt it like Ctrl-C, so that it ends in order."""

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    with contextlib.ExitStack() as stack:
        if threading.current_thread() is threading.main_thread():
            for number in signals:
                if signal.getsignal(number) == signal.SIG_DFL:  # nohup, for one, has a signal ignored
                    stack.callback(signal.signal, number, signal.signal(number, interrupt))
        yield


@contextlib.contextmanager
def _messages() -> Iterator[None]:
    """Turn errors that a user can do something about into one message and an exit code."""
    try:
        yield
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    except (SweepError, FolderInUseError, OSError) as error:
        NOTES.print(str(error), markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from error
    except KeyboardInterrupt:
        NOTES.print("Interrupted. What is finished is kept: the same command goes on from there.")
        raise typer.Exit(130) from None


@contextlib.contextmanager
def reporting() -> Iterator[None]:
    """Show what the sweep logs, and turn its errors and bad option values into messages with an exit code."""
    handler = RichHandler(console=NOTES, show_time=False, show_level=False, show_path=False)
    log = logging.getLogger("evodyn")
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        with _messages():
            yield
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
    """Return where a study's results go, made if missing and held by this run until it ends.

    That is `out`, else results/STUDY (results/quick/STUDY for smoke runs), and in there a folder of its own
    for settings other than the defaults: figures are drawn from those of the defaults.
    """
    settings = _running[-1].settings if _running else {}
    path = out or ROOT / "results" / ("quick" if smoke else "") / study / label(settings)
    if _running:
        try:
            _running[-1].until_end.enter_context(held(path))
        except OSError as error:
            reason = "it is a file" if isinstance(error, FileExistsError) else error.strerror
            raise typer.BadParameter(
                f"the folder {shown(path)} cannot be written to ({reason}); expected one that can.",
                param_hint="--out",
            ) from error
        if settings and out is None:
            NOTES.print(
                f"Not the default settings: the results go to {shown(path)}.", markup=False, soft_wrap=True
            )
    return path


def label(settings: Mapping[str, Any]) -> str:
    """Return the name of the folder for settings, empty for the defaults.

    What a name cannot hold, or would make it long, is in a hash at its end.
    """
    full = "_".join(
        f"{name}-{'+'.join(map(str, value)) if isinstance(value, list | tuple) else value}"
        for name, value in settings.items()
    )
    plain = re.sub(r"[^\w.+-]", "", full, flags=re.ASCII)[:LONGEST]
    exact = json.dumps(settings, sort_keys=True, default=str)
    return plain if plain == full else f"{plain}_{hashlib.sha256(exact.encode()).hexdigest()[:8]}"


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


def stacked(results: Sequence[xr.Dataset], axes: Mapping[str, Any]) -> xr.Dataset:
    """Return the results of a sweep as one dataset with a leading dimension for each of `axes`.

    Parameters
    ----------
    results : sequence of Dataset
        All with the same variables and coordinates; the last axis varies fastest.
    axes : mapping
        Name of a dimension -> its coordinate as (name, values, attributes).
    """
    import xarray as xr

    lengths = [len(values) for _, values, _ in axes.values()]
    variables = {
        str(name): (
            (*axes, *first.dims),
            np.stack([result[name].values for result in results]).reshape(*lengths, *first.shape),
            first.attrs,
        )
        for name, first in results[0].data_vars.items()
    }
    return xr.Dataset(variables, {**axes, **results[0].coords})


def comparison(title: str, rows: Sequence[Mapping[str, Any]], *, digits: int = 6) -> Table:
    """Return the table theory | simulation | difference of rows with these keys, `part` and `quantity`."""
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    for name in ("", "quantity"):
        table.add_column(name, no_wrap=True)
    for name in ("theory", "simulation", "difference"):
        table.add_column(name, justify="right", no_wrap=True)
    former = None
    for row in rows:
        table.add_row(
            row["part"] if row["part"] != former else "",
            row["quantity"],
            f"{row['theory']:.{digits}g}",
            f"{row['simulation']:.{digits}g}",
            f"{row['difference']:+.1e}",
        )
        former = row["part"]
    return table


def write_netcdf(
    dataset: xr.Dataset, path: Path, *, specification: Mapping[str, Any], provenance: str
) -> None:
    """Write a dataset whose content follows from `specification`; the provenance is kept apart from it."""
    described = json.dumps(specification, sort_keys=True, allow_nan=False)
    netcdf.write(dataset.assign_attrs(specification=described, provenance=provenance), path)


def write_json(value: Any, path: Path) -> None:
    """Write a value as JSON."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True) + "\n")


def write_csv(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write rows, all with the keys of the first, as comma-separated values."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())
