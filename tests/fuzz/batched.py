"""The target `batches`: sessions of both parties agree on batches and run them, and one party lies.

Both are the real ones, with a thread for each session, and each session has its material, its marks
and its inputs, as where a service lets it wait for a batch. What is held to, at each party: all
sessions end, with their result or an error of the protocol; a block is used once, after it is
written down; and no session is left in a queue.
"""

from __future__ import annotations

import random
import shutil
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from srcompile.runtime.channels import local
from srcompile.runtime.channels.link import LinkChannel
from srcompile.runtime.client import receive_outputs, send_inputs
from srcompile.runtime.dealer import Dealer
from srcompile.runtime.engine import Env
from srcompile.runtime.kernels import load as load_kernels
from srcompile.runtime.party import Inference, Prepared
from srcompile.runtime.services.batches import Batches, Limits, Member
from srcompile.runtime.services.session import route_segments
from tests.fuzz.harness import Parser, Target
from tests.fuzz.lies import SILENCE_S, Liar, Work, at_once, linked, side
from tests.fuzz.stocked import (
    EXPECTED,
    Dealt,
    Side,
    Watched,
    dealt,
    parties,
    sources,
)
from tests.support.services import POOL, PROGRAM

MOST = 4  # sessions


@dataclass(frozen=True)
class Given:
    """What a session has: its blocks, by segment, and the inputs that its client masked."""

    blocks: Sequence[int]
    inputs: tuple[Env, Env]


def _prepared(party: Watched, given: Given, dealt: Dealt) -> list[Prepared]:
    found = []
    for segment, block in enumerate(given.blocks):
        following = iter(dealt[block, segment][party.index])
        found.append(party.prepare(block, segment, lambda size, f=following: next(f)))  # type: ignore[misc]
    return found


def _given(pair: Sequence[Watched], number: int, dealt: Dealt) -> Given:
    """Return what a session has; a client gives the inputs once, for all cases."""
    numbers = sorted(dealt)[number * len(PROGRAM.segments) :][: len(PROGRAM.segments)]
    given = Given([block for block, _ in numbers], ({}, {}))
    clients: list[Any] = []
    prepared = [_prepared(party, given, dealt)[0] for party in pair]
    for party, shared in zip(pair, prepared, strict=True):
        ends: Any = local.local_pair("a party", "the client")
        party.attach(ends[0], ends[0])
        party.journal, party.spent = _Anything(), set()  # type: ignore[assignment]
        party.send_input_masks(shared)
        clients.append(ends[1])
    send_inputs(PROGRAM, POOL.samples[0], clients, load_kernels())
    for party, shared in zip(pair, prepared, strict=True):
        party.receive_inputs(shared)
    inputs = [shared.inputs or {} for shared in prepared]
    return Given(given.blocks, (inputs[0], inputs[1]))


class _Anything:
    """Has everything in it."""

    def __contains__(self, block: object) -> bool:
        return True


@dataclass
class Case:
    """The state of both parties in a case."""

    sides: tuple[Side, Side]
    batches: tuple[Batches, Batches]
    results: dict[tuple[int, int], Inference]  # by session and party
    lock: threading.Lock

    def member(
        self, p: int, k: int, party: Watched, given: Given, dealt: Dealt, link: LinkChannel
    ) -> Member:
        """Return session k at party p, with its inputs."""
        own = self.sides[p]
        party.journal, party.spent = own.journal, own.spent
        party.attach(link, link)
        shared, *others = _prepared(party, given, dealt)
        branches = [others[segment - 1] for segment in route_segments(PROGRAM)]
        own.mark([shared.block])
        own.spent.add(shared.block)
        shared.inputs = dict(given.inputs[p])
        client = f"client {k % 2}"
        return Member(f"session {k}", client, party, link, shared, branches)

    def run(self, p: int, k: int, member: Member) -> None:
        """Do what the thread of session k does at party p."""
        found = self.batches[p].run(member, lambda rounds: None)
        with self.lock:
            self.results[k, p] = found

    def check(self) -> None:
        """See that nothing is left over."""
        for own, batches in zip(self.sides, self.batches, strict=True):
            assert not batches._queues, "a session is left in a queue"
            assert not batches._ready, "a session is left without a batch"
            assert not batches._running, "a batch is left"
            own.check()


def _open_batches(folder: Path, stack: ExitStack) -> Parser:
    dealer = Dealer(PROGRAM, load_kernels(), sources())
    blocks = dealt(dealer, MOST)
    made = parties(MOST)
    given = [_given((made[0][k], made[1][k]), k, blocks) for k in range(MOST)]

    def parse(rng: random.Random) -> None:
        shutil.rmtree(folder / "case", ignore_errors=True)
        sides = Side(0, folder / "case" / "0"), Side(1, folder / "case" / "1")
        count = rng.randint(1, MOST)
        # a batch begins with so many, or after a moment
        size, wait_s = rng.randint(1, count), rng.choice((0.0, 0.02))
        limits = Limits(size, rng.choice((1, 2)), wait_s, 8)
        first, second = (Batches(p, sides[p].mark, SILENCE_S, limits) for p in (0, 1))
        case = Case(sides, (first, second), {}, threading.Lock())
        chance = rng.choice((0.0, 0.05, 0.2, 0.6))
        liar = Liar(rng.randrange(2), chance, [], partial(_other, count)) if chance else None
        works, pairs = list[Work](), []
        with ExitStack() as links:
            for k in range(count):
                pair = links.enter_context(linked(rng, ("party 0", "party 1"), liar))
                pairs.append(pair)
                for p in (0, 1):
                    end = pair.ends[p]
                    member = case.member(p, k, made[p][k], given[k], blocks, end)
                    works.append(side(partial(case.run, p, k, member), [end]))
            raised = at_once(works)
        case.check()
        if not any(pair.lies() for pair in pairs):
            assert raised == [None] * len(works), raised
            for k in range(count):
                _check_result(made, k, [case.results[k, p] for p in (0, 1)])

    return parse


def _other(count: int, rng: random.Random) -> dict[str, Any]:
    """Return something that parties say to each other about batches."""
    sessions = [f"session {k}" for k in rng.sample(range(count + 1), rng.randint(0, count))]
    return rng.choice(
        (
            {"lead": sessions},
            {"lead": sessions},
            {"join": True},
            {"ready": True},
            {"wait": True},
            {"have": [True, *(rng.random() < 0.7 for _ in range(count - 1))]},
        )
    )


def _check_result(made: list[list[Watched]], k: int, runs: Sequence[Inference]) -> None:
    """See that both parties' shares are of the model's result."""
    clients: list[Any] = []
    for p, run in enumerate(runs):
        ends: Any = local.local_pair("a party", "the client")
        made[p][k].attach(ends[0], ends[0])
        made[p][k].send_outputs(run)
        clients.append(ends[1])
    outputs = receive_outputs(PROGRAM, clients, load_kernels())
    assert [run.route for run in runs] == [EXPECTED[0]] * 2
    np.testing.assert_allclose(outputs["y"], EXPECTED[1], atol=0.01)


TARGETS = (Target("batches", (), _open_batches, 2 << 30, waits=True),)
