"""What integrating log-masses costs beside integrating masses: ratios of paired runs in one process.

Run with ``make bench`` on a machine that does nothing else; times are CPU seconds, medians over pairs.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.integrate import solve_ivp

import evodyn as ed

PAIRS = 25
N, DECAY, END = 768, 1e-3, 50.0
TIMES = np.linspace(0.0, END, 101)


def seconds(task: Callable[[], object]) -> float:
    """Return the CPU time of one call."""
    start = time.process_time()
    task()
    return time.process_time() - start


def paired(ours: Callable[[], object], theirs: Callable[[], object]) -> tuple[float, float, float]:
    """Return the medians of both times and of their ratio, pair by pair."""
    ours(), theirs()
    pairs = [(seconds(ours), seconds(theirs)) for _ in range(PAIRS)]
    ratio = statistics.median(a / b for a, b in pairs)
    return statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs), ratio


def main() -> None:
    """Print one line for every method and tolerance of the competitor."""
    contribution = ed.landscapes.contributions("lognormal", n=N, heterogeneity=1.0, rng=0)
    landscape = ed.landscapes.LinearDecay(contribution, DECAY)
    ones = np.ones(N)

    def velocity(t: float, p: np.ndarray) -> np.ndarray:
        fitness = contribution - DECAY * p
        flow: np.ndarray = p * (fitness - (p @ fitness) / p.sum())
        return flow

    print(f"Eq. 10, {N} log-normal groups, λ = {DECAY}, t = {END:g}, {len(TIMES)} outputs, rtol 1e-8")
    for compiled in (True, False):
        solver = ed.Solver(compiled=compiled)

        def ours(solver: ed.Solver = solver) -> ed.Run:
            run = ed.solve(ed.Replicator(), landscape, ones, (0.0, END), save_at=TIMES, solver=solver)
            run.masses  # noqa: B018 - which are computed when they are looked at
            return run

        run = ours()
        print(f"evodyn.solve: {run.stats.method}, {run.stats.evaluations} evaluations; solve_ivp on masses:")
        for atol in (1e-10, 1e-14):
            for method in ("DOP853", "RK45", "LSODA"):

                def theirs(method: Any = method, atol: float = atol) -> Any:
                    return solve_ivp(velocity, (0.0, END), ones, method, TIMES, rtol=1e-8, atol=atol)

                result = theirs()
                a, b, ratio = paired(ours, theirs)
                print(
                    f"  {method:7} atol {atol:g}: {result.nfev:5} evaluations, "
                    f"lowest mass {result.y.min():9.1e}, {b * 1e3:5.1f} ms; "
                    f"ours {a * 1e3:5.1f} ms, ratio {ratio:.2f}"
                )


if __name__ == "__main__":
    main()
