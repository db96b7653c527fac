"""How large a block of material is: known from the program, before anything is dealt."""

from __future__ import annotations

from srcompile.runtime.isa import sends
from srcompile.runtime.program import Program


def material_bytes(program: Program, segment: int) -> tuple[int, int]:
    """Return the bytes that the dealer sends to each party for one block of a segment."""
    types = program.types("dealer")
    sent = [
        sends(i.op, [types[name] for name in i.inputs], i.attrs)
        for i in program.functions["dealer"][segment]
    ]
    return sum(s.dealer_to_p0 for s in sent), sum(s.dealer_to_p1 for s in sent)
