"""Many populations of 128 groups, beside a loop over CyRK, heyoka's batches and diffrax's vmap."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any
from unittest import mock

import numpy as np

import evodyn as ed
from benchmarks import peers
from benchmarks.contest import Options, contest
from benchmarks.methods import Method, Solve, relative
from benchmarks.problems import END, Flow, lognormal
from benchmarks.references import error, reference
from benchmarks.rows import OURS, Outcome, Verdict, fastest, ratio
from benchmarks.timing import in_turns
from evodyn.core.arrays import FloatArray

__all__ = ["measured"]

GROUPS = 128
LIMITS = {"CyRK": (1 / 4, "median"), "heyoka": (1 / 2, "processor"), "diffrax": (1 / 10, "median")}
"""Targets, and the clock they are meant by: heyoka's per core."""
THREADS = 1.8


def measured(options: Options) -> Iterator[Outcome]:
    """Yield one outcome for every number of members and decay."""
    options = dataclasses.replace(options, slow=100.0)  # each library has a target of its own
    for members in (64,) if options.quick else (512, 4096):
        for decay in (1.0,) if options.quick else (1.0, 1e-3):
            yield _outcome(members, decay, options)


def _outcome(members: int, decay: float, options: Options) -> Outcome:
    work = f"{members} members of {GROUPS} groups, Eq. 10 λ = {decay:g}"
    flows = [_member(k, decay) for k in range(members)]
    truth = np.concatenate([reference(flow, one_of_many=True) for flow in flows])
    methods = [*peers.ensemble_methods(), _ensemble()]
    outcome = contest(work, flows, methods, functools.partial(error, reference=truth), options)
    ours = next(row for row in outcome.rows if row.library == OURS)
    verdicts = []
    for library, (limit, meant) in LIMITS.items():
        clock: Any = "processor" if options.clock == "processor" else meant
        best = fastest(outcome.rows, library, clock=clock)
        verdicts.append(ratio(work, ours, best, limit, clock=clock, what=library))
    return Outcome(work, outcome.rows, [*verdicts, _threads(work, flows, options)], outcome.attempts)


def _member(k: int, decay: float) -> Flow:
    c = lognormal(GROUPS, seed=k)
    landscape, times = ed.landscapes.LinearDecay(c, decay), np.linspace(0.0, END, 101)
    return Flow(f"member {k}", ed.Replicator(), landscape, np.ones(GROUPS), times, c, decay)


def _solve(flows: list[Flow], rtol: float, atol: float) -> FloatArray:
    first = flows[0]
    ensemble = ed.solve_ensemble(
        first.dynamics,
        [flow.landscape for flow in flows],
        first.p0,
        (0.0, first.end),
        save_at=first.times,
        solver=ed.Solver(rtol=rtol, atol=atol),
    )
    return ensemble.log_masses.reshape(-1, first.n)


def _ensemble() -> Method:
    def start(flows: list[Flow]) -> Solve:
        return functools.partial(_solve, flows)

    return Method("evodyn", OURS, "log", start, (relative(1e-2),), compiles=True)


def _threads(work: str, flows: list[Flow], options: Options) -> Verdict:
    """Return how many times as fast two threads are as one; `solve_ensemble` takes one for each processor."""

    def with_threads(number: int) -> None:
        with mock.patch("os.cpu_count", return_value=number):
            _solve(flows, 1e-6, 1e-8)

    times = in_turns({str(k): functools.partial(with_threads, k) for k in (1, 2)}, options.rounds)
    return Verdict(
        work,
        "one thread / two threads",
        times["1"].median / times["2"].median,
        THREADS,
        (times["1"].shortest / times["2"].shortest,),
        at_least=True,
    )
