"""The runtime from Python: roles as objects in one process, and what importing them takes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import get_type_hints

import numpy as np
import pytest

import srcompile.runtime as runtime
from srcompile.ops import registry
from srcompile.ops.interpreter import evaluate
from srcompile.runtime.program import save
from srcompile.runtime.services.doctor import examine
from tests.support.builds import BUILDS, compiled
from tests.support.services import config_file, settings_in

LIMIT_MB = 60
IMPORT = r"""
import json, re, sys
from srcompile.runtime import Client, Dealer, Party, Program, Settings, deploy, read_settings
peak = int(re.search(r"VmHWM:\s+(\d+) kB", open("/proc/self/status").read())[1])
names = ("torch", "scipy", "lark", "click", "rich", "cryptography.x509")
heavy = [name for name in names if name in sys.modules]
print(json.dumps([peak, heavy]))
"""


def test_the_guide_names_everything_public() -> None:
    guide = (Path(__file__).parents[2] / "docs" / "deployment.md").read_text(encoding="utf-8")
    section = guide.partition("## From Python")[2].partition("\n## ")[0]
    assert [name for name in runtime.__all__ if not re.search(rf"\b{name}\b", section)] == []


def test_what_a_client_returns_and_raises_is_public() -> None:
    returned = get_type_hints(runtime.Client.infer)["return"]
    for public in (returned, runtime.InputError, runtime.RangeError, runtime.ProtocolError):
        assert public.__name__ in runtime.__all__
        assert getattr(runtime, public.__name__) is public


def test_all_public_names_are_there() -> None:
    for name in runtime.__all__:
        assert getattr(runtime, name) is not None
    assert set(runtime.__all__) == set(runtime._HOME)


def test_two_clusters_of_all_roles_run_in_one_process(tmp_path: Path) -> None:
    build = BUILDS["mlp"]
    path = tmp_path / "mlp.srp"
    save(compiled(build).program, path)
    program = runtime.load_program(path)
    files = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        files.append(config_file(settings_in(tmp_path / name), tmp_path / name))
    one, two = (runtime.read_settings(file) for file in files)
    with (
        runtime.Dealer(one), runtime.Party(0, one), runtime.Party(1, one),
        runtime.Dealer(two), runtime.Party(0, two), runtime.Party(1, two),
    ):  # fmt: skip
        for settings in (one, two):
            runtime.deploy(program, settings)
        with runtime.Client(program, one) as first, runtime.Client(program, two) as second:
            for sample in build.samples[:3]:
                want, _ = evaluate(build.module, sample, registry())
                for client in (first, second):
                    got = client.infer(sample).outputs["y"]
                    np.testing.assert_allclose(got, want["y"], atol=0.01)


def test_a_role_without_a_standard_error_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given an interpreter without one, such as pythonw, or after 2>&-
    monkeypatch.setattr(sys, "stderr", None)
    settings = settings_in(tmp_path, log_level="debug")
    # when a role starts and stops there
    with runtime.Dealer(settings) as dealer:
        found = {f.what: f for f in examine("client", settings)}
    # then somebody who comes is answered
    assert found["the dealer"].good
    assert dealer.stopping


def test_importing_the_roles_takes_little_memory_and_nothing_heavy() -> None:
    command = [sys.executable, "-c", IMPORT]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    peak_kb, heavy = json.loads(done.stdout)
    assert peak_kb < LIMIT_MB * 1024
    assert heavy == []
