"""What a landscape is, what it can be asked, and how landscapes add."""

from __future__ import annotations

import dataclasses
import functools
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from evodyn.core.arrays import Array, FloatArray, array_namespace, array_of, is_foreign
from evodyn.core.specifications import Specification
from evodyn.model.normal_form import NormalForm
from evodyn.model.structure import DiagonalPlusLowRank

__all__ = [
    "Landscape",
    "LandscapeFunction",
    "Separable",
    "Sum",
    "affine",
    "breakpoints",
    "fitness_at_log_masses",
    "linearization",
    "potential",
    "separable",
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
    exact_kernel: ClassVar[bool] = False
    """Whether fitness is computed as c - λp from the c and λ of `kernel`, in every bit."""

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

    def kernel(self, t: float, n: int) -> NormalForm | None:
        """Return fitness of n groups from `t` to the next breakpoint, in the form that is compiled."""
        form = self.separable(n)
        return None if form is None else NormalForm(form.contribution, form.decay, form.temperature)

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
        "exact_kernel",
        "kernel",
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


def _terms(landscape: LandscapeFunction) -> tuple[LandscapeFunction, ...]:
    return landscape.terms if isinstance(landscape, Sum) else (landscape,)


def check_groups(**groups: int | None) -> None:
    """Raise `ValueError` unless the named numbers of groups agree; None agrees with all."""
    if len({n for n in groups.values() if n is not None}) > 1:
        listed = ", ".join(f"{name} has {n} groups" for name, n in groups.items() if n is not None)
        raise ValueError(f"{listed}; expected the same number of groups in each.")


def group_count(array: Array) -> int | None:
    """Return the number of groups that an array is made for, None for a single number."""
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
    >>> from evodyn.landscapes import Constant, LinearDecay
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
        check_groups(**{f"term {k}": getattr(term, "groups", None) for k, term in enumerate(terms)})
        self._set(terms=terms)

    def __call__(self, t: float, masses: Array) -> Array:
        masses = array_of(masses)
        return functools.reduce(
            lambda total, term: total + term(t, masses), self.terms[1:], self.terms[0](t, masses)
        )

    @property
    def groups(self) -> int | None:
        return next(
            (g for g in (getattr(term, "groups", None) for term in self.terms) if g is not None), None
        )

    @property
    def contribution(self) -> Any:
        """The sum of the contributions of the terms that have one, None if none has."""
        known = [c for term in self.terms if (c := getattr(term, "contribution", None)) is not None]
        return functools.reduce(lambda total, one: total + one, known) if known else None

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

    def kernel(self, t: float, n: int) -> NormalForm | None:
        return functools.reduce(_both, [kernel(term, t, n) for term in self.terms])

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


def separable(landscape: LandscapeFunction, n: int) -> Separable | None:
    """Return `landscape` as φ_i = c_i - λp_i - T ln p_i if it says that it has that form, else None."""
    method: Any = getattr(landscape, "separable", None)
    return None if method is None else method(n)


def kernel(landscape: LandscapeFunction, t: float, n: int) -> NormalForm | None:
    """Return the fitness of n groups from `t` to the next breakpoint as it is compiled, None if it is not.

    Raises
    ------
    ValueError
        If a kernel of a user's own is for another number of groups.
    """
    method: Any = getattr(landscape, "kernel", None)
    form: NormalForm | None = method(t, n) if callable(method) else None
    if form is not None and np.shape(form.contribution) != (n,):
        raise ValueError(
            f"the kernel of {type(landscape).__name__} has contributions of shape "
            f"{np.shape(form.contribution)}; expected ({n},), one for each group."
        )
    return form


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
    >>> from evodyn.landscapes import Recorded
    >>> breakpoints(Recorded([0.0, 1.0, 2.0], [[1.0], [2.0]]), (0.0, 2.0))
    array([1.])
    """
    method: Any = getattr(source, "breakpoints", None)
    declared = () if method is None else method(t_span)
    if isinstance(declared, tuple) and not declared:
        return np.empty(0)
    times = np.unique(np.asarray(declared, dtype=np.float64))
    return times[(times > t_span[0]) & (times < t_span[1])]


def fitness_at_log_masses(landscape: LandscapeFunction, t: float, log_masses: Array) -> Array:
    """Return the fitness at masses exp(log_masses), by the landscape's own formula in ln p if it has one.

    Examples
    --------
    >>> from evodyn.landscapes import Entropic
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
    >>> from evodyn.landscapes import LinearDecay
    >>> import numpy as np
    >>> linearization(LinearDecay([1.0, 1.0], decay=0.5), 0.0, np.zeros(2)).diagonal
    array([-0.5, -0.5])
    """
    method: Any = getattr(landscape, "linearization", None)
    return None if method is None else method(t, log_masses)
