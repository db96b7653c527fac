"""Projected compute time: every instruction has one, more work takes more, the slower party counts.

What a run really takes is compared in tests/bench/projection.py, on a machine that does nothing
else.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from srcompile.passes.cost import NETWORKS, Network, estimate_cost
from srcompile.passes.machine import WAITING, Machine, Timer
from srcompile.runtime.isa import INSTRUCTIONS, RingType
from srcompile.runtime.profiles import Grid, Profile, built_in
from srcompile.runtime.program import Constant, Instruction, Program
from tests.support.builds import BUILDS, compiled
from tests.support.slower import slower


def online(program: Program, party: int, profile: Profile | None = None) -> list[float]:
    """Return the projected seconds of each online instruction."""
    timer = Timer(program, Machine(profile or built_in()), party)
    return [timer.seconds(i) for _, i in program.instructions("online")]


@pytest.mark.parametrize("name", BUILDS)
@pytest.mark.parametrize("target", ["2pc", "plain"])
def test_every_instruction_has_a_time(name: str, target: str) -> None:
    program = compiled(BUILDS[name], target).program
    for party in (0, 1):
        assert all(s >= 0 for s in online(program, party))
    cost = compiled(BUILDS[name], target).cost
    for segment in cost.segments:
        assert segment.total.compute_s >= 0
    assert cost.seconds(cost.total()) >= cost.total().compute_s > 0


def test_the_time_of_a_layer_is_that_of_the_slower_party() -> None:
    # given a machine, and one that takes ten times as long
    program = compiled(BUILDS["mlp"]).program
    quick, slow = Machine(), Machine(slower("slower", 10))

    def compute_s(*machines: Machine) -> float:
        return estimate_cost(program, NETWORKS["lan"], (machines[0], machines[1])).total().compute_s

    # when either party has the slow one, then the run is as slow as with two of them, or nearly,
    # because party 0 has a little more to do
    assert compute_s(slow, slow) == pytest.approx(10 * compute_s(quick, quick))
    assert compute_s(slow, quick) == pytest.approx(compute_s(slow, slow))
    assert compute_s(quick, slow) == pytest.approx(compute_s(slow, slow), rel=0.2)
    cost = estimate_cost(program, NETWORKS["wan"], (quick, slow))
    assert cost.machine_name == "built-in and slower (slower.json)"
    # and a message takes as long as the slower one needs for it
    fixed = cost.seconds(cost.total()) - cost.total().compute_s
    total = cost.total()
    on_network = cost.network.seconds(max(total.online_bytes), total.rounds)
    waiting_s = slow.profile.waking_s(cost.network.rtt_ms / 2e3)
    each_s = slow.profile.message_s + waiting_s
    assert fixed - on_network == pytest.approx(total.rounds * each_s)
    assert waiting_s > 0


def test_what_is_computed_after_a_rest_takes_longer() -> None:
    program = compiled(BUILDS["mlp"]).program
    slow = replace(built_in(), grids={**built_in().grids, "rested": RESTED})

    def compute_s(rtt_ms: float) -> float:
        at = Network("x", 1000, rtt_ms)
        return estimate_cost(program, at, (Machine(slow), Machine(slow))).total().compute_s

    # given a rest before whatever is computed between two messages, the one to the client too
    rests = estimate_cost(program, NETWORKS["lan"]).total().rounds - 1
    # when messages are there at once, after half of what was measured, after all of it, and later
    at_once = compute_s(0)
    assert compute_s(2) - at_once == pytest.approx(WAITING * rests * 0.5)
    assert compute_s(4) - at_once == pytest.approx(WAITING * rests)
    assert compute_s(400) == pytest.approx(compute_s(4))


RESTED = Grid(((0.0, 0.002), (0.0, 1e-9)), (0.0, 0.0, 0.0, 1.0))
"""A second more for whatever is computed after a rest of two milliseconds."""


def test_bytes_and_rounds_do_not_depend_on_the_machine() -> None:
    program = compiled(BUILDS["pool"]).program
    slow = Machine(slower("slower", 10))
    for route in (0, 1):
        total = estimate_cost(program, NETWORKS["lan"], (slow, slow)).total(route)
        same = compiled(BUILDS["pool"]).cost.total(route)
        assert (total.online_bytes, total.rounds) == (same.online_bytes, same.rounds)


# -- single instructions --------------------------------------------------------------------------


def single(
    op: str, types: list[RingType], out: RingType, weight: bool = False, party: int = 0
) -> float:
    """Return the seconds of one instruction on values of these types, the last one a weight."""
    body = [Instruction("mask", f"%{k}", (), {"slot": k}, type_) for k, type_ in enumerate(types)]
    last = f"%{len(types) - 1}"
    loads = [Instruction("weight_share", last, ("@w",), {}, types[-1])] if weight else []
    i = Instruction(op, "%y", tuple(i.out for i in body), {}, out)
    empty = compiled(BUILDS["mlp"]).program
    functions = {**empty.functions, "prepare": (tuple(body),), "online": ((*loads, i),)}
    program = replace(empty, functions=functions, constants={"@w": Constant(types[-1])})
    timer = Timer(program, Machine(), party)
    for load in loads:
        timer._weights.add(load.out)
    return timer.seconds(i)


def share(width: int, *shape: int) -> RingType:
    return RingType("share", width, shape)


def product(m: int, k: int, n: int, width: int, batch: int = 1, weight: bool = False) -> float:
    left = share(width, batch, m, k)
    right = share(width, k, n) if weight else share(width, batch, k, n)
    return single("matmul", [left, right], share(width, batch, m, n), weight)


def test_products_take_time_by_their_shape_and_ring() -> None:
    assert product(128, 384, 384, 32) < product(128, 384, 384, 33)
    assert product(64, 384, 384, 32) < product(128, 384, 384, 32)
    assert product(32, 32, 32, 32, batch=2) < product(32, 32, 32, 32, batch=12)


def test_a_product_with_a_weight_meets_all_rows_at_once() -> None:
    at_once = product(16, 384, 384, 40, batch=8, weight=True)
    assert at_once < 8 * product(16, 384, 384, 40, weight=True)


def test_party_1_takes_no_time_for_the_summand_that_party_0_adds() -> None:
    wires = [share(32, 4096), RingType("masked", 32, (4096,))]
    first, second = (single("add_common", wires, share(32, 4096), party=p) for p in (0, 1))
    assert second < first


def test_all_online_instructions_of_the_instruction_set_have_a_rule_or_are_arithmetic() -> None:
    """A new gate needs a rule in passes/machine.py: it is no elementwise sum."""
    from srcompile.passes.machine import _RULES

    arithmetic = {"add", "sub", "mul", "add_common", "plain_input", "plain_table", "plain_relu",
                  "plain_nonneg", "plain_route", "plain_output", "plain_guard"}  # fmt: skip
    known = set(_RULES) | arithmetic | {"table"}
    online = {name for name, spec in INSTRUCTIONS.items() if "online" in spec.phases}
    assert online <= known
