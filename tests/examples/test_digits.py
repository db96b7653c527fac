"""The digits example, whole: every image of the test split, under 2pc, against plaintext."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch

from srcompile import Pool
from srcompile.api import Compiled, compile
from srcompile.frontend.model_file import load_model_file
from srcompile.ir.parser import parse_module
from srcompile.ops import registry
from srcompile.ops.interpreter import evaluate
from srcompile.passes.check_leakage import verify_lowered_text
from srcompile.passes.emit_program import emit_program
from srcompile.runtime.kernels import load
from srcompile.runtime.local import LocalSession, Result
from srcompile.runtime.program import Program
from tests.support.counted import dealt_by_layer, rounds_by_layer

FOLDER = Path(__file__).parents[2] / "examples" / "digits"
MODEL = FOLDER / "model.py"


@dataclass(frozen=True)
class Digits:
    pool: Pool
    compiled: Compiled
    images: np.ndarray[Any, Any]
    labels: np.ndarray[Any, Any]


@pytest.fixture(scope="module")
def digits() -> Digits:
    loaded = load_model_file(str(MODEL))
    sys.path.insert(0, str(FOLDER))
    try:
        from digits_data import test as test_split
    finally:
        sys.path.remove(str(FOLDER))
    images, labels = test_split()
    compiled = compile(
        loaded.model, loaded.example_inputs, calibration_inputs=loaded.calibration_inputs
    )
    assert isinstance(loaded.model, Pool)
    return Digits(loaded.model, compiled, images.numpy(), labels.numpy())


@pytest.fixture(scope="module")
def secure(digits: Digits) -> list[Result]:
    session = LocalSession(digits.compiled.program, load())
    return [session.infer({"image": image[None]}) for image in digits.images]


def _float_run(digits: Digits) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return routes and decisions of the modules as PyTorch runs them."""
    x = torch.from_numpy(digits.images)
    costs = torch.from_numpy(
        np.asarray(digits.compiled.stages.graph.consts["@route.costs"].data)
    ).reshape(-1)
    with torch.no_grad():
        routes = (digits.pool.router(x) - costs).argmax(1).numpy()
        decisions = np.stack([m(x).argmax(1).numpy() for m in digits.pool.models.values()])
    return routes, decisions[routes, np.arange(len(routes))]


def test_secure_decisions_and_routes_equal_those_of_the_quantised_reference(
    digits: Digits, secure: list[Result]
) -> None:
    fixed = digits.compiled.stages.fixed
    for number, (image, result) in enumerate(zip(digits.images, secure, strict=True)):
        expected, route = evaluate(fixed, {"image": image[None]}, registry())
        assert result.route == route, f"image {number}"
        assert result.outputs["output"].argmax() == expected["output"].argmax(), f"image {number}"


def test_secure_decisions_and_routes_equal_those_of_pytorch_in_99_5_percent(
    digits: Digits, secure: list[Result]
) -> None:
    routes, decisions = _float_run(digits)
    found = np.array([r.outputs["output"].argmax() for r in secure])
    assert np.mean(found == decisions) >= 0.995
    assert np.mean(np.array([r.route for r in secure]) == routes) >= 0.995


def test_no_table_misses_its_tolerance(digits: Digits) -> None:
    assert digits.compiled.notes == ()


def test_the_pool_is_accurate_and_uses_all_its_models(digits: Digits, secure: list[Result]) -> None:
    found = np.array([r.outputs["output"].argmax() for r in secure])
    assert np.mean(found == digits.labels) >= 0.97
    assert {r.route for r in secure} == {0, 1, 2}


def test_every_inference_costs_exactly_what_the_report_says(
    digits: Digits, secure: list[Result]
) -> None:
    cost = digits.compiled.cost
    for result in secure:
        total = cost.total(result.route)
        assert tuple(c.bytes for c in result.counters) == total.online_bytes
        assert {c.rounds for c in result.counters} == {total.rounds}


def test_every_layer_costs_exactly_what_the_report_says(
    digits: Digits, secure: list[Result]
) -> None:
    program, cost = digits.compiled.program, digits.compiled.cost
    for route in (0, 1, 2):
        result = next(r for r in secure if r.route == route)
        for segment in cost.segments:
            if segment.route in (None, route):
                index = cost.segments.index(segment)
                for party in (0, 1):
                    counted = _bytes_by_layer(program, result, index, party)
                    for layer in segment.layers:
                        key = (layer.name, layer.op, layer.source)
                        assert counted.pop(key, 0) == layer.online_bytes[party], key
                    assert not counted


