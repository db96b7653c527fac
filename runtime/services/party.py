"""A party as a service: it keeps weight shares, and runs sessions of clients with its peer.

A session has links of its own: from the client to both parties, from party 1 to party 0, and from
both parties to the dealer. So sessions do not wait for each other, and one that fails takes nothing
with it. In a session:

1. The parties compare the deployment, and open the weights if that is not done yet.
2. For each inference the dealer sends a block, the parties agree on its number, each writes down
   that it is used, and only then anything that depends on it is sent.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from srcompile.runtime.channels.link import LinkChannel
from srcompile.runtime.errors import ProtocolError
from srcompile.runtime.kernels import Kernels
from srcompile.runtime.material import rounds_of
from srcompile.runtime.node import inference_report
from srcompile.runtime.party import Party, Prepared
from srcompile.runtime.program import Program
from srcompile.runtime.progress import Progress, Ticker
from srcompile.runtime.randomness import Seeded
from srcompile.runtime.ring import Ring
from srcompile.runtime.roles import NAMES, PARTIES
from srcompile.runtime.services.limits import silence_limit
from srcompile.runtime.services.links import Visit
from srcompile.runtime.services.log import Log
from srcompile.runtime.services.material import Material
from srcompile.runtime.services.service import Service
from srcompile.runtime.services.settings import Settings
from srcompile.runtime.services.state import (
    Journal,
    Store,
    checked_digest,
    checked_id,
    claim_setup,
    new_id,
    store_opened,
    store_weights,
    stored_opened,
    stored_weights,
)
from srcompile.runtime.spool import Spool
from srcompile.runtime.stock import Stock
from srcompile.runtime.usage import peak_memory

SEED_BYTES = 16


class PartyService(Service):
    """Party 0 or 1 as a service."""

    def __init__(self, index: int, settings: Settings, log: Log | None = None) -> None:
        super().__init__(PARTIES[index], settings, log)
        self.index, self.peer_role = index, PARTIES[1 - index]
        self._handlers = {
            "status": self._status,
            "deploy": self._deploy,
            "infer": self._infer,
            "peer": self._meet,
        }
        self._met = threading.Condition()
        self._peers: dict[str, tuple[Visit, threading.Event]] = {}
        self._loaded: dict[str, _Deployment] = {}
        self._loading = threading.Lock()

    # -- deployments

    def _deploy(self, visit: Visit) -> None:
        deployment, program = self._receive_program(visit)
        with self.store.adding(deployment, program) as folder:
            visit.channel.send_json({"program": True})
            shares = receive_shares(program, visit.channel, self.kernels)
            store_weights(folder, program, self.index, shares)
        self._activate(visit, deployment, program)
        with self._loading:
            for name in set(self._loaded) - set(self.store.deployed().values()):
                del self._loaded[name]

    def _deployment(self, digest: str) -> _Deployment:
        """Return what is loaded of a program's deployment. Raises ProtocolError without one."""
        name = self.store.current(digest)
        if name is None:
            raise ProtocolError(
                f"{NAMES[self.role]} has no deployment of this program; the model owner makes one "
                "with `srrun deploy`"
            )
        with self._loading:
            if name not in self._loaded:
                self._loaded[name] = _Deployment(
                    name, self.store, self.index, self.kernels, self.settings
                )
            return self._loaded[name]

    # -- sessions

    def _infer(self, visit: Visit) -> None:
        session, digest = checked_id(visit.fields.get("session")), visit.fields.get("digest")
        with self._session(session):
            deployment = self._deployment(checked_digest(digest))
            visit.channel.send_json({"welcome": True})
            visit.channel.wait_at_most(deployment.limit_s)
            self.log.info("session opens", session=session[:8], deployment=deployment.name[:8])
            with contextlib.ExitStack() as links:
                others: list[LinkChannel] = []
                try:
                    peer, both = links.enter_context(self._peer(session, deployment))
                    others.append(peer)
                    dealer = links.enter_context(self._dealer(session, deployment))
                    others.append(dealer)
                    with deployment.party(peer, visit.channel, dealer, both) as (party, opened):
                        run = _Session(self, visit.channel, peer, dealer, deployment, party)
                        run.serve(setup_bytes=opened)
                except Exception as error:
                    for channel in others:
                        channel.fail(self.reason(error))
                    raise
            self.log.info("session ends", session=session[:8])

    @contextlib.contextmanager
    def _dealer(self, session: str, deployment: _Deployment) -> Iterator[LinkChannel]:
        channel, _ = self._links.dial(
            "dealer",
            "material",
            session=session,
            deployment=deployment.name,
            digest=deployment.digest,
        )
        with self._holding(channel):
            channel.wait_at_most(deployment.limit_s)
            yield channel

    @contextlib.contextmanager
    def _peer(self, session: str, deployment: _Deployment) -> Iterator[tuple[LinkChannel, bool]]:
        """Give the link to the other party for a session: party 1 connects, party 0 waits.

        Also whether both have opened the weights. Raises ProtocolError if they have different
        deployments.
        """
        mine = {"deployment": deployment.name, "opened": deployment.is_opened()}
        if self.index == 1:
            channel, theirs = self._links.dial("party0", "peer", session=session, **mine)
            with self._holding(channel):
                channel.wait_at_most(deployment.limit_s)
                yield channel, mine["opened"] is theirs.get("opened") is True
            return
        end = time.monotonic() + self.settings.timeout
        with self._met:
            while session not in self._peers:
                left = end - time.monotonic()
                if left <= 0 or self.stopping:
                    raise ProtocolError(
                        f"party 1 did not come for this session within {self.settings.timeout:g} s"
                    )
                self._met.wait(min(left, 0.2))
            visit, done = self._peers.pop(session)
        try:
            if visit.fields.get("deployment") != deployment.name:
                different = "the parties have different deployments of this program"
                visit.channel.fail(f"{different}; deploy it again")
                raise ProtocolError(f"{different}; deploy it again")
            visit.channel.send_json(mine)
            visit.channel.wait_at_most(deployment.limit_s)
            yield visit.channel, mine["opened"] is visit.fields.get("opened") is True
        finally:
            done.set()

    def _meet(self, visit: Visit) -> None:
        """Keep party 1's link for the session that it came for, until that has ended."""
        session, done = checked_id(visit.fields.get("session")), threading.Event()
        with self._met:
            if session in self._peers:
                raise ProtocolError("party 1 came twice for one session")
            self._peers[session] = visit, done
            self._met.notify_all()
        if done.wait(self.settings.timeout):
            return
        with self._met:
            if self._peers.pop(session, None) is not None:
                raise ProtocolError("the client did not come to party 0 for this session")
        done.wait()


