"""Which reading of section 8 gives the numbers that the paper prints, and which numbers none gives.

The paper does not say how the selection signal is scaled, smoothed or clipped. Here is a family of
readings, a match rule fixed beforehand, and a budget of runs: one factor at a time from two stated bases,
then refined around the best (by their masses alone, replicator, first seed), then ten seeds and all three
dynamics for the literal reading and the best few. Every finished run is one small file: stop or kill the
study at any time and start it again, and it goes on.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
import xarray as xr
from rich import box
from rich.console import Console
from rich.table import Table

import _former as _shared
from evodyn.core.labels import about
from evodyn.sweeps.sweep import SweepError, sweep
from nn_bridge.paper.claims import Claim, claims, clip_floor, duplicated
from nn_bridge.paper.experiment import Experiment
from nn_bridge.paper.readings import (
    BASES,
    EPSILON_TOLERANCE,
    FACTORS,
    SPARSITY_TOLERANCE,
    TARGETS,
    Cell,
    Point,
    Trial,
    cells,
    half_widths,
    mass_score,
    measured,
    name,
    search,
)
from nn_bridge.paper.tables import BASELINE, comparison, interval, printed_table

SCHEMA = 1
BUDGET = 200
FINALISTS = 3
SMOKE: dict[str, Any] = {
    "epochs": 2,
    "train_samples": 640,
    "test_samples": 250,
    "widths": (784, 24, 12, 10),
    "mass_cap": 36.0,
}
SMOKE_BUDGET, SMOKE_SEEDS = 38, 2
# The readings that the project's notes report: what each departs in, its ε at 35 to 50 %, sparsities (in
# percent) at 0.7 to 0.9, and accuracies at 35 and 50 %.
NOTED: tuple[tuple[dict[str, Any], tuple[float, ...], tuple[float, ...], tuple[float, ...]], ...] = (
    ({}, (0.9992, 0.9994, 0.9995, 0.9997), (0, 0, 0), (0.9747, 0.9642)),
    ({"relative": "mean"}, (0.757, 0.781, 0.803, 0.821), (21, 44, 64), (0.9783, 0.9732)),
    ({"relative": "zscore"}, (0.829, 0.837, 0.847, 0.853), (0, 19, 68), (0.9779, 0.9688)),
    ({"summed": True}, (0.897, 0.911, 0.926, 0.937), (0, 8, 36), (0.9748, 0.9688)),
    (
        {"relative": "mean", "smoothing": 0.99},
        (0.6276, 0.6414, 0.6598, 0.6820),
        (52, 57, 61),
        (0.9801, 0.9778),
    ),
    (
        {"relative": "mean", "smoothing": 0.9, "per_sample": True, "standardise": False},
        (0.6284, 0.6370, 0.6589, 0.6922),
        (51, 58, 62),
        (0.9766, 0.9644),
    ),
)
NOTED_WITHIN = {"epsilon": 0.01, "sparsity_percent": 3.0, "accuracy": 0.005}
DIGITS = {"epsilon": 4, "sparsity_percent": 1, "accuracy": 4}
SHOWN = {"epsilon": "ε", "sparsity_percent": "sparsity", "accuracy": "acc."}
UNITS = {"epsilon": EPSILON_TOLERANCE, "sparsity_percent": SPARSITY_TOLERANCE}

Row = dict[str, Any]
Key = tuple[int, float, str, str]

console = Console(width=80, highlight=False)


@dataclasses.dataclass(frozen=True)
class Finalist:
    """A reading with all three dynamics.

    Parameters
    ----------
    experiment : Experiment
        The reading.
    runs : dict
        "replicator", "normalized", "mutation" -> results by seed; the target of mutation is `target`.
    target : "uniform_share" or float
        Of mutation: the one whose masses are closer to the printed ones.
    other_target : xarray.Dataset
        Mutation to the other target, first seed.
    cap_effect : float
        Largest difference between the final masses of normalised growth and the replicator.
    """

    experiment: Experiment
    runs: dict[str, list[xr.Dataset]]
    target: Any
    other_target: xr.Dataset
    cap_effect: float

    @property
    def same(self) -> bool:
        """Whether normalised growth and the replicator agree to the printed digits."""
        return self.cap_effect < 5e-5


def main(
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    budget: Annotated[int, typer.Option(min=1, help="Number of runs, all stages together.")] = BUDGET,
    finalists: Annotated[
        int, typer.Option(min=1, help="Readings with ten seeds, beside the literal.")
    ] = FINALISTS,
    seed: _shared.Seed = 0,
    seeds: Annotated[
        int, typer.Option(min=2, max=_shared.MOST_SEEDS, help="Seeds for the prediction intervals.")
    ] = 10,
    out: _shared.Out = None,
    fresh: _shared.Fresh = False,
    smoke: _shared.Smoke = False,
    workers: _shared.Workers = 1,
    scheduler: _shared.Scheduler = None,
) -> None:
    """Run a family of readings of the paper's experiment and score each against all 48 printed numbers.

    Writes results/paper_readings/: readings.csv (every run), cells.csv (every printed number), claims.csv,
    summary.json and readings.nc (final masses and all measurements).
    """
    started = time.perf_counter()
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise typer.BadParameter("there is no CUDA device here; expected cpu", param_hint="--device")
    if smoke:
        budget, seeds = min(budget, SMOKE_BUDGET), min(seeds, SMOKE_SEEDS)
        finalists = 1
    folder = _shared.folder("paper_readings", out=out, smoke=smoke)
    literal = Experiment(seed=seed, **(SMOKE if smoke else {}))
    runs = Runs(folder / "runs", device=device, workers=workers, scheduler=scheduler, fresh=fresh)
    with _shared.reporting():
        per_finalist = 2 * (seeds - 1) + 3  # replicator and mutation by seed, normalised, the other target
        limit = budget - (finalists + 1) * per_finalist
        if limit < 1:
            raise ValueError(
                f"budget is {budget}; expected more than {(finalists + 1) * per_finalist}, what the last "
                "stage takes: give a larger one, or fewer finalists or seeds."
            )
        bases = [dataclasses.replace(literal, **base) for base in BASES]
        noted = [dataclasses.replace(literal, **changes) for changes, *_ in NOTED]
        if smoke:
            bases, noted = bases[:1], []
        trials = search(runs, bases, limit, others=noted)
        ranked = sorted((t for t in trials if t.result is not None), key=lambda trial: trial.score)
        if not ranked:
            raise ValueError("every run failed; expected finished ones: see the messages above.")
        best = [trial for trial in ranked if trial is not trials[0]][:finalists]
        chosen = [trial for trial in (*best, trials[0]) if trial.result is not None]
        final = [found for trial in chosen if (found := replicated(trial, runs, seeds)) is not None]
        if not final:
            raise ValueError("every finalist failed; expected finished runs: see the messages above.")
    report(folder, trials, final, runs, literal, started)


class Runs:
    """Carries out runs, several at a time, and counts them; finished ones are read from file.

    Parameters
    ----------
    directory : Path
        Where the files are.
    device : str
        "cpu" or "cuda".
    workers : int
        Processes.
    scheduler : str or None
        Address of a Dask scheduler, in place of processes.
    fresh : bool
        Compute finished runs again.
    """

    def __init__(
        self, directory: Path, *, device: str, workers: int, scheduler: str | None, fresh: bool
    ) -> None:
        self.directory, self.device, self.fresh = directory, device, fresh
        self.workers, self.scheduler = workers, scheduler
        self.stages: dict[str, int] = {}
        self.failures: list[Row] = []

    @property
    def count(self) -> int:
        """Number of runs so far."""
        return sum(self.stages.values())

    def __call__(self, stage: str, experiments: Sequence[Experiment]) -> list[xr.Dataset | None]:
        """Return the result of each experiment, None where it failed."""
        points = [Point(experiment, self.device) for experiment in experiments]
        self.stages[stage] = self.stages.get(stage, 0) + len(points)
        failed: dict[int, str] = {}
        try:
            results = self._swept(stage, points, fresh=self.fresh)
        except SweepError as error:  # a reading may diverge; that is a result, the others count
            failed = {id(point): trace for point, trace in error.failures}
            results = self._swept(stage, [point for point in points if id(point) not in failed], fresh=False)
        for point in points:
            if id(point) in failed:
                reason = failed[id(point)].strip().splitlines()[-1]
                self.failures.append({"reading": name(point.experiment), "stage": stage, "error": reason})
        found = iter(results)
        return [None if id(point) in failed else next(found) for point in points]

    def _swept(self, stage: str, points: list[Point], *, fresh: bool) -> list[xr.Dataset]:
        with _shared.progress(stage) as progress:
            return sweep(
                measured,
                points,
                self.directory,
                workers=self.workers,
                scheduler=self.scheduler,
                fresh=fresh,
                progress=progress,
            )


def replicated(trial: Trial, runs: Runs, seeds: int) -> Finalist | None:
    """Return a reading with all its dynamics and seeds; None if one of its runs failed."""
    experiment, first = trial.experiment, trial.result
    numbers = range(experiment.seed + 1, experiment.seed + seeds)
    mutations = [
        dataclasses.replace(experiment, dynamics="mutation", mutation_target=target) for target in TARGETS
    ]
    stage = f"all dynamics: {name(experiment)}"
    found = runs(
        stage,
        [
            *(dataclasses.replace(experiment, seed=number) for number in numbers),
            dataclasses.replace(experiment, dynamics="normalized"),
            *mutations,
        ],
    )
    *more, normalized, one, other = found
    replicator = [result for result in (first, *more) if result is not None]
    if normalized is None or one is None or other is None or len(replicator) < seeds:
        return None
    mutated = (one, other)
    chosen = int(np.argmin([mass_score(result, "mutation") for result in mutated]))
    more = runs(stage, [dataclasses.replace(mutations[chosen], seed=number) for number in numbers])
    return Finalist(
        experiment,
        {
            "replicator": replicator,
            "normalized": [normalized],
            "mutation": [mutated[chosen], *(result for result in more if result is not None)],
        },
        TARGETS[chosen],
        mutated[1 - chosen],
        float(np.abs(replicator[0]["mass"].values - normalized["mass"].values).max()),
    )


def judged(finalist: Finalist, widths: dict[tuple[int, float], float]) -> list[Cell]:
    """Return all 48 cells of a finalist.

    Where the cap did not act, normalised growth is the replicator, and has its intervals.
    """
    found = cells(finalist.runs, widths)
    if not finalist.same:
        return found
    replicator = {cell.key: cell for cell in found}
    return [
        dataclasses.replace(cell, low=twin.low, high=twin.high) if cell.dynamics == "normalized" else cell
        for cell in found
        for twin in [replicator[cell.table, cell.level, "replicator", cell.quantity]]
    ]


def report(
    folder: Path, trials: list[Trial], final: list[Finalist], runs: Runs, literal: Experiment, started: float
) -> None:
    """Score, print and save."""
    widths = half_widths([finalist.runs["replicator"] for finalist in final])
    scored = {name(finalist.experiment): judged(finalist, widths) for finalist in final}
    for trial in trials:
        if trial.result is not None and name(trial.experiment) not in scored:
            scored[name(trial.experiment)] = cells({"replicator": [trial.result]}, widths)
    complete = {name(finalist.experiment): scored[name(finalist.experiment)] for finalist in final}
    best = max(complete, key=lambda reading: sum(cell.reproduced for cell in complete[reading]))
    repeated, trivial = duplicated(), held_by_floor(literal)
    rows = cell_rows(scored, best, repeated, trivial)
    checked = [*claims(), *measured_claims(trials, final)]
    _shared.write_csv(reading_rows(trials, scored), folder / "readings.csv")
    _shared.write_csv(rows, folder / "cells.csv")
    _shared.write_csv([dataclasses.asdict(claim) for claim in checked], folder / "claims.csv")
    specification = {
        "schema": SCHEMA,
        "study": "paper_readings",
        "literal": {key: list(v) if isinstance(v, tuple) else v for key, v in literal.fields().items()},
        "factors": {f.field: [*f.levels, *f.finer] for f in FACTORS},
        "bases": [dict(base) for base in BASES],
        "tolerances": {"epsilon": EPSILON_TOLERANCE, "sparsity_percent": SPARSITY_TOLERANCE},
        "seeds": len(final[0].runs["replicator"]) if final else 0,
        "runs": runs.stages,
    }
    counts = {reading: tally(found, repeated, trivial) for reading, found in complete.items()}
    lines = conclusions(rows, counts, best, trials, final, runs)
    _shared.write_json(
        specification
        | {
            "best": best,
            "counts": counts,
            "failures": runs.failures,
            "conclusions": lines,
            "cells": rows,
            "claims": [dataclasses.asdict(claim) for claim in checked],
        },
        folder / "summary.json",
    )
    _shared.write_netcdf(
        assembled(trials, final),
        folder / "readings.nc",
        specification=specification,
        provenance=_shared.provenance(started),
    )
    for table in (
        family_table(),
        readings_table(trials),
        finalists_table(final, counts),
        *(cells_table(rows, number, best) for number in (1, 2)),
        removal_table(trials, best),
        claims_table(checked),
    ):
        console.print(table)
    for line in lines:
        console.print(f"- {line}")
    console.print(f"Saved in {_shared.shown(folder)}.", soft_wrap=True)


def held_by_floor(literal: Experiment) -> set[Key]:
    """Return the printed sparsities of 0 that hold for any signal: their ε is below the clip floor."""
    whole = dataclasses.replace(literal, epochs=Experiment().epochs, train_samples=None)
    floors = {
        "replicator": clip_floor(whole),
        "normalized": clip_floor(whole),
        "mutation": min(clip_floor(whole, kind="mutation", target=target) for target in TARGETS),
    }
    return {
        (2, row["epsilon"], row["dynamics"], "sparsity_percent")
        for row in printed_table(2)
        if row["sparsity_percent"] == 0 and row["epsilon"] <= floors[row["dynamics"]]
    }


def tally(found: Sequence[Cell], repeated: set[Key], trivial: set[Key]) -> Row:
    """Count reproduced cells: all, distinct ones, and those that do not hold by the clip floor."""
    distinct = [cell for cell in found if cell.key not in repeated]
    telling = [cell for cell in distinct if cell.key not in trivial]
    masses = [cell for cell in telling if cell.quantity != "accuracy"]
    accuracies = [cell for cell in telling if cell.quantity == "accuracy"]
    named = {
        "all": found,
        "distinct": distinct,
        "telling": telling,
        "masses": masses,
        "accuracies": accuracies,
    }
    return {key: [sum(c.reproduced for c in part), len(part)] for key, part in named.items()}


def cell_rows(scored: dict[str, list[Cell]], best: str, repeated: set[Key], trivial: set[Key]) -> list[Row]:
    """Return one row for every printed cell: the best reading's number, and the nearest of all readings."""
    by_key: dict[Key, list[tuple[str, Cell]]] = {}
    for reading, found in scored.items():
        for cell in found:
            by_key.setdefault(cell.key, []).append((reading, cell))
    rows = []
    for mine in scored[best]:
        others = by_key[mine.key]
        reading, nearest = min(others, key=lambda pair: abs(pair[1].difference))
        rows.append(
            {
                "table": mine.table,
                "level": mine.level,
                "dynamics": mine.dynamics,
                "quantity": mine.quantity,
                "distinct": mine.key not in repeated,
                "holds_by_floor": mine.key in trivial,
                "printed": mine.printed,
                "best": mine.ours,
                "best_low": mine.low,
                "best_high": mine.high,
                "best_margin": mine.margin,
                "best_reproduces": mine.reproduced,
                "nearest": nearest.ours,
                "nearest_difference": nearest.difference,
                "nearest_reading": reading,
                "readings": len(others),
                "reproduced_by": sum(cell.reproduced for _, cell in others),
            }
        )
    return rows


