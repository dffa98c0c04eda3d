"""Checks at the public entry points: each message names argument, value, expectation and remedy."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from evodyn.core.arrays import Array, FloatArray, frozen, host, is_foreign

__all__ = ["choice", "count", "finite", "non_negative", "numeric", "positive", "specification_array"]


def choice(name: str, value: object, allowed: Sequence[str]) -> str:
    """Return `value` if it is one of the `allowed` names."""
    if not isinstance(value, str) or value not in allowed:
        listed = ", ".join(repr(a) for a in allowed)
        raise ValueError(f"{name} is {value!r}; expected one of {listed}.")
    return value


def numeric(name: str, value: object) -> float:
    """Return `value` as a float if it is a real number other than NaN."""
    if type(value) is float and value == value:  # in every step of a map: abstract classes are slow to ask
        return value
    if isinstance(value, bool) or not isinstance(value, numbers.Real | np.floating | np.integer):
        # 0-d arrays are numbers to their users.
        if isinstance(value, np.ndarray) and value.ndim == 0:
            return numeric(name, value.item())
        raise ValueError(f"{name} is {value!r}; expected a real number.")
    number = float(value)
    if math.isnan(number):
        raise ValueError(f"{name} is NaN; expected a real number.")
    return number


def finite(name: str, value: object) -> float:
    """Return `value` as a float if it is a finite real number."""
    number = numeric(name, value)
    if not math.isfinite(number):
        raise ValueError(f"{name} is {number!r}; expected a finite number.")
    return number


def non_negative(name: str, value: object, *, remedy: str = "give zero or a positive number") -> float:
    """Return `value` as a float if it is finite and at least zero."""
    number = finite(name, value)
    if number < 0:
        raise ValueError(f"{name} is {number!r}; expected a number >= 0: {remedy}.")
    return number


def positive(name: str, value: object, *, infinite: bool = False) -> float:
    """Return `value` as a float if it is above zero (and finite, unless `infinite`)."""
    number = numeric(name, value)
    if not number > 0 or (math.isinf(number) and not infinite):
        expected = "a number > 0" if infinite else "a finite number > 0"
        raise ValueError(f"{name} is {number!r}; expected {expected}.")
    return number


def count(name: str, value: object, *, least: int = 1) -> int:
    """Return `value` as an int if it is a whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral | np.integer) or int(value) < least:
        raise ValueError(f"{name} is {value!r}; expected a whole number >= {least}.")
    return int(value)


def _first(mask: npt.NDArray[np.bool_]) -> str:
    index = tuple(int(i) for i in np.argwhere(mask)[0])
    return str(index[0] if len(index) == 1 else index)


def finite_array(
    name: str, value: npt.ArrayLike, *, ndim: int | None = None, least: float = -math.inf
) -> FloatArray:
    """Return a read-only float64 copy of `value` if it is a finite numeric array with entries >= `least`."""
    try:
        value = host(value) if is_foreign(value) else value
        kind = np.asarray(value).dtype.kind
        if kind not in "biufO":
            raise TypeError("it holds " + ("complex numbers" if kind == "c" else "no numbers"))
        array = frozen(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} cannot be read as an array of real numbers ({error}).") from error
    if ndim is not None and array.ndim != ndim:
        raise ValueError(
            f"{name} has shape {array.shape}; expected {ndim} dimension{'s' if ndim > 1 else ''}."
        )
    bad = ~np.isfinite(array)
    if bad.any():
        where = _first(bad)
        raise ValueError(
            f"{name} is {float(array[bad][0])!r} at index {where}; expected finite numbers: "
            "remove or replace the entry."
        )
    bad = array < least
    if bad.any():
        where = _first(bad)
        raise ValueError(
            f"{name} is {float(array[bad][0])!r} at index {where}; expected numbers >= {least:g}."
        )
    return array


def specification_array(
    name: str, value: Array, *, ndim: int | None = None, least: float = -math.inf, scalar: bool = False
) -> Array:
    """Check and freeze an array of a specification.

    NumPy arrays, sequences and numbers are copied, checked and made read-only. Arrays of other
    libraries are kept as they are: looking at their values could wait for a device.
    """
    if is_foreign(value):
        return value
    array = finite_array(name, value, least=least)
    if scalar and array.ndim == 0:
        return array
    if ndim is not None and array.ndim != ndim:
        raise ValueError(
            f"{name} has shape {array.shape}; expected {ndim} dimension{'s' if ndim > 1 else ''}."
        )
    if array.ndim and array.shape[-1] == 0:
        raise ValueError(f"{name} is empty; expected at least one group.")
    return array
