"""Training that sees what the program says: exactly that, with the model's gradient."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from srcompile.passes.quantise import Formats
from srcompile.runtime.kernels import load
from srcompile.runtime.local import LocalSession
from srcompile.training import minilm
from srcompile.training.architecture import Classifier, Student
from srcompile.training.aware import (
    AsCompiled,
    Aware,
    compiled_of,
    said_by_program,
    train_aware,
)
from srcompile.training.costs import calibration
from srcompile.training.distill import of_labels
from srcompile.training.fit import Settings, predict
from srcompile.training.store import rounded_
from srcompile.training.texts import Texts, collate, of_texts
from tests.training import made

LENGTH = 16
COARSE = Formats(weight_bits=4)
STUDENTS = {
    "convolution": Student(kind="convolution", layers=1, width=16),
    "attention": Student(layers=1, width=24, heads=2, ffn=32, pooling="first"),
    "2quad": Student(layers=1, width=24, heads=2, ffn=32, softmax="2quad", activation="quad"),
}


def texts(count: int, seed: int = 0) -> Texts:
    rows = made.rows(count, seed)
    return of_texts([t for _, t in rows], [""] * count, [label for label, _ in rows], LENGTH)


def model_of(student: Student) -> Classifier:
    torch.manual_seed(1)
    model = minilm.started(student, 2)
    rounded_(model)
    return model.eval()


@pytest.mark.parametrize("student", STUDENTS.values(), ids=STUDENTS)
def test_what_a_secure_run_says_is_what_training_sees(student: Student) -> None:
    data, model = texts(12), model_of(student)
    compiled = compiled_of(model, calibration(data, LENGTH), COARSE)
    seen = said_by_program(compiled, data, LENGTH)
    learner = AsCompiled(model, seen - predict(model, data))
    batch = collate([data[k] for k in range(12)])
    session = LocalSession(compiled.program, load())

    said = learner(batch["input_ids"], batch["attention_mask"], batch["index"])
    secure = [
        session.infer({n: t.numpy() for n, t in data.padded(k, LENGTH).items()}).outputs["logits"]
        for k in range(12)
    ]

    np.testing.assert_allclose(said.detach().numpy(), seen, atol=1e-5)
    from_float = np.abs(predict(model, data) - seen).mean()
    from_secure = np.abs(np.concatenate(secure).reshape(seen.shape) - seen).mean()
    assert from_secure < 0.02  # what is left is how a secure shift rounds
    assert from_float > 3 * from_secure  # such coarse weights do change what it says


def test_the_gradient_is_the_models_at_what_the_program_says() -> None:
    data, model = texts(8), model_of(STUDENTS["attention"])
    batch = collate([data[k] for k in range(8)])
    gaps = np.full((8, 2), 0.5, np.float32) * np.array([1, -1], np.float32)
    learner = AsCompiled(model, gaps)

    said = learner(batch["input_ids"], batch["attention_mask"], batch["index"])
    F.cross_entropy(said, batch["labels"]).backward()  # type: ignore[no-untyped-call]
    have = model.head.weight.grad
    assert have is not None

    pooled, _ = model.trunk(model.table(batch["input_ids"]), batch["attention_mask"])
    wanted = torch.softmax(said.detach(), 1) - F.one_hot(batch["labels"], 2)
    torch.testing.assert_close(have, wanted.T @ pooled.detach() / 8)


def test_training_with_its_program_makes_the_program_better(tmp_path: Path) -> None:
    data, model = texts(64), model_of(STUDENTS["attention"])
    samples = calibration(data, LENGTH)
    labels = torch.tensor(data.labels)

    def loss_of_program() -> float:
        said = said_by_program(compiled_of(model, samples, COARSE), data, LENGTH)
        return float(F.cross_entropy(torch.from_numpy(said), labels))

    before = loss_of_program()
    aware = Aware(2, 64, Settings(epochs=6, batch=16, rate=1e-2, bfloat16=False), COARSE)
    train_aware(model, data, of_labels, samples, LENGTH, aware, tmp_path, quiet=True)
    assert loss_of_program() < 0.9 * before
