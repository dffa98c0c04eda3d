"""The form of fitness that compiled methods know, and that a landscape states as its kernel."""

from __future__ import annotations

import dataclasses

from evodyn.core.arrays import FloatArray

__all__ = ["NormalForm", "Swing"]


@dataclasses.dataclass(frozen=True, eq=False)
class Swing:
    """The part s_i sin ωt + c_i cos ωt of fitness.

    Attributes
    ----------
    frequency : float
        ω > 0, in radians per unit of time.
    sines, cosines : numpy.ndarray, shape (N,)
        s_i and c_i, in units of fitness.

    Examples
    --------
    >>> import evodyn as ed
    >>> form = ed.landscapes.Seasonal([1.0, 2.0], amplitude=[0.5, 0.0], period=4.0).kernel(0.0, 2)
    >>> form.swings[0].sines, round(form.swings[0].frequency, 4)
    (array([0.5, 0. ]), 1.5708)
    """

    frequency: float
    sines: FloatArray
    cosines: FloatArray


@dataclasses.dataclass(frozen=True, eq=False)
class NormalForm:
    """Fitness φ_i = c_i - λp_i - T ln p_i + swings + (Bp)_i + (Ax)_i with shares x = p/P.

    Sums of landscapes add their forms: whatever is a sum of such terms is compiled.

    Attributes
    ----------
    contribution : numpy.ndarray, shape (N,)
        c_i, in units of fitness.
    decay : float
        λ, in units of fitness per mass.
    temperature : float
        T, in units of fitness.
    swings : tuple of Swing
    competition : numpy.ndarray, shape (N, N), or None
        B, in units of fitness per mass.
    payoff : numpy.ndarray, shape (N, N), or None
        A, in units of fitness.

    Examples
    --------
    >>> import evodyn as ed
    >>> landscape = ed.landscapes.LinearDecay([1.0, 2.0], 0.5) + ed.landscapes.Constant([1.0, 1.0])
    >>> form = landscape.kernel(0.0, 2)
    >>> form.contribution, form.decay
    (array([2., 3.]), 0.5)
    """

    contribution: FloatArray
    decay: float = 0.0
    temperature: float = 0.0
    swings: tuple[Swing, ...] = ()
    competition: FloatArray | None = None
    payoff: FloatArray | None = None

    def __add__(self, other: NormalForm) -> NormalForm:
        return NormalForm(
            self.contribution + other.contribution,
            self.decay + other.decay,
            self.temperature + other.temperature,
            self.swings + other.swings,
            _sum(self.competition, other.competition),
            _sum(self.payoff, other.payoff),
        )


def _sum(one: FloatArray | None, other: FloatArray | None) -> FloatArray | None:
    """Return the sum of matrices, of which either may be absent."""
    return other if one is None else one if other is None else one + other
