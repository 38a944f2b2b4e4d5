import io

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from verimargin.files import named_lines
from verimargin.files.named_lines import read_blocks

PLAIN = ["a", "b", "id1/x/00001.wav", "id1/x/00002.wav", "id1/x/00002.wav2", "l" * 256, "l" * 255 + "m", "l" * 257]
ODD = ["é/1", "a\0", "a\x7f", "\ufeffa"]
labels = st.sampled_from(["0", "1"] * 8 + ["2", "01", "\u0660"])
names = st.sampled_from(PLAIN * 3 + ODD)
gaps = st.sampled_from([" "] * 8 + ["\t", "  ", "\x0b", "\x1c", "\xa0", "", "\r"])
ends = st.sampled_from(["\n"] * 8 + ["\r\n", "\r", " \n", "\n\n", "", " x\n"])
lines = st.tuples(labels, gaps, names, gaps, names, ends).map("".join)


def outcome(rows):
    """The rows and None, or those before the error and its message."""
    done = []
    try:
        for row in rows:
            done.append(row)
    except ValueError as error:
        return [], str(error)
    return done, None


def one_by_one(text, path):
    return outcome(named_lines.named_lines(io.StringIO(text, newline=None), path))


def in_blocks(path, size):
    known = []

    def number(name):
        known.append(name)
        return len(known) - 1

    parts = outcome(read_blocks(path, number, size))
    rows = [
        (bool(label), known[a], known[b])
        for same, pairs in parts[0]
        for label, (a, b) in zip(same.tolist(), pairs.tolist())
    ]
    return rows, parts[1], known


@settings(deadline=None, max_examples=300)
@given(st.lists(lines, max_size=12), st.sampled_from([1, 30, 100, 10**6]))
@example(["1 a b\n", "0 a b"], 10**6)
@example(["1 a b\r\n", "0 \tb  a \r\n"], 10**6)
@example(["1 a b\n", "0 a\n", "b 1 a b\n"], 10**6)  # six words on two lines
@example([], 10)
def test_blocks_hold_what_the_lines_hold_and_refuse_what_they_refuse(tmp_path_factory, rows, size):
    path = tmp_path_factory.getbasetemp() / "list.txt"
    text = "".join(rows)
    path.write_bytes(text.encode())
    expected, error = one_by_one(text, path)
    found, refused, known = in_blocks(path, size)
    assert refused == error
    assert found == expected
    if error is None:  # each name is asked for once, when it first occurs
        assert known == list(dict.fromkeys(name for _, *pair in expected for name in pair))


def test_plain_lists_are_not_read_line_by_line(tmp_path, monkeypatch):
    """A list of 10 million trials took 30 s, of which names took most."""
    path = tmp_path / "list.txt"
    path.write_text("1 a/1/x.wav\ta/1/y.wav\r\n0  a/1/y.wav b/1/x.wav \n" * 100)
    monkeypatch.setattr(named_lines, "named_lines", None)
    same, numbers = map(np.concatenate, zip(*read_blocks(path, ["a/1/x.wav", "a/1/y.wav", "b/1/x.wav"].index, 500)))
    assert same.tolist() == [True, False] * 100
    assert numbers.tolist() == [[0, 1], [1, 2]] * 100


def test_names_that_share_a_hash_are_told_apart(tmp_path, monkeypatch):
    monkeypatch.setattr(named_lines, "_hash", lambda words: np.zeros(words.shape[1], np.uint64))
    text = "".join(f"1 {n} {n * 10_000_000_019}\n" for n in (3, 1, 2, 1, 3))
    path = tmp_path / "list.txt"
    path.write_text(text)
    for size in (1, 10**6):
        assert in_blocks(path, size)[0] == one_by_one(text, path)[0]


def test_many_names_of_all_lengths(tmp_path):
    random = np.random.default_rng(0)
    ids = list({"".join(random.choice(list("ab/0.é"), random.integers(1, 40))) for _ in range(3000)})
    plain = [name.replace("é", "e") for name in ids]
    for listed in (ids, plain):
        text = "".join(f"1 {listed[a]} {listed[b]}\n" for a, b in random.integers(len(listed), size=(4000, 2)))
        path = tmp_path / "list.txt"
        path.write_text(text, encoding="utf-8")
        assert in_blocks(path, 10_000)[0] == one_by_one(text, path)[0]


def test_what_is_no_text_is_named(tmp_path):
    (tmp_path / "list.txt").write_bytes(b"1 a b\n\xff\xfe 0\n")
    with pytest.raises(ValueError, match=r"list\.txt is no text in UTF-8 \(invalid start byte\): give a trial list"):
        list(read_blocks(tmp_path / "list.txt", len))


def test_a_long_line_is_shown_in_part(tmp_path):
    (tmp_path / "list.txt").write_text("1 a b\n" + "x" * 10_000)
    with pytest.raises(ValueError, match=f"line 2 of .* is '{'x' * 200}'...: give"):
        list(read_blocks(tmp_path / "list.txt", len))
