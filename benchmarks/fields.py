"""Right-hand sides that all peers share, of masses ("mass") and of their logarithms ("log").

They are written twice: in the operations of an array library, and compiled with numba, for which peers get
the exponential and the vector width of the package's own kernels.
"""

from __future__ import annotations

import functools
import importlib
import math
import timeit
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from benchmarks.libraries import installed, library
from benchmarks.problems import Flow
from evodyn.core.arrays import FloatArray

__all__ = [
    "FAST",
    "Field",
    "Form",
    "coefficients",
    "compiled",
    "dense_jacobian",
    "fastest",
    "field",
    "fitness",
    "jacobian",
    "start",
]

Form = Literal["mass", "log"]
Field = Callable[[float, FloatArray], FloatArray]
FAST = {"reassoc", "contract", "arcp", "nsz"}
"""What compiled code may do to arithmetic: sums in any order; NaN and infinity keep their meaning."""


def start(flow: Flow, form: Form) -> FloatArray:
    """Return the initial masses, or their logarithms."""
    return np.array(flow.p0) if form == "mass" else np.log(flow.p0)


def field(flow: Flow, form: Form, arrays: Any = np, convert: Callable[[FloatArray], Any] = np.asarray) -> Any:
    """Return dy/dt as a function of (t, y), in NumPy or in a library that is called alike."""
    c, decay, rate = convert(flow.contribution), flow.decay, flow.rate
    payoff = None if flow.payoff is None else convert(flow.payoff)
    swing = flow.swing
    sines = None if swing is None else convert(swing.sines)
    cosines = None if swing is None else convert(swing.cosines)

    def fitness_at(t: Any, p: Any) -> Any:
        if payoff is not None:
            return payoff @ (p / p.sum())
        if swing is not None:
            angle = swing.frequency * t
            return c + arrays.sin(angle) * sines + arrays.cos(angle) * cosines
        return c - decay * p if decay else c

    def of_masses(t: Any, p: Any) -> Any:
        phi = fitness_at(t, p)
        flow = p * (phi - ((p @ phi) / p.sum() + rate))
        return flow + rate if rate else flow

    def of_logarithms(t: Any, y: Any) -> Any:
        p = arrays.exp(y)
        phi = fitness_at(t, p)
        growth = phi - ((p @ phi) / p.sum() + rate)
        return growth + rate / p if rate else growth

    return of_masses if form == "mass" else of_logarithms


def jacobian(flow: Flow, form: Form) -> Callable[[float, FloatArray], tuple[FloatArray, Any, FloatArray]]:
    """Return d, l and r of the Jacobian diag(d) - l rᵀ as a function of (t, y); not for games."""
    fitness_of = fitness(flow)

    def parts(t: float, y: FloatArray) -> tuple[FloatArray, Any, FloatArray]:
        p = np.exp(y) if form == "log" else y
        phi, total = fitness_of(t, p), p.sum()
        own = phi - (p @ phi) / total - flow.decay * p
        if form == "log":
            return -flow.decay * p - flow.rate / p, np.ones_like(p), own * p / total
        return own - flow.rate, p, own / total

    return parts


def fitness(flow: Flow) -> Field:
    """Return fitness in NumPy as a function of (t, p)."""
    c, decay, swing, payoff = flow.contribution, flow.decay, flow.swing, flow.payoff
    if payoff is not None:
        return lambda t, p: payoff @ (p / p.sum())
    if swing is None:
        return lambda t, p: c - decay * p

    def swinging(t: float, p: FloatArray) -> FloatArray:
        angle = swing.frequency * t
        found: FloatArray = c + math.sin(angle) * swing.sines + math.cos(angle) * swing.cosines
        return found

    return swinging


def dense_jacobian(flow: Flow, form: Form) -> Callable[[float, FloatArray], FloatArray]:
    """Return the Jacobian as a whole, as a function of (t, y)."""
    parts = jacobian(flow, form)

    def whole(t: float, y: FloatArray) -> FloatArray:
        diagonal, left, right = parts(t, y)
        full = np.outer(-left, right)
        full[np.diag_indices_from(full)] += diagonal
        return full

    return whole


