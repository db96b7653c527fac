"""What documents hold that is made from the code: tables in ir.md, golden files in passes.md.

It stands between `<!-- table: NAME -->` or `<!-- golden: PASS/CASE -->` and `<!-- end -->`.

    python -m tests.docs.tables    writes it anew
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from srcompile.errors import Loc
from srcompile.frontend.layout import LAYOUT
from srcompile.frontend.rules import rules
from srcompile.ir.graph import NO_ATTRS, Array
from srcompile.ir.types import FloatType
from srcompile.ops import registry, torch_names
from srcompile.ops.base import Attrs, Op
from srcompile.ops.builder import GraphBuilder
from srcompile.runtime.isa import INSTRUCTIONS, Spec
from tests.support import golden

ROOT = Path(__file__).parents[2]
DOCUMENTS = (ROOT / "docs" / "ir.md", ROOT / "docs" / "passes.md")
GOLDEN = ROOT / "tests" / "passes" / "golden"
MARKED = re.compile(
    r"(<!-- (?P<kind>table|golden): (?P<name>[\w/ ]+) -->\n).*?(\n<!-- end -->)", re.DOTALL
)


def categories() -> dict[str, list[Op]]:
    """Return the ops by the module that defines them."""
    found: dict[str, list[Op]] = {}
    for op in registry().values():
        found.setdefault(type(op).__module__.rpartition(".")[2], []).append(op)
    return found


_SUMS = "add sub concat"
_UNARY = "neg scale offset sum reshape broadcast transpose slice pad reduce"
_DECLARED = "mask correlation table_key sign_key plain_input"
_DEALERS = "widen msb correlate table_keys sign_keys"
_WEIGHTS = "weight_mask weight_opened weight_share plain_weight"
_PLAIN = "plain_relu plain_nonneg plain_extend plain_route plain_guard plain_output"
_PUBLIC = "public_relu public_nonneg public_extend"
_TABLES = "public t0, and public t1 if `low_bits` is not 0"

OPERANDS: Mapping[str, str] = {
    **dict.fromkeys(_SUMS.split(), "of one kind, or masked and public, or clear and public"),
    **dict.fromkeys(_UNARY.split(), "any but a key"),
    "add_common": "share or mask, masked or public",
    "lift": "masked or public",
    **dict.fromkeys(
        ("mul", "matmul", "conv2d"), "share and masked, or clear and clear, or public and any"
    ),
    "shift": "masked, public or clear",
    **dict.fromkeys(_DECLARED.split(), "none; the type is declared"),
    **dict.fromkeys(_DEALERS.split(), "clear"),
    "table": f"masked, key, {_TABLES}",
    "relu": "masked, key, shares of m, m·r and r",
    "nonneg": "masked, key, share of m",
    "extend": "masked, shares of r and m",
    "square": "masked, shares of r, m, r^2 and m·r",
    "multiply": "two masked, shares of r, m, s, n, r·s, r·n, m·s and m·n",
    **dict.fromkeys(_WEIGHTS.split(), "a weight"),
    "input": "mask",
    "open": "share, mask",
    **dict.fromkeys(("route", "guard", "output"), "share"),
    "public_input": "none",
    "public_table": f"public, {_TABLES}",
    **dict.fromkeys(_PUBLIC.split(), "public"),
    "plain_table": f"clear, {_TABLES}",
    **dict.fromkeys(_PLAIN.split(), "clear"),
}

SENT: Mapping[str, str] = {
    "<lambda>": "",
    "_to_p1": "dealer to P1: w bits an element",
    "_keys_sent": "dealer to both: a key for each element",
    "_input_sent": "each party to client, offline, and client to each party: w bits an element",
    "_public_sent": "client to each party: w bits an element",
    "_exchanged": "each way: w bits an element",
    "_opened": "each way: w - by bits an element",
    "_guard_sent": "each way: one bit; then each party to client: one byte",
}


class _Recorder:
    """An emitter that notes which ops an expansion uses, one level deep."""

    def __init__(self, b: GraphBuilder) -> None:
        self.b = b
        self.used: dict[str, None] = {}
        self.loc = Loc()
        self.result: FloatType | None = None

    def emit(self, op: str, inputs: Sequence[str], attrs: Attrs = NO_ATTRS) -> str:
        self.used[op] = None
        return self.b.emit(op, inputs, attrs)

    def const(self, data: Array, name: str = "") -> str:
        return self.b.const(data, name)

    def type(self, operand: str) -> FloatType:
        return self.b.type(operand)

    def is_public(self, operand: str) -> bool:
        return self.b.is_public(operand)


def expansion(op: Op) -> tuple[str, ...]:
    """Return the ops that the expansions of an op's cases use, in order."""
    used: dict[str, None] = {}
    for case in op.cases():
        b = GraphBuilder(registry())
        inputs = [
            b.emit("input", [], {"name": f"x{i}", "shape": shape})
            for i, shape in enumerate(case.shapes)
        ]
        recorder = _Recorder(b)
        op.expand(recorder, inputs, case.attrs)
        used.update(recorder.used)
    return tuple(used)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(c.replace("|", "\\|") for c in line) + " |" for line in lines
    )


