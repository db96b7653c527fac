"""Measures a machine: makes a profile of what its kernels, instructions and messages take.

Local work is measured in CPU time of one thread, so that whatever else runs on the machine does not
count, and with operands as a run meets them: they come from memory. A run reads each key, mask and
weight once, and between two steps on a value gates have read more than the caches hold. Messages
are measured as rounds of a small program that a dealer and two parties run as processes, over
loopback, and over a connection on which everything is late.
"""

from __future__ import annotations

import platform
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

import numpy as np

from srcompile.runtime import gates
from srcompile.runtime.channels.tcp import listen
from srcompile.runtime.cluster import LocalCluster
from srcompile.runtime.engine import into, lay_out
from srcompile.runtime.isa import INSTRUCTIONS, RingType, sign_key_type
from srcompile.runtime.kernels import Kernels, dpf_key_bytes, load, ring_dtype
from srcompile.runtime.kernels.layout import packed_bytes
from srcompile.runtime.profiles import LANES, Grid, Profile
from srcompile.runtime.program import Instruction, Layer, Program, SegmentInfo, Tensor
from srcompile.runtime.ring import Ring, canonical

Action = Callable[[], object]
Ends = tuple[socket.socket, socket.socket]

ELEMENTS = (1, 256, 2048, 16384, 131072, 1048576)
ROWS = (1, 8, 15, 16, 64, 128, 256)
DEPTHS = (8, 32, 128, 384, 1536)
COLUMNS = (1, 8, 32, 128, 384, 1536)
OUTPUTS = (1, 4, 16, 64, 128)
CHANNELS = (1, 4, 16, 64)
SIDES = (4, 8, 14, 28, 56)
ENTRIES = (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
EXPANDED = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)
OPEN_WIDTHS = {32: (4, 8, 12, 16, 20, 24, 28, 32), 64: (33, 40, 48, 56, 60, 64)}

HELPER_FLAG = "--beside"
BURST, PLAN = 6, 1000  # steps of a transformer between two messages, and in all
RESTS = (0.0, 1e-4, 5e-4, 5e-3, 2e-2)
WAITS = 16  # rounds of which each lets the parties wait
STARTS = 3  # of the processes that measure small rounds
READ_BYTES = (0, 1 << 17, 1 << 19, 1 << 21, 1 << 23)


@dataclass(frozen=True)
class Watch:
    """Times calls: for about `each_s` in all, or not at all if one would take `most_s`.

    cold_bytes: what is read in turns to come from memory rather than from a cache.
    inferences: of each program that measures rounds.
    round_bytes: the messages whose rounds are measured.
    waits: how long messages of other rounds let parties wait, in seconds.
    """

    each_s: float = 0.004
    most_s: float = 0.2
    cold_bytes: int = 1 << 26
    inferences: int = 15
    round_bytes: tuple[int, ...] = (4, 4096, 65536, 524288, 4194304)
    waits: tuple[float, ...] = (0.0005, 0.02)

    def per_call(self, call: Callable[..., object], *operands: Any) -> float:
        """Return the CPU seconds of a call with these operands, the median of samples."""
        action = partial(call, *operands)
        action()
        once = max(_cpu(action, 1), 1e-7)
        count = max(1, round(self.each_s / 5 / once))
        many = 5 if once * 3 < self.each_s else 3
        return statistics.median(_cpu(action, count) for _ in range(many))

    @property
    def rested(self) -> int:
        """How often what is computed after a rest is measured."""
        return 25 if self.each_s > 1e-3 else 1


def _cpu(action: Action, count: int) -> float:
    start = time.thread_time()
    for _ in range(count):
        action()
    return (time.thread_time() - start) / count


@dataclass
class Turns:
    """Gives one of several operands after the other, so that each comes from memory."""

    operands: Sequence[Any]
    number: int = 0

    def next(self) -> Any:
        """Return the next operand."""
        self.number = (self.number + 1) % len(self.operands)
        return self.operands[self.number]


