"""One party's transcript says nothing about the input: it is reproduced bit by bit for another one.

A run on x is recorded: all that party p receives (material, the client's masked inputs, messages of
its peer) and sends. Then the same program runs on another input x', and only the randomness that p
never sees, the other party's masks and shares of correlations, is moved until p's view is the same,
bit for bit. That this is always possible is perfect simulation: for every view the masks that
lead to it from x and from x' are equally likely.

Function keys (DPF, DCF) are pseudorandom, not uniform, so no masks can reproduce them bit by bit.
They are replaced by their ideal functionality (tests.support.simulation.IdealKeys): p's key depends
on p's roots alone. This is the hybrid step of the proof; that it may be made is the security
of [BGI16] and [BCGGIKR21] and not of this program. What it needs from here is tested: the size of a
real key does not depend on what it hides, and the results are the same with either kind.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from numpy.typing import NDArray

from srcompile.ops import registry
from srcompile.ops.builder import GraphBuilder
from srcompile.ops.interpreter import evaluate
from srcompile.passes.cost import NETWORKS
from srcompile.passes.pipeline import Options, run_pipeline
from srcompile.runtime import gates
from srcompile.runtime.client import Shares, share_weights
from srcompile.runtime.errors import ProgramError, RangeError
from srcompile.runtime.gates import Bytes
from srcompile.runtime.isa import RingType, packed_bytes
from srcompile.runtime.kernels import Kernels
from srcompile.runtime.local import Result
from srcompile.runtime.program import Instruction, Program
from srcompile.runtime.randomness import SETUP_BLOCK
from srcompile.runtime.ring import canonical
from tests.support.builds import BUILDS, Build, Inputs, compiled, rounding, seeded_sources, session
from tests.support.guarded import SMALL, guarded, with_mean
from tests.support.simulation import IdealKeys, RecordedSession, Tape, View

SEED = 4711
MOST_RUNS = 60
REVEALED = ("open", "route", "guard")
"""What a party gets from its peer online."""
PROGRAMS = [
    ("mlp", 62, 0), ("gelu", 62, 0), ("softmax", 62, 0), ("convolution", 62, 0),
    ("two branches", 62, 0), ("pool", 62, 0), ("public mask", 62, 0),
    ("two branches", 24, 0), ("pool", 24, 0),
    ("mlp", 62, 4), ("gelu", 62, 4), ("softmax", 62, 4), ("pool", 62, 4), ("two branches", 24, 4),
]  # fmt: skip
"""Builds, the widest ring, and the bits of a guard, 0 for none."""


@dataclass
class Run:
    """One inference: its result, and what the observed party saw and sent.

    There is no result if a guarded program found a value out of its range.
    """

    result: Result | None
    view: View
    blocks: dict[int, int]


class Simulation:
    """Runs of one program with party `p` observed; `hidden` is the tape of the other party."""

    def __init__(self, program: Program, p: int) -> None:
        self.program, self.p = program, p
        self.tapes = tuple(Tape(source) for source in seeded_sources(SEED))
        self.hidden = self.tapes[1 - p]
        self.shares: Shares = share_weights(program)
        self.kernels = IdealKeys(p)

    def run(self, x: Inputs) -> Run:
        self.kernels = IdealKeys(self.p)
        sources = (self.tapes[0], self.tapes[1])
        session = RecordedSession(self.program, self.kernels, self.shares, sources)
        try:
            result = session.infer(x)
        except RangeError:
            result = None
        return Run(result, session.views[self.p], session.blocks)

    # -- moving hidden randomness

    def repair(self, want: Run, got: Run) -> bool:
        """Move what makes the first difference between two views. Return whether there was one."""
        return self.repair_material(want, got) or self.repair_wires(want, got)

    def repair_material(self, want: Run, got: Run) -> bool:
        """Party 1 gets corrections c - PRG_0: move PRG_0 where c is another. Party 0 gets none."""
        if want.view.material == got.view.material:
            return False
        assert self.p == 1, "party 0 gets keys only, and ideal ones do not depend on masks"
        types = self.program.types("dealer")
        for (segment, block), old, new in zip(
            got.blocks.items(), want.view.material, got.view.material, strict=True
        ):
            position = 0
            for i in self.program.functions["dealer"][segment]:
                if i.op == "correlate":
                    type_ = types[i.inputs[0]]
                    size = type_.packed_bytes
                    parts = [data[position : position + size] for data in (new, old)]
                    position += size
                    if parts[0] != parts[1]:
                        by = self.unpacked(parts[0], type_) - self.unpacked(parts[1], type_)
                        self.hidden.move(block, _slot(i), type_, by)
                elif i.op in ("table_keys", "sign_keys"):
                    position += self.key_bytes(_slot(i))
            assert position == len(old) == len(new)
        return True

    def repair_wires(self, want: Run, got: Run) -> bool:
        """Move the masks of the first input wire, or of the first round's openings, that differ."""
        if want.view.inputs != got.view.inputs:
            body = self.program.functions["online"][0]
            inputs = [i for i in body if i.op in ("input", "public_input")]
            self.move_masks(got, inputs, b"".join(want.view.inputs), b"".join(got.view.inputs))
            return True
        rounds = self.rounds(None if want.result is None else want.result.route)
        setup = len(want.view.received) - len(rounds)
        assert want.view.received[:setup] == got.view.received[:setup]
        messages = zip(rounds, want.view.received[setup:], got.view.received[setup:], strict=True)
        for instructions, old, new in messages:
            if old != new:
                self.move_masks(got, instructions, old, new)
                return True
        return False

    def move_masks(self, run: Run, instructions: list[Instruction], old: bytes, new: bytes) -> None:
        types = self.program.types("online")
        masks = {
            i.out: (_slot(i), segment, i.type)
            for segment, i in self.program.instructions("prepare")
            if i.op == "mask"
        }
        position = 0
        for i in instructions:
            type_ = types[i.inputs[0]] if i.inputs else i.type
            assert type_ is not None
            dropped = _dropped(i)
            type_ = replace(type_, width=type_.width - dropped)
            size = type_.packed_bytes
            parts = [data[position : position + size] for data in (old, new)]
            position += size
            if parts[0] != parts[1]:
                assert i.op in ("input", "open"), f"{i.op} has no mask to move"
                slot, segment, mask_type = masks[i.inputs[-1]]
                assert mask_type is not None
                by = self.unpacked(parts[0], type_) - self.unpacked(parts[1], type_)
                by = by.astype(np.uint64) << np.uint64(dropped)
                self.hidden.move(run.blocks[segment], slot, mask_type, by)

    # -- what is where in the program

    def rounds(self, route: int | None) -> list[list[Instruction]]:
        """Return what party p receives from its peer, round by round."""
        found: dict[int, list[Instruction]] = {}
        for segment, i in self.program.instructions("online"):
            if self.program.segments[segment].route in (None, route) and i.op in REVEALED:
                number = i.attrs["round"]
                assert isinstance(number, int)
                found.setdefault(number, []).append(i)
        return [found[number] for number in sorted(found)]

    def key_bytes(self, slot: int) -> int:
        key = next(
            i
            for _, i in self.program.instructions("prepare")
            if i.attrs.get("slot") == slot and i.type is not None
        )
        assert key.type is not None
        return key.type.size * key.type.width

    def unpacked(self, data: bytes, type_: RingType) -> NDArray[np.unsignedinteger]:
        flat = self.kernels.unpack(np.frombuffer(data, np.uint8), type_.size, type_.width)
        return np.asarray(flat.reshape(type_.shape))


