"""The paper's experiment on MNIST: three dynamics, then Tables 1 and 2 beside the printed numbers.

By default exactly section 8: a 784-512-256-10 network, 20 epochs, seed 0. With ``--seeds 10`` the tables
get means, 95 % intervals of the mean, and 95 % prediction intervals of one further run; the paper is a
single run, so its numbers are to be judged by the latter.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
import xarray as xr
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

import _former as _shared
import nn_bridge as nb
from evodyn.core.labels import about
from nn_bridge.paper.experiment import DYNAMICS, EpochReport, Experiment, Source, trained_network
from nn_bridge.paper.parallel import run_all
from nn_bridge.paper.tables import comparison, interval

SCHEMA = 1
SMOKE: dict[str, Any] = {"epochs": 2, "train_samples": 2560, "test_samples": 1000}
LEVEL = {1: "sparsity_percent", 2: "epsilon"}
MEASURED = {1: ("epsilon", "accuracy", "drop"), 2: ("sparsity_percent", "accuracy", "drop")}
HEADINGS = {"epsilon": "ε", "sparsity_percent": "%", "accuracy": "acc."}

Row = dict[str, Any]


def main(
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
    out: _shared.Out = None,
    fresh: _shared.Fresh = False,
    smoke: _shared.Smoke = False,
    workers: _shared.Workers = 1,
    scheduler: _shared.Scheduler = None,
) -> None:
    """Run the paper's experiment and print its two tables beside the paper's numbers.

    Writes table1.csv, table2.csv, summary.json, trajectories.nc (masses, histograms and curves of all runs)
    and half.safetensors (the network without half of its groups; half.onnx too, with the extra "onnx") to
    results/mnist_bridge. There is a checkpoint after every epoch: killed at any moment, the same command
    goes on from there, to the same numbers bit for bit. With --scheduler the folder has to be one that
    all machines of the cluster see.
    """
    started = time.perf_counter()
    base: Row = {"dataset": dataset, **(SMOKE if smoke else {})}
    folder = _shared.folder("mnist_bridge", out=out, smoke=smoke)
    source = Source(device, threads, data_root, download)
    with _shared.reporting():
        if device != "cpu" and not torch.cuda.is_available():
            raise ValueError(f"device is {device!r}, but no CUDA device was found; expected 'cpu'.")
        experiments = [
            Experiment(**{"dynamics": d, "seed": seed + k, **base}) for k in range(seeds) for d in DYNAMICS
        ]
        results = carried_out(
            experiments, folder / "runs", source, workers=workers, scheduler=scheduler, fresh=fresh
        )
        half = halved(experiments[0], folder, source)
    rows = {number: compared(number, experiments, results) for number in (1, 2)}
    intervals = {number: over_seeds(number, rows[number]) for number in (1, 2)} if seeds > 1 else {}

    provenance = _shared.provenance(started)
    specification = {
        "schema": SCHEMA,
        "study": "mnist_bridge",
        "experiment": {k: v for k, v in experiments[0].fields().items() if k not in ("dynamics", "seed")},
        "dynamics": DYNAMICS,
        "seeds": list(range(seed, seed + seeds)),
        "device": device,
        "threads": threads,
    }
    _shared.write_netcdf(
        joined(experiments, results),
        folder / "trajectories.nc",
        specification=specification,
        provenance=provenance,
    )
    for number in (1, 2):
        _shared.write_csv(rows[number], folder / f"table{number}.csv")
        if intervals:
            _shared.write_csv(intervals[number], folder / f"table{number}_intervals.csv")
    summary = {
        "specification": specification,
        "dense": [
            {"dynamics": e.dynamics, "seed": e.seed, "accuracy": float(r["accuracy"][-1])}
            for e, r in zip(experiments, results, strict=True)
        ],
        "tables": rows,
        "intervals": intervals,
        "half_removed": half,
        "provenance": provenance,
    }
    _shared.write_json(summary, folder / "summary.json")

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
    console.print(f"Saved in {_shared.shown(folder)}.", soft_wrap=True)


def carried_out(
    experiments: Sequence[Experiment], folder: Path, source: Source, **options: Any
) -> list[xr.Dataset]:
    """Return the results in the order of the experiments, showing each run's progress."""
    results: dict[int, xr.Dataset] = {}
    with bars(experiments) as show:
        for index, result in run_all(experiments, folder, source, on_epoch=show, **options):
            results[index] = result
            masses = result["mass"].values[-1]
            loss, accuracy = float(result["loss"][-1]), float(result["accuracy"][-1])
            epochs, living = experiments[index].epochs, int((masses > 0).sum())
            show(index, EpochReport(epochs, loss, accuracy, float(masses.sum()), living))
    return [results[index] for index in range(len(experiments))]


