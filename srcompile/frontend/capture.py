"""A PyTorch model, or a pool with its router, as a graph-level module."""

from __future__ import annotations

import contextlib
import functools
import math
import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from srcompile.errors import CompileError, Loc
from srcompile.frontend.hints import CONTROL_FLOW
from srcompile.frontend.inputs import Examples, Given, Use, examples_of, is_bits, uses_of
from srcompile.frontend.known import Choice, Ids
from srcompile.frontend.rules import is_operand, rules
from srcompile.frontend.torch_export import trace_by_export
from srcompile.frontend.torch_fx import trace_by_fx
from srcompile.frontend.trace import Trace, TraceFailedError, is_users, shown, with_source
from srcompile.frontend.translate import Input, Weights, clean, translate
from srcompile.ir.graph import Array, Attr, Module
from srcompile.ops import registry
from srcompile.ops.builder import GraphBuilder
from srcompile.routing.pool import Pool

Outputs = dict[str, str]
COSTS = "route.costs"


def capture(module: nn.Module, example_inputs: Given) -> Module:
    """Return a model as a graph-level module with one segment, "main".

    Inputs have the names of forward's parameters. Token ids become `ids`, for embeddings only;
    masks, of 0 and 1, become `input` with `bits`. The output is called `output`; of several, those
    of a tuple are `output0`, `output1`, .., those of a dict have its keys. Parameters and buffers
    are secret constants under their paths. The model is taken in evaluation mode and left as it
    was. Raises CompileError, at the user's line, for what cannot be compiled.
    """
    b = GraphBuilder(registry())
    source = _traced(module, example_inputs, "")
    inputs = _inputs(b, source.examples, uses_of(source.trace), _forward_loc(module, ""))
    outputs = _body(b, Weights(b), source, inputs)
    _emit_outputs(b, outputs)
    b.end_segment("main")
    return b.module()


def capture_pool(
    pool: Pool, example_inputs: Given, route_costs: np.ndarray[Any, Any] | None = None
) -> Module:
    """Return a routed pool as a graph-level module.

    The route is argmax_m u_m(x) - route_costs_m; the costs become the public constant
    `@route.costs`. If None, they are zeros for a later pass to fill in, and left out if the pool's
    cost_weight is 0. With route="reveal" there is a segment "router", which
    ends in `route`, and one segment for each model, in the pool's order; with "oblivious" there is
    one segment, "main", which runs all models. Raises CompileError as `capture` does, and unless
    the inputs are a batch of one, the router gives one utility for each model, and the models'
    outputs agree.
    """
    given = example_inputs.values() if isinstance(example_inputs, Mapping) else example_inputs
    for tensor in given:
        if tensor.ndim and tensor.shape[0] != 1:
            raise CompileError(
                f"a pool is routed one input at a time, but this batch holds {tensor.shape[0]}",
                hint="Give example inputs whose first axis has size 1.",
            )
    b = GraphBuilder(registry())
    weights = Weights(b)
    router = _traced(pool.router, example_inputs, "router")
    models = [_traced(model, example_inputs, name) for name, model in pool.models.items()]
    uses = [
        functools.reduce(operator.or_, together)
        for together in zip(*(uses_of(source.trace) for source in (router, *models)), strict=True)
    ]
    inputs = _inputs(b, router.examples, uses, _forward_loc(pool.router, "router"))
    result = _body(b, weights, router, inputs)
    utilities = _utilities(b, pool, result, route_costs)
    if pool.route == "reveal":
        b.emit("route", [b.emit("argmax", [utilities], {"axis": 0, "keepdims": False})])
        b.end_segment("router")
    else:
        hot = b.emit("one_hot_max", [utilities])
    captured: dict[str, Outputs] = {}
    signature: Mapping[str, str] = {}
    for index, (name, source) in enumerate(zip(pool.models, models, strict=True)):
        captured[name] = _body(b, weights, source, inputs)
        found = {out: str(b.type(operand)) for out, operand in captured[name].items()}
        signature = signature or found
        _check_alike(pool.names[0], signature, name, found)
        if pool.route == "reveal":
            _emit_outputs(b, captured[name])
            b.end_segment(name, index)
    if pool.route == "oblivious":
        _emit_outputs(b, _selected(b, hot, list(captured.values())))
        b.end_segment("main")
    return b.module()


