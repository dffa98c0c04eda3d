"""Newton's iteration for a rest point, and what a search for one returns or raises."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import scipy.linalg

from evodyn.core.arrays import FloatArray
from evodyn.equilibria.conditions import RestPointProblem
from evodyn.equilibria.probing import BoolArray

__all__ = ["CONVERGED", "NoRestPointError", "Solution", "UndecidedError", "newton"]

NEWTON_STEPS = 200

DENSE = 4096

CONVERGED = 1e-10

VANISHED = 1e-12  # share below which a group has left


class NoRestPointError(ValueError):
    """No rest point where one was sought."""


class UndecidedError(NoRestPointError):
    """The search did not converge, and nothing shows that there is no rest point."""


@dataclasses.dataclass(frozen=True)
class Solution:
    """Masses at rest, who survives, and how that was found."""

    masses: FloatArray
    survivors: BoolArray
    method: str
    log_masses: FloatArray | None = None  # where masses underflow
    totals: FloatArray | None = None  # of the blocks, where they differ from what was asked for


def newton(problem: RestPointProblem, guess: FloatArray, *, steps: int = NEWTON_STEPS) -> Solution:
    """Newton's iteration for ln p of the present groups, from positive masses `guess`, shape (N,).

    Raises
    ------
    NoRestPointError
        If it leads to where a group has vanished.
    UndecidedError
        If it stalls elsewhere.
    """
    if problem.n > DENSE:
        raise ValueError(
            f"there are {problem.n} groups on a landscape without closed form; expected at most {DENSE}, "
            "for the Jacobian is dense."
        )
    logs = np.log(guess[problem.present])
    error = problem.error(logs)
    for _ in range(steps):
        size = float(np.abs(error).max())
        if not math.isfinite(size):
            break
        jacobian = np.vstack((problem.log_jacobian(logs), problem.mass_rows(logs)))
        if not np.isfinite(jacobian).all():
            break
        # Of a continuum of rest points, the least step leads to the nearest.
        step = np.asarray(scipy.linalg.lstsq(jacobian, -error, cond=1e-13)[0])
        # No mass changes more than e²-fold at once, and a step is halved until it improves.
        damping = min(1.0, 2.0 / max(float(np.abs(step).max()), 1e-300))
        while damping > 1e-6:
            trial = problem.error(logs + damping * step)
            if np.isfinite(trial).all() and np.abs(trial).max() < size:
                break
            damping /= 2
        else:
            break
        logs, error = logs + damping * step, trial
    scale = problem.rate_scale(logs)
    relative = float(np.abs(error).max()) / scale
    shares = np.exp(logs - np.logaddexp.reduce(logs))
    # A mass of which no rate takes notice is not at rest but on its way to zero.
    unnoticed = np.abs(problem.log_jacobian(logs)).max(axis=0, initial=0.0) <= 1e-6 * scale
    vanished = (shares < VANISHED) | (unnoticed & (shares < CONVERGED**0.5))
    if not problem.mutates and bool((vanished & unnoticed).any()):
        raise NoRestPointError(
            "Newton's iteration leads to where a group has vanished; expected groups that can coexist: there "
            "is no rest point with all of these near the masses tried."
        )
    if not relative <= CONVERGED:
        raise UndecidedError(
            f"Newton's iteration did not converge: it ended with a relative error of {relative:.1e}; "
            f"expected at most {CONVERGED:g}. That does not show that there is no rest point: give "
            "start, or support with other groups."
        )
    log_masses = problem.everywhere(logs)
    return Solution(
        np.exp(log_masses), problem.present.copy(), "Newton's iteration in log-masses", log_masses
    )
