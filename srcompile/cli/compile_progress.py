"""A progress bar for a compilation, on a terminal only."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from srcompile.passes.progress import Listener, Progress, nobody


@contextlib.contextmanager
def shown(console: Console, what: str) -> Iterator[Listener]:
    """Give a listener that draws a bar, which vanishes at the end; none without a terminal."""
    if not console.is_terminal:
        yield nobody
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Bar(*columns, console=console, transient=True) as bar:
        task = bar.add_task(f"loading {escape(what)}", total=None)

        def listen(progress: Progress) -> None:
            part = progress.done / progress.samples if progress.samples else 0.0
            bar.update(
                task,
                total=progress.count,
                completed=progress.number - 1 + part,
                description=escape(described(progress)),
            )

        yield listen


def described(progress: Progress) -> str:
    """Return a step in words: `calibrate, 12 of 64 samples`."""
    name = progress.name.replace("_", " ")
    if not progress.samples:
        return name
    return f"{name}, {progress.done} of {progress.samples} samples"
