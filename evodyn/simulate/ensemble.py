"""Many members of one problem: members lead, every member is what it would be alone."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import json
import operator
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, SupportsIndex, overload

import numpy as np
import numpy.typing as npt

from evodyn.core import html, validation
from evodyn.core.arrays import FloatArray
from evodyn.core.extras import extra
from evodyn.core.generators import Seed, member_rng, seed_of
from evodyn.core.labels import MASS, about
from evodyn.core.specifications import Specification
from evodyn.model.descriptions import encode
from evodyn.model.dynamics import Dynamics
from evodyn.model.fitness import Landscape, LandscapeFunction, kernel
from evodyn.simulate import schema, tables
from evodyn.simulate.extinction import Extinction
from evodyn.simulate.method import Solver
from evodyn.simulate.problem import check_memory, validated_save_times, validated_span
from evodyn.simulate.run import Run
from evodyn.simulate.solve import solve
from evodyn.simulate.status import Stats, Termination

if TYPE_CHECKING:
    import xarray

__all__ = ["Ensemble", "solve_ensemble"]

Draw = Callable[[np.random.Generator], LandscapeFunction]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Ensemble(Specification):
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
        ends = np.array([run.t_span[1] for run in self.runs])
        early = ends < max(self.t[-1], ends.max())
        fractions[(early & (np.asarray(t)[..., None] > ends)).T] = np.nan
        return fractions

    @functools.cached_property
    def absorbed_mass(self) -> FloatArray:
        """Mass removed by absorption, shape (M, N)."""
        return self._of_members("absorbed_mass")

    @property
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

        values = [run.saved_values() for run in self.runs]
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
        counts = [{"rows": len(run.t), "crossings": len(run.crossings)} | run.status() for run in self.runs]
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
        return len(self.runs)

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
            "members": len(self.runs),
            "dynamics": repr(first.dynamics),
            "groups": first.native.shape[-1],
            "time": f"{first.t_span[0]:g} to {max(run.t_span[1] for run in self):g}, {len(self.t)} saved",
            "extinct": f"{extinct.min():.1%} to {extinct.max():.1%} of the groups at the end",
            "ended": ", ".join(f"{name} {count}" for name, count in self._ended().items()),
        }
        return html.summary("Ensemble", rows, self, "fraction")

    def __repr__(self) -> str:
        n = self.runs[0].native.shape[-1]
        return f"Ensemble({len(self.runs)} members, {n} groups, {len(self.t)} saved times, {self._ended()})"


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


def solve_ensemble(
    dynamics: Dynamics,
    landscape: LandscapeFunction | Sequence[LandscapeFunction] | Draw,
    p0: npt.ArrayLike,
    t_span: tuple[float, float],
    *,
    save_at: npt.ArrayLike | None = None,
    extinction: Extinction | None = None,
    solver: Solver | None = None,
    members: int | None = None,
    rng: Any = None,
    workers: int = 1,
    throw: bool = True,
) -> Ensemble:
    """Solve one problem for many members: other landscapes, other initial masses, or other draws.

    Every member is integrated on its own, with its own error control: its result is bit for bit what
    `solve` gives for it alone, whatever the batch and the number of workers.

    Parameters
    ----------
    dynamics, t_span, extinction, solver
        As for `solve`, shared by all members.
    landscape : callable, sequence of callables, or function of a generator
        One landscape for all members, one for each, or, with `members` given, a function
        ``draw(generator) -> landscape``; member k's generator is spawn key k of `rng`.
    p0 : array_like, shape (N,) or (M, N)
        Initial masses, shared or one row per member.
    save_at : array_like, shape (T,), optional
        Times to save, shared by all members; 101 equally spaced ones by default.
    members : int, optional
        Number of members M; needed to draw landscapes.
    rng : optional
        Seed of the draws: anything that `numpy.random.default_rng` takes. From a generator 128 bits are
        drawn, once, so that the next ensemble made with it is another.
    workers : int, optional
        Processes to use (through joblib, of the "studies" extra). Landscapes must then be picklable.
    throw : bool, optional
        Raise the first member's `SolveError`; with False every member's outcome is in `termination`.

    Returns
    -------
    Ensemble

    Raises
    ------
    ValueError, SolveError, MemoryError
        As for `solve`, or if the numbers of landscapes, rows of `p0` and members disagree.

    Examples
    --------
    >>> import numpy as np
    >>> import evodyn as ed
    >>> def draw(generator):
    ...     return ed.landscapes.Constant(
    ...         ed.landscapes.contributions("lognormal", n=5, heterogeneity=1.0, rng=generator))
    >>> ensemble = ed.solve_ensemble(ed.Replicator(), draw, np.ones(5), (0.0, 10.0), members=3, rng=0)
    >>> ensemble.masses.shape
    (3, 101, 5)
    """
    start, end = validated_span(t_span)
    times = validated_save_times(save_at, start, end)
    workers = validation.count("workers", workers)
    initial = validation.finite_array("p0", p0, least=0.0)
    if initial.ndim not in (1, 2):
        raise ValueError(f"p0 has shape {initial.shape}; expected (N,), or (M, N) with one row per member.")
    landscapes, seed = _landscapes(landscape, members, rng)
    counts = {len(landscapes)} if landscapes is not None else set()
    counts |= {initial.shape[0]} if initial.ndim == 2 else set()
    counts |= {members} if members is not None else set()
    if len(counts) != 1:
        raise ValueError(
            f"members is {members!r}, p0 has shape {initial.shape} and there are "
            f"{1 if landscapes is None else len(landscapes)} landscapes; expected one number of members M: "
            "give members=M, M landscapes, or p0 with M rows."
        )
    number = counts.pop()
    check_memory(len(times), initial.shape[-1], number)
    if landscapes is None:
        landscapes = [landscape] * number  # type: ignore[list-item]
    rows = initial if initial.ndim == 2 else np.broadcast_to(initial, (number, len(initial)))
    task = functools.partial(
        solve, dynamics, t_span=(start, end), save_at=times, extinction=extinction, solver=solver, throw=throw
    )
    jobs = list(zip(landscapes, rows, strict=True))
    if workers == 1:
        runs = _here(task, jobs, solver or Solver(), start)
    else:
        with extra("studies", user="solve_ensemble with workers > 1"):
            joblib: Any = importlib.import_module("joblib")
        runs = joblib.Parallel(n_jobs=workers)(joblib.delayed(task)(one, p0=row) for one, row in jobs)
    return Ensemble(tuple(runs), times, seed)


def _here(task: Callable[..., Run], jobs: list[Any], solver: Any, start: float) -> list[Run]:
    """Return the runs of all members, in threads where most of their time is spent in compiled code."""
    compiles = isinstance(solver, Solver) and solver.compiles
    if not compiles or any(kernel(one, start, len(row)) is None for one, row in jobs):
        return [task(one, p0=row) for one, row in jobs]
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        return list(threads.map(lambda job: task(job[0], p0=job[1]), jobs))


def _landscapes(
    landscape: Any, members: int | None, rng: Any
) -> tuple[list[LandscapeFunction] | None, Seed | None]:
    """Return one landscape per member, or None if they share one, and what they were drawn from."""
    if isinstance(landscape, Sequence):
        return list(landscape), None
    if not callable(landscape):
        raise ValueError(
            f"landscape is {landscape!r}; expected a landscape, a sequence of them, or a function."
        )
    if members is None:
        return None, None
    members = validation.count("members", members)
    if isinstance(landscape, Landscape) or not _takes_one_argument(landscape):
        return None, None
    seed = seed_of(rng)
    return [landscape(member_rng(seed, k)) for k in range(members)], seed


def _takes_one_argument(function: Callable[..., Any]) -> bool:
    """Tell a function of a generator from a landscape, which takes a time and masses."""
    import inspect

    try:
        inspect.signature(function).bind(None)
    except TypeError:
        return False
    return True
