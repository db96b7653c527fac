"""Printing IR as text. `parser` reads it back."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

from srcompile.errors import Loc
from srcompile.ir.graph import Attr, Function, Module, Node, Segment

VERSION = 1


def attr_text(value: Attr) -> str:
    """Return an attribute as IR text."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return f"[{', '.join(map(str, value))}]"
    return json.dumps(value) if isinstance(value, str) else repr(value)


def attrs_text(attrs: Mapping[str, Attr]) -> str:
    """Return ` {name=value, ...}`, or nothing if there are no attributes."""
    inside = ", ".join(f"{name}={attr_text(value)}" for name, value in attrs.items())
    return f" {{{inside}}}" if inside else ""


def node_text(node: Node) -> str:
    """Return one statement, without its newline."""
    head = f"{node.out} = " if node.out else ""
    tail = f" : {node.type}" if node.type is not None else ""
    if node.loc != Loc():
        tail += f" at {json.dumps(node.loc.file)}:{node.loc.line}"
        tail += f" in {json.dumps(node.loc.module)}" if node.loc.module else ""
        tail += f" from {node.loc.op}" if node.loc.op else ""
    return f"{head}{node.op}({', '.join(node.inputs)}){attrs_text(node.attrs)}{tail}"


def _segment_lines(segment: Segment) -> Iterator[str]:
    when = "" if segment.route is None else f" when route = {segment.route}"
    yield f"segment {json.dumps(segment.name)}{when} {{"
    last_round = None
    for node in segment.nodes:
        this_round = node.attrs.get("round", last_round)
        if this_round != last_round:
            yield f"  // round {this_round}"
            last_round = this_round
        yield f"  {node_text(node)}"
    yield "}"


def _function_lines(function: Function) -> Iterator[str]:
    extends = f" extends @{function.extends}" if function.extends else ""
    yield f"func @{function.name}{extends} {{"
    for segment in function.segments:
        yield from _segment_lines(segment)
    yield "}"


def print_module(module: Module, functions: tuple[str, ...] = ()) -> str:
    """Return `module` as text; with `functions`, only those of its functions."""
    lines = [f"srcompile {VERSION} level {json.dumps(module.level)}"]
    for name, const in module.consts.items():
        lines.append(f"const {name} : {const.type} {'secret' if const.secret else 'public'}")
    for function in module.functions:
        if not functions or function.name in functions:
            lines += _function_lines(function)
    return "\n".join(lines) + "\n"
