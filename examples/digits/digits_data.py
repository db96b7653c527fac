"""The handwritten digits that scikit-learn ships, in one fixed train, validation and test split.

1797 grey images of 8x8 pixels, values 0..16 scaled to 0..1 [Optical Recognition of Handwritten
Digits, UCI]. The split is stratified by label and the same on every machine: 360 test images,
240 validation images, 1197 for training. The name is unique, not `data`, because a model file
imports this module by name with its own folder on sys.path.
"""

from functools import cache

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor

Split = tuple[Tensor, Tensor]  # images float32 (N, 1, 8, 8), labels int64 (N,)

SPLIT_SEED = 2604
TEST_IMAGES = 360
VALIDATION_IMAGES = 240


def train() -> Split:
    """Return the 1197 images and labels that models and router are fitted on."""
    return _splits()["train"]


def validation() -> Split:
    """Return the 240 images and labels that choices, such as the cost weight, are made on."""
    return _splits()["validation"]


def test() -> Split:
    """Return the 360 images and labels that nothing is fitted or chosen on."""
    return _splits()["test"]


test.__test__ = False  # type: ignore[attr-defined]  # a split, not a case for pytest to collect


@cache
def _splits() -> dict[str, Split]:
    digits = load_digits()
    images = torch.tensor(digits.images / 16.0, dtype=torch.float32).unsqueeze(1)  # (1797, 1, 8, 8)
    labels = torch.tensor(digits.target, dtype=torch.int64)

    rest, test_part = _cut(torch.arange(len(labels)), labels, TEST_IMAGES)
    train_part, validation_part = _cut(rest, labels, VALIDATION_IMAGES)
    parts = {"train": train_part, "validation": validation_part, "test": test_part}
    return {name: (images[part], labels[part]) for name, part in parts.items()}


def _cut(indices: Tensor, labels: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Return `indices` without, and then only, `size` of them drawn in proportion to the labels."""
    kept, drawn = train_test_split(
        indices.numpy(),
        test_size=size,
        stratify=labels[indices].numpy(),
        random_state=SPLIT_SEED,
    )
    return torch.from_numpy(kept).sort().values, torch.from_numpy(drawn).sort().values
