"""Pass `emit_program`: turn a schedule into the runtime's Program."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from srcompile.errors import CompileError
from srcompile.ir.graph import Module, Node
from srcompile.ir.types import FixType
from srcompile.ops.program import rows_of
from srcompile.passes.lower import input_width
from srcompile.passes.quantise import Formats
from srcompile.passes.reuse_buffers import Buffers, reuse_buffers
from srcompile.runtime.check import PHASES
from srcompile.runtime.isa import RingType
from srcompile.runtime.program import (
    Constant,
    Encoding,
    Instruction,
    Layer,
    Program,
    SegmentInfo,
    Tensor,
)


@dataclass(frozen=True)
class Interface:
    """What client and program agree on: the encodings of inputs and outputs."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


def emit_program(module: Module, interface: Interface, target: str) -> Program:
    """Return the checked Program of a `schedule` module."""
    emitter = _Emitter(module)
    functions = {
        phase: tuple(
            tuple(emitter.instruction(phase, n) for n in segment.nodes)
            for segment in module.function(phase).segments
        )
        for phase in PHASES
    }
    program = Program(
        target,
        interface.inputs,
        interface.outputs,
        tuple(SegmentInfo(s.name, s.route) for s in module.function("online").segments),
        MappingProxyType(functions),
        emitter.constants(),
        tuple(emitter.layers),
    )
    program.check()
    return program


class _Emitter:
    def __init__(self, module: Module) -> None:
        self.module = module
        self.buffers: Buffers = reuse_buffers(module)
        self.layers: dict[Layer, int] = {}

    def instruction(self, phase: str, node: Node) -> Instruction:
        assert node.type is None or isinstance(node.type, RingType)
        place = f"{node.loc.file}:{node.loc.line}" if node.loc.file else ""
        layer = Layer(node.loc.module, node.loc.op, place)
        number = self.layers.setdefault(layer, len(self.layers))
        buffer = self.buffers.of.get((phase, node.out), -1)
        return Instruction(node.op, node.out, node.inputs, node.attrs, node.type, number, buffer)

    def constants(self) -> Mapping[str, Constant]:
        found = {}
        for name, const in self.module.consts.items():
            assert isinstance(const.type, RingType)
            if const.source is None and not const.secret:
                raise CompileError(f"the data of the public constant {name} is missing")
            found[name] = Constant(const.type, const.source)
        return MappingProxyType(found)


def interface_of(
    fixed: Module, calibrated: Mapping[str, tuple[float, float]], formats: Formats
) -> Interface:
    """Return the encodings of inputs and outputs of a fixed-level module with planned rings.

    `calibrated` gives the range of each input; the program takes it with the margin around it.
    """
    types = fixed.main.types()
    inputs, outputs = [], {}
    for node in fixed.main.nodes():
        if node.op == "input":
            type_ = types[node.out]
            assert isinstance(type_, FixType)
            name = str(node.attrs["name"])
            encoding = _encoding(fixed, node, type_)
            low, high = _INFINITE if encoding.ids else formats.widened(calibrated[name])
            width = input_width(node, type_)
            inputs.append(Tensor(name, type_.shape, type_.frac, width, low, high, encoding))
        elif node.op == "output":
            type_ = types[node.inputs[0]]
            assert isinstance(type_, FixType)
            name = str(node.attrs["name"])
            low, high = _INFINITE
            if "within" in node.attrs:
                top = (1 << (int(node.attrs["within"]) - 1)) - 1  # type: ignore[arg-type]
                high = top / 2.0**type_.frac
                low = -high
            outputs[name] = Tensor(name, type_.shape, type_.frac, type_.bits, low, high)
    return Interface(tuple(inputs), tuple(outputs.values()))


_INFINITE = (-math.inf, math.inf)


def _encoding(fixed: Module, node: Node, type_: FixType) -> Encoding:
    """Return how the client encodes an input."""
    ids = str(node.attrs.get("ids", ""))
    if not ids:
        return Encoding("bits" if node.attrs.get("bits") else "plain")
    if not node.inputs:
        return Encoding(str(node.attrs.get("digit", "one_hot")), ids, rows_of(node))
    table = fixed.consts[node.inputs[0]].data
    if table is None:
        raise CompileError(f"the data of the table {node.inputs[0]} is missing", node.loc)
    return Encoding("lookup", ids, table.shape[0], table)
