"""A shift is done while its wire is opened only if nothing else needs the wire, and a round is one
message, whatever is in it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from srcompile.runtime.channels import Channel, Traffic
from srcompile.runtime.engine import Arena, Env
from srcompile.runtime.errors import ProtocolError
from srcompile.runtime.gates import Bytes
from srcompile.runtime.isa import RingType
from srcompile.runtime.kernels import Kernels
from srcompile.runtime.openings import (
    Counters,
    Round,
    largest_message,
    rounds,
    shifts_of_openings,
)
from srcompile.runtime.program import Instruction


def instruction(op: str, out: str, *inputs: str, **attrs: Any) -> Instruction:
    width = 40 - attrs.get("by", 0)
    return Instruction(op, out, inputs, attrs, RingType("masked", width, (2, 3)))


def opening(out: str, number: int = 1) -> Instruction:
    return instruction("open", out, "%x", "%r", round=number)


SHIFT = instruction("shift", "%y", "%x^", by=7)


@pytest.mark.parametrize(
    ("bodies", "found"),
    [
        ([[opening("%x^"), SHIFT]], {"%x^": SHIFT}),
        ([[opening("%x^"), SHIFT, instruction("neg", "%z", "%x^")]], {}),
        ([[opening("%x^"), SHIFT, instruction("shift", "%z", "%x^", by=7)]], {}),
        ([[opening("%x^"), SHIFT], [instruction("neg", "%z", "%x^")]], {}),
        ([[opening("%x^")], [SHIFT]], {}),
        ([[instruction("input", "%x^", "%r"), SHIFT]], {}),
        ([[opening("%x^"), instruction("neg", "%z", "%x^")]], {}),
    ],
)
def test_a_shift_is_fused_only_if_nothing_else_needs_the_wire(
    bodies: list[list[Instruction]], found: dict[str, Instruction]
) -> None:
    assert shifts_of_openings(bodies, 0) == found


class Peer:
    """Answers with what it is given, and keeps what it gets."""

    def __init__(self, answer: Bytes) -> None:
        self.traffic, self.answer, self.got = Traffic(), answer, b""

    def exchange(self, data: memoryview, into: memoryview) -> None:
        if len(into) != len(self.answer):
            raise ProtocolError(f"sent {len(self.answer)} bytes where {len(into)} were expected")
        self.got = bytes(data)
        into[:] = self.answer.data


class Sink:
    def __init__(self, env: Env) -> None:
        self.env, self.counters = env, Counters()
        self.outputs: dict[str, Bytes] = {}
        self.route = -1

    def reveal(self, route: int) -> None:
        self.route = route


def test_a_round_is_one_message_for_openings_and_the_route(fast_kernels: Kernels) -> None:
    # given two wires in one round, one of them shifted and the other a view, and the route
    share, mask = RingType("share", 40, (2, 3)), RingType("mask", 40, (2, 3))
    types = {
        "%x": share,
        "%r": mask,
        "%a": RingType("share", 11, (3, 5)),
        "%s": RingType("mask", 11, (3, 5)),
        "%n": RingType("share", 9, (1,)),
    }
    second = Instruction("open", "%a^", ("%a", "%s"), {"round": 1}, RingType("masked", 11, (3, 5)))
    route = Instruction("route", "", ("%n",), {"round": 1}, None)
    group = [opening("%x^"), second, route]
    rng = np.random.default_rng(8)
    x, r, theirs_x = (rng.integers(0, 1 << 40, (2, 3), np.uint64) for _ in range(3))
    s, theirs_a = (rng.integers(0, 1 << 11, (3, 5), np.uint32) for _ in range(2))
    a = rng.integers(0, 1 << 32, (5, 3), np.uint32).T
    n = np.array([500], np.uint32)
    answer = [(theirs_x, 40), (theirs_a, 11), (np.array([14], np.uint32), 9)]
    peer = Peer(np.concatenate([fast_kernels.pack(v, w) for v, w in answer]))
    size = largest_message([group], types)
    messages = (np.empty(size, np.uint8), np.empty(size, np.uint8))
    bound = Round(0, 4, group, types, {"%x^": SHIFT}, Arena(group), messages)

    # when it runs
    run = Sink({"%x": x, "%r": r, "%a": a, "%s": s, "%n": n})
    channel: Channel = peer  # type: ignore[assignment]
    bound.run(run, fast_kernels, channel, "party 1")

    # then each part lies behind the one before, and the wires are what they should be
    sent = [fast_kernels.pack(v, w) for v, w in ((x + r, 40), (a + s, 11), (n, 9))]
    assert rounds(group) == {0: 3}
    assert peer.got == np.concatenate(sent).tobytes()
    assert np.array_equal(run.env["%y"], ((x + r + theirs_x) % (1 << 40)) >> np.uint64(7))
    assert np.array_equal(run.env["%a^"], (a + s + theirs_a) % (1 << 11))
    assert run.route == 2
    assert "%x^" not in run.env
    assert run.counters.online == {(0, 4): 30, (0, 5): 21, (0, 6): 2}
    assert run.counters.rounds == 1

    # and a message of another length names the peer and the round
    peer.answer = peer.answer[1:]
    with pytest.raises(ProtocolError, match=r"party 1 in round 1, open %x: sent 52 bytes where 53"):
        bound.run(run, fast_kernels, channel, "party 1")
