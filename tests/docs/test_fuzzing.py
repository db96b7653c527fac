"""docs/fuzzing.md lists the fuzz targets with their errors."""

from __future__ import annotations

import re

from tests.docs.documents import ROOT
from tests.fuzz.__main__ import TARGETS


def test_every_target_is_there_with_its_error() -> None:
    text = (ROOT / "docs" / "fuzzing.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \|.*\| (\S+) \|$", text, re.MULTILINE)
    wanted = {
        name: f"`{target.errors[-1].__name__}`" if target.errors else "none"
        for name, target in TARGETS.items()
    }
    assert {name: error.strip() for name, error in rows} == wanted


def test_runs_that_are_written_down_are_of_targets() -> None:
    text = (ROOT / "docs" / "fuzzing.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\w+)(\*?) \| \d[\d,]* \| \d+ \| \d+ \|$", text, re.MULTILINE)
    assert rows
    for name, waits in rows:
        assert TARGETS[name].waits is (waits == "*")
