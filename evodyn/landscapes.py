"""Fitness landscapes: functions of time and masses that return the fitness of every group.

A landscape is any callable ``landscape(t, masses) -> fitness`` with arrays of shape (..., N). Those here
are frozen specifications that work on arrays of any array-API library, and they add with ``+``, plain
callables on either side included. A landscape may also define

- ``breakpoints(t_span)``: times at which it is not smooth; the integrator restarts there (a change that is
  not declared is seen where it lasts for 1 % of the time span or longer);
- ``at_log_masses(t, log_masses)``: the same fitness from log-masses, for landscapes in ln p;
- ``linearization(t, log_masses)``: the Jacobian ∂φ_i/∂ln p_j as `DiagonalPlusLowRank`;
- ``autonomous``: whether fitness does not depend on time (None, or nothing: that is found out);
- ``kernel(t, n)``: the `NormalForm` of fitness until the next breakpoint, which is compiled; with
  ``exact_kernel``, that fitness is computed as c - λp from it, many steps of a map are one compiled call;
- ``separable(n)``, ``affine(n, total)``, ``potential(masses, log_masses)``: forms of fitness that have rest
  points in closed form or climb a function, as the methods of `Landscape` say.
"""

from evodyn.model.block_games import BlockGame
from evodyn.model.fitness import (
    Landscape,
    LandscapeFunction,
    Separable,
    Sum,
    breakpoints,
    fitness_at_log_masses,
    linearization,
)
from evodyn.model.games import MatrixGame
from evodyn.model.landscapes import Constant, Entropic, LinearDecay, Recorded, Redundancy, Seasonal
from evodyn.model.laws import contributions
from evodyn.model.normal_form import NormalForm, Swing
from evodyn.model.structure import DiagonalPlusLowRank

__all__ = [
    "BlockGame",
    "Constant",
    "DiagonalPlusLowRank",
    "Entropic",
    "Landscape",
    "LandscapeFunction",
    "LinearDecay",
    "MatrixGame",
    "NormalForm",
    "Recorded",
    "Redundancy",
    "Seasonal",
    "Separable",
    "Sum",
    "Swing",
    "breakpoints",
    "contributions",
    "fitness_at_log_masses",
    "linearization",
]
