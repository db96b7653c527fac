"""Traces of sessions, as OpenTelemetry's collectors read them: OTLP/JSON, one export a line.

A session is one trace, and each role that has the setting `trace` appends its own spans to its file
as they end. The trace's identifier is made of the session's, which the client draws from the
operating system's randomness and tells all roles: so their spans join without another word. Spans
say when, how many bytes and rounds, and which program, by its digest; nothing of it is secret.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import srcompile
from srcompile.runtime.errors import ConfigError

Value = str | int | float | bool
Attributes = Mapping[str, Value]

_INTERNAL, _SERVER, _CLIENT = 1, 2, 3  # kinds of spans
_ERROR = 2  # the status of a span that ended with an error


def trace_id(session: str) -> str:
    """Return the trace's identifier of a session: 16 bytes in hexadecimal."""
    return hashlib.sha256(f"srcompile trace {session}".encode()).hexdigest()[:32]


def root_id(session: str) -> str:
    """Return the identifier of the client's span of a session, the parent of all roles' spans."""
    return hashlib.sha256(f"srcompile span {session}".encode()).hexdigest()[:16]


@dataclass
class Span:
    """Something that takes time; attributes and events are added while it runs."""

    name: str
    trace: str
    span: str
    parent: str
    kind: int
    began: int  # nanoseconds since 1970
    attributes: dict[str, Value]
    events: list[tuple[int, str, Attributes]] = field(default_factory=list)

    def event(self, name: str, **attributes: Value) -> None:
        """Add something that happens now."""
        self.events.append((time.time_ns(), name, named(**attributes)))


class TraceFile:
    """A file to which spans are appended, readable by its owner only (0600).

    It is opened for each, so that it may be moved away at any time; roles may share one.
    """

    def __init__(self, path: str, role: str) -> None:
        """Raise ConfigError if it cannot be written."""
        self._path, self._role = path, role
        try:
            self._append(b"")
        except OSError as error:
            raise ConfigError(
                f"the file of traces {path} cannot be written: {error.strerror}; "
                "name another with the setting 'trace'"
            ) from None

    def write(self, span: Span, ended: int, error: str | None) -> None:
        """Append a span that has ended, as one line. A full disk loses it, and nothing else."""
        line = json.dumps(_export(self._role, _span_json(span, ended, error))) + "\n"
        with contextlib.suppress(OSError):
            self._append(line.encode())

    def _append(self, line: bytes) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        descriptor = os.open(self._path, flags, 0o600)
        try:
            os.write(descriptor, line)  # at once, so that lines of several roles do not mix
        finally:
            os.close(descriptor)


def trace_file(path: str, role: str) -> TraceFile | None:
    """Return the file of the setting `trace`, if one is set. Raises ConfigError as `TraceFile`."""
    return TraceFile(path, role) if path else None


class SessionTrace:
    """The spans of one session at one role; without a file nothing is written.

    Spans begin and end on the session's thread, one inside another.
    """

    def __init__(self, file: TraceFile | None, session: str, *, client: bool = False) -> None:
        self._file, self._trace = file, trace_id(session)
        self._first = root_id(session) if client else ""
        self._above = "" if client else root_id(session)
        self._kind = _CLIENT if client else _SERVER
        self._open: list[Span] = []

    @contextlib.contextmanager
    def span(self, name: str, **attributes: Value) -> Iterator[Span]:
        """Give a span around what is done here; an error that ends it is told by its kind."""
        span = self.begin(name, None, **attributes)
        try:
            yield span
        except BaseException as error:
            self.end(span, type(error).__name__)
            raise
        self.end(span)

    def begin(self, name: str, began: int | None = None, **attributes: Value) -> Span:
        """Return a span that `end` will end; it began now, or at `began` (ns since 1970)."""
        parent = self._open[-1].span if self._open else self._above
        own, self._first = self._first or secrets.token_hex(8), ""
        began = time.time_ns() if began is None else began
        span = Span(name, self._trace, own, parent, self._kind, began, named(**attributes))
        self._kind = _INTERNAL
        self._open.append(span)
        return span

    def end(self, span: Span, error: str | None = None) -> None:
        """End a span and, with the same error, those inside it; once is enough."""
        while any(open_ is span for open_ in self._open):
            last = self._open.pop()
            if self._file is not None:
                self._file.write(last, time.time_ns(), error)

    def close(self, error: str | None = None) -> None:
        """End all spans."""
        if self._open:
            self.end(self._open[0], error)

    def set(self, **attributes: Value) -> None:
        """Add to the innermost span that runs."""
        self._open[-1].attributes.update(named(**attributes))


