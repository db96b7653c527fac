"""Links between the parties, for benchmarks: loopback, or an emulated network of two namespaces.

An emulated link is made by a script of the user's, which a benchmark gets as `--netlab SCRIPT`:
`SCRIPT up lan|wan|mobile|RATE_MBIT:RTT_MS` makes the network namespaces `party0`, with the address
10.77.0.1, and `party1`, with 10.77.0.2, and `SCRIPT down` takes them away. A socket belongs to the
namespace in which it was made, whoever uses it later: a thread enters each namespace, makes its end
of a connection, and the parties inherit the ends. Client and dealer talk to them over loopback.
"""

from __future__ import annotations

import argparse
import ctypes
import fcntl
import os
import socket
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

Ends = tuple[socket.socket, socket.socket]

LOOPBACK = "loopback"
LOCK = Path("/tmp/netlab.lock")
NAMESPACES = (Path("/run/netns/party0"), Path("/run/netns/party1"))
ADDRESSES = ("10.77.0.1", "10.77.0.2")
_CLONE_NEWNET = 0x40000000


@dataclass(frozen=True)
class Link:
    """A link that is up: `connect` makes a connection over it, party 0's end first."""

    name: str
    connect: Callable[[], Ends]


def add_link_options(parser: argparse.ArgumentParser, default: str = LOOPBACK) -> None:
    """Give a benchmark the options `--link` and `--netlab`."""
    parser.add_argument(
        "--link", default=default, help="loopback, lan, wan, mobile or RATE_MBIT:RTT_MS; commas"
    )
    parser.add_argument("--netlab", type=Path, help="the script that makes emulated links")


@contextmanager
def link(name: str, netlab: Path | None = None) -> Iterator[Link]:
    """Put a link up and take it down again. One emulated link at a time is up on a machine.

    Raises SystemExit if it is an emulated one and there is no script for it, or the script fails.
    """
    if name == LOOPBACK:
        yield Link(name, lambda: _connected(_here, _here, "127.0.0.1"))
        return
    if netlab is None:
        raise SystemExit(f"the link {name} is an emulated one: give the script with --netlab")
    with open(LOCK, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        first, second = (partial(run_at, end) for end in NAMESPACES)
        _script(netlab, "up", name)
        try:
            yield Link(name, lambda: _connected(first, second, ADDRESSES[0]))
        finally:
            _script(netlab, "down")


def probe(at: Link, size: int = 1 << 20, count: int = 25) -> tuple[float, float]:
    """Return what a link does: Mbit/s each way, with both in use, and milliseconds there and back.

    The rate is that of messages of `size` bytes with some milliseconds between them, as parties
    send them: it is less than what comes of much in one go. The milliseconds are twice those of a
    round, in which both ends send at once and wait for each other; what a round takes over
    loopback is not in them.
    """
    with link(LOOPBACK) as loopback:
        own_s = _round_s(*loopback.connect())
    ends = at.connect()
    taken = []
    for _ in range(count):
        time.sleep(0.005)
        taken.append(_both_ways_s(*ends, size))
    taken_s = statistics.median(taken[4:])  # the window opens in the first ones
    rtt_s = 2 * max(_round_s(*ends) - own_s, 0.0)
    return size * 8e-6 / max(taken_s - rtt_s / 2, 1e-6), 1e3 * rtt_s


def _round_s(first: socket.socket, second: socket.socket, count: int = 100) -> float:
    """Return the seconds of a round of a byte each way, and close the connection."""

    def take_part(end: socket.socket) -> None:
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(count):
            end.sendall(b"x")
            end.recv(1)

    other = threading.Thread(target=take_part, args=(second,))
    start = time.perf_counter()
    other.start()
    take_part(first)
    other.join()
    taken = time.perf_counter() - start
    first.close()
    second.close()
    return taken / count


def _both_ways_s(first: socket.socket, second: socket.socket, size: int) -> float:
    """Return the seconds in which so many bytes go both ways at once."""

    def read(end: socket.socket) -> None:
        left = size
        while left:
            left -= len(end.recv(min(left, 1 << 18)))

    ends, data = (first, second), bytes(size)
    threads = [threading.Thread(target=read, args=(end,)) for end in ends]
    threads += [threading.Thread(target=end.sendall, args=(data,)) for end in ends]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - start


def _script(netlab: Path, *arguments: str) -> None:
    done = subprocess.run(
        [netlab, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    if done.returncode:
        raise SystemExit(f"{netlab} {' '.join(arguments)} failed: {done.stderr.strip()}")


Act = Callable[[], socket.socket]
At = Callable[[Act], socket.socket]  # does it at one end


def _connected(first: At, second: At, address: str) -> Ends:
    """Return a connection from the second end to the first, which has the address."""
    with first(lambda: socket.create_server((address, 0))) as listener:
        there = listener.getsockname()
        connecting = second(lambda: socket.create_connection(there, timeout=10))
        accepted, _ = listener.accept()
    return accepted, connecting


def _here(act: Act) -> socket.socket:
    return act()


def run_at(namespace: Path, act: Callable[[], T]) -> T:
    """Return what `act` returns in a thread that is in a network namespace, and ends there.

    Threads and processes that it starts are in the namespace, too. Raises what it raises, and
    SystemExit if the namespace is not there.
    """
    found: list[T] = []
    failed: list[BaseException] = []

    def enter() -> None:
        try:
            _enter(namespace)
            found.append(act())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    if failed and isinstance(failed[0], OSError):
        raise SystemExit(f"nothing can be done in the namespace {namespace}: {failed[0]}")
    if failed:
        raise failed[0]
    return found[0]


def _enter(namespace: Path) -> None:
    """Put this thread into a network namespace. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    handle = os.open(namespace, os.O_RDONLY)
    try:
        if libc.setns(handle, _CLONE_NEWNET):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), str(namespace))
    finally:
        os.close(handle)
