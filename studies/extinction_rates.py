"""How fast selection drives groups extinct and how many it leaves: measured on simulations, against theory.

Decay rates and equilibrium sparsity for every law of the contributions, what a finite number of groups
changes, and what mutation prevents.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import scipy.optimize
import typer
import xarray as xr
from rich import box
from rich.console import Console
from rich.table import Table
from scipy import stats

import _former as _shared
import evodyn as ed
from evodyn import extinction_theory as theory
from evodyn.core.labels import about
from evodyn.sweeps.sweep import sweep
from evodyn.tasks.extinction_rates import Sample, measured_rates, simulated_sparsity

SCHEMA = 1
KINDS = ("uniform", "gaussian", "lognormal", "pareto", "two_class")
HETEROGENEITIES = (0.25, 0.5, 1.0, 2.0)
DECAYS = (0.03, 0.1, 0.3, 0.8)
MAIN_DECAY = 0.3  # the one with several populations
RATE_HETEROGENEITIES = (0.25, 1.0)
LEVEL = 0.95
SMALLEST = 12  # groups of a population in the fit against 1/N
FEW = 10  # extinct or living groups in all, below which an interval is that of a count
PEAK = 0.5  # advantage of the best group over the others, all equal
FACTORS = (0.25, 0.5, 0.75, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0)  # of the error threshold
FILES = {"Table: ": "extinction_rates.csv", "Data:  ": "extinction_rates.nc"}

Floats = npt.NDArray[np.float64]
Row = dict[str, Any]


def main(
    groups: Annotated[int, typer.Option(min=48, help="Number of groups N, each of mass 1 at first.")] = 768,
    threshold: Annotated[float, typer.Option(help="Mass below which a group counts as extinct.")] = 0.02,
    seed: _shared.Seed = 0,
    seeds: Annotated[
        int, typer.Option(min=2, max=_shared.MOST_SEEDS, help="Populations for every heterogeneity.")
    ] = 8,
    out: _shared.Out = None,
    fresh: _shared.Fresh = False,
    smoke: _shared.Smoke = False,
    workers: _shared.Workers = 1,
    scheduler: _shared.Scheduler = None,
) -> None:
    """Measure decay rates, equilibrium sparsity and the effect of mutation, and compare with theory.

    Writes results/extinction_rates/extinction_rates.nc (everything) and extinction_rates.csv (the table). A
    run that was interrupted goes on where it stopped.
    """
    started = time.perf_counter()
    if smoke:
        groups, seeds = min(groups, 48), min(seeds, 4)
    sizes = [groups >> k for k in (5, 4, 3, 2, 1, 0) if groups >> k >= SMALLEST]
    budget = 4 * groups  # of all populations of one size
    with _shared.reporting():
        rates = [
            Sample(kind=kind, groups=groups, heterogeneity=h, decay=decay, populations=1, seed=seed)
            for kind in KINDS
            for decay in (0.0, MAIN_DECAY)
            for h in (RATE_HETEROGENEITIES[-1:] if smoke else RATE_HETEROGENEITIES)
        ]
        phases = [
            Sample(
                kind=kind,
                groups=groups if decay == MAIN_DECAY else max(48, groups // 2),
                heterogeneity=h,
                decay=decay,
                populations=seeds if decay == MAIN_DECAY else 1,
                threshold=threshold,
                seed=seed,
            )
            for kind in KINDS
            for decay in DECAYS
            for h in HETEROGENEITIES
        ]
        finite = [
            Sample(
                kind=kind, groups=size, populations=max(2, budget // size), threshold=threshold, seed=seed + 1
            )
            for kind in KINDS
            for size in sizes
        ]
        folder = _shared.folder("extinction_rates", out=out, smoke=smoke)
        options: dict[str, Any] = {"workers": workers, "scheduler": scheduler, "fresh": fresh}
        with _shared.progress("Measuring decay") as bar:
            measured = sweep(measured_rates, rates, folder / "rates", progress=bar, **options)
        with _shared.progress("Counting the extinct") as bar:
            counted = sweep(simulated_sparsity, phases + finite, folder / "sparsity", progress=bar, **options)
        mutation, mutation_rows = with_mutation(groups, threshold, seed)
    rate_rows = [rate_row(s, r) for s, r in zip(rates, measured, strict=True)]
    rows = [sparsity_row(s, r) for s, r in zip(phases + finite, counted, strict=True)]
    phase_rows, finite_rows = rows[: len(phases)], rows[len(phases) :]
    main_rows = [row for row in phase_rows if row["decay"] == MAIN_DECAY]
    corrections = [correction(kind, finite_rows) for kind in KINDS]
    data = xr.merge(
        (
            rate_data(rates, measured, groups),
            sparsity_data("phase", phase_rows),
            sparsity_data("finite", finite_rows),
            correction_data(corrections),
            theory_map(threshold, 17 if smoke else 41),
            mutation,
        )
    )
    specification = {
        "schema": SCHEMA,
        "study": "extinction_rates",
        "groups": groups,
        "populations": seeds,
        "threshold": threshold,
        "seed": seed,
        "main_decay": MAIN_DECAY,
        "horizon": phases[0].horizon,
        "peak": PEAK,
    }
    _shared.write_netcdf(
        data,
        folder / "extinction_rates.nc",
        specification=specification,
        provenance=_shared.provenance(started),
    )
    _shared.write_csv(
        [line for part in (rate_rows, phase_rows, finite_rows, mutation_rows) for line in csv_lines(part)],
        folder / "extinction_rates.csv",
    )
    console = Console(width=80, highlight=False)
    console.print(rate_table(rate_rows))
    console.print(sparsity_table(main_rows, groups, seeds))
    for line in verdict(main_rows):
        console.print(line)
    console.print(correction_table(corrections, sizes))
    console.print(mutation_table(mutation_rows))
    for what, name in FILES.items():
        console.print(f"{what} {_shared.shown(folder / name)}", soft_wrap=True)


# --- Decay rates ---------------------------------------------------------------------------------------


def rate_row(sample: Sample, result: xr.Dataset) -> Row:
    """Return what one population's decay rates look like beside theory."""
    expected, found = result.theoretical.values, result.measured.values
    dying = np.isfinite(expected)
    row: Row = {"kind": sample.kind, "heterogeneity": sample.heterogeneity, "decay": sample.decay}
    row |= {"groups": sample.groups, "dying": int(dying.sum())}
    if not dying.any():
        return row | dict.fromkeys(("slowest", "theory", "simulation", "difference"), float("nan"))
    return row | {
        "slowest": float(expected[dying].min()),
        "theory": float(np.median(expected[dying])),
        "simulation": float(np.median(found[dying])),
        "difference": float(np.max(np.abs(found[dying] / expected[dying] - 1))),
    }