def coefficients(flow: Flow) -> FloatArray:
    """Return what compiled right-hand sides are given: N, λ, μ and ω, then the arrays one after another."""
    if flow.payoff is not None:
        return np.concatenate([[flow.n, 0.0, 0.0, 0.0], flow.payoff.ravel()])
    if (swing := flow.swing) is not None:
        return np.concatenate(
            [[flow.n, 0.0, 0.0, swing.frequency], flow.contribution, swing.sines, swing.cosines]
        )
    return np.concatenate([[flow.n, flow.decay, flow.rate, 0.0], flow.contribution])


def compiled(flow: Flow, form: Form) -> Any:
    """Return the compiled right-hand side, called as ``field(dy, t, y, coefficients)``."""
    if flow.is_game:
        return _compiled_game(form == "log")
    return _compiled(form == "log", flow.decay > 0, flow.rate > 0, flow.swing is not None)


@functools.cache
def _compiled(logarithms: bool, decays: bool, mutates: bool, swings: bool) -> Any:
    """Compile the field of one kind; what the kind has not is not compiled."""
    numba = library("numba")
    vectors: Any = importlib.import_module("evodyn.solvers.vectors")
    exponential, in_wide_vectors = vectors.exponential, vectors.in_wide_vectors

    @numba.njit(error_model="numpy", fastmath=FAST)  # type: ignore[untyped-decorator]
    def field(dy: Any, t: Any, y: Any, a: Any) -> None:
        in_wide_vectors()
        n = y.size
        c, decay, rate, total, flow = a[4 : 4 + n], a[1], a[2], 0.0, 0.0
        if swings:
            sine, cosine = math.sin(a[3] * t), math.cos(a[3] * t)
            sines, cosines = a[4 + n : 4 + 2 * n], a[4 + 2 * n : 4 + 3 * n]
        for i in range(n):
            p = exponential(y[i]) if logarithms else y[i]
            phi = c[i]
            if decays:
                phi -= decay * p
            if swings:
                phi += sine * sines[i] + cosine * cosines[i]
            total += p
            flow += p * phi
            if logarithms:
                dy[i] = phi + rate / p if mutates else phi
            else:
                dy[i] = phi
        mean = flow / total + rate
        for i in range(n):
            if logarithms:
                dy[i] -= mean
            else:
                dy[i] = y[i] * (dy[i] - mean) + rate if mutates else y[i] * (dy[i] - mean)

    return field


@functools.cache
def _compiled_game(logarithms: bool) -> Any:
    numba = library("numba")

    @numba.njit(error_model="numpy", fastmath=FAST)  # type: ignore[untyped-decorator]
    def field(dy: Any, t: Any, y: Any, a: Any) -> None:
        n, total, mean = y.size, 0.0, 0.0
        for i in range(n):
            total += math.exp(y[i]) if logarithms else y[i]
        for i in range(n):
            phi = 0.0
            for j in range(n):
                phi += a[4 + i * n + j] * (math.exp(y[j]) if logarithms else y[j])
            dy[i] = phi / total
            mean += (math.exp(y[i]) if logarithms else y[i]) * dy[i] / total
        for i in range(n):
            dy[i] = dy[i] - mean if logarithms else y[i] * (dy[i] - mean)

    return field


@functools.cache
def fastest(flow: Flow, form: Form) -> Field:
    """Return the faster of the right-hand sides in NumPy and in numba, by measurement."""
    plain: Field = field(flow, form)
    if not installed("numba"):
        return plain
    kernel, given = compiled(flow, form), coefficients(flow)

    def by_numba(t: float, y: FloatArray) -> FloatArray:
        dy = np.empty_like(y)
        kernel(dy, t, y, given)
        return dy

    y = start(flow, form) - 1e-3 * np.arange(flow.n) / flow.n
    if not np.allclose(plain(0.3, y), by_numba(0.3, y), rtol=1e-10, atol=1e-10):
        raise ArithmeticError(f"The right-hand sides of {flow.name} disagree.")
    spent = {f: min(timeit.repeat(lambda f=f: f(0.3, y), number=5, repeat=5)) for f in (plain, by_numba)}  # type: ignore[misc]
    return min(spent, key=spent.__getitem__)
