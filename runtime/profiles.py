"""Profiles: how long one machine takes for what parties do, as grids of measured times.

`srrun calibrate` measures one (runtime/measure.py), the compiler projects times with it
(passes/machine.py). A profile is a JSON file; docs/files.md has its format.
"""

from __future__ import annotations

import json
import math
import os
import sys
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from itertools import pairwise, product
from pathlib import Path
from typing import Any

from srcompile.runtime.errors import ProfileError

FORMAT = 1
MAX_BYTES = 1 << 24
MAX_NODES = 1 << 16
BUILT_IN = Path(__file__).with_name("built_in_profile.json")

_WIDTHS = ("32", "64")
LANES = (8, 16, 32, 64)

GRIDS: Mapping[str, tuple[str, ...]] = {
    "step": ("bytes",),
    **{f"add.{w}": ("elements",) for w in _WIDTHS},
    **{f"scale.{w}": ("elements",) for w in _WIDTHS},
    **{f"shift.{w}": ("elements",) for w in _WIDTHS},
    **{f"copy.{w}": ("elements",) for w in _WIDTHS},
    **{f"gather.{w}": ("elements",) for w in _WIDTHS},
    **{f"sum.{w}": ("rows", "length") for w in _WIDTHS},
    "narrow": ("elements",),
    **{f"{gate}.{w}": ("elements",) for gate in ("extend", "square", "multiply") for w in _WIDTHS},
    **{f"open.{w}": ("elements", "width") for w in _WIDTHS},
    "product": (),
    **{f"matmul.{w}": ("rows", "depth", "columns") for w in _WIDTHS},
    **{f"weight.{w}": ("rows", "depth", "columns") for w in _WIDTHS},
    "convolution": (),
    **{f"conv2d.{w}": ("outputs", "depth", "pixels") for w in _WIDTHS},
    **{f"conv2d strided.{w}": ("outputs", "depth", "pixels") for w in _WIDTHS},
    "table": ("entries",),
    **{f"table.{lane}.{k}": ("entries", "expanded") for lane in LANES for k in (1, 2, 3)},
    **{f"tables.{lane}": ("entries", "tables") for lane in LANES},
    "sign": (),
    "relu": ("levels", "words"),
    "nonneg": ("levels",),
    "input": ("elements",),
    "round": ("bytes",),
    "waking": ("seconds",),
    "rested": ("seconds", "computed"),
}
"""The grids of a profile, and what their axes count. docs/files.md says what each measures."""


@dataclass(frozen=True)
class Grid:
    """Seconds at the nodes of a grid, the last axis first, and between them by interpolation."""

    axes: tuple[tuple[float, ...], ...]
    seconds: tuple[float, ...]

    def at(self, *point: float) -> float:
        """Return the time at a point: linear between nodes, in proportion beyond the last one."""
        beyond = 1.0
        corners = []  # for each axis its two nodes' numbers and weights
        for axis, x in zip(self.axes, point, strict=True):
            if x > axis[-1]:
                beyond *= x / axis[-1]
            k = min(max(bisect_right(axis, x) - 1, 0), max(len(axis) - 2, 0))
            width = axis[k + 1] - axis[k] if len(axis) > 1 else 1.0
            part = min(max((x - axis[k]) / width, 0.0), 1.0)
            corners.append(((k, 1.0 - part), (min(k + 1, len(axis) - 1), part)))
        total = 0.0
        for corner in product(*corners):
            place, weight = 0, 1.0
            for (k, part), axis in zip(corner, self.axes, strict=True):
                place, weight = place * len(axis) + k, weight * part
            if weight:
                total += weight * self.seconds[place]
        return total * beyond


@dataclass(frozen=True)
class Profile:
    """What was measured where: the processor, the kernels, how many processes at a time.

    name: what reports call it.
    source: "built-in", or the file it was read from.
    """

    name: str
    kernels: str
    processes: int
    grids: Mapping[str, Grid] = field(repr=False)
    source: str = ""

    @cached_property
    def message_s(self) -> float:
        """What a round takes for its message, besides the network's latency."""
        return self.grids["round"].at(0.0)

    def waking_s(self, wait_s: float) -> float:
        """Return what a round takes besides, if it lets a party wait for its message so long."""
        grid = self.grids["waking"]
        return grid.at(min(wait_s, grid.axes[0][-1]))

    def rested_s(self, rest_s: float, computed_s: float) -> float:
        """Return what computing for `computed_s` takes besides, after a rest of `rest_s`."""
        grid = self.grids["rested"]
        nearest = [
            min(x, axis[-1]) for x, axis in zip((rest_s, computed_s), grid.axes, strict=True)
        ]
        return grid.at(*nearest)

    @cached_property
    def byte_s(self) -> float:
        """What a byte takes to be sent and received, if the network is faster."""
        (sizes,) = self.grids["round"].axes
        return max(self.grids["round"].at(sizes[-1]) - self.message_s, 0.0) / sizes[-1]


