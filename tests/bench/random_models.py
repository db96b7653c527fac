"""Random architectures, by seed: MLPs, CNNs, small transformers, and routers with their pools."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import srcompile


@dataclass(frozen=True)
class Drawn:
    """A model or pool that was drawn: its name, example inputs and calibration inputs."""

    name: str
    model: nn.Module | srcompile.Pool
    samples: tuple[tuple[Tensor], ...]


Draw = Callable[[torch.Generator], tuple[nn.Module | srcompile.Pool, tuple[int, ...]]]
SAMPLES = 16


def draw(seed: int) -> Drawn:
    """Return the architecture of a seed; kinds take turns."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)  # the weights
    kind = tuple(KINDS)[seed % len(KINDS)]
    model, shape = KINDS[kind](generator)
    if isinstance(model, nn.Module):
        model.eval()
    inputs = tuple((torch.randn(shape, generator=generator),) for _ in range(SAMPLES))
    return Drawn(f"{kind} {seed}", model, inputs)


def _one_of(generator: torch.Generator, *choices: int) -> int:
    return choices[int(torch.randint(len(choices), (1,), generator=generator))]


def _layers(generator: torch.Generator, width: int, outputs: int, depth: int) -> nn.Sequential:
    activations = (nn.ReLU, nn.GELU, nn.Sigmoid)
    layers: list[nn.Module] = []
    for _ in range(depth):
        following = _one_of(generator, 32, 64, 128, 256, 512)
        layers += [nn.Linear(width, following), activations[_one_of(generator, 0, 1, 2)]()]
        width = following
    return nn.Sequential(*layers, nn.Linear(width, outputs))


def _mlp(generator: torch.Generator) -> tuple[nn.Module, tuple[int, ...]]:
    inputs, rows = _one_of(generator, 16, 64, 256, 784), _one_of(generator, 1, 8, 64)
    return _layers(generator, inputs, 10, _one_of(generator, 1, 2, 3, 4)), (rows, inputs)


def _cnn(generator: torch.Generator) -> tuple[nn.Module, tuple[int, ...]]:
    channels, side = _one_of(generator, 1, 3), _one_of(generator, 16, 28, 32)
    layers: list[nn.Module] = []
    inputs = channels
    for _ in range(_one_of(generator, 1, 2, 3)):
        outputs = _one_of(generator, 8, 16, 32)
        pool = (nn.MaxPool2d(2), nn.AvgPool2d(2))[_one_of(generator, 0, 1)]
        layers += [nn.Conv2d(inputs, outputs, _one_of(generator, 3, 5), padding=1), nn.ReLU(), pool]
        inputs = outputs
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 10)]
    return nn.Sequential(*layers), (1, channels, side, side)


def _transformer(generator: torch.Generator) -> tuple[nn.Module, tuple[int, ...]]:
    width, tokens = _one_of(generator, 32, 64, 128), _one_of(generator, 8, 16, 32, 64)
    layer = nn.TransformerEncoderLayer(
        width, _one_of(generator, 2, 4), 4 * width, batch_first=True, activation="gelu", dropout=0.0
    )
    layers = _one_of(generator, 1, 2)
    return nn.TransformerEncoder(layer, layers, enable_nested_tensor=False), (1, tokens, width)


def _router(generator: torch.Generator) -> tuple[srcompile.Pool, tuple[int, ...]]:
    inputs, outputs = _one_of(generator, 16, 64), 4
    models: dict[str, nn.Module] = {
        f"depth{depth}": _layers(generator, inputs, outputs, depth) for depth in (0, 1, 3)
    }
    router = nn.Linear(inputs, len(models))
    return srcompile.Pool(models=models, router=router, cost_weight=0.1), (1, inputs)


KINDS: Mapping[str, Draw] = {
    "mlp": _mlp,
    "cnn": _cnn,
    "transformer": _transformer,
    "router": _router,
}
