"""Many steps of a map in one compiled call, with the bits of as many calls of `Dynamics.step`."""

from __future__ import annotations

import dataclasses
import functools
import importlib
from typing import Any

import numpy as np

from evodyn.core.arrays import FloatArray
from evodyn.model import comparison
from evodyn.model.comparison import Comparison
from evodyn.model.dynamics import Dynamics
from evodyn.model.fitness import LandscapeFunction, kernel
from evodyn.simulate.extinction import Ledger
from evodyn.solvers.compilation import ready

__all__ = ["ManySteps", "load", "many_steps", "one_step"]

_WORK = 50_000_000
"""Groups times steps of a compiled call: some tenths of a second, after which a signal is heard."""

_WORTH = 20_000_000
"""Groups times steps, with as many groups for the call of a step, in which compiled code is loaded."""

_CALL = 2_000
"""A call of `Dynamics.step` takes as long as that of so many groups."""

_MEMORY = 4_000_000
"""Numbers in the saved states of a compiled call."""


def load() -> Any:
    """Have `Dynamics.step` use the compiled step from here on; return its module, None if there is none."""
    if not comparison.compiled_step and not ready():
        return None
    maps: Any = importlib.import_module("evodyn.solvers.maps")
    comparison.compiled_step[:] = [maps.euler]
    return maps


@dataclasses.dataclass(frozen=True)
class ManySteps:
    """The compiled form of a map.

    Attributes
    ----------
    iterated : callable
        Of `evodyn.solvers.maps`.
    contribution, decay
        Fitness c - λp.
    form : Comparison
    level : float
        The threshold of extinction, 0 without one.
    spare : array, shape (N,)
        Room.
    """

    iterated: Any
    contribution: FloatArray
    decay: float
    form: Comparison
    level: float
    spare: FloatArray

    def __call__(
        self, masses: FloatArray, h: float, steps: int, until_saved: int, every: int, removed: Any
    ) -> tuple[FloatArray, int, FloatArray]:
        """Return the masses reached, the number of steps, and the states saved on the way.

        It ends before a step in which something happens that has to be looked at; see `maps.iterated`.

        Parameters
        ----------
        masses : array, shape (N,)
            Not changed.
        h : float
            η_p.
        steps : int
            How many there are to do.
        until_saved, every : int
            Steps until the next state that is saved, and between those after it.
        removed : bool array, shape (N,)
            Groups that get no inflow.
        """
        n, inflow = len(masses), self.form.inflow
        steps = max(1, min(steps, _WORK // (n + 100), until_saved + every * (_MEMORY // n)))
        if len(inflow) and removed.any():
            inflow = np.where(removed, 0.0, inflow)
        rows = np.empty((max(0, (steps - until_saved) // every + 1), n))
        first = masses.copy()
        taken, saved = self.iterated(
            first, self.contribution, self.decay, h, self.form.clip, self.form.rate, inflow, self.form.cap,
            self.level, steps, until_saved, every, rows, self.spare,
        )  # fmt: skip
        if taken % 2:  # masses change places with each step
            np.copyto(first, self.spare)
        return first, taken, rows[:saved]


def many_steps(
    dynamics: Dynamics, landscape: LandscapeFunction, ledger: Ledger, t: float, n: int, steps: int
) -> ManySteps | None:
    """Return the compiled form of a Euler map, None if it has none or that takes longer to load."""
    exact = getattr(landscape, "exact_kernel", False) and getattr(landscape, "autonomous", None) is True
    if not (exact and dynamics.autonomous is True and (ledger.one_level is not None)):
        return None
    form, fitness = dynamics.comparison(n, t), kernel(landscape, t, n)
    if form is None or fitness is None:
        return None
    if not comparison.compiled_step and (n + _CALL) * steps < _WORTH:
        return None
    maps = load()
    if maps is None:
        return None
    level = 0.0 if ledger.extinction is None else float(np.asarray(ledger.extinction.threshold))
    return ManySteps(
        maps.iterated, np.array(fitness.contribution), float(fitness.decay), form, level, np.empty(n)
    )


def one_step(
    dynamics: Dynamics, landscape: LandscapeFunction, masses: FloatArray, h: float, t: float
) -> FloatArray | None:
    """Return the masses after a step of the Euler map, with the bits of `Dynamics.step`, in compiled code.

    None where there is no compiled form, or where something happens that has to be looked at: masses that
    arrive at 0 or leave it, fitness or sums that are not finite.

    Parameters
    ----------
    dynamics, landscape
        What changes the masses.
    masses : array, shape (N,)
        Not changed. Contiguous.
    h : float
        η_p.
    t : float
        Time at the start of the step.
    """
    if not comparison.compiled_step or not getattr(landscape, "exact_kernel", False):
        return None
    n = len(masses)
    forms, fitness = dynamics.comparisons(n, t), kernel(landscape, t, n)
    if forms is None or fitness is None:
        return None
    iterated, contribution, new = _iterated(), fitness.contribution, np.empty(n)
    if not contribution.flags.carray:  # another kind of array would be compiled anew
        contribution = np.array(contribution)
    for block, form in forms:
        taken, _ = iterated(
            masses[block], contribution[block], fitness.decay, h, form.clip, form.rate, form.inflow, form.cap,
            0.0, 1, 2, 1, _NO_ROWS, new[block],
        )  # fmt: skip
        if not taken:
            return None
    return new


_NO_ROWS = np.empty((0, 0))


@functools.cache
def _iterated() -> Any:
    return importlib.import_module("evodyn.solvers.maps").iterated
