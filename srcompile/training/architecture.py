"""The networks of a pool: what a student is made of, and the module that is trained and compiled.

All members of a pool take token ids and an attention mask and start from one table of rows, which
nobody trains: the rows of MiniLM's embedding with its layer norm already applied, so that under MPC
the client shares them once and nothing is computed before the first layer (`embedding_rows`).

A `Student` says what comes behind it, one of two kinds:

    attention   layers of BERT: attention, feed-forward, a layer norm behind each
    convolution layers of a window of tokens, ReLU and a residual; few rounds, no softmax

Notation: B texts, n tokens, d width of the table, k width of a student.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from srcompile.errors import UserError

Kind = Literal["attention", "convolution"]
Activation = Literal["gelu", "quad", "relu"]
Softmax = Literal["exact", "2quad"]
Pooling = Literal["mean", "first"]

PAD = 0
"""The token that fills a text up; its row is zero."""
MOST_TOKENS = 128
"""Positions that an attention student knows."""
MOST_LAYERS = 1000
SHIFT = 5.0
"""What 2quad adds to scores, as in passes/approximate.py."""


@dataclass(frozen=True)
class Student:
    """The architecture of one model of a pool.

    kind: attention or convolution.
    layers: how many; from_layers: which of MiniLM's an attention student starts from, evenly spread
        if not given.
    width: k; other than the table's, a linear layer leads there.
    heads, ffn: of attention; window: tokens that a convolution sees, an odd number.
    activation, softmax: the functions of passes/approximate.py by their names there; the model
        computes them itself, so `--set` is not needed.
    pooling: mean over the tokens that count, or the first token; with "first" the last layer is
        computed for one token only, which saves nearly all of its cost.
    """

    kind: Kind = "attention"
    layers: int = 6
    from_layers: tuple[int, ...] = ()
    width: int = 384
    heads: int = 12
    ffn: int = 1536
    window: int = 3
    activation: Activation = "gelu"
    softmax: Softmax = "exact"
    pooling: Pooling = "mean"

    def __post_init__(self) -> None:
        for name, choices in (
            ("kind", Kind),
            ("activation", Activation),
            ("softmax", Softmax),
            ("pooling", Pooling),
        ):
            found = getattr(self, name)
            if found not in get_args(choices):
                raise UserError(
                    f"a student's {name} is {found!r}; choose {', '.join(get_args(choices))}"
                )
        for name in ("layers", "width", "heads", "ffn", "window"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise UserError(f"a student's {name} is {getattr(self, name)!r}; it is 1 or more")
        if self.layers > MOST_LAYERS:
            raise UserError(f"a student has {self.layers} layers; {MOST_LAYERS} are the most")
        if self.kind == "attention" and self.width % self.heads:
            raise UserError(f"a student's width {self.width} is no multiple of {self.heads} heads")
        if self.kind == "convolution" and not self.window % 2:
            raise UserError(f"a student's window is {self.window}; it is an odd number")
        if self.from_layers and len(self.from_layers) != self.layers:
            raise UserError(
                f"a student of {self.layers} layers starts from {len(self.from_layers)} of MiniLM's"
            )

    def data(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return asdict(self)

    @staticmethod
    def of(data: Mapping[str, Any]) -> Student:
        """Return what `data()` gave. Raises UserError if that is none."""
        try:
            return Student(**{**data, "from_layers": tuple(data.get("from_layers", ()))})
        except TypeError as error:
            raise UserError(f"this is no student: {error}") from None


class Table(nn.Module):
    """The shared rows: ids (B, n) to (B, n, d). They are never trained."""

    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(rows, requires_grad=False)

    def forward(self, input_ids: Tensor) -> Tensor:
        return F.embedding(input_ids, self.weight)


class Attention(nn.Module):
    """A layer of BERT, (B, n, k) to (B, n, k), or to (B, 1, k) if only the first is wanted."""

    def __init__(self, student: Student, first_only: bool) -> None:
        super().__init__()
        k = student.width
        self.heads, self.first_only = student.heads, first_only
        self.activation, self.softmax = student.activation, student.softmax
        self.query, self.key, self.value = nn.Linear(k, k), nn.Linear(k, k), nn.Linear(k, k)
        self.output = nn.Linear(k, k)
        self.norm = nn.LayerNorm(k, eps=1e-12)
        self.up, self.down = nn.Linear(k, student.ffn), nn.Linear(student.ffn, k)
        self.ffn_norm = nn.LayerNorm(k, eps=1e-12)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        asking = x[:, :1] if self.first_only else x
        q, k, v = (
            self._split(self.query(asking)),
            self._split(self.key(x)),
            self._split(self.value(x)),
        )
        mixed = self._attend(q, k, v, mask)
        mixed = mixed.transpose(1, 2).reshape(asking.shape[0], asking.shape[1], -1)
        h = self.norm(asking + self.output(mixed))
        out: Tensor = self.ffn_norm(h + self.down(self._activated(self.up(h))))
        return out

    def _split(self, x: Tensor) -> Tensor:
        """(B, n, k) to (B, heads, n, k / heads)."""
        return x.reshape(x.shape[0], x.shape[1], self.heads, -1).transpose(1, 2)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        if self.softmax == "exact":
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :].bool())
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        square = torch.square(scores + SHIFT) * mask[:, None, None, :].float()
        return (square / square.sum(-1, keepdim=True)) @ v

    def _activated(self, x: Tensor) -> Tensor:
        if self.activation == "relu":
            return F.relu(x)
        if self.activation == "quad":
            return torch.square(x) / 8 + x / 4 + 0.5
        return F.gelu(x)


class Convolution(nn.Module):
    """x + ReLU(a window of x), (B, k, 1, n) to the same, or without x if the width changes."""

    def __init__(self, inputs: int, outputs: int, window: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(inputs, outputs, (1, window), padding=(0, window // 2))
        self.residual = inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.mix(x))
        return x + y if self.residual else y


class Trunk(nn.Module):
    """Everything of a student between the table and its head.

    Rows (B, n, d) and mask (B, n) to one vector a text, (B, k), and to the layers' results.
    """

    def __init__(self, student: Student, table_width: int) -> None:
        super().__init__()
        self.student = student
        k = student.width
        if student.kind == "convolution":
            widths = [table_width] + [k] * student.layers
            self.layers = nn.ModuleList(
                Convolution(a, b, student.window) for a, b in itertools.pairwise(widths)
            )
            return
        self.positions = nn.Parameter(torch.zeros(MOST_TOKENS, table_width))
        self.narrow = nn.Linear(table_width, k) if k != table_width else None
        last = student.layers - 1
        first = student.pooling == "first"
        self.layers = nn.ModuleList(
            Attention(student, first and i == last) for i in range(student.layers)
        )

    def forward(self, rows: Tensor, mask: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        if self.student.kind == "convolution":
            # tokens of nothing behind the text: its end sees the same however far it is filled up
            reach = self.student.layers * (self.student.window // 2)
            x = F.pad(rows.transpose(1, 2).unsqueeze(2), (0, reach))  # (B, d, 1, n + reach)
            for layer in self.layers:
                x = layer(x)
            x = x.squeeze(2).transpose(1, 2)[:, : rows.shape[1]]
            return self._pooled(x, mask), (x,)
        x = rows + self.positions[: rows.shape[1]]
        if self.narrow is not None:
            x = self.narrow(x)
        hidden = []
        for layer in self.layers:
            x = layer(x, mask)
            hidden.append(x)
        return self._pooled(x, mask), tuple(hidden)

    def _pooled(self, x: Tensor, mask: Tensor) -> Tensor:
        if self.student.pooling == "first":
            return x[:, 0]
        counts = mask.unsqueeze(-1).expand(x.size()).float()
        return torch.sum(x * counts, 1) / torch.clamp(counts.sum(1), min=1e-9)


class Classifier(nn.Module):
    """A student with its head: ids and mask (B, n) to {"logits": (B, classes)}."""

    def __init__(self, student: Student, table: Table, classes: int) -> None:
        super().__init__()
        self.table = table
        self.trunk = Trunk(student, table.weight.shape[1])
        self.head = nn.Linear(student.width, classes)

    @property
    def student(self) -> Student:
        """Its architecture."""
        return self.trunk.student

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        pooled, _ = self.trunk(self.table(input_ids), attention_mask)
        return {"logits": self.head(pooled)}
