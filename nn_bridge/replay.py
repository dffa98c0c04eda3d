"""A record replayed through `evodyn`: by the map, by finer maps, and by the flow."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

import evodyn as ed
from evodyn.core.arrays import FloatArray
from evodyn.model.dynamics import cap_of, clip_acts, mean_fitness
from nn_bridge.recording import Record

__all__ = ["Replay", "distance_bound", "replayed"]


@dataclasses.dataclass(frozen=True)
class Replay:
    """The masses of one record, by epochs, from the network and from its replays.

    Parameters
    ----------
    times : array, shape (epochs + 1,)
        Ends of the epochs in units of 1/fitness.
    network : array, shape (epochs + 1, groups)
        Masses of the training network.
    step_sizes : array, shape (S,)
        η_p, η_p/2, ...
    maps : array, shape (S, epochs + 1, groups)
        Masses of the map with each step size; the first repeats the network's own steps.
    flow : array, shape (epochs + 1, groups)
        Masses of the flow.
    bounds : array, shape (S,)
        Of the distance between each map and the flow, see `distance_bound`.
    identical : bool
        Whether the first map and the network agree bit for bit.
    flow_method : str
        How the flow was integrated.
    """

    times: FloatArray
    network: FloatArray
    step_sizes: FloatArray
    maps: FloatArray
    flow: FloatArray
    bounds: FloatArray
    identical: bool
    flow_method: str

    @property
    def distances(self) -> FloatArray:
        """Largest |ln p_i| between each map and the flow at every epoch, shape (S, epochs + 1)."""
        distances: FloatArray = np.abs(np.log(self.maps / self.flow)).max(axis=-1)
        return distances


def replayed(
    record: Record,
    network: FloatArray,
    dynamics: ed.Dynamics,
    decay: float,
    *,
    halvings: int = 2,
    solver: ed.Solver | None = None,
) -> Replay:
    """Replay a record through `evodyn.iterate`, with the network's step and finer ones, and `evodyn.solve`.

    Parameters
    ----------
    record : Record
        The contributions of a training run.
    network : array, shape (epochs + 1, groups)
        Its masses, by epochs of equally many steps.
    dynamics : evodyn.Dynamics
        Of all groups, as the selector had it.
    decay : float
        λ of Eq. 10.
    halvings : int, optional
        How many times the step of the map is halved; contributions are held meanwhile, as in the flow.
    solver : evodyn.Solver, optional
        Of the flow.

    Returns
    -------
    Replay
    """
    landscape = record.landscape(decay)
    per_epoch = record.steps // (len(network) - 1)
    step_sizes: FloatArray = record.step_size * 0.5 ** np.arange(halvings + 1, dtype=np.float64)

    def by_map(k: int, save_every: int) -> FloatArray:
        steps, size = record.steps * 2**k, float(step_sizes[k])
        return ed.iterate(
            dynamics, landscape, record.initial_masses, steps, size, save_every=save_every
        ).masses

    every = by_map(0, 1)
    maps = [every[::per_epoch], *(by_map(k, per_epoch * 2**k) for k in range(1, halvings + 1))]
    times = record.times[::per_epoch]
    span = (float(times[0]), float(times[-1]))
    flow = ed.solve(dynamics, landscape, record.initial_masses, span, save_at=times, solver=solver)
    return Replay(
        times=times,
        network=network,
        step_sizes=step_sizes,
        maps=np.array(maps),
        flow=flow.masses,
        bounds=step_sizes * distance_bound(record, every, dynamics, decay),
        identical=maps[0].tobytes() == network.tobytes(),
        flow_method=flow.stats.method,
    )


def distance_bound(record: Record, masses: FloatArray, dynamics: ed.Dynamics, decay: float) -> float:
    """Return C such that map and flow stay within C·η of each other in every ln p_i, for all η up to η_p.

    Let, along the map, d ln p_i/dt be at most g, the mean absolute deviation of fitness at most D, a mass at
    most p and the inflow per mass at most f. A distance δ in ln p changes the rates by at most Lδ,
    L = 2λp + D + f; within a step they change by at most L g η, and ln(1 + η g) is within
    (η g)²/(2(1 - η g)) of η g. Euler's method is then within η (Lg + g²/(1 - η g))/2 · (exp(LT) - 1)/L of the
    flow after a time T.

    A cap on total mass reflects ln P and with it every ln p_i: what both lose to it differs by no more than
    their distance without it, so that L doubles where it meets g or T, and the distance itself doubles.

    Parameters
    ----------
    record : Record
        The contributions of a training run.
    masses : array, shape (steps + 1, groups)
        The masses of every step.
    dynamics : evodyn.Dynamics
        Of all groups.
    decay : float
        λ of Eq. 10.

    Returns
    -------
    float
        C, in units of fitness; infinite where η_p g reaches 1.

    Raises
    ------
    ValueError
        If the dynamics does not compare fitness with its mean, or depends on time.
    """
    if not (dynamics.compares_with_mean and dynamics.autonomous):
        raise ValueError(
            f"dynamics is {dynamics!r}; expected one that compares fitness with its mean, at rates that do "
            "not depend on time: the bound is of such."
        )
    fitness = record.contributions - decay * masses[:-1]
    selection = spread = rate = inflow = 0.0
    reflected = 1.0
    for block, member in dynamics.blocks(masses.shape[1]):
        present, relative = masses[:-1, block], fitness[:, block]
        deviation = np.abs(relative - mean_fitness(present, relative))
        clip = math.inf if member.signal_clip is None else member.signal_clip
        selection = max(selection, min(float(deviation.max()), clip))
        spread = max(spread, float(mean_fitness(present, deviation).max()))
        rate = max(rate, member.mutation_rate_at(0.0))
        inflow = max(inflow, float(np.max(member.inflow(present[0], relative[0]))) / float(present.min()))
        # Without a clip total mass is conserved, and no cap acts.
        if clip_acts(member) and math.isfinite(cap_of(member)):
            reflected = 2.0
    growth = selection + rate + inflow
    lipschitz = 2 * decay * float(masses.max()) + spread + inflow
    return reflected * _euler_bound(record, growth, reflected * lipschitz)


def _euler_bound(record: Record, growth: float, lipschitz: float) -> float:
    shrinking = 1.0 - record.step_size * growth
    if shrinking <= 0:
        return float("inf")
    change = growth * lipschitz + growth**2 / shrinking
    length = record.steps * record.step_size
    return 0.5 * change * float(np.expm1(lipschitz * length)) / lipschitz
