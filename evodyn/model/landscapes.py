"""Landscapes whose formula is explicit: constant, decaying, entropic, redundant, seasonal, recorded.

What every landscape is, and may define, is said in `evodyn.landscapes`.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from evodyn.core import validation
from evodyn.core.arrays import Array, FloatArray, array_namespace, array_of, host, like
from evodyn.model.fitness import Landscape, Separable, check_groups, group_count
from evodyn.model.games import matrix_times, square_matrix
from evodyn.model.normal_form import NormalForm, Swing
from evodyn.model.structure import DiagonalPlusLowRank

__all__ = ["Constant", "Entropic", "LinearDecay", "Recorded", "Redundancy", "Seasonal"]


def _one_row(contribution: Array, n: int) -> FloatArray:
    """Return contributions on the host, shape (n,)."""
    row = host(contribution)
    if row.ndim > 1:
        raise ValueError(
            f"landscape has contributions of shape {row.shape}; expected ({n},): ask for one member of a "
            "batch at a time."
        )
    return row if row.shape == (n,) else np.broadcast_to(row, (n,))


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
    exact_kernel = True
    contribution: Array

    def __post_init__(self) -> None:
        self._set(contribution=validation.specification_array("contribution", self.contribution))

    def __call__(self, t: float, masses: Array) -> Array:
        masses = array_of(masses)
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
    exact_kernel = True
    contribution: Array
    decay: float

    def __post_init__(self) -> None:
        self._set(
            contribution=validation.specification_array("contribution", self.contribution),
            decay=validation.non_negative("decay", self.decay),
        )

    def __call__(self, t: float, masses: Array) -> Array:
        masses = array_of(masses)
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
        masses = array_of(masses)
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
        similarity = square_matrix("similarity", self.similarity, least=0.0)
        if isinstance(similarity, np.ndarray) and not np.array_equal(similarity, similarity.T):
            i, j = (int(k) for k in np.argwhere(similarity != similarity.T)[0])
            raise ValueError(
                f"similarity is {similarity[i, j]:g} at {(i, j)} and {similarity[j, i]:g} at {(j, i)}; "
                "expected a symmetric matrix: average it with its transpose if it is meant to be one."
            )
        check_groups(contribution=group_count(contribution), similarity=group_count(similarity))
        strength = validation.non_negative("strength", self.strength)
        self._set(contribution=contribution, similarity=similarity, strength=strength)

    def __call__(self, t: float, masses: Array) -> Array:
        masses = array_of(masses)
        competition = matrix_times(like(self.similarity, masses), masses)
        return like(self.contribution, masses) - self.strength * competition

    def linearization(self, t: float, log_masses: FloatArray) -> DiagonalPlusLowRank:
        return DiagonalPlusLowRank(
            np.zeros(len(log_masses)), -self.strength * self.similarity, np.diag(np.exp(log_masses))
        )

    def kernel(self, t: float, n: int) -> NormalForm:
        return NormalForm(_one_row(self.contribution, n), competition=-self.strength * host(self.similarity))

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
        check_groups(**{name: group_count(array) for name, array in arrays.items()})

    def __call__(self, t: float, masses: Array) -> Array:
        masses = array_of(masses)
        # In double precision on the host for scalars, on the masses' device otherwise.
        angle = 2 * math.pi * (t / self.period) + like(self.phase, masses)
        xp = array_namespace(masses)
        swing = like(self.amplitude, masses) * xp.sin(angle + xp.zeros_like(masses))
        return like(self.contribution, masses) + swing

    def kernel(self, t: float, n: int) -> NormalForm:
        amplitude, phase = _one_row(self.amplitude, n), _one_row(self.phase, n)
        swing = Swing(2 * math.pi / self.period, amplitude * np.cos(phase), amplitude * np.sin(phase))
        return NormalForm(_one_row(self.contribution, n), swings=(swing,))

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
        masses = array_of(masses)
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

    def kernel(self, t: float, n: int) -> NormalForm:
        return NormalForm(_one_row(self.contributions[self.index(t)], n), decay=self.decay)

    def linearization(self, t: float, log_masses: FloatArray) -> DiagonalPlusLowRank:
        return DiagonalPlusLowRank.diagonal_only(-self.decay * np.exp(log_masses))


def _as_groups(contribution: Array, masses: Array) -> Array:
    """Return `contribution` as fitness of the shape of `masses`."""
    if contribution.shape == masses.shape:
        return contribution
    xp = array_namespace(masses)
    return contribution + xp.zeros_like(masses)
