"""Pass `plan_rings`: decide where values are opened and in which ring each one lives.

A gate makes a share; it takes masked wires. Between them stand linear ops, which work on both. So
every path from a gate's result to a gate's operand must be opened somewhere, and the cheapest
places are a minimum vertex cut, an opening weighing elements x bits sent. An opening that only
shifts follow does the smallest of them itself: what a shift drops is not sent.

Widths are demanded from behind: a result needs its own bits, a `shift` by s needs s bits more than
its result, a matrix product as many as its result; gates with tables and comparisons, and
elementwise products, put their result into any ring at no cost. An `extend` cuts such a chain: the
shift before it then needs but the bits of its value, and one; it costs an opening and a round.
Where to extend is a search for what sends fastest on the network (passes/extensions.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import networkx as nx

from srcompile.ir.graph import Attr, Module, Node, Segment, public_values
from srcompile.ir.types import FixType, Type
from srcompile.ops import Registry
from srcompile.ops.base import integer
from srcompile.passes.cost import NETWORKS, Machine, Network
from srcompile.passes.extensions import Chains, place_extensions
from srcompile.passes.quantise import PRODUCTS
from srcompile.passes.tables import entries_met

FREE_RING = frozenset({"table", "check", "relu", "nonneg", "extend"})
RESULTS = frozenset({"output", "route", "guard"})
WIDEST = 62
MACHINE = Machine()


def plan_rings(
    module: Module,
    ops: Registry,
    max_width: int | None = None,
    network: Network = NETWORKS["lan"],
) -> Module:
    """Return a fixed-level module with `open` and `extend` nodes and a `ring` on every node.

    No ring is wider than `max_width`, unless a single value, or a product and its operands, is.
    """
    nodes = list(module.main.nodes())
    types, public = module.main.types(), public_values(module)
    chains = Chains(
        nodes,
        lambda node, bits: _demand(node, bits, public),
        lambda node, width: _work(node, width, module, types),
        dropped_bits(nodes),
    )
    opened = _openings(module, ops, _by_name(nodes, chains.rings(frozenset())[0]))
    places = frozenset(k for k, node in enumerate(nodes) if node.out in opened)
    cut = place_extensions(chains, places, network, max_width or WIDEST)
    own, extended = (_by_name(nodes, widths) for widths in chains.rings(cut))
    ring = own | {_extended(name): width for name, width in extended.items()}
    takers = frozenset(
        (nodes[k].out, nodes[user].out) for k, user in map(chains.edges.__getitem__, cut)
    )
    module = _with_extensions(module, extended, takers)
    return _with_openings(module, ops, ring, _openings(module, ops, ring))


def is_product_of_values(node: Node, public: frozenset[str]) -> bool:
    """Whether a node multiplies two hidden values element by element: into any ring, from any."""
    return node.op == "mul" and not any(i.startswith("@") or i in public for i in node.inputs)


def is_local(node: Node, module: Module, ops: Registry) -> bool:
    """Whether a node acts alike on shares and masked wires: linear, or a product with a public."""
    if node.op in PRODUCTS:
        return any(i.startswith("@") and not module.consts[i].secret for i in node.inputs)
    return ops[node.op].linear


# -- widths ---------------------------------------------------------------------------------------


def _by_name(nodes: Sequence[Node], widths: Sequence[int]) -> dict[str, int]:
    return {n.out: width for n, width in zip(nodes, widths, strict=True) if n.out and width}


def _demand(node: Node, bits: int, public: frozenset[str]) -> tuple[int, int]:
    """Return the ring `node` needs of an operand of `bits` bits: (bits, 0), or (0, above own)."""
    if node.op in RESULTS or node.op in ("table", "relu", "nonneg"):
        return bits, 0
    if is_product_of_values(node, public):
        return bits + 1, 0
    if node.op == "check":
        return integer(node.attrs["index_bits"]) + integer(node.attrs["low_bits"]), 0
    by = node.attrs["by"] if node.op == "shift" else 0
    assert isinstance(by, int)
    return 0, by


def _work(node: Node, width: int, module: Module, types: Mapping[str, Type]) -> float:
    """Return about how long a product or table computes in a ring of `width` bits."""
    if node.op == "conv2d":
        _, _, *window = module.type_of(node.inputs[1], types).shape
        return MACHINE.product_s(_elements(node) * math.prod(window), width)
    if node.op in PRODUCTS:
        depth = module.type_of(node.inputs[0], types).shape[-1] if node.op == "matmul" else 1
        return MACHINE.product_s(_elements(node) * depth, width)
    if node.op == "table":
        gates = math.prod(types[node.inputs[0]].shape)
        tables = [module.consts[name].data for name in node.inputs[1:]]
        entries = entries_met([table for table in tables if table is not None])
        return MACHINE.table_s(gates, entries, _elements(node) // max(gates, 1), width)
    return 0.0


def _elements(node: Node) -> int:
    assert isinstance(node.type, FixType)
    return math.prod(node.type.shape)


def _extended(name: str) -> str:
    return f"{name}.ext"


def extended_values(module: Module) -> frozenset[str]:
    """Return the names, before `plan_rings`, of the shifts that it extended."""
    extensions = [n.out for n in module.main.nodes() if n.op == "extend"]
    return frozenset(name.removesuffix(_extended("")) for name in extensions)


def _with_extensions(
    module: Module, extended: Mapping[str, int], takers: frozenset[tuple[str, str]]
) -> Module:
    """Insert an `extend` behind each shift in `extended`, for the (shift, user) in `takers`."""
    segments = []
    for segment in module.main.segments:
        nodes: list[Node] = []
        for node in segment.nodes:
            inputs = tuple(_extended(i) if (i, node.out) in takers else i for i in node.inputs)
            nodes.append(replace(node, inputs=inputs))
            if node.out in extended:
                made = (node.out,)
                nodes.append(
                    Node("extend", _extended(node.out), made, type=node.type, loc=node.loc)
                )
        segments.append(Segment(segment.name, tuple(nodes), segment.route))
    return module.with_main(tuple(segments))


# -- openings -------------------------------------------------------------------------------------


def _openings(module: Module, ops: Registry, ring: Mapping[str, int]) -> set[str]:
    """Return the values to open: a minimum cut between gate results and gate operands."""
    graph = nx.DiGraph()
    graph.add_nodes_from(["gates", "operands"])
    types = module.main.types()
    public = public_values(module)
    nodes = [node for node in module.main.nodes() if node.out not in public]
    unsent = dropped_bits(nodes)
    for number, node in enumerate(nodes):
        values = [i for i in node.inputs if not i.startswith("@") and i not in public]
        local = is_local(node, module, ops)
        scaled = _is_scaled(node, public)
        if node.out:
            type_ = types[node.out]
            assert isinstance(type_, FixType)
            sent = ring.get(node.out, 1) - unsent.get(node.out, 0)
            cost = max(1, math.prod(type_.shape)) * max(1, sent)
            # of equally cheap places the first
            capacity = cost * len(nodes) * len(nodes) + number
            graph.add_edge(("in", node.out), ("out", node.out), capacity=capacity)
        for name in values:
            if local:
                graph.add_edge(("out", name), ("in", node.out))  # no capacity: never cut
            elif node.op not in RESULTS and not scaled:
                graph.add_edge(("out", name), "operands")
        if node.out and _makes_share(node, local, module):
            graph.add_edge("gates", ("in", node.out))
    _, (before, _) = nx.minimum_cut(graph, "gates", "operands")
    return {
        node.out
        for node in nodes
        if node.out and ("in", node.out) in before and ("out", node.out) not in before
    }


def _is_scaled(node: Node, public: frozenset[str]) -> bool:
    """Whether a node is a product with a public value: local on shares, and makes one.

    The dealer does not know the value, so the product of a masked wire has no mask that it knows.
    """
    return node.op in PRODUCTS and any(name in public for name in node.inputs)


def _makes_share(node: Node, local: bool, module: Module) -> bool:
    """Whether the result is a share whatever the operands are: gates, sums with a secret."""
    if local:
        return any(i.startswith("@") and module.consts[i].secret for i in node.inputs)
    return node.op in FREE_RING or node.op in PRODUCTS


def dropped_bits(nodes: Sequence[Node]) -> dict[str, int]:
    """Return how many low bits of a value no user looks at: all of them are shifts."""
    found: dict[str, int] = {}
    for node in nodes:
        by = node.attrs["by"] if node.op == "shift" else 0
        assert isinstance(by, int)
        for name in node.inputs:
            found[name] = min(by, found.get(name, by))
    return found


def _bits_of_shifts(module: Module) -> dict[tuple[str, int], int]:
    """Return the most bits that a shift of a value, by so many bits, has."""
    found: dict[tuple[str, int], int] = {}
    for node in module.main.nodes():
        by = node.attrs.get("by")
        if node.op == "shift" and isinstance(by, int) and isinstance(node.type, FixType):
            key = node.inputs[0], by
            found[key] = max(node.type.bits, found.get(key, 0))
    return found


def _with_openings(
    module: Module, ops: Registry, ring: Mapping[str, int], opened: set[str]
) -> Module:
    """Insert the `open` nodes, let later nodes use them, and write down every ring."""
    unsent = dropped_bits(list(module.main.nodes()))
    first = _Opener(module, ops, ring, {name: unsent.get(name, 0) for name in opened})
    segments = []
    for segment in module.main.segments:
        opener = first if segment.route is None else first.for_branch()
        for node in segment.nodes:
            opener.take(node)
        segments.append(Segment(segment.name, tuple(opener.nodes), segment.route))
    return module.with_main(tuple(segments))


class _Opener:
    """Rewrites one segment. A branch may use masked wires of the first segment, but not mix them
    with its own in one node: its material is dealt apart from that of the first segment."""

    def __init__(
        self, module: Module, ops: Registry, ring: Mapping[str, int], opened: Mapping[str, int]
    ) -> None:
        self.module, self.ops = module, ops
        self.opened = opened  # what to open, and how many low bits are dropped
        self.ring = dict(ring)
        self.types = module.main.types()
        self.shifted = _bits_of_shifts(module)
        self.nodes: list[Node] = []
        self.now: dict[str, str] = {}  # value -> its opened form
        self.masked: set[str] = set()
        self.public = public_values(module)
        self.shared: set[str] = set()  # masked wires that hang on the first segment's masks only

    def for_branch(self) -> _Opener:
        """Return an opener for a branch behind this first segment."""
        branch = _Opener(self.module, self.ops, self.ring, self.opened)
        branch.types, branch.now = dict(self.types), dict(self.now)
        branch.masked, branch.shared = set(self.masked), set(self.masked)
        return branch

    def take(self, node: Node) -> None:
        """Add `node`, on opened operands where there are such, and open its result if planned."""
        if node.op == "shift" and self.opened.get(node.inputs[0]):
            by = node.attrs["by"]
            assert isinstance(by, int)
            rest = by - self.opened[node.inputs[0]]
            if rest == 0:
                self.now[node.out] = self.now[node.inputs[0]]
                return
            node = replace(node, attrs=MappingProxyType({**node.attrs, "by": rest}))
        inputs = [self.now.get(i, i) for i in node.inputs]
        wires = {i for i in inputs if i in self.masked}
        if wires & self.shared and wires - self.shared:
            inputs = [self.open(i, node) if i in self.shared else i for i in inputs]
        self.nodes.append(replace(node, inputs=tuple(inputs), attrs=self.attrs(node)))
        values = [i for i in inputs if not i.startswith("@") and i not in self.public]
        local = is_local(node, self.module, self.ops)
        keeps = local and not _makes_share(node, local, self.module)
        wire = node.op in ("input", "shift") or (keeps and all(v in self.masked for v in values))
        if wire and node.out not in self.public:
            self.masked.add(node.out)
            if values and all(v in self.shared for v in values):
                self.shared.add(node.out)
        if node.out in self.opened:
            self.open(node.out, node, self.opened[node.out])

    def open(self, name: str, node: Node, by: int = 0) -> str:
        """Open `name` >> by; later nodes of this segment use the opened form, which is returned."""
        out = f"{name}.open"
        while out in self.types:
            out += "-"
        old = self.types[name]
        assert isinstance(old, FixType)
        bits = max(2, old.bits - by, self.shifted.get((name, by), 0))
        type_ = FixType(old.shape, bits, old.frac - by)
        self.types[out], self.ring[out] = type_, self.ring[name] - by
        attrs: Mapping[str, Attr] = MappingProxyType({"by": by, "ring": self.ring[out]})
        self.nodes.append(Node("open", out, (name,), attrs, type_, node.loc))
        self.masked.add(out)
        self.now[name] = out
        return out

    def attrs(self, node: Node) -> Mapping[str, Attr]:
        """Return the attributes of `node` with its ring."""
        if not node.out:
            return node.attrs
        self.ring.setdefault(node.out, 1)
        return MappingProxyType({**node.attrs, "ring": self.ring[node.out]})
