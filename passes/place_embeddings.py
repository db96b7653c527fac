"""Pass `place_embeddings`: decide who looks token ids up, so that no id reaches a party.

With `client` the client holds the table, looks its rows up and shares them: embedding(ids, table)
becomes an input. With `secret` the client shares one-hot encodings, and the table stays a weight:

    embedding(ids, table) = one_hot(ids) @ table
or, for a table of many rows, in two digits, id = high * base + low:
    = one_hot(high) @ (one_hot(low) @ table'),   table' of (base, digits * width)

Of V rows of d numbers an id takes V numbers in the first form, V / digits from the client and
digits * d between the parties in the second: so digits = sqrt(V / d).
"""

from __future__ import annotations

import math

import numpy as np

from srcompile.errors import CompileError, UserError
from srcompile.ir.graph import Attr, Module, Node
from srcompile.ops import Registry
from srcompile.ops.builder import GraphBuilder
from srcompile.passes.choices import EMBEDDINGS
from srcompile.passes.fold_constants import remove_dead

FEWEST = 3
"""With fewer digits than this the second form sends no less, and it takes a round."""


def place_embeddings(module: Module, ops: Registry, place: str = "client") -> Module:
    """Return `module` without `ids` and `embedding`.

    Raises CompileError for an embedding of anything but ids, or of a table that is no constant,
    and UserError for an unknown place.
    """
    if place not in EMBEDDINGS:
        raise UserError(f"there is no embedding '{place}': choose {', '.join(EMBEDDINGS)}")
    nodes = list(module.main.nodes())
    if not any(node.op in ("ids", "embedding") for node in nodes):
        return module
    placer = _Placer(module, ops, place)
    new: dict[str, str] = {}
    for segment in module.main.segments:
        for node in segment.nodes:
            placer.b.loc = node.loc
            if node.op == "ids":
                placer.inputs_for(node)
            elif node.op == "embedding":
                new[node.out] = placer.looked_up(node)
            else:
                new[node.out] = placer.b.replay(node, [new.get(i, i) for i in node.inputs])
        placer.b.end_segment(segment.name, segment.route)
    return remove_dead(placer.b.module())


class _Placer:
    def __init__(self, module: Module, ops: Registry, place: str) -> None:
        self.b, self.place = GraphBuilder(ops), place
        self.b.add_consts(module.consts)
        nodes = module.main.nodes()
        self.lookups = [_checked(module, node) for node in nodes if node.op == "embedding"]
        self.made: dict[tuple[object, ...], str] = {}

    def inputs_for(self, ids: Node) -> None:
        """Emit what the client gives for token ids, for each table that they are looked up in."""
        for lookup in self.lookups:
            if lookup.inputs[0] != ids.out:
                continue
            table = lookup.inputs[1]
            rows, width = self.b.type(table).shape
            if self.place == "client":
                self.rows_input(ids, table, width)
            elif digits := _digits(rows, width):
                self.hot_input(ids, rows, digits, "high")
                self.hot_input(ids, rows, -(-rows // digits), "low")
            else:
                self.hot_input(ids, rows, rows, "one_hot")

    def rows_input(self, ids: Node, table: str, width: int) -> None:
        """Emit the input of a table's rows, unless it is there."""
        if (ids.out, table) in self.made:
            return
        name = f"{ids.attrs['name']}.{table[1:]}"
        attrs: dict[str, Attr] = {"ids": ids.attrs["name"], "name": name}
        attrs["shape"] = (*_shape(ids), width)
        data = self.b.consts[table].data
        if data is not None and bool(np.isin(data, (0, 1)).all()):
            attrs["bits"] = True
        self.made[ids.out, table] = self.b.emit("input", [table], attrs, f"{ids.out}.rows")

    def hot_input(self, ids: Node, rows: int, columns: int, digit: str) -> None:
        """Emit the input of one-hot encodings of ids, or of a digit, unless it is there."""
        if (ids.out, rows, columns, digit) in self.made:
            return
        whole = digit == "one_hot"
        name = f"{ids.attrs['name']}.{digit}.{columns}{'' if whole else f'.of.{rows}'}"
        attrs: dict[str, Attr] = {"ids": ids.attrs["name"], "name": name}
        attrs |= {"shape": (*_shape(ids), columns), "bits": True}
        if not whole:
            attrs |= {"digit": digit, "rows": rows}
        out = self.b.emit("input", [], attrs, f"{ids.out}.{digit}")
        self.made[ids.out, rows, columns, digit] = out

    def looked_up(self, lookup: Node) -> str:
        """Return the rows of a table."""
        ids, table = lookup.inputs
        rows, width = self.b.type(table).shape
        if self.place == "client":
            return self.made[ids, table]
        digits = _digits(rows, width)
        if not digits:
            return self.b.emit("matmul", [self.made[ids, rows, rows, "one_hot"], table])
        base = -(-rows // digits)
        high, low = self.made[ids, rows, digits, "high"], self.made[ids, rows, base, "low"]
        shape = self.b.type(high).shape[:-1]
        missing = digits * base - rows
        table = self.b.emit("pad", [table], {"before": (0, 0), "after": (missing, 0)})
        table = self.b.emit("reshape", [table], {"shape": (digits, base, width)})
        table = self.b.emit("transpose", [table], {"perm": (1, 0, 2)})
        table = self.b.emit("reshape", [table], {"shape": (base, digits * width)})
        found = self.b.emit("matmul", [low, table])  # (.., digits * width)
        found = self.b.emit("reshape", [found], {"shape": (*shape, digits, width)})
        high = self.b.emit("reshape", [high], {"shape": (*shape, 1, digits)})
        row = self.b.emit("matmul", [high, found])  # (.., 1, width)
        return self.b.emit("reshape", [row], {"shape": (*shape, width)})


def _digits(rows: int, width: int) -> int:
    """Return how many high digits ids have, 0 if one digit is enough."""
    digits = math.isqrt(rows // max(width, 1))
    return digits if digits >= FEWEST else 0


def _shape(ids: Node) -> tuple[int, ...]:
    """Return the shape of token ids."""
    assert ids.type is not None
    return tuple(ids.type.shape)


def _checked(module: Module, node: Node) -> Node:
    ids, table = node.inputs
    made = next((n for n in module.main.nodes() if n.out == ids), None)
    if made is None or made.op != "ids":
        raise CompileError(
            "an embedding looks up what is no input of token ids",
            node.loc,
            "Nobody may look up what only the model knows; take the ids as an input.",
        )
    if table not in module.consts:
        raise CompileError("the table of this embedding depends on an input", node.loc)
    return node
