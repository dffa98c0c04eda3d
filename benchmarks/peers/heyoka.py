"""heyoka: Taylor series of the equations, compiled for each tolerance; members of ensembles in batches."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks import fields
from benchmarks.fields import Form
from benchmarks.libraries import installed, library
from benchmarks.methods import Method, Solve, absolute
from benchmarks.problems import Flow
from evodyn.core.arrays import FloatArray

__all__ = ["batches", "methods"]


def _equations(flow: Flow, form: Form) -> list[tuple[Any, Any]]:
    """Return pairs of a variable and its derivative; contributions are parameters."""
    hy = library("heyoka")
    y = hy.make_vars(*[f"y{i}" for i in range(flow.n)])
    p = [hy.exp(one) for one in y] if form == "log" else y
    phi = [hy.par[i] - flow.decay * one if flow.decay else hy.par[i] for i, one in enumerate(p)]
    if (payoff := flow.payoff) is not None:
        total = hy.sum(p)
        phi = [hy.sum([float(a) * one for a, one in zip(row, p, strict=True)]) / total for row in payoff]
    if (swing := flow.swing) is not None:
        sine, cosine = hy.sin(swing.frequency * hy.time), hy.cos(swing.frequency * hy.time)
        pairs = zip(phi, swing.sines.tolist(), swing.cosines.tolist(), strict=True)
        phi = [one + s * sine + c * cosine for one, s, c in pairs]
    mean = hy.sum([one * own for one, own in zip(p, phi, strict=True)]) / hy.sum(p) + flow.rate
    if form == "log":
        rates = [
            own - mean + flow.rate / one if flow.rate else own - mean for one, own in zip(p, phi, strict=True)
        ]
    else:
        rates = [one * (own - mean) + flow.rate for one, own in zip(p, phi, strict=True)]
    return list(zip(y, rates, strict=True))


def methods() -> Iterator[Method]:
    """Yield Taylor's method on logarithms and on masses."""
    if not installed("heyoka"):
        return
    for form in ("log", "mass"):

        def start(flow: Flow, form: Any = form) -> Solve:
            hy, y0 = library("heyoka"), fields.start(flow, form)

            @functools.cache
            def integrator(tolerance: float) -> Any:
                pars: Any = [] if flow.is_game else flow.contribution
                return hy.taylor_adaptive(
                    _equations(flow, form), y0, tol=tolerance, compact_mode=True, pars=pars
                )

            def solve(rtol: float, atol: float) -> FloatArray:
                taylor = integrator(atol)
                taylor.time, taylor.state[:] = 0.0, y0
                outcome, *_, states = taylor.propagate_grid(flow.times)
                if outcome != hy.taylor_outcome.time_limit:
                    raise RuntimeError(str(outcome))
                return np.array(states)

            return solve

        yield Method(
            f"heyoka Taylor, {form}", "heyoka", form, start, (absolute(0.0),), _too_large, compiles=True
        )


def _too_large(flow: Flow) -> str:
    return "" if flow.n <= 1000 else "its equations are compiled one by one"


def batches() -> Iterator[Method]:
    """Yield the members of an ensemble in batches as wide as the processor's vectors, one thread."""
    if not installed("heyoka"):
        return

    def start(flows: list[Flow]) -> Solve:
        hy, first = library("heyoka"), flows[0]
        width = int(hy.recommended_simd_size())
        equations, y0 = _equations(first, "log"), np.zeros((first.n, width))
        grid = np.repeat(first.times[:, None], width, axis=1)
        contributions = np.stack([one.contribution for one in flows], axis=1)
        padding = -len(flows) % width
        contributions = np.concatenate([contributions, contributions[:, :padding]], axis=1)

        @functools.cache
        def integrator(tolerance: float) -> Any:
            pars = np.ascontiguousarray(contributions[:, :width])
            return hy.taylor_adaptive_batch(equations, y0, tol=tolerance, compact_mode=True, pars=pars)

        def solve(rtol: float, atol: float) -> FloatArray:
            taylor, found = integrator(atol), []
            for begin in range(0, contributions.shape[1], width):
                taylor.set_time(0.0)
                taylor.state[:], taylor.pars[:] = 0.0, contributions[:, begin : begin + width]
                _, states = taylor.propagate_grid(grid)
                if not math.isclose(taylor.time[0], first.end):
                    raise RuntimeError("heyoka did not reach the end")
                found.append(np.moveaxis(states, 2, 0))  # (members, T, N)
            return np.concatenate(found)[: len(flows)].reshape(-1, first.n)

        return solve

    yield Method("heyoka Taylor, batches", "heyoka", "log", start, (absolute(0.0),), compiles=True)
