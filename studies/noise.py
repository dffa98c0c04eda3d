"""What noise does to selection: in fitness, in its estimates, and of finite numbers.

Puts simulations beside theory: extinction times against the inverse Gaussian, who dies in Itô's and in
Stratonovich's calculus, fixation against Kimura; tests the paper's claim that normalised growth is stabler
under noisy estimates, and quantifies when mutation prevents premature extinction.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Annotated, Any

import numpy as np
import typer
import xarray as xr
from rich.table import Table
from scipy import stats

import _shared
import evodyn as ed
from _shared import Row
from evodyn import stochastic
from evodyn.analysis.intervals import interval
from evodyn.core.labels import about, coordinates, labelled
from evodyn.landscapes import Constant, LinearDecay, contributions

SCHEMA = 1
CALCULI: tuple[stochastic.Calculus, ...] = ("ito", "stratonovich")
NAMES = {"ito": "Itô", "stratonovich": "Stratonovich"}
MAPS = _shared.DYNAMICS[:2]
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
GROUPS = 32
OVERSHOOT = 0.5826  # -ζ(1/2)/√(2π): a level looked at in steps acts as if it were so many σ√h further off


# --- Noise in fitness -----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Duel:
    """Two groups of constant fitness with white noise in it; what is asked about is group 0."""

    calculus: stochastic.Calculus
    contribution: tuple[float, float]
    noise: tuple[float, float]
    threshold: float
    """Share ε below which a group counts as dead; less than 1/2, with which both begin."""
    t_end: float
    step_size: float
    mutation_rate: float = 0.0
    """μ, towards equal shares."""
    members: int = 1000
    seed: int = 0
    stream: int = 0

    def drift(self) -> float:
        """Return the rate at which theory has the log-odds of group 0 grow."""
        growth = stochastic.long_run_growth(self.contribution, self.noise, self.calculus)
        return float(growth[0] - growth[1])

    def log_odds(self) -> float:
        """Return the log-odds of the threshold."""
        return math.log(self.threshold / (1 - self.threshold))

    def hitting_law(self, threshold: float) -> Any:
        """Return the law of the first time below a threshold, without mutation."""
        drift = -self.drift()
        return stochastic.hitting_time_law(share=0.5, threshold=threshold, drift=drift, noise=self.noise)

    def stationary_chance(self) -> float:
        """Return the chance of being below the threshold in the long run, with mutation."""
        rate = self.mutation_rate
        law = stochastic.stationary_odds_law(self.contribution, self.noise, self.calculus, mutation_rate=rate)
        return float(law.cdf(math.exp(self.log_odds())))


def duel(point: Duel) -> xr.Dataset:
    """Sample a duel from equal shares, beside the chance of death and, where it applies, the law of its time.

    With mutation the chance is that of the stationary law. Times are tested against the inverse Gaussian law.
    """
    runs = stochastic.fitness_noise(
        Constant(point.contribution),
        [0.5, 0.5],
        (0.0, point.t_end),
        noise=point.noise,
        calculus=point.calculus,
        dynamics=ed.SelectionMutation(point.mutation_rate, target=0.5) if point.mutation_rate else None,
        save_at=[0.0, point.t_end],
        step_size=point.step_size,
        members=point.members,
        threshold=point.threshold,
        rng=np.random.SeedSequence(point.seed, spawn_key=(point.stream,)),
    )
    odds = runs.log_masses[:, -1, 0] - runs.log_masses[:, -1, 1]
    times = np.array(runs.extinction_time[:, 0])
    spread = math.hypot(*point.noise)
    mean, p_value = math.nan, math.nan
    if point.mutation_rate:
        dead = point.stationary_chance()
    else:
        gap = point.log_odds() - point.drift() * point.t_end
        width = spread * math.sqrt(point.t_end)
        dead = float(stats.norm.cdf(gap / width)) if spread else float(gap > 0)
        if point.drift() < 0 and spread:
            level = point.log_odds() - OVERSHOOT * spread * math.sqrt(point.step_size)
            law = point.hitting_law(1 / (1 + math.exp(-level)))
            mean, p_value = float(law.mean()), float(stats.kstest(times, law.cdf).pvalue)
    by_member = {
        "log_odds": (odds, "log-odds of group 0 at the end"),
        "death_time": (times, "first time below the threshold", "time"),
    }
    numbers = {
        "dead": (np.count_nonzero(odds < point.log_odds()), "realisations below the threshold"),
        "dead_theory": (dead, "chance of being below the threshold in theory"),
        "mean_time_theory": (mean, "mean death time in theory", "time"),
        "time_p_value": (p_value, "chance of so great a distance from theory"),
    }
    return xr.Dataset(
        labelled("member", by_member) | labelled((), numbers),
        coordinates(member=(np.arange(point.members), "realisation")),
    )


# --- Finite numbers -------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Drift:
    """Two groups of a finite number of individuals (Wright and Fisher's model)."""

    dynamics: ed.Dynamics
    individuals: int
    selection: float
    """Advantage of group 0 in each generation."""
    count: int
    """Individuals of group 0 at the start."""
    generations: int
    members: int = 1000
    seed: int = 0
    stream: int = 0

    def law(self) -> Any:
        """Return the chances of 0 to n individuals at the end, from the exact transition matrix."""
        chain = stochastic.wright_fisher_matrix(
            self.dynamics, Constant([self.selection, 0.0]), self.individuals
        )
        return np.linalg.matrix_power(chain, self.generations)[self.count]


def drift(point: Drift) -> xr.Dataset:
    """Sample a drift, beside the chances of absence and fixation at the end (and Kimura's chance)."""
    n = point.individuals
    runs = stochastic.wright_fisher(
        point.dynamics,
        Constant([point.selection, 0.0]),
        [point.count, n - point.count],
        point.generations,
        members=point.members,
        save_every=point.generations,
        rng=np.random.SeedSequence(point.seed, spawn_key=(point.stream,)),
    )
    share, law, kimura = np.array(runs.masses[:, -1, 0]), point.law(), math.nan
    if not point.dynamics.mutation_rate_at(0.0):
        kimura = float(stochastic.fixation_probability(point.selection, point.count / n, n))
    numbers = {
        # A share is zero, or at least one individual's.
        "gone": (np.count_nonzero(share < 0.5 / n), "realisations without the group"),
        "gone_theory": (float(law[0]), "chance of absence in theory"),
        "fixed": (np.count_nonzero(share == 1), "realisations in which the group fixed"),
        "fixed_theory": (float(law[-1]), "chance of fixation in theory"),
        "kimura": (kimura, "Kimura's chance of fixation"),
    }
    return xr.Dataset(
        labelled("member", {"share": (share, "share at the end")}) | labelled((), numbers),
        coordinates(member=(np.arange(point.members), "realisation")),
    )


# --- Noisy estimates ------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Estimates:
    """A map on groups of unit mass whose fitness is estimated with noise σ = 1 at every step."""

    dynamics: ed.Dynamics
    decay: float
    steps: int = 1000
    members: int = 64
    """Realisations, of the same draws for every map, clip and decay."""
    seed: int = 0


def estimates(point: Estimates) -> xr.Dataset:
    """Iterate a map under noisy estimates."""
    c, noise = (np.random.SeedSequence(point.seed, spawn_key=(k,)) for k in range(2))
    runs = stochastic.noisy_iterate(
        point.dynamics,
        LinearDecay(contributions("lognormal", n=GROUPS, heterogeneity=0.5, rng=c), decay=point.decay),
        np.ones(GROUPS),
        point.steps,
        0.02,
        noise=1.0,
        members=point.members,
        save_every=point.steps,
        rng=noise,
    )
    final = runs.masses[:, -1]
    totals = final.sum(axis=1)
    return xr.Dataset(
        {
            "total_mass": ("member", totals / GROUPS, about("total mass, relative to the start")),
            "share": (("member", "group"), final / totals[:, None], about("share at the end")),
        },
        coordinates(member=(np.arange(point.members), "realisation"), group=(np.arange(GROUPS), "group")),
    )


# --- The study ------------------------------------------------------------------------------------------


def main(
    study: _shared.Study,
    individuals: Annotated[int, typer.Option(min=10, help="n of the Wright-Fisher populations.")] = 50,
    seed: _shared.Seed = 0,
    seeds: _shared.Seeds = 2000,
) -> None:
    """Compare noisy populations with theory: who dies, when, and what prevents it.

    Writes results/noise/noise.nc (everything) and noise.csv (the table).
    """
    members = seeds
    fine, settle, generations, steps, trials = 0.005, 600.0, 1500, 1000, 64
    if study.smoke:
        members, fine, settle, generations, steps, trials = min(members, 200), 0.02, 300.0, 300, 200, 16
    few = max(60, members // 8)
    if members < 20:
        raise ValueError(f"seeds is {members}; expected at least 20: chances are estimated from them.")
    drawn: Row = {"members": members, "seed": seed}
    rarer: Row = {"members": few, "seed": seed}
    times = [Duel(c, **TIMES, **drawn, step_size=fine, stream=k) for k, c in enumerate(CALCULI)]
    who = [
        Duel(c, noise=(noise, 0.0), **WHO, **drawn, stream=10 * (j + 1) + k)
        for j, c in enumerate(CALCULI)
        for k, noise in enumerate(NOISES)
    ]
    settled: Row = {**RARE, **rarer, "t_end": settle, "step_size": 0.05}
    rare = [Duel(**settled, mutation_rate=rate_of(x), stream=50 + k) for k, x in enumerate(STRENGTHS)]
    n, tenth, long = individuals, individuals // 10, 40 * individuals
    fixing = [Drift(ed.Replicator(), n, s, tenth, long, **drawn, stream=k) for k, s in enumerate(SELECTIONS)]
    mutating = [with_mutants(x, n, generations, **rarer, stream=50 + k) for k, x in enumerate(STRENGTHS)]
    guesses = [
        Estimates(_shared.dynamics(name, GROUPS, signal_clip=clip), decay, steps, trials, seed)
        for name, clip, decay in itertools.product(MAPS, CLIPS, DECAYS)
    ]
    fought = study.sweep("Noise in fitness", duel, [*times, *who, *rare], "duels")
    drifted = study.sweep("Finite numbers", drift, [*fixing, *mutating], "drifts")
    guessed = study.sweep("Noisy estimates", estimates, guesses, "estimates")
    parts = [
        death_times(times, fought[: len(times)]),
        who_dies(who[0].log_odds(), fought[len(times) : -len(rare)]),
        rescued(rare[0], mutating[0], fought[-len(rare) :], drifted[len(fixing) :]),
        fixation(drifted[: len(fixing)], individuals),
        stability(guessed),
    ]
    data = xr.merge(parts)
    specification = {"schema": SCHEMA, "times": TIMES, "who": WHO, "rare": RARE, "seed": seed, "steps": steps}
    specification |= {"members": members, "members_with_mutation": few, "trials": trials}
    specification |= {"individuals": individuals, "generations": generations}
    rows = table_rows(data)
    study.save(data, rows, specification)
    study.show(*tables(rows), *notes(data, rows), "")


def rate_of(strength: float) -> float:
    """Return the mutation rate at which 2μq/(εs²) has a value: above 1 mutation prevents extinction."""
    first, second = RARE["noise"]
    return float(strength * RARE["threshold"] * (first**2 + second**2))


def with_mutants(strength: float, individuals: int, generations: int, **drawn: int) -> Drift:
    """Return a drift with 2nμq of a strength, twice the mutants of a generation: above 1 none stays lost."""
    mutation = ed.SelectionMutation(strength / individuals)
    return Drift(mutation, individuals, DRIFT_SELECTION, individuals // 2, generations, **drawn)


def death_times(points: list[Duel], results: list[xr.Dataset]) -> xr.Dataset:
    """Return death times along calculus and realisation, beside the law's mean and quantiles."""
    fine = np.geomspace(0.3, 40.0, 121)
    curves = [point.hitting_law(point.threshold).cdf(fine) for point in points]
    drawn = {"death_curve": (curves, "inverse Gaussian distribution function")}
    times = _shared.stacked(results, coordinates(calculus=(list(CALCULI), "stochastic calculus")))
    times = times[["death_time", "mean_time_theory", "time_p_value"]].drop_vars("member")
    times = times.assign_coords(coordinates(fine_time=(fine, "time", "1/fitness")))
    return times.assign(labelled(("calculus", "fine_time"), drawn))


def who_dies(level: float, results: list[xr.Dataset]) -> xr.Dataset:
    """Return how often the noisier group is dead at the end, and theory on a fine grid too."""
    fine = np.linspace(NOISES[0], NOISES[-1], 111)
    gap, t = WHO["contribution"][0] - WHO["contribution"][1], WHO["t_end"]
    curves = [
        stats.norm.cdf((level - (gap - share * fine**2) * t) / (fine * math.sqrt(t))) for share in (0.5, 0.0)
    ]
    axis = ("noise σ of the better group", "1/√time")
    axes = coordinates(calculus=(list(CALCULI), "stochastic calculus"), noise=(list(NOISES), *axis))
    found = _shared.stacked(results, axes)[["dead", "dead_theory"]]
    return found.assign(
        dead=found.dead.assign_attrs(long_name="realisations that died"),
        dead_curve=(("calculus", "fine_noise"), curves, found.dead_theory.attrs),
        dead_of=((), results[0].sizes["member"], about("realisations")),
    ).assign_coords(coordinates(fine_noise=(fine, *axis)))


def rescued(duel: Duel, drift: Drift, fought: list[xr.Dataset], drifted: list[xr.Dataset]) -> xr.Dataset:
    """Return how often the better group is all but gone, or gone, for ever stronger mutation."""
    fine = np.geomspace(STRENGTHS[0], STRENGTHS[-1], 41)
    rare_curve = [dataclasses.replace(duel, mutation_rate=rate_of(x)).stationary_chance() for x in fine]
    gone_curve = [float(with_mutants(x, drift.individuals, drift.generations).law()[0]) for x in fine]
    axis = "strength of mutation: 2μq/(εs²), or 2nμq"
    rare, gone = (
        _shared.stacked(found, coordinates(strength=(list(STRENGTHS), axis))) for found in (fought, drifted)
    )
    return xr.Dataset(
        {
            "rare": rare.dead,
            "rare_theory": rare.dead_theory,
            "gone": gone.gone,
            "gone_theory": gone.gone_theory,
            "rare_curve": ("fine_strength", rare_curve, rare.dead_theory.attrs),
            "gone_curve": ("fine_strength", gone_curve, gone.gone_theory.attrs),
            "rescued_of": ((), fought[0].sizes["member"], about("realisations")),
        },
        coordinates(fine_strength=(fine, axis)),
    )


def fixation(results: list[xr.Dataset], individuals: int) -> xr.Dataset:
    """Return how often a group fixes for each advantage, beside the exact chance and Kimura's."""
    fine = np.linspace(SELECTIONS[0], SELECTIONS[-1], 101)
    curve = stochastic.fixation_probability(fine, (individuals // 10) / individuals, individuals)
    axis = "selective advantage per generation"
    found = _shared.stacked(results, coordinates(selection=(list(SELECTIONS), axis)))
    return found[["fixed", "fixed_theory", "kimura"]].assign(
        kimura_curve=("fine_selection", curve, found.kimura.attrs),
        fixed_of=((), results[0].sizes["member"], about("realisations")),
        fine_selection=("fine_selection", fine, about(axis)),
    )


def stability(results: list[xr.Dataset]) -> xr.Dataset:
    """Return total mass, and the scatter of the shares, of both maps under noisy estimates of fitness."""
    axes = coordinates(
        map=(list(MAPS), "map"),
        signal_clip=([clip or math.inf for clip in CLIPS], "signal clip κ over the noise σ"),
        estimate_decay=(list(DECAYS), "density regularisation λ", "1/time/mass"),
    )
    found = _shared.stacked(results, axes).rename(member="trial").drop_vars(("trial", "group"))
    shares = found.share.values
    scatter = ((shares - shares.mean(axis=-2, keepdims=True)) ** 2).sum(axis=-1)
    apart = np.abs(shares[0] - shares[1]).max(axis=(-2, -1))
    text = "squared distance of the shares from their mean over realisations"
    largest = about("largest difference of a share between the maps, same draws")
    return found[["total_mass"]].assign(
        scatter=((*axes, "trial"), scatter, about(text)),
        share_difference=(("signal_clip", "estimate_decay"), apart, largest),
    )


def proportion_row(part: str, quantity: str, cell: xr.Dataset, name: str, of: str) -> Row:
    """Return a row for a proportion: Wilson's interval, exact binomial p-value."""
    theory, count, members = float(cell[f"{name}_theory"]), int(cell[name]), int(cell[of])
    test = stats.binomtest(count, members, min(max(theory, 0.0), 1.0))
    wilson = test.proportion_ci(method="wilson")
    return _row(part, quantity, theory, count / members, wilson.low, wilson.high, test.pvalue)


def _row(part: str, quantity: str, theory: float, value: float, *rest: float) -> Row:
    last = zip(("interval_low", "interval_high", "p_value"), map(float, rest), strict=True)
    return _shared.compared(theory, value, part=part, quantity=quantity) | dict(last)


def table_rows(data: xr.Dataset) -> list[Row]:
    """Return the rows theory | simulation | difference, with 95 % intervals and p-values."""
    rows: list[Row] = []
    for calculus in CALCULI:
        cell = data.sel(calculus=calculus)
        found, p_value = interval(cell.death_time.values), float(cell.time_p_value)
        theory, label = float(cell.mean_time_theory), f"{NAMES[calculus]}: mean"
        rows.append(_row("death time", label, theory, found.mean, *found.of_mean, p_value))
    for calculus, noise in itertools.product(CALCULI, NOISES):
        cell, label = data.sel(calculus=calculus, noise=noise), f"{NAMES[calculus]}, σ = {noise:g}"
        rows.append(proportion_row("who dies", label, cell, "dead", "dead_of"))
    for selection in SELECTIONS:
        cell = data.sel(selection=selection)
        label = f"s = {selection:g} ({float(cell.kimura):.4f})"
        rows.append(proportion_row("fixation", label, cell, "fixed", "fixed_of"))
    for part, name, label in (("rare", "rare", "2μq/(εs²)"), ("absent", "gone", "2nμq")):
        for x in STRENGTHS:
            cell = data.sel(strength=x)
            rows.append(proportion_row(part, f"{label} = {x:g}", cell, name, "rescued_of"))
    for decay, clip in itertools.product(DECAYS, CLIPS):
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
    columns = {
        "": "{quantity}",
        "theory": "{theory:.4f}",
        "simulation": "{simulation:.4f}",
        "diff.": "{difference:+.4f}",
        "95 % interval": "{interval_low:.4f}–{interval_high:.4f}",
        "p": "{p_value:.2g}",
    }
    return [
        _shared.row_table(title, columns, [row for row in rows if row["part"] == part])
        for part, title in titles.items()
    ]


def notes(data: xr.Dataset, rows: list[Row]) -> list[str]:
    """Return what the tables say together."""
    tested = [row["p_value"] for row in rows if row["part"] != "estimates"]
    pairs = []
    for noise in NOISES:
        dead = data.dead.sel(noise=noise).values
        p_value = float(stats.fisher_exact(np.array([dead, int(data.dead_of) - dead]).T).pvalue)
        pairs.append(f"{noise:g}: {p_value:.1g}" if p_value else f"{noise:g}: <1e-300")

    def apart(**where: float) -> float:
        return float(data.share_difference.sel(where).max())

    def spread(decay: float) -> str:
        cell = data.total_mass.sel(signal_clip=0.5, estimate_decay=decay)
        return " and ".join(f"{value:.3f}" for value in cell.std("trial", ddof=1).values)

    return [
        f"Smallest of {len(tested)} p-values: {min(tested):.2g}; "
        f"below {0.05 / len(tested):.1g} theory would be",
        "rejected at 5 %. Itô against Stratonovich (Fisher's exact test, by σ):",
        *("  " + ", ".join(some) for some in (pairs[:4], pairs[4:])),
        *(
            f"The better is lost with a chance below 1 % from {label} = {sufficient(data, name):.2g} on."
            for name, label in (("rare", "2μq/(εs²)"), ("gone", "2nμq"))
        ),
        "Normalised growth under noisy estimates, same draws: largest difference of a",
        f"share from Eq. 12: {apart(signal_clip=math.inf):.0e} without a clip, "
        f"{apart(estimate_decay=0.0):.0e} with one if λ = 0 (the cap",
        f"only rescales), {apart(estimate_decay=DECAYS[-1]):.0e} if λ = {DECAYS[-1]:g}. "
        "What it steadies is the total mass:",
        *(f"  λ = {decay:g}, κ = 0.5σ: standard deviation of P/P0 {spread(decay)}" for decay in DECAYS),
    ]


def sufficient(data: xr.Dataset, name: str) -> float:
    """Return the strength of mutation from which a chance is below 1 % in theory."""
    curve, sought = np.log(data[f"{name}_curve"].values), math.log(0.01)
    k = int(np.flatnonzero(curve >= sought)[-1])
    around = slice(k, k + 2)
    return float(np.exp(np.interp(-sought, -curve[around], np.log(data.fine_strength.values[around]))))


if __name__ == "__main__":
    _shared.command_line(main)()
