"""What the integrator's loop asks of a numerical method, and what a method is told of the problem."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from evodyn.core.arrays import FloatArray
from evodyn.model.structure import DiagonalPlusLowRank

__all__ = ["Jacobian", "Method", "RightHandSide", "StalledError", "Stepper", "StiffnessWatch", "System"]

Jacobian = Callable[[float, FloatArray], DiagonalPlusLowRank]
"""∂(dy/dt)/∂y at a time and a state."""


class StalledError(Exception):
    """One step used up its evaluations."""


class RightHandSide:
    """dy/dt as a function of (t, y), counted, and capped for each step.

    Parameters
    ----------
    velocity : callable
        ``velocity(t, y) -> dy/dt``, shape (n,).
    cap : int
        Most evaluations of one step.
    rejects_nan : bool
        Whether the method shortens its step where a velocity is NaN. What the velocity raises is then kept
        as `failure`, and NaN returned: the method gets as far as the velocity goes.
    """

    def __init__(self, velocity: Callable[[float, FloatArray], FloatArray], cap: int, *, rejects_nan: bool):
        self.velocity = velocity
        self.cap = cap
        self.rejects_nan = rejects_nan
        self.failure: Exception | None = None
        self.evaluations = 0
        self.allowed = cap
        self.latest = -math.inf

    def __call__(self, t: float, y: FloatArray) -> FloatArray:
        self.evaluations += 1
        self.latest = t
        if self.evaluations > self.allowed:
            raise StalledError
        try:
            return self.velocity(t, y)
        except Exception as failure:
            if not self.rejects_nan:
                raise
            self.failure = failure
            return np.full_like(y, np.nan)

    def sampled(self, values: Callable[[float], FloatArray]) -> Callable[[float], FloatArray]:
        """Return a function of time that asks the landscape, counted, NaN where nothing can be had."""

        def counted(t: float) -> FloatArray:
            self.evaluations += 1
            try:
                return values(t)
            except Exception:  # the method will say what is wrong when it gets there
                return np.full(1, np.nan)

        return counted

    def next_step(self) -> None:
        """Grant the next step its evaluations."""
        self.allowed = self.evaluations + self.cap


@dataclasses.dataclass(frozen=True)
class System:
    """An initial value problem, with what a method may know of it.

    Attributes
    ----------
    rhs : RightHandSide
    atol, rtol : numpy.ndarray, shape (n,)
        Tolerance of each component, absolute and relative, as `Method.tolerance` asks.
    max_step : float
        Longest step.
    jacobian : callable or None
        The Jacobian as diagonal plus low rank, where it is known and a dense one would be dear.
    drift_free : bool
        Whether an error common to all components has no meaning.
    structure : callable or None
        The Jacobian as diagonal plus low rank, stated or, where it is not, measured as if nothing but its
        diagonal were unknown; it answers None where it cannot tell. What is measured may be wrong.
    steady : bool
        Whether it is known that the right-hand side does not depend on time.
    """

    rhs: RightHandSide
    atol: FloatArray
    rtol: FloatArray
    max_step: float
    jacobian: Jacobian | None
    drift_free: bool
    structure: Callable[[float, FloatArray], DiagonalPlusLowRank | None] | None = None
    steady: bool = False


class Stepper(Protocol):
    """A method at work on one system.

    Attributes
    ----------
    t, y : float and numpy.ndarray, shape (n,)
        Where it stands.
    status : {"running", "finished", "failed"}
    name : str
        The method that made the last step.
    again : Method
        What takes the last step once more, beginning as it did.
    looked : sequence of float
        Where within the last step the right-hand side was looked at, in units of the step.
    """

    @property
    def name(self) -> str: ...
    @property
    def again(self) -> Method: ...
    @property
    def looked(self) -> Sequence[float]: ...
    @property
    def t(self) -> float: ...
    @property
    def y(self) -> FloatArray: ...
    @property
    def status(self) -> str: ...

    def step(self) -> str:
        """Take one step; return what the method has to say, empty if nothing."""

    def interpolant(self) -> Callable[[FloatArray], FloatArray]:
        """Return the states, shape (m, n), at times, shape (m,), within the last step."""

    def held_back(self) -> bool:
        """Tell whether the last step was as long as stability allows, not accuracy."""


class Method(Protocol):
    """A numerical method.

    Attributes
    ----------
    name : str
    explicit : bool
        Whether it controls the largest error, and rejects a step in which a velocity is NaN.
    one_step : bool
        Whether its interpolant is less accurate than the ends of its steps.
    tells_stiffness : bool
        Whether `Stepper.held_back` can answer.
    """

    @property
    def name(self) -> str: ...
    @property
    def explicit(self) -> bool: ...
    @property
    def one_step(self) -> bool: ...
    @property
    def tells_stiffness(self) -> bool: ...

    def tolerance(self, bound: float, n: int, *, drift_free: bool) -> float:
        """Return the tolerance with which the error of each of `n` components stays below `bound`."""

    def start(
        self,
        system: System,
        t: float,
        y: FloatArray,
        stop: float,
        *,
        longest: float = math.inf,
        first: float | None = None,
    ) -> Stepper:
        """Begin at `t` and `y`, to go to `stop` in steps of at most `longest`, `first` the first."""


class StiffnessWatch:
    """Tells from its steps that a method is held back by stability, not by accuracy.

    Fifteen steps as long as stability allows, without six others in a row, are a sign of stiffness (Hairer
    and Wanner 1996, section IV.2).
    """

    def __init__(self) -> None:
        self.stiff = self.others = 0

    def sees(self, held_back: bool) -> bool:
        """Take one more step into account; tell whether the problem is stiff."""
        if held_back:
            self.stiff, self.others = self.stiff + 1, 0
        else:
            self.others += 1
            if self.others == 6:
                self.stiff = 0
        return self.stiff >= 15
