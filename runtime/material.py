"""How much there is to deal and to send: known from the program, before anything is dealt."""

from __future__ import annotations

from srcompile.runtime.isa import sends
from srcompile.runtime.openings import rounds
from srcompile.runtime.program import Program


def material_bytes(program: Program, segment: int) -> tuple[int, int]:
    """Return the bytes that the dealer sends to each party for one block of a segment."""
    types = program.types("dealer")
    sent = [
        sends(i.op, [types[name] for name in i.inputs], i.attrs)
        for i in program.functions["dealer"][segment]
    ]
    return sum(s.dealer_to_p0 for s in sent), sum(s.dealer_to_p1 for s in sent)


def rounds_of(program: Program) -> int:
    """Return the rounds of an inference, on the route that has most."""
    counts = [len(rounds(body)) for body in program.functions["online"]]
    return counts[0] + max(counts[1:], default=0)
