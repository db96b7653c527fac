"""Runs side by side: one message in each round, whatever routes they take, and the same results."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest

from srcompile.ops import registry
from srcompile.ops.interpreter import evaluate
from srcompile.runtime.channels import Channel
from srcompile.runtime.channels.local import LocalChannel, local_pair
from srcompile.runtime.client import Shares, receive_outputs, send_inputs, share_weights
from srcompile.runtime.dealer import Dealer
from srcompile.runtime.errors import ProtocolError
from srcompile.runtime.kernels import load
from srcompile.runtime.lockstep import run_together
from srcompile.runtime.openings import rounds
from srcompile.runtime.party import PEERS, Inference, Party, Prepared
from srcompile.runtime.randomness import Seeded
from tests.support.builds import BUILDS, compiled
from tests.support.simulation import one_by_one

POOL = BUILDS["pool"]
STAGES = compiled(POOL)
PROGRAM = STAGES.program
ROUTES = [evaluate(POOL.module, sample, registry())[1] for sample in POOL.samples]


class Counting:
    """A channel that counts what the parties exchange."""

    def __init__(self, inner: LocalChannel) -> None:
        self.inner, self.sizes = inner, list[int]()

    def exchange(self, data: Sequence[memoryview], into: Sequence[memoryview]) -> None:
        self.sizes.append(sum(map(len, data)))
        self.inner.exchange(data, into)


class Batch:
    """Inferences of the pool, each with party objects, blocks and a client link of its own."""

    def __init__(self, numbers: Sequence[int]) -> None:
        kernels, public = load(), PROGRAM.for_parties()
        self.kernels, self.numbers = kernels, numbers
        dealer = Dealer(PROGRAM, kernels)
        sources = [Seeded(seed, kernels) for seed in dealer.seeds]
        shares, peers = share_weights(PROGRAM), local_pair("party 0", "party 1")
        self.peers = (Counting(peers[0]), Counting(peers[1]))
        self.marked: tuple[list[list[int]], list[list[int]]] = ([], [])
        self.clients: list[tuple[LocalChannel, LocalChannel]] = []
        self.members: list[list[tuple[Party, Prepared, list[Prepared]]]] = [[], []]
        first: list[Party] = []
        for _ in numbers:
            ends = [local_pair(f"party {p}", "the client") for p in (0, 1)]
            self.clients.append((ends[0][1], ends[1][1]))
            parties = [Party(public, p, kernels, sources[p], peers[p], ends[p][0]) for p in (0, 1)]
            if first:
                for party, loaded in zip(parties, first, strict=True):
                    party.share_weights_of(loaded)
            else:
                first = parties
                load_weights(parties, shares)
            blocks = [self._block(dealer, parties, k) for k in range(len(PROGRAM.segments))]
            for p in (0, 1):
                self.members[p].append(
                    (parties[p], blocks[0][p], [block[p] for block in blocks[1:]])
                )

    def _block(self, dealer: Dealer, parties: Sequence[Party], segment: int) -> list[Prepared]:
        material = dealer.deal(segment)
        messages = list(material.messages)
        found = []
        for p, party in enumerate(parties):
            own = one_by_one([m[p].tobytes() for m in messages if m[p].size])
            found.append(party.prepare(material.block, segment, own))
        return found

    def note(self, p: int, blocks: Sequence[int]) -> None:
        """Note what a party marks."""
        self.marked[p].append(list(blocks))

    def run(self) -> list[list[Inference]]:
        """Run all of them together; return the inferences of both parties."""

        def give() -> None:
            for number, channels in zip(self.numbers, self.clients, strict=True):
                send_inputs(PROGRAM, POOL.samples[number], channels, self.kernels)

        def work(p: int) -> list[Inference]:
            runs = []
            for party, shared, branches in self.members[p]:
                party.send_input_masks(shared)
                party.receive_inputs(shared)
                runs.append(party.start(shared, branches))
            peer: Channel = self.peers[p]  # type: ignore[assignment]
            run_together(runs, peer, PEERS[p], partial(self.note, p))
            found = [run.inference() for run in runs]
            for (party, *_), inference in zip(self.members[p], found, strict=True):
                party.send_outputs(inference)
            return found

        client = threading.Thread(target=give, daemon=True)
        client.start()
        found = both(work)
        client.join()
        return found

    def outputs(self, place: int) -> Any:
        """Return what the client of an inference gets."""
        return receive_outputs(PROGRAM, self.clients[place], self.kernels)["y"]


def load_weights(parties: Sequence[Party], shares: Shares) -> None:
    """Give two parties their weights."""

    def load_one(p: int) -> None:
        parties[p].load_weights(shares[p][name] for name in PROGRAM.weights())

    both(load_one)


def both(work: Callable[[int], Any]) -> list[Any]:
    """Return what `work` returns for both parties, at once. Raises what either raised."""
    found: list[Any] = [None, None]

    def run(p: int) -> None:
        try:
            found[p] = work(p)
        except BaseException as error:
            found[p] = error

    threads = [threading.Thread(target=run, args=(p,), daemon=True) for p in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one in found:
        if isinstance(one, BaseException):
            raise one
    return found


def rounds_on(route: int | None) -> int:
    """Return the rounds in which the parties exchange something, on a route."""
    segments = [0, *(k for k, s in enumerate(PROGRAM.segments) if s.route == route)]
    bodies = [PROGRAM.functions["online"][k] for k in segments]
    return sum(
        any(i.op != "output" for i in body[first:stop])
        for body in bodies
        for first, stop in rounds(body).items()
    )


@pytest.mark.parametrize("numbers", [[0], [0, 0, 0], [0, 1, 2, 3, 4], [4, 2, 0, 1]], ids=str)
def test_a_batch_takes_the_rounds_of_its_longest_route_and_gives_what_each_alone_gives(
    numbers: list[int],
) -> None:
    # given inferences of several routes
    batch = Batch(numbers)
    # when they run together
    found = batch.run()
    # then each has its own result, route, bytes and rounds
    for place, number in enumerate(numbers):
        want, route = evaluate(POOL.module, POOL.samples[number], registry())
        np.testing.assert_allclose(batch.outputs(place), want["y"], atol=0.01)
        for p in (0, 1):
            inference, total = found[p][place], STAGES.cost.total(route)
            assert inference.route == route
            assert inference.counters.bytes == total.online_bytes[p]
            assert inference.counters.rounds == total.rounds
    # and the parties exchanged one message in each round of the longest one
    for p in (0, 1):
        assert len(batch.peers[p].sizes) == max(rounds_on(ROUTES[n]) for n in numbers)
    # and the blocks of all branches that were taken were marked at once, and no others
    routed = sorted((s.route, k) for k, s in enumerate(PROGRAM.segments) if s.route is not None)
    for p in (0, 1):
        taken = [batch.members[p][k][2][ROUTES[n] or 0].block for k, n in enumerate(numbers)]
        assert batch.marked[p] == [taken]
        assert len(routed) > 1


def test_a_mark_that_is_refused_ends_the_batch_before_anything_of_the_branch_is_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(self: Batch, p: int, blocks: Sequence[int]) -> None:
        raise ProtocolError(f"block {blocks[0]} is used already")

    monkeypatch.setattr(Batch, "note", refuse)
    batch = Batch([0, 1])
    with pytest.raises(ProtocolError, match="is used already"):
        batch.run()
    router = len(rounds(PROGRAM.functions["online"][0]))
    assert [len(peer.sizes) for peer in batch.peers] == [router] * 2
