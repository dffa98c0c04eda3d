"""The runs of an ensemble: a sequence that need not hold all of them."""

from __future__ import annotations

import operator
import weakref
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, SupportsIndex, overload

import numpy as np
import numpy.typing as npt

from evodyn.core.arrays import FloatArray
from evodyn.simulate.run import Run
from evodyn.simulate.status import Termination

__all__ = ["Runs", "put_shared"]


class Runs(Sequence[Run]):
    """Runs of members, made when somebody looks at them.

    A subclass says how many there are and how to make one of them. A run stays the same object for as long
    as somebody has it. What is asked of all members is asked here, for there may be a shorter way to it than
    over their runs.
    """

    at_hand = True
    """Whether it costs little to look at what is asked of all members."""

    def __init__(self) -> None:
        self._in_use: weakref.WeakValueDictionary[int, Run] = weakref.WeakValueDictionary()

    @staticmethod
    def of(runs: Iterable[Run]) -> Runs:
        """Return runs that are there."""
        return runs if isinstance(runs, Runs) else _Held(runs)

    @abstractmethod
    def make(self, member: int) -> Run:
        """Return the run of a member, which is at least 0."""

    @property
    def groups(self) -> int:
        """Number of groups of every member."""
        return int(self[0].native.shape[-1])

    @property
    def termination(self) -> tuple[Termination, ...]:
        """How each member ended."""
        return tuple(run.termination for run in self)

    @property
    def ends(self) -> FloatArray:
        """When each member ended, shape (M,)."""
        return np.array([run.t_span[1] for run in self])

    def of_members(self, name: str) -> npt.NDArray[Any]:
        """Return what each run has under a name, shape (M, ...)."""
        return np.stack([getattr(run, name) for run in self])

    def along(self, name: str, times: FloatArray) -> FloatArray:
        """Return what the runs have under a name at shared times, shape (M, T, ...), NaN after their ends."""
        shape = getattr(self[0], name).shape[1:]
        stacked = np.full((len(self), len(times), *shape), np.nan)
        for member, run in enumerate(self):
            put_shared(stacked[member], run, getattr(run, name), times)
        return stacked

    @overload
    def __getitem__(self, index: SupportsIndex) -> Run: ...
    @overload
    def __getitem__(self, index: slice) -> Runs: ...
    def __getitem__(self, index: SupportsIndex | slice) -> Run | Runs:
        members = range(len(self))
        if isinstance(index, slice):
            return _Chosen(self, members[index])
        try:
            member = members[operator.index(index)]
        except (IndexError, TypeError) as error:
            least, last = -len(self), len(self) - 1
            raise type(error)(
                f"member is {index!r}; expected a whole number from {least} to {last}, or a slice."
            ) from None
        run = self._in_use.get(member)
        if run is None:
            run = self._in_use[member] = self.make(member)
        return run

    def __iter__(self) -> Iterator[Run]:
        return (self[member] for member in range(len(self)))

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Sequence)
            and len(other) == len(self)
            and all(mine is theirs for mine, theirs in zip(self, other, strict=True))
        )

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> tuple[Any, ...]:
        return _Held, (tuple(self),)

    def __repr__(self) -> str:
        return f"<{len(self)} runs>"


def put_shared(row: FloatArray, run: Run, values: FloatArray, times: FloatArray) -> None:
    """Enter what a run has at its times into the row of its member, where these are shared."""
    # A member that ended early has one row more, the time it ended at, which is not shared.
    shared = np.isin(run.t, times)
    row[: np.count_nonzero(shared)] = values[shared]


class _Held(Runs):
    """Runs that are there."""

    def __init__(self, runs: Iterable[Run]) -> None:
        super().__init__()
        self._runs = tuple(runs)

    def __len__(self) -> int:
        return len(self._runs)

    def make(self, member: int) -> Run:
        return self._runs[member]


class _Chosen(Runs):
    """Some runs of others."""

    def __init__(self, others: Runs, members: range) -> None:
        super().__init__()
        self._others, self._members = others, members

    def __len__(self) -> int:
        return len(self._members)

    def make(self, member: int) -> Run:
        return self._others[self._members[member]]
