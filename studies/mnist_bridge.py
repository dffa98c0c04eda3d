"""The paper's experiment on MNIST: three dynamics, then Tables 1 and 2 beside the printed numbers.

By default exactly section 8: a 784-512-256-10 network, 20 epochs, seed 0. With ``--seeds 10`` the tables
get means, 95 % intervals of the mean, and 95 % prediction intervals of one further run; the paper is a
single run, so its numbers are to be judged by the latter.

A checkpoint is written after every epoch: stop or kill the study at any time and start it again, and it
goes on, to the same numbers bit for bit.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
import xarray as xr
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

import nn_bridge as nb
from evodyn.atomic import replacing
from nn_bridge.experiment import DYNAMICS, EpochReport, Experiment, Source, run_all, trained_network
from nn_bridge.paper import comparison, interval

SMOKE = {"epochs": 2, "train_samples": 2560, "test_samples": 1000}
COLUMNS = {1: ("epsilon", "accuracy", "drop"), 2: ("sparsity_percent", "accuracy", "drop")}

console = Console()


def main(
    seed: Annotated[int, typer.Option(help="First seed.")] = 0,
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds, counted up from the first.")] = 1,
    out: Annotated[Path | None, typer.Option(help="Output folder [results/mnist_bridge].")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start again from nothing.")] = False,
    smoke: Annotated[bool, typer.Option("--smoke", help="Two epochs on a slice of the data.")] = False,
    workers: Annotated[int, typer.Option(min=1, help="Runs at a time, each in a process.")] = 1,
    threads: Annotated[
        int, typer.Option(min=1, help="Threads of each run; part of its identity, for it sets the last bits.")
    ] = 1,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    dataset: Annotated[str, typer.Option(help="mnist or fashion-mnist.")] = "mnist",
    data_root: Annotated[
        str | None,
        typer.Option(help="Folder with the data, in torchvision's layout [a cache; MNIST is inside]."),
    ] = None,
    download: Annotated[bool, typer.Option("--download", help="Fetch Fashion-MNIST if missing.")] = False,
) -> None:
    """Run the paper's experiment and print its two tables beside the paper's numbers."""
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise typer.BadParameter("there is no CUDA device here; expected cpu", param_hint="--device")
    folder = out or Path("results", "quick" if smoke else "", "mnist_bridge")
    if dataset != "mnist":
        folder = folder / dataset
    source = Source(device, threads, data_root, download)
    try:
        experiments = [
            Experiment(dynamics=d, seed=s, dataset=dataset, **(SMOKE if smoke else {}))  # type: ignore[arg-type]
            for s in range(seed, seed + seeds)
            for d in DYNAMICS
        ]
        results = carried_out(experiments, folder / "runs", source, workers=workers, fresh=fresh)
    except ValueError as error:
        console.print(f"[red]{error}")
        raise typer.Exit(1) from error

    rows = {
        number: [
            {"seed": s} | row
            for s in range(seed, seed + seeds)
            for row in comparison(
                number, {e.dynamics: r for e, r in zip(experiments, results, strict=True) if e.seed == s}
            )
        ]
        for number in (1, 2)
    }
    half = halved(experiments[0], folder, source)
    for number in (1, 2):
        write_csv(folder / f"table{number}.csv", rows[number])
        console.print(printed(number, [row for row in rows[number] if row["seed"] == seed], seed))
    intervals = {number: over_seeds(number, rows[number]) for number in (1, 2)} if seeds > 1 else {}
    for number, lines in intervals.items():
        write_csv(folder / f"table{number}_intervals.csv", lines)
        console.print(printed_intervals(number, lines, seeds))
    console.print(printed_cost(half))
    write_json(
        folder / "summary.json",
        {
            "experiment": experiments[0].fields(),
            "seeds": list(range(seed, seed + seeds)),
            "source": dataclasses.asdict(source),
            "dense_accuracy": {
                f"{e.dynamics}, seed {e.seed}": float(r["accuracy"][-1])
                for e, r in zip(experiments, results, strict=True)
            },
            "tables": rows,
            "intervals": intervals,
            "half_removed": half,
            "provenance": [json.loads(r.attrs["provenance"]) for r in results],
        },
    )
    write_dataset(folder / "trajectories.nc", experiments, results)
    console.print(f"Saved in {folder}{os.sep}: tables, summary.json, trajectories.nc, half.safetensors.")


def carried_out(
    experiments: Sequence[Experiment], folder: Path, source: Source, *, workers: int, fresh: bool
) -> list[xr.Dataset]:
    """Return the results in the order of the experiments, with a bar for each run that is not done yet."""
    results: dict[int, xr.Dataset] = {}
    bars = Progress(
        TextColumn("{task.description:22}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(
            "accuracy {task.fields[accuracy]:6.2%}  mass {task.fields[mass]:7.2f}  living {task.fields[living]}"
        ),
        TimeRemainingColumn(),
        console=console,
    )
    with bars:
        tasks = [
            bars.add_task(f"{e.dynamics}, seed {e.seed}", total=e.epochs, accuracy=0.0, mass=0.0, living="-")
            for e in experiments
        ]

        def show(index: int, report: EpochReport) -> None:
            bars.update(
                tasks[index],
                completed=report.epoch,
                accuracy=report.accuracy,
                mass=report.total_mass,
                living=report.living,
            )

        for index, result in run_all(
            experiments, folder, source, workers=workers, fresh=fresh, on_epoch=show
        ):
            results[index] = result
            masses = result["mass"].values[-1]
            show(
                index,
                EpochReport(
                    experiments[index].epochs,
                    float(result["loss"][-1]),
                    float(result["accuracy"][-1]),
                    float(masses.sum()),
                    int((masses > 0).sum()),
                ),
            )
    return [results[index] for index in range(len(experiments))]


def halved(experiment: Experiment, folder: Path, source: Source) -> dict[str, Any]:
    """Remove half of the groups physically, save the smaller network, and return what both cost."""
    model = trained_network(experiment, folder / "runs", source).eval()
    dense = nb.cost(model, torch.zeros(128, experiment.widths[0]))
    nb.prune_to_sparsity(model, 0.5, allow_empty=True)
    if not all(bool(layer.masses.any()) for layer in nb.population_layers(model)):
        return {"before": dataclasses.asdict(dense), "after": None}  # a whole layer went: nothing to save
    nb.save_compact(nb.compact(model), folder / "half.safetensors")
    small = nb.load_compact(folder / "half.safetensors")
    data = nb.load_dataset(experiment.dataset, source.data_root, standardise=experiment.standardise).first(
        0, experiment.test_samples
    )
    with torch.no_grad():
        agreeing = (model(data.test_images).argmax(1) == small(data.test_images).argmax(1)).float().mean()
    return {
        "before": dataclasses.asdict(dense),
        "after": dataclasses.asdict(nb.cost(small, torch.zeros(128, experiment.widths[0]))),
        "same_predictions": float(agreeing),
    }


def over_seeds(number: int, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return mean and intervals over the seeds for every cell of a table."""
    key = "sparsity_percent" if number == 1 else "epsilon"
    lines = []
    for level, dynamics in dict.fromkeys((row[key], row["dynamics"]) for row in rows):
        cell = [row for row in rows if (row[key], row["dynamics"]) == (level, dynamics)]
        for column in COLUMNS[number]:
            found = interval([row[f"ours_{column}"] for row in cell])
            paper = cell[0][f"paper_{column}"]
            lines.append(
                {
                    key: level,
                    "dynamics": dynamics,
                    "quantity": column,
                    "paper": paper,
                    "mean": found.mean,
                    "mean_low": found.of_mean[0],
                    "mean_high": found.of_mean[1],
                    "next_run_low": found.of_next[0],
                    "next_run_high": found.of_next[1],
                    "paper_within": found.of_next[0] <= paper <= found.of_next[1],
                }
            )
    return lines


