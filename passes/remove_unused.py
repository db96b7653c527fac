"""Pass `remove_unused`: drop instructions that nothing depends on, in all three functions."""

from __future__ import annotations

from dataclasses import replace

from srcompile.ir.graph import Function, Module, Node
from srcompile.runtime.check import PHASES

_RESULTS = ("input", "output", "route", "guard")
_ROOTS = frozenset({"public_input", *_RESULTS, *(f"plain_{op}" for op in _RESULTS)})
_DEALT = frozenset({"correlate", "table_keys", "sign_keys"})


def remove_unused(module: Module) -> Module:
    """Return a lowered module with only what an input, a route, a guard or an output depends on.

    What the dealer makes is kept if a party takes it from its slot.
    """
    needed: set[tuple[str, str]] = set()
    slots: set[object] = set()
    consts: set[str] = set()
    functions: dict[str, Function] = {}

    def wanted(phase: str, node: Node) -> bool:
        if node.op in _DEALT:
            return node.attrs["slot"] in slots
        return node.op in _ROOTS or (phase, node.out) in needed

    for phase in reversed(PHASES):
        function = module.function(phase)
        segments = []
        for segment in reversed(function.segments):
            kept = []
            for node in reversed(segment.nodes):
                if not wanted(phase, node):
                    continue
                kept.append(node)
                needed |= {(p, i) for i in node.inputs for p in _scopes(phase)}
                consts |= {i for i in node.inputs if i.startswith("@")}
                if phase == "prepare" and "slot" in node.attrs:
                    slots.add(node.attrs["slot"])
            segments.append(replace(segment, nodes=tuple(reversed(kept))))
        functions[phase] = replace(function, segments=tuple(reversed(segments)))
    return replace(
        module,
        functions=tuple(functions[phase] for phase in PHASES),
        consts={name: const for name, const in module.consts.items() if name in consts},
    )


def _scopes(phase: str) -> tuple[str, ...]:
    return ("prepare", "online") if phase == "online" else (phase,)
