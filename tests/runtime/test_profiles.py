"""Profiles: interpolation in their grids, files, and what is measured into them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from srcompile.runtime.errors import ProfileError
from srcompile.runtime.kernels import load
from srcompile.runtime.local import LocalSession
from srcompile.runtime.measure import Watch, chain, measure
from srcompile.runtime.profiles import (
    GRIDS,
    Grid,
    Profile,
    built_in,
    read_profile,
    stored_path,
    this_machines,
    write_profile,
)

MOMENT = Watch(1e-5, 1e-4, cold_bytes=1 << 20, inferences=1, round_bytes=(4,), waits=(0.0005,))
AXES = ((1.0, 4.0, 64.0), (8.0, 16.0, 100.0))

# -- grids ----------------------------------------------------------------------------------------


@given(st.floats(1, 64), st.floats(8, 100), st.tuples(*[st.floats(0, 10)] * 4))
def test_times_that_grow_with_each_axis_are_met_exactly(
    x: float, y: float, c: tuple[float, float, float, float]
) -> None:
    # given a time with a part for each call, for each row, for each column and for each element
    def time(x: float, y: float) -> float:
        return c[0] + c[1] * x + c[2] * y + c[3] * x * y

    grid = Grid(AXES, tuple(time(*node) for node in product(*AXES)))
    # when it is asked for between the nodes, then it is that time
    assert math.isclose(grid.at(x, y), time(x, y), rel_tol=1e-9, abs_tol=1e-9)


def test_beyond_the_last_node_time_grows_in_proportion() -> None:
    grid = Grid(AXES, tuple(x + y for x, y in product(*AXES)))
    assert grid.at(128, 100) == 2 * grid.at(64, 100)
    assert grid.at(640, 400) == 40 * grid.at(64, 100)
    assert grid.at(0.5, 8) == grid.at(1, 8)


def test_a_grid_without_axes_is_one_time() -> None:
    assert Grid((), (2.5,)).at() == 2.5


# -- files ----------------------------------------------------------------------------------------


def test_a_profile_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "profile.json"
    write_profile(replace(built_in(), name="a machine"), path)
    found = read_profile(path)
    assert found == replace(built_in(), name="a machine", source=str(path))
    assert list(path.parent.iterdir()) == [path]


Damage = Callable[[dict[str, Any]], object]
DAMAGES: dict[str, tuple[Damage, str]] = {
    "another format": (lambda f: f.update(format=2), "no profile of format 1"),
    "no name": (lambda f: f.pop("name"), "'name' is missing"),
    "a grid is missing": (lambda f: f["grids"].pop("relu"), "lacks the grid 'relu'"),
    "no grid": (lambda f: f["grids"].update(relu=[1, 2]), "damaged in the grid 'relu'"),
    "too few times": (lambda f: f["grids"]["relu"]["seconds"].pop(), "in the grid 'relu'"),
    "a negative time": (lambda f: f["grids"]["product"].update(seconds=[-1]), "grid 'product'"),
    "no number": (lambda f: f["grids"]["product"].update(seconds=["1"]), "grid 'product'"),
    "no finite time": (lambda f: f["grids"]["product"].update(seconds=[1e999]), "grid 'product'"),
    "an axis less": (lambda f: f["grids"]["relu"]["axes"].pop(), "in the grid 'relu'"),
    "an axis falls": (lambda f: f["grids"]["relu"]["axes"][0].reverse(), "in the grid 'relu'"),
    "an empty axis": (lambda f: f["grids"]["narrow"].update(axes=[[]]), "in the grid 'narrow'"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_profile_is_refused(tmp_path: Path, name: str) -> None:
    damage, message = DAMAGES[name]
    path = tmp_path / "profile.json"
    write_profile(built_in(), path)
    fields = json.loads(path.read_text())
    damage(fields)
    path.write_text(json.dumps(fields))
    with pytest.raises(ProfileError, match=message):
        read_profile(path)


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, '"x"'], ids=range(5))
def test_what_is_no_profile_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "file").write_text(text)
    with pytest.raises(ProfileError, match="is no profile"):
        read_profile(tmp_path / "file")


def test_a_profile_that_is_not_there_or_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match=r"there is no profile .* srrun calibrate makes one"):
        read_profile(tmp_path / "missing")
    (tmp_path / "file").touch()
    with pytest.raises(ProfileError, match="cannot be written"):
        write_profile(built_in(), tmp_path / "file" / "profile.json")


def test_the_stored_profile_is_taken_if_there_is_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert this_machines() is built_in()
    write_profile(replace(built_in(), name="mine"), stored_path())
    assert stored_path() == tmp_path / "srcompile" / "profile.json"
    assert this_machines().name == "mine"


# -- measuring ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def moment() -> Profile:
    """Return a profile of this machine, measured for a moment, beside another process."""
    return measure(load(), MOMENT, beside=True)


def test_all_grids_are_measured(moment: Profile, tmp_path: Path) -> None:
    assert moment.grids.keys() == GRIDS.keys() == built_in().grids.keys()
    for name, axes in GRIDS.items():
        assert len(moment.grids[name].axes) == len(axes)
    assert moment.processes == 2
    # and the file that holds them is accepted
    write_profile(moment, tmp_path / "profile.json")
    assert read_profile(tmp_path / "profile.json").grids.keys() == GRIDS.keys()


@pytest.mark.parametrize("name", sorted(GRIDS))
def test_more_work_takes_more_time_in_the_built_in_profile(name: str) -> None:
    grid = built_in().grids[name]
    if grid.axes and name != "step":
        first = grid.at(*(axis[0] for axis in grid.axes))
        last = grid.at(*(axis[-1] for axis in grid.axes))
        assert last > first
    assert min(grid.seconds) >= 0


@pytest.mark.parametrize("rounds", [0, 3])
def test_the_program_that_measures_rounds_has_so_many_and_gives_its_input_out(rounds: int) -> None:
    result = LocalSession(chain(5, rounds), load()).infer({"x": np.arange(5, dtype=np.float32)})
    np.testing.assert_array_equal(result.outputs["y"], np.arange(5))
    assert result.counters[0].rounds == rounds + 1
    assert result.counters[0].bytes == 4 * 5 * (rounds + 1)
