"""What a step of a map costs beside a copy of the masses, given fitness or with its landscape.

The least processor time of many calls. Run with ``make bench`` on a machine that does nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

import evodyn as ed
from evodyn.simulate.compiled_maps import load


def least(action: Callable[[], object], repeats: int, calls: int) -> float:
    """Return the processor time of a call in microseconds."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        for _ in range(calls):
            action()
        times.append((time.process_time() - start) / calls)
    return 1e6 * min(times)


def measured(dynamics: ed.Dynamics, n: int, calls: int) -> tuple[float, float, float]:
    """Return the times of a copy of n masses, of a step with given fitness, and of a step of `iterate`."""
    masses, fitness = np.random.default_rng(0).random((2, n)) + 0.5
    landscape = ed.landscapes.LinearDecay(fitness, decay=0.3)

    def run(steps: int) -> float:
        return least(lambda: ed.iterate(dynamics, landscape, masses, steps, 1e-3, save_every=steps), 5, 1)

    copy = least(masses.copy, 20, calls)
    step = least(lambda: dynamics.step(masses, fitness, 0.01), 20, calls)
    return copy, step, (run(11 * calls) - run(calls)) / (10 * calls)


def main() -> None:
    """Print one line for every number of groups and dynamics."""
    print("Maps on", "compiled loops" if load() else "NumPy")
    for n, calls in ((768, 10_000), (10_000, 1_000), (1_000_000, 4)):
        for dynamics in (ed.Replicator(), ed.SelectionMutation(0.01, target=1.0)):
            copy, step, many = measured(dynamics, n, calls)
            print(
                f"{n:8} groups, {type(dynamics).__name__:18} copy {copy:8.2f} µs, step {step:8.2f} µs "
                f"({step / copy:4.1f} copies), iterate {many:8.2f} µs a step ({many / copy:4.1f} copies)"
            )


if __name__ == "__main__":
    main()
