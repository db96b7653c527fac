"""Options of `srrun local` about material, and what it shows while it runs."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from srcompile.cli.progress import RunProgress
from srcompile.cli.run import main as srrun
from srcompile.runtime.program import save
from srcompile.runtime.progress import Progress
from srcompile.runtime.stock import MEMORY
from tests.support.builds import BUILDS, compiled

BUILD = BUILDS["deep"]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return a program and two rows of input for it."""
    folder = tmp_path_factory.mktemp("material")
    save(compiled(BUILD).program, folder / "deep.srp")
    rows = np.concatenate([sample["x"] for sample in BUILD.samples[:2]])
    np.savez(folder / "input.npz", x=rows)
    return folder / "deep.srp", folder / "input.npz"


def run(files: tuple[Path, Path], *options: object) -> Result:
    arguments = ["local", str(files[0]), "--input", str(files[1]), *map(str, options)]
    return CliRunner().invoke(srrun, arguments, catch_exceptions=False)


@pytest.mark.parametrize(
    "options",
    [("--memory", "0"), ("--material", "running"), ("--material", "running", "--memory", "0")],
    ids=" ".join,
)
def test_outputs_and_bytes_do_not_depend_on_where_material_is(
    options: tuple[str, ...], files: tuple[Path, Path], tmp_path: Path
) -> None:
    plain = json.loads(run(files, "--json").stdout)
    result = run(files, "--json", "--spool", tmp_path, *options)
    found = json.loads(result.stdout)
    np.testing.assert_allclose(found["outputs"]["y"], plain["outputs"]["y"], atol=0.02)
    for phase in ("online", "offline", "setup"):
        assert found[phase]["bytes"] == plain[phase]["bytes"]
    total = compiled(BUILD).cost.total()
    assert found["offline"]["bytes"] == [2 * size for size in total.offline_bytes]
    # and nothing but the result is printed, and no file is left
    assert result.stderr == ""
    assert list(tmp_path.iterdir()) == []


def test_the_default_memory_is_said_in_the_help_and_the_readme() -> None:
    least, most = (size >> 20 for size in MEMORY)
    shown = " ".join(CliRunner().invoke(srrun, ["local", "--help"]).stdout.split())
    assert f"{most} by default, or less, down to {least}, beside large weights" in shown
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    assert f"not more than {most} and not less than {least}" in readme


def test_memory_and_the_dealers_time_are_reported(files: tuple[Path, Path]) -> None:
    result = run(files)
    words = " ".join(result.stdout.split())
    assert "of which the dealer worked" in words
    assert "MB in party 0" in words
    assert "MB in the dealer" in words
    assert result.stderr == ""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--memory", "-1"), "Invalid value for '--memory'"),
        (("--material", "never"), "Invalid value for '--material'"),
        (("--spool", "/nowhere/at/all"), "/nowhere/at/all cannot be used: No such file"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    options: tuple[str, str], message: str, files: tuple[Path, Path]
) -> None:
    result = run(files, *options)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.output


def shown(told: list[Progress], inferences: int, **console: Any) -> str:
    text = io.StringIO()
    with RunProgress(Console(file=text, width=100, **console), inferences) as progress:
        for each in told:
            progress.watch(each)
        progress.finished()
        progress._bars.refresh()
    return text.getvalue()


TOLD = [
    Progress("setup", 3_000_000, 6_000_000),
    Progress("offline", 40_000_000, 2_000_000_000),
    Progress("online", 7, 30),
]


def test_a_terminal_shows_every_phase_and_how_many_inferences() -> None:
    text = shown(TOLD, 5, force_terminal=True)
    for part in ("setup", "3 of 6 MB", "offline", "40 of 2,000 MB", "7 of 30 rounds", "1 of 5"):
        assert part in text


def test_without_a_terminal_nothing_is_shown() -> None:
    assert shown(TOLD, 5, force_terminal=False) == ""
