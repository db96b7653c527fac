"""How the `prepare` function is cut into chunks, and what of a chunk is computed when.

A chunk is a run of material: what a party keeps, moves to disk and takes back as a whole. What is
dear, products with an opened weight and what they are made of, is computed as material arrives. The
rest, masks, keys, unpacked correlations and sums of them, costs about as much as a copy, and may
wait until the online function comes to the chunk: until then the dealer's bytes and the dear
values, the chunk's *record*, are all that is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from srcompile.runtime.isa import RingType
from srcompile.runtime.kernels import ring_dtype
from srcompile.runtime.program import Instruction

DEAR = frozenset({"matmul", "conv2d"})
KEYS = frozenset({"table_key", "sign_key"})
MATERIAL = KEYS | {"correlation"}
STANDING = frozenset({"weight_opened"})  # values that no material makes: bound where they are read


@dataclass(frozen=True)
class Chunk:
    """A run of `prepare`, in parts.

    `arriving` is run as the material arrives: the early instructions, and among them, in the order
    of their material, the late ones that take some; it is put aside for those. `late` makes the
    rest of the chunk's values from the record: that material, and the early values `kept`.
    `values` are those that the online function reads; they take `size` bytes.
    """

    arriving: tuple[Instruction, ...]
    late: tuple[Instruction, ...]
    kept: tuple[tuple[str, RingType], ...]
    values: tuple[str, ...]
    size: int


def material_of(instruction: Instruction, party: int) -> int:
    """Return the bytes that the dealer sends to a party for an instruction of `prepare`."""
    type_ = instruction.type
    if type_ is not None and instruction.op in KEYS:
        return type_.size * type_.width
    if type_ is not None and instruction.op == "correlation" and party == 1:
        return type_.packed_bytes
    return 0


def memory_of(type_: RingType) -> int:
    """Return the bytes of a value in memory."""
    each = 16 + type_.width if type_.kind == "key" else ring_dtype(type_.width).itemsize
    return type_.size * each


def chunks(body: Sequence[Instruction], needed: frozenset[str], limit: int) -> tuple[Chunk, ...]:
    """Return the chunks of a segment of `prepare`; the online function reads the values `needed`.

    A chunk's instructions make `limit` bytes, unless a single one makes more.
    An instruction belongs to the chunk in which its last operand is made, so that what is late
    there depends on that chunk alone: what does not is early.
    """
    standing = {i.out for i in body if i.op in STANDING}
    home = _homes(body, standing, limit)
    early = _early(body, standing, home)
    kept_for = needed | {n for i in body if i.out not in early | standing for n in i.inputs}
    found = []
    for number in range(max(home.values(), default=-1) + 1):
        here = [i for i in body if home[i.out] == number]
        now = {i.out for i in here if i.out in early}
        aside = {i.out for i in here if i.out not in early and i.op in MATERIAL}
        later = {i.out for i in here if i.out not in early and i.out not in standing - needed}
        values = [i for i in here if i.out in needed]
        found.append(
            Chunk(
                tuple(i for i in body if i.out in aside | now | _read(body, now) & standing),
                tuple(i for i in body if i.out in later | _read(body, later) & standing),
                tuple((i.out, _type(i)) for i in here if i.out in now & kept_for),
                tuple(i.out for i in values),
                sum(memory_of(_type(i)) for i in values if i.out not in standing),
            )
        )
    return tuple(found)


def _homes(body: Sequence[Instruction], standing: set[str], limit: int) -> dict[str, int]:
    """Return the chunk of each value."""
    home: dict[str, int] = {}
    number = size = 0
    for i in body:
        own = memory_of(_type(i)) if i.op not in STANDING else 0
        if size and size + own > limit:
            number, size = number + 1, 0
        size += own
        operands = [home[n] for n in i.inputs if n in home and n not in standing]
        home[i.out] = max(operands, default=number)
    return home


def _early(body: Sequence[Instruction], standing: set[str], home: dict[str, int]) -> set[str]:
    """Return the dear values, those made of values of several chunks, and what both are made of."""
    early: set[str] = set()
    for i in reversed(body):
        operands = [n for n in i.inputs if n in home and n not in standing]
        if i.op in DEAR or len({home[n] for n in operands}) > 1:
            early.add(i.out)
        if i.out in early:
            early.update(operands)
    return early


def _read(body: Sequence[Instruction], names: set[str]) -> set[str]:
    """Return what the instructions that make the values `names` read."""
    return {n for i in body if i.out in names for n in i.inputs}


def _type(i: Instruction) -> RingType:
    assert i.type is not None
    return i.type