def _slot(i: Instruction) -> int:
    slot = i.attrs["slot"]
    assert isinstance(slot, int)
    return slot


def _dropped(i: Instruction) -> int:
    """Return how many low bits of its operand an instruction does not send."""
    by = i.attrs.get("by", 0)
    assert isinstance(by, int)
    return by


def two_inputs(build: Build) -> tuple[Inputs, Inputs]:
    """Return two inputs that differ everywhere and, if the program routes, take the same route."""
    routes = [evaluate(build.module, x, registry())[1] for x in build.samples]
    x = build.samples[0]
    other = next(k for k in range(1, len(routes)) if routes[k] == routes[0])
    return x, build.samples[other]


@pytest.mark.parametrize("p", [0, 1], ids=["party 0", "party 1"])
@pytest.mark.parametrize(("name", "max_width", "guard"), PROGRAMS)
def test_a_partys_view_of_one_input_is_a_view_of_another(
    name: str, max_width: int, guard: int, p: int
) -> None:
    # given what party p sees when x is computed on
    build = BUILDS[name]
    simulation = Simulation(compiled(build, max_width=max_width, guard=guard).program, p)
    x, other = two_inputs(build)
    want = simulation.run(x)
    # when hidden masks are moved until a run on x' looks the same
    got = simulation.run(other)
    assert got.view != want.view
    runs = 1
    while simulation.repair(want, got):
        got = simulation.run(other)
        runs += 1
        assert runs < MOST_RUNS, f"seed {SEED}: the views stay different"
    # then p received and sent exactly the same
    assert got.view == want.view, f"seed {SEED}"
    assert got.result is not None
    assert want.result is not None
    assert got.result.route == want.result.route
    assert got.result.counters[p].online == want.result.counters[p].online
    # and yet the client got f(x) from one run and f(x') from the other
    for run, sample in ((want, x), (got, other)):
        reference, _ = evaluate(build.module, sample, registry())
        assert run.result is not None
        np.testing.assert_allclose(run.result.outputs["y"], reference["y"], atol=0.01)
    assert np.abs(want.result.outputs["y"] - got.result.outputs["y"]).max() > 0.05


