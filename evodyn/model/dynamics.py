"""Selection dynamics: velocities (Eqs. 5-8) and discrete maps (Eqs. 12-14) of population masses.

All of them have the form

    dp_i/dt = p_i g_i(p, φ) + f_i(t),

with per-capita *growth rates* g and a non-negative *inflow* f (mutation only). That decomposition is
written once, here; flows in log-shares, maps on the masses and the network's selector all call it.
Arrays of any array-API library pass through unchanged in kind, with any number of leading batch axes.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from evodyn.core import validation
from evodyn.core.arrays import Array, FloatArray, array_namespace, float64, is_foreign, like
from evodyn.core.specifications import Specification

__all__ = [
    "Dynamics",
    "NormalizedGrowth",
    "Populations",
    "Replicator",
    "Scheme",
    "Selection",
    "SelectionMutation",
    "mean_fitness",
]

Scheme = Literal["euler", "exponential"]
SCHEMES = ("euler", "exponential")
_EPS = 2.0**-52
_FEW_BLOCKS = 8  # are evaluated one by one, bit for bit what each is alone


def mean_fitness(masses: Array, fitness: Array) -> Array:
    """Return the mass-weighted mean fitness Σ p_i φ_i / P.

    Parameters
    ----------
    masses, fitness : array, shape (..., N)
        Masses p_i >= 0 and fitness φ_i. The fitness of absent groups (p_i = 0) does not matter, and
        may be infinite or NaN.

    Returns
    -------
    array, shape (..., 1)
        The mean; 0 where the total mass is 0.

    Examples
    --------
    >>> import numpy as np
    >>> mean_fitness(np.array([3.0, 1.0]), np.array([1.0, 5.0]))
    array([2.])
    """
    xp = array_namespace(masses)
    return _mean(xp, masses, xp.where(masses > 0, fitness, 0.0))


def _mean(xp: Any, masses: Array, fitness: Array) -> Array:
    """Return the mean of finite fitness."""
    total = xp.sum(masses, axis=-1, keepdims=True)
    return xp.vecdot(masses, fitness)[..., None] / xp.where(total > 0, total, 1.0)


def _check_shapes(masses: Array, fitness: Array) -> None:
    if masses.ndim == 0 or masses.shape[-1] == 0:
        raise ValueError(f"masses have shape {tuple(masses.shape)}; expected (..., N) with N >= 1 groups.")
    if fitness.shape == masses.shape:
        return
    try:
        np.broadcast_shapes(tuple(fitness.shape), tuple(masses.shape))
        agree = fitness.shape[-1:] == masses.shape[-1:]
    except ValueError:
        agree = False
    if not agree:
        raise ValueError(
            f"fitness has shape {tuple(fitness.shape)}; expected one value for each of the "
            f"{masses.shape[-1]} groups of masses with shape {tuple(masses.shape)}."
        )


def _asks_for_fitness(inflow: Callable[..., Array | float]) -> bool:
    """Tell whether `inflow`, a method, takes fitness after masses, under any name."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(inflow).parameters.values()
    own = [p for p in parameters if p.kind in kinds and p.name != "time"]
    return len(own) > 2 or any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in parameters)


def _asked_without_fitness(inflow: Callable[..., Array | float]) -> Callable[..., Array | float]:
    """Return `inflow`, a method without the parameter `fitness`, as one that has it."""

    @functools.wraps(inflow)
    def asked(self: Any, masses: Array, fitness: Array, *, time: float = 0.0) -> Array | float:
        return inflow(self, masses, time=time)

    return asked


