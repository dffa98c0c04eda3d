"""Diagnostics along a trajectory: what drives the mean, how much diversity is left, where the mass goes.

Every function takes a run, or a dataset with the names of the saved schema, and returns one number for each
saved time: shape (T,), or (T, K) for a `Populations` dynamics with K blocks.
"""

from evodyn.analysis.decompositions import (
    MassBudget,
    PriceDecomposition,
    fisher_decomposition,
    mass_budget,
    price_decomposition,
)
from evodyn.analysis.diagnostics import (
    diagnostics,
    divergence,
    diversity_half_life,
    effective_number,
    entropy,
    gini,
    potential,
)

__all__ = [
    "MassBudget",
    "PriceDecomposition",
    "diagnostics",
    "divergence",
    "diversity_half_life",
    "effective_number",
    "entropy",
    "fisher_decomposition",
    "gini",
    "mass_budget",
    "potential",
    "price_decomposition",
]
