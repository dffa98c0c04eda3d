"""How fast selection drives groups extinct and how many it leaves: measured on simulations, against theory.

Decay rates and equilibrium sparsity for every law of the contributions, what a finite number of groups
changes, and what mutation prevents.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import numpy as np
import scipy.optimize
import typer
import xarray as xr
from rich.table import Table
from scipy import stats

import _shared
import evodyn as ed
from _shared import Row, fitness
from evodyn import extinction_theory as theory
from evodyn.analysis.intervals import interval_of_fraction
from evodyn.core import validation
from evodyn.core.arrays import FloatArray
from evodyn.core.labels import about, coordinates, labelled
from evodyn.model import laws

SCHEMA = 1
KINDS = ("uniform", "gaussian", "lognormal", "pareto", "two_class")
HETEROGENEITIES = (0.25, 0.5, 1.0, 2.0)
DECAYS = (0.03, 0.1, 0.3, 0.8)
MAIN_DECAY = 0.3  # the one with several populations
RATE_HETEROGENEITIES = (0.25, 1.0)
LEVEL = 0.95  # of confidence
SMALLEST = 12  # groups of a population in the fit against 1/N
PEAK = 0.5  # advantage of the best group over the others, all equal
FACTORS = (0.25, 0.5, 0.75, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0)  # of the error threshold
RELAXATIONS = 30.0  # length of a run that measures rates, in times of the slowest mode
PER_MILLION = 1_000_000


# --- Populations ----------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Sample:
    """Populations of groups that start with unit mass under Eq. 6 and differ in their contributions alone."""

    kind: str = "lognormal"
    groups: int = 768
    heterogeneity: float = 1.0
    """Coefficient of variation of the law of the contributions."""
    decay: float = 0.3
    """λ of Eq. 10; fitness is constant at 0."""
    populations: int = 8
    threshold: float = 0.02
    """Mass strictly below which a group counts as extinct."""
    horizon: float = 1500.0
    """Runs that count end at horizon/heterogeneity: differences in fitness are proportional to that."""
    seed: int = 0

    def __post_init__(self) -> None:
        validation.positive("heterogeneity", self.heterogeneity)
        validation.positive("threshold", self.threshold)

    def contribution(self, member: int) -> FloatArray:
        """Return the contributions c_i of one population; every law, size and decay has its own numbers."""
        spread, decay = (round(value * PER_MILLION) for value in (self.heterogeneity, self.decay))
        key = (laws.KINDS.index(self.kind), self.groups, spread, decay, member)
        drawn = np.random.SeedSequence(self.seed, spawn_key=key)
        return ed.landscapes.contributions(
            self.kind, n=self.groups, heterogeneity=self.heterogeneity, rng=drawn
        )


def simulated_sparsity(sample: Sample) -> xr.Dataset:
    """Integrate every population of a sample and count the groups that are extinct in the end."""
    if sample.decay == 0:
        raise ValueError("decay is 0; expected a positive one: else only the best group survives.")
    end = sample.horizon / sample.heterogeneity
    extinct = np.empty(sample.populations, dtype=np.int64)
    for member in range(sample.populations):
        run = ed.solve(
            ed.Replicator(),
            fitness(sample.contribution(member), sample.decay),
            np.ones(sample.groups),
            (0.0, end),
            save_at=[end],
            # Which side of the threshold a group ends on needs no more, and the problem is stiff.
            solver=ed.Solver(method="LSODA", rtol=1e-4, atol=1e-5),
        )
        extinct[member] = np.count_nonzero(run.masses[-1] < sample.threshold)
    return xr.Dataset({"extinct": ("population", extinct, about("groups below the threshold at the end"))})


def measured_rates(sample: Sample) -> xr.Dataset:
    """Integrate the first population and measure how fast its doomed groups decay; NaN for survivors.

    The run lasts 30 times the slowest relaxation time, and is measured in its second half.
    """
    landscape = fitness(sample.contribution(0), sample.decay)
    point = ed.equilibrium(ed.Replicator(), landscape, total_mass=float(sample.groups), eigenvalues=True)
    modes = np.asarray(point.eigenvalues).real
    end = RELAXATIONS / -float(modes[modes < 0].max()) if (modes < 0).any() else sample.horizon
    run = ed.solve(
        ed.Replicator(),
        landscape,
        np.ones(sample.groups),
        (0.0, end),
        save_at=np.linspace(0.0, end, 41),
        solver=ed.Solver(method="LSODA" if sample.decay else "DOP853"),  # never a closed form
    )
    rates = theory.extinction_rates(run)
    found = {
        name: (np.where(rates.dying, rate, np.nan), f"decay rate, {name}", "1/time")
        for name, rate in (("theoretical", rates.theoretical), ("measured", rates.measured))
    }
    return xr.Dataset(labelled("group", found))


# --- The study ------------------------------------------------------------------------------------------


def main(
    study: _shared.Study,
    groups: Annotated[int, typer.Option(min=48, help="Number of groups N, each of mass 1 at first.")] = 768,
    threshold: Annotated[float, typer.Option(help="Mass below which a group counts as extinct.")] = 0.02,
    seed: _shared.Seed = 0,
    seeds: Annotated[
        int, typer.Option(min=2, max=_shared.MOST_SEEDS, help="Populations for every heterogeneity.")
    ] = 8,
) -> None:
    """Measure decay rates, equilibrium sparsity and the effect of mutation, and compare with theory.

    Writes results/extinction_rates/extinction_rates.nc (everything) and extinction_rates.csv (the table). A
    run that was interrupted goes on where it stopped.
    """
    if study.smoke:
        groups, seeds = min(groups, 48), min(seeds, 4)
    sizes = [groups >> k for k in (5, 4, 3, 2, 1, 0) if groups >> k >= SMALLEST]
    budget = 4 * groups  # of all populations of one size
    spreads = RATE_HETEROGENEITIES[-1:] if study.smoke else RATE_HETEROGENEITIES
    rates = [
        Sample(kind, groups, h, decay, populations=1, seed=seed)
        for kind, decay, h in itertools.product(KINDS, (0.0, MAIN_DECAY), spreads)
    ]
    several, single = (groups, seeds), (max(48, groups // 2), 1)
    phases = [
        Sample(kind, size, h, decay, populations=populations, threshold=threshold, seed=seed)
        for kind, decay, h in itertools.product(KINDS, DECAYS, HETEROGENEITIES)
        for size, populations in [several if decay == MAIN_DECAY else single]
    ]
    finite = [
        Sample(kind, size, populations=max(2, budget // size), threshold=threshold, seed=seed + 1)
        for kind, size in itertools.product(KINDS, sizes)
    ]
    measured = study.sweep("Measuring decay", measured_rates, rates, "rates")
    counted = study.sweep("Counting the extinct", simulated_sparsity, phases + finite, "sparsity")
    mutation, mutation_rows = with_mutation(groups, threshold, seed)
    rate_rows = [rate_row(s, r) for s, r in zip(rates, measured, strict=True)]
    rows = [sparsity_row(s, r) for s, r in zip(phases + finite, counted, strict=True)]
    phase_rows, finite_rows = rows[: len(phases)], rows[len(phases) :]
    main_rows = [row for row in phase_rows if row["decay"] == MAIN_DECAY]
    corrections = [correction(kind, finite_rows) for kind in KINDS]
    tables = (sparsity_data("phase", phase_rows), sparsity_data("finite", finite_rows))
    limits = (correction_data(corrections), theory_map(threshold, 9 if study.smoke else 41))
    data = xr.merge((rate_data(rates, measured), *tables, *limits, mutation))
    specification = {"schema": SCHEMA, "groups": groups, "populations": seeds, "threshold": threshold}
    specification |= {"seed": seed, "main_decay": MAIN_DECAY, "horizon": phases[0].horizon, "peak": PEAK}
    parts = (rate_rows, phase_rows, finite_rows, mutation_rows)
    study.save(data, [line for part in parts for line in csv_lines(part)], specification)
    study.show(
        rate_table(rate_rows),
        sparsity_table(main_rows, groups, seeds),
        *verdict(main_rows),
        correction_table(corrections, sizes),
        mutation_table(mutation_rows),
    )


# --- Decay rates ---------------------------------------------------------------------------------------


def rate_row(sample: Sample, result: xr.Dataset) -> Row:
    """Return what one population's decay rates look like beside theory."""
    expected, found = result.theoretical.values, result.measured.values
    dying = np.isfinite(expected)
    row: Row = {"kind": sample.kind, "heterogeneity": sample.heterogeneity, "decay": sample.decay}
    row |= {"groups": sample.groups, "dying": int(dying.sum())}
    if not dying.any():
        return row | dict.fromkeys(("slowest", "theory", "simulation", "difference"), float("nan"))
    expected, found = expected[dying], found[dying]
    row |= {"slowest": float(expected.min()), "theory": float(np.median(expected))}
    apart = float(np.max(np.abs(found / expected - 1)))
    return row | {"simulation": float(np.median(found)), "difference": apart}


