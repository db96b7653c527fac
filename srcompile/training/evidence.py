"""What held-out texts say of a pool, and the router's last layer, which is fitted to them.

A model is right about nearly every text that it learned from, so a router that knows models from
these does not know where they err. Its last layer, u = W h + b for hidden units h, is therefore
fitted anew on texts that no model has seen, by ridge regression of whether each model is right.
Beside whole texts their parts count (`texts.Split`): they are many, and about them the models err
in the same way.

An operating point needs utilities of texts that the router has not seen either. They are
cross-fitted: a text gets them from a layer that was fitted without it and its parts.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import GroupKFold, cross_val_predict
from torch import Tensor, nn

from srcompile.errors import UserError
from srcompile.training.architecture import Classifier
from srcompile.training.fit import predict
from srcompile.training.router import Router
from srcompile.training.texts import Split, Texts

Array = np.ndarray[Any, Any]

FOLDS = 5
PART = 0.3
"""What a part of a text weighs, where a whole one weighs 1."""
STRENGTHS = np.logspace(-2, 4, 13)
"""Of ridge regression; the best for texts left out one by one is taken."""


@dataclass(frozen=True)
class Evidence:
    """What is known of N held-out texts, parts of texts among them.

    utilities: cross-fitted, (N, M); right: whether each model is right, (N, M); weights: 1 for a
    whole text, PART for a part, (N,); groups: the number of the whole text that it is or is a part
    of, (N,). Whole texts come first.
    """

    utilities: Array
    right: Array
    weights: Array
    groups: Array

    def save(self, path: Path) -> None:
        """Write it, as arrays."""
        np.savez(path, **vars(self))

    @staticmethod
    def load(path: Path) -> Evidence:
        """Read it. Raises UserError if there is none."""
        try:
            with np.load(path) as found:
                return Evidence(**{name: found[name] for name in Evidence.__annotations__})
        except (OSError, KeyError, ValueError) as error:
            raise UserError(
                f"{path} holds no evidence of a pool ({type(error).__name__}); "
                "srtrain router writes it"
            ) from None


class _Hidden(nn.Module):
    """A router without its last layer: ids and mask (B, n) to hidden units (B, h)."""

    def __init__(self, router: Router) -> None:
        super().__init__()
        self.router = router

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        pooled, _ = self.router.trunk(self.router.table(input_ids), attention_mask)
        return self.router.hidden(pooled)


def fit_last_layer(router: Router, models: list[Classifier], split: Split) -> Evidence:
    """Fit the last layer of `router` to held-out texts; return what they say.

    Of a model that is right about all of them, or about none, they say nothing: its utilities stay
    as they are but for their mean.
    """
    parts = [texts for texts in (split.unseen, split.near) if len(texts)]
    hidden = np.concatenate([predict(_Hidden(router), texts) for texts in parts])
    right = np.concatenate([rights_of(models, texts) for texts in parts])
    weights = np.repeat([1.0, PART], [len(split.unseen), len(split.near)])
    groups = np.array([*range(len(split.unseen)), *split.of])
    columns = [_fitted(router, m, hidden, right[:, m], weights, groups) for m in range(len(models))]
    return Evidence(np.stack(columns, 1), right, weights, groups)


def _fitted(
    router: Router, m: int, hidden: Array, right: Array, weights: Array, groups: Array
) -> Array:
    """Fit the row of model m, in place; return cross-fitted utilities of the texts, (N,)."""
    y, given = right.astype(np.float64), {"sample_weight": weights}
    row, bias = router.out.weight[m], router.out.bias[m : m + 1]
    with torch.no_grad():
        if right.all() or not right.any():
            bias.fill_(y[0] - np.average(hidden @ row.numpy(), weights=weights))
            return np.asarray(hidden @ row.numpy() + bias.numpy())
        fitted = RidgeCV(STRENGTHS).fit(hidden, y, **given)
        row.copy_(torch.from_numpy(fitted.coef_))
        bias.fill_(fitted.intercept_)
    folds = GroupKFold(min(FOLDS, len(set(groups.tolist()))))
    model = RidgeCV(STRENGTHS)
    return np.asarray(cross_val_predict(model, hidden, y, groups=groups, cv=folds, params=given))


def rights_of(models: list[Classifier], texts: Texts) -> Array:
    """Return whether each model is right about each text, (N, M)."""
    labels = np.array(texts.labels, np.int64)[:, None]
    return np.asarray(labels_of(models, texts) == labels)


def labels_of(models: list[Classifier], texts: Texts) -> Array:
    """Return the label that each model gives each text, (N, M)."""
    return np.stack([predict(model, texts).argmax(1) for model in models], 1)
