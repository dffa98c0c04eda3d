"""Where a sweep is carried out: in local processes, or on a Dask cluster that is already there."""

from __future__ import annotations

import contextlib
import importlib
import logging
import re
import socket
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from evodyn.core import validation
from evodyn.core.extras import extra

__all__ = ["checked_workers", "cluster", "required"]

SCHEDULER_SECONDS = 5
"""How long a scheduler may take to answer, and to have a first worker."""
_OF_DASK = ("distributed", "asyncio", "tornado")


def required(module: str) -> ModuleType:
    """Return a module that the extra "studies" brings."""
    with extra("studies", user="evodyn.sweep"):
        return importlib.import_module(module)


def checked_workers(workers: int, scheduler: str | None) -> int:
    """Return the number of local processes, a positive whole number, and 1 beside a scheduler.

    Examples
    --------
    >>> checked_workers(2, "tcp://host:8786")
    Traceback (most recent call last):
    ValueError: workers is 2 and scheduler 'tcp://host:8786'; expected one of them: ...
    """
    workers = validation.count("workers", workers)
    if workers > 1 and scheduler is not None:
        raise ValueError(
            f"workers is {workers} and scheduler {scheduler!r}; expected one of them: "
            "a cluster has its own number of workers."
        )
    return workers


@contextlib.contextmanager
def cluster(scheduler: str) -> Iterator[Any]:
    """Yield a Dask client of a running scheduler that has workers.

    Dask's own log is silent meanwhile, for what goes wrong is told by the error.

    Raises
    ------
    ValueError
        If the address is none.
    ConnectionError
        If nobody answers there, there are no workers, or the scheduler ends.
    """
    distributed = required("distributed")
    expected = "expected the address of a running one, such as tcp://host:8786"
    address = re.fullmatch(r"(?:\w+://)?\[?([^/\s]+?)\]?:(\d{1,5})", scheduler)
    if address is None:
        raise ValueError(f"scheduler is {scheduler!r}; {expected}.")
    nobody = f"scheduler is {scheduler!r}, where no Dask scheduler answers"
    try:  # Dask itself tries again and again where nobody listens
        socket.create_connection((address[1], int(address[2])), timeout=SCHEDULER_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise ConnectionError(f"{nobody} ({error}); {expected}.") from error
    with contextlib.ExitStack() as stack:
        stack.enter_context(_silence())
        try:
            client = stack.enter_context(
                distributed.Client(scheduler, timeout=SCHEDULER_SECONDS, set_as_default=False)
            )
        except (ValueError, TypeError) as error:
            raise ValueError(f"scheduler is {scheduler!r} ({error}); {expected}.") from error
        except OSError as error:
            raise ConnectionError(f"{nobody}; {expected}.") from error
        try:
            client.wait_for_workers(1, timeout=SCHEDULER_SECONDS)
        except TimeoutError as error:
            raise ConnectionError(
                f"the scheduler {scheduler} has no workers; start some: dask worker {scheduler} --nthreads 1"
            ) from error
        try:
            yield client
        except Exception as error:
            # While results are on their way the connection ends before the client knows.
            if client.status == "running" and not isinstance(error, distributed.comm.CommClosedError):
                raise
            raise ConnectionError(
                f"the scheduler {scheduler} was lost; what is finished is kept, and running the same again "
                "with a scheduler goes on from there."
            ) from error


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep Dask from writing tracebacks of a lost connection."""
    names = [n for n in logging.root.manager.loggerDict if n.partition(".")[0] in _OF_DASK]
    loggers = [logging.getLogger(name) for name in {*names, *_OF_DASK}]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
