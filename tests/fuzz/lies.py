"""Links on which one side lies, and the threads of both sides, where both are real."""

from __future__ import annotations

import contextlib
import json
import random
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from srcompile.runtime.channels import Sendable
from srcompile.runtime.channels.link import LinkChannel
from srcompile.runtime.errors import RunError
from tests.fuzz.mutations import changed_bytes, json_bytes

SILENCE_S = 0.5  # a peer that is silent for so long is taken for dead
_TICKS, _TICK_S = 150, 0.2  # counted, so that a process that is stopped for a while does not hang


@dataclass(frozen=True)
class Liar:
    """The end of a link that lies, and how: with some `chance` for each message.

    `before` are the messages of all its links so far, and `other` makes up control messages that
    the protocol has, so that they are said where they do not belong.
    """

    end: int
    chance: float
    before: list[bytes]
    other: Callable[[random.Random], Any]


class LyingLink(LinkChannel):
    """A link whose messages are changed, left out, said twice, too late or elsewhere.

    `lies` counts them.
    """

    def __init__(
        self, connection: socket.socket, peer: str, rng: random.Random, liar: Liar
    ) -> None:
        super().__init__(connection, peer, SILENCE_S)
        self.lies = 0
        self._rng, self._liar = rng, liar

    def send(self, data: Sendable) -> None:
        """Send what is said in place of this message."""
        for message in self._said(bytes(data)):
            super().send(message)

    def send_soon(self, data: Sendable) -> None:
        """Send what is said in place of this message, at once."""
        self.send(data)

    def exchange(self, data: Sequence[memoryview], into: Sequence[memoryview]) -> None:
        """Exchange messages, ours perhaps changed."""
        said = self._said(b"".join(data))
        for message in said[:-1]:
            super().send(message)
        if said:
            super().exchange([memoryview(said[-1])], into)
        else:
            self._transfer([], into)

    def _said(self, message: bytes) -> list[bytes]:
        """Return what is sent in place of a message."""
        rng, before = self._rng, self._liar.before
        before.append(message)
        if rng.random() >= self._liar.chance:
            return [message]
        self.lies += 1
        what = rng.random()
        if what < 0.08:
            self.interrupt()
            return []
        if what < 0.14:
            return []
        if what < 0.24:
            return [message, rng.choice(before)]
        if what < 0.32:
            return [rng.choice(before)]
        if what < 0.5:
            return [json.dumps(self._liar.other(rng)).encode()]
        return [_changed(rng, message)]


def _changed(rng: random.Random, message: bytes) -> bytes:
    """Return a changed message, of the same size mostly if it is no control message."""
    try:
        fields = json.loads(message)
    except (ValueError, RecursionError):
        fields = None
    if isinstance(fields, dict):
        return json_bytes(rng, fields)
    changed = changed_bytes(rng, [message])
    if rng.random() < 0.2:
        return changed
    return changed[: len(message)] + bytes(max(0, len(message) - len(changed)))


@dataclass(frozen=True)
class Pair:
    """Both ends of a link; a lying end changes what it says."""

    ends: tuple[LinkChannel, LinkChannel]

    def lies(self) -> int:
        """Return how many messages were changed."""
        return sum(end.lies for end in self.ends if isinstance(end, LyingLink))


@contextlib.contextmanager
def linked(rng: random.Random, names: tuple[str, str], liar: Liar | None = None) -> Iterator[Pair]:
    """Give a link between two roles, over sockets, of which one may lie; it is closed at the end.

    `names` are what each end is called at the other one.
    """
    with socket.create_server(("127.0.0.1", 0)) as listening:
        first = socket.create_connection(listening.getsockname())
        sockets = first, listening.accept()[0]
    ends = [
        LyingLink(sockets[k], names[1 - k], random.Random(rng.getrandbits(64)), liar)
        if liar is not None and k == liar.end
        else LinkChannel(sockets[k], names[1 - k], SILENCE_S)
        for k in (0, 1)
    ]
    try:
        yield Pair((ends[0], ends[1]))
    finally:
        for end in ends:
            end.close()


Work = Callable[[], None]


def side(work: Work, links: Sequence[LinkChannel]) -> Work:
    """Return the work of a thread that ends its links as services do, with the reason."""

    def run() -> None:
        try:
            work()
        except RunError as error:
            for link in links:
                link.fail(str(error))
            raise
        finally:
            for link in links:
                link.close()

    return run


def at_once(works: Sequence[Work]) -> list[RunError | None]:
    """Run works at the same time; return the error that each raised.

    Raises what is no RunError, and AssertionError if one does not end.
    """
    raised: list[BaseException | None] = [None] * len(works)

    def run(place: int) -> None:
        try:
            works[place]()
        except BaseException as error:
            raised[place] = error

    threads = [threading.Thread(target=run, args=(k,), daemon=True) for k in range(len(works))]
    for thread in threads:
        thread.start()
    ticks = 0
    for thread in threads:
        while thread.is_alive():
            ticks += 1
            assert ticks < _TICKS, "a thread hangs"
            thread.join(_TICK_S)
    found: list[RunError | None] = []
    for error in raised:
        if error is not None and not isinstance(error, RunError):
            raise error
        found.append(error)
    return found
