import numpy as np
import pytest
from small_experiment import scores_of, scores_with
from verimargin import metrics
from verimargin.commands.comparison import pictures
from verimargin.commands.comparison.verdicts import Verdict


def curves(noises):
    rows, same, _, _ = scores_of(trainings=1)
    return [metrics.det_curve(scores_of(n, noise, trainings=1)[0][0][same], rows[0][~same]) for n, noise in noises]


def test_the_mean_curve_has_the_mean_tar_at_each_far():
    several = curves(enumerate((0.3, 0.6, 1.0)))
    mean = pictures.mean_curve(several)
    for far in (0.5, 0.2, 0.1, 0.05, 0.01, 1e-3):
        expected = np.mean([curve.tar_at_far(far)[0] for curve in several])
        assert mean.tar_at_far(far)[0] == pytest.approx(expected, abs=1e-12)
    assert (np.diff(mean.false_accept) < 0).all()
    assert (np.diff(mean.false_reject) >= 0).all()


def test_the_mean_curve_is_not_that_of_pooled_scores():
    """Two networks whose scores differ by a shift alone are equally good, and pooled they look worse than each."""
    positive, negative = np.array([0.6, 0.7, 0.8, 0.9]), np.array([0.1, 0.2, 0.3, 0.65])
    one, other = metrics.det_curve(positive, negative), metrics.det_curve(positive + 5, negative + 5)
    pooled = metrics.det_curve(np.append(positive, positive + 5), np.append(negative, negative + 5))
    for far in (0.0, 0.25, 0.5):
        assert pictures.mean_curve([one, other]).tar_at_far(far)[0] == one.tar_at_far(far)[0]
    assert pooled.tar_at_far(0.25)[0] < one.tar_at_far(0.25)[0]


def test_the_mean_of_one_curve_is_this_curve():
    (only,) = curves([(0, 0.5)])
    assert pictures.mean_curve([only]) is only


def test_curves_without_an_error_have_a_mean(tmp_path):
    perfect = metrics.det_curve([1.0, 0.9], [0.1, 0.2])
    mean = pictures.mean_curve([perfect, perfect])
    assert mean.tar_at_far(0.0)[0] == 1.0


def test_the_caption_says_what_the_curves_are_the_mean_of(tmp_path):
    scores = scores_with(a=0.4, b=0.6)
    text = pictures.write_curves(tmp_path, scores, "trials")
    assert text.startswith("![DET curves of the losses](det.png)")
    assert "mean over the seeds" in text
    assert "not pooled" in text
    assert (tmp_path / "det.svg").is_file()
    scores.by_loss.update({loss: rows[:1] for loss, rows in scores.by_loss.items()})
    assert "mean" not in pictures.write_curves(tmp_path, scores, "trials")


def test_the_forest_shows_each_loss_against_the_first_one(tmp_path):
    pairs = [("b", "a", "better"), ("c", "a", "worse"), ("c", "b", "cannot be told")]
    judged = [Verdict(loss, other, "EER %", 0.5, 0.1, 0.9, 0.01, word) for loss, other, word in pairs]
    assert "(differences.png)" in pictures.write_forest(tmp_path, judged)
    drawn = (tmp_path / "differences.svg").read_text(encoding="utf-8")
    assert ">difference from a<" in drawn
    for text in ("b", "c", "better", "worse", "EER %", "better below 0"):
        assert f">{text}<" in drawn
    assert "cannot be told" not in drawn  # which is about b


def test_no_name_of_several_lines_is_left_out(tmp_path):
    """A name that covered the next one was dropped, as ticks that overlap are."""
    losses = [f"adaptive Q-Margin, alpha 1.25, scale 32, margin 0.2, gamma 0.7, estimator-{n}" for n in range(12)]
    pictures.forest(tmp_path / "f.png", [Verdict(x, "a", "EER %", 0.5, 0.1, 0.9, 0.01, "worse") for x in losses])
    drawn = (tmp_path / "f.svg").read_text(encoding="utf-8")
    assert [f"estimator-{n}<" in drawn for n in range(12)] == [True] * 12
