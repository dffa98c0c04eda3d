"""What noise does to selection: in fitness, in its estimates, and of finite numbers.

Puts simulations beside theory: extinction times against the inverse Gaussian, who dies in Itô's and in
Stratonovich's calculus, fixation against Kimura; tests the paper's claim that normalised growth is stabler
under noisy estimates, and quantifies when mutation prevents premature extinction.
"""

from __future__ import annotations

import math
import time
from typing import Annotated, Any

import numpy as np
import typer
import xarray as xr
from rich import box
from rich.console import Console
from rich.table import Table
from scipy import stats

import _former as _shared
from evodyn.core.labels import about
from evodyn.model.landscapes import Constant
from evodyn.noise.stochastic import (
    Calculus,
    fixation_probability,
    hitting_time_law,
    long_run_growth,
    stationary_odds_law,
    wright_fisher_matrix,
)
from evodyn.sweeps.sweep import sweep
from evodyn.tasks.noise import Drift, Duel, Estimates, drift, duel, estimates

Row = dict[str, Any]

SCHEMA = 1
CALCULI: tuple[Calculus, ...] = ("ito", "stratonovich")
NAMES = {"ito": "Itô", "stratonovich": "Stratonovich"}
MAPS = ("replicator", "normalized_growth")
NOISES = (0.1, 0.4, 0.55, 0.7, 0.85, 1.0, 1.2)
SELECTIONS = (-0.03, -0.015, 0.0, 0.015, 0.03, 0.06, 0.1)
CLIPS = (None, 2.0, 1.0, 0.5, 0.25)
DECAYS = (0.0, 0.3)
STRENGTHS = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
# Two groups; what is asked about is the first: the worse in TIMES, the better, and in WHO the noisier, below.
TIMES: Row = {"contribution": (0.0, 0.5), "noise": (0.8, 0.2), "threshold": 0.05, "t_end": 120.0}
WHO: Row = {"contribution": (0.3, 0.1), "threshold": 1e-3, "t_end": 100.0, "step_size": 100.0}
RARE: Row = {"calculus": "stratonovich", "contribution": (0.02, 0.0), "noise": (0.6, 0.6), "threshold": 0.01}
DRIFT_SELECTION = 0.02


