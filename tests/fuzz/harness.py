"""The fuzz harness: cases that follow from a seed and a number, run under a limit of memory.

A target draws an input and parses it. What it is held to: the input parses, or one of the target's
errors is raised; no other exception, no crash, no large allocation, no hang.
"""

from __future__ import annotations

import contextlib
import itertools
import mmap
import random
import resource
import signal
import struct
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

Parser = Callable[[random.Random], None]
"""Draws an input and parses it."""

ROOT = Path(__file__).parents[2]
HANG_S = 60.0  # CPU time of one case
SILENT_S = 300.0  # how long a case may take in any way
LONG_S = 5.0  # as how many seconds of a run a case counts at most
START_S = 5.0  # as how many seconds of a run a process that crashes counts


@dataclass(frozen=True)
class Target:
    """A parser with its documented errors.

    `open` sets it up, in a folder of its own; what is to be closed at the end goes on the stack.

    `memory` are the bytes of address space that it may take besides those taken before. How long it
    has run is CPU time, unless it `waits` for its peer or a disk most of the time.
    """

    name: str
    errors: tuple[type[Exception], ...]
    open: Callable[[Path, contextlib.ExitStack], Parser]
    memory: int = 512 << 20
    waits: bool = False

    def clock(self) -> float:
        """Return the seconds that count for a run: those of wall time only where it waits."""
        return time.monotonic() if self.waits else time.process_time()


@dataclass(frozen=True)
class Finding:
    """A case that breaks the rule, and how."""

    target: str
    seed: int
    case: int
    what: str
    place: str = ""  # those of one place are one finding

    def __str__(self) -> str:
        again = f"python -m tests.fuzz {self.target} --seed {self.seed} --case {self.case}"
        return f"{self.target}, case {self.case}: {self.what}\n  again: {again}"


def run_case(target: Target, parser: Parser, seed: int, case: int) -> Finding | None:
    """Run one case; return what is wrong with it, if anything."""
    try:
        parser(random.Random(f"{target.name} {seed} {case}"))
    except target.errors:
        return None
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{type(error).__name__} in {Path(last.filename).name}:{last.lineno}"
        return Finding(target.name, seed, case, f"{place}: {error}"[:400], place)
    return None


@contextlib.contextmanager
def limited_memory(extra: int) -> Iterator[None]:
    """Let this process take so many bytes of address space more than it has."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * mmap.PAGESIZE + extra, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def run_cases(target: Target, folder: Path, seed: int, count: int) -> list[Finding]:
    """Run the cases 0 to count - 1 in this process."""
    with contextlib.ExitStack() as stack:
        parser = target.open(folder, stack)
        stack.enter_context(limited_memory(target.memory))
        found = (run_case(target, parser, seed, case) for case in range(count))
        return [finding for finding in found if finding is not None]


# -- for long runs: a process for each target, and one that watches it -----------------------------


_PROGRESS = struct.Struct(">Qd")  # the case that runs, and the seconds before it
_FLAGS = ["-P", "-S"] if sys.flags.no_site else []


def serve(
    target: Target, seed: int, first: int, seconds: float, progress: Path, limited: bool
) -> None:
    """Run cases from `first` until they took so many seconds, and print what is found.

    The number of the case that runs, and the seconds so far, are in the file `progress`.
    """
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="fuzz-"))
        file = stack.enter_context(open(progress, "r+b"))
        parser = target.open(Path(folder), stack)
        shown, seen, used = mmap.mmap(file.fileno(), _PROGRESS.size), set[str](), 0.0
        if limited:
            stack.enter_context(limited_memory(target.memory))
        for case in itertools.count(first):
            shown[:] = _PROGRESS.pack(case, used)
            if used >= seconds:
                return
            began = target.clock()
            finding = run_case(target, parser, seed, case)
            used += min(target.clock() - began, LONG_S)
            if finding is not None and finding.place not in seen:
                seen.add(finding.place)
                print(finding, flush=True)


@dataclass(frozen=True)
class Summary:
    """A long run of a target."""

    target: str
    cases: int
    seconds: float
    findings: tuple[str, ...]


def watch(name: str, seed: int, seconds: float, limited: bool = True) -> Summary:
    """Run a target in processes for so long; one that crashes or hangs is a finding, and goes on.

    A process that is stopped for a while is not taken for one that hangs.
    """
    case, used, findings = 0, 0.0, []
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        progress, said = Path(folder) / "case", Path(folder) / "said"
        while used < seconds:
            progress.write_bytes(_PROGRESS.pack(case, 0.0))
            command = [sys.executable, *_FLAGS, "-m", "tests.fuzz", name, "--seed", str(seed),
                       "--serve", str(progress), "--first", str(case),
                       "--seconds", str(seconds - used),
                       *([] if limited else ["--no-limit"])]  # fmt: skip
            with open(said, "w") as out:
                process = subprocess.Popen(
                    command, stdout=out, stderr=subprocess.STDOUT, cwd=ROOT, text=True
                )
                hung = _wait(process, progress)
            text = said.read_text(errors="replace").strip()
            case, counted = _PROGRESS.unpack(progress.read_bytes())
            used += counted
            if text:
                findings.append(text)
            if process.returncode:
                used += HANG_S if hung else START_S
                how = "hangs" if hung else f"ended with {process.returncode}"
                findings.append(str(Finding(name, seed, case, how)))
                case += 1
    return Summary(name, case, used, tuple(findings))


def _wait(process: subprocess.Popen[str], progress: Path) -> bool:
    """Wait for a process; return whether it was killed because a case took too long."""
    case, since, silent = b"", 0.0, 0.0
    while process.poll() is None:
        time.sleep(0.2)
        silent += 0.2  # in which this process, too, was not stopped
        now, used = progress.read_bytes(), _cpu_seconds(process.pid)
        if now != case:
            case, since, silent = now, used, 0.0
        elif used - since > HANG_S or silent > SILENT_S:
            process.send_signal(signal.SIGKILL)
            process.wait()
            return True
    return False


def _cpu_seconds(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / 100
