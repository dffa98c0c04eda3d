"""Arrays of any array-API library: moving values to where the masses are, and freezing them."""

from __future__ import annotations

import sys
from typing import Any

import array_api_compat
import numpy as np
import numpy.typing as npt

__all__ = [
    "Array",
    "FloatArray",
    "array_namespace",
    "array_of",
    "float64",
    "frozen",
    "host",
    "like",
    "on_host",
    "returned",
]

Array = Any
"""An array of any array-API library (NumPy, torch, array-api-strict, ...)."""

FloatArray = npt.NDArray[np.float64]


_NAMESPACES: dict[type, Any] = {}


def array_namespace(array: Array) -> Any:
    """Return the array-API namespace of `array`; NumPy's own for its own arrays."""
    kind = type(array)
    if kind is np.ndarray:
        return np
    if kind not in _NAMESPACES:  # to find out takes longer than a step of a thousand groups
        _NAMESPACES[kind] = array_api_compat.array_namespace(array)
    return _NAMESPACES[kind]


_OWN = (np.ndarray, np.generic, float, int)
_DOUBLE = np.dtype(np.float64)
_FOREIGN: dict[type, bool] = {}


def is_foreign(value: object) -> bool:
    """Tell whether `value` is an array of a library other than NumPy."""
    if isinstance(value, _OWN):
        return False
    kind = type(value)
    if kind not in _FOREIGN:
        _FOREIGN[kind] = bool(array_api_compat.is_array_api_obj(value))
    return _FOREIGN[kind]


def array_of(values: Array) -> Array:
    """Return arrays of any library as they are, and sequences of numbers as a NumPy array.

    Examples
    --------
    >>> array_of([1.0, 2.0])
    array([1., 2.])
    """
    if type(values) is np.ndarray or is_foreign(values):
        return values
    return np.asarray(values, dtype=np.float64)


def float64(masses: Array) -> Array:
    """Return `masses` in float64, unchanged (and uncopied) if they are already.

    Increments of 5e-8 a step vanish in float32, so selection state is float64
    whatever precision the rest of a model uses.
    """
    if type(masses) is np.ndarray and masses.dtype is _DOUBLE:
        return masses
    if not is_foreign(masses):
        return np.asarray(masses, dtype=np.float64)
    xp = array_namespace(masses)
    return masses if masses.dtype == xp.float64 else xp.astype(masses, xp.float64)


def like(value: Array, masses: Array) -> Array:
    """Return `value` as an array of the library and on the device of `masses`.

    Nothing is copied if it is there already.
    """
    if type(masses) is np.ndarray:
        return host(value) if is_foreign(value) else value
    if is_foreign(value) or not isinstance(value, np.ndarray | np.generic):
        return value
    xp = array_namespace(masses)
    # The copy also spares torch a warning: specifications hold read-only arrays.
    return xp.asarray(np.array(value), dtype=xp.float64, device=array_api_compat.device(masses))


def on_host(value: Array) -> FloatArray | None:
    """Return a float64 array of torch or NumPy as a NumPy array that shares its memory, if it is on a CPU.

    None if it is elsewhere, of another library, or has gradients to be remembered. NumPy's arrays are
    contiguous and writable, in a copy if need be: so are all that compiled loops know.
    """
    if type(value) is np.ndarray:
        flags = value.flags  # to ask a view whether it may be written to can be a warning
        return value if flags.owndata and flags.carray else np.array(value, order="C")
    torch = sys.modules.get("torch")
    if torch is None or type(value) is not torch.Tensor or value.device.type != "cpu" or value.requires_grad:
        return None
    if torch.compiler.is_compiling():
        return None
    try:
        view: FloatArray = value.contiguous().numpy()
        return view
    except RuntimeError:  # under a transform such as vmap
        return None


def returned(value: FloatArray, like: Array) -> Array:
    """Return an array made from views by `on_host` as one of the library of what was viewed."""
    return value if type(like) is np.ndarray else sys.modules["torch"].from_numpy(value)


def host(value: Array) -> FloatArray:
    """Return `value` as a NumPy float64 array, copying from a device if need be."""
    if array_api_compat.is_torch_array(value):
        value = value.detach().cpu().numpy()
    return np.asarray(value, dtype=np.float64)


def real(values: npt.ArrayLike) -> FloatArray:
    """Return what a landscape has returned as NumPy float64 numbers.

    Raises
    ------
    ValueError
        If they are complex: a part of them would be lost.
    """
    if type(values) is np.ndarray and values.dtype == np.float64:
        return values
    array = np.asarray(values)
    if array.dtype.kind == "c":
        raise ValueError("landscape returned complex numbers; expected real fitness: return its real part.")
    return np.asarray(array, dtype=np.float64)


def frozen(value: npt.ArrayLike) -> FloatArray:
    """Return a read-only float64 copy of `value`."""
    array = np.array(value, dtype=np.float64)
    array.flags.writeable = False
    return array
