"""The frozen dataclasses that say what is simulated: comparison, short `repr`, and a plain description."""

from __future__ import annotations

import dataclasses
import functools
import reprlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Self

import numpy as np

from evodyn.core.arrays import host, is_foreign

__all__ = ["OWN", "Result", "Specification", "freeze", "same_value", "state_of", "summary"]


def summary(value: object) -> str:
    """Return a `repr` that stays short for arrays of any size."""
    if isinstance(value, np.ndarray):
        if value.size <= 4:
            return np.array2string(value, separator=", ", precision=6)
        return f"<{'×'.join(map(str, value.shape))} array in [{value.min():.4g}, {value.max():.4g}]>"
    if isinstance(value, np.generic):  # which NumPy writes with its type
        return repr(value.item())
    if is_foreign(value):
        return f"<{type(value).__name__} {tuple(value.shape)}>"  # type: ignore[attr-defined]
    if isinstance(value, tuple):
        return "(" + ", ".join(map(summary, value)) + ("," if len(value) == 1 else "") + ")"
    if callable(value) and not isinstance(value, Specification):
        return str(getattr(value, "__qualname__", f"<{type(value).__qualname__} object>"))
    # A user's own attributes may be collections of any size.
    return reprlib.repr(value) if isinstance(value, list | dict | set | frozenset) else repr(value)


def state_of(value: Any) -> dict[str, Any]:
    """Return all that makes a dataclass instance, by name.

    These are its fields in order of declaration, then the attributes that a subclass set beside them,
    sorted. Caches (`functools.cached_property`) follow from the rest, and are left out.

    Examples
    --------
    >>> @dataclasses.dataclass(frozen=True)
    ... class Base:
    ...     rate: float
    >>> class Own(Base):
    ...     def __init__(self, rate, delay):
    ...         super().__init__(rate)
    ...         self.delay = delay
    >>> state_of(Own(0.5, 2.0))
    {'rate': 0.5, 'delay': 2.0}
    """
    state = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    # Whatever the class itself says of pickling, these are all attributes.
    others = _attributes(object.__getstate__(value))
    for name in sorted(others):
        if name not in state and not isinstance(getattr(type(value), name, None), functools.cached_property):
            state[name] = others[name]
    return state


def _attributes(state: Any) -> dict[str, Any]:
    """Return what `object.__getstate__` found as one dictionary: attributes, and those in slots."""
    parts = state if isinstance(state, tuple) else (state,)
    return {name: value for part in parts if part for name, value in part.items()}


def same_value(left: object, right: object) -> bool:
    """Compare field values: arrays by shape and by every bit, specifications by their fields."""
    if _is_array(left) and _is_array(right):
        a, b = (v if isinstance(v, np.ndarray) else host(v) for v in (left, right))
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(left, Specification):
        return left.same_as(right)
    if isinstance(left, tuple | list) and isinstance(right, type(left)):
        return len(left) == len(right) and all(same_value(*pair) for pair in zip(left, right, strict=True))
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same_value(left[key], right[key]) for key in left)
    if type(left) is not type(right):
        return False
    return bool(left == right) or (left != left and right != right)  # NaN is what NaN is


def _is_array(value: object) -> bool:
    return isinstance(value, np.ndarray) or is_foreign(value)


OWN: dict[str, type[Specification]] = {}
"""The specifications of this package by name, which is what files call them."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Specification:
    """Base of all specifications. Frozen; arrays are copied once and read-only."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if cls.__module__.startswith("evodyn."):
            OWN[cls.__name__] = cls

    def fields(self) -> dict[str, Any]:
        """Return all that makes the specification, by name: its fields, then attributes set beside them."""
        return state_of(self)

    def same_as(self, other: object) -> bool:
        """Tell whether `other` is of the same type with equal fields, arrays compared bit for bit.

        Attributes that a subclass sets beside its fields count like these.
        """
        if type(self) is not type(other) or not isinstance(other, Specification):
            return False
        return same_value(self.fields(), other.fields())

    def __repr__(self) -> str:
        inside = ", ".join(f"{name}={summary(value)}" for name, value in self.fields().items())
        return f"{type(self).__name__}({inside})"

    def __setstate__(self, state: Any) -> None:
        for name, value in _attributes(state).items():
            # Copying and unpickling would return writable arrays.
            if isinstance(value, np.ndarray):
                value.flags.writeable = False
            object.__setattr__(self, name, value)

    def _set(self, **values: object) -> None:
        """Store values during construction or copying, when alone a frozen dataclass may change."""
        for name, value in values.items():
            object.__setattr__(self, name, value)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Result(Specification):
    """Base of results. Some of their values are computed when somebody looks at them."""

    @classmethod
    def with_pending(cls, pending: Mapping[str, Callable[[], Any]], **fields: Any) -> Self:
        """Return a result of these fields, and of others that are computed when somebody looks at them."""
        result = object.__new__(cls)
        result._set(**fields, _pending=dict(pending))
        freeze(result, fields)
        return result

    def __getattr__(self, name: str) -> Any:
        if name not in self.__dict__.get("_pending", {}):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        self._set(**{name: self._pending[name]()})
        freeze(self, (name,))
        del self._pending[name]
        return self.__dict__[name]

    def fields(self) -> dict[str, Any]:
        self._settle()
        return super().fields()

    def __getstate__(self) -> dict[str, Any]:
        self._settle()
        return self.__dict__

    def _settle(self) -> None:
        """Compute what has not been looked at."""
        for name in tuple(self.__dict__.get("_pending", ())):
            getattr(self, name)
        self.__dict__.pop("_pending", None)


def freeze(result: Specification, names: Iterable[str] | None = None) -> None:
    """Make the arrays of a result read-only, on copies of those that others hold."""
    for name in result.fields() if names is None else names:
        value = getattr(result, name)
        if isinstance(value, np.ndarray) and value.flags.writeable:
            copy = value.copy()
            copy.flags.writeable = False
            object.__setattr__(result, name, copy)
