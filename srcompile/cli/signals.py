"""How commands end on a signal, however many of them come and however soon after each other.

A handler may run while another one does, in the middle of whatever the main thread is at. So none
of these takes a lock, and none undoes what the first has begun.
"""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def stop_signals() -> Iterator[Callable[[], None]]:
    """Give a function that waits for SIGTERM or SIGINT, also for one that came before the call.

    The interpreter writes a byte for each signal, whichever thread the system gives it to: threads
    of libraries, which block no signal, are older than this.
    """
    heard, told = socket.socketpair()
    with heard, told:
        told.setblocking(False)
        signal.set_wakeup_fd(told.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        try:
            yield lambda: _wait(heard)
        finally:
            signal.set_wakeup_fd(-1)


def _wait(heard: socket.socket) -> None:
    heard.recv(1)
