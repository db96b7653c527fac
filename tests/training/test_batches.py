"""Batches: whole, within their limits, alike in length, and those of the seed."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from srcompile.training.batches import Batches, alike

LENGTHS = np.random.default_rng(7).integers(3, 60, 500).tolist()


def test_each_epoch_has_every_text_once_in_another_order() -> None:
    batches = list(Batches(LENGTHS, texts=32, tokens=400, epochs=2, seed=0))
    half = len(batches) // 2
    for epoch in (batches[:half], batches[half:]):
        assert Counter(k for batch in epoch for k in batch) == Counter(range(500))
    assert batches[:half] != batches[half:]


def test_a_batch_keeps_its_limits_and_has_next_to_no_padding() -> None:
    padded = 0
    for batch in Batches(LENGTHS, texts=32, tokens=400, epochs=1, seed=0):
        longest = max(LENGTHS[k] for k in batch)
        assert len(batch) <= 32
        assert len(batch) * longest <= 400
        padded += len(batch) * longest
    assert padded < 1.15 * sum(LENGTHS)


def test_short_texts_come_in_larger_batches() -> None:
    batches = list(Batches(LENGTHS, texts=32, tokens=400, epochs=1, seed=0))
    sizes = {len(b): np.mean([LENGTHS[k] for k in b]) for b in batches}
    assert sizes[max(sizes)] < sizes[min(s for s in sizes if s > 1)]


def test_a_text_that_is_longer_than_a_batch_may_be_is_one_by_itself() -> None:
    assert list(Batches([9, 50, 8], texts=4, tokens=20, epochs=1, seed=3)) in (
        [[1], [0, 2]],
        [[1], [2, 0]],
        [[0, 2], [1]],
        [[2, 0], [1]],
    )


@pytest.mark.parametrize("epochs", [0.5, 1.0, 2.3])
def test_a_run_has_as_many_steps_as_it_says_and_follows_from_its_seed(epochs: float) -> None:
    first = Batches(LENGTHS, 32, 400, epochs, seed=1)
    again, other = (list(Batches(LENGTHS, 32, 400, epochs, seed)) for seed in (1, 2))
    assert len(list(first)) == len(first)
    assert list(first) == again
    assert again != other


def test_what_learns_nothing_is_batched_by_length() -> None:
    batches = alike(LENGTHS, texts=32, tokens=400)
    places = [k for batch in batches for k in batch]
    assert sorted(places) == list(range(500))
    assert [LENGTHS[k] for k in places] == sorted(LENGTHS)