def receive_shares(program: Program, channel: LinkChannel, kernels: Kernels) -> dict[str, Ring]:
    """Return weight shares that the model owner sends."""
    shares = {}
    for name in program.weights():
        type_ = program.constants[name].type
        data = np.frombuffer(channel.receive(type_.packed_bytes), np.uint8)
        shares[name] = kernels.unpack(data, type_.size, type_.width).reshape(type_.shape)
    return shares


# -- what sessions share --------------------------------------------------------------------------


@dataclass(frozen=True)
class _Ready:
    """A party object that no session uses, and the folder of what it puts on disk."""

    party: Party
    spool: Path


class _Deployment:
    """A deployed program in memory: its weights once, and a party object for each session."""

    def __init__(
        self, name: str, store: Store, index: int, kernels: Kernels, settings: Settings
    ) -> None:
        self.name, self.index, self.kernels = name, index, kernels
        self.folder = store.path(name)
        self.program = store.program(name)
        self.digest = self.program.digest()
        self.limit_s = silence_limit(self.program, settings.timeout)
        self.rounds = rounds_of(self.program)
        self.routed = sorted(
            (k for k, s in enumerate(self.program.segments) if s.route is not None),
            key=lambda k: self.program.segments[k].route or 0,
        )
        self._memory, self._spools = settings.memory << 20, store.spools
        self.journal = Journal(self.folder / "used")
        self._lock = threading.Lock()
        self._first: Party | None = None  # holds the weights that all others use
        self._idle: list[_Ready] = []

    @contextlib.contextmanager
    def party(
        self, peer: LinkChannel, client: LinkChannel, dealer: LinkChannel, both: bool
    ) -> Iterator[tuple[Party, int]]:
        """Give a party object with weights, and the bytes that opening them took just now.

        They are opened unless `both` parties have that. The object is kept for the next session if
        this one ends well.
        """
        source = self._source(bytes(dealer.receive(SEED_BYTES)))
        with contextlib.ExitStack() as undo:
            ready = self._idle_one() if both else None
            if ready is None:
                folder = self._spools / new_id()
                undo.callback(shutil.rmtree, folder, ignore_errors=True)
                stock = Stock(self._memory, Spool(folder))
                party = Party(self.program, self.index, self.kernels, source, peer, client, stock)
                self._load(party, both)
                ready = _Ready(party, folder)
                yield party, party.setup_bytes
            else:
                undo.callback(shutil.rmtree, ready.spool, ignore_errors=True)
                yield ready.party, 0
            undo.pop_all()
        with self._lock:
            self._idle.append(ready)

    def is_opened(self) -> bool:
        """Whether this party has the opened weights."""
        return self._first is not None or stored_opened(self.folder, self.program) is not None

    def _source(self, seed: bytes) -> Seeded:
        """Return the randomness of a seed. Raises ProtocolError if it is not the deployment's."""
        with self._lock:
            claim_setup(self.folder, hashlib.sha256(b"srcompile seed" + seed).hexdigest())
        return Seeded(seed, self.kernels)

    def _idle_one(self) -> _Ready | None:
        with self._lock:
            return self._idle.pop() if self._idle else None

    def _load(self, party: Party, both: bool) -> None:
        """Give a party object its weights; they are opened now unless `both` parties have that."""
        with self._lock:
            first = self._first
        if both and first is not None:
            party.share_weights_of(first)
            return
        shares = stored_weights(self.folder, self.program, self.index)
        stored = stored_opened(self.folder, self.program) if both else None
        opened: dict[str, Ring] = {}
        names = self.program.weights()
        party.load_weights((shares[n] for n in names), stored, opened.__setitem__)
        with self._lock:
            if stored is None:
                store_opened(self.folder, opened)
            self._first = self._first or party


