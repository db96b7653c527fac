"""What a model's inputs are: real numbers, a mask of 0 and 1, or token ids, and how to give them.

Example inputs are a tuple of tensors, in the order of forward's parameters, or a mapping from their
names. What an input is shows in how the model uses it and in its example.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from srcompile.errors import CompileError, Loc
from srcompile.frontend.hints import base_name
from srcompile.frontend.known import HIDDEN, elementwise, moves
from srcompile.frontend.trace import Ref, Trace


@dataclass(frozen=True)
class Examples:
    """Example inputs by name, in the order of forward's parameters.

    The first `positional` are given by position, the others by name.
    """

    tensors: Mapping[str, Tensor]
    positional: int

    @property
    def args(self) -> tuple[Tensor, ...]:
        """The inputs given by position."""
        return tuple(self.tensors.values())[: self.positional]

    @property
    def kwargs(self) -> dict[str, Tensor]:
        """The inputs given by name."""
        return dict(list(self.tensors.items())[self.positional :])


Given = Sequence[Tensor] | Mapping[str, Tensor]


def examples_of(module: nn.Module, given: Given, loc: Loc) -> Examples:
    """Return example inputs with forward's names. Raises CompileError if they do not fit."""
    parameters = inspect.signature(module.forward).parameters
    if not isinstance(given, Mapping):
        return Examples(dict(zip(_names(module, len(given), loc), given, strict=True)), len(given))
    takes_more = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    unknown = [name for name in given if name not in parameters]
    if unknown and not takes_more:
        raise CompileError(
            f"forward has no parameter '{unknown[0]}'; it has {', '.join(parameters)}", loc
        )
    ordered = [name for name in parameters if name in given] + unknown
    leading = 0
    for name, parameter in parameters.items():
        if name not in given or parameter.kind is not parameter.POSITIONAL_OR_KEYWORD:
            break
        leading += 1
    return Examples({name: given[name] for name in ordered}, leading)


def _names(module: nn.Module, count: int, loc: Loc) -> list[str]:
    """Return the names of forward's first parameters; those of *args are args0, args1, .."""
    names: list[str] = []
    for parameter in inspect.signature(module.forward).parameters.values():
        if parameter.kind is parameter.VAR_POSITIONAL:
            names += [f"{parameter.name}{i}" for i in range(count - len(names))]
        elif parameter.kind is not parameter.KEYWORD_ONLY:
            names.append(parameter.name)
    if len(names) < count:
        raise CompileError(
            f"forward takes {len(names)} inputs ({', '.join(names)}), but {count} are given", loc
        )
    return names[:count]


# -- what an input is -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Use:
    """How a model uses an input: the rows of the tables it looks up, and whether it is compared."""

    rows: int = 0
    as_mask: bool = False

    def __or__(self, other: Use) -> Use:
        return Use(max(self.rows, other.rows), self.as_mask or other.as_mask)


_COMPARES = frozenset(
    [
        "eq",
        "ne",
        "lt",
        "le",
        "gt",
        "ge",
        "logical_and",
        "logical_or",
        "logical_not",
        "bitwise_and",
        "bitwise_or",
        "bitwise_not",
        "and_",
        "or_",
        "invert",
        "and",
        "or",
        "bool",
        "__and__",
        "__or__",
    ]
)


def uses_of(trace: Trace) -> list[Use]:
    """Return how each input of a trace is used, in its order."""
    return [_use(trace, name) for name in trace.inputs]


def _use(trace: Trace, name: str) -> Use:
    moved, derived = {name}, {name}  # values that are the input's elements, or depend on each
    use = Use()
    for call in trace.calls:
        refs = _refs([call.args, call.kwargs])
        if not any(ref in derived for ref in refs):
            continue
        base = base_name(call.torch)
        first = refs[0] if refs else ""
        if base == "embedding":
            ids = [ref for ref in refs if ref in moved]
            table = next((trace.tensors[r][1] for r in refs if r in trace.tensors), None)
            if ids and table is not None:
                use |= Use(rows=table.shape[0])
            continue
        if base in _COMPARES or _makes_mask(base, call.args, call.kwargs, derived):
            use |= Use(as_mask=True)
        if first in moved and (moves(call.torch) or _converts(base)):
            moved.add(call.out)
        if elementwise(call.torch) or moves(call.torch):
            derived.add(call.out)
    return use


def _makes_mask(base: str, args: Any, kwargs: Any, derived: set[str]) -> bool:
    """Return whether a call makes booleans, chooses by a value, or makes it hide scores."""
    leaves = _leaves([args, kwargs])
    if torch.bool in leaves:
        return True
    if base in ("where", "masked_fill"):
        condition = args[0 if base == "where" else 1] if len(args) > 1 else None
        return isinstance(condition, Ref) and condition.name in derived
    return base == "mul" and any(isinstance(v, (int, float)) and v <= HIDDEN for v in leaves)


def _converts(base: str) -> bool:
    return base in ("to", "_to_copy", "to_copy", "long", "int", "type", "type_as")


def _leaves(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        return _leaves(list(value.values()))
    if isinstance(value, (list, tuple)):
        return [leaf for item in value for leaf in _leaves(item)]
    return [value]


def _refs(value: Any) -> list[str]:
    return [leaf.name for leaf in _leaves(value) if isinstance(leaf, Ref)]


def is_bits(tensor: Tensor) -> bool:
    """Return whether a tensor holds 0 and 1 only."""
    return bool(((tensor == 0) | (tensor == 1)).all())
