"""Commands end on signals: with what the usual exit codes say, with nothing left, and always."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from srcompile.runtime.program import save
from tests.support.builds import BUILDS, compiled
from tests.support.services import ROOT, SRRUN, free_ports


def start(folder: Path, *args: object) -> subprocess.Popen[str]:
    """Start srrun in a process of its own, whose temporary folders lie in `folder`."""
    return subprocess.Popen(
        [sys.executable, "-c", SRRUN, *map(str, args)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(folder)},
    )


def end(process: subprocess.Popen[str]) -> tuple[str, int]:
    """Return what a process says on standard error, and its exit code."""
    try:
        return process.communicate(timeout=30)[1], process.returncode
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("apart_s", [20e-6, 40e-6, 60e-6, 80e-6, 120e-6])
def test_a_service_ends_on_two_signals_shortly_after_each_other(
    apart_s: float, tmp_path: Path
) -> None:
    # given a dealer that waits for visits
    port = free_ports(1)[0]
    dealer = start(
        tmp_path, "dealer", "--insecure", "--state", tmp_path, "--dealer", f"127.0.0.1:{port}"
    )
    assert dealer.stderr is not None
    assert "listens" in dealer.stderr.readline()
    # when the second signal comes while the first one is handled
    dealer.send_signal(signal.SIGINT)
    began = time.perf_counter()
    while time.perf_counter() - began < apart_s:
        pass
    dealer.send_signal(signal.SIGTERM)
    # then it stops, and says so once
    said, code = end(dealer)
    assert code == 0
    assert said.count(": stops ") == 1
    assert said.count(": stopped") == 1


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return a program, and inputs that take long enough to be interrupted."""
    folder, build = tmp_path_factory.mktemp("local"), BUILDS["mlp"]
    save(compiled(build).program, folder / "mlp.srp")
    np.savez(folder / "input.npz", x=np.repeat(build.samples[0]["x"], 20_000, axis=0))
    return folder / "mlp.srp", folder / "input.npz"


@pytest.mark.parametrize(
    "numbers",
    [(signal.SIGTERM,), (signal.SIGHUP,), (signal.SIGINT,), (signal.SIGHUP, signal.SIGTERM)],
    ids=lambda numbers: " ".join(n.name for n in numbers),
)
def test_a_local_run_that_is_ended_leaves_nothing_behind(
    numbers: tuple[signal.Signals, ...], files: tuple[Path, Path], tmp_path: Path
) -> None:
    # given a run whose parties work
    program, inputs = files
    run = start(tmp_path, "local", program, "--input", inputs, "--spool", tmp_path)
    children = wait_for_children(run, 3)
    # when signals come, the second one while the first one is handled
    for number in numbers:
        run.send_signal(number)
    # then it ends with what the first of them says, and its folders and processes are gone
    said, code = end(run)
    assert code in {128 + number for number in numbers}
    assert said == ""
    assert list(tmp_path.iterdir()) == []
    deadline = time.monotonic() + 10
    while not all(map(gone, children)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert all(map(gone, children))


def test_a_signal_that_is_ignored_ends_nothing(files: tuple[Path, Path], tmp_path: Path) -> None:
    # given what nohup starts
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        run = start(tmp_path, "local", files[0], "--input", files[1])
    finally:
        signal.signal(signal.SIGHUP, before)
    wait_for_children(run, 3)
    # when the terminal goes away, and somebody ends the run later
    run.send_signal(signal.SIGHUP)
    run.send_signal(signal.SIGTERM)
    # then it is ended by the second signal
    assert end(run) == ("", 128 + signal.SIGTERM)


def gone(pid: str) -> bool:
    """Whether a process has ended; one without a parent may wait for somebody to collect it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def wait_for_children(process: subprocess.Popen[str], count: int) -> list[str]:
    """Return the processes that a process has started, once there are so many."""
    file = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    deadline = time.monotonic() + 30
    while len(found := file.read_text().split()) < count:
        assert process.poll() is None, end(process)
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found
