"""Trace -> nodes: every call finds its rule, every tensor of the model becomes a constant."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from srcompile.errors import CompileError, Loc
from srcompile.frontend.hints import base_name, hint_for
from srcompile.frontend.inputs import uses_of
from srcompile.frontend.known import Choice, Ids, Known, Masked, hides_by_itself, replaced
from srcompile.frontend.partial import Partial
from srcompile.frontend.rules import (
    NOTHING,
    as_float32,
    is_operand,
    number,
    rules,
    takes_indices,
)
from srcompile.frontend.trace import Call, Place, Ref, Trace, memory, with_source
from srcompile.ops.builder import GraphBuilder

Input = str | Choice | Ids
"""The value of an input: an operand, a mask of 0 and 1, or token ids."""


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
    trace: Trace, b: GraphBuilder, weights: Weights, inputs: Sequence[Input], prefix: str
) -> Any:
    """Emit the nodes of a trace and return its result, with operand names for tensors.

    `inputs` are the values of its inputs: operands, or what is known of masks and token ids.
    `prefix`, a model's name in a pool, goes in front of constant names and module paths. Raises
    CompileError at the user's line.
    """
    return _Translator(trace, b, weights, inputs, prefix).run()


class _Translator:
    def __init__(
        self, trace: Trace, b: GraphBuilder, weights: Weights, inputs: Sequence[Input], prefix: str
    ) -> None:
        self.trace, self.b, self.weights, self.prefix = trace, b, weights, prefix
        self.values: dict[str, Any] = dict(trace.literals)
        self.values.update(zip(trace.inputs, inputs, strict=True))
        self.rows = {
            given.operand: use.rows
            for given, use in zip(inputs, uses_of(trace), strict=True)
            if isinstance(given, Ids)
        }

    def run(self) -> Any:
        for call in self.trace.calls:
            self.b.loc = self.loc(call.place)
            try:
                self.values[call.out] = self.call(call)
            except CompileError as error:
                raise with_source(error, call.place.source) from None
        return replaced(self.resolve(self.trace.result), self.result)

    def loc(self, place: Place) -> Loc:
        return replace(place.loc, module=".".join(filter(None, (self.prefix, place.loc.module))))

    def call(self, call: Call) -> Any:
        args, kwargs = self.resolve(call.args), self.resolve(call.kwargs)
        if call.torch in NOTHING:
            return None
        found = Partial(self).call(call, args, kwargs)
        if found is not NotImplemented:
            return found
        args, kwargs = replaced(args, self.operand), replaced(kwargs, self.operand)
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

    # -- what is known before the program runs

    def operand(self, value: Any) -> Any:
        """Return the operand, or number, for what is known of a value; others as they are."""
        if isinstance(value, Known):
            number = value.tensor.ndim == 0 and not value.secret
            return value.tensor.item() if number else self.result(value)
        return self.result(value)

    def result(self, value: Any) -> Any:
        """Return the operand for what is known of a value; others as they are."""
        if isinstance(value, Known):
            self.check_finite(value.tensor)
            if value.path:
                return self.weights.constant(value.path, value.tensor)
            data = as_float32(value.tensor)
            assert data is not None
            return self.b.const(data, clean(value.name), secret=value.secret)
        if isinstance(value, Choice):
            return self.choice(value)
        if isinstance(value, Ids):
            raise CompileError(
                "token ids can only be looked up in an embedding, or compared with a number",
                self.b.loc,
                "Nobody but the client knows them; let it compute what depends on them.",
            )
        if isinstance(value, Masked):
            raise CompileError("attention scores with a mask can only go into softmax", self.b.loc)
        return value

    def choice(self, value: Choice) -> str:
        """Return zero + (one - zero) * bit."""
        zero, one = value.zero.to(torch.float64), value.one.to(torch.float64)
        self.check_finite(zero)
        self.check_finite(one)
        gap, bit = one - zero, value.bit
        if gap.numel() and bool((gap == gap.reshape(-1)[0]).all()):
            by = float(gap.reshape(-1)[0])
            bit = bit if by == 1 else self.b.emit("scale", [bit], {"by": by})
        else:
            bit = self.b.emit("mul", [bit, self.b.const(gap.float().numpy(), "mask")])
        if not bool(zero.any()):
            return bit
        if bool((zero == zero.reshape(-1)[0]).all()):
            return self.b.emit("offset", [bit], {"by": float(zero.reshape(-1)[0])})
        return self.b.emit("add", [bit, self.b.const(zero.float().numpy(), "mask")])

    def check_finite(self, tensor: Tensor) -> None:
        values = tensor.to(torch.float64)
        if values.numel() and bool((~values.isfinite() | (values <= -1e30)).any()):
            raise CompileError(
                "a mask of infinite or huge numbers can only be added to attention scores, or take "
                "their place, before softmax",
                self.b.loc,
                "Add it right before softmax, or use scaled_dot_product_attention.",
            )

    # -- calls that become nodes

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
                held: Any = Known(tensor, path, True, path)
                if tensor.is_floating_point() and not hides_by_itself(tensor):
                    held = self.weights.constant(path, tensor)
                self.values[value.name] = held
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
