"""What a run returns: trajectory, extinction record, status and statistics; and what it raises."""

from __future__ import annotations

import dataclasses
import functools
import importlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from evodyn.core import html
from evodyn.core.arrays import FloatArray, real
from evodyn.core.specifications import Specification, same_value
from evodyn.model.descriptions import encode
from evodyn.model.dynamics import Dynamics, mean_fitness
from evodyn.model.fitness import LandscapeFunction
from evodyn.simulate import schema, tables
from evodyn.simulate.extinction import Crossings, Extinction
from evodyn.simulate.status import Stats, Termination

if TYPE_CHECKING:
    import pandas
    import xarray
    from matplotlib.axes import Axes

__all__ = ["PARTS", "EndState", "Run", "SolveError", "mean_fitness_along"]

PARTS = ("dynamics", "landscape", "extinction", "settings")
"""The fields of a run that say what was run."""


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
        _freeze(self)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Run(Specification):
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
    dynamics, landscape, extinction, settings
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

    def __post_init__(self) -> None:
        _freeze(self)

    @classmethod
    def with_pending(cls, pending: Mapping[str, Callable[[], FloatArray]], **fields: Any) -> Run:
        """Return a run of these fields, and of others that are computed when they are looked at."""
        run = object.__new__(cls)
        run._set(**fields, _pending=dict(pending))
        _freeze(run, fields)
        return run

    def __getattr__(self, name: str) -> Any:
        pending = self.__dict__.get("_pending", {})
        if name not in pending:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        self._set(**{name: pending[name]()})
        _freeze(self, (name,))
        del pending[name]
        return self.__dict__[name]

    def fields(self) -> dict[str, Any]:
        self._settle()
        return super().fields()

    def __getstate__(self) -> dict[str, Any]:
        self._settle()
        return self.__dict__

    def _settle(self) -> None:
        """Compute what has not been looked at."""
        for name in tuple(self.__dict__.get("_pending", ())):
            getattr(self, name)
        self.__dict__.pop("_pending", None)

    @functools.cached_property
    def masses(self) -> FloatArray:
        """Masses p_i, shape (T, N)."""
        if not self.stores_log_shares:
            return self.native
        with np.errstate(over="ignore", invalid="ignore"):
            # Masses beyond the largest float are infinite; their logarithms are not.
            return _read_only(np.exp(self.log_masses) if np.isinf(self.total_mass).any() else self._shared())

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

    def _shared(self) -> FloatArray:
        shares: FloatArray = np.exp(self.native) * self._of_groups(self.total_mass)
        return shares

    def _of_groups(self, of_blocks: FloatArray) -> FloatArray:
        """Return each group's block's value, shape (T, 1) or (T, N)."""
        if of_blocks.ndim == 1:
            return of_blocks[:, None]
        sizes = [block.stop - block.start for block, _ in self.dynamics.blocks(self.native.shape[-1])]
        return np.repeat(of_blocks, sizes, axis=1)

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
        """Whether the run ended as asked (completed, stopped at an extinction, or everything absorbed)."""
        return self.termination in _SUCCESSES

    def same_as(self, other: object) -> bool:
        """Tell whether `other` has the same data and specification, bit for bit."""
        if not isinstance(other, Run):
            return False
        return same_value(self.fields(), other.fields())

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

    def saved_values(self) -> schema.Arrays:
        """Return the data of the run by the names that they have in files."""
        return {
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
        return {name: encode(getattr(self, name), arrays, name) for name in PARTS}

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


_SUCCESSES = (Termination.COMPLETED, Termination.STOPPED_AT_EXTINCTION, Termination.ALL_EXTINCT)


def _freeze(result: Specification, names: Iterable[str] | None = None) -> None:
    """Make the arrays of a result read-only, on copies of those that others hold."""
    for name in result.fields() if names is None else names:
        value = getattr(result, name)
        if isinstance(value, np.ndarray) and value.flags.writeable:
            copy = value.copy()
            copy.flags.writeable = False
            object.__setattr__(result, name, copy)


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
    fitness = np.full_like(masses, np.nan)
    from_logs: Any = getattr(landscape, "at_log_masses", None)
    function, points = (landscape, masses) if from_logs is None else (from_logs, logs)
    for row, (time, point) in enumerate(zip(t, points, strict=True)):
        try:
            fitness[row] = real(function(float(time), point))
        except Exception:
            if not partial:
                raise
    blocks = dynamics.blocks(masses.shape[-1])
    means = np.empty((len(t), len(blocks)))
    for k, (block, _) in enumerate(blocks):
        means[:, k] = mean_fitness(masses[:, block], fitness[:, block])[:, 0]
        means[~masses[:, block].any(axis=1), k] = np.nan
    return dynamics.shaped(means)
