"""A trained pool on disk: `pool.json`, what it is, and `pool.safetensors`, what it learned.

Matrices are stored as 8-bit integers with a scale for each row, and training goes on with the
rounded ones (`rounded_`), so what is loaded is what was measured. The table is not stored: it comes
from MiniLM.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from srcompile.errors import UserError
from srcompile.training import minilm
from srcompile.training.architecture import Classifier, Student, Table
from srcompile.training.router import Router

TOP = 127
SCALE = ".scale"
SMALLEST = 1024
"""Tensors of fewer numbers are stored as they are."""
TABLE = "table.weight"


@dataclass(frozen=True)
class Trained:
    """A trained pool: its models, cheapest first, its router, and what is known of them."""

    models: Mapping[str, Classifier]
    router: Router
    stem: str
    about: Mapping[str, Any]


def rounded_(model: nn.Module) -> None:
    """Round the matrices of a model, in place, to what is stored."""
    with torch.no_grad():
        for _, weight in _stored(model):
            if _coarse(weight):
                whole, scale = _whole(weight)
                weight.copy_(_restored(whole, scale))


def save_model(model: nn.Module, path: Path) -> None:
    """Write the weights of one model, without the table."""
    packed = _packed({name: weight.detach() for name, weight in _stored(model)})
    partial = path.with_suffix(".partial")
    save_file(packed, partial)
    partial.rename(path)


def load_model(model: nn.Module, path: Path) -> None:
    """Read the weights of one model. Raises UserError if the file is missing or does not fit."""
    _fill(model, _unpacked(_read(path), path), path)


def save_pool(trained: Trained, folder: Path) -> None:
    """Write a pool into a folder. The router's trunk is that of its stem, and is stored once."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Tensor] = {}
    for name, model in trained.models.items():
        tensors |= {f"{name}.{key}": weight.detach() for key, weight in _stored(model)}
    for key, weight in _stored(trained.router):
        if not key.startswith("trunk."):
            tensors[f"router.{key}"] = weight.detach()
    save_file(_packed(tensors), folder / "pool.safetensors")
    about = {
        **trained.about,
        "models": {name: model.student.data() for name, model in trained.models.items()},
        "classes": next(iter(trained.models.values())).head.out_features,
        "stem": trained.stem,
        "hidden": trained.router.up.out_features,
    }
    (folder / "pool.json").write_text(json.dumps(about, indent=2) + "\n")


def load_pool(folder: Path) -> Trained:
    """Read a pool. Raises UserError if the folder holds none, or a damaged one."""
    try:
        about = json.loads((folder / "pool.json").read_text())
        rows = minilm.table().weight
        with torch.device("meta"):  # takes no memory
            planned = _parts(about, Table(rows.to("meta")))
    except _NO_POOL as error:
        raise UserError(
            f"{folder} holds no trained pool ({type(error).__name__}: {error}); srtrain makes one"
        ) from None
    path = folder / "pool.safetensors"
    found = _unpacked(_read(path), path)
    mine = {
        name: {
            key.removeprefix(f"{name}."): weight
            for key, weight in found.items()
            if key.startswith(f"{name}.")
        }
        for name in planned
    }
    for name, part in planned.items():
        _check(part, mine[name], path, _skipped(name))
    parts = _parts(about, minilm.table())
    for name, part in parts.items():
        _fill(part, mine[name], path, _skipped(name))
        part.eval()
    router = parts.pop(ROUTER)
    assert isinstance(router, Router)
    models = {name: part for name, part in parts.items() if isinstance(part, Classifier)}
    return Trained(models, router, about["stem"], about)


ROUTER = "router"
_NO_POOL = (
    OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, OverflowError,
)  # fmt: skip


def _parts(about: Mapping[str, Any], table: Table) -> dict[str, nn.Module]:
    """Return the models and the router of a pool, their weights not yet read."""
    classes, hidden = int(about["classes"]), int(about["hidden"])
    if classes < 1 or hidden < 1:
        raise ValueError("there are no classes, or the router has no hidden layer")
    students = {name: Student.of(data) for name, data in about["models"].items()}
    models = {name: Classifier(student, table, classes) for name, student in students.items()}
    router = Router(table, models[about["stem"]].trunk, hidden, len(models))
    return {**models, ROUTER: router}


def _skipped(name: str) -> str | None:
    """Return what a part does not have of its own: the router's trunk is that of its stem."""
    return "trunk." if name == ROUTER else None


def _stored(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, p) for name, p in model.named_parameters() if not name.endswith(TABLE)]


def _coarse(weight: Tensor) -> bool:
    return weight.ndim >= 2 and weight.numel() >= SMALLEST


def _whole(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return 8-bit integers and a scale for each row."""
    rows = weight.reshape(len(weight), -1)
    scale = (rows.abs().amax(1) / TOP).clamp(min=1e-12)
    whole = torch.round(rows / scale[:, None]).to(torch.int8)
    return whole.reshape(weight.shape), scale


def _restored(whole: Tensor, scale: Tensor) -> Tensor:
    return (whole.reshape(len(whole), -1).float() * scale[:, None]).reshape(whole.shape)


def _packed(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    made: dict[str, Tensor] = {}
    for name, weight in weights.items():
        if _coarse(weight):
            made[name], made[name + SCALE] = _whole(weight)
        else:
            made[name] = weight.contiguous()
    return made


def _unpacked(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    found = {name: value for name, value in tensors.items() if not name.endswith(SCALE)}
    for name, value in found.items():
        scale = tensors.get(name + SCALE)
        if scale is None:
            continue
        if not value.ndim or not value.numel() or scale.shape != value.shape[:1]:
            raise UserError(f"{path}: '{name}' has no scale for each of its rows")
        found[name] = _restored(value, scale)
    return found


def _read(path: Path) -> dict[str, Tensor]:
    try:
        found: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} cannot be read as safetensors: {error}") from None
    return found


def _fill(
    model: nn.Module, weights: Mapping[str, Tensor], path: Path, skip: str | None = None
) -> None:
    with torch.no_grad():
        for name, parameter in _check(model, weights, path, skip).items():
            parameter.copy_(weights[name])


def _check(
    model: nn.Module, weights: Mapping[str, Tensor], path: Path, skip: str | None
) -> dict[str, nn.Parameter]:
    """Return what a model reads. Raises UserError if the weights are not of its shapes."""
    mine = {n: p for n, p in _stored(model) if not (skip and n.startswith(skip))}
    wrong = {n for n in mine.keys() & weights.keys() if mine[n].shape != weights[n].shape}
    wrong |= mine.keys() ^ weights.keys()
    if wrong:
        raise UserError(
            f"{path} does not fit its model: '{sorted(wrong)[0]}' differs or is missing"
        )
    return mine
