"""SciPy's methods; implicit ones are given the Jacobian, or its diagonal alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from scipy.integrate import solve_ivp

from benchmarks import fields
from benchmarks.fields import Form
from benchmarks.methods import Method, Solve, always, masses_or_logs, small
from benchmarks.problems import Flow
from evodyn.core.arrays import FloatArray

__all__ = ["LEAST_RTOL", "methods", "of_function", "solving"]

LEAST_RTOL = 2.3e-14
"""What SciPy takes for a relative tolerance of 0."""


def solving(flow: Flow, field: Any, form: Form, method: Any, **options: Any) -> Solve:
    """Return what solves a flow by `solve_ivp`."""
    y0, span = fields.start(flow, form), (0.0, flow.end)

    def solve(rtol: float, atol: float) -> FloatArray:
        solution = solve_ivp(field, span, y0, method, flow.times, rtol=rtol, atol=atol, **options)
        if not solution.success:
            raise RuntimeError(solution.message)
        values: FloatArray = solution.y.T
        return values

    return solve


def methods() -> Iterator[Method]:
    """Yield all methods, the explicit ones first."""
    for form in ("log", "mass"):
        for name in ("RK45", "DOP853", "RK23"):
            yield _method(name, name, form, lambda flow, form: {}, always)
        yield _method("LSODA, diagonal", "LSODA", form, _diagonal, _no_diagonal)
        for name in ("LSODA", "BDF", "Radau"):
            yield _method(f"{name}, Jacobian", name, form, _jacobian, small)


def _method(
    label: str,
    name: str,
    form: Form,
    options: Callable[[Flow, Form], dict[str, Any]],
    refuses: Callable[[Flow], str],
) -> Method:
    def start(flow: Flow) -> Solve:
        return solving(flow, fields.fastest(flow, form), form, name, **options(flow, form))

    return Method(f"SciPy {label}, {form}", "SciPy", form, start, masses_or_logs(form, LEAST_RTOL), refuses)


def _jacobian(flow: Flow, form: Form) -> dict[str, Any]:
    return {} if flow.is_game else {"jac": fields.dense_jacobian(flow, form)}


def _diagonal(flow: Flow, form: Form) -> dict[str, Any]:
    parts = fields.jacobian(flow, form)
    return {"lband": 0, "uband": 0, "jac": lambda t, y: parts(t, y)[0][None, :]}


def _no_diagonal(flow: Flow) -> str:
    return (
        "" if flow.stiff_diagonal and not flow.is_game else "nothing stiff is on the diagonal of its Jacobian"
    )


def of_function(fitness: Callable[[float, FloatArray], FloatArray], rate: float) -> Iterator[Method]:
    """Yield methods for a fitness that is a plain Python function, of which no Jacobian is known."""
    import numpy as np

    def of_masses(t: float, p: FloatArray) -> FloatArray:
        phi = fitness(t, p)
        velocity: FloatArray = p * (phi - ((p @ phi) / p.sum() + rate))
        return velocity + rate if rate else velocity

    def of_logarithms(t: float, y: FloatArray) -> FloatArray:
        p = np.exp(y)
        phi = fitness(t, p)
        growth: FloatArray = phi - ((p @ phi) / p.sum() + rate)
        return growth + rate / p if rate else growth

    band = {"lband": 0, "uband": 0}  # whose one number a row LSODA finds by a difference
    for form, field in (("log", of_logarithms), ("mass", of_masses)):
        for name, options in (("RK45", {}), ("DOP853", {}), ("LSODA", {}), ("LSODA", band), ("BDF", {})):

            def start(
                flow: Flow, form: Any = form, field: Any = field, name: str = name, options: Any = options
            ) -> Solve:
                return solving(flow, field, form, name, **options)

            label = f"SciPy {name}{', diagonal' * bool(options)}, {form}"
            yield Method(label, "SciPy", form, start, masses_or_logs(form, LEAST_RTOL))  # type: ignore[arg-type]
