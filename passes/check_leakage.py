"""Pass `check_leakage`: prove that a lowered program discloses only what it declares, and say what.

The proof is the type system of srcompile.runtime.isa with the rules of srcompile.runtime.check:
a value leaves a party only through `open` and `input`, under a uniform mask that no other opening
uses, or through `route`, `guard` and `output`, which declare it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from srcompile.errors import TextError, VerifyError
from srcompile.ir.graph import Module
from srcompile.runtime.check import PHASES, CheckError, check
from srcompile.runtime.isa import RingType, packed_bytes
from srcompile.runtime.program import ONE_HOT, Tensor


@dataclass(frozen=True)
class Disclosure:
    """One thing somebody learns: what, who, and why."""

    what: str
    to: str
    why: str


def verify_lowered(module: Module) -> None:
    """Check every rule of a `lowered` or `schedule` module. Raises VerifyError at the place."""
    if {f.name for f in module.functions} != set(PHASES):
        raise VerifyError(f"a program has the functions {', '.join(PHASES)}")
    functions = {
        phase: [list(s.nodes) for s in module.function(phase).segments] for phase in PHASES
    }
    segments = module.function("online").segments
    if any(len(body) != len(segments) for body in functions.values()):
        raise VerifyError("the functions have different segments")
    declared = {
        (phase, node.out): node.type if isinstance(node.type, RingType) else None
        for phase in PHASES
        for node in module.function(phase).nodes()
    }
    consts = {n: c.type for n, c in module.consts.items() if isinstance(c.type, RingType)}
    try:
        check(functions, declared, consts, [s.route for s in segments])
        _check_rounds(module)
    except CheckError as error:
        nodes = functions.get(error.phase, [[]])[error.segment]
        if error.index >= len(nodes):
            raise VerifyError(str(error)) from None
        node = nodes[error.index]
        raise VerifyError(str(error), node.loc, node.pos) from None


def _check_rounds(module: Module) -> None:
    """In a schedule, the messages of a round stand together, in order, before what needs them."""
    if module.level != "schedule":
        return
    ready: dict[str, int] = {}
    for number, segment in enumerate(module.function("online").segments):
        now = guard = 0
        for index, node in enumerate(segment.nodes):
            needs = max((ready.get(i, 0) for i in node.inputs), default=0)
            if node.op == "output":
                needs = max(needs, guard)
            this = node.attrs.get("round")
            if isinstance(this, int):
                if this < now or needs >= this:
                    raise CheckError(
                        f"round {this} is too early here: an operand is there after round {needs}, "
                        f"round {now} has begun",
                        "online",
                        number,
                        index,
                    )
                now = needs = this
                guard = this if node.op == "guard" else guard
            ready[node.out] = needs


def verify_lowered_text(module: Module, text: str) -> None:
    """Verify a module parsed from `text`. Raises TextError with line, column and caret."""
    try:
        verify_lowered(module)
    except VerifyError as error:
        raise TextError(error.message, text, *error.pos) from None


def check_leakage(module: Module, inputs: Sequence[Tensor] = ()) -> tuple[Disclosure, ...]:
    """Verify a lowered module and return everything it discloses, to whom and why.

    `inputs` says how the client encodes them, and with what. Raises VerifyError if the program
    breaks a rule.
    """
    verify_lowered(module)
    return tuple(_disclosures(module, inputs))


def _tables(inputs: Sequence[Tensor]) -> Iterator[Disclosure]:
    encoded: dict[tuple[str, int], int] = {}
    for tensor in inputs:
        encoding = tensor.encoding
        sent = packed_bytes(math.prod(tensor.shape), tensor.width)
        if encoding.kind == "lookup":
            table = tensor.name.removeprefix(f"{encoding.ids}.")
            yield Disclosure(
                f"the table '{table}' that '{encoding.ids}' is looked up in",
                "the client, and whoever has the program file",
                f"with embedding=client it looks the rows up itself and sends {sent} bytes to each "
                "party; what follows is secret",
            )
        elif encoding.kind in ONE_HOT:
            key = encoding.ids, encoding.rows
            encoded[key] = encoded.get(key, 0) + sent
    for (ids, rows), sent in encoded.items():
        yield Disclosure(
            f"how many rows the tables have that '{ids}' is looked up in: {rows}",
            "the client",
            f"with embedding=secret it encodes the ids by that and sends {sent} bytes to each "
            "party; the tables stay secret weights",
        )


def _disclosures(module: Module, inputs: Sequence[Tensor]) -> Iterator[Disclosure]:
    online = module.function("online")
    ops = [n.op for n in online.nodes()]
    if any(op.startswith("plain_") for op in ops):
        yield Disclosure("everything", "the one party", "the plain target hides nothing")
        return
    yield Disclosure(
        "the program: layers, shapes, formats, calibrated ranges, public constants",
        "both parties and the dealer",
        "all of them run it",
    )
    routes = [n for n in online.nodes() if n.op == "route"]
    if routes:
        names = ", ".join(s.name for s in online.segments[1:])
        yield Disclosure(
            f"the route: which of {names} runs",
            "both parties and the client",
            "the parties must know which schedule to run, and tell the client",
        )
        yield Disclosure(
            "how often each model ran",
            "the dealer",
            "it replaces the material of the model that used it up",
        )
    if "guard" in ops:
        yield Disclosure(
            "one bit: whether every value stayed in its range",
            "both parties and the client",
            "if one did not the outputs would be wrong: the client gets an error, and no output",
        )
    for name in dict.fromkeys(str(n.attrs["name"]) for n in online.nodes() if n.op == "output"):
        yield Disclosure(f"the output '{name}'", "the client", "it is what the program computes")
    for name in (str(n.attrs["name"]) for n in online.nodes() if n.op == "input"):
        yield Disclosure(f"the mask of the input '{name}'", "the client", "the input is its own")
    for name in (str(n.attrs["name"]) for n in online.nodes() if n.op == "public_input"):
        yield Disclosure(
            f"the mask '{name}': which tokens count, and so how long the input is",
            "both parties",
            "with mask=public the client gives it to them as it is",
        )
    yield from _tables(inputs)
    opened = sum(op in ("open", "input") for op in ops)
    of_routes = " in all segments together" if routes else ""
    yield Disclosure(
        f"{opened} masked tensors{of_routes}, each uniformly distributed",
        "both parties",
        f"each under one of {opened} masks that no other opening uses: they tell nothing",
    )
