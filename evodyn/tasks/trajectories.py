"""Masses over time beside what theory says of them: the task of the study of trajectories."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from evodyn.analysis.extinction_theory import exact_extinction_times
from evodyn.core import validation
from evodyn.core.labels import about
from evodyn.model.dynamics import Dynamics, NormalizedGrowth
from evodyn.simulate.extinction import Extinction
from evodyn.simulate.method import Solver
from evodyn.simulate.run import Run
from evodyn.simulate.solve import solve
from evodyn.tasks import specification
from evodyn.tasks.extinction import Scenario, equilibrium_masses

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Trajectory", "trajectory"]


@dataclasses.dataclass(frozen=True)
class Trajectory(Scenario):
    """A scenario of extinction whose normalised growth, Eq. 7, has a clip too.

    Parameters
    ----------
    kind, groups, heterogeneity, dynamics, decay, mutation_rate, threshold, t_end, saved_times, seed, member
        As for `evodyn.tasks.extinction.Scenario`.
    signal_clip : float, optional
        κ of "normalized_growth"; the other dynamics are not clipped.

    Raises
    ------
    ValueError
        If a value is outside its range.

    Examples
    --------
    >>> Trajectory(groups=4, dynamics="normalized_growth").selection()
    NormalizedGrowth(mass_cap=4.0, signal_clip=0.3)
    """

    signal_clip: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        validation.positive("signal_clip", self.signal_clip)

    def selection(self) -> Dynamics:
        """Return the dynamics."""
        if self.dynamics == "normalized_growth":
            return NormalizedGrowth(mass_cap=float(self.groups), signal_clip=self.signal_clip)
        return super().selection()


def trajectory(point: Trajectory) -> xr.Dataset:
    """Integrate one population, never by a closed form, and put theory beside it.

    Returns
    -------
    xarray.Dataset
        Along ``time`` and ``group``: `mass`. Along ``group``: `contribution`, `extinction_time` (inf if
        never), `closed_form_extinction_time` and `equilibrium_mass` (NaN where theory has none). Scalar:
        `gap_to_normalized_growth`, the largest difference of a mass from Eq. 7 without clip and cap (NaN
        but for Eq. 6).

    Raises
    ------
    SolveError
        If the integration fails.

    Examples
    --------
    >>> result = trajectory(Trajectory(groups=4, kind="two_class", heterogeneity=0.5, decay=0.0))
    >>> float(result.extinction_time[0].round(4)), float(result.closed_form_extinction_time[0].round(4))
    (7.6004, 7.6004)
    """
    import xarray as xr

    drawn, unknown = point.contribution(), np.full(point.groups, np.nan)

    def solved(dynamics: Dynamics) -> Run:
        return solve(
            dynamics,
            point.landscape(),
            np.ones(point.groups),
            (0.0, point.t_end),
            save_at=point.saved(),
            extinction=Extinction(point.threshold),
            solver=Solver(method="auto" if point.decay else "DOP853"),
        )

    run = solved(point.selection())
    replicator, clipped = point.dynamics == "replicator", point.dynamics == "normalized_growth"
    closed = replicator and point.has_closed_form
    exact = exact_extinction_times(drawn, np.ones(point.groups), point.threshold) if closed else unknown
    gap = float(np.abs(solved(NormalizedGrowth()).masses - run.masses).max()) if replicator else np.nan
    return xr.Dataset(
        {
            "contribution": ("group", drawn, about("contribution", "1/time")),
            "mass": (("time", "group"), np.array(run.masses), about("mass", "mass")),
            "extinction_time": (
                "group",
                np.array(run.extinction_time),
                about("first time strictly below the threshold, integrated", "time"),
            ),
            "closed_form_extinction_time": (
                "group",
                exact,
                about("first time strictly below the threshold, closed form", "time"),
            ),
            "equilibrium_mass": (
                "group",
                unknown if clipped else equilibrium_masses(point),
                about("mass at the attractor", "mass"),
            ),
            "gap_to_normalized_growth": (
                (),
                gap,
                about("largest difference from the masses of Eq. 7 without clip and cap", "mass"),
            ),
        },
        {
            "time": ("time", run.t, about("time", "time")),
            "group": ("group", np.arange(point.groups), about("group")),
        },
        {"specification": specification(point)},
    )
