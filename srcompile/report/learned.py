"""Who learns what from a run, from what, and why: the leakage report, in words.

Derived from the program alone, so it can be told of any program file. `passes/check_leakage.py`
proves that nothing else leaves a party.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from srcompile.runtime.program import Program

ROLES = ("party 0", "party 1", "dealer", "client", "network observer")

GUARD = "one bit: whether every value stayed in its range"


@dataclass(frozen=True)
class Learned:
    """One thing that a role learns, or that it does not although it handles it.

    who: one of ROLES, or `the one party` of a plain program.
    secret: whether what it gets says nothing: uniform, or a share by itself.
    """

    who: str
    what: str
    source: str
    why: str
    secret: bool = False


def learned(program: Program) -> tuple[Learned, ...]:
    """Return what each role learns from runs of a program, and what it sees without learning."""
    if program.target == "plain":
        everything = "everything: inputs, weights, outputs"
        return (Learned("the one party", everything, "the run", "the plain target hides nothing"),)
    return tuple(_learned(program))


def _learned(program: Program) -> Iterator[Learned]:
    ops = [i.op for _, i in program.instructions("online")]
    public = [i for _, i in program.instructions("online") if i.op == "public_input"]
    opened = ops.count("open") + ops.count("input")
    weights = len(program.weights())
    routes = [s.name for s in program.segments if s.route is not None] if "route" in ops else []
    outputs = ", ".join(f"'{t.name}'" for t in program.outputs)
    shape = "layers, shapes, formats, calibrated ranges, public constants"
    for party in ROLES[:2]:
        yield Learned(party, f"the program: {shape}", "the program file", "it runs it")
        if routes:
            yield Learned(
                party,
                f"the route: which of {', '.join(routes)} runs",
                "the opened index",
                "it must know which model to run",
            )
        for i in public:
            yield Learned(
                party,
                f"the mask '{i.attrs['name']}': which tokens count, and so how long the input is",
                "the client's message",
                "with mask=public the client gives it as it is",
            )
        if "guard" in ops:
            yield Learned(party, GUARD, "the opened bit", "a run with a value out of range ends")
        yield Learned(
            party,
            f"nothing of {opened} tensors, the inputs among them",
            "masked wires",
            "each has a uniform mask of its own, of which a party knows only a share",
            secret=True,
        )
        if weights:
            yield Learned(
                party,
                f"nothing of {weights} weights but their shapes",
                "shares, and differences to uniform matrices",
                "a share alone, and a difference to what is uniform, are uniform",
                secret=True,
            )
    yield Learned("dealer", f"the program: {shape}", "the program file", "it makes its randomness")
    if routes:
        yield Learned(
            "dealer",
            f"how often each of {', '.join(routes)} ran",
            "requests for material",
            "it replaces the material of the model that used it up",
        )
    yield Learned(
        "dealer",
        "nothing of inputs, weights and outputs",
        "requests for material",
        "it receives nothing else, and they depend on no value" + (" but the route" * bool(routes)),
        secret=True,
    )
    yield Learned("client", f"the outputs {outputs}", "both parties' shares", "they are its own")
    if "guard" in ops:
        yield Learned("client", GUARD, "both parties' word", "it gets an error instead of outputs")
    for tensor in program.inputs:
        yield from _of_input(tensor.name, tensor.encoding.kind, tensor.encoding.ids)
    if routes:
        yield Learned(
            "client",
            f"the route: which of {', '.join(routes)} ran",
            "both parties' word",
            "they tell it",
        )
    yield Learned(
        "network observer",
        "how many inferences there are, when, and the program that fits the sizes of messages",
        "times and sizes of messages",
        "they are those of the program and depend on no value",
    )
    if routes:
        yield Learned(
            "network observer",
            "the route of each inference",
            "how many rounds follow, and how long messages are",
            "the models send different amounts",
        )
    yield Learned(
        "network observer",
        "nothing of inputs, weights and outputs, as long as channels are encrypted",
        "ciphertexts",
        "without encryption whoever reads all links has both shares of the outputs",
        secret=True,
    )


def _of_input(name: str, kind: str, ids: str) -> Iterator[Learned]:
    yield Learned("client", f"the masks of its input '{name}'", "both parties' shares of them",
                  "it masks the input itself")  # fmt: skip
    if kind == "lookup":
        yield Learned(
            "client",
            f"the table that '{ids}' is looked up in for '{name}', and whoever has the program "
            "file learns it too",
            "the program file",
            "with embedding=client it looks the rows up itself",
        )
    elif kind == "one_hot":
        yield Learned(
            "client",
            f"how many rows the tables of '{ids}' have",
            "the input's shape",
            "with embedding=secret it encodes ids by that",
        )
