"""Plots: each function takes an Axes, or makes one, and returns it.

`masses` and `muller` show one run, `extinct_fraction` a run or an ensemble, `network` the masses of many
groups as bands, `simplex` and `tetrahedron` the flow of three and four groups. Darker is fitter, or faster;
filled marks attract, empty ones repel: all of it can be read in grey.
"""

from evodyn.core.extras import extra

with extra("plots", user="evodyn.plots"):
    from evodyn.plots.bands import network
    from evodyn.plots.fractions import extinct_fraction
    from evodyn.plots.stacks import muller
    from evodyn.plots.ternary import simplex
    from evodyn.plots.tetrahedral import tetrahedron
    from evodyn.plots.trajectories import masses

__all__ = ["extinct_fraction", "masses", "muller", "network", "simplex", "tetrahedron"]
