"""scikit-sundae: CVODE with dense algebra, and with GMRES preconditioned by the Jacobian in its structure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks import fields
from benchmarks.fields import Form
from benchmarks.libraries import installed, library
from benchmarks.methods import Method, Solve, masses_or_logs, small
from benchmarks.problems import Flow
from evodyn.core.arrays import FloatArray

__all__ = ["methods"]


def methods() -> Iterator[Method]:
    """Yield BDF and Adams with each kind of algebra."""
    if not installed("scikit-sundae"):
        return
    for form in ("log", "mass"):
        for family in ("BDF", "Adams"):
            yield _method(family, "gmres", form)
            yield _method(family, "dense", form)


def _method(family: str, algebra: str, form: Any) -> Method:
    def start(flow: Flow) -> Solve:
        cvode, y0 = library("scikit-sundae"), fields.start(flow, form)
        field = fields.fastest(flow, form)

        def right_hand_side(t: float, y: FloatArray, yp: FloatArray) -> None:
            yp[:] = field(t, y)

        options: dict[str, Any] = {"method": family, "linsolver": algebra, "max_num_steps": 200_000}
        options |= _structured(flow, form) if algebra == "gmres" else _dense(flow, form)

        def solve(rtol: float, atol: float) -> FloatArray:
            solution = cvode.CVODE(right_hand_side, rtol=rtol, atol=atol, **options).solve(flow.times, y0)
            if not solution.success:
                raise RuntimeError(str(solution.message))
            return np.asarray(solution.y)

        return solve

    def refuses(flow: Flow) -> str:
        if algebra == "gmres":
            return "its Jacobian has no structure" if flow.is_game else ""
        return small(flow)

    label = f"CVODE {family}, {algebra.replace('gmres', 'GMRES')}, {form}"
    return Method(label, "scikit-sundae", form, start, masses_or_logs(form, 1e-15), refuses)


def _dense(flow: Flow, form: Form) -> dict[str, Any]:
    """Return the option that gives CVODE the Jacobian."""
    if flow.is_game:
        return {}
    whole = fields.dense_jacobian(flow, form)

    def jacobian(t: float, y: FloatArray, yp: FloatArray, out: FloatArray) -> None:
        out[:, :] = whole(t, y)

    return {"jacfn": jacobian}


def _structured(flow: Flow, form: Form) -> dict[str, Any]:
    """Return options for J = diag(d) - l rᵀ: its products, and Sherman's and Morrison's formula."""
    cvode, parts = library("scikit-sundae"), fields.jacobian(flow, form)
    kept: dict[str, Any] = {}

    def prepare(t: float, y: FloatArray, yp: FloatArray, may_keep: bool, is_new: Any, gamma: float) -> None:
        is_new[0] = int(not (may_keep and "precondition" in kept))
        if is_new[0]:
            kept["precondition"] = parts(t, y)

    def precondition(
        t: float,
        y: FloatArray,
        yp: FloatArray,
        b: FloatArray,
        z: FloatArray,
        gamma: float,
        delta: float,
        side: int,
    ) -> None:
        diagonal, left, right = kept["precondition"]
        inverse = 1.0 / (1.0 - gamma * diagonal)
        own, common = inverse * b, inverse * (gamma * left)
        z[:] = own - common * ((right @ own) / (1.0 + right @ common))

    def linearize(t: float, y: FloatArray, yp: FloatArray) -> None:
        kept["products"] = parts(t, y)

    def product(t: float, y: FloatArray, yp: FloatArray, v: FloatArray, out: FloatArray) -> None:
        diagonal, left, right = kept["products"]
        out[:] = diagonal * v - left * (right @ v)

    return {
        "precond": cvode.CVODEPrecond(prepare, precondition),
        "jactimes": cvode.CVODEJacTimes(linearize, product),
    }
