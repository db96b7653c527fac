"""Throughput and latency of services under load: the digits pool, many clients at once.

    python -m tests.bench.throughput [--clients 1,2,4,8,16] [--seconds 4] [--repeats 5] [--json]

Dealer and both parties are processes of `srrun` on loopback with mutual TLS, and each client is a
process with one session, which runs inferences back to back. All sessions are open all the time;
in each repeat every number of clients has its turn for so many seconds, one client at a time being
the first. Printed are medians over the repeats: inferences a second, percentiles of what an
inference took its client, offline part and all, the CPU time that each role used for it, and how
many results were the label.

Beside the default there are other clusters, each with settings of its own, and all are measured in
turns: without batches (`alone`) and without TLS (`plain`). The last tables have the ratios of the
default to each of them. `--variant NAME:SETTING=VALUE,..` adds another, `--set SETTING=VALUE`
changes all. On a machine with few cores all roles and clients share them, so that one more client
is not a free one, and CPU time says more than the rate.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from srcompile.api import compile
from srcompile.frontend.model_file import load_model_file
from srcompile.runtime import deploy
from srcompile.runtime.program import Program, save
from srcompile.runtime.roles import LISTENING
from tests.support.services import Processes, config_file, settings_in

DIGITS = Path(__file__).parents[2] / "examples" / "digits"
PERCENTILES = (50, 90, 99)
VARIANTS: dict[str, dict[str, str]] = {
    "default": {},
    "alone": {"batch": "1"},
    "plain": {"insecure": "true"},
}
TICK_S = 1.0 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Turn:
    """What some clients measured at once: seconds of each inference, CPU seconds by role."""

    seconds: float
    took: tuple[float, ...]
    accuracy: float
    cpu: dict[str, float]

    @property
    def rate(self) -> float:
        """Inferences a second."""
        return len(self.took) / self.seconds

    @property
    def cpu_each(self) -> float:
        """CPU seconds of all roles for an inference."""
        return sum(self.cpu.values()) / len(self.took)

    def percentile(self, percent: float) -> float:
        """Return a percentile of what inferences took, in seconds."""
        return float(np.percentile(self.took, percent))


class Cluster:
    """Running services with a program deployed, and clients with open sessions."""

    def __init__(self, services: Processes, clients: list[subprocess.Popen[str]]) -> None:
        self.services, self.clients = services, clients

    def turn(self, count: int, seconds: float, labels: Sequence[int]) -> Turn:
        """Let the first `count` clients run inferences for so many seconds."""
        before = {role: _cpu_s(p.pid) for role, p in self.services.processes.items()}
        for client in self.clients[:count]:
            assert client.stdin is not None
            print(seconds, file=client.stdin, flush=True)
        found = [json.loads(_line(client)) for client in self.clients[:count]]
        cpu = {r: _cpu_s(p.pid) - before[r] for r, p in self.services.processes.items()}
        took = [s for one in found for s in one["took"]]
        classes = [pair for one in found for pair in one["classes"]]
        accuracy = sum(labels[row] == got for row, got in classes) / len(classes)
        return Turn(seconds, tuple(took), accuracy, cpu)


@contextlib.contextmanager
def cluster(
    program: Program, inputs: Path, clients: int, given: dict[str, str]
) -> Iterator[Cluster]:
    """Start services and clients, deploy the program, and open a session for each client."""
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        shown: dict[str, Any] = {"sessions": clients + 1, "log_level": "warning", **given}
        settings = settings_in(folder, **shown)
        services = stack.enter_context(Processes(folder, settings))
        deploy(program, settings)
        path = folder / "public.srp"
        save(program.without_weights(), path, weights=False)
        started = []
        for k in range(clients):
            config = {
                "program": str(path),
                "inputs": str(inputs),
                "settings": str(config_file(settings, folder, "client")),
                "first": 7 * k,
            }
            started.append(_start(config))
            stack.callback(_end, started[-1])
            assert _line(started[-1]) == "ready", "a client did not open its session"
        yield Cluster(services, started)


def _start(config: dict[str, Any]) -> subprocess.Popen[str]:
    client = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.throughput_client"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )
    assert client.stdin is not None
    print(json.dumps(config), file=client.stdin, flush=True)
    return client


def _end(client: subprocess.Popen[str]) -> None:
    assert client.stdin is not None
    assert client.stdout is not None
    client.stdin.close()
    client.wait(30)
    client.stdout.close()


def _line(client: subprocess.Popen[str]) -> str:
    assert client.stdout is not None
    return client.stdout.readline().strip()


def _cpu_s(pid: int) -> float:
    """Return the CPU time that a process has used, in user and system mode."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return TICK_S * (int(fields[11]) + int(fields[12]))


# -- figures --------------------------------------------------------------------------------------


