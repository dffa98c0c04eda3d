"""How well heterogeneity, and who dies when, is known after a part of the record.

Populations whose fitness is known are sampled over time, constant-fitness selection is fitted to ever longer
parts of what was counted, and what the fit says is put beside the truth. The same is done with the weekly
shares of virus lineages (studies/data/us_variants_2022.csv), whose future is known too.
"""

from __future__ import annotations

import csv
import dataclasses
import itertools
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
import xarray as xr
from rich.table import Table

import _shared
import evodyn as ed
from _shared import Row
from evodyn.analysis.intervals import interval
from evodyn.core import validation
from evodyn.core.labels import about, coordinates
from evodyn.extinction_theory import exact_extinction_times
from evodyn.inference import Estimate, FitnessFit, fit_fitness

SCHEMA = 1
HETEROGENEITIES = [0.05, 0.1, 0.2]
PARTS = [0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0]
VARIANTS = Path(__file__).resolve().parent / "data" / "us_variants_2022.csv"
LINEAGES = ["BA.1", "BA.2", "BA.2.12.1", "BA.4/5"]
FIRST_WEEK = 8
"""Where the fits begin; Delta was gone, and with it "Other" counts for nothing."""
RARE = 1e-3
"""Share below which a lineage counts as extinct."""
ENDS = ("value", "low", "high")


