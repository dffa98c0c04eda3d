"""What a run returns: trajectory, extinction record, status and statistics; and what it raises."""

from __future__ import annotations

import dataclasses
import functools
import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from evodyn.core import html, validation
from evodyn.core.arrays import FloatArray, real
from evodyn.core.specifications import Result, Specification, freeze, same_value
from evodyn.model.descriptions import encode
from evodyn.model.dynamics import Dynamics, mean_fitness
from evodyn.model.fitness import LandscapeFunction
from evodyn.simulate import schema, tables
from evodyn.simulate.dense import DenseOutput
from evodyn.simulate.events import Event, EventTable, event_table
from evodyn.simulate.extinction import Crossings, Extinction
from evodyn.simulate.status import SUCCESSES, Stats, Termination

if TYPE_CHECKING:
    import pandas
    import xarray
    from matplotlib.axes import Axes

__all__ = ["LATER_PARTS", "PARTS", "EndState", "Run", "SolveError", "interrupted", "mean_fitness_along"]

PARTS = ("dynamics", "landscape", "extinction", "settings")
"""The fields of a run that say what was run."""

LATER_PARTS = ("planned_events", "settle")
"""Those that files have only where they were asked for."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class EndState(Specification):
    """Where a run stands, in full precision: what `extend` continues from.

    Attributes
    ----------
    t : float
        The time.
    log_masses : numpy.ndarray, shape (N,)
        Natural logarithms of the masses, -inf for absent groups.
    masses : numpy.ndarray, shape (N,)
        The masses.
    removed : numpy.ndarray of bool, shape (N,)
        Groups absorbed so far.
    """

    t: float
    log_masses: FloatArray
    masses: FloatArray
    removed: npt.NDArray[np.bool_]

    def __post_init__(self) -> None:
        freeze(self, ("log_masses", "masses", "removed"))


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Run(Result):
    """The result of `solve` and `iterate`. All arrays are read-only.

    Attributes
    ----------
    t : numpy.ndarray, shape (T,)
        Saved times. A run that ended early has the saved times it reached, then the time it ended at.
    masses, log_masses : numpy.ndarray, shape (T, N)
        Masses p_i and ln p_i (-inf for absent groups). `solve` stores log-shares, so that ln p_i keeps
        its meaning where p_i underflows; `iterate` stores masses.
    shares : numpy.ndarray, shape (T, N)
        p_i/P, within its block where there are several; NaN where no mass is left.
    total_mass, log_total_mass, mean_fitness : numpy.ndarray, shape (T,), or (T, K) with K blocks
        P, ln P and Σ p φ / P (NaN where no mass is left).
    extinction_time : numpy.ndarray, shape (N,)
        First time strictly below the threshold: the start of the run if a group starts there, inf if
        never. Without a threshold, extinct means exactly zero.
    extinct_at_end : numpy.ndarray of bool, shape (N,)
        Whether the group is extinct when the run ends (it may have come back in between).
    survivors : numpy.ndarray of bool, shape (N,)
        Whether it is not.
    crossings : numpy.recarray with columns group, time, direction
        Every crossing of the threshold, sorted by time; direction -1 is extinction, +1 recovery.
    absorbed_mass : numpy.ndarray, shape (N,)
        Mass removed by policy "absorb".
    termination : Termination
        How the run ended.
    stats : Stats
        Method and why, steps, evaluations.
    events : numpy.recarray with columns event, time
        What happened of the events asked for, by their places in `planned_events`, in order of time.
    dynamics, landscape, extinction, settings, planned_events, settle
        What was run. `settings` are the `Solver`, or the map's step size and scheme.
    t_span : (float, float)
        The interval covered (what was reached, if the run ended early).
    end_state : EndState
        The last state, with which `extend` goes on.

    Examples
    --------
    >>> import evodyn as ed
    >>> run = ed.solve(ed.Replicator(), ed.landscapes.Constant([1.0, 0.0]), [1.0, 1.0], (0.0, 20.0),
    ...                save_at=[0.0, 10.0, 20.0], extinction=ed.Extinction(threshold=1e-3))
    >>> run.masses.shape, run.total_mass
    ((3, 2), array([2., 2., 2.]))
    >>> run.extinction_time.round(3), run.extinct_at_end
    (array([inf, 7.6]), array([False,  True]))
    >>> run.shares[0], run.survivors, run.fraction_extinct([7.0, 8.0])
    (array([0.5, 0.5]), array([ True, False]), array([0. , 0.5]))
    """

    dynamics: Dynamics
    landscape: LandscapeFunction
    extinction: Extinction | None
    settings: Specification
    t_span: tuple[float, float]
    t: FloatArray
    native: FloatArray
    total_mass: FloatArray
    log_total_mass: FloatArray
    mean_fitness: FloatArray
    extinction_time: FloatArray
    extinct_at_end: npt.NDArray[np.bool_]
    crossings: Crossings
    absorbed_mass: FloatArray
    termination: Termination
    stats: Stats
    end_state: EndState
    stores_log_shares: bool
    events: EventTable = dataclasses.field(default_factory=lambda: event_table([]))
    planned_events: tuple[Event, ...] = ()
    settle: float | None = None
    dense_output: DenseOutput | None = None

    def __post_init__(self) -> None:
        freeze(self)

    @functools.cached_property
    def masses(self) -> FloatArray:
        """Masses p_i, shape (T, N)."""
        if not self.stores_log_shares:
            return self.native
        with np.errstate(over="ignore", invalid="ignore"):
            # Masses beyond the largest float are infinite; their logarithms are not.
            if np.isinf(self.total_mass).any():
                return _read_only(np.exp(self.log_masses))
            masses: FloatArray = np.exp(self.native)
            masses *= self._of_groups(self.total_mass)
            return _read_only(masses)

    @functools.cached_property
    def log_masses(self) -> FloatArray:
        """Natural logarithms of the masses, shape (T, N); -inf for absent groups."""
        with np.errstate(divide="ignore"):
            if not self.stores_log_shares:
                return _read_only(np.log(self.native))
            return _read_only(self.native + self._of_groups(self.log_total_mass))

    @functools.cached_property
    def shares(self) -> FloatArray:
        """Shares x_i of the total mass of the block, shape (T, N); NaN where no mass is left."""
        with np.errstate(invalid="ignore"):
            shares = (
                np.exp(self.native)
                if self.stores_log_shares
                else self.native / self._of_groups(self.total_mass)
            )
        return _read_only(np.where(np.isneginf(self._of_groups(self.log_total_mass)), np.nan, shares))

    def _of_groups(self, of_blocks: FloatArray) -> FloatArray:
        """Return each group's block's value, shape (T, 1) or (T, N)."""
        if of_blocks.ndim == 1:
            return of_blocks[:, None]
        sizes = [block.stop - block.start for block, _ in self.dynamics.blocks(self.native.shape[-1])]
        return np.repeat(of_blocks, sizes, axis=1)

    def at(self, t: npt.ArrayLike) -> FloatArray:
        """Return the masses at any time within the run; needs ``solve(..., dense=True)``.

        They come from the interpolant of the step around the time (exactly, where there is a closed form).
        Interpolants are of lower order than the steps: the error of ln p within a step may be some ten times
        the tolerance, where it is the tolerance at its ends. Masses are positive and sum to the total all the
        same. Where masses jump, at an absorption or an event, they are those after the jump.

        Parameters
        ----------
        t : float or array_like, shape (...)
            Times within `t_span`.

        Returns
        -------
        numpy.ndarray, shape (..., N)

        Raises
        ------
        ValueError
            If a time is outside the run, or the run was made without ``dense=True`` (as all that come from
            files, which do not hold what is between saved times, and those of `iterate`).

        Examples
        --------
        >>> import evodyn as ed
        >>> run = ed.solve(ed.Replicator(), ed.landscapes.LinearDecay([1.0, 0.0], 0.5), [1.0, 1.0],
        ...                (0.0, 10.0), save_at=[0.0, 10.0], dense=True)
        >>> run.at([2.5, 10.0]).round(6)
        array([[1.636143, 0.363857],
               [1.895309, 0.104691]])
        """
        if self.dense_output is None:
            raise ValueError(
                "at needs what the run keeps between saved times only if asked to, and files do not hold; "
                "expected a run of solve(..., dense=True)."
            )
        times = validation.finite_array("t", t)
        start, end = self.t_span
        outside = times[(times < start) | (times > end)]
        if outside.size:
            raise ValueError(f"t is {float(outside[0])!r}; expected times within the run, {self.t_span!r}.")
        with np.errstate(all="ignore"):
            logs = self.dense_output.log_masses(times.ravel(), self.end_state.log_masses)
            return np.exp(logs).reshape(*times.shape, logs.shape[-1])

    @property
    def survivors(self) -> npt.NDArray[np.bool_]:
        """Which groups are not extinct when the run ends, shape (N,)."""
        return ~self.extinct_at_end

    def fraction_extinct(self, t: npt.ArrayLike) -> Any:
        """Return the fraction of groups whose first extinction is at or before `t`.

        Parameters
        ----------
        t : float or array_like, shape (T,)
            After the end of the run, those count that it has seen.

        Returns
        -------
        float or numpy.ndarray, shape (T,)
        """
        return tables.fraction_of(self.extinction_time, t)

    def to_dataframe(self) -> pandas.DataFrame:
        """Return a table with one row for each group.

        Its columns are `group`, `block` (where there are several), `contribution` (where the landscape
        declares one for each group), `extinction_time` (the first, inf if never), `extinct_at_end`,
        `end_mass` and `end_log_mass`.

        Raises
        ------
        ImportError
            Without pandas, of the extra "tables".

        Examples
        --------
        >>> import evodyn as ed
        >>> run = ed.solve(ed.Replicator(), ed.landscapes.Constant([1.0, 0.0]), [1.0, 1.0], (0.0, 20.0),
        ...                extinction=ed.Extinction(threshold=1e-3))
        >>> run.to_dataframe()[["group", "contribution", "extinction_time", "extinct_at_end"]].round(3)
           group  contribution  extinction_time  extinct_at_end
        0      0           1.0              inf           False
        1      1           0.0              7.6            True
        """
        return tables.dataframe(self)

    def plot(self, ax: Axes | None = None, **options: Any) -> Axes:
        """Draw the masses over time: `evodyn.plots.masses`, which takes the same options."""
        # The wing of the plots lies above this one, and is loaded by whoever draws.
        axes: Axes = importlib.import_module("evodyn.plots").masses(self, ax, **options)
        return axes

    @property
    def succeeded(self) -> bool:
        """Whether the run ended as asked: at its end, at rest, at an extinction or event, or all absorbed."""
        return self.termination in SUCCESSES

    def same_as(self, other: object) -> bool:
        """Tell whether `other` has the same data and specification, bit for bit."""
        if not isinstance(other, Run):
            return False
        left, right = self.fields(), other.fields()
        del left["dense_output"], right["dense_output"]  # what is between saved times follows from the rest
        return same_value(left, right)

    def save(self, path: str | Path) -> None:
        """Write the run to a NetCDF file, atomically: a kill leaves the old file or the new one.

        Parameters
        ----------
        path : str or Path
            The file; it is replaced, and missing folders are made.

        Raises
        ------
        OSError
            If the file cannot be written; the one before is then still there.

        See Also
        --------
        evodyn.load : the inverse, bit for bit.
        """
        schema.save(self.dataset(), path)

    def to_xarray(self) -> xarray.Dataset:
        """Return the run as a labelled `xarray.Dataset` with masses, log-masses and every record."""
        return self.dataset().assign(log_mass=schema.variable("log_mass", self.log_masses))

    def dataset(self) -> xarray.Dataset:
        """Return everything that makes the run, as it is saved."""
        import xarray

        arrays: schema.Arrays = {}
        specification = self.specification(arrays)
        values = self.saved_values()
        values.setdefault("mass", self.masses)  # for those who open the file without evodyn
        variables = {name: schema.variable(name, value) for name, value in values.items()}
        return xarray.Dataset(
            variables | schema.described(arrays),
            schema.coordinates(self.t, self.native.shape[-1]),
            schema.attributes("Run", specification, self.status()),
        )

    def saved_values(self, *, events: bool = False) -> schema.Arrays:
        """Return the data of the run by their names in files, events always or if there are any."""
        happened = {
            "event_index": np.asarray(self.events["event"]),
            "event_time": np.asarray(self.events["time"]),
        }
        return (happened if events or self.planned_events else {}) | {
            "log_share" if self.stores_log_shares else "mass": self.native,
            "total_mass": self.total_mass,
            "log_total_mass": self.log_total_mass,
            "mean_fitness": self.mean_fitness,
            "extinction_time": self.extinction_time,
            "extinct_at_end": self.extinct_at_end,
            "crossing_group": np.asarray(self.crossings["group"]),
            "crossing_time": np.asarray(self.crossings["time"]),
            "crossing_direction": np.asarray(self.crossings["direction"]),
            "absorbed_mass": self.absorbed_mass,
            "end_log_mass": self.end_state.log_masses,
            "end_mass": self.end_state.masses,
            "removed": self.end_state.removed,
        }

    def specification(self, arrays: schema.Arrays) -> dict[str, Any]:
        """Return what was run as JSON, its arrays entered into `arrays`."""
        later = [name for name in LATER_PARTS if getattr(self, name)]
        return {name: encode(getattr(self, name), arrays, name) for name in (*PARTS, *later)}

    def status(self) -> dict[str, Any]:
        """Return how the run went, as JSON."""
        return {
            "t_span": self.t_span,
            "end_time": self.end_state.t,
            "termination": self.termination.name,
            "stats": dataclasses.asdict(self.stats),
            "blocks": [block.stop - block.start for block, _ in self.dynamics.blocks(self.native.shape[-1])],
        }

    def __repr__(self) -> str:
        n = self.native.shape[-1]
        extinct = int(self.extinct_at_end.sum())
        return (
            f"Run({type(self.dynamics).__name__}, {n} groups, t = {self.t_span[0]:g} to {self.t_span[1]:g}, "
            f"{len(self.t)} saved times, {extinct} extinct at the end, {self.termination.name})"
        )

    def _repr_html_(self) -> str:
        return html.summary("Run", tables.rows_of(self), self, "masses")


class SolveError(RuntimeError):
    """A run that began from valid input and could not be finished.

    Attributes
    ----------
    result : Run
        Everything computed up to the failure, with its `termination`.
    time : float
        The time reached.
    groups : tuple of int
        The groups concerned (those with non-finite fitness, say); may be empty.

    Examples
    --------
    >>> import numpy as np
    >>> import evodyn as ed
    >>> def breaks(t, masses):
    ...     return np.array([1.0, 0.0]) if t < 2 else np.array([np.nan, 0.0])
    >>> try:
    ...     ed.solve(ed.Replicator(), breaks, [1.0, 1.0], (0.0, 5.0))
    ... except SolveError as error:
    ...     print(error.groups, error.result.termination.name, bool(1.9 < error.time < 2.1))
    (0,) FITNESS_NOT_FINITE True
    """

    def __init__(self, message: str, *, result: Run, time: float, groups: tuple[int, ...] = ()) -> None:
        super().__init__(message)
        self.result = result
        self.time = time
        self.groups = groups


def interrupted(interruption: KeyboardInterrupt, result: object) -> KeyboardInterrupt:
    """Return an interruption that carries what there was of a result, as its attribute ``run``."""
    interruption.run = result  # type: ignore[attr-defined]
    return interruption


def _read_only(array: FloatArray) -> FloatArray:
    array.flags.writeable = False
    return array


def mean_fitness_along(
    dynamics: Dynamics,
    landscape: LandscapeFunction,
    t: FloatArray,
    masses: FloatArray,
    logs: FloatArray,
    *,
    partial: bool,
) -> FloatArray:
    """Return Σ p φ / P at every saved time, shape (T,) or (T, K); NaN where no mass is left.

    What the landscape raises is raised, or, with `partial`, makes that row NaN.
    """
    fitness = np.empty_like(masses)
    from_logs: Any = getattr(landscape, "at_log_masses", None)
    function, points = (landscape, masses) if from_logs is None else (from_logs, logs)
    for row, (time, point) in enumerate(zip(t, points, strict=True)):
        try:
            fitness[row] = real(function(float(time), point))
        except Exception:
            if not partial:
                raise
            fitness[row] = np.nan
    blocks = dynamics.blocks(masses.shape[-1])
    means = np.empty((len(t), len(blocks)))
    for k, (block, _) in enumerate(blocks):
        means[:, k] = mean_fitness(masses[:, block], fitness[:, block])[:, 0]
        means[~masses[:, block].any(axis=1), k] = np.nan
    return dynamics.shaped(means)
