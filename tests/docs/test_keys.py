"""docs/json.md and docs/files.md list exactly the keys there are."""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner

from srcompile.cli.compile import main as srcompile
from srcompile.cli.run import main as srrun
from srcompile.runtime.profiles import BUILT_IN, GRIDS
from tests.docs.documents import ROOT, keys

JSON, FILES = ROOT / "docs" / "json.md", ROOT / "docs" / "files.md"

MODEL = """
import torch
from torch import nn
from srcompile import Pool

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(3, 2), nn.Sigmoid())
pool = Pool({"small": model, "large": nn.Sequential(nn.Linear(3, 2), nn.ReLU())}, nn.Linear(3, 2))
example_inputs = (torch.ones(1, 3),)
calibration_inputs = [example_inputs, (-torch.ones(1, 3),)]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys")
    (folder / "model.py").write_text(MODEL)
    np.savez(folder / "input.npz", input=np.ones((1, 3), np.float32))
    return folder


def printed(command: click.Command, *arguments: object) -> Any:
    result = CliRunner().invoke(command, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def found(data: Any, documented: set[str], path: str = "") -> set[str]:
    """Return the keys in `data`, going no deeper than the documented ones."""
    if path in documented or not isinstance(data, (dict, list)):
        return {path}
    if isinstance(data, list):
        if f"{path}[]" in documented:
            return {f"{path}[]"}
        items = [i for i in data if isinstance(i, dict)]
        return set().union(*(found(i, documented, f"{path}[]") for i in items)) or {path}
    if f"{path}.*" in documented:
        return {f"{path}.*"}
    inner = (found(v, documented, f"{path}.{k}" if path else k) for k, v in data.items())
    return set().union(*inner)


def test_keys_of_a_single_model(folder: Path) -> None:
    documented = keys(JSON, "compile")
    assert found(printed(srcompile, folder / "model.py", "--json"), documented) == documented


def test_keys_of_a_pool(folder: Path) -> None:
    documented = keys(JSON, "compile") | keys(JSON, "compile pool")
    out = folder / "pool.srp"
    data = printed(srcompile, f"{folder / 'model.py'}:pool", "--json", "--out", out)
    assert found(data, documented) == documented
    part = {"online.bytes", "online.rounds", "online.seconds", "online.compute_seconds"}
    part |= {"offline.bytes", "layers[]"}
    assert found(data["router"], part) == part
    assert found(data["models"]["large"], part) == part


def test_keys_of_suggestions_and_of_a_sweep(folder: Path) -> None:
    documented = keys(JSON, "compile")
    documented |= keys(JSON, "compile suggest") | keys(JSON, "compile sweep")
    data = printed(
        srcompile, folder / "model.py", "--json", "--suggest", "--sweep", "network=lan,wan"
    )
    assert found(data, documented) == documented


def test_keys_of_a_comparison(folder: Path) -> None:
    out = folder / "compared.srp"
    printed(srcompile, folder / "model.py", "--json", "--out", out)
    data = printed(srcompile, "compare", out, out, "--json")
    assert found(data, keys(JSON, "compare")) == keys(JSON, "compare")
    assert {"file", "online", "learned"} <= set(data["programs"][0])


def test_keys_of_a_drift_report(folder: Path) -> None:
    documented = keys(JSON, "compile") | keys(JSON, "compile drift")
    assert found(printed(srcompile, folder / "model.py", "--json", "--drift"), documented) == (
        documented
    )


def test_keys_of_a_run_in_this_process(folder: Path) -> None:
    documented = keys(JSON, "compile") | keys(JSON, "compile run")
    data = printed(srcompile, folder / "model.py", "--json", "--run", folder / "input.npz")
    assert found(data, documented) == documented


def test_keys_of_a_run_of_processes_and_of_the_program_file(folder: Path) -> None:
    out = folder / "model.srp"
    printed(srcompile, folder / "model.py", "--json", "--out", out)
    with zipfile.ZipFile(out) as archive:
        documented = keys(FILES, "program")
        assert found(json.loads(archive.read("program.json")), documented) == documented
    documented = keys(JSON, "run")
    data = printed(srrun, "local", out, "--input", folder / "input.npz", "--json")
    assert found(data, documented) == documented


def test_keys_and_grids_of_a_profile() -> None:
    fields = json.loads(BUILT_IN.read_text())
    documented = keys(FILES, "profile")
    assert found(fields, documented) == documented
    # grids of several word sizes stand under one name, and those of tables' elements with an N
    sizes = re.compile(r"\.(32|64)$")
    lanes = re.compile(r"^(tables?)\.\d+")
    names = {lanes.sub(lambda m: "tables" if m[1] == "tables" else "table.N", n) for n in GRIDS}
    listed = FILES.read_text().partition("<!-- keys: grids -->\n\n")[2].partition("\n\n")[0]
    first = (line.split("|")[1] for line in listed.splitlines()[2:])
    assert {n for cell in first for n in re.findall("`([^`]+)`", cell)} == {
        sizes.sub("", name) for name in names
    }
