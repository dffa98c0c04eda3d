"""The problem as posed: initial masses, time span and save times, checked at the entry."""

from __future__ import annotations

import math
import os

import numpy as np
import numpy.typing as npt

from evodyn.core import validation
from evodyn.core.arrays import FloatArray, host
from evodyn.model.dynamics import Dynamics, cap_of
from evodyn.model.fitness import LandscapeFunction, fitness_at_log_masses, kernel
from evodyn.model.normal_form import NormalForm
from evodyn.simulate.extinction import Extinction
from evodyn.simulate.flow import State

__all__ = [
    "check_kinds",
    "check_memory",
    "check_size",
    "check_start",
    "validated_masses",
    "validated_save_times",
    "validated_span",
]


def validated_span(t_span: tuple[float, float]) -> tuple[float, float]:
    """Return the start and the end of a time span."""
    try:
        start, end = t_span
    except (TypeError, ValueError) as error:
        raise ValueError(f"t_span is {t_span!r}; expected a pair (start, end).") from error
    start, end = validation.finite("t_span[0]", start), validation.finite("t_span[1]", end)
    if not end > start:
        raise ValueError(f"t_span is {(start, end)!r}; expected the end after the start.")
    return start, end


def validated_masses(
    p0: npt.ArrayLike, dynamics: Dynamics, *, within_cap: bool = True, name: str = "p0"
) -> FloatArray:
    """Return initial masses that `dynamics` can start from (a map may start above its cap, a flow not)."""
    masses = validation.finite_array(name, p0, ndim=1, least=0.0)
    if not masses.size:
        raise ValueError(f"{name} is empty; expected at least one group.")
    dynamics.check(len(masses))
    blocks = dynamics.blocks(len(masses))
    for k, (groups, member) in enumerate(blocks):
        with np.errstate(over="ignore"):
            total = float(masses[groups].sum())
        where = f" in block {k}" if len(blocks) > 1 else ""
        if not total > 0:
            raise ValueError(f"{name} has zero total mass{where}; expected at least one positive mass.")
        if not math.isfinite(total):
            raise ValueError(
                f"{name} has a total mass{where} that overflows; expected a finite sum: use a larger unit."
            )
        cap = cap_of(member)
        if within_cap and total > cap * (1 + max(len(masses), 16) * np.finfo(np.float64).eps):
            raise ValueError(
                f"{name} has total mass {total!r}{where}, above mass_cap = {cap!r}; expected at most the "
                "cap: raise the cap or scale the masses."
            )
    return masses


def validated_save_times(save_at: npt.ArrayLike | None, start: float, end: float) -> FloatArray:
    """Return the times to save at."""
    if save_at is None:
        return np.linspace(start, end, 101)
    times = validation.finite_array("save_at", save_at, ndim=1)
    if not times.size:
        raise ValueError("save_at is empty; expected at least one time (or None for 101 of them).")
    if times[0] < start or times[-1] > end:
        # Times made by arithmetic may miss an end by rounding.
        rounding = 8 * np.spacing(max(abs(start), abs(end)))
        times = np.where((times < start) & (times >= start - rounding), start, times)
        times = np.where((times > end) & (times <= end + rounding), end, times)
    if not (times[1:] > times[:-1]).all():
        k = int(np.argmin(np.diff(times)))
        raise ValueError(
            f"save_at is {float(times[k])!r} then {float(times[k + 1])!r} at index {k + 1}; expected "
            "increasing times."
        )
    if times[0] < start or times[-1] > end:
        outside = float(times[0] if times[0] < start else times[-1])
        raise ValueError(f"save_at contains {outside!r}; expected times within t_span = {(start, end)!r}.")
    return times


def check_memory(rows: int, n: int, members: int = 1) -> None:
    """Raise `MemoryError` if a trajectory and what is derived from it exceed the machine's memory."""
    needed = 3 * 8 * rows * n * members
    installed = _installed_memory()
    if needed > installed:
        raise MemoryError(
            f"saving {rows} times of {n} groups for {members} member(s) needs about "
            f"{needed / 2**30:.1f} GiB and this machine has {installed / 2**30:.1f} GiB: save fewer times."
        )


def _installed_memory() -> float:
    """Return the machine's memory in bytes, infinite where the platform does not tell."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return math.inf


def check_kinds(dynamics: object, landscape: object, extinction: object) -> None:
    """Raise `ValueError` if an argument is not of the kind it has to be."""
    if not isinstance(dynamics, Dynamics):
        raise ValueError(f"dynamics is {dynamics!r}; expected an evodyn dynamics such as Replicator().")
    if not callable(landscape):
        raise ValueError(f"landscape is {landscape!r}; expected a callable (t, masses) -> fitness.")
    if extinction is not None and not isinstance(extinction, Extinction):
        raise ValueError(f"extinction is {extinction!r}; expected Extinction(threshold=...) or None.")


def check_size(landscape: LandscapeFunction, n: int) -> None:
    """Raise `ValueError` if a landscape says that it is for another number of groups."""
    groups = getattr(landscape, "groups", None)
    if isinstance(groups, int) and groups != n:
        raise ValueError(f"landscape is made for {groups} groups and p0 has {n}; expected the same number.")


def check_start(dynamics: Dynamics, landscape: LandscapeFunction, state: State) -> NormalForm | None:
    """Return the kernel of the landscape, if it has one.

    Raises
    ------
    ValueError
        If the landscape or the dynamics is wrong at the start.
    """
    n = len(state.log_masses)
    check_size(landscape, n)
    try:
        with np.errstate(all="ignore"):
            fitness = fitness_at_log_masses(landscape, state.t, state.log_masses)
    except ValueError:
        raise  # what evodyn's own landscapes say is to the point
    except Exception as error:
        raise ValueError(
            f"landscape raised {type(error).__name__} at t = {state.t:g} ({error}); expected the fitness of "
            f"{n} groups: call landscape(t, masses) by itself to see where."
        ) from error
    try:
        if getattr(fitness, "dtype", None) != np.float64 and np.iscomplexobj(fitness):
            raise TypeError
        values = host(fitness)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"landscape returned {fitness!r} at t = {state.t:g}; expected an array of numbers."
        ) from error
    if values.shape != (n,):
        raise ValueError(
            f"landscape returned shape {values.shape} at t = {state.t:g}; expected {(n,)}, one per group."
        )
    finite = np.isfinite(values)
    if not finite.all() and (bad := ~finite & np.isfinite(state.log_masses)).any():
        k = int(np.flatnonzero(bad)[0])
        raise ValueError(
            f"landscape returned fitness {float(values[k])!r} for group {k} at t = {state.t:g}; expected "
            "finite fitness for every group with positive mass."
        )
    form = kernel(landscape, state.t, n)
    with np.errstate(all="ignore"):
        # Mutation rates and general selection are functions too.
        velocity = host(dynamics.velocity(np.exp(state.log_masses), values, time=state.t))
    if velocity.shape != (n,):
        raise ValueError(
            f"dynamics returned velocities of shape {velocity.shape} at t = {state.t:g}; expected "
            f"{(n,)}, one per group."
        )
    finite = np.isfinite(velocity)
    if not finite.all():
        k = int(np.flatnonzero(~finite)[0])
        raise ValueError(
            f"dynamics returned a velocity of {float(velocity[k])!r} for group {k} at t = {state.t:g}, where "
            f"fitness is finite; expected finite growth rates: look at what {type(dynamics).__name__} "
            "makes of these masses."
        )
    return form
