"""A few cases of each fuzz target: each parses to something valid or raises a documented error."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.__main__ import TARGETS
from tests.fuzz.harness import run_cases

FEW = {
    "visits": 12,
    "material": 15,
    "client": 30,
    "certificates": 25,
    "stock": 15,
    "batches": 20,
    "compare": 20,
    "tls": 30,
}
SEED = 1


@pytest.mark.parametrize("name", TARGETS)
def test_changed_inputs_are_parsed_or_raise_the_documented_error(name: str, tmp_path: Path) -> None:
    assert run_cases(TARGETS[name], tmp_path, SEED, FEW.get(name, 60)) == []
