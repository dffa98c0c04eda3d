"""What identifies a point of a sweep: its configuration with all types, the code, and the version."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import FunctionType
from typing import Any

import numpy as np

from evodyn.core.code_identity import code_digest
from evodyn.core.specifications import state_of
from evodyn.core.version import __version__

__all__ = ["Point", "code_of", "configuration", "points_of", "types_of"]

SCHEMA = 3
_TOLD_BY_JSON = {dict, list, str, int, float, bool, type(None)}


def configuration(value: object, *, name: str = "configuration") -> Any:
    """Return a dataclass, mapping or plain value in the form that JSON keeps without loss.

    An array is told by its type, shape and a hash of its bytes, a function by its name and compiled code.

    Raises
    ------
    ValueError
        If something inside is not a finite number, string, boolean, None, array of numbers, function with
        a name, list or mapping with strings as keys.

    Examples
    --------
    >>> configuration({"rates": (1, 0.5)})
    {'rates': [1, 0.5]}
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = state_of(value)
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Mapping):
        if all(isinstance(key, str) for key in value):
            return {key: configuration(item, name=f"{name}.{key}") for key, item in value.items()}
    elif isinstance(value, list | tuple):
        return [configuration(item, name=f"{name}[{k}]") for k, item in enumerate(value)]
    elif isinstance(value, np.ndarray):
        if value.dtype.kind in "biuf":
            content = hashlib.sha256(value.tobytes()).hexdigest()
            return {"dtype": value.dtype.str, "shape": list(value.shape), "sha256": content}
    elif isinstance(value, FunctionType):
        if "<" not in value.__qualname__:
            return {"function": value.__qualname__, "code": code_digest(value)}
    elif value is None or isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise ValueError(
        f"{name} is {value!r}; expected finite numbers, strings, booleans, None, arrays of numbers, named "
        "functions, and lists, dataclasses and mappings (with strings as keys) of them: they identify a "
        "result on file."
    )


def types_of(value: object, path: str = "") -> dict[str, type]:
    """Return the types of all that is inside a configuration and that JSON would not tell apart, by path.

    Examples
    --------
    >>> types_of({"rates": (1, 0.5)})
    {'.rates': <class 'tuple'>}
    """
    found = {} if type(value) in _TOLD_BY_JSON else {path: type(value)}
    inside: Iterable[tuple[str, object]] = ()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = state_of(value)
    if isinstance(value, Mapping):
        inside = ((f"{path}.{key}", item) for key, item in value.items())
    elif isinstance(value, list | tuple):
        inside = ((f"{path}[{k}]", item) for k, item in enumerate(value))
    for inner, item in inside:
        found |= types_of(item, inner)
    return found


@dataclasses.dataclass(frozen=True)
class Point:
    """A point of a sweep, and all that its result depends on.

    Parameters
    ----------
    value : dataclass or mapping
        What the function is called with.
    code : str
        The digest of the function's code, with the classes of the point.
    identity : str
        What is computed, as JSON. The name of the function's own module is no part of it: a script, the same
        file imported, and the same module of a package give the same results.
    """

    value: Any
    code: str
    identity: str

    @functools.cached_property
    def key(self) -> str:
        """The name under which the result is filed: 32 hexadecimal digits."""
        return hashlib.sha256(self.identity.encode()).hexdigest()[:32]


def points_of(function: Callable[[Any], object], values: Sequence[Any]) -> list[Point]:
    """Return the points at which a function is to be computed.

    Raises
    ------
    ValueError
        If one of them holds what does not identify a result.
    """
    code = functools.cache(functools.partial(code_of, function))
    return [_point(function, value, code, f"points[{k}]") for k, value in enumerate(values)]


def _point(function: Any, value: Any, code_of_kinds: Callable[[frozenset[type]], str], label: str) -> Point:
    described, types = configuration(value, name=label), types_of(value)
    code = code_of_kinds(frozenset(types.values()))
    content = {
        "schema": SCHEMA,
        "function": function.__qualname__,
        "code": code,
        "version": __version__,
        "configuration": described,
        "types": {path: _name(kind, function.__module__) for path, kind in types.items()},
    }
    return Point(value, code, json.dumps(content, sort_keys=True, allow_nan=False))


def code_of(function: Callable[[Any], object], kinds: Iterable[type]) -> str:
    """Return the digest of a function's code, with the classes of its points."""
    return code_digest(function, sorted(kinds, key=lambda kind: _name(kind, function.__module__)))


def _name(kind: type, own: str) -> str:
    return kind.__qualname__ if kind.__module__ == own else f"{kind.__module__}:{kind.__qualname__}"
