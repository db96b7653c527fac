"""A training run: what it logs, and that it goes on where it was cut off."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from srcompile.training import minilm
from srcompile.training.architecture import Classifier, Student
from srcompile.training.distill import from_labels
from srcompile.training.fit import Settings, fit
from srcompile.training.texts import Texts, of_texts
from tests.training import made

SETTINGS = Settings(epochs=2, batch=8, rate=1e-3, checkpoint=4, bfloat16=False)


class CutOffError(Exception):
    pass


def texts() -> Texts:
    rows = made.rows(64, 0)
    return of_texts([t for _, t in rows], [""] * 64, [label for label, _ in rows], 16)


def model() -> Classifier:
    torch.manual_seed(2)
    return minilm.started(Student(kind="convolution", layers=1, width=16), 2)


def test_a_run_that_was_cut_off_ends_as_one_that_was_not(tmp_path: Path) -> None:
    whole, cut = model(), model()
    fit(whole, texts(), from_labels, SETTINGS, tmp_path / "whole", quiet=True)
    steps = 0

    def failing(module: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        nonlocal steps
        steps += 1
        if steps == 11:
            raise CutOffError
        return from_labels(module, batch)

    with pytest.raises(CutOffError):
        fit(cut, texts(), failing, SETTINGS, tmp_path / "cut", quiet=True)
    again = model()
    fit(again, texts(), from_labels, SETTINGS, tmp_path / "cut", quiet=True)

    for name, weight in whole.named_parameters():
        torch.testing.assert_close(again.get_parameter(name), weight, msg=name)


def test_a_run_logs_its_epochs_and_how_many_tokens_a_second_it_saw(tmp_path: Path) -> None:
    fit(model(), texts(), from_labels, replace(SETTINGS, epochs=3), tmp_path, quiet=True)
    log = pd.read_json(tmp_path / "log.jsonl", lines=True)
    assert log.iloc[-1]["epoch"] == pytest.approx(3)
    assert log.iloc[-1]["num_input_tokens_seen"] >= 3 * sum(texts().lengths)
    assert (log["train_tokens_per_second"].dropna() > 0).any()
