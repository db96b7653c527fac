"""The ops a graph is made of. `registry()` is what every pass and test is given."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from types import MappingProxyType

from srcompile.ops import (
    composed,
    functions,
    linear,
    normalisation,
    products,
    program,
    reductions,
    rows,
)
from srcompile.ops.base import Op

Registry = Mapping[str, Op]


@cache
def registry() -> Registry:
    """Return all ops by name."""
    ops = (
        *linear.OPS,
        *products.OPS,
        *functions.OPS,
        *composed.OPS,
        *reductions.OPS,
        *rows.OPS,
        *normalisation.OPS,
        *program.OPS,
    )
    assert len({op.name for op in ops}) == len(ops)
    return MappingProxyType({op.name: op for op in ops})


@cache
def torch_names() -> Mapping[str, Op]:
    """Return the op that each torch name stands for."""
    return MappingProxyType({name: op for op in registry().values() for name in op.torch})