def reading_rows(trials: list[Trial], scored: dict[str, list[Cell]]) -> list[Row]:
    """Return one row for every reading: its levels, score, masses and accuracies (replicator)."""
    rows = []
    for trial in trials:
        row: Row = {"reading": name(trial.experiment), "stage": trial.stage, "score": trial.score}
        row |= {factor.field: getattr(trial.experiment, factor.field) for factor in FACTORS}
        found = scored.get(name(trial.experiment), next(iter(scored.values())))
        for cell in found:
            if cell.dynamics == "replicator":
                key = f"table{cell.table}_{cell.level:g}_{cell.quantity}"
                row[key] = None if trial.result is None else cell.ours
        row["dense_accuracy"] = None if trial.result is None else float(trial.result["accuracy"][-1])
        rows.append(row)
    return rows


def assembled(trials: list[Trial], final: list[Finalist]) -> xr.Dataset:
    """Return all runs as one dataset with dimension `run`."""
    labelled: list[tuple[str, str, Any, int, xr.Dataset]] = []
    for trial in trials:
        if trial.result is not None:
            e = trial.experiment
            labelled.append((name(e), "replicator", "", e.seed, trial.result))
    for finalist in final:
        e = finalist.experiment
        for dynamics, results in finalist.runs.items():
            target = str(finalist.target) if dynamics == "mutation" else ""
            for k, result in enumerate(results):
                if dynamics != "replicator" or k:
                    labelled.append((name(e), dynamics, target, e.seed + k, result))
        other = next(str(target) for target in TARGETS if target != finalist.target)
        labelled.append((name(e), "mutation", other, e.seed, finalist.other_target))
    readings, dynamics_of, targets, seeds, _ = zip(*labelled, strict=True)
    joint = xr.concat(
        [result for *_, result in labelled],
        dim="run",
        coords="different",
        compat="equals",
        combine_attrs="drop",
    )
    described = {
        "reading": (readings, "where the reading departs from the literal one"),
        "dynamics": (dynamics_of, "dynamics"),
        "mutation_target": (targets, "target of mutation"),
        "seed": (seeds, "seed"),
    }
    return joint.assign_coords(
        {key: ("run", list(values), about(text)) for key, (values, text) in described.items()}
    )


