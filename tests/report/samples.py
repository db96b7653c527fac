"""Reports made by hand: they depend neither on the compiler nor on its projected times."""

from __future__ import annotations

from dataclasses import replace

from srcompile.errors import Loc
from srcompile.passes.check_leakage import Disclosure
from srcompile.passes.cost import NETWORKS, Network
from srcompile.passes.quantise import Gate
from srcompile.report.figures import CostReport, Figures, Layer, Message, Part, Round
from srcompile.report.learned import Learned
from srcompile.report.places import dearest_places, summed
from srcompile.report.variants import Change, Suggestion, Sweep, Variant

LAN = NETWORKS["lan"]


def figures(online: int, rounds: int, offline: int, compute: float, net: Network = LAN) -> Figures:
    """Return figures with their time on `net`."""
    seconds = compute + net.seconds(online, rounds)
    return Figures((online, online), rounds, (offline // 2, offline), compute, seconds)


def layer(name: str, op: str, line: int, cost: Figures) -> Layer:
    return Layer(name, op, f"models/net.py:{line}", cost, 0.0)


def part(name: str, layers: list[Layer], route: int | None = None) -> Part:
    """Return a part with its total, and its layers' shares of it."""
    total = summed([x.figures for x in layers])
    shared = [replace(x, share=x.figures.seconds / total.seconds) for x in layers]
    return Part(name, route, tuple(shared), total)


def block(k: int) -> list[Layer]:
    at = f"encoder.layer.{k}"
    return [
        layer(f"{at}.attention.query", "linear", 20, figures(90_000, 1, 100_000, 2e-3)),
        layer(f"{at}.attention.key", "linear", 21, figures(90_000, 0, 100_000, 2e-3)),
        layer(f"{at}.attention", "attention", 24, figures(1_500_000, 7, 9_000_000, 8e-3)),
        layer(f"{at}.attention", "reshape", 25, figures(0, 0, 0, 1e-5)),
        layer(f"{at}.act", "gelu", 31, figures(1_000_000 + k, 1, 40_000_000, 4e-2)),
        layer(f"{at}.down", "linear", 32, figures(1_400_000, 1, 3_000_000, 9e-3)),
    ]


def report(parts: list[Part], rounds: tuple[Round, ...] = ()) -> CostReport:
    """Return the report of parts; the first always runs."""
    routed = [p for p in parts if p.route is not None]
    totals = tuple(summed([parts[0].total, p.total]) for p in routed)
    total = max(totals, key=lambda t: t.seconds) if totals else parts[0].total
    return CostReport(
        "2pc",
        LAN,
        "by hand",
        tuple(parts),
        total,
        totals,
        (2_000_000, 2_000_000),
        6144,
        128,
        rounds,
        (Disclosure("the output 'y'", "the client", "it is what the program computes"),),
        (
            Learned("party 0", "the program", "the program file", "it runs it"),
            Learned("party 0", "nothing of 9 tensors", "masked wires", "uniform masks", True),
            Learned("party 1", "the program", "the program file", "it runs it"),
            Learned("party 1", "nothing of 9 tensors", "masked wires", "uniform masks", True),
            Learned("client", "the outputs 'y'", "both parties' shares", "they are its own"),
        ),
        (
            Gate("gelu", Loc("models/net.py", 31, "encoder.layer.0.act", "gelu"), (-2.5, 3.0),
                 (-8.0, 8.0), 0.01, 0.02),
            Gate("rsqrt", Loc("models/net.py", 40, "norm", "layer_norm"), (0.1, 4.0), (0.01, 8.0),
                 0.5, 0.02),
        ),
        (),
    )  # fmt: skip


def encoder() -> CostReport:
    """Two layers alike, and a head."""
    layers = [
        *block(0),
        *block(1),
        layer("pooler", "slice", 50, figures(2000, 1, 0, 1e-5)),
        layer("pooler.dense", "linear", 51, figures(4000, 1, 7000, 6e-4)),
        layer("", "output", 52, figures(500, 1, 0, 1e-5)),
    ]
    message = Message("encoder.layer.0.act", "gelu", "models/net.py:31", "open", 1000, 21, 2625)
    out = Message("", "output", "models/net.py:52", "output", 100, 40, 500)
    rounds = (Round("main", 1, (message, message)), Round("main", 2, (out,)))
    return report([part("main", layers)], rounds)


def pool() -> CostReport:
    """A router, and two models; the router does something for the larger one."""
    router = part(
        "router",
        [
            layer("router.fc", "linear", 5, figures(1000, 1, 2000, 1e-4)),
            layer("router", "argmax", 6, figures(20, 2, 900, 1e-4)),
            layer("large.fc1", "linear", 9, figures(0, 0, 5000, 0.0)),
        ],
    )
    small = part("small", [layer("small.fc", "linear", 8, figures(500, 1, 1000, 1e-4))], 0)
    large = part(
        "large",
        [
            layer("large.fc1", "linear", 9, figures(80_000, 1, 0, 1e-3)),
            layer("large.act", "relu", 10, figures(90_000, 4, 9_000_000, 3e-3)),
            layer("large.fc2", "linear", 11, figures(500, 1, 1000, 1e-4)),
        ],
        1,
    )
    rounds = tuple(
        Round(name, number, (Message("", "relu", "", "open", 8, 20, 20),))
        for name, number in (("router", 1), ("small", 2), ("large", 2), ("large", 3))
    )
    return report([router, small, large], rounds)


def suggestions() -> tuple[Suggestion, ...]:
    """Changes for the encoder's dear places."""
    found = encoder()
    places = dearest_places(found)
    cheaper = replace(
        found.total,
        online_bytes=(5_000_000, 5_000_000),
        offline_bytes=(1, 30_000_000),
        seconds=found.total.seconds / 2,
        rounds=found.total.rounds + 1,
    )
    change = Change(
        "quad for gelu", "--set gelu=quad", "the model must be trained with it", cheaper
    )
    return (Suggestion(places[0], (change,)), Suggestion(places[1], ()))


def sweep() -> Sweep:
    """Four programs on two networks."""
    base = encoder()
    variants = []
    for net in (LAN, NETWORKS["wan"]):
        for bits, online in (("6", 6_000_000), ("8", 8_170_001)):
            total = figures(online, base.total.rounds, 100_000_000, 0.1, net)
            at = replace(base, network=net, total=total)
            variants.append(Variant({"network": net.name, "precision-bits": bits}, at))
    return Sweep(("network", "precision-bits"), tuple(variants))
