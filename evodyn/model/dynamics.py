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
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from evodyn.core import validation
from evodyn.core.arrays import (
    Array,
    FloatArray,
    array_namespace,
    array_of,
    float64,
    is_foreign,
    like,
    on_host,
    returned,
)
from evodyn.core.specifications import Specification
from evodyn.model.comparison import Comparison, euler_step, product_sum

__all__ = ["DomainError", "Dynamics", "Scheme", "mean_fitness"]

Scheme = Literal["euler", "exponential", "ratio"]

SCHEMES = ("euler", "exponential")
"""The maps that approach the flow as their step goes to 0."""

MAPS = (*SCHEMES, "ratio")

EPS = 2.0**-52


class DomainError(ValueError):
    """A dynamics is not defined for the fitness it was given."""


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
    masses, fitness = array_of(masses), array_of(fitness)
    xp = array_namespace(masses)
    return weighted_mean(xp, masses, xp.where(masses > 0, fitness, 0.0))


def weighted_mean(xp: Any, masses: Array, fitness: Array) -> Array:
    """Return the mean of finite fitness."""
    total = total_mass(xp, masses)
    product = product_sum(masses, fitness) if xp is np else xp.vecdot(masses, fitness)
    return product[..., None] / xp.where(total > 0, total, 1.0)


def total_mass(xp: Any, masses: Array) -> Array:
    """Return the sum over the last axis, which is kept; NumPy's own without its wrapper for other arrays."""
    return (np.add.reduce if xp is np else xp.sum)(masses, axis=-1, keepdims=True)


def offspring(masses: Array, fitness: Array) -> Array:
    """Return p_i φ_i, 0 for absent groups: the offspring of every group.

    Raises
    ------
    DomainError
        If fitness in NumPy arrays is negative where there is mass.
    """
    fitness = array_namespace(masses).where(masses > 0, fitness, 0.0)
    if not is_foreign(masses) and (fitness < 0).any():
        group = int(np.argwhere(fitness < 0)[0][-1])
        raise DomainError(
            f"fitness is {float(fitness[fitness < 0][0]):g} for group {group}; expected fitness >= 0, the "
            "rate at which a group has offspring: add a constant to the landscape, which weakens selection "
            "and makes mutation faster."
        )
    return masses * fitness


