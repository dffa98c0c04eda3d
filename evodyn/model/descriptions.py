"""Specifications as JSON with arrays beside it, and back. Nothing is pickled.

What evodyn defines is stored by its name. A user's own specification is stored as ``module:name`` with its
state, and made again where that class can be imported; a function is stored by its name alone. What cannot
be made again stands in a loaded result under its name, and says so when it is called.
"""

from __future__ import annotations

import dataclasses
import importlib
import math
from typing import Any

import numpy as np

from evodyn.core.arrays import Array, host, is_foreign
from evodyn.core.specifications import OWN, Specification, same_value
from evodyn.model.dynamics import Dynamics

__all__ = ["Lost", "LostDynamics", "NotRerunnable", "decode", "encode"]


class NotRerunnable:
    """Stands in a loaded run for a callable that was stored by name only.

    Calling it raises `TypeError`. Use `dataclasses.replace(run, landscape=...)` to put the function back.
    """

    def __init__(self, name: str) -> None:
        self.__qualname__ = name

    def __call__(self, *args: object, **kwargs: object) -> Any:
        raise TypeError(
            f"{self.__qualname__} was a function of the session that saved this run, stored by name only. "
            "Put the function back with dataclasses.replace(run, landscape=...) to go on."
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, NotRerunnable) and self.__qualname__ == other.__qualname__

    def __hash__(self) -> int:
        return hash(self.__qualname__)

    def __repr__(self) -> str:
        return f"<{self.__qualname__}, not rerunnable>"


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Lost(Specification):
    """Stands in a loaded run for a specification whose class is not found; calling it raises `TypeError`.

    Attributes
    ----------
    class_name : str
        "module:name" of the class.
    state : dict
        Its fields and attributes by name.
    """

    class_name: str
    state: dict[str, Any]

    def __call__(self, *args: object, **kwargs: object) -> Any:
        raise TypeError(
            f"{self.class_name} was not found when the run was loaded, or is no longer what it was. Make it "
            "importable and load again, or put one in its place with dataclasses.replace(run, ...)."
        )

    def __repr__(self) -> str:
        return f"<{self.class_name}, not rerunnable>"


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class LostDynamics(Lost, Dynamics):
    """Stands in a loaded run for a dynamics whose class is not found; it still knows its blocks.

    Attributes
    ----------
    sizes : tuple of int
        Number of groups of each block; empty for one block of any size.
    """

    sizes: tuple[int, ...] = ()

    def growth_rates(self, masses: Array, fitness: Array, *, time: float = 0.0) -> Array:
        return self(masses, fitness)

    def blocks(self, n: int) -> tuple[tuple[slice, Dynamics], ...]:
        ends = np.cumsum(self.sizes or (n,)).tolist()
        return tuple((slice(a, b), self) for a, b in zip([0, *ends[:-1]], ends, strict=True))


def encode(value: object, arrays: dict[str, np.ndarray], path: str) -> Any:
    """Return `value` as JSON, its arrays entered into `arrays` under names that begin with `path`.

    Raises
    ------
    ValueError
        If a part of it is neither a number, text, an array, a collection of them, a specification nor
        callable.
    """
    if isinstance(value, Lost):
        kind = "dynamics" if isinstance(value, LostDynamics) else "landscape"
        return {"type": value.class_name, "kind": kind, "fields": _encoded(value.state, arrays, path)}
    if isinstance(value, Specification):
        cls = type(value)
        fields = _encoded(value.fields(), arrays, path)
        if OWN.get(cls.__name__) is cls:
            return {"type": cls.__name__, "fields": fields}
        kind = "dynamics" if isinstance(value, Dynamics) else "landscape"
        return {"type": f"{cls.__module__}:{cls.__qualname__}", "kind": kind, "fields": fields}
    if isinstance(value, np.ndarray) or is_foreign(value):
        array = value if isinstance(value, np.ndarray) else host(value)
        if array.dtype.kind not in "biuf":
            raise ValueError(f"{path} is an array of {array.dtype}; expected real numbers or booleans.")
        while path in arrays:
            path += "_"
        arrays[path] = array
        return {"array": path}
    if isinstance(value, tuple | list):
        items = [encode(v, arrays, f"{path}_{k}") for k, v in enumerate(value)]
        return {"tuple" if isinstance(value, tuple) else "list": items}
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {"dict": _encoded(value, arrays, path)}
    if isinstance(value, np.generic) and not isinstance(value, float | str):
        return {"scalar": encode(np.asarray(value), arrays, path)}
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": repr(float(value))}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, NotRerunnable):
        return {"callable": value.__qualname__, "rerunnable": False}
    if callable(value):
        name = getattr(value, "__qualname__", type(value).__qualname__)
        module = getattr(value, "__module__", type(value).__module__)
        return {"callable": f"{module}.{name}", "rerunnable": False}
    raise ValueError(
        f"{path} is {value!r}, which a file cannot hold; expected a number, text, array, specification or "
        "function, or tuples, lists and dictionaries of them."
    )


def _encoded(values: dict[str, Any], arrays: dict[str, np.ndarray], path: str) -> dict[str, Any]:
    return {name: encode(value, arrays, f"{path}_{name}") for name, value in values.items()}


def decode(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    """Return what `encode` was given, as far as classes are found.

    Raises
    ------
    KeyError, TypeError, ValueError
        If the description is damaged.
    """
    if not isinstance(value, dict):
        return value
    if "type" in value:
        return _made(value, {name: decode(v, arrays) for name, v in value["fields"].items()})
    if "array" in value:
        return arrays[value["array"]]
    if "tuple" in value:
        return tuple(decode(v, arrays) for v in value["tuple"])
    if "list" in value:
        return [decode(v, arrays) for v in value["list"]]
    if "dict" in value:
        return {name: decode(v, arrays) for name, v in value["dict"].items()}
    if "scalar" in value:
        return decode(value["scalar"], arrays)[()]
    if "float" in value:
        return float(value["float"])
    return NotRerunnable(value["callable"])


def _made(description: dict[str, Any], state: dict[str, Any]) -> Specification:
    name = description["type"]
    if ":" not in name:
        if name not in OWN:
            raise ValueError(f"it describes a {name!r}, which this version of evodyn does not know")
        return OWN[name](**state)
    try:
        made = _object_of(_class_named(name), state)
    except Exception:  # a user's module and class can raise anything
        return (LostDynamics if description["kind"] == "dynamics" else Lost)(name, state)
    return made


def _class_named(name: str) -> type[Specification]:
    module, qualified = name.split(":")
    found: Any = importlib.import_module(module)
    for part in qualified.split("."):
        found = getattr(found, part)
    if not (isinstance(found, type) and issubclass(found, Specification)):
        raise TypeError(f"{name} is no specification.")
    return found


def _object_of(cls: type[Specification], state: dict[str, Any]) -> Specification:
    """Return an object of `cls` with this state, through its constructor if that takes all of it."""
    if set(state) == {field.name for field in dataclasses.fields(cls) if field.init}:
        made = cls(**state)
    else:
        made = cls.__new__(cls)
        made.__setstate__(state)
    if not same_value(made.fields(), state):
        raise ValueError(f"{cls.__qualname__} does not have the state that was saved.")
    return made
