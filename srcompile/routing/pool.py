"""A pool of models and the router that picks one of them for each input."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, get_args

from torch import nn

from srcompile.errors import UserError

Route = Literal["reveal", "oblivious"]

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_RESERVED = ("main", "route", "router")


@dataclass(frozen=True)
class Pool:
    """Models that take the same inputs and give outputs of the same shapes, and their router.

    The router gives one utility u_m(x) for each model, in the order of `models`. The model taken is
    argmax_m u_m(x) - cost_weight * cost_m, where the dearest model costs 1. With `route="reveal"`
    both parties learn which one that is, and run it alone; with `"oblivious"` all are run and
    nobody learns it. Raises UserError for anything else.
    """

    models: Mapping[str, nn.Module]
    router: nn.Module
    cost_weight: float = field(default=0.0, kw_only=True)
    route: Route = field(default="reveal", kw_only=True)

    def __post_init__(self) -> None:
        if not isinstance(self.models, Mapping):
            raise UserError(
                f"a pool's models are a dict from names to modules, not a {_kind(self.models)}"
            )
        if len(self.models) < 2:
            raise UserError(
                f"a pool has at least two models, not {len(self.models)}; "
                "compile a single model without a pool"
            )
        for name, model in self.models.items():
            _check_name(name)
            if not isinstance(model, nn.Module):
                raise UserError(f"the pool's model '{name}' is a {_kind(model)}, not an nn.Module")
        if not isinstance(self.router, nn.Module):
            raise UserError(f"the pool's router is a {_kind(self.router)}, not an nn.Module")
        if isinstance(self.cost_weight, bool) or not isinstance(self.cost_weight, (int, float)):
            raise UserError(f"cost_weight is a number, not a {_kind(self.cost_weight)}")
        if not (math.isfinite(self.cost_weight) and self.cost_weight >= 0):
            raise UserError(f"cost_weight is 0 or more, not {self.cost_weight}")
        if self.route not in get_args(Route):
            raise UserError(f"route is 'reveal' or 'oblivious', not {self.route!r}")
        object.__setattr__(self, "models", MappingProxyType(dict(self.models)))

    @property
    def names(self) -> tuple[str, ...]:
        """The models' names; a route is an index into them."""
        return tuple(self.models)


def _check_name(name: object) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise UserError(
            f"{name!r} does not name a model; a name is a letter or '_', then letters, digits, "
            "'_' and '-'"
        )
    if name in _RESERVED:
        raise UserError(f"a model cannot be named '{name}'; srcompile uses that name itself")


def _kind(value: object) -> str:
    return type(value).__name__
