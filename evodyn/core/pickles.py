"""Values that travel to other processes, with the code that those cannot import."""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import operator
import os
import pickle
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from evodyn.core.extras import extra

__all__ = ["is_loose", "packed", "unpacked"]


def packed(value: object, user: str) -> bytes:
    """Return a value as a pickle for a worker, with the code of loose modules in it.

    Parameters
    ----------
    value : object
        What travels; `unpacked` makes it again.
    user : str
        Who needs it, for the message that the extra "studies" is missing.

    Raises
    ------
    ModuleNotFoundError
        If cloudpickle is not installed.
    ValueError
        If something in the value cannot travel, such as a lock or an open file.
    """
    with extra("studies", user=user):
        cloudpickle: Any = importlib.import_module("cloudpickle")

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
        def reducer_override(self, part: Any) -> Any:
            # By themselves functions with caches travel by name alone.
            if isinstance(part, functools._lru_cache_wrapper) and not _found(part):
                return _cached, (part.__wrapped__, part.cache_parameters())
            return super().reducer_override(part)

    file = io.BytesIO()
    try:
        with _by_value(cloudpickle):
            Pickler(file).dump(value)
    except Exception as error:  # what is inside can raise anything
        raise ValueError(
            f"{value!r} cannot travel to other processes ({type(error).__name__}: {error}); expected "
            "something that uses no open files, locks and the like of its module. With workers=1 it stays "
            "in this process."
        ) from error
    return file.getvalue()


def unpacked(content: bytes) -> Any:
    """Return what `packed` made, here or in a worker of one's own: a pickle of others can run anything."""
    return pickle.loads(content)


def is_loose(module: Any) -> bool:
    """Tell whether a module is a script, a notebook or a file beside one, which a worker may not find."""
    if not isinstance(module, ModuleType):
        return False
    described = vars(module)
    name, file = described.get("__name__", ""), described.get("__file__") or ""
    return name == "__main__" or (
        sys.modules.get(name) is module
        and "." not in name
        and name not in sys.stdlib_module_names
        and file.endswith(".py")
        and "__path__" not in described
        and not _INSTALLED & set(file.replace(os.sep, "/").split("/"))
    )


_INSTALLED = {"site-packages", "dist-packages"}


def _found(function: Any) -> bool:
    """Tell whether another process finds a function by its name."""
    module = sys.modules.get(function.__module__)
    with contextlib.suppress(AttributeError):
        return not is_loose(module) and operator.attrgetter(function.__qualname__)(module) is function
    return False


def _cached(function: Callable[..., Any], parameters: dict[str, Any]) -> Any:
    """Return a function with an empty cache of the same kind."""
    return functools.lru_cache(**parameters)(function)


@contextlib.contextmanager
def _by_value(cloudpickle: Any) -> Iterator[None]:
    """Let the code of loose modules travel inside a pickle."""
    with contextlib.ExitStack() as stack:
        for module in {id(m): m for m in [*sys.modules.values()] if is_loose(m)}.values():
            if module.__name__ not in cloudpickle.list_registry_pickle_by_value():
                cloudpickle.register_pickle_by_value(module)
                stack.callback(cloudpickle.unregister_pickle_by_value, module)
        yield
