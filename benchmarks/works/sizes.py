"""Ten thousand groups and more: beside peers, how time and memory grow, and what a million groups take."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterator

import numpy as np

from benchmarks import own, peers
from benchmarks.contest import Options, contest
from benchmarks.problems import density, size
from benchmarks.processes import measure
from benchmarks.references import error, reference
from benchmarks.rows import OURS, Outcome, Row, Verdict, fastest, figure, ratio
from benchmarks.timing import in_turns

__all__ = ["exponent", "measured"]

AMONG_PEERS, PASSES, EXPONENT = 1 / 8, 2000.0, 1.15
MEMORY = 1.1
"""Largest exponent of memory: linear, with some room for what does not depend on the number of groups."""
KINDS = ((1.0, 0.0), (1.0, 0.01))
"""Decay of Eq. 10, and mutation rate of Eq. 8."""
MILLION = 10**6
SAVED = {10**4: 101, 10**5: 11, MILLION: 3}


def measured(options: Options) -> Iterator[Outcome]:
    """Yield one outcome for every size and flow, and one for the growth of time and memory."""
    sizes = [10**4, 10**5] if options.quick else [10**4, 10**5, MILLION]
    last, growth = sizes[-1], []
    for decay, rate in KINDS[:1] if options.quick else KINDS:
        spent = {}
        for n in sizes:
            outcome = _at(n, decay, rate, options, with_peers=n < last)
            spent[n] = next(row for row in outcome.rows if row.library == OURS)
            yield outcome
        name = density(10, decay, rate).name.partition(",")[0]
        found = exponent({n: row.by(options.clock) for n, row in spent.items()})
        growth.append(Verdict(f"{name}, N to {size(last)}", "time grows as N^", found, EXPONENT))
    yield Outcome("growth of time with the number of groups", verdicts=growth)
    bytes_used = {n: measure(MEMORY_OF, n=n)["bytes"] for n in sizes}
    found = exponent(bytes_used)
    note = ", ".join(f"{used / 2**20:.0f} MiB" for used in bytes_used.values())
    verdict = Verdict(f"Eq. 10, N to {size(last)}", "memory grows as N^", found, MEMORY, note=note)
    yield Outcome("growth of memory with the number of groups", verdicts=[verdict])


def exponent(measured: dict[int, float]) -> float:
    """Return the power of N that fits best."""
    slope, _ = np.polyfit(np.log(list(measured)), np.log(list(measured.values())), 1)
    return float(slope)


def _at(n: int, decay: float, rate: float, options: Options, *, with_peers: bool) -> Outcome:
    flow = density(n, decay, rate, SAVED[n])
    truth = functools.partial(error, reference=reference(flow))
    ours = itertools.islice(own.methods(), 1)
    outcome = contest(flow.name, flow, [*(peers.methods() if with_peers else ()), *ours], truth, options)
    row = next(row for row in outcome.rows if row.library == OURS)
    if with_peers:
        best = fastest(outcome.rows, clock=options.clock)
        return dataclasses.replace(
            outcome, verdicts=[ratio(flow.name, row, best, AMONG_PEERS, clock=options.clock)]
        )
    logs, out = np.linspace(-30.0, 3.0, n), np.empty(n)
    one = Row(flow.name, "np.exp over the state", "NumPy", note="a pass, to compare with")
    one = one.timed(in_turns({"exp": lambda: np.exp(logs, out=out)}, 21)["exp"])
    passes = row.by(options.clock) / one.by(options.clock) if row.reached else math.nan
    note = f"one is {figure(one.by(options.clock))} ms"
    if n != MILLION:
        passes, note = math.nan, f"quick runs stop at {size(n)}: {figure(passes)} passes"
    name = density(MILLION, decay, rate).name
    verdict = Verdict(name, "passes of np.exp over the state", passes, PASSES, note=note)
    return dataclasses.replace(outcome, rows=[*outcome.rows, one], verdicts=[verdict])


MEMORY_OF = """
import json, numpy as np, evodyn as ed
def peak():  # getrusage would begin with what the parent process holds
    with open("/proc/self/status") as status:
        return 1024 * next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
def solve(n):
    c = np.random.default_rng(0).lognormal(0.0, 1.0, n)
    return ed.solve(ed.Replicator(), ed.landscapes.LinearDecay(c, 1.0), np.ones(n), (0.0, 5.0), save_at=[5.0])
solve(10)
before = peak()
solve({n})
print(json.dumps({{"bytes": peak() - before}}))
"""
