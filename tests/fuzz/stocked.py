"""The target `stock`: dealer and parties fill stocks of material and use them for clients.

One of them lies. Dealer and parties are the real ones, on threads, over links on which one side
changes what it says. What is held to, at each party: a block is used once, after it is written
down; nothing stays held; and what lies on the disk is what a restart finds.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import random
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from srcompile.runtime.channels import link, local
from srcompile.runtime.channels.link import LinkChannel
from srcompile.runtime.client import receive_outputs, report_bytes, send_inputs, share_weights
from srcompile.runtime.dealer import Dealer
from srcompile.runtime.dealing import REQUEST, STOP, send_block
from srcompile.runtime.errors import ProtocolError
from srcompile.runtime.kernels import load as load_kernels
from srcompile.runtime.lockstep import Mark
from srcompile.runtime.material import material_bytes
from srcompile.runtime.party import Party, Prepared
from srcompile.runtime.randomness import Randomness, Seeded
from srcompile.runtime.services import stocked
from srcompile.runtime.services.log import Log
from srcompile.runtime.services.material import Material, Source
from srcompile.runtime.services.refill import Place, follow, lead
from srcompile.runtime.services.session import Alone, Session
from srcompile.runtime.services.state import Journal, claim_setup
from srcompile.runtime.services.stocked import StockedMaterial
from srcompile.runtime.services.stockpile import SEED_BYTES, Filling, Levels, Stockpile
from srcompile.runtime.services.vault import Vault
from tests.fuzz.harness import Parser, Target
from tests.fuzz.lies import Liar, Pair, Work, at_once, linked, side
from tests.support.services import POOL, PROGRAM

SEEDS = (b"the first party.", b"the second party")
SEGMENTS = range(len(PROGRAM.segments))
DEALT = 3  # blocks of each segment that are there from the start
LEVELS = Levels(1, 3)
EMPTY_S = 0.05  # how long a session waits for a stock to be filled
DEALER, CLIENT = 2, 3  # liars that are neither party
Dealt = dict[tuple[int, int], tuple[list[bytes], list[bytes]]]
"""The messages of blocks, by block and segment, for both parties."""


def sources() -> tuple[Randomness, Randomness]:
    """Return the randomness that the dealer shares with each party."""
    return Seeded(SEEDS[0], load_kernels()), Seeded(SEEDS[1], load_kernels())


def dealt(dealer: Dealer, count: int) -> Dealt:
    """Return so many blocks of each segment."""
    found: Dealt = {}
    for _, segment in itertools.product(range(count), SEGMENTS):
        material = dealer.deal(segment)
        pairs = [[bytes(m) for m in pair] for pair in material.messages]
        messages = [pair[0] for pair in pairs if pair[0]], [pair[1] for pair in pairs if pair[1]]
        found[material.block, segment] = messages
    return found


class Watched(Party):
    """A party that sees to it that a block is used once, and is marked before."""

    journal: Journal
    spent: set[int]

    def send_input_masks(self, prepared: Prepared) -> None:
        """Give the client masks of a block that is marked."""
        assert prepared.block in self.journal
        super().send_input_masks(prepared)

    def _use(self, prepared: Prepared) -> None:
        assert prepared.block in self.journal
        assert prepared.block not in self.spent, f"block {prepared.block} is used twice"
        self.spent.add(prepared.block)
        super()._use(prepared)


def parties(count: int) -> list[list[Watched]]:
    """Return so many objects of each party, with weights."""
    ends: Any = local.local_pair("party 0", "party 1")
    program, shares = PROGRAM.for_parties(), share_weights(PROGRAM)
    found = [
        [Watched(program, p, load_kernels(), sources()[p], ends[p], ends[p], in_order=False)
         for _ in range(count)]
        for p in (0, 1)
    ]  # fmt: skip

    def load(p: int) -> None:
        found[p][0].load_weights(shares[p][name] for name in PROGRAM.weights())

    assert at_once([partial(load, p) for p in (0, 1)]) == [None, None]
    for first, *others in found:
        for other in others:
            other.share_weights_of(first)
    return found


@dataclass
class Side:
    """One party's state in a case."""

    index: int
    folder: Path
    journal: Journal = field(init=False)
    stock: Stockpile = field(init=False)
    spent: set[int] = field(default_factory=set)
    marked: list[int] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    log: Log = field(default_factory=lambda: Log("a party", stream=io.StringIO()))

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True)
        self.open()

    def open(self) -> None:
        """Start, or start again."""
        self.journal = Journal(self.folder / "used")
        vault = Vault(self.folder / "stock.key")
        self.stock = Stockpile(
            self.folder / "stock", vault, PROGRAM, self.index, self.journal, LEVELS, self.log,
            Filling(lambda: None),
        )  # fmt: skip

    def claim(self, seed: bytes) -> None:
        """Take the seed of a dealer. Raises ProtocolError if it is another one than before."""
        with self.lock:
            claim_setup(self.folder, hashlib.sha256(seed).hexdigest())

    def mark(self, blocks: Sequence[int]) -> None:
        """Write down that blocks are used."""
        self.journal.mark(*blocks)
        self.marked += blocks

    def put(self, block: int, segment: int, messages: Sequence[bytes]) -> None:
        """Put a block into the stock."""
        following = iter(messages)
        self.stock.write(block, segment, lambda size: next(following))
        self.stock.publish(block, segment)

    def check(self) -> None:
        """See that no block is free and held or used, and that a restart finds the same."""
        found = self.stock.blocks()
        assert not self.stock._held, "a block stays held"
        assert len({block for block, _ in found}) == len(found), "a block is there twice"
        assert not any(block in self.journal for block, _ in found), "a used block is free"
        assert len(set(self.marked)) == len(self.marked), "a block is marked twice"
        names = {f"{block}.{segment}" for block, segment in found}
        there = {path.name for path in (self.folder / "stock").iterdir()} - {"seed"}
        assert there == names, f"the stock is {names}, on the disk is {there}"
        counts = self.stock.counts()
        self.open()
        assert self.stock.counts() == counts


