"""Students: what is refused, what they start from, what they compute."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from srcompile.errors import UserError
from srcompile.training import minilm
from srcompile.training.architecture import Classifier, Student, Table, Trunk
from srcompile.training.texts import of_texts, tokens_of

TEXTS = ("a wonderful film", "i have never been so bored in all my life", "it is not bad at all")
STUDENTS = {
    "convolution": Student(kind="convolution", layers=2, width=24, window=3),
    "attention": Student(layers=1, width=24, heads=2, ffn=32),
    "of the first token": Student(layers=2, width=24, heads=2, ffn=32, pooling="first"),
    "with other functions": Student(
        layers=1, width=24, heads=2, ffn=32, activation="quad", softmax="2quad"
    ),
}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"kind": "recurrent"}, "kind is 'recurrent'; choose attention, convolution"),
        ({"layers": 0}, "layers is 0"),
        ({"width": 100, "heads": 12}, "no multiple of 12 heads"),
        ({"kind": "convolution", "window": 4}, "odd number"),
        ({"layers": 2, "from_layers": (0,)}, "starts from 1"),
    ],
)
def test_a_student_that_cannot_be_is_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        Student(**wrong)


def test_a_student_comes_back_from_its_data() -> None:
    student = Student(layers=2, from_layers=(1, 4), pooling="first")
    assert Student.of(student.data()) == student


@pytest.mark.parametrize("student", STUDENTS.values(), ids=STUDENTS)
def test_padding_changes_nothing(student: Student) -> None:
    torch.manual_seed(0)
    model = minilm.started(student, 2).eval()
    texts = of_texts(TEXTS, [""] * 3, [0] * 3, 32)
    with torch.no_grad():
        short = model(**tokens_of(texts.ids))["logits"]
        long = model(**tokens_of(texts.ids, 32))["logits"]
    torch.testing.assert_close(short, long, atol=1e-4, rtol=1e-4)


def test_a_last_layer_for_the_first_token_only_gives_what_the_whole_layer_gives() -> None:
    torch.manual_seed(0)
    rows, mask = torch.randn(2, 5, 24), torch.ones(2, 5)
    first = Trunk(Student(layers=2, width=24, heads=2, ffn=32, pooling="first"), 24)
    whole = Trunk(Student(layers=2, width=24, heads=2, ffn=32), 24)
    whole.load_state_dict(first.state_dict())
    with torch.no_grad():
        pooled, _ = first(rows, mask)
        _, hidden = whole(rows, mask)
    torch.testing.assert_close(pooled, hidden[-1][:, 0])


def test_the_table_is_shared_and_never_trained() -> None:
    a, b = (minilm.started(STUDENTS[name], 2) for name in ("convolution", "attention"))
    assert isinstance(a.table, Table)
    assert a.table is b.table
    assert not a.table.weight.requires_grad


def test_a_student_starts_from_the_layers_of_its_teacher_if_that_was_all_of_minilm() -> None:
    teacher = minilm.started(Student(), 2)
    with torch.no_grad():
        teacher.get_parameter("trunk.layers.1.up.weight").add_(1.0)
    student = Student(layers=2, from_layers=(0, 1), activation="relu", pooling="first")

    have = minilm.started(student, 2, teacher)
    other = minilm.started(student, 2, minilm.started(student, 2))

    for name in ("trunk.layers.0.up.weight", "trunk.layers.1.up.weight"):
        torch.testing.assert_close(have.get_parameter(name), teacher.get_parameter(name))
    gap = have.get_parameter(name) - other.get_parameter(name)
    assert gap.abs().max() > 0.5


def test_six_layers_start_as_minilm() -> None:
    model: Classifier = minilm.started(Student(), 2).eval()
    given = tokens_of(of_texts(TEXTS, [""] * 3, [0] * 3, 32).ids)
    counts = given["attention_mask"].unsqueeze(-1)
    with torch.no_grad():
        have, _ = model.trunk(model.table(given["input_ids"]), given["attention_mask"])
        hidden = minilm.encoder()(**given).last_hidden_state
    want = (hidden * counts).sum(1) / counts.sum(1)
    assert torch.cosine_similarity(have, want).min() > 0.75
    assert torch.cosine_similarity(have, want.roll(1, 0)).max() < 0.75