def measured_claims(trials: list[Trial], final: list[Finalist]) -> list[Claim]:
    """Check the claims that need training, at full size."""
    found: list[Claim] = []
    if trials[0].experiment.train_samples is not None:
        return found
    gaps = [
        (finalist, masses_gap(finalist, 1.0), masses_gap(finalist, "uniform_share"))
        for finalist in final
        if finalist.experiment.clipped == "difference"
    ]
    if gaps:
        finalist, one, share = gaps[0]
        found.append(
            Claim(
                "4",
                "on data: mutation to 1.0 lifts ε by 0.0016 ± 0.0005 at 35 %, mutation to 1/768 lowers it",
                f"{name(finalist.experiment)}: {one:+.4f} and {share:+.4f}",
                abs(one - 0.0016) <= 5e-4 and share < 0,
            )
        )
    lowest = min(
        float(trial.result["mass"].min())
        for trial in trials
        if trial.result is not None and trial.experiment.clipped == "difference"
    )
    floor = clip_floor(trials[0].experiment)
    found.append(
        Claim(
            "5",
            "on data: no mass of any reading with that clip is below the floor",
            f"smallest final mass {lowest:.6f}, floor {floor:.6f}",
            lowest >= floor * (1 - 1e-9),
        )
    )
    cap = ", ".join(f"{name(f.experiment)}: {f.cap_effect:.1g}" for f in final)
    found.append(
        Claim(
            "1",
            "on data: replicator and normalised growth have the same final masses to 4 digits",
            cap,
            all(f.same for f in final),
        )
    )
    results = {name(trial.experiment): trial.result for trial in trials}
    for changes, epsilons, sparsities, accuracies in NOTED:
        experiment = dataclasses.replace(trials[0].experiment, **changes)
        result = results.get(name(experiment))
        if result is not None:
            found.append(noted_claim(name(experiment), result, epsilons, sparsities, accuracies))
    return found


