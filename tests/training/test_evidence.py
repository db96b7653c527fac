"""The router's last layer and the utilities of held-out texts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from srcompile.errors import UserError
from srcompile.training import minilm
from srcompile.training.architecture import Student
from srcompile.training.evidence import Evidence, fit_last_layer, labels_of, rights_of
from srcompile.training.router import Router
from srcompile.training.stages import utilities_of
from srcompile.training.texts import Split, Texts, of_texts
from tests.training import made

WHOLE = 60
STUDENTS = (
    Student(kind="convolution", layers=1, width=16),
    Student(kind="convolution", layers=1, width=24),
)


def split() -> Split:
    """Return held-out sentences, and of each the first half as its part."""
    rows = made.rows(WHOLE, 2)
    first, labels = [t for _, t in rows], [label for label, _ in rows]
    halves = [t.split(" , ")[0] for t in first]
    parts = of_texts(halves, [""] * WHOLE, labels, 16)
    unseen = of_texts(first, [""] * WHOLE, labels, 16)
    return Split(unseen.chosen([]), unseen, parts, tuple(range(WHOLE)))


def fitted(given: Split) -> tuple[Router, Evidence]:
    torch.manual_seed(4)
    models = [minilm.started(student, 2).eval() for student in STUDENTS]
    router = Router(minilm.table(), models[0].trunk, 8, 2).eval()
    return router, fit_last_layer(router, models, given)


def with_other_labels(texts: Texts, k: int) -> Texts:
    labels = list(texts.labels)
    labels[k] = 1 - labels[k]
    return replace(texts, labels=tuple(labels))


def test_utilities_are_on_average_how_often_each_model_is_right() -> None:
    given = split()
    router, found = fitted(given)
    said = np.concatenate([utilities_of(router, texts) for texts in (given.unseen, given.near)])
    want = np.average(found.right, axis=0, weights=found.weights)
    np.testing.assert_allclose(np.average(said, axis=0, weights=found.weights), want, atol=1e-3)


def test_a_texts_utilities_are_from_a_layer_that_knows_neither_it_nor_its_parts() -> None:
    given = split()
    _, before = fitted(given)
    k = 5
    changed = replace(
        given,
        unseen=with_other_labels(given.unseen, k),
        near=with_other_labels(given.near, k),
    )
    _, after = fitted(changed)
    own = [k, WHOLE + k]
    assert (before.right[own] != after.right[own]).all()
    others = np.setdiff1d(np.arange(2 * WHOLE), own)
    np.testing.assert_allclose(after.utilities[own], before.utilities[own])
    assert np.abs(after.utilities[others] - before.utilities[others]).max() > 1e-6


def test_of_a_model_that_is_always_right_only_the_mean_changes() -> None:
    given = split()
    torch.manual_seed(4)
    models = [minilm.started(student, 2).eval() for student in STUDENTS]
    parts = [
        replace(texts, labels=tuple(labels_of(models[1:], texts)[:, 0].tolist()))
        for texts in (given.unseen, given.near)
    ]
    router = Router(minilm.table(), models[0].trunk, 8, 2).eval()
    before = router.out.weight.detach().clone()

    found = fit_last_layer(router, models, replace(given, unseen=parts[0], near=parts[1]))

    assert found.right[:, 1].all()
    torch.testing.assert_close(router.out.weight[1], before[1])
    assert (router.out.weight[0] - before[0]).abs().max() > 1e-6
    assert np.average(found.utilities[:, 1], weights=found.weights) == pytest.approx(1, abs=1e-4)


def test_whole_texts_count_more_than_their_parts() -> None:
    _, found = fitted(split())
    assert found.weights.tolist() == [1.0] * WHOLE + [0.3] * WHOLE


def test_texts_without_parts_are_enough() -> None:
    given = split()
    _, found = fitted(replace(given, near=given.near.chosen([]), of=()))
    assert found.utilities.shape == found.right.shape == (WHOLE, 2)


def test_evidence_comes_back_from_its_file_and_a_missing_one_is_named(tmp_path: Path) -> None:
    _, found = fitted(split())
    found.save(tmp_path / "evidence.npz")
    back = Evidence.load(tmp_path / "evidence.npz")
    np.testing.assert_array_equal(back.utilities, found.utilities)
    np.testing.assert_array_equal(back.right, found.right)
    np.testing.assert_array_equal(back.groups, [*range(WHOLE)] * 2)
    with pytest.raises(UserError, match="srtrain router writes it"):
        Evidence.load(tmp_path / "none.npz")


def test_rights_are_those_of_each_model() -> None:
    torch.manual_seed(4)
    models = [minilm.started(student, 2).eval() for student in STUDENTS]
    texts = split().unseen
    found = rights_of(models, texts)
    other = rights_of(models, replace(texts, labels=tuple(1 - k for k in texts.labels)))
    assert found.shape == (WHOLE, 2)
    assert (found != other).all()
