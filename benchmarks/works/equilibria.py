"""Water filling, the rest point of Eq. 10, in sorts of as many numbers."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator

import numpy as np
from scipy.optimize import brentq

import evodyn as ed
from benchmarks.contest import Options
from benchmarks.problems import lognormal, size
from benchmarks.rows import OURS, Outcome, Row, Verdict
from benchmarks.timing import in_turns
from evodyn.core.arrays import FloatArray

__all__ = ["measured"]

SORTS = 1.5
SIZES = (10**5, 10**6)
DECAYS = (1e-6, 1e-3, 1.0, 1e3)
CLOSE = 1e-9
"""Largest error of a mass; mean mass is 1."""


def measured(options: Options) -> Iterator[Outcome]:
    """Yield what decides the targets, and how much depends on the law of contributions and on the decay."""
    for n in SIZES:
        yield _outcome(f"water filling, N = {size(n)}", lognormal(n), 1.0, options, decides=True)
    if not options.quick:
        for kind, decay in itertools.product(("gaussian", "lognormal", "pareto"), DECAYS):
            c = ed.landscapes.contributions(kind, n=SIZES[-1], heterogeneity=1.0, rng=0)
            yield _outcome(f"water filling, {kind}, λ = {decay:g}, N = 1e6", c, decay, options, decides=False)


def _outcome(work: str, c: FloatArray, decay: float, options: Options, *, decides: bool) -> Outcome:
    landscape, total = ed.landscapes.LinearDecay(c, decay), float(len(c))

    def rest_point() -> FloatArray:
        return ed.equilibrium(ed.Replicator(), landscape, total_mass=total).masses

    calls: dict[str, Callable[[], FloatArray]] = {
        "np.sort": lambda: np.sort(c),
        "evodyn equilibrium": rest_point,
        "NumPy sort and sums": functools.partial(_by_sorting, c, decay),
        "NumPy active set": functools.partial(_by_active_set, c, decay),
        "SciPy brentq": functools.partial(_by_root, c, decay),
    }
    truth = np.asarray(_by_active_set(c.astype(np.longdouble), decay), dtype=float)
    times = in_turns(calls, options.rounds)
    rows = []
    for name, call in calls.items():
        row = Row(work, name, OURS if name.startswith(OURS) else name.partition(" ")[0]).timed(times[name])
        if name == "np.sort":
            rows.append(dataclasses.replace(row, note="a sort, to compare with"))
            continue
        error = float(np.abs(call() - truth).max())
        note = f"largest error of a mass {error:.1g}"
        rows.append(dataclasses.replace(row, reached=error < CLOSE * max(1.0, float(truth.max())), note=note))
    one, ours, *_ = (row.by(options.clock) for row in rows)
    verdict = Verdict(work, "sorts", ours / one, SORTS, note=f"a sort is {one:.3g} ms")
    sorts = f"evodyn's rest point takes {ours / one:.2f} sorts"
    return Outcome(work, rows, [verdict] if decides else [], notes=[] if decides else [sorts])


def _by_sorting(c: FloatArray, decay: float) -> FloatArray:
    """Fill from the fittest group on."""
    falling = np.sort(c)[::-1]
    levels = (np.cumsum(falling) - decay * len(c)) / np.arange(1, len(c) + 1)
    level = levels[np.count_nonzero(falling > levels) - 1]
    masses: FloatArray = np.maximum(c - level, 0.0) / decay
    return masses


def _by_active_set(c: FloatArray, decay: float) -> FloatArray:
    """Leave out those below the level of all who are in, until there are none."""
    inside, level = c, (c.sum() - decay * len(c)) / len(c)
    while len(kept := inside[inside > level]) < len(inside):
        inside, level = kept, (kept.sum() - decay * len(c)) / len(kept)
    masses: FloatArray = np.maximum(c - level, 0.0) / decay
    return masses


def _by_root(c: FloatArray, decay: float) -> FloatArray:
    """Find the level at which all mass is used."""
    top, mass = float(c.max()), decay * len(c)
    level = brentq(lambda v: np.maximum(c - v, 0.0).sum() - mass, top - mass, top, xtol=1e-15, rtol=1e-15)
    masses: FloatArray = np.maximum(c - level, 0.0) / decay
    return masses
