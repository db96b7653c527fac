"""However a model writes its mask, the softmax gets one operand of 0 and 1."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from srcompile.frontend.capture import capture
from srcompile.ir.graph import Module
from srcompile.ops import registry
from srcompile.ops.interpreter import evaluate
from srcompile.ops.verifier import verify

LOWEST = torch.finfo(torch.float32).min
Write = Callable[[Tensor, Tensor], Tensor]

ON_SCORES: dict[str, Write] = {
    "added lowest": lambda x, m: x + (1.0 - m[:, None].float()) * LOWEST,
    "added zeros and infinity": lambda x, m: (
        x + torch.zeros(1, 1, 4).masked_fill(m[:, None] == 0, -torch.inf)
    ),
    "added ten thousand": lambda x, m: x + (1 - m.unsqueeze(1)) * -10000.0,
    "filled": lambda x, m: x.masked_fill(~m[:, None].bool(), LOWEST),
    "filled where greater": lambda x, m: x.masked_fill(m[:, None] < 1, -1e9),
    "chosen": lambda x, m: torch.where(m[:, None].bool(), x, LOWEST),
    "chosen otherwise": lambda x, m: torch.where(m[:, None] != 1, torch.tensor(-torch.inf), x),
    "gathered": lambda x, m: x.masked_fill(
        m[torch.tensor([[0]]), torch.arange(4)[None]][:, None] == 0, -torch.inf
    ),
    "in another order": lambda x, m: x.masked_fill(m[:, [0, 2, 1, 3]][:, None] == 0, -1e9),
    "and causal": lambda x, m: x.masked_fill(
        ~(m[:, None].bool() & torch.ones(4, 4, dtype=torch.bool).tril()), LOWEST
    ),
    "added twice": lambda x, m: (
        x + (1.0 - m[:, None].float()) * LOWEST + torch.full((4, 4), -torch.inf).triu(1)
    ),
    "rows and columns": lambda x, m: x.masked_fill(
        ~((m[:, None] * m[:, :, None]).bool() | torch.eye(4, dtype=torch.bool)), LOWEST
    ),
    "either": lambda x, m: x.masked_fill((m[:, None].bool() | m[:, :, None].bool()) == 0, LOWEST),
    "known": lambda x, m: x.masked_fill(torch.ones(4, 4).triu(1).bool(), -torch.inf) + 0 * m.sum(),
    "moved afterwards": lambda x, m: (
        (x + (1.0 - m[:, None].float()) * LOWEST).view(1, 1, 4, 4).squeeze(1).contiguous()
    ),
}


class OnScores(nn.Module):
    """Softmax of scores that are masked in some way."""

    def __init__(self, write: Write) -> None:
        super().__init__()
        self.write = write

    def forward(self, x: Tensor, m: Tensor) -> Tensor:
        return self.write(x, m).softmax(-1)


class Attention(nn.Module):
    """Attention with a mask."""

    def __init__(self, mask: Callable[[Tensor], Tensor | None], causal: bool = False) -> None:
        super().__init__()
        self.mask, self.causal = mask, causal

    def forward(self, x: Tensor, m: Tensor) -> Tensor:
        mask = self.mask(m)
        weights = F.scaled_dot_product_attention(x, x, x, attn_mask=mask, is_causal=self.causal)
        return weights * m[..., None]


def captured_like_torch(model: nn.Module, dtype: torch.dtype) -> Module:
    mask = torch.tensor([[1, 1, 0, 1]]).to(dtype)
    x = torch.randn(1, 4, 4, generator=torch.Generator().manual_seed(0))
    graph = capture(model, (x, mask))
    verify(graph, registry())
    for m in (mask, torch.tensor([[1, 0, 0, 0]]).to(dtype), torch.ones_like(mask)):
        outputs, _ = evaluate(graph, {"x": x.numpy(), "m": m.numpy()}, registry())
        want = model(x, m).numpy()
        np.testing.assert_allclose(outputs["output"], want, atol=1e-6)
    return graph


@pytest.mark.parametrize("dtype", [torch.int64, torch.float32])
@pytest.mark.parametrize("name", ON_SCORES)
def test_a_mask_becomes_an_operand_of_softmax(name: str, dtype: torch.dtype) -> None:
    graph = captured_like_torch(OnScores(ON_SCORES[name]), dtype)
    (softmax,) = [n for n in graph.main.nodes() if n.op == "softmax"]
    assert len(softmax.inputs) == 2
    constants = [np.asarray(c.data) for c in graph.consts.values()]
    assert all(np.abs(data).max(initial=0) < 1e3 for data in constants)


@pytest.mark.parametrize(
    ("model", "operands"),
    [
        (Attention(lambda m: m[:, None].bool()), 4),
        (Attention(lambda m: (1.0 - m[:, None].float()) * LOWEST), 4),
        (Attention(lambda m: None, causal=True), 4),
        (Attention(lambda m: torch.ones(4, 4, dtype=torch.bool)), 3),
    ],
)
def test_a_mask_becomes_an_operand_of_attention(model: nn.Module, operands: int) -> None:
    graph = captured_like_torch(model, torch.int64)
    (attention,) = [n for n in graph.main.nodes() if n.op == "attention"]
    assert len(attention.inputs) == operands


def test_a_mask_that_multiplies_is_an_ordinary_factor() -> None:
    class Weighted(nn.Module):
        def forward(self, x: Tensor, m: Tensor) -> Tensor:
            kept = torch.where(m[..., None] == 1, x, 0.0)
            return kept + x.masked_fill(m[..., None].bool(), 2.0) * (m[..., None] * 3 - 1)

    captured_like_torch(Weighted(), torch.int64)
