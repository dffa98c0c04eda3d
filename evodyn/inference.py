"""Fitness, heterogeneity and extinctions from a record; the public address of `evodyn.analysis.inference`."""

from evodyn.analysis.inference import *  # noqa: F403
from evodyn.analysis.inference import __all__ as __all__
