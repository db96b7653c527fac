"""Both ways of capturing, and a comparison of what was captured with torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from srcompile.errors import Loc
from srcompile.frontend import capture as capture_file
from srcompile.frontend.trace import Place, Trace, TraceFailedError
from srcompile.ir.graph import Module
from srcompile.ir.parser import parse_module
from srcompile.ir.printer import print_module
from srcompile.ops import registry
from srcompile.ops.interpreter import evaluate
from srcompile.ops.verifier import verify

Check = Callable[[nn.Module, Sequence[Tensor]], Module]


class Apply(nn.Module):
    """A model that applies a function."""

    def __init__(self, function: Callable[..., object]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> object:
        return self.function(x)


def no_export(module: nn.Module, *inputs: object) -> Trace:
    raise TraceFailedError("left out by the test", Place(Loc()))


@pytest.fixture(params=["export", "fx"])
def tracer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run the test once with torch.export and once with the fallback."""
    if request.param == "fx":
        monkeypatch.setattr(capture_file, "trace_by_export", no_export)
    return str(request.param)


def captured_like_torch(module: nn.Module, inputs: Sequence[Tensor]) -> Module:
    """Capture, verify, print and read back; assert the outputs are torch's on other inputs."""
    graph = capture_file.capture(module, inputs)
    verify(graph, registry())
    text = print_module(graph)
    assert print_module(parse_module(text)) == text
    others = [torch.rand(t.shape, dtype=t.dtype) * 2 + 0.25 for t in inputs]
    names = [str(n.attrs["name"]) for n in graph.main.nodes() if n.op == "input"]
    values = {n: t.to(torch.float32).numpy() for n, t in zip(names, others, strict=True)}
    outputs, _ = evaluate(graph, values, registry())
    module.eval()
    with torch.no_grad():
        want = [t for t in pytree.tree_leaves(module(*others)) if t is not None]
    assert len(want) == len(outputs)
    for have, tensor in zip(outputs.values(), want, strict=True):
        assert have.shape == tuple(tensor.shape)
        np.testing.assert_allclose(have, tensor.to(torch.float32).numpy(), rtol=1e-4, atol=1e-4)
    return graph
