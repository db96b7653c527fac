"""A party as a service: it keeps weight shares, and runs sessions of clients with its peer.

A session has links of its own: from the client to both parties, from party 1 to party 0, and from
both parties to the dealer. So sessions do not wait for each other, and one that fails takes nothing
with it. In a session:

1. The parties compare the deployment, and open the weights if that is not done yet.
2. For each inference the dealer sends a block, the parties agree on its number, each writes down
   that it is used, and only then anything that depends on it is sent.
3. With its inputs an inference waits for others of the same program and runs with them (`batches`).

With a stock, blocks were fetched before, and no session goes to the dealer: party 1's thread comes
to party 0 whenever they run low (`refill`, `refiller`).
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from srcompile.runtime.channels.link import LinkChannel
from srcompile.runtime.dealing import Offline
from srcompile.runtime.errors import ProtocolError, RunError
from srcompile.runtime.kernels import Kernels
from srcompile.runtime.material import material_bytes
from srcompile.runtime.party import Inference, Party
from srcompile.runtime.program import Program
from srcompile.runtime.randomness import Seeded
from srcompile.runtime.ring import Ring
from srcompile.runtime.roles import NAMES, PARTIES
from srcompile.runtime.services.batches import Batches, Limits, Together
from srcompile.runtime.services.health import Gauge
from srcompile.runtime.services.limits import silence_limit
from srcompile.runtime.services.links import Visit, Visiting
from srcompile.runtime.services.log import Log
from srcompile.runtime.services.material import Material, Source, Tell
from srcompile.runtime.services.memory import Memory, session_bytes
from srcompile.runtime.services.refill import Place, follow, lead
from srcompile.runtime.services.refiller import Refiller
from srcompile.runtime.services.service import Service
from srcompile.runtime.services.session import Alone, Runner, Session, told
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
from srcompile.runtime.services.stocked import StockedMaterial
from srcompile.runtime.services.stockpile import SEED_BYTES, Filling, Levels, Stockpile
from srcompile.runtime.services.stocks import Stocks
from srcompile.runtime.services.trace import InferenceTrace, SessionTrace
from srcompile.runtime.services.vault import Vault
from srcompile.runtime.spool import Spool
from srcompile.runtime.stock import Stock

LEFT = "the client left before its session began"
DIFFERENT_DEPLOYMENTS = "the parties have different deployments of this program; deploy it again"
DIFFERENT_STOCKS = (
    "one party keeps a stock of material and the other does not; give both the same 'stock_high'"
)


class PartyService(Service):
    """Party 0 or 1 as a service."""

    def __init__(self, index: int, settings: Settings, log: Log | None = None) -> None:
        super().__init__(PARTIES[index], settings, log)
        self.index, self.peer_role = index, PARTIES[1 - index]
        self._handlers = {
            "status": self._status,
            "deploy": self._deploy,
            "undeploy": self._undeploy,
            "infer": self._infer,
            "peer": self._meet,
            "stock": self._fill_with_party1,
        }
        self._loaded: dict[str, _Deployment] = {}
        self._loading = threading.Lock()
        self.memory = Memory(settings.session_memory << 20, self._free)
        self._stocks = Stocks(
            lambda: self.store.deployed(),
            self._stock,
            self.log,
            settings.state / self.role,
            settings.stock_mib << 20,
        )
        self._refiller = Refiller(self._stocks.all, self._fill_with_party0, self.log)
        self._filling = Filling(self._refiller.call)
        self._fills = index == 1 and settings.stock_high > 0

    def start(self) -> None:
        """Take the state and the port, serve, and fill the stock if there is to be one."""
        super().start()
        if self._fills:
            self._refiller.start()

    def stop(self) -> None:
        """Take no more visits, wait for running inferences up to the setting `drain`, and end."""
        self._refiller.stop()
        super().stop()
        self._refiller.join()

    # -- deployments

    def _deploy(self, visit: Visit) -> None:
        deployment, program = self._receive_program(visit)
        with self.store.adding(deployment, program) as folder:
            visit.channel.send_json({"program": True})
            shares = receive_shares(program, visit.channel, self.kernels)
            store_weights(folder, program, self.index, shares)
        self._activate(visit, deployment, program)

    def _retire(self) -> None:
        with self._loading:
            for name in set(self._loaded) - set(self.store.deployed().values()):
                self._loaded.pop(name).retire()

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
                    name,
                    self.store,
                    self.index,
                    self.kernels,
                    self.settings,
                    self.memory,
                    lambda: self.count(batches=1),
                    self.log,
                    self._filling,
                )
            return self._loaded[name]

    def waiting(self) -> int:
        """Return how many inferences wait for their batch."""
        with self._loading:
            return sum(deployment.batches.waiting() for deployment in self._loaded.values())

    def _free(self) -> None:
        """Let go of what no session uses now."""
        with self._loading:
            loaded = list(self._loaded.values())
        for deployment in loaded:
            deployment.free()

    # -- the stock

    def _stock(self, digest: str) -> Stockpile | None:
        """Return the stock of a program's deployment, if there is to be one."""
        return self._deployment(digest).stock

    def _fill_with_party0(self, name: str, more: Callable[[], bool]) -> int:
        """Fill the stock of a deployment together with party 0, while `more` is to be fetched.

        Returns how many blocks were.
        """
        with self._loading:
            deployment, session = self._loaded[name], new_id()
        assert deployment.stock is not None
        with deployment.stock.run():
            channel, _ = self._links.dial(
                "party0", "stock", session=session, deployment=name, digest=deployment.digest
            )
            with self._holding(channel):
                channel.wait_at_most(deployment.limit_s)
                try:
                    fetched = follow(self._place(deployment, session), channel, more)
                except Exception as error:
                    channel.fail(self.reason(error))
                    raise
        if fetched:
            self.log.info("filled the stock", deployment=name[:8], blocks=fetched)
        return fetched

    def _fill_with_party1(self, visit: Visit) -> None:
        """Fill the stock of a deployment together with party 1, which came for that."""
        session = checked_id(visit.fields.get("session"))
        deployment = self._deployment(checked_digest(visit.fields.get("digest")))
        if visit.fields.get("deployment") != deployment.name:
            raise ProtocolError(DIFFERENT_DEPLOYMENTS)
        if deployment.stock is None:
            raise ProtocolError(DIFFERENT_STOCKS)
        visit.channel.send_json({"welcome": True})
        visit.channel.wait_at_most(deployment.limit_s)
        try:
            with deployment.stock.run():
                lead(self._place(deployment, session), visit.channel, lambda: self.stopping)
        except (RunError, OSError) as error:  # the stock has logged it
            visit.channel.fail(self.reason(error))

    def _place(self, deployment: _Deployment, session: str) -> Place:
        assert deployment.stock is not None
        return Place(
            deployment.stock,
            lambda: self._dealer(session, deployment),
            deployment.source,
            partial(self._stocks.room, deployment.stock),
            deployment.sizes,
        )

    def state(self) -> dict[str, Any]:
        """Return how the service is, with the stock of each deployment that is loaded."""
        with self._loading:
            stocks = {d.name[:8]: d.stock.state() for d in self._loaded.values() if d.stock}
        return super().state() | {"stock": stocks}

    def gauges(self) -> Mapping[str, Gauge]:
        """Return what `/metrics` shows beside the counts."""
        with self._loading:
            stocks = {d.name[:8]: d.stock for d in self._loaded.values() if d.stock}
        blocks: Gauge = {
            (("deployment", name), ("segment", segment)): float(count)
            for name, stock in stocks.items()
            for segment, count in zip(stock.names, stock.counts(), strict=True)
        }
        size: Gauge = {
            (("deployment", name),): float(stock.size()) for name, stock in stocks.items()
        }
        return {**super().gauges(), "stock_blocks": blocks, "stock_bytes": size}

    # -- sessions

    def _infer(self, visit: Visit) -> None:
        session, digest = checked_id(visit.fields.get("session")), visit.fields.get("digest")
        with self._session(session, visit.name) as trace:
            visit.admitted()
            deployment = self._deployment(checked_digest(digest))
            trace.set(program=deployment.digest)
            visit.channel.send_json({"welcome": True})
            visit.channel.wait_at_most(deployment.limit_s)
            self.log.info(
                "session opens",
                session=session[:8],
                deployment=deployment.name[:8],
                client=visit.name,
            )
            with contextlib.ExitStack() as links:
                dealing = None
                if deployment.stock is None:
                    dealing = links.enter_context(self._to_dealer(session, deployment))
                peer = links.enter_context(self._peer(session, deployment, visit.channel))
                dealer = None
                if deployment.stock is not None:
                    tell = partial(told(self.index, visit.channel), "setup", 0, 1)
                    seed = deployment.stock.wait_for_seed(self.settings.timeout, tell)
                else:
                    assert dealing is not None
                    dealer = self._answered(links, dealing, deployment, visit.channel)[0]
                    seed = bytes(dealer.receive(SEED_BYTES))
                with deployment.party(peer, visit.channel, seed) as (party, opened):
                    run = self._run(session, visit, peer, dealer, deployment, party, trace)
                    run.serve(opened, deployment=deployment.name)
            self.log.info("session ends", session=session[:8])

    def _run(
        self,
        session: str,
        visit: Visit,
        peer: _Peer,
        dealer: LinkChannel | None,
        deployment: _Deployment,
        party: Party,
        trace: SessionTrace,
    ) -> Session:
        """Return a client's session; party 0 says whether it runs in batches with others."""
        models = {s.route: s.name for s in deployment.program.segments} | {None: "none"}
        client, traced = visit.channel, InferenceTrace(trace, told(self.index, visit.channel))
        mark, batches = deployment.mark, deployment.batches
        material = self._material(party, peer.channel, dealer, deployment, traced.tell)
        beat = material.beat
        runner: Runner = Alone(party, mark, beat)
        if peer.together:
            runner = Together(batches, session, visit.name, party, peer.channel, mark, beat)

        def count(run: Inference, offline: Offline, seconds: float) -> None:
            route = "none" if run.route is None else str(run.route)
            labels = ("route", route), ("model", models[run.route])
            self._histograms["inference_seconds"].add(labels, seconds)
            self.count(
                inferences=1,
                rounds=run.counters.rounds,
                blocks=len(offline.blocks),
                online_bytes=run.counters.bytes,
                material_bytes=offline.bytes,
            )
            traced.ended(
                route=route,
                rounds=run.counters.rounds,
                online_bytes=run.counters.bytes,
                material_bytes=offline.bytes,
            )

        others = [peer.channel] if dealer is None else [peer.channel, dealer]

        def wait_for_client(command: bool) -> None:
            if command:
                beat()
                client.wait_at_most(self.settings.idle)
                self._rest(client, self.settings.idle, *others)
            else:
                client.wait_at_most(deployment.limit_s)
                traced.asked()

        return Session(
            party=party,
            client=client,
            peer=peer.channel,
            material=material,
            runner=runner,
            mark=mark,
            count=count,
            wait_for_client=wait_for_client,
            tell=traced.tell,
        )

    def _material(
        self,
        party: Party,
        peer: LinkChannel,
        dealer: LinkChannel | None,
        deployment: _Deployment,
        tell: Tell,
    ) -> Source:
        """Return where a session's material comes from."""
        if deployment.stock is not None:
            timeout_s = self.settings.timeout
            return StockedMaterial(party, peer, deployment.stock, tell, self.log, timeout_s)
        assert dealer is not None
        return Material(party, dealer, deployment.is_used, tell, give_up=deployment.give_up)

    def _to_dealer(
        self, session: str, deployment: _Deployment
    ) -> contextlib.AbstractContextManager[Visiting]:
        return self._visiting(
            "dealer",
            "material",
            session=session,
            deployment=deployment.name,
            digest=deployment.digest,
        )

    @contextlib.contextmanager
    def _dealer(self, session: str, deployment: _Deployment) -> Iterator[LinkChannel]:
        """Give the link to the dealer for a run of filling."""
        with self._to_dealer(session, deployment) as dealing, contextlib.ExitStack() as links:
            yield self._answered(links, dealing, deployment)[0]

    def _answered(
        self,
        links: contextlib.ExitStack,
        visiting: Visiting,
        deployment: _Deployment,
        client: LinkChannel | None = None,
    ) -> tuple[LinkChannel, dict[str, Any]]:
        """Return the link of a visit and the peer's answer, when it is there.

        Raises ProtocolError if the client, whose session it is for, leaves meanwhile.
        """

        def look() -> None:
            self._check_running()
            if client is not None and client.has_something():
                raise ProtocolError(LEFT)

        channel, answer = visiting.answer(look)
        links.enter_context(self._stopped_at_end(channel))
        channel.wait_at_most(deployment.limit_s)
        return channel, answer

    @contextlib.contextmanager
    def _peer(self, session: str, deployment: _Deployment, client: LinkChannel) -> Iterator[_Peer]:
        """Give the link to the other party for a session: party 1 connects, party 0 waits.

        Raises ProtocolError if they have different deployments, or if the client leaves meanwhile.
        """
        mine = {
            "deployment": deployment.name,
            "opened": deployment.is_opened(),
            "stock": deployment.stock is not None,
        }
        if self.index == 1:
            with (
                self._visiting("party0", "peer", session=session, **mine) as visiting,
                contextlib.ExitStack() as links,
            ):
                channel, theirs = self._answered(links, visiting, deployment, client)
                if theirs.get("stock") is not mine["stock"]:
                    raise ProtocolError(DIFFERENT_STOCKS)
                opened = mine["opened"] is theirs.get("opened") is True
                yield _Peer(channel, opened, theirs.get("together") is True)
            return
        timeout = self.settings.timeout

        def look() -> None:
            if client.has_something():
                raise ProtocolError(LEFT)

        guest = self._meeting.wait_for(session, "party1", time.monotonic() + timeout, look)
        if guest is None:
            raise ProtocolError(f"party 1 did not come for this session within {timeout:g} s")
        visit = guest.visit
        try:
            if visit.fields.get("deployment") != deployment.name:
                raise ProtocolError(DIFFERENT_DEPLOYMENTS)
            together = self.settings.batch > 1
            visit.channel.send_json({**mine, "together": together})
            if visit.fields.get("stock") is not mine["stock"]:
                raise ProtocolError(DIFFERENT_STOCKS)
            visit.channel.wait_at_most(deployment.limit_s)
            opened = mine["opened"] is visit.fields.get("opened") is True
            yield _Peer(visit.channel, opened, together)
        except Exception as error:
            visit.channel.fail(guest.broke if guest.came_again else self.reason(error))
            if guest.came_again:
                raise ProtocolError(guest.broke) from None
            raise
        finally:
            self._meeting.end(guest)

    def _meet(self, visit: Visit) -> None:
        """Keep party 1's link for the session that it came for, until that has ended."""
        guest = self._meeting.arrive(checked_id(visit.fields.get("session")), visit)
        end = time.monotonic() + self.settings.timeout
        self._meeting.stay(guest, end, "the client did not come to party 0 for this session")


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
class _Peer:
    """The link to the other party for a session.

    Both parties may have `opened` the weights. Inferences run `together` with those of other
    sessions if party 0 says so.
    """

    channel: LinkChannel
    opened: bool
    together: bool


