"""Rounds are as few as dependences allow, and values that live at once have their own buffers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import networkx as nx
import numpy as np
import pytest

from srcompile.ir.graph import Module
from srcompile.passes.reuse_buffers import reuse_buffers
from srcompile.runtime.engine import Engine, Plan
from srcompile.runtime.isa import INSTRUCTIONS
from srcompile.runtime.kernels import load
from srcompile.runtime.plain import PlainRunner
from tests.support.builds import BUILDS, NETWORKS_BY_NAME, Build, compiled, session

each_program = pytest.mark.parametrize("build", BUILDS.values(), ids=str)


def longest_chain(module: Module, route: int | None) -> int:
    """Return the most messages on any path through `online` as it runs for a route."""
    graph = nx.DiGraph()
    router: list[str] = []
    for number, segment in enumerate(module.function("online").segments):
        if segment.route not in (None, route):
            continue
        for index, node in enumerate(segment.nodes):
            name = f"{number}.{index}"
            weight = 1 if node.op in ("open", "output", "route") else 0
            graph.add_node(node.out or name)
            before = [*node.inputs, *(router if segment.route is not None else [])]
            # the value is there after the message, so each edge into a message weighs one
            graph.add_edges_from(((i, node.out or name) for i in [*before, "start"]), weight=weight)
            if segment.route is None:
                router.append(node.out or name)
    return int(nx.dag_longest_path_length(graph))


@each_program
def test_rounds_are_the_longest_chain_of_messages(build: Build) -> None:
    stages = compiled(build)
    for route in {s.route for s in stages.cost.segments}:
        if route is None and len(stages.cost.segments) > 1:
            continue
        assert stages.cost.total(route).rounds == longest_chain(stages.lowered, route)


def test_two_branches_of_a_network_cost_no_more_rounds_than_one() -> None:
    both = compiled(BUILDS["two branches"]).cost.total().rounds
    assert both == compiled(BUILDS["gelu"]).cost.total().rounds


@each_program
def test_the_messages_of_a_round_stand_together_in_order(build: Build) -> None:
    for segment in compiled(build).schedule.function("online").segments:
        rounds = [n.attrs.get("round") for n in segment.nodes]
        numbers = [r for r in rounds if isinstance(r, int)]
        assert numbers == sorted(numbers)
        for r in set(numbers):
            places = [i for i, n in enumerate(rounds) if n == r]
            assert places == list(range(places[0], places[-1] + 1))


# -- buffers --------------------------------------------------------------------------------------

MAY_SHARE = frozenset({"offset", "add_common", "lift"})
"""Instructions that are no views, but hand their operand through for one of the parties."""


@each_program
@pytest.mark.parametrize("target", ["2pc", "plain"])
def test_values_that_live_at_once_have_different_buffers(build: Build, target: str) -> None:
    schedule = compiled(build, target).schedule
    plan = reuse_buffers(schedule)
    for function in schedule.functions:
        for segment in function.segments:
            root: dict[str, str] = {}
            made: dict[str, int] = {}
            last: dict[str, int] = {}
            for index, node in enumerate(segment.nodes):
                for name in node.inputs:
                    last[root.get(name, name)] = index
                if not node.out:
                    continue
                made[node.out] = last[node.out] = index
                if INSTRUCTIONS[node.op].view or node.op in MAY_SHARE:
                    first = node.inputs[0]
                    root[node.out] = root.get(first, first)
            in_buffer: dict[int, list[tuple[int, int, str]]] = {}
            for name, index in made.items():
                number = plan.of.get((function.name, name))
                if number is not None:
                    in_buffer.setdefault(number, []).append((index, last[name], name))
            for lives in in_buffer.values():
                lives.sort()
                for (_, end, first), (start, _, second) in pairwise(lives):
                    assert end < start, f"{function.name}: {first} and {second} share a buffer"


@each_program
def test_what_outlives_its_segment_has_no_buffer(build: Build) -> None:
    schedule = compiled(build).schedule
    plan = reuse_buffers(schedule)
    segments = schedule.function("online").segments
    made = {node.out: k for k, s in enumerate(segments) for node in s.nodes if node.out}
    prepared = {node.out for node in schedule.function("prepare").nodes()}
    for k, segment in enumerate(segments):
        for name in {i for node in segment.nodes for i in node.inputs}:
            if name in prepared:
                assert ("prepare", name) not in plan.of
            elif made.get(name, k) != k:
                assert ("online", name) not in plan.of


class Watch:
    """Checks that no array changes between being made and being used."""

    def __init__(self) -> None:
        self.kept: dict[int, tuple[Any, bytes]] = {}
        self.uses = 0
        self.lock = threading.Lock()

    def made(self, value: Any) -> None:
        if isinstance(value, np.ndarray):
            with self.lock:
                self.kept[id(value)] = (value, value.tobytes())

    def used(self, name: str, value: Any) -> None:
        with self.lock:
            array, before = self.kept.get(id(value), (None, b""))
        if array is not None and array is value:
            self.uses += 1
            assert value.tobytes() == before, f"{name} was overwritten before its last use"


@contextmanager
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watch]:
    watch = Watch()

    def watched_run(self: Engine, plan: Plan, run: Any) -> None:
        for step in plan:
            for name in step.reads:
                watch.used(name, run.env[name])
            step.action(run)
            for name in step.makes:
                watch.made(run.env[name])
            for name in step.drops:
                del run.env[name]

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "run", watched_run)
        yield watch


@pytest.mark.parametrize("build", NETWORKS_BY_NAME.values(), ids=str)
def test_no_value_changes_while_it_lives(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    with watched(monkeypatch) as watch:
        local = session(compiled(build).program, 3)
        runner = PlainRunner(compiled(build, "plain").program, load())
        for sample in build.samples[:3]:
            local.infer(sample)
            runner.infer(sample)
    assert watch.uses > 50
