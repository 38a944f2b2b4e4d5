from dataclasses import replace

import numpy as np
import pytest
from small_experiment import plain, scores_of, scores_with, write_experiment
from verimargin.commands.comparison import verdicts
from verimargin.commands.comparison.experiment import read_experiment
from verimargin.commands.comparison.run import runs_of
from verimargin.commands.comparison.verdicts import holm


def finished_runs(tmp_path, **changes):
    runs = runs_of(read_experiment(write_experiment(tmp_path)))
    for n, run in enumerate(runs):
        rows, same, _, _ = scores_of(n)
        i, j = np.triu_indices(80, 1)
        run.scores.parent.mkdir(parents=True)
        ids = [f"p{k // 5}/{k}" for k in range(80)]
        arrays = {"ids": np.array(ids), "enrol": i, "test": j, "same": same, "cosine": rows[0]}
        arrays |= changes.get(f"run{n}", {})
        np.savez(run.scores, **{name: value for name, value in arrays.items() if value is not None})
    return runs


def test_the_scores_of_all_runs_are_read_with_their_identities(tmp_path):
    runs = finished_runs(tmp_path, run0={"ida-r": np.zeros(3160)})
    read = verdicts.read_scores(runs[:3], "cosine")
    assert read.seeds == {"ArcFace": [1, 2], "Q-Margin": [1]}
    assert read.by_loss["ArcFace"].shape == (2, 3160)
    assert verdicts.methods_of(runs[:3]) == ["cosine"]
    assert verdicts.methods_of(runs[:1]) == ["cosine", "ida-r"]  # which the others do not have
    assert ((read.enrol == read.test) == read.same).all()
    assert (read.by_loss["Q-Margin"][0] == scores_of(1)[0][0]).all()


def test_runs_on_other_trials_or_without_cosines_are_refused(tmp_path):
    runs = finished_runs(tmp_path, run2={"enrol": np.roll(np.triu_indices(80, 1)[0], 1)}, run3={"cosine": None})
    with pytest.raises(ValueError, match="ArcFace, seed 2 was scored on other trials than ArcFace, seed 1"):
        verdicts.read_scores(runs[:3], "cosine")
    with pytest.raises(ValueError, match="has no cosine"):
        verdicts.read_scores([runs[0], runs[3]], "cosine")


def test_the_better_loss_is_called_better_in_each_figure():
    found = verdicts.verdicts(scores_with(bad=1.0, good=0.3), plain)
    assert {(v.loss, v.other) for v in found} == {("good", "bad")}
    told = {v.figure: v for v in found}
    assert told["EER %"].verdict == "better"
    assert told["EER %"].high < 0
    assert told["TAR % at FAR 1e-2"].verdict == "better"
    assert told["TAR % at FAR 1e-2"].low > 0
    other_way = {v.figure: v for v in verdicts.verdicts(scores_with(good=0.3, bad=1.0), plain)}
    assert other_way["EER %"].verdict == "worse"


def test_equal_losses_are_not_told_apart():
    found = verdicts.verdicts(scores_with(a=0.4, b=0.4), plain)
    assert {v.verdict for v in found} == {"cannot be told"}
    assert all(v.low < 0 < v.high for v in found)


def test_two_identities_are_too_few_for_a_verdict():
    scores = scores_with(a=0.4, b=0.5)
    few = scores.enrol + scores.test < 2
    rows = {loss: values[:, few] for loss, values in scores.by_loss.items()}
    sides = {name: getattr(scores, name)[few] for name in ("same", "enrol", "test")}
    assert verdicts.verdicts(replace(scores, by_loss=rows, **sides), plain) == []


def test_three_losses_are_three_pairs_in_order():
    found = verdicts.verdicts(scores_with(a=1.0, b=0.4, c=0.4), plain)
    pairs = [(v.loss, v.other) for v in found]
    assert list(dict.fromkeys(pairs)) == [("b", "a"), ("c", "a"), ("c", "b")]
    assert [v.figure for v in found if (v.loss, v.other) == ("b", "a")][:2] == ["EER %", "minDCF x 100"]


def test_the_mean_figures_have_intervals():
    table = verdicts.figures(scores_with(a=0.4, b=0.6), plain)
    assert list(table) == ["a", "b"]
    value = table["b"]["EER %"]
    assert value.interval.low < value.value < value.interval.high
    assert np.isnan(table["a"]["TAR % at FAR 1e-6"].value)
    alone = verdicts.figures(scores_with(a=0.4, b=0.6), plain, intervals=False)
    assert alone["b"]["EER %"] == (value.value, None)


def test_holm_is_the_textbooks():
    """Of four tests, the smallest p counts four times, the next three times, and none less than one before it."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