@dataclass(frozen=True)
class _Ready:
    """A party object that no session uses, and the folder of what it puts on disk."""

    party: Party
    spool: Path


class _Deployment:
    """A deployed program in memory: its weights once, and a party object for each session."""

    def __init__(
        self,
        name: str,
        store: Store,
        index: int,
        kernels: Kernels,
        settings: Settings,
        memory: Memory,
        count_batch: Callable[[], None],
        log: Log,
        filling: Filling,
    ) -> None:
        self.name, self.index, self.kernels = name, index, kernels
        self.folder = store.path(name)
        self.program = store.program(name)
        self.digest = self.program.digest()
        self.limit_s = silence_limit(self.program, settings.timeout)
        self._material, self._spools = settings.memory << 20, store.spools
        self._memory, self._size = memory, session_bytes(self.program, self._material)
        self._journal, self._log = Journal(self.folder / "used"), log
        self.sizes = [material_bytes(self.program, k) for k in range(len(self.program.segments))]
        self.stock: Stockpile | None = None
        if settings.stock_high:
            self.stock = Stockpile(
                self.folder / "stock",
                Vault(store.stock_key),
                self.program,
                index,
                self._journal,
                Levels(settings.stock_low, settings.stock_high),
                log,
                filling,
            )
        limits = Limits(settings.batch, settings.batches, settings.batch_wait, settings.queue)
        self.batches = Batches(index, self.mark, self.limit_s, limits, count_batch)
        self._lock = threading.Lock()
        self._reading = threading.Lock()  # the weights; never held while a peer is waited for
        self._stored = False  # the opened weights are there, and whole
        self._first: Party | None = None  # holds the weights that all others use
        self._idle: list[_Ready] = []
        self._retired = False

    @contextlib.contextmanager
    def party(self, peer: _Peer, client: LinkChannel, seed: bytes) -> Iterator[tuple[Party, int]]:
        """Give a party object with weights, and the bytes that opening them took just now.

        They are opened unless both parties have that. The object is kept for the next session if
        this one ends well.
        """
        source = self.source(seed)
        with contextlib.ExitStack() as undo:
            ready = self._idle_one() if peer.opened else None
            if ready is None:
                self._memory.take(self._size, NAMES[PARTIES[self.index]])
                undo.callback(self._memory.give, self._size)
                folder = self._spools / new_id()
                undo.callback(shutil.rmtree, folder, ignore_errors=True)
                stock = Stock(self._material, Spool(folder))
                party = Party(
                    self.program,
                    self.index,
                    self.kernels,
                    source,
                    peer.channel,
                    client,
                    stock,
                    in_order=self.stock is None,
                )
                self._load(party, peer.opened)
                ready = _Ready(party, folder)
                yield party, party.setup_bytes
            else:
                undo.callback(self._memory.give, self._size)
                undo.callback(shutil.rmtree, ready.spool, ignore_errors=True)
                yield ready.party, 0
            with self._lock:
                if not self._retired:
                    undo.pop_all()
                    self._idle.append(ready)

    def free(self) -> None:
        """Let go of the party objects that no session uses, and of their memory."""
        with self._lock:
            idle, self._idle = self._idle, []
        for ready in idle:
            shutil.rmtree(ready.spool, ignore_errors=True)
            self._memory.give(self._size)

    def retire(self) -> None:
        """Keep no party object any more: the deployment was replaced."""
        with self._lock:
            self._retired = True
        self.free()

    def mark(self, blocks: Sequence[int]) -> None:
        """Write down that blocks are used. Raises ProtocolError if one was before."""
        self._journal.mark(*blocks)
        for block in blocks:
            self._log.debug("marks a block", deployment=self.name[:8], block=block)

    def give_up(self, blocks: Sequence[int]) -> None:
        """Write down that blocks will not be used, if that is possible: it saves room alone."""
        with contextlib.suppress(ProtocolError, OSError):
            self._journal.give_up(*blocks)

    def is_used(self, block: int) -> bool:
        """Whether a block is written down as used."""
        return block in self._journal

    def is_opened(self) -> bool:
        """Whether this party has the opened weights."""
        with self._reading:
            self._stored = self._stored or stored_opened(self.folder, self.program) is not None
            return self._stored

    def source(self, seed: bytes) -> Seeded:
        """Return the randomness of a seed. Raises ProtocolError if it is not the deployment's."""
        with self._lock:
            claim_setup(self.folder, hashlib.sha256(b"srcompile seed" + seed).hexdigest())
        return Seeded(seed, self.kernels)

    def _idle_one(self) -> _Ready | None:
        with self._lock:
            return self._idle.pop() if self._idle else None

    def _load(self, party: Party, both: bool) -> None:
        """Give a party object its weights; they are opened now unless `both` parties have that.

        All objects use those of the first one. Raises ProtocolError if the file of what was opened
        is gone or damaged since this party said that it has it.
        """
        if not both:  # the peer is waited for: several sessions may do this at once
            opened: dict[str, Ring] = {}
            party.load_weights(self._weights(), None, opened.__setitem__)
            with self._reading:
                if self._first is None:
                    store_opened(self.folder, opened)
                    self._first, self._stored = party, True
                else:
                    party.share_weights_of(self._first)
            return
        with self._reading:  # one reads, and the others wait for it instead of reading it, too
            if self._first is not None:
                party.share_weights_of(self._first)
                return
            stored = stored_opened(self.folder, self.program)
            if stored is None:
                self._stored = False
                raise ProtocolError(
                    f"{NAMES[PARTIES[self.index]]} has lost its opened weights; open another "
                    "session, which opens them again"
                )
            party.load_weights(self._weights(), stored)
            self._first = party

    def _weights(self) -> Iterator[Ring]:
        """Return this party's weight shares from its file, in the order of the program."""
        shares = stored_weights(self.folder, self.program, self.index)
        return (shares[name] for name in self.program.weights())