def noted_claim(
    reading: str,
    result: xr.Dataset,
    epsilons: Sequence[float],
    sparsities: Sequence[float],
    accuracies: Sequence[float],
) -> Claim:
    """Compare a run with what the notes report of the same reading from a throw-away script."""
    apart = {
        "epsilon": np.abs(result["epsilon_at_sparsity"].values - epsilons).max(),
        "sparsity_percent": np.abs(100 * result["removed_at_threshold"].values[1:] - sparsities).max(),
        "accuracy": np.abs(result["accuracy_at_sparsity"].values[[0, -1]] - accuracies).max(),
    }
    return Claim(
        "table",
        f"the notes' figures for: {reading}",
        ", ".join(f"{SHOWN[key]} within {value:.{DIGITS[key]}f}" for key, value in apart.items()),
        all(value <= NOTED_WITHIN[key] for key, value in apart.items()),
    )


def masses_gap(finalist: Finalist, target: Any) -> float:
    """Return by how much mutation to a target moves the first threshold of Table 1."""
    run = finalist.runs["mutation"][0] if target == finalist.target else finalist.other_target
    return float(run["epsilon_at_sparsity"][0] - finalist.runs["replicator"][0]["epsilon_at_sparsity"][0])


def conclusions(
    rows: list[Row], counts: Row, best: str, trials: list[Trial], final: list[Finalist], runs: Runs
) -> list[str]:
    """Say in sentences what is established."""
    telling = [row for row in rows if row["distinct"] and not row["holds_by_floor"]]
    held = [row for row in rows if row["distinct"] and row["holds_by_floor"]]
    none = [row for row in telling if not row["reproduced_by"]]
    some = [row for row in telling if row["reproduced_by"] and not row["best_reproduces"]]
    top = min(trials, key=lambda trial: trial.score)
    masses, accuracies = counts[best]["masses"], counts[best]["accuracies"]
    dense = {
        name(f.experiment): interval([float(r["accuracy"][-1]) for r in f.runs["replicator"]]).of_next
        for f in final
    }
    within = [reading for reading, (low, high) in dense.items() if low <= BASELINE <= high]
    lines = [
        *(["Sizes are tiny: nothing here is evidence."] if trials[0].experiment.train_samples else []),
        f"{runs.count} runs ({len(trials)} readings in the search, {len(runs.failures)} failed).",
        f"Of {len(rows)} printed numbers {sum(row['distinct'] for row in rows)} are distinct; {len(held)} of "
        "these hold for any signal, by the clip floor alone.",
        f"Best masses: {name(top.experiment)}, at most {top.score:.2f} tolerances from the printed ones.",
        f"Best single reading: {best}. It reproduces {masses[0]} of {masses[1]} masses and {accuracies[0]} "
        f"of {accuracies[1]} accuracies that are distinct and not given by the floor.",
        f"{len(some)} more are reproduced by some other reading, {len(none)} by none.",
        f"Dense accuracy {BASELINE} is within the prediction interval of "
        f"{', '.join(within) if within else 'no finalist'}.",
    ]
    pruned = [row for row in none if row["quantity"] == "accuracy"]
    if pruned:
        low = min(pruned, key=lambda row: abs(row["nearest_difference"]))
        far = max(pruned, key=lambda row: abs(row["nearest_difference"]))
        lines.append(
            f"{len(pruned)} printed accuracies are out of reach of every reading: the nearest are off by "
            f"{low['nearest_difference']:+.4f} ({where(low)}) to "
            f"{far['nearest_difference']:+.4f} ({where(far)})."
        )
    missed = [row for row in none if row["quantity"] != "accuracy"]
    if missed:
        lines.append(
            "Masses out of reach: " + "; ".join(f"{where(r)} {r['nearest_difference']:+.4g}" for r in missed)
        )
    return lines


