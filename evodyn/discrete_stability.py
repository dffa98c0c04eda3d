"""Where the discrete maps part from the flow; the public address of `evodyn.analysis.discrete_stability`."""

from evodyn.analysis.discrete_stability import *  # noqa: F403
from evodyn.analysis.discrete_stability import __all__ as __all__
