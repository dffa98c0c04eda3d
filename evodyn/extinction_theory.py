"""Extinction without simulation; the public address of `evodyn.analysis.extinction_theory`."""

from evodyn.analysis.extinction_theory import *  # noqa: F403
from evodyn.analysis.extinction_theory import __all__ as __all__
