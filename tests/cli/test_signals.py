"""Commands end on signals: with what the usual exit codes say, with nothing left, and always."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

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
