"""Where selection comes to rest: rest points against long integrations, verdicts against perturbations.

Compares `evodyn.equilibrium` with integration to equilibrium for every dynamics on every family of
landscapes, puts the stability verdicts of small games to the test with perturbations, and computes the flow
of three groups for the figure.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
import typer
import xarray as xr
from rich.table import Table

import _shared
import evodyn as ed
from _shared import Row
from evodyn import landscapes
from evodyn.core.arrays import FloatArray
from evodyn.core.labels import about, coordinates, labelled
from evodyn.landscapes import LandscapeFunction

SCHEMA = 2
SMALL = 5  # groups of the games
PROBES = 5
SIDE = 15  # points along one side of the vector fields
TRAJECTORY_TIMES = 161
LIMITED = ("LinearDecay", "Entropic", "both")
"""The families that limit each group by itself, so that it comes to rest without a mean to compare with."""
RELAXATIONS = 35.0
"""Length of an integration in times of the slowest mode: e^-35 = 6e-16."""
PERTURBATION = 1e-5
"""Size of a perturbation, relative to total mass."""
CODES = list(ed.Stability)
FLAGS: Row = {
    "flag_values": np.arange(len(CODES), dtype=np.int8),
    "flag_meanings": " ".join(member.name for member in CODES),
}
"""Attributes of a variable that holds verdicts as numbers."""
FATES = {"STABLE": "return", "UNSTABLE": "leave", "NEUTRAL": "stay near"}


# --- Theory against integration ------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class Saturating:
    """Fitness c/(1 + p): a landscape of one's own, without a derivative."""

    contribution: FloatArray

    def __call__(self, t: float, masses: FloatArray) -> FloatArray:
        """Return the fitness, shape (..., N)."""
        return self.contribution / (1.0 + masses)

    @property
    def groups(self) -> int:
        """Number of groups N."""
        return len(self.contribution)


def growing(masses: Any, fitness: Any) -> Any:
    """Return fitness itself as the growth rate, with no mean to compare with: Lotka and Volterra's form."""
    return fitness


def redundant(c: FloatArray, rng: np.random.Generator) -> landscapes.Redundancy:
    """Return groups that limit themselves and compete through eight features, which they share in part."""
    features = rng.uniform(0.0, 1.0, (len(c), 8))
    return landscapes.Redundancy(c, np.eye(len(c)) + features @ features.T / len(c), 1.0)


# The slowest rate under constant fitness is the gap between the best two.
FAMILIES: dict[str, Callable[[FloatArray, np.random.Generator], LandscapeFunction]] = {
    "Constant": lambda c, rng: landscapes.Constant(c + 0.5 * (np.arange(len(c)) == c.argmax())),
    "LinearDecay": lambda c, rng: landscapes.LinearDecay(c, 0.5),
    "Entropic": lambda c, rng: landscapes.Entropic(c, 0.5),
    "both": lambda c, rng: landscapes.Entropic(c, 0.5) + landscapes.LinearDecay(np.zeros(len(c)), 0.1),
    "Redundancy": redundant,
    "c/(1 + p)": lambda c, rng: Saturating(rng.uniform(1.0, 1.5, len(c))),
    "MatrixGame": lambda c, rng: landscapes.MatrixGame(
        0.3 * rng.uniform(-1.0, 1.0, (len(c), len(c))) - np.eye(len(c))
    ),
}
"""The landscapes of `evodyn.landscapes`, Entropic with LinearDecay, and one of a user's own."""
DYNAMICS: dict[str, Callable[[int, np.random.Generator], ed.Dynamics]] = {
    "Replicator": lambda n, rng: ed.Replicator(),
    "NormalizedGrowth": lambda n, rng: ed.NormalizedGrowth(mass_cap=float(n)),
    "Mutation to 1/N": lambda n, rng: ed.SelectionMutation(0.5),
    "Mutation to 1": lambda n, rng: ed.SelectionMutation(0.5, target=1.0),
    "Mutation to m_i": lambda n, rng: ed.SelectionMutation(0.5, target=rng.uniform(0.5, 1.5, n)),
    "Populations": lambda n, rng: ed.Populations(ed.Replicator(), (n // 2, n - n // 2)),
    "Selection": lambda n, rng: ed.Selection(growing),
}
"""Eq. 6, Eq. 7, Eq. 8 with each kind of target, Eq. 6 in two blocks, and Eq. 5 without a mean."""
PAIRS = tuple((d, f) for d in DYNAMICS for f in FAMILIES if d != "Selection" or f in LIMITED)


@dataclasses.dataclass(frozen=True)
class Pair:
    """A dynamics on a landscape; every group starts with unit mass."""

    dynamics: ed.Dynamics
    landscape: LandscapeFunction
    groups: int


def pair(dynamics: str, family: str, groups: int, seed: int = 0, member: int = 0) -> Pair:
    """Return a pair of `PAIRS`, drawn.

    All dynamics of a member have the same landscape, all families that have contributions the same ones.
    """
    of_landscape, of_target = (
        np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(member, stream))) for stream in (0, 1)
    )
    c = landscapes.contributions("lognormal", n=groups, heterogeneity=1.0, rng=of_landscape)
    return Pair(DYNAMICS[dynamics](groups, of_target), FAMILIES[family](c, of_landscape), groups)


