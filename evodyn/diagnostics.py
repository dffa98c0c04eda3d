"""Diagnostics along a trajectory; the public address of `evodyn.analysis.diagnostics`."""

from evodyn.analysis.diagnostics import *  # noqa: F403
from evodyn.analysis.diagnostics import __all__ as __all__
