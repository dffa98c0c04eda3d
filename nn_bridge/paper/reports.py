"""What runs say of themselves after every epoch, and how that comes from other processes to this one."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import secrets
import threading
import traceback
from collections.abc import Callable, Iterator
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Listener
from typing import Any

__all__ = ["EpochReport", "Receiver", "postbox"]


@dataclasses.dataclass(frozen=True)
class EpochReport:
    """What a run says of itself after every epoch.

    Parameters
    ----------
    epoch : int
        Epochs finished; 0 is the untrained network.
    loss : float
        Mean loss over the epoch (NaN for epoch 0).
    accuracy : float
        On the test samples.
    total_mass : float
        P.
    living : int
        Number of groups with positive mass.
    """

    epoch: int
    loss: float
    accuracy: float
    total_mass: float
    living: int


Receiver = Callable[[int, EpochReport], object]
"""Takes the index of a run, and its report."""


@contextlib.contextmanager
def postbox(receive: Receiver | None, elsewhere: bool) -> Iterator[Receiver | None]:
    """Yield what hands reports to `receive` in this process, also from other processes of this machine."""
    if receive is None or not elsewhere:
        yield receive
        return
    key = secrets.token_bytes()
    with Listener(backlog=64, authkey=key) as listener:
        send = functools.partial(_send, listener.address, key)
        thread = threading.Thread(target=_deliver, args=(listener, receive), daemon=True)
        thread.start()
        try:
            yield send
        finally:
            send(None, None)
            thread.join()


def _send(address: Any, key: bytes, index: int | None, report: EpochReport | None) -> None:
    with contextlib.suppress(OSError), Client(address, authkey=key) as connection:
        connection.send((index, report))


def _deliver(listener: Listener, receive: Receiver) -> None:
    while True:
        try:
            with listener.accept() as connection:
                index, report = connection.recv()
        except (OSError, EOFError, AuthenticationError):  # killed meanwhile, or a stranger
            continue
        if index is None:
            return
        try:
            receive(index, report)
        except Exception:  # what shows progress does not stop the runs
            traceback.print_exc()
