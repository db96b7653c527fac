"""torch's own transformer layers, compiled as they are and run under 2pc."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from srcompile.api import compile
from srcompile.runtime.kernels import load
from srcompile.runtime.local import LocalSession

TOKENS, WIDTH = 6, 16


def layer(**options: object) -> nn.TransformerEncoderLayer:
    torch.manual_seed(0)
    return nn.TransformerEncoderLayer(WIDTH, 2, 32, 0.0, batch_first=True, **options).eval()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(layer(activation="gelu"), id="gelu, norm behind"),
        pytest.param(layer(norm_first=True), id="relu, norm before"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning:torch")
def test_a_transformer_layer_gives_under_2pc_what_torch_gives(model: nn.Module) -> None:
    torch.manual_seed(1)
    samples = [(torch.randn(1, TOKENS, WIDTH),) for _ in range(24)]

    compiled = compile(model, samples[0], calibration_inputs=samples)
    result = LocalSession(compiled.program, load()).infer({"src": samples[1][0].numpy()})

    with torch.no_grad():
        expected = model(*samples[1]).numpy()
    np.testing.assert_allclose(result.outputs["output"], expected, atol=0.01)
    total = compiled.cost.total()
    assert tuple(c.bytes for c in result.counters) == total.online_bytes
    assert result.counters[0].rounds == total.rounds <= 24
