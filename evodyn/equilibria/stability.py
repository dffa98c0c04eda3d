"""Stability of rest points: eigenvalues on the tangent space, and verdicts that do not guess."""

from __future__ import annotations

import enum

import numpy as np
import numpy.typing as npt

from evodyn.core.arrays import FloatArray

__all__ = ["ComplexArray", "Stability", "classify", "tangent_basis"]

ComplexArray = npt.NDArray[np.complex128]
_TOLERANCE = 1e-9  # relative; rounding in eigenvalues of the sizes met here stays well below


class Stability(enum.Enum):
    """What happens after a small perturbation that leaves the total mass unchanged.

    The value of each member is a sentence that says so.

    Examples
    --------
    >>> import evodyn as ed
    >>> coordination = ed.landscapes.MatrixGame([[1.0, 0.0], [0.0, 1.0]])
    >>> point = ed.equilibrium(ed.Replicator(), coordination, support=[0, 1])
    >>> point.stability is Stability.UNSTABLE
    True
    >>> print(point.stability)
    unstable: some small perturbation grows, along an eigenvector or by invasion
    """

    STABLE = "asymptotically stable: every small perturbation dies out"
    UNSTABLE = "unstable: some small perturbation grows, along an eigenvector or by invasion"
    NEUTRAL = (
        "neutrally stable: small perturbations neither grow nor all die out, because the point lies on a "
        "continuum of rest points or of closed orbits"
    )
    INDETERMINATE = (
        "indeterminate: the linearisation has real parts at zero, within rounding, or was not computed, and "
        "no other argument applies; integrate from nearby, or pass eigenvalues=True"
    )

    def __str__(self) -> str:
        return self.value


def tangent_basis(normal: FloatArray) -> FloatArray:
    """Return an orthonormal basis of the vectors orthogonal to `normal`, shape (N, N - 1).

    Examples
    --------
    >>> import numpy as np
    >>> basis = tangent_basis(np.array([1.0, 1.0]))
    >>> basis.shape, bool(abs(basis.sum()) < 1e-15)
    ((2, 1), True)
    """
    unit = normal / np.linalg.norm(normal)
    # The Householder reflection that takes the unit normal to an axis; the sign avoids cancellation.
    pivot = 1.0 if unit[0] >= 0 else -1.0
    mirror = unit.copy()
    mirror[0] += pivot
    reflection: FloatArray = np.eye(len(unit)) - np.outer(mirror, mirror) / (1 + abs(unit[0]))
    return reflection[:, 1:]


def classify(
    eigenvalues: ComplexArray,
    invasion_rates: FloatArray,
    *,
    scale: float,
    slope: FloatArray | None = None,
) -> Stability:
    """Return the verdict on a rest point.

    Parameters
    ----------
    eigenvalues : array
        Of the linearisation among the survivors, on their tangent space.
    invasion_rates : array
        Growth rates of the absent.
    scale : float
        Size of the rates, to which rounding is relative.
    slope : array, shape (K, K), optional
        ∂φ_i/∂p_j among the survivors and the absent whose invasion rate is 0, as a form on their tangent
        space, for fitness that is affine in the masses and without mutation. With it the verdict is
        reached also where the linearisation alone has none: V = Σ p_i* ln(p_i*/p_i) changes at the rate
        of minus that form, and a null vector is a line of rest points.

    Returns
    -------
    Stability

    Examples
    --------
    >>> import numpy as np
    >>> classify(np.array([-1.0 + 2j, -1.0 - 2j]), np.array([-0.5]), scale=1.0).name
    'STABLE'
    >>> classify(np.array([2j, -2j]), np.array([]), scale=1.0).name
    'INDETERMINATE'
    """
    tolerance = _TOLERANCE * scale
    if (invasion_rates > tolerance).any() or (eigenvalues.real > tolerance).any():
        return Stability.UNSTABLE
    invaders = int((invasion_rates >= -tolerance).sum())
    if not invaders and (eigenvalues.real < -tolerance).all():
        return Stability.STABLE
    if slope is None or not slope.size:
        return Stability.INDETERMINATE
    small = _TOLERANCE * max(float(np.abs(slope).max()), np.finfo(float).tiny)
    form = np.linalg.eigvalsh((slope + slope.T) / 2)
    if form.max() < -small:
        return Stability.STABLE  # V decreases strictly
    if np.abs(form).max() <= small:
        return Stability.NEUTRAL  # V is constant on the face of survivors and invaders
    nullity = int((np.linalg.svd(slope, compute_uv=False) <= small).sum())
    # With several invaders the line of rest points may leave the orthant; with one, half of it is inside.
    if nullity and invaders <= 1:
        central = int((np.abs(eigenvalues) <= tolerance).sum())
        attracting = int((eigenvalues.real < -tolerance).sum())
        attracting_line = central + invaders == nullity and central + attracting == len(eigenvalues)
        if attracting_line or form.max() <= small:
            return Stability.NEUTRAL
    return Stability.INDETERMINATE
