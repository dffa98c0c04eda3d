"""evodyn as a method: compiled, in NumPy, and with a fitness that is a plain Python function."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import evodyn as ed
from benchmarks.methods import Method, Solve, relative
from benchmarks.problems import Flow
from benchmarks.rows import OURS
from evodyn.core.arrays import FloatArray

__all__ = ["methods", "of_function"]


def methods() -> Iterator[Method]:
    """Yield what `solve` does by itself, and what it does without numba."""
    yield _method("evodyn", None)
    yield _method("evodyn, NumPy", False)


def of_function(fitness: Callable[[float, FloatArray], FloatArray]) -> Method:
    """Return `solve` with a plain Python function as landscape."""
    return _method("evodyn", None, fitness)


def _method(
    name: str, compiled: bool | None, fitness: Callable[[float, FloatArray], FloatArray] | None = None
) -> Method:
    def start(flow: Flow) -> Solve:
        def solve(rtol: float, atol: float) -> FloatArray:
            solver = ed.Solver(rtol=rtol, atol=atol, compiled=compiled)
            landscape = fitness or flow.landscape
            span = (0.0, flow.end)
            run = ed.solve(flow.dynamics, landscape, flow.p0, span, save_at=flow.times, solver=solver)
            return run.log_masses

        return solve

    return Method(name, OURS, "log", start, (relative(1e-2),), compiles=True)
