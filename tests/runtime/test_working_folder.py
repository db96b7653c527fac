"""What lies in the folder in which a command is typed is not run by its processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from srcompile.runtime.program import save
from tests.support.builds import BUILDS, compiled

BUILD = BUILDS["mlp"]
COMMANDS = {
    "srrun local": (
        "from srcompile.cli.run import main; main(['local', 'a.srp', '--input', 'a.npz', '--json'])"
    ),
    "the process that measures beside": (
        "from srcompile.runtime.kernels import load\n"
        "from srcompile.runtime.measure import Watch, _helper\n"
        "with _helper(True, load(), Watch(cold_bytes=1 << 10)): pass"
    ),
}
SHADOWED = ("json", "platform", "secrets", "socket")


@pytest.mark.parametrize("command", COMMANDS)
def test_modules_of_the_working_folder_are_not_run(command: str, tmp_path: Path) -> None:
    # given a folder with modules that have the names of those that the runtime needs
    save(compiled(BUILD).program, tmp_path / "a.srp")
    np.savez(tmp_path / "a.npz", x=BUILD.samples[0]["x"])
    for name in SHADOWED:
        (tmp_path / f"{name}.py").write_text("open('taken', 'a').write(__name__ + ' ')\n")
    # when a command that does not look there itself, as srrun does not, starts processes there
    done = subprocess.run(
        [sys.executable, "-P", "-c", COMMANDS[command]],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    # then none of the processes has run one of them
    assert not (tmp_path / "taken").exists(), (tmp_path / "taken").read_text()
    assert done.returncode == 0, done.stderr
