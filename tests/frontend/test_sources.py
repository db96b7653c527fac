"""Every node knows the user's line, and every error shows it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from srcompile.errors import CompileError
from srcompile.frontend.capture import capture
from srcompile.frontend.model_file import ModelFile, load_model_file

MODEL = """\
import torch
from torch import nn


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.register_buffer("count", torch.zeros(4))

    def forward(self, x):
        x = self.fc(x)
        {body}


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(Block(), nn.ReLU())

    def forward(self, x):
        return self.encoder(x)


model = Net()
example_inputs = (torch.ones(1, 4),)
"""

ERRORS = {
    "return x.topk(2).values": """\
model.py:13 in encoder.0: topk is not supported
    return x.topk(2).values
  Nothing is sorted under MPC; torch.amax and torch.argmax give the largest along an axis.""",
    "return x / 0": """\
model.py:13 in encoder.0: this divides by zero
    return x / 0""",
    "return torch.where(x > 0, x, 0.0)": """\
model.py:13 in encoder.0: gt is not supported
    return torch.where(x > 0, x, 0.0)
  Write a choice with relu, clamp, torch.maximum or sigmoid. Masks and conditions may be \
constants, or made from an input that holds 0 and 1 only.""",
    "return x.argmax(1) * 2": """\
model.py:13 in encoder.0: mul of an index is not supported
    return x.argmax(1) * 2
  An index that argmax makes can be returned, and nothing else.""",
    "return x.to(torch.int64)": """\
model.py:13 in encoder.0: a conversion to torch.int64 is not supported
    return x.to(torch.int64)
  Values are real numbers in fixed point; leave the conversion out.""",
    "return x**9": """\
model.py:13 in encoder.0: x ** 9 is not supported
    return x**9
  Use a whole power from 1 to 8.""",
    "return torch.div(x, 2, rounding_mode='floor')": """\
model.py:13 in encoder.0: this form of div (aten.div.Tensor_mode) is not supported
    return torch.div(x, 2, rounding_mode='floor')
  Divide by a number, without rounding.""",
    "return nn.functional.elu(x)": """\
model.py:13 in encoder.0: elu is not supported
    return nn.functional.elu(x)
  Use relu, leaky_relu, gelu, silu, sigmoid or tanh.""",
    "return nn.functional.glu(x)": """\
model.py:13 in encoder.0: glu is not supported
    return nn.functional.glu(x)
  Near alternatives: gelu.""",
    "return nn.functional.dropout(x)": """\
model.py:13 in encoder.0: native_dropout is not supported
    return nn.functional.dropout(x)
  Nothing is random in a compiled model; F.dropout needs training=self.training.""",
    "return nn.functional.max_pool2d(x[None], 2, ceil_mode=True)": """\
model.py:13 in encoder.0: max_pool2d with ceil_mode is not supported
    return nn.functional.max_pool2d(x[None], 2, ceil_mode=True)
  Pad the input.""",
    "self.count += 1; return x": """\
model.py:13 in encoder.0: forward changes 'encoder.0.count'
    self.count += 1; return x
  A compiled model keeps nothing between two runs; compute it from the inputs.""",
}

FALLBACK_ERRORS = {
    "return x.topk(2).values": ERRORS["return x.topk(2).values"],
    "return x / 0": ERRORS["return x / 0"],
    "return torch.div(x, 2, rounding_mode='floor')": """\
model.py:13 in encoder.0: div is not supported with the arguments (tensor, 2, \
rounding_mode='floor')
    return torch.div(x, 2, rounding_mode='floor')
  Divide by a number, without rounding.""",
    "return x[:, x.argmax(1)]": """\
