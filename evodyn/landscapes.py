"""Fitness landscapes, the public address of `evodyn.model.landscapes`."""

from evodyn.model.landscapes import *  # noqa: F403
from evodyn.model.landscapes import __all__ as __all__
