"""Rates of decay, measured along a run and in theory, side by side."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import scipy.optimize
import scipy.stats

from evodyn.analysis.records import Record, record_of
from evodyn.core.arrays import FloatArray
from evodyn.core.specifications import Specification
from evodyn.equilibria.equilibrium import Equilibrium, equilibrium
from evodyn.simulate.run import Run

if TYPE_CHECKING:
    import xarray

__all__ = ["ExtinctionRates", "extinction_rates"]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ExtinctionRates(Specification):
    """Decay rates -d ln p_i/dt, measured and theoretical. Arrays have shape (N,) and are read-only.

    Attributes
    ----------
    theoretical : array
        Minus the invasion rate at the equilibrium that the trajectory approaches: its long-time decay rate.
        0 for survivors, NaN for groups absent from the start and where dynamics and landscape are unknown.
    measured : array
        Least-squares slope of -ln p_i against t in the window; NaN where nothing was measured (an
        equilibrium, absent groups).
    interval : array, shape (N, 2)
        95 % interval of the slope by Student's t; for noise-free trajectories it reflects curvature.
    dying : array of bool
        The groups that are absent from the equilibrium, as far as it is known.

    Examples
    --------
    >>> import evodyn as ed
    >>> run = ed.solve(ed.Replicator(), ed.landscapes.Constant([1.0, 0.5]), [1.0, 1.0], (0.0, 100.0))
    >>> rates = ed.extinction_rates(run)
    >>> rates.theoretical, rates.measured.round(6)[1], rates.dying
    (array([0. , 0.5]), np.float64(0.5), array([False,  True]))
    """

    theoretical: FloatArray
    measured: FloatArray
    interval: FloatArray
    dying: npt.NDArray[np.bool_]

    @property
    def relative_error(self) -> FloatArray:
        """(measured - theoretical)/theoretical of the dying groups, NaN elsewhere."""
        known = self.dying & (self.theoretical > 0)
        return np.where(known, self.measured / np.where(known, self.theoretical, 1.0) - 1, math.nan)


def extinction_rates(
    run_or_equilibrium: Run | xarray.Dataset | Equilibrium, *, window: tuple[float, float] = (0.5, 1.0)
) -> ExtinctionRates:
    """Return extinction rates, measured on a trajectory and in theory, side by side.

    Parameters
    ----------
    run_or_equilibrium : Run, xarray.Dataset or Equilibrium
        A dataset has the names of the saved schema; without its specification only the measured rates are
        known. Of an equilibrium only the theoretical ones are.
    window : (float, float), optional
        Part of the time span in which to measure, by default its second half.

    Returns
    -------
    ExtinctionRates

    Raises
    ------
    ValueError
        If fewer than three saved times are in the window, or the trajectory approaches no rest point that
        `equilibrium` finds.

    Examples
    --------
    >>> import numpy as np
    >>> import evodyn as ed
    >>> run = ed.solve(ed.Replicator(), ed.landscapes.Constant([1.0, 0.5, 0.0]), np.ones(3), (0.0, 100.0))
    >>> rates = extinction_rates(run)
    >>> rates.theoretical, rates.measured.round(6)
    (array([0. , 0.5, 1. ]), array([-0. , 0.5, 1. ]))
    """
    if isinstance(run_or_equilibrium, Equilibrium):
        point = run_or_equilibrium
        nothing = np.full(len(point.masses), math.nan)
        return _frozen_rates(0.0 - point.invasion_rates, nothing, np.full((len(nothing), 2), math.nan), point)
    record = record_of(run_or_equilibrium)
    measured, interval = _slopes(record, window)
    if record.dynamics is None or record.landscape is None:
        return _frozen_rates(np.full(len(measured), math.nan), measured, interval, None)
    dynamics, landscape = record.dynamics, record.landscape
    start = record.masses[0]
    present = np.isfinite(record.log_masses[0])
    clipped = any(
        getattr(member, "signal_clip", None) is not None for _, member in dynamics.blocks(len(start))
    )
    # What conserves mass may have lost some to absorption: the end counts, with the groups still there.
    remaining = np.where(np.isfinite(record.log_masses[-1]), start, 0.0)
    if not clipped:
        for block in record.blocks:
            if remaining[block].any():
                remaining[block] *= record.masses[-1, block].sum() / remaining[block].sum()
    point = equilibrium(dynamics, landscape, start=remaining, eigenvalues=False)
    theoretical = np.where(present, 0.0 - point.invasion_rates, math.nan)
    return _frozen_rates(theoretical, measured, interval, point)


def _frozen_rates(
    theoretical: FloatArray, measured: FloatArray, interval: FloatArray, point: Equilibrium | None
) -> ExtinctionRates:
    known = ~np.isnan(theoretical)
    dying = known if point is None else known & ~point.survivors
    for array in (theoretical, measured, interval, dying):
        array.flags.writeable = False
    return ExtinctionRates(theoretical, measured, interval, dying)


def _slopes(record: Record, window: tuple[float, float]) -> tuple[FloatArray, FloatArray]:
    begin, end = record.t[0] + np.array(window) * (record.t[-1] - record.t[0])
    inside = (record.t >= begin) & (record.t <= end)
    if inside.sum() < 3:
        raise ValueError(
            f"window {window} holds {int(inside.sum())} saved times; expected at least 3: "
            "widen it or save more."
        )
    t, logs = record.t[inside], record.log_masses[inside]
    measurable = np.isfinite(logs).all(axis=0)
    centred = t - t.mean()
    spread = float(centred @ centred)
    values = np.where(measurable, logs, 0.0)
    slopes = centred @ values / spread
    residuals = values - values.mean(axis=0) - np.outer(centred, slopes)
    freedom = len(t) - 2
    error = np.sqrt((residuals**2).sum(axis=0) / freedom / spread)
    half = scipy.stats.t.ppf(0.975, freedom) * error
    rates = np.where(measurable, -slopes, math.nan)
    return rates, np.stack((rates - half, rates + half), axis=1)
