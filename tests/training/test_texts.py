"""Reading labelled texts, and holding some out."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from srcompile.errors import UserError
from srcompile.training.texts import RUN, held_out, of_texts, read_texts


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


def test_held_out_texts_are_whole_and_share_no_run_of_words_with_the_others() -> None:
    sentence = "a film that nobody who loves the cinema should miss"
    phrases = [" ".join(sentence.split()[k : k + 5]) for k in range(5)]
    other = "these two hours are over sooner than you would like them to be"
    data = of_texts([*phrases, sentence, other], [""] * 7, [0] * 7, 64)

    known, unseen = held_out(data, 1, seed=0)

    assert unseen.first in ((sentence,), (other,))
    runs = {tuple(unseen.first[0].split()[k : k + RUN]) for k in range(20)}
    for text in known.first:
        words = text.split()
        assert not any(tuple(words[k : k + RUN]) in runs for k in range(len(words) - RUN + 1))


def test_a_text_that_is_too_long_keeps_its_last_token() -> None:
    texts = of_texts(["one two three four five six"], [""], [0], 64)
    cut = texts.padded(0, 4)["input_ids"][0].tolist()
    assert cut == [*texts.ids[0][:3], texts.ids[0][-1]]
