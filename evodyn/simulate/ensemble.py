"""The result of many members of one problem: members lead."""

from __future__ import annotations

import dataclasses
import functools
import json
import operator
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, SupportsIndex, overload

import numpy as np
import numpy.typing as npt

from evodyn.core import html
from evodyn.core.arrays import FloatArray
from evodyn.core.generators import Seed
from evodyn.core.labels import MASS, about
from evodyn.core.specifications import Result
from evodyn.model.descriptions import encode
from evodyn.simulate import schema, tables
from evodyn.simulate.members import ALONG, Members
from evodyn.simulate.run import Run
from evodyn.simulate.status import Stats, Termination

if TYPE_CHECKING:
    import xarray

__all__ = ["Ensemble"]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Ensemble(Result):
    """The result of `solve_ensemble`: as `Run`, with a leading member axis.

    It is a sequence of its members: ``ensemble[k]`` is the k-th `Run`, a slice an ensemble of some of them.

    Attributes
    ----------
    runs : tuple of Run
        Every member's own result.
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

    runs: tuple[Run, ...]
    t: FloatArray
    seed: Seed | None = None

    def __post_init__(self) -> None:
        self.t.flags.writeable = False

    @classmethod
    def of_members(cls, members: Members, seed: Seed | None, *, throw: bool) -> Ensemble:
        """Return the ensemble of members that were integrated together.

        Their runs are assembled when somebody looks at them, unless one did not come to the end.
        """
        if not members.arrived:
            return cls(members.runs(throw=throw), members.times, seed)
        pending: dict[str, Callable[[], Any]] = {"runs": functools.partial(members.runs, throw=throw)}
        return cls.with_pending(
            pending | {name: functools.partial(members.along, name) for name in ALONG},
            t=members.times,
            seed=seed,
            **members.at_end(),
        )

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
        if set(self.termination) == {Termination.COMPLETED}:
            return fractions  # without the runs, which may not be there yet
        ends = np.array([run.t_span[1] for run in self.runs])
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
        return tuple(run.termination for run in self.runs)

    @property
    def stats(self) -> tuple[Stats, ...]:
        """How each member was computed."""
        return tuple(run.stats for run in self.runs)

    def _of_members(self, name: str) -> npt.NDArray[Any]:
        stacked: npt.NDArray[Any] = np.stack([getattr(run, name) for run in self.runs])
        stacked.flags.writeable = False
        return stacked

    def _along(self, name: str) -> FloatArray:
        if name in self.__dict__.get("_pending", {}):
            found: FloatArray = self._pending.pop(name)()
            return found
        first = getattr(self.runs[0], name)
        stacked = np.full((len(self.runs), len(self.t), *first.shape[1:]), np.nan)
        for k, run in enumerate(self.runs):
            # A member that ended early has one row more, the time it ended at, which is not shared.
            shared = np.isin(run.t, self.t)
            stacked[k, : np.count_nonzero(shared)] = getattr(run, name)[shared]
        stacked.flags.writeable = False
        return stacked

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

        events = any(run.planned_events for run in self.runs)
        values = [run.saved_values(events=events) for run in self.runs]
        if len({run.stores_log_shares for run in self.runs}) > 1:
            raise ValueError(
                "the ensemble has members of solve and of iterate, which store different quantities; "
                "expected members of one kind: save each with Run.save."
            )
        shared = all(np.array_equal(run.t, self.t) for run in self.runs)
        if not shared:
            values = [{"member_time": run.t} | value for run, value in zip(self.runs, values, strict=True)]
        variables: dict[str, Any] = {}
        for name in values[0]:
            padded = _padded([value[name] for value in values])
            dims, _, labels = schema.variable(name, padded, "member")
            if not shared:
                dims = tuple("row" if dim == "time" else dim for dim in dims)
            variables[name] = (dims, padded, labels)
        if self.runs[0].stores_log_shares:  # for those who open the file without evodyn
            variables["mass"] = (("member", "time", "group"), self.masses, about("mass", MASS))
        collected: list[schema.Arrays] = [{} for _ in self.runs]
        members = [run.specification(arrays) for run, arrays in zip(self.runs, collected, strict=True)]
        common, own = _pooled(collected)
        counts = [
            {"rows": len(run.t), "crossings": len(run.crossings), "events": len(run.events)} | run.status()
            for run in self.runs
        ]
        coords = schema.coordinates(self.t, self.runs[0].native.shape[-1], len(self))
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
        return len(self.termination)

    def __iter__(self) -> Iterator[Run]:
        return iter(self.runs)

    @overload
    def __getitem__(self, index: SupportsIndex) -> Run: ...
    @overload
    def __getitem__(self, index: slice) -> Ensemble: ...
    def __getitem__(self, index: SupportsIndex | slice) -> Run | Ensemble:
        if not isinstance(index, slice):
            return self.runs[operator.index(index)]
        if not (chosen := self.runs[index]):
            raise IndexError(f"{index} selects none of {len(self.runs)} members; expected at least one.")
        return Ensemble(chosen, self.t, self.seed)

    def _ended(self) -> dict[str, int]:
        """Return how many members ended in which way."""
        return {t.name: self.termination.count(t) for t in dict.fromkeys(self.termination)}

    def _repr_html_(self) -> str:
        first, extinct = self.runs[0], self.extinct_at_end.mean(axis=1)
        rows = {
            "members": len(self),
            "dynamics": repr(first.dynamics),
            "groups": first.native.shape[-1],
            "time": f"{first.t_span[0]:g} to {max(run.t_span[1] for run in self):g}, {len(self.t)} saved",
            "extinct": f"{extinct.min():.1%} to {extinct.max():.1%} of the groups at the end",
            "ended": ", ".join(f"{name} {count}" for name, count in self._ended().items()),
        }
        return html.summary("Ensemble", rows, self, "fraction")

    def __repr__(self) -> str:
        n = self.extinction_time.shape[-1]
        return f"Ensemble({len(self)} members, {n} groups, {len(self.t)} saved times, {self._ended()})"


def _padded(arrays: list[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """Return arrays stacked, the shorter ones filled up along their first axis."""
    shape = (len(arrays), max(len(a) for a in arrays), *arrays[0].shape[1:])
    fill = np.nan if arrays[0].dtype.kind == "f" else 0
    stacked: npt.NDArray[Any] = np.full(shape, fill, arrays[0].dtype)
    for k, array in enumerate(arrays):
        stacked[k, : len(array)] = array
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
