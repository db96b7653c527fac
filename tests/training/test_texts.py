"""Reading labelled texts, and holding some out."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from srcompile.errors import UserError
from srcompile.training.texts import held_out, of_texts, read_texts


@pytest.mark.parametrize("packed", [False, True])
def test_a_file_is_read_whether_it_is_gzipped_or_not(tmp_path: Path, packed: bool) -> None:
    text = 'label\ttext_a\ttext_b\n1\ta "quoted" word\t\n0\tbad\t\n'
    path = tmp_path / ("train.tsv.gz" if packed else "train.tsv")
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())

    texts = read_texts(path)

    assert texts.first == ('a "quoted" word', "bad")
    assert texts.labels == (1, 0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sentence\tlabel\n", "does not begin with a header"),
        ("label\ttext_a\ttext_b\nx\tgood\t\n", "line 2"),
        ("label\ttext_a\ttext_b\n1\tgood\t\n1\n", "line 3"),
        ("label\ttext_a\ttext_b\n", "holds no texts"),
    ],
)
def test_a_file_that_is_none_is_refused_at_the_first_wrong_line(
    tmp_path: Path, text: str, said: str
) -> None:
    path = tmp_path / "data.tsv"
    path.write_text(text)
    with pytest.raises(UserError, match=said):
        read_texts(path)


def test_pairs_are_one_text_with_a_separator_between() -> None:
    texts = of_texts(["a question ?"], ["an answer ."], [1], 32)
    separator = texts.ids[0][-1]
    assert texts.ids[0].count(separator) == 2


SENTENCE = "a film that nobody who loves the cinema should miss"
OTHER = "these two hours are over sooner than you would like them to be"


def test_held_out_texts_are_whole_and_share_no_run_of_words_with_the_others() -> None:
    phrases = [" ".join(SENTENCE.split()[k : k + 5]) for k in range(5)]
    data = of_texts([*phrases, SENTENCE, OTHER], [""] * 7, [0] * 7, 64)

    split = held_out(data, 1, seed=0)

    assert split.unseen.first in ((SENTENCE,), (OTHER,))
    runs = {tuple(split.unseen.first[0].split()[k : k + 4]) for k in range(20)}
    for text in split.known.first:
        words = text.split()
        assert not any(tuple(words[k : k + 4]) in runs for k in range(len(words) - 3))


def test_parts_of_held_out_texts_are_near_to_them_unless_they_are_short() -> None:
    long, short = " ".join(SENTENCE.split()[2:]), " ".join(SENTENCE.split()[:4])
    data = of_texts([SENTENCE, long, short, OTHER], [""] * 4, [0] * 4, 64)

    split = held_out(data, 2, seed=0)

    assert set(split.unseen.first) == {SENTENCE, OTHER}
    assert split.near.first == (long,)
    assert split.unseen.first[split.of[0]] == SENTENCE
    assert len(split.known) == 0


def test_more_words_in_a_row_leave_more_to_train_with() -> None:
    data = of_texts([SENTENCE, "a film that nobody saw", OTHER], [""] * 3, [0] * 3, 64)
    for seed in range(4):
        assert len(held_out(data, 1, seed, run_words=4).known) < 3
        assert len(held_out(data, 1, seed, run_words=5).known) == 2


def test_a_text_that_is_too_long_keeps_its_last_token() -> None:
    texts = of_texts(["one two three four five six"], [""], [0], 64)
    cut = texts.padded(0, 4)["input_ids"][0].tolist()
    assert cut == [*texts.ids[0][:3], texts.ids[0][-1]]
