"""How to integrate: the specification, and the choice that "auto" makes."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

from evodyn import validation
from evodyn.dynamics import Dynamics, clip_acts
from evodyn.specifications import Specification
from evodyn.steppers import SOLVERS

__all__ = ["METHODS", "Method", "Solver", "chosen_method"]

Method = Literal["auto", "closed_form", "RK45", "RK23", "DOP853", "Radau", "BDF", "LSODA"]

METHODS = ("auto", "closed_form", *SOLVERS)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Solver(Specification):
    """How to integrate.

    Parameters
    ----------
    method : str, optional
        "auto" takes the closed form where there is one (fitness constant between breakpoints, no clip, no
        mutation), else "RK45", or "DOP853" for tolerances below 1e-9. Where their steps show that the
        problem is stiff it goes on with an implicit method: "LSODA" for a few hundred groups, "BDF" for
        more whose Jacobian is known to be diagonal plus low rank. With a clip it takes "LSODA".
        `Run.stats` says which and why. "closed_form" and
        every SciPy name ("RK45", "RK23", "DOP853", "Radau", "BDF", "LSODA") force one.
    rtol, atol : float, optional
        The local error of every ln p_i is kept below rtol + atol. Neither multiplies |ln p|: an error of
        ln p is a relative error of p already, whatever p is. (A group far below its mutation floor is held
        to a thousandth of that relative to the floor. Where fitness has kinks, as a signal clip makes them,
        the explicit methods' estimates of their errors are themselves rough: "LSODA" is then closer.)
    max_step : float, optional
        Longest step, in units of time. Lower it for a landscape with features that are short against its
        own time scale and that declares no breakpoints.
    max_steps : int, optional
        Most accepted steps of a run. Every single step has a cap on its evaluations, too.

    Raises
    ------
    ValueError
        If the method is unknown or a number is outside its range.

    Examples
    --------
    >>> Solver(rtol=1e-6).method
    'auto'
    """

    method: Method = "auto"
    rtol: float = 1e-8
    atol: float = 1e-10
    max_step: float = math.inf
    max_steps: int = 100_000

    def __post_init__(self) -> None:
        validation.choice("method", self.method, METHODS)
        rtol = validation.non_negative("rtol", self.rtol)
        atol = validation.non_negative("atol", self.atol)
        if not 1e-14 <= rtol + atol <= 1:
            raise ValueError(
                f"rtol + atol is {rtol + atol:g}; expected between 1e-14, the precision of doubles, and 1."
            )
        self._set(
            rtol=rtol,
            atol=atol,
            max_step=validation.positive("max_step", self.max_step, infinite=True),
            max_steps=validation.count("max_steps", self.max_steps),
        )

    @property
    def tolerance(self) -> float:
        """The bound on the local error of every ln p_i."""
        return self.rtol + self.atol


def chosen_method(dynamics: Dynamics, n: int, solver: Solver) -> tuple[str, str]:
    """Return the method to begin with, and why."""
    if solver.method != "auto":
        return solver.method, "asked for"
    if any(clip_acts(member) for _, member in dynamics.blocks(n)):
        return "LSODA", "fitness has kinks where the clip acts, which mislead the explicit methods"
    # In log-masses the eighth order starts to pay only there: above, it takes as many evaluations or more.
    method = "RK45" if solver.tolerance >= 1e-9 else "DOP853"
    return method, "no closed form, and no steps that would show the problem to be stiff"