def summary(turns: Sequence[Turn], ones: Sequence[Turn]) -> dict[str, Any]:
    """Return the medians of turns, and of their ratios to the one-at-a-time ones beside them."""
    inferences = [len(t.took) for t in turns]
    return {
        "rate": statistics.median(t.rate for t in turns),
        "against_one": statistics.median(
            t.rate / one.rate for t, one in zip(turns, ones, strict=True)
        ),
        "ms": {
            f"p{p}": 1e3 * statistics.median(t.percentile(p) for t in turns) for p in PERCENTILES
        },
        "cpu_ms": {
            role: 1e3
            * statistics.median(t.cpu[role] / n for t, n in zip(turns, inferences, strict=True))
            for role in LISTENING
        },
        "accuracy": statistics.median(t.accuracy for t in turns),
    }


def ratios(turns: Sequence[Turn], others: Sequence[Turn]) -> dict[str, float]:
    """Return the medians of ratios of turns to those beside them: rate, percentiles, CPU time."""
    pairs = list(zip(turns, others, strict=True))
    return {
        "rate": statistics.median(t.rate / o.rate for t, o in pairs),
        **{
            f"p{q}": statistics.median(t.percentile(q) / o.percentile(q) for t, o in pairs)
            for q in PERCENTILES
        },
        "cpu": statistics.median(t.cpu_each / o.cpu_each for t, o in pairs),
    }


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run everything and return the figures."""
    counts = sorted({1, *(int(n) for n in arguments.clients.split(","))})
    given = dict(pair.split("=", 1) for pair in arguments.set)
    variants = {name: VARIANTS[name] for name in ("default", *arguments.beside.split(",")) if name}
    variants |= dict(_variant(text) for text in arguments.variant)
    loaded = load_model_file(f"{DIGITS / 'model.py'}{arguments.model}")
    program = compile(
        loaded.model, loaded.example_inputs, calibration_inputs=loaded.calibration_inputs
    ).program
    from digits_data import test  # the model file's folder is importable now

    images, labels = (part.numpy() for part in test())
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        inputs = Path(folder) / "digits.npz"
        np.savez(inputs, image=images)
        clusters = {
            name: stack.enter_context(cluster(program, inputs, max(counts), {**given, **own}))
            for name, own in variants.items()
        }
        for found in clusters.values():
            found.turn(max(counts), arguments.seconds / 2, labels)  # warm up
        turns: dict[str, dict[int, list[Turn]]] = {
            name: {n: [] for n in counts} for name in clusters
        }
        for _ in range(arguments.repeats):
            for n in counts:
                for name, found in clusters.items():
                    turns[name][n].append(found.turn(n, arguments.seconds, labels))
    first = turns["default"]
    return {
        "variants": {
            name: {n: summary(those[n], those[1]) for n in counts} for name, those in turns.items()
        },
        "ratios": {
            name: {n: ratios(first[n], those[n]) for n in counts}
            for name, those in turns.items()
            if name != "default"
        },
    }


def _variant(text: str) -> tuple[str, dict[str, str]]:
    name, _, settings = text.partition(":")
    return name, dict(pair.split("=", 1) for pair in settings.split(",") if pair)


def print_figures(figures: dict[str, Any]) -> None:
    """Print tables as docs/performance.md has them."""
    head = ("clients", "inferences/s", "x one", "p50 ms", "p90 ms", "p99 ms")
    roles = tuple(f"{role} CPU ms" for role in LISTENING)
    for name, rows in figures["variants"].items():
        print(f"\n{name}\n\n| " + " | ".join((*head, *roles, "accuracy")) + " |")
        print("|" + "---|" * (len(head) + len(roles) + 1))
        for n, row in rows.items():
            cells = [str(n), f"{row['rate']:.1f}", f"{row['against_one']:.2f}"]
            cells += [f"{v:.1f}" for v in row["ms"].values()]
            cells += [f"{v:.2f}" for v in row["cpu_ms"].values()]
            print("| " + " | ".join((*cells, f"{row['accuracy']:.3f}")) + " |")
    for name, rows in figures["ratios"].items():
        print(f"\ndefault to {name}\n\n| clients | inferences/s | p50 | p90 | p99 | CPU |")
        print("|---|---|---|---|---|---|")
        for n, found in rows.items():
            print(f"| {n} | " + " | ".join(f"{v:.2f}" for v in found.values()) + " |")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", default="1,2,4,8,16", help="numbers of clients at once")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each turn")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--model", default="", help=":mlp, for one of the models alone")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--beside", default="alone,plain", help="of " + ", ".join(VARIANTS))
    parser.add_argument("--variant", action="append", default=[], metavar="NAME:SETTING=VALUE,..")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    figures = measure(arguments)
    if arguments.json:
        print(json.dumps(figures))
    else:
        print_figures(figures)


if __name__ == "__main__":
    main()
