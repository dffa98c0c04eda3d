"""A training run recorded, then replayed through `evodyn`: by the map, by finer maps, and by the flow."""

from __future__ import annotations

import dataclasses
import tempfile

import numpy as np
import xarray as xr

import evodyn as ed
from evodyn.core.arrays import FloatArray
from evodyn.core.labels import about
from evodyn.core.specifications import Specification
from nn_bridge.paper.experiment import Experiment, Source, run
from nn_bridge.recording import Record, Recorder
from nn_bridge.selector import Selector

__all__ = ["Recording", "Replay", "record_of", "recorded", "replayed"]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Recording(Specification):
    """A training run whose signals are kept.

    Parameters
    ----------
    experiment : Experiment
        What to train; its signal must not be clipped before the mean is taken (`clipped="difference"`),
        so that the dynamics and Eq. 10 say all about the masses.
    device : str
        "cpu" or "cuda".

    Raises
    ------
    ValueError
        If the experiment clips fitness itself.
    """

    experiment: Experiment
    device: str = "cpu"

    def __post_init__(self) -> None:
        clipped = self.experiment.clipped
        if clipped != "difference":
            raise ValueError(f"experiment.clipped is {clipped!r}; expected 'difference' for a replay.")


def recorded(point: Recording) -> xr.Dataset:
    """Train and return the contributions of every step and the masses of every epoch (task of a sweep)."""
    recorders: list[Recorder] = []

    def attach(selector: Selector) -> None:
        recorders.append(Recorder(selector))

    with tempfile.TemporaryDirectory() as directory:
        result = run(point.experiment, directory, Source(point.device), on_selector=attach)
    record = recorders[0].record()
    return xr.Dataset(
        {
            "contribution": (
                ("step", "group"),
                record.contributions,
                about("contribution after the signal's options", "fitness"),
            ),
            "mass": result["mass"],
            "accuracy": result["accuracy"],
        },
        coords={"layer": result["layer"]},
        attrs={"step_size": record.step_size},
    )


def selection_of(experiment: Experiment) -> ed.Dynamics:
    """Return the dynamics of all groups together: blocks, if the layers compete apart."""
    dynamics = experiment.selection()
    if experiment.scope == "global" or isinstance(dynamics, ed.Populations):
        return dynamics
    return ed.Populations(dynamics, experiment.widths[1:-1])


def record_of(data: xr.Dataset) -> Record:
    """Return the record in what `recorded` returned."""
    return Record(
        contributions=data["contribution"].values,
        initial_masses=data["mass"].values[0],
        step_size=float(data.attrs["step_size"]),
    )


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
    experiment: Experiment, data: xr.Dataset, *, halvings: int = 2, solver: ed.Solver | None = None
) -> Replay:
    """Replay a record through `evodyn.iterate`, with the network's step and finer ones, and `evodyn.solve`.

    Parameters
    ----------
    experiment : Experiment
        What was recorded.
    data : xarray.Dataset
        What `recorded` returned for it.
    halvings : int, optional
        How many times the step of the map is halved; contributions are held meanwhile, as in the flow.
    solver : evodyn.Solver, optional
        Of the flow.

    Returns
    -------
    Replay
    """
    record, dynamics = record_of(data), selection_of(experiment)
    landscape = record.landscape(experiment.decay)
    per_epoch = record.steps // (data.sizes["epoch"] - 1)
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
    network = data["mass"].values
    return Replay(
        times=times,
        network=network,
        step_sizes=step_sizes,
        maps=np.array(maps),
        flow=flow.masses,
        bounds=step_sizes * distance_bound(experiment, record, every),
        identical=maps[0].tobytes() == network.tobytes(),
        flow_method=flow.stats.method,
    )


def distance_bound(experiment: Experiment, record: Record, masses: FloatArray) -> float:
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
    experiment : Experiment
        What was recorded.
    record : Record
        Its record.
    masses : array, shape (steps + 1, groups)
        The masses of every step.

    Returns
    -------
    float
        C, in units of fitness; infinite where η_p g reaches 1.
    """
    dynamics = selection_of(experiment)
    fitness = record.contributions - experiment.decay * masses[:-1]
    selection = spread = inflow = 0.0
    for block, member in dynamics.blocks(masses.shape[1]):
        present, relative = masses[:-1, block], fitness[:, block]
        deviation = np.abs(relative - ed.dynamics.mean_fitness(present, relative))
        selection = max(selection, float(deviation.max()))
        spread = max(spread, float(ed.dynamics.mean_fitness(present, deviation).max()))
        inflow = max(inflow, float(np.max(member.inflow(present[0], relative[0]))) / float(present.min()))
    if experiment.signal_clip is not None:
        selection = min(selection, experiment.signal_clip)
    rate = experiment.mutation_rate if experiment.dynamics == "mutation" else 0.0
    growth = selection + rate + inflow
    lipschitz = 2 * experiment.decay * float(masses.max()) + spread + inflow
    # Without a clip total mass is conserved, and no cap acts.
    capped = experiment.dynamics == "normalized" and None not in (experiment.mass_cap, experiment.signal_clip)
    reflected = 2.0 if capped else 1.0
    return reflected * _euler_bound(record, growth, reflected * lipschitz)


def _euler_bound(record: Record, growth: float, lipschitz: float) -> float:
    shrinking = 1.0 - record.step_size * growth
    if shrinking <= 0:
        return float("inf")
    change = growth * lipschitz + growth**2 / shrinking
    length = record.steps * record.step_size
    return 0.5 * change * float(np.expm1(lipschitz * length)) / lipschitz
