"""Trains the digit classifiers and their router, saves weights.npz and prints what they achieve.

    python examples/digits/train.py

The router learns, for each image x and model m, the probability q_m(x) that m is right. Whether a
model is right about images it was fitted on says little, so q comes from cross-fitting: for each
quarter of the training images, models fitted in the same way on the other three quarters. Lambda is
chosen on the validation images. The test images are only reported on.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import digits_data
import model
import numpy as np
import torch
from digits_networks import MLP, LargeCNN, Router, SmallCNN
from torch import Tensor, nn
from torch.nn import functional

SEED = 8
FOLDS = 4
BATCH = 64
LEARNING_RATE = 1e-2
WEIGHT_DECAY = 1e-3

ROUTER_EPOCHS = 200
ROUTER_BATCH = 256
ROUTER_WEIGHT_DECAY = 1e-2
VARIED_COPIES = 6  # per held-out image: few true ones are ever misread, varied ones often are
TRUE_IMAGE_WEIGHT = 3.0  # of a true image in the router's loss, where a varied one weighs 1

# What the report assumes; the compiler puts its own estimate for target and network in their place.
COSTS = torch.tensor([0.15, 0.4, 1.0])  # cost_m, the dearest = 1
COST_WEIGHTS = (0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1, 0.15, 0.2, 0.3)


@dataclass(frozen=True)
class Recipe:
    """How one model of the pool is made: epochs of AdamW, on varied images or only on true ones."""

    name: str
    make: Callable[[], nn.Module]
    epochs: int
    varied: bool


POOL = (
    Recipe("mlp", MLP, epochs=40, varied=False),
    Recipe("small_cnn", SmallCNN, epochs=30, varied=True),
    Recipe("large_cnn", LargeCNN, epochs=25, varied=True),
)


def main() -> None:
    """Train, save, load back what was saved, and report."""
    torch.set_num_threads(1)  # as fast as two on networks so small, and the same everywhere
    torch.use_deterministic_algorithms(True)
    start = time.perf_counter()
    images, labels = digits_data.train()

    trained = {recipe.name: fit_model(recipe, images, labels) for recipe in POOL}
    trained["router"] = fit_router(*held_out_correctness(images, labels))
    save(trained)
    print(f"trained in {time.perf_counter() - start:.0f} s, {model.WEIGHTS.stat().st_size} bytes")

    validation, test = digits_data.validation(), digits_data.test()
    for name, (images, labels) in (("validation", validation), ("test", test)):
        print(f"\n{name}: {len(labels)} images")
        report_models(images, labels)
        report_pool(images, labels, COST_WEIGHTS if name == "validation" else (model.COST_WEIGHT,))


def fit_model(recipe: Recipe, images: Tensor, labels: Tensor) -> nn.Module:
    """Return the recipe's network fitted on the images by cross entropy, in evaluation mode."""
    torch.manual_seed(SEED)
    draws = torch.Generator().manual_seed(SEED)
    network = recipe.make().train()
    batches = [batch for _ in range(recipe.epochs) for batch in _epoch(len(images), BATCH, draws)]
    step = _stepper(network, len(batches), WEIGHT_DECAY)
    for batch in batches:
        shown = vary(images[batch], draws) if recipe.varied else images[batch]
        step(functional.cross_entropy(network(shown), labels[batch]))
    return network.eval()


