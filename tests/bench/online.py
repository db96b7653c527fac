"""Online time of the digits example over loopback, and where a party's time goes.

    python tests/bench/online.py [--against PYTHON] [--models mlp,pool] [--count 40] [--turns 5]

Dealer, parties and client are processes of their own. `--against` names an interpreter in which
another checkout is installed: each tree compiles the models itself, and both run in turns (this,
other, this, ..), so that a busy machine disturbs them alike. Times are medians over all inferences,
of party 0's `infer`: CPU time, and wall time with what it waits; `client` is the client's wall time
for the online phase. The profile comes from runs of its own, in which every kernel and every
message is timed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

MODELS = ("mlp", "small_cnn", "large_cnn", "pool")
DIGITS = Path(__file__).parents[2] / "examples" / "digits"
WARM_UP = 5  # inferences of each session that are not counted

KERNEL_GROUPS = {
    "matmul": "gemm",
    "conv2d": "conv",
    "dpf_table": "dpf",
    "dcf_eval": "dcf",
    "relu": "dcf",
    "pack": "pack",
    "add_pack": "pack",
    "unpack": "pack",
    "unpack_add": "pack",
}
GROUPS = ("gemm", "conv", "dpf", "dcf", "pack", "other kernels", "Python", "system calls")

Figures = dict[str, list[float]]


# -- in a party's process --------------------------------------------------------------------------


class Clock:
    """What `Party.infer` took, in seconds: CPU, wall, and, if it is profiled, each group."""

    def __init__(self) -> None:
        self.figures: Figures = {}
        self._group: dict[str, float] | None = None  # of the inference that runs now
        self._inside = False

    def add(self, name: str, seconds: float) -> None:
        if self._group is not None:
            self._group[name] = self._group.get(name, 0.0) + seconds

    def inference(self, infer: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any) -> Any:
            self._group = {}
            wall, cpu = time.perf_counter(), time.process_time()
            result = infer(*args)
            self.add("cpu", time.process_time() - cpu)
            self.add("wall", time.perf_counter() - wall)
            for name, seconds in self._group.items():
                self.figures.setdefault(name, []).append(seconds)
            self._group = None
            return result

        return timed

    def kernel(self, group: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **named: Any) -> Any:
            if self._inside:  # a kernel that calls another
                return function(*args, **named)
            self._inside = True
            start = time.perf_counter()
            try:
                return function(*args, **named)
            finally:
                self.add(group, time.perf_counter() - start)
                self._inside = False

        return timed

    def message(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any) -> Any:
            wall, cpu = time.perf_counter(), time.process_time()
            try:
                return function(*args)
            finally:
                used = time.process_time() - cpu
                self.add("system calls", used)
                self.add("waiting", time.perf_counter() - wall - used)

        return timed


def run_node(report: Path, profile: bool) -> None:
    """Be a role, as standard input says, and write what `Party.infer` took into `report`."""
    from srcompile.runtime import node
    from srcompile.runtime.channels.tcp import TcpChannel
    from srcompile.runtime.kernels import load
    from srcompile.runtime.party import Party

    clock = Clock()
    if profile:
        kernels = type(load())
        for name, function in list(vars(kernels).items()):
            if callable(function) and not name.startswith("_"):
                group = KERNEL_GROUPS.get(name, "other kernels")
                setattr(kernels, name, clock.kernel(group, function))
        for name in ("send", "receive", "exchange"):
            setattr(TcpChannel, name, clock.message(getattr(TcpChannel, name)))
    Party.infer = clock.inference(Party.infer)  # type: ignore[method-assign]
    node.main()
    report.write_text(json.dumps(clock.figures))


# -- one session -----------------------------------------------------------------------------------


def run_session(program: Path, inputs: Path, count: int, profile: bool) -> Figures:
    """Return the seconds of party 0 and of the client for `count` inferences, after warming up."""
    from srcompile.runtime import cluster
    from srcompile.runtime.program import load

    images = np.load(inputs)["image"]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "party0.json"
        with _nodes(cluster, Path(folder), profile), cluster.LocalCluster(load(program)) as session:
            client = [
                session.infer({"image": images[k % len(images)][None]}).online_s
                for k in range(WARM_UP + count)
            ]
        figures: Figures = json.loads(report.read_text())
    figures["client"] = client
    return {name: seconds[WARM_UP:] for name, seconds in figures.items()}


@contextmanager
def _nodes(cluster: Any, folder: Path, profile: bool) -> Iterator[None]:
    """Let the cluster start its roles by way of `run_node`."""
    popen = subprocess.Popen

    def start(command: list[str], **named: Any) -> Any:
        role = len(list(folder.iterdir()))  # the dealer, party 0, party 1
        report = folder / f"{('dealer', 'party0', 'party1')[role]}.json"
        report.touch()
        mode = ["--profile"] if profile else []
        return popen([command[0], __file__, "--node", str(report), *mode], **named)

    original, cluster.subprocess.Popen = cluster.subprocess.Popen, start
    try:
        yield
    finally:
        cluster.subprocess.Popen = original


@dataclass(frozen=True)
class Tree:
    """A checkout: an interpreter that has it installed, and a folder for what it compiles."""

    python: str
    folder: Path

    def compile(self, names: list[str]) -> None:
        """Compile the models with this tree."""
        self.folder.mkdir()
        self._run("--compile", str(self.folder), "--models", ",".join(names))

    def session(self, name: str, count: int, profile: bool = False) -> Figures:
        """Run a session of a model."""
        program, inputs = self.folder / f"{name}.srp", self.folder / "images.npz"
        options = ["--inputs", str(inputs), "--count", str(count)]
        options += ["--profile"] if profile else []
        figures: Figures = json.loads(self._run("--session", str(program), *options))
        return figures

    def _run(self, *arguments: str) -> str:
        command = [self.python, __file__, *arguments]
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


# -- the table -------------------------------------------------------------------------------------


def compile_models(names: list[str], folder: Path) -> None:
    """Write one program for each model, and the test images."""
    sys.path.insert(0, str(DIGITS))
    from digits_data import test

    from srcompile.api import compile
    from srcompile.frontend.model_file import load_model_file

    digits = import_module("model")
    loaded = load_model_file(str(DIGITS / "model.py"))
    for name in names:
        module = digits.model() if name == "pool" else getattr(digits, name)()
        samples = loaded.calibration_inputs
        compiled = compile(module, loaded.example_inputs, calibration_inputs=samples)
        compiled.save(folder / f"{name}.srp")
    np.savez(folder / "images.npz", image=test()[0].numpy()[:40])


def _merge(turns: list[Figures]) -> dict[str, float]:
    """Return the median of each figure in milliseconds, over all turns."""
    names = dict.fromkeys(name for figures in turns for name in figures)
    return {
        name: 1e3 * statistics.median([s for figures in turns for s in figures.get(name, [])])
        for name in names
    }


def _grouped(medians: dict[str, float]) -> dict[str, float]:
    """Return the milliseconds of each group of a profile; what no group timed is Python's."""
    found = {group: medians.get(group, 0.0) for group in GROUPS}
    timed = sum(found.values()) + medians.get("waiting", 0.0)
    found["Python"] = max(0.0, medians["wall"] - timed)
    return {**found, "waiting": medians.get("waiting", 0.0)}