def confront(pair: Pair) -> xr.Dataset:
    """Put the rest point of a pair beside where a long integration ends, which is never in closed form.

    The integration lasts `RELAXATIONS` times the slowest relaxation time, and ln N of them more.
    """
    dynamics, n = pair.dynamics, pair.groups
    blocks = [(block, member.mass_law(block.stop - block.start)) for block, member in dynamics.blocks(n)]
    conserved = all(law == (0.0, 0.0) for _, law in blocks)
    total = [float(block.stop - block.start) for block, _ in blocks] if conserved else None
    point = ed.equilibrium(dynamics, pair.landscape, total_mass=total, eigenvalues=True)
    slowest = -float(np.asarray(point.eigenvalues)[0].real)
    if rate := dynamics.mutation_rate_at(0.0):
        slowest = min(slowest, rate)  # of total mass
    t_end = float((RELAXATIONS + np.log(n)) / slowest)
    constant = getattr(pair.landscape, "piecewise_constant", False)
    run = ed.solve(
        dynamics,
        pair.landscape,
        np.ones(n),
        (0.0, t_end),
        save_at=[t_end],
        solver=ed.Solver(method="DOP853" if constant else "auto", rtol=1e-11, atol=1e-11),
    )
    theory, simulated = np.array(point.masses), run.masses[-1]
    masses = {
        "theory_mass": (theory, "mass in theory, NaN beyond the groups", "mass"),
        "simulated_mass": (simulated, "mass at the end of integration, NaN beyond the groups", "mass"),
    }
    theory_mean, simulated_mean = (float(np.mean(x)) for x in (point.mean_fitness, run.mean_fitness[-1]))
    difference = float(np.abs(simulated - theory).max() / theory.max())
    numbers = {
        "survivors": (int(point.survivors.sum()), "number of groups alive at rest"),
        "theory_mean_fitness": (theory_mean, "mean fitness at rest in theory", "1/time"),
        "simulated_mean_fitness": (simulated_mean, "mean fitness at the end of integration", "1/time"),
        "difference": (difference, "largest difference of a mass, relative to the largest mass"),
        "residual": (point.residual, "residual of the rest point"),
        "slowest_rate": (slowest, "slowest rate of relaxation", "1/time"),
        "t_end": (t_end, "end of integration", "time"),
    }
    return xr.Dataset(
        labelled("group", masses) | labelled((), numbers),
        coordinates(group=(np.arange(n), "group")),
        {"stability": point.stability.name, "theory": point.method, "integrator": run.stats.method},
    )


# --- Verdicts against perturbations --------------------------------------------------------------------


