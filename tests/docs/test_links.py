"""Links lead somewhere, named files exist, cited papers are listed, options are documented."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from srcompile.cli.compare import compare
from srcompile.cli.compile import main as srcompile
from srcompile.cli.run import main as srrun
from tests.docs.documents import ROOT, code_words, documents, indented, links, name_of

TOP = ("srcompile", "passes", "runtime", "examples", "tests", "docs")
PATH = re.compile(rf"(?<![\w/])(?:{'|'.join(TOP)})/[\w./-]+")
CITED = re.compile(r"\[((?:[A-Z][A-Za-z]*\d\d)(?:, [A-Z][A-Za-z]*\d\d)*)(?:, [^\]]*)?\]")


def anchors(document: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


@pytest.mark.parametrize("document", documents(), ids=name_of)
def test_internal_links_lead_somewhere(document: Path) -> None:
    for link in links(document):
        if "://" in link:
            continue
        file, _, anchor = link.partition("#")
        target = (document.parent / file).resolve() if file else document
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("document", documents(), ids=name_of)
def test_named_files_exist(document: Path) -> None:
    for word in (*code_words(document), *indented(document)):
        for path in PATH.findall(word):
            made_up = any(part.isupper() for part in re.split(r"[/.]", path))
            assert made_up or (ROOT / path.rstrip(".")).exists(), path


def test_every_cited_paper_is_listed() -> None:
    listed = set(re.findall(r"^\| \[(\w+)\]", (ROOT / "docs/papers.md").read_text(), re.MULTILINE))
    sources = [p for top in ("passes", "runtime", "docs") for p in (ROOT / top).rglob("*")]
    sources += (ROOT / "srcompile").glob("*/*.py")
    cited: set[str] = set()
    for source in sources:
        if source.suffix in (".py", ".cpp", ".hpp", ".md") and source.name != "papers.md":
            for keys in CITED.findall(source.read_text(encoding="utf-8")):
                cited.update(keys.split(", "))
    assert cited == listed


@pytest.mark.parametrize(
    "command",
    [srcompile, compare, srrun.commands["local"], srrun.commands["calibrate"]],
    ids=["srcompile", "srcompile compare", "srrun local", "srrun calibrate"],
)
def test_the_readme_has_every_option(command: click.Command) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert f"`{parameter.opts[0]}" in text, parameter.opts
