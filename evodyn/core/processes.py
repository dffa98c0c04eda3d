"""Folders that belong to one process at a time, and processes that end in order, their workers with them."""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from evodyn.core.atomic import PARTIAL

__all__ = ["FolderInUseError", "end_with", "ended_in_order", "held"]

LOCK = ".lock"
WATCH_SECONDS = 0.5
REMINDER_SECONDS = 1.0
ENDING = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGALRM") if hasattr(signal, name)
]


class FolderInUseError(RuntimeError):
    """Another run writes into the folder."""


@contextlib.contextmanager
def held(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """Keep a folder to this block, making it if it is missing, and remove what killed writers left there.

    The operating system releases the lock when the process that holds it ends, however it ends.

    Parameters
    ----------
    folder : path-like
        The folder; those inside of it have locks of their own.

    Yields
    ------
    pathlib.Path
        The folder.

    Raises
    ------
    FolderInUseError
        If the folder is held, by another process or by this one.
    FileExistsError
        If it is a file.
    OSError
        If the folder cannot be made or written to.

    Examples
    --------
    >>> import tempfile
    >>> with held(tempfile.mkdtemp()) as folder:
    ...     with held(folder):
    ...         pass
    Traceback (most recent call last):
    evodyn.core.processes.FolderInUseError: ...
    """
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise FileExistsError(f"{str(path)!r} is a file; expected a folder.") from None
    handle = _locked(path)
    try:
        for leftover in path.glob(f".*{PARTIAL}"):
            leftover.unlink(missing_ok=True)
        yield path
    finally:
        # Removed while it is locked, so that it is not the next holder's. (Windows keeps open files.)
        with contextlib.suppress(OSError):
            (path / LOCK).unlink()
        os.close(handle)


def _locked(folder: Path) -> int:
    """Return an open, locked file in the folder."""
    path = folder / LOCK
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if not _lock(handle):
                holder = os.read(handle, 100).decode(errors="replace").strip() if os.name == "posix" else ""
                raise FolderInUseError(
                    f"{folder} is in use by another run{f' ({holder})' if holder else ''}; expected a folder "
                    "that nobody writes to: wait for the end of that run, or name another folder."
                )
            # The holder before may have removed the file between our opening and locking it.
            if _same(handle, path):
                os.ftruncate(handle, 0)
                os.write(handle, f"process {os.getpid()} on {platform.node()}\n".encode())
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _same(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _lock(handle: int) -> bool:
    """Lock an open file without waiting; False if somebody else has locked it."""
    try:
        if os.name == "nt":
            import msvcrt

            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined, unused-ignore]
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES, errno.EDEADLK):
            return False
        raise
    return True


_watching: set[int] = set()


def end_with(parent: int) -> None:
    """End this process soon after the process that started it, however that one ended.

    Parameters
    ----------
    parent : int
        Identifier of the process that started this one. Calls after the first do nothing.
    """
    if parent in _watching:
        return
    _watching.add(parent)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(WATCH_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()


@contextlib.contextmanager
def ended_in_order() -> Iterator[None]:
    """Let signals that would end the process at once interrupt this block like Ctrl-C.

    Python drops an interrupt that falls into a destructor or a callback, and only reports it. So an alarm
    interrupts again and again until the block is left, but never the orderly end after an interrupt that has
    arrived; only a second Ctrl-C does that.

    Raises
    ------
    KeyboardInterrupt
        In the block, when a signal comes.

    Examples
    --------
    >>> try:
    ...     with ended_in_order():
    ...         signal.raise_signal(signal.SIGINT)
    ... except KeyboardInterrupt:
    ...     print("interrupted")
    interrupted
    """
    report = sys.unraisablehook

    def interrupt(number: int, frame: Any) -> None:
        _set_alarm(REMINDER_SECONDS)
        if number == signal.SIGINT or not _ending():
            raise KeyboardInterrupt

    def dropped(unraisable: Any) -> None:
        if not issubclass(unraisable.exc_type, KeyboardInterrupt):
            report(unraisable)

    with contextlib.ExitStack() as stack:
        if threading.current_thread() is threading.main_thread():
            for number in ENDING:
                # nohup, for one, has a signal ignored
                if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                    stack.callback(signal.signal, number, signal.signal(number, interrupt))
            stack.callback(_set_alarm, 0.0)
            stack.callback(setattr, sys, "unraisablehook", report)
            sys.unraisablehook = dropped
        yield


def _set_alarm(seconds: float) -> None:
    """Have the system send SIGALRM after so long, or never (0), where it knows alarms."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, seconds)


def _ending() -> bool:
    """Tell whether an interrupt is being handled."""
    error = sys.exception()
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None