@pytest.mark.parametrize("p", [0, 1], ids=["party 0", "party 1"])
@pytest.mark.parametrize("kind", ["relu", "exp", "softmax"])
def test_values_out_of_range_are_told_from_no_other_ones(kind: str, p: int) -> None:
    """Of a run that ends early a party learns that it did: which value was where it does not."""
    # given two inputs that leave the range in different places by different amounts
    simulation = Simulation(guarded(kind).program, p)
    rng = np.random.default_rng(SEED)
    x, other = (with_mean(mean * SMALL, rng) for mean in (20.0, -9.0))
    want, got = simulation.run(x), simulation.run(other)
    assert got.view != want.view
    # when hidden masks are moved, then the second looks like the first
    got = _repaired(simulation, want, other)
    assert got.view == want.view, f"seed {SEED}"
    assert got.result is want.result is None
    # and a run in which nothing leaves its range never does
    with pytest.raises(AssertionError, match="guard has no mask to move"):
        _repaired(simulation, want, with_mean(0.0, rng))


def _repaired(simulation: Simulation, want: Run, x: Inputs) -> Run:
    """Return a run on x after hidden masks are moved until it looks like `want`."""
    got = simulation.run(x)
    while simulation.repair(want, got):
        got = simulation.run(x)
    return got


def test_without_moving_masks_the_views_differ() -> None:
    """The comparison is not empty: material, wires and messages are all in the view."""
    build = BUILDS["mlp"]
    simulation = Simulation(compiled(build).program, 1)
    x, other = two_inputs(build)
    want, got = simulation.run(x), simulation.run(other)
    assert all(want.view.material)
    assert want.view.inputs != got.view.inputs
    assert want.view.received != got.view.received
    assert simulation.run(x).view == want.view


