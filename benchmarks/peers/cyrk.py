"""CyRK: methods in C++ that call a right-hand side compiled by numba."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks import fields
from benchmarks.fields import Form
from benchmarks.libraries import installed, library
from benchmarks.methods import Method, Solve, absolute, always, masses_or_logs, small
from benchmarks.peers.scipy_methods import LEAST_RTOL
from benchmarks.problems import Flow
from evodyn.core.arrays import FloatArray

__all__ = ["available", "integrated", "loops", "methods"]

_CALLBACKS: dict[Any, Any] = {}
"""What was compiled, which has to live as long as its address is used."""


def available() -> bool:
    """Tell whether CyRK can be used, with numba."""
    return installed("CyRK") and installed("numba")


def _address(flow: Flow, form: Form) -> int:
    """Return the address of void(double* dy, double t, double* y, double* coefficients)."""
    kernel, width = fields.compiled(flow, form), len(fields.coefficients(flow)) - 4
    per_group = width // flow.n
    if (kernel, per_group) not in _CALLBACKS:
        numba = library("numba")
        double = numba.types.float64
        pointer = numba.types.CPointer(double)

        @numba.cfunc(numba.types.void(pointer, double, pointer, pointer), error_model="numpy")  # type: ignore[untyped-decorator]
        def callback(dy: Any, t: Any, y: Any, a: Any) -> None:
            n = int(a[0])
            given = numba.carray(a, (4 + n * per_group,))
            kernel(numba.carray(dy, (n,)), t, numba.carray(y, (n,)), given)

        _CALLBACKS[kernel, per_group] = callback
    return int(_CALLBACKS[kernel, per_group].address)


def integrated(
    flow: Flow, form: Form, method: str, rtol: float, atol: float, *, most_steps: int | None = None
) -> FloatArray:
    """Return what CyRK's `method` finds, shape (T, N); by default in as many steps as take about a minute."""
    solution = library("CyRK").nbsolve2_ivp(
        _address(flow, form),
        (0.0, flow.end),
        fields.start(flow, form),
        method=method,
        t_eval=flow.times,
        args=fields.coefficients(flow),
        rtol=rtol,
        atol=atol,
        max_num_steps=most_steps or int(np.clip(4e9 / (20 * flow.n), 4096, 500_000)),
        max_ram_MB=12_000,
    )
    try:
        if not solution.success:
            raise RuntimeError(solution.message)
        return np.array(solution.y).T
    finally:
        solution.free()


def methods() -> Iterator[Method]:
    """Yield all methods, the explicit ones first."""
    if not available():
        return
    for form in ("log", "mass"):
        for name in ("Tsit5", "DOP853", "Vern7", "Vern8"):
            yield _method(name, form, implicit=False)
        for name in ("LSODA", "BDF", "RADAU"):
            yield _method(name, form, implicit=True)


def _method(name: str, form: Form, *, implicit: bool) -> Method:
    def start(flow: Flow) -> Solve:
        _address(flow, form)
        return lambda rtol, atol: integrated(flow, form, name, rtol, atol)

    policies = masses_or_logs(form, LEAST_RTOL)
    return Method(
        f"CyRK {name}, {form}", "CyRK", form, start, policies, small if implicit else always, compiles=True
    )


def loops() -> Iterator[Method]:
    """Yield loops over the members of an ensemble."""
    if not available():
        return
    for name in ("Tsit5", "DOP853", "Vern8"):

        def start(flows: list[Flow], name: str = name) -> Solve:
            _address(flows[0], "log")
            return lambda rtol, atol: np.concatenate(
                [integrated(one, "log", name, rtol, atol) for one in flows]
            )

        yield Method(f"CyRK {name}, loop", "CyRK", "log", start, (absolute(LEAST_RTOL),), compiles=True)