# -- one session ----------------------------------------------------------------------------------


@dataclass
class _Session:
    """A client's session at one party: its inferences, one after the other."""

    service: PartyService
    client: LinkChannel
    peer: LinkChannel
    dealer: LinkChannel
    deployment: _Deployment
    party: Party
    sure: set[int] = field(default_factory=set)  # blocks of this inference that are marked

    def __post_init__(self) -> None:
        self.ticker = Ticker(self._send_progress)
        self.material = Material(self.party, self.dealer, self.deployment.journal, self._tell)

    def serve(self, setup_bytes: int) -> None:
        """Do what the client says until it says stop."""
        self.party.attach(self.peer, self.client, self._mark)
        self.client.send_json(
            {
                "ready": True,
                "deployment": self.deployment.name,
                "setup_bytes": setup_bytes,
                "kernels": self.deployment.kernels.name,
            }
        )
        try:
            while self._asked():
                self._inference()
        finally:
            self.material.close()
        self.material.stop()

    def _asked(self) -> bool:
        self.client.wait_at_most(self.service.settings.idle)
        command = self.client.receive_json().get("command")
        self.client.wait_at_most(self.deployment.limit_s)
        if command not in ("infer", "stop"):
            raise ProtocolError("the client asked for something that a session does not do")
        return bool(command == "infer")

    def _inference(self) -> None:
        """Get material, agree on it, run an inference, and report.

        Material for branches is there before: until the route is revealed nobody knows which runs.
        """
        routed = self.deployment.routed
        offline = self.material.begin([*routed, 0])
        branches = [self.material.take(segment, offline) for segment in routed]
        shared = self.material.take(0, offline)
        self._agree([shared, *branches])
        self.sure.clear()
        self._mark(shared.block)
        self.client.send_json({"block": shared.block})
        self.party.send_input_masks(shared)
        run = self.party.infer(shared, branches, self._observed)
        for route, branch in enumerate(branches):
            if route != run.route:
                self.material.give_back(branch)
        self.client.send_json(inference_report(run) | offline.report() | {"memory": peak_memory()})
        self.party.send_outputs(run)
        self.service.count(
            inferences=1,
            blocks=len(offline.blocks),
            online_bytes=run.counters.bytes,
            material_bytes=offline.bytes,
        )

    def _observed(self, done: int) -> None:
        self._tell("online", done, self.deployment.rounds)

    def _tell(self, phase: str, done: int, total: int) -> None:
        """Let the client know how far this is, from time to time; party 0 speaks for both."""
        if self.party.index == 0:
            self.ticker.tell(phase, done, total)

    def _send_progress(self, progress: Progress) -> None:
        self.client.send_json({"progress": [progress.phase, progress.done, progress.total]})

    def _agree(self, blocks: list[Prepared]) -> None:
        """Compare the numbers of the blocks with the peer's."""
        mine = {"blocks": [[b.block, b.segment] for b in blocks]}
        self.peer.send_json(mine)
        if self.peer.receive_json() != mine:
            raise ProtocolError(f"{NAMES[self.service.peer_role]} has other blocks from the dealer")

    def _mark(self, block: int) -> None:
        """Write down that a block is used, before anything that depends on it is sent."""
        if block not in self.sure:
            self.deployment.journal.mark(block)
            self.sure.add(block)
