"""A round is one message, whatever is in it; what an opening drops is not sent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from srcompile.runtime.channels import Channel, Traffic
from srcompile.runtime.engine import Arena, Env
from srcompile.runtime.errors import ProtocolError
from srcompile.runtime.gates import Bytes
from srcompile.runtime.isa import RingType
from srcompile.runtime.kernels import Kernels
from srcompile.runtime.lockstep import Stop, run_together
from srcompile.runtime.openings import Counters, Round, Waiting, largest_message, rounds
from srcompile.runtime.program import Instruction


class Peer:
    """Answers with what it is given, and keeps what it gets."""

    def __init__(self, answer: Bytes) -> None:
        self.traffic, self.answer, self.got = Traffic(), answer, b""

    def exchange(self, data: Sequence[memoryview], into: Sequence[memoryview]) -> None:
        (sent,), (place,) = data, into
        if len(place) != len(self.answer):
            raise ProtocolError(f"sent {len(self.answer)} bytes where {len(place)} were expected")
        self.got = bytes(sent)
        place[:] = self.answer.data


def no_mark(blocks: Sequence[int]) -> None:
    raise AssertionError(blocks)


class Sink:
    def __init__(self, env: Env) -> None:
        self.env, self.counters = env, Counters()
        self.outputs: dict[str, Bytes] = {}
        self.route = -1
        self.in_range = True
        self.waiting: Waiting | None = None
        self.segment = 0
        self.stops: Iterator[Stop] = iter(())

    def going(self, round_: Round, kernels: Kernels) -> Sink:
        """Run this round alone."""

        def stops() -> Iterator[Stop]:
            round_.begin(self, kernels)
            yield round_
            round_.end(self, kernels)

        self.stops = stops()
        return self

    def reveal(self, route: int) -> None:
        self.route = route


def test_a_round_is_one_message_for_openings_and_the_route(fast_kernels: Kernels) -> None:
    # given two wires in one round, one without its 7 low bits and the other a view, and the route
    share, mask = RingType("share", 40, (2, 3)), RingType("mask", 40, (2, 3))
    types = {
        "%x": share,
        "%r": mask,
        "%a": RingType("share", 11, (3, 5)),
        "%s": RingType("mask", 11, (3, 5)),
        "%n": RingType("share", 9, (1,)),
    }
    first = Instruction(
        "open", "%x^", ("%x", "%r"), {"round": 1, "by": 7}, RingType("masked", 33, (2, 3))
    )
    second = Instruction(
        "open", "%a^", ("%a", "%s"), {"round": 1, "by": 0}, RingType("masked", 11, (3, 5))
    )
    route = Instruction("route", "", ("%n",), {"round": 1}, None)
    group = [first, second, route]
    rng = np.random.default_rng(8)
    x, r = (rng.integers(0, 1 << 40, (2, 3), np.uint64) for _ in range(2))
    theirs_x = rng.integers(0, 1 << 33, (2, 3), np.uint64)
    s, theirs_a = (rng.integers(0, 1 << 11, (3, 5), np.uint32) for _ in range(2))
    a = rng.integers(0, 1 << 32, (5, 3), np.uint32).T
    n = np.array([500], np.uint32)
    answer = [(theirs_x, 33), (theirs_a, 11), (np.array([14], np.uint32), 9)]
    peer = Peer(np.concatenate([fast_kernels.pack(v, w) for v, w in answer]))
    size = largest_message([group], types)
    messages = (np.empty(size, np.uint8), np.empty(size, np.uint8))
    bound = Round(0, 4, group, types, 0, Arena(group), messages)

    # when party 0 runs it
    run = Sink({"%x": x, "%r": r, "%a": a, "%s": s, "%n": n})
    channel: Channel = peer  # type: ignore[assignment]
    run_together([run.going(bound, fast_kernels)], channel, "party 1", no_mark)

    # then each part lies behind the one before, and the wires are what they should be
    own = ((x + r + np.uint64(64)) % (1 << 40)) >> np.uint64(7)
    sent = [fast_kernels.pack(v, w) for v, w in ((own, 33), (a + s, 11), (n, 9))]
    assert rounds(group) == {0: 3}
    assert peer.got == np.concatenate(sent).tobytes()
    assert np.array_equal(run.env["%x^"], (own + theirs_x) % (1 << 33))
    assert np.array_equal(run.env["%a^"], (a + s + theirs_a) % (1 << 11))
    assert run.route == 2
    assert run.counters.online == {(0, 4): 25, (0, 5): 21, (0, 6): 2}
    assert run.counters.rounds == 1

    # and a message of another length names the peer and the round
    peer.answer = peer.answer[1:]
    with pytest.raises(ProtocolError, match=r"party 1 in round 1, open %x: sent 47 bytes where 48"):
        run_together([run.going(bound, fast_kernels)], channel, "party 1", no_mark)


@pytest.mark.parametrize("by", [1, 3, 7])
def test_what_is_dropped_costs_less_than_one_and_a_half_in_the_last_place(by: int) -> None:
    # given all values of 4 bits and many masks and shares in Z_2^12
    rng, w = np.random.default_rng(by), 12
    x = np.repeat(np.arange(-(1 << 9), 1 << 9), 400)
    share, r0, r1 = (rng.integers(0, 1 << w, x.shape) for _ in range(3))
    # when both parties drop the low bits of their addends
    a = (share + r0 + (1 << (by - 1))) % (1 << w) >> by
    b = (x - share + r1) % (1 << w) >> by
    # then the wire without the mask's upper bits is the quotient, and on average almost exactly
    y = (a + b - ((r0 + r1) % (1 << w) >> by)) % (1 << (w - by))
    y = np.where(y < 1 << (w - by - 1), y, y - (1 << (w - by)))
    error = y - x / 2**by
    assert np.abs(error).max() < 1.5
    bias = 2.0 ** -(by + 1)  # both addends' dropped bits carry a little less than every other time
    assert abs(error.mean() - bias) < 5 * error.std() / len(error) ** 0.5
