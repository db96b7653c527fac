"""A pool on disk: what is loaded is what was measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from srcompile.errors import UserError
from srcompile.training import minilm
from srcompile.training.architecture import Student
from srcompile.training.router import Router
from srcompile.training.store import SCALE, Trained, load_pool, rounded_, save_pool
from srcompile.training.texts import of_texts, tokens_of


@pytest.fixture
def trained() -> Trained:
    torch.manual_seed(3)
    small = minilm.started(Student(kind="convolution", layers=1, width=24), 2)
    large = minilm.started(Student(layers=1, width=48, heads=2, ffn=64), 2)
    router = Router(minilm.table(), small.trunk, 8, 2)
    for part in (small, large, router):
        rounded_(part)
    about = {"length": 16, "points": {"lan": {"weight": 0.25}}}
    return Trained({"small": small, "large": large}, router, "small", about)


def test_a_pool_comes_back_as_it_was(trained: Trained, tmp_path: Path) -> None:
    save_pool(trained, tmp_path)
    back = load_pool(tmp_path)
    given = tokens_of(of_texts(["a film to remember"], [""], [0], 16).ids, 16)
    with torch.no_grad():
        for name, model in trained.models.items():
            want = model.eval()(**given)["logits"]
            torch.testing.assert_close(back.models[name](**given)["logits"], want)
        torch.testing.assert_close(back.router(**given), trained.router(**given))
    assert back.about["points"] == trained.about["points"]
    assert back.router.trunk is back.models["small"].trunk


def test_a_stored_matrix_takes_a_byte_a_number_and_the_table_none(
    trained: Trained, tmp_path: Path
) -> None:
    save_pool(trained, tmp_path)
    counts = [
        p.numel()
        for m in trained.models.values()
        for n, p in m.named_parameters()
        if "table" not in n
    ]
    assert (tmp_path / "pool.safetensors").stat().st_size < 1.3 * sum(counts) + 8192


def test_rounding_twice_is_rounding_once(trained: Trained) -> None:
    model = trained.models["large"]
    once = {name: weight.clone() for name, weight in model.named_parameters()}
    rounded_(model)
    for name, weight in model.named_parameters():
        torch.testing.assert_close(weight, once[name], rtol=1e-6, atol=1e-8)


def test_a_folder_without_a_pool_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no trained pool"):
        load_pool(tmp_path)


@pytest.mark.parametrize("damage", ["cut", "other shape", "other model", "scales"])
def test_a_damaged_pool_is_refused(trained: Trained, tmp_path: Path, damage: str) -> None:
    save_pool(trained, tmp_path)
    weights, about = tmp_path / "pool.safetensors", tmp_path / "pool.json"
    data = json.loads(about.read_text())
    if damage == "cut":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif damage == "other shape":
        data["models"]["large"]["ffn"] = 32
    elif damage == "scales":  # found by fuzzing: of the columns, not of the rows
        found = load_file(weights)
        name = next(n for n, v in found.items() if n + SCALE in found and len(v) != v[0].numel())
        save_file(
            {**found, name: found[name].reshape(len(found[name]), -1).T.contiguous()}, weights
        )
    else:
        data["models"]["large"]["layers"] = 2
    about.write_text(json.dumps(data))
    with pytest.raises(UserError, match=r"pool\.safetensors"):
        load_pool(tmp_path)