def where(row: Row) -> str:
    """Return where a number is printed."""
    return f"Table {row['table']}, {row['dynamics']}, {row['level']:g}"


def family_table() -> Table:
    """Return a table of the factors and their levels."""
    table = Table(
        "factor", "levels (literal first; finer ones in brackets)", title="The family", box=box.SIMPLE
    )
    for factor in FACTORS:
        finer = f" [{', '.join(map(str, factor.finer))}]".replace("[", "\\[") if factor.finer else ""
        table.add_row(factor.field, ", ".join(map(str, factor.levels)) + finer)
    table.add_row("mutation_target", ", ".join(map(str, reversed(TARGETS))) + " (mutation alone)")
    table.add_row("removal", "smallest of all, of each layer; random as a control")
    return table


def readings_table(trials: list[Trial], shown: int = 15) -> Table:
    """Return a table of the best readings by masses and of the start."""
    ranked = sorted(trials, key=lambda trial: trial.score)
    chosen = ranked[:shown] + [trial for trial in ranked[shown:] if trial.stage == "start"]
    table = Table(
        title=f"Masses of the replicator: the best of {len(trials)} readings, and the start",
        caption="score: largest distance from a printed mass, in tolerances; 0.7-0.9: removed, %",
        box=box.SIMPLE,
        padding=0,
    )
    for heading in ("reading", "score", "ε 35", "40", "45", "50 %", "0.7", "0.8", "0.9", "acc.50"):
        left = heading == "reading"
        table.add_column(heading, justify="left" if left else "right", min_width=26 if left else None)
    printed = {
        number: {next(iter(r.values())): r for r in printed_table(number) if r["dynamics"] == "replicator"}
        for number in (1, 2)
    }
    table.add_row(
        "paper",
        "",
        *(f"{row['epsilon']:.4f}"[1:] for row in printed[1].values()),
        *(f"{printed[2][level]['sparsity_percent']:.1f}" for level in (0.7, 0.8, 0.9)),
        f"{printed[1][50.0]['accuracy']:.4f}"[1:],
        style="bold",
    )
    for trial in chosen:
        if trial.result is None:
            continue
        found = trial.result
        table.add_row(
            name(trial.experiment),
            f"{trial.score:.2f}",
            *(f"{value:.4f}".lstrip("0")[:5] for value in found["epsilon_at_sparsity"].values),
            *(f"{100 * value:.1f}" for value in found["removed_at_threshold"].values[1:]),
            f"{float(found['accuracy_at_sparsity'][-1]):.4f}".lstrip("0"),
        )
    return table


