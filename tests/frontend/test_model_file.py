"""Model files: what they define, and what is said when they do not."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from srcompile import Pool
from srcompile.errors import UserError
from srcompile.frontend.model_file import ModelFile, load_model_file

START = "import torch\nfrom torch import nn\n"
GOOD = START + "model = nn.Linear(2, 1)\nexample_inputs = (torch.zeros(1, 2),)\n"


@pytest.fixture(autouse=True)
def _in_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def error_of(text: str, spec: str = "net.py") -> str:
    Path("net.py").write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        load_model_file(spec)
    return str(caught.value)


def in_order(loaded: ModelFile) -> tuple[Tensor, ...]:
    assert isinstance(loaded.example_inputs, tuple)
    return loaded.example_inputs


def test_inputs_may_be_given_by_name() -> None:
    Path("net.py").write_text(
        START + "model = nn.Linear(2, 1)\n"
        "example_inputs = {'input': torch.zeros(1, 2)}\n"
        "calibration_inputs = [{'input': torch.ones(1, 2)}]\n",
        encoding="utf-8",
    )
    loaded = load_model_file("net.py")
    assert isinstance(loaded.example_inputs, dict)
    assert [list(sample) for sample in loaded.calibration_inputs] == [["input"]]


def test_values_are_taken_as_they_are() -> None:
    Path("net.py").write_text(GOOD, encoding="utf-8")
    loaded = load_model_file("net.py")
    assert isinstance(loaded.model, nn.Linear)
    assert [tuple(t.shape) for t in in_order(loaded)] == [(1, 2)]
    assert loaded.calibration_inputs == ()
    assert loaded.path == Path("net.py")


def test_functions_are_called_and_single_tensors_become_tuples() -> None:
    Path("net.py").write_text(
        START + "def model(): return nn.Linear(2, 1)\n"
        "def example_inputs(): return torch.zeros(1, 2)\n"
        "calibration_inputs = lambda: [torch.zeros(1, 2), (torch.ones(1, 2),)]\n",
        encoding="utf-8",
    )
    loaded = load_model_file("net.py")
    assert isinstance(loaded.model, nn.Linear)
    assert torch.equal(in_order(loaded)[0], torch.zeros(1, 2))
    assert [len(sample) for sample in loaded.calibration_inputs] == [1, 1]


def test_another_name_can_be_asked_for() -> None:
    Path("net.py").write_text(GOOD + "other = nn.Linear(2, 7)\n", encoding="utf-8")
    loaded = load_model_file("net.py:other")
    assert isinstance(loaded.model, nn.Linear)
    assert loaded.model.out_features == 7


def test_the_files_folder_is_importable_meanwhile(tmp_path: Path) -> None:
    folder = tmp_path / "deep"
    folder.mkdir()
    (folder / "parts_of_net.py").write_text("WIDTH = 2\n", encoding="utf-8")
    text = GOOD.replace("nn.Linear(2", "nn.Linear(parts_of_net.WIDTH")
    (folder / "net.py").write_text("import parts_of_net\n" + text, encoding="utf-8")
    load_model_file("deep/net.py")
    assert str(folder) not in sys.path


def test_the_digits_example_is_a_pool() -> None:
    loaded = load_model_file(str(Path(__file__).parents[2] / "examples" / "digits" / "model.py"))
    assert isinstance(loaded.model, Pool)
    assert [tuple(t.shape) for t in in_order(loaded)] == [(1, 1, 8, 8)]
    assert loaded.calibration_inputs


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("none.py", "there is no file none.py"),
        ("none.py:net", "there is no file none.py"),
        ("net.onnx", "net.onnx is not a Python file; a model file ends in .py"),
        ("net", "net is not a Python file; a model file ends in .py"),
        (
            "net.py:nothing",
            "net.py defines no 'nothing'. net.py:NAME takes another name; here these would do: "
            "model.",
        ),
    ],
)
def test_a_file_or_name_that_is_not_there(spec: str, message: str) -> None:
    assert error_of(GOOD, spec) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            GOOD.replace("model =", "net =")
            + "def small(): return net\ndef sized(n): return net\n",
            "net.py defines no 'model'. net.py:NAME takes another name; here these would do: "
            "net, small.",
        ),
        (
            GOOD.replace("nn.Linear(2, 1)", "3"),
            "net.py: 'model' is a int; it must be an nn.Module, a srcompile.Pool, or a function "
            "without arguments that returns one",
        ),
        (
            START + "def model(width): return nn.Linear(width, 1)\n",
            "net.py: 'model' takes the arguments (width); a function in a model file takes none",
        ),
        (
            START + "model = nn.Linear(2, 1)\n",
            "net.py defines no 'example_inputs'. Add `example_inputs = (torch.zeros(...),)` with a "
            "tensor for each input of the model.",
        ),
        (
            GOOD.replace("(torch.zeros(1, 2),)", "[1, 2]"),
            "net.py: example_inputs must be a tuple of tensors, but its item 0 is a int",
        ),
        (
            GOOD.replace("(torch.zeros(1, 2),)", "'x'"),
            "net.py: example_inputs must be a tuple of tensors, not a str",
        ),
        (
            GOOD + "calibration_inputs = torch.zeros(9, 2)\n",
            "net.py: calibration_inputs must be a list of tuples of tensors, not a Tensor",
        ),
        (
            GOOD + "calibration_inputs = []\n",
            "net.py: calibration_inputs must be a list of tuples of tensors, not an empty list",
        ),
        (
            GOOD + "calibration_inputs = [torch.zeros(1, 2), torch.zeros(2, 2)]\n",
            "net.py: calibration_inputs[1] has the shapes [(2, 2)], but example_inputs has "
            "[(1, 2)]; they must agree",
        ),
        (START + "\nmodel = 1 / 0\n", "net.py:4: ZeroDivisionError: division by zero"),
        (START + "import sys\nsys.exit(3)\n", "net.py:4: SystemExit: 3"),
        ("import no_such_module_here\n",
         "net.py:1: ModuleNotFoundError: No module named 'no_such_module_here'"),
        (START + "def model(:\n", "net.py:3: SyntaxError: invalid syntax"),
        (
            GOOD.replace("model = ", "def model():\n    return ").replace("(2, 1)", "('2', 1)"),
            "net.py:4: TypeError: ",
        ),
    ],
)  # fmt: skip
def test_a_file_that_defines_the_wrong_things(text: str, message: str) -> None:
    error = error_of(text)
    assert error == message or (message.endswith(": ") and error.startswith(message))
