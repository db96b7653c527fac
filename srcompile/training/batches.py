"""Batches of texts alike in length: next to nothing is padding, and short texts cost little.

A batch is what a step learns from. It has at most so many texts and at most so many tokens, so that
phrases come in large batches and sentences in small ones, and steps take about the same time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from torch.utils.data import Sampler

Array = np.ndarray[Any, Any]


class Batches(Sampler[list[int]]):
    """The batches of a whole run, each the places of its texts, one epoch behind the other.

    lengths: tokens of each text. texts, tokens: the most of a batch, padding counted; a longer text
    is a batch of its own. In each epoch texts of one length are shuffled, and so are the batches.
    All follows from the seed: a run that goes on skips what it has seen.
    """

    def __init__(
        self, lengths: Sequence[int], texts: int, tokens: int, epochs: float, seed: int
    ) -> None:
        self.lengths = np.asarray(lengths)
        self.cuts = _cuts(np.sort(self.lengths), texts, tokens)
        self.steps = math.ceil(epochs * (len(self.cuts) + 1))
        self.seed = seed

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[list[int]]:
        draws = np.random.default_rng(self.seed)
        left = self.steps
        while left > 0:
            order = np.lexsort((draws.permutation(len(self.lengths)), self.lengths))
            batches = np.split(order, self.cuts)
            for k in draws.permutation(len(batches))[:left]:
                yield batches[k].tolist()
            left -= len(batches)


def alike(lengths: Sequence[int], texts: int = 256, tokens: int = 2048) -> list[list[int]]:
    """Return places of texts in batches, by length: for what learns nothing."""
    order = np.argsort(np.asarray(lengths), kind="stable")
    cuts = _cuts(np.asarray(lengths)[order], texts, tokens)
    return [batch.tolist() for batch in np.split(order, cuts)]


def _cuts(lengths: Array, texts: int, tokens: int) -> list[int]:
    """Return where batches begin but the first, of texts sorted by length."""
    cuts, start = [], 0
    for k, length in enumerate(lengths.tolist()):
        if k > start and (k - start == texts or (k - start + 1) * length > tokens):
            cuts.append(k)
            start = k
    return cuts
