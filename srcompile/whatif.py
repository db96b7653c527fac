"""What-if: the cost of a model under other settings, and what would make its dear places cheaper.

Every figure is that of a program that was compiled. A model is captured anew only for inputs of
another shape, and calibrated anew only if its graph changes.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from srcompile.api import Compiled, as_given, compile
from srcompile.errors import UserError
from srcompile.ir.graph import Module, Node
from srcompile.ir.types import FloatType
from srcompile.ops import registry
from srcompile.passes.choices import APPROXIMATIONS
from srcompile.passes.cost import network as network_named
from srcompile.passes.fewer_heads import fewer_heads
from srcompile.passes.pipeline import Stages, replan, run_pipeline
from srcompile.passes.quantise import Formats
from srcompile.report.figures import Figures, cost_report
from srcompile.report.places import Place, dearest_places
from srcompile.report.variants import Change, Suggestion, Sweep, Variant
from srcompile.routing.pool import Pool

if TYPE_CHECKING:
    from torch import Tensor, nn

SEQUENCE = "seq"
BITS = {"precision-bits": (0, 20), "activation-bits": (4, 30), "weight-bits": (4, 24)}
QUICK = 400
"""Suggestions are made by themselves for programs of at most so many online instructions."""
DEFAULTS = ("exact", "spline")
"""What a sweep calls a function that is not replaced."""
NARROWER, COARSER = 2.0, 2
"""What is tried: ranges narrower by this factor, values coarser by so many bits."""


# -- sweeps ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Axis:
    """One thing that a sweep varies, and its values as the user writes them."""

    name: str
    values: tuple[str, ...]


def parse_axis(text: str) -> Axis:
    """Return the axis of `NAME=VALUE,VALUE`. Raises UserError if it is none."""
    name, equals, values = text.partition("=")
    found = tuple(value.strip() for value in values.split(",") if value.strip())
    if not (name and equals and found):
        raise UserError(f"--sweep takes NAME=VALUE,VALUE, such as network=lan,wan, not '{text}'")
    if len(set(found)) < len(found):
        raise UserError(f"--sweep {name} has a value twice")
    return Axis(name.strip(), found)


def sweep(
    model: nn.Module | Pool,
    example_inputs: Any,
    axes: Mapping[str, Sequence[object]],
    *,
    calibration_inputs: Sequence[Any] | None = None,
    base: Compiled | None = None,
    **choices: Any,
) -> Sweep:
    """Return the cost of `model` for all combinations of the values of `axes`.

    axes: values by name: `network`; `set.OP`, such as `set.gelu`; `precision-bits`,
        `activation-bits`, `weight-bits`; `embedding`; `seq`, the length of the sequence; or
        `INPUT.AXIS`, the size of an axis of an input, `INPUT.AXIS+INPUT.AXIS` for several at once.
        Inputs are cut or repeated to a new size.
    base: the model compiled for the example inputs with `choices`, if it is there already.
    choices: what compile() takes besides.
    Raises UserError for an axis or a value that does not exist, and what compile() raises.
    """
    found = [Axis(name, tuple(str(v) for v in values)) for name, values in axes.items()]
    if not found:
        raise UserError("a sweep needs an axis, such as network=lan,wan")
    inputs = as_given(example_inputs)
    names = _input_names(model, inputs)
    resized = {axis.name: _axes_of(axis.name, names, inputs) for axis in found}
    changes = {
        axis.name: {value: _change(axis.name, value) for value in axis.values}
        for axis in found
        if resized[axis.name] is None
    }

    def captured(sizes: tuple[tuple[str, int], ...]) -> Compiled:
        if not sizes and base is not None:
            return base
        fit = _resizer([(resized[name] or (), size) for name, size in sizes], names)
        samples = None if calibration_inputs is None else [fit(as_given(s)) for s in
                                                           calibration_inputs]  # fmt: skip
        return compile(model, fit(inputs), calibration_inputs=samples, **choices)

    variants = []
    known: dict[object, Compiled] = {}
    for values in itertools.product(*(axis.values for axis in found)):
        settings = {axis.name: value for axis, value in zip(found, values, strict=True)}
        sizes = tuple((n, _size(n, v)) for n, v in settings.items() if resized[n] is not None)
        if sizes not in known:
            known[sizes] = captured(sizes)
        compiled = known[sizes]
        graph, planned = _split(compiled, [changes[n][v] for n, v in settings.items()
                                           if resized[n] is None])  # fmt: skip
        key = (sizes, tuple(sorted((k, str(v)) for k, v in graph.items())))
        if key not in known:
            known[key] = compiled.again(**graph) if graph else compiled
        compiled = known[key].again(**planned) if planned else known[key]
        variants.append(Variant(settings, compiled.cost_report()))
    return Sweep(tuple(axis.name for axis in found), tuple(variants))


Changed = Callable[[Compiled], dict[str, Any]]


def _split(compiled: Compiled, changes: Sequence[Changed]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the options that change the graph, and those that matter behind calibration."""
    graph: dict[str, Any] = {}
    planned: dict[str, Any] = {}
    options = compiled.options
    for change in changes:
        now = replace(compiled, options=replace(options, **graph, **planned))
        for name, value in change(now).items():
            (planned if name in ("network", "formats") else graph)[name] = value
    return graph, planned