@dataclass(frozen=True)
class Lie:
    """Who lies in a step, how often, and what was said before."""

    liar: int
    chance: float
    before: list[bytes]

    def of(self, *ends: int) -> Liar | None:
        """Return how an end of a link lies, if the ends are these roles."""
        if self.liar not in ends or not self.chance:
            return None
        return Liar(ends.index(self.liar), self.chance, self.before, _other)


def _other(rng: random.Random) -> dict[str, Any]:
    """Return something that parties say to each other about stocks."""
    numbers = [rng.randrange(14) for _ in range(6)]
    return rng.choice(
        (
            {"waiting": True},
            {"take": [[k, numbers[k], numbers[5]] for k in (3, 2, 1, 0)], "low": True},
            {"prepared": [[n, rng.choice(STATUSES)] for n in numbers[:4]]},
            {"blocks": [[n, n % 4] for n in numbers], "room": 1 << 30, "seed": True},
            {"blocks": [], "room": 0, "seed": False},
            {"blocks": [[n, n % 4] for n in numbers[:4]], "together": False},
            {"fetch": rng.choice((None, [], [0], [3, 3, 1], [n % 5 for n in numbers]))},
            {"stored": numbers[0]},
            {"more": rng.random() < 0.5},
            {"command": rng.choice(("infer", "stop", "x"))},
        )
    )


STATUSES = ("ready", "busy", "lacks", "damaged", "")


def _deal(dealer: Dealer, channels: Sequence[LinkChannel], numbers: Iterator[int]) -> None:
    """Do what the dealer's service does in a session."""
    for channel, seed in zip(channels, SEEDS, strict=True):
        channel.send(seed)
    while True:
        (segment,) = REQUEST.unpack(channels[0].receive(REQUEST.size))
        if segment == STOP:
            return
        if segment not in SEGMENTS:
            raise ProtocolError(f"party 0 asked for segment {segment}, there is none")
        send_block(dealer.deal(segment, next(numbers)), channels)