model.py:13 in encoder.0: an index that is a tensor or a list is not supported
    return x[:, x.argmax(1)]
  Use slices and whole numbers, and torch.cat to join what they pick.""",
}


@pytest.fixture(autouse=True)
def _in_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def model_with(body: str) -> ModelFile:
    Path("model.py").write_text(MODEL.format(body=body), encoding="utf-8")
    return load_model_file("model.py")


def error_of(body: str) -> str:
    loaded = model_with(body)
    assert isinstance(loaded.model, nn.Module)
    with pytest.raises(CompileError) as caught:
        capture(loaded.model, loaded.example_inputs)
    return str(caught.value)


def test_a_node_has_the_line_that_called_its_layer(tracer: str) -> None:
    loaded = model_with("return x + 1")
    assert isinstance(loaded.model, nn.Module)
    graph = capture(loaded.model, loaded.example_inputs)
    assert [f"{n.op} {n.loc}" for n in graph.main.nodes()] == [
        "input model.py:21",
        "linear model.py:12 in encoder.0.fc",
        "offset model.py:13 in encoder.0",
        "relu model.py:22 in encoder.1",
        "output model.py:22",
    ]


def test_a_file_outside_the_current_folder_is_shown_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = model_with("return x + 1")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert isinstance(loaded.model, nn.Module)
    graph = capture(loaded.model, loaded.example_inputs)
    assert {n.loc.file for n in graph.main.nodes()} == {"model.py"}


def test_a_layer_that_torch_calls_has_its_path_alone() -> None:
    graph = capture(nn.Sequential(nn.Linear(2, 2)), [torch.ones(1, 2)])
    assert [str(n.loc) for n in graph.main.nodes()] == [
        "(no source line)",
        "(no source line) in 0",
        "(no source line)",
    ]


@pytest.mark.parametrize("body", ERRORS)
def test_what_is_not_supported_is_shown_with_its_line_and_a_way_out(body: str) -> None:
    assert error_of(body) == ERRORS[body]


@pytest.mark.parametrize("body", FALLBACK_ERRORS)
@pytest.mark.parametrize("tracer", ["fx"], indirect=True)
def test_the_fallback_shows_the_same(body: str, tracer: str) -> None:
    assert error_of(body) == FALLBACK_ERRORS[body]


def test_a_branch_on_a_tensor_names_both_tracers_and_a_way_out(
    capfd: pytest.CaptureFixture[str],
) -> None:
    message = error_of("return x if x.sum() > 0 else -x")
    lines = message.splitlines()
    assert lines[0] == "model.py:13: torch cannot trace this model"
    assert lines[1] == "    return x if x.sum() > 0 else -x"
    assert lines[2].startswith("  torch.export: ")
    assert lines[3].startswith("  torch.fx: ")
    assert "branches on a tensor's value" in lines[4]
    assert capfd.readouterr() == ("", "")


def test_a_model_that_does_not_run_says_why() -> None:
    message = error_of("return x @ x")
    assert message.startswith("model.py:13: torch cannot trace this model\n    return x @ x\n")
    assert "Check that model(*example_inputs) runs" in message


class Doubled(nn.Module):
    """Computes with its input."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2.0


def test_an_integer_input_is_refused() -> None:
    with pytest.raises(CompileError, match=r"the input 'x' holds torch.int64 values"):
        capture(Doubled(), [torch.full((1, 4), 2)])


def test_too_many_inputs_are_refused() -> None:
    loaded = model_with("return x")
    assert isinstance(loaded.model, nn.Module)
    with pytest.raises(CompileError, match=r"forward takes 1 inputs \(x\), but 2 are given"):
        capture(loaded.model, (torch.ones(1, 4), torch.ones(1, 4)))


def test_a_result_that_is_no_tensor_is_refused() -> None:
    assert "the model returns no tensor" in error_of_result("None")
    assert "the model's output 'output' is 3, not a tensor" in error_of_result("3")


def error_of_result(result: str) -> str:
    text = MODEL.format(body="return x").replace("return self.encoder(x)", f"return {result}")
    Path("model.py").write_text(text, encoding="utf-8")
    loaded = load_model_file("model.py")
    assert isinstance(loaded.model, nn.Module)
    with pytest.raises(CompileError) as caught:
        capture(loaded.model, loaded.example_inputs)
    return str(caught.value)
