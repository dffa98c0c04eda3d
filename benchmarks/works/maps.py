"""Steps of Eqs. 12 and 14, in copies of the array of masses: what memory traffic alone would cost."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import evodyn as ed
from benchmarks.contest import Options
from benchmarks.fields import FAST
from benchmarks.libraries import installed, library
from benchmarks.problems import lognormal, size
from benchmarks.rows import OURS, Clock, Outcome, Row, Verdict
from benchmarks.timing import in_turns
from evodyn.core.arrays import FloatArray

__all__ = ["measured"]

STEP_SIZE, DECAY, RATE = 1e-2, 1.0, 0.01
COPIES_OF_A_STEP = {768: 10.0, 10**4: 4.0, 10**6: 4.0}
COPIES_OF_AN_ITERATION = {10**4: 1.5, 10**6: 2.0}
MICROSECONDS_OF_AN_ITERATION = {768: 0.3}
STEPS = {768: 2000, 10**4: 500, 10**6: 20}
"""Steps of one call of `iterate`."""
CLOSE = 1e-9


def measured(options: Options) -> Iterator[Outcome]:
    """Yield one outcome for every map and size."""
    for n in STEPS:
        yield _outcome("Eq. 12", ed.Replicator(), 0.0, n, options)
        yield _outcome("Eq. 14", ed.SelectionMutation(RATE, target=1.0), RATE, n, options)


def _outcome(equation: str, dynamics: ed.Dynamics, rate: float, n: int, options: Options) -> Outcome:
    work, steps = f"step of {equation}, N = {size(n)}", STEPS[n]
    c, p = lognormal(n), np.random.default_rng(1).uniform(0.5, 1.5, n)
    landscape = ed.landscapes.LinearDecay(c, DECAY)
    given, target = landscape(0.0, p), np.empty(n)

    def iterated() -> Any:
        return ed.iterate(dynamics, landscape, p, steps, STEP_SIZE, save_every=steps).masses[-1]

    # What is called, how many steps it takes, and whether fitness is part of them.
    calls: dict[str, tuple[Callable[[], Any], int]] = {
        "np.copyto": (lambda: np.copyto(target, p), 1),
        "evodyn step, given fitness": (lambda: dynamics.step(p, given, STEP_SIZE), 1),
        "evodyn iterate": (iterated, steps),
        "NumPy with out=": (functools.partial(_in_numpy, p, c, rate, np.empty(n), np.empty(n)), 1),
    }
    if installed("numba"):
        one, many = _in_numba()
        calls["numba, one step"] = lambda: one(p, c, DECAY, STEP_SIZE, rate, target), 1
        calls["numba, many steps"] = lambda: many(p, c, DECAY, STEP_SIZE, rate, steps), steps
    expected = {count: _repeated(p, c, rate, count) for count in (1, steps)}
    rows = {name: _row(work, name, call(), expected[count]) for name, (call, count) in calls.items()}
    times = in_turns({name: call for name, (call, _) in calls.items()}, options.rounds)
    rows = {name: row.timed(times[name], calls[name][1]) for name, row in rows.items()}
    return Outcome(work, list(rows.values()), _verdicts(work, rows, n, options.clock))


def _row(work: str, name: str, value: Any, expected: FloatArray) -> Row:
    row = Row(work, name, OURS if name.startswith(OURS) else name.partition(",")[0].partition(" ")[0])
    if value is None:
        return dataclasses.replace(row, note="a copy, to compare with")
    error = float(np.abs(np.asarray(value) - expected).max())
    return dataclasses.replace(row, error=error, reached=error < CLOSE)


def _verdicts(work: str, rows: dict[str, Row], n: int, clock: Clock) -> list[Verdict]:
    copy = rows["np.copyto"].by(clock)
    step, iteration = rows["evodyn step, given fitness"], rows["evodyn iterate"]
    note = f"a copy is {1e3 * copy:.3g} µs"
    found = [Verdict(work, "copies for a step", step.by(clock) / copy, COPIES_OF_A_STEP[n], note=note)]
    if n in COPIES_OF_AN_ITERATION:
        limit = COPIES_OF_AN_ITERATION[n]
        found.append(
            Verdict(work, "copies for a step of iterate", iteration.by(clock) / copy, limit, note=note)
        )
    else:
        limit = MICROSECONDS_OF_AN_ITERATION[n]
        found.append(Verdict(work, "µs for a step of iterate", 1e3 * iteration.by(clock), limit))
    return found


def _in_numpy(p: FloatArray, c: FloatArray, rate: float, work: FloatArray, out: FloatArray) -> FloatArray:
    """Take one step, with no array made on the way."""
    np.multiply(p, -DECAY, out=work)
    work += c
    work -= p @ work / p.sum() + rate
    work *= STEP_SIZE
    work += 1.0
    np.multiply(p, work, out=out)
    if rate:
        out += STEP_SIZE * rate
    return np.maximum(out, 0.0, out=out)


def _repeated(p: FloatArray, c: FloatArray, rate: float, steps: int) -> FloatArray:
    """Take steps as the equations are printed."""
    for _ in range(steps):
        fitness = c - DECAY * p
        velocity = p * (fitness - p @ fitness / p.sum()) + rate * (1.0 - p)
        p = np.maximum(p + STEP_SIZE * velocity, 0.0)
    return p


@functools.cache
def _in_numba() -> tuple[Any, Any]:
    """Return one step, and many steps in one call, which make one pass each."""
    numba = library("numba")
    fast: Any = numba.njit(error_model="numpy", fastmath=FAST)

    @fast  # type: ignore[untyped-decorator]
    def one(p: Any, c: Any, decay: Any, h: Any, rate: Any, out: Any) -> Any:
        total, flow = 0.0, 0.0
        for i in range(p.size):
            total += p[i]
            flow += p[i] * (c[i] - decay * p[i])
        mean = flow / total + rate
        for i in range(p.size):
            out[i] = max(p[i] + h * (p[i] * (c[i] - decay * p[i] - mean) + rate), 0.0)
        return out

    @fast  # type: ignore[untyped-decorator]
    def many(p: Any, c: Any, decay: Any, h: Any, rate: Any, steps: Any) -> Any:
        p = p.copy()
        total, flow = 0.0, 0.0
        for i in range(p.size):
            total += p[i]
            flow += p[i] * (c[i] - decay * p[i])
        for _ in range(steps):
            mean = flow / total + rate
            total, flow = 0.0, 0.0
            for i in range(p.size):
                q = max(p[i] + h * (p[i] * (c[i] - decay * p[i] - mean) + rate), 0.0)
                p[i] = q
                total += q
                flow += q * (c[i] - decay * q)
        return p

    return one, many
