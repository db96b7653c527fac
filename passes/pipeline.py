"""The pipeline: which passes run, in which order, with a verification between any two."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import numpy as np

from srcompile.errors import UserError
from srcompile.ir.graph import Array, Const, Module
from srcompile.ir.types import FloatType
from srcompile.ops import Registry
from srcompile.ops.verifier import verify
from srcompile.passes.approximate import approximate
from srcompile.passes.calibrate import calibrate
from srcompile.passes.check_leakage import Disclosure, check_leakage, verify_lowered
from srcompile.passes.cost import Cost, Network, estimate_cost
from srcompile.passes.emit_program import Interface, emit_program, interface_of
from srcompile.passes.expand import expand
from srcompile.passes.fold_constants import fold_constants
from srcompile.passes.fuse_functions import fuse_functions
from srcompile.passes.fuse_layers import fuse_layers
from srcompile.passes.guard import guard
from srcompile.passes.lower import lower
from srcompile.passes.machine import Machine
from srcompile.passes.merge_common import merge_common
from srcompile.passes.place_embeddings import place_embeddings
from srcompile.passes.plan_rings import extended_values, plan_rings
from srcompile.passes.protocols import PROTOCOLS
from srcompile.passes.quantise import Formats, Gate, Range, quantise
from srcompile.passes.remove_unused import remove_unused
from srcompile.passes.reorder_relu import reorder_relu
from srcompile.passes.schedule_rounds import schedule_rounds
from srcompile.passes.sink_broadcasts import sink_broadcasts
from srcompile.runtime.program import Program

ROUTE_COSTS = "@route.costs"
LATE = frozenset({"row_top"})
"""Ops inside the expansion of others, whose own expansion depends on a calibrated range."""
Samples = Sequence[Mapping[str, Array]]


@dataclass(frozen=True)
class Options:
    """What the user can choose about a compilation.

    machines: whose computing projected times assume; without them, the built-in one.
    guard: g of passes/guard.py, 0 for none.
    """

    target: str
    network: Network
    formats: Formats = field(default_factory=Formats)
    max_width: int | None = None
    cost_weight: float = 0.0
    approximations: Mapping[str, str] = field(default_factory=dict)
    embedding: str = "client"
    machines: tuple[Machine, Machine] | None = None
    guard: int = 0


@dataclass(frozen=True)
class Stages:
    """A program on every level, with what is known about it.

    expanded: the graph level as it was quantised: primitives only, calibrated.
    gates: what each gate takes, in order.
    """

    graph: Module
    fixed: Module
    lowered: Module
    schedule: Module
    interface: Interface
    program: Program
    cost: Cost
    leakage: tuple[Disclosure, ...]
    expanded: Module
    gates: tuple[Gate, ...]

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know of gates that are less precise than asked for."""
        return tuple(gate.note for gate in self.gates if gate.note is not None)


def run_pipeline(graph: Module, samples: Samples, ops: Registry, options: Options) -> Stages:
    """Compile a captured graph-level module.

    If it routes, the costs in the routing rule are those of a first compilation without them.
    Raises CompileError at the op that cannot be compiled, UserError for an unknown target.
    """
    if options.target not in PROTOCOLS:
        names = ", ".join(PROTOCOLS)
        raise UserError(f"there is no target '{options.target}': choose {names}")
    stages = _compile(graph, samples, ops, options)
    if ROUTE_COSTS not in graph.consts or not options.cost_weight:
        return stages
    return _compile(with_route_costs(graph, stages.cost, options), samples, ops, options)


def with_route_costs(graph: Module, cost: Cost, options: Options) -> Module:
    """Return `graph` with cost_weight * (model's time / slowest time) in its routing rule."""
    old = graph.consts[ROUTE_COSTS]
    branches = sorted((s for s in cost.segments if s.route is not None), key=lambda s: s.route or 0)
    seconds = np.array([cost.seconds(s.total) for s in branches])
    if len(seconds) == 0:  # oblivious: every model runs, so none is cheaper
        return graph
    data = (options.cost_weight * seconds / seconds.max()).astype(np.float32)
    data = data.reshape(old.type.shape)
    consts = {**graph.consts, ROUTE_COSTS: Const(old.type, old.secret, data)}
    return replace(graph, consts=MappingProxyType(consts))


