"""What is compared: ways to solve a flow, each with tolerances to choose."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.fields import Form
from benchmarks.problems import Flow
from evodyn.core.arrays import FloatArray

__all__ = ["DENSE", "Method", "Policy", "Solve", "absolute", "always", "masses_or_logs", "relative", "small"]

Solve = Callable[[float, float], FloatArray]
"""From the relative and the absolute tolerance to masses, or their logarithms, of shape (T, N)."""

Policy = Callable[[float], tuple[float, float]]
"""From a tolerance to the relative and the absolute one."""

DENSE = 1000
"""Most groups for which a method is run that factorises N x N matrices."""


def always(flow: Flow) -> str:
    """Refuse nothing."""
    return ""


def small(flow: Flow) -> str:
    """Refuse what would need a large dense matrix."""
    return "" if flow.n <= DENSE else "its Jacobian is a dense matrix"


def relative(least: float) -> Policy:
    """Return the policy of a relative tolerance, with an absolute one that is so much smaller."""
    return lambda tolerance: (tolerance, tolerance * least)


def absolute(rtol: float) -> Policy:
    """Return the policy of an absolute tolerance, with the least relative one that a library takes."""
    return lambda tolerance: (rtol, tolerance)


def masses_or_logs(form: Form, least_rtol: float = 0.0) -> tuple[Policy, ...]:
    """Return the policies worth trying: small masses may count or not; in logarithms errors are absolute."""
    return (absolute(least_rtol),) if form == "log" else (relative(1e-2), relative(1e-12))


@dataclasses.dataclass(frozen=True)
class Method:
    """A way to solve flows.

    Attributes
    ----------
    name, library : str
    form : {"mass", "log"}
        What it integrates and returns.
    start : callable
        ``start(flow)`` prepares, and returns what solves it.
    policies : tuple of callables
        How the two tolerances follow from one; none if the method has no tolerance.
    refuses : callable
        ``refuses(flow)`` is the reason to leave the method out, or an empty string.
    compiles : bool
        Whether its first call takes long.
    """

    name: str
    library: str
    form: Form
    start: Callable[[Any], Solve]
    policies: tuple[Policy, ...] = ()
    refuses: Callable[[Flow], str] = always
    compiles: bool = False

    def logs(self, values: FloatArray) -> FloatArray:
        """Return logarithms of masses; NaN where a mass is negative."""
        if self.form == "log":
            return values
        with np.errstate(divide="ignore", invalid="ignore"):
            logs: FloatArray = np.log(values)
        return logs