class _Plain:
    """What a dynamics is unless it says otherwise. Not a dataclass, so that a field may take each name."""

    autonomous: bool | None = None
    """Whether neither growth rates nor inflow depend on time, given fitness; None where that is not said."""
    compares_with_mean: bool = False
    """Whether growth rates are φ_i - φ̄ (clipped, and less a mutation rate), by `rates_against`."""
    mass_cap: float | None = None
    """Greatest total mass; None without one."""
    signal_clip: float | None = None
    """Bound on |φ_i - φ̄|; None without one."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Dynamics(_Plain, Specification, ABC):
    """Base of the dynamics: `velocity` and `step` from growth rates and inflow.

    Examples
    --------
    A dynamics of one's own says how fast groups grow, and everything else follows: here fitness itself,
    which with density dependence is competition of the kind of Lotka and Volterra.

    >>> import dataclasses
    >>> import evodyn as ed
    >>> @dataclasses.dataclass(frozen=True, eq=False, repr=False)
    ... class LotkaVolterra(ed.Dynamics):
    ...     def growth_rates(self, masses, fitness, *, time=0.0):
    ...         return fitness
    >>> landscape = ed.landscapes.LinearDecay([1.0, 2.0], decay=1.0)
    >>> run = ed.solve(LotkaVolterra(), landscape, [0.1, 0.1], (0.0, 40.0))
    >>> run.masses[-1].round(6)
    array([1., 2.])
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        own = vars(cls)
        # What a base says of its flow holds no longer where the flow is another.
        if "growth_rates" in own or "inflow" in own:
            for name in {"autonomous", "mass_law", "steady_inflow"} - set(own):
                setattr(cls, name, getattr(Dynamics, name))
            if "autonomous" not in own:
                cls.autonomous = None
        if "growth_rates" in own and "compares_with_mean" not in own:
            cls.compares_with_mean = False
        if "inflow" in own and not _asks_for_fitness(own["inflow"]):
            cls.inflow = _asked_without_fitness(own["inflow"])  # type: ignore[method-assign]

    @abstractmethod
    def growth_rates(self, masses: Array, fitness: Array, *, time: float = 0.0) -> Array:
        """Return the per-capita growth rates g_i; those of absent groups have no meaning, but are finite.

        Parameters
        ----------
        masses, fitness : array, shape (..., N)
            Float64 masses p_i >= 0 and their fitness.
        time : float
            Time, for rates that depend on it.

        Returns
        -------
        array, shape (..., N)
            g_i in units of 1/time.
        """

    def inflow(self, masses: Array, fitness: Array, *, time: float = 0.0) -> Array | float:
        """Return the inflow f_i >= 0, which reaches groups without mass as well (0 without mutation).

        A subclass may leave out the parameter `fitness`.

        Parameters
        ----------
        masses, fitness : array, shape (..., N)
            As for `growth_rates`.
        time : float
            Time, for rates that depend on it.

        Returns
        -------
        array, shape (..., N) or (N,), or float
            f_i in units of mass/time.
        """
        return 0.0

    def velocity(self, masses: Array, fitness: Array, *, time: float = 0.0) -> Array:
        """Return dp/dt (Eq. 5, 6, 7 or 8).

        Parameters
        ----------
        masses : array, shape (..., N)
            Masses p_i >= 0, of any array-API library; leading axes are a batch.
        fitness : array, shape (..., N)
            Fitness φ_i. That of absent groups may be infinite.
        time : float, optional
            Time, for mutation rates that depend on it.

        Returns
        -------
        array, shape (..., N)
            Velocities in float64. Values are not checked, so that no device is waited for.

        Raises
        ------
        ValueError
            If the shapes do not agree.
        """
        masses, fitness = self._prepared(masses, fitness)
        growth = self.growth_rates(masses, fitness, time=time)
        return masses * growth + self.inflow(masses, fitness, time=time)

    def step(
        self, masses: Array, fitness: Array, step_size: float, *, time: float = 0.0, scheme: Scheme = "euler"
    ) -> Array:
        """Return the masses after one step of the discrete map (Eq. 12, 13 or 14).

        The order is: clip φ - φ̄, step, project onto the non-negative orthant, cap the total.

        Parameters
        ----------
        masses, fitness : array, shape (..., N)
            As for `velocity`.
        step_size : float
            η_p >= 0, in units of 1/fitness.
        time : float, optional
            Time at the start of the step, for mutation rates that depend on it.
        scheme : {"euler", "exponential"}, optional
            "euler" is the paper's p + η_p·velocity. "exponential" is p exp(η_p g), followed by the exact
            linear mutation: positive for every step size, and for frozen fitness the exact flow up to
            the scalar that restores the total mass. It is not restored: exp is convex, so that every
            step adds mass, of the order of the variance of fitness times η_p².

        Returns
        -------
        array, shape (..., N)
            New masses in float64, on the device of `masses`; the input is untouched. Where the total
            mass is 0, zeros plus any inflow.

        Raises
        ------
        ValueError
            If the shapes do not agree, `step_size` is negative or not finite, or `scheme` is unknown.

        Notes
        -----
        The Euler map keeps p_i positive iff η_p (φ̄ - φ_i) < 1, with mutation iff
        η_p (φ̄ - φ_i + μ(1 - m_i/p_i)) <= 1; the projection, which creates mass, acts only beyond that.
        With a signal clip κ and no mutation or binding cap, masses stay within p_i(0) (1 ± η_p κ)^n.
        """
        validation.choice("scheme", scheme, SCHEMES)
        if not is_foreign(step_size):
            step_size = validation.non_negative("step_size", step_size)
        masses, fitness = self._prepared(masses, fitness)
        growth = self.growth_rates(masses, fitness, time=time)
        if scheme == "euler":
            new = masses + step_size * (masses * growth + self.inflow(masses, fitness, time=time))
            xp = array_namespace(new)
            new = xp.where(new < 0, 0.0, new)
        else:
            new = self._exponential_step(masses, fitness, growth, step_size, time=time)
        return self._capped(new)

    def _exponential_step(
        self, masses: Array, fitness: Array, growth: Array, step_size: float, *, time: float
    ) -> Array:
        """Return the masses after growth and inflow that stay what they are during the step."""
        xp = array_namespace(masses)
        # Absent groups have no growth rate to overflow.
        exponent = step_size * xp.where(masses > 0, growth, 0.0)
        grown = masses * xp.exp(exponent)
        inflow = self.inflow(masses, fitness, time=time)
        if isinstance(inflow, float) and inflow == 0:
            return grown
        mean_growth = xp.where(
            exponent == 0, 1.0, xp.expm1(exponent) / xp.where(exponent == 0, 1.0, exponent)
        )
        return grown + step_size * inflow * mean_growth

    def _capped(self, masses: Array) -> Array:
        return masses

    def _prepared(self, masses: Array, fitness: Array) -> tuple[Array, Array]:
        masses = float64(masses)
        fitness = like(float64(fitness), masses)
        _check_shapes(masses, fitness)
        self.check(masses.shape[-1])
        return masses, fitness

    # What others need to know of a dynamics, beyond its growth rates and inflow. The defaults are safe: they
    # promise nothing, and what is not promised is integrated, differenced or searched for.

    def mass_law(self, n: int) -> tuple[float, float] | None:
        """Return rate μ and target M of the total mass of a block of n groups, if dP/dt = μ(M - P).

        (0, 0) says that total mass is conserved. None promises nothing.
        """
        return None

    def steady_inflow(self, n: int) -> FloatArray | None:
        """Return the inflow, shape (n,), if it depends neither on masses nor on fitness nor on time."""
        return np.zeros(n) if type(self).inflow is Dynamics.inflow else None

    def mutation_rate_at(self, time: float) -> float:
        """Return the per-capita rate μ at which mutation takes mass away, a part of the growth rates."""
        return 0.0

    def target_masses(self, masses: Array) -> Array | float:
        """Return the masses m_i towards which mutation leads: its inflow is μm_i."""
        return 0.0

    def breakpoints(self, t_span: tuple[float, float]) -> npt.ArrayLike:
        """Return the times within `t_span` at which rates jump; the integrator restarts there.

        A change that is not declared is seen where it lasts for 1 % of `t_span` or longer.
        """
        return ()

    @property
    def groups(self) -> int | None:
        """Number of groups the dynamics is made for; None if it takes any."""
        return None

    def shaped(self, values: FloatArray) -> FloatArray:
        """Return values of shape (..., K), one for each block, in the shape in which results have them.

        That is (...,) unless the dynamics is of several populations.
        """
        return values[..., 0]

    def blocks(self, n: int) -> tuple[tuple[slice, Dynamics], ...]:
        """Return the groups that compete with one another, each with its dynamics."""
        return ((slice(0, n), self),)

    def check(self, n: int) -> None:
        """Raise `ValueError` if the dynamics cannot act on `n` groups."""

    def restricted(self, block: slice, n: int) -> Dynamics:
        """Return the dynamics of one block of `n` groups: parameters of groups are cut to it."""
        return self


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
        return self.rates_against(fitness, _mean(xp, masses, fitness), time=time)

    def mass_law(self, n: int) -> tuple[float, float] | None:
        return None if clip_acts(self) else (0.0, 0.0)

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

    def _capped(self, masses: Array) -> Array:
        if self.mass_cap is None:
            return masses
        xp = array_namespace(masses)
        total = xp.sum(masses, axis=-1, keepdims=True)
        # Rescaling at mere rounding would make Eqs. 12 and 13 differ in their last bits.
        beyond = total > self.mass_cap * (1 + masses.shape[-1] * _EPS)
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


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Populations(Dynamics):
    """Contiguous blocks of groups, each competing only within itself (the layers of a network).

    Every block has its own mean fitness, number of groups, total mass, cap and mutation target.

    Parameters
    ----------
    dynamics : Dynamics or sequence of Dynamics
        One for all blocks, or one for each. An array target of a single `SelectionMutation` has one entry
        for each group of all blocks together.
    sizes : sequence of int
        Number of groups of each block, in order; they fill the last axis.

    Raises
    ------
    ValueError
        If a size is not a positive whole number, a dynamics is not one or is itself `Populations`, or the
        two sequences differ in length.

    Examples
    --------
    >>> import numpy as np
    >>> layers = Populations(Replicator(), sizes=(2, 1))
    >>> layers.velocity(np.ones(3), np.array([1.0, 0.0, 5.0]))
    array([ 0.5, -0.5,  0. ])

    Layers that evolve together: each competes within itself, but fitness looks at all masses. Here a group
    of the second layer is worth what feeds it in the first, and starves when that dies.

    >>> import evodyn as ed
    >>> def fed(t, masses):
    ...     first = masses[..., :2] / masses[..., :2].sum(axis=-1, keepdims=True)
    ...     return np.concatenate((0 * first, 2 * first), axis=-1)
    >>> fitness = ed.landscapes.Constant([0.5, 0.0, 0.0, 0.3]) + fed
    >>> run = ed.solve(Populations(Replicator(), sizes=(2, 2)), fitness, [0.2, 0.8, 0.5, 0.5], (0.0, 40.0),
    ...                save_at=[0.0, 4.0, 40.0])
    >>> run.masses.round(2) + 0.0
    array([[0.2 , 0.8 , 0.5 , 0.5 ],
           [0.65, 0.35, 0.07, 0.93],
           [1.  , 0.  , 1.  , 0.  ]])
    """

    dynamics: Dynamics | tuple[Dynamics, ...]
    sizes: tuple[int, ...]  # any sequence of whole numbers on construction

    def __post_init__(self) -> None:
        requested: Any = self.sizes
        if not isinstance(requested, Iterable) or isinstance(requested, str):
            raise ValueError(f"sizes is {requested!r}; expected a sequence of whole numbers, one per block.")
        sizes = tuple(validation.count(f"sizes[{k}]", size) for k, size in enumerate(requested))
        if not sizes:
            raise ValueError("sizes is empty; expected at least one block.")
        given: Any = self.dynamics
        if isinstance(given, Iterable) and not isinstance(given, Dynamics):
            given = tuple(given)
            if len(given) != len(sizes):
                raise ValueError(
                    f"dynamics has {len(given)} entries and sizes {len(sizes)}; expected one per block."
                )
        for member in given if isinstance(given, tuple) else (given,):
            if not isinstance(member, Dynamics) or isinstance(member, Populations):
                raise ValueError(
                    f"dynamics is {member!r}; expected Replicator, NormalizedGrowth, SelectionMutation or "
                    "Selection (blocks are not nested: list all of them in sizes)."
                )
        self._set(sizes=sizes, dynamics=given)
        for member, size in zip(self._members, sizes, strict=True):
            member.check(size)

    @property
    def slices(self) -> tuple[slice, ...]:
        """The part of the last axis that each block fills."""
        ends = np.cumsum(self.sizes)
        return tuple(slice(int(end) - size, int(end)) for end, size in zip(ends, self.sizes, strict=True))

    @property
    def autonomous(self) -> bool | None:  # type: ignore[override]
        """Whether no block depends on time; None where one does not say."""
        answers = [member.autonomous for _, member in self.blocks(0)]
        return False if False in answers else None if None in answers else True

    @property
    def compares_with_mean(self) -> bool:  # type: ignore[override]
        """Whether growth rates are φ_i - φ̄ in every block."""
        return all(member.compares_with_mean for _, member in self.blocks(0))

    def mass_law(self, n: int) -> tuple[tuple[float, float] | None, ...]:  # type: ignore[override]
        """Return the law of each block's total mass."""
        return tuple(member.mass_law(block.stop - block.start) for block, member in self.blocks(n))

    def steady_inflow(self, n: int) -> FloatArray | None:
        parts = [member.steady_inflow(block.stop - block.start) for block, member in self.blocks(n)]
        return None if any(part is None for part in parts) else np.concatenate(parts)  # type: ignore[arg-type]

    def breakpoints(self, t_span: tuple[float, float]) -> npt.ArrayLike:
        return np.concatenate([np.asarray(m.breakpoints(t_span), dtype=float) for _, m in self.blocks(0)])

    @property
    def groups(self) -> int:
        """Number of groups of all blocks together."""
        return sum(self.sizes)

    def shaped(self, values: FloatArray) -> FloatArray:
        return values

    def blocks(self, n: int) -> tuple[tuple[slice, Dynamics], ...]:
        return tuple(zip(self.slices, self._members, strict=True))

    def check(self, n: int) -> None:
        if n != sum(self.sizes):
            raise ValueError(
                f"sizes {self.sizes} sum to {sum(self.sizes)}; expected {n}, the number of groups."
            )

    @functools.cached_property
    def _members(self) -> tuple[Dynamics, ...]:
        """The dynamics of each block."""
        if isinstance(self.dynamics, tuple):
            return self.dynamics
        return tuple(self.dynamics.restricted(s, sum(self.sizes)) for s in self.slices)

    @functools.cached_property
    def _shared(self) -> Any:
        """What all blocks follow, if that is one comparison with the mean; its target may differ."""
        given = self.dynamics if isinstance(self.dynamics, tuple) else (self.dynamics,)
        first = given[0]
        return first if first.compares_with_mean and all(m.same_as(first) for m in given[1:]) else None

    @functools.cached_property
    def _segments(self) -> Segments:
        return Segments(self.slices)

    def growth_rates(self, masses: Array, fitness: Array, *, time: float = 0.0) -> Array:
        xp = array_namespace(masses)
        shared = self._shared
        if shared is not None and xp is np and len(self.sizes) > _FEW_BLOCKS:
            # All at once: one after another takes tens of times as long. Sums are rounded in another order.
            fitness = np.where(masses > 0, fitness, 0.0)
            segments = self._segments
            total = segments.reduced(np.add, masses)
            mean = segments.reduced(np.add, masses * fitness) / np.where(total > 0, total, 1.0)
            return shared.rates_against(fitness, segments.spread(mean), time=time)
        return xp.concat(
            [m.growth_rates(masses[..., s], fitness[..., s], time=time) for s, m in self.blocks(0)], axis=-1
        )

    @functools.cached_property
    def _steady_inflow(self) -> FloatArray | None:
        """The inflow if it depends on nothing, read-only."""
        inflow = self.steady_inflow(sum(self.sizes))
        if inflow is not None:
            inflow.flags.writeable = False
        return inflow

    def inflow(self, masses: Array, fitness: Array, *, time: float = 0.0) -> Array | float:
        xp = array_namespace(masses)
        steady = self._steady_inflow
        if steady is not None and not steady.any():
            return 0.0
        if steady is not None and xp is np:
            return steady
        parts = [
            m.inflow(masses[..., s], fitness[..., s], time=time) + xp.zeros_like(masses[..., s])
            for s, m in self.blocks(0)
        ]
        return xp.concat(parts, axis=-1)

    def _exponential_step(
        self, masses: Array, fitness: Array, growth: Array, step_size: float, *, time: float
    ) -> Array:
        xp = array_namespace(masses)
        parts = [
            m._exponential_step(masses[..., s], fitness[..., s], growth[..., s], step_size, time=time)
            for s, m in self.blocks(0)
        ]
        return xp.concat(parts, axis=-1)

    def _capped(self, masses: Array) -> Array:
        if all(math.isinf(cap_of(member)) for _, member in self.blocks(0)):
            return masses
        xp = array_namespace(masses)
        return xp.concat([m._capped(masses[..., s]) for s, m in self.blocks(0)], axis=-1)


