"""What a compilation holds of a model's weights, measured in a process of its own."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import weakref
from pathlib import Path

import torch
from torch import nn

from srcompile.api import compile

ROOT = Path(__file__).parents[2]
COMPILE = """
import json, sys
import torch
from torch import nn
from srcompile.api import compile
from srcompile.report.html import Shown, html_report
from srcompile.runtime.usage import peak_memory

def compiled(width, depth):
    layers = [nn.Linear(width, width) for _ in range(depth)]
    norms = [nn.LayerNorm(width) for _ in range(depth // 2)]
    model = nn.Sequential(*(part for pair in zip(norms, layers) for part in pair),
                          *(part for layer in layers[depth // 2:] for part in (layer, nn.ReLU())))
    before = peak_memory()
    found = compile(model, (torch.ones(1, width),))
    html_report("model", [Shown("model", found.cost_report(), None, None, ())])
    found.save(sys.argv[1])
    return peak_memory() - before, sum(4 * p.numel() for p in model.parameters())

compiled(8, 4)  # so that everything is imported
print(json.dumps(compiled(1024, 48)))
"""


def test_a_compilation_needs_little_more_memory_than_the_weights_that_it_changes(
    tmp_path: Path,
) -> None:
    # given 200 MB of weights; layer norms are fused into half of them, which is a copy of floats,
    # and the other half is copied as integers of 16 bits
    copies = 1 / 2 + 1 / 4
    # when a fresh process compiles them, reports and writes the program
    done = subprocess.run(
        [sys.executable, "-c", COMPILE, str(tmp_path / "model.srp")],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=300,
    )
    growth, weights = json.loads(done.stdout)
    assert weights > 200e6
    # then there is no further copy of all weights, not even for a moment
    assert growth < (copies + 0.75) * weights
    # and the program holds them all, in elements of 4 bytes or more
    assert (tmp_path / "model.srp").stat().st_size > weights


def test_a_what_if_is_gone_with_its_last_user() -> None:
    # given a compiled model, and no collector of cyclic garbage
    x = torch.ones(1, 8)
    model = nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 4))
    compiled = compile(model, (x,), calibration_inputs=[(x,), (-x,)])
    gc.collect()
    gc.disable()
    try:
        # when it is compiled again, and only the cost is kept
        changed = compiled.again(approximations={"gelu": "quad"})
        stages = changed.stages
        levels = ("graph", "expanded", "fixed", "lowered", "schedule", "program")
        held = {level: weakref.ref(getattr(stages, level)) for level in levels}
        report = changed.cost_report()
        del changed, stages
        # then nothing holds what it was compiled to, on any level
        assert report.total.seconds > 0
        assert [level for level, found in held.items() if found() is not None] == []
    finally:
        gc.enable()
