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

__all__ = [
    "Dynamics",
    "NormalizedGrowth",
    "Populations",
    "Replicator",
    "Selection",
    "SelectionMutation",
    "landscapes",
    "mean_fitness",
]
__version__ = "0.1.0"
