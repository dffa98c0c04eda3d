"""Trajectories to analyse, from a run or from a labelled dataset of anyone's making."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from evodyn.core.arrays import FloatArray, frozen, real
from evodyn.model.descriptions import decode
from evodyn.model.dynamics import Dynamics
from evodyn.model.fitness import LandscapeFunction, fitness_at_log_masses
from evodyn.simulate.run import Run

if TYPE_CHECKING:
    import xarray

__all__ = ["Record", "record_of"]


@dataclasses.dataclass(frozen=True, eq=False)
class Record:
    """A trajectory and, as far as they are known, the dynamics and the landscape behind it.

    Attributes
    ----------
    t : array, shape (T,)
        Times.
    log_masses : array, shape (T, N)
        ln p_i, -inf for absent groups.
    dynamics : Dynamics or None
    landscape : callable or None
    """

    t: FloatArray
    log_masses: FloatArray
    dynamics: Dynamics | None
    landscape: LandscapeFunction | None

    @property
    def masses(self) -> FloatArray:
        """Masses, shape (T, N)."""
        return np.exp(self.log_masses)

    @property
    def blocks(self) -> tuple[slice, ...]:
        """The groups that compete with one another; all of them if the dynamics is not known."""
        n = self.log_masses.shape[1]
        if self.dynamics is None:
            return (slice(0, n),)
        return tuple(block for block, _ in self.dynamics.blocks(n))

    def shaped(self, values: npt.ArrayLike) -> FloatArray:
        """Return values of shape (..., K), one for each block, in the shape in which results have them."""
        of_blocks = np.asarray(values, dtype=np.float64)
        return frozen(of_blocks[..., 0] if self.dynamics is None else self.dynamics.shaped(of_blocks))

    def known(self, purpose: str) -> tuple[Dynamics, LandscapeFunction]:
        """Return dynamics and landscape.

        Raises
        ------
        ValueError
            If the record does not have them.
        """
        if self.dynamics is None or self.landscape is None:
            raise ValueError(
                f"run is a dataset without a specification, and {purpose} needs dynamics and landscape; "
                "expected a Run, or a dataset that evodyn saved."
            )
        return self.dynamics, self.landscape

    def fitness(self, purpose: str) -> FloatArray:
        """Return the fitness at every time, shape (T, N), 0 in place of infinite values of absent groups."""
        _, landscape = self.known(purpose)
        rows = [
            fitness_at_log_masses(landscape, float(t), logs)
            for t, logs in zip(self.t, self.log_masses, strict=True)
        ]
        fitness = np.array(real(rows))
        fitness[np.isneginf(self.log_masses) & ~np.isfinite(fitness)] = 0.0
        return fitness


def record_of(run: Run | xarray.Dataset | Record) -> Record:
    """Return the trajectory of a run, or of a dataset with the names of the saved schema.

    Parameters
    ----------
    run : Run or xarray.Dataset
        A dataset has a coordinate ``time`` and one of ``log_mass``, ``mass``, or ``log_share``
        (time, group), the last with ``log_total_mass`` (time).

    Raises
    ------
    ValueError
        If it is neither, or a dataset without these variables.

    Examples
    --------
    >>> import xarray
    >>> mine = xarray.Dataset({"mass": (("time", "group"), [[1.0, 1.0], [0.5, 1.5]])}, {"time": [0.0, 1.0]})
    >>> record_of(mine).masses
    array([[1. , 1. ],
           [0.5, 1.5]])
    """
    if isinstance(run, Record):
        return run
    if isinstance(run, Run):
        return Record(run.t, run.log_masses, run.dynamics, run.landscape)
    if not hasattr(run, "data_vars"):
        raise ValueError(f"run is {type(run).__name__}; expected a Run or an xarray.Dataset.")
    dynamics, landscape = _specification(run)
    if "time" not in run.coords:
        raise ValueError("run has no coordinate 'time'; expected a dataset with the times of its rows.")
    t = np.asarray(run["time"], dtype=np.float64)

    def values(name: str) -> FloatArray:
        variable = run[name]  # labels say which axis is time
        first = [axis for axis in run["time"].dims if axis in variable.dims]
        return np.asarray(variable.transpose(*first, ...), dtype=np.float64)

    with np.errstate(divide="ignore", invalid="ignore"):
        if "log_mass" in run:
            logs = values("log_mass")
        elif "log_share" in run and "log_total_mass" in run:  # which says more than masses that underflow
            shares = values("log_share")
            totals = values("log_total_mass").reshape(len(t), -1)
            sizes = [shares.shape[1]] if dynamics is None else _sizes(dynamics, shares.shape[1])
            logs = shares + np.repeat(totals, sizes, axis=1)
        elif "mass" in run:
            logs = np.log(values("mass"))
        else:
            raise ValueError(
                "run has neither 'log_mass' nor 'mass' nor 'log_share' with 'log_total_mass'; expected one."
            )
    if logs.ndim != 2 or len(logs) != len(t) or np.isnan(logs).any():
        raise ValueError(
            f"run has masses of shape {logs.shape} at {len(t)} times; expected (time, group), non-negative."
        )
    return Record(t, logs, dynamics, landscape)


def _sizes(dynamics: Dynamics, n: int) -> list[int]:
    return [block.stop - block.start for block, _ in dynamics.blocks(n)]


def _specification(run: xarray.Dataset) -> tuple[Dynamics | None, LandscapeFunction | None]:
    if "specification" not in run.attrs:
        return None, None
    prefix = "specification_"
    arrays: dict[str, Any] = {
        str(name).removeprefix(prefix): np.asarray(values)
        for name, values in run.data_vars.items()
        if str(name).startswith(prefix)
    }
    description = json.loads(run.attrs["specification"])
    if "dynamics" not in description:
        return None, None
    return decode(description["dynamics"], arrays), decode(description["landscape"], arrays)