def rate_data(samples: Sequence[Sample], results: Sequence[xr.Dataset]) -> xr.Dataset:
    """Return measured and theoretical rates, one row of groups for each population."""
    names = {"theoretical_rate": "theoretical", "measured_rate": "measured"}
    rates: Row = {
        new: (("rate_case", "group"), np.stack([r[old].values for r in results]), results[0][old].attrs)
        for new, old in names.items()
    }
    cases = {
        f"rate_{name}": ([getattr(sample, name) for sample in samples], name, units)
        for name, units in (("kind", "1"), ("heterogeneity", "1"), ("decay", "1/time/mass"))
    }
    return xr.Dataset(rates | labelled("rate_case", cases))


# --- Sparsity ------------------------------------------------------------------------------------------


def sparsity_row(sample: Sample, result: xr.Dataset) -> Row:
    """Return the share of extinct groups beside theory, with intervals over independent populations."""
    fractions = result.extinct.values / sample.groups
    expected = theory.equilibrium_sparsity(
        sample.kind, heterogeneity=sample.heterogeneity, decay=sample.decay, threshold=sample.threshold
    )
    low, high = interval_of_fraction(result.extinct.values, sample.groups, level=LEVEL)
    names = ("kind", "heterogeneity", "decay", "groups", "populations")
    error = float(stats.sem(fractions)) if len(fractions) > 1 else float("nan")
    return _shared.compared(
        expected, float(fractions.mean()), **{name: getattr(sample, name) for name in names}
    ) | {"standard_error": error, "low": low, "high": high, "extinct": result.extinct.values}


