"""The command lines as users type them: output, JSON, and errors with exit code 2."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result

from srcompile.cli.common import reports_errors
from srcompile.cli.compile import main as srcompile
from srcompile.cli.run import main as srrun

MODEL = """
import torch
from torch import nn

class Small(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(4, 3), nn.Linear(3, 2)

    def forward(self, x):
        return self.second(torch.relu(self.first(x)))

def model():
    return Small()

def sorting():
    class Sorting(nn.Module):
        def forward(self, x):
            return torch.sort(x).values
    return Sorting()

def steep():
    class Steep(nn.Module):
        def forward(self, x):
            return torch.rsqrt(x.reshape(4, 1) + torch.full((2048,), 2.00001))
    return Steep()

def example_inputs():
    return (torch.ones(1, 4),)

def calibration_inputs():
    return [(torch.linspace(-2, 2, 4)[None] * s,) for s in (0.5, 1.0, -1.0)]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cli")
    (path / "model.py").write_text(MODEL)
    np.savez(path / "input.npz", x=np.array([[0.5, -0.5, 1.0, 2.0]], np.float32))
    result = call(srcompile, path / "model.py", "--out", path / "model.srp")
    assert result.exit_code == 0, result.output
    return path


def call(command: Any, *args: object) -> Result:
    return CliRunner().invoke(command, [str(a) for a in args], catch_exceptions=False)


def refusal(command: Any, *args: object) -> str:
    """Return the message of a command that is refused; it must exit with 2 and not raise."""
    result = call(command, *args)
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    return result.stderr


def test_the_report_names_layers_sources_and_disclosures(folder: Path) -> None:
    result = call(srcompile, folder / "model.py")
    for part in ("first", "linear", "model.py:", "rounds", "Who learns what"):
        assert part in result.output


def test_json_has_the_documented_keys(folder: Path) -> None:
    data = json.loads(call(srcompile, folder / "model.py", "--json").stdout)
    assert data["target"] == "2pc"
    assert len(data["online"]["bytes"]) == len(data["offline"]["bytes"]) == 2
    assert data["online"]["rounds"] == sum(layer["rounds"] for layer in data["layers"])
    for layer in data["layers"]:
        assert {"name", "op", "source", "online_bytes", "rounds", "offline_bytes"} <= set(layer)
    assert data["leakage"]


@pytest.mark.parametrize("level", ["graph", "fixed", "lowered", "schedule", "dealer"])
def test_every_level_is_printed_as_text(folder: Path, level: str) -> None:
    result = call(srcompile, folder / "model.py", "--emit", level)
    assert result.stdout.startswith("srcompile 1 level")


@pytest.mark.parametrize("target", ["2pc", "plain"])
def test_run_compares_with_the_model_in_float(folder: Path, target: str) -> None:
    result = call(srcompile, folder / "model.py", "--target", target, "--run", folder / "input.npz",
                  "--json")  # fmt: skip
    run = json.loads(result.stdout)["run"]
    assert run["largest_difference"]["output"] < 0.01
    assert run["kernels"]


def test_a_table_that_misses_its_tolerance_is_noted(folder: Path) -> None:
    steep = call(srcompile, f"{folder / 'model.py'}:steep")
    smooth = call(srcompile, folder / "model.py")
    assert "note: " in steep.stderr
    assert "rsqrt over" in steep.stderr
    assert "note: " not in smooth.stderr


def test_an_approximation_that_does_not_exist_is_an_error(folder: Path) -> None:
    for choice, said in (("gelu=cube", "choose spline, quad, relu"), ("gelu", "takes OP=NAME"),
                         ("layer_norm=none", "cannot be approximated"),
                         ("gelu=quad", "the model has no gelu")):  # fmt: skip
        assert said in refusal(srcompile, folder / "model.py", "--set", choice)


def test_gates_and_drift_tell_where_values_go_wrong(folder: Path) -> None:
    result = call(srcompile, f"{folder / 'model.py'}:steep", "--json", "--gates", "--drift")
    report = json.loads(result.stdout)
    (gate,) = report["gates"]
    assert (gate["gate"], gate["seen"][0] > 0) == ("rsqrt", True)
    assert gate["supported"][0] < gate["seen"][0] < gate["seen"][1] < gate["supported"][1]
    worst = max(report["drift"], key=lambda d: d["relative"])
    assert (worst["op"], worst["relative"] > 0.05) == ("rsqrt", True)
    shown = call(srcompile, f"{folder / 'model.py'}:steep", "--gates", "--drift").output
    assert "Gates: ranges" in shown
    assert "Drift: values" in shown


def test_run_without_a_file_takes_the_example_inputs(folder: Path) -> None:
    result = call(srcompile, folder / "model.py", "--run")
    assert "differs from the model in float" in result.output


def test_without_calibration_inputs_the_example_inputs_are_the_sample(tmp_path: Path) -> None:
    text = MODEL[: MODEL.index("def calibration_inputs")]
    (tmp_path / "bare.py").write_text(text)

    result = call(srcompile, tmp_path / "bare.py")

    assert result.exit_code == 0
    assert "value ranges come from the example inputs alone" in result.stderr


def test_srrun_local_counts_what_srcompile_predicts(folder: Path) -> None:
    report = json.loads(call(srcompile, folder / "model.py", "--json").stdout)
    result = call(srrun, "local", folder / "model.srp", "--input", folder / "input.npz", "--json")
    run = json.loads(result.stdout)
    assert run["online"]["bytes"] == report["online"]["bytes"]
    assert run["online"]["rounds"] == report["online"]["rounds"]
    assert run["offline"]["bytes"] == report["offline"]["bytes"]
    assert run["setup"]["bytes"] == report["setup"]["bytes"]
    assert run["route"] is None
    assert np.shape(run["outputs"]["output"]) == (1, 2)
    assert run["kernels"]


def test_weights_can_be_left_out_and_given_as_shares(folder: Path) -> None:
    paths = [folder / name for name in ("bare.srp", "p0", "p1")]
    call(srcompile, folder / "model.py", "--out", paths[0], "--shares", paths[1], paths[2])
    whole = call(srrun, "local", folder / "model.srp", "--input", folder / "input.npz", "--json")

    given = ("--input", folder / "input.npz", "--weights", *paths[1:], "--json")
    shared = call(srrun, "local", paths[0], *given)

    outputs = [json.loads(r.stdout)["outputs"]["output"] for r in (whole, shared)]
    np.testing.assert_allclose(outputs[0], outputs[1], atol=0.01)
    assert [stat.S_IMODE(p.stat().st_mode) for p in paths[1:]] == [0o600, 0o600]
    assert stat.S_IMODE((folder / "model.srp").stat().st_mode) == 0o600
    assert "p1 holds the shares of party 1, not of party 0" in refusal(
        srrun, "local", paths[0], "--input", folder / "input.npz", "--weights", paths[2], paths[1]
    )
    assert "does not carry the weight" in refusal(
        srrun, "local", paths[0], "--input", folder / "input.npz"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("missing.py",), "missing.py"),
        (("model.py", "--target", "3pc"), "there is no target '3pc': choose 2pc, plain"),
        (("model.py", "--network", "moon"), "choose lan, wan, mobile, or RATE_MBIT:RTT_MS"),
        (("model.py", "--network", "0:1"), "choose lan, wan, mobile, or RATE_MBIT:RTT_MS"),
        (("model.py", "--emit", "asm"), "choose graph, fixed, lowered, schedule, dealer"),
        (("model.py", "--out", "nowhere/x.srp"), "there is no folder"),
        (("model.py", "--shares", "a", "b"), "--out"),
        (("model.py:absent",), "absent"),
        (("model.py:sorting",), "sort"),
    ],
)
def test_srcompile_refuses_with_one_clear_message(
    folder: Path, arguments: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    assert message in refusal(srcompile, *arguments)


def test_an_unsupported_op_is_reported_at_the_users_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    line = next(n for n, text in enumerate(MODEL.splitlines(), 1) if "torch.sort" in text)
    assert f"model.py:{line}" in refusal(srcompile, "model.py:sorting")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros((1, 5))}, "input 'x' has the shape (1, 5); the program takes (1, 4)"),
        ({"x": np.array([["a"] * 4])}, "in 'x': it is no array of numbers"),
        ({"x": np.full((1, 4), np.nan)}, "input 'x' holds NaN or infinite values"),
        ({"x": np.full((1, 4), 99.0)}, "the program was calibrated for -4 to 4"),
        ({"x": np.zeros((1, 4)), "y": np.zeros(1)}, "the inputs are x, y; the program takes x"),
    ],
)
def test_srrun_refuses_inputs_that_do_not_fit(
    folder: Path, tmp_path: Path, arrays: dict[str, Any], message: str
) -> None:
    np.savez(tmp_path / "bad.npz", **arrays)
    error = refusal(srrun, "local", folder / "model.srp", "--input", tmp_path / "bad.npz")
    assert message in error


