"""The file given to the compiler: Python that defines `model` and `example_inputs`.

Each is a value or a function without arguments. `model` is an nn.Module or a srcompile.Pool; the
example inputs are a tuple of tensors, or a mapping from names of forward's parameters to tensors.
`calibration_inputs`, if defined, is a list of such tuples or mappings.
"""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import linecache
import sys
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from srcompile.errors import UserError
from srcompile.frontend.trace import shown
from srcompile.routing.pool import Pool

Inputs = tuple[Tensor, ...] | Mapping[str, Tensor]

_DEFAULT = "model"
_INPUTS = ("example_inputs", "calibration_inputs")


@dataclass(frozen=True)
class ModelFile:
    """What a model file defines. Without calibration inputs `calibration_inputs` is empty."""

    model: nn.Module | Pool
    example_inputs: Inputs
    calibration_inputs: tuple[Inputs, ...]
    path: Path


def load_model_file(spec: str) -> ModelFile:
    """Run the file FILE.py, or FILE.py:NAME to take NAME in place of `model`.

    Its folder is on sys.path meanwhile. Raises UserError, naming file and line where there is one,
    if the file is missing, fails, or does not define what it should.
    """
    path, name = _split(spec)
    if path.suffix != ".py":
        raise UserError(f"{path} is not a Python file; a model file ends in .py")
    if not path.is_file():
        raise UserError(f"there is no file {path}")
    folder = str(path.resolve().parent)
    with _on_path(folder):
        module = _run(path)
        model = _value(module, path, name)
        if not isinstance(model, (nn.Module, Pool)):
            raise UserError(
                f"{path}: '{name}' is a {type(model).__name__}; it must be an nn.Module, a "
                "srcompile.Pool, or a function without arguments that returns one"
            )
        examples = _inputs(_value(module, path, "example_inputs"), f"{path}: example_inputs")
        calibration: tuple[Inputs, ...] = ()
        if hasattr(module, "calibration_inputs"):
            calibration = _calibration(_value(module, path, "calibration_inputs"), path, examples)
    return ModelFile(model, examples, calibration, path)


def _split(spec: str) -> tuple[Path, str]:
    file, colon, name = spec.rpartition(":")
    if colon and name.isidentifier() and file.endswith(".py"):
        return Path(file), name
    return Path(spec), _DEFAULT


@contextlib.contextmanager
def _on_path(folder: str) -> Iterator[None]:
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(folder)


def _run(path: Path) -> ModuleType:
    """Return the module that the file makes. It is registered, for dataclasses and pickle."""
    file = path.resolve()
    name = f"srcompile_model_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    linecache.checkcache(str(file))  # torch reads source lines from there
    with _errors_named(path):
        spec.loader.exec_module(module)
    return module


def _value(module: ModuleType, path: Path, name: str) -> Any:
    """Return what the file calls `name`; a function is called first."""
    if not hasattr(module, name):
        found = ", ".join(_candidates(module))
        would_do = (
            f" {path}:NAME takes another name; here these would do: {found}." if found else ""
        )
        asked = f"{path} defines no '{name}'."
        raise UserError(asked + (would_do if name not in _INPUTS else _missing_inputs(name)))
    value = getattr(module, name)
    if not callable(value) or isinstance(value, (nn.Module, Pool)):
        return value
    if not _needs_nothing(value):
        raise UserError(
            f"{path}: '{name}' takes the arguments {inspect.signature(value)}; a function in a "
            "model file takes none"
        )
    with _errors_named(path):
        return value()


def _missing_inputs(name: str) -> str:
    return f" Add `{name} = (torch.zeros(...),)` with a tensor for each input of the model."


def _candidates(module: ModuleType) -> list[str]:
    """Return the names in a file that could be its model."""
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and name not in _INPUTS and _could_be_model(module, value)
    ]


def _could_be_model(module: ModuleType, value: object) -> bool:
    if isinstance(value, (nn.Module, Pool)):
        return True
    own = inspect.isfunction(value) and value.__module__ == module.__name__
    return own and _needs_nothing(value)


def _needs_nothing(value: Any) -> bool:
    try:
        inspect.signature(value).bind()
    except (TypeError, ValueError):
        return False
    return True


def _inputs(value: object, what: str) -> Inputs:
    """Return one tensor, or a list or tuple of them, as a tuple; a mapping as a dict."""
    if isinstance(value, Mapping) and value:
        for name, tensor in value.items():
            if not isinstance(tensor, Tensor):
                raise UserError(f"{what} must map to tensors, but '{name}' is {_kind(tensor)}")
        return dict(value)
    given = (value,) if isinstance(value, Tensor) else value
    if not isinstance(given, (list, tuple)) or not given:
        raise UserError(f"{what} must be a tuple of tensors, not {_kind(value)}")
    for i, tensor in enumerate(given):
        if not isinstance(tensor, Tensor):
            raise UserError(
                f"{what} must be a tuple of tensors, but its item {i} is {_kind(tensor)}"
            )
    return tuple(given)


def _calibration(value: object, path: Path, examples: Inputs) -> tuple[Inputs, ...]:
    what = f"{path}: calibration_inputs"
    if not isinstance(value, (list, tuple)) or not value:
        raise UserError(f"{what} must be a list of tuples of tensors, not {_kind(value)}")
    want = _shapes(examples)
    samples = tuple(_inputs(item, f"{what}[{i}]") for i, item in enumerate(value))
    for i, sample in enumerate(samples):
        have = _shapes(sample)
        if have != want:
            raise UserError(
                f"{what}[{i}] has the shapes {have}, but example_inputs has {want}; they must agree"
            )
    return samples


def _shapes(inputs: Inputs) -> object:
    if isinstance(inputs, Mapping):
        return {name: tuple(inputs[name].shape) for name in sorted(inputs)}
    return [tuple(tensor.shape) for tensor in inputs]


def _kind(value: object) -> str:
    empty = isinstance(value, (list, tuple)) and not value
    return f"an empty {type(value).__name__}" if empty else f"a {type(value).__name__}"


@contextlib.contextmanager
def _errors_named(path: Path) -> Iterator[None]:
    """Turn an exception in the user's code into a UserError with its file and line."""
    try:
        yield
    except UserError:
        raise
    except SyntaxError as error:
        place = f"{shown(error.filename)}:{error.lineno}" if error.filename else str(path)
        raise UserError(f"{place}: {type(error).__name__}: {error.msg}") from error
    except (Exception, SystemExit) as error:
        folder = str(path.resolve().parent)
        frames = traceback.extract_tb(error.__traceback__)
        inside = [f for f in frames if f.filename.startswith(folder)] or list(frames)
        place = f"{shown(inside[-1].filename)}:{inside[-1].lineno}"
        raise UserError(f"{place}: {type(error).__name__}: {error}") from error