def held_out_correctness(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return images, the targets q (N, 3) of the router on them, and their weights (N, 1).

    Each image comes as it is and in `VARIED_COPIES` variations. q_m is the mean of "m is right",
    0 or 1, and of the probability that m gives to the true label, m not having seen the image.
    """
    draws = torch.Generator().manual_seed(SEED)
    shown, targets, weights = [], [], []
    fold_of = torch.arange(len(images)) % FOLDS
    for fold in range(FOLDS):
        held_out = fold_of == fold
        true_images = images[held_out]
        views = [true_images] + [vary(true_images, draws) for _ in range(VARIED_COPIES)]
        view_labels = labels[held_out].repeat(len(views))
        seen, seen_labels = images[~held_out], labels[~held_out]
        networks = [fit_model(recipe, seen, seen_labels) for recipe in POOL]

        shown.append(torch.cat(views))
        targets.append(torch.stack([_q(n, shown[-1], view_labels) for n in networks], dim=1))
        weight = torch.ones(len(view_labels), 1)
        weight[: len(true_images)] = TRUE_IMAGE_WEIGHT
        weights.append(weight)
    return torch.cat(shown), torch.cat(targets), torch.cat(weights)


def fit_router(images: Tensor, targets: Tensor, weights: Tensor) -> nn.Module:
    """Return a router fitted on the targets by squared error, in evaluation mode.

    Squared error, because its minimum is the expected target itself: raw outputs then lie on the
    scale of probabilities, where lambda * cost is subtracted.
    """
    torch.manual_seed(SEED)
    draws = torch.Generator().manual_seed(SEED)
    router = Router().train()
    batches = [b for _ in range(ROUTER_EPOCHS) for b in _epoch(len(images), ROUTER_BATCH, draws)]
    step = _stepper(router, len(batches), ROUTER_WEIGHT_DECAY)
    for batch in batches:
        noise = 0.03 * torch.randn(images[batch].shape, generator=draws)
        error = (router(images[batch] + noise) - targets[batch]).square()
        step((weights[batch] * error).mean())
    fitted: nn.Module = router.eval()
    return fitted


def vary(images: Tensor, draws: torch.Generator) -> Tensor:
    """Return the images turned by up to 0.15 rad, moved by up to half a pixel in 4, and noisy."""
    n = len(images)
    angle = (torch.rand(n, generator=draws) * 2 - 1) * 0.15
    shift = (torch.rand(n, 2, generator=draws) * 2 - 1) * 0.125  # of half the image's side
    cos, sin = angle.cos(), angle.sin()
    rows = (
        torch.stack([cos, -sin, shift[:, 0]], dim=1),
        torch.stack([sin, cos, shift[:, 1]], dim=1),
    )
    grid = functional.affine_grid(torch.stack(rows, dim=1), list(images.shape), align_corners=False)
    moved = functional.grid_sample(images, grid, align_corners=False)
    return (moved + 0.05 * torch.randn(moved.shape, generator=draws)).clamp(0, 1)


def save(networks: dict[str, nn.Module]) -> None:
    """Write the networks' parameters and batch-norm statistics to the file model.py reads."""
    arrays = {
        f"{name}.{key}": value.numpy()
        for name, network in networks.items()
        for key, value in network.state_dict().items()
    }
    np.savez_compressed(model.WEIGHTS, allow_pickle=False, **arrays)


@torch.no_grad()
def report_models(images: Tensor, labels: Tensor) -> None:
    """Print accuracy of each saved model and the closest call among its predictions."""
    for name, logits in _logits(images).items():
        accuracy = (logits.argmax(1) == labels).float().mean()
        print(f"  {name:10} {accuracy:.4f}   least top-2 logit gap {_least_gap(logits):.5f}")


@torch.no_grad()
def report_pool(images: Tensor, labels: Tensor, cost_weights: tuple[float, ...]) -> None:
    """Print, for each lambda, what the routed pool achieves and where it sends the images.

    `random` is the accuracy of sending images to the same models equally often, but blindly.
    """
    right = torch.stack([z.argmax(1) == labels for z in _logits(images).values()], 1).float()
    utilities = model.router()(images)
    print(f"  at least one model right {right.amax(1).mean():.4f}")
    print("  lambda  accuracy  random    cost  shares of the models  least top-2 score gap")
    for cost_weight in cost_weights:
        scores = utilities - cost_weight * COSTS
        route = scores.argmax(1)
        share = functional.one_hot(route, len(COSTS)).float().mean(0)
        accuracy = right.gather(1, route[:, None]).mean()
        shares = " ".join(f"{s:.3f}" for s in share.tolist())
        print(
            f"  {cost_weight:6.3f}  {accuracy:8.4f}  {share @ right.mean(0):.4f}"
            f"  {share @ COSTS:6.3f}  {shares:20}  {_least_gap(scores):.5f}"
        )


def _logits(images: Tensor) -> dict[str, Tensor]:
    """Return the logits of each saved model, in the order of the router's utilities."""
    networks: dict[str, nn.Module] = {
        "mlp": model.mlp(),
        "small_cnn": model.small_cnn(),
        "large_cnn": model.large_cnn(),
    }
    return {name: network(images) for name, network in networks.items()}


def _least_gap(scores: Tensor) -> float:
    first, second = scores.topk(2, dim=1).values.unbind(1)
    return float((first - second).min())


@torch.no_grad()
def _q(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Return the mean of "the network is right" and its confidence in the true label, (N,)."""
    logits: Tensor = network(images)
    right = (logits.argmax(1) == labels).float()
    confidence = logits.softmax(1).gather(1, labels[:, None])[:, 0]
    return (right + confidence) / 2


def _epoch(n: int, batch: int, draws: torch.Generator) -> list[Tensor]:
    """Return the indices 0..n-1 in random order, in batches."""
    order = torch.randperm(n, generator=draws)
    return [order[start : start + batch] for start in range(0, n, batch)]


def _stepper(network: nn.Module, steps: int, weight_decay: float) -> Callable[[Tensor], None]:
    """Return a function that makes one of `steps` AdamW steps down the gradient of a loss."""
    optimizer = torch.optim.AdamW(network.parameters(), LEARNING_RATE, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)

    def step(loss: Tensor) -> None:
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()

    return step


if __name__ == "__main__":
    main()
