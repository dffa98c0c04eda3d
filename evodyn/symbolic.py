"""The dynamics in SymPy; the public address of `evodyn.analysis.symbolic`."""

from evodyn.analysis.symbolic import *  # noqa: F403
from evodyn.analysis.symbolic import __all__ as __all__
