"""The question of a rest point: a checked dynamics and landscape, and their flow in log-masses."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from evodyn import landscapes, validation
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

__all__ = ["BoolArray", "RestPointProblem", "SeparableFitness", "size_of"]

BoolArray = npt.NDArray[np.bool_]
_EPS = 2.0**-52


@dataclasses.dataclass(frozen=True)
class SeparableFitness:
    """Fitness φ_i = c_i - λp_i - T ln p_i."""

    contribution: FloatArray
    decay: float
    temperature: float


@dataclasses.dataclass(frozen=True)
class RestPointProblem:
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
    separable: SeparableFitness | None

    @classmethod
    def of(
        cls,
        dynamics: Dynamics,
        landscape: LandscapeFunction,
        total_mass: Any,
        support: Any,
        start: Any,
    ) -> RestPointProblem:
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
                    "mutation_rate is a function of time; expected a number: no rest point without one."
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

    @functools.cached_property
    def mutates(self) -> bool:
        """Whether mutation feeds any group."""
        mutation = any(isinstance(member, SelectionMutation) for _, member in self.blocks)
        return mutation and bool(self.inflow.any())

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

    @property
    def drifts(self) -> bool:
        """Whether total mass may change on the way to the rest point, in a way that is not known."""
        return self.general or any(getattr(m, "signal_clip", None) is not None for _, m in self.blocks)

    @property
    def affine(self) -> AffineFitness | None:
        """The landscape as fitness affine in the masses, if it is."""
        return affine_fitness(self.landscape, tuple(block for block, _ in self.blocks), self.totals)

    def equal_start(self) -> FloatArray:
        """Return the mutation target, and equal masses for present groups that it does not feed."""
        guess = np.where(self.inflow > 0, inflow_targets(self.dynamics, self.n), 0.0)
        for (block, _), total in zip(self.blocks, self.totals, strict=True):
            members = self.present[block]
            share = (1.0 if math.isnan(total) else total) / members.sum()
            guess[block] = np.where(members & (guess[block] == 0), share, guess[block])
        return guess

    # The flow at a point, in the logarithms of the present masses.

    def rates(self, logs: FloatArray) -> FloatArray:
        """Return d ln p_i/dt of the present groups."""
        log_masses = np.full(self.n, -math.inf)
        log_masses[self.present] = logs
        masses = np.exp(log_masses)
        fitness = np.asarray(fitness_at_log_masses(self.landscape, 0.0, log_masses), dtype=float)
        growth: FloatArray = self.dynamics.growth_rates(masses, fitness)[self.present]
        return growth + self.inflow_rates(logs)

    def inflow_rates(self, logs: FloatArray) -> FloatArray:
        """Return μm_i/p_i of the present groups."""
        with np.errstate(divide="ignore"):
            rates: FloatArray = np.exp(np.log(self.inflow[self.present]) - logs)
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

    def rate_scale(self, logs: FloatArray) -> float:
        """Return the size of fitness and of its derivative, to which rounding is relative."""
        log_masses = np.full(self.n, -math.inf)
        log_masses[self.present] = logs
        fitness = np.asarray(fitness_at_log_masses(self.landscape, 0.0, log_masses), dtype=float)
        return size_of(fitness) + size_of(self.log_jacobian(logs)) or 1.0

    def growth(self, masses: FloatArray, fitness: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return each block's mean fitness, and all per-capita growth rates, of the absent when rare."""
        if self.separable is not None and not (self.general or self.mutates or self.separable.temperature):
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


def size_of(values: FloatArray) -> float:
    """Return the greatest finite absolute value, 0 if there is none."""
    if not values.size:
        return 0.0
    size = max(float(values.max()), -float(values.min()))
    return size if math.isfinite(size) else size_of(values[np.isfinite(values)])


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
        return np.ones(n, dtype=bool)
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


def _separable(landscape: LandscapeFunction, n: int) -> SeparableFitness | None:
    contribution: Any = None
    decay = temperature = 0.0
    for term in landscape.terms if isinstance(landscape, landscapes.Sum) else (landscape,):
        # Exact types: a subclass may mean something else.
        if type(term) not in (landscapes.Constant, landscapes.LinearDecay, landscapes.Entropic):
            return None
        own = host(term.contribution)  # type: ignore[attr-defined]
        contribution = own if contribution is None else contribution + own
        decay += getattr(term, "decay", 0.0)
        temperature += getattr(term, "temperature", 0.0)
    if contribution.ndim > 1:
        raise ValueError(
            f"landscape has contributions of shape {contribution.shape}; expected ({n},): ask for the "
            "equilibrium of one member of a batch at a time."
        )
    return SeparableFitness(np.broadcast_to(contribution, (n,)), decay, temperature)