# --- One population -------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Surveyed(_shared.Population):
    """A population of which a sample is counted at equal intervals of time."""

    decay: float = 0.0
    groups: int = 16
    threshold: float = 1e-2
    t_end: float = 40.0
    saved_times: int = 41
    sample: int = 500
    """How many individuals are counted each time."""

    def __post_init__(self) -> None:
        super().__post_init__()
        validation.count("sample", self.sample)

    def counts(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the times, and how many of each group were counted at each."""
        times = np.linspace(0.0, self.t_end, self.saved_times)
        run = ed.solve(
            self.dynamics,
            self.landscape(),
            np.ones(self.groups),
            (0.0, self.t_end),
            save_at=times,
            solver=ed.Solver(method="DOP853"),
        )
        rng = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(self.member, 1)))
        return times, rng.multinomial(self.sample, run.masses / run.total_mass[:, None])


def infer(point: Surveyed) -> xr.Dataset:
    """Fit fitness to ever longer parts of the record of one population, and put the truth beside it."""
    times, counts = point.counts()
    c, share = point.contribution(), point.threshold / point.groups
    fits = [fit_fitness(*_part(times, counts, part)) for part in PARTS]
    truths = {
        "true_heterogeneity": ((), c.std(ddof=1), "standard deviation of fitness among the groups", "1/time"),
        "true_extinction_time": (
            "group",
            exact_extinction_times(c, np.ones(point.groups), point.threshold),
            "first time strictly below the threshold",
            "time",
        ),
    }
    data = xr.Dataset(
        {name: (dims, values, about(*labels)) for name, (dims, values, *labels) in truths.items()},
        coordinates(part=(PARTS, "part of the record seen"), group=(np.arange(point.groups), "group")),
    )
    spread = [fit.heterogeneity for fit in fits]
    data = data.assign(_ends(("part",), spread, "heterogeneity", "1/time"))
    died = [fit.extinction_times(share) for fit in fits]
    data = data.assign(_ends(("part", "group"), died, "extinction_time", "time"))
    dispersion = about("variance of the counts relative to a random sample's")
    return data.assign(dispersion=("part", [fit.dispersion for fit in fits], dispersion))


def _part(times: np.ndarray, counts: np.ndarray, part: float) -> tuple[np.ndarray, np.ndarray]:
    seen = times <= part * times[-1] * (1 + 1e-12)
    return times[seen], counts[seen]


def _ends(dims: tuple[str, ...], estimates: list[Estimate], name: str, unit: str) -> Row:
    """Return estimates and the ends of their intervals as variables NAME_value, NAME_low and NAME_high."""
    what = {"value": "estimate", "low": "lower end of the interval", "high": "upper end of the interval"}
    return {
        f"{name}_{end}": (
            dims,
            np.array([getattr(estimate, end) for estimate in estimates]),
            about(f"{name.replace('_', ' ')}, {what[end]}", unit),
        )
        for end in ENDS
    }


# --- Lineages of a virus --------------------------------------------------------------------------------


def lineages() -> xr.Dataset:
    """Fit fitness to the weekly shares of four lineages, up to ever later weeks."""
    with VARIANTS.open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    shares = np.array([[float(line[name]) for name in LINEAGES] for line in lines])
    shares /= shares.sum(axis=1, keepdims=True)
    weeks = np.arange(len(lines), dtype=float)
    ends = np.arange(FIRST_WEEK + 7, len(weeks))

    def until(end: int) -> FitnessFit:
        seen = slice(FIRST_WEEK, end + 1)
        return fit_fitness(weeks[seen], shares[seen], errors="quasi_multinomial", reference=0)

    fits = [until(int(end)) for end in ends]
    predicted = [fit.predict(weeks) for fit in fits]
    measured = {"share": (("week", "lineage"), shares, about("share among the four lineages"))}
    return xr.Dataset(
        measured
        | _ends(("last_week", "lineage"), [fit.relative_to(0) for fit in fits], "fitness", "1/week")
        | _ends(("last_week", "week", "lineage"), predicted, "predicted_share", "1")
        | _ends(
            ("last_week", "lineage"), [fit.extinction_times(RARE) for fit in fits], "week_extinct", "week"
        ),
        coordinates(
            week=(weeks, "weeks since 4 December 2021", "week"),
            last_week=(ends, "last week seen by the fit", "week"),
            lineage=(LINEAGES, "lineage"),
        ),
    )


# --- The study ------------------------------------------------------------------------------------------


def main(
    study: _shared.Study,
    heterogeneity: Annotated[
        list[float], typer.Option(help="Coefficient of variation of the law of fitness (repeatable).")
    ] = HETEROGENEITIES,
    kind: Annotated[str, typer.Option(help="Law of the contributions.")] = "gaussian",
    groups: Annotated[int, typer.Option(min=3, help="Number of groups, each of mass 1 at the start.")] = 16,
    sample: Annotated[int, typer.Option(min=50, help="How many individuals are counted each time.")] = 500,
    threshold: Annotated[float, typer.Option(help="Mass below which a group counts as extinct.")] = 1e-2,
    t_end: Annotated[float, typer.Option(help="Length of the record, in units of 1/fitness.")] = 40.0,
    seed: _shared.Seed = 0,
    seeds: _shared.Seeds = 32,
) -> None:
    """Say how well heterogeneity and extinction times are known after a part of the record.

    Writes results/inference/inference.nc (estimates with their intervals, and the truth) and inference.csv
    (the table).
    """
    if study.smoke:
        groups, seeds = min(groups, 6), min(seeds, 3)
    chosen = sorted(set(heterogeneity))
    points = [
        Surveyed(
            kind, h, groups=groups, threshold=threshold, t_end=t_end, sample=sample, seed=seed, member=member
        )
        for h in chosen
        for member in range(seeds)
    ]
    axes = coordinates(
        heterogeneity=(chosen, "coefficient of variation of the law of fitness"),
        seed=(np.arange(seeds), "population drawn from the seed"),
    )
    data = _shared.stacked(study.sweep("Inferring", infer, points), axes)
    data = data.assign(known(data)).merge(lineages())
    rows = table_rows(data)
    specification: Row = {
        "schema": SCHEMA,
        "heterogeneity": chosen,
        "kind": kind,
        "groups": groups,
        "sample": sample,
        "threshold": threshold,
        "t_end": t_end,
        "saved_times": points[0].saved_times,
        "seed": seed,
        "seeds": seeds,
    }
    study.save(data, rows, specification)
    study.show(printed(rows, specification), *notes(data))


def known(data: xr.Dataset) -> Row:
    """Return how well the future is known at each part, for each population.

    Of the groups that die: the median error, of their logarithm, of the predicted time; how
    many have an interval with an end; the median factor between both ends (inf where most have none); and of
    all intervals how many hold the truth.
    """
    truth = data.true_extinction_time
    low, high, value = (data[f"extinction_time_{end}"] for end in ("low", "high", "value"))
    dies = np.isfinite(truth)
    ratio = (value / truth).where(dies)
    error = xr.apply_ufunc(lambda found: np.abs(np.log(found)), ratio)
    factor = (high / low).where(dies)
    held = ((low <= truth) & (truth <= high)).astype(float)
    heterogeneity = (data.heterogeneity_low <= data.true_heterogeneity) & (
        data.true_heterogeneity <= data.heterogeneity_high
    )
    variables = {
        "time_error": (error.median("group"), "median error of ln extinction time"),
        "time_factor": (factor.median("group"), "median ratio of the ends of its interval"),
        "with_end": ((high < np.inf).where(dies).mean("group"), "fraction of deaths whose interval ends"),
        "time_held": (held.mean("group"), "fraction of intervals of extinction times that hold the truth"),
        "heterogeneity_held": (heterogeneity.astype(float), "whether the interval of heterogeneity holds it"),
    }
    return {name: (value.dims, value.values, about(what)) for name, (value, what) in variables.items()}


def table_rows(data: xr.Dataset) -> list[Row]:
    """Return one row for each heterogeneity and part: means over populations, with intervals."""
    rows: list[Row] = []
    for h, part in itertools.product(data.heterogeneity.values, data.part.values):
        cell = data.sel(heterogeneity=h, part=part)
        ratio = (cell.heterogeneity_value / cell.true_heterogeneity).values
        width = ((cell.heterogeneity_high - cell.heterogeneity_low) / cell.true_heterogeneity).values
        low, high = interval(ratio).of_mean if len(ratio) > 1 else (np.nan, np.nan)
        rows.append(
            {
                "heterogeneity": float(h),
                "part": float(part),
                "ratio": float(ratio.mean()),
                "ratio_low": low,
                "ratio_high": high,
                "width": float(width.mean()),
                "heterogeneity_held": float(cell.heterogeneity_held.mean()),
                "time_error": float(cell.time_error.mean()),
                "time_factor": float(cell.time_factor.median()),
                "with_end": float(cell.with_end.mean()),
                "time_held": float(cell.time_held.mean()),
            }
        )
    return rows


def printed(rows: list[Row], specification: Row) -> Table:
    """Return the table that is shown."""
    s = specification
    columns = {
        "h": "{heterogeneity:g}",
        "seen": "{part:.0%}",
        "ratio": "{ratio:.3f}",
        "95 % CI": "{ratio_low:.3f}–{ratio_high:.3f}",
        "width": "{width:.2f}",
        "held": "{heterogeneity_held:.0%}",
        "error": "{time_error:.2f}",
        "times": "{time_factor:.2f}",
        "ends": "{with_end:.0%}",
        "held ": "{time_held:.0%}",
    }
    counted = f"{s['sample']} counted at {s['saved_times']} times up to {s['t_end']:g}"
    title = f"{s['groups']} groups, {s['kind']}, {s['seeds']} populations, {counted}"
    return _shared.row_table(title, columns, rows, left=1, merge=True)


def notes(data: xr.Dataset) -> list[str]:
    """Return the lines that explain the table."""
    lost = data.share.sel(lineage="BA.1").values
    died = int(np.argmax((lost < RARE) & (data.week.values > FIRST_WEEK)))
    early = data.sel(last_week=data.last_week.values[0], lineage="BA.1")
    low, high = float(early.week_extinct_low), float(early.week_extinct_high)
    return [
        "ratio: estimated over true standard deviation of fitness; width: of its",
        "interval; held: intervals that hold the truth; error: of ln extinction time;",
        "times: upper over lower end of its interval (medians over groups that die);",
        "ends: groups that die whose interval has an end.",
        f"BA.1 fell below {RARE:g} in week {died}; the fit up to week {int(early.last_week)} says "
        f"{low:.1f} to {high:.1f}.",
        "",
    ]


if __name__ == "__main__":
    _shared.command_line(main)()
