"""Pass `place_embeddings`: decide who looks token ids up, so that no id reaches a party.

With `client` the client holds the table, looks its rows up and shares them: embedding(ids, table)
becomes an input. With `secret` the client shares one-hot encodings, and the table stays a weight:
embedding(ids, table) = one_hot(ids) @ table.
"""

from __future__ import annotations

import numpy as np

from srcompile.errors import CompileError, UserError
from srcompile.ir.graph import Attr, Module, Node
from srcompile.ops import Registry
from srcompile.ops.builder import GraphBuilder
from srcompile.passes.choices import EMBEDDINGS
from srcompile.passes.fold_constants import remove_dead


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
    b = GraphBuilder(ops)
    b.add_consts(module.consts)
    lookups = [_checked(module, node) for node in nodes if node.op == "embedding"]
    made: dict[tuple[str, object], str] = {}  # (ids, table or its rows) -> input
    new: dict[str, str] = {}
    for segment in module.main.segments:
        for node in segment.nodes:
            b.loc = node.loc
            if node.op == "ids":
                for lookup in lookups:
                    _place(b, node, lookup, place, made)
            elif node.op == "embedding":
                ids, table = node.inputs
                if place == "client":
                    new[node.out] = made[ids, table]
                else:
                    hot = made[ids, b.type(table).shape[0]]
                    new[node.out] = b.emit("matmul", [hot, table])
            else:
                new[node.out] = b.replay(node, [new.get(i, i) for i in node.inputs])
        b.end_segment(segment.name, segment.route)
    return remove_dead(b.module())


def _place(
    b: GraphBuilder, ids: Node, lookup: Node, place: str, made: dict[tuple[str, object], str]
) -> None:
    """Emit the input that `lookup` needs, unless it is there."""
    of, table = lookup.inputs
    if of != ids.out:
        return
    const = b.consts[table]
    rows, width = const.type.shape
    shape = _shape(ids)
    name = str(ids.attrs["name"])
    key: tuple[str, object] = (of, table if place == "client" else rows)
    if key in made:
        return
    attrs: dict[str, Attr] = {"ids": name}
    if place == "secret":
        attrs |= {"name": f"{name}.one_hot.{rows}", "shape": (*shape, rows), "bits": True}
        made[key] = b.emit("input", [], attrs, f"{ids.out}.one_hot")
        return
    attrs |= {"name": f"{name}.{table[1:]}", "shape": (*shape, width)}
    if const.data is not None and bool(np.isin(const.data, (0, 1)).all()):
        attrs["bits"] = True
    made[key] = b.emit("input", [table], attrs, f"{ids.out}.rows")


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
