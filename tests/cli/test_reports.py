"""`srcompile` as a tool for reports: what-ifs, routes, files, and `srcompile compare`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import jsonschema
import pytest
from click.testing import CliRunner, Result

from srcompile.cli.compile import main as srcompile
from srcompile.report.data import schema

MODEL = """
import torch
from torch import nn
from srcompile import Pool

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 2))
pool = Pool({"small": nn.Linear(3, 2), "large": model}, nn.Linear(3, 2), cost_weight=0.1)
example_inputs = (torch.ones(1, 3),)
calibration_inputs = [example_inputs, (-torch.ones(1, 3),)]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reports")
    (folder / "model.py").write_text(MODEL)
    for name in ("model", "pool"):
        call(f"{folder / 'model.py'}:{name}", "--out", folder / f"{name}.srp", "--json")
    return folder


def call(*arguments: object) -> Result:
    words = [str(a) for a in arguments]
    result = CliRunner().invoke(srcompile, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


def refusal(*arguments: object) -> str:
    result = CliRunner().invoke(srcompile, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    return result.stderr


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("model", ()),
        ("model", ("--target", "plain")),
        ("model", ("--suggest", "--sweep", "network=lan,wan", "--sweep", "set.gelu=quad")),
        ("model", ("--drift", "--run")),
        ("pool", ()),
        ("pool", ("--routes", "0.75,0.25", "--suggest")),
    ],
)
def test_json_keeps_to_its_schema(folder: Path, name: str, options: tuple[str, ...]) -> None:
    data = json.loads(call(f"{folder / 'model.py'}:{name}", "--json", *options).stdout)
    jsonschema.validate(data, schema())


def test_the_schema_is_one_and_strict(folder: Path) -> None:
    jsonschema.Draft202012Validator.check_schema(schema())
    data: dict[str, Any] = json.loads(call(folder / "model.py", "--json").stdout)
    for broken in (
        {**data, "extra": 1},
        {key: value for key, value in data.items() if key != "rounds"},
        {**data, "online": {**data["online"], "bytes": [1]}},
        {**data, "route": "large"},
    ):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(broken, schema())


def test_reports_are_written_beside_what_is_printed(folder: Path) -> None:
    files = {kind: folder / f"report.{kind}" for kind in ("html", "json", "png", "svg")}
    options = [word for kind, path in files.items() for word in ("--report", f"{kind}={path}")]
    result = call(folder / "model.py", "--sweep", "network=lan,wan", "--suggest", *options)
    assert "What if" in result.output
    assert "Each change was compiled" in result.output
    data = json.loads(files["json"].read_text())
    jsonschema.validate(data, schema())
    assert [row["settings"]["network"] for row in data["sweep"]["rows"]] == ["lan", "wan"]
    assert files["html"].read_text().startswith("<!doctype html>")
    assert files["png"].stat().st_size > 1000
    assert files["svg"].stat().st_size > 1000


def test_suggestions_can_be_left_out(folder: Path) -> None:
    assert "Each change was compiled" in call(folder / "model.py").output
    assert "Each change was compiled" not in call(folder / "model.py", "--no-suggest").output


def test_layers_are_shown_as_deep_as_asked(folder: Path) -> None:
    result = call(folder / "model.py", "--layers", "all", "--no-suggest")
    assert " input" in result.output
    assert " input" not in call(folder / "model.py", "--no-suggest").output.split("once ")[0]


def test_the_expected_cost_of_a_pool_is_shown(folder: Path) -> None:
    model = f"{folder / 'model.py'}:pool"
    result = call(model, "--routes", "0.75,0.25", "--no-suggest")
    assert "expected" in result.output
    assert "75%" in result.output
    data = json.loads(call(model, "--routes", "0.75,0.25", "--json").stdout)
    assert data["routes"]["shares"] == {"small": 0.75, "large": 0.25}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--layers", "0"), "--layers takes a depth of 1 or more, or all, not '0'"),
        (("--layers", "deep"), "not 'deep'"),
        (("--report", "pdf=x"), "--report takes html=FILE or json=FILE or png=FILE or svg=FILE"),
        (("--report", "html"), "--report takes html=FILE"),
        (("--report", "html=/nowhere/x.html"), "there is no folder /nowhere"),
        (("--report", "png=plot.jpg"), "the file's name must end in .png"),
        (("--report", "png=plot.png"), "draws a --sweep; give one"),
        (("--sweep", "network"), "--sweep takes NAME=VALUE,VALUE"),
        (("--sweep", "seq=8"), "which axis is the sequence is not obvious"),
        (("--sweep", "network=lan", "--sweep", "network=wan"), "names an axis twice"),
        (("--routes", "1,0"), "for a pool whose route is revealed"),
        (("--routes", "x"), "--routes takes a share for each model"),
    ],
)
def test_wrong_options_are_refused_in_a_sentence(
    folder: Path, options: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    assert message in refusal("model.py", "--no-suggest", *options)
    assert not (folder / "plot.png").exists()


# -- compare --------------------------------------------------------------------------------------


def test_compiled_programs_are_compared(folder: Path) -> None:
    files = (folder / "model.srp", folder / "pool.srp")
    page = folder / "both.html"
    shown = call("compare", *files, "--network", "wan", "--report", f"html={page}").output
    assert "Network wan" in shown
    assert "Side by side" in page.read_text()
    found = json.loads(call("compare", *files, "--json").stdout)["programs"]
    for program, path in zip(found, files, strict=True):
        assert program.pop("file") == str(path)
        name = f"{folder / 'model.py'}:{path.stem}"
        want = json.loads(call(name, "--json").stdout)
        for key in ("online", "offline", "setup", "client", "layers", "rounds", "learned"):
            assert program[key] == want[key]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("no.srp",), "no.srp"),
        (("model.srp", "--network", "moon"), "there is no network 'moon'"),
        (("model.srp", "--report", "png=x.png"), "--report takes html=FILE"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    folder: Path, arguments: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    assert message in refusal("compare", *arguments)


def test_help_names_both_commands() -> None:
    assert "srcompile compare" in call("--help").output
    assert "A.srp B.srp" in call("compare", "--help").output
    assert isinstance(srcompile, click.Command)
