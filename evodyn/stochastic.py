"""Noise of three kinds, the public address of `evodyn.noise.stochastic`."""

from evodyn.noise.stochastic import *  # noqa: F403
from evodyn.noise.stochastic import __all__ as __all__
