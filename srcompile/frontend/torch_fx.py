"""torch.fx.symbolic_trace -> Trace: the fallback for modules that torch.export does not take.

It records what the module's Python calls, layers opened up to torch.nn.functional. Unlike
torch.export it does not make in-place ops functional, so the graph is run beside the module.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import operator
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.node import map_arg
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils import _pytree as pytree

from srcompile.errors import Loc
from srcompile.frontend.trace import (
    Call,
    Place,
    Ref,
    Trace,
    TraceFailedError,
    first_line,
    place_of_call,
    place_of_error,
)

_VIEWS = """
    view reshape flatten unflatten unsqueeze squeeze permute transpose t T mT getitem getattr
    select narrow split chunk unbind expand expand_as view_as detach contiguous to float double
    type dropout
""".split()  # noqa: SIM905


Shapes = dict[str, tuple[int, ...]]


class _Tracer(torch.fx.Tracer):
    record_stack_traces = True

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return False

    def call_module(
        self,
        m: nn.Module,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        if isinstance(m, _BatchNorm):  # its own forward branches on the input's rank
            forward = functools.partial(_batch_norm, m)
        return super().call_module(m, forward, args, kwargs)


def _batch_norm(layer: _BatchNorm, input: Tensor) -> Tensor:
    live = layer.training or layer.running_mean is None
    mean, var, weight, bias = layer.running_mean, layer.running_var, layer.weight, layer.bias
    return functional.batch_norm(
        input, mean, var, weight, bias, live, layer.momentum or 0.0, layer.eps
    )


def trace_by_fx(
    module: nn.Module,
    example_inputs: tuple[Tensor, ...],
    names: Iterable[str],
    named_inputs: Mapping[str, Tensor] = MappingProxyType({}),
) -> Trace:
    """Return the trace that torch.fx makes of a module in evaluation mode.

    `names` are the names that translate has a rule for. Raises TraceFailedError.
    """
    if named_inputs:
        raise TraceFailedError("takes inputs by position only", Place(Loc()))
    try:
        with torch.no_grad():
            given = inspect.signature(module.forward).bind(*example_inputs)
            parameters = inspect.signature(module.forward).parameters
            defaults = {n: p.default for n, p in parameters.items() if n not in given.arguments}
            copied = copy.deepcopy(module)  # tracing leaves attributes, and may change buffers
            graph = _Tracer().trace(copied, concrete_args=defaults or None)
            traced = torch.fx.GraphModule(copied, graph)
            inputs = [*example_inputs, *defaults.values()]
            shapes = _shapes(module, traced, example_inputs, inputs)
    except Exception as error:
        raise TraceFailedError(first_line(error), place_of_error(error.__traceback__)) from error
    return _Reader(module, traced, shapes, list(defaults.values()), names).trace()


def _shapes(
    module: nn.Module,
    traced: torch.fx.GraphModule,
    example_inputs: tuple[Tensor, ...],
    inputs: list[Any],
) -> Shapes:
    """Return what shape each node makes on the example inputs.

    Runs the graph beside the module, on copies, and raises RuntimeError if their results differ.
    """
    recorder = _Recorder(copy.deepcopy(traced))
    have = pytree.tree_leaves(recorder.run(*copy.deepcopy(inputs)))
    own = copy.deepcopy(module)
    want = pytree.tree_leaves(own(*copy.deepcopy(example_inputs)))
    if not all(map(torch.equal, module.buffers(), own.buffers())):
        raise RuntimeError("forward changes a buffer, but a compiled model keeps nothing")
    for a, b in zip(want, have, strict=True):
        if isinstance(a, Tensor) and not torch.allclose(a, b, rtol=1e-3, atol=1e-4, equal_nan=True):
            raise RuntimeError(
                "the traced graph computes something else: forward is random, or has `x += y` "
                "where `x = x + y` would do"
            )
    return recorder.shapes


class _Recorder(torch.fx.Interpreter):
    """Runs a graph and keeps the shape of every tensor, by node name."""

    def __init__(self, traced: torch.fx.GraphModule) -> None:
        super().__init__(traced)
        self.shapes: Shapes = {}

    def run_node(self, n: torch.fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, Tensor):
            self.shapes[n.name] = tuple(value.shape)
        return value


class _Reader:
    """Reads an fx graph node by node. An in-place call renames what it changes."""

    def __init__(
        self,
        module: nn.Module,
        traced: torch.fx.GraphModule,
        shapes: Shapes,
        defaults: list[Any],
        names: Iterable[str],
    ) -> None:
        self.module, self.traced = module, traced
        self.shapes, self.defaults = shapes, defaults
        self.names = frozenset(names)
        self.functions = {id(f): name for name in self.names if (f := _function(name)) is not None}
        self.latest: dict[torch.fx.Node, str] = {}
        self.place = Place(Loc())

    def trace(self) -> Trace:
        nodes = list(self.traced.graph.nodes)
        placeholders = [node.name for node in nodes if node.op == "placeholder"]
        tensors: dict[str, tuple[str, Tensor]] = {}
        calls: list[Call] = []
        result: Any = None
        for node in nodes:
            if node.op == "get_attr":
                tensors[node.name] = self.tensor(str(node.target))
            elif node.op in ("call_function", "call_method"):
                self.place = place_of_call(node.meta, self.place)
                calls.append(self.call(node))
            elif node.op == "output":
                result = self.refs(node.args[0])
        count = len(placeholders) - len(self.defaults)
        literals = dict(zip(placeholders[count:], self.defaults, strict=True))
        return Trace(tuple(placeholders[:count]), literals, tensors, tuple(calls), result)

    def tensor(self, path: str) -> tuple[str, Tensor]:
        """Return the module's own tensor, not that of its copy, unless tracing has made it."""
        for home in (self.module, self.traced):
            with contextlib.suppress(AttributeError):
                return path, operator.attrgetter(path)(home)
        raise AssertionError(path)

    def refs(self, arguments: Any) -> Any:
        return map_arg(
            arguments,
            lambda node: Ref(self.latest.get(node, node.name)),  # type: ignore[arg-type, return-value]
        )

    def call(self, node: torch.fx.Node) -> Call:
        args, kwargs = self.refs(node.args), dict(self.refs(dict(node.kwargs)))
        for first in ("input", "tensors"):
            if first in kwargs:
                args = (kwargs.pop(first), *args)
        if self.changes_operand(node, bool(kwargs.pop("inplace", False))):
            changed = node.args[0] if node.args else node.kwargs["input"]
            assert isinstance(changed, torch.fx.Node)
            self.forbid_views(changed)
            self.latest[changed] = node.name
        shape = self.shapes.get(node.name)
        return Call(node.name, self.name(node), args, kwargs, self.place, shape)

    def name(self, node: torch.fx.Node) -> str:
        """Return the name of translate's table for what this node calls."""
        if node.op == "call_method":
            method = str(node.target)
            plain = method if method.startswith("__") else method.rstrip("_")
            homes = ("method", "torch", "torch.nn.functional")
            found = [f"{home}.{plain}" for home in homes if f"{home}.{plain}" in self.names]
            return found[0] if found else f"method.{plain}"
        name = getattr(node.target, "__name__", str(node.target))
        home = str(getattr(node.target, "__module__", None) or "torch").lstrip("_")
        return self.functions.get(id(node.target), f"{home}.{name}")

    @staticmethod
    def changes_operand(node: torch.fx.Node, inplace: bool) -> bool:
        if node.op == "call_method":
            return str(node.target).endswith("_") and not str(node.target).endswith("__")
        name = getattr(node.target, "__name__", "")
        return inplace or (name.endswith("_") and not name.endswith("__"))

    def forbid_views(self, changed: torch.fx.Node) -> None:
        """Refuse an in-place call on memory that another value shares."""
        seen: Iterable[torch.fx.Node] = [changed, *changed.users]
        if changed.op == "get_attr" or any(_base_name(node) in _VIEWS for node in seen):
            raise TraceFailedError("an in-place op changes a tensor that has views", self.place)


def _base_name(node: torch.fx.Node) -> str:
    if node.op not in ("call_function", "call_method"):
        return ""
    return str(getattr(node.target, "__name__", node.target))


def _function(name: str) -> object | None:
    """Return the Python function that a name such as `torch.relu` stands for, if there is one."""
    root, _, rest = name.partition(".")
    if root not in ("torch", "operator"):
        return None
    try:
        return operator.attrgetter(rest)(torch if root == "torch" else operator)  # type: ignore[no-any-return]
    except AttributeError:
        return None
