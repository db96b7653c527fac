"""The report on a terminal, as golden text; SRCOMPILE_REWRITE_GOLDEN=1 writes it anew."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from rich.console import Console

from srcompile.report.routing import route_costs
from srcompile.report.terminal import print_comparison, print_gates, print_report, print_sweep
from tests.report import samples
from tests.support.golden import REWRITE

GOLDEN = Path(__file__).parent / "golden"

Show = Callable[[Console], None]


def _routed(console: Console) -> None:
    report = samples.pool()
    print_report(console, "pool.py", report, routes=route_costs(report, (0.75, 0.25)))


def _comparison(console: Console) -> None:
    print_comparison(console, ["a.srp", "b.srp"], [samples.encoder(), samples.pool()])


CASES: Mapping[str, tuple[int, Show]] = {
    "folded": (110, lambda c: print_report(c, "net.py", samples.encoder())),
    "narrow": (80, lambda c: print_report(c, "net.py", samples.encoder())),
    "two_levels": (110, lambda c: print_report(c, "net.py", samples.encoder(), layers=2)),
    "everything": (110, lambda c: print_report(c, "net.py", samples.encoder(), layers="all")),
    "pool": (110, lambda c: print_report(c, "pool.py", samples.pool())),
    "pool_with_routes": (110, _routed),
    "suggestions": (
        110,
        lambda c: print_report(c, "net.py", samples.encoder(), suggestions=samples.suggestions()),
    ),
    "sweep": (110, lambda c: print_sweep(c, samples.sweep())),
    "comparison": (110, _comparison),
    "gates": (110, lambda c: print_gates(c, samples.encoder().gates)),
}


def printed(name: str) -> str:
    """Return what is printed, without spaces at the ends of lines."""
    width, show = CASES[name]
    console = Console(width=width, file=io.StringIO(), record=True, color_system=None)
    show(console)
    return "\n".join(line.rstrip() for line in console.export_text().splitlines()) + "\n"


@pytest.mark.parametrize("name", CASES)
def test_the_report_reads_as_it_should(name: str) -> None:
    path = GOLDEN / f"{name}.txt"
    if os.environ.get(REWRITE):
        path.write_text(printed(name), encoding="utf-8")
    assert printed(name) == path.read_text(encoding="utf-8")


def test_every_golden_text_has_a_case() -> None:
    assert {path.stem for path in GOLDEN.glob("*.txt")} == set(CASES)
