"""The target `compare`: reports of programs that come from files."""

from __future__ import annotations

import io
import random
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console

from srcompile.passes.cost import NETWORKS, estimate_cost
from srcompile.passes.machine import machines
from srcompile.report.data import report_data
from srcompile.report.figures import cost_report
from srcompile.report.html import Shown, html_report
from srcompile.report.routing import route_costs
from srcompile.report.terminal import print_comparison
from srcompile.runtime.errors import ProgramError
from srcompile.runtime.profiles import BUILT_IN
from srcompile.runtime.program import dumps, load
from srcompile.runtime.services.limits import silence_limit
from srcompile.runtime.services.memory import session_bytes
from tests.fuzz.harness import Parser, Target
from tests.fuzz.programs import changed_file, programs, variant

LINKS = tuple(NETWORKS.values())


def _open_compare(folder: Path, stack: ExitStack) -> Parser:
    samples = programs()
    files, file, computing = [dumps(p) for p in samples], folder / "a.srp", machines((BUILT_IN,))

    def parse(rng: random.Random) -> None:
        if rng.random() < 0.5:
            file.write_bytes(changed_file(rng, rng.choice(files)))
        else:
            file.write_bytes(dumps(variant(rng, rng.choice(samples))))
        program = load(str(file))
        if program.target == "2pc":  # what a service asks of a program
            silence_limit(program, 1.0)
            session_bytes(program, 1 << 20)
        report = cost_report(estimate_cost(program, rng.choice(LINKS), computing), program)
        if rng.random() < 0.1:
            html_report("a", [Shown("a", report, route_costs(report))])
        report_data(report)
        print_comparison(Console(file=io.StringIO()), ["a", "b"], [report, report])

    return parse


TARGETS = (Target("compare", (ProgramError,), _open_compare, 2 << 30),)