def finalists_table(final: list[Finalist], counts: Row) -> Table:
    """Return a table of what each finalist reproduces."""
    seeds = len(final[0].runs["replicator"])
    table = Table(
        title=f"Cells reproduced by each finalist ({seeds} seeds)",
        caption="telling: distinct, and not given by the clip floor",
        box=box.SIMPLE,
    )
    for heading in (
        "reading",
        "all",
        "distinct",
        "telling",
        "masses",
        "acc.",
        "dense acc., one run",
    ):
        table.add_column(heading, justify="left" if heading == "reading" else "right")
    for finalist in final:
        reading = name(finalist.experiment)
        low, high = interval([float(r["accuracy"][-1]) for r in finalist.runs["replicator"]]).of_next
        table.add_row(
            reading, *("{}/{}".format(*pair) for pair in counts[reading].values()), f"{low:.4f} to {high:.4f}"
        )
    return table


def cells_table(rows: list[Row], number: int, best: str) -> Table:
    """Return a table of the distinct cells of Table 1 or 2."""
    table = Table(
        title=f"Table {number}, distinct cells: {best}, and the nearest of all readings",
        caption="* holds by the clip floor; margin beyond what is reproduced (negative: inside)",
        box=box.SIMPLE,
        padding=(0, 1, 0, 0),
    )
    for heading in ("", "dyn.", "what", "paper", "best", "margin", "ok", "nearest", "off", "by"):
        table.add_column(heading, justify="left" if heading in ("dyn.", "what") else "right")
    for row in rows:
        if row["table"] != number or not row["distinct"]:
            continue
        digits = DIGITS[row["quantity"]]
        table.add_row(
            f"{row['level']:g}",
            {"replicator": "repl.", "mutation": "mut."}.get(row["dynamics"], row["dynamics"]),
            SHOWN[row["quantity"]] + ("*" if row["holds_by_floor"] else ""),
            f"{row['printed']:.{digits}f}",
            f"{row['best']:.{digits}f}",
            f"{row['best_margin']:+.{digits}f}",
            "yes" if row["best_reproduces"] else "no",
            f"{row['nearest']:.{digits}f}",
            f"{row['nearest_difference']:+.{digits}f}",
            f"{row['reproduced_by']}/{row['readings']}",
        )
    return table


