"""`srrun certs`, `dealer`, `party`, `deploy`, `client`, `doctor` as users type them."""

from __future__ import annotations

import json
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from srcompile.cli.run import Ran, show_run
from srcompile.cli.run import main as srrun
from srcompile.ops import registry
from srcompile.ops.interpreter import evaluate
from srcompile.runtime.client import share_weights
from srcompile.runtime.cluster import LocalCluster
from srcompile.runtime.errors import ProtocolError, RunError
from srcompile.runtime.program import save
from srcompile.runtime.services.client import Client
from srcompile.runtime.shares import write_shares
from tests.support.builds import compiled
from tests.support.services import (
    POOL,
    PROGRAM,
    SRRUN,
    Processes,
    config_file,
    running,
    settings_in,
)


def call(*args: object) -> Result:
    return CliRunner().invoke(srrun, [str(a) for a in args], catch_exceptions=False)


def refusal(*args: object) -> str:
    """Return the message of a command that is refused; it must exit with 2 and not raise."""
    result = call(*args)
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    return result.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a program, inputs, and the settings of a cluster."""
    path = tmp_path_factory.mktemp("services")
    save(PROGRAM, path / "pool.srp")
    save(PROGRAM, path / "bare.srp", weights=False)
    save(compiled(POOL, "plain").program, path / "plain.srp")
    for party, part in enumerate(share_weights(PROGRAM)):
        write_shares(path / f"p{party}.npz", PROGRAM, party, part)
    inputs = np.concatenate([sample["x"] for sample in POOL.samples[:3]])
    np.savez(path / "input.npz", x=inputs)
    return path


@pytest.fixture(scope="module")
def cluster(folder: Path) -> Iterator[Path]:
    """Return the settings file of running processes."""
    settings = settings_in(folder)
    with Processes(folder, settings):
        yield config_file(settings, folder)


@pytest.mark.parametrize("how", ["with weights", "with shares"])
def test_a_program_is_deployed_and_asked(cluster: Path, folder: Path, how: str) -> None:
    program: list[Any] = [folder / "pool.srp"]
    if how == "with shares":
        program = [folder / "bare.srp", "--weights", folder / "p0.npz", folder / "p1.npz"]
    done = call("deploy", *program, "--config", cluster)
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith(f"deployed {program[0]} as ")
    command = ("client", "infer", folder / "bare.srp", "--input", folder / "input.npz")
    asked = call(*command, "--config", cluster, "--json")
    data = json.loads(asked.stdout)
    want = [evaluate(POOL.module, s, registry())[0]["y"] for s in POOL.samples[:3]]
    np.testing.assert_allclose(data["outputs"]["y"], np.concatenate(want), atol=0.01)
    assert data["inferences"] == 3
    shown = call(*command, "--config", cluster).stdout
    assert "rounds" in shown
    # and the doctor is content
    for role in ("client", "owner", "party0"):
        found = call(
            "doctor", "--role", role, "--program", folder / "pool.srp", "--config", cluster
        )
        assert found.exit_code == 0, found.output
        assert "BAD" not in found.output


@pytest.mark.parametrize("by", ["file", "digest"])
def test_a_deployment_is_taken_away_once(by: str, folder: Path, tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    program = str(folder / "bare.srp") if by == "file" else PROGRAM.digest()
    with running(settings):
        command = ("undeploy", program, "--config", config_file(settings, tmp_path))
        done = call(*command)
        assert done.exit_code == 0, done.output
        assert done.stdout == f"took {program} away from the dealer, party 0, party 1\n"
        again = call(*command)
    assert again.exit_code == 2
    assert again.stderr == f"error: no role has a deployment of {program}\n"


@pytest.mark.parametrize("done", [0, 1, 2])
def test_answers_that_came_before_an_error_are_printed(
    done: int, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given services of which party 0 goes away when some of three rows are answered
    settings = settings_in(tmp_path, drain=0.0)
    infer, asked = Client.infer, list[Any]()

    with running(settings) as found:

        def infer_or_end(self: Client, inputs: Any) -> Any:
            asked.append(inputs)
            if len(asked) == done + 1:
                found.parties[0].stop()
            return infer(self, inputs)

        monkeypatch.setattr(Client, "infer", infer_or_end)
        # when a client asks for all of them
        command = ("client", "infer", folder / "bare.srp", "--input", folder / "input.npz")
        config = config_file(settings, tmp_path)
        result = call(*command, "--config", config, "--json")
    # then the rows that were answered are printed in their order, and behind them the error
    assert result.exit_code == 2
    assert "party 0 shuts down" in result.stderr
    assert result.stderr.count("\n") == 1
    if not done:
        assert result.stdout == ""
        return
    data = json.loads(result.stdout)
    want = [evaluate(POOL.module, s, registry())[0]["y"] for s in POOL.samples[:done]]
    np.testing.assert_allclose(data["outputs"]["y"], np.concatenate(want), atol=0.01)
    assert (data["inferences"], data["out_of_range"]) == (done, [])
    assert len(data["route"]) == done
    assert "party 0 shuts down" in data["error"]
    assert f"no outputs from row {done} of the input on, counted from 0: " in result.stderr


def test_rows_without_an_output_are_shown_in_their_place(
    capsys: pytest.CaptureFixture[str],
) -> None:
    # given results of three rows, the second one out of range, and a fourth one with an error
    with LocalCluster(PROGRAM) as cluster:
        first, third = (cluster.infer(POOL.samples[k]) for k in (0, 2))
    error = ProtocolError("party 0 shuts down")
    ran = Ran(5, (first, None, third), error)
    # when they are printed for people
    with pytest.raises(RunError) as caught:
        show_run(PROGRAM, ran, {"bytes": [0, 0], "seconds": 0.0}, as_json=False)
    # then each row has a line, and the error names those that have no output
    shown = capsys.readouterr().out.splitlines()
    (place,) = (k for k, line in enumerate(shown) if line.startswith("y "))
    numbers = [line.removeprefix("y").strip() for line in shown[place : place + 3]]
    assert numbers[1] == "no output: out of range"
    for text, result in ((numbers[0], first), (numbers[2], third)):
        values = np.array([float(v) for v in text.strip("[]").split()])
        np.testing.assert_allclose(values, result.outputs["y"].ravel(), atol=1e-3)
    assert str(caught.value).startswith("in row 1 of the input, counted from 0, a value left the")
    assert str(caught.value).endswith("from row 3 of the input on, counted from 0: " + str(error))


def test_flags_and_environment_count_more_than_the_file(
    cluster: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("client", "infer", folder / "bare.srp", "--input", folder / "input.npz")
    monkeypatch.setenv("SRCOMPILE_PARTY0", "127.0.0.1:1")
    assert "party 0 cannot be reached at 127.0.0.1:1:" in refusal(*command, "--config", cluster)
    message = refusal(*command, "--config", cluster, "--party0", "127.0.0.1:2")
    assert "party 0 cannot be reached at 127.0.0.1:2:" in message


def test_doctor_exits_with_1_and_says_what_would_do(folder: Path, tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    done = call("doctor", "--role", "client", "--config", config_file(settings, tmp_path))
    assert done.exit_code == 1
    assert "BAD party 0: party 0 cannot be reached" in done.stdout
    assert "start it, or open its port in the firewall" in done.stdout
    done = call("doctor", "--role", "client", "--config", config_file(settings, tmp_path), "--json")
    findings = json.loads(done.stdout)["findings"]
    assert {f["what"]: f["good"] for f in findings}["party 0"] is False


def test_certificates_are_made_and_used(tmp_path: Path) -> None:
    out = tmp_path / "certs"
    done = call("certs", "init", "--out", out, "--hosts", "party0=localhost,127.0.0.1")
    assert done.exit_code == 0, done.output
    files = [Path(line) for line in done.stdout.splitlines()]
    assert all(stat.S_IMODE(f.stat().st_mode) == 0o600 for f in files if f.suffix == ".key")
    assert "holds an authority already" in refusal("certs", "init", "--out", out)
    before = (out / "dealer.pem").read_bytes()
    assert call("certs", "renew", "--out", out).exit_code == 0
    assert (out / "dealer.pem").read_bytes() != before
    # and a client may have a name of its own, whose files are all that it needs
    done = call("certs", "client", "--out", out, "--name", "alice")
    assert done.exit_code == 0, done.output
    made = {Path(line).name: Path(line) for line in done.stdout.splitlines()}
    assert sorted(made) == ["ca.pem", "client.key", "client.pem"]
    assert stat.S_IMODE(made["client.key"].stat().st_mode) == 0o600
    assert made["ca.pem"].read_bytes() == (out / "ca.pem").read_bytes()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("certs", "init", "--out", "{tmp}", "--hosts", "p0"), "--hosts takes ROLE=HOST[,HOST]"),
        (("certs", "init", "--out", "{tmp}", "--hosts", "p=h"), "the roles are dealer, party0"),
        (("certs", "init", "--out", "{tmp}", "--hosts", "dealer=a b"), "'a b' is no host name"),
        (("certs", "client", "--out", "{tmp}", "--name", "a"), "ca.pem: No such file or directory"),
        (("certs", "client", "--out", "{tmp}", "--name", "a b"), "'a b' is no name for a client"),
        (("certs", "renew", "--out", "{tmp}"), "ca.pem: No such file or directory; it is needed"),
        (("dealer", "--config", "{tmp}/none.toml"), "none.toml: No such file"),
        (("dealer", "--certs", "{tmp}/none"), "there is no file {tmp}/none/ca.pem; `srrun certs"),
        (("party", "--index", "0", "--sessions", "0"), "the flag --sessions is '0'; it must be a"),
        (("party", "--index", "1", "--kernels", "none", "--insecure"), "none"),
        (("dealer", "--insecure", "--dealer", "10.0.0.5:1"), "all hosts must be on loopback"),
        (("doctor", "--role", "king"), "there is no role 'king': choose dealer, party0, party1"),
        (("deploy", "{folder}/bare.srp", "--insecure"), "give shares of it"),
        (("deploy", "{folder}/plain.srp", "--insecure"), "compiled for the target plain"),
        (
            ("client", "infer", "{folder}/plain.srp", "--input", "{folder}/input.npz"),
            "compiled for the target plain",
        ),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, tuple) else None,
)
def test_what_cannot_be_is_refused_with_one_clear_message(
    args: tuple[str, ...], message: str, folder: Path, tmp_path: Path
) -> None:
    places = {"folder": folder, "tmp": tmp_path}
    said = refusal(*(a.format(**places) for a in args))
    assert said.count("\n") == 1
    assert message.format(**places) in said


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    settings = replace(settings_in(tmp_path), state=tmp_path / "file" / "state")
    said = refusal("dealer", "--config", config_file(settings, tmp_path))
    assert f"{tmp_path}/file/state" in said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_service_ends_well_on_a_signal(number: int, tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    with Processes(tmp_path, settings) as processes:
        process = processes.processes["dealer"]
        process.send_signal(number)
        assert process.wait(20) == 0
        assert "stopped" in processes.log("dealer")


def test_json_logs_are_json(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, log_format="json")
    with Processes(tmp_path, settings) as processes:
        pass
    lines = processes.log("party0").splitlines()
    events = [json.loads(line) for line in lines]
    assert events[0]["event"] == "listens"
    assert events[-1]["event"] == "stopped"
    assert {e["role"] for e in events} == {"party0"}


def test_a_second_party_on_the_same_state_is_refused(cluster: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SRRUN, "party", "--index", "0", "--config", str(cluster)],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    assert "is in use by another process" in done.stderr
    assert "Traceback" not in done.stderr
