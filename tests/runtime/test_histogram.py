"""Histograms as Prometheus reads them."""

from __future__ import annotations

from srcompile.runtime.services.histogram import BOUNDS, Histogram


def test_each_set_of_labels_has_buckets_a_sum_and_a_count_of_its_own() -> None:
    # given times of two models that have the same number in two programs
    found = Histogram()
    large, small = ((("route", "0"), ("model", name)) for name in ("large", "small"))
    found.add(large, 0.002)
    found.add(large, 1000.0)
    found.add(small, 0.5)
    # then each has lines of its own, in which a bucket holds those before it
    lines = found.lines("seconds", "party0")
    labels = 'role="party0",route="0",model="large"'
    mine = [line for line in lines if labels in line]
    counts = [line.rpartition(" ")[2] for line in mine[: len(BOUNDS) + 1]]
    assert counts == ["0", *["1"] * (len(BOUNDS) - 1), "2"]
    assert mine[-2:] == [f"seconds_sum{{{labels}}} 1000.002000", f"seconds_count{{{labels}}} 2"]
    assert 'seconds_count{role="party0",route="0",model="small"} 1' in lines
    assert len(lines) == 2 * len(mine)


def test_a_name_with_quotes_backslashes_and_lines_is_one_label() -> None:
    found = Histogram()
    found.add((("model", 'a "b"\\c\nd'),), 0.1)
    last = found.lines("seconds", "party0")[-1]
    assert last == 'seconds_count{role="party0",model="a \\"b\\"\\\\c\\nd"} 1'