def test_the_view_does_not_depend_on_the_weights_either() -> None:
    # given two models: in the second every weight has the other sign
    build = BUILDS["mlp"]
    program = compiled(build).program
    negated = {
        name: replace(const, source=canonical(np.negative(const.data), const.type.width))
        if const.secret and const.data is not None
        else const
        for name, const in program.constants.items()
    }
    other_program = replace(program, constants=negated)
    x, other = two_inputs(build)
    for p in (0, 1):
        simulation = Simulation(program, p)
        want = simulation.run(x)
        # when p keeps its shares, and the other party's change so that they are of -W
        shares = (dict(simulation.shares[0]), dict(simulation.shares[1]))
        for number, name in enumerate(program.weights()):
            own, const = shares[p][name], other_program.constants[name]
            assert const.data is not None
            hidden = np.asarray(const.data - own)
            by = hidden - shares[1 - p][name]
            shares[1 - p][name] = hidden
            simulation.hidden.move(SETUP_BLOCK, number, const.type, by)
        simulation.shares = shares
        got = simulation.run(other)
        while simulation.repair(want, got):
            got = simulation.run(other)
        # then p's view is the same, and the client's result that of the other model
        assert got.view == want.view, f"seed {SEED}"
        reference = session(other_program, SEED).infer(other).outputs["y"]
        assert got.result is not None
        np.testing.assert_allclose(got.result.outputs["y"], reference, atol=0.01)


def test_a_mask_used_twice_would_be_noticed() -> None:
    """The simulation fails for a program that opens two values under one mask."""
    # given relu(x @ W1) + relu(x @ W2), whose two openings are alike
    rng = np.random.default_rng(SEED)
    b = GraphBuilder(registry())
    x = b.emit("input", [], {"name": "x", "shape": (1, 3)}, "%x")
    parts = [
        b.emit("relu", [b.emit("matmul", [x, b.const(w.astype(np.float32), "w", secret=True)])])
        for w in rng.uniform(0.5, 1.0, (2, 3, 2)) * [[[1.0]], [[-1.0]]]
    ]
    b.emit("output", [b.emit("add", parts)], {"name": "y"})
    b.end_segment("main")
    samples = [{"x": rng.uniform(-1, 1, (1, 3)).astype(np.float32)} for _ in range(8)]
    options = Options("2pc", NETWORKS["lan"])
    program = run_pipeline(b.module(), samples, registry(), options).program
    # when the second is opened under the mask of the first, past all checks
    (body,) = program.functions["online"]
    first, second = (i for i in body if i.op == "open")
    broken = replace(second, inputs=(second.inputs[0], first.inputs[1]))
    functions = {**program.functions, "online": ((*(broken if i is second else i for i in body),),)}
    leaky = replace(program, functions=functions)
    with pytest.raises(ProgramError, match="disclose the difference"):
        leaky.check()
    # then no hidden randomness makes a view of x one of x'
    simulation = Simulation(leaky, 0)
    want = simulation.run(samples[0])
    for _ in range(10):
        got = simulation.run(samples[1])
        assert simulation.repair(want, got)


# -- the hybrid step ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mlp", "gelu", "softmax", "pool"])
def test_real_keys_give_what_ideal_keys_give(name: str, fast_kernels: Kernels) -> None:
    program = compiled(BUILDS[name]).program
    outputs = []
    for kernels in (fast_kernels, IdealKeys(0), IdealKeys(1)):
        session = RecordedSession(program, kernels, sources=seeded_sources(SEED))
        outputs.append([session.infer(x).outputs["y"] for x in BUILDS[name].samples[:3]])
    # they round with other coins: what an opening drops depends on the shares that a key gives
    for ideal in outputs[1:]:
        np.testing.assert_allclose(outputs[0], ideal, atol=rounding(compiled(BUILDS[name]).fixed))


def roots(rng: np.random.Generator, count: int) -> tuple[Bytes, Bytes]:
    pair = rng.integers(0, 256, (2, count, 16), dtype=np.uint8)
    return pair[0], pair[1]


