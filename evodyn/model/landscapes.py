"""Fitness landscapes: functions of time and masses that return the fitness of every group.

A landscape is any callable ``landscape(t, masses) -> fitness`` with arrays of shape (..., N). Those here
are frozen specifications that work on arrays of any array-API library, and they add with ``+``, plain
callables on either side included. A landscape may also define

- ``breakpoints(t_span)``: times at which it is not smooth; the integrator restarts there (a change that is
  not declared is seen where it lasts for 1 % of the time span or longer);
- ``at_log_masses(t, log_masses)``: the same fitness from log-masses, for landscapes in ln p;
- ``linearization(t, log_masses)``: the Jacobian ∂φ_i/∂ln p_j as `DiagonalPlusLowRank`;
- ``autonomous``: whether fitness does not depend on time (None, or nothing: that is found out);
- ``separable(n)``, ``affine(n, total)``, ``potential(masses, log_masses)``: forms of fitness that have rest
  points in closed form or climb a function, as the methods of `Landscape` say.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from evodyn.core import validation
from evodyn.core.arrays import Array, FloatArray, array_namespace, host, is_foreign, like
from evodyn.core.specifications import Specification
from evodyn.model.laws import contributions
from evodyn.model.structure import DiagonalPlusLowRank

__all__ = [
    "Constant",
    "DiagonalPlusLowRank",
    "Entropic",
    "Landscape",
    "LandscapeFunction",
    "LinearDecay",
    "MatrixGame",
    "Recorded",
    "Redundancy",
    "Seasonal",
    "Separable",
    "Sum",
    "breakpoints",
    "contributions",
    "fitness_at_log_masses",
    "linearization",
]

LandscapeFunction = Callable[[float, Array], Array]
"""What every landscape is: (t, masses of shape (..., N)) -> fitness of shape (..., N)."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Landscape(Specification, ABC):
    """Base of the landscapes defined here; not needed for landscapes of your own.

    Examples
    --------
    What a landscape of one's own gains from it: it adds up with others, and is saved with a run.

    >>> import dataclasses
    >>> import evodyn as ed
    >>> @dataclasses.dataclass(frozen=True, eq=False, repr=False)
    ... class Crowding(ed.landscapes.Landscape):
    ...     strength: float
    ...
    ...     def __call__(self, t, masses):
    ...         return -self.strength * masses**2
    >>> landscape = ed.landscapes.Constant([1.0, 0.0]) + Crowding(0.5)
    >>> ed.solve(ed.Replicator(), landscape, [1.0, 1.0], (0.0, 50.0)).masses[-1].round(6)
    array([1.5, 0.5])
    """

    autonomous: ClassVar[bool | None] = None
    """Whether fitness does not depend on time; None where that is to be found out."""
    piecewise_constant: ClassVar[bool] = False
    """Whether fitness depends on nothing, but for jumps at the breakpoints."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # What a base says of its fitness holds no longer where a subclass has another fitness.
        if "__call__" in vars(cls):
            for name in _SAYS_OF_FITNESS - set(vars(cls)):
                if hasattr(cls, name):
                    setattr(cls, name, getattr(Landscape, name, None))

    @abstractmethod
    def __call__(self, t: float, masses: Array) -> Array:
        """Return the fitness at time `t`, shape (..., N)."""

    # What others need to know of a landscape. The defaults promise nothing.

    def separable(self, n: int) -> Separable | None:
        """Return fitness of n groups as φ_i = c_i - λp_i - T ln p_i, if it has that form at all times."""
        return None

    def affine(self, n: int, total: float) -> tuple[FloatArray, FloatArray] | None:
        """Return a and B with φ = a + Bp where masses sum to `total`, if fitness always has that form."""
        form = self.separable(n)
        if form is None or form.temperature:
            return None
        return np.array(form.contribution), -form.decay * np.eye(n)

    def potential(self, masses: FloatArray, log_masses: FloatArray) -> FloatArray | None:
        """Return F with ∂F/∂p_i = φ_i at masses of shape (T, N), shape (T,); None if it is not known."""
        return None

    def __add__(self, other: LandscapeFunction | object) -> Sum:
        return Sum(_terms(self) + _terms(other)) if callable(other) else NotImplemented

    def __radd__(self, other: LandscapeFunction | object) -> Sum:
        return Sum(_terms(other) + _terms(self)) if callable(other) else NotImplemented

    @property
    def groups(self) -> int | None:
        """Number of groups the landscape is made for; None if it takes any."""
        sizes = [
            int(value.shape[-1])
            for field in dataclasses.fields(self)
            if (isinstance(value := getattr(self, field.name), np.ndarray) or is_foreign(value))
            and value.ndim
        ]
        return sizes[0] if sizes else None


_SAYS_OF_FITNESS = frozenset(
    {
        "affine",
        "at_log_masses",
        "autonomous",
        "linearization",
        "piecewise_constant",
        "potential",
        "separable",
    }
)


@dataclasses.dataclass(frozen=True)
class Separable:
    """Fitness φ_i = c_i - λp_i - T ln p_i, which depends on each group's own mass alone.

    What `Landscape.separable` answers where fitness has this form: rest points then follow in closed form.

    Attributes
    ----------
    contribution : numpy.ndarray, shape (N,)
        c_i, in units of fitness.
    decay : float
        λ, in units of fitness per mass.
    temperature : float
        T, in units of fitness.

    Examples
    --------
    >>> import evodyn as ed
    >>> landscape = ed.landscapes.LinearDecay([1.0, 2.0], 0.5) + ed.landscapes.Constant([1.0, 1.0])
    >>> form = landscape.separable(2)
    >>> form.contribution, form.decay
    (array([2., 3.]), 0.5)
    """

    contribution: FloatArray
    decay: float = 0.0
    temperature: float = 0.0

    def __add__(self, other: Separable) -> Separable:
        return Separable(
            self.contribution + other.contribution,
            self.decay + other.decay,
            self.temperature + other.temperature,
        )

    def potential(self, masses: FloatArray, log_masses: FloatArray) -> FloatArray:
        """Return Σ c_i p_i - λΣp_i²/2 - TΣp_i(ln p_i - 1)."""
        value: FloatArray = masses @ self.contribution
        if self.decay:
            value = value - self.decay * (masses**2).sum(axis=1) / 2
        if self.temperature:
            logs = np.where(masses > 0, log_masses, 0.0)
            value = value - self.temperature * (masses * (logs - 1)).sum(axis=1)
        return value


def _one_row(contribution: Array, n: int) -> FloatArray:
    """Return contributions on the host, shape (n,)."""
    row = host(contribution)
    if row.ndim > 1:
        raise ValueError(
            f"landscape has contributions of shape {row.shape}; expected ({n},): ask for one member of a "
            "batch at a time."
        )
    return np.broadcast_to(row, (n,))


def _terms(landscape: LandscapeFunction) -> tuple[LandscapeFunction, ...]:
    return landscape.terms if isinstance(landscape, Sum) else (landscape,)


def _check_groups(**groups: int | None) -> None:
    """Raise `ValueError` unless the named numbers of groups agree; None agrees with all."""
    if len({n for n in groups.values() if n is not None}) > 1:
        listed = ", ".join(f"{name} has {n} groups" for name, n in groups.items() if n is not None)
        raise ValueError(f"{listed}; expected the same number of groups in each.")


def _groups(array: Array) -> int | None:
    return int(array.shape[-1]) if array.ndim else None


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Sum(Landscape):
    """The sum of landscapes, made by ``+`` (multi-objective fitness, say accuracy and cost).

    Parameters
    ----------
    terms : tuple of callables
        The landscapes, in order of addition; at least one.

    Raises
    ------
    ValueError
        If a term is not callable, or terms are made for different numbers of groups.

    Examples
    --------
    >>> import numpy as np
    >>> both = Constant([1.0, 2.0]) + (lambda t, masses: -t * masses)
    >>> both(2.0, np.array([1.0, 1.0]))
    array([-1.,  0.])

    Two objectives: accuracy, of which every group has its own and less the more mass it has, and a cost
    that weighs half as much. The dear one of two equally accurate groups is left with less.

    >>> import evodyn as ed
    >>> accuracy, cost = LinearDecay([1.0, 1.0, 0.8], decay=0.1), np.array([0.2, 0.6, 0.1])
    >>> ed.equilibrium(ed.Replicator(), accuracy, total_mass=6.0).masses.round(3)
    array([2.667, 2.667, 0.667])
    >>> weighed = accuracy + Constant(-0.5 * cost)
    >>> ed.equilibrium(ed.Replicator(), weighed, total_mass=6.0).masses.round(3)
    array([3.167, 1.167, 1.667])
    """

    terms: tuple[LandscapeFunction, ...]

    def __post_init__(self) -> None:
        terms = tuple(self.terms)
        if not terms or not all(map(callable, terms)):
            raise ValueError(f"terms is {terms!r}; expected at least one landscape, each of them callable.")
        _check_groups(**{f"term {k}": getattr(term, "groups", None) for k, term in enumerate(terms)})
        self._set(terms=terms)

    def __call__(self, t: float, masses: Array) -> Array:
        return functools.reduce(
            lambda total, term: total + term(t, masses), self.terms[1:], self.terms[0](t, masses)
        )

    @property
    def groups(self) -> int | None:
        return next(
            (g for g in (getattr(term, "groups", None) for term in self.terms) if g is not None), None
        )

    def at_log_masses(self, t: float, log_masses: Array) -> Array:
        return functools.reduce(
            lambda total, term: total + fitness_at_log_masses(term, t, log_masses),
            self.terms[1:],
            fitness_at_log_masses(self.terms[0], t, log_masses),
        )

    def breakpoints(self, t_span: tuple[float, float]) -> FloatArray:
        return np.unique(np.concatenate([breakpoints(term, t_span) for term in self.terms]))

    def linearization(self, t: float, log_masses: FloatArray) -> DiagonalPlusLowRank | None:
        parts = [linearization(term, t, log_masses) for term in self.terms]
        total: DiagonalPlusLowRank | None = functools.reduce(_both, parts)
        return total

    @property
    def autonomous(self) -> bool | None:  # type: ignore[override]
        """Whether no term depends on time; None where a term does not say."""
        answers = [getattr(term, "autonomous", None) for term in self.terms]
        return False if False in answers else None if None in answers else True

    @property
    def piecewise_constant(self) -> bool:  # type: ignore[override]
        """Whether every term is."""
        return all(getattr(term, "piecewise_constant", False) for term in self.terms)

    def separable(self, n: int) -> Separable | None:
        return functools.reduce(_both, [separable(term, n) for term in self.terms])

    def affine(self, n: int, total: float) -> tuple[FloatArray, FloatArray] | None:
        forms = [affine(term, n, total) for term in self.terms]
        if any(form is None for form in forms):
            return None
        intercepts, slopes = zip(*forms, strict=True)
        return sum(intercepts), sum(slopes)

    def potential(self, masses: FloatArray, log_masses: FloatArray) -> FloatArray | None:
        return functools.reduce(_both, [potential(term, masses, log_masses) for term in self.terms])


def _both(one: Any, other: Any) -> Any:
    """Return the sum of two answers, None if either is."""
    return None if one is None or other is None else one + other


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Constant(Landscape):
    """Constant fitness φ_i = c_i.

    Parameters
    ----------
    contribution : array_like, shape (N,) or (..., N)
        c_i, finite.

    Raises
    ------
    ValueError
        If an entry is not finite.

    Examples
    --------
    >>> import numpy as np
    >>> Constant([1.0, 2.0])(0.0, np.ones(2))
    array([1., 2.])
    """

    autonomous = True
    piecewise_constant = True
    contribution: Array

    def __post_init__(self) -> None:
        self._set(contribution=validation.specification_array("contribution", self.contribution))

    def __call__(self, t: float, masses: Array) -> Array:
        return _as_groups(like(self.contribution, masses), masses)

    def linearization(self, t: float, log_masses: FloatArray) -> DiagonalPlusLowRank:
        return DiagonalPlusLowRank.diagonal_only(np.zeros(len(log_masses)))

    def separable(self, n: int) -> Separable:
        return Separable(_one_row(self.contribution, n))

    def potential(self, masses: FloatArray, log_masses: FloatArray) -> FloatArray:
        return self.separable(masses.shape[-1]).potential(masses, log_masses)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class LinearDecay(Landscape):
    """Contribution with linear density regularisation, φ_i = c_i - λ p_i (Eq. 10 with r(p) = p).

    From an interior start the replicator flow has one attractor, water filling:
    p_i = (c_i - ν)_+/λ with Σ p_i = P.

    Parameters
    ----------
    contribution : array_like, shape (N,) or (..., N)
        c_i, finite.
    decay : float
        λ >= 0, in units of fitness per mass.

    Raises
    ------
    ValueError
        If an entry is not finite or `decay` is negative.

    Examples
    --------
    >>> import numpy as np
    >>> LinearDecay([1.0, 2.0], decay=0.5)(0.0, np.array([1.0, 4.0]))
    array([0.5, 0. ])
    """

    autonomous = True
    contribution: Array
    decay: float

    def __post_init__(self) -> None:
        self._set(
            contribution=validation.specification_array("contribution", self.contribution),
            decay=validation.non_negative("decay", self.decay),
        )

    def __call__(self, t: float, masses: Array) -> Array:
        # In this order NumPy reuses the product's memory for the sum, which for large N halves the time.
        return -self.decay * masses + like(self.contribution, masses)

    def linearization(self, t: float, log_masses: FloatArray) -> DiagonalPlusLowRank:
        return DiagonalPlusLowRank.diagonal_only(-self.decay * np.exp(log_masses))

    def separable(self, n: int) -> Separable:
        return Separable(_one_row(self.contribution, n), decay=self.decay)

    def potential(self, masses: FloatArray, log_masses: FloatArray) -> FloatArray:
        return self.separable(masses.shape[-1]).potential(masses, log_masses)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Entropic(Landscape):
    """Entropic regularisation, φ_i = c_i - T ln p_i.

    Rare groups gain without bound, so none dies: masses tend to P·softmax(c/T). Fitness is +∞ at
    p_i = 0, where it has no effect: an absent group stays absent without mutation.

    Parameters
    ----------
    contribution : array_like, shape (N,) or (..., N)
        c_i, finite.
    temperature : float
        T >= 0, in units of fitness.

    Raises
    ------
    ValueError
        If an entry is not finite or `temperature` is negative.

    Examples
    --------
    >>> import numpy as np
    >>> Entropic([1.0, 1.0], temperature=2.0)(0.0, np.array([1.0, 0.0]))
    array([ 1., inf])
    """

    autonomous = True
    contribution: Array
    temperature: float

    def __post_init__(self) -> None:
        self._set(
            contribution=validation.specification_array("contribution", self.contribution),
            temperature=validation.non_negative("temperature", self.temperature),
        )

    def __call__(self, t: float, masses: Array) -> Array:
        xp = array_namespace(masses)
        present = masses > 0
        log_masses = xp.log(xp.where(present, masses, xp.ones_like(masses)))
        # By this class: a subclass with another fitness has no formula in ln p to offer.
        logs = xp.where(present, log_masses, -math.inf + xp.zeros_like(masses))
        return Entropic.at_log_masses(self, t, logs)

    def at_log_masses(self, t: float, log_masses: Array) -> Array:
        if self.temperature == 0:
            return _as_groups(like(self.contribution, log_masses), log_masses)
        return like(self.contribution, log_masses) - self.temperature * log_masses

    def linearization(self, t: float, log_masses: FloatArray) -> DiagonalPlusLowRank:
        return DiagonalPlusLowRank.diagonal_only(np.full(len(log_masses), -self.temperature))

    def separable(self, n: int) -> Separable:
        return Separable(_one_row(self.contribution, n), temperature=self.temperature)

    def potential(self, masses: FloatArray, log_masses: FloatArray) -> FloatArray:
        return self.separable(masses.shape[-1]).potential(masses, log_masses)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class MatrixGame(Landscape):
    """A symmetric two-player game, φ = A x with shares x = p/P.

    It acts on shares: with masses in their place everything would run P times faster.

    Parameters
    ----------
    payoff : array_like, shape (N, N)
        A_ij, what i earns against j. Adding a constant to a column changes no share.

    Raises
    ------
    ValueError
        If `payoff` is not a square matrix of finite numbers.

    Examples
    --------
    >>> import numpy as np
    >>> MatrixGame([[0.0, 3.0], [1.0, 2.0]])(0.0, np.array([1.0, 3.0]))
    array([2.25, 1.75])
    """

    autonomous = True
    payoff: Array

    def __post_init__(self) -> None:
        self._set(payoff=_square("payoff", self.payoff))

    def __call__(self, t: float, masses: Array) -> Array:
        xp = array_namespace(masses)
        total = xp.sum(masses, axis=-1, keepdims=True)
        shares = masses / xp.where(total > 0, total, xp.ones_like(total))
        return _matrix_times(like(self.payoff, masses), shares)

    def linearization(self, t: float, log_masses: FloatArray) -> DiagonalPlusLowRank:
        shares = np.exp(log_masses - np.logaddexp.reduce(log_masses))
        fitness = self.payoff @ shares
        return DiagonalPlusLowRank(np.zeros(len(shares)), self.payoff - fitness[:, None], np.diag(shares))

    def affine(self, n: int, total: float) -> tuple[FloatArray, FloatArray]:
        return np.zeros(n), host(self.payoff) / total

    def potential(self, masses: FloatArray, log_masses: FloatArray) -> FloatArray | None:
        payoff = host(self.payoff)
        if not np.array_equal(payoff, payoff.T):
            return None
        value: FloatArray = ((masses @ payoff) * masses).sum(axis=1) / (2 * masses.sum(axis=1))
        return value


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Redundancy(Landscape):
    """Contribution less what similar groups already supply, φ = c - κ S p.

    Survivors coexist stably iff S is positive definite on their tangent space (Σ v = 0); extinction
    needs competition between groups that exceeds a group's own (S_ij above S_ii).

    Parameters
    ----------
    contribution : array_like, shape (N,) or (..., N)
        c_i, finite.
    similarity : array_like, shape (N, N)
        S, symmetric with entries >= 0; the diagonal is self-limitation.
    strength : float
        κ >= 0, in units of fitness per mass.

    Raises
    ------
    ValueError
        If shapes do not agree, S is not symmetric and non-negative, or `strength` is negative.

    Examples
    --------
    >>> import numpy as np
    >>> Redundancy([1.0, 1.0], [[1.0, 0.5], [0.5, 1.0]], strength=2.0)(0.0, np.array([1.0, 0.0]))
    array([-1.,  0.])

    Between groups of equal contribution selection has nothing to choose, and every state is at rest.
    Where two of three are alike, redundancy leaves one attractor, in which they share what one would have.

    >>> import evodyn as ed
    >>> similarity = [[1.0, 0.9, 0.0], [0.9, 1.0, 0.0], [0.0, 0.0, 1.0]]
    >>> for fitness in (Constant(np.ones(3)), Redundancy(np.ones(3), similarity, strength=1.0)):
    ...     run = ed.solve(ed.Replicator(), fitness, [0.5, 1.0, 1.5], (0.0, 500.0))
    ...     point = ed.equilibrium(ed.Replicator(), fitness, total_mass=3.0, support=[0, 1, 2])
    ...     print(point.stability.name, run.masses[-1].round(3))
    NEUTRAL [0.5 1.  1.5]
    STABLE [0.769 0.769 1.462]
    """

    autonomous = True
    contribution: Array
    similarity: Array
    strength: float

    def __post_init__(self) -> None:
        contribution = validation.specification_array("contribution", self.contribution)
        similarity = _square("similarity", self.similarity, least=0.0)
        if isinstance(similarity, np.ndarray) and not np.array_equal(similarity, similarity.T):
            i, j = (int(k) for k in np.argwhere(similarity != similarity.T)[0])
            raise ValueError(
                f"similarity is {similarity[i, j]:g} at {(i, j)} and {similarity[j, i]:g} at {(j, i)}; "
                "expected a symmetric matrix: average it with its transpose if it is meant to be one."
            )
        _check_groups(contribution=_groups(contribution), similarity=_groups(similarity))
        strength = validation.non_negative("strength", self.strength)
        self._set(contribution=contribution, similarity=similarity, strength=strength)

    def __call__(self, t: float, masses: Array) -> Array:
        competition = _matrix_times(like(self.similarity, masses), masses)
        return like(self.contribution, masses) - self.strength * competition

    def linearization(self, t: float, log_masses: FloatArray) -> DiagonalPlusLowRank:
        return DiagonalPlusLowRank(
            np.zeros(len(log_masses)), -self.strength * self.similarity, np.diag(np.exp(log_masses))
        )

    def affine(self, n: int, total: float) -> tuple[FloatArray, FloatArray]:
        return np.array(_one_row(self.contribution, n)), -self.strength * host(self.similarity)

    def potential(self, masses: FloatArray, log_masses: FloatArray) -> FloatArray:
        supplied = ((masses @ host(self.similarity)) * masses).sum(axis=1)
        value: FloatArray = (
            masses @ _one_row(self.contribution, masses.shape[-1]) - self.strength * supplied / 2
        )
        return value


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Seasonal(Landscape):
    """Contributions that swing with the seasons, φ_i = c_i + a_i sin(2πt/T + θ_i).

    A swing that all groups share leaves the dynamics unchanged; give amplitudes or phases per group.

    Parameters
    ----------
    contribution : array_like, shape (N,) or (..., N)
        c_i, finite.
    amplitude : float or array_like, shape (N,)
        a_i, in units of fitness.
    period : float
        T > 0.
    phase : float or array_like, shape (N,), optional
        θ_i in radians.

    Raises
    ------
    ValueError
        If an entry is not finite, shapes do not agree, or `period` is not positive.

    Examples
    --------
    >>> import numpy as np
    >>> Seasonal([1.0, 1.0], amplitude=[0.5, 0.0], period=4.0)(1.0, np.ones(2))
    array([1.5, 1. ])
    """

    autonomous = False
    contribution: Array
    amplitude: Array
    period: float
    phase: Array = 0.0

    def __post_init__(self) -> None:
        self._set(
            contribution=validation.specification_array("contribution", self.contribution),
            amplitude=validation.specification_array("amplitude", self.amplitude, scalar=True),
            period=validation.positive("period", self.period),
            phase=validation.specification_array("phase", self.phase, scalar=True),
        )
        arrays = {name: getattr(self, name) for name in ("contribution", "amplitude", "phase")}
        _check_groups(**{name: _groups(array) for name, array in arrays.items()})

    def __call__(self, t: float, masses: Array) -> Array:
        # In double precision on the host for scalars, on the masses' device otherwise.
        angle = 2 * math.pi * (t / self.period) + like(self.phase, masses)
        xp = array_namespace(masses)
        swing = like(self.amplitude, masses) * xp.sin(angle + xp.zeros_like(masses))
        return like(self.contribution, masses) + swing

    def linearization(self, t: float, log_masses: FloatArray) -> DiagonalPlusLowRank:
        return DiagonalPlusLowRank.diagonal_only(np.zeros(len(log_masses)))


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Recorded(Landscape):
    """Replay of recorded contributions, φ = c(t_k) - λ p for t in [t_k, t_{k+1}).

    The zero-order hold of a logged training run. Every t_k is a breakpoint, so that integration restarts
    where the record jumps.

    Parameters
    ----------
    times : array_like, shape (K,)
        Increasing times t_k, at least two.
    contributions : array_like, shape (K - 1, N) or (K, N)
        One row for each interval. With K rows the last one is the contribution at t_{K-1} itself, where
        the record ends; with K - 1 rows the last interval includes its end.
    decay : float, optional
        λ >= 0.

    Raises
    ------
    ValueError
        On construction, if times do not increase or shapes do not agree; on a call, if `t` is outside the
        record.

    Examples
    --------
    >>> import numpy as np
    >>> record = Recorded([0.0, 1.0, 2.0], [[1.0, 0.0], [0.0, 1.0]], decay=0.0)
    >>> record(0.5, np.ones(2)), record(1.0, np.ones(2))
    (array([1., 0.]), array([0., 1.]))
    """

    autonomous = False
    times: Array
    contributions: Array
    decay: float = 0.0

    def __post_init__(self) -> None:
        times = validation.finite_array("times", self.times, ndim=1)
        if len(times) < 2:
            raise ValueError(f"times has {len(times)} entries; expected at least two, one interval.")
        if not (np.diff(times) > 0).all():
            k = int(np.argmin(np.diff(times) > 0)) + 1
            raise ValueError(
                f"times is {times[k]:g} at index {k}, after {times[k - 1]:g}; expected increasing times: "
                "sort the record and drop repetitions."
            )
        record = validation.specification_array("contributions", self.contributions, ndim=2)
        if record.shape[0] not in (len(times) - 1, len(times)):
            raise ValueError(
                f"contributions has {record.shape[0]} rows for {len(times)} times; expected {len(times) - 1} "
                f"(one per interval) or {len(times)} (one per time)."
            )
        self._set(times=times, contributions=record, decay=validation.non_negative("decay", self.decay))

    @property
    def piecewise_constant(self) -> bool:  # type: ignore[override]
        """Whether fitness is what was recorded."""
        return self.decay == 0

    @property
    def groups(self) -> int:
        """Number of groups of the record."""
        return int(self.contributions.shape[-1])

    def index(self, t: float) -> int:
        """Return the row of the record that holds at time `t`.

        Raises
        ------
        ValueError
            If `t` is outside the record.
        """
        first, last = float(self.times[0]), float(self.times[-1])
        # The time t0 + k·h of a map's state may miss an end by rounding.
        if not first <= t <= last and not (
            min(abs(t - first), abs(t - last)) <= 8 * math.ulp(max(abs(first), abs(last)))
        ):
            raise ValueError(
                f"t is {t!r}, outside the record, which covers [{first:g}, {last:g}]; "
                "expected a time within it: shorten t_span or record longer."
            )
        row = int(np.searchsorted(self.times, t, side="right")) - 1
        return min(max(row, 0), int(self.contributions.shape[0]) - 1)

    def __call__(self, t: float, masses: Array) -> Array:
        contribution = like(self.contributions[self.index(t)], masses)
        return _as_groups(contribution, masses) if self.decay == 0 else contribution - self.decay * masses

    def breakpoints(self, t_span: tuple[float, float]) -> FloatArray:
        """Return the times of the record inside `t_span`.

        Raises
        ------
        ValueError
            If `t_span` reaches outside the record.
        """
        for end in t_span:
            self.index(end)
        inside: FloatArray = self.times[(self.times > t_span[0]) & (self.times < t_span[1])]
        return inside

    def linearization(self, t: float, log_masses: FloatArray) -> DiagonalPlusLowRank:
        return DiagonalPlusLowRank.diagonal_only(-self.decay * np.exp(log_masses))


def _as_groups(contribution: Array, masses: Array) -> Array:
    """Return `contribution` as fitness of the shape of `masses`."""
    if contribution.shape == masses.shape:
        return contribution
    xp = array_namespace(masses)
    return contribution + xp.zeros_like(masses)


def _square(name: str, value: npt.ArrayLike, *, least: float = -math.inf) -> Array:
    matrix = validation.specification_array(name, value, ndim=2, least=least)
    if matrix.shape[0] != matrix.shape[1]:
        raise ValueError(
            f"{name} has shape {tuple(matrix.shape)}; expected a square matrix, one row per group."
        )
    return matrix


def _matrix_times(matrix: Array, vectors: Array) -> Array:
    """Return matrix @ vector for every vector of a batch of shape (..., N)."""
    xp = array_namespace(vectors)  # whose matmul takes two precisions, which torch's own operator does not
    if vectors.ndim == 1:
        return xp.matmul(matrix, vectors)
    return xp.matmul(vectors, xp.permute_dims(matrix, (1, 0)))


# The optional members of the protocol, for landscapes of any origin.


def separable(landscape: LandscapeFunction, n: int) -> Separable | None:
    """Return `landscape` as φ_i = c_i - λp_i - T ln p_i if it says that it has that form, else None."""
    method: Any = getattr(landscape, "separable", None)
    return None if method is None else method(n)


def affine(landscape: LandscapeFunction, n: int, total: float) -> tuple[FloatArray, FloatArray] | None:
    """Return a and B with φ = a + Bp where masses sum to `total`, if `landscape` says so, else None."""
    method: Any = getattr(landscape, "affine", None)
    return None if method is None else method(n, total)


def potential(landscape: LandscapeFunction, masses: FloatArray, log_masses: FloatArray) -> FloatArray | None:
    """Return F with ∂F/∂p_i = φ_i along a trajectory, shape (T,), if `landscape` states it, else None."""
    method: Any = getattr(landscape, "potential", None)
    return None if method is None else method(masses, log_masses)


def breakpoints(source: object, t_span: tuple[float, float]) -> FloatArray:
    """Return the times strictly inside `t_span` at which `source` says that it is not smooth, sorted.

    It is a landscape or a dynamics.

    Examples
    --------
    >>> breakpoints(Recorded([0.0, 1.0, 2.0], [[1.0], [2.0]]), (0.0, 2.0))
    array([1.])
    """
    method: Any = getattr(source, "breakpoints", None)
    if method is None:
        return np.empty(0)
    times = np.unique(np.asarray(method(t_span), dtype=np.float64))
    return times[(times > t_span[0]) & (times < t_span[1])]


def fitness_at_log_masses(landscape: LandscapeFunction, t: float, log_masses: Array) -> Array:
    """Return the fitness at masses exp(log_masses), by the landscape's own formula in ln p if it has one.

    Examples
    --------
    >>> import numpy as np
    >>> fitness_at_log_masses(Entropic([1.0], temperature=1.0), 0.0, np.array([-2000.0]))
    array([2001.])
    """
    method: Any = getattr(landscape, "at_log_masses", None)
    if method is not None:
        return method(t, log_masses)
    xp = array_namespace(log_masses)
    return landscape(t, xp.exp(log_masses))


def linearization(
    landscape: LandscapeFunction, t: float, log_masses: FloatArray
) -> DiagonalPlusLowRank | None:
    """Return the Jacobian ∂φ_i/∂ln p_j if the landscape states it, else None.

    Examples
    --------
    >>> import numpy as np
    >>> linearization(LinearDecay([1.0, 1.0], decay=0.5), 0.0, np.zeros(2)).diagonal
    array([-0.5, -0.5])
    """
    method: Any = getattr(landscape, "linearization", None)
    return None if method is None else method(t, log_masses)