@dataclass
class Meter:
    """Measures one machine's grids: its kernels, a watch, and uniform bytes for operands."""

    kernels: Kernels
    watch: Watch
    pool: Any = field(init=False)

    def __post_init__(self) -> None:
        self.pool = self.kernels.prg(bytes(16), 0, 0, self.watch.cold_bytes)

    def ring(self, dtype: Any, *shape: int) -> Ring:
        """Return uniform elements."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        repeated = np.resize(self.pool, size) if size > self.pool.size else self.pool[:size]
        elements: Ring = repeated.view(dtype).reshape(shape).copy()
        return elements

    def cold(self, dtype: Any, *shape: int, quarter: int = 0) -> Turns:
        """Return uniform arrays that lie one behind the other in the pool, to be read in turns.

        quarter: of the pool, where the first one lies. What is read or written together begins in
        different ones.
        """
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        if size > self.pool.size:
            return Turns([self.ring(dtype, *shape)])
        step = -(-size // 64) * 64
        places = range(0, self.pool.size - size + 1, step)[:4096]
        arrays = [self.pool[p : p + size].view(dtype).reshape(shape) for p in places]
        return Turns(arrays, len(arrays) * quarter // 4)


Measure = Callable[[Meter], dict[str, Grid]]


# -- instructions that NumPy runs ------------------------------------------------------------------


def _step(meter: Meter) -> dict[str, Grid]:
    """What a step takes besides its work: the loop over a plan, and coming back to it.

    A run takes each step of a long plan once, a few between two messages, and kernels read and
    write memory before and after: what a step needs is then in a far cache, or in none.
    """
    x, out = meter.ring(np.uint64, 64), np.empty(64, np.uint64)
    work, burst = meter.watch.per_call(np.add, x, x, out), _bursts(meter)
    between = meter.ring(np.uint8, max(READ_BYTES))
    clock = statistics.median(_cpu(_nothing, 1) for _ in range(200))
    seconds = []
    for size in READ_BYTES:
        samples = []
        for first in range(0, PLAN - BURST, BURST if meter.watch.each_s > 1e-3 else 20 * BURST):
            np.add(between[:size], 1, between[:size])
            samples.append(_cpu(partial(burst, first if size else 0), 1) - clock)
        seconds.append(max(statistics.median(samples) / BURST - work, 1e-8))
    return {"step": Grid((tuple(map(float, READ_BYTES)),), tuple(seconds))}


def _bursts(meter: Meter) -> Callable[[int], None]:
    """Return what runs a few steps of a long plan, from one of them on."""
    values: dict[str, Any] = {f"%x{k}": meter.ring(np.uint64, 64) for k in range(PLAN)}
    places = [np.empty(64, np.uint64) for _ in range(PLAN)]
    plan = [
        into(np.add, (f"%x{k}", f"%x{k}"), f"%y{k}", partial(_same, place))
        for k, place in enumerate(places)
    ]
    run: Any = SimpleNamespace(env=values)

    def burst(first: int) -> None:
        for k in range(first, first + BURST):
            plan[k](run)
            del values[f"%y{k}"]

    return burst


def _nothing() -> None:
    pass


def _same(x: Any) -> Any:
    return x


def _elementwise(meter: Meter) -> dict[str, Grid]:
    found: dict[str, list[float]] = {}
    for bits, n in product((32, 64), ELEMENTS):
        dtype = ring_dtype(bits)
        x, cold, out = (meter.cold(dtype, n, quarter=k) for k in range(3))
        by, low = dtype.type(3), dtype.type(7)
        side = max(1, round(n**0.5))
        turned = meter.ring(dtype, max(1, n // side), side).T
        dense = np.empty(turned.shape, dtype)
        actions: dict[str, Action] = {
            f"add.{bits}": partial(_with_cold, np.add, x, cold, out),
            f"scale.{bits}": partial(_with_cold, np.multiply, by, cold, out),
            f"shift.{bits}": partial(_shift, cold, bits - 8, low, ring_dtype(bits - 15)),
            f"copy.{bits}": partial(_with_cold, np.copyto, out, cold),
            f"gather.{bits}": partial(np.copyto, dense, turned),
        }
        actions |= _wide_gates(bits, n, meter.cold(np.uint32, n, quarter=3), cold)
        if bits == 64:
            actions["narrow"] = partial(_with_cold, _narrow, np.uint32, cold)
        turning = meter.watch.per_call(_with_cold, _ignore, x, cold, out)
        for name, action in actions.items():
            around = 0.0 if name.startswith("gather") else turning
            taken = meter.watch.per_call(action) - around
            found.setdefault(name, []).append(max(taken, 1e-7))
    return {name: Grid((ELEMENTS,), tuple(seconds)) for name, seconds in found.items()}


def _wide_gates(bits: int, n: int, x: Turns, share: Turns) -> dict[str, Action]:
    """Gates from a wire of 30 bits into a ring of more bits, or of `bits`, with fresh shares."""
    old, width = RingType("masked", 30, (n,)), 31 if bits == 32 else 48

    def multiply(x: Ring, *s: Ring) -> Ring:
        shares = (s[0], s[1]), (s[2], s[3]), (s[4], s[5], s[6], s[7])
        return gates.multiply(0, (old, old), width, (x, x), *shares)

    return {
        f"extend.{bits}": partial(_with_cold, gates.extend, 0, old, width, x, *[share] * 2),
        f"square.{bits}": partial(_with_cold, gates.square, 0, old, width, x, *[share] * 4),
        f"multiply.{bits}": partial(_with_cold, multiply, x, *[share] * 8),
    }


def _with_cold(function: Callable[..., object], *operands: Any) -> None:
    """Call a function with the next of each operand that comes in turns."""
    function(*[o.next() if isinstance(o, Turns) else o for o in operands])


def _ignore(*operands: object) -> None:
    pass


def _shift(x: Turns, width: int, by: Any, dtype: Any) -> Ring:
    shifted: Ring = (canonical(x.next(), width) >> by).astype(dtype, copy=False)
    return shifted


def _narrow(dtype: Any, x: Ring) -> Ring:
    return x.astype(dtype)


def _sums(meter: Meter) -> dict[str, Grid]:
    rows, lengths = (1, 64, 4096), (1, 32, 256, 1024)
    grids = {}
    for bits in (32, 64):
        dtype = ring_dtype(bits)
        seconds = []
        for count, length in product(rows, lengths):
            x, out = meter.cold(dtype, count, length), np.empty(count, dtype)
            action = partial(_with_cold, np.add.reduce, x, 1, dtype, out)
            seconds.append(meter.watch.per_call(action))
        grids[f"sum.{bits}"] = Grid((rows, lengths), tuple(seconds))
    return grids


def _openings(meter: Meter) -> dict[str, Grid]:
    grids = {}
    for bits, widths in OPEN_WIDTHS.items():
        dtype = ring_dtype(bits)
        seconds = []
        for n, w in product(ELEMENTS, widths):
            operands = [meter.cold(dtype, n, quarter=k) for k in range(3)]
            message = np.empty(packed_bytes(n, w), np.uint8)

            def opened(x: Ring, masks: Ring, own: Ring, w: int = w,
                       message: gates.Bytes = message) -> None:  # fmt: skip
                meter.kernels.add_pack(x, masks, w, own, message)
                meter.kernels.unpack_add(message, own, w, out=own)

            seconds.append(meter.watch.per_call(_with_cold, opened, *operands))
        grids[f"open.{bits}"] = Grid((ELEMENTS, tuple(map(float, widths))), tuple(seconds))
    return grids


# -- products --------------------------------------------------------------------------------------


def _products(meter: Meter) -> dict[str, Grid]:
    """Products of values, many at a time where they are small, and products with weights."""
    least = meter.ring(np.uint32, 1, 1)
    call = meter.watch.per_call(meter.kernels.matmul, least, least)
    grids = {"product": Grid((), (call,))}
    for bits in (32, 64):
        for name, measure in (("matmul", _matmul), ("weight", _weight)):
            seconds = measure(meter, ring_dtype(bits), call)
            places = product(ROWS, DEPTHS, COLUMNS)
            axes = (ROWS, DEPTHS, COLUMNS)
            grids[f"{name}.{bits}"] = Grid(axes, tuple(seconds[place] for place in places))
    return grids


Shape = tuple[int, int, int]


def _matmul(meter: Meter, dtype: Any, call: float) -> dict[Shape, float]:
    seconds: dict[Shape, float] = {}
    rate = 0.0
    for shape in sorted(product(ROWS, DEPTHS, COLUMNS), key=lambda s: s[0] * s[1] * s[2]):
        m, k, n = shape
        work = m * k * n
        if rate * work > meter.watch.most_s:
            seconds[shape] = rate * work
            continue
        batch = max(1, min(32, 2**17 // work))
        a, b = meter.ring(dtype, batch, m, k), meter.ring(dtype, batch, k, n)
        taken = meter.watch.per_call(meter.kernels.matmul, a, b)
        seconds[shape] = max(taken - call, 0.0) / batch
        rate = taken / (batch * work)
    return seconds


def _weight(meter: Meter, dtype: Any, call: float) -> dict[Shape, float]:
    seconds: dict[Shape, float] = {}
    rate = 0.0
    for k, n in product(DEPTHS, COLUMNS):
        weights = meter.cold(dtype, k, n)
        for few in (True, False):  # rows for which a weight stays as it is, or is packed
            count = len(weights.operands) if few else min(len(weights.operands), 64)
            operands: Turns | None = None
            for m in (m for m in ROWS if (m < 16) == few):
                work = m * k * n
                if rate * work > meter.watch.most_s:
                    seconds[m, k, n] = rate * work
                    continue
                if operands is None:
                    given = weights.operands[:count]
                    operands = Turns([lay_out(meter.kernels, w, m) for w in given])
                a = meter.ring(dtype, m, k)
                taken = meter.watch.per_call(_by_weight, meter.kernels, a, operands)
                seconds[m, k, n] = max(taken - call, 0.0)
                rate = taken / work if work > 4096 else rate
    return seconds


def _by_weight(kernels: Kernels, a: Ring, weights: Turns) -> Ring:
    y: Ring = kernels.matmul(a, weights.next())
    return y


def _convolutions(meter: Meter) -> dict[str, Grid]:
    """Convolutions with 3 x 3 filters, eight images at a time where they are small."""
    x, w = meter.ring(np.uint32, 1, 1, 1, 1), meter.ring(np.uint32, 1, 1, 1, 1)
    one = (1, 1)
    call = meter.watch.per_call(meter.kernels.conv2d, x, w, one, (0, 0), one, 1)
    grids = {"convolution": Grid((), (call,))}
    depths, pixels = tuple(9 * c for c in CHANNELS), tuple(s * s for s in SIDES)
    for bits, stride in product((32, 64), (1, 2)):
        dtype, rate = ring_dtype(bits), 0.0
        seconds: dict[Shape, float] = {}
        shapes = sorted(product(OUTPUTS, CHANNELS, SIDES), key=lambda s: s[0] * s[1] * s[2] ** 2)
        for outputs, channels, side in shapes:
            work = outputs * 9 * channels * side * side
            if rate * work > meter.watch.most_s:
                seconds[outputs, channels, side] = rate * work
                continue
            batch = max(1, min(8, 2**18 // work))
            image = meter.ring(dtype, batch, channels, stride * side, stride * side)
            filters = meter.ring(dtype, outputs, channels, 3, 3)
            taken = meter.watch.per_call(
                meter.kernels.conv2d, image, filters, (stride, stride), one, one, 1
            )
            seconds[outputs, channels, side] = max(taken - call, 0.0) / batch
            rate = taken / (batch * work)
        name = f"conv2d{' strided' if stride > 1 else ''}.{bits}"
        places = product(OUTPUTS, CHANNELS, SIDES)
        grids[name] = Grid((OUTPUTS, depths, pixels), tuple(seconds[p] for p in places))
    return grids


# -- gates -----------------------------------------------------------------------------------------


def _tables(meter: Meter) -> dict[str, Grid]:
    """What a call takes by the entries of its tables together, and what each of its gates takes."""
    sizes = (8, 256, 4096, 65536)
    shapes = [(min(n, 4096), max(1, n // 4096)) for n in sizes]
    calls = [_table_s(meter, entries, 1, 32, tables, 1.0)[0] for entries, tables in shapes]
    grids = {"table": Grid((sizes,), tuple(calls))}
    for lane, k in product(LANES, (1, 2, 3)):
        each = [_table_s(meter, e, k, lane, 1, part)[1] for e, part in product(ENTRIES, EXPANDED)]
        grids[f"table.{lane}.{k}"] = Grid((ENTRIES, EXPANDED), tuple(each))
    several, many = (16, 64, 128, 256, 512, 2048), (2, 8, 16, 36)
    for lane in LANES:
        each = [_table_s(meter, e, 1, lane, t, 1.0)[1] for e, t in product(several, many)]
        grids[f"tables.{lane}"] = Grid((several, many), tuple(each))
    return grids


def _table_s(
    meter: Meter, entries: int, k: int, lane: int, tables: int, part: float
) -> tuple[float, float]:
    """Return what a call takes besides its gates, and what each gate takes."""
    most = 2**19 if meter.watch.each_s > 1e-3 else 2**10
    few = max(16, min(2048, most // (4 * k * entries)))
    less, more = (
        meter.watch.per_call(_table(meter, count, entries, k, lane, tables, part))
        for count in (few, 4 * few)
    )
    each = max(more - less, 1e-9) / (3 * few)
    return max(less - few * each, 0.0), each


def _table(
    meter: Meter, count: int, entries: int, k: int, width: int, tables: int, part: float
) -> Action:
    """Return what evaluates `count` gates of which `part` of the leaves has to be expanded."""
    n, low_bits = entries.bit_length() - 1, 4 if k > 1 else 0
    wire = ring_dtype(n + low_bits)
    x = meter.ring(wire, count)
    shape = (tables, entries) if tables > 1 else (entries,)
    read = []
    for _ in range(k):
        table = meter.ring(ring_dtype(width), *shape) | ring_dtype(width).type(1)
        if part < 1:
            table[..., max(1, int(part * entries) - entries // 64) :] = 0
        read.append(table)
    words = meter.cold(np.uint8, count, dpf_key_bytes(n, k, width))
    seeds = meter.ring(np.uint8, count, 16)

    def evaluate() -> object:
        key = gates.Key(seeds, words.next())
        return gates.table(meter.kernels, 0, x, n, low_bits, width, key, read)

    return evaluate


def _signs(meter: Meter) -> dict[str, Grid]:
    levels, words, count = (4, 12, 20, 32, 48), (1, 2, 3), 1024
    call = meter.watch.per_call(_relu(meter, 1, 5, 20))
    relu = []
    for level, word in product(levels, words):
        width = (20, 32 if level < 31 else 40, 60)[word - 1]
        taken = meter.watch.per_call(_relu(meter, count, level + 1, width))
        relu.append(max(taken - call, 0.0) / count)
    nonneg = []
    for level in levels:
        taken = meter.watch.per_call(_nonneg(meter, count, level + 1))
        nonneg.append(max(taken - call, 0.0) / count)
    return {
        "sign": Grid((), (call,)),
        "relu": Grid((levels, tuple(map(float, words))), tuple(relu)),
        "nonneg": Grid((levels,), tuple(nonneg)),
    }


def _relu(meter: Meter, count: int, in_width: int, width: int) -> Action:
    key = sign_key_type((count,), {"in_width": in_width, "width": width, "select": True})
    words, seeds = meter.cold(np.uint8, count, key.width), meter.ring(np.uint8, count, 16)
    x = meter.ring(ring_dtype(in_width), count)
    shares = [meter.ring(ring_dtype(width), count) for _ in range(3)]
    return lambda: gates.relu(
        meter.kernels, 0, in_width, width, x, gates.Key(seeds, words.next()), *shares
    )


def _nonneg(meter: Meter, count: int, in_width: int) -> Action:
    key = sign_key_type((count,), {"in_width": in_width, "width": 32, "select": False})
    words, seeds = meter.cold(np.uint8, count, key.width), meter.ring(np.uint8, count, 16)
    x, m = meter.ring(ring_dtype(in_width), count), meter.ring(np.uint32, count)
    return lambda: gates.nonneg(
        meter.kernels, 0, in_width, 32, x, gates.Key(seeds, words.next()), m
    )


# -- after a rest ----------------------------------------------------------------------------------


def _rests(meter: Meter) -> dict[str, Grid]:
    """How much longer computing takes after a rest, by the rest and by what is computed since.

    Meanwhile others use the caches, or the core loses them as it sleeps: code, tables and operands
    are read again as far as they are needed, so that it is more for more that is computed.
    """
    burst, first = _bursts(meter), Turns(range(0, PLAN - BURST, BURST))
    parts: list[Action] = [
        lambda: burst(first.next()),
        _relu(meter, 64, 12, 24),
        _relu(meter, 256, 16, 32),
        _table(meter, 128, 512, 2, 64, 1, 1.0),
        _table(meter, 1024, 512, 1, 32, 1, 1.0),
    ]

    def compute(count: int) -> None:
        for part in parts[:count]:
            part()

    counts = range(1, len(parts) + 1)
    samples: dict[tuple[float, int], list[float]] = {place: [] for place in product(RESTS, counts)}
    for _ in range(meter.watch.rested):
        for (rest_s, count), times in samples.items():
            if rest_s:
                time.sleep(rest_s)
            else:
                compute(count)
            times.append(_cpu(partial(compute, count), 1))
    taken = {place: statistics.median(times) for place, times in samples.items()}
    nodes, longer = [0.0], []
    for count in counts:
        nodes.append(max(taken[0.0, count], nodes[-1] + 1e-6))
    for rest_s in RESTS:
        longer += [0.0, *(max(taken[rest_s, c] - taken[0.0, c], 0.0) for c in counts)]
    return {"rested": Grid((RESTS, tuple(nodes)), tuple(longer))}


# -- rounds ----------------------------------------------------------------------------------------


def chain(elements: int, rounds: int, width: int = 32) -> Program:
    """Return a program that opens its input again and again, in `rounds` rounds, and outputs it."""
    shape, online = (elements,), []
    dealer, prepare = [], []
    wire, share = RingType("masked", width, shape), RingType("share", width, shape)
    for k in range(rounds + 1):
        mask = RingType("mask", width, shape)
        slot = {"slot": k}
        dealer.append(Instruction("mask", f"%r{k}", (), slot, RingType("clear", width, shape)))
        prepare.append(Instruction("mask", f"%r{k}", (), slot, mask))
        prepare.append(Instruction("neg", f"%n{k}", (f"%r{k}",), {}, share))
        if k:
            attrs = {**dict.fromkeys(INSTRUCTIONS["open"].attrs, 0), "round": k - 1}
            online.append(Instruction("open", f"%x{k}", (f"%s{k - 1}", f"%r{k}"), attrs, wire))
        else:
            online.append(Instruction("input", "%x0", ("%r0",), {"name": "x"}, wire))
        online.append(Instruction("add_common", f"%s{k}", (f"%n{k}", f"%x{k}"), {}, share))
    online.append(Instruction("output", "", (f"%s{rounds}",), {"name": "y", "round": rounds}, None))
    functions = {"dealer": (tuple(dealer),), "prepare": (tuple(prepare),)}
    return Program(
        "2pc",
        (Tensor("x", shape, 0, width),),
        (Tensor("y", shape, 0, width),),
        (SegmentInfo("main", None),),
        MappingProxyType({**functions, "online": (tuple(online),)}),
        MappingProxyType({}),
        (Layer("", "", ""),),
    )


def _rounds(watch: Watch, grids: dict[str, Grid]) -> dict[str, Grid]:
    """What a round takes besides its openings, and an inference besides its rounds."""
    fixed, rounds = [], []
    step = grids["step"].at(0)
    for size in watch.round_bytes:
        n, count = size // 4, 24 if size < 1 << 19 else 6
        starts = STARTS if size < 1 << 19 and watch.inferences > 3 else 1
        without = _online_s(chain(n, 0), watch.inferences, starts=starts)
        taken = (_online_s(chain(n, count), watch.inferences, starts=starts) - without) / count
        local = grids["open.32"].at(n, 32) + grids["add.32"].at(n) + 2 * step
        fixed.append(max(without - max(taken - local, 0.0) - grids["add.32"].at(n), 1e-6))
        rounds.append(max(taken - local, 1e-6))
    return {
        "input": Grid((tuple(size / 4 for size in watch.round_bytes),), tuple(fixed)),
        "round": Grid((tuple(map(float, watch.round_bytes)),), tuple(rounds)),
    } | _waking(watch, grids)


def _online_s(
    program: Program, inferences: int, ends: Ends | None = None, starts: int = 1
) -> float:
    """Return the median online time of inferences. Where the system puts processes matters, so that
    they may be started several times."""
    (tensor,) = program.inputs
    x, taken = np.ones(tensor.shape, np.float32), []
    for _ in range(starts):
        with LocalCluster(program, link=ends) as cluster:
            cluster.infer({"x": x})
            taken += [cluster.infer({"x": x}).online_s for _ in range(inferences)]
    return statistics.median(taken)


def _waking(watch: Watch, grids: Mapping[str, Grid]) -> dict[str, Grid]:
    """How much longer a round takes if its message lets parties wait, besides that time and what
    they compute then.

    They sleep meanwhile, and what sends and receives leaves the caches.
    """
    program, seconds = chain(1, WAITS), []
    for wait_s in (0.0, *watch.waits):
        inferences, taken = min(watch.inferences, 2 if wait_s > 0.005 else 7), []
        for _ in range(STARTS if watch.inferences > 1 else 1):
            with _delaying(wait_s) as ends:
                there_s = _echo_s(*ends, WAITS) / 2
            with _delaying(wait_s) as ends:
                taken.append(_online_s(program, inferences, ends) / WAITS - there_s)
        seconds.append(statistics.median(taken))
    waits, rested = (0.0, *watch.waits), grids["rested"]
    computed = grids["open.32"].at(1, 32) + grids["add.32"].at(1) + 4 * grids["step"].at(0)
    longer = [
        max(s - seconds[0] - rested.at(min(wait_s, rested.axes[0][-1]), computed), 0.0)
        for wait_s, s in zip(waits, seconds, strict=True)
    ]
    return {"waking": Grid((waits,), tuple(longer))}


def _echo_s(first: socket.socket, second: socket.socket, count: int) -> float:
    """Return the seconds until a byte is back."""

    def answer() -> None:
        for _ in range(count):
            second.sendall(second.recv(1))

    answering = threading.Thread(target=answer)
    answering.start()
    taken = []
    for _ in range(count):
        start = time.perf_counter()
        first.sendall(b"x")
        first.recv(1)
        taken.append(time.perf_counter() - start)
    answering.join()
    return statistics.median(taken)


@contextmanager
def _delaying(delay_s: float) -> Iterator[Ends]:
    """Give the ends of a connection on which everything is late."""
    with ExitStack() as ends:
        (near, first), (far, second) = (tuple(map(ends.enter_context, _pair())) for _ in range(2))
        both = [(delay_s, first, second), (delay_s, second, first)]
        pumps = [threading.Thread(target=_pump, args=way, daemon=True) for way in both]
        for pump in pumps:
            pump.start()
        yield near, far
    for pump in pumps:
        pump.join()


def _pair() -> Ends:
    with listen() as listener:
        connecting = socket.create_connection(listener.getsockname())
        accepted, _ = listener.accept()
    for end in (connecting, accepted):
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connecting, accepted


def _pump(delay_s: float, source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            time.sleep(delay_s)
            sink.sendall(data)


# -- all of them -----------------------------------------------------------------------------------

FAMILIES: dict[str, Measure] = {
    "steps": _step,
    "elements": _elementwise,
    "sums": _sums,
    "openings": _openings,
    "products": _products,
    "convolutions": _convolutions,
    "tables": _tables,
    "signs": _signs,
    "rests": _rests,
}
"""What is measured in each process; rounds come after them."""
QUICK = ("steps", "elements", "sums", "openings", "signs")
TURNS = (
    *(*QUICK, "rests", "tables", *QUICK, "products", *QUICK),
    *("convolutions", "rests", "tables", *QUICK, "rests"),
)
"""The order. A machine that is shared is slower at one moment than at another: what is measured in
less than a second is measured several times, with much in between."""


def measure(
    kernels: Kernels,
    watch: Watch = Watch(),
    beside: bool = False,
    tell: Callable[[str], None] = lambda family: None,
) -> Profile:
    """Measure this machine. `tell` gets the name of what is measured next.

    beside: another process does the same at the same time, as where both parties share a machine.
    """
    meter = Meter(kernels, watch)
    found: dict[str, list[Grid]] = {}
    with _helper(beside, kernels, meter.watch) as helper:
        for number, family in enumerate(TURNS):
            tell(f"{family} ({number + 1} of {len(TURNS)})")
            helper(family)
            for name, grid in FAMILIES[family](meter).items():
                found.setdefault(name, []).append(grid)
            helper("")
    grids = {name: _median(same) for name, same in found.items()}
    tell("rounds")
    grids |= _rounds(watch, grids)
    return Profile(processor(), kernels.name, 2 if beside else 1, grids)


def _median(grids: Sequence[Grid]) -> Grid:
    """Return the medians of the same grid, measured several times."""

    def medians(several: Iterable[Sequence[float]]) -> tuple[float, ...]:
        return tuple(map(statistics.median, zip(*several, strict=True)))

    axes = zip(*(grid.axes for grid in grids), strict=True)
    return Grid(tuple(map(medians, axes)), medians(grid.seconds for grid in grids))


def processor() -> str:
    """Return the processor's name."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


