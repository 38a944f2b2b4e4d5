import re
from itertools import pairwise

import numpy as np
import pytest
from verimargin.files.trials import count_lines, holds_templates, identities, named_trials, read_trials, trial_names

IDS = ["a/1/x", "a/1/y", "b/1/x"]
VOX = "1 a/1/x.wav a/1/y.wav\n0 a/1/y.wav b/1/x.wav\n"


def written(tmp_path, text):
    (tmp_path / "trials.txt").write_text(text)
    return tmp_path / "trials.txt"


@pytest.mark.parametrize(
    ("names", "ids"),
    [
        ("a/1/x.wav a/1/y.wav b/1/x.wav", IDS),
        ("a/1/x a/1/y b/1/x", IDS),
        ("a/1/x.wav a/1/y.wav b/1/x.wav", [f"{name}.wav" for name in IDS]),
        ("a/1/x a/1/y b/1/x", [f"{name}.flac" for name in IDS]),
        ("a/1/x a/1/y b/1/x", [f"{name}.long.wav" for name in IDS]),
        ("img.1.jpg img.2.jpg img.3.jpg", ["img.1.jpg", "img.2.jpg", "img.3.jpg"]),
        ("img.1 img.2 img", ["img.1", "img.2", "img"]),  # what is written comes before what stands before the dot
    ],
)
def test_voxceleb_ids_with_and_without_extension(tmp_path, names, ids):
    x, y, z = names.split()
    trials = read_trials(written(tmp_path, f"1 {x} {y}\n0 {y} {z}\n0 {z} {x}"), ids)
    assert trials.enrol.tolist() == [0, 1, 2]
    assert trials.test.tolist() == [1, 2, 0]
    assert trials.same.tolist() == [True, False, False]


@pytest.mark.parametrize(
    ("name", "ids"),
    [
        ("b.WRONG", ["a.x1", "b.x1"]),
        ("b.wav", ["a.wav", "b.flac"]),
        ("b", ["a.x1", "b.x1", "b.x2"]),
        ("../../etc/b", ["a", "./b"]),
        ("x.1/b", ["a", "x.2/b"]),
    ],
)
def test_a_name_never_stands_for_another_file(tmp_path, name, ids):
    """What stands before the first dot once decided alone: b.WRONG was scored as b.x1, ../../etc/b as ./b."""
    with pytest.raises(ValueError, match=rf"names {re.escape(name)}, for which there is no embedding"):
        read_trials(written(tmp_path, f"1 {ids[0]} {ids[0]}\n0 {ids[0]} {name}\n"), ids)


@pytest.mark.parametrize("ids", [["5", "05"], ["5", "1_0"], ["5", " 6"], ["5", "+6"], ["5", "six"]])
def test_ids_that_are_no_plain_numbers_are_no_templates(tmp_path, ids):
    with pytest.raises(ValueError, match=rf"by numbers, but the embeddings have ids such as '{re.escape(ids[1])}'"):
        read_trials(written(tmp_path, "5 10 1\n5 6 0\n"), ids)


def test_a_comment_is_no_trial(tmp_path):
    with pytest.raises(ValueError, match="is not '<template> <template> <1 or 0>' on every line"):
        read_trials(written(tmp_path, "5 5 1\n# 5 6 1\n5 6 0\n"), ["5", "6"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1 9 1\n1 5 0\n", ([1, 1], [2, 0], [True, False])),  # IJB's, though its first column looks like labels
        ("9 1 1\n5 9 0\n", ([2, 0], [1, 2], [True, False])),
        ("1 9 5\n0 1 5\n", ([2, 1], [0, 0], [True, False])),  # VoxCeleb's, with numbers for names
    ],
)
def test_lists_of_integers(tmp_path, text, expected):
    trials = read_trials(written(tmp_path, text), ["5", "1", "9"])
    assert holds_templates(tmp_path / "trials.txt") == (not text.endswith("5\n"))
    assert tuple(side.tolist() for side in trials) == expected


