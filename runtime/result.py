"""What a client gets of one inference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from srcompile.runtime.client import Array


@dataclass(frozen=True)
class ClusterResult:
    """One inference: outputs, route, and what each party counted and took.

    `offline_s` ends when the parties are ready for the input, `dealer_s` is what the dealer worked
    on the material. `memory` is the peak so far in bytes, by role.
    """

    outputs: dict[str, Array]
    route: int | None
    online_bytes: tuple[int, int]
    rounds: int
    online_s: float
    offline_bytes: tuple[int, int]
    offline_s: float
    by_instruction: tuple[Mapping[tuple[int, int], int], Mapping[tuple[int, int], int]]
    dealer_s: float
    memory: Mapping[str, int]
