"""Noise of three kinds, which are different models: in fitness, in its estimate, and of finite numbers.

- `fitness_noise`: the environment fluctuates; every group's growth has white noise, and the calculus (Itô
  or Stratonovich) decides who survives. Mutation may feed the groups.
- `noisy_iterate`: fitness is estimated anew, without bias, at every step of a discrete map; the world
  itself is not noisy.
- `wright_fisher` and `moran`: a finite number of individuals reproduces by sampling, all at once or one after
  another; small groups drift to extinction.

Member k of an ensemble draws from spawn key k of the seed, so that neither the number of members nor what
else is computed changes what it does.
"""

from evodyn.noise.environment import Calculus, fitness_noise
from evodyn.noise.estimates import noisy_iterate
from evodyn.noise.laws import hitting_time_law, long_run_growth, stationary_odds_law
from evodyn.noise.moran import moran, moran_fixation_probability, moran_matrix, stationary_law
from evodyn.noise.runs import StochasticRuns
from evodyn.noise.wright_fisher import fixation_probability, wright_fisher, wright_fisher_matrix

__all__ = [
    "Calculus",
    "StochasticRuns",
    "fitness_noise",
    "fixation_probability",
    "hitting_time_law",
    "long_run_growth",
    "moran",
    "moran_fixation_probability",
    "moran_matrix",
    "noisy_iterate",
    "stationary_law",
    "stationary_odds_law",
    "wright_fisher",
    "wright_fisher_matrix",
]
