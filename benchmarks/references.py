"""What results are compared with, and how far off they are."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy.integrate import solve_ivp

from benchmarks.fields import fastest
from benchmarks.peers import cyrk
from benchmarks.problems import Flow
from evodyn.core.arrays import FloatArray

__all__ = ["error", "reference"]

LEAST = math.log(1e-12)
"""Logarithm of the mass below which errors do not count; mean mass is 1."""
LARGE = 5_000
"""Groups from which on the reference has to be compiled as a whole, where it can be."""


def reference(flow: Flow, *, one_of_many: bool = False) -> FloatArray:
    """Return ln p at the saved times: in closed form, or integrated as closely as doubles allow."""
    if flow.exact is not None:
        return flow.exact()
    if (flow.n >= LARGE or one_of_many) and cyrk.available():
        return cyrk.integrated(flow, "log", "DOP853", 1e-13, 1e-11, most_steps=10**7)
    tight: dict[str, Any] = {"rtol": 2.3e-14, "atol": 1e-13, "max_step": 0.25 if flow.n < 1000 else math.inf}
    field, start = fastest(flow, "log"), np.log(flow.p0)
    solution = solve_ivp(field, (0.0, flow.end), start, "DOP853", flow.times, **tight)
    logs: FloatArray = solution.y.T
    return logs


def error(logs: FloatArray, reference: FloatArray) -> float:
    """Return the largest error of ln p, where p is above 10⁻¹²; infinite where there is no number."""
    if logs.shape != reference.shape:
        return math.inf
    counted = reference > LEAST
    if not np.isfinite(logs[counted]).all():
        return math.inf
    return float(np.abs(logs - reference)[counted].max())
