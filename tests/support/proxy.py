"""A proxy for tests that stands between two roles and does to their TLS records what a network may.

It knows no key: it sees records and may cut, stall, shorten, reorder, repeat or change them.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

HEADER = 5  # bytes of a record's header: type, version, length

Fault = Callable[["Pipe", bytes], None]


class Proxy:
    """Forwards connections to `port`. `arm` lets a fault happen to the one that is used most."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._pipes: list[tuple[Pipe, Pipe]] = []
        self._next: Fault | None = None
        self._armed: Pipe | None = None
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            try:
                here, _ = self._listener.accept()
            except OSError:
                return
            try:
                there = socket.create_connection(("127.0.0.1", self._to))
            except OSError:
                here.close()
                continue
            pair = Pipe(here, there), Pipe(there, here)
            pair[1].fault, self._next = self._next, None
            self._pipes.append(pair)
            for pipe in pair:
                pipe.start()

    def watch(self) -> None:
        """Count from now on which connection is used most; another one may still say its last."""
        for pair in self._pipes:
            for pipe in pair:
                pipe.before = pipe.seen

    def arm(self, fault: Fault, *, back: bool) -> None:
        """Let a fault happen to the next record in one direction of the connection used most."""
        pair = max(self._pipes, key=lambda pair: sum(pipe.seen - pipe.before for pipe in pair))
        self._armed = pair[back]
        self._armed.fault = fault

    def happens_next(self, fault: Fault) -> None:
        """Let a fault happen to the first record on the way back of the next connection."""
        self._next = fault

    def cut_next(self, records: int) -> None:
        """Cut the next connection in place of its record number `records` on the way back."""
        self.happens_next(after(records, cut))

    def happened(self) -> bool:
        """Whether the fault that was armed has happened."""
        return self._armed is not None and self._armed.fault is None

    @property
    def connections(self) -> int:
        """How many there were."""
        return len(self._pipes)

    def cut_all(self) -> None:
        """Cut all connections that there are."""
        for pair in self._pipes:
            for pipe in pair:
                pipe.cut()

    def close(self) -> None:
        """End all connections."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        for pair in self._pipes:
            for pipe in pair:
                pipe.cut()
        for pair in self._pipes:
            for pipe in pair:
                pipe.join()
            for pipe in pair:
                pipe.source.close()


class Pipe(threading.Thread):
    """One direction of a connection, record by record."""

    def __init__(self, source: socket.socket, sink: socket.socket) -> None:
        super().__init__(daemon=True)
        self.source, self.sink = source, sink
        self.fault: Fault | None = None
        self.seen, self.before = 0, 0  # its records, and those when `watch` was called
        self.records = self._records()

    def run(self) -> None:
        """Forward records until one side has closed."""
        with contextlib.suppress(OSError):
            for record in self.records:
                self.seen += 1
                fault, self.fault = self.fault, None
                if fault is None:
                    self.sink.sendall(record)
                else:
                    fault(self, record)
            self.sink.shutdown(socket.SHUT_WR)

    def _records(self) -> Iterator[bytes]:
        while len(head := _read(self.source, HEADER)) == HEADER:
            yield head + _read(self.source, int.from_bytes(head[3:], "big"))

    def cut(self) -> None:
        """End the connection at once, in both directions."""
        for end in (self.source, self.sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def _read(source: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = source.recv(size - len(data))
        if not part:
            break
        data += part
    return data


def after(records: int, fault: Fault) -> Fault:
    """Return a fault that happens to the record behind `records` others."""

    def later(pipe: Pipe, record: bytes) -> None:
        if not records:
            return fault(pipe, record)
        pipe.sink.sendall(record)
        pipe.fault = after(records - 1, fault)

    return later


# -- faults ---------------------------------------------------------------------------------------


def cut(pipe: Pipe, record: bytes) -> None:
    """Close the connection in place of the record."""
    pipe.cut()


def stall(pipe: Pipe, record: bytes) -> None:
    """Keep the connection, and forward nothing more in this direction."""
    for _ in pipe.records:
        pass


def truncate(pipe: Pipe, record: bytes) -> None:
    """Forward the first half of the record and close."""
    pipe.sink.sendall(record[: len(record) // 2])
    pipe.cut()


def reorder(pipe: Pipe, record: bytes) -> None:
    """Forward the record behind the next one."""
    for later in pipe.records:
        pipe.sink.sendall(later + record)
        return


def replay(pipe: Pipe, record: bytes) -> None:
    """Forward the record twice."""
    pipe.sink.sendall(record + record)


def flip(pipe: Pipe, record: bytes) -> None:
    """Change one bit of the record."""
    changed = bytearray(record)
    changed[HEADER + (len(record) - HEADER) // 2] ^= 4
    pipe.sink.sendall(bytes(changed))


def insert(pipe: Pipe, record: bytes) -> None:
    """Forward a record that nobody sent before this one."""
    pipe.sink.sendall(record[:HEADER] + bytes(len(record) - HEADER) + record)


FAULTS: dict[str, Fault] = {
    f.__name__: f for f in (cut, stall, truncate, reorder, replay, flip, insert)
}
