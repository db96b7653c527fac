"""torch.export -> Trace: functional ATen calls, with linear, conv2d, softmax and so on whole."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import warnings
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind
from torch.fx.node import map_arg
from torch.utils import _pytree as pytree

from srcompile.errors import CompileError, Loc
from srcompile.frontend.trace import (
    Call,
    Place,
    Ref,
    Trace,
    TraceFailedError,
    first_line,
    memory,
    place_of_call,
    place_of_error,
    with_source,
)

_MUTATIONS = (OutputKind.BUFFER_MUTATION, OutputKind.PARAMETER_MUTATION)


def trace_by_export(
    module: nn.Module,
    example_inputs: tuple[Tensor, ...],
    named_inputs: Mapping[str, Tensor] = MappingProxyType({}),
) -> Trace:
    """Return the trace that torch.export makes of a module in evaluation mode.

    Raises TraceFailedError, and CompileError for a module that changes its own state.
    """
    try:
        with _quiet(), _no_causal_check(), torch.no_grad():
            program = torch.export.export(module, example_inputs, dict(named_inputs), strict=False)
            program = program.run_decompositions({})
    except Exception as error:
        raise TraceFailedError(first_line(error), place_of_error(error.__traceback__)) from error
    return _trace(program)


def _trace(program: torch.export.ExportedProgram) -> Trace:
    signature = program.graph_signature
    _check_stateless(program)
    inputs: list[str] = []
    literals: dict[str, Any] = {}
    tensors: dict[str, tuple[str, Tensor]] = {}
    held = {**program.state_dict, **program.constants}
    first: dict[object, str] = {}  # torch names a tied tensor after the last of its paths
    for path, tensor in held.items():
        if isinstance(tensor, Tensor) and tensor.numel():
            first.setdefault(memory(tensor), path)
    for spec in signature.input_specs:
        name = cast("Any", spec.arg).name
        if isinstance(spec.arg, ConstantArgument):
            literals[name] = spec.arg.value
        elif spec.kind is InputKind.USER_INPUT:
            inputs.append(name)
        else:
            path = str(spec.target)
            found = cast("Tensor", held[path])
            tensors[name] = (first.get(memory(found), path), found)
    calls: list[Call] = []
    place = Place(Loc())
    for node in program.graph.nodes:
        if node.op == "get_attr":  # the body of a torch.cond or the like: the call that takes it
            literals[node.name] = None  # is what is not supported
        if node.op == "call_function":
            place = place_of_call(node.meta, place)
            calls.append(_call(node, place))
    return Trace(tuple(inputs), literals, tensors, tuple(calls), _result(program))


def _check_stateless(program: torch.export.ExportedProgram) -> None:
    meta = {node.name: node.meta for node in program.graph.nodes}
    for output in program.graph_signature.output_specs:
        if output.kind in _MUTATIONS:
            place = place_of_call(meta[cast("Any", output.arg).name], Place(Loc()))
            error = CompileError(
                f"forward changes '{output.target}'",
                place.loc,
                "A compiled model keeps nothing between two runs; compute it from the inputs.",
            )
            raise with_source(error, place.source)


def _call(node: torch.fx.Node, place: Place) -> Call:
    value = node.meta.get("val")
    return Call(
        out=node.name,
        torch=_name(node.target),
        args=_refs(node.args),
        kwargs=_refs(dict(node.kwargs)),
        place=place,
        shape=tuple(int(s) for s in value.shape) if isinstance(value, Tensor) else None,
    )


def _name(target: object) -> str:
    if isinstance(target, torch._ops.OpOverload):
        return str(target)
    name = getattr(target, "__name__", str(target))
    return f"{getattr(target, '__module__', '').lstrip('_')}.{name}"


def _refs(arguments: Any) -> Any:
    return map_arg(arguments, lambda node: Ref(node.name))  # type: ignore[arg-type, return-value]


def _result(program: torch.export.ExportedProgram) -> Any:
    """Return what forward returns, with a Ref for each tensor."""
    flat = []
    for spec in program.graph_signature.output_specs:
        arg = cast("Any", spec.arg)
        if spec.kind is OutputKind.USER_OUTPUT:
            flat.append(arg.value if isinstance(arg, ConstantArgument) else Ref(arg.name))
    structure = program.call_spec.out_spec
    return pytree.tree_unflatten(flat, structure) if structure is not None else tuple(flat)


@contextlib.contextmanager
def _no_causal_check() -> Iterator[None]:
    """Keep nn.TransformerEncoder from looking whether a mask is causal, which is for speed only."""
    home: Any = torch.nn.modules.transformer
    looks = home._detect_is_causal_mask
    home._detect_is_causal_mask = lambda mask, is_causal=None, size=None: is_causal is True
    try:
        yield
    finally:
        home._detect_is_causal_mask = looks


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch from printing a graph and logging when it fails: the error says what matters."""
    names = ("torch.fx.experimental.symbolic_shapes", "torch._subclasses.fake_tensor")
    levels = {log: log.level for log in map(logging.getLogger, names)}
    printed = io.StringIO()
    for log in levels:
        log.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(printed):
            warnings.filterwarnings("ignore", ".*LeafSpec.*", FutureWarning)  # torch's own
            warnings.filterwarnings("ignore", ".*isinstance.*treespec.*", FutureWarning)
            warnings.filterwarnings("ignore", ".*was assigned during export", UserWarning)
            yield
        sys.stderr.write(printed.getvalue())
    finally:
        for log, level in levels.items():
            log.setLevel(level)
