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
from evodyn.errors import SolveError
from evodyn.extinction import Extinction
from evodyn.files import load
from evodyn.integration import Solver, extend, solve
from evodyn.iteration import iterate
from evodyn.results import Run, Stats, Termination

__all__ = [
    "Dynamics",
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
    "extend",
    "iterate",
    "landscapes",
    "load",
    "mean_fitness",
    "solve",
]
__version__ = "0.1.0"
