"""What a tracer of torch hands over: calls in order, each with the user's source line.

torch_export and torch_fx make traces; translate turns a trace into nodes.
"""

from __future__ import annotations

import re
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from srcompile.errors import CompileError, Loc


@dataclass(frozen=True)
class Ref:
    """An input, a tensor of the model or an earlier call's result, by its name in the trace."""

    name: str


@dataclass(frozen=True)
class Place:
    """Where a call stands in the user's code, and the text of that line."""

    loc: Loc
    source: str = ""


@dataclass(frozen=True)
class Call:
    """`out = torch(*args, **kwargs)`. Arguments are literals and Refs, in tuples, lists and slices.

    `torch` is a name of the tables in translate, such as `aten.relu.default` or `method.relu`.
    `shape` is what torch says the result has, None if that is no tensor.
    """

    out: str
    torch: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    place: Place
    shape: tuple[int, ...] | None


@dataclass(frozen=True)
class Trace:
    """A module as calls. `tensors` maps a name to a tensor and its path in the module."""

    inputs: tuple[str, ...]
    literals: Mapping[str, Any]
    tensors: Mapping[str, tuple[str, Tensor]]
    calls: tuple[Call, ...]
    result: Any


def memory(tensor: Tensor) -> object:
    """Return what two tensors have in common if they are the same view of the same memory."""
    return tensor.dtype, tensor.shape, tensor.stride(), tensor.data_ptr()


class TraceFailedError(Exception):
    """Torch could not trace the module; `place` is the user's line that it was at, if known."""

    def __init__(self, reason: str, place: Place) -> None:
        super().__init__(reason)
        self.reason, self.place = reason, place


_TORCH = str(Path(torch.__file__).parent)
_PYTHON = sysconfig.get_path("stdlib")
_FRONTEND = str(Path(__file__).parent)
_FRAME = re.compile(r'\s*File "(?P<file>.+)", line (?P<line>\d+), in (?P<function>.*)')


def is_users(file: str) -> bool:
    """Return whether a source file is neither torch's, Python's or ours, nor generated code."""
    library = file.startswith(_PYTHON) and "site-packages" not in file
    return not library and not file.startswith((_TORCH, _FRONTEND, "<"))


def shown(file: str) -> str:
    """Return a file's path from the current folder, or only its name if it is not inside."""
    path, here = Path(file), Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else path.name


def place_of_call(meta: Mapping[str, Any], before: Place) -> Place:
    """Return the innermost line of the user's that an fx node comes from.

    A node that torch made without a stack trace gets the place of the call `before` it.
    """
    module = module_path(meta)
    lines = (meta.get("stack_trace") or "").splitlines()
    for i in range(len(lines) - 1, -1, -1):
        frame = _FRAME.fullmatch(lines[i])
        if frame and is_users(frame["file"]):
            after = lines[i + 1].strip() if i + 1 < len(lines) else ""
            source = "" if _FRAME.fullmatch(after) else after
            return Place(Loc(shown(frame["file"]), int(frame["line"]), module), source)
    if lines:  # a torch container called the layer: there is no line of the user's
        return Place(Loc(module=module))
    return before


def module_path(meta: Mapping[str, Any]) -> str:
    """Return the path of the innermost module that an fx node belongs to, "" for the model."""
    stack = meta.get("nn_module_stack") or {}
    path = next(reversed(stack.values()))[0] if stack else ""
    return re.sub(r"@\d+", "", str(path))  # x@1 is the second call of x


def place_of_error(traceback: TracebackType | None) -> Place:
    """Return the innermost line of the user's that an exception passed, below our own frames."""
    frames: list[tuple[str, int]] = []
    while traceback is not None:
        file = traceback.tb_frame.f_code.co_filename
        if file.startswith(_FRONTEND):
            frames = []
        elif is_users(file):
            frames.append((file, traceback.tb_lineno))
        traceback = traceback.tb_next
    frames = [frame for frame in frames if "site-packages" not in frame[0]]
    if not frames:
        return Place(Loc())
    file, line = frames[-1]
    return Place(Loc(shown(file), line), source_line(file, line))


def source_line(file: str, line: int) -> str:
    """Return one line of a source file, "" if it cannot be read."""
    try:
        return Path(file).read_text(encoding="utf-8").splitlines()[line - 1].strip()
    except (OSError, IndexError, UnicodeDecodeError):
        return ""


def first_line(error: BaseException) -> str:
    """Return the first line of an exception, with its class if that says more than RuntimeError."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    name = type(error).__name__
    return text if text and name in ("RuntimeError", "Exception") else f"{name}: {text}"


def with_source(error: CompileError, source: str) -> CompileError:
    """Return the error with the user's source line below its first line."""
    if not source:
        return error
    first, *rest = str(error).splitlines()
    shown = CompileError("\n".join([first, f"    {source}", *rest]))
    shown.loc = error.loc
    return shown
