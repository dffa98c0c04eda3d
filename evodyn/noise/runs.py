"""Noisy trajectories as a result: labelled, saved and loaded like runs."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from evodyn.core import validation
from evodyn.core.arrays import FloatArray
from evodyn.core.generators import Seed, member_rng
from evodyn.core.specifications import Specification
from evodyn.model.descriptions import encode
from evodyn.model.dynamics import Dynamics
from evodyn.model.fitness import LandscapeFunction
from evodyn.simulate import schema
from evodyn.simulate.flow import State
from evodyn.simulate.problem import check_memory, check_start

if TYPE_CHECKING:
    import xarray

__all__ = ["DRAWS", "Recorder", "StochasticRuns", "check_landscape", "iterated", "per_group"]

DRAWS = 1 << 20  # random numbers drawn at once, at most

_IN_FILES = {
    "t": "time",
    "masses": "mass",
    "log_masses": "log_mass",
    "extinction_time": "extinction_time",
}
"""Names in files of what `StochasticRuns` calls otherwise."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class StochasticRuns(Specification):
    """An ensemble of noisy trajectories. Members lead; arrays are read-only.

    Attributes
    ----------
    model : str
        Which kind of noise, in a sentence.
    t : array, shape (T,)
        Saved times (steps times step size for the discrete models).
    masses, log_masses : array, shape (M, T, N)
        p_i and ln p_i, -inf for groups that are gone.
    extinction_time : array, shape (M, N)
        End of the first step after which a mass is strictly below the threshold (is zero, if there is
        none); 0 for a group that starts there, inf if never.
    seed : Seed or None
        What the members drew from: member k from its spawn key k.

    Examples
    --------
    >>> import evodyn as ed
    >>> neutral = ed.landscapes.Constant([0.0, 0.0])
    >>> runs = ed.stochastic.wright_fisher(ed.Replicator(), neutral, [5, 5], 3, members=4, rng=0)
    >>> runs.masses.shape, runs.t
    ((4, 4, 2), array([0., 1., 2., 3.]))
    """

    model: str
    t: FloatArray
    masses: FloatArray
    log_masses: FloatArray
    extinction_time: FloatArray
    seed: Seed | None = None

    def __post_init__(self) -> None:
        for value in self.fields().values():
            if isinstance(value, np.ndarray):
                value.flags.writeable = False

    def to_xarray(self) -> xarray.Dataset:
        """Return the trajectories as a labelled `xarray.Dataset` with a leading member dimension."""
        import xarray

        variables: dict[str, Any] = {}
        arrays: schema.Arrays = {}
        fields: dict[str, Any] = {}
        for name, value in self.fields().items():
            if name in _IN_FILES and name != "t":
                variables[_IN_FILES[name]] = schema.variable(_IN_FILES[name], value, "member")
            elif name != "t":
                fields[name] = encode(value, arrays, name)
        coords = schema.coordinates(self.t, self.masses.shape[-1], len(self.masses))
        return xarray.Dataset(
            variables | schema.described(arrays),
            coords,
            schema.attributes("StochasticRuns", {"fields": fields}),
        )

    def save(self, path: str | Path) -> None:
        """Write the trajectories to a NetCDF file, atomically; `evodyn.load` reads it, bit for bit."""
        schema.save(self.to_xarray(), path)


class Recorder:
    """Collects saved states and the first times below a threshold."""

    def __init__(self, times: FloatArray, logs: FloatArray, threshold: float | None) -> None:
        self.start = logs
        self.times = times
        self.logs = np.full((logs.shape[0], len(times), logs.shape[1]), math.nan)
        self.log_limit = (
            -math.inf if threshold is None else math.log(validation.positive("threshold", threshold))
        )
        self.extinction = np.full(logs.shape, math.inf)
        self.row = 0

    def save(self, t: float, logs: FloatArray) -> None:
        below = np.isneginf(logs) if math.isinf(self.log_limit) else logs < self.log_limit
        self.extinction[below & np.isinf(self.extinction)] = t
        if self.row < len(self.times) and t == self.times[self.row]:
            self.logs[:, self.row] = logs
            self.row += 1

    def runs(self, model: str, seed: Seed, masses: FloatArray | None = None) -> StochasticRuns:
        values = np.exp(self.logs) if masses is None else masses
        return StochasticRuns(model, self.times, values, self.logs, self.extinction, seed)


def iterated(
    masses: FloatArray,
    n_steps: int,
    save_every: int,
    step_size: float,
    threshold: float | None,
    seed: Seed,
    model: str,
    advance: Any,
    *,
    normal: bool,
) -> StochasticRuns:
    """Iterate ``advance(k, masses, draws)`` and record; `normal` numbers are drawn in chunks if wanted."""
    members, n = masses.shape
    saved = np.unique(np.append(np.arange(0, n_steps + 1, save_every), n_steps))
    check_memory(len(saved), n, members)
    times = saved * step_size
    with np.errstate(divide="ignore"):
        record = Recorder(times, np.log(masses), threshold)
        kept = np.empty((members, len(saved), n))
        generators = [member_rng(seed, k) for k in range(members)] if normal else []
        chunk = max(1, DRAWS // (members * n))
        draws = np.empty((members, 0, n))
        record.save(0.0, np.log(masses))
        kept[:, 0] = masses
        for k in range(n_steps):
            if normal and k % chunk == 0:
                size = min(chunk, n_steps - k)
                draws = np.stack([g.standard_normal((size, n)) for g in generators])
            masses = advance(k, masses, draws[:, k % chunk] if normal else masses)
            before = record.row
            record.save((k + 1) * step_size, np.log(masses))
            if record.row > before:
                kept[:, before] = masses
    return record.runs(model, seed, kept)


def per_group(name: str, value: npt.ArrayLike, n: int) -> FloatArray:
    """Return a number >= 0 for each of `n` groups, from one for all or one for each."""
    values = validation.finite_array(name, value, least=0.0)
    if values.shape not in ((), (n,)):
        raise ValueError(f"{name} has shape {values.shape}; expected a number or one for each of {n} groups.")
    return np.broadcast_to(values, (n,))


def check_landscape(dynamics: Dynamics, landscape: LandscapeFunction, t: float, masses: FloatArray) -> None:
    """Raise `ValueError` if the landscape is wrong at the start."""
    with np.errstate(divide="ignore"):
        check_start(dynamics, landscape, State(t, np.log(masses), np.zeros(len(masses), dtype=bool)))
