"""Which reading of section 8 gives the numbers that the paper prints, and which numbers none gives.

The paper does not say how the selection signal is scaled, smoothed or clipped. Here is a family of
readings, a match rule fixed beforehand, and a budget of runs: one factor at a time from stated bases, then
refined around the best (by their masses alone, replicator, first seed), then ten seeds and all three
dynamics for the literal reading and the best few, and mutation for the best members of the family. Every
finished run is one small file: stop or kill the study at any time and start it again, and it goes on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import numpy as np
import typer
import xarray as xr
from rich import box
from rich.console import Console
from rich.table import Table

import _shared
from _shared import Row
from evodyn.core.labels import labelled
from evodyn.model.descriptions import encode
from evodyn.sweeps.sweep import SweepError, sweep
from nn_bridge.paper.cells import EPSILON_TOLERANCE, SPARSITY_TOLERANCE, Cell, cells, half_widths
from nn_bridge.paper.claims import Claim, claims, duplicated
from nn_bridge.paper.claims_on_data import DIGITS, NOTED, SHOWN, measured_claims
from nn_bridge.paper.endings import cell_rows, held_by_floor, tally
from nn_bridge.paper.experiment import Experiment
from nn_bridge.paper.readings import (
    BASES,
    FACTORS,
    TARGETS,
    Finalist,
    Trial,
    judged,
    measured,
    mutated,
    name,
    replicated,
    search,
)
from nn_bridge.paper.runs import Source, Training
from nn_bridge.paper.tables import BASELINE, comparison, printed_table

SCHEMA = 1
BUDGET = 200
FINALISTS = 3
MEMBERS = 6
"""Readings that are run with mutation too: so many by their masses, and as many by their accuracies."""
SMOKE: dict[str, Any] = {"epochs": 2, "train_samples": 640, "test_samples": 250, "widths": (784, 24, 12, 10)}
SMOKE_BUDGET, SMOKE_SEEDS, SMOKE_MEMBERS = 40, 2, 1

SHORT = {"replicator": "repl.", "normalized": "norm.", "mutation": "mut."}


def main(
    study: _shared.Study,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    budget: Annotated[int, typer.Option(min=1, help="Number of runs, all stages together.")] = BUDGET,
    finalists: Annotated[
        int, typer.Option(min=1, help="Readings with ten seeds, beside the literal.")
    ] = FINALISTS,
    seed: _shared.Seed = 0,
    seeds: Annotated[
        int, typer.Option(min=2, max=_shared.MOST_SEEDS, help="Seeds for the prediction intervals.")
    ] = 10,
) -> None:
    """Run a family of readings of the paper's experiment and score each against all 48 printed numbers.

    Writes results/paper_readings/: readings.csv (every run), cells.csv (every printed number), claims.csv,
    summary.json and readings.nc (final masses and all measurements).
    """
    members = MEMBERS
    if study.smoke:
        budget, seeds = min(budget, SMOKE_BUDGET), min(seeds, SMOKE_SEEDS)
        finalists, members = 1, SMOKE_MEMBERS
    literal = Experiment(seed=seed, **(SMOKE if study.smoke else {}))
    runs = Runs(study, Source(device))
    per_finalist = 2 * (seeds - 1) + 3  # replicator and mutation by seed, normalised, the other target
    last = (finalists + 1) * per_finalist + 2 * members
    limit = budget - last
    if limit < 1:
        raise ValueError(
            f"budget is {budget}; expected more than {last}, what the last stages take: give a larger one, "
            "or fewer finalists or seeds."
        )
    bases = [dataclasses.replace(literal, **base) for base in BASES]
    noted = [dataclasses.replace(literal, **changes) for changes, *_ in NOTED]
    if study.smoke:
        bases, noted = bases[:1], []
    trials = search(runs, bases, limit, others=noted)
    ranked = sorted((t for t in trials if t.result is not None), key=lambda trial: trial.score)
    if not ranked:
        raise ValueError(f"every run failed ({runs.failures[0]['error']}); expected finished ones.")
    best = [trial for trial in ranked if trial is not trials[0]][:finalists]
    chosen = [trial for trial in (*best, trials[0]) if trial.result is not None]
    final = [found for trial in chosen if (found := replicated(trial, runs, seeds)) is not None]
    if not final:
        raise ValueError(f"every finalist failed ({runs.failures[-1]['error']}); expected finished runs.")
    widths = half_widths([finalist.runs["replicator"] for finalist in final])
    known = {name(trial.experiment) for trial in chosen}
    more = [t.experiment for t in family(ranked, widths, members) if name(t.experiment) not in known]
    mutations = zip(map(name, more), runs("mutation", [mutated(e) for e in more]), strict=True)
    with_mutation = {reading: result for reading, result in mutations if result is not None}
    report(study, trials, final, with_mutation, runs, literal)


def family(ranked: Sequence[Trial], widths: dict[tuple[int, float], float], members: int) -> list[Trial]:
    """Return the best members of the family: by their masses, and by the accuracies that they reproduce."""

    def right(trial: Trial) -> int:
        found = cells({"replicator": [trial.result]}, widths) if trial.result is not None else []
        return sum(cell.reproduced for cell in found if cell.quantity == "accuracy")

    accurate = sorted(ranked, key=right, reverse=True)
    return list({id(trial): trial for trial in (*ranked[:members], *accurate[:members])}.values())


class Runs:
    """Carries out runs, several at a time, and counts them; finished ones are read from file.

    Parameters
    ----------
    study : Study
        Says how and where.
    source : Source
        Data and device.
    """

    def __init__(self, study: _shared.Study, source: Source) -> None:
        self.study, self.source = study, source
        self.stages: dict[str, int] = {}
        self.failures: list[Row] = []

    @property
    def count(self) -> int:
        """Number of runs so far."""
        return sum(self.stages.values())

    def __call__(self, stage: str, experiments: Sequence[Experiment]) -> list[xr.Dataset | None]:
        """Return the result of each experiment, None where it failed."""
        points = [Training(experiment, self.source) for experiment in experiments]
        self.stages[stage] = self.stages.get(stage, 0) + len(points)
        failed: dict[int, str] = {}
        try:
            results = self.study.sweep(stage, measured, points, "runs")
        except SweepError as error:  # a reading may diverge; that is a result, the others count
            failed = {id(point): trace for point, trace in error.failures}
            rest = [point for point in points if id(point) not in failed]
            results = sweep(measured, rest, self.study.folder / "runs")  # all of them are on file
        for point in points:
            if id(point) in failed:
                reason = failed[id(point)].strip().splitlines()[-1]
                self.failures.append({"reading": name(point.experiment), "stage": stage, "error": reason})
        found = iter(results)
        return [None if id(point) in failed else next(found) for point in points]


def report(
    study: _shared.Study,
    trials: list[Trial],
    final: list[Finalist],
    with_mutation: dict[str, xr.Dataset],
    runs: Runs,
    literal: Experiment,
) -> None:
    """Score, print and save."""
    widths = half_widths([finalist.runs["replicator"] for finalist in final])
    complete = {name(finalist.experiment): judged(finalist, widths) for finalist in final}
    singles = {
        reading: cells(
            {"replicator": [trial.result]}
            | ({"mutation": [with_mutation[reading]]} if reading in with_mutation else {}),
            widths,
        )
        for trial in trials
        if trial.result is not None and (reading := name(trial.experiment)) not in complete
    }
    scored = complete | singles
    best = max(complete, key=lambda reading: sum(cell.reproduced for cell in complete[reading]))
    repeated, trivial = duplicated(), held_by_floor()
    rows = cell_rows(scored, best, repeated, trivial)
    checked = [*claims(), *measured_claims(trials, final)]
    counts = {reading: tally(found, repeated, trivial) for reading, found in complete.items()}
    lines = conclusions(rows, counts, best, trials, final, runs)
    specification = {
        "schema": SCHEMA,
        "study": study.name,
        "literal": literal.fields() | {"dynamics": encode(literal.dynamics, {}, "dynamics")},
        "factors": {f.field: [*f.levels, *f.finer] for f in FACTORS},
        "bases": [dict(base) for base in BASES],
        "tolerances": {"epsilon": EPSILON_TOLERANCE, "sparsity_percent": SPARSITY_TOLERANCE},
        "seeds": len(final[0].runs["replicator"]),
        "runs": runs.stages,
    }
    listed = [dataclasses.asdict(claim) for claim in checked]
    summary = {"best": best, "counts": counts, "failures": runs.failures, "conclusions": lines}
    folder = study.folder
    _shared.write_csv(reading_rows(trials, scored), folder / "readings.csv")
    _shared.write_csv(rows, folder / "cells.csv")
    _shared.write_csv(listed, folder / "claims.csv")
    _shared.write_json(specification | summary | {"cells": rows, "claims": listed}, folder / "summary.json")
    _shared.write_netcdf(
        assembled(trials, final, with_mutation),
        folder / "readings.nc",
        specification=specification,
        provenance=study.provenance(),
    )
    console = Console(width=80, highlight=False)
    for made in (
        family_table(),
        readings_table(trials),
        finalists_table(final, counts),
        *(cells_table(rows, number, best) for number in (1, 2)),
        endings_table(rows),
        removal_table(trials, best),
        claims_table(checked),
    ):
        console.print(made)
    for line in lines:
        console.print(f"- {line}")
    console.print(f"Saved in {_shared.shown(folder)}.", soft_wrap=True)


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


def assembled(trials: list[Trial], final: list[Finalist], with_mutation: dict[str, xr.Dataset]) -> xr.Dataset:
    """Return all runs as one dataset with dimension `run`."""
    found: list[tuple[str, str, str, int, xr.Dataset]] = []
    for reading, result in with_mutation.items():
        found.append((reading, "mutation", str(TARGETS[0]), trials[0].experiment.seed, result))
    for trial in trials:
        if trial.result is not None:
            e = trial.experiment
            found.append((name(e), "replicator", "", e.seed, trial.result))
    for finalist in final:
        e = finalist.experiment
        for dynamics, results in finalist.runs.items():
            target = str(finalist.target) if dynamics == "mutation" else ""
            for k, result in enumerate(results):
                if dynamics != "replicator" or k:
                    found.append((name(e), dynamics, target, e.seed + k, result))
        other = next(str(target) for target in TARGETS if target != finalist.target)
        found.append((name(e), "mutation", other, e.seed, finalist.other_target))
    readings, kinds, targets, seeds, joined = map(list, zip(*found, strict=True))
    joint: xr.Dataset = xr.concat(
        joined, dim="run", coords="different", compat="equals", combine_attrs="drop"
    )
    described = {
        "reading": (readings, "where the reading departs from the literal one"),
        "dynamics": (kinds, "dynamics"),
        "mutation_target": (targets, "target of mutation"),
        "seed": (seeds, "seed"),
    }
    return joint.assign_coords(labelled("run", described))


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
    dense = {name(finalist.experiment): finalist.dense_interval for finalist in final}
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


def table(
    title: str,
    columns: Sequence[str],
    lines: Iterable[Sequence[str]],
    *,
    left: Sequence[int] = (0,),
    caption: str | None = None,
    padding: int = 1,
) -> Table:
    """Return a table whose lines may be broken, some of its columns aligned to the left."""
    made = Table(title=title, caption=caption, box=box.SIMPLE, padding=(0, padding, 0, 0))
    for k, heading in enumerate(columns):
        made.add_column(heading, justify="left" if k in left else "right")
    for line in lines:
        made.add_row(*line)
    return made


def family_table() -> Table:
    """Return a table of the factors and their levels."""
    lines = []
    for factor in FACTORS:
        finer = f" [{', '.join(map(str, factor.finer))}]".replace("[", "\\[") if factor.finer else ""
        lines.append((factor.field, ", ".join(map(str, factor.levels)) + finer))
    lines.append(("mutation_target", ", ".join(map(str, reversed(TARGETS))) + " (mutation alone)"))
    lines.append(("removal", "smallest of all, of each layer; random as a control"))
    columns = ("factor", "levels (literal first; finer ones in brackets)")
    return table("The family", columns, lines, left=(0, 1))


def readings_table(trials: list[Trial], shown: int = 15) -> Table:
    """Return a table of the best readings by masses and of the start."""
    ranked = sorted(trials, key=lambda trial: trial.score)
    chosen = ranked[:shown] + [trial for trial in ranked[shown:] if trial.stage == "start"]
    one, two = ([row for row in printed_table(k) if row["dynamics"] == "replicator"] for k in (1, 2))
    of_paper = [
        "paper",
        "",
        *(f"{row['epsilon']:.4f}"[1:] for row in one),
        *(f"{row['sparsity_percent']:.1f}" for row in two[1:]),
        f"{one[-1]['accuracy']:.4f}"[1:],
    ]
    lines = [
        (
            name(trial.experiment),
            f"{trial.score:.2f}",
            *(f"{value:.4f}".lstrip("0")[:5] for value in trial.result["epsilon_at_sparsity"].values),
            *(f"{100 * value:.1f}" for value in trial.result["removed_at_threshold"].values[1:]),
            f"{float(trial.result['accuracy_at_sparsity'][-1]):.4f}".lstrip("0"),
        )
        for trial in chosen
        if trial.result is not None
    ]
    made = table(
        f"Masses of the replicator: the best of {len(trials)} readings, and the start",
        ("reading", "score", "ε 35", "40", "45", "50 %", "0.7", "0.8", "0.9", "acc.50"),
        (of_paper, *lines),
        caption="score: largest distance from a printed mass, in tolerances; 0.7-0.9: removed, %",
        padding=0,
    )
    made.columns[0].min_width, made.rows[0].style = 26, "bold"
    return made


def finalists_table(final: list[Finalist], counts: Row) -> Table:
    """Return a table of what each finalist reproduces."""
    lines = []
    for finalist in final:
        reading, (low, high) = name(finalist.experiment), finalist.dense_interval
        pairs = ("{}/{}".format(*pair) for pair in counts[reading].values())
        lines.append((reading, *pairs, f"{low:.4f} to {high:.4f}"))
    return table(
        f"Cells reproduced by each finalist ({len(final[0].runs['replicator'])} seeds)",
        ("reading", "all", "distinct", "telling", "masses", "acc.", "dense acc., one run"),
        lines,
        caption="telling: distinct, and not given by the clip floor",
    )


def cells_table(rows: list[Row], number: int, best: str) -> Table:
    """Return a table of the distinct cells of Table 1 or 2."""
    lines = []
    for row in rows:
        if row["table"] == number and row["distinct"]:
            plain, signed = (f"{sign}.{DIGITS[row['quantity']]}f" for sign in ("", "+"))
            lines.append(
                (
                    f"{row['level']:g}",
                    SHORT[row["dynamics"]],
                    SHOWN[row["quantity"]] + ("*" if row["holds_by_floor"] else ""),
                    f"{row['printed']:{plain}}",
                    f"{row['best']:{plain}}",
                    f"{row['best_margin']:{signed}}",
                    "yes" if row["best_reproduces"] else "no",
                    f"{row['nearest']:{plain}}",
                    f"{row['nearest_difference']:{signed}}",
                    f"{row['reproduced_by']}/{row['readings']}",
                )
            )
    return table(
        f"Table {number}, distinct cells: {best}, and the nearest of all readings",
        ("", "dyn.", "what", "paper", "best", "margin", "ok", "nearest", "off", "by"),
        lines,
        left=(1, 2),
        caption="* holds by the clip floor; margin beyond what is reproduced (negative: inside)",
    )


def endings_table(rows: list[Row]) -> Table:
    """Return a table of how every printed number ends that the best single reading does not reproduce."""
    lines = [
        (
            f"{row['table']}",
            f"{row['level']:g}",
            SHORT[row["dynamics"]],
            SHOWN[row["quantity"]],
            row["ends_as"],
            row["ends_with"],
            f"{row['ends_margin']:+.{DIGITS[row['quantity']]}f}",
        )
        for row in rows
        if not row["best_reproduces"]
    ]
    counts = ", ".join(
        f"{sum(row['ends_as'] == how for row in rows)} {how}"
        for how in dict.fromkeys(row["ends_as"] for row in rows)
    )
    return table(
        "How the numbers end that the best reading does not reproduce",
        ("", "", "dyn.", "what", "", "with", "margin"),
        lines,
        left=(2, 3, 4, 5),
        caption=f"all {len(rows)}: {counts}; margin beyond what the reading reproduces",
    )


def removal_table(trials: list[Trial], best: str) -> Table:
    """Return a table of pruned accuracies by which groups are removed, the best reading's and the nearest."""
    done = {name(trial.experiment): trial.result for trial in trials if trial.result is not None}
    variables = ("accuracy_at_sparsity", "accuracy_by_layer", "accuracy_at_random")
    lines = []
    for row in comparison(1, {"replicator": done[best]}):
        level, printed = row["sparsity_percent"], row["paper_accuracy"]
        k = int(np.argmin(np.abs(done[best]["sparsity"].values - level / 100)))
        nearest = [
            min((float(result[variable][k]) for result in done.values()), key=lambda x: abs(x - printed))
            for variable in variables
        ]
        values = [printed, *(float(done[best][variable][k]) for variable in variables), *nearest]
        lines.append((f"{level:g} %", *(f"{value:.4f}" for value in values)))
    return table(
        "Accuracy by which groups are removed: best reading, and nearest of all readings",
        ("", "paper", *2 * ("smallest", "by layer", "random")),
        lines,
        left=(),
        caption="replicator, first seed; random groups are a control (mean of five draws)",
    )


def claims_table(checked: Sequence[Claim]) -> Table:
    """Return a table of the claims and what was found."""
    lines = [(c.number, c.statement, c.found, "confirmed" if c.holds else "corrected") for c in checked]
    return table("Claims of the notes", ("", "claim", "found", ""), lines, left=(0, 1, 2, 3))


if __name__ == "__main__":
    _shared.command_line(main)()
