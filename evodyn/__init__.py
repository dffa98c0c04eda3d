"""Selection dynamics over population masses: flows, maps, landscapes, equilibria and extinction."""

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
from evodyn.equilibria import all_equilibria, equilibrium
from evodyn.errors import SolveError
from evodyn.extinction import Extinction
from evodyn.files import load
from evodyn.integration import Solver, extend, solve
from evodyn.iteration import iterate
from evodyn.results import Run, Stats, Termination
from evodyn.sweeps import sweep

__all__ = [
    "Dynamics",
    "Ensemble",
    "Extinction",
    "NormalizedGrowth",
    "Populations",
    "Replicator",
    "Run",
    "Selection",
    "SelectionMutation",
    "SolveError",
    "Solver",
    "Stats",
    "Termination",
    "all_equilibria",
    "equilibrium",
    "extend",
    "iterate",
    "landscapes",
    "load",
    "mean_fitness",
    "solve",
    "solve_ensemble",
    "sweep",
]
__version__ = "0.1.0"
