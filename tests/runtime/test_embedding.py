"""The runtime from Python: roles as objects in one process, and what importing them takes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

import srcompile.runtime as runtime
from srcompile.ops import registry
from srcompile.ops.interpreter import evaluate
from srcompile.runtime.program import save
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


def test_importing_the_roles_takes_little_memory_and_nothing_heavy() -> None:
    command = [sys.executable, "-c", IMPORT]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    peak_kb, heavy = json.loads(done.stdout)
    assert peak_kb < LIMIT_MB * 1024
    assert heavy == []
