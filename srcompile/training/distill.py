"""Distillation: what the largest model says of the training texts, once, and losses to match it.

A student learns from the largest model's logits, from the labels, and from its hidden states: the
mean over a text's tokens behind each layer. Layer i of l is matched to layer (i + 1) * L / l of L;
a linear layer, which is thrown away, leads from its width to the largest model's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from srcompile.training.architecture import Classifier
from srcompile.training.batches import alike
from srcompile.training.fit import Loss
from srcompile.training.texts import Texts, collate

SOFTNESS = 2.0
"""The temperature at which logits are compared  [HVD15]."""
LABELS = 0.3
"""The weight of the labels, where that of the logits is 1."""
HIDDEN = 1.0
"""The weight of the hidden states."""


@dataclass(frozen=True)
class Targets:
    """What the largest model says of N texts: logits (N, classes), hidden means (N, L, k)."""

    logits: np.ndarray[Any, Any]
    hidden: np.ndarray[Any, Any]


def targets_of(model: Classifier, texts: Texts) -> Targets:
    """Return what `model` says of the texts.

    Products are of bfloat16, which is enough to learn from.
    """
    model.eval()
    layers = model.student.layers
    logits = np.zeros((len(texts), model.head.out_features), np.float32)
    hidden = np.zeros((len(texts), layers, model.student.width), np.float16)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        for places in alike(texts.lengths):
            given = collate([texts[k] for k in places])
            mask = given["attention_mask"]
            pooled, states = model.trunk(model.table(given["input_ids"]), mask)
            logits[places] = model.head(pooled).float().numpy()
            hidden[places] = torch.stack([_mean(h, mask) for h in states], 1).half().numpy()
    return Targets(logits, hidden)


def saved_targets(path: Path, model: Classifier, texts: Texts) -> Targets:
    """Return the targets in a file, which is made first unless it is there."""
    if not path.exists():
        made = targets_of(model, texts)
        partial = path.with_suffix(".partial.npz")
        np.savez(partial, logits=made.logits, hidden=made.hidden)
        partial.rename(path)
    with np.load(path) as found:
        return Targets(found["logits"], found["hidden"])


class Learner(nn.Module):
    """A student in training, with the layers that lead to the largest model's width."""

    def __init__(self, student: Classifier, width: int) -> None:
        super().__init__()
        self.student = student
        k = student.student.width
        states = student.student.layers if student.student.kind == "attention" else 1
        self.lead = nn.ModuleList(nn.Linear(k, width) for _ in range(states))
        for layer in self.lead:
            if isinstance(layer, nn.Linear) and k == width:
                nn.init.eye_(layer.weight)
                nn.init.zeros_(layer.bias)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Any]:
        inner = self.student
        pooled, states = inner.trunk(inner.table(input_ids), attention_mask)
        last = len(states) - 1
        means = [_mean(h, attention_mask) if i < last else pooled for i, h in enumerate(states)]
        led = [lead(h) for lead, h in zip(self.lead, means, strict=True)]
        return {"logits": inner.head(pooled), "hidden": torch.stack(led, 1)}


def matching(targets: Targets) -> Callable[[Tensor, Mapping[str, Tensor]], Tensor]:
    """Return the loss of logits on a batch: against the largest model's, and the labels."""
    wanted = F.softmax(torch.from_numpy(targets.logits) / SOFTNESS, -1)

    def loss(said: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        soft = F.cross_entropy(said / SOFTNESS, wanted[batch["index"]]) * SOFTNESS**2
        return soft + LABELS * F.cross_entropy(said, batch["labels"])

    return loss


def distillation(targets: Targets) -> Loss:
    """Return the loss of a Learner on a batch."""
    of_logits, hidden = matching(targets), torch.from_numpy(targets.hidden)

    def loss(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        found = model(batch["input_ids"], batch["attention_mask"])
        said, states = found["logits"].float(), found["hidden"].float()
        layers, count = hidden.shape[1], states.shape[1]
        matched = [(i + 1) * layers // count - 1 for i in range(count)]
        gap = F.mse_loss(states, hidden[batch["index"]][:, matched].float())
        return of_logits(said, batch) + HIDDEN * gap

    return loss


def of_labels(said: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
    """Return the loss of logits on a batch: cross entropy with the labels."""
    return F.cross_entropy(said.float(), batch["labels"])


def from_labels(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """Return the loss of a model that learns from labels, the largest one."""
    return of_labels(model(batch["input_ids"], batch["attention_mask"])["logits"], batch)


def _mean(x: Tensor, mask: Tensor) -> Tensor:
    """Return the mean over the tokens that count, (B, k); of one row, that row."""
    if x.shape[1] == 1:
        return x[:, 0]
    counts = mask.unsqueeze(-1).to(x.dtype)
    return (x * counts).sum(1) / counts.sum(1).clamp(min=1)