def _utilities(
    b: GraphBuilder, pool: Pool, outputs: Outputs, costs: np.ndarray[Any, Any] | None
) -> str:
    """Return u(x) - costs, of shape (M,)."""
    count = len(pool.models)
    b.loc = Loc(module="router")
    if len(outputs) != 1:
        raise CompileError(f"the router has {len(outputs)} outputs; it needs one", b.loc)
    utilities = next(iter(outputs.values()))
    type_ = b.type(utilities)
    if math.prod(type_.shape) != count or type_.dtype != "f32":
        raise CompileError(
            f"the router's output is {type_}, which is not one utility for each of {count} models",
            b.loc,
            f"Let it return a tensor of shape (1, {count}), in the order {', '.join(pool.names)}.",
        )
    if type_.shape != (count,):
        utilities = b.emit("reshape", [utilities], {"shape": (count,)})
    if costs is None and not pool.cost_weight:
        return utilities
    costs = np.zeros(count) if costs is None else costs
    values: Array = np.array(costs, dtype=np.float32)
    if values.shape != (count,):
        raise CompileError(f"there are {values.size} route costs for {count} models")
    return b.emit("sub", [utilities, b.const(values, COSTS)])


def _selected(b: GraphBuilder, hot: str, results: Sequence[Outputs]) -> Outputs:
    """Return sum_m hot_m * y_m for each output y."""
    b.loc = Loc(module="router")
    total: Outputs = {}
    for m, outputs in enumerate(results):
        part = b.emit("slice", [hot], {"starts": (m,), "stops": (m + 1,), "steps": (1,)})
        for name, operand in outputs.items():
            type_ = b.type(operand)
            if type_.dtype != "f32":
                raise CompileError(
                    f"the models' output '{name}' is an index, which cannot be selected unseen",
                    b.loc,
                    'Return the values that argmax is taken of, or use route="reveal".',
                )
            weight = b.emit("reshape", [part], {"shape": (1,) * len(type_.shape)})
            term = b.emit("mul", [weight, operand])
            total[name] = b.emit("add", [total[name], term]) if name in total else term
    return total


def _check_alike(
    first: str, signature: Mapping[str, str], name: str, found: Mapping[str, str]
) -> None:
    if found == signature:
        return

    def listed(outputs: Mapping[str, str]) -> str:
        return ", ".join(f"{out} : {type_}" for out, type_ in outputs.items())

    raise CompileError(
        f"the models of a pool have the same outputs, but '{first}' gives {listed(signature)} and "
        f"'{name}' gives {listed(found)}",
        hint="Let all models return tensors of the same names and shapes.",
    )


@dataclass(frozen=True)
class _Source:
    """A module that is traced, and its name in a pool."""

    module: nn.Module
    examples: Examples
    trace: Trace
    prefix: str


def _inputs(b: GraphBuilder, examples: Examples, uses: Sequence[Use], loc: Loc) -> list[Input]:
    """Emit a node for each input and return what is known of them."""
    b.loc = loc
    found: list[Input] = []
    for (name, tensor), use in zip(examples.tensors.items(), uses, strict=True):
        shape, out = tuple(tensor.shape), f"%{clean(name)}"
        attrs: dict[str, Attr] = {"name": name, "shape": shape}
        real = tensor.is_floating_point()
        if use.rows and not real:
            ids = b.emit("ids", [], attrs, name=out)
            found.append(Ids(ids, torch.arange(tensor.numel()).reshape(shape)))
        elif is_bits(tensor) and (use.as_mask or not real):
            bit = b.emit("input", [], {**attrs, "bits": True}, name=out)
            found.append(Choice(bit, torch.zeros_like(tensor), torch.ones_like(tensor)))
        elif real:
            found.append(b.emit("input", [], attrs, name=out))
        else:
            raise CompileError(
                f"the input '{name}' holds {tensor.dtype} values; inputs are real numbers, masks "
                "of 0 and 1, or token ids that an embedding looks up",
                b.loc,
                "Convert it to real numbers, or look it up in an nn.Embedding.",
            )
    return found