def rate_data(samples: Sequence[Sample], results: Sequence[xr.Dataset], groups: int) -> xr.Dataset:
    """Return measured and theoretical rates, one row of groups for each population."""
    names = {"theoretical": "theoretical_rate", "measured": "measured_rate"}
    variables: dict[str, Any] = {
        name: (
            ("rate_case", "group"),
            np.stack([result[old].values for result in results]),
            results[0][old].attrs,
        )
        for old, name in names.items()
    }
    for name, units in (("kind", "1"), ("heterogeneity", "1"), ("decay", "1/time/mass")):
        variables[f"rate_{name}"] = (
            "rate_case",
            [getattr(sample, name) for sample in samples],
            about(name, units),
        )
    return xr.Dataset(variables)


# --- Sparsity ------------------------------------------------------------------------------------------


def sparsity_row(sample: Sample, result: xr.Dataset) -> Row:
    """Return the share of extinct groups beside theory, with intervals over independent populations."""
    fractions = result.extinct.values / sample.groups
    expected = theory.equilibrium_sparsity(
        sample.kind, heterogeneity=sample.heterogeneity, decay=sample.decay, threshold=sample.threshold
    )
    low, high = interval(result.extinct.values, sample.groups, LEVEL)
    error = float(stats.sem(fractions)) if len(fractions) > 1 else float("nan")
    return {
        "kind": sample.kind,
        "heterogeneity": sample.heterogeneity,
        "decay": sample.decay,
        "groups": sample.groups,
        "populations": sample.populations,
        "theory": expected,
        "simulation": float(fractions.mean()),
        "difference": float(fractions.mean() - expected),
        "standard_error": error,
        "low": low,
        "high": high,
        "extinct": result.extinct.values,
    }


