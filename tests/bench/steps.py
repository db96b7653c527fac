"""Where a party's time goes: each step of its plan timed, beside what a profile projects for it.

    python tests/bench/steps.py NODE_REPORT    is a role's process, started by `print_steps`

CPU time is what is timed, and the least of some inferences is shown, so that a busy machine
disturbs little; reading the clock takes about half a microsecond of each step.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[2])

MESSAGES = ("open", "route", "output")
TURNS = 4


def label(i: Any, types: dict[str, Any]) -> str:
    """Return what an instruction is called in the table: its op and types."""
    if i.op in MESSAGES:
        return "messages"
    operands = ", ".join(str(types[name]) for name in i.inputs if name in types)
    return f"{i.op}({operands}) -> {i.type}"


def print_steps(program: Any, inputs: dict[str, Any], machine: Any, rows: int = 24) -> None:
    """Print the steps that take most, then each op: CPU milliseconds, projected, their ratio."""
    from srcompile.passes.machine import Timer

    timed = _timed(program, inputs)
    timer, types = Timer(program, machine, 0), program.types("online")
    projected: dict[str, float] = {}
    for _, i in program.instructions("online"):
        name = label(i, types)
        projected[name] = projected.get(name, 0.0) + timer.seconds(i)
    ops: dict[str, tuple[float, float]] = {}
    shown = sorted(projected, key=lambda name: -timed.get(name, 0.0))
    for name in shown:
        op = name.partition("(")[0]
        took, seconds = ops.get(op, (0.0, 0.0))
        ops[op] = (took + timed.get(name, 0.0), seconds + projected[name])
    for name in shown[:rows]:
        _print_row(timed.get(name, 0.0), projected[name], name)
    print()
    for op, (took, seconds) in sorted(ops.items(), key=lambda item: -item[1][0]):
        _print_row(took, seconds, op)
    _print_row(timed["all"] - timed["exchange"], sum(projected.values()), "all but exchanges")
    _print_row(timed["exchange"], 0.0, "exchanges")


def _print_row(took: float, seconds: float, name: str) -> None:
    ratio = f"{seconds / took:6.2f}" if took else f"{'':>6}"
    print(f"{1e3 * took:9.3f} {1e3 * seconds:9.3f} {ratio}  {name[:150]}")


def _timed(program: Any, inputs: dict[str, Any]) -> dict[str, float]:
    """Return party 0's CPU seconds of each kind of step, the least of some inferences."""
    from srcompile.runtime import cluster

    with TemporaryDirectory() as folder:
        with _nodes(cluster, Path(folder)), cluster.LocalCluster(program) as session:
            for _ in range(TURNS):
                session.infer(inputs)
        turns: list[dict[str, float]] = json.loads((Path(folder) / "1.json").read_text())
    return {name: min(turn[name] for turn in turns) for name in turns[-1]}


@contextmanager
def _nodes(cluster: Any, folder: Path) -> Iterator[None]:
    """Let the cluster start its roles by way of this file."""
    popen = subprocess.Popen
    started = iter(range(3))  # the dealer, party 0, party 1

    def start(command: list[str], **named: Any) -> Any:
        return popen([command[0], __file__, str(folder / f"{next(started)}.json")], **named)

    cluster.subprocess.Popen = start
    try:
        yield
    finally:
        cluster.subprocess.Popen = popen


def be_a_node(report: Path) -> None:
    """Be a role, as standard input says, and write what each step of each inference took."""
    from srcompile.runtime import node
    from srcompile.runtime.channels.tcp import TcpChannel
    from srcompile.runtime.engine import Engine
    from srcompile.runtime.party import Party

    clock, timed = time.thread_time, dict[str, float]()
    turns: list[dict[str, float]] = []

    def clocked(name: str, function: Any) -> Any:
        def timing(*args: Any) -> Any:
            start = clock()
            try:
                return function(*args)
            finally:
                timed[name] = timed.get(name, 0.0) + clock() - start

        return timing

    bind, exchange, infer = Engine.step, Party._exchange, Party.infer

    def step(self: Any, phase: str, i: Any, own: Any, arena: Any) -> Any:
        bound = bind(self, phase, i, own, arena)
        if phase != "online":
            return bound
        name = label(i, self._types[phase])
        return replace(bound, action=clocked(name, bound.action))

    def messages(self: Any, of_round: Any) -> Any:
        steps = exchange(self, of_round)
        return [replace(step, action=clocked("messages", step.action)) for step in steps]

    def inference(self: Any, *args: Any) -> Any:
        timed.clear()
        timed["exchange"] = 0.0
        result = clocked("all", infer)(self, *args)
        turns.append(dict(timed))
        return result

    replaced: list[tuple[type, str, Any]] = [
        (Engine, "step", step),
        (Party, "_exchange", messages),
        (Party, "infer", inference),
        (TcpChannel, "exchange", clocked("exchange", TcpChannel.exchange)),
    ]
    for owner, name, function in replaced:
        setattr(owner, name, function)
    node.main()
    report.write_text(json.dumps(turns))


if __name__ == "__main__":
    be_a_node(Path(sys.argv[1]))
