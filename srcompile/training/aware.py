"""Training that is aware of quantisation: the loss sees what the compiled program says.

The program of a model, with its formats, tables and approximations, is run on each text x by the
interpreter of the fixed level: what a secure run computes, up to rounding in the last place.
With f the model and F its program, a step differentiates the loss at

    f(x) + stop(F(x) - f(x))

that is at F(x), with the gradient of f: straight-through [BLC13], exactly for every format and
table at once. F is compiled anew in each round, with the weights as they are stored; within a round
F(x) - f(x) is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from srcompile.api import Compiled, compile
from srcompile.ops import registry
from srcompile.ops.interpreter import evaluate
from srcompile.passes.quantise import Formats
from srcompile.training.architecture import Classifier
from srcompile.training.fit import Loss, Settings, fit, predict
from srcompile.training.store import rounded_
from srcompile.training.texts import Texts, Tokens

Array = np.ndarray[Any, Any]


AWARE_SETTINGS = Settings(batch=32, rate=2e-5, bfloat16=False)
FORMATS = Formats()


@dataclass(frozen=True)
class Aware:
    """How a model learns with its program.

    rounds: compilations; texts: how many are learned from in each round, once.
    formats: those that the program will be compiled with.
    """

    rounds: int = 1
    texts: int = 256
    settings: Settings = AWARE_SETTINGS
    formats: Formats = FORMATS


OfLogits = Callable[[Tensor, Mapping[str, Tensor]], Tensor]
"""A loss of logits, (B, classes), and a batch."""


def said_by_program(compiled: Compiled, texts: Texts, length: int) -> Array:
    """Return the logits of a program for each text, (N, classes), by the interpreter.

    They are those of a secure run, up to what rounding decides in the last place.
    """
    rows = []
    for k in range(len(texts)):
        given = {name: tensor.numpy() for name, tensor in texts.padded(k, length).items()}
        outputs, _ = evaluate(compiled.stages.fixed, given, registry())
        rows.append(outputs["logits"].reshape(-1))
    return np.array(rows, np.float32)


class AsCompiled(nn.Module):
    """A model that says what its program says, and learns as itself.

    gaps: F(x) - f(x), (N, classes), by the `index` that a batch carries.
    """

    def __init__(self, model: Classifier, gaps: Array) -> None:
        super().__init__()
        self.model = model
        self.gaps = torch.from_numpy(gaps)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, index: Tensor) -> Tensor:
        logits: Tensor = self.model(input_ids, attention_mask)["logits"]
        return logits + self.gaps[index]


def compiled_of(model: Classifier, samples: Sequence[Tokens], formats: Formats) -> Compiled:
    """Return the program of a model."""
    return compile(model, samples[0], calibration_inputs=samples, formats=formats)


def train_aware(
    model: Classifier,
    texts: Texts,
    loss: OfLogits,
    samples: Sequence[Tokens],
    length: int,
    aware: Aware,
    folder: Path,
    quiet: bool = False,
) -> None:
    """Train a model with its program; at the end it is rounded to what is stored.

    loss: of logits and a batch, whose `index` counts the texts of `texts`.
    """
    draws = np.random.default_rng(aware.settings.seed)
    for number in range(aware.rounds):
        rounded_(model)
        order = draws.permutation(len(texts))[: aware.texts].tolist()
        shown = texts.chosen(order)
        compiled = compiled_of(model, samples, aware.formats)
        gaps = said_by_program(compiled, shown, length) - predict(model, shown)
        places = torch.tensor(order)
        learner = AsCompiled(model, gaps)
        fit(
            learner, shown, _with_program(loss, places), aware.settings, folder / str(number), quiet
        )
    rounded_(model)


def _with_program(loss: OfLogits, places: Tensor) -> Loss:
    def found(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        said = model(batch["input_ids"], batch["attention_mask"], batch["index"])
        return loss(said, {**batch, "index": places[batch["index"]]})

    return found
