"""Where selection comes to rest: rest points against long integrations, verdicts against perturbations.

Compares `evodyn.equilibrium` with integration to equilibrium for every dynamics on every family of
landscapes, puts the stability verdicts of small games to the test with perturbations, and computes the flow
of three groups for the figure.
"""

from __future__ import annotations

import dataclasses
import time
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import typer
import xarray as xr
from rich import box
from rich.console import Console
from rich.table import Table

import _shared
import evodyn as ed
from evodyn import landscapes
from evodyn.labels import about
from evodyn.landscapes import LandscapeFunction

SCHEMA = 1
FILES = {"Table: ": "fixed_points.csv", "Data:  ": "fixed_points.nc"}
SMALL = 5  # groups of the games
RELAXATIONS = 35.0  # of the slowest mode, e^-35 = 6e-16
PERTURBATION = 1e-5
PROBES = 5
SIDE = 15  # points along one side of the vector fields
TRAJECTORY_TIMES = 161

Floats = npt.NDArray[np.float64]
Row = dict[str, Any]


# --- Theory against integration ------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Case:
    """A dynamics on a landscape, and the masses that the flow starts from."""

    dynamics_name: str
    landscape_name: str
    dynamics: ed.Dynamics
    landscape: LandscapeFunction
    start: Floats


def cases(groups: int, few: int, seed: int) -> list[Case]:
    """Return every dynamics on every family of landscapes: `groups` where theory has a closed form.

    Linear systems and Newton's iteration, which work on dense matrices, get `few`, and games are small.
    """
    rng = np.random.default_rng(seed)
    sizes = {"closed form": groups, "dense": few, "game": SMALL}
    chosen = [case for kind, n in sizes.items() for case in _cases(n, rng) if _kind(case) == kind]
    order = list(dict.fromkeys(case.dynamics_name for case in chosen))
    return sorted(chosen, key=lambda case: order.index(case.dynamics_name))


def _kind(case: Case) -> str:
    if case.landscape_name == "MatrixGame":
        return "game"
    dense = isinstance(case.dynamics, ed.Selection) or isinstance(case.landscape, Saturating)
    return "dense" if dense or case.landscape_name == "Redundancy" else "closed form"


