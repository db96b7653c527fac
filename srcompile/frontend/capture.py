"""A PyTorch model, or a pool with its router, as a graph-level module."""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor, nn

from srcompile.errors import CompileError, Loc
from srcompile.frontend.hints import CONTROL_FLOW
from srcompile.frontend.rules import is_operand, rules
from srcompile.frontend.torch_export import trace_by_export
from srcompile.frontend.torch_fx import trace_by_fx
from srcompile.frontend.trace import Trace, TraceFailedError, is_users, shown, with_source
from srcompile.frontend.translate import Weights, clean, translate
from srcompile.ir.graph import Array, Attr, Module
from srcompile.ops import registry
from srcompile.ops.builder import GraphBuilder
from srcompile.routing.pool import Pool

Outputs = dict[str, str]
COSTS = "route.costs"


def capture(module: nn.Module, example_inputs: Sequence[Tensor]) -> Module:
    """Return a model as a graph-level module with one segment, "main".

    Inputs have the names of forward's parameters. The output is called `output`; of several, those
    of a tuple are `output0`, `output1`, .., those of a dict have its keys. Parameters and buffers
    are secret constants under their paths. The model is taken in evaluation mode and left as it
    was. Raises CompileError, at the user's line, for what cannot be compiled.
    """
    b = GraphBuilder(registry())
    operands = _inputs(b, module, example_inputs, "")
    outputs = _body(b, Weights(b), module, example_inputs, operands, "")
    _emit_outputs(b, outputs)
    b.end_segment("main")
    return b.module()


def capture_pool(
    pool: Pool, example_inputs: Sequence[Tensor], route_costs: np.ndarray[Any, Any] | None = None
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
    for tensor in example_inputs:
        if tensor.ndim and tensor.shape[0] != 1:
            raise CompileError(
                f"a pool is routed one input at a time, but this batch holds {tensor.shape[0]}",
                hint="Give example inputs whose first axis has size 1.",
            )
    b = GraphBuilder(registry())
    weights = Weights(b)
    operands = _inputs(b, pool.router, example_inputs, "router")
    result = _body(b, weights, pool.router, example_inputs, operands, "router")
    utilities = _utilities(b, pool, result, route_costs)
    if pool.route == "reveal":
        b.emit("route", [b.emit("argmax", [utilities], {"axis": 0, "keepdims": False})])
        b.end_segment("router")
    else:
        hot = b.emit("one_hot_max", [utilities])
    captured: dict[str, Outputs] = {}
    signature: Mapping[str, str] = {}
    for index, (name, model) in enumerate(pool.models.items()):
        captured[name] = _body(b, weights, model, example_inputs, operands, name)
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


def _inputs(
    b: GraphBuilder, module: nn.Module, example_inputs: Sequence[Tensor], prefix: str
) -> list[str]:
    """Emit an `input` node for each example input."""
    b.loc = _forward_loc(module, prefix)
    operands = []
    for name, tensor in zip(_input_names(module, len(example_inputs)), example_inputs, strict=True):
        if not tensor.is_floating_point():
            raise CompileError(
                f"the input '{name}' holds {tensor.dtype} values; inputs are real numbers",
                b.loc,
                "Convert it, or let the client look embeddings up and take them as the input.",
            )
        attrs: dict[str, Attr] = {"name": name, "shape": tuple(tensor.shape)}
        operands.append(b.emit("input", [], attrs, name=f"%{clean(name)}"))
    return operands


def _input_names(module: nn.Module, count: int) -> list[str]:
    """Return the names of forward's first parameters; those of *args are args0, args1, .."""
    names: list[str] = []
    for parameter in inspect.signature(module.forward).parameters.values():
        if parameter.kind is parameter.VAR_POSITIONAL:
            names += [f"{parameter.name}{i}" for i in range(count - len(names))]
        elif parameter.kind is not parameter.KEYWORD_ONLY:
            names.append(parameter.name)
    if len(names) < count:
        raise CompileError(
            f"forward takes {len(names)} inputs ({', '.join(names)}), but {count} are given",
            _forward_loc(module, ""),
        )
    return names[:count]


def _forward_loc(module: nn.Module, prefix: str) -> Loc:
    code = getattr(module.forward, "__code__", None)
    if code is None or not is_users(code.co_filename):
        return Loc(module=prefix)
    return Loc(shown(code.co_filename), code.co_firstlineno, prefix)


def _body(
    b: GraphBuilder,
    weights: Weights,
    module: nn.Module,
    example_inputs: Sequence[Tensor],
    operands: Sequence[str],
    prefix: str,
) -> Outputs:
    """Emit a module's nodes and return its outputs by name."""
    _input_names(module, len(operands))
    b.loc = _forward_loc(module, prefix)
    trace = _trace(module, tuple(example_inputs), prefix)
    result = translate(trace, b, weights, operands, prefix)
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


def _trace(module: nn.Module, example_inputs: tuple[Tensor, ...], prefix: str) -> Trace:
    """Return the trace of torch.export, or else of torch.fx."""
    try:
        with _in_evaluation(module):
            return trace_by_export(module, example_inputs)
    except TraceFailedError as error:
        exported = error
    try:
        with _in_evaluation(module):
            return trace_by_fx(module, example_inputs, rules())
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
    module.eval()
    try:
        yield
    finally:
        for m, attributes, registered in before:
            vars(m).clear()
            vars(m).update(attributes)
            for key, entries in registered.items():
                vars(m)[key].clear()
                vars(m)[key].update(entries)