class Segments:
    """Contiguous blocks that fill the last axis of NumPy arrays, reduced all at once.

    Examples
    --------
    >>> segments = Segments([slice(0, 2), slice(2, 3)])
    >>> segments.reduced(np.add, np.array([1.0, 2.0, 4.0]))
    array([3., 4.])
    >>> segments.spread(np.array([3.0, 4.0]))
    array([3., 3., 4.])
    """

    def __init__(self, blocks: Sequence[slice]) -> None:
        self._starts = np.array([block.start for block in blocks])
        self._sizes = np.array([block.stop - block.start for block in blocks])

    def reduced(self, ufunc: np.ufunc, values: np.ndarray) -> np.ndarray:
        """Return one number for each block, shape (..., K)."""
        if len(self._starts) == 1:
            alone: np.ndarray = ufunc.reduce(values, axis=-1, keepdims=True)
            return alone
        numbers: np.ndarray = ufunc.reduceat(values, self._starts, axis=-1)
        return numbers

    def spread(self, numbers: np.ndarray) -> np.ndarray:
        """Return each block's number for each of its groups, shape (..., N), or (..., 1) for one block."""
        return numbers if len(self._starts) == 1 else np.repeat(numbers, self._sizes, axis=-1)


def inflow_targets(dynamics: Dynamics, n: int) -> np.ndarray:
    """Return the mutation target m_i of every group, 0 where there is no mutation; shape (n,)."""
    targets = np.zeros(n)
    for block, member in dynamics.blocks(n):
        targets[block] = member.target_masses(targets[block])
    return targets


def rate_bound(dynamics: Dynamics, n: int, time: float) -> np.ndarray:
    """Return each group's mutation rate at `time`, 0 where there is no mutation; shape (n,)."""
    rates = np.zeros(n)
    for block, member in dynamics.blocks(n):
        rates[block] = member.mutation_rate_at(time)
    return rates


def clip_acts(dynamics: Dynamics) -> bool:
    """Tell whether a finite clip can break mass conservation."""
    return dynamics.signal_clip is not None and math.isfinite(dynamics.signal_clip)


def cap_of(dynamics: Dynamics) -> float:
    """Return a block's cap on total mass, infinite if it has none."""
    return math.inf if dynamics.mass_cap is None else float(dynamics.mass_cap)
