"""How commands end on a signal, however many of them come and however soon after each other.

A handler may run while another one does, in the middle of whatever the main thread is at. So none
of these takes a lock, and none undoes what the first has begun.
"""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""What ends a command that runs in front of somebody, or in a script of theirs."""


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
            signal.signal(number, _nothing)
        try:
            yield lambda: _wait(heard)
        finally:
            signal.set_wakeup_fd(-1)


def _wait(heard: socket.socket) -> None:
    heard.recv(1)


@contextmanager
def ends_on_signals() -> Iterator[None]:
    """End the block with SystemExit on the first signal of ENDING, and do nothing on the next ones.

    So what the block has opened is closed. The exit code is the shells': 128 and the signal's
    number. A signal that is ignored already, as after nohup, stays so.
    """
    heard = [number for number in ENDING if signal.getsignal(number) is not signal.SIG_IGN]

    def end(number: int, _: object) -> None:
        for later in heard:
            signal.signal(later, _nothing)
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, end) for number in heard}
    try:
        yield
    finally:
        for number in heard:
            if signal.getsignal(number) is end:
                signal.signal(number, before[number])


def _nothing(*_: object) -> None:
    pass
