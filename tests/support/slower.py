"""Profiles of machines that are slower than the built-in one."""

from __future__ import annotations

from dataclasses import replace

from srcompile.runtime.profiles import Grid, Profile, built_in


def slower(name: str, by: float) -> Profile:
    """Return a profile of a machine that takes `by` times as long for everything."""
    grids = {
        name: Grid(grid.axes, tuple(by * s for s in grid.seconds))
        for name, grid in built_in().grids.items()
    }
    rests, computed = grids["rested"].axes  # what is computed takes longer, too
    grids["rested"] = Grid((rests, tuple(by * s for s in computed)), grids["rested"].seconds)
    return replace(built_in(), name=name, grids=grids, source=f"{name}.json")
