"""Signals that must not strike everywhere."""

from __future__ import annotations

import contextlib
import importlib
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

from evodyn.core.processes import ENDING

__all__ = ["postponed"]

_SIGNAL: Any = importlib.import_module("_signal")
"""What `signal` is made of: looking for the names of handlers takes longer than setting them."""


@contextlib.contextmanager
def postponed() -> Iterator[None]:
    """Let signals wait until the block ends, those that Python code handles (Ctrl-C among them).

    Compiled code does not expect an exception from the Python code that it calls to return its results: one
    that a signal raises there crashes the process.

    Examples
    --------
    >>> import signal
    >>> try:
    ...     with postponed():
    ...         signal.raise_signal(signal.SIGINT)
    ...         print("first this")
    ... except KeyboardInterrupt:
    ...     print("then that")
    first this
    then that
    """
    if threading.current_thread() is not threading.main_thread():  # which alone handles signals
        yield
        return
    came: list[tuple[int, FrameType | None]] = []

    def wait(number: int, frame: FrameType | None) -> None:
        came.append((number, frame))

    handlers = {number: handler for number in ENDING if callable(handler := _SIGNAL.getsignal(number))}
    try:
        for number in handlers:
            _SIGNAL.signal(number, wait)
        yield
    finally:
        for number, handler in handlers.items():
            _SIGNAL.signal(number, handler)
    for number, frame in came[:1]:
        handlers[number](number, frame)
