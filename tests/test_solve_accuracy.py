"""Accuracy where it is hard: long runs, groups revived from nothing, what is on for a while, stiffness."""

from __future__ import annotations

import numpy as np
import pytest

import evodyn as ed
from evodyn import landscapes
from evodyn.methods import Method

REPLICATOR = ed.Replicator()
IMPLICIT: tuple[Method, ...] = ("auto", "LSODA", "BDF")


# Long runs


@pytest.mark.parametrize("method", IMPLICIT)
@pytest.mark.parametrize(("scale", "end"), [(1e10, 1.0), (1.0, 1e10), (1.0, 1e11)])
def test_long_runs_end_with_the_right_survivors(scale: float, end: float, method: Method) -> None:
    # Water filling with one group exactly at the level: it falls as 1/(λ(1 + r/k)t), here 1/(2λt).
    decay = 0.1 * scale
    run = ed.solve(
        REPLICATOR,
        landscapes.LinearDecay(scale * np.array([1.0, 0.5, 0.0, -1.0, 0.2]), decay),
        np.ones(5),
        (0.0, end),
        save_at=[end],
        solver=ed.Solver(method=method),
    )
    assert run.masses[-1, 0] == pytest.approx(5.0, rel=1e-9)
    assert run.masses[-1, 1] == pytest.approx(1 / (2 * decay * end), rel=1e-4)
    assert (run.masses[-1, 2:] == 0).all()
    assert run.log_masses[-1, 2:] / (scale * end) == pytest.approx([-0.5, -1.5, -0.3], rel=1e-6)
    assert run.stats.steps < 10_000
