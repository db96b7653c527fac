"""Targets that read what training reads: labelled texts, and a trained pool.

They import what they need when they are opened: torch takes longer than any other target needs.
"""

from __future__ import annotations

import gzip
import json
import random
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from srcompile.errors import UserError
from tests.fuzz.harness import Parser, Target
from tests.fuzz.mutations import changed_bytes, json_bytes

TEXTS = (
    "label\ttext_a\ttext_b\n1\ta film to fall in love with\t\n0\tit's slow - very, very slow\t\n",
    "label\ttext_a\ttext_b\n2\tis it good ?\tit is good .\n0\twho made it ?\tnobody knows .\n",
    "label\ttext_a\n1\t\u00fcber \u65e5\u672c\u8a9e \ud83d\ude00 e\u0301\n\n",
)


def _open_texts(folder: Path, stack: ExitStack) -> Parser:
    from srcompile.training.texts import read_texts

    plain = [text.encode("utf-16", "surrogatepass").decode("utf-16").encode() for text in TEXTS]
    packed = [gzip.compress(text) for text in plain]
    read_texts(_written(folder / "first.tsv", plain[0]))  # the tokenizer is loaded

    def parse(rng: random.Random) -> None:
        what = rng.random()
        if what < 0.5:
            file, content = folder / "data.tsv", changed_bytes(rng, plain)
        elif what < 0.8:
            file, content = folder / "data.tsv.gz", changed_bytes(rng, packed)
        else:
            file, content = folder / "data.tsv.gz", gzip.compress(changed_bytes(rng, plain))
        texts = read_texts(_written(file, content), rng.choice((2, 16, 128)))
        assert len(texts.ids) == len(texts.labels) == len(texts.first) > 0

    return parse


def _open_pool(folder: Path, stack: ExitStack) -> Parser:
    from srcompile.training import minilm
    from srcompile.training.architecture import Student
    from srcompile.training.router import Router
    from srcompile.training.store import Trained, load_pool, save_pool

    small = minilm.started(Student(kind="convolution", layers=1, width=24), 2)
    large = minilm.started(Student(layers=1, width=48, heads=2, ffn=64), 2)
    router = Router(minilm.table(), small.trunk, 8, 2)
    points = {"length": 16, "points": {"lan": {"weight": 0.25}}}
    save_pool(Trained({"small": small, "large": large}, router, "small", points), folder)
    about = json.loads((folder / "pool.json").read_text())
    weights = (folder / "pool.safetensors").read_bytes()

    def parse(rng: random.Random) -> None:
        changed = rng.random() < 0.5
        _written(folder / "pool.json", json_bytes(rng, about) if changed else _text(about))
        content = weights if changed else _changed_tensors(rng, weights)
        _written(folder / "pool.safetensors", content)
        load_pool(folder)

    return parse


def _changed_tensors(rng: random.Random, content: bytes) -> bytes:
    """Return a changed safetensors file: in its header, whose size is that of its text, or so."""
    if rng.random() < 0.4:
        return changed_bytes(rng, [content])
    size = int.from_bytes(content[:8], "little")
    header = json_bytes(rng, json.loads(content[8 : 8 + size]))
    return len(header).to_bytes(8, "little") + header + content[8 + size :]


def _text(fields: Any) -> bytes:
    return json.dumps(fields).encode()


def _written(file: Path, content: bytes) -> Path:
    file.write_bytes(content)
    return file


TARGETS = (
    Target("texts", (UserError,), _open_texts, 2 << 30),
    Target("pool", (UserError,), _open_pool, 2 << 30),
)
