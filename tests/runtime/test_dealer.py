"""Randomness is used once: no block is dealt twice, no part of a stream is drawn twice."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from srcompile.runtime.channels.local import local_pair
from srcompile.runtime.dealer import Dealer
from srcompile.runtime.errors import ProtocolError
from srcompile.runtime.gates import Bytes
from srcompile.runtime.isa import RingType
from srcompile.runtime.kernels import Kernels
from srcompile.runtime.local import LocalSession
from srcompile.runtime.material import material_bytes
from srcompile.runtime.party import Party
from srcompile.runtime.randomness import SETUP_BLOCK, Randomness, Seeded
from tests.support.builds import BUILDS, NETWORKS_BY_NAME, Build, compiled, seeded_sources, session
from tests.support.simulation import one_by_one


class Counting:
    """Randomness that counts what is drawn, by role: the dealer and a party draw the same once."""

    def __init__(self, base: Randomness) -> None:
        self._base = base
        self.drawn: Counter[tuple[int, int]] = Counter()
        self.lock = threading.Lock()

    def ring(self, block: int, slot: int, type_: RingType) -> NDArray[Any]:
        with self.lock:
            self.drawn[block, slot] += 1
        return self._base.ring(block, slot, type_)

    def roots(self, block: int, slot: int, count: int) -> Bytes:
        with self.lock:
            self.drawn[block, slot] += 1
        return self._base.roots(block, slot, count)


each_network = pytest.mark.parametrize("build", NETWORKS_BY_NAME.values(), ids=str)


@each_network
def test_a_dealer_draws_each_part_of_its_streams_once(build: Build, fast_kernels: Kernels) -> None:
    program = compiled(build).program
    sources = tuple(Counting(s) for s in seeded_sources(1))
    dealer = Dealer(program, fast_kernels, (sources[0], sources[1]))
    segments = [k % len(program.segments) for k in range(6)]
    for number, segment in enumerate(segments):
        material = dealer.deal(segment)
        assert material.block == number
        for _ in material.messages:
            pass
    for source in sources:
        assert set(source.drawn.values()) <= {1}
        assert any(block == SETUP_BLOCK for block, _ in source.drawn)


@each_network
def test_dealer_and_party_draw_the_same_and_nothing_twice(
    build: Build, fast_kernels: Kernels
) -> None:
    # given one source for each party that both the dealer and the party draw from
    program = compiled(build).program
    sources = tuple(Counting(s) for s in seeded_sources(2))
    local = LocalSession(program, fast_kernels, sources=(sources[0], sources[1]))
    for sample in build.samples[:4]:
        local.infer(sample)
    # then nothing is drawn by either more than once
    assert max(max(source.drawn.values()) for source in sources) <= 2


def test_blocks_of_a_pool_are_used_once_and_kept_until_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    build = BUILDS["pool"]
    used: Counter[tuple[int, int]] = Counter()
    infer = Party.infer

    def counted(self: Party, shared: Any, branches: Any = (), observe: Any = None) -> Any:
        result = infer(self, shared, branches, observe)
        used[self.index, shared.block] += 1
        used[self.index, branches[result.route].block] += 1
        return result

    monkeypatch.setattr(Party, "infer", counted)
    local = session(compiled(build).program, 3)
    times = 10
    routes = Counter(local.infer(sample).route for sample in build.samples[:times])
    assert set(used.values()) == {1}
    assert len(used) == 2 * 2 * times
    # a model's block is dealt again only when the model has run
    for segment, route in enumerate((None, 0, 1, 2)):
        blocks, _, _ = local.offline.blocks[segment]
        ran = times if route is None else routes[route]
        assert blocks - ran in ((0,) if route is None else (0, 1))


def test_two_dealers_share_no_seed(fast_kernels: Kernels) -> None:
    program = compiled(BUILDS["mlp"]).program
    seeds = [seed for _ in range(4) for seed in Dealer(program, fast_kernels).seeds]
    assert len(set(seeds)) == 8
    assert {len(seed) for seed in seeds} == {16}


@each_network
def test_material_is_as_long_as_the_program_says(build: Build, fast_kernels: Kernels) -> None:
    program = compiled(build).program
    dealer = Dealer(program, fast_kernels)
    for segment in range(len(program.segments)):
        dealt = list(dealer.deal(segment).messages)
        sizes = tuple(sum(messages[p].size for messages in dealt) for p in (0, 1))
        assert sizes == material_bytes(program, segment)


@pytest.mark.parametrize("change", [-1, 1])
def test_a_message_of_another_length_is_an_error(change: int) -> None:
    # given a block of which one message is a byte shorter or longer than the program says
    local = session(compiled(BUILDS["gelu"]).program, 4)
    material = local.dealer.deal(0)
    here, there = local_pair("party 1", "the dealer")
    size = 0
    for _, message in material.messages:
        size = message.size
        there.send((message.tobytes() + b"\0")[: size + change])
    # when it is prepared, then the dealer is named
    with pytest.raises(ProtocolError, match=r"the dealer sent \d+ bytes where \d+ were expected"):
        local.parties[1].prepare(0, 0, here.receive)


def test_streams_of_blocks_and_slots_differ(fast_kernels: Kernels) -> None:
    source = Seeded(b"0123456789abcdef", fast_kernels)
    type_ = RingType("mask", 64, (4,))
    places = [(b, s) for b in (0, 1, 2, SETUP_BLOCK) for s in (0, 1, 2**32 - 1)]
    streams = [source.ring(b, s, type_) for b, s in places]
    words = np.concatenate(streams)
    assert len(set(words.tolist())) == words.size
    assert np.array_equal(source.ring(1, 1, type_), streams[places.index((1, 1))])


def test_a_party_refuses_material_and_weights_that_it_had_before() -> None:
    local = session(compiled(NETWORKS_BY_NAME["mlp"]).program, 1)
    party = local.parties[0]
    dealt = local.dealer.deal(0)
    messages = [first.tobytes() for first, _ in dealt.messages if first.size]
    prepared = party.prepare(dealt.block, 0, one_by_one(messages))

    with pytest.raises(ProtocolError, match=f"sent block {dealt.block} after block {dealt.block}"):
        party.prepare(dealt.block, 0, one_by_one(messages))
    with pytest.raises(ProtocolError, match="the weights are loaded already"):
        party.load_weights([])
    party._use(prepared)
    with pytest.raises(ProtocolError, match=f"block {dealt.block} is used already"):
        party.infer(prepared)
