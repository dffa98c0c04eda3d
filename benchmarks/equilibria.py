"""What the rest point of a million groups costs beside one sort of them: ratios of paired runs.

Run with ``make bench`` on a machine that does nothing else; times are CPU seconds, medians over pairs. The
target is three sorts for `evodyn.equilibrium` as a whole, certificate included.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np

import evodyn as ed
from evodyn.equilibria.closed_forms import water_filling

PAIRS = 15
N = 10**6
TARGET = 3.0
DECAYS = (1e-6, 1e-3, 1.0, 1e3)


def seconds(task: Callable[[], object]) -> float:
    """Return the CPU time of one call."""
    start = time.process_time()
    task()
    return time.process_time() - start


def medians(*tasks: Callable[[], object]) -> tuple[list[float], list[float]]:
    """Return the median times, and the medians of the ratios to the last task, run by run."""
    for task in tasks:
        task()
    runs = [[seconds(task) for task in tasks] for _ in range(PAIRS)]
    times = [statistics.median(column) for column in zip(*runs, strict=True)]
    ratios = [statistics.median(run[k] / run[-1] for run in runs) for k in range(len(tasks))]
    return times, ratios


def main() -> None:
    """Print one line for every law of the contributions and every decay."""
    print(f"Water filling (Eq. 10), {N} groups of mean mass 1; target: equilibrium <= {TARGET:g} np.sort")
    print("law        lambda  survive    sort   formula       equilibrium    residual")
    for kind in ("gaussian", "lognormal", "pareto"):
        contribution = ed.landscapes.contributions(kind, n=N, heterogeneity=1.0, rng=0)
        for decay in DECAYS:
            landscape = ed.landscapes.LinearDecay(contribution, decay)

            def rest_point(landscape: ed.landscapes.LinearDecay = landscape) -> ed.Equilibrium:
                return ed.equilibrium(ed.Replicator(), landscape, total_mass=float(N))

            def formula(c: np.ndarray = contribution, decay: float = decay) -> object:
                return water_filling(c, decay, float(N))

            def sort(c: np.ndarray = contribution) -> object:
                return np.sort(c)

            found = rest_point()
            (whole, alone, one), (ratio, part, _) = medians(rest_point, formula, sort)
            print(
                f"{kind:9} {decay:7g} {found.survivors.mean():8.4f} "
                f"{one * 1e3:5.1f} ms {alone * 1e3:5.1f} ms ({part:.2f}) {whole * 1e3:5.1f} ms "
                f"({ratio:.2f})  {found.residual:.0e}"
            )


if __name__ == "__main__":
    main()
