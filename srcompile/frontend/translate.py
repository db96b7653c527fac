"""Trace -> nodes: every call finds its rule, every tensor of the model becomes a constant."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
from torch import Tensor

from srcompile.errors import CompileError, Loc
from srcompile.frontend.hints import base_name, hint_for
from srcompile.frontend.rules import as_float32, is_operand, number, rules, takes_indices
from srcompile.frontend.trace import Call, Place, Ref, Trace, memory, with_source
from srcompile.ops.builder import GraphBuilder


class Weights:
    """The secret constants of a program. Tensors that share memory are one constant."""

    def __init__(self, b: GraphBuilder) -> None:
        self.b = b
        self.arrays: dict[object, np.ndarray[Any, np.dtype[np.float32]]] = {}
        self.kept: list[Tensor] = []

    def constant(self, path: str, tensor: Tensor) -> str:
        """Return the constant that holds `tensor`, named after its path if it is new."""
        key = memory(tensor)
        if key not in self.arrays or not tensor.numel():
            values = as_float32(tensor)
            if values is None:
                raise CompileError(
                    f"'{path}' holds {tensor.dtype} values that 32-bit floats cannot hold",
                    self.b.loc,
                    "Keep weights as real numbers in CPU memory.",
                )
            self.arrays[key] = values
            self.kept.append(tensor)  # so that its address stays its own
        return self.b.const(self.arrays[key], clean(path), secret=True)


def clean(name: str) -> str:
    """Return a name with the characters that IR text allows."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", name)


def translate(
    trace: Trace, b: GraphBuilder, weights: Weights, operands: Sequence[str], prefix: str
) -> Any:
    """Emit the nodes of a trace and return its result, with operand names for tensors.

    `operands` are the values of its inputs. `prefix`, a model's name in a pool, goes in front of
    constant names and module paths. Raises CompileError at the user's line.
    """
    return _Translator(trace, b, weights, operands, prefix).run()


class _Translator:
    def __init__(
        self, trace: Trace, b: GraphBuilder, weights: Weights, operands: Sequence[str], prefix: str
    ) -> None:
        self.trace, self.b, self.weights, self.prefix = trace, b, weights, prefix
        self.values: dict[str, Any] = dict(trace.literals)
        self.values.update(zip(trace.inputs, operands, strict=True))

    def run(self) -> Any:
        for call in self.trace.calls:
            self.b.loc = self.loc(call.place)
            try:
                self.values[call.out] = self.call(call)
            except CompileError as error:
                raise with_source(error, call.place.source) from None
        return self.resolve(self.trace.result)

    def loc(self, place: Place) -> Loc:
        return replace(place.loc, module=".".join(filter(None, (self.prefix, place.loc.module))))

    def call(self, call: Call) -> Any:
        args, kwargs = self.resolve(call.args), self.resolve(call.kwargs)
        operands = [a for a in _leaves([args, kwargs]) if is_operand(a)]
        if not operands and call.torch.startswith("operator.") and call.torch != "operator.getitem":
            return number(call.torch, args)
        rule = rules().get(call.torch)
        if rule is None:
            name = base_name(call.torch)
            form = f"this form of {name} ({call.torch})" if name in _supported() else name
            raise CompileError(
                f"{form} is not supported", self.b.loc, hint_for(call.torch, rules())
            )
        self.check_types(call, operands)
        value = self.apply(rule, call, args, kwargs)
        if is_operand(value) and call.shape is not None:
            made = self.b.type(value).shape
            assert made == call.shape, f"{call.torch}: torch makes {call.shape}, we make {made}"
        return value

    def check_types(self, call: Call, operands: Sequence[str]) -> None:
        indices = any(self.b.type(name).dtype == "i64" for name in operands)
        if indices and not takes_indices(call.torch):
            raise CompileError(
                f"{base_name(call.torch)} of an index is not supported",
                self.b.loc,
                "An index that argmax makes can be returned, and nothing else.",
            )

    def apply(self, rule: Callable[..., Any], call: Call, args: Any, kwargs: Any) -> Any:
        name = base_name(call.torch)
        plain = getattr(rule, "__qualname__", "") == "Op.from_torch"
        try:
            inspect.signature(rule).bind(self.b, *args, **kwargs)
            fits = not plain or (not kwargs and all(map(is_operand, args)))
        except TypeError:
            fits = False
        if not fits:
            raise CompileError(
                f"{name} is not supported with the arguments ({_shown(args, kwargs)})",
                self.b.loc,
                hint_for(call.torch, rules()),
            )
        try:
            return rule(self.b, *args, **kwargs)
        except ValueError as error:
            raise CompileError(f"{name}: {error}", self.b.loc) from None

    def resolve(self, value: Any) -> Any:
        """Return an argument with the operand name, or literal, in place of each Ref."""
        if isinstance(value, Ref):
            if value.name in self.trace.tensors and value.name not in self.values:
                path, tensor = self.trace.tensors[value.name]
                path = ".".join(filter(None, (self.prefix, path)))
                self.values[value.name] = self.weights.constant(path, tensor)
            return self.values[value.name]
        if isinstance(value, slice):
            return slice(*map(self.resolve, (value.start, value.stop, value.step)))
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return type(value)(*map(self.resolve, value))
        if isinstance(value, (list, tuple)):
            plain = tuple if isinstance(value, tuple) else list
            return plain(map(self.resolve, value))
        if isinstance(value, dict):
            return {key: self.resolve(item) for key, item in value.items()}
        return value


@cache
def _supported() -> frozenset[str]:
    return frozenset(base_name(name) for name in rules())


def _leaves(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return _leaves(list(value.values()))
    if isinstance(value, slice):
        return _leaves([value.start, value.stop, value.step])
    return (
        [leaf for v in value for leaf in _leaves(v)]
        if isinstance(value, (list, tuple))
        else [value]
    )


def _shown(args: Any, kwargs: Any) -> str:
    named = [f"{key}={value!r}" for key, value in kwargs.items()]
    return ", ".join([*("tensor" if is_operand(a) else repr(a) for a in args), *named])
