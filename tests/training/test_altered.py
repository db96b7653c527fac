"""Altered copies of texts."""

from __future__ import annotations

import numpy as np

from srcompile.training.altered import SHARE, altered
from srcompile.training.texts import of_texts
from tests.training import made


def test_a_copy_has_some_other_tokens_and_all_else_of_its_text() -> None:
    rows = made.rows(60, 0)
    texts = of_texts([t for _, t in rows], [""] * 60, [label for label, _ in rows], 32)

    copies = altered(texts, 2, seed=0)

    assert len(copies) == 120
    assert copies.labels == texts.labels * 2
    assert copies.lengths == texts.lengths * 2
    assert altered(texts, 2, seed=0) == copies
    assert copies.ids[:60] != copies.ids[60:]
    have, want = (np.concatenate(ids) for ids in (copies.ids, texts.ids * 2))
    special = np.isin(want, [texts.ids[0][0], texts.ids[0][-1]])
    assert (have[special] == want[special]).all()
    changed = (have != want)[~special].mean()
    assert abs(changed - SHARE) < 0.05


def test_no_copies_are_none() -> None:
    texts = of_texts(["a film"], [""], [0], 32)
    assert len(altered(texts, 0, seed=0)) == 0
