"""Labelled texts: TSV files with the columns label, text_a and text_b, and how they are batched."""

from __future__ import annotations

import gzip
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from srcompile.errors import UserError
from srcompile.training import minilm
from srcompile.training.architecture import MOST_TOKENS, PAD

Tokens = Mapping[str, Tensor]


@dataclass(frozen=True)
class Texts:
    """Texts as token ids, with labels 0, 1, ..: the data set that a Trainer takes.

    first, second: the texts as given; second is empty for tasks of one text.
    """

    first: tuple[str, ...]
    second: tuple[str, ...]
    ids: tuple[tuple[int, ...], ...]
    labels: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, k: int) -> dict[str, Any]:
        return {"input_ids": list(self.ids[k]), "labels": self.labels[k], "index": k}

    @property
    def classes(self) -> int:
        """How many labels there are."""
        return max(self.labels) + 1

    def chosen(self, places: Sequence[int]) -> Texts:
        """Return the texts at `places`, in that order."""
        fields = (self.first, self.second, self.ids, self.labels)
        return Texts(*(tuple(f[k] for k in places) for f in fields))  # type: ignore[arg-type]

    def of_length(self, least: int) -> Texts:
        """Return the texts of at least so many tokens."""
        return self.chosen([k for k, ids in enumerate(self.ids) if len(ids) >= least])

    def padded(self, k: int, length: int) -> Tokens:
        """Return text k as a program of `length` tokens takes it, cut if it is longer."""
        return tokens_of([_cut(self.ids[k], length)], length)


def read_texts(path: Path, length: int = MOST_TOKENS) -> Texts:
    """Return the texts of a TSV file, plain or gzipped, cut to `length` tokens.

    Raises UserError if the file is none, at the first line that is wrong.
    """
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rt", encoding="utf-8", newline="\n") as file:
            lines = [line.rstrip("\n").split("\t") for line in file]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    if not lines or lines[0][:2] != ["label", "text_a"]:
        raise UserError(
            f"{path} does not begin with a header of the columns label, text_a, text_b, "
            "separated by tabs"
        )
    labels, first, second = [], [], []
    for number, row in enumerate(lines[1:], 2):
        if len(row) < 2 or not row[0].isdigit() or not row[1]:
            raise UserError(f"line {number} of {path} is no label 0, 1, .., a tab and a text")
        labels.append(int(row[0]))
        first.append(row[1])
        second.append(row[2] if len(row) > 2 else "")
    if not labels:
        raise UserError(f"{path} holds no texts")
    return of_texts(first, second, labels, length)


def of_texts(
    first: Sequence[str], second: Sequence[str], labels: Sequence[int], length: int
) -> Texts:
    """Return texts, or pairs of them where `second` is not empty, as tokens."""
    pairs = any(second)
    found = minilm.tokenizer()(
        list(first), list(second) if pairs else None, truncation=True, max_length=length
    )
    ids = tuple(map(tuple, found["input_ids"]))
    return Texts(tuple(first), tuple(second), ids, tuple(labels))


def tokens_of(rows: Sequence[Sequence[int]], length: int = 0) -> Tokens:
    """Return ids and masks, (B, n) each, padded to the longest of them, or to `length`."""
    n = max(length, *map(len, rows))
    ids = torch.full((len(rows), n), PAD)
    mask = torch.zeros(len(rows), n, dtype=torch.long)
    for k, row in enumerate(rows):
        ids[k, : len(row)] = torch.tensor(row)
        mask[k, : len(row)] = 1
    return {"input_ids": ids, "attention_mask": mask}


def collate(rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
    """Return a batch of a Trainer: the tokens, the labels, and which texts they are."""
    return {
        **tokens_of([row["input_ids"] for row in rows]),
        "labels": torch.tensor([row["labels"] for row in rows]),
        "index": torch.tensor([row["index"] for row in rows]),
    }


def held_out(texts: Texts, count: int, seed: int) -> tuple[Texts, Texts]:
    """Return texts to train with, and at most `count` whole ones that these know nothing of.

    A data set may hold a sentence and its phrases. A text is whole if no other contains it, and
    what shares a run of RUN words with a held-out text is in neither part.
    """
    runs = [_runs(f"{a} {b}") for a, b in zip(texts.first, texts.second, strict=True)]
    having: dict[tuple[str, ...], list[int]] = {}
    for k, found in enumerate(runs):
        for run in found:
            having.setdefault(run, []).append(k)

    def whole(k: int) -> bool:
        rarest = min((having[run] for run in runs[k]), key=len, default=[])
        return bool(rarest) and all(k == o or not runs[k] <= runs[o] for o in rarest)

    order = np.random.default_rng(seed).permutation(len(texts)).tolist()
    chosen = list(itertools.islice((k for k in order if whole(k)), count))
    known = {run for k in chosen for run in runs[k]}
    kept = [k for k in range(len(texts)) if not known & runs[k]]
    return texts.chosen(sorted(set(kept) - set(chosen))), texts.chosen(chosen)


RUN = 4
"""Words in a row that tell that two texts come from one sentence."""


def _runs(text: str) -> frozenset[tuple[str, ...]]:
    words = text.split()
    return frozenset(zip(*(words[k:] for k in range(RUN)), strict=False))


def _cut(ids: Sequence[int], length: int) -> Sequence[int]:
    """Return at most `length` tokens; the last stays the last."""
    return ids if len(ids) <= length else (*ids[: length - 1], ids[-1])
