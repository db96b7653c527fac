"""The router: one utility for each model, and how it learns them.

u_m(x) is the probability that model m is right about x. The router sees the trunk of the cheapest
model, so under MPC that is computed once for both. It learns from five losses on a batch, where
p_m(y | x) is what model m says:

    regression  mean_m (u_m - q_m)^2,   q_m = p_m(y) for the label y, and for what the largest says
    task        -log sum_m g_m p_m(y),  g = Gumbel-softmax((u - c) / temperature)   [JGP17]
    balance     M sum_m (mean of g_m)^2 - 1
    cost        sum_m g_m c_m
    own         the cheapest model's cross entropy, with labels and largest model, so that it stays
                a classifier of its own

Task, regression and own train the trunk and the head of the cheapest model as well; balance and
cost see the trunk's result as given and train the router only. What the other models say is looked
up: it was computed once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from srcompile.training.architecture import Classifier, Table, Trunk
from srcompile.training.fit import Settings

Array = np.ndarray[Any, Any]


GATE_SETTINGS = Settings(epochs=2, batch=128, tokens=4096, rate=1e-3, bfloat16=False)


@dataclass(frozen=True)
class Gate:
    """The router: the trunk of one of the models, and a hidden layer behind it.

    stem: the model whose trunk it shares; what both compute is computed once, so that this model
        costs next to nothing behind the router.
    hidden: width of its hidden layer.
    temperature: of the Gumbel-softmax; balance, cost: weights of these losses; task has 1, and the
        regression to whether each model is right, which keeps utilities probabilities, has 1.
    """

    stem: str
    hidden: int = 32
    temperature: float = 0.05
    balance: float = 0.01
    cost: float = 0.05
    settings: Settings = GATE_SETTINGS


class Router(nn.Module):
    """ids and mask (B, n) to utilities (B, M)."""

    def __init__(self, table: Table, trunk: Trunk, hidden: int, models: int) -> None:
        super().__init__()
        self.table, self.trunk = table, trunk
        self.up = nn.Linear(trunk.student.width, hidden)
        self.out = nn.Linear(hidden, models)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        pooled, _ = self.trunk(self.table(input_ids), attention_mask)
        return self.utilities(pooled)

    def utilities(self, pooled: Tensor) -> Tensor:
        """Return utilities (B, M) of pooled vectors (B, k)."""
        out: Tensor = self.out(self.hidden(pooled))
        return out

    def hidden(self, pooled: Tensor) -> Tensor:
        """Return the hidden units (B, h) of pooled vectors (B, k)."""
        return F.relu(self.up(pooled))


class Joint(nn.Module):
    """The router and the head of the model whose trunk it shares, as they learn together."""

    def __init__(self, stem: Classifier, gate: Gate, models: int) -> None:
        super().__init__()
        self.router = Router(stem.table, stem.trunk, gate.hidden, models)
        self.head = stem.head
        _start_at_margin(self.router, stem.head)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        pooled, _ = self.router.trunk(self.router.table(input_ids), attention_mask)
        return {
            "logits": self.head(pooled),
            "utilities": self.router.utilities(pooled),
            "apart": self.router.utilities(pooled.detach()),
        }


def _start_at_margin(router: Router, head: nn.Linear) -> None:
    """Let some hidden units begin as the differences of two logits, of both signs.

    How sure the cheapest model is of its answer is the best that a router knows at first.
    """
    with torch.no_grad():
        nn.init.constant_(router.out.bias, 0.9)
        router.out.weight.mul_(0.1)
        unit = 0
        for a in range(head.out_features):
            for b in range(head.out_features):
                if a != b and unit < router.up.out_features:
                    router.up.weight[unit] = head.weight[a] - head.weight[b]
                    router.up.bias[unit] = head.bias[a] - head.bias[b]
                    unit += 1


def joint_loss(gate: Gate, said: Array, stem: int, costs: Sequence[float], seed: int) -> Any:
    """Return the loss of a Joint on a batch.

    said: what each model says of each text, as probabilities, (N, M, classes); row `stem` is
        replaced by what that model says now. costs: c, the dearest model's being 1.
    """
    known = torch.from_numpy(np.asarray(said, np.float32))
    price = torch.tensor(costs, dtype=torch.float32)
    draws = torch.Generator().manual_seed(seed)

    def loss(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        found = model(batch["input_ids"], batch["attention_mask"])
        p = known[batch["index"]].clone()  # (B, M, classes)
        p[:, stem] = F.softmax(found["logits"], -1)
        largest = p[:, -1].detach()
        right = p[torch.arange(len(p)), :, batch["labels"]]  # (B, M)
        agreed = (p * largest[:, None]).sum(-1)
        target = ((right + agreed) / 2).detach()
        regression = F.mse_loss(found["utilities"], target)
        drawn = torch.rand(right.shape, generator=draws).clamp(1e-6, 1 - 1e-6)
        noise = -torch.log(-torch.log(drawn)) - gate.cost * price / gate.temperature
        taken = F.softmax(found["utilities"] / gate.temperature + noise, -1)
        task = -torch.log((taken * right).sum(-1).clamp(min=1e-6)).mean()
        apart = F.softmax(found["apart"] / gate.temperature + noise, -1)
        balance = len(price) * apart.mean(0).square().sum() - 1
        cost = (apart * price).sum(-1).mean()
        own = F.cross_entropy(found["logits"], largest) + F.cross_entropy(
            found["logits"], batch["labels"]
        )
        return regression + task + gate.balance * balance + gate.cost * cost + own / 2

    return loss