def printed(number: int, rows: Sequence[dict[str, Any]], seed: int) -> Table:
    """Return a table of the paper's numbers, ours and the differences."""
    what = "given fractions removed" if number == 1 else "fixed thresholds"
    table = Table(title=f"Table {number}: {what}, seed {seed} (paper / here / difference)")
    key = "sparsity_percent" if number == 1 else "epsilon"
    for name in (key, "dynamics", *COLUMNS[number]):
        table.add_column(name, justify="left" if name == "dynamics" else "right")
    for row in rows:
        digits = {name: 1 if name == "sparsity_percent" else 4 for name in COLUMNS[number]}
        cells = [
            f"{row[f'paper_{n}']:.{d}f} / {row[f'ours_{n}']:.{d}f} / {row[f'difference_{n}']:+.{d}f}"
            for n, d in digits.items()
        ]
        table.add_row(f"{row[key]:g}", row["dynamics"], *cells)
    return table


def printed_intervals(number: int, lines: Sequence[dict[str, Any]], seeds: int) -> Table:
    """Return a table of means and intervals."""
    table = Table(
        title=f"Table {number} over {seeds} seeds: mean, 95 % intervals of the mean and of one more run"
    )
    key = "sparsity_percent" if number == 1 else "epsilon"
    for name in (key, "dynamics", "quantity", "paper", "mean", "of the mean", "of one run", "paper within"):
        table.add_column(name, justify="left" if name in ("dynamics", "quantity") else "right")
    for line in lines:
        table.add_row(
            f"{line[key]:g}",
            line["dynamics"],
            line["quantity"],
            f"{line['paper']:.4f}",
            f"{line['mean']:.4f}",
            f"{line['mean_low']:.4f} to {line['mean_high']:.4f}",
            f"{line['next_run_low']:.4f} to {line['next_run_high']:.4f}",
            "yes" if line["paper_within"] else "no",
        )
    return table


def printed_cost(half: dict[str, Any]) -> Table:
    """Return a table of what the network costs before and after half of its groups are gone."""
    table = Table(title="Half of the groups removed: cost of the network")
    for name in ("", "before", "after", "ratio"):
        table.add_column(name, justify="left" if not name else "right")
    if half["after"] is None:
        table.caption = "A whole layer went: there is no smaller network."
        return table
    for name, before in half["before"].items():
        after = half["after"][name]
        shown = (f"{1e3 * v:.3f} ms" if name == "latency" else f"{v:,}" for v in (before, after))
        table.add_row(name, *shown, f"{after / before:.1%}")
    table.caption = f"same test predictions as the masked network: {half['same_predictions']:.2%}"
    return table


def write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows with the same keys."""
    with replacing(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write_json(path: Path, content: Any) -> None:
    """Write plain values."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")


def write_dataset(path: Path, experiments: Sequence[Experiment], results: Sequence[xr.Dataset]) -> None:
    """Write all runs in one file, with dimension `run`."""
    joint = xr.concat(results, dim="run", coords="different", compat="equals", combine_attrs="drop")
    joint = joint.assign_coords(
        run=np.arange(len(results)),
        dynamics=("run", [e.dynamics for e in experiments]),
        seed=("run", [e.seed for e in experiments]),
    )
    joint.attrs["schema"] = 1
    joint.attrs["experiment"] = json.dumps(experiments[0].fields())
    with replacing(path) as temporary:
        joint.to_netcdf(temporary, engine="h5netcdf")


if __name__ == "__main__":
    typer.run(main)