def interval(extinct: npt.NDArray[np.int64], groups: int, level: float) -> tuple[float, float]:
    """Return a confidence interval of the mean fraction extinct over independent populations.

    Student's t; where too few groups are extinct (or alive) for that, the exact interval of a count, which
    is wider than need be, for the water level makes counts vary less than independent draws.
    """
    count, total = int(extinct.sum()), groups * len(extinct)
    if min(count, total - count) < FEW:
        tail = (1 - level) / 2
        low = stats.beta.ppf(tail, count, total - count + 1) if count else 0.0
        high = stats.beta.ppf(1 - tail, count + 1, total - count) if count < total else 1.0
        return float(low), float(high)
    if len(extinct) < 2:
        return float("nan"), float("nan")
    fractions = extinct / groups
    half = stats.t.ppf((1 + level) / 2, len(extinct) - 1) * stats.sem(fractions)
    return max(float(fractions.mean() - half), 0.0), min(float(fractions.mean() + half), 1.0)


def verdict(rows: list[Row]) -> list[str]:
    """Return the lines that say whether theory is inside the intervals, one by one and all at once."""
    inside = [row["low"] <= row["theory"] <= row["high"] for row in rows]
    missed = len(rows) - sum(inside)
    together = LEVEL ** (1 / len(rows))
    bands = [interval(row["extinct"], row["groups"], together) for row in rows]
    all_inside = all(low <= row["theory"] <= high for row, (low, high) in zip(rows, bands, strict=True))
    chance = float(stats.binom.sf(missed - 1, len(rows), 1 - LEVEL))
    return [
        f"Theory is inside {sum(inside)} of {len(rows)} intervals; as many misses or more have probability "
        f"{chance:.2g}.",
        f"It is {'inside' if all_inside else 'OUTSIDE'} the band that covers all at once with 95 % "
        f"({100 * together:.2f} % each).",
        "Theory is the limit of many groups.",
        "",
    ]


def correction(kind: str, rows: list[Row]) -> Row:
    """Return the fit of simulation - theory = a + b/N, weighted by the standard errors."""
    mine = [row for row in rows if row["kind"] == kind and row["standard_error"] > 0]
    if len(mine) < 3:
        return {"kind": kind} | dict.fromkeys(("limit", "limit_error", "slope", "slope_error", "p"), np.nan)
    weights = 1 / np.array([row["standard_error"] for row in mine])
    design = np.column_stack((np.ones(len(mine)), [1 / row["groups"] for row in mine])) * weights[:, None]
    target = np.array([row["difference"] for row in mine]) * weights
    covariance = np.linalg.inv(design.T @ design)
    limit, slope = covariance @ design.T @ target
    misfit = float(((target - design @ (limit, slope)) ** 2).sum())
    return {
        "kind": kind,
        "limit": float(limit),
        "limit_error": float(covariance[0, 0] ** 0.5),
        "slope": float(slope),
        "slope_error": float(covariance[1, 1] ** 0.5),
        "p": float(stats.chi2.sf(misfit, len(mine) - 2)),
    }