def main(
    individuals: Annotated[int, typer.Option(min=10, help="n of the Wright-Fisher populations.")] = 50,
    seed: _shared.Seed = 0,
    seeds: _shared.Seeds = 2000,
    out: _shared.Out = None,
    fresh: _shared.Fresh = False,
    smoke: _shared.Smoke = False,
    workers: _shared.Workers = 1,
    scheduler: _shared.Scheduler = None,
) -> None:
    """Compare noisy populations with theory: who dies, when, and what prevents it.

    Writes results/noise/noise.nc (everything) and noise.csv (the table).
    """
    started = time.perf_counter()
    members = seeds
    fine, settle, generations, steps, trials = 0.005, 600.0, 1500, 1000, 64
    if smoke:
        members, fine, settle, generations, steps, trials = min(members, 200), 0.02, 300.0, 300, 200, 16
    few = max(60, members // 8)
    with _shared.reporting():
        if members < 20:
            raise ValueError(f"seeds is {members}; expected at least 20: chances are estimated from them.")
        duels = [
            *(
                Duel(calculus, **TIMES, step_size=fine, members=members, seed=seed, stream=k)
                for k, calculus in enumerate(CALCULI)
            ),
            *(
                Duel(calculus, noise=(noise, 0.0), **WHO, members=members, seed=seed, stream=10 * (j + 1) + k)
                for j, calculus in enumerate(CALCULI)
                for k, noise in enumerate(NOISES)
            ),
            *(
                Duel(
                    **RARE,
                    t_end=settle,
                    step_size=0.05,
                    mutation_rate=rate_of(strength),
                    members=few,
                    seed=seed,
                    stream=50 + k,
                )
                for k, strength in enumerate(STRENGTHS)
            ),
        ]
        drifts = [
            *(
                Drift(
                    individuals, s, individuals // 10, 40 * individuals, members=members, seed=seed, stream=k
                )
                for k, s in enumerate(SELECTIONS)
            ),
            *(
                Drift(
                    individuals,
                    DRIFT_SELECTION,
                    individuals // 2,
                    generations,
                    mutation_rate=strength / individuals,
                    members=few,
                    seed=seed,
                    stream=50 + k,
                )
                for k, strength in enumerate(STRENGTHS)
            ),
        ]
        guesses = [
            Estimates(name, clip, decay, steps=steps, members=trials, seed=seed)
            for name in MAPS
            for clip in CLIPS
            for decay in DECAYS
        ]
        folder = _shared.folder("noise", out=out, smoke=smoke)
        options: Row = {"workers": workers, "scheduler": scheduler, "fresh": fresh}
        with _shared.progress("Noise in fitness") as progress:
            fought = sweep(duel, duels, folder / "duels", progress=progress, **options)
        with _shared.progress("Finite numbers") as progress:
            drifted = sweep(drift, drifts, folder / "drifts", progress=progress, **options)
        with _shared.progress("Noisy estimates") as progress:
            guessed = sweep(estimates, guesses, folder / "estimates", progress=progress, **options)
    data = xr.merge(
        [
            death_times(fought[: len(CALCULI)]),
            who_dies(fought[len(CALCULI) : -len(STRENGTHS)]),
            rescued(fought[-len(STRENGTHS) :], drifted[len(SELECTIONS) :], individuals, generations),
            fixation(drifted[: len(SELECTIONS)], individuals),
            stability(guessed),
        ]
    )
    specification = {
        "schema": SCHEMA,
        "study": "noise",
        "members": members,
        "members_with_mutation": few,
        "trials": trials,
        "individuals": individuals,
        "generations": generations,
        "times": TIMES,
        "who": WHO,
        "rare": RARE,
        "seed": seed,
        "steps": steps,
    }
    rows = table_rows(data)
    _shared.write_netcdf(
        data, folder / "noise.nc", specification=specification, provenance=_shared.provenance(started)
    )
    _shared.write_csv(rows, folder / "noise.csv")
    console = Console(width=80, highlight=False)
    for table in tables(rows):
        console.print(table)
    for line in (
        *notes(data, rows),
        "",
        f"Table: {_shared.shown(folder / 'noise.csv')}",
        f"Data:  {_shared.shown(folder / 'noise.nc')}",
    ):
        console.print(line, soft_wrap=True)


def rate_of(strength: float) -> float:
    """Return the mutation rate at which 2μq/(εs²) has a value: above 1 mutation prevents extinction."""
    variance = RARE["noise"][0] ** 2 + RARE["noise"][1] ** 2
    return float(strength * RARE["threshold"] * variance)


def _calculus() -> tuple[str, list[str], dict[str, str]]:
    return "calculus", list(CALCULI), about("stochastic calculus")


def death_times(results: list[xr.Dataset]) -> xr.Dataset:
    """Return death times along calculus and realisation, beside the law's mean and quantiles."""
    names = {"mean_death_time": "mean_time_theory", "death_time_p_value": "time_p_value"}
    fine = np.geomspace(0.3, 40.0, 121)
    curves = []
    for calculus in CALCULI:
        growth = long_run_growth(TIMES["contribution"], TIMES["noise"], calculus)
        law = hitting_time_law(
            share=0.5,
            threshold=TIMES["threshold"],
            drift=float(growth[1] - growth[0]),
            noise=TIMES["noise"],
        )
        curves.append(law.cdf(fine))
    return xr.Dataset(
        {
            "death_time": (
                ("calculus", "member"),
                np.stack([r.death_time.values for r in results]),
                results[0].death_time.attrs,
            ),
            "death_curve": (
                ("calculus", "fine_time"),
                np.array(curves),
                about("inverse Gaussian distribution function"),
            ),
        }
        | {
            new: ("calculus", [float(r[name]) for r in results], results[0][name].attrs)
            for name, new in names.items()
        },
        {"calculus": _calculus(), "fine_time": ("fine_time", fine, about("time", "time"))},
    )


def who_dies(results: list[xr.Dataset]) -> xr.Dataset:
    """Return how often the noisier group is dead at the end, and theory on a fine grid too."""
    shape = (len(CALCULI), len(NOISES))
    level = math.log(WHO["threshold"] / (1 - WHO["threshold"]))
    deaths = [int((r.log_odds.values < level).sum()) for r in results]
    fine = np.linspace(NOISES[0], NOISES[-1], 111)
    gap = WHO["contribution"][0] - WHO["contribution"][1]
    t: float = WHO["t_end"]
    curves = [
        stats.norm.cdf((level - (gap - share * fine**2) * t) / (fine * math.sqrt(t))) for share in (0.5, 0.0)
    ]
    axis = about("noise σ of the better group", "1/√time")
    return xr.Dataset(
        {
            "dead": (("calculus", "noise"), np.reshape(deaths, shape), about("realisations that died")),
            "dead_theory": (
                ("calculus", "noise"),
                np.reshape([float(r.dead) for r in results], shape),
                results[0].dead.attrs,
            ),
            "dead_curve": (("calculus", "fine_noise"), np.array(curves), results[0].dead.attrs),
            "dead_of": ((), results[0].sizes["member"], about("realisations")),
        },
        {
            "calculus": _calculus(),
            "noise": ("noise", list(NOISES), axis),
            "fine_noise": ("fine_noise", fine, axis),
        },
    )


def rescued(
    fought: list[xr.Dataset], drifted: list[xr.Dataset], individuals: int, generations: int
) -> xr.Dataset:
    """Return how often the better group is all but gone, or gone, for ever stronger mutation."""
    threshold: float = RARE["threshold"]
    level = math.log(threshold / (1 - threshold))
    fine = np.geomspace(STRENGTHS[0], STRENGTHS[-1], 41)
    rare_curve, gone_curve = [], []
    for strength in fine:
        law = stationary_odds_law(
            RARE["contribution"],
            RARE["noise"],
            "stratonovich",
            mutation_rate=rate_of(strength),
        )
        rare_curve.append(float(law.cdf(math.exp(level))))
        point = Drift(
            individuals, DRIFT_SELECTION, individuals // 2, generations, mutation_rate=strength / individuals
        )
        chain = wright_fisher_matrix(point.dynamics(), Constant([DRIFT_SELECTION, 0.0]), individuals)
        gone_curve.append(float(np.linalg.matrix_power(chain, generations)[point.count, 0]))
    axis = about("strength of mutation: 2μq/(εs²), or 2nμq")
    rare = [int((r.log_odds.values < level).sum()) for r in fought]
    gone = [int((r.share.values == 0).sum()) for r in drifted]
    return xr.Dataset(
        {
            "rare": ("strength", rare, about("realisations below the threshold")),
            "rare_theory": ("strength", [float(r.dead) for r in fought], fought[0].dead.attrs),
            "rare_curve": ("fine_strength", rare_curve, fought[0].dead.attrs),
            "gone": ("strength", gone, about("realisations without the group")),
            "gone_theory": ("strength", [float(r.absent) for r in drifted], drifted[0].absent.attrs),
            "gone_curve": ("fine_strength", gone_curve, drifted[0].absent.attrs),
            "rescued_of": ((), fought[0].sizes["member"], about("realisations")),
        },
        {
            "strength": ("strength", list(STRENGTHS), axis),
            "fine_strength": ("fine_strength", fine, axis),
        },
    )


def fixation(results: list[xr.Dataset], individuals: int) -> xr.Dataset:
    """Return how often a group fixes for each advantage, beside the exact chance and Kimura's."""
    fine = np.linspace(SELECTIONS[0], SELECTIONS[-1], 101)
    axis = about("selective advantage per generation")
    start = (individuals // 10) / individuals
    return xr.Dataset(
        {
            "fixed": (
                "selection",
                [int((r.share.values == 1).sum()) for r in results],
                about("realisations in which the group fixed"),
            ),
            "fixed_theory": ("selection", [float(r.fixed) for r in results], results[0].fixed.attrs),
            "kimura": ("selection", [float(r.kimura) for r in results], results[0].kimura.attrs),
            "kimura_curve": (
                "fine_selection",
                fixation_probability(fine, start, individuals),
                results[0].kimura.attrs,
            ),
            "fixed_of": ((), results[0].sizes["member"], about("realisations")),
        },
        {
            "selection": ("selection", list(SELECTIONS), axis),
            "fine_selection": ("fine_selection", fine, axis),
        },
    )


def stability(results: list[xr.Dataset]) -> xr.Dataset:
    """Return total mass, and the scatter of the shares, of both maps under noisy estimates of fitness."""
    shape = (len(MAPS), len(CLIPS), len(DECAYS))
    masses = np.stack([r.total_mass.values for r in results]).reshape(*shape, -1)
    shares = np.stack([r.share.values for r in results])
    scatter = ((shares - shares.mean(axis=1, keepdims=True)) ** 2).sum(axis=2).reshape(*shape, -1)
    shares = shares.reshape(*shape, *shares.shape[1:])
    difference = np.abs(shares[0] - shares[1]).max(axis=(-2, -1))
    dims = ("map", "signal_clip", "estimate_decay")
    return xr.Dataset(
        {
            "total_mass": ((*dims, "trial"), masses, results[0].total_mass.attrs),
            "scatter": (
                (*dims, "trial"),
                scatter,
                about("squared distance of the shares from their mean over realisations"),
            ),
            "share_difference": (
                dims[1:],
                difference,
                about("largest difference of a share between the maps, same draws"),
            ),
        },
        {
            "map": ("map", list(MAPS), about("map")),
            "signal_clip": (
                "signal_clip",
                [math.inf if c is None else c for c in CLIPS],
                about("signal clip κ over the noise σ"),
            ),
            "estimate_decay": (
                "estimate_decay",
                list(DECAYS),
                about("density regularisation λ", "1/time/mass"),
            ),
        },
    )


def proportion_row(part: str, quantity: str, theory: float, count: int, of: int) -> Row:
    """Return a row for a proportion: Wilson's interval, exact binomial p-value."""
    test = stats.binomtest(count, of, min(max(theory, 0.0), 1.0))
    interval = test.proportion_ci(method="wilson")
    return _row(part, quantity, theory, count / of, interval.low, interval.high, test.pvalue)


def _row(
    part: str, quantity: str, theory: float, value: float, low: float, high: float, p_value: float
) -> Row:
    return {
        "part": part,
        "quantity": quantity,
        "theory": theory,
        "simulation": value,
        "difference": value - theory,
        "interval_low": float(low),
        "interval_high": float(high),
        "p_value": float(p_value),
    }


def table_rows(data: xr.Dataset) -> list[Row]:
    """Return the rows theory | simulation | difference, with 95 % intervals and p-values."""
    rows: list[Row] = []
    for calculus in CALCULI:
        cell = data.sel(calculus=calculus)
        times = cell.death_time.values
        mean = float(times.mean())
        half = stats.t.ppf(0.975, len(times) - 1) * stats.sem(times)
        theory = float(cell.mean_time_theory)
        rows.append(
            _row(
                "death time",
                f"{NAMES[calculus]}: mean",
                theory,
                mean,
                mean - half,
                mean + half,
                float(cell.time_p_value),
            )
        )
    of = int(data.dead_of)
    for calculus in CALCULI:
        for noise in NOISES:
            cell = data.sel(calculus=calculus, noise=noise)
            label = f"{NAMES[calculus]}, σ = {noise:g}"
            rows.append(proportion_row("who dies", label, float(cell.dead_theory), int(cell.dead), of))
    for selection in SELECTIONS:
        cell = data.sel(selection=selection)
        row = proportion_row(
            "fixation", f"s = {selection:g}", float(cell.fixed_theory), int(cell.fixed), int(data.fixed_of)
        )
        rows.append(row | {"quantity": f"{row['quantity']} ({float(cell.kimura):.4f})"})
    of = int(data.rescued_of)
    for strength in STRENGTHS:
        cell = data.sel(strength=strength)
        for part, name, label in (
            ("rare", "rare", "2μq/(εs²)"),
            ("absent", "gone", "2nμq"),
        ):
            theory = float(cell[f"{name}_theory"])
            rows.append(proportion_row(part, f"{label} = {strength:g}", theory, int(cell[name]), of))
    rows.sort(key=lambda row: ["death time", "who dies", "fixation", "rare", "absent"].index(row["part"]))
    for decay in DECAYS:
        for clip in CLIPS:
            cell = data.sel(estimate_decay=decay, signal_clip=math.inf if clip is None else clip)
            name = "no clip" if clip is None else f"κ = {clip:g}σ"
            rows.append(stability_row(f"λ = {decay:g}, {name}", cell))
    return rows


def stability_row(label: str, cell: xr.Dataset) -> Row:
    """Return how much the shares scatter under Eq. 13, relative to Eq. 12 (same draws); 1 if alike."""
    replicator, growth = cell.scatter.values
    ratio = float(growth.sum() / replicator.sum())
    # The delta method for a ratio of means, over independent realisations.
    residuals = growth - ratio * replicator
    half = 1.96 * float(residuals.std(ddof=1)) / math.sqrt(len(residuals)) / float(replicator.mean())
    rounding = float(np.abs(residuals).max()) < 1e-12
    p_value = 1.0 if rounding else float(stats.ttest_rel(growth, replicator).pvalue)
    return _row("estimates", label, 1.0, ratio, ratio - half, ratio + half, p_value)


def tables(rows: list[Row]) -> list[Table]:
    """Return a table for each part."""
    titles = {
        "death time": "Time to death, inverse Gaussian (p: Kolmogorov-Smirnov)",
        "who dies": "Death of the better, noisier group by t = 100 (p: binomial)",
        "fixation": "Fixation of a tenth, exact chain (in brackets: Kimura; p: binomial)",
        "rare": "Better group below ε, noise in fitness and mutation (p: binomial)",
        "absent": "Better group absent, finite numbers and mutation (p: binomial)",
        "estimates": "Noisy estimates: scatter of shares, Eq. 13 over Eq. 12 (p: paired t)",
    }
    made = []
    for part, title in titles.items():
        table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
        table.add_column("", no_wrap=True)
        for name in ("theory", "simulation", "diff.", "95 % interval", "p"):
            table.add_column(name, justify="right", no_wrap=True)
        for row in rows:
            if row["part"] == part:
                table.add_row(
                    row["quantity"],
                    f"{row['theory']:.4f}",
                    f"{row['simulation']:.4f}",
                    f"{row['difference']:+.4f}",
                    f"{row['interval_low']:.4f}–{row['interval_high']:.4f}",
                    f"{row['p_value']:.2g}",
                )
        made.append(table)
    return made


def notes(data: xr.Dataset, rows: list[Row]) -> list[str]:
    """Return what the tables say together."""
    tested = [row["p_value"] for row in rows if row["part"] != "estimates"]
    smallest = min(tested)
    lines = [
        f"Smallest of {len(tested)} p-values: {smallest:.2g}; below {0.05 / len(tested):.1g} theory would be",
        "rejected at 5 %. Itô against Stratonovich (Fisher's exact test, by σ):",
    ]
    of = int(data.dead_of)
    pairs = []
    for noise in NOISES:
        ito, other = (int(data.dead.sel(calculus=calculus, noise=noise)) for calculus in CALCULI)
        p_value = float(stats.fisher_exact(np.array([[ito, of - ito], [other, of - other]])).pvalue)
        pairs.append(f"{noise:g}: {p_value:.1g}" if p_value else f"{noise:g}: <1e-300")
    lines += ["  " + ", ".join(pairs[:4]), "  " + ", ".join(pairs[4:])]
    for name, label in (("rare", "2μq/(εs²)"), ("gone", "2nμq")):
        lines.append(
            f"The better is lost with a chance below 1 % from {label} = {sufficient(data, name):.2g} on."
        )
    free = float(data.share_difference.sel(signal_clip=math.inf).max())
    scaled = float(data.share_difference.sel(estimate_decay=0.0).max())
    fed_back = float(data.share_difference.sel(estimate_decay=DECAYS[-1]).max())
    lines += [
        "Normalised growth under noisy estimates, same draws: largest difference of a",
        f"share from Eq. 12: {free:.0e} without a clip, {scaled:.0e} with one if λ = 0 (the cap",
        f"only rescales), {fed_back:.0e} if λ = {DECAYS[-1]:g}. What it steadies is the total mass:",
    ]
    for decay in DECAYS:
        spread = data.total_mass.sel(estimate_decay=decay, signal_clip=0.5).std("trial", ddof=1).values
        lines.append(
            f"  λ = {decay:g}, κ = 0.5σ: standard deviation of P/P0 {spread[0]:.3f} and {spread[1]:.3f}"
        )
    return lines


def sufficient(data: xr.Dataset, name: str) -> float:
    """Return the strength of mutation from which a chance is below 1 % in theory."""
    curve = data[f"{name}_curve"].values
    above = np.flatnonzero(curve >= 0.01)
    k = int(above[-1])
    low, high = np.log(curve[k]), np.log(curve[k + 1])
    part = (low - math.log(0.01)) / (low - high)
    grid = np.log(data.fine_strength.values)
    return float(np.exp(grid[k] + part * (grid[k + 1] - grid[k])))


if __name__ == "__main__":
    _shared.command_line(main)()
