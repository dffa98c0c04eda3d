"""Branches of rest points over one parameter: through folds, and past exchanges of stability."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from evodyn.core import validation
from evodyn.core.arrays import FloatArray, frozen
from evodyn.core.specifications import Specification
from evodyn.equilibria.conditions import RestPointProblem
from evodyn.equilibria.continuation import Passage, Path, Problem
from evodyn.equilibria.equilibrium import Equilibrium, equilibrium
from evodyn.equilibria.newton import newton
from evodyn.equilibria.stability import Stability

__all__ = ["Branch", "Passage", "branch"]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Branch(Specification):
    """Rest points along a curve; `branch` makes it. Arrays are read-only.

    Attributes
    ----------
    parameters : array, shape (T,)
        The parameter, which may go back and forth.
    equilibria : tuple of Equilibrium, length T
        The rest points.
    passages : tuple of Passage
        Where stability may change, in order.
    ended : str
        Why the branch ends where it does.

    Examples
    --------
    >>> import evodyn as ed
    >>> def problem(decay):
    ...     return ed.Replicator(), ed.landscapes.LinearDecay([1.0, 0.5], decay)
    >>> ed.branch(problem, (1.0, 0.2), total_mass=1.0)
    Branch(28 rest points, extinction at 0.5; the parameter reached 0.2)
    """

    parameters: FloatArray
    equilibria: tuple[Equilibrium, ...]
    passages: tuple[Passage, ...]
    ended: str

    def __repr__(self) -> str:
        seen = ", ".join(f"{each.kind} at {each.parameter:.4g}" for each in self.passages)
        return f"Branch({len(self.parameters)} rest points, {seen or 'no passages'}; {self.ended})"

    @property
    def masses(self) -> FloatArray:
        """Masses at the rest points, shape (T, N)."""
        return np.array([point.masses for point in self.equilibria])

    @property
    def stability(self) -> tuple[Stability, ...]:
        """Their stability."""
        return tuple(point.stability for point in self.equilibria)

    @property
    def stable(self) -> npt.NDArray[np.bool_]:
        """Which are asymptotically stable, shape (T,)."""
        return np.array([verdict is Stability.STABLE for verdict in self.stability])


def branch(
    problem: Problem,
    interval: tuple[float, float],
    *,
    start: npt.ArrayLike | None = None,
    total_mass: float | npt.ArrayLike | None = None,
    longest_step: float = 0.05,
    most_points: int = 500,
) -> Branch:
    """Follow a branch of rest points over a parameter, by pseudo-arclength continuation.

    Parameters
    ----------
    problem : callable
        parameter -> (dynamics, landscape).
    interval : tuple of float
        Where the parameter begins, and where it goes; the branch ends where it leaves the interval.
    start : array_like, shape (N,), optional
        Masses near a rest point at the beginning, whose groups with mass the branch keeps; by default what
        `equilibrium` returns there.
    total_mass : float or array of shape (K,), optional
        As for `equilibrium`, without `start`.
    longest_step : float, optional
        Greatest distance of two points, in shares of total mass and parts of the interval.
    most_points : int, optional
        After which the branch ends.

    Returns
    -------
    Branch

    Raises
    ------
    ValueError
        As for `equilibrium`; also where there is no rest point near `start`.

    Notes
    -----
    Masses and parameter are unknowns alike, so that folds are points like others. Rates are those of the
    groups with mass: where one of them falls to 0 the branch meets one without that group, which takes over
    its stability, and goes on there in the same direction of the parameter. A branch on which an absent group
    can invade goes on as it was; give masses in which the group is rare as `start` for the other one.
    Every point is judged as by `equilibrium`, which up to a few hundred groups takes a fraction of a second.

    Examples
    --------
    Two groups of which the first is fit only where both are common, φ = (x_1 x_2, a): two rest points meet at
    a = 1/4 and vanish.

    >>> import numpy as np
    >>> from evodyn import Replicator, branch
    >>> def problem(a):
    ...     return Replicator(), lambda t, p: np.stack([p[0] * p[1] / p.sum() ** 2, a])
    >>> found = branch(problem, (0.1, 0.5), start=[0.9, 0.1])
    >>> [(each.kind, round(each.parameter, 6), each.masses.round(3)) for each in found.passages]
    [('fold', 0.25, array([0.5, 0.5]))]
    >>> found.stability[0].name, found.stability[-1].name, found.ended
    ('STABLE', 'UNSTABLE', 'the parameter reached 0.1')
    """
    low, high = sorted(validation.finite(f"interval[{k}]", end) for k, end in enumerate(interval))
    if not low < high:
        raise ValueError(f"interval is {tuple(interval)!r}; expected two different values of the parameter.")
    longest = validation.positive("longest_step", longest_step)
    validation.count("most_points", most_points)
    dynamics, landscape = problem(float(interval[0]))
    if start is None:
        start = equilibrium(dynamics, landscape, total_mass=total_mass, eigenvalues=False).masses
        total_mass = None
    first = RestPointProblem.of(dynamics, landscape, None, None, start)
    path = Path(problem, first, (float(interval[0]), float(interval[1])))
    masses = newton(dataclasses.replace(first, exact=True, affine=None), np.asarray(first.start)).masses
    points, passages, ended = path.followed(masses, longest, most_points)
    return Branch(
        parameters=frozen([point.parameter for point in points]),
        equilibria=tuple(map(path.judged, points)),
        passages=passages,
        ended=ended,
    )
