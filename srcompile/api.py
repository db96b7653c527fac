"""Compiling: from a model, or a pool with its router, to a program. The pipeline is in `passes`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from srcompile.errors import UserError
from srcompile.frontend.capture import capture, capture_pool
from srcompile.ir.graph import Array, Module, Node
from srcompile.ir.printer import print_module
from srcompile.ops import registry
from srcompile.ops.program import INPUTS
from srcompile.passes.check_leakage import Disclosure
from srcompile.passes.cost import Cost
from srcompile.passes.cost import network as network_named
from srcompile.passes.guard import MORE_BITS, MOST_BITS
from srcompile.passes.machine import machines
from srcompile.passes.pipeline import Options, Samples, Stages, replan, run_pipeline, steps_of
from srcompile.passes.progress import Listener, Steps, nobody
from srcompile.passes.quantise import Formats, Gate
from srcompile.report.data import report_data
from srcompile.report.drift import Drift, measure_drift
from srcompile.report.figures import CostReport, cost_report
from srcompile.routing.pool import Pool
from srcompile.runtime.program import Program, save

if TYPE_CHECKING:
    from torch import nn

PLANNED = frozenset({"network", "formats", "max_width"})
"""The options that matter only behind calibration."""
LEVELS = ("graph", "fixed", "lowered", "schedule", "dealer")


@dataclass(frozen=True)
class Compiled:
    """A compiled program and everything known about it.

    stages: the program on every level of the IR.
    captured: the graph as captured, for running it in float.
    samples: the calibration samples, by input name.
    options: what it was compiled with.
    """

    stages: Stages
    captured: Module
    samples: Samples
    options: Options

    @property
    def program(self) -> Program:
        """What dealer, parties and client run."""
        return self.stages.program

    @property
    def cost(self) -> Cost:
        """Exact bytes and rounds, projected time, by layer."""
        return self.stages.cost

    @property
    def leakage(self) -> tuple[Disclosure, ...]:
        """All that a run discloses, to whom and why."""
        return self.stages.leakage

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know, such as a function whose table is less precise than asked."""
        return self.stages.notes

    @property
    def gates(self) -> tuple[Gate, ...]:
        """For each gate: the range its argument had, the range supported, and its error bound."""
        return self.stages.gates

    def drift(self, samples: int = 4) -> tuple[Drift, ...]:
        """Return how far each layer is from the float model, over so many calibration samples."""
        return measure_drift(self.stages, list(self.samples[:samples]), registry())

    def cost_report(self) -> CostReport:
        """Return cost, leakage, gates and notes, as reports show them."""
        return cost_report(self.cost, self.program, self.leakage, self.gates, self.notes)

    def report(self) -> dict[str, Any]:
        """Return the same as plain data, with the keys of `srcompile --json`."""
        return report_data(self.cost_report())

    def again(self, **changes: Any) -> Compiled:
        """Return the model compiled with other `options`, by field; it is not captured again.

        Nor is it calibrated again, if only network, formats or the widest ring change and it has no
        routing rule, which depends on the network. Raises what compile() raises.
        """
        options = replace(self.options, **changes)
        routed = any(segment.route is not None for segment in self.captured.main.segments)
        if set(changes) <= PLANNED and not routed:
            stages = replan(self.stages, registry(), options)
        else:
            stages = run_pipeline(self.captured, self.samples, registry(), options)
        return replace(self, stages=stages, options=options)

    def text(self, level: str) -> str:
        """Return the program as text on one level: graph, fixed, lowered, schedule or dealer.

        Raises UserError for another level.
        """
        if level not in LEVELS:
            raise UserError(f"there is no level '{level}': choose {', '.join(LEVELS)}")
        if level == "dealer":
            return print_module(self.stages.schedule, ("dealer",))
        module: Module = getattr(self.stages, level)
        return print_module(module)

    def save(self, path: str | Path, *, weights: bool = True) -> None:
        """Write a .srp file; with weights it is readable by its owner only."""
        save(self.program, path, weights=weights)


