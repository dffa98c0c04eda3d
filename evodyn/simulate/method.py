"""How to integrate: the specification, and the choice that "auto" makes."""

from __future__ import annotations

import dataclasses
import importlib
import math
from collections.abc import Callable
from typing import Any, Literal

from scipy.integrate import OdeSolver

from evodyn.core import validation
from evodyn.core.extras import extra
from evodyn.core.specifications import Specification
from evodyn.model.dynamics import Dynamics, clip_acts
from evodyn.solvers.compilation import prepare_if_possible, ready
from evodyn.solvers.pairs import DOP853, TSIT5
from evodyn.solvers.protocol import Method
from evodyn.solvers.scipy_methods import LARGEST_DENSE, METHODS, ScipyMethod
from evodyn.solvers.switching import Switching

__all__ = ["MethodName", "Solver", "chosen_method"]

_LOOSE = 2e-5
"""Tolerance from which on the eighth order takes as many evaluations as the fifth, or more."""

MethodName = Literal["auto", "closed_form", "RK45", "RK23", "DOP853", "Radau", "BDF", "LSODA"]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Solver(Specification):
    """How to integrate.

    Parameters
    ----------
    method : str or subclass of scipy.integrate.OdeSolver, optional
        "auto" takes the closed form where there is one (fitness constant between breakpoints, no clip, no
        mutation), else "DOP853", or "Tsit5" for tolerances above 2e-5. Where their steps show that the
        problem is stiff they turn to "Rodas5P", as long as it is, if the Jacobian is a diagonal plus low
        rank: as the landscape states it, or measured as if each group's fitness depended on its own mass
        alone, and compared at every step with what the landscape does. Otherwise it goes on with "LSODA"
        for up to a thousand groups. With a clip it takes "LSODA", or "RK23" for more than 300 groups.
        `Run.stats` says which and why. "closed_form" and every SciPy
        name ("RK45", "RK23", "DOP853", "Radau", "BDF", "LSODA") force one. A class of your own that is built
        like SciPy's is used as these are; a saved run stores it by its name.
    rtol, atol : float, optional
        The local error of every ln p_i is kept below rtol + atol. Neither multiplies |ln p|: an error of
        ln p is a relative error of p already, whatever p is. (A group far below the mass at which mutation
        balances selection is held to a thousandth of that, relative to a hundredth of that mass. Where
        fitness or a rate has kinks or jumps that are not declared, the estimates of higher orders
        are themselves rough, by a factor of a hundred: "LSODA", "RK23" and "Radau" are then closer.)
    max_step : float, optional
        Longest step, in units of time. Fitness and mutation rates are sampled within quiet steps, so that
        what is on for 1 % of `t_span` or longer is seen. What is on for less may be passed over once the
        system has settled: lower `max_step` to that length, or declare the times in a method
        ``breakpoints(t_span)`` of the landscape, the dynamics or the callable mutation rate.
    compiled : bool, optional
        Whether "auto" may use the compiled methods, "Tsit5" (for up to eight groups that interact "Taylor")
        with "Rodas5P" where the problem is stiff, for fitness that has a `NormalForm` and totals that are
        known. They need numba (the extra "fast"). By default they are used where their code lies ready, which
        ``python -m evodyn.compile`` sees to once; with True that is done first if need be.
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

    method: MethodName | type[OdeSolver] | Callable[..., Any] = "auto"
    rtol: float = 1e-8
    atol: float = 1e-10
    max_step: float = math.inf
    max_steps: int = 100_000
    compiled: bool | None = None

    def __post_init__(self) -> None:
        if not callable(self.method):  # a saved run has its name only, and says so when it is called
            validation.choice("method", self.method, ("auto", "closed_form", *METHODS))
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
        if self.compiled is not None and not isinstance(self.compiled, bool):
            raise ValueError(
                f"compiled is {self.compiled!r}; expected True, False, or None to use what is ready."
            )

    @property
    def compiles(self) -> bool:
        """Whether compiled methods are used where they know the problem.

        Raises
        ------
        ImportError
            If they were asked for and numba is not there; it names the extra.
        """
        if self.method != "auto" or self.compiled is False:
            return False
        if self.compiled is None:
            return ready()
        with extra("fast", user="Solver(compiled=True)"):
            importlib.import_module("numba")
        prepare_if_possible()
        return True

    @property
    def tolerance(self) -> float:
        """The bound on the local error of every ln p_i."""
        return self.rtol + self.atol


def chosen_method(dynamics: Dynamics, n: int, solver: Solver) -> tuple[Method, str]:
    """Return the method to begin with, and why.

    Raises
    ------
    ValueError
        If the method is a callable and no integrator.
    """
    asked: Any = solver.method
    if isinstance(asked, str) and asked != "auto":
        return METHODS[asked], "asked for"
    if asked != "auto":
        if not (isinstance(asked, type) and issubclass(asked, OdeSolver)):
            raise ValueError(
                f"method is {asked!r}; expected one of {', '.join(METHODS)}, 'auto', 'closed_form', or a "
                "subclass of scipy.integrate.OdeSolver."
            )
        return ScipyMethod(asked.__name__, asked), "asked for"
    if any(clip_acts(member) for _, member in dynamics.blocks(n)):
        if n <= LARGEST_DENSE:
            return METHODS["LSODA"], "fitness has kinks where the clip acts, which mislead higher orders"
        return METHODS["RK23"], "fitness has kinks where the clip acts, and LSODA's Jacobian would be large"
    return Switching(
        TSIT5 if solver.tolerance >= _LOOSE else DOP853
    ), "no closed form, and no kernel that is compiled"
