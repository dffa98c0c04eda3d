"""Where the discrete maps (Eqs. 12-14) part from the flow: error, lost stability, lost positivity, cycles."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy.integrate import solve_ivp

from evodyn.core import validation
from evodyn.core.arrays import FloatArray, host, real
from evodyn.equilibria.equilibrium import Equilibrium
from evodyn.model.dynamics import SCHEMES, Dynamics, Scheme, cap_of, rate_bound
from evodyn.model.fitness import LandscapeFunction, breakpoints
from evodyn.simulate.flow import State
from evodyn.simulate.problem import (
    check_memory,
    check_start,
    validated_masses,
    validated_save_times,
    validated_span,
)

__all__ = ["error_constant", "flip_step_size", "orbit_period", "orbits", "positivity_step_size"]

_EVALUATIONS = 20_000
_NUDGE = 2.0**-18  # of a mass, in central differences: rounding and truncation are then alike


def error_constant(
    dynamics: Dynamics,
    landscape: LandscapeFunction,
    p0: npt.ArrayLike,
    t_span: tuple[float, float],
    *,
    save_at: npt.ArrayLike | None = None,
    scheme: Scheme = "euler",
) -> FloatArray:
    """Return the leading coefficient e(t) of a map's global error: its masses are p(t) + η_p e(t) + O(η_p²).

    Along the flow dp/dt = F(t, p), e solves the variational equation de/dt = J e + (a - d²p/dt²)/2 from
    e = 0, with J = ∂F/∂p and a the second derivative of one step in its size: 0 for the Euler map,
    p_i g_i² - μ²m_i for the exponential one (growth rates g, with mutation). A cap that holds from the
    start takes away the mass that the exponential map would add.

    Parameters
    ----------
    dynamics, landscape, p0, t_span, save_at
        As for `evodyn.solve`; groups of mass 0 must not receive mutation.
    scheme : {"euler", "exponential"}, optional
        See `Dynamics.step`.

    Returns
    -------
    numpy.ndarray, shape (T, N)
        e_i(t) in units of mass/time.

    Raises
    ------
    ValueError
        If an argument is outside its range, the landscape has breakpoints inside the span, mutation would
        revive a group, or a cap can act on masses that a clip keeps from being conserved: the error then
        has no such expansion.
    RuntimeError
        If the problem is too stiff to be integrated.

    Examples
    --------
    The exponential map adds mass: under constant fitness e_i = p_i(φ̄(t) - φ̄(0))/2, all of one sign.

    >>> import evodyn as ed
    >>> landscape = ed.landscapes.Constant([1.0, 0.0])
    >>> error_constant(ed.Replicator(), landscape, [1.0, 1.0], (0.0, 2.0), save_at=[2.0],
    ...                scheme="exponential").round(6)
    array([[0.335405, 0.045392]])
    """
    start = validated_masses(p0, dynamics)
    begin, end = validated_span(t_span)
    times = validated_save_times(save_at, begin, end)
    validation.choice("scheme", scheme, SCHEMES)
    with np.errstate(divide="ignore"):
        logs = np.log(start)
    check_start(dynamics, landscape, State(begin, logs, np.zeros(len(start), dtype=bool)))
    living = start > 0
    _check_smooth(dynamics, landscape, start, begin, end)
    capped = [
        block
        for block, member in dynamics.blocks(len(start))
        if start[block].sum() >= cap_of(member) * (1 - 1e-12)
    ]

    def fitness_at(t: float, masses: FloatArray) -> FloatArray:
        return real(landscape(t, masses))

    def velocity(t: float, masses: FloatArray) -> FloatArray:
        return host(dynamics.velocity(masses, fitness_at(t, masses), time=t))

    def along(t: float, masses: FloatArray, direction: FloatArray, onwards: float) -> FloatArray:
        """Return the derivative of the velocity in a direction of masses and (at rate `onwards`) time."""
        fastest = float(np.abs(direction[living] / masses[living]).max())
        width = _NUDGE / max(fastest, onwards * 16 / (end - begin), np.finfo(float).tiny)
        ahead, behind = (
            velocity(t + sign * width * onwards, masses + sign * width * direction) for sign in (1, -1)
        )
        difference: FloatArray = (ahead - behind) / (2 * width)
        return difference

    def coupled(t: float, state: FloatArray) -> FloatArray:
        masses, error = np.zeros(len(start)), np.zeros(len(start))
        masses[living], error[living] = np.exp(state[: living.sum()]), state[living.sum() :]
        speed = velocity(t, masses)
        defect = -along(t, masses, speed, 1.0) / 2
        if scheme == "exponential":
            inflow = dynamics.inflow(masses, fitness_at(t, masses), time=t)
            growth = np.where(living, speed - inflow, 0.0) / np.where(living, masses, 1.0)
            defect += (masses * growth**2 - rate_bound(dynamics, len(start), t) * inflow) / 2
        for block in capped:
            defect[block] -= max(0.0, defect[block].sum()) * masses[block] / masses[block].sum()
        spread = along(t, masses, error, 0.0) if error.any() else error
        return np.concatenate((speed[living] / masses[living], (spread + defect)[living]))

    evaluations = 0

    def limited(t: float, state: FloatArray) -> FloatArray:
        nonlocal evaluations
        evaluations += 1
        if evaluations > _EVALUATIONS:
            raise RuntimeError(
                f"the error constant needs more than {_EVALUATIONS} evaluations, reached at t = {t:g}: the "
                "problem is stiff; expected a shorter t_span."
            )
        return coupled(t, state)

    tolerances = np.concatenate((np.full(living.sum(), 1e-10), np.full(living.sum(), 1e-10 * start.sum())))
    solution = solve_ivp(
        limited,
        (begin, end),
        np.concatenate((logs[living], np.zeros(living.sum()))),
        method="DOP853",
        t_eval=times,
        rtol=1e-9,
        atol=tolerances,
    )
    if not solution.success:
        raise RuntimeError(f"the error constant could not be integrated: {solution.message}")
    constants = np.zeros((len(times), len(start)))
    constants[:, living] = solution.y[living.sum() :].T
    return constants


def _check_smooth(
    dynamics: Dynamics, landscape: LandscapeFunction, start: FloatArray, begin: float, end: float
) -> None:
    """Raise `ValueError` where the global error of a map has no expansion in the step size."""
    jumps = np.union1d(breakpoints(landscape, (begin, end)), breakpoints(dynamics, (begin, end)))
    if len(jumps):
        raise ValueError(
            f"landscape or dynamics has a breakpoint at t = {jumps[0]:g}; expected none inside t_span: the "
            "error would depend on where the steps fall. Split the span there."
        )
    fitness = np.where(start > 0, landscape(begin, start), 0.0)
    if ((start == 0) & (dynamics.inflow(start, fitness, time=begin) + np.zeros(len(start)) > 0)).any():
        raise ValueError("p0 has a zero that mutation revives; expected a positive mass there.")
    for _, member in dynamics.blocks(len(start)):
        if math.isfinite(cap_of(member)) and getattr(member, "signal_clip", None) is not None:
            raise ValueError(
                f"dynamics contains {member!r}, with a clip and a cap; expected one of them: where the cap "
                "begins to hold, the error has no expansion."
            )


def flip_step_size(equilibrium: Equilibrium) -> float:
    """Return the step size at which the Euler map at a stable rest point loses stability.

    The multipliers of the map are 1 + η_p ν_k, with the flow's eigenvalues ν_k: the first leaves the unit
    circle at η_p = min_k -2 Re ν_k/|ν_k|² (a flip, where ν_k is real). With Eq. 10 and equal contributions
    this is η_p λP/N = 2. Absent groups that cannot invade do not count: a rare one never overshoots zero,
    for the projection takes it from half the step size on (`positivity_step_size`).

    Parameters
    ----------
    equilibrium : Equilibrium
        With its eigenvalues (``eigenvalues=True`` for more than 1000 groups).

    Returns
    -------
    float
        η_p > 0; 0 at a rest point that the flow itself leaves or circles, inf without a direction to move in.

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
    for rate in equilibrium.invasion_rates[~equilibrium.survivors]:
        if rate < 0:
            values = np.delete(values, np.argmin(np.abs(values - rate)))
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
        η_p > 0; inf if no mass decreases.

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
    velocity = dynamics.velocity(state, real(fitness), time=time)
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