@pytest.mark.parametrize("low_bits", [0, 5])
def test_a_table_key_is_as_long_whatever_it_hides(fast_kernels: Kernels, low_bits: int) -> None:
    rng = np.random.default_rng(SEED)
    bits = 6 + low_bits
    masks = np.array([0, 1, 1 << (bits - 1), (1 << bits) - 1], np.uint64)
    shape = (6, low_bits, min(low_bits, 2), 20)
    keys = gates.table_keys(fast_kernels, masks, *shape, roots(rng, 4))
    assert keys.shape == (4, keys.shape[1])
    again = gates.table_keys(fast_kernels, masks[::-1].copy(), *shape, roots(rng, 4))
    assert again.shape == keys.shape


@pytest.mark.parametrize("select", [False, True])
def test_a_sign_key_is_as_long_whatever_it_hides(fast_kernels: Kernels, select: bool) -> None:
    rng = np.random.default_rng(SEED)
    masks = np.array([0, 1, 1 << 11, (1 << 12) - 1], np.uint64)
    keys = gates.sign_keys(fast_kernels, masks, 12, 30, select, roots(rng, 4))
    again = gates.sign_keys(fast_kernels, masks[::-1].copy(), 12, 30, select, roots(rng, 4))
    assert again.shape == keys.shape


# -- what is opened looks uniform -----------------------------------------------------------------

BINS = 16
CHI_SQUARE = 60.0
"""For 15 degrees of freedom this is exceeded by chance once in two million."""


def chi_square(values: NDArray[np.uint64]) -> float:
    counts = np.bincount(values.astype(np.int64), minlength=BINS)
    expected = values.size / BINS
    return float(((counts - expected) ** 2 / expected).sum())


@pytest.mark.parametrize("name", ["mlp", "gelu"])
def test_messages_and_opened_wires_are_uniform_for_a_fixed_input(
    name: str, fast_kernels: Kernels
) -> None:
    # given many runs on one input, which differ in their masks only
    program = compiled(BUILDS[name]).program
    session = RecordedSession(program, fast_kernels, sources=seeded_sources(SEED))
    for view in session.views:
        view.sent.clear()
        view.received.clear()
    times = 300
    for _ in range(times):
        session.infer(BUILDS[name].samples[0])
    # when what the parties sent is taken apart
    types = program.types("online")
    openings = [i for _, i in program.instructions("online") if i.op == "open"]
    found: dict[str, list[NDArray[np.uint64]]] = {}
    rounds = sorted({int(str(i.attrs["round"])) for i in openings})
    for k, number in enumerate(rounds):
        for run in range(times):
            messages = [view.sent[run * len(rounds) + k] for view in session.views]
            position = 0
            for i in (i for i in openings if i.attrs["round"] == number):
                type_ = types[i.inputs[0]]
                type_ = replace(type_, width=type_.width - _dropped(i))
                size = packed_bytes(type_.size, type_.width)
                shares = [
                    fast_kernels.unpack(
                        np.frombuffer(m[position : position + size], np.uint8),
                        type_.size,
                        type_.width,
                    ).astype(np.uint64)
                    for m in messages
                ]
                position += size
                wire = (shares[0] + shares[1]) & np.uint64((1 << type_.width) - 1)
                for what, value in (("P0", shares[0]), ("P1", shares[1]), ("wire", wire)):
                    top = value >> np.uint64(type_.width - 4)
                    found.setdefault(f"{what} {i.out} top bits", []).append(top)
                    found.setdefault(f"{what} {i.out} low bits", []).append(value & np.uint64(15))
    # then high and low bits of each are uniform
    assert found
    for what, parts in found.items():
        statistic = chi_square(np.concatenate(parts))
        assert statistic < CHI_SQUARE, f"seed {SEED}: {what}: {statistic}"
