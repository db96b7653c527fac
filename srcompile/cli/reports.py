"""What `srcompile` does besides compiling: what-ifs, routes, and report files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from srcompile.errors import UserError

if TYPE_CHECKING:
    from srcompile.report.figures import CostReport
    from srcompile.report.routing import RouteCosts
    from srcompile.report.variants import Suggestion, Sweep

KINDS = ("html", "json", "png", "svg")


@dataclass(frozen=True)
class Target:
    """A report file to write."""

    kind: str
    path: Path


@dataclass(frozen=True)
class Findings:
    """A report, and what is known besides of the program's routes and of other settings."""

    report: CostReport
    routes: RouteCosts | None
    suggestions: tuple[Suggestion, ...] | None
    sweep: Sweep | None


def parse_layers(text: str | None) -> int | str | None:
    """Return the depth that `--layers` asks for. Raises UserError for anything else."""
    if text is None or text == "all":
        return text
    if not text.isdecimal() or int(text) < 1:
        raise UserError(f"--layers takes a depth of 1 or more, or all, not '{text}'")
    return int(text)


def parse_targets(texts: tuple[str, ...], kinds: tuple[str, ...] = KINDS) -> tuple[Target, ...]:
    """Return the files that `--report KIND=FILE` asks for. Raises UserError for anything else."""
    found = []
    for text in texts:
        kind, equals, name = text.partition("=")
        if not (equals and name) or kind not in kinds:
            raise UserError(f"--report takes {' or '.join(f'{k}=FILE' for k in kinds)}, "
                            f"not '{text}'")  # fmt: skip
        path = Path(name)
        if not path.parent.is_dir():
            raise UserError(f"there is no folder {path.parent} to write {name} to")
        if kind in ("png", "svg") and path.suffix != f".{kind}":
            raise UserError(f"--report {kind}={name}: the file's name must end in .{kind}")
        found.append(Target(kind, path))
    return tuple(found)


def write_text(path: Path, text: str) -> None:
    """Write a report. Raises UserError if it cannot be written."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from None


def write_reports(targets: tuple[Target, ...], title: str, findings: Findings, json: str) -> None:
    """Write the report files asked for; `json` is the report as JSON."""
    from srcompile.report.html import Shown, html_report
    from srcompile.report.plot import save_plot

    for target in targets:
        if target.kind == "json":
            write_text(target.path, json)
        elif target.kind == "html":
            sweeps = (findings.sweep,) if findings.sweep else ()
            shown = Shown(title, findings.report, findings.routes, findings.suggestions, sweeps)
            write_text(target.path, html_report(title, [shown]))
        else:
            if findings.sweep is None:
                raise UserError(f"--report {target.kind}={target.path} draws a --sweep; give one")
            try:
                save_plot(findings.sweep, target.path)
            except OSError as error:
                raise UserError(f"{target.path} cannot be written: {error.strerror}") from None


def findings_data(findings: Findings) -> dict[str, Any]:
    """Return what findings add to the report as JSON."""
    from srcompile.report.data import routes_data, suggestions_data, sweep_data

    data: dict[str, Any] = {}
    if findings.routes is not None:
        data["routes"] = routes_data(findings.routes)
    if findings.suggestions is not None:
        data["suggestions"] = suggestions_data(findings.suggestions)
    if findings.sweep is not None:
        data["sweep"] = sweep_data(findings.sweep)
    return data