def _cases(n: int, rng: np.random.Generator) -> list[Case]:
    c = landscapes.contributions("lognormal", n=n, heterogeneity=1.0, rng=rng)
    distinct = c.copy()
    distinct[int(c.argmax())] += 0.5  # the slowest rate is the gap between the best two
    # Groups limit themselves, and compete through eight features that they share more or less.
    features = rng.uniform(0.0, 1.0, (n, 8))
    similarity = np.eye(n) + features @ features.T / n
    families: dict[str, LandscapeFunction] = {
        "Constant": landscapes.Constant(distinct),
        "LinearDecay": landscapes.LinearDecay(c, 0.5),
        "Entropic": landscapes.Entropic(c, 0.5),
        "both": landscapes.Entropic(c, 0.5) + landscapes.LinearDecay(np.zeros(n), 0.1),
        "Redundancy": landscapes.Redundancy(c, similarity, 1.0),
        "c/(1 + p)": Saturating(rng.uniform(1.0, 1.5, n)),
        "MatrixGame": landscapes.MatrixGame(0.3 * rng.uniform(-1.0, 1.0, (n, n)) - np.eye(n)),
    }
    dynamics: dict[str, ed.Dynamics] = {
        "Replicator": ed.Replicator(),
        "NormalizedGrowth": ed.NormalizedGrowth(mass_cap=float(n)),
        "Mutation to 1/N": ed.SelectionMutation(0.5),
        "Mutation to 1": ed.SelectionMutation(0.5, target=1.0),
        "Mutation to m_i": ed.SelectionMutation(0.5, target=rng.uniform(0.5, 1.5, n)),
        "Populations": ed.Populations(ed.Replicator(), (n // 2, n - n // 2)),
        "Selection": ed.Selection(growing),
    }
    # Without comparison with the mean only what limits every group by itself has a rest point.
    limited = ("LinearDecay", "Entropic", "both")
    return [
        Case(name, family, chosen, landscape, np.ones(n))
        for name, chosen in dynamics.items()
        for family, landscape in families.items()
        if name != "Selection" or family in limited
    ]


@dataclasses.dataclass(frozen=True, eq=False)
class Saturating:
    """Fitness c/(1 + p): a landscape of one's own, without a derivative."""

    contribution: Floats

    def __call__(self, t: float, masses: Floats) -> Floats:
        return self.contribution / (1.0 + masses)

    @property
    def groups(self) -> int:
        return len(self.contribution)


def growing(masses: Any, fitness: Any) -> Any:
    """Return fitness itself as the growth rate, with no mean to compare with: Lotka and Volterra's form."""
    return fitness


def confronted(case: Case) -> tuple[Row, Floats, Floats]:
    """Return the row of a case, and the masses at rest in theory and at the end of the integration."""
    started = time.perf_counter()
    total: Any = None
    if isinstance(case.dynamics, ed.Populations):
        total = [case.start[block].sum() for block, _ in case.dynamics.blocks(len(case.start))]
    elif not isinstance(case.dynamics, ed.SelectionMutation | ed.Selection):
        total = case.start.sum()
    point = ed.equilibrium(case.dynamics, case.landscape, total_mass=total, eigenvalues=True)
    slowest = -float(np.asarray(point.eigenvalues)[0].real)
    if isinstance(case.dynamics, ed.SelectionMutation):
        slowest = min(slowest, float(case.dynamics.rate(0.0)))  # of total mass
    t_end = (RELAXATIONS + np.log(len(case.start))) / slowest
    # Never a closed form on this side.
    method: Any = "DOP853" if case.landscape_name == "Constant" else "auto"
    run = ed.solve(
        case.dynamics,
        case.landscape,
        case.start,
        (0.0, t_end),
        save_at=[t_end],
        solver=ed.Solver(method=method, rtol=1e-11, atol=1e-11),
    )
    theory, simulated = np.array(point.masses), run.masses[-1]
    row: Row = {
        "dynamics": case.dynamics_name,
        "landscape": case.landscape_name,
        "groups": len(theory),
        "survivors": int(point.survivors.sum()),
        "theory_mean_fitness": float(np.mean(point.mean_fitness)),
        "simulated_mean_fitness": float(np.mean(run.mean_fitness[-1])),
        "difference": float(np.abs(simulated - theory).max() / theory.max()),
        "way": float(np.abs(case.start / case.start.sum() - theory / theory.sum()).max()),
        "residual": point.residual,
        "stability": point.stability.name,
        "slowest_rate": slowest,
        "t_end": float(t_end),
        "theory": point.method,
        "integrator": run.stats.method,
        "seconds": time.perf_counter() - started,
    }
    return row, theory, simulated


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
FATES = {"STABLE": "return", "UNSTABLE": "leave", "NEUTRAL": "stay near"}


def fate(landscape: LandscapeFunction, point: ed.Equilibrium, probes: int, rng: np.random.Generator) -> float:
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


def judged(probes: int, seed: int) -> list[Row]:
    """Return the verdict on every rest point of the classical cases, and what perturbations of it do."""
    rows = []
    for name, landscape in CLASSICS.items():
        rng = np.random.default_rng(seed)
        for point in ed.all_equilibria(ed.Replicator(), landscape, total_mass=3.0):
            ratio = fate(landscape, point, probes, rng)
            seen = "return" if ratio < 0.1 else "leave" if ratio > 10 else "stay near"
            rows.append(
                {
                    "case": name,
                    "shares": " ".join(f"{share:.4g}" for share in point.masses / point.masses.sum()),
                    "verdict": point.stability.name,
                    "growth": float(np.asarray(point.eigenvalues)[0].real),
                    "ratio": ratio,
                    "perturbations": seen,
                    "agree": seen == FATES.get(point.stability.name),
                }
            )
    return rows


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
MIDDLE = ((0.37, 0.33, 0.30), (0.30, 0.37, 0.33), (0.33, 0.30, 0.37))
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
CODES = [member.name for member in ed.Stability]


def simplex_nodes(side: int) -> Floats:
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
            run = ed.solve(
                panel.dynamics, panel.landscape, np.array(start), (0.0, panel.t_end), save_at=times[k]
            )
            paths[k, j] = run.masses
        mutation = isinstance(panel.dynamics, ed.SelectionMutation)
        found = ed.all_equilibria(panel.dynamics, panel.landscape, total_mass=None if mutation else 1.0)
        for j, point in enumerate(found):
            modes = np.asarray(point.eigenvalues)
            points[k, j], verdicts[k, j] = point.masses, CODES.index(point.stability.name)
            growth[k, j, :, 0], growth[k, j, :, 1] = modes.real, modes.imag
    share = {"units": "1"}
    flags = {"flag_values": np.arange(len(CODES), dtype=np.int8), "flag_meanings": " ".join(CODES)}
    return xr.Dataset(
        {
            "field": (("panel", "node", "share"), fields, about("velocity", "1/time")),
            "node": (("node", "share"), nodes, {"long_name": "where the field is drawn"} | share),
            "path": (
                ("panel", "trajectory", "moment", "share"),
                paths,
                {"long_name": "shares along trajectories"} | share,
            ),
            "path_time": (("panel", "moment"), times, about("time", "time")),
            "rest_point": (("panel", "point", "share"), points, {"long_name": "rest points"} | share),
            "stability": (
                ("panel", "point"),
                verdicts,
                about("verdict on the rest point, -1 where there is none") | flags,
            ),
            "eigenvalue": (
                ("panel", "point", "mode", "part"),
                growth,
                about("eigenvalues on the tangent space", "1/time"),
            ),
        },
        coords={
            "panel": ("panel", [panel.title for panel in PANELS], about("flow")),
            "part": ("part", ["real", "imaginary"], about("part")),
        },
    )


# --- The study -----------------------------------------------------------------------------------------


def main(
    groups: Annotated[
        int, typer.Option(min=2 * SMALL, help="Number of groups where theory has a closed form.")
    ] = 768,
    few: Annotated[
        int, typer.Option(min=2 * SMALL, help="Number of groups where it needs dense matrices.")
    ] = 96,
    seed: _shared.Seed = 0,
    out: _shared.Out = None,
    smoke: _shared.Smoke = False,
) -> None:
    """Compare rest points with long integrations, and stability verdicts with perturbations.

    Writes results/fixed_points/fixed_points.nc (masses, verdicts, the flows of the figure) and
    fixed_points.csv (the table).
    """
    started = time.perf_counter()
    if smoke:
        groups, few = min(groups, 40), min(few, 16)
    with _shared.reporting(), _shared.progress("Integrating") as progress:
        chosen = cases(groups, few, seed)
        rows, masses = [], np.full((2, len(chosen), groups), np.nan)
        for k, case in enumerate(chosen):
            row, theory, simulated = confronted(case)
            rows.append(row)
            masses[0, k, : len(theory)], masses[1, k, : len(theory)] = theory, simulated
            progress(k + 1, len(chosen))
        verdicts = judged(1 if smoke else PROBES, seed)
        data = flows(SIDE).merge(compared(rows, masses)).merge(verdict_data(verdicts))
    folder = _shared.folder("fixed_points", out=out, smoke=smoke)
    specification = {
        "schema": SCHEMA,
        "study": "fixed_points",
        "groups": groups,
        "few": few,
        "seed": seed,
        "relaxations": RELAXATIONS,
        "perturbation": PERTURBATION,
        "total_mass": 1.0,
        "panels": {panel.title: panel.dynamics.__class__.__name__ for panel in PANELS},
    }
    _shared.write_netcdf(
        data, folder / "fixed_points.nc", specification=specification, provenance=_shared.provenance(started)
    )
    _shared.write_csv(rows, folder / "fixed_points.csv")
    console = Console(width=80, highlight=False)
    console.print(comparison_table(rows))
    console.print(verdict_table(verdicts))
    for line in (*notes(rows, verdicts), *(f"{w} {_shared.shown(folder / n)}" for w, n in FILES.items())):
        console.print(line, soft_wrap=True)


def compared(rows: list[Row], masses: Floats) -> xr.Dataset:
    """Return the comparison as data: one entry for each dynamics on each landscape."""
    units = {
        "groups": "1",
        "survivors": "1",
        "theory_mean_fitness": "1/time",
        "simulated_mean_fitness": "1/time",
        "difference": "1",
        "residual": "1",
        "slowest_rate": "1/time",
        "t_end": "time",
    }
    described = {"difference": "largest difference of a mass, relative to the largest mass"}
    variables: dict[str, Any] = {
        name: (
            "case",
            [row[name] for row in rows],
            about(described.get(name, name.replace("_", " ")), unit),
        )
        for name, unit in units.items()
    }
    for name, values in zip(("theory_mass", "simulated_mass"), masses, strict=True):
        about_mass = about(name.replace("_", " ") + ", NaN beyond the groups", "mass")
        variables[name] = (("case", "group"), values, about_mass)
    labels = [f"{row['dynamics']}: {row['landscape']}" for row in rows]
    return xr.Dataset(variables, coords={"case": ("case", labels, about("dynamics and landscape"))})


def verdict_data(rows: list[Row]) -> xr.Dataset:
    """Return the verdicts as data: one entry for each rest point of the classical cases."""
    return xr.Dataset(
        {
            "verdict": (
                "judged",
                [CODES.index(row["verdict"]) for row in rows],
                {"long_name": "verdict", "units": "1", "flag_meanings": " ".join(CODES)},
            ),
            "perturbation_ratio": (
                "judged",
                [row["ratio"] for row in rows],
                about("late over initial distance from the rest point"),
            ),
            "growth_rate": (
                "judged",
                [row["growth"] for row in rows],
                about("largest real part of an eigenvalue", "1/time"),
            ),
        },
        coords={
            "judged": (
                "judged",
                [f"{row['case']}: {row['shares']}" for row in rows],
                about("case and shares at rest"),
            )
        },
    )


def comparison_table(rows: list[Row]) -> Table:
    """Return the table theory | simulation | difference."""
    table = _table("Mean fitness at rest; diff.: largest of a mass, relative to the largest mass")
    for name in ("dynamics", "landscape"):
        table.add_column(name, no_wrap=True)
    for name in ("N", "alive", "theory", "simulation", "diff."):
        table.add_column(name, justify="right", no_wrap=True)
    former = ""
    for row in rows:
        table.add_row(
            row["dynamics"] if row["dynamics"] != former else "",
            row["landscape"],
            f"{row['groups']}",
            f"{row['survivors']}",
            f"{round(row['theory_mean_fitness'], 6) + 0.0:.6f}",
            f"{round(row['simulated_mean_fitness'], 6) + 0.0:.6f}",
            f"{row['difference']:.0e}",
        )
        former = row["dynamics"]
    return table


def verdict_table(rows: list[Row]) -> Table:
    """Return the table of verdicts: one line for each case and verdict."""
    table = _table("Verdicts, and what perturbations of every rest point do")
    for name in ("case", "verdict"):
        table.add_column(name, no_wrap=True)
    for name in ("points", "simulation", "ratio"):
        table.add_column(name, justify="right", no_wrap=True)
    former = ""
    for name, verdict, seen in dict.fromkeys((r["case"], r["verdict"], r["perturbations"]) for r in rows):
        ratios = [
            r["ratio"] for r in rows if (r["case"], r["verdict"], r["perturbations"]) == (name, verdict, seen)
        ]
        table.add_row(
            name if name != former else "",
            verdict.lower(),
            f"{len(ratios)}",
            seen,
            f"{max(ratios):.0e}" if len(ratios) == 1 else f"{min(ratios):.0e}–{max(ratios):.0e}",
        )
        former = name
    return table


def _table(title: str) -> Table:
    return Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)


def notes(rows: list[Row], verdicts: list[Row]) -> list[str]:
    """Return the lines that explain the tables."""
    worst = max(row["difference"] for row in rows)
    agreeing = sum(row["agree"] for row in verdicts)
    return [
        f"Largest difference {worst:.1e} over {len(rows)} pairs; target 1e-10. Integrated for",
        f"{RELAXATIONS:g} times the slowest relaxation time. Mutation: SelectionMutation, its target;",
        "both: Entropic + LinearDecay; Selection: growth at the rate of fitness itself.",
        f"{agreeing} of {len(verdicts)} verdicts are borne out. Ratio: late over initial distance of the",
        "perturbations (below 0.1 they return, above 10 they leave).",
        "",
    ]


if __name__ == "__main__":
    _shared.command_line(main)()