def removal_table(trials: list[Trial], best: str) -> Table:
    """Return a table of pruned accuracies by which groups are removed, the best reading's and the nearest."""
    done = {name(trial.experiment): trial.result for trial in trials if trial.result is not None}
    table = Table(
        title="Accuracy by which groups are removed: best reading, and nearest of all readings",
        caption="replicator, first seed; random groups are a control (mean of five draws)",
        box=box.SIMPLE,
    )
    for heading in ("", "paper", "smallest", "by layer", "random", "smallest", "by layer", "random"):
        table.add_column(heading, justify="right")
    variables = ("accuracy_at_sparsity", "accuracy_by_layer", "accuracy_at_random")
    for row in comparison(1, {"replicator": done[best]}):
        level, printed = row["sparsity_percent"], row["paper_accuracy"]
        k = int(np.argmin(np.abs(done[best]["sparsity"].values - level / 100)))
        nearest = [
            min((float(result[variable][k]) for result in done.values()), key=lambda x: abs(x - printed))
            for variable in variables
        ]
        values = [printed, *(float(done[best][variable][k]) for variable in variables), *nearest]
        table.add_row(f"{level:g} %", *(f"{value:.4f}" for value in values))
    return table


def claims_table(checked: Sequence[Claim]) -> Table:
    """Return a table of the claims and what was found."""
    table = Table(title="Claims of the notes", box=box.SIMPLE, padding=(0, 1, 0, 0))
    for heading in ("", "claim", "found", ""):
        table.add_column(heading)
    for claim in checked:
        table.add_row(claim.number, claim.statement, claim.found, "confirmed" if claim.holds else "corrected")
    return table


if __name__ == "__main__":
    _shared.command_line(main)()
