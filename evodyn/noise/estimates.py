"""Noise in the estimate of fitness: the map sees fitness with an error."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from evodyn.core import validation
from evodyn.core.arrays import FloatArray, host, real
from evodyn.core.generators import seed_of
from evodyn.core.progress import Progress
from evodyn.model.dynamics import SCHEMES, Dynamics, Scheme
from evodyn.model.fitness import LandscapeFunction
from evodyn.noise.runs import StochasticRuns, check_landscape, iterated, per_group
from evodyn.simulate.problem import (
    check_kinds,
    validated_masses,
)

__all__ = ["noisy_iterate"]


def noisy_iterate(
    dynamics: Dynamics,
    landscape: LandscapeFunction,
    p0: npt.ArrayLike,
    n_steps: int,
    step_size: float,
    *,
    noise: npt.ArrayLike,
    members: int = 1,
    save_every: int = 1,
    scheme: Scheme = "euler",
    threshold: float | None = None,
    rng: Any = None,
    progress: Progress = None,
) -> StochasticRuns:
    """Iterate a discrete map (Eqs. 12-14) with an unbiased estimate of fitness, φ̂ = φ + σξ, at every step.

    Parameters
    ----------
    dynamics, landscape, p0, n_steps, step_size, save_every, scheme
        As for `evodyn.iterate`; the landscape takes masses of shape (M, N).
    noise : float or array_like, shape (N,)
        Standard deviation σ_i >= 0 of every estimate, in units of fitness; ξ is standard normal,
        independent between groups and steps.
    members, threshold, rng
        As for `fitness_noise`.
    progress : bool or callable, optional
        True for a bar (rich, of the extra "studies"), or a function of the fraction of steps that is done.

    Returns
    -------
    StochasticRuns

    Raises
    ------
    ValueError
        If an argument is outside its range.

    Examples
    --------
    >>> from evodyn import Replicator, landscapes
    >>> runs = noisy_iterate(Replicator(), landscapes.Constant([1.0, 0.0]), [1.0, 1.0], 100, 0.01,
    ...                      noise=0.5, members=3, rng=0)
    >>> runs.masses.shape, bool(np.allclose(runs.masses.sum(axis=2), 2.0))
    ((3, 101, 2), True)
    """
    check_kinds(dynamics, landscape, None)
    start = validated_masses(p0, dynamics, within_cap=False)
    n = len(start)
    check_landscape(dynamics, landscape, 0.0, start)
    validation.choice("scheme", scheme, SCHEMES)
    sigma = per_group("noise", noise, n)
    members, n_steps = validation.count("members", members), validation.count("n_steps", n_steps)
    save_every = validation.count("save_every", save_every)
    step_size = validation.positive("step_size", step_size)
    masses = np.tile(start, (members, 1))

    def advance(k: int, masses: FloatArray, draws: FloatArray) -> FloatArray:
        t = k * step_size
        estimate = real(landscape(t, masses)) + sigma * draws
        return host(dynamics.step(masses, estimate, step_size, time=t, scheme=scheme))

    model = f"unbiased estimates of fitness at every step of the {scheme} map"
    course = (masses, n_steps, save_every, step_size, threshold, seed_of(rng), model, advance)
    return iterated(*course, normal=True, dynamics=dynamics, landscape=landscape, progress=progress)