def rock_paper_scissors(win: float) -> landscapes.MatrixGame:
    """Return the game in which a win pays `win` and a defeat costs 1."""
    return landscapes.MatrixGame([[0.0, -1.0, win], [win, 0.0, -1.0], [-1.0, win, 0.0]])


CLASSICS: dict[str, LandscapeFunction] = {
    "hawk and dove": landscapes.MatrixGame([[-1.0, 4.0], [0.0, 2.0]]),
    "coordination": landscapes.MatrixGame([[2.0, 0.0], [0.0, 1.0]]),
    "dominance": landscapes.MatrixGame([[1.0, 5.0], [0.0, 3.0]]),
    "rock-paper-scissors, inward": rock_paper_scissors(1.5),
    "rock-paper-scissors, zero-sum": rock_paper_scissors(1.0),
    "rock-paper-scissors, outward": rock_paper_scissors(0.5),
    "neutral game": landscapes.MatrixGame(np.zeros((3, 3))),
    "constant, best two tied": landscapes.Constant([2.0, 1.0, 2.0]),
    "Eq. 10": landscapes.LinearDecay([3.0, 2.0, 0.0], 1.0),
    "Eq. 10, tied at the level": landscapes.LinearDecay([3.0, 2.0, 1.0], 1.0),
    "twins, equally fit": landscapes.Redundancy([1.0, 1.0, 0.8], [[1, 1, 0], [1, 1, 0], [0, 0, 1]], 1.0),
    "twins, unequally fit": landscapes.Redundancy([1.0, 0.9, 0.8], [[1, 1, 0], [1, 1, 0], [0, 0, 1]], 1.0),
    "indefinite overlap": landscapes.Redundancy([2.0, 1.0], [[4.0, 2.2], [2.2, 1.0]], 0.5),
}
"""Landscapes of two or three groups whose rest points are known, by name."""


@dataclasses.dataclass(frozen=True)
class Classic:
    """A classical case under Eq. 6, each of whose rest points is perturbed `probes` times."""

    name: str
    landscape: LandscapeFunction
    probes: int
    seed: int


def judge(classic: Classic) -> xr.Dataset:
    """Put the verdict on every rest point of a classical case beside what perturbations of it do."""
    rng = np.random.default_rng(classic.seed)
    points = ed.all_equilibria(ed.Replicator(), classic.landscape, total_mass=3.0)
    ratios = [late_distance(classic.landscape, point, classic.probes, rng) for point in points]
    fates = ["return" if ratio < 0.1 else "leave" if ratio > 10 else "stay near" for ratio in ratios]
    codes = [CODES.index(point.stability) for point in points]
    growth = [float(np.asarray(point.eigenvalues)[0].real) for point in points]
    borne_out = [FATES.get(point.stability.name) == fate for point, fate in zip(points, fates, strict=True)]
    shares = [" ".join(f"{share:.4g}" for share in point.masses / point.masses.sum()) for point in points]
    described = {
        "perturbation_ratio": (ratios, "late over initial distance from the rest point"),
        "growth_rate": (growth, "largest real part of an eigenvalue", "1/time"),
        "fate": (fates, "what perturbations do"),
        "borne_out": (borne_out, "whether that is what the verdict says"),
    }
    labels = [f"{classic.name}: {text}" for text in shares]
    return xr.Dataset(
        {"verdict": ("judged", np.array(codes, dtype=np.int8), about("verdict") | FLAGS)}
        | labelled("judged", described),
        coordinates(judged=(labels, "case and shares at rest")),
    )


