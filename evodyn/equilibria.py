"""Rest points of selection dynamics, with the evidence: residual, invasion rates, eigenvalues, stability.

Which method applies is decided here; the closed forms are in `evodyn.rest_points`, the linear systems in
`evodyn.affine_fitness`, the verdicts in `evodyn.stability`.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import scipy.linalg

from evodyn import landscapes, rest_points, validation
from evodyn.affine_fitness import AffineFitness, affine_fitness
from evodyn.arrays import FloatArray, host
from evodyn.dynamics import (
    Dynamics,
    Populations,
    Selection,
    SelectionMutation,
    cap_of,
    inflow_targets,
    mean_fitness,
    rate_bound,
)
from evodyn.landscapes import LandscapeFunction, fitness_at_log_masses
from evodyn.specifications import Specification
from evodyn.stability import ComplexArray, Stability, classify, tangent_basis

__all__ = ["Equilibrium", "all_equilibria", "equilibrium"]

BoolArray = npt.NDArray[np.bool_]
_EPS = 2.0**-52
_AUTOMATIC_EIGENVALUES = 1000  # groups; beyond, eigenvalues cost seconds and come on request
_MOST_SUPPORTS = 12  # groups; 4095 supports
_NEWTON_STEPS = 200
_CONVERGED = 1e-10


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
    """

    masses: FloatArray
    survivors: BoolArray
    mean_fitness: float | FloatArray
    invasion_rates: FloatArray
    residual: float
    eigenvalues: ComplexArray | None
    stability: Stability
    method: str


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
        the target fixes it, and a conflicting value is an error.
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
    fitness, with and without mutation (Eq. 8); linear systems serve matrix games and redundancy; all else
    is Newton's iteration in log-masses, with the landscape's own linearization if it has one. With a
    signal clip, which does not conserve mass, `total_mass` is that of the rest point.

    Examples
    --------
    >>> import numpy as np
    >>> from evodyn.dynamics import Replicator
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
    problem = _Problem.of(dynamics, landscape, total_mass, support, start)
    return problem.certified(problem.solution(), eigenvalues)


def all_equilibria(
    dynamics: Dynamics,
    landscape: LandscapeFunction,
    *,
    total_mass: float | npt.ArrayLike | None = None,
) -> tuple[Equilibrium, ...]:
    """Return the rest points of every support, by growing number of survivors.

    Of a continuum of rest points with the same support one is returned, and named NEUTRAL. Fitness that is
    not affine in the masses may have several isolated rest points with the same support; then one of them
    is returned.

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
        As for `equilibrium`; also with more than 12 groups, and under mutation unless the rest point is
        known to be unique (constant or density-regulated fitness).

    Examples
    --------
    Hawk and dove: both pure states can be invaded, the mixture is stable.

    >>> from evodyn.dynamics import Replicator
    >>> game = landscapes.MatrixGame([[-1.0, 4.0], [0.0, 2.0]])
    >>> [(e.masses.round(3).tolist(), e.stability.name) for e in all_equilibria(Replicator(), game)]
    [([1.0, 0.0], 'UNSTABLE'), ([0.0, 1.0], 'UNSTABLE'), ([0.667, 0.333], 'STABLE')]
    """
    problem = _Problem.of(dynamics, landscape, total_mass, None, None)
    if problem.inflow.any():
        if problem.separable is None or problem.clipped:
            raise ValueError(
                "dynamics has mutation and the landscape is not constant or density-regulated; expected "
                "dynamics without mutation: use equilibrium, with start for other rest points."
            )
        return (problem.certified(problem.solution(), "auto"),)
    if problem.n > _MOST_SUPPORTS:
        raise ValueError(
            f"there are {problem.n} groups; expected at most {_MOST_SUPPORTS}, for every support is tried: "
            "use equilibrium, with support or start."
        )
    found = []
    for size in range(1, problem.n + 1):
        for chosen in itertools.combinations(range(problem.n), size):
            support = np.zeros(problem.n, dtype=bool)
            support[list(chosen)] = True
            if not all(support[block].any() for block, _ in problem.blocks):
                continue
            candidate = dataclasses.replace(problem, present=support, exact=True)
            try:
                found.append(candidate.certified(candidate.solution(), "auto"))
            except _NoRestPointError:
                continue
    return tuple(found)


