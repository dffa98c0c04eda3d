"""What a function computes, by its compiled code, wherever that lies and however it is laid out."""

from __future__ import annotations

import bisect
import dataclasses
import dis
import functools
import hashlib
import json
from collections.abc import Iterable, Iterator
from types import CodeType, FunctionType, MappingProxyType, ModuleType
from typing import Any

import numpy as np

from evodyn.core.specifications import state_of

__all__ = ["code_digest"]

_PLAIN = (bool, int, float, complex, str, bytes, type(None), type(Ellipsis))
_LAYOUT = {"NOP", "EXTENDED_ARG", "CACHE"}
"""Instructions that depend on line breaks and distances only."""


def code_digest(function: Any, classes: Iterable[type] = ()) -> str:
    """Return a hash of the code of a function, and of all in its own module that it can call.

    Counted are instructions, default values, what closures hold, the functions and classes of the
    function's own module that are named in the code (also in tables, and so on from there), and the values
    of that module's constants. Comments, docstrings, layout, the file, and the names of the module and of
    its package do not count. Of other modules only the names count: their code has a version of its own.
    Bytecode differs between versions of Python.

    Parameters
    ----------
    function : callable
        The function.
    classes : iterable of type, optional
        Classes of its arguments, whose methods it may call; those of other modules are skipped.

    Returns
    -------
    str
        32 hexadecimal digits.

    Examples
    --------
    >>> def one(x):
    ...     return x + 1
    >>> def two(x):
    ...     return x + 2
    >>> code_digest(one) == code_digest(one), code_digest(one) == code_digest(two)
    (True, False)
    """
    reader = _Reader(function.__module__, getattr(function, "__globals__", {}).get("__package__") or "")
    own = [kind for kind in classes if kind.__module__ == function.__module__]
    described = [reader.described(function), [reader.described(kind) for kind in own]]
    return hashlib.sha256(json.dumps(described).encode()).hexdigest()[:32]


class _Reader:
    """Describes objects in lists and strings; every function, class and container once."""

    def __init__(self, module: str, package: str) -> None:
        self.module = module
        self.beside = f"{package}."
        self.seen: dict[int, Any] = {}
        """Objects by identity, kept alive so that identities stay unique."""

    def described(self, value: Any) -> Any:
        if isinstance(value, _PLAIN):
            return [type(value).__qualname__, repr(value)]
        if isinstance(value, np.ndarray | np.generic) and not value.dtype.hasobject:
            content = hashlib.sha256(value.tobytes()).hexdigest()
            return ["array", str(value.dtype), list(value.shape), content]
        if isinstance(value, set | frozenset):
            return [type(value).__qualname__, sorted(json.dumps(self.described(item)) for item in value)]
        kind = type(value)
        owner = value if hasattr(value, "__qualname__") else kind
        name, module = (
            owner.__qualname__,
            getattr(owner, "__module__", None),
        )  # built-in descriptors have none
        if module != self.module:  # whose name does not count
            name = f"{self._seen_from_here(module)}:{name}"
        if isinstance(value, tuple):  # whether equal ones are one object depends on how they were compiled
            return [name, *map(self.described, value)]
        if id(value) in self.seen:
            return ["again", name]
        self.seen[id(value)] = value
        return [name, *self._content(value)]

    def _seen_from_here(self, module: str | None) -> str:
        """Return the name of another module, relative to the package of one's own if it belongs to that."""
        return str(module).removeprefix(self.beside)

    def _content(self, value: Any) -> Iterator[Any]:
        """Yield what is inside of an object, as far as it is of the module or a container."""
        if type(value).__module__ == self.module:
            yield self.described(type(value))
        if isinstance(value, dict | MappingProxyType):
            for key, item in value.items():
                yield [self.described(key), self.described(item)]
        elif isinstance(value, list):
            yield from map(self.described, value)
        elif isinstance(value, functools.partial):
            yield from map(self.described, (value.func, value.args, value.keywords))
        elif isinstance(value, property):
            yield from map(self.described, (value.fget, value.fset))
        elif isinstance(value, functools.cached_property):
            yield self.described(value.func)
        elif isinstance(value, staticmethod | classmethod):
            yield self.described(value.__func__)
        elif isinstance(value, ModuleType):
            yield self._seen_from_here(value.__name__)
        elif isinstance(value, type):
            if value.__module__ == self.module:
                yield from self._class(value)
        elif isinstance(value, FunctionType):
            if value.__module__ == self.module:
                yield from self._function(value)
        elif dataclasses.is_dataclass(value):
            yield self.described(state_of(value))
        elif hasattr(value, "__wrapped__"):  # a decorator's object, such as functools.lru_cache's
            yield self.described(value.__wrapped__)

    def _class(self, kind: type) -> Iterator[Any]:
        yield [self.described(base) for base in kind.__bases__]
        for name, member in sorted(vars(kind).items()):
            # What begins with two underscores and is no method comes from Python, and may tell of the file.
            if isinstance(member, FunctionType | staticmethod | classmethod) or not name.startswith("__"):
                yield [name, self.described(member)]

    def _function(self, function: FunctionType) -> Iterator[Any]:
        code = function.__code__
        yield self._code(code)
        yield self.described(function.__defaults__)
        yield self.described(function.__kwdefaults__)
        cells = (function.__closure__ or ()) if code.co_freevars else ()
        for name, cell in zip(code.co_freevars, cells, strict=True):
            try:
                yield [name, self.described(cell.cell_contents)]
            except ValueError:  # not filled yet
                yield [name]
        # What the code itself assigns is a state, such as a counter, and no constant.
        names, assigned = _names(code)
        for name in sorted(names - assigned):
            if name in function.__globals__ and not name.startswith("__"):
                yield [name, self.described(function.__globals__[name])]

    def _code(self, code: CodeType) -> list[Any]:
        """Return instructions with their arguments, positions counted without those that are layout."""
        found = [i for i in dis.get_instructions(code) if i.opname not in _LAYOUT]
        offsets = [i.offset for i in found]
        instructions = []
        for instruction in found:
            value: Any = instruction.argval
            if instruction.opcode in dis.hasjrel or instruction.opcode in dis.hasjabs:
                value = bisect.bisect_left(offsets, value)
            elif isinstance(value, CodeType):
                value = self._code(value)
            elif instruction.opcode in dis.hasconst:
                value = self.described(value)
            else:
                value = repr(value)
            instructions.append([instruction.opname, value])
        bytecode: Any = dis.Bytecode(code)
        guarded = [
            [*(bisect.bisect_left(offsets, at) for at in (e.start, e.end, e.target)), e.depth, e.lasti]
            for e in bytecode.exception_entries
        ]
        signature = [code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags]
        return [signature, list(code.co_varnames), instructions, [g for g in guarded if g[0] < g[1]]]


def _names(code: CodeType) -> tuple[set[str], set[str]]:
    """Return the global names that a code and those inside it read, and those that they assign."""
    read, assigned = set(), set()
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            read.add(instruction.argval)
        elif instruction.opname in ("STORE_GLOBAL", "DELETE_GLOBAL"):
            assigned.add(instruction.argval)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            more_read, more_assigned = _names(constant)
            read |= more_read
            assigned |= more_assigned
    return read, assigned
