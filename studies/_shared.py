"""What all studies share: options, the way from points to a table, and results with their provenance.

A study is one file: question, scenario, task, table. Its `main` takes a `Study` first, which computes points,
saves and shows; the options of `Study` are added to those of `main` on the command line.
"""

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
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import numpy as np
import typer
from rich import box
from rich import progress as bars
from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table

import evodyn as ed
from evodyn import landscapes
from evodyn.core import netcdf, validation
from evodyn.core.arrays import FloatArray
from evodyn.core.checksums import write_text
from evodyn.core.processes import FolderInUseError, ended_in_order, held
from evodyn.simulate.schema import provenance
from evodyn.sweeps.sweep import SweepError

if TYPE_CHECKING:
    import xarray as xr

__all__ = [
    "DYNAMICS",
    "MOST_SEEDS",
    "Population",
    "Row",
    "Seed",
    "Seeds",
    "Study",
    "command_line",
    "compared",
    "comparison",
    "dynamics",
    "first_population",
    "fitness",
    "progress",
    "row_table",
    "shown",
    "stacked",
    "table",
    "write_csv",
    "write_json",
    "write_netcdf",
]

Row = dict[str, Any]
# The results of a script lie in its clone, those of an installed package where it is called.
INSTALLED = __name__.startswith("evodyn_studies.")
ROOT = Path.cwd() if INSTALLED else Path(__file__).resolve().parent.parent
INDEX = ROOT / "paper_figures" / "_index.py"
NOTES = Console(stderr=True)
LONGEST = 80  # characters in the name of a folder for settings
DYNAMICS = ("replicator", "normalized_growth", "selection_mutation")
"""What Eqs. 6, 7 and 8 (and 12, 13 and 14) are called on the command line and in saved data."""

MOST_SEEDS = 100_000
Seed = Annotated[int, typer.Option(min=0, help="Base seed; every random number follows from it.")]
Seeds = Annotated[
    int, typer.Option(min=1, max=MOST_SEEDS, help="How many populations to draw for each setting.")
]
WITHOUT_EFFECT = {"data_root", "download"}  # options of a study that shape no result


@dataclasses.dataclass(frozen=True)
class Study:
    """A study that was called from the command line: how it computes, and where its results go.

    Parameters
    ----------
    name : str
        Its name.
    settings : mapping
        The options that shape the results and differ from their defaults.
    until_end : ExitStack
        What is released when the study ends.
    out, fresh, smoke, workers, scheduler, draw
        The options that say how and where to compute, and whether to draw.
    """

    name: str
    settings: Mapping[str, Any]
    until_end: contextlib.ExitStack
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the results, in place of results/STUDY/SETTINGS.",
            show_default=False,
        ),
    ] = None
    fresh: Annotated[bool, typer.Option("--fresh", help="Compute finished points again, too.")] = False
    smoke: Annotated[bool, typer.Option("--smoke", help="A tiny run to see it work, kept apart.")] = False
    workers: Annotated[int, typer.Option(min=1, help="Local processes.")] = 1
    scheduler: Annotated[
        str | None,
        typer.Option(
            help="Address of a Dask scheduler that you trust, in place of --workers.", show_default=False
        ),
    ] = None
    draw: Annotated[bool, typer.Option("--draw", help="Draw the figures of these results at the end.")] = (
        False
    )
    started: float = dataclasses.field(default_factory=time.perf_counter, init=False)

    @property
    def home(self) -> Path:
        """Where the results of the defaults go."""
        return ROOT / "results" / ("quick" if self.smoke else "") / self.name

    @functools.cached_property
    def folder(self) -> Path:
        """Where the results go, made if missing and held by this run until it ends.

        That is `out`, else results/STUDY (results/quick/STUDY for smoke runs), and in there a folder of its
        own for settings other than the defaults: figures are drawn from those of the defaults.
        """
        path = self.out or self.home / label(self.settings)
        try:
            self.until_end.enter_context(held(path))
        except OSError as error:
            reason = "it is a file" if isinstance(error, FileExistsError) else error.strerror
            raise typer.BadParameter(
                f"the folder {shown(path)} cannot be written to ({reason}); expected one that can.",
                param_hint="--out",
            ) from error
        if path != self.home and self.out is None:
            NOTES.print(
                f"Not the default settings: the results go to {shown(path)}.", markup=False, soft_wrap=True
            )
        return path

    def sweep(
        self, doing: str, task: Callable[[Any], xr.Dataset], points: Sequence[Any], folder: str = "points"
    ) -> list[xr.Dataset]:
        """Return the task's results at all points, showing how far it is; finished ones come from file."""
        directory = self.folder / folder
        with progress(doing) as bar:
            return ed.sweep(
                task,
                points,
                directory,
                workers=self.workers,
                scheduler=self.scheduler,
                fresh=self.fresh,
                progress=bar,
            )

    def save(self, data: xr.Dataset, rows: Sequence[Row], specification: Row) -> None:
        """Write the data, which follow from the specification, and the rows of the table."""
        write_netcdf(
            data,
            self.folder / f"{self.name}.nc",
            specification=specification | {"study": self.name},
            provenance=self.provenance(),
        )
        write_csv(rows, self.folder / f"{self.name}.csv")

    def show(self, *parts: Table | str) -> None:
        """Print tables and lines, and where the saved files are."""
        where = shown(self.folder / self.name)
        for part in (*parts, f"Table: {where}.csv", f"Data:  {where}.nc"):
            # A table that needs more columns has them: nothing in it is ever cut.
            width = Console(width=1000).measure(part).maximum if isinstance(part, Table) else 0
            Console(width=max(80, width), highlight=False).print(part, soft_wrap=isinstance(part, str))

    def figures(self) -> None:
        """Draw what shows this study alone; of results that lie elsewhere, beside them."""
        where = [str(self.folder)] if self.folder != self.home else ["--quick"] if self.smoke else []
        if subprocess.run([sys.executable, str(INDEX), self.name, *where], check=False).returncode:
            raise typer.Exit(1)

    def provenance(self) -> str:
        """Return as JSON where a result comes from; that changes from run to run and is no part of it."""
        made = provenance() | {
            "revision": _revision(),
            "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
            "python": platform.python_version(),
            "wall_seconds": round(time.perf_counter() - self.started, 3),
        }
        return json.dumps(made, sort_keys=True)