class InferenceTrace:
    """Spans of a session's inferences at a party, made from what it is told of their progress.

    An inference has a span inside for the material that comes from the dealer, and an event for
    each round, or for some of them if it runs in a batch.
    """

    def __init__(self, trace: SessionTrace, tell: Callable[[str, int, int], None]) -> None:
        self._trace, self._tell = trace, tell
        self._asked = 0
        self._inference: Span | None = None
        self._material: Span | None = None

    def asked(self) -> None:
        """The client wants something: if it is an inference, that begins now."""
        self._asked = time.time_ns()

    def tell(self, phase: str, done: int, total: int) -> None:
        """Take progress, and pass it on: bytes of the phase offline, rounds of online."""
        if self._inference is None:
            self._inference = self._trace.begin("inference", self._asked or None)
        if phase == "offline":
            if self._material is None:
                self._material = self._trace.begin("offline material")
            self._material.attributes["srcompile.bytes"] = done
            if done >= total:
                self._end_material()
        else:
            self._end_material()
            self._inference.event("round", number=done)
        self._tell(phase, done, total)

    def ended(self, **attributes: Value) -> None:
        """An inference has ended well, with these figures."""
        if self._inference is None:
            self._inference = self._trace.begin("inference", self._asked or None)
        self._end_material()
        self._inference.attributes.update(named(**attributes))
        self._trace.end(self._inference)
        self._inference = None

    def _end_material(self) -> None:
        if self._material is not None:
            self._trace.end(self._material)
            self._material = None


def named(**attributes: Value) -> dict[str, Value]:
    """Return attributes with the prefix that all of ours have."""
    return {f"srcompile.{name}": value for name, value in attributes.items()}


# -- OTLP/JSON ------------------------------------------------------------------------------------


def _export(role: str, span: dict[str, Any]) -> dict[str, Any]:
    resource = {"service.name": f"srcompile {role}", "service.version": srcompile.__version__}
    scope = {"name": "srcompile.runtime", "version": srcompile.__version__}
    return {
        "resourceSpans": [
            {
                "resource": {"attributes": _attributes(resource)},
                "scopeSpans": [{"scope": scope, "spans": [span]}],
            }
        ]
    }


def _span_json(span: Span, ended: int, error: str | None) -> dict[str, Any]:
    parent = {"parentSpanId": span.parent} if span.parent else {}
    status = {} if error is None else {"status": {"code": _ERROR, "message": error}}
    return {
        "traceId": span.trace,
        "spanId": span.span,
        **parent,
        "name": span.name,
        "kind": span.kind,
        "startTimeUnixNano": str(span.began),
        "endTimeUnixNano": str(ended),
        "attributes": _attributes(span.attributes),
        "events": [
            {"timeUnixNano": str(at), "name": name, "attributes": _attributes(attributes)}
            for at, name, attributes in span.events
        ],
        **status,
    }


def _attributes(values: Attributes) -> list[dict[str, Any]]:
    return [{"key": name, "value": _value(value)} for name, value in values.items()]


def _value(value: Value) -> dict[str, Any]:
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    return {"doubleValue": value} if isinstance(value, float) else {"stringValue": value}