def verdict(rows: list[Row]) -> list[str]:
    """Return the lines that say whether theory is inside the intervals, one by one and all at once."""
    inside = [row["low"] <= row["theory"] <= row["high"] for row in rows]
    missed = len(rows) - sum(inside)
    together = LEVEL ** (1 / len(rows))
    bands = [interval_of_fraction(row["extinct"], row["groups"], level=together) for row in rows]
    covered = all(low <= row["theory"] <= high for row, (low, high) in zip(rows, bands, strict=True))
    chance = float(stats.binom.sf(missed - 1, len(rows), 1 - LEVEL))
    return [
        f"Theory, the limit of many groups, is inside {sum(inside)} of {len(rows)} intervals; as many",
        f"misses or more have probability {chance:.2g}. "
        f"It is {'inside' if covered else 'OUTSIDE'} the band that covers all",
        f"at once with 95 % ({100 * together:.2f} % each).",
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
    (limit_error, _), (_, slope_error) = np.sqrt(np.abs(covariance)).tolist()
    row = {"kind": kind, "limit": float(limit), "limit_error": limit_error}
    row |= {"slope": float(slope), "slope_error": slope_error}
    return row | {"p": float(stats.chi2.sf(misfit, len(mine) - 2))}


def sparsity_data(prefix: str, rows: list[Row]) -> xr.Dataset:
    """Return the sparsity of every sample as data."""
    texts = {
        "kind": "law of the contributions",
        "heterogeneity": "coefficient of variation of the contributions",
        "decay": "density regularisation λ",
        "groups": "groups of a population",
        "populations": "independent populations",
        "theory": "fraction extinct at equilibrium in the limit of many groups",
        "simulation": "mean fraction extinct at the end of the integrations",
        "standard_error": "standard error of the mean over populations",
        "low": "lower end of the 95 % interval",
        "high": "upper end of the 95 % interval",
    }
    described = {
        f"{prefix}_{name}": ([row[name] for row in rows], text, "1/time/mass" if name == "decay" else "1")
        for name, text in texts.items()
    }
    return xr.Dataset(labelled(f"{prefix}_case", described))


def correction_data(rows: list[Row]) -> xr.Dataset:
    """Return the finite-size fits as data, in the order of the laws."""
    texts = {
        "limit": "simulation - theory as N goes to infinity",
        "slope": "coefficient of 1/N in simulation - theory",
    }
    described = {}
    for name, text in texts.items():
        described[f"correction_{name}"] = ([row[name] for row in rows], text)
        errors = [row[f"{name}_error"] for row in rows]
        described[f"correction_{name}_error"] = (errors, f"standard error of {text}")
    return xr.Dataset(labelled("law", described), coordinates(law=(list(KINDS), "law of the contributions")))


def theory_map(threshold: float, points: int) -> xr.Dataset:
    """Return the theory of the phase diagram on a grid of heterogeneities and decays."""
    spread = np.geomspace(HETEROGENEITIES[0] / 2.5, HETEROGENEITIES[-1] * 1.5, points)
    decay = np.geomspace(DECAYS[0] / 2, DECAYS[-1] * 2, points)
    values = [
        theory.equilibrium_sparsity(kind, heterogeneity=h, decay=rate, threshold=threshold)
        for kind, rate, h in itertools.product(KINDS, decay, spread)
    ]
    label = about("fraction extinct at equilibrium in the limit of many groups")
    dims = ("law", "map_decay", "map_heterogeneity")
    return xr.Dataset(
        {"sparsity": (dims, np.reshape(values, (len(KINDS), points, points)), label)},
        coordinates(
            map_decay=(decay, "density regularisation λ", "1/time/mass"),
            map_heterogeneity=(spread, "coefficient of variation of the contributions"),
        ),
    )


# --- Mutation ------------------------------------------------------------------------------------------


def with_mutation(groups: int, threshold: float, seed: int) -> tuple[xr.Dataset, list[Row]]:
    """Return what mutation does: the best group's share around the error threshold, and the measured rates.

    Rates at which something changes are found by bisection on integrations, so that nothing of the theory
    enters them.
    """
    sizes = np.array(sorted({max(groups // 16, 24), groups, 16 * groups}))
    simulated, expected = np.empty((2, len(sizes), len(FACTORS)))
    rows: list[Row] = []
    for i, size in enumerate(sizes):
        c = np.r_[1.0 + PEAK, np.ones(size - 1)]
        end = 15.0 * size**0.5 / PEAK  # the flow is slowest at the threshold, by its finite size alone
        for j, factor in enumerate(FACTORS):
            rate = factor * theory.error_threshold(c)
            simulated[i, j] = at_rest(c, 0.0, rate, end)[0] / size
            expected[i, j] = resting(c, 0.0, rate)[0] / size
        j = FACTORS.index(0.5)
        label = f"best share at μ_c/2, N = {size}"
        rows.append({"quantity": label, "theory": expected[i, j], "simulation": simulated[i, j]})
    c = ed.landscapes.contributions("lognormal", n=groups, heterogeneity=1.0, rng=seed)
    floors = []
    for decay in (0.0, MAIN_DECAY):
        floor = theory.mutation_mass_floor(c, 0.05, decay=decay)
        floors.append(at_rest(c, decay, 0.05) / floor)
        rows += thresholds(c, decay, threshold)
        lowest = {
            "theory": float((resting(c, decay, 0.05) / floor).min()),
            "simulation": float(floors[-1].min()),
        }
        rows.append({"quantity": f"least mass over its floor, λ = {decay:g}"} | lowest)
    for row in rows:
        row["difference"] = row["simulation"] / row["theory"] - 1
    shares = {
        "best_share": (simulated, "share of the best group, integrated"),
        "best_share_theory": (expected, "share of the best group at equilibrium"),
    }
    over = {"mass_over_floor": (np.array(floors), "mass at the end over the mutation mass floor")}
    data = xr.Dataset(
        labelled(("peak_groups", "factor"), shares) | labelled(("floor_decay", "group"), over),
        coordinates(
            peak_groups=(sizes, "number of groups"),
            factor=(np.array(FACTORS), "mutation rate over the error threshold"),
            floor_decay=([0.0, MAIN_DECAY], "density regularisation λ", "1/time/mass"),
        ),
    )
    return data, rows


def thresholds(c: FloatArray, decay: float, threshold: float) -> list[Row]:
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


def resting(c: FloatArray, decay: float, rate: float) -> FloatArray:
    """Return the masses at equilibrium."""
    dynamics = ed.SelectionMutation(rate, target=1.0)
    return np.array(ed.equilibrium(dynamics, fitness(c, decay), eigenvalues=False).masses)


def mutated(c: FloatArray, decay: float, rate: float, target: Any, start: Any, times: list[float]) -> ed.Run:
    """Return a long integration of Eq. 8."""
    dynamics, solver = ed.SelectionMutation(rate, target=target), ed.Solver(rtol=1e-7, atol=1e-8)
    return ed.solve(dynamics, fitness(c, decay), start, (0.0, times[-1]), save_at=times, solver=solver)


def at_rest(c: FloatArray, decay: float, rate: float, end: float = 600.0) -> FloatArray:
    """Return the masses after a long time, with a target of 1 for every group."""
    return np.array(mutated(c, decay, rate, 1.0, np.ones(len(c)), [end]).masses[-1])


def invasion(c: FloatArray, decay: float, rate: float, target: FloatArray) -> float:
    """Return the measured growth rate of the best group, which mutation does not feed, while it is rare."""
    best, end = int(c.argmax()), 30.0 / rate
    run = mutated(c, decay, rate, target, np.where(target > 0, 1.0, 1e-200), [0.7 * end, end])
    return float((run.log_masses[1, best] - run.log_masses[0, best]) / (0.3 * end))


def root(function: Callable[[float], float], low: float, high: float) -> float:
    """Return the mutation rate at which a rising function of it changes sign."""
    ends = np.log(low), np.log(high)
    return float(np.exp(scipy.optimize.brentq(lambda rate: function(np.exp(rate)), *ends, xtol=1e-6)))


# --- Tables --------------------------------------------------------------------------------------------


def csv_lines(rows: list[Row]) -> list[Row]:
    """Return rows with the columns of all parts of the table, those that do not apply left empty."""
    names = ["quantity", "kind", "heterogeneity", "decay", "groups", "populations"]
    names += ["theory", "simulation", "difference", "low", "high"]

    def quantity(row: Row) -> str:
        return str(row.get("quantity", "median decay rate" if "slowest" in row else "fraction extinct"))

    return [{name: row.get(name, "") for name in names} | {"quantity": quantity(row)} for row in rows]


def rate_table(rows: list[Row]) -> Table:
    """Return the table of decay rates."""
    columns = {
        "law": "{kind}",
        "h": "{heterogeneity:g}",
        "λ": "{decay:g}",
        "dying": "{dying}",
        "slowest": "{slowest:.4g}",
        "theory": "{theory:.4g}",
        "simulation": "{simulation:.4g}",
        "difference": "{difference:.0e}",
    }
    title = "Decay rates -d ln p/dt of the dying: median, and largest relative difference"
    return _shared.row_table(title, columns, rows, merge=True)


def sparsity_table(rows: list[Row], groups: int, populations: int) -> Table:
    """Return the table of equilibrium sparsity at the main decay."""
    columns = {
        "law": "{kind}",
        "h": "{heterogeneity:g}",
        "theory": "{theory:.2%}",
        "simulation": "{simulation:.2%}",
        "difference": "{difference:+z.2%}",
        "95 % interval": "{low:.2%}–{high:.2%}",
    }
    title = f"Extinct at equilibrium, λ = {MAIN_DECAY:g}: {populations} populations of {groups} groups"
    return _shared.row_table(title, columns, rows, merge=True)


def correction_table(rows: list[Row], sizes: Sequence[int]) -> Table:
    """Return the table of finite-size corrections."""
    columns = {
        "law": "{kind}",
        "a, 95 % (theory: 0)": "{limit:+.4f} ± {limit_half:.4f}",
        "b, 95 %": "{slope:+.2f} ± {slope_half:.2f}",
        "p of the fit": "{p:.2f}",
    }
    title = f"Finite size: simulation - theory = a + b/N at h = 1, N = {sizes[0]} to {sizes[-1]}"
    halves = [{f"{name}_half": 1.96 * row[f"{name}_error"] for name in ("limit", "slope")} for row in rows]
    return _shared.row_table(title, columns, [row | half for row, half in zip(rows, halves, strict=True)])


def mutation_table(rows: list[Row]) -> Table:
    """Return the table of what mutation does."""
    columns = {
        "quantity": "{quantity}",
        "theory": "{theory:.6g}",
        "simulation": "{simulation:.6g}",
        "rel. diff.": "{difference:+.0e}",
    }
    return _shared.row_table("Mutation (Eq. 8, target 1)", columns, rows)


if __name__ == "__main__":
    _shared.command_line(main)()
