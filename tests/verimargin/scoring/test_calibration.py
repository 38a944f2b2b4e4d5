import math

import numpy as np
import pytest
import reference
from verimargin import metrics
from verimargin.scoring import calibration
from verimargin.scoring.calibration import Calibration, fit_calibration


def trials(size=600, seed=0):
    """Scores that depend on durations, which a calibration can take into account; one in six is a target."""
    random = np.random.default_rng(seed)
    same = np.arange(size) % 6 == 0
    enrol, test = random.normal(1.0, 0.5, (2, size))
    scores = 0.3 * same + 0.1 * np.minimum(enrol, test) - 0.05 * np.maximum(enrol, test)
    return scores + 0.15 * random.normal(size=size), same, {"size": (enrol, test)}


@pytest.mark.parametrize("prior", [0.5, 0.01])
@pytest.mark.parametrize("with_quality", [False, True])
def test_it_is_the_minimum_of_the_formula(prior, with_quality):
    scores, same, qualities = trials()
    qualities = qualities if with_quality else {}
    found = fit_calibration(scores, same, qualities, prior)
    weights = np.array([found.offset, found.scale, *(w for pair in found.qualities.values() for w in pair)])
    columns = [np.ones_like(scores), scores]
    for e, t in qualities.values():
        columns += [[min(a, b) for a, b in zip(e, t)], [max(a, b) for a, b in zip(e, t)]]
    columns = np.array(columns)

    def objective(weights):
        return reference.calibration_objective(weights @ columns, same, prior)

    best, step = objective(weights), 1e-4
    for n in range(len(weights)):
        change = step * np.eye(len(weights))[n]
        up, down = objective(weights + change), objective(weights - change)
        assert best < min(up, down)
        assert (up - down) / (2 * step) == pytest.approx(0.0, abs=1e-7)
    optimize = pytest.importorskip("scipy.optimize")
    theirs = optimize.minimize(objective, np.zeros(len(weights)), method="BFGS", options={"gtol": 1e-9})
    np.testing.assert_allclose(weights, theirs.x, rtol=1e-3, atol=1e-4)
    assert best <= theirs.fun + 1e-12
    np.testing.assert_allclose(found(scores, qualities), weights @ columns, rtol=1e-12)


def test_the_prior_one_half_minimises_cllr():
    scores, same, _ = trials()
    llr = fit_calibration(scores, same)(scores)
    least = metrics.cllr(llr[same], llr[~same])
    assert reference.calibration_objective(llr, same, 0.5) / math.log(2) == pytest.approx(least, rel=1e-12)
    for worse in (llr + 0.05, llr - 0.05, 1.05 * llr, 0.95 * llr):
        assert metrics.cllr(worse[same], worse[~same]) > least


def test_it_finds_the_true_log_likelihood_ratio():
    random, m = np.random.default_rng(0), 2.0
    same = np.arange(400_000) % 2 == 0
    llr = random.normal(size=len(same)) * (2 * m) ** 0.5 + np.where(same, m, -m)
    found = fit_calibration(0.1 * llr.astype(np.float32) + 5.0, same)
    assert found.scale == pytest.approx(10.0, rel=0.02)
    assert found.offset == pytest.approx(-50.0, rel=0.02)


def test_the_side_of_an_embedding_and_blocks_change_nothing(monkeypatch):
    scores, same, qualities = trials()
    expected = fit_calibration(scores, same, qualities)
    enrol, test = qualities["size"]
    swap = np.random.default_rng(1).random(len(scores)) < 0.5
    turned = {"size": (np.where(swap, test, enrol), np.where(swap, enrol, test))}
    assert fit_calibration(scores, same, turned) == expected
    monkeypatch.setattr(calibration, "BLOCK", 7)
    in_blocks = fit_calibration(scores, same, qualities)
    assert in_blocks.scale == pytest.approx(expected.scale, rel=1e-9)
    assert in_blocks.qualities["size"] == pytest.approx(expected.qualities["size"], rel=1e-9)


def test_scores_far_from_zero_and_a_quality_of_one_value_on_one_side():
    scores, same, qualities = trials()
    expected = fit_calibration(scores, same)
    far = fit_calibration(1e6 + scores, same)
    assert far.scale == pytest.approx(expected.scale, rel=1e-6)
    enrol = qualities["size"][0].clip(0.1)
    one_sided = fit_calibration(scores, same, {"size": (enrol, np.zeros_like(enrol))})
    assert one_sided.qualities["size"][0] == 0.0
    alike = fit_calibration(scores, same, {"size": (enrol, enrol)}).qualities["size"]
    assert alike[0] == pytest.approx(alike[1])


SCORES, SAME = np.array([0.9, 0.5, 0.4, 0.8, 0.3, 0.1]), np.array([1, 1, 1, 0, 0, 0], dtype=bool)
PERFECT = np.where(SAME, 1.0, 0.0) + SCORES / 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((PERFECT, SAME), "the scores separate the targets of this list from its non-targets without an error"),
        ((-PERFECT, SAME), "higher score does not make a target more likely .*scores are distances, or the labels are"),
        ((SCORES, SAME[:5]), r"scores and same have shapes \(6,\) and \(5,\): give one of each per trial"),
        ((SCORES[:5], SAME), r"scores and same have shapes \(5,\) and \(6,\)"),
        (
            (SCORES, SAME, {"norm": (SCORES, SCORES[:2])}),
            r"the quality 'norm' has values of shapes \[\(6,\), \(2,\)\], and",
        ),
        ((np.where(SAME, SCORES, SCORES.min()), SAME), "separate"),
        ((-SCORES, SAME), "a higher score does not make a target more likely"),
        ((np.ones(6), SAME), "all scores are the same"),
        ((np.where(SAME, np.nan, SCORES), SAME), "a score is nan or infinite"),
        ((SCORES, SAME, {"norm": (np.ones(6), np.ones(6))}), "the quality 'norm' is the same for all trials"),
        ((SCORES, SAME, {"norm": (SCORES, np.full(6, np.inf))}), "a quality 'norm' is nan or infinite"),
        ((SCORES, SAME, {}, 1.0), "prior is 1.0"),
        ((SCORES, np.ones(6, bool)), "the 6 trials are of one kind"),
    ],
)
def test_what_determines_no_calibration_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        fit_calibration(*arguments)


def test_a_missing_quality_is_named():
    with pytest.raises(
        ValueError, match=r"the quality 'size' has values of shapes .* the scores have the shape \(6,\)"
    ):
        Calibration(0.0, 1.0, {"size": (0.1, 0.2)})(SCORES, {"size": (SCORES[:1], SCORES)})
    with pytest.raises(ValueError, match="takes the quality 'size'"):
        Calibration(0.0, 1.0, {"size": (0.1, 0.2)})(SCORES)