def late_distance(
    landscape: LandscapeFunction, point: ed.Equilibrium, probes: int, rng: np.random.Generator
) -> float:
    """Return how far the farthest of a few perturbations is in the end, relative to where it started."""
    masses, total = point.masses, point.masses.sum()
    worst = 0.0
    for _ in range(probes):
        start = masses + PERTURBATION * total * rng.uniform(0.1, 1.0, len(masses)) * np.where(
            point.survivors, rng.choice([-1.0, 1.0], len(masses)), 1.0
        )
        start *= total / start.sum()
        # A group exactly at the water level is lost only as 1/t.
        slow = point.stability is ed.Stability.STABLE and np.asarray(point.eigenvalues)[0].real > -1e-9
        t_end = 1e8 if slow else 200.0
        run = ed.solve(
            ed.Replicator(), landscape, start, (0.0, t_end), solver=ed.Solver(rtol=1e-9, atol=1e-9)
        )
        away = np.abs(run.masses - masses).max(axis=1)
        # An orbit's distance swings: its largest at late times counts.
        worst = max(worst, float(away[len(away) // 2 :].max() / away[0]))
    return worst


# --- Flows of three groups, for the figure -------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Panel:
    """A flow on the simplex of three groups with total mass 1."""

    title: str
    dynamics: ed.Dynamics
    landscape: LandscapeFunction
    t_end: float
    starts: tuple[tuple[float, float, float], ...]


CENTRE = ((0.36, 0.32, 0.32),)
EDGES = ((0.06, 0.14, 0.80), (0.80, 0.06, 0.14), (0.14, 0.80, 0.06))
WIDE = (*EDGES, (0.14, 0.06, 0.80), (0.80, 0.14, 0.06), (0.06, 0.80, 0.14))
RINGS = ((0.40, 0.33, 0.27), (0.52, 0.31, 0.17), (0.68, 0.24, 0.08))
PANELS = (
    Panel("three hawks", ed.Replicator(), landscapes.MatrixGame(1.0 - 2.0 * np.eye(3)), 30.0, WIDE),
    Panel(
        "coordination",
        ed.Replicator(),
        landscapes.MatrixGame(np.diag([1.0, 1.2, 1.4])),
        60.0,
        (
            (0.40, 0.33, 0.27),
            (0.42, 0.30, 0.28),
            (0.36, 0.38, 0.26),
            (0.34, 0.33, 0.33),
            (0.48, 0.44, 0.08),
            (0.10, 0.50, 0.40),
        ),
    ),
    Panel("inward: win 1.5", ed.Replicator(), rock_paper_scissors(1.5), 60.0, EDGES[:1]),
    Panel("zero-sum: win 1", ed.Replicator(), rock_paper_scissors(1.0), 16.0, RINGS),
    Panel("outward: win 0.5", ed.Replicator(), rock_paper_scissors(0.5), 60.0, CENTRE),
    Panel("Eq. 10, water filling", ed.Replicator(), landscapes.LinearDecay([1.5, 1.0, 0.0], 1.0), 30.0, WIDE),
    Panel("Eq. 8, mutation", ed.SelectionMutation(0.3), landscapes.Constant([1.5, 1.0, 0.0]), 30.0, WIDE),
    Panel(
        "redundant twins",
        ed.Replicator(),
        landscapes.Redundancy([1.0, 1.0, 0.9], [[1, 1, 0], [1, 1, 0], [0, 0, 1]], 2.0),
        30.0,
        (
            (0.90, 0.05, 0.05),
            (0.60, 0.35, 0.05),
            (0.35, 0.60, 0.05),
            (0.05, 0.90, 0.05),
            (0.12, 0.03, 0.85),
            (0.03, 0.12, 0.85),
            (0.075, 0.075, 0.85),
        ),
    ),
)


def simplex_nodes(side: int) -> FloatArray:
    """Return the inner points of a triangular grid as shares, shape (K, 3)."""
    step = np.arange(side) + 1 / 3
    first, second = np.meshgrid(step, step, indexing="ij")
    inside = first + second < side
    shares = np.stack((first[inside], second[inside]), axis=-1) / side
    return np.column_stack((shares, 1.0 - shares.sum(axis=1)))


def flows(side: int) -> xr.Dataset:
    """Return the vector fields, trajectories and rest points of all panels."""
    nodes = simplex_nodes(side)
    most = max(len(panel.starts) for panel in PANELS)
    fields = np.empty((len(PANELS), len(nodes), 3))
    times = np.empty((len(PANELS), TRAJECTORY_TIMES))
    paths = np.full((len(PANELS), most, TRAJECTORY_TIMES, 3), np.nan)
    points = np.full((len(PANELS), 7, 3), np.nan)
    verdicts = np.full((len(PANELS), 7), -1, dtype=np.int8)
    growth = np.full((len(PANELS), 7, 2, 2), np.nan)
    for k, panel in enumerate(PANELS):
        fields[k] = panel.dynamics.velocity(nodes, panel.landscape(0.0, nodes))
        times[k] = panel.t_end * np.linspace(0.0, 1.0, TRAJECTORY_TIMES) ** 2
        for j, start in enumerate(panel.starts):
            span = (0.0, panel.t_end)
            run = ed.solve(panel.dynamics, panel.landscape, np.array(start), span, save_at=times[k])
            paths[k, j] = run.masses
        total = None if panel.dynamics.mutation_rate_at(0.0) else 1.0
        found = ed.all_equilibria(panel.dynamics, panel.landscape, total_mass=total)
        for j, point in enumerate(found):
            modes = np.asarray(point.eigenvalues)
            points[k, j], verdicts[k, j] = point.masses, CODES.index(point.stability)
            growth[k, j, :, 0], growth[k, j, :, 1] = modes.real, modes.imag
    text = "verdict on the rest point, -1 where there is none"
    return xr.Dataset(
        {
            "field": (("panel", "node", "share"), fields, about("velocity", "1/time")),
            "node": (("node", "share"), nodes, about("where the field is drawn")),
            "path": (("panel", "trajectory", "moment", "share"), paths, about("shares along trajectories")),
            "path_time": (("panel", "moment"), times, about("time", "1/fitness")),
            "rest_point": (("panel", "point", "share"), points, about("rest points")),
            "stability": (("panel", "point"), verdicts, about(text) | FLAGS),
        }
        | labelled(
            ("panel", "point", "mode", "part"),
            {"eigenvalue": (growth, "eigenvalues on the tangent space", "1/time")},
        ),
        coordinates(panel=([panel.title for panel in PANELS], "flow"), part=(["real", "imaginary"], "part")),
    )


# --- The study -----------------------------------------------------------------------------------------


def main(
    study: _shared.Study,
    groups: Annotated[
        int, typer.Option(min=2 * SMALL, help="Number of groups where theory has a closed form.")
    ] = 768,
    few: Annotated[
        int, typer.Option(min=2 * SMALL, help="Number of groups where it needs dense matrices.")
    ] = 96,
    seed: _shared.Seed = 0,
    seeds: _shared.Seeds = 1,
) -> None:
    """Compare rest points with long integrations, and stability verdicts with perturbations.

    Writes results/fixed_points/fixed_points.nc (masses, verdicts, the flows of the figure) and
    fixed_points.csv (the table).
    """
    probes = PROBES
    if study.smoke:
        groups, few, probes = min(groups, 24), min(few, 16), 1
    cases = [(dynamics, family, member) for dynamics, family in PAIRS for member in range(seeds)]
    pairs = [
        pair(dynamics, family, size(dynamics, family, groups, few), seed, member)
        for dynamics, family, member in cases
    ]
    classics = [Classic(name, landscape, probes, seed) for name, landscape in CLASSICS.items()]
    ends = study.sweep("Integrating", confront, pairs, "pairs")
    verdicts = study.sweep("Perturbing", judge, classics, "classics")
    rows = [table_row(*case, pair.groups, end) for case, pair, end in zip(cases, pairs, ends, strict=True)]
    judged = xr.concat(verdicts, "judged", combine_attrs="override")
    specification: Row = {"schema": SCHEMA, "groups": groups, "few": few, "seed": seed, "seeds": seeds}
    specification |= {"probes": probes, "relaxations": RELAXATIONS, "perturbation": PERTURBATION}
    panels = {panel.title: type(panel.dynamics).__name__ for panel in PANELS}
    specification |= {"total_mass": 1.0, "panels": panels}
    study.save(flows(SIDE).merge(compared(cases, ends)).merge(judged), rows, specification)
    study.show(comparison_table(rows), verdict_table(verdicts), *notes(rows, seeds, judged))


def size(dynamics: str, family: str, groups: int, few: int) -> int:
    """Return the number of groups: `few` for linear systems and Newton's iteration, on dense matrices."""
    if family == "MatrixGame":
        return SMALL
    return few if dynamics == "Selection" or family in ("Redundancy", "c/(1 + p)") else groups


def table_row(dynamics: str, family: str, member: int, groups: int, end: xr.Dataset) -> Row:
    """Return a pair and what was found for it, number by number."""
    row = {"dynamics": dynamics, "landscape": family, "member": member, "groups": groups}
    numbers = {str(name): end[name].item() for name in end.data_vars if not end[name].dims}
    return row | numbers | {name: end.attrs[name] for name in ("stability", "theory", "integrator")}


def compared(cases: list[tuple[str, str, int]], ends: list[xr.Dataset]) -> xr.Dataset:
    """Return the comparison as data: one entry for each draw of each dynamics on each landscape."""
    joint = xr.concat(ends, "case", join="outer", combine_attrs="override")
    labels = [f"{dynamics}: {family}" for dynamics, family, _ in cases]
    return joint.assign_coords(
        case=("case", labels, about("dynamics and landscape")),
        member=("case", [member for *_, member in cases], about("member drawn from the seed")),
    )


def comparison_table(rows: list[Row]) -> Table:
    """Return the table theory | simulation | difference: the first draw, the largest difference of all."""
    first = _shared.first_population(rows, "dynamics", "landscape")
    columns = {
        "dynamics": "{dynamics}",
        "landscape": "{landscape}",
        "N": "{groups}",
        "alive": "{survivors}",
        "theory": "{theory_mean_fitness:z.6f}",
        "simulation": "{simulated_mean_fitness:z.6f}",
        "diff.": "{worst:.0e}",
    }
    title = "Mean fitness at rest; diff.: largest of a mass, relative to the largest mass"
    return _shared.row_table(title, columns, first, left=2, merge=True)


def verdict_table(verdicts: list[xr.Dataset]) -> Table:
    """Return the table of verdicts: one line for each case, verdict and fate."""
    rows: list[Row] = []
    for name, found in zip(CLASSICS, verdicts, strict=True):
        lines: dict[tuple[int, str], list[float]] = {}
        seen = (found.verdict.values, found.fate.values, found.perturbation_ratio.values)
        for code, fate, ratio in zip(*seen, strict=True):
            lines.setdefault((int(code), str(fate)), []).append(float(ratio))
        for (code, fate), ratios in lines.items():
            ends = "–".join(dict.fromkeys(f"{ratio:.0e}" for ratio in (min(ratios), max(ratios))))
            row = {"case": name, "verdict": CODES[code].name.lower(), "points": len(ratios)}
            rows.append(row | {"fate": fate, "ratio": ends})
    columns = {
        "case": "{case}",
        "verdict": "{verdict}",
        "points": "{points}",
        "simulation": "{fate}",
        "ratio": "{ratio}",
    }
    title = "Verdicts, and what perturbations of every rest point do"
    return _shared.row_table(title, columns, rows, left=2, merge=True)


def notes(rows: list[Row], seeds: int, judged: xr.Dataset) -> list[str]:
    """Return the lines that explain the tables."""
    worst = max(row["difference"] for row in rows)
    return [
        f"Largest difference {worst:.1e} over {len(rows) // seeds} pairs; target 1e-10. Integrated for",
        f"{RELAXATIONS:g} times the slowest relaxation time. Mutation: SelectionMutation, its target;",
        "both: Entropic + LinearDecay; Selection: growth at the rate of fitness itself.",
        f"Draws of every pair: {seeds}; mean fitness is that of the first.",
        f"{int(judged.borne_out.sum())} of {judged.sizes['judged']} verdicts are borne out. "
        "Ratio: late over initial distance of the",
        "perturbations (below 0.1 they return, above 10 they leave).",
        "",
    ]


if __name__ == "__main__":
    _shared.command_line(main)()