def compile(
    model: nn.Module | Pool,
    example_inputs: Any,
    *,
    target: str = "2pc",
    calibration_inputs: Sequence[Any] | None = None,
    network: str = "lan",
    formats: Formats | None = None,
    max_width: int | None = None,
    approximations: Mapping[str, str] | None = None,
    embedding: str = "client",
    mask: str = "secret",
    profiles: Sequence[str | Path] = (),
    guard: bool = False,
    guard_bits: int = MORE_BITS,
    progress: Listener = nobody,
) -> Compiled:
    """Compile `model` for `target`.

    example_inputs: a tuple of tensors as forward() takes them, or a mapping from its parameters'
        names, as a tokenizer gives; their shapes become the program's.
    calibration_inputs: many such tuples or mappings, typical inputs, from which value ranges are
        taken. Without them the example inputs are the only sample.
    network: lan, wan, mobile or RATE_MBIT:RTT_MS, for projected times, a pool's routing rule, and
        the choice between wide rings and more rounds.
    max_width: the widest ring, if it is not to be chosen.
    approximations: cheaper functions by op, such as {"gelu": "quad"}, for models trained with them
        (passes/approximate.py).
    embedding: who looks token ids up. client: the client, which then holds the table. secret: the
        parties, from one-hot encodings; the table stays secret, and the input is large.
    mask: secret: nobody learns which tokens an attention mask lets count. public: the client gives
        such masks to the parties as they are, which makes the program cheaper.
    profiles: files of `srrun calibrate` that projected times assume: one for both parties, or one
        for each. Without any, this machine's own if there is one, or the built-in one.
    guard: check while running that values stay in their ranges; if one does not, the client gets
        an error instead of outputs, and one bit says so to it and to the parties.
    guard_bits: 1 to 8; values of up to 2^guard_bits times their range are found for sure.
    progress: called with each step of the compilation when it begins, and while it calibrates.
    Raises CompileError at the user's line for what cannot be compiled, UserError for bad arguments,
    ProfileError for a profile that is missing or damaged.
    """
    if not 1 <= guard_bits <= MOST_BITS:
        raise UserError(f"guard_bits is {guard_bits}; it must be 1 to {MOST_BITS}")
    options = Options(
        target,
        network_named(network),
        formats or Formats(),
        max_width,
        model.cost_weight if isinstance(model, Pool) else 0.0,
        approximations or {},
        embedding,
        mask,
        machines(profiles),
        guard_bits if guard else 0,
    )
    steps = Steps(1 + steps_of(options), progress)
    steps.begin("capture")
    inputs = as_given(example_inputs)
    captured = capture_pool(model, inputs) if isinstance(model, Pool) else capture(model, inputs)
    rows = [inputs] if calibration_inputs is None else [as_given(s) for s in calibration_inputs]
    if not rows:
        raise UserError("calibration_inputs is empty; give at least one sample")
    samples = samples_of(captured, rows)
    stages = run_pipeline(captured, samples, registry(), options, steps)
    return Compiled(stages, captured, samples, options)


def cost(model: nn.Module | Pool, example_inputs: Any, **choices: Any) -> CostReport:
    """Compile `model` and return what it costs and discloses; `choices` as compile() takes them.

    The bytes and rounds are exact, so a search over models or a loss may use them:
    `cost(model, inputs).total.online_bytes`. Raises what compile() raises.
    """
    return compile(model, example_inputs, **choices).cost_report()


def as_given(inputs: Any) -> Any:
    """Return inputs as a tuple, or a mapping as it is: one tensor alone is a tuple of one."""
    if isinstance(inputs, Mapping):
        return inputs
    return tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)


def samples_of(module: Module, rows: Sequence[Any]) -> Samples:
    """Return calibration samples, tuples or mappings, by input name.

    Raises UserError if one does not fit.
    """
    tensors = [n for n in module.main.nodes() if n.op in INPUTS]
    return [_sample(tensors, row, k) for k, row in enumerate(rows)]


def _sample(inputs: Sequence[Node], given: Any, number: int) -> Mapping[str, Array]:
    names = [str(node.attrs["name"]) for node in inputs]
    if isinstance(given, Mapping):
        if set(given) != set(names):
            raise UserError(
                f"calibration sample {number} gives {', '.join(given)}; "
                f"the model takes {', '.join(names)}"
            )
        row = tuple(given[name] for name in names)
    else:
        row = given
    if len(row) != len(inputs):
        raise UserError(
            f"calibration sample {number} has {len(row)} tensors; the model takes {len(inputs)}"
        )
    sample = {}
    for node, value in zip(inputs, row, strict=True):
        array = np.asarray(value.detach().numpy() if hasattr(value, "detach") else value)
        name, shape = str(node.attrs["name"]), node.attrs["shape"]
        if array.shape != shape:
            raise UserError(
                f"calibration sample {number} gives '{name}' the shape {array.shape}; "
                f"the example inputs have {shape}"
            )
        if not np.all(np.isfinite(array)):
            raise UserError(f"calibration sample {number} has NaN or infinite values in '{name}'")
        if node.op == "ids" or node.attrs.get("bits"):
            _check_whole(node, array, number)
        sample[name] = array.astype(np.int64 if node.op == "ids" else np.float32)
    return sample


def _check_whole(node: Node, array: Array, number: int) -> None:
    wanted = "0 and 1" if node.attrs.get("bits") else "token ids"
    whole = array.dtype.kind in "iub" or bool(np.all(array == np.rint(array)))
    fits = whole and bool(np.all(array >= 0))
    if not fits or (node.attrs.get("bits") and bool(np.any(array > 1))):
        raise UserError(
            f"calibration sample {number} does not give {wanted} for '{node.attrs['name']}'"
        )
