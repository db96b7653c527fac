"""The documents, and what tests take from them: blocks, links, paths, tables of keys."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
NOT_RUN = "<!-- not run -->"
PARSED = "<!-- parsed -->"

_FENCE = re.compile(r"^```(?P<language>\w*)\n(?P<body>.*?)^```$", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"!?\[[^\]\n]+\]\((?P<target>[^)\s]+)\)")
_CODE = re.compile(r"`([^`\n]+)`")
_KEYS = re.compile(r"<!-- keys: (?P<name>[\w ]+) -->\n\n(?P<table>(?:\|.*\n)+)")


@dataclass(frozen=True)
class Block:
    """A fenced block: where it stands, the line of text before it, its language and its text."""

    line: int
    before: str
    language: str
    body: str


def documents() -> list[Path]:
    """Return all Markdown files that are documents."""
    return [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]


def name_of(document: Path) -> str:
    """Return a document's path from the root."""
    return str(document.relative_to(ROOT))


def blocks(document: Path) -> Iterator[Block]:
    """Yield the fenced blocks of a document."""
    text = document.read_text(encoding="utf-8")
    for match in _FENCE.finditer(text):
        before = text[: match.start()].rstrip("\n").rpartition("\n")[2]
        yield Block(
            text.count("\n", 0, match.start()) + 1, before, match["language"], match["body"]
        )


def _prose(document: Path) -> str:
    return _FENCE.sub("", document.read_text(encoding="utf-8"))


def links(document: Path) -> list[str]:
    """Return the targets of a document's links and pictures."""
    return [match["target"] for match in _LINK.finditer(_prose(document))]


def code_words(document: Path) -> list[str]:
    """Return what stands between backquotes outside of blocks."""
    return _CODE.findall(_prose(document))


def indented(document: Path) -> list[str]:
    """Return the indented lines outside of blocks: commands and listings."""
    return [line.strip() for line in _prose(document).splitlines() if line.startswith("    ")]


def keys(document: Path, name: str) -> set[str]:
    """Return the keys in the first column of a table marked `<!-- keys: NAME -->`."""
    for match in _KEYS.finditer(document.read_text(encoding="utf-8")):
        if match["name"] == name:
            rows = match["table"].splitlines()[2:]
            return {row.split("|")[1].strip().strip("`") for row in rows}
    raise AssertionError(f"{document} has no keys {name}")
