"""Libraries of evolutionary games: EGTtools, Nashpy and popgames, as their users call them."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy.integrate import odeint

from benchmarks.libraries import installed, library
from benchmarks.methods import Method, Policy, Solve, relative
from benchmarks.problems import Flow
from evodyn.core.arrays import FloatArray

__all__ = ["methods"]


def _no_game(flow: Flow) -> str:
    return "" if flow.is_game else "it is no game"


def methods() -> Iterator[Method]:
    """Yield what is installed; Nashpy and popgames have no tolerance to choose."""

    def yielded(name: str, peer: str, start: Any, policies: tuple[Policy, ...] = ()) -> Method:
        return Method(name, peer, "mass", start, policies, _no_game)

    if installed("egttools"):
        yield yielded("EGTtools, odeint", "egttools", _egttools, (relative(1e-2),))
    if installed("nashpy"):
        yield yielded("Nashpy", "nashpy", _nashpy)
    if installed("popgames"):
        for name in ("Radau", "DOP853"):
            yield yielded(f"popgames {name}", "popgames", lambda flow, name=name: _popgames(flow, name))


def _egttools(flow: Flow) -> Solve:
    velocity = importlib.import_module("egttools.analytical").replicator_equation
    payoff = np.ascontiguousarray(flow.payoff)

    def solve(rtol: float, atol: float) -> FloatArray:
        tolerances: dict[str, Any] = {"rtol": rtol, "atol": atol, "mxstep": 100_000}
        found: FloatArray = odeint(lambda x, t: velocity(x, payoff), flow.p0, flow.times, **tolerances)
        return found

    return solve


def _nashpy(flow: Flow) -> Solve:
    game = library("nashpy").Game(flow.payoff)
    return lambda rtol, atol: game.replicator_dynamics(y0=flow.p0, timepoints=flow.times)


def _popgames(flow: Flow, method: str) -> Solve:
    popgames, payoff = library("popgames"), flow.payoff
    protocol = importlib.import_module("popgames.revision_protocol").Replicator(scale=1.0)
    game = popgames.SinglePopulationGame(flow.n, lambda x: payoff @ x, mass=1.0)
    mechanism = popgames.PayoffMechanism(h_map=lambda x: payoff @ x, n=flow.n)
    revisions = popgames.PoissonRevisionProcess(1.0, protocol)
    simulator = popgames.Simulator(game, mechanism, revisions, num_agents=10)

    def solve(rtol: float, atol: float) -> FloatArray:
        span, x0 = (0.0, flow.end), flow.p0.reshape(flow.n, 1)
        found: FloatArray = simulator.integrate_edm_pdm(
            span, x0, t_eval=flow.times, method=method, output_trajectory=True
        ).x.T
        return found

    return solve
