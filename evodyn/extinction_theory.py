"""Extinction without simulation: how fast groups decay, when they cross a threshold, and how many survive.

A group is extinct when its mass is below a stated threshold ε: the flow itself never reaches zero.
"""

from evodyn.analysis.extinction_rates import ExtinctionRates, extinction_rates
from evodyn.analysis.extinction_times import asymptotic_extinction_times, exact_extinction_times
from evodyn.analysis.mutation_theory import error_threshold, mutation_mass_floor, protective_mutation_rate
from evodyn.analysis.sparsity import equilibrium_sparsity

__all__ = [
    "ExtinctionRates",
    "asymptotic_extinction_times",
    "equilibrium_sparsity",
    "error_threshold",
    "exact_extinction_times",
    "extinction_rates",
    "mutation_mass_floor",
    "protective_mutation_rate",
]
