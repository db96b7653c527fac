"""The rule for every torch name: the ops' own, layout, calls that do nothing, and constants."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from functools import cache
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from srcompile.frontend.known import Known
from srcompile.frontend.layout import LAYOUT, Rule
from srcompile.ops import registry, torch_names
from srcompile.ops.base import Emitter, require


def is_operand(value: object) -> bool:
    """Return whether an argument of a rule names a value or a constant."""
    return isinstance(value, str) and value.startswith(("%", "@"))


def _same(b: Emitter, x: Any, *_: Any, **__: Any) -> Any:
    return x


def _nothing(b: Emitter, *_: Any, **__: Any) -> None:
    return None


def _dropout(b: Emitter, x: str, p: float = 0.5, training: bool = True) -> str:
    require(
        not training or p == 0,
        b,
        "dropout stays on in evaluation mode",
        "Pass training=self.training, or use nn.Dropout.",
    )
    return x


def _cast(b: Emitter, x: str, *args: Any, **kwargs: Any) -> str:
    """Return x: every float type is the same fixed point. Other types are refused."""
    for wanted in (*args, *kwargs.values()):
        if isinstance(wanted, torch.dtype):
            require(
                wanted.is_floating_point,
                b,
                f"a conversion to {wanted} is not supported",
                "Values are real numbers in fixed point; leave the conversion out.",
            )
    return x


def _to_whole(b: Emitter, x: str) -> str:
    return _cast(b, x, torch.int64)


_SAME = """
    aten.clone.default aten.detach.default aten.alias.default aten.contiguous.default
    aten.lift_fresh.default aten.lift_fresh_copy.default torch.clone torch.detach method.contiguous
    method.cpu method.cuda method.requires_grad aten.type_as.default method.type_as method.float
    method.double method.half method.bfloat16 aten.positive.default operator.pos torch.positive
"""
_CAST = """
    aten._to_copy.default aten.to.dtype aten.to.dtype_layout aten.to.device aten.to.other method.to
    method.type
"""
_NOTHING = (
    "aten._assert_tensor_metadata.default torch.fx._symbolic_trace._assert_is_none torch._assert"
)
NOTHING = frozenset(_NOTHING.split())
"""Calls that check something when the model runs; what they check holds for the examples."""
_DROPOUT = """
    aten.dropout.default aten.feature_dropout.default torch.nn.functional.dropout torch.dropout
    torch.nn.functional.dropout1d torch.nn.functional.dropout2d torch.nn.functional.alpha_dropout
"""
_WHOLE = "method.int method.long method.short method.bool"


def _size(b: Emitter, x: str, dim: int | None = None) -> Any:
    shape = b.type(x).shape
    return shape if dim is None else shape[dim]


def _rank(b: Emitter, x: str) -> int:
    return len(b.type(x).shape)


def _count(b: Emitter, x: str) -> int:
    return math.prod(b.type(x).shape)


def _attribute(b: Emitter, x: str, name: str) -> Any:
    known: Mapping[str, Callable[[], Any]] = {
        "shape": lambda: b.type(x).shape,
        "ndim": lambda: _rank(b, x),
        "T": lambda: LAYOUT["aten.t.default"](b, x),
        "mT": lambda: LAYOUT["aten.transpose.int"](b, x, -2, -1),
        "dtype": lambda: torch.float32,
        "device": lambda: torch.device("cpu"),
    }
    require(name in known, b, f"the tensor's attribute '{name}' is not supported")
    return known[name]()


def _made(name: str) -> Rule:
    """Return the rule of a call that makes a tensor from numbers."""

    def rule(b: Emitter, *args: Any, **kwargs: Any) -> Known:
        shaped = [torch.empty(b.type(a).shape) if is_operand(a) else a for a in args]
        kept = {k: v for k, v in kwargs.items() if k in ("dtype", "dim", "diagonal", "base")}
        home = torch.ops.aten if name.startswith("aten.") else torch
        made: Tensor = operator.attrgetter(name.partition(".")[2])(home)(*shaped, **kept)
        return Known(made, name.split(".")[1])

    return rule


_MADE = """
    aten.arange.default aten.arange.start aten.arange.start_step aten.full.default
    aten.ones.default aten.zeros.default aten.eye.default aten.eye.m aten.linspace.default
    aten.scalar_tensor.default aten.zeros_like.default aten.ones_like.default
    aten.full_like.default aten.new_zeros.default aten.new_ones.default aten.new_full.default
    torch.zeros_like torch.ones_like torch.full_like
