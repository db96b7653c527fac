"""What a captured model looks like: names, constants, types, and the user's module left alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from srcompile.errors import CompileError
from srcompile.frontend.capture import capture
from tests.frontend.conftest import Apply, captured_like_torch


class Tied(nn.Module):
    """Two layers with one weight, a plain tensor and a buffer that is not saved."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.second.weight = self.first.weight
        self.register_buffer("shift", torch.arange(3), persistent=False)
        self.register_buffer("unused", torch.ones(5))
        self.plain = torch.tensor([1.0, 2.0, 3.0])
        self.alpha = nn.Parameter(torch.tensor(0.5))

    def forward(self, x: Tensor) -> Tensor:
        scaled: Tensor = self.second(self.first(x)) * self.plain
        return scaled + self.alpha * self.get_buffer("shift")


class Two(nn.Module):
    """Takes two inputs and an option."""

    def forward(self, left: Tensor, right: Tensor, bias: Tensor | None = None) -> object:
        total = left + right
        return {"total": total if bias is None else total + bias, "left": left * 2}


def test_tied_parameters_are_one_secret_constant(tracer: str) -> None:
    graph = captured_like_torch(Tied(), [torch.rand(2, 3)])
    assert set(graph.consts) == {
        "@first.weight", "@first.bias", "@second.bias", "@plain", "@alpha", "@shift",
    }  # fmt: skip
    assert all(const.secret for const in graph.consts.values())
    assert all(const.data is not None for const in graph.consts.values())


def test_constants_are_float32_copies(tracer: str) -> None:
    model = nn.Linear(3, 2).double()
    graph = capture(model, [torch.rand(1, 3, dtype=torch.float64)])
    before = np.array(graph.consts["@weight"].data)
    assert before.dtype == np.float32
    nn.init.zeros_(model.weight)
    np.testing.assert_array_equal(graph.consts["@weight"].data, before)


def test_inputs_have_the_names_of_forwards_parameters(tracer: str) -> None:
    graph = captured_like_torch(Two(), [torch.rand(2, 3), torch.rand(3)])
    nodes = list(graph.main.nodes())
    inputs = [(n.out, n.attrs["name"], n.attrs["shape"]) for n in nodes if n.op == "input"]
    assert inputs == [("%left", "left", (2, 3)), ("%right", "right", (3,))]
    assert [n.attrs["name"] for n in nodes if n.op == "output"] == ["total", "left"]
    assert [segment.name for segment in graph.main.segments] == ["main"]


@pytest.mark.parametrize(
    ("result", "names"),
    [
        (lambda x: x + 1, ["output"]),
        (lambda x: (x + 1,), ["output"]),
        (lambda x: [x + 1, x - 1], ["output0", "output1"]),
        (lambda x: {"a": x + 1, "b": (x, {"c": x - 1})}, ["a", "b0", "b1.c"]),
    ],
)
def test_outputs_are_named_by_position_or_key(result: object, names: list[str]) -> None:
    graph = capture(Apply(result), [torch.rand(2)])  # type: ignore[arg-type]
    assert [n.attrs["name"] for n in graph.main.nodes() if n.op == "output"] == names


class Untidy(nn.Module):
    """Leaves a tensor behind in forward, and makes one there."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5))

    def forward(self, x: Tensor) -> Tensor:
        self.layer.last = x * torch.tensor([1.0, 2.0])
        out: Tensor = self.layer(self.layer.last)
        return out


def test_the_users_module_is_left_as_it_was(tracer: str) -> None:
    model = Untidy().train()
    model.layer[1].eval()
    attributes = {name: set(vars(m)) for name, m in model.named_modules()}
    flags = {name: m.training for name, m in model.named_modules()}
    state = {name: value.clone() for name, value in model.state_dict().items()}
    capture(model, [torch.rand(1, 2)])
    assert {name: m.training for name, m in model.named_modules()} == flags
    assert {name: set(vars(m)) for name, m in model.named_modules()} == attributes
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_the_users_module_is_left_as_it_was_after_an_error(tracer: str) -> None:
    model = nn.Sequential(nn.Dropout(0.5), Apply(lambda x: x.topk(1).values)).train()
    with pytest.raises(CompileError):
        capture(model, [torch.rand(1, 2)])
    assert all(m.training for m in model.modules())


def test_a_change_in_place_of_a_view_is_refused(tracer: str) -> None:
    def views(x: Tensor) -> Tensor:
        y = x * 2
        part = y[:, :2]
        part.add_(1)
        return y.sum(1)

    found = "slice_scatter is not supported" if tracer == "export" else "tensor that has views"
    with pytest.raises(CompileError, match=found):
        capture(Apply(views), [torch.rand(2, 4)])


def test_a_rebound_sum_in_place_is_never_miscompiled(tracer: str) -> None:
    def adds(x: Tensor) -> Tensor:
        y = x * 2
        same = y
        y += 1
        return same * y

    if tracer == "export":
        captured_like_torch(Apply(adds), [torch.rand(2, 4)])
        return
    with pytest.raises(CompileError, match="computes something else"):
        capture(Apply(adds), [torch.rand(2, 4)])


def test_a_tensor_that_forward_keeps_is_no_obstacle(tracer: str) -> None:
    captured_like_torch(Keeps(), [torch.rand(2)])


class Keeps(nn.Module):
    """Sets an attribute that did not exist before."""

    def forward(self, x: Tensor) -> Tensor:
        self.kept = x * 2
        return self.kept + 1
