"""The deployment guide says what the code does: settings, roles, faults, metrics, examples."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import fields
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from srcompile.cli.run import main as srrun
from srcompile.cli.services import COMMANDS
from srcompile.runtime.services.health import METRICS
from srcompile.runtime.services.links import MAY
from srcompile.runtime.services.settings import Settings, read_settings
from tests.docs.documents import ROOT, keys
from tests.support.proxy import FAULTS

GUIDE = ROOT / "docs" / "deployment.md"
FILES = ROOT / "docs" / "deployment"


def rows(name: str) -> list[list[str]]:
    """Return the cells of the table marked `<!-- keys: NAME -->`, without its head."""
    text = GUIDE.read_text(encoding="utf-8")
    match = re.search(rf"<!-- keys: {name} -->\n\n((?:\|.*\n)+)", text)
    assert match
    return [[c.strip() for c in row.split("|")[1:-1]] for row in match[1].splitlines()[2:]]


def test_every_setting_is_there_with_its_default_and_meaning() -> None:
    shown = [
        [name.strip("`"), default.strip("`"), what] for name, default, what in rows("settings")
    ]
    settings = Settings()
    wanted = []
    for f in fields(Settings):
        value = getattr(settings, f.name)
        text = str(value).lower() if isinstance(value, bool) else str(value)
        wanted.append([f.name, text, f.metadata["about"]])
    assert shown == wanted


def test_the_example_has_every_setting_and_can_be_read() -> None:
    file = FILES / "cluster.toml"
    settings = read_settings(file, {}, {})
    assert settings.party0.host == "p0.example.org"
    given = re.findall(r"^(\w+) =", file.read_text(), re.MULTILINE)
    assert given == [f.name for f in fields(Settings)]


def test_what_the_containers_are_given_beside_the_recipe_is_never_committed() -> None:
    folders = set(re.findall(r"- \./(\w+)", (FILES / "compose.yaml").read_text()))
    assert {"certs", "programs"} <= folders
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert {f"/docs/deployment/{folder}/" for folder in folders} <= set(ignored)


def test_who_may_come_to_whom_is_as_in_the_code() -> None:
    words = {
        "infer": "an inference session",
        "deploy": "a deployment",
        "undeploy": "taking one away",
        "material": "material for a session",
        "peer": "the other party's side of a session",
        "stock": "filling the stock",
        "status": "status",
    }
    wanted = [
        [f"`{who}` to `{whom}`", "; ".join(words[p] for p in purposes)]
        for (who, whom), purposes in MAY.items()
    ]
    assert rows("may") == wanted


def test_every_fault_of_the_tests_is_in_the_table_and_every_row_is_a_test() -> None:
    table = rows("faults")
    assert [name.strip("`") for name, _, _ in table if name.startswith("`")] == list(FAULTS)
    tests = "".join(p.read_text() for p in (ROOT / "tests" / "runtime").glob("test_*.py"))
    for _, _, test in table:
        assert f"def {test.strip('`')}(" in tests


def test_every_metric_is_there() -> None:
    wanted = []
    for name, (kind, about) in METRICS.items():
        full = f"srcompile_{name}" + ("_total" if kind == "counter" else "")
        wanted.append([f"`{full}`", kind, about])
    assert rows("metrics") == wanted


def leaves(command: click.Command, name: str) -> list[tuple[str, click.Command]]:
    """Return a command, or those of a group, with their full names."""
    if not isinstance(command, click.Group):
        return [(name, command)]
    return [leaf for n, c in command.commands.items() for leaf in leaves(c, f"{name} {n}")]


@pytest.mark.parametrize(
    ("name", "command"),
    [leaf for c in COMMANDS for leaf in leaves(c, f"srrun {c.name}")],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_command_and_option_is_documented(name: str, command: click.Command) -> None:
    text = GUIDE.read_text(encoding="utf-8")
    assert f"`{name} " in text or f"`{name}`" in text
    known = {"--config", *("--" + f.name.replace("_", "-") for f in fields(Settings))}
    for parameter in command.params:
        if isinstance(parameter, click.Option) and parameter.opts[0] not in known:
            assert f"`{parameter.opts[0]}" in text or f" {parameter.opts[0]} " in text
    assert name.split()[1] in srrun.commands


def test_keys_of_the_doctor(tmp_path: Path) -> None:
    command = ["doctor", "--role", "client", "--insecure", "--json", "--state", str(tmp_path)]
    data = json.loads(CliRunner().invoke(srrun, command).stdout)
    found = {"role", *(f"findings[].{key}" for finding in data["findings"] for key in finding)}
    assert set(data) == {"role", "findings"}
    assert found == keys(ROOT / "docs" / "json.md", "doctor")


@pytest.mark.parametrize("file", sorted(FILES.glob("*.service")), ids=lambda p: p.name)
def test_units_start_commands_that_exist_and_systemd_can_read_them(file: Path) -> None:
    text = file.read_text()
    (started,) = re.findall(r"^ExecStart=\S+/srrun (\w+)", text, re.MULTILINE)
    assert started in srrun.commands
    try:
        done = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", str(file)],
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
    except FileNotFoundError:
        pytest.skip("there is no systemd here")
    complaints = [line for line in done.stderr.splitlines() if "not executable" not in line]
    assert complaints == []