def write_profile(profile: Profile, path: Path) -> None:
    """Write a profile, beside its place, and move it there. Makes the folder it lies in.

    Raises ProfileError if it cannot be written.
    """
    fields = {
        "format": FORMAT,
        "name": profile.name,
        "kernels": profile.kernels,
        "processes": profile.processes,
        "grids": {
            name: {"axes": grid.axes, "seconds": [float(f"{s:.4g}") for s in grid.seconds]}
            for name, grid in profile.grids.items()
        },
    }
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(json.dumps(fields) + "\n")
        beside.replace(path)
    except OSError as error:
        raise ProfileError(f"{path} cannot be written: {error.strerror}") from None


def read_profile(path: Path, source: str | None = None) -> Profile:
    """Read a profile. Raises ProfileError if there is none or it is damaged."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ProfileError(f"{path} is too large for a profile")
        fields: Any = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise ProfileError(f"there is no profile {path}; srrun calibrate makes one") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ProfileError(f"{path} is no profile: {error}") from None
    wanted = {"format": int, "name": str, "kernels": str, "processes": int, "grids": dict}
    if not isinstance(fields, dict) or fields.get("format") != FORMAT:
        raise ProfileError(f"{path} is no profile of format {FORMAT}; srrun calibrate makes one")
    for name, kind in wanted.items():
        if not isinstance(fields.get(name), kind):
            raise ProfileError(f"{path} is no profile: '{name}' is missing or of another kind")
    missing = sorted(GRIDS.keys() - fields["grids"].keys())
    if missing:
        raise ProfileError(f"{path} lacks the grid '{missing[0]}'; measure it again")
    grids = {}
    for name, axes in GRIDS.items():
        grid = _grid(fields["grids"][name], len(axes))
        if grid is None:
            raise ProfileError(f"{path} is damaged in the grid '{name}'; measure it again")
        grids[name] = grid
    return Profile(
        fields["name"][:200],
        fields["kernels"][:200],
        fields["processes"],
        grids,
        source or str(path),
    )


def _grid(fields: Any, rank: int) -> Grid | None:
    """Return a grid, or None if it is none with so many axes."""
    if not isinstance(fields, dict):
        return None
    axes, seconds = fields.get("axes"), fields.get("seconds")
    if not isinstance(axes, list) or not isinstance(seconds, list) or len(axes) != rank:
        return None
    if not all(isinstance(axis, list) and axis and _numbers(axis) for axis in axes):
        return None
    if any(a >= b for axis in axes for a, b in pairwise(axis)):
        return None
    nodes = math.prod(len(axis) for axis in axes)
    if nodes > MAX_NODES or nodes != len(seconds) or not _numbers(seconds):
        return None
    return Grid(tuple(tuple(map(float, axis)) for axis in axes), tuple(map(float, seconds)))


def _numbers(values: list[Any]) -> bool:
    return all(
        isinstance(v, (int, float)) and not isinstance(v, bool) and 0 <= v <= sys.float_info.max
        for v in values
    )


# -- where profiles are ---------------------------------------------------------------------------


def stored_path() -> Path:
    """Return where `srrun calibrate` puts a profile: in the user's folder of configurations."""
    home = os.environ.get("XDG_CONFIG_HOME")
    folder = Path(home) if home else Path.home() / ".config"
    return folder / "srcompile" / "profile.json"


@cache
def built_in() -> Profile:
    """Return the profile that comes with the package."""
    return read_profile(BUILT_IN, "built-in")


def this_machines() -> Profile:
    """Return the stored profile, or the built-in one if nothing was measured here.

    Raises ProfileError if there is one that is damaged.
    """
    path = stored_path()
    return read_profile(path) if path.exists() else built_in()
