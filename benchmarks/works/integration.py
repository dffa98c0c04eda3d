"""The flows of 768 groups, and games of three, beside all peers."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Iterator

from benchmarks import own, peers
from benchmarks.contest import Options, contest
from benchmarks.problems import Flow, games, paper_size
from benchmarks.references import error, reference
from benchmarks.rows import OURS, Outcome, fastest, ratio

__all__ = ["compared", "measured"]


def measured(options: Options) -> Iterator[Outcome]:
    """Yield one outcome for every flow."""
    for flow in paper_size():
        hard = flow.name.startswith("Eq. 8") or flow.decay >= 0.3
        yield compared(flow, 1 / 5 if hard else 1 / 3, options)
    if not options.quick:
        options = dataclasses.replace(options, slow=300.0)  # libraries of games are shown at their best
        yield compared(games(1000.0), 1.0, options)
    yield compared(games(200.0), 3 / 4, options)
    yield compared(games(200.0, shift=-3.0), None, options)


def compared(flow: Flow, limit: float | None, options: Options) -> Outcome:
    """Return evodyn beside all peers at one flow, with the target if there is a limit."""
    truth = reference(flow)
    methods = itertools.chain(peers.methods(), own.methods())
    outcome = contest(flow.name, flow, methods, functools.partial(error, reference=truth), options)
    if limit is None:
        return outcome
    ours = next(row for row in outcome.rows if row.library == OURS)
    verdict = ratio(flow.name, ours, fastest(outcome.rows, clock=options.clock), limit, clock=options.clock)
    return dataclasses.replace(outcome, verdicts=[verdict])