HOW = ("out", "fresh", "smoke", "workers", "scheduler", "draw")  # the options of `Study`


def command_line(main: Callable[..., None]) -> typer.Typer:
    """Return the command line of a study: the options of its main function, and those of `Study`."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    # Paragraphs as single lines, so that the terminal's width breaks them and not the source's.
    paragraphs = inspect.cleandoc(main.__doc__ or "").split("\n\n")

    def command(**options: Any) -> None:
        how = {name: options.pop(name) for name in HOW}
        with contextlib.ExitStack() as stack:
            stack.enter_context(_messages())
            stack.enter_context(ended_in_order())
            stack.enter_context(_logged())
            study = Study(Path(inspect.getfile(main)).stem, _changed(main, options), stack, **how)
            if study.draw and not INDEX.exists():
                raise ValueError(
                    "--draw needs the scripts of paper_figures; expected a clone of the repository."
                )
            main(study, **options)
            if study.draw:
                study.figures()

    _, *own = inspect.signature(main).parameters.values()
    types = {
        name: kind
        for part in (main, Study)
        for name, kind in get_type_hints(part, include_extras=True).items()
    }
    added = [inspect.signature(Study).parameters[name] for name in HOW]
    shape = [p.replace(annotation=types[p.name], kind=p.KEYWORD_ONLY) for p in (*own, *added)]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in shape}
    command.__signature__ = inspect.Signature(shape)  # type: ignore[attr-defined]
    app.command(help="\n\n".join(" ".join(part.split()) for part in paragraphs))(command)
    return app


def _changed(main: Callable[..., None], options: Mapping[str, Any]) -> Row:
    """Return the options that shape the results and differ from their defaults."""

    def canonical(value: Any) -> Any:
        return sorted(set(value)) if isinstance(value, list | tuple) else value

    defaults = {name: parameter.default for name, parameter in inspect.signature(main).parameters.items()}
    return {
        name: options[name]
        for name in defaults
        if name in options and name not in WITHOUT_EFFECT
        if canonical(options[name]) != canonical(defaults[name])
    }


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
def _logged() -> Iterator[None]:
    """Show what sweeps log."""
    handler = RichHandler(console=NOTES, show_time=False, show_level=False, show_path=False)
    log = logging.getLogger("evodyn")
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)


@contextlib.contextmanager
def progress(description: str) -> Iterator[Callable[[int, int], None]]:
    """Yield a callback (finished, total) that draws a progress bar on standard error."""
    parts = (bars.TextColumn("{task.description}"), bars.BarColumn(), bars.MofNCompleteColumn())
    times = (bars.TimeElapsedColumn(), bars.TextColumn("left:"), bars.TimeRemainingColumn())
    with bars.Progress(*parts, *times, console=NOTES) as bar:
        task = bar.add_task(description, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


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


def _revision() -> str | None:
    """Return the commit that the code is at, marked if it was changed since; None outside its clone."""
    if INSTALLED:
        return None
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


def dynamics(
    name: str, groups: int, *, mutation_rate: float = 0.0, signal_clip: float | None = None
) -> ed.Dynamics:
    """Return one of `DYNAMICS` for groups that start with unit mass.

    The cap of Eq. 7 is the mass at the start; the target of Eq. 8 is 1, which conserves that mass.
    """
    validation.choice("dynamics", name, DYNAMICS)
    if name == "replicator":
        return ed.Replicator(signal_clip=signal_clip)
    if name == "normalized_growth":
        return ed.NormalizedGrowth(mass_cap=float(groups), signal_clip=signal_clip)
    return ed.SelectionMutation(mutation_rate, target=1.0, signal_clip=signal_clip)


@dataclasses.dataclass(frozen=True)
class Population:
    """A population of groups that all start with unit mass and differ in their contributions alone."""

    kind: str = "lognormal"
    heterogeneity: float = 1.0
    """Coefficient of variation of the law of the contributions."""
    dynamics: ed.Dynamics = dataclasses.field(default_factory=ed.Replicator)
    decay: float = 0.3
    """λ of Eq. 10; fitness is constant at 0."""
    groups: int = 768
    threshold: float = 1e-3
    """Mass strictly below which a group counts as extinct."""
    t_end: float = 300.0
    saved_times: int = 121
    """0, and a geometric series over three decades up to `t_end`."""
    seed: int = 0
    member: int = 0
    """A population of the seed: the same random numbers at every heterogeneity."""

    def __post_init__(self) -> None:
        self.landscape()  # says what cannot be drawn
        validation.positive("t_end", self.t_end)
        validation.count("saved_times", self.saved_times, least=3)
        if not 0 < self.threshold < 1:
            raise ValueError(
                f"threshold is {self.threshold!r}; expected a mass between 0 and 1, the mass of every group "
                "at the start."
            )

    def contribution(self) -> FloatArray:
        """Return the contributions c_i, shape (N,)."""
        drawn = np.random.SeedSequence(self.seed, spawn_key=(self.member,))
        return landscapes.contributions(self.kind, n=self.groups, heterogeneity=self.heterogeneity, rng=drawn)

    def landscape(self) -> landscapes.Landscape:
        """Return the landscape of Eq. 10; a constant one without decay."""
        return fitness(self.contribution(), self.decay)

    def times(self) -> FloatArray:
        """Return the times to save."""
        later = np.geomspace(1e-3 * self.t_end, self.t_end, self.saved_times - 1)
        later[-1] = self.t_end
        return np.concatenate(([0.0], later))


def fitness(c: FloatArray, decay: float) -> landscapes.Landscape:
    """Return Eq. 10, or constant fitness without a decay."""
    return landscapes.LinearDecay(c, decay) if decay else landscapes.Constant(c)


def table(
    title: str, columns: Iterable[str], lines: Iterable[Sequence[str]], *, left: int = 1, merge: bool = False
) -> Table:
    """Return a table, its first columns aligned to the left; `merge` leaves out a repeated first cell."""
    width = min(len(title) + 1, 80)
    made = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False, min_width=width)
    for k, name in enumerate(columns):
        made.add_column(name, justify="left" if k < left else "right", no_wrap=True)
    former = None
    for first, *others in lines:
        made.add_row("" if merge and first == former else first, *others)
        former = first
    return made


def row_table(
    title: str, columns: Mapping[str, str], rows: Iterable[Row], *, left: int = 1, merge: bool = False
) -> Table:
    """Return a table of rows: heading -> format of its cells, with the keys of a row as fields.

    A cell is a dash where a number is not finite.
    """
    cells = ([cell.format_map(row) for cell in columns.values()] for row in rows)
    lines = (["–" if re.search(r"\b(nan|inf)\b", cell) else cell for cell in line] for line in cells)
    return table(title, columns, lines, left=left, merge=merge)


def compared(theory: float, simulation: float, **labels: Any) -> Row:
    """Return a row: its labels, theory, simulation, and their difference."""
    return labels | {"theory": theory, "simulation": simulation, "difference": simulation - theory}


def first_population(
    rows: Sequence[Row],
    *same: str,
    worst: Callable[[Row, list[float]], float] = lambda row, found: max(found, key=abs),
) -> list[Row]:
    """Return the rows of the first population, with the worst difference of all populations as `worst`.

    Rows of several populations belong together where they have the `same` labels.
    """

    def label(row: Row) -> tuple[Any, ...]:
        return tuple(row[name] for name in same)

    found: dict[tuple[Any, ...], list[float]] = {}
    for row in rows:
        found.setdefault(label(row), []).append(float(row["difference"]))
    return [row | {"worst": worst(row, found[label(row)])} for row in rows if not row["member"]]


def comparison(title: str, rows: Sequence[Row], *, digits: int = 6) -> Table:
    """Return the table theory | simulation | diff. of rows with these keys, `part` and `quantity`."""
    columns = {
        "": "{part}",
        "quantity": "{quantity}",
        "theory": f"{{theory:.{digits}g}}",
        "simulation": f"{{simulation:.{digits}g}}",
        "diff.": "{difference:+.1e}",
    }
    return row_table(title, columns, rows, left=2, merge=True)


def write_netcdf(dataset: xr.Dataset, path: Path, *, specification: Row, provenance: str) -> None:
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
