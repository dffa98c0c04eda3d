"""The result of many members of one problem: members lead."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, SupportsIndex, overload

import numpy as np
import numpy.typing as npt

from evodyn.core import html
from evodyn.core.arrays import FloatArray
from evodyn.core.generators import Seed
from evodyn.core.labels import MASS, about
from evodyn.core.specifications import Result, same_value
from evodyn.model.descriptions import encode
from evodyn.simulate import schema, tables
from evodyn.simulate.run import Run
from evodyn.simulate.runs import Runs
from evodyn.simulate.status import Stats, Termination

if TYPE_CHECKING:
    import pandas
    import xarray
    from matplotlib.axes import Axes

__all__ = ["Ensemble"]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Ensemble(Result):
    """The result of `solve_ensemble`: as `Run`, with a leading member axis.

    It is a sequence of its members: ``ensemble[k]`` is the k-th `Run`, a slice an ensemble of some of them.

    Attributes
    ----------
    runs : sequence of Run
        Every member's own result, made when somebody looks at it.
    t : numpy.ndarray, shape (T,)
        The shared times.
    masses, log_masses, shares : numpy.ndarray, shape (M, T, N)
        NaN after the end of a member that ended early.
    total_mass, mean_fitness : numpy.ndarray, shape (M, T), or (M, T, K) with K blocks
        Likewise.
    extinction_time : numpy.ndarray, shape (M, N)
    extinct_at_end : numpy.ndarray of bool, shape (M, N)
    absorbed_mass : numpy.ndarray, shape (M, N)
    termination : tuple of Termination, length M
    stats : tuple of Stats, length M
    seed : Seed or None
        What the landscapes were drawn from; None if they were given.

    Examples
    --------
    >>> import evodyn as ed
    >>> landscapes = [ed.landscapes.Constant([1.0, fitness]) for fitness in (0.0, 0.5)]
    >>> ensemble = ed.solve_ensemble(ed.Replicator(), landscapes, [1.0, 1.0], (0.0, 20.0),
    ...                              save_at=[0.0, 20.0], extinction=ed.Extinction(threshold=1e-3))
    >>> ensemble.masses.shape, ensemble.extinction_time[:, 1].round(1)
    ((2, 2, 2), array([ 7.6, 15.2]))
    >>> ensemble[1].extinction_time.round(1), len(ensemble[:1]), [run.termination.name for run in ensemble]
    (array([ inf, 15.2]), 1, ['COMPLETED', 'COMPLETED'])
    """

    runs: Sequence[Run]
    t: FloatArray
    seed: Seed | None = None

    def __post_init__(self) -> None:
        self._set(runs=self._runs)
        self.t.flags.writeable = False

    @property
    def _runs(self) -> Runs:
        return Runs.of(self.runs)

    @functools.cached_property
    def masses(self) -> FloatArray:
        """Masses, shape (M, T, N)."""
        return self._along("masses")

    @functools.cached_property
    def log_masses(self) -> FloatArray:
        """Natural logarithms of the masses, shape (M, T, N)."""
        return self._along("log_masses")

    @functools.cached_property
    def shares(self) -> FloatArray:
        """Shares of the total mass of the block, shape (M, T, N)."""
        return self._along("shares")

    @functools.cached_property
    def total_mass(self) -> FloatArray:
        """Total masses, shape (M, T) or (M, T, K)."""
        return self._along("total_mass")

    @functools.cached_property
    def mean_fitness(self) -> FloatArray:
        """Mass-weighted mean fitness, shape (M, T) or (M, T, K)."""
        return self._along("mean_fitness")

    @functools.cached_property
    def extinction_time(self) -> FloatArray:
        """First times below the threshold, shape (M, N)."""
        return self._of_members("extinction_time")

    @functools.cached_property
    def extinct_at_end(self) -> npt.NDArray[np.bool_]:
        """Who is extinct at the end, shape (M, N)."""
        return self._of_members("extinct_at_end")

    @property
    def survivors(self) -> npt.NDArray[np.bool_]:
        """Who is not extinct at the end, shape (M, N)."""
        return ~self.extinct_at_end

    def fraction_extinct(self, t: npt.ArrayLike) -> FloatArray:
        """Return the fraction of each member's groups whose first extinction is at or before `t`.

        Parameters
        ----------
        t : float or array_like, shape (T,)

        Returns
        -------
        numpy.ndarray, shape (M,) or (M, T)
            NaN after the end of a member that ended early.
        """
        fractions: FloatArray = tables.fraction_of(self.extinction_time, t)
        ends = self._runs.ends
        early = ends < max(self.t[-1], ends.max())
        fractions[(early & (np.asarray(t)[..., None] > ends)).T] = np.nan
        return fractions

    def at(self, t: npt.ArrayLike) -> FloatArray:
        """Return the masses of every member at any time; needs ``solve_ensemble(..., dense=True)``.

        Parameters
        ----------
        t : float or array_like, shape (...)
            Times within the runs of all members.

        Returns
        -------
        numpy.ndarray, shape (M, ..., N)

        Raises
        ------
        ValueError
            As for `Run.at`.
        """
        return np.stack([run.at(t) for run in self.runs])

    @functools.cached_property
    def absorbed_mass(self) -> FloatArray:
        """Mass removed by absorption, shape (M, N)."""
        return self._of_members("absorbed_mass")

    @functools.cached_property
    def termination(self) -> tuple[Termination, ...]:
        """How each member ended."""
        return self._runs.termination

    @property
    def stats(self) -> tuple[Stats, ...]:
        """How each member was computed."""
        return tuple(run.stats for run in self.runs)

    def _of_members(self, name: str) -> npt.NDArray[Any]:
        found = self._runs.of_members(name)
        found.flags.writeable = False
        return found

    def _along(self, name: str) -> FloatArray:
        found = self._runs.along(name, self.t)
        found.flags.writeable = False
        return found

    def same_as(self, other: object) -> bool:
        """Tell whether `other` has the same members, times and seed, bit for bit."""
        if not isinstance(other, Ensemble) or len(self) != len(other):
            return False
        left, right = self.fields(), other.fields()
        del left["runs"], right["runs"]  # of which there may be more than memory holds
        return same_value(left, right) and all(a.same_as(b) for a, b in zip(self, other, strict=True))

    def to_dataframe(self) -> pandas.DataFrame:
        """Return a table with one row for each group of each member.

        Its columns are `member` and those of `Run.to_dataframe`.

        Raises
        ------
        ImportError
            Without pandas, of the extra "tables".

        Examples
        --------
        >>> import evodyn as ed
        >>> landscapes = [ed.landscapes.Constant([1.0, fitness]) for fitness in (0.0, 0.5)]
        >>> ensemble = ed.solve_ensemble(ed.Replicator(), landscapes, [1.0, 1.0], (0.0, 20.0),
        ...                              extinction=ed.Extinction(threshold=1e-3))
        >>> ensemble.to_dataframe()[["member", "group", "contribution", "extinction_time"]].round(1)
           member  group  contribution  extinction_time
        0       0      0           1.0              inf
        1       0      1           0.0              7.6
        2       1      0           1.0              inf
        3       1      1           0.5             15.2
        """
        return tables.dataframe_of_members(self.runs)

    def plot(self, ax: Axes | None = None, **options: Any) -> Axes:
        """Draw the fraction extinct over time: `evodyn.plots.extinct_fraction`, with the same options."""
        # The wing of the plots lies above this one, and is loaded by whoever draws.
        axes: Axes = importlib.import_module("evodyn.plots").extinct_fraction(self, ax, **options)
        return axes

    def to_xarray(self) -> xarray.Dataset:
        """Return the ensemble as a labelled `xarray.Dataset` with a leading member dimension."""
        import xarray

        names = (
            "mass",
            "log_mass",
            "total_mass",
            "mean_fitness",
            "extinction_time",
            "extinct_at_end",
            "absorbed_mass",
        )
        attributes = {"mass": "masses", "log_mass": "log_masses"}
        variables: dict[str, Any] = {}
        for name in names:
            values = getattr(self, attributes.get(name, name))
            variables[name] = schema.variable(name, values, "member")
        terminations = np.array([t.name for t in self.termination])
        variables["termination"] = (
            ("member",),
            terminations,
            about("how the member ended"),
        )
        evaluations = np.array([s.evaluations for s in self.stats])
        variables["evaluations"] = (("member",), evaluations, about("evaluations"))
        coords = schema.coordinates(self.t, self.masses.shape[-1], len(self))
        specifications = [json.dumps(run.specification({}), sort_keys=True) for run in self.runs]
        return xarray.Dataset(variables, coords, {"specifications": json.dumps(specifications)})

    def dataset(self) -> xarray.Dataset:
        """Return everything that makes the ensemble, as it is saved: the data of its members, stacked.

        Where members have other times than the ensemble, as one has that ended early, their rows are padded
        with NaN, and so are the crossings everywhere; the status says how many of them a member has.
        """
        import xarray

        columns: dict[str, npt.NDArray[Any]] = {}
        collected: list[schema.Arrays] = []
        members, counts = [], []
        first, shared, planned = self.runs[0], True, False
        for k, run in enumerate(self.runs):  # of which only what is saved is kept
            if run.stores_log_shares != first.stores_log_shares:
                raise ValueError(
                    "the ensemble has members of solve and of iterate, which store different quantities; "
                    "expected members of one kind: save each with Run.save."
                )
            for name, value in ({"member_time": run.t} | run.saved_values(events=True)).items():
                columns[name] = _entered(columns.get(name), k, value, len(self))
            collected.append({})
            members.append(run.specification(collected[-1]))
            sizes = {"rows": len(run.t), "crossings": len(run.crossings), "events": len(run.events)}
            counts.append(sizes | run.status())
            shared = shared and np.array_equal(run.t, self.t)
            planned = planned or bool(run.planned_events)
        left_out = (("member_time",) if shared else ()) + (() if planned else ("event_index", "event_time"))
        variables: dict[str, Any] = {}
        for name, values in columns.items():
            if name not in left_out:
                dims, _, labels = schema.variable(name, values, "member")
                if not shared:
                    dims = tuple("row" if dim == "time" else dim for dim in dims)
                variables[name] = (dims, values, labels)
        if first.stores_log_shares:  # for those who open the file without evodyn
            variables["mass"] = (("member", "time", "group"), self.masses, about("mass", MASS))
        common, own = _pooled(collected)
        coords = schema.coordinates(self.t, self._runs.groups, len(self))
        return xarray.Dataset(
            variables | schema.described(common) | schema.described(own, ("member",)),
            coords,
            schema.attributes(
                "Ensemble", {"members": members, "seed": encode(self.seed, {}, "seed")}, counts
            ),
        )

    def save(self, path: str | Path) -> None:
        """Write the ensemble to a NetCDF file, atomically; `evodyn.load` reads it, bit for bit.

        Parameters
        ----------
        path : str or Path
            The file; it is replaced, and missing folders are made.

        Raises
        ------
        OSError
            If the file cannot be written; the one before is then still there.
        """
        schema.save(self.dataset(), path)

    def __len__(self) -> int:
        return len(self.runs)

    def __iter__(self) -> Iterator[Run]:
        return iter(self.runs)

    @overload
    def __getitem__(self, index: SupportsIndex) -> Run: ...
    @overload
    def __getitem__(self, index: slice) -> Ensemble: ...
    def __getitem__(self, index: SupportsIndex | slice) -> Run | Ensemble:
        if not isinstance(index, slice):
            return self._runs[index]
        if not (chosen := self._runs[index]):
            raise IndexError(f"{index} selects none of {len(self.runs)} members; expected at least one.")
        return Ensemble(chosen, self.t, self.seed)

    def _ended(self) -> dict[str, int]:
        """Return how many members ended in which way."""
        return {t.name: self.termination.count(t) for t in dict.fromkeys(self.termination)}

    def _repr_html_(self) -> str:
        first = self.runs[0]
        rows = {
            "members": len(self),
            "dynamics": repr(first.dynamics),
            "groups": self._runs.groups,
        }
        if not self._runs.at_hand:
            span = f"{first.t_span[0]:g} to {self.t[-1]:g}, {len(self.t)} saved"
            return html.summary("Ensemble", rows | {"time": span, "runs": repr(self.runs)}, self, "")
        extinct = self.extinct_at_end.mean(axis=1)
        rows |= {
            "time": f"{first.t_span[0]:g} to {self._runs.ends.max():g}, {len(self.t)} saved",
            "extinct": f"{extinct.min():.1%} to {extinct.max():.1%} of the groups at the end",
            "ended": ", ".join(f"{name} {count}" for name, count in self._ended().items()),
        }
        return html.summary("Ensemble", rows, self, "fraction")

    def __repr__(self) -> str:
        size = f"{len(self)} members, {self._runs.groups} groups, {len(self.t)} saved times"
        return f"Ensemble({size}, {self._ended() if self._runs.at_hand else self.runs})"


def _entered(
    stacked: npt.NDArray[Any] | None, member: int, values: npt.NDArray[Any], members: int
) -> npt.NDArray[Any]:
    """Return values of members, with those of one entered, and all others as long as the longest."""
    longest = len(values) if stacked is None else max(len(values), stacked.shape[1])
    if stacked is None or longest > stacked.shape[1]:
        fill = np.nan if values.dtype.kind == "f" else 0
        longer = np.full((members, longest, *values.shape[1:]), fill, values.dtype)
        if stacked is not None:
            longer[:, : stacked.shape[1]] = stacked
        stacked = longer
    stacked[member, : len(values)] = values
    return stacked


def _pooled(collected: list[schema.Arrays]) -> tuple[schema.Arrays, schema.Arrays]:
    """Return the arrays that all members share, and stacks of those of which each has its own.

    Those that only some have, or of which shapes differ, are stored for each member under its number; see
    `_of_member`.
    """
    common: schema.Arrays = {}
    own: schema.Arrays = {}
    for name in dict.fromkeys(name for arrays in collected for name in arrays):
        of_members = [(k, arrays[name]) for k, arrays in enumerate(collected) if name in arrays]
        first = of_members[0][1]
        if len(of_members) < len(collected) or any(
            a.shape != first.shape or a.dtype != first.dtype for _, a in of_members
        ):
            common |= {f"{k}:{name}": array for k, array in of_members}
        elif all(array.tobytes() == first.tobytes() for _, array in of_members):
            common[name] = first
        else:
            own[name] = np.stack([array for _, array in of_members])
    return common, own
