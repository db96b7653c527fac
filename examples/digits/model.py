"""The file given to the compiler: `model()` is a pool of three digit classifiers and their router.

    srcompile examples/digits/model.py

`mlp()`, `small_cnn()`, `large_cnn()` and `router()` are its parts, each a module of its own in
evaluation mode. The weights are those that train.py wrote beside this file.
"""

from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import digits_data
import numpy as np
import torch
from digits_networks import MLP, LargeCNN, Router, SmallCNN
from torch import Tensor, nn

if TYPE_CHECKING:
    import srcompile

WEIGHTS = Path(__file__).with_name("weights.npz")

# lambda in  utility_m - lambda * cost_m,  the dearest model costing 1. The largest of those with
# the best accuracy in the table that train.py prints for the validation images.
COST_WEIGHT = 0.08

CALIBRATION_IMAGES = 128

M = TypeVar("M", bound=nn.Module)


def model() -> "srcompile.Pool":
    """Return the routed pool: each image goes to the model that is worth its cost."""
    import srcompile

    return srcompile.Pool(
        models={"mlp": mlp(), "small_cnn": small_cnn(), "large_cnn": large_cnn()},
        router=router(),
        cost_weight=COST_WEIGHT,
    )


def mlp() -> MLP:
    """Return the trained MLP: images (N, 1, 8, 8) to logits (N, 10)."""
    return _trained(MLP(), "mlp")


def small_cnn() -> SmallCNN:
    """Return the trained SmallCNN: images (N, 1, 8, 8) to logits (N, 10)."""
    return _trained(SmallCNN(), "small_cnn")


def large_cnn() -> LargeCNN:
    """Return the trained LargeCNN: images (N, 1, 8, 8) to logits (N, 10)."""
    return _trained(LargeCNN(), "large_cnn")


def router() -> Router:
    """Return the trained router: images (N, 1, 8, 8) to utilities (N, 3)."""
    return _trained(Router(), "router")


def example_inputs() -> tuple[Tensor]:
    """Return one training image, shape (1, 1, 8, 8)."""
    return calibration_inputs()[0]


def calibration_inputs() -> list[tuple[Tensor]]:
    """Return 128 training images, each of shape (1, 1, 8, 8), spread over the training split."""
    images, _ = digits_data.train()
    chosen = torch.linspace(0, len(images) - 1, CALIBRATION_IMAGES).long()
    return [(images[i : i + 1],) for i in chosen.tolist()]


def _trained(network: M, name: str) -> M:
    """Return `network` with the weights saved as `name`, in evaluation mode.

    Raises FileNotFoundError when the weights are missing: run train.py.
    """
    prefix = f"{name}."
    with np.load(WEIGHTS) as saved:
        state = {
            key.removeprefix(prefix): torch.from_numpy(saved[key])
            for key in saved.files
            if key.startswith(prefix)
        }
    network.load_state_dict(state)
    return network.eval()
