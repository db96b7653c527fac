"""What dealer and parties have in common as services: they serve each visit on a thread.

A visit that fails ends by itself: its links are closed, with the reason if the peer still listens,
and the service goes on. `stop` lets running inferences end, up to the setting `drain`; their
sessions, and those between two inferences, end with an error that says so to all who take part.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

import srcompile
from srcompile.runtime.channels.link import LinkChannel
from srcompile.runtime.errors import (
    OUT_OF_MEMORY,
    ConfigError,
    ProtocolError,
    RunError,
    error_text,
)
from srcompile.runtime.kernels import Kernels
from srcompile.runtime.kernels import load as load_kernels
from srcompile.runtime.program import MAX_FILE_BYTES, Program, loads
from srcompile.runtime.roles import NAMES
from srcompile.runtime.services.entrance import Entrance, Place
from srcompile.runtime.services.health import Gauge, Health, metrics_text
from srcompile.runtime.services.histogram import Histogram
from srcompile.runtime.services.links import KEPT, Links, Visit, Visiting, wait_for
from srcompile.runtime.services.log import Log
from srcompile.runtime.services.meeting import Meeting
from srcompile.runtime.services.settings import Settings
from srcompile.runtime.services.state import Store, checked_digest, checked_id
from srcompile.runtime.services.trace import SessionTrace, trace_file

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_POLL_S = 0.2
_SAY_AGAIN_S = 60.0  # how often the log says that no visits can be taken
_ENDING_S = 1.0
_RENEW_S = 1.0  # how often the files of certificates are looked at
_SAYING_S = 5.0  # how long sessions that are ended have to say why


@dataclass(frozen=True)
class Counts:
    """What a service has done since it started; the meanings are in `health.METRICS`."""

    sessions: int = 0
    failed_sessions: int = 0
    refused_sessions: int = 0
    inferences: int = 0
    rounds: int = 0
    batches: int = 0
    blocks: int = 0
    online_bytes: int = 0
    material_bytes: int = 0
    refused_visits: int = 0


class Service:
    """A role that listens. Use it as a context manager, or `start` and `stop` it."""

    def __init__(self, role: str, settings: Settings, log: Log | None = None) -> None:
        self.role, self.settings = role, settings
        self.log = log or Log(role, settings.log_level, settings.log_format)
        self.counts = Counts()
        self._histograms = {"inference_seconds": Histogram()}
        self.kernels: Kernels = load_kernels(settings.kernels or None)
        self._links = Links(role, settings)
        self._refused = ""  # why the certificates in the files are not used
        self._traces = trace_file(settings.trace, role)
        self._handlers: Mapping[str, Callable[[Visit], None]] = {"status": self._status}
        self._lock = threading.Lock()
        self._meeting = Meeting()
        self._changed = threading.Condition(self._lock)  # a session has ended
        self._ended = threading.Event()  # no new visits
        self._cut_off = False  # no sessions either
        self.shuts_down = (
            f"{NAMES[role]} shuts down and has ended the sessions that still ran; open another one "
            "when it is back"
        )
        self._open: set[LinkChannel] = set()
        self._resting: set[LinkChannel] = set()  # whose next visit is waited for
        self._running: dict[str, str] = {}  # session -> whose
        self._visits: set[threading.Thread] = set()
        self._entrance = Entrance(role, settings.sessions)
        self._acceptor = threading.Thread(target=self._accept, name=f"{role} accepts", daemon=True)
        self.store: Store
        self._health: Health | None = None

    # -- life

    def start(self) -> None:
        """Take the state and the port, and serve. Raises ConfigError if either is taken."""
        with contextlib.ExitStack() as undo:
            self.store = Store(self.settings.state / self.role, self.settings.deployments)
            undo.callback(self.store.close)
            self._listening = undo.enter_context(self._links.listen())
            if self.settings.health_port:
                self._health = self._watched(self.settings.health_port)
            undo.pop_all()
        self._acceptor.start()
        self.log.info(
            "listens",
            place=self.settings.endpoint(self.role),
            tls=not self.settings.insecure,
            kernels=self.kernels.name,
            version=srcompile.__version__,
        )

    def _watched(self, port: int) -> Health:
        """Return what serves health and metrics. Raises ConfigError if the port is taken."""
        try:
            return Health(port, self.state, self.metrics)
        except OSError as error:
            raise ConfigError(
                f"port {port} of 'health_port' cannot be had: {error_text(error)}; choose another"
            ) from None

    def stop(self) -> None:
        """Take no more visits, wait for running inferences up to the setting `drain`, and end."""
        if self._ended.is_set() or self._acceptor.ident is None:
            return
        self._ended.set()
        self._meeting.close(self.shuts_down)
        with self._lock:
            for channel in self._resting:
                channel.interrupt()
        self._acceptor.join()
        self._listening.close()
        end = time.monotonic() + self.settings.drain
        self._join(end)
        with self._lock:
            self._cut_off = True
            if self._open:
                self.log.warning("ends sessions that still run", count=len(self._running))
            for channel in self._open:
                channel.stop(self.shuts_down)
        self._join(time.monotonic() + _SAYING_S)
        with self._lock:
            for channel in self._open:
                channel.interrupt()
        self._join(time.monotonic() + _SAYING_S)
        self._links.let_go(all_of_them=True)
        if self._health is not None:
            self._health.close()
        self.store.close()
        self.log.info("stopped")

    def _join(self, end: float) -> None:
        while (left := end - time.monotonic()) > 0:
            with self._lock:
                threads = list(self._visits)
            if not threads:
                return
            threads[0].join(min(left, _POLL_S))

    def __enter__(self) -> Self:
        """Start."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self.stop()

    @property
    def stopping(self) -> bool:
        """Whether the service takes no more visits."""
        return self._ended.is_set()

    # -- visits

    def _accept(self) -> None:
        said, look = -_SAY_AGAIN_S, time.monotonic()
        while not self._ended.is_set():
            if time.monotonic() >= look:
                self._renew()
                look = time.monotonic() + _RENEW_S
            try:
                self._take_visit()
            except (OSError, RuntimeError) as error:  # no descriptor, no memory, no thread is left
                if time.monotonic() >= said + _SAY_AGAIN_S:
                    said = time.monotonic()
                    reason = error_text(error) if isinstance(error, OSError) else error
                    self.log.warning("cannot take visits now, and goes on trying", reason=reason)
                self._links.let_go()
                self._ended.wait(_POLL_S)

    def _take_visit(self) -> None:
        """Serve the next visit on a thread of its own, if one comes soon.

        Raises OSError or RuntimeError if the system has no room for it.
        """
        found = wait_for(self._listening, time.monotonic() + _POLL_S)
        if found is None:
            self._links.let_go()
            return
        connection, address = found
        try:
            place = self._entrance.enter(address)
        except ProtocolError as error:
            self._turned_away(error)
            connection.close()
            return
        thread = threading.Thread(target=self._visit, args=(connection, place), daemon=True)
        with self._lock:
            self._visits.add(thread)
        try:
            thread.start()
        except RuntimeError:
            self._gone(thread, place)
            self.count(refused_visits=1)
            connection.close()
            raise

    def _renew(self) -> None:
        """Use renewed certificates; say once if they cannot be used."""
        refused, self._refused = self._refused, ""
        try:
            if self._links.renew():
                self.log.info("uses new certificates", folder=self.settings.certs)
        except Exception as error:  # also a mistake of ours: visits are accepted nevertheless
            self._refused = str(error) or type(error).__name__
            if self._refused != refused:
                self.log.warning("goes on with its old certificates", reason=self._refused)

    def _visit(self, connection: socket.socket, place: Place) -> None:
        try:
            self._serve(connection, place)
        finally:
            self._gone(threading.current_thread(), place)

    def _gone(self, thread: threading.Thread, place: Place) -> None:
        place.leave()
        with self._lock:
            self._visits.discard(thread)

    def _turned_away(self, error: ProtocolError | OSError) -> None:
        self.count(refused_visits=1)
        self.log.warning("turned a visitor away", reason=error)

    def _serve(self, connection: socket.socket, place: Place) -> None:
        try:
            visit = self._links.welcome(connection, place.known)
        except (ProtocolError, OSError) as error:
            self._turned_away(error)
            return
        with self._holding(visit.channel):
            next_: Visit | None = replace(visit, admitted=place.leave)
            while next_ is not None and self._handled(next_):
                next_ = self._next_visit(next_)

    def _handled(self, visit: Visit) -> bool:
        """Do what a visit is for; return whether it ended in order."""
        try:
            self._handlers[visit.purpose](visit)
        except (RunError, OSError, MemoryError) as error:
            reason = self.reason(error)
            found = error if isinstance(error, OSError) else reason
            self.log.warning("a visit failed", **_about(visit), reason=found)
            visit.channel.fail(reason)
        except Exception as error:  # a mistake of ours: it ends this visit, not the service
            self.log.error("a visit failed", **_about(visit), reason=type(error).__name__)
            visit.channel.fail(self.reason(error))
            raise
        return not visit.channel.closed

    def _next_visit(self, visit: Visit) -> Visit | None:
        """Return the next visit on the link of one that has ended in order, if there is one."""
        if visit.purpose not in KEPT or not self.settings.keep_links:
            return None
        with self._lock:
            if self.stopping:
                return None
            self._resting.add(visit.channel)
        try:
            return self._links.next_visit(visit)
        finally:
            with self._lock:
                self._resting.discard(visit.channel)

    def reason(self, error: Exception) -> str:
        """Return what others may know about an error."""
        if self._cut_off and isinstance(error, ProtocolError):
            return self.shuts_down  # of which it is a consequence
        if isinstance(error, RunError):
            return str(error)
        if isinstance(error, OSError) and error.errno in _FULL:
            return f"the disk of {NAMES[self.role]} is full; free some space on it"
        if isinstance(error, MemoryError):
            return f"{NAMES[self.role]} {OUT_OF_MEMORY}"
        return f"{NAMES[self.role]} has a problem ({type(error).__name__}); its log says more"

    @contextlib.contextmanager
    def _holding(self, channel: LinkChannel) -> Iterator[None]:
        """Close a channel at the end, and stop it if the service cannot wait."""
        with self._stopped_at_end(channel):
            try:
                yield
            finally:
                channel.close()

    @contextlib.contextmanager
    def _stopped_at_end(self, channel: LinkChannel) -> Iterator[None]:
        """Stop a channel if the service cannot wait."""
        with self._lock:
            self._open.add(channel)
            if self._cut_off:
                channel.stop(self.shuts_down)
        try:
            yield
        finally:
            with self._lock:
                self._open.discard(channel)

    def _rest(self, channel: LinkChannel, wait_s: float, *others: LinkChannel) -> None:
        """Wait, between two inferences of a session, until a peer says something.

        Raises ProtocolError if it says nothing for so long, or if before that this role is stopped
        or one of the session's `others` has ended it with a reason.
        """
        end = time.monotonic() + wait_s
        while not channel.has_something(_POLL_S):
            if self.stopping:
                raise ProtocolError(self.shuts_down)
            for other in others:
                said = other.ended()
                if said is not None:
                    raise ProtocolError(said)
            if time.monotonic() >= end:
                raise ProtocolError(f"{channel.peer} did not answer for {wait_s:.0f} s")

    def _check_running(self) -> None:
        """Raise ProtocolError if the service has ended its sessions."""
        if self._cut_off:
            raise ProtocolError(self.shuts_down)

    @contextlib.contextmanager
    def _visiting(self, peer: str, purpose: str, **fields: Any) -> Iterator[Visiting]:
        """Visit a peer on a thread. The link is kept for the next visit if this one ends well."""
        visiting = Visiting(self._links, peer, purpose, **fields)
        try:
            yield visiting
        except Exception as error:
            visiting.fail(self.reason(error))
            raise
        self._links.keep(peer, visiting.answer()[0])

    @contextlib.contextmanager
    def _session(self, session: str, client: str = "") -> Iterator[SessionTrace]:
        """Count a session as running, for a client if it is one's; give its trace.

        Raises ProtocolError if there are too many, in all or of the client, or this one. One that
        is about to end is waited for a little.
        """
        limit, each = self.settings.sessions, self.settings.client_sessions if client else 0

        def of_client() -> int:
            return sum(whose == client for whose in self._running.values())

        def has_room() -> bool:
            return len(self._running) < limit and (not each or of_client() < each)

        with self._changed:
            known = session in self._running
            has_room_now = not known and self._changed.wait_for(has_room, _ENDING_S)
            count, whose = len(self._running), of_client()
            if has_room_now:
                self._running[session] = client
        if known:
            raise ProtocolError("this session is running already")
        if not has_room_now:
            self.count(refused_sessions=1)
            if count < limit:
                raise ProtocolError(
                    f"{NAMES[self.role]} runs {whose} sessions of {client}, which is all "
                    "that the setting 'client_sessions' allows; end one, or try again later"
                )
            raise ProtocolError(
                f"{NAMES[self.role]} runs {count} sessions, which is all that the "
                "setting 'sessions' allows; try again later"
            )
        self.count(sessions=1)
        trace = SessionTrace(self._traces, session)
        try:
            with trace.span("session"):
                yield trace
        except BaseException:
            self.count(failed_sessions=1)
            raise
        finally:
            with self._changed:
                del self._running[session]
                self._changed.notify_all()

    # -- status

    def state(self) -> dict[str, Any]:
        """Return how the service is: what `srrun doctor` and `/health` show."""
        with self._lock:
            running = len(self._running)
        return {
            "role": self.role,
            "version": srcompile.__version__,
            "time": time.time(),
            "kernels": self.kernels.name,
            "sessions": running,
            "deployed": self.store.deployed(),
            "free_bytes": shutil.disk_usage(self.settings.state).free,
            "processors": os.cpu_count() or 1,
            "stopping": self.stopping,
            "listening": self._acceptor.is_alive(),
        }

    def count(self, **counts: int) -> None:
        """Add to what was counted."""
        with self._lock:
            now = asdict(self.counts)
            self.counts = Counts(**{name: now[name] + counts.get(name, 0) for name in now})

    def metrics(self) -> str:
        """Return the metrics of `/metrics`."""
        values = {**asdict(self.counts), **self.gauges()}
        return metrics_text(self.role, values, self._histograms)

    def gauges(self) -> Mapping[str, Gauge]:
        """Return what `/metrics` shows beside the counts."""
        state = self.state()
        return {
            "running_sessions": state["sessions"],
            "free_bytes": state["free_bytes"],
            "waiting_inferences": self.waiting(),
        }

    def waiting(self) -> int:
        """Return how many inferences wait for their batch."""
        return 0

    def _status(self, visit: Visit) -> None:
        visit.channel.send_json(self.state())

    # -- deployments

    def _receive_program(self, visit: Visit) -> tuple[str, Program]:
        """Return a new deployment's identifier and its program, which the owner sends."""
        deployment = checked_id(visit.fields.get("deployment"))
        digest = checked_digest(visit.fields.get("digest"))
        size = visit.fields.get("size")
        if not isinstance(size, int) or not 0 < size <= MAX_FILE_BYTES:
            raise ProtocolError(f"a program of {size} bytes cannot be deployed")
        visit.channel.send_json({"welcome": True})
        program = loads(bytes(visit.channel.receive(size)))
        if program.digest() != digest:
            raise ProtocolError("the program is not the one that was announced")
        if program.target != "2pc":
            raise ProtocolError("only programs for the target 2pc can be deployed")
        return deployment, program.for_parties()

    def _activate(self, visit: Visit, deployment: str, program: Program) -> None:
        """Say that all is stored, and activate the deployment when the owner says so.

        If that does not come, the deployment is removed.
        """
        try:
            visit.channel.send_json({"stored": True})
            visit.channel.wait_at_most(self.settings.idle)  # for the slowest of the three roles
            if visit.channel.receive_json().get("command") != "activate":
                raise ProtocolError(f"{NAMES[visit.role]} did not activate the deployment")
            self.store.activate(deployment, program.digest())
        except BaseException:
            self.store.discard(deployment, program.digest())
            raise
        self._retire()
        visit.channel.send_json({"active": True})
        self.log.info("deployed", deployment=deployment[:8], program=program.digest()[:12])

    def _undeploy(self, visit: Visit) -> None:
        """Take a program's deployment away."""
        digest = checked_digest(visit.fields.get("digest"))
        found = self.store.remove(digest)
        self._retire()
        visit.channel.send_json({"had": found is not None})
        if found is not None:
            self.log.info("took a deployment away", deployment=found[:8], program=digest[:12])

    def _retire(self) -> None:
        """Let go of deployments that are no longer any program's."""


def _about(visit: Visit) -> dict[str, str]:
    """Return what a log says of a visit: who, what for, and which session, if it has said so."""
    about = {"peer": visit.role, "purpose": visit.purpose}
    if visit.role == "client":
        about["client"] = visit.name
    with contextlib.suppress(ProtocolError):
        about["session"] = checked_id(visit.fields.get("session"))[:8]
    return about