# -- the steps of a case --------------------------------------------------------------------------


@dataclass(frozen=True)
class Cluster:
    """What the steps of a case take."""

    rng: random.Random
    sides: tuple[Side, Side]
    parties: list[list[Watched]]
    dealer: Callable[[], Dealer]
    numbers: Iterator[int]
    lied: bool  # by the dealer, so that there may be wrong material


def _filling(c: Cluster, lie: Lie, stack: ExitStack) -> list[Work]:
    """Return what dealer and parties do in a run that fills the stocks."""
    rng, works = c.rng, list[Work]()
    peers = stack.enter_context(linked(rng, ("party 0", "party 1"), lie.of(0, 1)))
    dealers = _links(c, lie, DEALER, "the dealer", stack)
    sizes = [material_bytes(PROGRAM, segment) for segment in SEGMENTS]
    batches = rng.choice((1, 2, 16))  # after which party 1 lets another stock have its turn

    def follows(place: Place, peer: LinkChannel) -> int:
        left = itertools.count(batches - 1, -1)
        return follow(place, peer, lambda: next(left) > 0)

    for p, run in enumerate((_lead, follows)):
        place = Place(
            c.sides[p].stock,
            partial(_dialled, dealers[p].ends[0]),
            c.sides[p].claim,
            partial(int, rng.choice((0, 3000, *[1 << 30] * 6))),
            sizes,
        )
        links = [peers.ends[p], dealers[p].ends[0]]
        works.append(side(partial(_run, run, place, peers.ends[p]), links))
    return [*works, _dealing(c, dealers)]


def _links(c: Cluster, lie: Lie, role: int, name: str, stack: ExitStack) -> list[Pair]:
    """Return the links of both parties to a role."""
    return [
        stack.enter_context(linked(c.rng, (f"party {p}", name), lie.of(p, role))) for p in (0, 1)
    ]


def _dealing(c: Cluster, dealers: Sequence[Pair]) -> Work:
    ends = [pair.ends[1] for pair in dealers]
    return side(partial(_deal, c.dealer(), ends, c.numbers), ends)


def _lead(place: Place, peer: LinkChannel) -> int:
    return lead(place, peer, lambda: False)


def _dialled(link: LinkChannel) -> AbstractContextManager[LinkChannel]:
    return contextlib.nullcontext(link)


def _run(run: Callable[[Place, LinkChannel], int], place: Place, link: LinkChannel) -> None:
    with place.stock.run():
        run(place, link)


def _session(c: Cluster, lie: Lie, number: int, stack: ExitStack, *, stocked: bool) -> list[Work]:
    """Return what all do in a client's session, on material from the stock or the dealer."""
    rng, works = c.rng, list[Work]()
    peers = stack.enter_context(linked(rng, ("party 0", "party 1"), lie.of(0, 1)))
    clients = _links(c, lie, CLIENT, "the client", stack)
    dealers = [] if stocked else _links(c, lie, DEALER, "the dealer", stack)
    for p in (0, 1):
        party, own = c.parties[p][number], c.sides[p]
        party.journal, party.spent = own.journal, own.spent
        dealer = None if stocked else dealers[p].ends[0]
        ends = [peers.ends[p], clients[p].ends[0], *([dealer] if dealer else [])]
        work = partial(_serve, own, party, peers.ends[p], clients[p].ends[0], dealer)
        works.append(side(work, ends))
    if dealers:
        works.append(_dealing(c, dealers))
    ends = [client.ends[1] for client in clients]

    def honest() -> bool:
        return not any(pair.lies() for pair in (peers, *clients, *dealers)) and not c.lied

    works.append(side(partial(_ask, rng.randint(1, 3), ends, honest), ends))
    return works


