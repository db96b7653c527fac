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
    many = texts.chosen([*range(len(texts))] * copies)
    if not len(many):
        return many
    draws = np.random.default_rng(seed)
    flat = np.concatenate([np.array(row) for row in many.ids])  # of all texts, (T,)
    swap = (draws.random(len(flat)) < SHARE) & ~np.isin(flat, minilm.tokenizer().all_special_ids)
    tokens, place = np.unique(flat, return_inverse=True)
    chosen = draws.integers(0, NEAR, len(flat))
    flat[swap] = _near(tokens)[place[swap], chosen[swap]]
    ends = np.cumsum(many.lengths)[:-1]
    return replace(many, ids=tuple(tuple(row.tolist()) for row in np.split(flat, ends)))


def _near(tokens: Array) -> Array:
    """Return for each of T tokens those with the most similar rows, (T, NEAR)."""
    rows = F.normalize(minilm.table().weight.detach(), dim=1)
    found = [
        (rows[some] @ rows.T).topk(NEAR + 1, dim=1).indices[:, 1:]
        for some in torch.split(torch.from_numpy(tokens), 1024)
    ]
    return torch.cat(found).numpy()
