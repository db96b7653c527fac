"""Models as users write them, with range checks."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import torch
from torch import nn

from srcompile.api import Compiled, compile
from srcompile.errors import UserError
from srcompile.routing.pool import Pool
from srcompile.runtime.errors import RangeError
from srcompile.runtime.kernels import load
from srcompile.runtime.local import LocalSession
from tests.frontend.test_hugging_face import error_where_it_counts, model, samples, torchs


@pytest.mark.parametrize("embedding", ["client", "secret"])
def test_a_guarded_transformer_gives_what_torch_gives(embedding: str) -> None:
    # given BERT with range checks, and sentences of calibration
    bert = model("bert classifier, sdpa")
    built = compile(
        bert, samples()[0], calibration_inputs=samples(), embedding=embedding, guard=True
    )
    assert any(node.op == "extend" for node in built.stages.fixed.main.nodes())
    session = LocalSession(built.program, load())
    for given in samples()[:3]:
        # when it runs, then nothing fires, and outputs and costs are what they should be
        result = session.infer({name: value.numpy() for name, value in given.items()})
        for output, want in torchs(bert, given).items():
            assert error_where_it_counts(result.outputs[output], want, given) < 2e-2
        total = built.cost.total()
        assert tuple(c.bytes for c in result.counters) == total.online_bytes
        assert result.counters[0].rounds == total.rounds


class Steep(nn.Module):
    """exp(4·mean): small in calibration."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.exp(4 * x.mean(1, keepdim=True)).expand(1, 2)


def pool(route: Literal["reveal", "oblivious"]) -> Compiled:
    torch.manual_seed(0)
    models = {"linear": nn.Sequential(nn.Linear(8, 2), nn.ReLU()), "steep": Steep()}
    router = nn.Linear(8, 2)
    with torch.no_grad():  # the first two values choose
        router.weight.zero_()
        router.weight[0, 0] = router.weight[1, 1] = 1.0
    rows = torch.randn(64, 1, 8).clamp(-1, 1)
    rows = rows - rows.mean(2, keepdim=True)
    calibration = [(row,) for row in rows]
    built = Pool(models, router, route=route)
    return compile(built, calibration[0], calibration_inputs=calibration, guard=True)


def chosen(number: int, rest: float) -> dict[str, np.ndarray]:
    row = np.full((1, 8), rest, np.float32)
    row[0, :2] = (0.9, -0.9) if number == 0 else (-0.9, 0.9)
    return {"x": row}


def test_a_pool_checks_the_model_that_runs_and_no_other() -> None:
    session = LocalSession(pool("reveal").program, load())
    name = session.program.inputs[0].name
    # given inputs that take `steep` out of its range, but not `linear`
    assert session.infer({name: chosen(0, 0.9)["x"]}).route == 0
    with pytest.raises(RangeError):
        session.infer({name: chosen(1, 0.9)["x"]})
    assert session.infer({name: chosen(1, 0.0)["x"]}).route == 1


def test_with_an_oblivious_route_all_models_are_checked() -> None:
    """Which one is chosen is secret, so the bit must not depend on it."""
    built = pool("oblivious")
    online = built.stages.schedule.function("online")
    assert [n.op for n in online.nodes() if n.op in ("guard", "route")] == ["guard"]
    session = LocalSession(built.program, load())
    name = session.program.inputs[0].name
    for number in (0, 1):
        with pytest.raises(RangeError):
            session.infer({name: chosen(number, 0.9)["x"]})
        assert session.infer({name: chosen(number, 0.0)["x"]}).route is None


@pytest.mark.parametrize("bits", [0, 9])
def test_guard_bits_out_of_bounds_are_refused(bits: int) -> None:
    x = (torch.ones(1, 2),)
    with pytest.raises(UserError, match=f"guard_bits is {bits}; it must be 1 to 8"):
        compile(nn.ReLU(), x, guard=True, guard_bits=bits)