def _serve(
    own: Side, party: Watched, peer: LinkChannel, client: LinkChannel, dealer: LinkChannel | None
) -> None:
    """Serve a client's session at one party."""
    tell = lambda phase, done, total: None  # noqa: E731
    mark: Mark = own.mark
    if dealer is None:
        material: Source = StockedMaterial(party, peer, own.stock, tell, own.log, EMPTY_S)
    else:
        own.claim(bytes(dealer.receive(SEED_BYTES)))
        material = Material(party, dealer, own.journal.__contains__, tell)
    Session(
        party=party,
        client=client,
        peer=peer,
        material=material,
        runner=Alone(party, mark),
        mark=mark,
        count=lambda run, offline, seconds: None,
        wait_for_client=lambda command: None,
        tell=tell,
    ).serve(0)


def _ask(count: int, parties: Sequence[LinkChannel], honest: Callable[[], bool]) -> None:
    """Ask for inferences as a client does; if nobody lied, the results are the model's."""
    for party in parties:
        party.receive_json()
    for _ in range(count):
        for party in parties:
            party.send_json({"command": "infer"})
        blocks = [party.receive_json().get("block") for party in parties]
        if blocks[0] != blocks[1]:
            raise ProtocolError("the parties use different blocks of material")
        send_inputs(PROGRAM, POOL.samples[0], parties, load_kernels())
        reports = [party.receive_json(report_bytes(PROGRAM)) for party in parties]
        outputs = receive_outputs(PROGRAM, parties, load_kernels())
        if honest():
            assert [report["route"] for report in reports] == [EXPECTED[0]] * 2
            np.testing.assert_allclose(outputs["y"], EXPECTED[1], atol=0.01)
    for party in parties:
        party.send_json({"command": "stop"})


def _expected() -> tuple[int | None, Any]:
    from srcompile.ops import registry
    from srcompile.ops.interpreter import evaluate

    want, route = evaluate(POOL.module, POOL.samples[0], registry())
    return route, want["y"]


EXPECTED = _expected()


# -- the target -----------------------------------------------------------------------------------


def _open_stock(folder: Path, stack: ExitStack) -> Parser:
    first = Dealer(PROGRAM, load_kernels(), sources())
    blocks = dealt(first, DEALT)
    made = parties(2)
    stack.enter_context(mock.patch.object(link, "_LINGER_S", 0.1))
    stack.enter_context(mock.patch.object(stocked, "_LOOK_S", 0.02))
    stack.enter_context(mock.patch.object(stocked, "_BUSY_S", 0.02))

    def dealer() -> Dealer:
        return Dealer(PROGRAM, load_kernels(), sources(), first)

    def parse(rng: random.Random) -> None:
        shutil.rmtree(folder / "case", ignore_errors=True)
        sides = Side(0, folder / "case" / "0"), Side(1, folder / "case" / "1")
        for (block, segment), messages in blocks.items():
            where = rng.choice((0, 1, 2, 2, 2, 2, 2, 2, 2, 2))
            for own in sides:
                if where in (own.index, 2):
                    own.put(block, segment, messages[own.index])
                elif rng.random() < 0.3:
                    own.mark([block])
        for own in sides:
            own.stock.store_seed(SEEDS[own.index])
        numbers, lied = itertools.count(max(blocks)[0] + 1), False
        before = list[bytes]()
        for _ in range(rng.randint(1, 3)):
            lie = Lie(rng.randrange(4), rng.choice((0.0, 0.05, 0.2, 0.6)), before)
            lied |= lie.liar == DEALER and lie.chance > 0
            c = Cluster(rng, sides, made, dealer, numbers, lied)
            with ExitStack() as links:
                works = list[Work]()
                for number in range(rng.choice((0, 1, 1, 2))):
                    works += _session(c, lie, number, links, stocked=rng.random() < 0.9)
                if not works or rng.random() < 0.4:
                    works += _filling(c, lie, links)
                at_once(works)
            for own in sides:
                own.check()

    return parse


TARGETS = (Target("stock", (), _open_stock, 2 << 30, waits=True),)
