"""One training run: a Trainer of transformers with this package's batches, losses and logs.

A run has a folder. Its checkpoints are in there, so a run that was cut off goes on where it was;
its metrics are in `log.jsonl`, one JSON object a line, which pandas.read_json(lines=True) reads.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import DataLoader

from srcompile.training.batches import Batches, alike
from srcompile.training.texts import Texts, collate

Loss = Callable[[nn.Module, Mapping[str, Tensor]], Tensor]


@dataclass(frozen=True)
class Settings:
    """How long and how fast a run learns.

    epochs: passes over the texts; batch, tokens: the most texts, and the most tokens, of a step
    (`batches`); rate: the highest learning rate, reached after a tenth of the steps and falling to
    0 in a line; checkpoint: steps between two checkpoints; bfloat16: multiply matrices in it, which
    is faster where the processor has it.
    """

    epochs: float = 1.0
    batch: int = 64
    tokens: int = 1024
    rate: float = 5e-5
    decay: float = 0.01
    seed: int = 0
    checkpoint: int = 200
    bfloat16: bool = True


class _Run(transformers.Trainer):
    """A Trainer whose loss is a function of the model and a batch, and whose batches are given.

    All epochs are one to it, since `batches` are those of all.
    """

    loss: Loss
    batches: Batches

    def get_train_dataloader(self) -> DataLoader[Any]:
        loader = DataLoader(
            self.train_dataset,  # type: ignore[arg-type]
            batch_sampler=self.batches,
            collate_fn=self.data_collator,
        )
        prepared: DataLoader[Any] = self.accelerator.prepare(loader)
        return prepared

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        return self.loss(model, inputs)


class _Log(transformers.TrainerCallback):
    """Appends what a Trainer logs to a file of JSON lines; epochs are as many as there are."""

    def __init__(self, path: Path, epochs: float) -> None:
        self.path, self.epochs = path, epochs

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **more: Any) -> None:
        found = {"step": state.global_step, **logs}
        if "epoch" in found:
            found["epoch"] *= self.epochs
        with self.path.open("a") as file:
            print(json.dumps(found), file=file)


def fit(
    model: nn.Module,
    texts: Texts,
    loss: Loss,
    settings: Settings,
    folder: Path,
    quiet: bool = False,
) -> None:
    """Train the parameters of `model` that have a gradient, by AdamW, with checkpoints in `folder`.

    A folder with checkpoints of a run that was cut off goes on from the newest.
    """
    folder.mkdir(parents=True, exist_ok=True)
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=1,
        per_device_train_batch_size=settings.batch,
        learning_rate=settings.rate,
        weight_decay=settings.decay,
        warmup_steps=0.1,
        lr_scheduler_type="linear",
        seed=settings.seed,
        include_num_input_tokens_seen="all",
        remove_unused_columns=False,
        save_steps=settings.checkpoint,
        save_total_limit=1,
        logging_steps=20,
        disable_tqdm=quiet,
        report_to="none",
        use_cpu=True,
        bf16=settings.bfloat16,
        dataloader_pin_memory=False,
    )
    run = _Run(
        model=model,
        args=arguments,
        train_dataset=texts,
        data_collator=collate,
        callbacks=[_Log(folder / "log.jsonl", settings.epochs)],
    )
    run.loss = loss
    run.batches = Batches(
        texts.lengths, settings.batch, settings.tokens, settings.epochs, settings.seed
    )
    if quiet:
        run.remove_callback(transformers.PrinterCallback)
    with sdpa_kernel(SDPBackend.MATH):  # of bfloat16 the other's gradient is slow
        run.train(resume_from_checkpoint=_newest(folder))
    model.eval()


def predict(model: nn.Module, texts: Texts) -> np.ndarray[Any, Any]:
    """Return logits or utilities for each text, in order."""
    model.eval()
    found: dict[int, Any] = {}
    with torch.inference_mode():
        for places in alike(texts.lengths):
            given = collate([texts[k] for k in places])
            out = model(given["input_ids"], given["attention_mask"])
            out = out["logits"] if isinstance(out, dict) else out
            found.update(zip(places, out.float().numpy(), strict=True))
    return np.stack([found[k] for k in range(len(texts))])


def _newest(folder: Path) -> str | None:
    found = [p for p in folder.glob("checkpoint-*") if (p / "trainer_state.json").exists()]
    return str(max(found, key=lambda p: int(p.name.split("-")[1]))) if found else None
