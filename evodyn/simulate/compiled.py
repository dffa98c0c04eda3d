"""Phases of a run that are integrated in one compiled call: fitness in the normal form, known total masses."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from evodyn.core.arrays import FloatArray
from evodyn.model.fitness import kernel
from evodyn.model.normal_form import NormalForm
from evodyn.simulate.flow import Flow

__all__ = ["compiled_form", "initial_shares", "journeys"]


def journeys() -> Any:
    """Return the compiled methods, which take a moment to load."""
    return importlib.import_module("evodyn.solvers.journeys")


def compiled_form(flow: Flow) -> Any:
    """Return the `Form` in which compiled methods know a flow, or None if they do not.

    Growth rates have to be fitness compared with its mean, unclipped, every total known, the inflow steady,
    and no group is to be reviving.
    """
    start, living = flow.start, flow.log_living
    n = len(start.log_masses)
    known = all(block.relaxation is not None and not block.capped for block in flow.blocks)
    if len(flow.reviving) or not known or not flow.dynamics.compares_with_mean:
        return None
    inflow = flow.dynamics.steady_inflow(n)
    form = kernel(flow.landscape, start.t, n)
    if inflow is None or form is None:
        return None
    interaction, of_shares = _interaction(form, flow)
    if interaction is None and (form.competition is not None or form.payoff is not None):
        return None
    everybody = flow.full
    rows = slice(None) if everybody else living
    swings = form.swings
    starts = np.searchsorted(living, [*(block.groups.start for block in flow.blocks), n])
    laws = np.array([block.relaxation for block in flow.blocks], dtype=np.float64)
    flows_in = inflow[living].any()
    alive = np.flatnonzero(np.diff(starts))
    module: Any = importlib.import_module("evodyn.solvers.kernels")
    return module.Form(
        np.append(starts[alive], len(living)),
        _less_mean(form.contribution[rows], flow.initial, starts),
        float(form.decay),
        float(form.temperature),
        np.array([swing.frequency for swing in swings], dtype=np.float64),
        np.array([swing.sines[rows] for swing in swings], dtype=np.float64).reshape(len(swings), len(living)),
        np.array([swing.cosines[rows] for swing in swings], dtype=np.float64).reshape(
            len(swings), len(living)
        ),
        np.zeros((0, 0)) if interaction is None else np.array(interaction[np.ix_(living, living)]),
        of_shares,
        np.array(inflow[living]) if flows_in else np.zeros(0),
        np.array([flow.blocks[k].log_start for k in alive]),
        np.array(laws[alive, 0]),
        np.array(laws[alive, 1]),
        start.t,
    )


def initial_shares(flow: Flow, form: Any) -> FloatArray:
    """Return ln x of every living group in its block."""
    u = np.array(flow.initial)
    for a, b in zip(form.starts[:-1], form.starts[1:], strict=True):
        part = u[a:b]
        top = part.max()
        part -= top + np.log(np.exp(part - top).sum())
    return u


def _interaction(form: NormalForm, flow: Flow) -> tuple[FloatArray | None, bool]:
    """Return the matrix of interactions, and whether it acts on shares of the total of all blocks."""
    if form.payoff is None:
        return form.competition, False
    if form.competition is None:
        return form.payoff, True
    steady = len(flow.blocks) == 1 and flow.blocks[0].relaxation == (0.0, 0.0)
    if not steady:
        return None, False
    return form.payoff + form.competition * np.exp(flow.blocks[0].log_start), True


def _less_mean(contribution: FloatArray, y: FloatArray, starts: Any) -> FloatArray:
    """Return contributions less their mean in every block: what all share would only be rounded."""
    relative = np.array(contribution)
    for a, b in zip(starts[:-1], starts[1:], strict=True):
        if a < b:
            weights = np.exp(y[a:b] - y[a:b].max())
            relative[a:b] -= (weights @ relative[a:b]) / weights.sum()
    return relative
