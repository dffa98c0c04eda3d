"""Where the discrete maps (Eqs. 12-14) part from the flow: lost stability, lost positivity, cycles."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from evodyn import validation
from evodyn.arrays import FloatArray, host
from evodyn.dynamics import Dynamics, Scheme
from evodyn.equilibria import Equilibrium
from evodyn.landscapes import LandscapeFunction
from evodyn.problem import check_memory, validated_masses

__all__ = ["flip_step_size", "orbit_period", "orbits", "positivity_step_size"]


def flip_step_size(equilibrium: Equilibrium) -> float:
    """Return the step size at which the Euler map at a stable rest point loses stability.

    The multipliers of the map are 1 + hλ_k, with the flow's eigenvalues λ_k: the first leaves the unit
    circle at h = min_k -2 Re λ_k/|λ_k|² (a flip, where λ_k is real). With Eq. 10 and equal contributions
    this is hλP/N = 2.

    Parameters
    ----------
    equilibrium : Equilibrium
        With its eigenvalues (``eigenvalues=True`` for more than 1000 groups).

    Returns
    -------
    float
        h > 0; 0 at a rest point that the flow itself leaves or circles, inf without a direction to move in.

    Raises
    ------
    ValueError
        If the equilibrium has no eigenvalues.

    Examples
    --------
    >>> import evodyn as ed
    >>> landscape = ed.landscapes.LinearDecay([1.0, 1.0], decay=0.5)
    >>> flip_step_size(ed.equilibrium(ed.Replicator(), landscape, total_mass=4.0))      # 2N/(λP)
    2.0
    """
    if equilibrium.eigenvalues is None:
        raise ValueError("equilibrium has no eigenvalues; expected some: ask for them with eigenvalues=True.")
    values = equilibrium.eigenvalues
    if not len(values):
        return math.inf
    sizes = np.abs(values) ** 2
    steps = np.where(sizes > 0, -2 * values.real / np.where(sizes > 0, sizes, 1.0), 0.0)
    return max(0.0, float(steps.min()))


def positivity_step_size(
    dynamics: Dynamics, masses: npt.ArrayLike, fitness: npt.ArrayLike, *, time: float = 0.0
) -> float:
    """Return the step size beyond which the Euler map would make a mass negative, and so be projected.

    min_i p_i/(-dp_i/dt): without mutation 1/(φ̄ - φ_min), not above 1/κ with a signal clip κ; with
    mutation the inflow helps, and 1/(φ̄ - φ_i + μ(1 - m_i/p_i)) counts.

    Parameters
    ----------
    dynamics : Dynamics
    masses, fitness : array_like, shape (N,)
        The state.
    time : float, optional
        For mutation rates that depend on it.

    Returns
    -------
    float
        h > 0; inf if no mass decreases.

    Raises
    ------
    ValueError
        If the masses are not finite and non-negative with a positive sum, or the shapes differ.

    Examples
    --------
    >>> from evodyn import Replicator
    >>> positivity_step_size(Replicator(), [1.0, 1.0], [1.0, 0.0])
    2.0
    >>> positivity_step_size(Replicator(signal_clip=0.1), [1.0, 1.0], [1.0, 0.0])
    10.0
    """
    state = validated_masses(masses, dynamics, within_cap=False)
    velocity = dynamics.velocity(state, np.asarray(fitness, dtype=np.float64), time=time)
    falling = (velocity < 0) & (state > 0)
    return float((state[falling] / -velocity[falling]).min()) if falling.any() else math.inf


def orbits(
    dynamics: Dynamics,
    landscape: LandscapeFunction,
    p0: npt.ArrayLike,
    step_sizes: npt.ArrayLike,
    *,
    transient: int = 1000,
    keep: int = 64,
    scheme: Scheme = "euler",
) -> FloatArray:
    """Return what a discrete map settles into, for each of several step sizes (a bifurcation diagram).

    Parameters
    ----------
    dynamics, landscape, p0, scheme
        As for `evodyn.iterate`.
    step_sizes : array_like, shape (S,)
        η_p > 0.
    transient : int, optional
        Steps before the first that is kept.
    keep : int, optional
        Steps kept.

    Returns
    -------
    numpy.ndarray, shape (S, keep, N)
        Masses.

    Raises
    ------
    ValueError
        If an argument is outside its range.

    Examples
    --------
    Two equal groups under Eq. 10: past the flip at ηλP/2 = 2 the map alternates.

    >>> from evodyn import Replicator, landscapes
    >>> landscape = landscapes.LinearDecay([1.0, 1.0], decay=1.0)
    >>> found = orbits(Replicator(), landscape, [1.1, 0.9], [1.9, 2.2], keep=4)
    >>> [orbit_period(orbit) for orbit in found]
    [1, 2]
    """
    start = validated_masses(p0, dynamics, within_cap=False)
    steps = validation.finite_array("step_sizes", step_sizes, ndim=1)
    for k, step in enumerate(steps):
        validation.positive(f"step_sizes[{k}]", float(step))
    transient, keep = validation.count("transient", transient, least=0), validation.count("keep", keep)
    check_memory(keep, len(start), len(steps))
    kept = np.empty((len(steps), keep, len(start)))
    for row, step in enumerate(steps):
        masses = start
        for k in range(transient + keep):
            if k >= transient:
                kept[row, k - transient] = masses
            t = k * float(step)
            masses = host(dynamics.step(masses, landscape(t, masses), float(step), time=t, scheme=scheme))
    return kept


def orbit_period(orbit: npt.ArrayLike, *, tolerance: float = 1e-6) -> int | None:
    """Return the least period of an orbit, None if it repeats nowhere in its first half.

    Parameters
    ----------
    orbit : array_like, shape (T, N)
        Masses at successive steps.
    tolerance : float, optional
        Relative to the greatest mass.

    Returns
    -------
    int or None

    Raises
    ------
    ValueError
        If the orbit is not a finite array of two dimensions.

    Examples
    --------
    >>> orbit_period([[1.0], [2.0], [1.0], [2.0]])
    2
    """
    values = validation.finite_array("orbit", orbit, ndim=2)
    size = tolerance * float(np.abs(values).max())
    for period in range(1, len(values) // 2 + 1):
        if np.abs(values[period:] - values[:-period]).max() <= size:
            return period
    return None
