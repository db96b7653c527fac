"""Material of real processes: in memory, on disk or while running; exact counts, clear errors."""

from __future__ import annotations

import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from srcompile.ops import registry
from srcompile.ops.builder import GraphBuilder
from srcompile.ops.interpreter import evaluate
from srcompile.passes.cost import NETWORKS
from srcompile.passes.pipeline import Options, run_pipeline
from srcompile.runtime.client import send_inputs
from srcompile.runtime.cluster import LocalCluster
from srcompile.runtime.errors import ProtocolError, SpoolError
from srcompile.runtime.material import material_bytes, rounds_of
from srcompile.runtime.progress import Progress
from tests.support.builds import BUILDS, PRECISE, Build, compiled

BUILD = BUILDS["deep"]
STAGES = compiled(BUILD)
MODES: dict[str, dict[str, Any]] = {
    "in memory": {},
    "on disk": {"memory": 0},
    "while running": {"running": True},
    "while running, no memory": {"running": True, "memory": 0},
}
each_mode = pytest.mark.parametrize("mode", MODES.values(), ids=MODES)


@each_mode
@pytest.mark.parametrize("name", ["deep", "pool"])
def test_results_and_counters_are_the_same_wherever_material_is(
    name: str, mode: dict[str, Any], tmp_path: Path
) -> None:
    build = BUILDS[name]
    stages = compiled(build)
    program, cost = stages.program, stages.cost
    stocked: set[int] = set()
    with LocalCluster(program, spool=tmp_path, **mode) as cluster:
        for sample in build.samples[:3]:
            result = cluster.infer(sample)
            want, route = evaluate(build.module, sample, registry())
            assert result.route == route
            np.testing.assert_allclose(result.outputs["y"], want["y"], atol=0.02)
            assert result.online_bytes == cost.total(route).online_bytes
            assert result.rounds == cost.total(route).rounds
            dealt = [k for k in range(len(program.segments)) if k not in stocked]
            stocked = {k for k, s in enumerate(program.segments) if s.route not in (None, route)}
            want_bytes = np.sum([material_bytes(program, k) for k in dealt], axis=0)
            assert result.offline_bytes == tuple(want_bytes)
            assert set(result.memory) == {"client", "dealer", "party0", "party1"}
            assert min(result.memory.values()) > 10 << 20
            assert result.dealer_s > 0
        (folder,) = tmp_path.iterdir()
        # what lies on disk is material of branches that have not run, and nothing is beside it
        files = [path for path in folder.rglob("*") if path.is_file()]
        assert not files or ("memory" in mode and len(stocked) > 0)
    assert list(tmp_path.iterdir()) == []


def _wide() -> Build:
    """Gates on so many elements that their keys outweigh everything else."""
    b = GraphBuilder(registry())
    x = b.emit("input", [], {"name": "x", "shape": (1, 1 << 16)}, "%x")
    for _ in range(8):
        x = b.emit("offset", [b.emit("relu", [x])], {"by": -0.5})
    b.emit("output", [x], {"name": "y"})
    b.end_segment("main")
    rng = np.random.default_rng(1)
    samples = [{"x": rng.uniform(-2, 2, (1, 1 << 16)).astype(np.float32)} for _ in range(2)]
    return Build("wide", b.module(), tuple(samples))


