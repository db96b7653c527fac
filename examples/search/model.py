"""The file given to the compiler: `model()` finds the document that is nearest to a query.

    srcompile examples/search/model.py

The documents are weights of its owner, as embeddings that the owner made in float; the query is the
client's. Only the index of the best document comes out.
"""

from __future__ import annotations

import contextlib
import io
import logging

import search_texts
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from transformers import BertModel


class Encoder(nn.Module):
    """MiniLM, and the mean of its hidden states over the tokens that count."""

    def __init__(self) -> None:
        super().__init__()
        self.bert = _minilm()

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the embedding of a text, (1, 384), not normalised."""
        h = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        counts = attention_mask.unsqueeze(-1).float()
        mean: Tensor = (h * counts).sum(1) / counts.sum(1)
        return mean


class Search(nn.Module):
    """The document whose embedding has the largest cosine with the query's.

    The length of the query's embedding does not change which one that is, so it is left alone.
    """

    def __init__(self) -> None:
        super().__init__()
        self.encoder = Encoder().eval()
        with torch.no_grad():
            texts = map(search_texts.encoded, search_texts.documents())
            rows = torch.cat([self.encoder(**text) for text in texts])
        self.register_buffer("documents", F.normalize(rows, dim=1))  # (documents, 384)

    def scores(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return how near each document is, (1, documents)."""
        cosines: Tensor = self.encoder(input_ids, attention_mask) @ self.documents.T
        return cosines

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        """Return the index of the nearest document, (1,)."""
        return {"document": torch.argmax(self.scores(input_ids, attention_mask), dim=1)}


def model() -> Search:
    """Return the search, with the embeddings of documents.txt."""
    return Search().eval()


def example_inputs() -> dict[str, Tensor]:
    """Return one query of 32 tokens."""
    return calibration_inputs()[0]


def calibration_inputs() -> list[dict[str, Tensor]]:
    """Return queries and texts from which value ranges are taken."""
    return list(map(search_texts.encoded, [*search_texts.samples(), *search_texts.documents()]))


def _minilm() -> BertModel:
    """Return MiniLM without the pooler that it was not trained with, and without a report on it."""
    logging.getLogger("transformers").setLevel(logging.ERROR)
    with contextlib.redirect_stderr(io.StringIO()):
        return BertModel.from_pretrained(search_texts.minilm(), add_pooling_layer=False)
