"""Rest points of selection dynamics, with the evidence: residual, invasion rates, eigenvalues, stability.

Which method applies is decided in `evodyn.equilibria.search`; the closed forms are in `closed_forms`, the
linear systems in `affine_fitness`, the verdicts in `stability`.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import warnings
from typing import Literal

import numpy as np
import numpy.typing as npt

from evodyn.core import html
from evodyn.core.arrays import FloatArray, frozen, real
from evodyn.core.specifications import Specification
from evodyn.equilibria.conditions import RestPointProblem
from evodyn.equilibria.newton import NoRestPointError, Solution, UndecidedError
from evodyn.equilibria.probing import BoolArray, size_of
from evodyn.equilibria.search import several_solutions, solution
from evodyn.equilibria.stability import ComplexArray, Stability, classify
from evodyn.model.dynamics import Dynamics
from evodyn.model.fitness import LandscapeFunction, Separable, fitness_at_log_masses

__all__ = ["Equilibrium", "all_equilibria", "equilibrium"]

_EPS = 2.0**-52
_AUTOMATIC_EIGENVALUES = 1000  # groups; beyond, eigenvalues cost seconds and come on request
_MOST_SUPPORTS = 12  # groups; 4095 supports
_NEWTON_STEPS = 200
_CONVERGED = 1e-10
_CHUNK = 32768  # groups whose rates fit into a processor's cache


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Equilibrium(Specification):
    """A rest point and the evidence for it. Arrays are read-only.

    Attributes
    ----------
    masses : array, shape (N,)
        p*.
    survivors : array of bool, shape (N,)
        The groups with mass, those included whose mass underflows to 0 in floating point (entropic fitness).
    mean_fitness : float, or array of shape (K,) with K blocks
        φ̄ at the rest point.
    invasion_rates : array, shape (N,)
        Per-capita growth rates of the absent groups when rare: φ_i - φ̄, less μ under mutation, clipped by a
        signal clip. 0 for survivors, who are at rest. The Karush-Kuhn-Tucker conditions (no group can
        invade) hold where none is positive.
    residual : float
        Greatest per-capita growth rate of a survivor, or relative error of a total mass if that is greater;
        rates are relative to the size of fitness and of its derivative.
    eigenvalues : complex array or None
        Of the Jacobian on the tangent space (total masses fixed), by falling real part: those among the
        survivors and the invasion rates of the absent. None if they were not computed.
    stability : Stability
        The verdict, for perturbations that leave total mass unchanged.
    method : str
        How the point was found, and what is special about it (ties, a continuum of rest points).

    Examples
    --------
    >>> import evodyn as ed
    >>> landscape = ed.landscapes.LinearDecay([3.0, 2.0, 0.0], decay=1.0)
    >>> point = ed.equilibrium(ed.Replicator(), landscape, total_mass=2.0)
    >>> point.masses, point.survivors, point.invasion_rates
    (array([1.5, 0.5, 0. ]), array([ True,  True, False]), array([ 0. ,  0. , -1.5]))
    >>> point.stability.name
    'STABLE'
    """

    masses: FloatArray
    survivors: BoolArray
    mean_fitness: float | FloatArray
    invasion_rates: FloatArray
    residual: float
    eigenvalues: ComplexArray | None
    stability: Stability
    method: str

    def _repr_html_(self) -> str:
        absent = self.invasion_rates[~self.survivors]
        rows = {
            "survivors": f"{np.count_nonzero(self.survivors)} of {len(self.masses)} groups",
            "mean fitness": np.array2string(np.asarray(self.mean_fitness), precision=6),
            "stability": str(self.stability),
            "fastest invader": f"{absent.max():.4g}" if absent.size else "none is absent",
            "residual": f"{self.residual:.1e}",
            "method": self.method,
        }
        return html.summary("Equilibrium", rows, self, "ranked_masses")


def equilibrium(
    dynamics: Dynamics,
    landscape: LandscapeFunction,
    *,
    total_mass: float | npt.ArrayLike | None = None,
    support: npt.ArrayLike | None = None,
    start: npt.ArrayLike | None = None,
    eigenvalues: Literal["auto"] | bool = "auto",
) -> Equilibrium:
    """Return a rest point of `dynamics` on `landscape`.

    Parameters
    ----------
    dynamics : Dynamics
        Any, `Populations` included. A callable mutation rate has no rest point.
    landscape : callable
        (t, masses) -> fitness, not depending on t.
    total_mass : float or array of shape (K,), optional
        P, of every block with K blocks. Required where the dynamics conserves it and the landscape acts on
        masses; 1 where only shares matter (constant and entropic fitness, matrix games). Under mutation
        the target fixes it, and a conflicting value is an error. So is a value, other than the rest point's
        own, for a dynamics that does not conserve total mass; NaN stands for it among several blocks.
    support : array_like of int or bool, optional
        The groups that have mass at the rest point, exactly these, by index or as a mask.
    start : array_like, shape (N,), optional
        Initial masses, which select a basin of attraction: the rest point is the one that the flow reaches.
        Groups with zero mass stay away. Not together with `support`.
    eigenvalues : "auto" or bool, optional
        Whether to compute all eigenvalues: "auto" does up to 1000 groups.

    Returns
    -------
    Equilibrium
        Without `support` and `start`: the attractor of interior starts where it is certain to be the only
        one, else the interior rest point. Where fitness is constant and the best groups tie, the attractor
        of equal initial masses, named NEUTRAL.

    Raises
    ------
    ValueError
        If an argument is out of range, the landscape depends on time, no rest point exists on `support`,
        or none is singled out (use `start`, `support` or `all_equilibria`).

    Notes
    -----
    Closed forms, up to one scalar equation, serve constant, density-regulated (Eq. 10) and entropic
    fitness, with and without mutation (Eq. 8); linear systems serve matrix games, redundancy and whatever
    else is affine in the masses, which up to 200 groups is found out at random masses; all else is Newton's
    iteration in log-masses, with the landscape's own linearization if it has one. From a `start` the flow is
    integrated until it has settled near such a point, unless that is the only attractor. With a signal
    clip, which does not conserve mass, `total_mass` is that of the rest point.

    Examples
    --------
    >>> import numpy as np
    >>> from evodyn import Replicator, landscapes
    >>> landscape = landscapes.LinearDecay([3.0, 2.0, 0.0], decay=1.0)
    >>> point = equilibrium(Replicator(), landscape, total_mass=2.0)
    >>> point.masses, point.mean_fitness, point.stability.name
    (array([1.5, 0.5, 0. ]), 1.5, 'STABLE')
    >>> point.invasion_rates
    array([ 0. ,  0. , -1.5])
    """
    if support is not None and start is not None:
        raise ValueError("support and start are both given; expected one: a start selects its own support.")
    if eigenvalues not in ("auto", True, False):
        raise ValueError(f"eigenvalues is {eigenvalues!r}; expected 'auto', True or False.")
    problem = RestPointProblem.of(dynamics, landscape, total_mass, support, start)
    found = solution(problem)
    for (block, _), asked in zip(problem.blocks, problem.asked, strict=True):
        own = float(found.masses[block].sum())
        if not math.isnan(asked) and not math.isclose(asked, own, rel_tol=1e-9):
            raise ValueError(
                f"total_mass is {asked:g}, and the masses of the rest point sum to {own:g}; expected no "
                "total_mass (NaN for a block among others), for the dynamics does not conserve it and the "
                "rest point decides."
            )
    return judged(problem, found, eigenvalues)


def all_equilibria(
    dynamics: Dynamics,
    landscape: LandscapeFunction,
    *,
    total_mass: float | npt.ArrayLike | None = None,
) -> tuple[Equilibrium, ...]:
    """Return the rest points of every support, by growing number of survivors.

    Of a continuum of rest points with the same support one is returned, and named NEUTRAL. Fitness that is
    not affine in the masses may have several isolated rest points with the same support; then one of them
    is returned. Where inflow depends on masses (`ReplicatorMutator`) or is not said to be steady, every
    support that feeds no other group is searched from many starts, and all rest points found are returned.

    Parameters
    ----------
    dynamics, landscape, total_mass
        As for `equilibrium`.

    Returns
    -------
    tuple of Equilibrium

    Raises
    ------
    ValueError
        As for `equilibrium`; also with more than 12 groups, and under mutation towards a target unless the
        rest point is known to be unique (constant or density-regulated fitness).

    Warns
    -----
    RuntimeWarning
        If for some support the search did not converge, and nothing shows that it has no rest point.

    Examples
    --------
    Hawk and dove: both pure states can be invaded, the mixture is stable.

    >>> from evodyn import Replicator, landscapes
    >>> game = landscapes.MatrixGame([[-1.0, 4.0], [0.0, 2.0]])
    >>> [(e.masses.round(3).tolist(), e.stability.name) for e in all_equilibria(Replicator(), game)]
    [([1.0, 0.0], 'UNSTABLE'), ([0.0, 1.0], 'UNSTABLE'), ([0.667, 0.333], 'STABLE')]
    """
    problem = RestPointProblem.of(dynamics, landscape, total_mass, selectable=False)
    if not np.isnan(problem.asked).all():
        raise ValueError(
            f"total_mass is {total_mass!r}, and the dynamics does not conserve total mass; expected no "
            "total_mass (NaN for a block among others), for every rest point has its own."
        )
    if problem.mutates and problem.steady is not None:
        if problem.separable is None or problem.general or problem.clipped:
            raise ValueError(
                "dynamics has mutation and the landscape is not constant or density-regulated; expected "
                "dynamics without mutation: use equilibrium, with start for other rest points."
            )
        return (judged(problem, solution(problem), "auto"),)
    if problem.n > _MOST_SUPPORTS:
        raise ValueError(
            f"there are {problem.n} groups; expected at most {_MOST_SUPPORTS}, for every support is tried: "
            "use equilibrium, with support or start."
        )
    found, open_questions = [], []
    for size in range(1, problem.n + 1):
        for chosen in itertools.combinations(range(problem.n), size):
            support = np.zeros(problem.n, dtype=bool)
            support[list(chosen)] = True
            if not all(support[block].any() for block, _ in problem.blocks):
                continue
            if problem.mutates and not np.array_equal(problem.fed_by(support), support):
                continue
            candidate = dataclasses.replace(problem, present=support, exact=True)
            try:
                all_there = several_solutions(candidate) if problem.mutates else [solution(candidate)]
                found += [judged(candidate, one, "auto") for one in all_there]
            except UndecidedError:
                open_questions.append(list(chosen))
            except NoRestPointError:
                continue
    if open_questions:
        warnings.warn(
            f"the search did not converge for {len(open_questions)} sets of survivors, such as "
            f"{open_questions[0]}, and nothing shows that they have no rest point: ask equilibrium for "
            "them with support, or with a start near by.",
            RuntimeWarning,
            stacklevel=2,
        )
    return tuple(found)


def judged(problem: RestPointProblem, found: Solution, eigenvalues: Literal["auto"] | bool) -> Equilibrium:
    """Return the solution as an `Equilibrium`, judged by the dynamics' own growth rates."""
    masses, survivors, log_masses = found.masses, found.survivors, found.log_masses
    if log_masses is None:
        fitness = real(problem.landscape(0.0, masses))
    else:
        fitness = real(fitness_at_log_masses(problem.landscape, 0.0, log_masses))
    totals = problem.totals if found.totals is None else found.totals
    here = dataclasses.replace(problem, present=survivors, totals=totals)
    scale = size_of(fitness)
    means, growth = problem.growth(masses, fitness)
    if problem.mutates:
        logs = np.log(masses[survivors]) if log_masses is None else log_masses[survivors]
        growth[survivors] += here.inflow_rates(logs, masses, fitness)
    unrest = _take_out(growth, survivors)
    invasion = growth
    if log_masses is not None:
        invasion[np.isposinf(fitness)] = math.inf  # the absent on an entropic landscape
    errors = [
        abs(float(masses[block].sum()) / total - 1)
        for (block, _), total in zip(problem.blocks, totals, strict=True)
        if not math.isnan(total)
    ]
    wanted = eigenvalues is True or (eigenvalues == "auto" and problem.n <= _AUTOMATIC_EIGENVALUES)
    spectrum = None
    if wanted or problem.separable is None:
        logs = np.log(masses[survivors]) if log_masses is None else log_masses[survivors]
        scale += size_of(here.log_jacobian(logs))
        if wanted:
            spectrum = here.internal_eigenvalues(logs)
    elif problem.separable is not None:
        scale += problem.separable.decay * float(masses.max()) + problem.separable.temperature
    scale = scale or 1.0
    residual = max(0.0, unrest / scale, *errors)
    stability = _verdict(here, invasion, spectrum, scale)
    if spectrum is not None:
        spectrum = np.concatenate((spectrum, invasion[~survivors]))
        spectrum = spectrum[np.argsort(-spectrum.real, kind="stable")]
        spectrum.flags.writeable = False
    means = problem.dynamics.shaped(means)
    for array in (masses, survivors, invasion):
        array.flags.writeable = False
    return Equilibrium(
        masses=masses,
        survivors=survivors,
        mean_fitness=frozen(means) if means.ndim else float(means),
        invasion_rates=invasion,
        residual=residual,
        eigenvalues=spectrum,
        stability=stability,
        method=found.method,
    )