def test_a_party_with_little_memory_takes_less() -> None:
    # given a program whose material is large
    build = _wide()
    options = Options("2pc", NETWORKS["lan"], PRECISE)
    program = run_pipeline(build.module, build.samples, registry(), options).program
    size = min(material_bytes(program, 0))
    assert size > 60_000_000
    # when it runs with memory, on disk, and while running
    peaks = []
    for mode in (MODES[name] for name in ("in memory", "on disk", "while running, no memory")):
        with LocalCluster(program, **mode) as cluster:
            results = [cluster.infer(sample) for sample in build.samples]
        peaks.append([results[-1].memory[role] for role in ("party0", "party1", "dealer")])
    # then the parties take as much less as the material is, but for the chunks in use
    for party in (0, 1):
        assert peaks[1][party] < peaks[0][party] - size // 2
        assert peaks[2][party] < peaks[0][party] - size // 2
    # and the dealer never has it as a whole
    assert all(peak[2] < peaks[0][0] - size // 2 for peak in peaks)


def when_ready(monkeypatch: pytest.MonkeyPatch, work: Callable[[], None]) -> None:
    """Do `work` when material is there, before the client sends its inputs."""

    def sent(*arguments: Any) -> None:
        work()
        send_inputs(*arguments)

    monkeypatch.setattr("srcompile.runtime.cluster.send_inputs", sent)


def test_material_on_disk_is_private_and_gone_after_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def look() -> None:
        for path in tmp_path.rglob("*"):
            assert path.stat().st_mode & 0o077 == 0
            seen.append(path.is_file())

    when_ready(monkeypatch, look)
    with LocalCluster(STAGES.program, memory=0, spool=tmp_path) as cluster:
        cluster.infer(BUILD.samples[0])
        assert sum(seen) > 4
        assert not any(path.is_file() for path in tmp_path.rglob("*"))


CHANGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "changed": (lambda path: path.write_bytes(path.read_bytes()[::-1]), "not as it was written"),
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:-1]), "not as it was written"),
    "removed": (lambda path: path.unlink(), "cannot be read: No such file or directory"),
}


@pytest.mark.parametrize(("change", "message"), CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("party", [0, 1])
def test_a_file_that_somebody_changed_ends_the_session(
    change: Callable[[Path], Any],
    message: str,
    party: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # given material on disk, the last file of which somebody changes
    def tamper() -> None:
        files = tmp_path.rglob(f"party{party}/record-*")
        change(max(files, key=lambda path: int(path.name.rpartition("-")[2])))

    when_ready(monkeypatch, tamper)
    with LocalCluster(STAGES.program, memory=0, spool=tmp_path) as cluster:
        # when it is used, then the session ends and says why, and nothing is left
        with pytest.raises(ProtocolError, match=message) as caught:
            cluster.infer(BUILD.samples[0])
        assert f"party{party}: " in str(caught.value)
        assert cluster._processes == {}
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_ends_the_session(tmp_path: Path) -> None:
    with LocalCluster(STAGES.program, memory=0, spool=tmp_path) as cluster:
        # given a party that can write no more than a few bytes to a file
        pid = cluster._processes["party1"].pid
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (64, 64))
        # when material comes, then the session ends and says what would do
        with pytest.raises(ProtocolError, match="party1: the folder for offline material") as found:
            cluster.infer(BUILD.samples[0])
        assert "cannot be written to" in str(found.value)
        assert "give one with room on another disk, or more memory" in str(found.value)


def test_a_folder_for_material_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    cluster = LocalCluster(STAGES.program, spool=tmp_path / "nowhere")
    with pytest.raises(SpoolError, match="nowhere cannot be used: No such file"), cluster:
        pass
    assert cluster._processes == {}


@pytest.mark.parametrize("role", ["dealer", "party0", "party1"])
def test_a_process_that_dies_while_material_is_dealt_ends_the_run(role: str) -> None:
    with LocalCluster(STAGES.program, running=True, memory=0) as cluster:
        cluster.infer(BUILD.samples[0])
        cluster._processes[role].kill()
        with pytest.raises(ProtocolError, match=r"the dealer|party 0|party 1"):
            cluster.infer(BUILD.samples[0])
        assert cluster._processes == {}


@each_mode
def test_progress_never_goes_back_and_ends_with_every_round(
    mode: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Progress] = []
    with LocalCluster(STAGES.program, watch=told.append, **mode) as cluster:
        cluster.infer(BUILD.samples[0])
    for phase in ("setup", "offline", "online"):
        done = [progress.done for progress in told if progress.phase == phase]
        assert done == sorted(done)
        assert all(p.done <= p.total for p in told if p.phase == phase)
    total = rounds_of(STAGES.program)
    assert told[-1] == Progress("online", total, total)
    assert [p.phase for p in told] == sorted(
        (p.phase for p in told), key="setup offline online".find
    )
