"""The Euler map of groups whose fitness is compared with its mean (Eqs. 12-14), on NumPy arrays.

It is what `Dynamics.step` does for any array, operation by operation and bit for bit, without arrays in
between that are as large as the population: those take longer than the arithmetic. Compiled loops that do the
same operations in the same order take its place once they are loaded (`evodyn.simulate.compiled_maps`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from evodyn.core.arrays import FloatArray

__all__ = ["NOTHING", "Comparison", "compiled_step", "euler_step", "product_sum"]

_PART = 8192
"""So many groups at a time stay close to the processor."""


NOTHING = np.zeros(0)


class Comparison(NamedTuple):
    """Growth rates φ_i - φ̄, clipped, less a mutation rate, with a steady inflow.

    Attributes
    ----------
    clip : float
        κ, infinite without a clip.
    rate : float
        μ.
    inflow : array, shape (N,), (1,) or (0,)
        μm_i, or that of every group; empty without mutation.
    cap : float
        Greatest total mass, to which masses are rescaled after a step.
    """

    clip: float
    rate: float
    inflow: FloatArray
    cap: float = math.inf


Euler = Callable[[FloatArray, FloatArray, float, float, float, FloatArray, FloatArray], None]

compiled_step: list[Euler] = []
"""The compiled step, once it is loaded."""


def euler_step(masses: FloatArray, fitness: FloatArray, h: float, form: Comparison) -> FloatArray:
    """Return the masses after a step without regard to a cap, for contiguous arrays of shape (N,)."""
    new = np.empty_like(masses)
    if compiled_step:
        compiled_step[0](masses, fitness, h, form.clip, form.rate, form.inflow, new)
        return new
    with np.errstate(invalid="ignore"):
        product = product_sum(masses, fitness)
    # Where an absent group has infinite fitness, it does not count.
    if not math.isfinite(product):
        fitness = np.where(masses > 0, fitness, 0.0)
        product = product_sum(masses, fitness)
    total = np.add.reduce(masses)
    mean = product / (total if total > 0 else 1.0)
    for start in range(0, len(masses), _PART):
        part = slice(start, start + _PART)
        own, rates = masses[part], new[part]
        np.subtract(fitness[part], mean, out=rates)
        if form.clip < math.inf:
            np.minimum(rates, form.clip, out=rates)
            np.maximum(rates, -form.clip, out=rates)
        if len(form.inflow):
            rates -= form.rate
        rates *= own
        if len(form.inflow):
            rates += form.inflow if len(form.inflow) == 1 else form.inflow[part]
        rates *= h
        rates += own
        np.maximum(rates, 0.0, out=rates)
    return new


def product_sum(masses: FloatArray, fitness: FloatArray) -> Any:
    """Return Σ p_i φ_i over the last axis, the same bits as ``np.add.reduce(masses * fitness, axis=-1)``.

    NumPy adds the halves of what is long, and their halves: here the products of one part at a time are made.
    Older releases (2.0) add up parts of 8192 one after another; the sum here is the same with all of them.

    Examples
    --------
    >>> p, phi = np.random.default_rng(0).random((2, 8_000))
    >>> bool(product_sum(p, phi) == (p * phi).sum())
    True
    """
    n = masses.shape[-1]
    if n <= _PART or masses.ndim > 1 or fitness.ndim > 1:
        return np.add.reduce(masses * fitness, axis=-1)
    half = n // 2 - n // 2 % 8
    return product_sum(masses[:half], fitness[:half]) + product_sum(masses[half:], fitness[half:])
