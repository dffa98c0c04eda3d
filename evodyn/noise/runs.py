"""Noisy trajectories as a result: labelled, saved and loaded like runs."""

from __future__ import annotations

import dataclasses
import functools
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from evodyn.core import html, validation
from evodyn.core.arrays import FloatArray, frozen
from evodyn.core.generators import Seed, member_rng
from evodyn.core.progress import Progress, reporting
from evodyn.core.specifications import Specification
from evodyn.model.descriptions import encode
from evodyn.model.dynamics import Dynamics
from evodyn.model.fitness import LandscapeFunction
from evodyn.simulate import schema, tables
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
    shares : array, shape (M, T, N)
        p_i/P, within its block where there are several; NaN where no mass is left.
    total_mass : array, shape (M, T), or (M, T, K) with K blocks
        P.
    extinction_time : array, shape (M, N)
        End of the first step after which a mass is strictly below the threshold (is zero, if there is
        none); 0 for a group that starts there, inf if never.
    extinct_at_end, survivors : array of bool, shape (M, N)
        Whether the mass is below the threshold (is zero) at the last saved time, and whether it is not.
    seed : Seed or None
        What the members drew from: member k from its spawn key k.
    dynamics, landscape, threshold
        What was run; None in files of before they were kept.

    Examples
    --------
    >>> import evodyn as ed
    >>> neutral = ed.landscapes.Constant([0.0, 0.0])
    >>> runs = ed.stochastic.wright_fisher(ed.Replicator(), neutral, [5, 5], 3, members=4, rng=0)
    >>> runs.masses.shape, runs.t
    ((4, 4, 2), array([0., 1., 2., 3.]))
    >>> runs
    StochasticRuns(4 members, 2 groups, t = 0 to 3, 4 saved times, Wright-Fisher sampling of 10 individuals)
    """

    model: str
    t: FloatArray
    masses: FloatArray
    log_masses: FloatArray
    extinction_time: FloatArray
    seed: Seed | None = None
    dynamics: Dynamics | None = None
    landscape: LandscapeFunction | None = None
    threshold: float | None = None

    def __post_init__(self) -> None:
        for value in self.fields().values():
            if isinstance(value, np.ndarray):
                value.flags.writeable = False

    @property
    def _blocks(self) -> list[slice]:
        n = self.masses.shape[-1]
        return [slice(0, n)] if self.dynamics is None else [block for block, _ in self.dynamics.blocks(n)]

    @functools.cached_property
    def shares(self) -> FloatArray:
        """Shares of the total mass of the block, shape (M, T, N)."""
        return frozen(tables.shares_of_blocks(self.log_masses, self._blocks))

    @functools.cached_property
    def total_mass(self) -> FloatArray:
        """Total masses, shape (M, T) or (M, T, K)."""
        totals = np.stack([self.masses[..., block].sum(axis=-1) for block in self._blocks], axis=-1)
        return frozen(totals[..., 0] if totals.shape[-1] == 1 else totals)

    @property
    def extinct_at_end(self) -> npt.NDArray[np.bool_]:
        """Who is extinct at the last saved time, shape (M, N)."""
        last = self.log_masses[:, -1]
        return np.isneginf(last) if self.threshold is None else last < math.log(self.threshold)

    @property
    def survivors(self) -> npt.NDArray[np.bool_]:
        """Who is not extinct at the last saved time, shape (M, N)."""
        return ~self.extinct_at_end

    def fraction_extinct(self, t: npt.ArrayLike) -> FloatArray:
        """Return the fraction of each member's groups whose first extinction is at or before `t`.

        Parameters
        ----------
        t : float or array_like, shape (T,)

        Returns
        -------
        numpy.ndarray, shape (M,) or (M, T)
        """
        return np.asarray(tables.fraction_of(self.extinction_time, t))

    def __len__(self) -> int:
        return len(self.masses)

    def __repr__(self) -> str:
        return (
            f"StochasticRuns({len(self)} members, {self.masses.shape[-1]} groups, t = {self.t[0]:g} to "
            f"{self.t[-1]:g}, {len(self.t)} saved times, {self.model})"
        )

    def _repr_html_(self) -> str:
        extinct = self.extinct_at_end.mean(axis=1)
        rows = {
            "model": self.model,
            "members": len(self),
            "dynamics": "not kept" if self.dynamics is None else repr(self.dynamics),
            "groups": self.masses.shape[-1],
            "time": f"{self.t[0]:g} to {self.t[-1]:g}, {len(self.t)} saved",
            "extinct": f"{extinct.min():.1%} to {extinct.max():.1%} of the groups at the end",
        }
        return html.summary("StochasticRuns", rows, self, "fraction")

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
        for name in ("total_mass", "extinct_at_end"):
            variables[name] = schema.variable(name, getattr(self, name), "member")
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
        self.threshold = threshold
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

    def runs(
        self,
        model: str,
        seed: Seed,
        masses: FloatArray | None = None,
        *,
        dynamics: Dynamics | None = None,
        landscape: LandscapeFunction | None = None,
    ) -> StochasticRuns:
        values = np.exp(self.logs) if masses is None else masses
        problem = (dynamics, landscape, None if self.threshold is None else float(self.threshold))
        return StochasticRuns(model, self.times, values, self.logs, self.extinction, seed, *problem)


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
    dynamics: Dynamics | None = None,
    landscape: LandscapeFunction | None = None,
    progress: Progress = None,
) -> StochasticRuns:
    """Iterate ``advance(k, masses, draws)`` and record; `normal` numbers are drawn in chunks if wanted."""
    members, n = masses.shape
    saved = np.unique(np.append(np.arange(0, n_steps + 1, save_every), n_steps))
    check_memory(len(saved), n, members)
    times = saved * step_size
    with np.errstate(divide="ignore"), reporting(progress, "Sampling") as report:
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
            if report is not None:
                report((k + 1) / n_steps)
    return record.runs(model, seed, kept, dynamics=dynamics, landscape=landscape)


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
