"""Calls on what is known before the program runs: evaluated, moved, or made part of a softmax."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from srcompile.errors import CompileError
from srcompile.frontend.hints import base_name, is_random
from srcompile.frontend.known import (
    Choice,
    Ids,
    Known,
    Masked,
    bit_like,
    chosen,
    complement,
    computed,
    elementwise,
    hiding,
    joined,
    move_choice,
    moved,
    moves,
    reads_shape,
    replaced,
    very_low,
)
from srcompile.frontend.rules import is_operand, rules
from srcompile.frontend.trace import Call
from srcompile.ops import torch_names
from srcompile.ops.base import axis_of, require
from srcompile.ops.builder import GraphBuilder

_ABSTRACT = (Known, Choice, Ids, Masked)
_KEEPS = frozenset(
    [
        "clone",
        "detach",
        "alias",
        "contiguous",
        "lift_fresh",
        "lift_fresh_copy",
        "to",
        "_to_copy",
        "to_copy",
        "float",
        "type_as",
        "dropout",
        "type",
    ]
)


class Translator(Protocol):
    """What is needed of the translator."""

    b: GraphBuilder
    rows: dict[str, int]

    def operand(self, value: Any) -> Any:
        """Return the operand, or number, for what is known of a value."""

    def result(self, value: Any) -> Any:
        """Return the operand for what is known of a value."""


class Partial:
    """Evaluates one call as far as its operands are known."""

    def __init__(self, translator: Translator) -> None:
        self.t, self.b = translator, translator.b

    def call(self, call: Call, args: Any, kwargs: Any) -> Any:
        """Return the value of a call, NotImplemented if it has to become a node."""
        leaves: list[Any] = []
        replaced([args, kwargs], leaves.append)
        special = _SPECIAL.get(base_name(call.torch))
        if special is not None:
            found = special(self, call, args, kwargs)
            if found is not NotImplemented:
                return found
        abstract = [leaf for leaf in leaves if isinstance(leaf, _ABSTRACT)]
        if not abstract:
            return NotImplemented
        if reads_shape(call.torch) and not isinstance(args[0], Masked):
            return computed(call.torch, *replaced([args, kwargs], _stand_in))
        if any(isinstance(leaf, Masked) for leaf in abstract):
            return self.masked(call, args, kwargs)
        if any(map(is_operand, leaves)):
            return NotImplemented
        kinds = {type(leaf) for leaf in abstract}
        if kinds == {Known}:
            return self.known(call, args, kwargs, abstract)
        if kinds <= {Known, Choice}:
            return self.choices(call, args, kwargs, abstract)
        if isinstance(args[0], Ids) and kinds <= {Known, Ids}:
            return self.ids(call, args, kwargs)
        return NotImplemented

    # -- known, choices, ids

    def known(self, call: Call, args: Any, kwargs: Any, leaves: list[Any]) -> Any:
        """Return what torch computes of known tensors."""
        if is_random(call.torch):
            return NotImplemented
        try:
            value = computed(call.torch, *replaced([args, kwargs], _stand_in))
        except AttributeError:  # no function of torch: a rule's own name
            return NotImplemented
        secret, name = any(leaf.secret for leaf in leaves), base_name(call.torch)
        if isinstance(value, Tensor) and isinstance(args[0], Known) and args[0].path:
            same = value.shape == args[0].tensor.shape and value.dtype == args[0].tensor.dtype
            if same and torch.equal(value, args[0].tensor):
                return args[0]
        return replaced(value, lambda v: Known(v, name, secret) if isinstance(v, Tensor) else v)

    def choices(self, call: Call, args: Any, kwargs: Any, leaves: list[Any]) -> Any:
        """Return a call on masks: moved, or on both of their values; NotImplemented for others."""
        found = [leaf for leaf in leaves if isinstance(leaf, Choice)]
        bits = list(dict.fromkeys(leaf.bit for leaf in found))
        if moves(call.torch) and isinstance(args[0], Choice) and len(found) == 1:
            return self.moved(call, args, kwargs)
        if not elementwise(call.torch) or len(bits) > 2:
            return NotImplemented

        def at(*values: bool) -> Any:
            chosen_at = dict(zip(bits, values, strict=True))

            def side(leaf: Any) -> Any:
                if isinstance(leaf, Choice):
                    return leaf.one if chosen_at[leaf.bit] else leaf.zero
                return _stand_in(leaf)

            return computed(call.torch, *replaced([args, kwargs], side))

        name = base_name(call.torch)
        if len(bits) == 1:
            zero, one = at(False), at(True)
            if not isinstance(zero, Tensor):
                return NotImplemented
            return chosen(bit_like(self.b, bits[0], zero.shape), zero, one, name)
        corners = [at(x, y) for x in (False, True) for y in (False, True)]
        both = joined(self.b, bits[0], bits[1], corners, name)
        return NotImplemented if both is None else both

    def moved(self, call: Call, args: Any, kwargs: Any) -> Any:
        """Return a mask whose elements a call moves."""
        choice: Choice = args[0]

        def apply(tensor: Tensor) -> Any:
            rest = replaced(args[1:], _stand_in)
            return computed(call.torch, (tensor, *rest), _plain(kwargs))

        places = torch.arange(choice.zero.numel()).reshape(choice.zero.shape)
        found = apply(places)
        if isinstance(found, Tensor):
            return move_choice(self.b, apply, choice)
        parts = [apply(side) for side in (choice.zero, choice.one)]
        return tuple(
            Choice(moved(self.b, choice.bit, where), zero, one)
            for where, zero, one in zip(found, *parts, strict=True)
        )

    def ids(self, call: Call, args: Any, kwargs: Any) -> Any:
        """Return token ids moved, or a mask that compares them with numbers."""
        given: Ids = args[0]
        if moves(call.torch) or base_name(call.torch) in _KEEPS:
            rest, kwargs = replaced(args[1:], _stand_in), _plain(kwargs)
            if base_name(call.torch) in _KEEPS:
                return given
            return replace(given, places=computed(call.torch, (given.places, *rest), kwargs))
        rows = self.t.rows.get(given.operand, 0)
        numbers = not any(isinstance(a, Known) and a.tensor.ndim for a in args[1:])
        if not elementwise(call.torch) or not rows or not numbers:
            return NotImplemented
        # f(id) = row `id` of the table of all f, which the client looks up like an embedding
        values = computed(
            call.torch, (torch.arange(rows), *replaced(args[1:], _stand_in)), _plain(kwargs)
        )
        if values.dtype != torch.bool:
            return NotImplemented
        table = self.b.const(values.float().reshape(rows, 1).numpy(), "ids")
        bit = self.look_up(given, table)
        bit = self.b.emit("reshape", [bit], {"shape": tuple(given.places.shape)})
        shape = tuple(given.places.shape)
        return Choice(
            bit, torch.zeros(shape, dtype=torch.bool), torch.ones(shape, dtype=torch.bool)
        )

    def look_up(self, ids: Ids, table: str) -> str:
        """Return a table's rows at ids."""
        rows = self.b.emit("embedding", [ids.operand, table])
        size, width = ids.places.numel(), self.b.type(table).shape[1]
        whole = math.prod(self.b.type(ids.operand).shape)
        flat = ids.places.reshape(-1)
        if torch.equal(flat, torch.arange(whole)):
            shape = (*ids.places.shape, width)
            same = self.b.type(rows).shape == shape
            return rows if same else self.b.emit("reshape", [rows], {"shape": shape})
        chooses = self.b.const((flat[:, None] == torch.arange(whole)).float().numpy(), "places")
        rows = self.b.emit("reshape", [rows], {"shape": (whole, width)})
        rows = self.b.emit("matmul", [chooses, rows])  # (size, width)
        assert self.b.type(rows).shape == (size, width)
        return self.b.emit("reshape", [rows], {"shape": (*ids.places.shape, width)})

    def embedding(self, call: Call, args: Any, kwargs: Any) -> Any:
        """Return a look-up of token ids, or of known places."""
        given = [*args, *kwargs.values()]
        ids = next((a for a in given if isinstance(a, Ids)), None)
        table = next((a for a in given if is_operand(a)), None)
        if table is None or len(self.b.type(table).shape) != 2:
            return NotImplemented
        if ids is not None:
            return self.look_up(ids, table)
        places = next((a for a in given if isinstance(a, Known)), None)
        if places is None:
            return NotImplemented
        known = self.b.const(places.tensor.to(torch.float32).numpy(), "ids")
        return self.b.emit("embedding", [known, table])

    # -- masks

    def where(self, call: Call, args: Any, kwargs: Any) -> Any:
        """Return where(condition, x, y)."""
        if kwargs or len(args) != 3:
            return NotImplemented
        return self.selected(call, args[0], args[1], args[2])

    def masked_fill(self, call: Call, args: Any, kwargs: Any) -> Any:
        """Return masked_fill(x, mask, value)."""
        given = [*args, *kwargs.values()]
        if len(given) != 3:
            return NotImplemented
        return self.selected(call, given[1], given[2], given[0])

    def selected(self, call: Call, condition: Any, x: Any, y: Any) -> Any:
        """Return x where the condition holds, else y."""
        if not isinstance(condition, (Known, Choice)):
            return NotImplemented
        tensors = [v for v in (x, y) if is_operand(v) or isinstance(v, Masked)]
        if not tensors:
            return NotImplemented
        if very_low(y):
            return self.keep(x, condition)
        if very_low(x):
            return self.keep(y, self.negated(condition))
        holds = self.t.result(_as_float(condition))
        parts = []
        for value, weight in ((x, holds), (y, complement(self.b, holds))):
            value = self.t.operand(value)
            if isinstance(value, (int, float)):
                if value:
                    parts.append(self.b.emit("scale", [weight], {"by": float(value)}))
                continue
            parts.append(self.b.emit("mul", [value, weight]))
        return parts[0] if len(parts) == 1 else self.b.emit("add", parts)

    def keep(self, scores: Any, keep: Known | Choice) -> Any:
        """Return scores of which only those count where `keep` holds."""
        if isinstance(scores, Masked):
            return Masked(scores.scores, self.both(scores.keep, keep))
        shape = _shape(keep)
        have = self.b.type(scores).shape
        want = tuple(np.broadcast_shapes(have, shape))
        return Masked(bit_like(self.b, scores, want), keep)

    def both(self, first: Known | Choice, second: Known | Choice) -> Known | Choice:
        """Return where both hold."""
        found = self.logical("torch.logical_and", first, second)
        if found is NotImplemented:
            product = self.b.emit(
                "mul", [self.t.result(_as_float(first)), self.t.result(_as_float(second))]
            )
            shape = self.b.type(product).shape
            return Choice(product, torch.zeros(shape).bool(), torch.ones(shape).bool())
        return found  # type: ignore[no-any-return]

    def negated(self, condition: Known | Choice) -> Known | Choice:
        """Return where a condition does not hold."""
        return self.logical("torch.logical_not", condition)  # type: ignore[no-any-return]

    def logical(self, name: str, *args: Known | Choice) -> Any:
        """Return a logical call on conditions."""
        call = Call("", name, args, {}, None, None)  # type: ignore[arg-type]
        return self.call(call, args, {})

    def add(self, call: Call, args: Any, kwargs: Any) -> Any:
        """Return scores that a mask of very low numbers is added to."""
        if kwargs or len(args) != 2:
            return NotImplemented
        for x, y in (args, args[::-1]):
            if (is_operand(x) or isinstance(x, Masked)) and (keep := hiding(y)) is not None:
                return self.keep(x, keep)
            if isinstance(x, Masked) and is_operand(y):
                return self.keep(self.b.emit("add", [x.scores, y]), x.keep)
        return NotImplemented

    def baddbmm(self, call: Call, args: Any, kwargs: Any) -> Any:
        """Return beta * summand + alpha * x @ y."""
        summand, x, y = args[:3]
        beta, alpha = kwargs.get("beta", 1), kwargs.get("alpha", 1)
        product = self.b.emit("matmul", [self.t.operand(x), self.t.operand(y)])
        if alpha != 1:
            product = self.b.emit("scale", [product], {"by": float(alpha)})
        if beta == 0:
            return product
        found = self.add(call, (summand, product), {}) if beta == 1 else NotImplemented
        if found is not NotImplemented:
            return found
        summand = self.t.result(summand)
        if beta != 1:
            summand = self.b.emit("scale", [summand], {"by": float(beta)})
        return self.b.emit("add", [product, summand])

    def masked(self, call: Call, args: Any, kwargs: Any) -> Any:
        """Return a call on scores with a mask: softmax, or one that only moves them."""
        scores: Any = args[0]
        base = base_name(call.torch)
        if not isinstance(scores, Masked):
            return NotImplemented
        if base in _KEEPS:
            return scores
        if base in ("softmax", "_softmax"):
            dim = args[1] if len(args) > 1 else kwargs.get("dim")
            require(isinstance(dim, int), self.b, "softmax needs the axis it runs along")
            keep = self.mask_operand(scores.keep)
            operands = [scores.scores] if keep is None else [scores.scores, keep]
            axis = axis_of(dim, len(self.b.type(scores.scores).shape))
            return self.b.emit("softmax", operands, {"axis": axis})
        if moves(call.torch):
            shape = self.b.type(scores.scores).shape
            keep = self.logical("aten.expand.default", scores.keep, list(shape))  # type: ignore[arg-type]
            rest = replaced(args[1:], self.t.operand)
            inner = rules()[call.torch](self.b, scores.scores, *rest, **kwargs)
            moved_keep = self.call(call, (keep, *args[1:]), kwargs)
            return Masked(inner, moved_keep)
        return NotImplemented

    def mask_operand(self, keep: Known | Choice) -> str | None:
        """Return a mask as an operand of 0 and 1, None if everything counts."""
        if isinstance(keep, Known) and bool(keep.tensor.all()):
            return None
        return str(self.t.result(_as_float(keep)))

    def attention(self, call: Call, args: Any, kwargs: Any) -> Any:
        """Return attention whose mask is known, or a choice; others are no case of this."""
        names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        mask, causal = given.pop("attn_mask", None), given.pop("is_causal", False)
        if (mask is None or is_operand(mask)) and not causal:
            return NotImplemented
        q, k, v = (self.t.operand(given.pop(name)) for name in names[:3])
        keep: Any = None
        if isinstance(mask, (Known, Choice)):
            boolean = _dtype(mask) == torch.bool
            keep = mask if boolean else hiding(mask)
        if causal:
            size = self.b.type(q).shape[-2], self.b.type(k).shape[-2]
            tril = Known(torch.ones(size, dtype=torch.bool).tril(), "causal")
            keep = tril if keep is None else self.both(keep, tril)
        op = torch_names()["aten.scaled_dot_product_attention.default"]
        if keep is None:
            return op.from_torch(self.b, q, k, v, self.t.result(mask), **given)
        if is_operand(mask):
            raise CompileError("is_causal with a float mask is not supported", self.b.loc)
        require(not given.get("dropout_p"), self.b, "attention has dropout", "Call model.eval().")
        require(not given.get("enable_gqa"), self.b, "grouped-query attention is not supported")
        operand, scale = self.mask_operand(keep), given.get("scale")
        scale = 1.0 / math.sqrt(self.b.type(q).shape[-1]) if scale is None else scale
        operands = [q, k, v] if operand is None else [q, k, v, operand]
        return self.b.emit("attention", operands, {"scale": float(scale)})


def _stand_in(leaf: Any) -> Any:
    """Return a tensor for what is known of one."""
    if isinstance(leaf, Known):
        return leaf.tensor
    if isinstance(leaf, Choice):
        return leaf.zero
    return leaf.places if isinstance(leaf, Ids) else leaf


def _plain(kwargs: Any) -> Any:
    return replaced(kwargs, _stand_in)


def _shape(value: Known | Choice) -> tuple[int, ...]:
    return tuple((value.tensor if isinstance(value, Known) else value.zero).shape)


def _dtype(value: Known | Choice) -> torch.dtype:
    return (value.tensor if isinstance(value, Known) else value.zero).dtype


def _as_float(value: Known | Choice) -> Known | Choice:
    if isinstance(value, Known):
        return Known(value.tensor.to(torch.float32), "mask", value.secret)
    return Choice(value.bit, value.zero.to(torch.float32), value.one.to(torch.float32))


_SPECIAL: dict[str, Callable[[Partial, Call, Any, Any], Any]] = {
    "embedding": Partial.embedding,
    "where": Partial.where,
    "masked_fill": Partial.masked_fill,
    "add": Partial.add,
    "baddbmm": Partial.baddbmm,
    "scaled_dot_product_attention": Partial.attention,
}
