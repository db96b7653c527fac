"""Errors a user can act on: what was found, where, and what would do."""

from __future__ import annotations

from dataclasses import dataclass


class UserError(Exception):
    """Something the user gave cannot be used. Command lines print it and exit with code 2."""


@dataclass(frozen=True)
class Loc:
    """Where something comes from: the user's file and line (from 1), module path, and op.

    The module path is one such as `encoder.0.fc1`; the op is the one the user wrote, `softmax` for
    all that softmax expands into.
    """

    file: str = ""
    line: int = 0
    module: str = ""
    op: str = ""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.file else "(no source line)"
        return f"{place} in {self.module}" if self.module else place


class CompileError(UserError):
    """The model cannot be compiled as it is."""

    def __init__(self, message: str, loc: Loc | None = None, hint: str = "") -> None:
        place = f"{loc}: " if loc is not None and (loc.file or loc.module) else ""
        super().__init__(place + message + (f"\n  {hint}" if hint else ""))
        self.loc = loc


class TextError(UserError):
    """IR text that cannot be parsed or does not verify; the message shows the place.

    Line 0 stands for the text as a whole.
    """

    def __init__(self, message: str, text: str, line: int, column: int) -> None:
        lines = text.split("\n")
        shown = lines[line - 1].rstrip("\r") if 0 < line <= len(lines) else ""
        caret = " " * (column - 1) + "^"
        place = f"line {line}, column {column}: "
        super().__init__(f"{place}{message}\n  {shown}\n  {caret}" if line else message)
        self.line, self.column = line, column


class VerifyError(CompileError):
    """A program that breaks a rule of the IR; `pos` is its place if it came from text."""

    def __init__(self, message: str, loc: Loc | None = None, pos: tuple[int, int] = (0, 0)) -> None:
        super().__init__(message, loc)
        self.message, self.pos = message, pos
