"""Commands whose output cannot be written say so, with exit code 2 and without a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from srcompile.runtime.program import save
from tests.support.builds import BUILDS, compiled
from tests.support.services import ROOT

FULL = Path("/dev/full")
PROGRAM = "from srcompile.cli.{} import main; main()"
COMMANDS = {
    "local": ("run", "local", "{tmp}/mlp.srp", "--input", "{tmp}/input.npz"),
    "local --json": ("run", "local", "{tmp}/mlp.srp", "--input", "{tmp}/input.npz", "--json"),
    "doctor": ("run", "doctor", "--role", "client", "--insecure"),
    "doctor --json": ("run", "doctor", "--role", "client", "--insecure", "--json"),
    "certs init": ("run", "certs", "init", "--out", "{out}"),
    "srcompile compare": ("compile", "compare", "{tmp}/mlp.srp", "{tmp}/mlp.srp"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a program and an input for it."""
    path, build = tmp_path_factory.mktemp("full"), BUILDS["mlp"]
    save(compiled(build).program, path / "mlp.srp")
    np.savez(path / "input.npz", x=build.samples[0]["x"])
    return path


@pytest.mark.skipif(not FULL.exists(), reason="there is no /dev/full")
@pytest.mark.parametrize(("buffered", "what"), [(True, "the output"), (False, "something")])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_full_disk_behind_the_output_is_named(
    command: str, buffered: bool, what: str, folder: Path, tmp_path: Path
) -> None:
    # given a command that has something to print
    module, *args = (part.format(tmp=folder, out=tmp_path) for part in COMMANDS[command])
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("PYTHONUNBUFFERED", None)
    # when there is no room for it
    with FULL.open("w") as full:
        done = subprocess.run(
            [sys.executable, *(() if buffered else ("-u",)), "-c", PROGRAM.format(module), *args],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            timeout=120,
        )
    # then it says so in one line, and the exit code is that of errors
    said = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    (line,) = said
    assert line.startswith(f"error: {what} ")
    assert line.endswith(" written: No space left on device")
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    assert done.returncode == 2
