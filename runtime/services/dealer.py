"""The dealer as a service: it keeps the seeds of each deployment and deals blocks to sessions."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

from srcompile.runtime.channels.link import LinkChannel
from srcompile.runtime.dealer import Dealer
from srcompile.runtime.dealing import BEAT, REQUEST, STOP, send_block
from srcompile.runtime.errors import ProtocolError
from srcompile.runtime.kernels import Kernels
from srcompile.runtime.randomness import Seeded
from srcompile.runtime.roles import NAMES, PARTIES
from srcompile.runtime.services.limits import silence_limit
from srcompile.runtime.services.links import Visit
from srcompile.runtime.services.log import Log
from srcompile.runtime.services.service import Service
from srcompile.runtime.services.settings import Settings
from srcompile.runtime.services.state import (
    Numbers,
    Store,
    checked_digest,
    checked_id,
    store_seeds,
    stored_seeds,
)
from srcompile.runtime.services.trace import SessionTrace


class DealerService(Service):
    """The dealer as a service."""

    def __init__(self, settings: Settings, log: Log | None = None) -> None:
        super().__init__("dealer", settings, log)
        self._handlers = {
            "status": self._status,
            "deploy": self._deploy,
            "undeploy": self._undeploy,
            "material": self._material,
        }
        self._loaded: dict[str, _Deployment] = {}
        self._loading = threading.Lock()

    def _deploy(self, visit: Visit) -> None:
        deployment, program = self._receive_program(visit)
        with self.store.adding(deployment, program) as folder:
            store_seeds(folder)
        self._activate(visit, deployment, program)

    def _retire(self) -> None:
        with self._loading:
            for name in set(self._loaded) - set(self.store.deployed().values()):
                del self._loaded[name]

    def _deployment(self, name: str, digest: str) -> _Deployment:
        if self.store.current(digest) != name:
            raise ProtocolError(
                "the dealer has another deployment of this program; deploy it again"
            )
        with self._loading:
            if name not in self._loaded:
                self._loaded[name] = _Deployment(
                    name, self.store, self.kernels, self.settings.timeout
                )
            return self._loaded[name]

    def _material(self, visit: Visit) -> None:
        """Pair the parties of a session: the first one waits, the second one's thread deals."""
        session = checked_id(visit.fields.get("session"))
        name = checked_id(visit.fields.get("deployment"))
        deployment = self._deployment(name, checked_digest(visit.fields.get("digest")))
        role = PARTIES[1 - PARTIES.index(visit.role)]
        guest = self._meeting.arrive(session, visit)
        other = self._meeting.pair(guest, role)
        if other is None:
            end = time.monotonic() + self.settings.timeout
            nobody = f"{NAMES[role]} did not come to the dealer for this session"
            self._meeting.stay(guest, end, nobody)
            return
        try:
            if other.visit.fields.get("deployment") != name:
                raise ProtocolError("the parties of this session do not fit together")
            channels = {g.visit.role: g.visit.channel for g in (guest, other)}
            with self._session(session) as trace:
                trace.set(program=deployment.digest)
                self.log.info("session opens", session=session[:8], deployment=name[:8])
                self._serve_session(deployment, (channels["party0"], channels["party1"]), trace)
                self.log.info("session ends", session=session[:8])
        except Exception as error:
            broke = [g.broke for g in (guest, other) if g.came_again]
            other.visit.channel.fail(broke[0] if broke else self.reason(error))
            if broke:
                raise ProtocolError(broke[0]) from None
            raise
        finally:
            self._meeting.end(guest)
            self._meeting.end(other)

    def _serve_session(
        self,
        deployment: _Deployment,
        channels: tuple[LinkChannel, LinkChannel],
        trace: SessionTrace,
    ) -> None:
        """Deal a block for each segment that party 0 asks for, until it says stop."""
        for channel, seed in zip(channels, deployment.seeds, strict=True):
            channel.send_json({"welcome": True})
            channel.send(seed)
        wait_s = self.settings.idle + deployment.limit_s
        with deployment.dealer() as dealer:
            between = True  # two inferences
            while True:
                if between:
                    self._rest(channels[0], wait_s)
                channels[0].wait_at_most(wait_s)
                (segment,) = REQUEST.unpack(channels[0].receive(REQUEST.size))
                if segment == STOP:
                    return
                if segment == BEAT:
                    continue
                if segment >= deployment.segments:
                    raise ProtocolError(f"party 0 asked for segment {segment}, there is none")
                for channel in channels:
                    channel.wait_at_most(deployment.limit_s)
                with trace.span("deal", segment=segment):
                    material = dealer.deal(segment, deployment.numbers.take())
                    sent = send_block(material, channels)
                    trace.set(bytes=sent)
                self.count(blocks=1, material_bytes=sent)
                between = segment == 0  # which an inference asks for last


class _Deployment:
    """A deployed program in memory."""

    def __init__(self, name: str, store: Store, kernels: Kernels, timeout_s: float) -> None:
        folder, program = store.path(name), store.program(name)
        self.seeds = stored_seeds(folder)
        self.segments, self.digest = len(program.segments), program.digest()
        self.limit_s = silence_limit(program, timeout_s)
        self.numbers = Numbers(folder / "numbers")
        self._program, self._kernels, self._lock = program, kernels, threading.Lock()
        self._sources = (Seeded(self.seeds[0], kernels), Seeded(self.seeds[1], kernels))
        self._making = threading.Lock()  # the first one
        self._first: Dealer | None = None  # holds the masks of weights that all others use
        self._idle: list[Dealer] = []

    @contextlib.contextmanager
    def dealer(self) -> Iterator[Dealer]:
        """Give a dealer object that no other session uses."""
        with self._lock:
            found = self._idle.pop() if self._idle else None
        if found is None:
            found = self._made()
        yield found
        with self._lock:
            self._idle.append(found)

    def _made(self) -> Dealer:
        """Return another dealer object; while the first one is made, the others wait for it."""
        with self._making:
            if self._first is None:
                self._first = Dealer(self._program, self._kernels, self._sources)
                return self._first
        return Dealer(self._program, self._kernels, self._sources, self._first)
