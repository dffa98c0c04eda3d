"""The dynamics of the paper: general selection and its three kinds (Eqs. 5-8 and 12-14)."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from evodyn.core import validation
from evodyn.core.arrays import Array, FloatArray, array_namespace, is_foreign, like
from evodyn.model.comparison import NOTHING, Comparison
from evodyn.model.dynamics import (
    EPS,
    Dynamics,
    cap_of,
    clip_acts,
    clip_of,
    next_generation,
    offspring,
    total_mass,
    weighted_mean,
)

__all__ = ["MeanComparison", "NormalizedGrowth", "Replicator", "Selection", "SelectionMutation"]


class MeanComparison(Dynamics):
    """Growth rates φ_i - φ̄, optionally clipped to ±signal_clip.

    Not a dataclass itself, so that each dynamics declares the field where its constructor has it.
    """

    autonomous = True
    compares_with_mean = True
    signal_clip: float | None

    def __post_init__(self) -> None:
        if self.signal_clip is not None:
            self._set(signal_clip=validation.positive("signal_clip", self.signal_clip, infinite=True))

    def growth_rates(self, masses: Array, fitness: Array, *, time: float = 0.0) -> Array:
        xp = array_namespace(masses)
        # The fitness of absent groups has no effect, and may be infinite (entropic landscapes).
        fitness = xp.where(masses > 0, fitness, 0.0)
        return self.rates_against(fitness, weighted_mean(xp, masses, fitness), time=time)

    def comparison(self, n: int, time: float) -> Comparison | None:
        return _unfed(clip_of(self), cap_of(self))

    def mass_law(self, n: int) -> tuple[float, float] | None:
        return None if clip_acts(self) else (0.0, 0.0)

    def _ratio_step(self, masses: Array, fitness: Array) -> Array:
        return (
            super()._ratio_step(masses, fitness)
            if clip_acts(self)
            else next_generation(masses, offspring(masses, fitness))
        )

    def rates_against(self, fitness: Array, mean: Array | float, *, time: float = 0.0) -> Array:
        """Return the growth rates of groups with finite `fitness`, given the mean fitness."""
        excess = fitness - mean
        if self.signal_clip is None:
            return excess
        return array_namespace(excess).clip(excess, -self.signal_clip, self.signal_clip)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Replicator(MeanComparison):
    """Replicator dynamics on unnormalised masses (Eqs. 6 and 12).

    dp_i/dt = p_i (φ_i - φ̄), with φ̄ = Σ p_j φ_j / Σ p_j.

    Total mass is conserved, a zero stays zero, and adding a constant to the fitness of all groups
    changes nothing. The Euler map conserves mass too, except where the projection or a clip acts.

    Parameters
    ----------
    signal_clip : float, optional
        κ > 0: φ_i - φ̄ is clipped to [-κ, κ], in the flow as in the map. Total mass is then no longer
        conserved, and after n steps of size η_p no mass is below p_i(0) (1 - η_p κ)^n.

    Raises
    ------
    ValueError
        If `signal_clip` is not a positive number.

    Examples
    --------
    >>> import numpy as np
    >>> Replicator().velocity(np.array([1.0, 3.0]), np.array([2.0, 0.0]))
    array([ 1.5, -1.5])
    """

    signal_clip: float | None = None


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class NormalizedGrowth(MeanComparison):
    """Normalised growth (Eqs. 7 and 13).

    dp_i/dt = p_i (φ_i - Σ p_j φ_j / Z), with Z = Σ p_j.

    The subtracted term is the mass-weighted mean fitness, so this *is* the replicator vector field,
    and one implementation serves both. What can differ is the cap.

    Parameters
    ----------
    mass_cap : float, optional
        Upper bound on the total mass. The map rescales all masses to it whenever they exceed it by more
        than rounding. The flow, at the cap, loses the positive part of the mass-weighted mean of its
        growth rates: the limit of the rescaled map for small steps. The cap can bind only where mass is
        not conserved, that is with a clip (or from masses above it, in the map).
    signal_clip : float, optional
        As for `Replicator`.

    Raises
    ------
    ValueError
        If either is not a positive number.

    Examples
    --------
    >>> import numpy as np
    >>> NormalizedGrowth(mass_cap=4.0).step(np.array([3.0, 3.0]), np.zeros(2), 0.1)
    array([2., 2.])
    """

    mass_cap: float | None = None
    signal_clip: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mass_cap is not None:
            self._set(mass_cap=validation.positive("mass_cap", self.mass_cap, infinite=True))

    def comparison(self, n: int, time: float) -> Comparison | None:
        return super().comparison(n, time)

    def _capped(self, masses: Array) -> Array:
        if self.mass_cap is None:
            return masses
        xp = array_namespace(masses)
        total = total_mass(xp, masses)
        # Rescaling at mere rounding would make Eqs. 12 and 13 differ in their last bits.
        beyond = total > self.mass_cap * (1 + masses.shape[-1] * EPS)
        if xp is np and not beyond.any():
            return masses
        return masses * xp.where(beyond, self.mass_cap / xp.where(beyond, total, 1.0), 1.0)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class SelectionMutation(MeanComparison):
    """Selection with mutation (Eqs. 8 and 14).

    dp_i/dt = p_i (φ_i - φ̄) + μ (m_i - p_i).

    Without a clip the total mass relaxes to M = Σ m_i as P(t) = M + (P(0) - M) exp(-μt). With the target
    as printed in the paper, m_i = 1/N, M is 1: from 768 unit masses it is a sink, not a neutral
    diffusion. In shares the mutation rate is μM/P.

    Parameters
    ----------
    mutation_rate : float or callable
        μ >= 0, a number or a function of time. A callable may have a method ``breakpoints(t_span)`` with
        the times at which it jumps, where the integrator restarts. Without, a rate that is on for 1 % of
        `t_span` or longer is seen; a shorter one needs it, or a `Solver` with a `max_step`.
    target : "uniform_share", float or array, optional
        m_i: 1/N for each group ("uniform_share", Eq. 8 as printed), one mass for every group, or one
        mass per group.
    signal_clip : float, optional
        As for `Replicator`; mutation is not clipped.

    Raises
    ------
    ValueError
        If the rate, the target or the clip is negative, not finite or of the wrong kind.

    Examples
    --------
    >>> import numpy as np
    >>> SelectionMutation(0.5, target=1.0).velocity(np.array([2.0, 0.0]), np.zeros(2))
    array([-0.5,  0.5])

    A rate that falls with time keeps diversity at first and gives it up later; its integral is finite, so
    that total mass never quite arrives at the target's, here 2 from 8.

    >>> import evodyn as ed
    >>> fitness = ed.landscapes.Constant([1.0, 0.8])
    >>> for rate in (0.2, lambda t: 0.2 * np.exp(-t / 5)):
    ...     run = ed.solve(SelectionMutation(rate, target=1.0), fitness, [4.0, 4.0], (0.0, 80.0))
    ...     print(run.masses[-1].round(3), run.total_mass[-1].round(3))
    [1.414 0.586] 2.0
    [4.207 0.   ] 4.207
    """

    compares_with_mean = True
    mutation_rate: float | Callable[[float], float]
    target: Literal["uniform_share"] | float | Array = "uniform_share"
    signal_clip: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not callable(self.mutation_rate):
            self._set(mutation_rate=validation.non_negative("mutation_rate", self.mutation_rate))
        if isinstance(self.target, str):
            validation.choice("target", self.target, ("uniform_share",))
        elif isinstance(self.target, int | float | np.number):
            self._set(target=validation.non_negative("target", self.target))
        else:
            self._set(
                target=validation.specification_array("target", self.target, ndim=1, least=0.0, scalar=True)
            )

    def mutation_rate_at(self, time: float) -> float:
        return self.rate(time)

    def rate(self, time: float) -> float:
        """Return μ at `time`.

        Raises
        ------
        ValueError
            If a callable rate returns a negative or non-finite number.
        """
        if not callable(self.mutation_rate):
            return self.mutation_rate
        rate = self.mutation_rate(time)
        return rate if is_foreign(rate) else validation.non_negative(f"mutation_rate({time:g})", rate)

    def target_masses(self, masses: Array) -> Array | float:
        """Return m_i for groups like those of `masses`: a number, or an array of shape (N,)."""
        if isinstance(self.target, str):
            return 1.0 / masses.shape[-1]
        return self.target if isinstance(self.target, float) else like(self.target, masses)

    def rates_against(self, fitness: Array, mean: Array | float, *, time: float = 0.0) -> Array:
        return super().rates_against(fitness, mean, time=time) - self.rate(time)

    def inflow(self, masses: Array, fitness: Array, *, time: float = 0.0) -> Array | float:
        return self.rate(time) * self.target_masses(masses)

    def comparison(self, n: int, time: float) -> Comparison | None:
        rate, target = self.rate(time), 1.0 / n if isinstance(self.target, str) else self.target
        if is_foreign(rate) or is_foreign(target):
            return None
        if isinstance(target, float):
            return _fed_alike(clip_of(self), rate, rate * target)
        return Comparison(clip_of(self), rate, rate * target)

    @property
    def autonomous(self) -> bool:  # type: ignore[override]
        """Whether the mutation rate is a number."""
        return not callable(self.mutation_rate)

    def mass_law(self, n: int) -> tuple[float, float] | None:
        if clip_acts(self) or callable(self.mutation_rate):
            return None
        return self.mutation_rate, float(np.sum(self.target_masses(np.zeros(n)) + np.zeros(n)))

    def steady_inflow(self, n: int) -> FloatArray | None:
        if callable(self.mutation_rate):
            return None
        return self.mutation_rate * (np.asarray(self.target_masses(np.zeros(n))) + np.zeros(n))

    def breakpoints(self, t_span: tuple[float, float]) -> npt.ArrayLike:
        declared: Any = getattr(self.mutation_rate, "breakpoints", None)
        return () if declared is None else declared(t_span)

    @property
    def groups(self) -> int | None:
        return int(self.target.shape[0]) if getattr(self.target, "ndim", 0) == 1 else None  # type: ignore[union-attr]

    def restricted(self, block: slice, n: int) -> SelectionMutation:
        self.check(n)
        return self if self.groups is None else dataclasses.replace(self, target=self.target[block])  # type: ignore[index]

    def _exponential_step(
        self, masses: Array, fitness: Array, growth: Array, step_size: float, *, time: float
    ) -> Array:
        # Selection first, then dp/dt = μ(m - p) solved exactly: both parts are positive.
        xp = array_namespace(masses)
        rate = self.rate(time)
        selected = masses * xp.exp(step_size * xp.where(masses > 0, growth + rate, 0.0))
        exponent = -rate * step_size * xp.ones_like(masses[..., :1])
        return selected * xp.exp(exponent) - self.target_masses(masses) * xp.expm1(exponent)

    def check(self, n: int) -> None:
        if getattr(self.target, "ndim", 0) == 1 and self.target.shape[0] != n:  # type: ignore[union-attr]
            raise ValueError(
                f"target has {self.target.shape[0]} entries; expected one for each of the {n} groups."  # type: ignore[union-attr]
            )


@functools.lru_cache(maxsize=16)
def _unfed(clip: float, cap: float) -> Comparison:
    return Comparison(clip, 0.0, NOTHING, cap)


@functools.lru_cache(maxsize=16)
def _fed_alike(clip: float, rate: float, inflow: float) -> Comparison:
    return Comparison(clip, rate, np.array([inflow]))


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Selection(Dynamics):
    """General selection (Eq. 5): dp_i/dt = p_i Φ_i(p).

    Parameters
    ----------
    function : callable
        ``function(masses, fitness) -> growth rates``, all of shape (..., N). Whatever it returns for an
        absent group is ignored: a zero stays zero.

    Raises
    ------
    ValueError
        If `function` is not callable.

    Examples
    --------
    Logistic growth towards a carrying capacity:

    >>> import numpy as np
    >>> logistic = Selection(lambda masses, fitness: fitness * (1 - masses))
    >>> logistic.velocity(np.array([0.5, 1.0]), np.array([2.0, 2.0]))
    array([0.5, 0. ])
    """

    function: Callable[[Array, Array], Array]

    autonomous = True

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise ValueError(
                f"function is {self.function!r}; expected a callable (masses, fitness) -> growth rates."
            )

    def growth_rates(self, masses: Array, fitness: Array, *, time: float = 0.0) -> Array:
        xp = array_namespace(masses)
        growth = self.function(masses, fitness)
        if type(masses) is np.ndarray:
            growth = np.asarray(growth)
        if growth.shape[-1:] != masses.shape[-1:]:
            raise ValueError(
                f"function returned shape {tuple(growth.shape)}; expected growth rates for the "
                f"{masses.shape[-1]} groups."
            )
        return xp.where(masses > 0, growth, 0.0)
