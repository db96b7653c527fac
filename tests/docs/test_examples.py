"""What documents show runs, and what they say is made from the code is as the code makes it."""

from __future__ import annotations

from pathlib import Path

import pytest

from srcompile.ir.parser import parse_module
from srcompile.ops import registry
from srcompile.ops.verifier import verify_text
from srcompile.runtime.isa import INSTRUCTIONS
from srcompile.runtime.roles import LISTENING
from tests.docs import tables
from tests.docs.documents import NOT_RUN, PARSED, blocks, documents, name_of
from tests.support.services import free_ports

PYTHON = [d for d in documents() if any(b.language == "python" for b in blocks(d))]


@pytest.mark.parametrize("document", PYTHON, ids=name_of)
def test_python_blocks_of_a_document_run_one_after_the_other(
    document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for role, port in zip(LISTENING, free_ports(3), strict=True):  # not those everybody has
        monkeypatch.setenv(f"SRCOMPILE_{role.upper()}", f"127.0.0.1:{port}")
    names: dict[str, object] = {"__name__": "documented"}
    for block in blocks(document):
        if block.language == "python" and block.before != NOT_RUN:
            # empty lines in front, so that a traceback names the document's line
            code = compile("\n" * block.line + block.body, str(document), "exec")
            exec(code, names)


def test_ir_that_documents_show_parses_and_verifies() -> None:
    shown = [b for d in documents() for b in blocks(d) if b.before == PARSED]
    assert shown
    for block in shown:
        verify_text(parse_module(block.body), block.body, registry())


@pytest.mark.parametrize("document", tables.DOCUMENTS, ids=name_of)
def test_what_is_made_from_the_code_is_current(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    assert tables.updated(text) == text, "run: python -m tests.docs.tables"


def test_every_table_is_shown() -> None:
    text = "".join(d.read_text(encoding="utf-8") for d in tables.DOCUMENTS)
    assert {m["name"] for m in tables.MARKED.finditer(text) if m["kind"] == "table"} == set(
        tables.TABLES
    )


def test_every_instruction_has_its_operands_described() -> None:
    assert set(tables.OPERANDS) == set(INSTRUCTIONS)


def test_every_pass_has_a_section_in_passes_md() -> None:
    text = (tables.ROOT / "docs" / "passes.md").read_text(encoding="utf-8")
    folder = tables.ROOT / "passes"
    named = [p.stem for p in folder.glob("*.py") if p.read_text().startswith('"""Pass `')]
    assert named
    headings = [line for line in text.splitlines() if line.startswith("## ")]
    missing = [name for name in named if not any(name in heading for heading in headings)]
    assert not missing
