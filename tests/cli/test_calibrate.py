"""`srrun calibrate`, and `srcompile` with the profiles that it makes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from srcompile.cli import calibrate as command
from srcompile.cli.compile import main as srcompile
from srcompile.cli.run import main as srrun
from srcompile.runtime.measure import Watch
from srcompile.runtime.profiles import built_in, read_profile, stored_path, write_profile
from tests.support.slower import slower

MODEL = """
import torch
from torch import nn

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
example_inputs = (torch.ones(1, 4),)
calibration_inputs = [example_inputs, (-torch.ones(1, 4),)]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a model and profiles of two machines, one ten times slower."""
    path = tmp_path_factory.mktemp("calibrate")
    (path / "model.py").write_text(MODEL)
    write_profile(replace(built_in(), name="quick"), path / "quick.json")
    write_profile(slower("slow", 10), path / "slow.json")
    return path


def call(command: Any, *args: object) -> Result:
    return CliRunner().invoke(command, [str(a) for a in args], catch_exceptions=False)


def refusal(*args: object) -> str:
    """Return the message of a compilation that is refused with exit code 2."""
    result = call(srcompile, *args)
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    return result.stderr


def report(folder: Path, *options: object) -> dict[str, Any]:
    """Return the JSON report of the model."""
    result = call(srcompile, folder / "model.py", "--json", *options)
    assert result.exit_code == 0, result.output
    data: dict[str, Any] = json.loads(result.stdout)
    return data


def test_calibrate_writes_a_profile_where_it_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # given a watch that measures for a moment only
    moment = Watch(1e-5, 1e-4, cold_bytes=1 << 20, inferences=1, round_bytes=(4,), waits=(0.0005,))
    monkeypatch.setattr(command, "BRIEF", moment)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    # when the machine is measured
    result = call(srrun, "calibrate", "--brief", "--out", tmp_path / "made.json")
    # then the profile is in the file, and nowhere else
    assert result.exit_code == 0, result.output
    assert f"profile in {tmp_path / 'made.json'}" in result.stdout
    profile = read_profile(tmp_path / "made.json")
    assert profile.name in result.stdout
    assert profile.processes == 1
    assert not stored_path().exists()


def test_the_report_says_whose_times_it_projects(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # without a profile the built-in one, then the stored one, then the one that is named
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert report(folder)["machine"] == "built-in"
    write_profile(replace(built_in(), name="mine"), stored_path())
    assert report(folder)["machine"] == f"mine ({stored_path()})"
    slow = folder / "slow.json"
    assert report(folder, "--profile", slow)["machine"] == f"slow ({slow})"


def test_a_slower_machine_projects_longer_times_and_the_same_bytes(folder: Path) -> None:
    quick, slow = (report(folder, "--profile", folder / f"{n}.json") for n in ("quick", "slow"))
    assert slow["online"]["seconds"] > quick["online"]["seconds"]
    for key in ("bytes", "rounds"):
        assert slow["online"][key] == quick["online"][key]
    computed = [sum(layer["compute_seconds"] for layer in r["layers"]) for r in (quick, slow)]
    assert computed[1] == pytest.approx(10 * computed[0])


def test_with_two_machines_the_slower_one_counts(folder: Path) -> None:
    slow, quick = folder / "slow.json", folder / "quick.json"
    both = report(folder, "--profile", slow)["online"]["seconds"]
    mixed = report(folder, "--parties-profile", slow, quick)
    assert mixed["machine"] == f"slow ({slow}) and quick ({quick})"
    assert mixed["online"]["seconds"] == pytest.approx(both)


def test_programs_are_compared_as_they_run_on_the_machines_that_are_named(
    folder: Path, tmp_path: Path
) -> None:
    slow, quick, out = folder / "slow.json", folder / "quick.json", tmp_path / "model.srp"
    for options in (("--profile", slow), ("--parties-profile", slow, quick)):
        # given a program, and the report of compiling it for these machines
        want = report(folder, *options, "--out", out)
        # when it is compared with itself
        compared = call(srcompile, "compare", out, out, *options, "--json")
        # then it takes as long
        for program in json.loads(compared.stdout)["programs"]:
            assert program["machine"] == want["machine"]
            assert program["online"] == want["online"]
    assert "give one of them" in refusal(
        "compare", out, "--profile", slow, "--parties-profile", slow, quick
    )


def test_profiles_that_are_missing_or_given_twice_are_errors(folder: Path) -> None:
    model, quick = folder / "model.py", folder / "quick.json"
    missing = refusal(model, "--profile", folder / "none.json")
    assert missing == (
        f"error: there is no profile {folder / 'none.json'}; srrun calibrate makes one\n"
    )
    (folder / "damaged.json").write_text("{}")
    assert "is no profile of format 1" in refusal(model, "--profile", folder / "damaged.json")
    twice = refusal(model, "--profile", quick, "--parties-profile", quick, quick)
    assert "give one of them" in twice
