"""What extinction adds to a run of many groups, and how many steps a long quiet run takes."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import evodyn as ed
from benchmarks.contest import Options
from benchmarks.problems import Flow, density
from benchmarks.rows import OURS, Outcome, Row, Verdict
from benchmarks.timing import in_turns

__all__ = ["measured"]

WITH_EXTINCTION, STEPS = 2.0, 500.0
THRESHOLD = 1e-3


def measured(options: Options) -> Iterator[Outcome]:
    """Yield what observing extinction costs, and the steps of runs to a million."""
    for rate in (0.0, 0.01):
        yield _observed(density(10_000, 1.0, rate), options)
    yield _quiet(density(768, 1.0), density(768, 1.0, 0.01))


def _observed(flow: Flow, options: Options) -> Outcome:
    work = f"{flow.name}, extinction observed"
    solver = ed.Solver(rtol=1e-6, atol=1e-8)

    def run(**extinction: Any) -> ed.Run:
        span = (0.0, flow.end)
        return ed.solve(
            flow.dynamics, flow.landscape, flow.p0, span, save_at=flow.times, solver=solver, **extinction
        )

    observed = functools.partial(run, extinction=ed.Extinction(threshold=THRESHOLD))
    calls: dict[str, Callable[[], object]] = {"evodyn, observed": observed, "evodyn, not observed": run}
    extinct = int(observed().extinct_at_end.sum())
    times = in_turns(calls, options.rounds)
    first, second = (Row(work, name, OURS).timed(each) for name, each in times.items())
    first = dataclasses.replace(first, note=f"{extinct} of {flow.n} extinct at the end")
    ratio = first.by(options.clock) / second.by(options.clock)
    verdict = Verdict(work, "observed / not observed", ratio, WITH_EXTINCTION)
    return Outcome(work, [first, second], [verdict])


def _quiet(*flows: Flow) -> Outcome:
    work = "quiet run of 768 groups to t = 1e6"
    verdicts, notes = [], []
    for flow in flows:
        for rtol in (1e-6, 1e-8):
            solver = ed.Solver(rtol=rtol, atol=rtol / 100)
            run = ed.solve(
                flow.dynamics, flow.landscape, np.ones(flow.n), (0.0, 1e6), save_at=[1e6], solver=solver
            )
            verdicts.append(Verdict(f"{flow.name}, t = 1e6, rtol {rtol:g}", "steps", run.stats.steps, STEPS))
            notes.append(f"{flow.name}, rtol {rtol:g}: {run.stats.steps} steps of {run.stats.method}")
    return Outcome(work, verdicts=verdicts, notes=notes)