def _change(name: str, value: str) -> Changed:
    """Return what sets an option. Raises UserError for what does not exist."""
    if name == "network":
        network = network_named(value)
        return lambda c: {"network": network}
    if name in BITS:
        low, high = BITS[name]
        if not value.isdecimal() or not low <= int(value) <= high:
            raise UserError(f"--sweep {name} takes numbers from {low} to {high}, not '{value}'")
        field, bits = name.replace("-", "_"), int(value)
        return lambda c: {"formats": _with_bits(c.options.formats, field, bits)}
    if name == "embedding":
        return lambda c: {"embedding": value}
    op = name.removeprefix("set.")
    names = (*DEFAULTS, *APPROXIMATIONS.get(op.partition("@")[0], ()))
    if op.partition("@")[0] not in APPROXIMATIONS:
        raise UserError(f"'{op}' cannot be approximated: choose {', '.join(APPROXIMATIONS)}")
    if value not in names:
        raise UserError(
            f"there is no '{value}' for '{op}': choose {', '.join(dict.fromkeys(names))}"
        )
    return lambda c: {"approximations": _with_choice(c.options.approximations, op, value)}


def _with_choice(chosen: Mapping[str, str], op: str, value: str) -> dict[str, str]:
    kept = {key: name for key, name in chosen.items() if key != op}
    return kept if value in DEFAULTS else {**kept, op: value}


def _with_bits(formats: Formats, field: str, bits: int) -> Formats:
    changed: dict[str, Any] = {field: bits}
    return replace(formats, **changed)


# -- inputs of another size -----------------------------------------------------------------------

Axes = tuple[tuple[str, int], ...]
"""Axes of inputs: (name, axis)."""


