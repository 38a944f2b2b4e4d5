import csv

import numpy as np
import pytest
from verimargin import metrics
from verimargin.commands import report, sections
from verimargin.commands.progress import progress


def trials(people=30, utterances=3):
    who = np.arange(people).repeat(utterances)
    a, b = np.triu_indices(len(who), 1)
    return who[a] == who[b], (who[a], who[b])


def test_a_difference_is_that_of_the_metrics_and_gets_its_verdict(tmp_path):
    same, identities = trials()
    noise = np.random.default_rng(0).normal(size=(3, len(same)))
    scores = {"base": same + noise[0], "good": same + 0.05 * noise[1], "a|b": same + noise[2]}
    text = sections.differences(tmp_path, sections.changes(scores, same, identities, progress))
    with open(tmp_path / "differences.csv", newline="") as file:
        rows = {(row["method"], row["figure"]): row for row in csv.DictReader(file)}
    columns = [name for name, metric in report.columns(int((~same).sum())).items() if metric]
    assert list(rows) == [(method, column) for method in ("good", "a|b") for column in columns]
    values = [metrics.eer(s[same], s[~same])[0] for s in scores.values()]
    expected = metrics.difference_intervals(
        {"EER": metrics.DetCurve.eer}, scores["good"], scores["base"], same, *identities
    )["EER"]
    row = rows["good", "EER %"]
    assert float(row["change"]) == pytest.approx(100 * (values[1] - values[0]), rel=1e-5)
    assert [float(row[end]) for end in ("low", "high")] == pytest.approx([100 * end for end in expected], rel=1e-5)
    assert {rows["good", column]["verdict"] for column in columns} == {"better"}
    assert rows["a|b", "EER %"]["verdict"] == "cannot be told"
    assert text.count(" better [") == len(columns)
    back = dict(reversed([*scores.items()][:2]))
    sections.differences(tmp_path, sections.changes(back, same, identities, progress))
    with open(tmp_path / "differences.csv", newline="") as file:
        assert {row["verdict"] for row in csv.DictReader(file)} == {"worse"}


def test_there_are_no_differences_of_one_method_or_of_few_identities(tmp_path):
    for people, methods in ((30, ["one"]), (2, ["one", "two"])):
        same, identities = trials(people)
        scores = {name: same + np.arange(len(same)) / 7 % 1 for name in methods}
        assert sections.differences(tmp_path, sections.changes(scores, same, identities, progress)) == ""
    assert not list(tmp_path.iterdir())


def test_changes_from_several_methods_are_told_in_a_table_each(tmp_path):
    changes = [
        sections.Change("b", "a", "EER %", -1.0, -1.5, -0.5, "better"),
        sections.Change("b", "a", "TAR", 1.0, -0.5, 2.5, "cannot be told"),
        sections.Change("d", "c|", "EER %", 0.5, 0.25, 0.75, "worse"),
    ]
    text = sections.differences(tmp_path, changes)
    assert "## Compared with a\n\n| method | EER % | TAR |" in text
    assert "| b | -1 better [-1.5, -0.5] | +1 [-0.5, 2.5] |" in text
    assert "## Compared with c\\|\n\n| method | EER % |" in text
    assert "| d | +0.5 worse [0.25, 0.75] |" in text
    assert text.count("paired 95 % intervals") == 1
    with open(tmp_path / "differences.csv", newline="") as file:
        assert [row["compared with"] for row in csv.DictReader(file)] == ["a", "a", "c|"]


def test_the_hardest_identities_are_those_of_a_loop():
    same, (enrol, test) = trials(12)
    scores = same + np.random.default_rng(1).normal(size=len(same))
    enrol, test = 3 * enrol + 1, 3 * test + 1  # numbers with gaps
    threshold = 0.6

    def shares(who):
        mine = (enrol == who) | (test == who)
        own, others = scores[mine & same], scores[mine & ~same]
        return (own <= threshold).mean(), (others > threshold).mean(), own.min(), others.max()

    by_loop = sorted(set(enrol), key=lambda who: -sum(shares(who)[:2]))
    found = sections.hardest(scores, same, (enrol, test), threshold, number=4)
    assert [h.identity for h in found] == by_loop[:4]
    for h in found:
        assert (h.rejects, h.accepts, scores[h.target], scores[h.non_target]) == pytest.approx(shares(h.identity))
        assert same[h.target]
        assert not same[h.non_target]


def test_identities_without_trials_of_both_kinds_are_not_the_hardest():
    same, enrol, test = np.array([True, False, True]), np.array([0, 0, 5]), np.array([0, 2, 5])
    found = sections.hardest(np.zeros(3), same, (enrol, test), 0.5)
    assert [h.identity for h in found] == [0]
    assert sections.hardest(np.zeros(1), same[2:], (enrol[2:], test[2:]), 0.5) == []
    assert sections.hardest_table([], np.zeros(3), {}, str, "cosine") == ""


def test_names_are_shown_as_they_are():
    hard = sections.Hard(0, 0.5, 0.25, 0, 1)
    text = sections.hardest_table([hard], np.array([0.1, 0.9]), {0: "a|b_*"}, lambda trial: f"<{trial}>", "cosine")
    assert r"| a\|b\_\* | 50.0 % | 25.00 % | \<0\>: 0.1 | \<1\>: 0.9 |" in text


def test_settings_come_first_and_what_is_not_installed_is_left_out(monkeypatch):
    monkeypatch.setattr("verimargin.commands.environment.PACKAGES", ("torch", "no-such-package"))
    text = sections.versions({"k": 10, "cohort": None, "trials": "a*b"})
    assert (
        text.index("| k | 10 |") < text.index(r"| trials | a\*b |") < text.index("| Python |") < text.index("| torch |")
    )
    assert "cohort" not in text
    assert "no-such-package" not in text
