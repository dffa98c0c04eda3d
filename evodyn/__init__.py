"""Selection dynamics over population masses: flows, maps, landscapes, equilibria and extinction."""

import importlib
from typing import Any

from evodyn import landscapes
from evodyn.core.version import __version__ as __version__
from evodyn.equilibria.basins import Basins, basins
from evodyn.equilibria.branch import Branch, branch
from evodyn.equilibria.equilibrium import Equilibrium, all_equilibria, equilibrium
from evodyn.equilibria.stability import Stability
from evodyn.files.load import load
from evodyn.model.dynamics import Dynamics, mean_fitness
from evodyn.model.equations import NormalizedGrowth, Replicator, Selection, SelectionMutation
from evodyn.model.mutation import ReplicatorMutator
from evodyn.model.populations import Populations
from evodyn.simulate.ensemble import Ensemble
from evodyn.simulate.events import Event
from evodyn.simulate.extend import extend
from evodyn.simulate.extinction import Extinction
from evodyn.simulate.iterate import iterate
from evodyn.simulate.method import Solver
from evodyn.simulate.run import Run, SolveError
from evodyn.simulate.solve import solve
from evodyn.simulate.solve_ensemble import solve_ensemble
from evodyn.simulate.status import Stats, Termination
from evodyn.sweeps.sweep import sweep

__all__ = [
    "Basins",
    "Branch",
    "Dynamics",
    "Ensemble",
    "Equilibrium",
    "Event",
    "Extinction",
    "NormalizedGrowth",
    "Populations",
    "Replicator",
    "ReplicatorMutator",
    "Run",
    "Selection",
    "SelectionMutation",
    "SolveError",
    "Solver",
    "Stability",
    "Stats",
    "Termination",
    "all_equilibria",
    "basins",
    "branch",
    "diagnostics",
    "discrete_stability",
    "equilibrium",
    "extend",
    "extinction_rates",
    "extinction_theory",
    "inference",
    "iterate",
    "landscapes",
    "load",
    "mean_fitness",
    "plots",
    "solve",
    "solve_ensemble",
    "stochastic",
    "sweep",
    "symbolic",
]

# What loads on demand: it brings scipy.stats, matplotlib or SymPy, which take longer than all the rest.
_ON_DEMAND = (
    "diagnostics",
    "discrete_stability",
    "extinction_theory",
    "inference",
    "plots",
    "stochastic",
    "symbolic",
)


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> Any:
    if name in _ON_DEMAND:
        return importlib.import_module(f"evodyn.{name}")
    if name == "extinction_rates":
        return importlib.import_module("evodyn.extinction_theory").extinction_rates
    raise AttributeError(f"module 'evodyn' has no attribute {name!r}")
