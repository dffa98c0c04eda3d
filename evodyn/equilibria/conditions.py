"""The question of a rest point: a checked dynamics and landscape, and their flow in log-masses."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import numpy as np
import scipy.linalg

from evodyn.core import validation
from evodyn.core.arrays import FloatArray, real
from evodyn.equilibria.affine_fitness import AffineFitness, affine_fitness, fitted
from evodyn.equilibria.probing import EPS, BoolArray, check_autonomous, fixed_totals, size_of
from evodyn.equilibria.stability import ComplexArray, tangent_basis
from evodyn.model.dynamics import DomainError, Dynamics, clip_acts, inflow_targets, mean_fitness
from evodyn.model.fitness import LandscapeFunction, Separable, fitness_at_log_masses, linearization, separable

__all__ = ["RestPointProblem"]


@dataclasses.dataclass(frozen=True)
class RestPointProblem:
    """A checked question: which rest point of which flow."""

    dynamics: Dynamics
    landscape: LandscapeFunction
    n: int
    blocks: tuple[tuple[slice, Dynamics], ...]
    totals: FloatArray  # (K,); NaN where the rest point itself decides
    asked: FloatArray  # (K,), total masses that the rest point must turn out to have; NaN where any will do
    steady: FloatArray | None  # (N,), the inflow where it depends on nothing, such as μm_i
    present: BoolArray  # (N,), groups that may have mass
    exact: bool  # whether all of them must
    start: FloatArray | None
    separable: Separable | None
    affine: AffineFitness | None = None  # for linear systems, where there is no closed form

    @classmethod
    def of(
        cls,
        dynamics: Dynamics,
        landscape: LandscapeFunction,
        total_mass: Any,
        support: Any = None,
        start: Any = None,
        *,
        selectable: bool = True,
    ) -> RestPointProblem:
        """Check the question; `selectable` tells whether `support` and `start` can be named as remedies."""
        if not isinstance(dynamics, Dynamics):
            raise ValueError(f"dynamics is {dynamics!r}; expected Replicator, NormalizedGrowth, ...")
        if not callable(landscape):
            raise ValueError(f"landscape is {landscape!r}; expected a callable (t, masses) -> fitness.")
        masses = None if start is None else validation.finite_array("start", start, ndim=1, least=0.0)
        n = _groups(dynamics, landscape, masses, support, selectable)
        dynamics.check(n)
        blocks = dynamics.blocks(n)
        check_autonomous(dynamics, landscape, n)
        steady = dynamics.steady_inflow(n)
        totals, asked = fixed_totals(dynamics, landscape, n, total_mass, masses, selectable)
        problem = cls(
            dynamics=dynamics,
            landscape=landscape,
            n=n,
            blocks=blocks,
            totals=totals,
            asked=asked,
            steady=steady,
            present=_present(support, masses, _Feeding(dynamics, landscape, n, steady), blocks, n),
            exact=support is not None,
            start=masses,
            separable=separable(landscape, n),
        )
        return dataclasses.replace(problem, affine=problem._affine())

    def _affine(self) -> AffineFitness | None:
        """Return fitness, up to what is common to a block, as affine in the masses, if it is.

        Of a general dynamics it is the growth rates that are: at rest all of them are 0, and where total mass
        is conserved that is the same as being equal.
        """
        closed_form = self.separable is not None and not self.general
        if closed_form or self.mutates:
            return None
        blocks = tuple(block for block, _ in self.blocks)
        asked = self.general or bool(np.isnan(self.totals).any())
        declared = None if asked else affine_fitness(self.landscape, blocks, self.totals)
        return fitted(self.growth_at, blocks, self.totals) if declared is None else declared

    @functools.cached_property
    def mutates(self) -> bool:
        """Whether there is any inflow."""
        return self.steady is None or bool(self.steady.any())

    @property
    def clipped(self) -> bool:
        """Whether a clip may act at the rest point itself: only inflow holds φ_i - φ̄ away from 0."""
        return any(
            member.signal_clip is not None and (self.steady is None or self.steady[block].any())
            for block, member in self.blocks
        )

    @property
    def clips(self) -> BoolArray:
        """Whether a clip may act on the way to the rest point, in each block; shape (K,)."""
        return np.array([clip_acts(member) for _, member in self.blocks])

    @property
    def general(self) -> bool:
        """Whether some block's growth rates are not φ_i - φ̄, or its inflow depends on its state."""
        return self.steady is None or not all(member.compares_with_mean for _, member in self.blocks)

    def growth_at(self, masses: FloatArray) -> FloatArray:
        """Return per-capita growth rates at positive masses; where they are φ_i - φ̄, fitness itself."""
        fitness = real(self.landscape(0.0, masses))
        return self.dynamics.growth_rates(masses, fitness) if self.general else fitness

    def fed_by(self, present: BoolArray) -> BoolArray:
        """Return the groups that have mass sooner or later if those `present` have it."""
        return _Feeding(self.dynamics, self.landscape, self.n, self.steady).fed_by(present)

    def equal_start(self) -> FloatArray:
        """Return the mutation target, and equal masses for present groups that it does not feed."""
        guess = inflow_targets(self.dynamics, self.n)
        for (block, _), total in zip(self.blocks, self.totals, strict=True):
            members = self.present[block]
            share = (1.0 if math.isnan(total) else total) / members.sum()
            guess[block] = np.where(members & (guess[block] == 0), share, guess[block])
        return guess

    # The flow at a point, in the logarithms of the present masses.

    def rates(self, logs: FloatArray) -> FloatArray:
        """Return d ln p_i/dt of the present groups; NaN where the dynamics is not defined."""
        log_masses = self.everywhere(logs)
        masses = np.exp(log_masses)
        fitness = real(fitness_at_log_masses(self.landscape, 0.0, log_masses))
        try:
            growth: FloatArray = self.dynamics.growth_rates(masses, fitness)[self.present]
        except DomainError:
            return np.full(len(logs), math.nan)
        return growth + self.inflow_rates(logs, masses, fitness)

    def everywhere(self, logs: FloatArray) -> FloatArray:
        """Return log-masses of all groups, -inf where they are absent."""
        log_masses = np.full(self.n, -math.inf)
        log_masses[self.present] = logs
        return log_masses

    def inflow_rates(self, logs: FloatArray, masses: FloatArray, fitness: FloatArray) -> FloatArray:
        """Return f_i/p_i of the present groups, given log-masses of those and masses and fitness of all."""
        inflow = self.steady
        if inflow is None:
            known = np.where(masses > 0, fitness, 0.0)
            inflow = np.asarray(self.dynamics.inflow(masses, known), dtype=float) + np.zeros(self.n)
        with np.errstate(divide="ignore", over="ignore"):
            rates: FloatArray = np.exp(np.log(inflow[self.present]) - logs)
        return rates

    def error(self, logs: FloatArray) -> FloatArray:
        return np.concatenate((self.rates(logs), self.mass_errors(logs)))

    def conserved(self) -> list[tuple[BoolArray, float]]:
        """Return, for each block that conserves a given mass, its groups among the present, and that mass."""
        found = []
        for (block, _), total in zip(self.blocks, self.totals, strict=True):
            if not math.isnan(total):
                inside = np.zeros(self.n, dtype=bool)
                inside[block] = True
                found.append((inside[self.present], float(total)))
        return found

    def mass_errors(self, logs: FloatArray) -> FloatArray:
        return np.array([np.exp(logs[inside]).sum() / total - 1 for inside, total in self.conserved()])

    def mass_rows(self, logs: FloatArray) -> FloatArray:
        rows = [inside * np.exp(logs) / total for inside, total in self.conserved()]
        return np.array(rows).reshape(len(rows), len(logs))

    def log_jacobian(self, logs: FloatArray, *, projected: bool = False) -> FloatArray:
        """Return the Jacobian of `rates`: analytic if the landscape has a linearization, else differences.

        With `projected`, up to what the projection onto the tangent space removes.
        """
        log_masses = self.everywhere(logs)
        slopes = None if self.general else linearization(self.landscape, 0.0, log_masses)
        if slopes is None:
            width = EPS ** (1 / 3)
            columns = [
                (self.rates(logs + width * unit) - self.rates(logs - width * unit)) / (2 * width)
                for unit in np.eye(len(logs))
            ]
            return np.array(columns).T
        derivative = np.diag(slopes.diagonal[self.present])
        if slopes.left.shape[1]:
            derivative += slopes.left[self.present] @ slopes.right[self.present].T
        masses = np.exp(log_masses)
        fitness = real(fitness_at_log_masses(self.landscape, 0.0, log_masses))
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
            clip = math.inf if member.signal_clip is None else member.signal_clip
            acting = (np.abs(excess) < clip).astype(float)
            if projected and not math.isnan(total):  # then no clip acts
                mean = np.zeros(len(mean))
            jacobian[rows] = acting[:, None] * (derivative[rows] - mean)
        jacobian -= np.diag(self.inflow_rates(logs, masses, fitness))
        return jacobian

    def internal_eigenvalues(self, logs: FloatArray) -> ComplexArray:
        """Return the eigenvalues among the present groups, conserved total masses fixed.

        In the coordinates √p_i δln p_i the tangent space is orthogonal to √p, and every potential game is
        symmetric.
        """
        bases = []
        for (block, _), total in zip(self.blocks, self.totals, strict=True):
            inside = np.zeros(self.n, dtype=bool)
            inside[block] = True
            own = logs[inside[self.present]]
            free = math.isnan(total)
            bases.append(np.eye(len(own)) if free else tangent_basis(np.exp((own - own.max()) / 2)))
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

    def rate_scale(self, logs: FloatArray) -> float:
        """Return the size of fitness and of its derivative, to which rounding is relative."""
        fitness = fitness_at_log_masses(self.landscape, 0.0, self.everywhere(logs))
        return size_of(real(fitness)) + size_of(self.log_jacobian(logs)) or 1.0

    def growth(self, masses: FloatArray, fitness: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return each block's mean fitness, and all per-capita growth rates, of the absent when rare."""
        if self.separable is not None and not (self.general or self.mutates or self.separable.temperature):
            # Without masks, which for a million groups would cost more than the rest point itself.
            means = np.array([masses[b] @ fitness[b] / masses[b].sum() for b, _ in self.blocks])
            growth = np.empty(self.n)
            for (block, member), mean in zip(self.blocks, means, strict=True):
                growth[block] = member.rates_against(fitness[block], mean)  # type: ignore[attr-defined]
            return means, growth
        # Infinite only where there is no mass.
        fitness = np.where(np.isinf(fitness), 0.0, fitness)
        means = np.array([mean_fitness(masses[b], fitness[b])[0] for b, _ in self.blocks])
        # As rare as can be: the dynamics then counts the absent, and their weight is nothing.
        rare = np.maximum(masses, np.finfo(float).tiny)
        growth = np.array(self.dynamics.growth_rates(rare, fitness), dtype=float)
        return means, growth


def _groups(
    dynamics: Dynamics, landscape: Any, start: FloatArray | None, support: Any, selectable: bool
) -> int:
    sizes = {
        "landscape": getattr(landscape, "groups", None),
        "dynamics": dynamics.groups,
        "start": None if start is None else len(start),
    }
    mask = np.asarray([] if support is None else support)
    if mask.dtype == bool:
        sizes["support"] = len(mask)
    known = {name: size for name, size in sizes.items() if size is not None}
    if not known:
        raise ValueError(
            "the number of groups is unknown: neither landscape nor dynamics states it; expected "
            + (
                "start, or support as a mask with one entry per group."
                if selectable
                else "a landscape that does: add landscapes.Constant with a zero for each group."
            )
        )
    if len(set(known.values())) > 1:
        listed = ", ".join(f"{name} has {size}" for name, size in known.items())
        raise ValueError(f"the numbers of groups differ ({listed}); expected the same.")
    return next(iter(known.values()))


@dataclasses.dataclass(frozen=True)
class _Feeding:
    """Which groups inflow reaches."""

    dynamics: Dynamics
    landscape: LandscapeFunction
    n: int
    steady: FloatArray | None

    def fed_by(self, present: BoolArray) -> BoolArray:
        """Return the groups that have mass sooner or later if those `present` have it."""
        if self.steady is not None:
            return present | (self.steady > 0)
        while True:
            masses = np.where(present, 1.0, 0.0)
            with np.errstate(all="ignore"):
                fitness = real(self.landscape(0.0, masses))
            # At other masses than those of the run the sign of fitness says nothing.
            inflow = self.dynamics.inflow(masses, np.where(present, abs(fitness), 0.0)) + np.zeros(self.n)
            further = present | (inflow > 0)
            if np.array_equal(further, present):
                return present
            present = further


def _present(
    support: Any,
    start: FloatArray | None,
    feeding: _Feeding,
    blocks: tuple[tuple[slice, Dynamics], ...],
    n: int,
) -> BoolArray:
    """Return the groups that may have mass at the rest point."""
    if support is None and start is None:
        return np.ones(n, dtype=bool)
    if start is not None:
        name, present = "start", feeding.fed_by(start > 0)
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
        fed = feeding.fed_by(present) & ~present if present.any() else np.zeros(n, dtype=bool)
        if fed.any():
            i = int(np.flatnonzero(fed)[0])
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
