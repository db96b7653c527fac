"""Models that the tests of reports compile, once per process."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn

from srcompile import Pool
from srcompile.api import Compiled, compile

WIDTH, TOKENS = 4, 3


class Block(nn.Module):
    """A layer of an encoder: attention and a wider layer, each added to what comes in."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.up = nn.Linear(WIDTH, 6)
        self.act = nn.GELU()
        self.down = nn.Linear(6, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).split(WIDTH, -1)
        x = x + nn.functional.scaled_dot_product_attention(q, k, v)
        out: Tensor = x + self.down(self.act(self.up(x)))
        return out


class Encoder(nn.Module):
    """Token ids, two blocks alike, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(9, WIDTH)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.head = nn.Linear(WIDTH, 2)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.words(ids)
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.head(x.mean(1))
        return out


def encoder() -> Encoder:
    torch.manual_seed(0)
    return Encoder().eval()


IDS = (torch.tensor([[1, 2, 3]]),)
SAMPLES = [(torch.tensor([[k, (2 * k) % 9, (5 * k) % 9]]),) for k in range(8)]


def mlp(width: int) -> nn.Module:
    torch.manual_seed(width)
    return nn.Sequential(nn.Linear(3, width), nn.ReLU(), nn.Linear(width, 2))


POINTS = [(torch.tensor([[k / 4, -k / 4, 1.0]]),) for k in range(-4, 5)]


@cache
def compiled(name: str) -> Compiled:
    """Compile the encoder, a small network, or a pool of two."""
    if name == "encoder":
        return compile(encoder(), IDS, calibration_inputs=SAMPLES)
    if name == "mlp":
        return compile(mlp(8), POINTS[0], calibration_inputs=POINTS)
    torch.manual_seed(1)
    pool = Pool({"small": nn.Linear(3, 2), "large": mlp(60)}, nn.Linear(3, 2), cost_weight=0.1)
    return compile(pool, POINTS[0], calibration_inputs=POINTS)
