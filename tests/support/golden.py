"""Golden files: input, a line `====`, and what must come out, exactly.

With SRCOMPILE_REWRITE_GOLDEN=1 a test writes what came out into the file instead of comparing it;
`git diff` shows what that changed.
"""

from __future__ import annotations

import os
from pathlib import Path

SEPARATOR = "\n====\n"
REWRITE = "SRCOMPILE_REWRITE_GOLDEN"


def files(folder: Path) -> list[Path]:
    """Return the golden files under `folder`, sorted."""
    return sorted(folder.rglob("*.txt"))


def given(path: Path) -> str:
    """Return the input that a golden file holds."""
    return path.read_text(encoding="utf-8").partition(SEPARATOR)[0] + "\n"


def check(path: Path, found: str) -> None:
    """Compare what came out with what the file holds, or rewrite it if the user wants that."""
    text = path.read_text(encoding="utf-8")
    before, _, expected = text.partition(SEPARATOR)
    found = found.rstrip("\n") + "\n"
    if os.environ.get(REWRITE):
        path.write_text(before.rstrip("\n") + SEPARATOR + found, encoding="utf-8")
        return
    assert found == expected, f"{path.name} differs; {REWRITE}=1 rewrites it:\n{found}"
