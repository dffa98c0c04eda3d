"""Telling how far something has got: to a function of the user's, or to a bar that rich draws."""

from __future__ import annotations

import contextlib
import importlib
import math
from collections.abc import Callable, Iterator
from typing import Any

from evodyn.core.extras import extra

__all__ = ["Progress", "Report", "counting", "reporting"]

Report = Callable[[float], object]
"""Takes the fraction that is done, from 0 to 1."""

Progress = bool | Report | None
"""What users give: True for a bar, a function of the fraction, or nothing."""

_PARTS = 200
"""At most so many reports: a bar is no finer, and what draws it must not cost more than what it shows."""


@contextlib.contextmanager
def reporting(progress: Progress, doing: str) -> Iterator[Report | None]:
    """Yield what to tell the fraction done, None where nobody listens.

    The fractions that are passed on increase by a two-hundredth at least, and the last is 1 unless the block
    raises.

    Parameters
    ----------
    progress : bool, callable or None
        True for a bar on standard error, or in the cell of a notebook; or ``progress(fraction)``.
    doing : str
        What the bar says.

    Raises
    ------
    ImportError
        If a bar is asked for and rich, of the extra "studies", is not installed.
    ValueError
        If `progress` is anything else.

    Examples
    --------
    >>> heard = []
    >>> with reporting(heard.append, "Counting") as report:
    ...     for k in range(10_000):
    ...         report(k / 10_000)
    >>> len(heard), heard[0], heard[-1]
    (201, 0.0, 1.0)
    """
    if progress is None or progress is False:
        yield None
    elif progress is True:
        with _bar(doing) as move, _thinned(lambda fraction: move(fraction, 1.0)) as report:
            yield report
    elif callable(progress):
        with _thinned(progress) as report:
            yield report
    else:
        raise ValueError(
            f"progress is {progress!r}; expected True, False, or a function of the fraction done."
        )


@contextlib.contextmanager
def counting(
    progress: bool | Callable[[int, int], object] | None, doing: str
) -> Iterator[Callable[[int, int], object] | None]:
    """Yield what to tell how many of how many are done, None where nobody listens.

    Parameters
    ----------
    progress : bool, callable or None
        True for a bar; or ``progress(finished, total)``, which is called every time.
    doing : str
        What the bar says.

    Raises
    ------
    ImportError, ValueError
        As for `reporting`.
    """
    if progress is True:
        with _bar(doing) as move:
            yield move
    elif progress is None or progress is False or callable(progress):
        yield progress or None
    else:
        raise ValueError(
            f"progress is {progress!r}; expected True, False, or a function of (finished, total)."
        )


@contextlib.contextmanager
def _thinned(listener: Report) -> Iterator[Report]:
    due, heard = 0.0, True

    def report(fraction: float) -> None:
        nonlocal due, heard
        if due <= fraction < 1.0:
            due = (math.floor(fraction * _PARTS + 1e-9) + 1) / _PARTS
            heard = False  # in case that it raises
            listener(fraction)
            heard = True

    yield report
    if heard:
        listener(1.0)


@contextlib.contextmanager
def _bar(doing: str) -> Iterator[Callable[[float, float], None]]:
    """Draw a bar until the end of the block; yield what moves it to so many of so many."""
    with extra("studies", user="progress=True"):
        rich: Any = importlib.import_module("rich.progress")
        console: Any = importlib.import_module("rich.console")
    with rich.Progress(console=console.Console(stderr=True)) as bars:
        task = bars.add_task(doing, total=1.0)
        yield lambda finished, total: bars.update(task, completed=finished, total=total)