def _code(names: Sequence[str]) -> str:
    return ", ".join(f"`{n}`" for n in names)


def _how(op: Op) -> str:
    if op.linear:
        return "primitive, linear"
    if op.primitive:
        return "primitive"
    used = expansion(op)
    return f"expands into {_code(used)}" if used else "replaced by `place_embeddings`"


def ops_table(ops: Sequence[Op]) -> str:
    """Return the table of some ops."""
    rows = [
        [
            f"`{op.name}`",
            (op.__doc__ or "").splitlines()[0].rstrip("."),
            _code(op.attrs) + (f" and perhaps {_code(op.optional)}" if op.optional else ""),
            _how(op),
            _code(op.torch),
        ]
        for op in ops
    ]
    return _table(("op", "what", "attributes", "how", "torch names"), rows)


def calls_table() -> str:
    """Return the table of torch calls that are no op of their own."""
    others = {name: rule for name, rule in rules().items() if name not in torch_names()}
    moved = sorted(name for name in others if name in LAYOUT)
    rest = sorted(name for name in others if name not in LAYOUT)
    made = [n for n in rest if "_made" in getattr(others[n], "__qualname__", "")]
    same = [name for name in rest if name not in made]
    moves = "only move elements: `reshape`, `transpose`, `slice`, `concat`, `broadcast`"
    return _table(
        ("what", "torch names"),
        [
            [moves, _code(moved)],
            ["make constants from numbers", _code(made)],
            ["do nothing in evaluation mode, or become the ops above", _code(same)],
        ],
    )


def _sent(spec: Spec) -> str:
    if spec.name == "output":
        return "each party to client: w bits an element"
    return SENT[spec.sends.__qualname__.partition(".")[0].replace("Spec", "<lambda>")]


def instructions_table() -> str:
    """Return the table of the instruction set."""
    rows = [
        [f"`{spec.name}`", ", ".join(spec.phases), _code(spec.attrs), OPERANDS[name], _sent(spec)]
        for name, spec in INSTRUCTIONS.items()
    ]
    return _table(("instruction", "functions", "attributes", "operands", "sends"), rows)


TABLES: Mapping[str, Callable[[], str]] = {
    **{f"ops {name}": partial(ops_table, ops) for name, ops in categories().items()},
    "torch calls": calls_table,
    "instructions": instructions_table,
}


def golden_example(name: str) -> str:
    """Return a golden file as two blocks, before and after; `PASS/CASE online` shows less of it."""
    case, _, function = name.partition(" ")
    text = (GOLDEN / f"{case}.txt").read_text(encoding="utf-8")
    before, _, after = (part.strip("\n") for part in text.partition(golden.SEPARATOR))
    if function:
        before, after = (_function(text, function) for text in (before, after))
    return f"```\n{before}\n```\n\nbecomes\n\n```\n{after}\n```"


def _function(text: str, name: str) -> str:
    return text[max(text.find(f"func @{name} "), 0) :]


def made(match: re.Match[str]) -> str:
    """Return what belongs between two marks."""
    name = match["name"]
    return TABLES[name]() if match["kind"] == "table" else golden_example(name)


def updated(text: str) -> str:
    """Return a document with all that is made from the code anew."""
    return MARKED.sub(lambda m: m[1] + made(m) + m[4], text)


if __name__ == "__main__":
    for document in DOCUMENTS:
        document.write_text(updated(document.read_text(encoding="utf-8")), encoding="utf-8")