"""


def _hardtanh(b: Emitter, x: str, min_val: float = -1.0, max_val: float = 1.0) -> str:
    return b.emit("clamp", [x], {"low": float(min_val), "high": float(max_val)})


def _relu6(b: Emitter, x: str) -> str:
    return _hardtanh(b, x, 0.0, 6.0)


def _clamp_min(b: Emitter, x: str, min: float) -> str:
    return registry()["clamp"].from_torch(b, x, min, None)


def _clamp_max(b: Emitter, x: str, max: float) -> str:
    return registry()["clamp"].from_torch(b, x, None, max)


def _batch_norm(
    b: Emitter, x: str, weight: str | None, bias: str | None, mean: str, var: str, momentum: float,
    eps: float,
) -> tuple[str, None, None]:  # fmt: skip
    out = registry()["batch_norm"].from_torch(b, x, weight, bias, mean, var, False, momentum, eps)
    return out, None, None


def _functional_batch_norm(
    b: Emitter, x: str, mean: str, var: str, weight: str | None = None, bias: str | None = None,
    training: bool = False, momentum: float = 0.1, eps: float = 1e-5,
) -> str:  # fmt: skip
    norm = registry()["batch_norm"]
    return norm.from_torch(b, x, weight, bias, mean, var, training, momentum, eps)


def _max(b: Emitter, x: str) -> str:
    count = math.prod(b.type(x).shape)
    flat = b.emit("reshape", [x], {"shape": (count,)})
    return b.emit("amax", [flat], {"axis": 0, "keepdims": False})


def _norm(
    b: Emitter, x: str, p: float = 2, dim: Any = None, keepdim: bool = False, *, dtype: Any = None
) -> str:
    require(p == 2, b, f"a norm of order {p} is not supported", "Use the order 2.")
    squares = b.emit("square", [x])
    total = registry()["sum"].from_torch(b, squares, dim, keepdim)
    return b.emit("sqrt", [total])


_COMPOSED: Mapping[str, Rule] = {
    "aten.hardtanh.default": _hardtanh,
    "torch.nn.functional.hardtanh": _hardtanh,
    "aten.relu6.default": _relu6,
    "torch.nn.functional.relu6": _relu6,
    "aten.clamp_min.default": _clamp_min,
    "torch.clamp_min": _clamp_min,
    "aten.clamp_max.default": _clamp_max,
    "torch.clamp_max": _clamp_max,
    "aten._native_batch_norm_legit_no_training.default": _batch_norm,
    "torch.nn.functional.batch_norm": _functional_batch_norm,
    "aten.max.default": _max,
    "aten.linalg_vector_norm.default": _norm,
    "aten.norm.ScalarOpt_dim": _norm,
    "torch.norm": _norm,
    "method.norm": _norm,
    "method.size": _size,
    "method.dim": _rank,
    "method.numel": _count,
    "builtins.getattr": _attribute,
}


@cache
def rules() -> Mapping[str, Rule]:
    """Return the rule for each torch name."""
    table: dict[str, Rule] = {name: op.from_torch for name, op in torch_names().items()}
    for names, rule in (
        (_SAME, _same), (_CAST, _cast), (_NOTHING, _nothing), (_DROPOUT, _dropout),
        (_WHOLE, _to_whole),
    ):  # fmt: skip
        table.update(dict.fromkeys(names.split(), rule))
    table.update({name: _made(name) for name in _MADE.split()})
    return MappingProxyType({**table, **LAYOUT, **_COMPOSED})


def takes_indices(name: str) -> bool:
    """Return whether a call may be given indices (of argmax): it only moves them."""
    return name in LAYOUT or name in _SAME.split() or name in _NOTHING.split()


def number(name: str, args: tuple[Any, ...]) -> Any:
    """Return what a Python operator gives on numbers, such as a product of sizes."""
    return getattr(operator, name.removeprefix("operator."))(*args)


def as_float32(tensor: Tensor) -> np.ndarray[Any, np.dtype[np.float32]] | None:
    """Return a tensor's values, None if float32 does not hold them. They are not copied."""
    if tensor.is_meta or tensor.is_complex() or tensor.layout is not torch.strided:
        return None
    values = tensor.detach().cpu()
    whole = not values.is_floating_point()
    if whole and values.numel() and int(values.to(torch.int64).abs().max()) > 1 << 24:
        return None
    array: np.ndarray[Any, np.dtype[np.float32]] = values.to(torch.float32).numpy().view()
    array.flags.writeable = False
    return array
