"""Building graph-level modules node by node; front ends and the expansion pass use it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import numpy as np

from srcompile.errors import CompileError, Loc
from srcompile.ir.graph import NO_ATTRS, Array, Attr, Const, Function, Module, Node, Segment
from srcompile.ir.types import FloatType
from srcompile.ops import Registry


class GraphBuilder:
    """Collects nodes and constants; types are inferred. `loc` is set by whoever translates."""

    def __init__(self, ops: Registry) -> None:
        self.ops = ops
        self.loc = Loc()
        self.result: FloatType | None = None
        self.consts: dict[str, Const] = {}
        self._names: set[str] = set()
        self._types: dict[str, FloatType] = {}
        self._public: set[str] = set()
        self._segments: list[Segment] = []
        self._nodes: list[Node] = []
        self._by_data: dict[int, str] = {}
        self._kept: list[Array] = []

    def type(self, operand: str) -> FloatType:
        """Return the type of a value or constant."""
        if operand.startswith("@"):
            const = self.consts[operand].type
            assert isinstance(const, FloatType)
            return const
        return self._types[operand]

    def is_public(self, operand: str) -> bool:
        """Return whether both parties may know an operand: a constant that is no weight, a public
        input, or what is computed from such only."""
        if operand.startswith("@"):
            return not self.consts[operand].secret
        return operand in self._public

    def fresh(self, hint: str) -> str:
        """Return an unused name that looks like `hint`."""
        name, count = hint, 1
        while name in self._names:
            count += 1
            name = f"{hint}.{count}"
        self._names.add(name)
        return name

    def emit(
        self, op: str, inputs: Sequence[str], attrs: Mapping[str, Attr] = NO_ATTRS, name: str = ""
    ) -> str:
        """Add a node and return the name of its value ("" if it makes none).

        Raises CompileError, at `loc`, if the operands do not fit.
        """
        spec = self.ops[op]
        try:
            shape = spec.shape([self.type(i).shape for i in inputs], attrs)
        except ValueError as error:
            raise CompileError(f"{op}: {error}", self.loc) from None
        node_type = FloatType(tuple(shape), spec.dtype) if spec.result else None
        return self.add(
            Node(op, name, tuple(inputs), MappingProxyType(dict(attrs)), node_type, self.loc)
        )

    def replay(self, node: Node, inputs: Sequence[str]) -> str:
        """Add a node of another module on new operands; name, type and place are kept."""
        return self.add(replace(node, inputs=tuple(inputs)))

    def set_range(self, name: str, range_: tuple[float, float] | None) -> None:
        """Give a value its calibrated range, unless it has one."""
        if range_ is None or name.startswith("@") or self._types[name].range is not None:
            return
        self._types[name] = replace(self._types[name], range=range_)
        for i, node in enumerate(self._nodes):
            if node.out == name:
                self._nodes[i] = replace(node, type=self._types[name])

    def add(self, node: Node) -> str:
        """Add a node that already has its type; its name is kept if it is free."""
        if not self.ops[node.op].result:
            self._nodes.append(node)
            return ""
        out = self.fresh(node.out or f"%{node.op}")
        assert isinstance(node.type, FloatType)
        self._types[out] = node.type
        self._nodes.append(replace(node, out=out))
        known = node.inputs and all(map(self.is_public, node.inputs))
        if bool(node.attrs.get("public")) if node.op == "input" else known:
            self._public.add(out)
        return out

    def const(self, data: Array, name: str = "", secret: bool = False) -> str:
        """Add a constant and return its name. The same array object is added only once."""
        if id(data) in self._by_data:
            return self._by_data[id(data)]
        out = self.fresh(f"@{name or 'const'}")
        self.consts[out] = Const(FloatType(tuple(data.shape)), secret, np.asarray(data))
        self._by_data[id(data)] = out
        self._kept.append(data)
        return out

    def add_consts(self, consts: Mapping[str, Const]) -> None:
        """Take over the constants of another module under their names."""
        self.consts.update(consts)
        self._names.update(consts)

    def end_segment(self, name: str, route: int | None = None) -> None:
        """Close the segment that the nodes so far belong to."""
        self._segments.append(Segment(name, tuple(self._nodes), route))
        self._nodes = []

    def module(self) -> Module:
        """Return what was built, as a graph-level module."""
        assert not self._nodes, "the last segment is not closed"
        main = Function("main", tuple(self._segments))
        return Module("graph", (main,), MappingProxyType(dict(self.consts)))
