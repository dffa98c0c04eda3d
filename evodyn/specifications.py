"""The frozen dataclasses that say what is simulated: comparison, short `repr`, and a plain description."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from evodyn.arrays import host, is_foreign

__all__ = ["Specification", "same_value", "summary"]


def summary(value: object) -> str:
    """Return a `repr` that stays short for arrays of any size."""
    if isinstance(value, np.ndarray):
        if value.size <= 4:
            return np.array2string(value, separator=", ", precision=6)
        return f"<{'×'.join(map(str, value.shape))} array in [{value.min():.4g}, {value.max():.4g}]>"
    if is_foreign(value):
        return f"<{type(value).__name__} {tuple(value.shape)}>"  # type: ignore[attr-defined]
    if isinstance(value, tuple):
        return "(" + ", ".join(map(summary, value)) + ("," if len(value) == 1 else "") + ")"
    if callable(value) and not isinstance(value, Specification):
        return str(getattr(value, "__qualname__", f"<{type(value).__qualname__} object>"))
    return repr(value)


def same_value(left: object, right: object) -> bool:
    """Compare field values: arrays by shape and by every bit, specifications by their fields."""
    if _is_array(left) and _is_array(right):
        a, b = (v if isinstance(v, np.ndarray) else host(v) for v in (left, right))
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(left, Specification):
        return left.same_as(right)
    if isinstance(left, tuple) and isinstance(right, tuple):
        return len(left) == len(right) and all(map(same_value, left, right))
    return type(left) is type(right) and bool(left == right)


def _is_array(value: object) -> bool:
    return isinstance(value, np.ndarray) or is_foreign(value)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Specification:
    """Base of all specifications. Frozen; arrays are copied once and read-only."""

    def fields(self) -> dict[str, Any]:
        """Return the specification's fields by name, in order of declaration."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}

    def same_as(self, other: object) -> bool:
        """Tell whether `other` is of the same type with equal fields, arrays compared bit for bit."""
        if type(self) is not type(other) or not isinstance(other, Specification):
            return False
        mine, theirs = self.fields(), other.fields()
        return all(same_value(mine[name], theirs[name]) for name in mine)

    def __repr__(self) -> str:
        inside = ", ".join(f"{name}={summary(value)}" for name, value in self.fields().items())
        return f"{type(self).__name__}({inside})"

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Copying and unpickling would return writable arrays.
        for value in state.values():
            if isinstance(value, np.ndarray):
                value.flags.writeable = False
        self._set(**state)

    def _set(self, **values: object) -> None:
        """Store values during construction or copying, when alone a frozen dataclass may change."""
        for name, value in values.items():
            object.__setattr__(self, name, value)
