"""How long a session may be silent: a fixed time, and the time that its own work may take.

While a role computes it sends nothing, so its peers wait. How long that may take is read off the
program, for a machine much slower than any that is likely: what is dealt and sent at 20 MB a
second, and multiply-adds at 2*10^8 a second.
"""

from __future__ import annotations

import math

from srcompile.runtime.isa import sends
from srcompile.runtime.material import material_bytes
from srcompile.runtime.program import Program

SLOW_BYTES = 20e6
SLOW_PRODUCTS = 2e8


def silence_limit(program: Program, timeout_s: float) -> float:
    """Return the seconds of silence after which a peer in a session of `program` is taken for dead.

    `timeout_s` is the setting, and the rest what the work of one inference may take.
    """
    segments = range(len(program.segments))
    dealt = sum(sum(material_bytes(program, segment)) for segment in segments)
    types = program.types("online")
    sent = sum(
        size
        for _, i in program.instructions("online")
        for size in sends(i.op, [types[name] for name in i.inputs], i.attrs)
    )
    products = 0
    for _, i in (*program.instructions("prepare"), *program.instructions("online")):
        if i.op in ("matmul", "conv2d") and i.type is not None:
            left, right = (types[name].shape for name in i.inputs[:2])
            products += i.type.size * (left[-1] if i.op == "matmul" else math.prod(right[1:]))
    return timeout_s + (dealt + sent) / SLOW_BYTES + products / SLOW_PRODUCTS