class _NoRestPointError(ValueError):
    """No rest point where one was sought: an answer for `all_equilibria`, an error for its callers."""


@dataclasses.dataclass(frozen=True)
class _Separable:
    """Fitness φ_i = c_i - λp_i - T ln p_i."""

    contribution: FloatArray
    decay: float
    temperature: float


@dataclasses.dataclass(frozen=True)
class _Solution:
    masses: FloatArray
    survivors: BoolArray
    method: str
    log_masses: FloatArray | None = None  # where masses underflow


@dataclasses.dataclass(frozen=True)
class _Problem:
    """A checked question: which rest point of which flow."""

    dynamics: Dynamics
    landscape: LandscapeFunction
    n: int
    blocks: tuple[tuple[slice, Dynamics], ...]
    totals: FloatArray  # (K,); NaN where the rest point itself decides
    inflow: FloatArray  # (N,), μm_i
    present: BoolArray  # (N,), groups that may have mass
    exact: bool  # whether all of them must
    start: FloatArray | None
    separable: _Separable | None

    @classmethod
    def of(
        cls,
        dynamics: Dynamics,
        landscape: LandscapeFunction,
        total_mass: Any,
        support: Any,
        start: Any,
    ) -> _Problem:
        if not isinstance(dynamics, Dynamics):
            raise ValueError(f"dynamics is {dynamics!r}; expected Replicator, NormalizedGrowth, ...")
        if not callable(landscape):
            raise ValueError(f"landscape is {landscape!r}; expected a callable (t, masses) -> fitness.")
        masses = None if start is None else validation.finite_array("start", start, ndim=1, least=0.0)
        n = _groups(dynamics, landscape, masses, support)
        dynamics.check(n)
        blocks = dynamics.blocks(n)
        for _, member in blocks:
            if isinstance(member, SelectionMutation) and callable(member.mutation_rate):
                raise ValueError(
                    "mutation_rate is a function of time; expected a number: a rest point needs a constant rate."
                )
        _check_autonomous(landscape, n)
        inflow = np.broadcast_to(0.0, (n,))
        if any(isinstance(member, SelectionMutation) for _, member in blocks):
            inflow = rate_bound(dynamics, n, 0.0) * inflow_targets(dynamics, n)
        present = _present(support, masses, inflow, blocks, n)
        return cls(
            dynamics=dynamics,
            landscape=landscape,
            n=n,
            blocks=blocks,
            totals=_totals(blocks, landscape, n, total_mass, masses),
            inflow=inflow,
            present=present,
            exact=support is not None,
            start=masses,
            separable=_separable(landscape, n),
        )

    @property
    def clipped(self) -> bool:
        """Whether a clip may act at the rest point itself: only mutation holds φ_i - φ̄ away from 0."""
        return any(
            isinstance(member, SelectionMutation)
            and member.signal_clip is not None
            and self.inflow[block].any()
            for block, member in self.blocks
        )

    @property
    def general(self) -> bool:
        """Whether some block follows Eq. 5 with a function of the user's."""
        return any(isinstance(member, Selection) for _, member in self.blocks)

    # --- Finding the point -------------------------------------------------------------------------

    def solution(self) -> _Solution:
        if self.separable is not None and not self.general and not self.clipped:
            return self._closed_form(self.separable)
        if not self.inflow.any() and not self.general:
            affine = affine_fitness(self.landscape, tuple(block for block, _ in self.blocks), self.totals)
            if affine is not None:
                return self._linear(affine)
        return self._newton()

    def _closed_form(self, fitness: _Separable) -> _Solution:
        masses, log_masses, methods = [], [], []
        for (block, _), total in zip(self.blocks, self.totals, strict=True):
            present = self.present[block]
            # Masks cost as much as the solution with a million groups; mostly they are not needed.
            chosen: Any = slice(None) if present.all() else present
            contribution, inflow = fitness.contribution[block][chosen], self.inflow[block][chosen]
            start = None if self.start is None else self.start[block][chosen]
            logs = None
            if fitness.temperature and (fitness.decay or inflow.any()):
                logs = rest_points.regulated_balance(
                    contribution, fitness.decay, fitness.temperature, inflow, total
                )
                part, method = np.exp(logs), "one scalar equation for the level, one for each group"
            elif fitness.temperature:
                logs = rest_points.softmax(contribution, fitness.temperature, total)
                part, method = np.exp(logs), "softmax"
            elif inflow.any() and fitness.decay:
                part, _ = rest_points.soft_water_filling(contribution, fitness.decay, inflow, total)
                method = "soft water filling (Newton's iteration for the level)"
            elif inflow.any():
                part, _ = rest_points.mutation_balance(contribution, inflow, total)
                method = "secular equation (Newton's iteration for the root)"
            elif fitness.decay:
                part, excess = rest_points.water_filling(contribution, fitness.decay, total)
                level = excess.size - int(np.count_nonzero(excess))
                method = "water filling (active set)"
                if level:
                    method += f"; {level} absent exactly at the water level, approached only algebraically"
            else:
                best = contribution == contribution.max()
                weights = best.astype(float) if start is None else best * start
                part, method = total * weights / weights.sum(), "greatest contribution"
                if best.sum() > 1:
                    method += f"; {best.sum()} groups tie for it, a continuum of rest points"
            masses.append(_embedded(part, chosen, len(present), 0.0))
            methods.append(method)
            if logs is not None:
                log_masses.append(_embedded(logs, chosen, len(present), -math.inf))
        all_masses = masses[0] if len(masses) == 1 else np.concatenate(masses)
        all_logs = np.concatenate(log_masses) if log_masses else None
        survivors = all_masses > 0 if all_logs is None else np.isfinite(all_logs)
        if self.exact and not survivors[self.present].all():
            missing = int(np.flatnonzero(self.present & ~survivors)[0])
            raise _NoRestPointError(
                f"support has no rest point with all its groups: group {missing} cannot persist among them; "
                "expected a set that can coexist: leave it out, or leave support out for the attractor."
            )
        return _Solution(all_masses, survivors, _joined(methods), all_logs)

    def _linear(self, fitness: AffineFitness) -> _Solution:
        if self.exact:
            masses, nullity = fitness.rest_point(self.present)
            if masses is None:
                raise _NoRestPointError(
                    f"support {np.flatnonzero(self.present).tolist()} has no rest point with all its groups; "
                    "expected a set that can coexist: see all_equilibria."
                )
            return _Solution(masses, masses > 0, _linear_method(nullity))
        masses = fitness.attractor(self.present)
        if masses is not None:
            return _Solution(
                masses, masses > 0, "linear system (active set); unique attractor: strictly stable"
            )
        alive = fitness.undominated(self.present)
        if not alive.all():
            masses = fitness.attractor(alive)
            if masses is not None:
                return _Solution(
                    masses, masses > 0, "linear system; the groups left out are strictly dominated"
                )
        elif (interior := fitness.rest_point(alive))[0] is not None:
            masses, nullity = interior
            return _Solution(masses, masses > 0, _linear_method(nullity))
        raise _NoRestPointError(
            "no attractor is certain to be unique and there is no interior rest point; expected support or "
            "start to select one: all_equilibria lists them for few groups."
        )

    def _newton(self) -> _Solution:
        """Newton's iteration for ln p of the present groups, from the target or from equal masses."""
        if self.n > 4096:
            raise ValueError(
                f"there are {self.n} groups on a landscape without closed form; expected at most 4096, for "
                "the Jacobian is dense."
            )
        guess = np.where(self.inflow > 0, inflow_targets(self.dynamics, self.n), 0.0)
        for (block, _), total in zip(self.blocks, self.totals, strict=True):
            members = self.present[block]
            share = (1.0 if math.isnan(total) else total) / members.sum()
            guess[block] = np.where(members & (guess[block] == 0), share, guess[block])
        logs = np.log(guess[self.present])
        error = self._error(logs)
        for _ in range(_NEWTON_STEPS):
            size = float(np.abs(error).max())
            jacobian = np.vstack((self.log_jacobian(logs), self._mass_rows(logs)))
            step = np.asarray(scipy.linalg.lstsq(jacobian, -error, cond=1e-13)[0])
            # A step may change no mass more than e²-fold, and is halved until it improves.
            damping = min(1.0, 2.0 / max(float(np.abs(step).max()), 1e-300))
            while damping > 1e-6:
                trial = self._error(logs + damping * step)
                if np.isfinite(trial).all() and np.abs(trial).max() < size:
                    break
                damping /= 2
            else:
                break
            logs, error = logs + damping * step, trial
        scale = self._rate_scale(logs)
        log_masses = np.full(self.n, -math.inf)
        log_masses[self.present] = logs
        if not np.abs(error).max() <= _CONVERGED * scale:
            raise _NoRestPointError(
                f"Newton's iteration ended with a relative error of {np.abs(error).max() / scale:.1e}; expected "
                f"at most {_CONVERGED:g}: there may be no rest point with these groups; give support or start."
            )
        return _Solution(
            np.exp(log_masses), self.present.copy(), "Newton's iteration in log-masses", log_masses
        )

    # --- The flow at a point, in the logarithms of the present masses ------------------------------

    def rates(self, logs: FloatArray) -> FloatArray:
        """Return d ln p_i/dt of the present groups."""
        log_masses = np.full(self.n, -math.inf)
        log_masses[self.present] = logs
        masses = np.exp(log_masses)
        fitness = np.asarray(fitness_at_log_masses(self.landscape, 0.0, log_masses), dtype=float)
        growth = self.dynamics.growth_rates(masses, fitness)[self.present]
        return growth + self.inflow_rates(logs)

    def inflow_rates(self, logs: FloatArray) -> FloatArray:
        """Return μm_i/p_i of the present groups."""
        with np.errstate(divide="ignore"):
            rates: FloatArray = np.exp(np.log(self.inflow[self.present]) - logs)
        return rates

    def _error(self, logs: FloatArray) -> FloatArray:
        return np.concatenate((self.rates(logs), self._mass_errors(logs)))

    def _members(self) -> list[tuple[BoolArray, float]]:
        """Return, for each block that conserves a given mass, its groups among the present, and that mass."""
        found = []
        for (block, _), total in zip(self.blocks, self.totals, strict=True):
            if not math.isnan(total):
                inside = np.zeros(self.n, dtype=bool)
                inside[block] = True
                found.append((inside[self.present], float(total)))
        return found

    def _mass_errors(self, logs: FloatArray) -> FloatArray:
        return np.array([np.exp(logs[inside]).sum() / total - 1 for inside, total in self._members()])

    def _mass_rows(self, logs: FloatArray) -> FloatArray:
        rows = [inside * np.exp(logs) / total for inside, total in self._members()]
        return np.array(rows).reshape(len(rows), len(logs))

    def log_jacobian(self, logs: FloatArray, *, projected: bool = False) -> FloatArray:
        """Return the Jacobian of `rates`: analytic if the landscape has a linearization, else differences.

        With `projected`, up to what the projection onto the tangent space removes.
        """
        log_masses = np.full(self.n, -math.inf)
        log_masses[self.present] = logs
        slopes = None if self.general else landscapes.linearization(self.landscape, 0.0, log_masses)
        if slopes is None:
            width = _EPS ** (1 / 3)
            columns = [
                (self.rates(logs + width * unit) - self.rates(logs - width * unit)) / (2 * width)
                for unit in np.eye(len(logs))
            ]
            return np.array(columns).T
        derivative = np.diag(slopes.diagonal[self.present])
        if slopes.left.shape[1]:
            derivative += slopes.left[self.present] @ slopes.right[self.present].T
        masses = np.exp(log_masses)
        fitness = np.asarray(fitness_at_log_masses(self.landscape, 0.0, log_masses), dtype=float)
        jacobian = np.zeros_like(derivative)
        for (block, member), total in zip(self.blocks, self.totals, strict=True):
            inside = np.zeros(self.n, dtype=bool)
            inside[block] = True
            rows = inside[self.present]
            alive = inside & self.present
            shares = masses[alive] / masses[alive].sum()
            excess = fitness[alive] - shares @ fitness[alive]
            mean = shares @ derivative[rows]
            mean[rows] += shares * excess
            clip = getattr(member, "signal_clip", None)
            acting = np.ones(len(excess)) if clip is None else (np.abs(excess) < clip).astype(float)
            if projected and not math.isnan(total):  # then no clip acts
                mean = np.zeros(len(mean))
            jacobian[rows] = acting[:, None] * (derivative[rows] - mean)
        jacobian -= np.diag(self.inflow_rates(logs))
        return jacobian

    def _rate_scale(self, logs: FloatArray) -> float:
        """Return the size of fitness and of its derivative, to which rounding is relative."""
        log_masses = np.full(self.n, -math.inf)
        log_masses[self.present] = logs
        fitness = np.asarray(fitness_at_log_masses(self.landscape, 0.0, log_masses), dtype=float)
        return _size(fitness) + _size(self.log_jacobian(logs)) or 1.0

    # --- The evidence ------------------------------------------------------------------------------

    def certified(self, solution: _Solution, eigenvalues: Literal["auto"] | bool) -> Equilibrium:
        """Return the solution as an `Equilibrium`, judged by the dynamics' own growth rates."""
        masses, survivors, log_masses = solution.masses, solution.survivors, solution.log_masses
        if log_masses is None:
            fitness = np.asarray(self.landscape(0.0, masses), dtype=float)
        else:
            fitness = np.asarray(fitness_at_log_masses(self.landscape, 0.0, log_masses), dtype=float)
        here = dataclasses.replace(self, present=survivors)
        scale = _size(fitness)
        means, growth = self.growth(masses, fitness)
        invasion = growth * ~survivors + 0.0  # no negative zeros
        if log_masses is not None:
            invasion[np.isposinf(fitness)] = math.inf  # the absent on an entropic landscape
        growth *= survivors
        if self.inflow.any():
            logs = np.log(masses[survivors]) if log_masses is None else log_masses[survivors]
            growth[survivors] += here.inflow_rates(logs)
        errors = [
            abs(float(masses[block].sum()) / total - 1)
            for (block, _), total in zip(self.blocks, self.totals, strict=True)
            if not math.isnan(total)
        ]
        wanted = eigenvalues is True or (eigenvalues == "auto" and self.n <= _AUTOMATIC_EIGENVALUES)
        spectrum = None
        if wanted or self.separable is None:
            logs = np.log(masses[survivors]) if log_masses is None else log_masses[survivors]
            scale += _size(here.log_jacobian(logs))
            if wanted:
                spectrum = here.internal_eigenvalues(logs)
        elif self.separable is not None:
            scale += self.separable.decay * float(masses.max()) + self.separable.temperature
        scale = scale or 1.0
        residual = max(0.0, _size(growth) / scale, *errors)
        stability = here.verdict(masses, invasion, spectrum, scale)
        if spectrum is not None:
            spectrum = np.concatenate((spectrum, invasion[~survivors]))
            spectrum = spectrum[np.argsort(-spectrum.real, kind="stable")]
            spectrum.flags.writeable = False
        for array in (masses, survivors, invasion, means):
            array.flags.writeable = False
        return Equilibrium(
            masses=masses,
            survivors=survivors,
            mean_fitness=means if isinstance(self.dynamics, Populations) else float(means[0]),
            invasion_rates=invasion,
            residual=residual,
            eigenvalues=spectrum,
            stability=stability,
            method=solution.method,
        )

    def growth(self, masses: FloatArray, fitness: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return each block's mean fitness, and all per-capita growth rates, of the absent when rare."""
        if self.separable is not None and not (
            self.general or self.inflow.any() or self.separable.temperature
        ):
            # Without masks, which for a million groups would cost more than the rest point itself.
            means = np.array([masses[b] @ fitness[b] / masses[b].sum() for b, _ in self.blocks])
            # A density term means that the landscape has made a new array, which may be overwritten.
            growth = fitness if self.separable.decay else np.empty(self.n)
            for (block, member), mean in zip(self.blocks, means, strict=True):
                np.subtract(fitness[block], mean, out=growth[block])
                clip = getattr(member, "signal_clip", None)
                if clip is not None:
                    np.clip(growth[block], -clip, clip, out=growth[block])
            return means, growth
        # Infinite only where there is no mass.
        fitness = np.where(np.isinf(fitness), 0.0, fitness)
        means = np.array([mean_fitness(masses[b], fitness[b])[0] for b, _ in self.blocks])
        # As rare as can be: the dynamics then counts the absent, and their weight is nothing.
        rare = np.maximum(masses, np.finfo(float).tiny)
        growth = self.dynamics.growth_rates(rare, fitness)
        return means, growth

    def internal_eigenvalues(self, logs: FloatArray) -> ComplexArray:
        """Return the eigenvalues among the survivors, total masses fixed.

        In the coordinates √p_i δln p_i the tangent space is orthogonal to √p, and every potential game is
        symmetric.
        """
        bases = []
        for (block, _), total in zip(self.blocks, self.totals, strict=True):
            inside = np.zeros(self.n, dtype=bool)
            inside[block] = True
            own = logs[inside[self.present]]
            bases.append(
                np.eye(len(own)) if math.isnan(total) else tangent_basis(np.exp((own - own.max()) / 2))
            )
        basis = scipy.linalg.block_diag(*bases)
        jacobian = self.log_jacobian(logs, projected=True)
        ratios = (logs[:, None] - logs) / 2
        with np.errstate(over="ignore", invalid="ignore"):
            # Where there is no interaction, a ratio of masses beyond floating point does not matter.
            scaled = basis.T @ np.where(jacobian == 0, 0.0, jacobian * np.exp(ratios)) @ basis
        if not scaled.size:
            return np.empty(0, dtype=complex)
        if not np.isfinite(scaled).all():
            return np.full(len(scaled), complex(math.nan, math.nan))
        if np.abs(scaled - scaled.T).max() <= 1e-13 * np.abs(scaled).max():
            return np.linalg.eigvalsh((scaled + scaled.T) / 2).astype(complex)
        return np.linalg.eigvals(scaled).astype(complex)

    def verdict(
        self, masses: FloatArray, invasion: FloatArray, spectrum: ComplexArray | None, scale: float
    ) -> Stability:
        if self.separable is not None and not self.general and not self.clipped:
            return self._separable_verdict(self.separable, masses, invasion, scale)
        if spectrum is None or np.isnan(spectrum).any():
            return Stability.INDETERMINATE
        absent = ~self.present
        slope = None
        if not self.inflow.any() and not self.general:
            affine = affine_fitness(self.landscape, tuple(block for block, _ in self.blocks), self.totals)
            if affine is not None:
                face = self.present | (absent & (np.abs(invasion) <= 1e-9 * scale))
                basis = affine.tangent(face)
                slope = basis.T @ affine.slope[np.ix_(face, face)] @ basis
        return classify(spectrum, invasion[absent], scale=scale, slope=slope)

    def _separable_verdict(
        self, fitness: _Separable, masses: FloatArray, invasion: FloatArray, scale: float
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
        for block, _ in self.blocks:
            # Constant fitness: groups that mutation does not feed share the best contribution in any way.
            free = self.inflow[block] == 0
            tied = np.count_nonzero(free & (self.present[block] | (invasion[block] >= -rounding)))
            if tied > 1:
                return Stability.NEUTRAL
        return Stability.STABLE


def _size(values: FloatArray) -> float:
    """Return the greatest finite absolute value, 0 if there is none."""
    if not values.size:
        return 0.0
    size = max(float(values.max()), -float(values.min()))
    return size if math.isfinite(size) else _size(values[np.isfinite(values)])


def _embedded(values: FloatArray, chosen: Any, n: int, fill: float) -> FloatArray:
    """Return `values` at the `chosen` groups of n, `fill` elsewhere; `values` itself if all are chosen."""
    if len(values) == n:
        return values
    whole = np.full(n, fill)
    whole[chosen] = values
    return whole


def _joined(methods: Sequence[str]) -> str:
    return "; ".join(dict.fromkeys(methods))


def _linear_method(nullity: int) -> str:
    if not nullity:
        return "linear system"
    kind = {1: "line", 2: "plane"}.get(nullity, f"{nullity}-dimensional continuum")
    return f"linear system; one of a neutral {kind} of rest points"


def _groups(dynamics: Dynamics, landscape: Any, start: FloatArray | None, support: Any) -> int:
    sizes = {
        "landscape": getattr(landscape, "groups", None),
        "dynamics": sum(dynamics.sizes) if isinstance(dynamics, Populations) else None,
        "start": None if start is None else len(start),
    }
    if isinstance(dynamics, SelectionMutation) and getattr(dynamics.target, "ndim", 0) == 1:
        sizes["dynamics"] = int(dynamics.target.shape[0])  # type: ignore[union-attr]
    mask = np.asarray([] if support is None else support)
    if mask.dtype == bool:
        sizes["support"] = len(mask)
    known = {name: size for name, size in sizes.items() if size is not None}
    if not known:
        raise ValueError(
            "the number of groups is unknown: neither landscape nor dynamics states it; expected start, or "
            "support as a mask with one entry per group."
        )
    if len(set(known.values())) > 1:
        listed = ", ".join(f"{name} has {size}" for name, size in known.items())
        raise ValueError(f"the numbers of groups differ ({listed}); expected the same.")
    return next(iter(known.values()))


def _check_autonomous(landscape: LandscapeFunction, n: int) -> None:
    remedy = "freeze it at a time t0 with lambda t, masses: landscape(t0, masses)."
    for term in landscape.terms if isinstance(landscape, landscapes.Sum) else (landscape,):
        if isinstance(term, landscapes.Seasonal | landscapes.Recorded):
            raise ValueError(
                f"landscape depends on time ({type(term).__name__}); expected one that does not: {remedy}"
            )
        if not isinstance(term, landscapes.Landscape):
            masses = np.linspace(0.5, 1.5, n)
            early, late = (np.asarray(term(t, masses), dtype=float) for t in (0.0, 0.7310585786300049))
            if early.shape != (n,):
                raise ValueError(f"landscape returns shape {early.shape} for {n} groups; expected ({n},).")
            if not np.array_equal(early, late, equal_nan=True):
                raise ValueError(f"landscape depends on time; expected one that does not: {remedy}")


def _present(
    support: Any,
    start: FloatArray | None,
    inflow: FloatArray,
    blocks: tuple[tuple[slice, Dynamics], ...],
    n: int,
) -> BoolArray:
    """Return the groups that may have mass at the rest point."""
    if support is None and start is None:
        return np.broadcast_to(np.True_, (n,))
    if start is not None:
        name, present = "start", (start > 0) | (inflow > 0)
    else:
        name, given = "support", np.asarray(support)
        if given.dtype == bool and given.ndim == 1:
            present = given.copy()
        else:
            indices = np.atleast_1d(given)
            if indices.dtype.kind not in "iu" or indices.ndim != 1 or ((indices < 0) | (indices >= n)).any():
                raise ValueError(f"support is {support!r}; expected a mask or indices from 0 to {n - 1}.")
            present = np.zeros(n, dtype=bool)
            present[indices] = True
        if (inflow[~present] > 0).any():
            i = int(np.flatnonzero(~present & (inflow > 0))[0])
            raise ValueError(
                f"support lacks group {i}, which mutation feeds and which therefore has mass at every rest "
                "point; expected all groups with a positive target."
            )
    for block, _ in blocks:
        if not present[block].any():
            raise ValueError(
                f"{name} has no group with mass among {block.start} to {block.stop - 1}; expected at least "
                "one in every block."
            )
    return present


def _acts_on_masses(landscape: LandscapeFunction, blocks: int) -> bool:
    """Tell whether scaling all masses changes fitness differences."""
    match landscape:
        case landscapes.Constant() | landscapes.Entropic():
            return False
        case landscapes.LinearDecay():
            return landscape.decay > 0
        case landscapes.Redundancy():
            return landscape.strength > 0
        case landscapes.MatrixGame():
            return blocks > 1  # the blocks' totals weigh the strategies
        case landscapes.Sum():
            return any(_acts_on_masses(term, blocks) for term in landscape.terms)
    return True


def _totals(
    blocks: tuple[tuple[slice, Dynamics], ...],
    landscape: LandscapeFunction,
    n: int,
    total_mass: Any,
    start: FloatArray | None,
) -> FloatArray:
    """Return each block's total mass at the rest point, NaN where it is for the rest point to say."""
    given: list[float | None] = [None] * len(blocks)
    if total_mass is not None:
        values = np.atleast_1d(validation.finite_array("total_mass", total_mass))
        if values.shape != (len(blocks),):
            raise ValueError(
                f"total_mass has shape {values.shape}; expected "
                + ("a number." if len(blocks) == 1 else f"{len(blocks)} values, one for each block.")
            )
        given = [validation.positive("total_mass", float(value)) for value in values]
    totals = np.full(len(blocks), math.nan)
    for k, ((block, member), value) in enumerate(zip(blocks, given, strict=True)):
        size = block.stop - block.start
        if isinstance(member, Selection):
            totals[k] = math.nan if value is None else value
            continue
        if isinstance(member, SelectionMutation) and member.rate(0.0) > 0:
            target = float(inflow_targets(member, size).sum())
            if target == 0:
                raise ValueError(
                    "target is 0 for every group: mutation then removes all mass and no rest point is left; "
                    "expected a positive target."
                )
            if value is not None and not math.isclose(value, target, rel_tol=1e-9):
                raise ValueError(
                    f"total_mass is {value:g} and the mutation target sums to {target:g}; expected no "
                    "total_mass, for under mutation the target fixes it (or change the target)."
                )
            totals[k] = target if member.signal_clip is None else math.nan
            continue
        if start is not None:
            own = float(start[block].sum())
            if value is not None and not math.isclose(value, own, rel_tol=1e-9):
                raise ValueError(
                    f"total_mass is {value:g} and start sums to {own:g}; expected no total_mass, or the same."
                )
            value = own
        if value is None and _acts_on_masses(landscape, len(blocks)):
            raise ValueError(
                "total_mass is None; expected a number > 0 (one per block), for the landscape acts on masses "
                "and the dynamics conserves whatever total it starts with: give total_mass or start."
            )
        totals[k] = 1.0 if value is None else value
        if totals[k] > cap_of(member):
            raise ValueError(
                f"total_mass is {totals[k]:g}, above mass_cap {cap_of(member):g}; expected less."
            )
    return totals


def _separable(landscape: LandscapeFunction, n: int) -> _Separable | None:
    contribution: Any = None
    decay = temperature = 0.0
    for term in landscape.terms if isinstance(landscape, landscapes.Sum) else (landscape,):
        # Exact types: a subclass may mean something else.
        if type(term) not in (landscapes.Constant, landscapes.LinearDecay, landscapes.Entropic):
            return None
        own = host(term.contribution)
        contribution = own if contribution is None else contribution + own
        decay += getattr(term, "decay", 0.0)
        temperature += getattr(term, "temperature", 0.0)
    if contribution.ndim > 1:
        raise ValueError(
            f"landscape has contributions of shape {contribution.shape}; expected ({n},): ask for the "
            "equilibrium of one member of a batch at a time."
        )
    return _Separable(np.broadcast_to(contribution, (n,)), decay, temperature)
