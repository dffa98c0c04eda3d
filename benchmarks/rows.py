"""What was measured, and what is said of it."""

from __future__ import annotations

import csv
import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from benchmarks.scan import Attempt
from benchmarks.timing import Times

__all__ = [
    "CLOCKS",
    "OURS",
    "Clock",
    "Outcome",
    "Row",
    "Verdict",
    "fastest",
    "figure",
    "ratio",
    "table",
    "verdict_table",
    "write",
]

Clock = Literal["median", "shortest", "processor"]
CLOCKS: tuple[Clock, ...] = ("median", "shortest", "processor")
"""What times are compared by; processor time where the machine has other work to do."""

OURS = "evodyn"
"""The library that is compared with all others."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One method at one work.

    Attributes
    ----------
    work, method, library : str
    median, shortest, processor, first : float
        Milliseconds: the median and the shortest round by the clock, the median processor time of all
        threads, and the first call with what it compiles; NaN if it was not measured.
    rounds : int
    error : float
        The largest error of ln p, NaN if there is nothing to compare with.
    reached : bool
        Whether that is good enough.
    setting, note : str
    """

    work: str
    method: str
    library: str
    median: float = math.nan
    shortest: float = math.nan
    processor: float = math.nan
    first: float = math.nan
    rounds: int = 0
    error: float = math.nan
    reached: bool = True
    setting: str = ""
    note: str = ""

    def by(self, clock: Clock) -> float:
        """Return the milliseconds by one of the clocks."""
        return float(getattr(self, clock))

    def timed(self, times: Times, calls: int = 1) -> Row:
        """Return the row with its times, of one of so many calls."""
        per_call = 1e3 / calls
        return dataclasses.replace(
            self,
            median=per_call * times.median,
            shortest=per_call * times.shortest,
            processor=per_call * times.processor,
            rounds=len(times.wall),
        )


@dataclasses.dataclass(frozen=True)
class Verdict:
    """A target: a quantity that may be at most `limit`, or at least `limit` with `at_least`.

    A value that is NaN was not measured, and `note` says why. `others` are the ratio by the other clocks.
    """

    work: str
    quantity: str
    value: float
    limit: float
    others: tuple[float, ...] = ()
    at_least: bool = False
    note: str = ""

    @property
    def outcome(self) -> str:
        """Met, missed, or not measured."""
        if math.isnan(self.value):
            return "not measured"
        met = self.value >= self.limit if self.at_least else self.value <= self.limit
        return "met" if met else "missed"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of one work: its rows, the targets that it decides, and all attempts of every method."""

    work: str
    rows: Sequence[Row] = ()
    verdicts: Sequence[Verdict] = ()
    attempts: Sequence[tuple[str, Attempt]] = ()
    notes: Sequence[str] = ()


def fastest(rows: Iterable[Row], *libraries: str, clock: Clock = "median") -> Row | None:
    """Return the fastest row that is good enough: of some libraries, or by default of all but ours."""
    fit = (row for row in rows if row.reached and math.isfinite(row.by(clock)))
    of_them = (row for row in fit if (row.library in libraries if libraries else row.library != OURS))
    return min(of_them, key=lambda row: row.by(clock), default=None)


def ratio(
    work: str,
    ours: Row | None,
    peer: Row | None,
    limit: float,
    *,
    clock: Clock = "median",
    what: str = "best peer",
) -> Verdict:
    """Return the target of a ratio of times."""
    if ours is None or not ours.reached or math.isnan(ours.by(clock)):
        return Verdict(work, f"evodyn / {what}", math.nan, limit, note="evodyn did not reach the error")
    if peer is None:
        return Verdict(work, f"evodyn / {what}", math.nan, limit, note=f"no {what} reached the error here")
    note = f"{figure(ours.by(clock))} ms / {figure(peer.by(clock))} ms"
    value, *others = (ours.by(each) / peer.by(each) for each in (clock, *(c for c in CLOCKS if c != clock)))
    return Verdict(work, f"evodyn / {peer.method}", value, limit, tuple(others), note=note)


def figure(value: float, digits: int = 3) -> str:
    """Return a number in three digits, or a dash."""
    if math.isnan(value):
        return "-"
    return f"{value:.{digits}g}" if value < 1e5 else f"{value:.1e}"


def table(outcome: Outcome, clock: Clock = "median") -> str:
    """Return the rows of one work, the fastest by a clock first, as text."""
    lines = [f"\n{outcome.work}"]
    if outcome.rows:
        lines.append(_line("method", "ms", "shortest", "cpu", "first", "error ln p", "rtol/atol", "rounds"))
    shown = [row for row in outcome.rows if math.isfinite(row.median)]
    for row in sorted(shown, key=lambda row: (not row.reached, row.by(clock))):
        times = (figure(value) for value in (row.median, row.shortest, row.processor, row.first))
        error = ("" if row.reached else "!") + figure(row.error, 2)
        lines.append(
            _line(row.method, *times, error, row.setting, str(row.rounds)) + f"  {row.note}".rstrip()
        )
    without: dict[str, list[str]] = {}
    for row in outcome.rows:
        if not math.isfinite(row.median):
            without.setdefault(row.note, []).append(row.method)
    lines += [f"  no time, {note}: {'; '.join(names)}" for note, names in without.items()]
    lines += [f"  {note}" for note in outcome.notes]
    lines += [f"  {_said(verdict)}" for verdict in outcome.verdicts]
    return "\n".join(lines)


def _line(method: str, *columns: str) -> str:
    widths = (9, 9, 9, 9, 10, 15, 6)
    return f"  {method:30.30}" + "".join(
        f" {column:>{width}}" for column, width in zip(columns, widths, strict=True)
    )


def _said(verdict: Verdict) -> str:
    sign = ">=" if verdict.at_least else "<="
    measured = f"{verdict.quantity} = {figure(verdict.value)}"
    return f"{verdict.outcome.upper()}: {measured} (target {sign} {verdict.limit:.3g})"


def verdict_table(verdicts: Sequence[Verdict]) -> str:
    """Return all targets with their verdicts as a table in Markdown."""
    lines = [
        "| work | quantity | target | measured | by other clocks | verdict | |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in verdicts:
        sign = "≥" if one.at_least else "≤"
        columns = (
            one.work,
            one.quantity,
            f"{sign} {one.limit:.3g}",
            figure(one.value),
            ", ".join(map(figure, one.others)),
            one.outcome,
            one.note,
        )
        lines.append(f"| {' | '.join(columns)} |")
    outcomes = [one.outcome for one in verdicts]
    counts = ", ".join(f"{outcomes.count(kind)} {kind}" for kind in ("met", "missed", "not measured"))
    return "\n".join([*lines, "", f"{len(verdicts)} targets: {counts}."])


def write(path: Path, items: Iterable[tuple[Any, Mapping[str, object]]]) -> None:
    """Write dataclasses, each with columns besides its fields, as a CSV file."""
    rows = [dataclasses.asdict(item) | dict(columns) for item, columns in items]
    with path.open("w", newline="", encoding="utf-8") as file:
        if rows:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
