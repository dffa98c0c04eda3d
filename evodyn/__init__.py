"""Selection dynamics over population masses: flows, maps, landscapes, equilibria and extinction."""

import importlib
from typing import Any

from evodyn import landscapes
from evodyn.dynamics import (
    Dynamics,
    NormalizedGrowth,
    Populations,
    Replicator,
    Selection,
    SelectionMutation,
    mean_fitness,
)
from evodyn.ensembles import Ensemble, solve_ensemble
from evodyn.equilibria import Equilibrium, all_equilibria, equilibrium
from evodyn.errors import SolveError
from evodyn.extinction import Extinction
from evodyn.files import load
from evodyn.integration import Solver, extend, solve
from evodyn.iteration import iterate
from evodyn.results import Run, Stats, Termination
from evodyn.stability import Stability
from evodyn.sweeps import sweep

__all__ = [
    "Dynamics",
    "Ensemble",
    "Equilibrium",
    "Extinction",
    "NormalizedGrowth",
    "Populations",
    "Replicator",
    "Run",
    "Selection",
    "SelectionMutation",
    "SolveError",
    "Solver",
    "Stability",
    "Stats",
    "Termination",
    "all_equilibria",
    "diagnostics",
    "discrete_stability",
    "equilibrium",
    "extend",
    "extinction_rates",
    "extinction_theory",
    "iterate",
    "landscapes",
    "load",
    "mean_fitness",
    "solve",
    "solve_ensemble",
    "stochastic",
    "sweep",
    "symbolic",
]
__version__ = "0.1.0"

# What loads on demand: it brings scipy.stats or SymPy, which take longer than all the rest.
_ON_DEMAND = ("diagnostics", "discrete_stability", "extinction_theory", "stochastic", "symbolic")


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> Any:
    if name in _ON_DEMAND:
        return importlib.import_module(f"evodyn.{name}")
    if name == "extinction_rates":
        return importlib.import_module("evodyn.extinction_theory").extinction_rates
    raise AttributeError(f"module 'evodyn' has no attribute {name!r}")
