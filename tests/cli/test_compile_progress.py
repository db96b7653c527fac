"""What a user sees of a compilation while it runs."""

from __future__ import annotations

import io

import pytest
import torch
from rich.console import Console
from torch import nn

from srcompile.api import compile
from srcompile.cli.compile_progress import described, shown
from srcompile.passes.progress import Progress
from srcompile.routing.pool import Pool

SAMPLES = [(torch.full((1, 2), float(k)),) for k in range(3)]


def layer() -> nn.Module:
    return nn.Linear(2, 2)


@pytest.mark.parametrize(
    "model", [layer(), Pool({"a": layer(), "b": layer()}, layer(), cost_weight=0.1)]
)
def test_steps_are_told_in_order_and_calibrations_sample_by_sample(model: nn.Module | Pool) -> None:
    told: list[Progress] = []

    compile(model, SAMPLES[0], calibration_inputs=SAMPLES, progress=told.append)

    begun = [p for p in told if not p.samples]
    assert [p.number for p in begun] == list(range(1, begun[0].count + 1))
    assert begun[0].name == "capture"
    assert {"calibrate", "quantise", "lower"} <= {p.name for p in begun}
    calibrated = [(p.number, p.done) for p in told if p.samples == len(SAMPLES)]
    numbers = [p.number for p in begun if p.name == "calibrate"]
    whole = [[(number, done) for done in (1, 2, 3)] for number in numbers]
    assert calibrated == [pair for one in whole if one[0] in calibrated for pair in one]
    assert {p.name for p in told if p.samples} == {"calibrate"}


def test_a_terminal_shows_the_step_and_the_samples_done() -> None:
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=100)

    with shown(console, "my[model].py") as listener:
        listener(Progress("calibrate", 2, 5, 12, 64))

    assert "calibrate, 12 of 64 samples" in text.getvalue()


def test_without_a_terminal_nothing_is_written() -> None:
    text = io.StringIO()
    with shown(Console(file=text), "model.py") as listener:
        listener(Progress("calibrate", 2, 5, 12, 64))
    assert text.getvalue() == ""


def test_a_step_without_samples_is_its_name() -> None:
    assert described(Progress("fuse_layers", 1, 5)) == "fuse layers"