def _take_out(growth: FloatArray, survivors: BoolArray) -> float:
    """Set the growth rates of the survivors to 0, and return the greatest absolute value among them."""
    greatest = 0.0
    for begin in range(0, len(growth), _CHUNK):
        part = growth[begin : begin + _CHUNK]
        own = part * survivors[begin : begin + _CHUNK]  # faster than any indexing
        greatest = max(greatest, size_of(own))
        part -= own
    return greatest


def _verdict(
    problem: RestPointProblem,
    invasion: FloatArray,
    spectrum: ComplexArray | None,
    scale: float,
) -> Stability:
    if problem.separable is not None and not problem.general and not problem.clipped:
        return _separable_verdict(problem, problem.separable, invasion, scale)
    if spectrum is None or np.isnan(spectrum).any():
        return Stability.INDETERMINATE
    absent = ~problem.present
    slope = None
    affine = problem.affine
    if affine is not None:
        face = problem.present | (absent & (np.abs(invasion) <= 1e-9 * scale))
        basis = affine.tangent(face)
        slope = basis.T @ affine.slope[np.ix_(face, face)] @ basis
        verdict = classify(spectrum, invasion[absent], scale=scale, slope=slope)
        if verdict is not Stability.INDETERMINATE or len(problem.blocks) == 1:
            return verdict
        # The function that falls, or is constant, may weigh blocks differently: by what each does to another.
        weighted = affine.balanced(face)[:, None] * affine.slope[np.ix_(face, face)]
        slope = basis.T @ weighted @ basis
    return classify(spectrum, invasion[absent], scale=scale, slope=slope)


def _separable_verdict(
    problem: RestPointProblem,
    fitness: Separable,
    invasion: FloatArray,
    scale: float,
) -> Stability:
    """Return the verdict where each group's fitness depends on its own mass alone.

    With a decay, a temperature or mutation the linearization among the survivors is diagonal and
    negative, but for at most one entry, up to the constraint; and the rest point that no group can
    invade maximises a strictly concave function, so that a zero invasion rate changes nothing.
    """
    rounding = 16 * _EPS * scale
    if invasion.max() > rounding:
        return Stability.UNSTABLE
    if fitness.decay or fitness.temperature:
        return Stability.STABLE
    for block, _ in problem.blocks:
        # Constant fitness: groups that mutation does not feed share the best contribution in any way.
        free = np.ones(block.stop - block.start, dtype=bool)
        if problem.mutates and problem.steady is not None:
            free = problem.steady[block] == 0
        tied = np.count_nonzero(free & (problem.present[block] | (invasion[block] >= -rounding)))
        if tied > 1:
            return Stability.NEUTRAL
    return Stability.STABLE
