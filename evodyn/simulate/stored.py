"""Ensembles in folders, in parts: written as members finish, and read part by part."""

from __future__ import annotations

import bisect
import hashlib
import importlib
import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np

from evodyn.core import netcdf
from evodyn.core.arrays import FloatArray
from evodyn.core.code_identity import code_digest
from evodyn.core.generators import Seed
from evodyn.core.interruptions import postponed
from evodyn.core.progress import Report
from evodyn.core.specifications import Specification
from evodyn.model.descriptions import decode, encode
from evodyn.simulate import schema
from evodyn.simulate.ensemble import Ensemble
from evodyn.simulate.run import Run
from evodyn.simulate.runs import Runs
from evodyn.simulate.status import SUCCESSES, Termination

__all__ = ["HEAD", "Folder", "Stored", "identity", "solved_in_parts"]

HEAD = "ensemble.nc"
"""The file that says what a folder's ensemble is."""

_PART = re.compile(r"members-(\d+)-(\d+)\.nc")

_SECONDS = 10.0
"""What a part takes, more or less: so much is done again after a kill."""

_BYTES = 2**24
"""Log-shares of a part at the most; solving and writing it takes some fourteen times as much."""

_FIRST = 8
"""Members of the first part, and how many times more the next may have."""


def identity(value: object) -> str:
    """Return a hash of what makes a specification, a function, or a collection of them.

    Functions count with their code, with all of their own module that they call, and what they enclose.

    Examples
    --------
    >>> identity((1.0, lambda t: t)) == identity((1.0, lambda t: 2 * t))
    False
    """
    digest = hashlib.sha256()
    for part in value if isinstance(value, list) else (value,):
        arrays: schema.Arrays = {}
        text = json.dumps(encode(part, arrays, "value"), sort_keys=True)
        digest.update(text.encode())
        for name, array in arrays.items():
            digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        for function in _functions(part):
            digest.update(code_digest(function).encode())
    return digest.hexdigest()[:32]


def _functions(value: Any) -> Iterator[FunctionType]:
    """Yield the functions in a value."""
    if isinstance(value, FunctionType):
        yield value
        return
    inside: Iterable[Any] = ()
    if isinstance(value, Specification):
        inside = value.fields().values()
    elif isinstance(value, Mapping):
        inside = value.values()
    elif isinstance(value, tuple | list):
        inside = value
    for item in inside:
        yield from _functions(item)


class Folder:
    """A folder with an ensemble.

    Attributes
    ----------
    path : pathlib.Path
    members, groups : int
    times : numpy.ndarray, shape (T,)
    seed : Seed or None
    problem : dict
        Hashes of the arguments, by name.
    """

    def __init__(
        self,
        path: Path,
        members: int,
        groups: int,
        times: FloatArray,
        seed: Seed | None,
        problem: Mapping[str, str],
    ) -> None:
        self.path, self.members, self.groups = path, members, groups
        self.times, self.seed, self.problem = times, seed, problem

    @classmethod
    def read(cls, path: Path) -> Folder | None:
        """Return what a folder holds; None if it has no ensemble yet.

        Raises
        ------
        ValueError
            If its head is damaged.
        """
        try:
            data, sealed = netcdf.read(path / HEAD)
            found = json.loads(data.attrs["specification"])
            if not sealed or found["kind"] != "EnsembleFolder" or found["schema"] != schema.SCHEMA:
                raise ValueError("it is another kind of file")
            seed, problem = decode(found["seed"], {}), dict(found["problem"])
            return cls(path, data.sizes["member"], data.sizes["group"], data["time"].values, seed, problem)
        except FileNotFoundError:
            return None
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{str(path / HEAD)!r} is no head of an ensemble, or is damaged ({error})."
            ) from error

    def write(self) -> None:
        """Write the head."""
        import xarray

        said = {"seed": encode(self.seed, {}, "seed"), "problem": dict(self.problem)}
        head = xarray.Dataset(
            {},
            schema.coordinates(self.times, self.groups, self.members),
            schema.attributes("EnsembleFolder", said),
        )
        schema.save(head, self.path / HEAD)

    def check(self, other: Folder) -> None:
        """Raise `ValueError` if another ensemble is asked for than the folder has."""
        for name, value in other.problem.items():
            if self.problem.get(name) != value:
                raise ValueError(
                    f"directory is {str(self.path)!r}, where an ensemble with another {name} is; expected a "
                    "folder without an ensemble, or with this one: name another, or delete that one."
                )

    def parts(self) -> list[range]:
        """Return the members of the parts that are there, in order."""
        found = [match for file in self.path.iterdir() if (match := _PART.fullmatch(file.name))]
        return sorted((range(int(m[1]), int(m[2]) + 1) for m in found), key=lambda part: part.start)

    def missing(self) -> list[range]:
        """Return the members that are not there, in order."""
        gaps, reached = [], 0
        for part in [*self.parts(), range(self.members, self.members)]:
            if part.start > reached:
                gaps.append(range(reached, part.start))
            reached = max(reached, part.stop)
        return gaps

    def file(self, part: range) -> Path:
        """Return the file of a part."""
        return self.path / f"members-{part.start:09d}-{part.stop - 1:09d}.nc"

    def ensemble(self, absent: Callable[[int], Run] | None = None) -> Ensemble:
        """Return the ensemble, whose members are read when somebody looks at them."""
        return Ensemble(Stored(self, self.parts(), absent), self.times, self.seed)