def _bytes_by_layer(
    program: Program, result: Result, segment: int, party: int
) -> dict[tuple[str, str, str], int]:
    found: dict[tuple[str, str, str], int] = {}
    for (number, index), sent in result.counters[party].online.items():
        if number == segment:
            layer = program.layers[program.functions["online"][number][index].layer]
            key = (layer.name, layer.op, layer.source)
            found[key] = found.get(key, 0) + sent
    return found


def test_the_material_dealt_is_exactly_as_large_as_the_report_says(digits: Digits) -> None:
    session = LocalSession(digits.compiled.program, load())
    for image in digits.images[:6]:
        session.infer({"image": image[None]})
    for segment, (blocks, first, second) in session.offline.blocks.items():
        expected = digits.compiled.cost.segments[segment].total.offline_bytes
        assert (first, second) == (blocks * expected[0], blocks * expected[1])


def test_every_layer_takes_the_rounds_and_material_that_the_report_says(
    digits: Digits, secure: list[Result]
) -> None:
    program, cost = digits.compiled.program, digits.compiled.cost
    for route in (0, 1, 2):
        result = next(r for r in secure if r.route == route)
        for party in (0, 1):
            assert rounds_by_layer(program, result, party) == {
                (k, layer.name, layer.op, layer.source): layer.rounds
                for k, segment in enumerate(cost.segments)
                if segment.route in (None, route)
                for layer in segment.layers
                if layer.rounds
            }
    for segment, dealt in enumerate(dealt_by_layer(program)):
        assert dealt == {
            (layer.name, layer.op, layer.source): layer.offline_bytes
            for layer in cost.segments[segment].layers
            if any(layer.offline_bytes)
        }


def test_rounds_do_not_exceed_the_depth_of_the_openings(digits: Digits) -> None:
    program = digits.compiled.program
    for segment in range(1, len(program.segments)):
        graph = nx.DiGraph()
        made: dict[str, str] = {}
        for i in program.functions["online"][segment]:
            name = i.out or f"{i.op}{len(made)}"
            made[name] = i.op
            for operand in i.inputs:
                if operand in made:
                    weight = int(made[operand] == "open")
                    graph.add_edge(operand, name, weight=weight)
        depth = nx.dag_longest_path_length(graph) + 1  # and the message of the output
        rounds = {
            i.attrs["round"] for i in program.functions["online"][segment] if "round" in i.attrs
        }
        assert len(rounds) <= depth, program.segments[segment].name


def test_the_schedule_is_text_that_parses_back_to_the_same_program(digits: Digits) -> None:
    stages = digits.compiled.stages
    text = digits.compiled.text("schedule")
    data = {name: c.data for name, c in stages.schedule.consts.items() if c.data is not None}

    module = parse_module(text, data)
    verify_lowered_text(module, text)
    program = emit_program(module, stages.interface, "2pc")

    assert module == stages.schedule
    assert program == digits.compiled.program
    assert program.digest() == digits.compiled.program.digest()


def test_oblivious_routing_selects_what_revealed_routing_runs(digits: Digits) -> None:
    pool = Pool(digits.pool.models, digits.pool.router, cost_weight=0.0, route="oblivious")
    revealing = Pool(digits.pool.models, digits.pool.router, cost_weight=0.0)
    samples = [(torch.from_numpy(image[None]),) for image in digits.images[:40]]
    hidden = compile(pool, samples[0], calibration_inputs=samples)
    shown = compile(revealing, samples[0], calibration_inputs=samples)
    session = LocalSession(hidden.program, load())

    assert not any("route" in d.what for d in hidden.leakage)
    for image in digits.images[:5]:
        result = session.infer({"image": image[None]})
        expected, _ = evaluate(shown.stages.graph, {"image": image[None]}, registry())
        assert result.route is None
        np.testing.assert_allclose(result.outputs["output"], expected["output"], atol=0.06)


def test_the_demo_runs_to_its_end() -> None:
    demo = Path(__file__).parents[2] / "examples" / "digits" / "demo.py"
    run = subprocess.run([sys.executable, demo], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "Bytes and rounds as predicted, exactly" in run.stdout