def sparsity_data(prefix: str, rows: list[Row]) -> xr.Dataset:
    """Return the sparsity of every sample as data."""
    units = {
        "kind": ("law of the contributions", "1"),
        "heterogeneity": ("coefficient of variation of the contributions", "1"),
        "decay": ("density regularisation λ", "1/time/mass"),
        "groups": ("groups of a population", "1"),
        "populations": ("independent populations", "1"),
        "theory": ("fraction extinct at equilibrium in the limit of many groups", "1"),
        "simulation": ("mean fraction extinct at the end of the integrations", "1"),
        "standard_error": ("standard error of the mean over populations", "1"),
        "low": ("lower end of the 95 % interval", "1"),
        "high": ("upper end of the 95 % interval", "1"),
    }
    return xr.Dataset(
        {
            f"{prefix}_{name}": (
                f"{prefix}_case",
                [row[name] for row in rows],
                about(text, unit),
            )
            for name, (text, unit) in units.items()
        }
    )


def correction_data(rows: list[Row]) -> xr.Dataset:
    """Return the finite-size fits as data, in the order of the laws."""
    described = {
        "limit": "simulation - theory as N goes to infinity",
        "slope": "coefficient of 1/N in simulation - theory",
    }
    return xr.Dataset(
        {
            f"correction_{name}{suffix}": (
                "law",
                [row[name + suffix] for row in rows],
                about(("standard error of " if suffix else "") + text),
            )
            for name, text in described.items()
            for suffix in ("", "_error")
        },
        coords={"law": ("law", list(KINDS), about("law of the contributions"))},
    )


def theory_map(threshold: float, points: int) -> xr.Dataset:
    """Return the theory of the phase diagram on a grid of heterogeneities and decays."""
    spread = np.geomspace(HETEROGENEITIES[0] / 2.5, HETEROGENEITIES[-1] * 1.5, points)
    decay = np.geomspace(DECAYS[0] / 2, DECAYS[-1] * 2, points)
    values = [
        [
            [
                theory.equilibrium_sparsity(kind, heterogeneity=h, decay=rate, threshold=threshold)
                for h in spread
            ]
            for rate in decay
        ]
        for kind in KINDS
    ]
    return xr.Dataset(
        {
            "sparsity": (
                ("law", "map_decay", "map_heterogeneity"),
                np.array(values),
                about("fraction extinct at equilibrium in the limit of many groups"),
            )
        },
        coords={
            "map_decay": (
                "map_decay",
                decay,
                about("density regularisation λ", "1/time/mass"),
            ),
            "map_heterogeneity": (
                "map_heterogeneity",
                spread,
                about("coefficient of variation of the contributions"),
            ),
        },
    )


# --- Mutation ------------------------------------------------------------------------------------------


