"""Altered copies of texts: more for students to learn from, since the largest model answers them.

Some tokens are replaced by tokens near to them in the shared table, as in [JYS20]; which, is drawn.
An altered text may mean something else, so its label is what the largest model says of it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F  # noqa: N812

from srcompile.training import minilm
from srcompile.training.texts import Texts

Array = np.ndarray[Any, Any]

NEAR = 12
"""Tokens that may take the place of one."""
SHARE = 0.25
"""Of a text's tokens, how many are replaced on average."""


def altered(texts: Texts, copies: int, seed: int) -> Texts:
    """Return `copies` altered copies of each text, with the labels of the originals."""
    draws = np.random.default_rng(seed)
    near = _near(texts)
    kept = set(minilm.tokenizer().all_special_ids)
    ids = []
    for row in texts.ids * copies:
        given = np.array(row)
        swap = (draws.random(len(given)) < SHARE) & ~np.isin(given, list(kept))
        given[swap] = [draws.choice(near[token]) for token in given[swap].tolist()]
        ids.append(tuple(given.tolist()))
    many = texts.chosen([*range(len(texts))] * copies)
    return replace(many, ids=tuple(ids))


def _near(texts: Texts) -> dict[int, Array]:
    """Return for each token of the texts those with the most similar rows, NEAR of them."""
    rows = F.normalize(minilm.table().weight.detach(), dim=1)
    tokens = torch.tensor(sorted({token for row in texts.ids for token in row}))
    found: dict[int, Array] = {}
    for some in torch.split(tokens, 1024):
        best = (rows[some] @ rows.T).topk(NEAR + 1, dim=1).indices[:, 1:]
        found |= dict(zip(some.tolist(), best.numpy(), strict=True))
    return found
