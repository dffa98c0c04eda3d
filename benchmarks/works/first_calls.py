"""What a new process waits for: imports, and the first solution with and without compiled code in a cache."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterator

from benchmarks.contest import Options
from benchmarks.libraries import installed
from benchmarks.processes import measure
from benchmarks.rows import Clock, Outcome, Row, fastest, ratio
from benchmarks.timing import Times

__all__ = ["measured"]

CACHED, NOT_CACHED = 1 / 2, 3.0
IMPORT = 1.3
"""What importing evodyn took before anything was compiled, in imports of the libraries that it needs."""

TIMED = """
import time
began = time.perf_counter()
import json, os, numpy as np
{imports}
imported = time.perf_counter()
c, times = np.random.default_rng(0).lognormal(0.0, 1.0, 768), np.linspace(0.0, 50.0, 101)
{prepare}
def processors():
    return sum(os.times()[:4])  # of child processes too, for some compile in one
ready, busy = time.perf_counter(), processors()
solve()
first, worked = time.perf_counter(), processors()
solve()
second = time.perf_counter()
times = dict(imports=imported - began, first=first - ready, second=second - first, processors=worked - busy)
print(json.dumps(times))
"""

EVODYN = {
    "imports": "import evodyn as ed",
    "prepare": """
flow = ed.Replicator(), ed.landscapes.LinearDecay(c, 1.0), np.ones(768), (0.0, 50.0)
solver = ed.Solver(compiled=True)
solve = lambda: ed.solve(*flow, save_at=times, solver=solver).log_masses
""",
}
SCIPY = {
    "imports": "from scipy.integrate import solve_ivp",
    "prepare": """
def growth(t, y):
    p = np.exp(y)
    fitness = c - p
    return fitness - p @ fitness / p.sum()
solve = lambda: solve_ivp(growth, (0.0, 50.0), np.zeros(768), "DOP853", times, rtol=2.3e-14, atol=1e-8)
""",
}
DIFFRAX = {
    "imports": "import jax, jax.numpy as jnp, diffrax",
    "prepare": """
jax.config.update("jax_enable_x64", True)
c, times = jnp.asarray(c), jnp.asarray(times)
def growth(t, y, args):
    p = jnp.exp(y)
    fitness = c - p
    return fitness - p @ fitness / p.sum()
@jax.jit
def run(y):
    return diffrax.diffeqsolve(
        diffrax.ODETerm(growth), diffrax.{name}(), 0.0, 50.0, 0.01, y, saveat=diffrax.SaveAt(ts=times),
        stepsize_controller=diffrax.PIDController(0.0, 1e-8), max_steps=100_000).ys
solve = lambda: run(jnp.zeros(768)).block_until_ready()
""",
}
IMPORTS = """
import json, time
began, busy = time.perf_counter(), time.process_time()
import {modules}
print(json.dumps(dict(wall=time.perf_counter() - began, processor=time.process_time() - busy)))
"""
NEEDED = "numpy, scipy.integrate, scipy.linalg, scipy.optimize, scipy.special"


def measured(options: Options) -> Iterator[Outcome]:
    """Yield first calls, then imports."""
    rounds = 3 if options.quick else 5
    yield _first_calls(rounds, 1 if options.quick else rounds, options.clock)
    yield _imports(max(rounds, 5), options.clock)


def _first_calls(rounds: int, compilations: int, clock: Clock) -> Outcome:
    work = "first call in a new process, Eq. 10 λ = 1"
    programs = {"evodyn, cached": EVODYN, "evodyn, not cached": EVODYN, "SciPy DOP853": SCIPY}
    if installed("diffrax"):
        for name in ("Tsit5", "Dopri8"):
            programs[f"diffrax {name}"] = DIFFRAX | {"prepare": DIFFRAX["prepare"].format(name=name)}
    found: dict[str, list[dict[str, float]]] = {label: [] for label in programs}
    for _ in range(rounds):
        for label, program in programs.items():
            if label.endswith("not cached") and len(found[label]) == compilations:
                continue
            with tempfile.TemporaryDirectory() as empty:
                cache = {"XDG_CACHE_HOME": empty} if label.endswith("not cached") else None
                found[label].append(measure(TIMED, cache, **program))
    rows = {}
    for label, each in found.items():
        imports, second = (1e3 * statistics.median(one[k] for one in each) for k in ("imports", "second"))
        note = f"import {imports:.0f} ms, second call {second:.3g} ms"
        row = Row(work, label, label.partition(" ")[0].strip(","), note=note)
        rows[label] = row.timed(Times([one["first"] for one in each], [one["processors"] for one in each]))
    peer = fastest(rows.values(), "diffrax", clock=clock)
    verdicts = [
        ratio(f"{work}, {label}", rows[f"evodyn, {label}"], peer, limit, clock=clock, what="diffrax")
        for label, limit in (("cached", CACHED), ("not cached", NOT_CACHED))
    ]
    return Outcome(work, list(rows.values()), verdicts)


def _imports(rounds: int, clock: Clock) -> Outcome:
    work, names = "import", {"evodyn": "evodyn", "NumPy and SciPy": NEEDED}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for _ in range(rounds):
        for name, modules in names.items():
            found[name].append(measure(IMPORTS, modules=modules))
    rows = [
        Row(work, name, name).timed(Times([one["wall"] for one in each], [one["processor"] for one in each]))
        for name, each in found.items()
    ]
    return Outcome(work, rows, [ratio(work, rows[0], rows[1], IMPORT, clock=clock)])