class Stored(Runs):
    """Runs in a folder, of which one part at a time is in memory.

    Parameters
    ----------
    folder : Folder
    parts : list of range
        The members of its files, in order.
    absent : callable, optional
        Returns the run of a member that is in none.
    """

    at_hand = False

    def __init__(
        self, folder: Folder, parts: list[range], absent: Callable[[int], Run] | None = None
    ) -> None:
        super().__init__()
        self._folder, self._parts, self._absent = folder, parts, absent
        self._latest: tuple[range, Ensemble] | None = None

    def __len__(self) -> int:
        return self._folder.members

    @property
    def groups(self) -> int:
        return self._folder.groups

    def make(self, member: int) -> Run:
        place = bisect.bisect_right(self._parts, member, key=lambda part: part.start) - 1
        if place >= 0 and member in self._parts[place]:
            part = self._parts[place]
            return self._read(part)[member - part.start]
        if self._absent is None:
            raise LookupError(f"member {member} is not in {str(self._folder.path)!r} yet.")
        return self._absent(member)

    def _read(self, part: range) -> Ensemble:
        if self._latest is None or self._latest[0] != part:
            self._latest = None  # there is room for one of them
            # What reads files lies above this wing, and is loaded by whoever looks.
            found = importlib.import_module("evodyn.files.load").load(self._folder.file(part))
            if not isinstance(found, Ensemble) or len(found) != len(part):
                raise ValueError(
                    f"{str(self._folder.file(part))!r} does not hold {len(part)} members: delete it, and "
                    "call solve_ensemble again, which solves these members once more."
                )
            self._latest = part, found
        return self._latest[1]

    def __reduce__(self) -> tuple[Any, ...]:
        return super().__reduce__() if self._absent else (Stored, (self._folder, self._parts))

    def __repr__(self) -> str:
        return f"<{len(self)} runs in {str(self._folder.path)!r}>"


def solved_in_parts(
    asked: Folder,
    before: Folder | None,
    solved: Callable[[range, Report], Ensemble],
    again: Callable[[int], Run],
    absent: Callable[[int], Run],
    report: Report | None,
    *,
    throw: bool,
) -> tuple[Ensemble, KeyboardInterrupt | None]:
    """Solve the members that a folder lacks, write them in parts, and return all of them.

    Parameters
    ----------
    asked : Folder
        The folder, which the caller holds, as it is to be.
    before : Folder or None
        As it is; None if it has no head.
    solved : callable
        Returns the ensemble of some members, raising nothing; it is given what to tell its progress.
    again : callable
        Raises the `SolveError` of a member.
    absent : callable
        Returns the run of a member that was not begun.
    report : callable, optional
        What to tell the fraction that is done.
    throw : bool
        Whether members that failed are raised and not written.

    Returns
    -------
    Ensemble
    KeyboardInterrupt or None
        What came in between.
    """
    if before is None:
        if asked.parts():
            raise ValueError(
                f"directory is {str(asked.path)!r}, which has members of an ensemble, but not {HEAD}, which "
                "says of which; expected a folder without them: name another."
            )
        asked.write()
    else:
        before.check(asked)
    most = max(1, _BYTES // (8 * len(asked.times) * asked.groups))
    size = min(_FIRST, most)
    done = asked.members - sum(map(len, asked.missing()))

    def tell(fraction: float) -> None:
        if report is not None:
            report((done + fraction * len(part)) / asked.members)

    try:
        for gap in asked.missing():
            reached = gap.start
            while reached < gap.stop:
                part = range(reached, min(reached + size, gap.stop))
                began = time.monotonic()
                ensemble = solved(part, tell)
                _keep(asked, part, ensemble, throw=throw)
                endings = ensemble.termination
                if Termination.INTERRUPTED in endings:
                    raise KeyboardInterrupt
                if throw and (failed := [ending not in SUCCESSES for ending in endings]).count(True):
                    again(part[failed.index(True)])
                del ensemble  # before the next is made
                reached, done = part.stop, done + len(part)
                pace = len(part) / max(time.monotonic() - began, 1e-3)
                size = max(1, min(_FIRST * size, most, int(_SECONDS * pace)))
    except KeyboardInterrupt as caught:
        return asked.ensemble(absent), caught
    return asked.ensemble(), None


def _keep(folder: Folder, part: range, ensemble: Ensemble, *, throw: bool) -> None:
    """Write what was finished of a part: as many files as there are members without a gap."""
    kept = SUCCESSES if throw else tuple(ending for ending in Termination if ending.name != "INTERRUPTED")
    done = np.array([False, *(ending in kept for ending in ensemble.termination), False])
    with postponed():
        for first, stop in np.flatnonzero(np.diff(done)).reshape(-1, 2).tolist():
            some = ensemble if stop - first == len(part) else ensemble[first:stop]
            some.save(folder.file(part[first:stop]))