def _forward_loc(module: nn.Module, prefix: str) -> Loc:
    code = getattr(module.forward, "__code__", None)
    if code is None or not is_users(code.co_filename):
        return Loc(module=prefix)
    return Loc(shown(code.co_filename), code.co_firstlineno, prefix)


def _traced(module: nn.Module, given: Given, prefix: str) -> _Source:
    examples = examples_of(module, given, _forward_loc(module, prefix))
    return _Source(module, examples, _trace(module, examples, prefix), prefix)


def _body(b: GraphBuilder, weights: Weights, source: _Source, inputs: Sequence[Input]) -> Outputs:
    """Emit a module's nodes and return its outputs by name."""
    module, prefix = source.module, source.prefix
    b.loc = _forward_loc(module, prefix)
    result = translate(source.trace, b, weights, inputs, prefix)
    b.loc = replace(b.loc, module=prefix)  # what follows belongs to no layer
    outputs = dict(_named(result, ""))
    if not outputs:
        raise CompileError("the model returns no tensor", _forward_loc(module, prefix))
    for name, value in outputs.items():
        if not is_operand(value):
            raise CompileError(
                f"the model's output '{name}' is {value!r}, not a tensor",
                _forward_loc(module, prefix),
                "Return tensors, and tuples, lists and dicts of tensors.",
            )
    return outputs


def _trace(module: nn.Module, examples: Examples, prefix: str) -> Trace:
    """Return the trace of torch.export, or else of torch.fx."""
    try:
        with _in_evaluation(module):
            return trace_by_export(module, examples.args, examples.kwargs)
    except TraceFailedError as error:
        exported = error
    try:
        with _in_evaluation(module):
            return trace_by_fx(module, examples.args, rules(), examples.kwargs)
    except TraceFailedError as error:
        traced = error
    place = exported.place if exported.place.loc.file else traced.place
    text = exported.reason + traced.reason
    branches = "data-dependent" in text or "inputs to control flow" in text
    hint = CONTROL_FLOW if branches else (
        "Check that model(*example_inputs) runs, and write forward as plain tensor operations."
    )  # fmt: skip
    raise with_source(
        CompileError(
            "torch cannot trace this model\n"
            f"  torch.export: {exported.reason}\n  torch.fx: {traced.reason}",
            Loc(place.loc.file, place.loc.line, prefix),
            hint,
        ),
        place.source,
    )


def _named(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Yield (name, operand) for everything that forward returns; None is left out."""
    if value is None:
        return
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _named(item, f"{name}.{key}" if name else str(key))
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        yield from _named(dict(zip(value._fields, value, strict=True)), name)
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            alone = len(value) == 1
            yield from _named(item, name if alone else f"{name or 'output'}{i}")
    else:
        yield name or "output", value


def _emit_outputs(b: GraphBuilder, outputs: Outputs) -> None:
    for name, operand in outputs.items():
        b.emit("output", [operand], {"name": name})


@contextlib.contextmanager
def _in_evaluation(module: nn.Module) -> Iterator[None]:
    """Put a module in evaluation mode and restore every attribute afterwards.

    Tracing may leave attributes behind: training flags, tensors that forward keeps, fx's constants.
    """
    held = ("_parameters", "_buffers", "_modules")
    before = [(m, dict(vars(m)), {k: dict(vars(m)[k]) for k in held}) for m in module.modules()]
    configs = {id(c): c for m in module.modules() if (c := vars(m).get("config")) is not None}
    cached = [c for c in configs.values() if getattr(c, "use_cache", None) is True]
    module.eval()
    for config in cached:  # Hugging Face: keys and values for a next token, an output of no use
        config.use_cache = False
    try:
        yield
    finally:
        for config in cached:
            config.use_cache = True
        for m, attributes, registered in before:
            vars(m).clear()
            vars(m).update(attributes)
            for key, entries in registered.items():
                vars(m)[key].clear()
                vars(m)[key].update(entries)