def test_srrun_refuses_files_that_are_not_what_they_should_be(folder: Path, tmp_path: Path) -> None:
    good = folder / "input.npz"
    (tmp_path / "text.npz").write_text("hello")
    (tmp_path / "text.srp").write_text("hello")
    content = (folder / "model.srp").read_bytes()
    (tmp_path / "cut.srp").write_bytes(content[: len(content) // 2])
    run = (srrun, "local")
    assert "there is no file" in refusal(*run, folder / "model.srp", "--input", tmp_path / "no.npz")
    assert "no .npz file" in refusal(*run, folder / "model.srp", "--input", tmp_path / "text.npz")
    assert "no.srp: No such file" in refusal(*run, tmp_path / "no.srp", "--input", good)
    assert "not a .srp file" in refusal(*run, tmp_path / "text.srp", "--input", good)
    assert "not a .srp file" in refusal(*run, tmp_path / "cut.srp", "--input", good)
    call(srcompile, folder / "model.py", "--target", "plain", "--out", tmp_path / "plain.srp")
    assert "it has no parties" in refusal(*run, tmp_path / "plain.srp", "--input", good)


def test_unknown_kernels_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SRCOMPILE_KERNELS", "abacus")
    error = refusal(srrun, "local", folder / "model.srp", "--input", folder / "input.npz")
    assert "abacus" in error


def test_the_installed_commands_start() -> None:
    for module in ("srcompile.cli.compile", "srcompile.cli.run"):
        done = subprocess.run(
            [sys.executable, "-c", f"from {module} import main; main(['--help'])"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert "Usage" in done.stdout


def test_without_the_compilers_packages_srcompile_says_what_to_install(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "srcompile.api", raising=False)
    monkeypatch.delitem(sys.modules, "srcompile.frontend.capture", raising=False)

    assert "pip install 'srcompile[compiler]'" in refusal(srcompile, folder / "model.py")


# -- range checks ---------------------------------------------------------------------------------

FAR = [[-3.9, -3.9, 3.9, 3.9]]
"""Accepted by the client, but far out of range in the model's middle."""


@pytest.fixture(scope="module")
def guarded(folder: Path) -> Path:
    assert call(srcompile, folder / "model.py", "--guard", "--out", folder / "g.srp").exit_code == 0
    near = np.array([[0.5, -0.5, 1.0, 2.0]], np.float32)
    np.savez(folder / "near.npz", x=near)
    np.savez(folder / "far.npz", x=np.array(FAR, np.float32))
    np.savez(folder / "both.npz", x=np.concatenate([near, np.array(FAR, np.float32), near]))
    return folder / "g.srp"


def test_a_value_out_of_range_is_an_error_and_no_output(folder: Path, guarded: Path) -> None:
    message = refusal(srrun, "local", guarded, "--input", folder / "far.npz")
    assert "a value left the range" in message
    assert "wider margin" in message
    assert call(srrun, "local", guarded, "--input", folder / "far.npz", "--json").stdout == ""
    assert call(srrun, "local", guarded, "--input", folder / "near.npz").exit_code == 0


@pytest.mark.parametrize("target", ["2pc", "plain"])
def test_a_run_in_this_process_finds_it_too(folder: Path, guarded: Path, target: str) -> None:
    arguments = (folder / "model.py", "--guard", "--target", target, "--run")
    assert "a value left the range" in refusal(srcompile, *arguments, folder / "far.npz")
    assert call(srcompile, *arguments, folder / "near.npz").exit_code == 0


def test_other_rows_of_the_input_have_their_outputs(folder: Path, guarded: Path) -> None:
    result = call(srrun, "local", guarded, "--input", folder / "both.npz", "--json")
    assert result.exit_code == 2
    assert "in row 1 of the input, counted from 0, a value left the range" in result.stderr
    data = json.loads(result.stdout)
    assert data["out_of_range"] == [1]
    assert data["inferences"] == 3
    assert len(data["outputs"]["output"]) == 2


def test_the_report_of_a_guarded_program_names_the_bit_and_its_cost(
    folder: Path, guarded: Path
) -> None:
    data = json.loads(call(srcompile, folder / "model.py", "--guard", "--json").output)
    bare = json.loads(call(srcompile, folder / "model.py", "--json").output)
    assert any("one bit" in d["what"] for d in data["leakage"])
    assert not any("one bit" in d["what"] for d in bare["leakage"])
    lines = [layer for layer in data["layers"] if layer["op"] == "guard"]
    # a round counts for what sends most in it, here one of the two for the output's layer
    assert sum(layer["rounds"] for layer in lines) >= 1
    assert sum(layer["offline_bytes"][0] for layer in lines) > 0
    assert data["online"]["rounds"] - bare["online"]["rounds"] in (1, 2)


def test_more_bits_and_margins_are_options(folder: Path) -> None:
    model = folder / "model.py"
    offline = [
        json.loads(call(srcompile, model, "--guard", "--guard-bits", n, "--json").output)
        for n in (2, 6)
    ]
    assert offline[0]["offline"]["bytes"][0] < offline[1]["offline"]["bytes"][0]
    wide = json.loads(call(srcompile, model, "--margin", 8, "--json").output)
    narrow = json.loads(call(srcompile, model, "--margin", 1, "--json").output)
    assert wide["gates"][0]["supported"][1] > narrow["gates"][0]["supported"][1]


def test_a_command_that_runs_out_of_memory_says_so_without_a_traceback() -> None:
    # given a command for which there is not enough memory
    @click.command()
    @reports_errors
    def command() -> None:
        np.empty(1 << 62, np.uint8)

    # when it runs, then it ends like after any other error
    result = CliRunner().invoke(command, [])
    assert result.exit_code == 2
    assert result.stderr.startswith("error: this process is out of memory; give it more")
