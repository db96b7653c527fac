"""Capturing a pool with its router: the route, the segments, the shared input."""

from __future__ import annotations

from functools import cache
from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from srcompile import Pool
from srcompile.errors import CompileError, UserError
from srcompile.frontend.capture import capture_pool
from srcompile.ir.graph import Array, Module
from srcompile.ops import registry
from srcompile.ops.interpreter import evaluate
from srcompile.ops.verifier import verify

COSTS = np.array([0.0, 0.25, 0.5])
EXAMPLE = (torch.zeros(1, 4),)


class Model(nn.Module):
    """A linear layer on a stem that may be shared."""

    def __init__(self, outputs: int, stem: nn.Module | None = None) -> None:
        super().__init__()
        self.stem = stem or nn.Linear(4, 5)
        self.head = nn.Linear(5, outputs)

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.head(self.stem(features).relu())
        return logits


def pool(route: Literal["reveal", "oblivious"] = "reveal", cost_weight: float = 1.0) -> Pool:
    torch.manual_seed(7)
    stem = nn.Linear(4, 5)
    models = {"small": Model(3), "middle": Model(3, stem), "large": Model(3, stem)}
    return Pool(models, Model(3, stem), cost_weight=cost_weight, route=route)


@cache
def captured() -> Module:
    return capture_pool(pool(), EXAMPLE, COSTS)


def expected(pool: Pool, x: Tensor) -> tuple[int, Array]:
    with torch.no_grad():
        route = int(np.argmax(pool.router(x).numpy().reshape(-1) - COSTS))
        return route, list(pool.models.values())[route](x).numpy()


def test_a_revealed_route_picks_the_segment_of_its_model() -> None:
    routed = pool()
    graph = captured()
    verify(graph, registry())
    segments = [(s.name, s.route) for s in graph.main.segments]
    assert segments == [("router", None), ("small", 0), ("middle", 1), ("large", 2)]
    taken = set()
    for x in torch.randn(40, 1, 4, generator=torch.Generator().manual_seed(3)) * 3:
        route, logits = expected(routed, x)
        outputs, have = evaluate(graph, {"features": x.numpy()}, registry())
        assert have == route
        np.testing.assert_allclose(outputs["output"], logits, rtol=1e-4, atol=1e-4)
        taken.add(route)
    assert len(taken) > 1


def test_an_oblivious_route_gives_the_same_and_reveals_nothing() -> None:
    routed = pool("oblivious")
    graph = capture_pool(routed, EXAMPLE, COSTS)
    verify(graph, registry())
    assert [s.name for s in graph.main.segments] == ["main"]
    assert "route" not in [n.op for n in graph.main.nodes()]
    for x in torch.randn(40, 1, 4, generator=torch.Generator().manual_seed(3)) * 3:
        outputs, _ = evaluate(graph, {"features": x.numpy()}, registry())
        np.testing.assert_allclose(outputs["output"], expected(routed, x)[1], rtol=1e-4, atol=1e-4)


def test_the_route_is_taken_from_utilities_less_public_costs() -> None:
    graph = captured()
    assert not graph.consts["@route.costs"].secret
    np.testing.assert_allclose(np.asarray(graph.consts["@route.costs"].data), COSTS)
    ops = [n.op for n in graph.main.segments[0].nodes]
    assert ops == ["input", "linear", "relu", "linear", "reshape", "sub", "argmax", "route"]


def test_costs_that_are_not_known_yet_are_zeros_and_without_weight_left_out() -> None:
    unknown = capture_pool(pool(), EXAMPLE).consts["@route.costs"]
    np.testing.assert_array_equal(np.asarray(unknown.data), np.zeros(3))
    assert "@route.costs" not in capture_pool(pool(cost_weight=0.0), EXAMPLE).consts


def test_what_router_and_models_share_is_one_constant() -> None:
    names = set(captured().consts)
    assert {"@router.stem.weight", "@small.stem.weight", "@large.head.weight"} <= names
    assert not {"@middle.stem.weight", "@large.stem.weight"} & names


def test_module_paths_begin_with_the_models_name() -> None:
    graph = captured()
    for segment in graph.main.segments:
        assert {n.loc.module.split(".")[0] for n in segment.nodes} == {segment.name}
    assert any(n.loc.module == "large.head" for n in graph.main.nodes())


def test_models_of_different_outputs_are_refused() -> None:
    unlike = Pool({"a": Model(3), "b": Model(2)}, Model(2))
    with pytest.raises(CompileError) as caught:
        capture_pool(unlike, EXAMPLE)
    assert str(caught.value) == (
        "the models of a pool have the same outputs, but 'a' gives output : f32[1,3] and 'b' gives "
        "output : f32[1,2]\n  Let all models return tensors of the same names and shapes."
    )


def test_a_router_of_the_wrong_size_is_refused() -> None:
    with pytest.raises(CompileError) as caught:
        capture_pool(Pool({"a": Model(2), "b": Model(2)}, Model(3)), EXAMPLE)
    assert str(caught.value) == (
        "(no source line) in router: the router's output is f32[1,3], which is not one utility "
        "for each of 2 models\n  Let it return a tensor of shape (1, 2), in the order a, b."
    )


def test_a_batch_is_refused() -> None:
    with pytest.raises(CompileError, match="one input at a time, but this batch holds 2"):
        capture_pool(pool(), [torch.zeros(2, 4)])


def test_an_unsupported_call_names_the_model() -> None:
    class Sorts(Model):
        def forward(self, features: Tensor) -> Tensor:
            return super().forward(features).sort().values

    with pytest.raises(CompileError, match=r"test_pool.py:\d+ in b: sort is not supported"):
        capture_pool(Pool({"a": Model(2), "b": Sorts(2)}, Model(2)), EXAMPLE)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Pool([Model(1)], Model(1)), "a dict from names to modules, not a list"),  # type: ignore[arg-type]
        (lambda: Pool({"a": Model(1)}, Model(1)), "at least two models, not 1"),
        (lambda: _named("router"), "cannot be named 'router'"),
        (lambda: _named("2nd"), "'2nd' does not name a model"),
        (lambda: _named("a.b"), "'a.b' does not name a model"),
        (lambda: Pool({"a": Model(1), "b": 3}, Model(1)), "'b' is a int, not an nn.Module"),  # type: ignore[dict-item]
        (lambda: Pool({"a": Model(1), "b": Model(1)}, len), "router is a builtin_function"),  # type: ignore[arg-type]
        (lambda: pool(cost_weight=-1.0), "cost_weight is 0 or more, not -1.0"),
        (lambda: pool(cost_weight=float("nan")), "cost_weight is 0 or more, not nan"),
        (lambda: pool("hidden"), "route is 'reveal' or 'oblivious', not 'hidden'"),  # type: ignore[arg-type]
    ],
)
def test_a_pool_says_what_is_wrong_with_it(make: object, message: str) -> None:
    assert callable(make)
    with pytest.raises(UserError, match=message):
        make()


def _named(name: str) -> Pool:
    return Pool({"a": Model(1), name: Model(1)}, Model(1))


def test_a_pool_does_not_change() -> None:
    routed = pool()
    with pytest.raises(AttributeError):
        routed.cost_weight = 2.0  # type: ignore[misc]
    with pytest.raises(TypeError):
        routed.models["more"] = Model(3)  # type: ignore[index]
    assert routed.names == ("small", "middle", "large")
