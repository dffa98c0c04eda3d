"""Questions about a dynamics and a landscape that have no declared answer, put at random masses."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from evodyn.core import validation
from evodyn.core.arrays import FloatArray, real
from evodyn.model.dynamics import Dynamics, cap_of, clip_acts, inflow_targets
from evodyn.model.fitness import LandscapeFunction

__all__ = ["EPS", "BoolArray", "check_autonomous", "fixed_totals", "size_of"]

BoolArray = npt.NDArray[np.bool_]

EPS = 2.0**-52

PROBES = 4  # random masses at which a question is put that has no declared answer

ROUNDING = 2.0**-46  # of a sum of differences, relative to what was subtracted

SAME = 1e-9  # relative differences below this are rounding of what was probed


def size_of(values: FloatArray) -> float:
    """Return the greatest finite absolute value, 0 if there is none."""
    if not values.size:
        return 0.0
    size = max(float(values.max()), -float(values.min()))
    return size if math.isfinite(size) else size_of(values[np.isfinite(values)])


def check_autonomous(dynamics: Dynamics, landscape: LandscapeFunction, n: int) -> None:
    """Raise `ValueError` if the landscape or the dynamics depends on time."""
    says = getattr(landscape, "autonomous", None)
    if not says:
        remedy = "freeze it at a time t0 with lambda t, masses: landscape(t0, masses)."
        masses = np.linspace(0.5, 1.5, n)
        if says is None:
            fitness, *later = (real(landscape(t, masses)) for t in _MOMENTS)
            if fitness.shape != (n,):
                raise ValueError(f"landscape returns shape {fitness.shape} for {n} groups; expected ({n},).")
            says = all(np.array_equal(fitness, other, equal_nan=True) for other in later)
        if not says:
            name = type(landscape).__name__
            raise ValueError(f"landscape depends on time ({name}); expected one that does not: {remedy}")
    steady = dynamics.autonomous
    if steady is None:
        masses = np.linspace(0.5, 1.5, n)
        fitness = real(landscape(0.0, masses))
        now, *others = (dynamics.velocity(masses, fitness, time=t) for t in _MOMENTS)
        steady = all(np.array_equal(now, other, equal_nan=True) for other in others)
    if not steady:
        raise ValueError(
            f"dynamics is {dynamics!r}, whose rates are a function of time; expected rates that are not, for "
            "no rest point lasts otherwise."
        )


_MOMENTS = (0.0, 0.7310585786300049, 12.9)


def acts_on_masses(dynamics: Dynamics, landscape: LandscapeFunction, n: int) -> bool:
    """Tell whether scaling a block's masses changes any growth rate."""
    rng = np.random.default_rng(0)
    blocks = dynamics.blocks(n)
    for _ in range(PROBES):
        masses = rng.uniform(0.5, 1.5, n)
        scaled = masses.copy()
        for block, _ in blocks:
            scaled[block] *= rng.uniform(2.0, 3.0)
        before, after = (
            dynamics.velocity(point, real(landscape(0.0, point))) / point for point in (masses, scaled)
        )
        # Fitness itself is the measure: what differs by rounding of its own size does not differ.
        scale = size_of(real(landscape(0.0, masses))) + size_of(before)
        if not np.abs(after - before).max() <= SAME * scale:
            return True
    return False


def conserves(dynamics: Dynamics, landscape: LandscapeFunction, n: int) -> BoolArray:
    """Tell, from random masses, whether each block's total mass stays what it is; shape (K,)."""
    rng = np.random.default_rng(0)
    blocks = dynamics.blocks(n)
    conserved = np.ones(len(blocks), dtype=bool)
    for scale in np.geomspace(0.3, 3.0, PROBES):
        masses = scale * rng.dirichlet(np.ones(n)) * n
        fitness = real(landscape(0.0, masses))
        velocity = dynamics.velocity(masses, fitness)
        for k, (block, _) in enumerate(blocks):
            rounding = ROUNDING * size_of(fitness[block]) * masses[block].sum()
            change = abs(velocity[block].sum())
            conserved[k] &= bool(change <= SAME * np.abs(velocity[block]).sum() + rounding)
    return conserved


def fixed_totals(
    dynamics: Dynamics,
    landscape: LandscapeFunction,
    n: int,
    total_mass: Any,
    start: FloatArray | None,
    selectable: bool,
) -> tuple[FloatArray, FloatArray]:
    """Return each block's total mass at the rest point, and what was asked of one that decides it itself.

    Both are NaN where the rest point is free to say.
    """
    blocks = dynamics.blocks(n)
    given: list[float | None] = [None] * len(blocks)
    if total_mass is not None:
        values = np.atleast_1d(np.asarray(total_mass, dtype=float))
        if values.shape != (len(blocks),):
            raise ValueError(
                f"total_mass has shape {values.shape}; expected "
                + ("a number." if len(blocks) == 1 else f"{len(blocks)} values, one for each block.")
            )
        several = len(blocks) > 1
        given = [
            None if several and math.isnan(value) else validation.positive("total_mass", float(value))
            for value in values
        ]
    laws = [member.mass_law(block.stop - block.start) for block, member in blocks]
    # A clip does not conserve mass, but has nothing to clip where all groups are equally fit.
    resting = [
        law is None and member.compares_with_mean and clip_acts(member) and not member.mutation_rate_at(0.0)
        for law, (_, member) in zip(laws, blocks, strict=True)
    ]
    unknown = [law is None and not rests for law, rests in zip(laws, resting, strict=True)]
    conserved = conserves(dynamics, landscape, n) if any(unknown) else np.ones(len(blocks), dtype=bool)
    totals, asked = np.full((2, len(blocks)), math.nan)
    for k, ((block, member), value) in enumerate(zip(blocks, given, strict=True)):
        law = laws[k]
        if member.mutation_rate_at(0.0) > 0 or (law is not None and law[0] > 0):
            target = float(inflow_targets(dynamics, n)[block].sum()) if law is None else law[1]
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
            totals[k] = math.nan if law is None else target
            continue
        if unknown[k] and not conserved[k]:
            if math.isfinite(cap_of(member)):
                raise ValueError(
                    f"dynamics is {member!r} with a mass_cap of {cap_of(member):g} that may act at rest; "
                    "expected none where total mass is not conserved: integrate with evodyn.solve."
                )
            asked[k] = math.nan if value is None else value
            continue
        if start is not None:
            own = float(start[block].sum())
            if value is not None and not math.isclose(value, own, rel_tol=1e-9):
                raise ValueError(
                    f"total_mass is {value:g} and start sums to {own:g}; expected no total_mass, or the same."
                )
            value = own
        if value is None and acts_on_masses(dynamics, landscape, n):
            raise ValueError(
                "total_mass is None; expected a number > 0 (one per block), for the landscape acts on masses "
                "and the dynamics conserves whatever total it starts with: give total_mass"
                + (" or start." if selectable else ".")
            )
        totals[k] = 1.0 if value is None else value
        if totals[k] > cap_of(member):
            raise ValueError(
                f"total_mass is {totals[k]:g}, above mass_cap {cap_of(member):g}; expected less."
            )
    return totals, asked