def _input_names(model: nn.Module | Pool, inputs: Any) -> tuple[str, ...]:
    if isinstance(inputs, Mapping):
        return tuple(inputs)
    module = model.router if isinstance(model, Pool) else model
    taken = inspect.signature(module.forward).parameters.values()
    names = [p.name for p in taken if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    missing = len(inputs) - len(names)
    return tuple(names[: len(inputs)]) + tuple(f"input{k}" for k in range(max(missing, 0)))


def _tensors(names: Sequence[str], inputs: Any) -> dict[str, Tensor]:
    values = inputs.values() if isinstance(inputs, Mapping) else inputs
    return dict(zip(names, values, strict=True))


def _axes_of(name: str, names: Sequence[str], inputs: Any) -> Axes | None:
    """Return the axes of inputs that a sweep's axis stands for; None if it is an option."""
    if name in ("network", "embedding", *BITS) or name.startswith("set."):
        return None
    tensors = _tensors(names, inputs)
    if name == SEQUENCE:
        return _sequence(tensors)
    found = []
    for part in name.split("+"):
        given, dot, axis = part.rpartition(".")
        tensor = tensors.get(given)
        if not dot or tensor is None or not axis.isdecimal() or int(axis) >= tensor.ndim:
            raise UserError(
                f"there is no '{name}' to sweep: choose network, {SEQUENCE}, set.OP, "
                f"{', '.join(BITS)}, embedding, or INPUT.AXIS; the inputs are {_shapes(tensors)}"
            )
        found.append((given, int(axis)))
    return tuple(found)


def _sequence(tensors: Mapping[str, Tensor]) -> Axes:
    """Return the axes as long as the sequence: the last ones of token ids, and what fits them."""
    whole = {name: t for name, t in tensors.items() if not t.is_floating_point() and t.ndim > 1}
    lengths = {t.shape[-1] for t in whole.values()}
    if len(lengths) != 1:
        raise UserError(
            "which axis is the sequence is not obvious: no integer inputs of one length; write "
            f"--sweep INPUT.AXIS=..., joined by + for several; the inputs are {_shapes(tensors)}"
        )
    (length,) = lengths
    found = [(name, t.ndim - 1) for name, t in whole.items()]
    for name, t in tensors.items():
        found += [
            (name, axis)
            for axis in range(1, t.ndim)
            if t.shape[axis] == length and (name, axis) not in found
        ]
    return tuple(found)


def _shapes(tensors: Mapping[str, Tensor]) -> str:
    return ", ".join(f"{name} {tuple(t.shape)}" for name, t in tensors.items())


def _size(name: str, value: str) -> int:
    if not value.isdecimal() or not 0 < int(value) <= 1 << 20:
        raise UserError(f"--sweep {name} takes sizes of 1 or more, not '{value}'")
    return int(value)


def _resizer(sizes: Sequence[tuple[Axes, int]], names: Sequence[str]) -> Callable[[Any], Any]:
    """Return what gives inputs other sizes: their elements are cut or repeated."""

    def resized(inputs: Any) -> Any:
        tensors = _tensors(names, inputs)
        for axes, size in sizes:
            for name, axis in axes:
                tensors[name] = _fitted(tensors[name], axis, size)
        return tensors if isinstance(inputs, Mapping) else tuple(tensors.values())

    return resized


def _fitted(tensor: Tensor, axis: int, size: int) -> Tensor:
    import torch

    index = torch.arange(size) % tensor.shape[axis]
    return tensor.index_select(axis, index)


# -- suggestions ----------------------------------------------------------------------------------


def is_quick(compiled: Compiled) -> bool:
    """Return whether suggestions take about as long as the compilation did."""
    return sum(map(len, compiled.program.functions["online"])) <= QUICK


def suggest(compiled: Compiled, most: int = 3) -> tuple[Suggestion, ...]:
    """Return the dearest places, and the changes there that make the program cheaper.

    Each change is compiled: a cheaper function, fewer heads, half the range of the values. Coarser
    precision of the whole program is tried as well, as a place of its own.
    """
    report = compiled.cost_report()
    before = report.total
    known: dict[tuple[str, str], Change] = {}

    def better(changes: Iterator[Change]) -> tuple[Change, ...]:
        kept = [c for c in changes if _cheaper(before, c.total)]
        return tuple(sorted(kept, key=lambda c: c.total.seconds))

    found = [
        Suggestion(place, better(_changes(compiled, place, known)))
        for place in dearest_places(report, most)
    ]
    whole = Place("the whole program", "", ("",), (), before, 1.0)
    return (*found, Suggestion(whole, better(_everywhere(compiled))))


def _cheaper(before: Any, after: Any) -> bool:
    """Return whether it takes less time and sends no more, or as long and sends less."""
    times = after.seconds - before.seconds
    sent = sum(after.online_bytes) + sum(after.offline_bytes)
    sent -= sum(before.online_bytes) + sum(before.offline_bytes)
    return bool(times < 0 or (times == 0 and sent < 0))


def _changes(
    compiled: Compiled, place: Place, known: dict[tuple[str, str], Change]
) -> Iterator[Change]:
    op = "softmax" if place.op == "attention" else place.op
    for name in APPROXIMATIONS.get(op, ()):
        if op in compiled.options.approximations or name in DEFAULTS:
            continue
        if (op, name) not in known:
            chosen = {**compiled.options.approximations, op: name}
            total = compiled.again(approximations=chosen).cost_report().total
            known[op, name] = Change(
                f"{name} for {op}", f"--set {op}={name}", "the model must be trained with it", total
            )
        yield known[op, name]
    if place.op == "attention":
        yield from _fewer_heads(compiled, place)
    narrow = replace(compiled.stages, expanded=_narrowed(compiled.stages.expanded, place))
    yield Change(
        "half the range of its values",
        "a clamp, a norm or a penalty in training",
        "values beyond the range wrap",
        _total(replan(narrow, registry(), compiled.options)),
    )


def _total(stages: Stages) -> Figures:
    return cost_report(stages.cost, stages.program).total


def _fewer_heads(compiled: Compiled, place: Place) -> Iterator[Change]:
    """Yield the cost with half the heads at a place, where the graph shows them."""
    found = fewer_heads(compiled.captured, place.names)
    if found is None:
        return
    (heads, *others) = sorted(set(found.before))
    yield Change(
        "half as many heads" if others else f"heads: {heads // 2} instead of {heads}",
        "heads twice as wide in the model's configuration",
        "cost only: it is another model, which must be trained again",
        _total(run_pipeline(found.module, compiled.samples, registry(), compiled.options)),
    )


def _everywhere(compiled: Compiled) -> Iterator[Change]:
    bits = compiled.options.formats.precision_bits
    if bits > COARSER:
        formats = replace(compiled.options.formats, precision_bits=bits - COARSER)
        yield Change(
            f"{COARSER} bits less precision",
            f"--precision-bits {bits - COARSER}",
            "see --drift for what it does to values",
            _total(replan(compiled.stages, registry(), replace(compiled.options, formats=formats))),
        )


def _narrowed(module: Module, place: Place) -> Module:
    """Return a calibrated module in which the values at a place, and its operands, reach less far.

    How large they typically are stays the same, so they keep their precision.
    """
    names = set(place.names)
    here = [n for n in module.main.nodes() if n.loc.module in names and n.loc.op == place.op]
    chosen = {n.out for n in here} | {i for n in here for i in n.inputs}

    def narrow(node: Node) -> Node:
        type_ = node.type
        if node.out not in chosen or not isinstance(type_, FloatType) or type_.range is None:
            return node
        if node.op in ("input", "reciprocal", "rsqrt"):
            return node
        low, high = type_.range
        middle = (low + high) / 2 if low > 0 or high < 0 else 0.0
        range_ = tuple(middle + (end - middle) / NARROWER for end in (low, high))
        return replace(node, type=replace(type_, range=(range_[0], range_[1])))

    segments = tuple(replace(s, nodes=tuple(map(narrow, s.nodes))) for s in module.main.segments)
    return module.with_main(segments)