def with_mutation(groups: int, threshold: float, seed: int) -> tuple[xr.Dataset, list[Row]]:
    """Return what mutation does: the best group's share around the error threshold, and the measured rates.

    Rates at which something changes are found by bisection on integrations, so that nothing of the theory
    enters them.
    """
    sizes = np.array(sorted({max(groups // 16, 24), groups, 16 * groups}))
    simulated, expected = np.empty((2, len(sizes), len(FACTORS)))
    for i, size in enumerate(sizes):
        c = np.r_[1.0 + PEAK, np.ones(size - 1)]
        end = 15.0 * size**0.5 / PEAK  # the flow is slowest at the threshold, by its finite size alone
        for j, factor in enumerate(FACTORS):
            rate = factor * theory.error_threshold(c)
            simulated[i, j] = at_rest(c, 0.0, rate, end)[0] / size
            point = ed.equilibrium(
                ed.SelectionMutation(rate, target=1.0), ed.landscapes.Constant(c), eigenvalues=False
            )
            expected[i, j] = point.masses[0] / size
    rows: list[Row] = [
        {
            "quantity": f"best share at μ_c/2, N = {size}",
            "theory": expected[i, FACTORS.index(0.5)],
            "simulation": simulated[i, FACTORS.index(0.5)],
        }
        for i, size in enumerate(sizes)
    ]
    c = ed.landscapes.contributions("lognormal", n=groups, heterogeneity=1.0, rng=seed)
    floors = []
    for decay in (0.0, MAIN_DECAY):
        floor = theory.mutation_mass_floor(c, 0.05, decay=decay)
        floors.append(at_rest(c, decay, 0.05) / floor)
        resting = ed.equilibrium(
            ed.SelectionMutation(0.05, target=1.0), fitness(c, decay), eigenvalues=False
        ).masses
        rows += thresholds(c, decay, threshold)
        rows.append(
            {
                "quantity": f"least mass over its floor, λ = {decay:g}",
                "theory": float((resting / floor).min()),
                "simulation": float(floors[-1].min()),
            }
        )
    for row in rows:
        row["difference"] = row["simulation"] / row["theory"] - 1
    data = xr.Dataset(
        {
            "best_share": (
                ("peak_groups", "factor"),
                simulated,
                about("share of the best group, integrated"),
            ),
            "best_share_theory": (
                ("peak_groups", "factor"),
                expected,
                about("share of the best group at equilibrium"),
            ),
            "mass_over_floor": (
                ("floor_decay", "group"),
                np.array(floors),
                about("mass at the end over the mutation mass floor"),
            ),
        },
        coords={
            "peak_groups": ("peak_groups", sizes, about("number of groups")),
            "factor": (
                "factor",
                np.array(FACTORS),
                about("mutation rate over the error threshold"),
            ),
            "floor_decay": (
                "floor_decay",
                [0.0, MAIN_DECAY],
                about("density regularisation λ", "1/time/mass"),
            ),
        },
    )
    return data, rows


def thresholds(c: Floats, decay: float, threshold: float) -> list[Row]:
    """Return the mutation rates that keep every group, and beyond which the best one does not persist."""
    target = np.where(c == c.max(), 0.0, 1.0)
    return [
        {
            "quantity": f"rate that keeps all above {threshold:g}, λ = {decay:g}",
            "theory": theory.protective_mutation_rate(c, threshold, decay=decay),
            "simulation": root(lambda rate: at_rest(c, decay, rate).min() - threshold, 5e-3, 1.0),
        },
        {
            "quantity": f"error threshold, unfed best, λ = {decay:g}",
            "theory": theory.error_threshold(c, target=target, decay=decay),
            "simulation": root(lambda rate: -invasion(c, decay, rate, target), 0.3, 100.0),
        },
    ]


def fitness(c: Floats, decay: float) -> ed.landscapes.Landscape:
    """Return Eq. 10, or constant fitness without a decay."""
    return ed.landscapes.LinearDecay(c, decay) if decay else ed.landscapes.Constant(c)


def at_rest(c: Floats, decay: float, rate: float, end: float = 600.0) -> Floats:
    """Return the masses after a long integration of Eq. 8 with a target of 1 for every group."""
    run = ed.solve(
        ed.SelectionMutation(rate, target=1.0),
        fitness(c, decay),
        np.ones(len(c)),
        (0.0, end),
        save_at=[end],
        solver=ed.Solver(rtol=1e-7, atol=1e-8),
    )
    masses: Floats = run.masses[-1]
    return masses


def invasion(c: Floats, decay: float, rate: float, target: Floats) -> float:
    """Return the measured growth rate of the best group, which mutation does not feed, while it is rare."""
    best = int(c.argmax())
    start = np.where(target > 0, 1.0, 1e-200)
    end = 30.0 / rate
    run = ed.solve(
        ed.SelectionMutation(rate, target=target),
        fitness(c, decay),
        start,
        (0.0, end),
        save_at=[0.7 * end, end],
        solver=ed.Solver(rtol=1e-7, atol=1e-8),
    )
    return float((run.log_masses[1, best] - run.log_masses[0, best]) / (0.3 * end))


def root(function: Any, low: float, high: float) -> float:
    """Return the mutation rate at which a rising function of it changes sign."""
    found = scipy.optimize.brentq(
        lambda log_rate: function(np.exp(log_rate)), np.log(low), np.log(high), xtol=1e-6
    )
    return float(np.exp(found))


# --- Tables --------------------------------------------------------------------------------------------


def csv_lines(rows: list[Row]) -> list[Row]:
    """Return rows with the columns of all parts of the table, those that do not apply left empty."""
    names = (
        "quantity",
        "kind",
        "heterogeneity",
        "decay",
        "groups",
        "populations",
        "theory",
        "simulation",
        "difference",
        "low",
        "high",
    )
    made = []
    for row in rows:
        quantity = "median decay rate" if "slowest" in row else "fraction extinct"
        made.append({name: row.get(name, "") for name in names} | {"quantity": row.get("quantity", quantity)})
    return made


def _table(title: str, names: Sequence[str], left: int) -> Table:
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False, min_width=76)
    for k, name in enumerate(names):
        table.add_column(name, justify="left" if k < left else "right", no_wrap=True)
    return table


def rate_table(rows: list[Row]) -> Table:
    """Return the table of decay rates."""
    table = _table(
        "Decay rates -d ln p/dt of the dying: median, and largest relative difference",
        ("law", "h", "λ", "dying", "slowest", "theory", "simulation", "difference"),
        1,
    )
    former = ""
    for row in rows:
        numbers = [
            f"{row[name]:.4g}" if row["dying"] else "–" for name in ("slowest", "theory", "simulation")
        ]
        table.add_row(
            row["kind"] if row["kind"] != former else "",
            f"{row['heterogeneity']:g}",
            f"{row['decay']:g}",
            f"{row['dying']}",
            *numbers,
            f"{row['difference']:.0e}" if row["dying"] else "–",
        )
        former = row["kind"]
    return table


def sparsity_table(rows: list[Row], groups: int, populations: int) -> Table:
    """Return the table of equilibrium sparsity at the main decay."""
    table = _table(
        f"% extinct at equilibrium, λ = {MAIN_DECAY:g}: {populations} populations of {groups} groups",
        ("law", "h", "theory", "simulation", "difference", "95 % interval"),
        1,
    )
    former = ""
    for row in rows:
        table.add_row(
            row["kind"] if row["kind"] != former else "",
            f"{row['heterogeneity']:g}",
            f"{100 * row['theory']:.2f}",
            f"{100 * row['simulation']:.2f}",
            f"{100 * row['difference']:+.2f}",
            f"{100 * row['low']:.2f}–{100 * row['high']:.2f}",
        )
        former = row["kind"]
    return table


def correction_table(rows: list[Row], sizes: Sequence[int]) -> Table:
    """Return the table of finite-size corrections."""
    table = _table(
        f"Finite size: simulation - theory = a + b/N at h = 1, N = {sizes[0]} to {sizes[-1]}",
        ("law", "a, 95 % (theory: 0)", "b, 95 %", "p of the fit"),
        1,
    )
    for row in rows:
        table.add_row(
            row["kind"],
            f"{row['limit']:+.4f} ± {1.96 * row['limit_error']:.4f}",
            f"{row['slope']:+.2f} ± {1.96 * row['slope_error']:.2f}",
            f"{row['p']:.2f}",
        )
    return table


def mutation_table(rows: list[Row]) -> Table:
    """Return the table of what mutation does."""
    table = _table("Mutation (Eq. 8, target 1)", ("quantity", "theory", "simulation", "rel. diff."), 1)
    for row in rows:
        table.add_row(
            row["quantity"], f"{row['theory']:.6g}", f"{row['simulation']:.6g}", f"{row['difference']:+.0e}"
        )
    return table


if __name__ == "__main__":
    _shared.command_line(main)()
