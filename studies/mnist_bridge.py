"""The paper's experiment on MNIST: three dynamics, then Tables 1 and 2 beside the printed numbers.

By default exactly section 8: a 784-512-256-10 network, 20 epochs, seed 0. With ``--seeds 10`` the tables
get means, 95 % intervals of the mean, and 95 % prediction intervals of one further run; the paper is a
single run, so its numbers are to be judged by the latter.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
import xarray as xr
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

import _shared
import nn_bridge as nb
from _shared import Row
from evodyn.analysis.intervals import interval
from evodyn.core.labels import labelled
from evodyn.model.descriptions import encode
from nn_bridge.paper.experiment import SIGNAL_CLIP, Experiment, paper_dynamics
from nn_bridge.paper.reports import EpochReport
from nn_bridge.paper.runs import Source, data_of, run_all, trained_network
from nn_bridge.paper.tables import comparison

SCHEMA = 1
SMOKE: dict[str, Any] = {"epochs": 2, "train_samples": 2560, "test_samples": 1000}
DYNAMICS = paper_dynamics()
LEVEL = {1: "sparsity_percent", 2: "epsilon"}
MEASURED = {1: ("epsilon", "accuracy", "drop"), 2: ("sparsity_percent", "accuracy", "drop")}
HEADINGS = {"epsilon": "ε", "sparsity_percent": "%", "accuracy": "acc."}


@dataclasses.dataclass(frozen=True)
class Run:
    """One training run of the study.

    Parameters
    ----------
    dynamics : str
        Column of the paper's tables.
    experiment : Experiment
        With its seed.
    """

    dynamics: str
    experiment: Experiment


def main(
    study: _shared.Study,
    dataset: Annotated[str, typer.Option(help="mnist or fashion-mnist.")] = "mnist",
    data_root: Annotated[
        str | None,
        typer.Option(help="Data folder in torchvision's layout; MNIST itself is inside the package."),
    ] = None,
    download: Annotated[
        bool, typer.Option("--download", help="Fetch Fashion-MNIST if it is missing.")
    ] = False,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    threads: Annotated[
        int, typer.Option(min=1, help="Threads of each run; the last bits of a result depend on it.")
    ] = 1,
    seed: _shared.Seed = 0,
    seeds: Annotated[
        int, typer.Option(min=1, max=_shared.MOST_SEEDS, help="How many seeds, counted up from --seed.")
    ] = 1,
) -> None:
    """Run the paper's experiment and print its two tables beside the paper's numbers.

    Writes table1.csv, table2.csv, summary.json, trajectories.nc (masses, histograms and curves of all runs)
    and half.safetensors (the network without half of its groups; half.onnx too, with the extra "onnx") to
    results/mnist_bridge. There is a checkpoint after every epoch: killed at any moment, the same command
    goes on from there, to the same numbers bit for bit. With --scheduler the folder has to be one that
    all machines of the cluster see.
    """
    source = Source(device, threads, data_root, download)
    base: Row = {"dataset": dataset, **(SMOKE if study.smoke else {})}
    runs = [
        Run(name, Experiment(dynamics=dynamics, seed=seed + k, **base))
        for k in range(seeds)
        for name, dynamics in DYNAMICS.items()
    ]
    results = carried_out(study, runs, source)
    half = halved(runs[0].experiment, study.folder, source)
    rows = {number: compared(number, runs, results) for number in (1, 2)}
    intervals = {number: over_seeds(number, rows[number]) for number in (1, 2)} if seeds > 1 else {}
    common = {name: v for name, v in runs[0].experiment.fields().items() if name not in ("dynamics", "seed")}
    specification = {
        "schema": SCHEMA,
        "study": study.name,
        "experiment": common | {"signal_clip": SIGNAL_CLIP},
        "dynamics": list(DYNAMICS),
        "selection": {name: encode(dynamics, {}, name) for name, dynamics in DYNAMICS.items()},
        "seeds": list(range(seed, seed + seeds)),
        "device": device,
        "threads": threads,
    }
    provenance = study.provenance()
    _shared.write_netcdf(
        joined(runs, results),
        study.folder / "trajectories.nc",
        specification=specification,
        provenance=provenance,
    )
    for number in (1, 2):
        _shared.write_csv(rows[number], study.folder / f"table{number}.csv")
        if intervals:
            _shared.write_csv(intervals[number], study.folder / f"table{number}_intervals.csv")
    summary = {
        "specification": specification,
        "dense": [
            {"dynamics": run.dynamics, "seed": run.experiment.seed, "accuracy": float(result["accuracy"][-1])}
            for run, result in zip(runs, results, strict=True)
        ],
        "tables": rows,
        "intervals": intervals,
        "half_removed": half,
        "provenance": provenance,
    }
    _shared.write_json(summary, study.folder / "summary.json")

    console = Console(width=80, highlight=False)
    for number in (1, 2):
        console.print(printed(number, rows[number], seed))
        if intervals:
            console.print(printed_intervals(number, intervals[number], seeds))
    console.print(printed_cost(half))
    if half["after"] is not None:
        onnx = half["same_in_onnxruntime"]
        also = "" if onnx is None else f"; in onnxruntime: {onnx:.2%}"
        console.print(f"Same test predictions as the masked network: {half['same_predictions']:.2%}{also}.")
    console.print(f"Saved in {_shared.shown(study.folder)}.", soft_wrap=True)


def carried_out(study: _shared.Study, runs: Sequence[Run], source: Source) -> list[xr.Dataset]:
    """Return the results of the runs, showing the progress of each."""
    with bars(runs) as show:
        results = run_all(
            [run.experiment for run in runs],
            study.folder / "runs",
            source,
            workers=study.workers,
            scheduler=study.scheduler,
            fresh=study.fresh,
            on_epoch=show,
        )
        for index, result in enumerate(results):  # those from file, and from a cluster
            masses = result["mass"].values[-1]
            loss, accuracy = float(result["loss"][-1]), float(result["accuracy"][-1])
            epochs, living = runs[index].experiment.epochs, int((masses > 0).sum())
            show(index, EpochReport(epochs, loss, accuracy, float(masses.sum()), living))
    return results


@contextlib.contextmanager
def bars(runs: Sequence[Run]) -> Iterator[Callable[[int, EpochReport], None]]:
    """Yield a callback (index, report) that draws one bar for each run on standard error."""
    shown = "{task.fields[accuracy]:6.2%} right  mass {task.fields[mass]:6.1f}  {task.fields[living]} living"
    columns = (TextColumn("{task.description:>19}"), BarColumn(20), MofNCompleteColumn(), TextColumn(shown))
    with Progress(*columns, console=_shared.NOTES) as progress:
        state: Row = {"accuracy": 0.0, "mass": 0.0, "living": "no"}
        tasks = [
            progress.add_task(
                f"{run.dynamics}, seed {run.experiment.seed}", total=run.experiment.epochs, **state
            )
            for run in runs
        ]

        def show(index: int, report: EpochReport) -> None:
            state: Row = {"accuracy": report.accuracy, "mass": report.total_mass, "living": report.living}
            progress.update(tasks[index], completed=report.epoch, **state)

        yield show


def halved(experiment: Experiment, folder: Path, source: Source) -> Row:
    """Remove half of the groups physically, save the smaller network, and return what both cost."""
    model = trained_network(experiment, folder / "runs", source).eval()
    batch = torch.zeros(experiment.batch_size, experiment.widths[0])
    before = dataclasses.asdict(nb.cost(model, batch))
    report = nb.prune_to_sparsity(model, 0.5, allow_empty=True)
    if not all(report.living):  # a layer died out: there is no smaller network
        return {"before": before, "after": None, "same_predictions": None, "same_in_onnxruntime": None}
    nb.save_compact(nb.compact(model), folder / "half.safetensors")
    small = nb.load_compact(folder / "half.safetensors")
    images = data_of(experiment, dataclasses.replace(source, device="cpu")).test_images
    with torch.no_grad():
        predicted = model(images).argmax(1)
        same = (small(images).argmax(1) == predicted).double().mean()
    return {
        "before": before,
        "after": dataclasses.asdict(nb.cost(small, batch)),
        "same_predictions": float(same),
        "same_in_onnxruntime": exported(small, folder / "half.onnx", images, predicted.numpy()),
    }


def exported(small: torch.nn.Module, path: Path, images: torch.Tensor, predicted: np.ndarray) -> float | None:
    """Export the smaller network and return how many predictions onnxruntime shares; None without it."""
    if not importlib.util.find_spec("onnxruntime") or not importlib.util.find_spec("onnxscript"):
        return None
    runtime: Any = importlib.import_module("onnxruntime")
    nb.export_onnx(small, path, images[:2])
    (outputs,) = runtime.InferenceSession(path).run(None, {"input": images.numpy()})
    return float(np.mean(outputs.argmax(axis=1) == predicted))


def compared(number: int, runs: Sequence[Run], results: Sequence[xr.Dataset]) -> list[Row]:
    """Return a table's rows for every seed: the paper's numbers, ours and the differences."""
    by_seed: dict[int, dict[str, xr.Dataset]] = {}
    for run, result in zip(runs, results, strict=True):
        by_seed.setdefault(run.experiment.seed, {})[run.dynamics] = result
    return [{"seed": s} | row for s, found in by_seed.items() for row in comparison(number, found)]


def over_seeds(number: int, rows: Sequence[Row]) -> list[Row]:
    """Return mean and intervals over the seeds for every cell of a table."""
    key, lines = LEVEL[number], []
    for level, dynamics in dict.fromkeys((row[key], row["dynamics"]) for row in rows):
        cell = [row for row in rows if (row[key], row["dynamics"]) == (level, dynamics)]
        for column in MEASURED[number]:
            found, paper = interval([row[f"ours_{column}"] for row in cell]), cell[0][f"paper_{column}"]
            line = {key: level, "dynamics": dynamics, "quantity": column, "paper": paper, "mean": found.mean}
            line |= dict(zip(("mean_low", "mean_high"), found.of_mean, strict=True))
            line |= dict(zip(("next_run_low", "next_run_high"), found.of_next, strict=True))
            lines.append(line | {"paper_within": found.of_next[0] <= paper <= found.of_next[1]})
    return lines


def joined(runs: Sequence[Run], results: Sequence[xr.Dataset]) -> xr.Dataset:
    """Return all runs as one dataset with dimension `run`."""
    data = xr.concat(
        results, dim="run", data_vars="all", coords="different", compat="equals", combine_attrs="drop"
    )
    coordinates = {
        "run": (np.arange(len(results)), "index of the run"),
        "dynamics": ([run.dynamics for run in runs], "dynamics"),
        "seed": ([run.experiment.seed for run in runs], "seed"),
    }
    return data.assign_coords(labelled("run", coordinates))


def narrow(table: Table) -> Table:
    """Return a table with one space between its columns, so that all of them fit."""
    table.padding = (0, 1, 0, 0)
    return table


def printed(number: int, rows: Sequence[Row], seed: int) -> Table:
    """Return the table of one seed: the paper's numbers, ours, and ours less the paper's."""
    key, columns = LEVEL[number], MEASURED[number][:2]
    headings = [f"{HEADINGS[c]} {part}" for c in columns for part in ("paper", "here", "diff.")]
    what = "given % of the groups removed" if number == 1 else "groups below ε removed (%)"
    lines = [
        (
            f"{row[key]:g}",
            row["dynamics"],
            *(
                f"{row[f'{part}_{column}']:{sign}.{1 if column == 'sparsity_percent' else 4}f}"
                for column in columns
                for part, sign in (("paper", ""), ("ours", ""), ("difference", "+"))
            ),
        )
        for row in rows
        if row["seed"] == seed
    ]
    title = f"Table {number}: {what}, seed {seed}"
    return narrow(_shared.table(title, (HEADINGS[key], "dynamics", *headings), lines, left=2))


def printed_intervals(number: int, intervals: Sequence[Row], seeds: int) -> Table:
    """Return the table of means and 95 % intervals."""
    key, lines = LEVEL[number], []
    for row in intervals:
        if row["quantity"] != "drop":
            digits = 1 if row["quantity"] == "sparsity_percent" else 4
            numbers = [f"{row[name]:.{digits}f}" for name in ("paper", "mean")]
            halves = [f"± {row[f'{of}_high'] - row['mean']:.{digits}f}" for of in ("mean", "next_run")]
            inside = "yes" if row["paper_within"] else "no"
            quantity = HEADINGS[row["quantity"]]
            lines.append((f"{row[key]:g}", row["dynamics"], quantity, *numbers, *halves, inside))
    title = f"Table {number} over {seeds} seeds, with half-widths of the 95 % intervals"
    columns = (HEADINGS[key], "dynamics", "", "paper", "mean", "of mean", "of a run", "paper within")
    return narrow(_shared.table(title, columns, lines, left=3))


def printed_cost(half: Row) -> Table:
    """Return the table of what the network costs before and after half of its groups are gone."""
    lines = []
    for name, before in half["before"].items() if half["after"] else ():
        after = half["after"][name]
        shown = [f"{1e3 * v:.3f} ms" if name == "latency" else f"{v:,}" for v in (before, after)]
        lines.append((name.replace("_", " "), *shown, f"{after / before:.1%}"))
    columns = ("cost", "before", "after", "ratio")
    table = _shared.table("Half of the groups removed (replicator)", columns, lines)
    if not lines:
        table.caption = "A whole layer died out: there is no smaller network."
    return table


if __name__ == "__main__":
    _shared.command_line(main)()