def replan(stages: Stages, ops: Registry, options: Options) -> Stages:
    """Return `stages` compiled again for another network, other formats or another widest ring.

    Nothing is calibrated again, so `options` may differ in these only, and the program must not
    route: the costs in a routing rule depend on the network.
    """
    return _planned(stages.graph, stages.expanded, ops, options)


def _compile(graph: Module, samples: Samples, ops: Registry, options: Options) -> Stages:
    def checked(module: Module) -> Module:
        verify(module, ops)
        return module

    before_expansion: tuple[Callable[[Module], Module], ...] = (
        lambda m: approximate(m, ops, options.approximations),
        lambda m: fold_constants(m, ops),
        merge_common,
        lambda m: place_embeddings(m, ops, options.embedding),
        lambda m: sink_broadcasts(m, ops),
        lambda m: fuse_functions(m, ops),
        merge_common,
        reorder_relu,
        lambda m: calibrate(m, ops, samples),
    )
    after_expansion: tuple[Callable[[Module], Module], ...] = (
        lambda m: expand(m, ops, LATE),
        lambda m: fold_constants(m, ops),
        lambda m: fuse_layers(m, ops),
        merge_common,
        lambda m: fold_constants(m, ops),
        lambda m: calibrate(m, ops, samples),
        lambda m: calibrate(expand(m, ops), ops, samples) if _has(m, LATE) else m,
    )
    module = checked(graph)
    for transform in before_expansion:
        module = checked(transform(module))
    calibrated = module
    for transform in after_expansion:
        module = checked(transform(module))
    return _planned(calibrated, module, ops, options)


def _planned(graph: Module, expanded: Module, ops: Registry, options: Options) -> Stages:
    gates: list[Gate] = []

    def checked(module: Module) -> Module:
        verify(module, ops)
        return module

    ranges: dict[str, Range] = {}
    formats = replace(options.formats, headroom=bool(options.guard))
    fixed = checked(quantise(expanded, ops, formats, gates, ranges))

    def planned(extended: frozenset[str]) -> Module:
        module = fixed
        if options.guard:
            module = checked(guard(fixed, ops, ranges, options.guard, extended))
        return checked(plan_rings(module, ops, options.max_width, options.network))

    with_rings = _until_all_are_checked(planned) if options.guard else planned(frozenset())
    lowered = lower(with_rings, PROTOCOLS[options.target])
    verify_lowered(lowered)
    lowered = remove_unused(lowered)
    verify_lowered(lowered)
    schedule = schedule_rounds(lowered)
    interface = interface_of(with_rings, _input_ranges(expanded), options.formats)
    leakage = check_leakage(schedule, interface.inputs)
    program = emit_program(schedule, interface, options.target)
    cost = estimate_cost(program, options.network, options.machines)
    known = (interface, program, cost, leakage, expanded, tuple(gates))
    return Stages(graph, with_rings, lowered, schedule, *known)


def _until_all_are_checked(planned: Callable[[frozenset[str]], Module]) -> Module:
    """Return a plan in which every value that is extended is checked before.

    `planned` plans rings, with checks of the values that it is given the names of.
    """
    extended: frozenset[str] = frozenset()
    while True:
        module = planned(extended)
        found = extended_values(module)
        if found <= extended:
            return module
        extended |= found


def _has(module: Module, ops: frozenset[str]) -> bool:
    return any(node.op in ops for node in module.main.nodes())


def _input_ranges(module: Module) -> dict[str, tuple[float, float]]:
    return {
        str(node.attrs["name"]): node.type.range
        for node in module.main.nodes()
        if node.op == "input" and isinstance(node.type, FloatType) and node.type.range
    }