@contextmanager
def _helper(beside: bool, kernels: Kernels, watch: Watch) -> Iterator[Callable[[str], None]]:
    """Run a process that measures a family when it is told its name; "" waits for it."""
    if not beside:
        yield lambda family: None
        return
    command = [sys.executable, "-P", "-m", "srcompile.runtime.measure", HELPER_FLAG]
    command += [_choice(kernels), str(watch.each_s), str(watch.most_s), str(watch.cold_bytes)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, text=True, bufsize=1, stdin=pipe, stdout=pipe) as process:
        asks, answers = process.stdin, process.stdout
        assert asks is not None
        assert answers is not None
        answers.readline()  # it is ready

        def act(family: str) -> None:
            if family:
                asks.write(f"{family}\n")
            else:
                answers.readline()

        try:
            yield act
        finally:
            asks.close()
            process.wait()


def _choice(kernels: Kernels) -> str:
    return "numpy" if kernels.name == "numpy" else "native"


def main() -> None:
    """Be the process beside: measure what standard input names, and say when it is done."""
    name, each_s, most_s, cold_bytes = sys.argv[2:6]
    meter = Meter(load(name), Watch(float(each_s), float(most_s), int(cold_bytes)))
    print("ready", flush=True)
    for line in sys.stdin:
        FAMILIES[line.strip()](meter)
        print("done", flush=True)


if __name__ == "__main__":
    main()