def main() -> int:
    """Print the times of each model, ratios if another tree is measured too, and the profiles."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--against", help="an interpreter with another checkout installed")
    parser.add_argument("--models", default=",".join(MODELS), help="a list with commas")
    parser.add_argument("--count", type=int, default=40, help="inferences in a session")
    parser.add_argument("--turns", type=int, default=5, help="sessions of each tree and model")
    parser.add_argument("--profile", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--session", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--compile", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--inputs", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--node", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.node:
        run_node(options.node, options.profile)
        return 0
    if options.session:
        figures = run_session(options.session, options.inputs, options.count, options.profile)
        json.dump(figures, sys.stdout)
        return 0

    names = options.models.split(",")
    if options.compile:
        compile_models(names, options.compile)
        return 0

    with tempfile.TemporaryDirectory() as folder:
        trees = {"this": Tree(sys.executable, Path(folder) / "this")}
        if options.against:
            trees["other"] = Tree(options.against, Path(folder) / "other")
        for tree in trees.values():
            tree.compile(names)
        print(f"{'model':<10} {'tree':<6} {'party CPU':>10} {'party wall':>11} {'client':>8}   ms")
        profiles = {}
        for name in names:
            turns: dict[str, list[Figures]] = {label: [] for label in trees}
            profiled: dict[str, list[Figures]] = {label: [] for label in trees}
            for turn in range(options.turns):
                for label, tree in trees.items():
                    turns[label].append(tree.session(name, options.count))
                    if turn < 2:
                        profiled[label].append(tree.session(name, options.count, profile=True))
            medians = {label: _merge(figures) for label, figures in turns.items()}
            for label, m in medians.items():
                print(
                    f"{name:<10} {label:<6} {m['cpu']:10.3f} {m['wall']:11.3f} {m['client']:8.3f}"
                )
            if options.against:
                ratios = [
                    medians["other"][k] / medians["this"][k] for k in ("cpu", "wall", "client")
                ]
                print(f"{'':<10} {'ratio':<6} {ratios[0]:10.2f} {ratios[1]:11.2f} {ratios[2]:8.2f}")
            profiles[name] = {
                label: _grouped(_merge(figures)) for label, figures in profiled.items()
            }
        print("\nwhere party 0's time goes, ms of wall time, every kernel and message timed")
        columns = [*GROUPS, "waiting"]
        print(f"{'model':<10} {'tree':<6} " + " ".join(f"{c:>13}" for c in columns))
        for name, by_tree in profiles.items():
            for label, groups in by_tree.items():
                row = " ".join(f"{groups[c]:13.3f}" for c in columns)
                print(f"{name:<10} {label:<6} {row}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
