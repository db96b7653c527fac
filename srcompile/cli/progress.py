"""Bars that show how far a run is, on a terminal."""

from __future__ import annotations

from typing import Self

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as Bars

from srcompile.runtime.progress import PHASES, Progress


class RunProgress:
    """Shows a bar for each phase of a run, and one for the inferences if there are several.

    Nothing is shown if the console is no terminal, or if it is `quiet`. Use it as a context
    manager, and `watch` for the run.
    """

    def __init__(self, console: Console, inferences: int, quiet: bool = False) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[text]}"))
        hidden = quiet or not console.is_terminal
        self._bars = Bars(*columns, console=console, transient=True, disable=hidden)
        self._tasks: dict[str, TaskID] = {}
        self._inferences, self._done = inferences, 0

    def __enter__(self) -> Self:
        """Show the bars."""
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Take them away."""
        self._bars.stop()

    def watch(self, progress: Progress) -> None:
        """Show how far a phase is; the phases before it are done."""
        for phase in PHASES[: PHASES.index(progress.phase)]:
            if phase in self._tasks:
                self._bars.update(self._tasks[phase], completed=1, total=1)
        self._show(progress.phase, progress.done, progress.total, _text(progress))
        for phase in PHASES[PHASES.index(progress.phase) + 1 :]:
            if phase in self._tasks:
                self._bars.reset(self._tasks[phase], text="")

    def finished(self) -> None:
        """Count an inference."""
        self._done += 1
        if self._inferences > 1:
            text = f"{self._done} of {self._inferences}"
            self._show("inferences", self._done, self._inferences, text)

    def _show(self, name: str, done: int, total: int, text: str) -> None:
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(name, text="")
        self._bars.update(self._tasks[name], completed=done, total=total, text=text)


def _text(progress: Progress) -> str:
    if progress.phase == "online":
        return f"{progress.done} of {progress.total} rounds"
    return f"{progress.done / 1e6:,.0f} of {progress.total / 1e6:,.0f} MB"