def next_generation(masses: Array, births: Array) -> Array:
    """Return the masses of a generation in proportion to `births`, with the total of the last.

    Raises
    ------
    DomainError
        If there is no birth in NumPy arrays that have mass.
    """
    xp = array_namespace(masses)
    total, born = xp.sum(masses, axis=-1, keepdims=True), xp.sum(births, axis=-1, keepdims=True)
    if not is_foreign(masses) and ((total > 0) & (born == 0)).any():
        raise DomainError("fitness is 0 for all groups with mass; expected one that has offspring.")
    return births * (total / xp.where(total > 0, born, 1.0))


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
        grows_otherwise = "growth_rates" in own or "rates_against" in own
        if grows_otherwise or "inflow" in own:
            for name in {"_ratio_step", "autonomous", "mass_law", "steady_inflow"} - set(own):
                setattr(cls, name, getattr(Dynamics, name))
        if (grows_otherwise or own.keys() & {"inflow", "step", "_capped"}) and "comparison" not in own:
            cls.comparison = Dynamics.comparison  # type: ignore[method-assign]
            if "comparisons" not in own:
                cls.comparisons = Dynamics.comparisons  # type: ignore[method-assign]
        if grows_otherwise and "compares_with_mean" not in own:
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
            η_p >= 0, in units of 1/fitness; 1 for the scheme "ratio".
        time : float, optional
            Time at the start of the step, for mutation rates that depend on it.
        scheme : {"euler", "exponential", "ratio"}, optional
            "euler" is the paper's p + η_p·velocity. "exponential" is p exp(η_p g), followed by the exact
            linear mutation: positive for every step size, and for frozen fitness the exact flow up to
            the scalar that restores the total mass. It is not restored: exp is convex, so that every
            step adds mass, of the order of the variance of fitness times η_p². "ratio" is p_i φ_i/φ̄, one
            generation that does not overlap with the next, for fitness >= 0 that is not 0 for all; it
            conserves total mass. `ReplicatorMutator` has it too, and nothing else that mutates or clips.

        Returns
        -------
        array, shape (..., N)
            New masses in float64, on the device of `masses`; the input is untouched. Where the total
            mass is 0, zeros plus any inflow.

        Raises
        ------
        ValueError
            If the shapes do not agree, `step_size` is negative or not finite, or `scheme` is unknown. With
            "ratio" also if the dynamics has no such map, `step_size` is not 1, or fitness in NumPy arrays
            is negative, or 0 for all groups with mass.

        Notes
        -----
        The Euler map keeps p_i positive iff η_p (φ̄ - φ_i) < 1, with mutation iff
        η_p (φ̄ - φ_i + μ(1 - m_i/p_i)) <= 1; the projection, which creates mass, acts only beyond that.
        With a signal clip κ and no mutation or binding cap, masses stay within p_i(0) (1 ± η_p κ)^n.
        """
        if scheme not in MAPS:
            validation.choice("scheme", scheme, MAPS)
        if not (type(step_size) is float and 0.0 <= step_size < math.inf) and not is_foreign(step_size):
            step_size = validation.non_negative("step_size", step_size)
        masses, fitness = self._prepared(masses, fitness)
        if scheme == "ratio":
            if step_size != 1:
                raise ValueError(
                    f"step_size is {step_size!r}; expected 1, for a step of the scheme 'ratio' is a "
                    "generation: the power φ**w of fitness is selection of strength w."
                )
            return self._capped(self._ratio_step(masses, fitness))
        if scheme == "euler":
            return self._capped(self._euler_step(masses, fitness, step_size, time=time))
        growth = self.growth_rates(masses, fitness, time=time)
        return self._capped(self._exponential_step(masses, fitness, growth, step_size, time=time))

    def _euler_step(self, masses: Array, fitness: Array, step_size: float, *, time: float) -> Array:
        """Return p + η_p·velocity, projected."""
        p, phi = on_host(masses), on_host(fitness)
        if p is not None and phi is not None and p.ndim == 1 and phi.shape == p.shape:
            form = self.comparison(len(p), time)
            if form is not None and not is_foreign(step_size):
                return returned(euler_step(p, phi, step_size, form), masses)
        growth = self.growth_rates(masses, fitness, time=time)
        new = masses + step_size * (masses * growth + self.inflow(masses, fitness, time=time))
        xp = array_namespace(new)
        return xp.where(new < 0, 0.0, new)

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

    def _ratio_step(self, masses: Array, fitness: Array) -> Array:
        """Return the masses of the next generation, in proportion to offspring."""
        raise ValueError(
            f"scheme is 'ratio', and {self!r} has no such map; expected Replicator or NormalizedGrowth "
            "without a clip, or ReplicatorMutator: use 'euler' or 'exponential'."
        )

    def _capped(self, masses: Array) -> Array:
        return masses

    def _prepared(self, masses: Array, fitness: Array) -> tuple[Array, Array]:
        masses = float64(masses)
        fitness = like(float64(fitness), masses)
        if fitness.shape != masses.shape or not masses.shape or masses.shape[-1] == 0:
            _check_shapes(masses, fitness)
        self.check(masses.shape[-1])
        return masses, fitness

    # What others need to know of a dynamics, beyond its growth rates and inflow. The defaults are safe: they
    # promise nothing, and what is not promised is integrated, differenced or searched for.

    def comparison(self, n: int, time: float) -> Comparison | None:
        """Return at what rates n groups grow at a time, where they compare fitness with its mean, exactly.

        None promises nothing. Otherwise the Euler map is that of the answer, in every bit.
        """
        return None

    def comparisons(self, n: int, time: float) -> tuple[tuple[slice, Comparison], ...] | None:
        """Return `comparison` of every block; None promises nothing, else a Euler step is one in each."""
        form = self.comparison(n, time)
        return None if form is None else ((slice(n), form),)

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

    def mutation_losses(self, masses: Array, fitness: Array, *, time: float = 0.0) -> Array | float:
        """Return the per-capita rates at which mutation takes mass away, where groups differ in them."""
        return self.mutation_rate_at(time)

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


def clip_of(dynamics: Dynamics) -> float:
    """Return the bound on |φ_i - φ̄|, infinite if there is none."""
    return math.inf if dynamics.signal_clip is None else float(dynamics.signal_clip)


def cap_of(dynamics: Dynamics) -> float:
    """Return a block's cap on total mass, infinite if it has none."""
    return math.inf if dynamics.mass_cap is None else float(dynamics.mass_cap)
