"""Every supported torch call, captured both ways, gives what torch gives."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.utils import _pytree as pytree

from srcompile.frontend.capture import capture
from srcompile.ir.graph import Array
from srcompile.ops import registry
from srcompile.ops.interpreter import evaluate
from srcompile.ops.verifier import verify
from tests.frontend.conftest import Apply, captured_like_torch

Pair = tuple[Array, Array]

FLAT, IMAGE = (2, 6), (1, 4, 6, 6)

ON_FLAT: dict[str, Callable[[Tensor], object]] = {
    "operators": lambda x: (2 - (x + 1) * 0.5 - x / 4 + -x) * x,
    "add_alpha": lambda x: torch.add(x, x, alpha=3) + torch.sub(x, x, alpha=2),
    "number_over_tensor": lambda x: 2 / x,
    "rsub": lambda x: torch.rsub(x, x, alpha=2),
    "methods": lambda x: x.add(1).sub(x).mul(x).div(3).neg(),
    "powers": lambda x: x**2 + x.pow(3) + x**0.5 + x**-0.5,
    "curves": lambda x: x.sigmoid() + torch.tanh(x) + F.gelu(x) + F.silu(x) + torch.erf(x),
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "exp_and_roots": lambda x: torch.exp(-x) + torch.sqrt(x) + x.rsqrt() + x.reciprocal(),
    "relus": lambda x: F.relu(x) + x.relu() + torch.relu(x - 1) + F.leaky_relu(x - 1, 0.1),
    "clamps": lambda x: x.clamp(0.5, 1) + torch.clamp(x, min=1) + x.clamp(max=1),
    "clamp_min": lambda x: x.clamp_min(0.5) + x.clamp_max(1.5),
    "hardtanh": lambda x: F.relu6(x * 4) + F.hardtanh(x) + F.hardtanh(x, 0.5, 1.5),
    "maximum": lambda x: torch.maximum(x, 1 - x),
    "softmax": lambda x: x.softmax(-1) + F.softmax(x, dim=0) + torch.softmax(x, 1),
    "sums": lambda x: (x.sum(), x.sum(1), torch.sum(x, dim=(0, 1)), x.sum(-1, keepdim=True)),
    "means": lambda x: (x.mean(), x.mean(1), torch.mean(x, dim=(0, 1)), x.mean(0, keepdim=True)),
    "amax": lambda x: x.amax(1, keepdim=True) + torch.amax(x, dim=0),
    "argmax": lambda x: (x.argmax(1), x.argmax(), torch.argmax(x, dim=0, keepdim=True)),
    "reshapes": lambda x: (x.view(3, -1), x.reshape((2, 2, 3)), torch.reshape(x, (12,))),
    "sizes": lambda x: x.view(x.size(0), -1) + x.reshape(x.shape[0] * 1, x.shape[1]),
    "flatten": lambda x: (x.flatten(), torch.flatten(x, 1), x.unflatten(1, (2, -1))),  # type: ignore[no-untyped-call]
    "squeeze": lambda x: (x.unsqueeze(0).squeeze(), torch.unsqueeze(x, -1).squeeze(-1), x[None]),
    "transposes": lambda x: (x.t(), x.T, x.transpose(0, 1), x.permute(1, 0), x.mT),
    "slices": lambda x: (x[:, 1:-1], x[0], x[..., ::2], x[-1, 2:], x[:, None, 3]),
    "narrow": lambda x: x.narrow(1, 2, 3) + torch.narrow(x, 1, 0, 3),
    "select": lambda x: x.select(1, -1) + x[:, 0],
    "splits": lambda x: (torch.split(x, 4, 1)[1], torch.chunk(x, 2, dim=1)[0], x.unbind(0)[1]),
    "join": lambda x: (torch.cat([x, x * 2], 1), torch.stack((x, x), dim=-1)),
    "expand": lambda x: x[0].expand(3, -1) + x[:1].expand_as(torch.cat([x, x[:1]])),
    "matmul": lambda x: (x @ x.t(), torch.matmul(x, x[0]), x[0] @ x[1], torch.mm(x, x.T)),
    "attention": lambda x: F.scaled_dot_product_attention(x[None], x[None], x[None] * 2),
    "pad": lambda x: F.pad(x, (1, 2)) + F.pad(x, (1, 2, 0, 0), value=0.0),
    "nothing": lambda x: x.contiguous().clone().detach().to(torch.float32).float(),
    "to_double": lambda x: x.double().sum(1),
    "constants": lambda x: x * torch.tensor([1.0, 2, 3, 4, 5, 6]) + torch.arange(6),
    "made": lambda x: x + torch.ones_like(x) * math.sqrt(2),
    "dropout": lambda x: F.dropout(x, 0.5, training=False),
    "in_place": lambda x: (x * 2).relu_().add_(1),
    "dict": lambda x: {"double": x * 2, "pair": (x + 1, {"deep": x - 1}), "none": None},
    "identity": lambda x: x,
}  # fmt: skip

ON_IMAGE: dict[str, Callable[[Tensor], object]] = {
    "max_pool": lambda x: F.max_pool2d(x, 2) + F.max_pool2d(x, kernel_size=3, stride=2, padding=1),
    "avg_pool": lambda x: F.avg_pool2d(x, 2) + F.avg_pool2d(x, 3, 2, padding=1),
    "adaptive_avg_pool": lambda x: (F.adaptive_avg_pool2d(x, 1), F.adaptive_avg_pool2d(x, (4, 3))),
    "conv": lambda x: F.conv2d(x, torch.ones(2, 4, 3, 3), padding="same"),
    "global_mean": lambda x: x.mean((2, 3)).flatten(1),
    "heads": lambda x: x.flatten(2).transpose(1, 2).reshape(1, 36, 2, 2).permute(0, 2, 1, 3),
}

LAYERS: dict[str, tuple[tuple[int, ...], Callable[[], nn.Module]]] = {
    "linear": (FLAT, lambda: nn.Linear(6, 3)),
    "linear_3d": ((2, 3, 6), lambda: nn.Linear(6, 3, bias=False)),
    "conv": (IMAGE, lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1)),
    "conv_groups": (IMAGE, lambda: nn.Conv2d(4, 4, (3, 2), dilation=2, groups=2, bias=False)),
    "conv_valid": (IMAGE, lambda: nn.Conv2d(4, 2, 3, padding="valid")),
    "batch_norm_1d": (FLAT, lambda: _trained(nn.BatchNorm1d(6))),
    "batch_norm_2d": (IMAGE, lambda: _trained(nn.BatchNorm2d(4, eps=1e-3))),
    "batch_norm_plain": (IMAGE, lambda: _trained(nn.BatchNorm2d(4, affine=False))),
    "curves": (FLAT, lambda: nn.Sequential(nn.GELU(), nn.SiLU(), nn.Sigmoid(), nn.Tanh())),
    "bends": (FLAT, lambda: nn.Sequential(nn.LeakyReLU(0.2), nn.ReLU6(), nn.Hardtanh(0, 1))),
    "relu_in_place": (FLAT, lambda: nn.Sequential(nn.Linear(6, 6), nn.ReLU(inplace=True))),
    "pools": (IMAGE, lambda: nn.Sequential(nn.MaxPool2d(2), nn.AvgPool2d(3, 1, padding=1))),
    "head": (IMAGE, lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))),
    "nothing": (FLAT, lambda: nn.Sequential(nn.Identity(), nn.Dropout(0.5), nn.Softmax(dim=1))),
    "double": (FLAT, lambda: nn.Linear(6, 3).double()),
}


def _trained(layer: nn.modules.batchnorm._BatchNorm) -> nn.Module:
    assert layer.running_mean is not None
    assert layer.running_var is not None
    layer.running_mean += torch.rand(layer.num_features)
    layer.running_var += torch.rand(layer.num_features)
    return nn.Sequential(layer)


@cache
def compared(kind: str, tracer: str) -> Mapping[str, list[Pair]]:
    """Return what each function of a table gives and what torch gives, captured as one model."""
    table, shape = (ON_FLAT, FLAT) if kind == "flat" else (ON_IMAGE, IMAGE)
    model = Apply(lambda x: {f"{name}|": function(x) for name, function in table.items()})
    x = torch.rand(shape, generator=torch.Generator().manual_seed(5)) * 2 + 0.25
    graph = capture(model, [torch.ones(shape)])
    verify(graph, registry())
    outputs, _ = evaluate(graph, {"x": x.numpy()}, registry())
    pairs: dict[str, list[Pair]] = {}
    for name, function in table.items():
        have = [value for key, value in outputs.items() if key.startswith(f"{name}|")]
        want = [t for t in pytree.tree_leaves(function(x)) if t is not None]
        pairs[name] = [(h, w.float().numpy()) for h, w in zip(have, want, strict=True)]
    return pairs


def assert_close(pairs: Sequence[Pair]) -> None:
    assert pairs
    for have, want in pairs:
        assert have.shape == want.shape
        np.testing.assert_allclose(have, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ON_FLAT)
def test_a_call_on_a_matrix_gives_what_torch_gives(name: str, tracer: str) -> None:
    assert_close(compared("flat", tracer)[name])


@pytest.mark.parametrize("name", ON_IMAGE)
def test_a_call_on_images_gives_what_torch_gives(name: str, tracer: str) -> None:
    assert_close(compared("image", tracer)[name])


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_gives_what_torch_gives(name: str, tracer: str) -> None:
    shape, make = LAYERS[name]
    layer = make()
    dtype = next((p.dtype for p in layer.parameters()), torch.float32)
    captured_like_torch(layer, [torch.rand(shape, dtype=dtype)])


def test_layers_stay_whole(tracer: str) -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.MaxPool2d(2), nn.Flatten(),
                          nn.Linear(8, 2), nn.GELU())  # fmt: skip
    graph = capture(model, [torch.rand(1, 1, 6, 6)])
    ops = [node.op for node in graph.main.nodes()]
    assert ops == ["input", "conv2d", "reshape", "add", "batch_norm", "max_pool2d", "reshape",
                   "linear", "gelu", "output"]  # fmt: skip
