"""The runtime stands alone: standard library, NumPy, cryptography and its own native kernels."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from srcompile.runtime.program import save
from tests.support.builds import BUILDS, compiled

ROOT = Path(__file__).parents[2]
ALLOWED = {"srcompile", "numpy", "cryptography", "_cffi_backend", "_openssl", "_native"}
"""numpy brings its own parts, cryptography its binding."""
COMPILER = ("frontend", "ir", "ops", "passes", "routing", "report", "cli", "api")

REPORT = """
import json, sys
print(json.dumps(sorted(sys.modules)))
"""
RUN = """
import sys
import numpy as np
from srcompile.runtime.kernels import load as load_kernels
from srcompile.runtime.local import LocalSession
from srcompile.runtime.program import load
import srcompile.runtime.cluster, srcompile.runtime.node, srcompile.runtime.plain
session = LocalSession(load(sys.argv[1]), load_kernels())
session.infer({"x": np.zeros((1, 4), np.float32)})
"""


def loaded(code: str, *args: str) -> set[str]:
    """Return the modules that a fresh interpreter has after running `code`."""
    done = subprocess.run(
        [sys.executable, "-c", code + REPORT, *args],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=60,
    )
    return set(json.loads(done.stdout))


def foreign(modules: set[str]) -> set[str]:
    top = {name.partition(".")[0] for name in modules}
    bare = {name.partition(".")[0] for name in loaded("")}  # what the interpreter itself brings
    return {name for name in top - set(sys.stdlib_module_names) - bare if name not in ALLOWED}


def test_running_a_program_loads_nothing_of_the_compiler(tmp_path: Path) -> None:
    path = tmp_path / "pool.srp"
    save(compiled(BUILDS["pool"]).program, path)
    modules = loaded(RUN, str(path))
    assert foreign(modules) == set()
    ours = {name.split(".")[1] for name in modules if name.startswith("srcompile.")}
    assert ours.isdisjoint(COMPILER)


@pytest.mark.parametrize("module", ["srcompile.runtime", "srcompile.runtime.node"])
def test_importing_the_runtime_loads_only_what_it_may(module: str) -> None:
    assert foreign(loaded(f"import {module}")) == set()


def test_importing_srcompile_loads_no_other_package() -> None:
    modules = loaded("import srcompile")
    assert foreign(modules) == set()
    assert not any(name.startswith("numpy") for name in modules)
    assert {name for name in modules if name.startswith("srcompile.")} == set()


HEAVY = {
    "click", "cryptography", "email", "http.server", "lark", "rich", "torch",
    "srcompile.runtime.kernels._native",
}  # fmt: skip
"""What takes time or memory and is needed only by some roles, or only when they start."""
WITHOUT_NUMPY = HEAVY | {"asyncio"} | {"json", "numpy", "ssl", "subprocess", "tomllib", "zipfile"}


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import srcompile.runtime", WITHOUT_NUMPY),
        ("from srcompile.runtime import Client, Dealer, Party, deploy", HEAVY | {"asyncio"}),
        ("from srcompile.runtime import *", HEAVY),
    ],
)
def test_importing_the_public_runtime_loads_what_it_needs_and_no_more(
    code: str, absent: set[str]
) -> None:
    assert loaded_by(code) & absent == set()


def loaded_by(code: str) -> set[str]:
    """Return the modules that `code` loads; what tells them is loaded after it."""
    seen = "\nimport sys\nseen = sorted(sys.modules)\nimport json\nprint(json.dumps(seen))"
    command = [sys.executable, "-c", code + seen]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    return set(json.loads(done.stdout))