def test_a_pair_may_come_once_in_each_order(tmp_path):
    assert len(read_trials(written(tmp_path, VOX + "1 a/1/y a/1/x\n"), IDS).same) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (VOX + "1 a/1/x a/1/y\n" * 2, "lists 2 trials more than once, such as a/1/x, a/1/y: keep each once"),
        (VOX + "1 a/1/y a/1/x\n" * 2, "lists 1 trials more than once, such as a/1/x, a/1/y"),
        (VOX + "0 a/1/y a/1/x", "labels the pair a/1/x, a/1/y both 1 and 0: correct"),
        (
            VOX + "0 a/1/x c/7 \n0 d a/1/x\n1 c/7 e\n0 f c/7",
            "names c/7, d, e and 1 more, for which there is no embedding",
        ),
        ("1 a/1/x a/1/y\n", r"has no non-target trial \(label 0\) among 1"),
        ("0 a/1/x b/1/x\n", r"has no target trial \(label 1\) among 1"),
        (VOX + "1 a/1/x\n", "line 3 of .* is '1 a/1/x': give '<1 or 0>"),
        (VOX + "2 a/1/x a/1/y\n", "line 3 of .* is '2 a/1/x a/1/y'"),
        (VOX + "\n", "line 3 of .* is ''"),
        (
            "\ufeff" + VOX,
            "begins with a byte order mark, which the toolkits' scripts take for a part of",
        ),
        ("\ufeff1 2 1\n", "begins with a byte order mark"),
        ("", "is empty"),
        ("1 2 1\n2 3 0\n", "names templates by numbers, but the embeddings have ids such as 'a/1/x'"),
    ],
)
def test_what_is_wrong_with_a_list_is_named(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        read_trials(written(tmp_path, text), IDS)


def test_template_numbers_of_any_size(tmp_path):
    ids = ["50000000000", "3", "70000000000"]
    trials = read_trials(written(tmp_path, "3 50000000000 1\n70000000000 3 0\n"), ids)
    assert trials.enrol.tolist() == [1, 2]
    assert trials.test.tolist() == [0, 1]
    with pytest.raises(ValueError, match=r"names 4, 60000000000, for which"):
        read_trials(written(tmp_path, "3 4 1\n3 60000000000 1\n3 70000000000 0\n"), ids)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 2 1\n2 3 0\n-5 9 0\n", "names -5, for which there is no embedding"),
        ("1 2 1\n2 3 0\n3 7 0\n1 8 0\n", "names 7, 8, for which there is no embedding"),
        (
            "1 2 1\n2 3 0\n" * 6000 + "3 1 x\n",
            "is not '<template> <template> <1 or 0>' on every line: .*'x'.* row 12000",
        ),
        ("1 2 1\n2 3 0\n3 4\n", "on every line: .*columns changed from 3 to 2 at row 3"),
        ("1 2 1\n2 3 0\n" * 6000 + "3 1 2\n", "trial 12001 of .* has the label 2"),
        ("1 2 1\n2 1 0\n", "labels the pair 1, 2 both 1 and 0"),
    ],
)
def test_what_is_wrong_with_an_ijb_list_is_named(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        read_trials(written(tmp_path, text), ["1", "2", "3"])


def test_a_missing_list_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"none\.txt does not exist"):
        read_trials(tmp_path / "none.txt", IDS)


def test_lines_as_they_are(tmp_path):
    assert list(named_trials(written(tmp_path, VOX)))[1] == (False, "a/1/y.wav", "b/1/x.wav")


def test_names_come_once(tmp_path):
    assert trial_names(written(tmp_path, VOX)) == ["a/1/x.wav", "a/1/y.wav", "b/1/x.wav"]
    with pytest.raises(ValueError, match=r"line 3 of .* is 'x'"):
        trial_names(written(tmp_path, VOX + "x"))


@pytest.mark.parametrize(("text", "lines"), [("", 0), ("1 a b", 1), ("1 a b\n", 1), ("\n\n1 a b\r\n0", 4)])
def test_lines_are_counted(tmp_path, text, lines):
    assert count_lines(written(tmp_path, text)) == lines


def test_speakers_are_the_folders_where_the_labels_agree(tmp_path):
    who = identities(read_trials(written(tmp_path, VOX), IDS), IDS)
    assert who[0] == who[1] != who[2]


def test_elsewhere_identities_are_what_target_trials_link(tmp_path):
    """A chain of 1,000 embeddings of one identity, listed in no order, and another of two."""
    random = np.random.default_rng(0)
    chain = random.permutation(1000)
    pairs = [f"{a} {b} 1" for a, b in pairwise(chain)] + ["1000 1001 1", "5 1000 0"]
    ids = [str(k) for k in range(1003)]
    trials = read_trials(written(tmp_path, "\n".join(random.permutation(pairs))), ids)
    who = identities(trials, ids)
    assert len(set(who[:1000])) == 1
    assert who[1000] == who[1001]
    assert len(set(who)) == 3  # 1002 is in no trial


def test_a_trial_that_contradicts_others_is_named(tmp_path):
    trials = read_trials(written(tmp_path, "1 2 1\n2 3 1\n1 4 0\n1 3 0"), ["1", "2", "3", "4"])
    with pytest.raises(ValueError, match="trial 4 is labelled 0, but target trials link 1 with 3"):
        identities(trials, ["1", "2", "3", "4"])


def test_a_long_list_of_templates(tmp_path):
    columns = np.unique(np.random.default_rng(0).integers(0, 2000, (100_000, 2)), axis=0)
    label = columns[:, 0] == columns[:, 1]
    np.savetxt(tmp_path / "trials.txt", np.column_stack([columns, label]), fmt="%d")
    trials = read_trials(tmp_path / "trials.txt", [str(k) for k in range(2000)])
    assert (trials.enrol == columns[:, 0]).all()
    assert (trials.same == label).all()


@pytest.mark.parametrize("stranger", [-1, -2, 3, 10**9])
def test_a_number_outside_the_table_of_templates_is_no_template(tmp_path, stranger):
    """From the end of a table, -2 would be template 2."""
    (tmp_path / "trials.txt").write_text(f"1 2 1\n1 {stranger} 0\n")
    with pytest.raises(ValueError, match=f"names {stranger}, for which there is no embedding"):
        read_trials(tmp_path / "trials.txt", ["0", "1", "2"])


def test_swapped_labels_are_named(tmp_path):
    """It was the first trial alone that was called wrong."""
    ids = ["a/1", "a/2", "b/1"]
    trials = read_trials(written(tmp_path, "1 a/1 b/1\n0 a/1 a/2\n"), ids)
    with pytest.raises(ValueError, match="all labels contradict the folders of the ids, as 0 for a/1 and a/2 does"):
        identities(trials, ids)