@contextlib.contextmanager
def bars(experiments: Sequence[Experiment]) -> Iterator[Callable[[int, EpochReport], None]]:
    """Yield a callback (index, report) that draws one bar for each run on standard error."""
    state = "{task.fields[accuracy]:6.2%} right  mass {task.fields[mass]:6.1f}  {task.fields[living]} living"
    columns = (TextColumn("{task.description:>19}"), BarColumn(20), MofNCompleteColumn(), TextColumn(state))
    with Progress(*columns, console=_shared.NOTES) as progress:
        tasks = [
            progress.add_task(
                f"{e.dynamics}, seed {e.seed}", total=e.epochs, accuracy=0.0, mass=0.0, living="no"
            )
            for e in experiments
        ]

        def show(index: int, report: EpochReport) -> None:
            progress.update(
                tasks[index],
                completed=report.epoch,
                accuracy=report.accuracy,
                mass=report.total_mass,
                living=report.living,
            )

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
    data = nb.load_dataset(experiment.dataset, source.data_root, standardise=experiment.standardise)
    images = data.first(0, experiment.test_samples).test_images
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


def compared(number: int, experiments: Sequence[Experiment], results: Sequence[xr.Dataset]) -> list[Row]:
    """Return a table's rows for every seed: the paper's numbers, ours and the differences."""
    by_seed: dict[int, dict[str, xr.Dataset]] = {}
    for experiment, result in zip(experiments, results, strict=True):
        by_seed.setdefault(experiment.seed, {})[experiment.dynamics] = result
    return [{"seed": s} | row for s, found in by_seed.items() for row in comparison(number, found)]


def over_seeds(number: int, rows: Sequence[Row]) -> list[Row]:
    """Return mean and intervals over the seeds for every cell of a table."""
    key, lines = LEVEL[number], []
    for level, dynamics in dict.fromkeys((row[key], row["dynamics"]) for row in rows):
        cell = [row for row in rows if (row[key], row["dynamics"]) == (level, dynamics)]
        for column in MEASURED[number]:
            found = interval([row[f"ours_{column}"] for row in cell])
            paper = cell[0][f"paper_{column}"]
            line = {key: level, "dynamics": dynamics, "quantity": column, "paper": paper, "mean": found.mean}
            line |= dict(zip(("mean_low", "mean_high"), found.of_mean, strict=True))
            line |= dict(zip(("next_run_low", "next_run_high"), found.of_next, strict=True))
            lines.append(line | {"paper_within": found.of_next[0] <= paper <= found.of_next[1]})
    return lines


def joined(experiments: Sequence[Experiment], results: Sequence[xr.Dataset]) -> xr.Dataset:
    """Return all runs as one dataset with dimension `run`."""
    data = xr.concat(
        results, dim="run", data_vars="all", coords="different", compat="equals", combine_attrs="drop"
    )
    return data.assign_coords(
        run=("run", np.arange(len(results)), about("index of the run")),
        dynamics=("run", [e.dynamics for e in experiments], about("dynamics")),
        seed=("run", [e.seed for e in experiments], about("seed")),
    )


def _table(title: str, left: Sequence[str], right: Sequence[str]) -> Table:
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", padding=(0, 1, 0, 0))
    for name in left:
        table.add_column(name)
    for name in right:
        table.add_column(name, justify="right")
    return table


def printed(number: int, rows: Sequence[Row], seed: int) -> Table:
    """Return the table of one seed: the paper's numbers, ours, and ours less the paper's."""
    key, columns = LEVEL[number], MEASURED[number][:2]
    headings = [f"{HEADINGS[c]} {part}" for c in columns for part in ("paper", "here", "diff.")]
    what = "given % of the groups removed" if number == 1 else "groups below ε removed (%)"
    table = _table(f"Table {number}: {what}, seed {seed}", (HEADINGS[key], "dynamics"), headings)
    for row in rows:
        if row["seed"] == seed:
            cells = [
                f"{row[f'{part}_{column}']:{sign}.{1 if column == 'sparsity_percent' else 4}f}"
                for column in columns
                for part, sign in (("paper", ""), ("ours", ""), ("difference", "+"))
            ]
            table.add_row(f"{row[key]:g}", row["dynamics"], *cells)
    return table


def printed_intervals(number: int, lines: Sequence[Row], seeds: int) -> Table:
    """Return the table of means and 95 % intervals."""
    key = LEVEL[number]
    table = _table(
        f"Table {number} over {seeds} seeds, with half-widths of the 95 % intervals",
        (HEADINGS[key], "dynamics", ""),
        ("paper", "mean", "of mean", "of a run", "paper within"),
    )
    for line in lines:
        if line["quantity"] != "drop":
            digits = 1 if line["quantity"] == "sparsity_percent" else 4
            numbers = [f"{line[name]:.{digits}f}" for name in ("paper", "mean")]
            halves = [f"± {line[f'{of}_high'] - line['mean']:.{digits}f}" for of in ("mean", "next_run")]
            inside = "yes" if line["paper_within"] else "no"
            quantity = HEADINGS[line["quantity"]]
            table.add_row(f"{line[key]:g}", line["dynamics"], quantity, *numbers, *halves, inside)
    return table


def printed_cost(half: Row) -> Table:
    """Return the table of what the network costs before and after half of its groups are gone."""
    table = _table("Half of the groups removed (replicator)", ("cost",), ("before", "after", "ratio"))
    if half["after"] is None:
        table.caption = "A whole layer died out: there is no smaller network."
        return table
    for name, before in half["before"].items():
        after = half["after"][name]
        shown = [f"{1e3 * v:.3f} ms" if name == "latency" else f"{v:,}" for v in (before, after)]
        table.add_row(name.replace("_", " "), *shown, f"{after / before:.1%}")
    return table


if __name__ == "__main__":
    _shared.command_line(main)()
