"""Golden files of the passes: golden/<pass>/<case>.txt is IR text in, `====`, IR text out.

Constants hold 1/4, 2/4, 3/4, .. unless a comment `// data @w = [..]` says otherwise; other comments
`// option = value` set options of the pass, and `// range %x = [low, high]` tells `guard` of one.
What comes out ends with the data of small constants.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from srcompile.errors import UserError
from srcompile.ir.graph import Array, Module
from srcompile.ir.parser import parse_module
from srcompile.ir.printer import print_module
from srcompile.ir.types import FixType, FloatType
from srcompile.ops import registry
from srcompile.ops.verifier import verify
from srcompile.passes.approximate import approximate
from srcompile.passes.calibrate import calibrate
from srcompile.passes.check_leakage import check_leakage, verify_lowered
from srcompile.passes.expand import expand
from srcompile.passes.fold_constants import fold_constants
from srcompile.passes.fuse_functions import fuse_functions
from srcompile.passes.fuse_layers import fuse_layers
from srcompile.passes.guard import guard
from srcompile.passes.lower import lower
from srcompile.passes.merge_common import merge_common
from srcompile.passes.place_embeddings import place_embeddings
from srcompile.passes.plan_rings import plan_rings
from srcompile.passes.protocols import PROTOCOLS
from srcompile.passes.quantise import Formats, Range, quantise
from srcompile.passes.remove_unused import remove_unused
from srcompile.passes.reorder_relu import reorder_relu
from srcompile.passes.reuse_buffers import reuse_buffers
from srcompile.passes.schedule_rounds import schedule_rounds
from srcompile.passes.sink_broadcasts import sink_broadcasts
from tests.support import golden

FOLDER = Path(__file__).parent / "golden"
OPS = registry()
SAMPLES = (
    {"x": np.array([-1.5, 0.25], np.float32)},
    {"x": np.array([0.5, 2.0], np.float32)},
)
SHOWN = 16
"""Constants of more elements are not printed."""


@dataclass(frozen=True)
class Given:
    """What a golden file holds: a module, and options."""

    module: Module
    options: Mapping[str, str]
    ranges: Mapping[str, Range]

    def number(self, name: str, default: float) -> float:
        return float(self.options.get(name, default))


def read(text: str) -> Given:
    options = dict(re.findall(r"^// (\w+) = (.+)$", text, re.MULTILINE))
    written = dict(re.findall(r"^// data (@\S+) = (.+)$", text, re.MULTILINE))
    data: dict[str, Array] = {}
    for name, const in parse_module(text).consts.items():
        if not isinstance(const.type, (FloatType, FixType)):
            continue
        shape = const.type.shape
        dtype = np.float32 if isinstance(const.type, FloatType) else np.int64
        ramp = np.arange(1, int(np.prod(shape)) + 1) / (4 if dtype == np.float32 else 1)
        values = json.loads(written[name]) if name in written else ramp
        data[name] = np.asarray(values, dtype).reshape(shape)
    module = parse_module(text, data)
    check(module)
    ends = re.findall(r"^// range (%\S+) = \[(.+), (.+)\]$", text, re.MULTILINE)
    return Given(module, options, {name: (float(low), float(high)) for name, low, high in ends})


def check(module: Module) -> None:
    if module.level in ("graph", "fixed"):
        verify(module, OPS)
    else:
        verify_lowered(module)


def shown(module: Module) -> str:
    check(module)
    lines = [print_module(module).rstrip("\n")]
    for name, const in module.consts.items():
        if const.data is not None and const.data.size <= SHOWN:
            values = ", ".join(f"{v:.6g}" for v in const.data.reshape(-1).tolist())
            lines.append(f"// data {name} = [{values}]")
    return "\n".join(lines)


def buffers(module: Module) -> str:
    """Print the values of each function with their buffers, and the bytes of all buffers."""
    plan = reuse_buffers(module)
    lines = []
    for function in module.functions:
        lines.append(f"{function.name}: {plan.peak[function.name]} bytes")
        for node in function.nodes():
            number = plan.of.get((function.name, node.out))
            if node.out:
                lines.append(f"  {node.out}: {'-' if number is None else number}")
    return "\n".join(lines)


def disclosures(module: Module) -> str:
    return "\n".join(f"{d.what} -> {d.to}: {d.why}" for d in check_leakage(module))


def _plan_rings(given: Given) -> str:
    width = int(given.number("max_width", 62))
    return shown(plan_rings(given.module, OPS, width))


def _quantise(given: Given) -> str:
    formats = Formats(
        int(given.number("activation_bits", 16)),
        int(given.number("weight_bits", 12)),
        int(given.number("table_bits", 12)),
        given.number("margin", 2.0),
        precision_bits=int(given.number("precision_bits", 0)),
        headroom=bool(given.number("headroom", 0)),
    )
    return shown(quantise(given.module, OPS, formats))


def _guard(given: Given) -> str:
    """Values may fill half of their bits, unless a comment `// range %x = [..]` says otherwise."""
    ranges: dict[str, Range] = {}
    for name, type_ in given.module.main.types().items():
        assert isinstance(type_, FixType)
        most = 2.0 ** (type_.bits - 2 - type_.frac)
        ranges[name] = given.ranges.get(name, (-most, most))
    return shown(guard(given.module, OPS, ranges, int(given.number("guard_bits", 4))))


PASSES: Mapping[str, Callable[[Given], str]] = {
    "approximate": lambda g: shown(
        approximate(g.module, OPS, {"gelu": "quad", "softmax": "2quad"})
    ),
    "fold_constants": lambda g: shown(fold_constants(g.module, OPS)),
    "merge_common": lambda g: shown(merge_common(g.module)),
    "place_embeddings": lambda g: shown(
        place_embeddings(g.module, OPS, g.options.get("embedding", "client"))
    ),
    "sink_broadcasts": lambda g: shown(sink_broadcasts(g.module, OPS)),
    "fuse_functions": lambda g: shown(fuse_functions(g.module, OPS)),
    "reorder_relu": lambda g: shown(reorder_relu(g.module)),
    "fuse_layers": lambda g: shown(fuse_layers(g.module, OPS)),
    "calibrate": lambda g: shown(calibrate(g.module, OPS, SAMPLES)),
    "expand": lambda g: shown(expand(g.module, OPS)),
    "quantise": _quantise,
    "guard": _guard,
    "plan_rings": _plan_rings,
    "lower": lambda g: shown(lower(g.module, PROTOCOLS[g.options.get("target", "2pc")])),
    "remove_unused": lambda g: shown(remove_unused(g.module)),
    "schedule_rounds": lambda g: shown(schedule_rounds(g.module)),
    "reuse_buffers": lambda g: buffers(g.module),
    "check_leakage": lambda g: disclosures(g.module),
}


@pytest.mark.parametrize("path", golden.files(FOLDER), ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_a_pass_makes_exactly_this(path: Path) -> None:
    given = read(golden.given(path))
    try:
        found = PASSES[path.parent.name](given)
    except UserError as error:
        found = f"error: {error}"
    golden.check(path, found)


def test_every_pass_with_golden_files_is_known() -> None:
    assert {p.name for p in FOLDER.iterdir() if p.is_dir()} == set(PASSES)
