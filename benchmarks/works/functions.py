"""The same flows where fitness is a plain Python function, of which no Jacobian is known."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Iterator

from benchmarks import fields, own
from benchmarks.contest import Options, contest
from benchmarks.peers import scipy_methods
from benchmarks.problems import games, paper_size
from benchmarks.references import error, reference
from benchmarks.rows import OURS, Outcome, fastest, ratio

__all__ = ["measured"]

LIMIT = 1.0


def measured(options: Options) -> Iterator[Outcome]:
    """Yield evodyn beside SciPy's methods, called with one function, for every flow."""
    flows = [*paper_size(), games(200.0)]
    for flow in flows[2::2] if options.quick else flows:
        fitness = fields.fitness(flow)
        methods = itertools.chain(scipy_methods.of_function(fitness, flow.rate), [own.of_function(fitness)])
        work = f"{flow.name}, Python function"
        truth = functools.partial(error, reference=reference(flow))
        outcome = contest(work, flow, methods, truth, options)
        ours = next(row for row in outcome.rows if row.library == OURS)
        best = fastest(outcome.rows, clock=options.clock)
        yield dataclasses.replace(outcome, verdicts=[ratio(work, ours, best, LIMIT, clock=options.clock)])
