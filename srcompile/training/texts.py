"""Labelled texts: TSV files with the columns label, text_a and text_b, and how they are batched."""

from __future__ import annotations

import gzip
import itertools
import re
import zlib
from collections import Counter
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

_LABEL = re.compile(r"[0-9]{1,4}")


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

    @property
    def lengths(self) -> list[int]:
        """Tokens of each text."""
        return [len(ids) for ids in self.ids]

    def chosen(self, places: Sequence[int]) -> Texts:
        """Return the texts at `places`, in that order."""
        fields = (self.first, self.second, self.ids, self.labels)
        return Texts(*(tuple(f[k] for k in places) for f in fields))  # type: ignore[arg-type]

    def joined(self, other: Texts) -> Texts:
        """Return the texts, and the other ones behind them."""
        return Texts(
            self.first + other.first,
            self.second + other.second,
            self.ids + other.ids,
            self.labels + other.labels,
        )

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
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    if not lines or lines[0][:2] != ["label", "text_a"]:
        raise UserError(
            f"{path} does not begin with a header of the columns label, text_a, text_b, "
            "separated by tabs"
        )
    labels, first, second = [], [], []
    for number, row in enumerate(lines[1:], 2):
        if len(row) < 2 or not _LABEL.fullmatch(row[0]) or not row[1]:
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
    lengths = np.array([len(row) for row in rows])
    mask = np.arange(n) < lengths[:, None]
    ids = np.full(mask.shape, PAD)
    ids[mask] = np.fromiter(itertools.chain.from_iterable(rows), np.int64, int(lengths.sum()))
    return {
        "input_ids": torch.from_numpy(ids),
        "attention_mask": torch.from_numpy(mask.astype(np.int64)),
    }


def collate(rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
    """Return a batch of a Trainer: the tokens, the labels, and which texts they are."""
    return {
        **tokens_of([row["input_ids"] for row in rows]),
        "labels": torch.tensor([row["labels"] for row in rows]),
        "index": torch.tensor([row["index"] for row in rows]),
    }


@dataclass(frozen=True)
class Split:
    """Texts to train with, and whole ones that these know nothing of.

    known: to train with. unseen: whole texts, held out. near: parts of these, and others that share
    words with them, at least half as long; of: which of the unseen texts each is nearest to.
    """

    known: Texts
    unseen: Texts
    near: Texts
    of: tuple[int, ...]


def held_out(texts: Texts, count: int, seed: int, run_words: int = 4) -> Split:
    """Hold out at most `count` texts.

    A data set may hold a sentence and its phrases. A text is whole if no other contains it, and
    nothing that is trained with shares `run_words` words in a row with a text that is held out.
    """
    runs = [_runs(f"{a} {b}", run_words) for a, b in zip(texts.first, texts.second, strict=True)]
    having: dict[tuple[str, ...], list[int]] = {}
    for k, found in enumerate(runs):
        for run in found:
            having.setdefault(run, []).append(k)

    def whole(k: int) -> bool:
        rarest = min((having[run] for run in runs[k]), key=len, default=[])
        return bool(rarest) and all(k == o or not runs[k] <= runs[o] for o in rarest)

    order = np.random.default_rng(seed).permutation(len(texts)).tolist()
    chosen = list(itertools.islice((k for k in order if whole(k)), count))
    holding: dict[tuple[str, ...], list[int]] = {}
    for place, k in enumerate(chosen):
        for run in runs[k]:
            holding.setdefault(run, []).append(place)
    held = set(chosen)
    left = [k for k in range(len(texts)) if k not in held]
    kept = [k for k in left if not holding.keys() & runs[k]]
    long = np.mean([len(texts.ids[k]) for k in chosen]) / 2 if chosen else 0.0
    near = [k for k in left if holding.keys() & runs[k] and len(texts.ids[k]) >= long]
    shared = [Counter(o for run in runs[k] for o in holding.get(run, ())) for k in near]
    nearest = tuple(counts.most_common(1)[0][0] for counts in shared)
    return Split(texts.chosen(kept), texts.chosen(chosen), texts.chosen(near), nearest)


def _runs(text: str, count: int) -> frozenset[tuple[str, ...]]:
    words = text.split()
    return frozenset(zip(*(words[k:] for k in range(count)), strict=False))


def _cut(ids: Sequence[int], length: int) -> Sequence[int]:
    """Return at most `length` tokens; the last stays the last."""
    return ids if len(ids) <= length else (*ids[: length - 1], ids[-1])
