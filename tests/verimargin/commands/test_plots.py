import tracemalloc

import numpy as np
from verimargin import metrics
from verimargin.commands import plots


def test_a_thinned_curve_is_part_of_the_whole_with_its_ends():
    random = np.random.default_rng(0)
    curve = metrics.det_curve(random.normal(2, 1, 30_000), random.normal(0, 1, 100_000))
    thin = plots.thinned(curve)
    assert 500 < len(thin.threshold) <= 2 * (plots.POINTS + 1)
    assert set(zip(*thin)) <= set(zip(*curve))
    for rate in ("false_accept", "false_reject"):
        inside = getattr(curve, rate)[(curve.false_accept > 0) & (curve.false_reject > 0) & (curve.false_reject < 1)]
        assert getattr(thin, rate).min() == inside.min()
        steps = np.diff(np.unique(np.log(getattr(thin, rate))))
        assert steps.max() <= max(np.diff(np.unique(np.log(inside))).max(), 0.05)  # no visible gap


def test_curves_without_an_error_are_drawn(tmp_path):
    plots.det(tmp_path / "det.png", {"perfect": metrics.det_curve([1.0, 0.9], [0.1, 0.2])}, "no errors")
    assert {p.name for p in tmp_path.iterdir()} == {"det.png"}


def test_the_reliability_of_separated_and_of_reversed_scores_is_drawn(tmp_path):
    random = np.random.default_rng(0)
    usual = metrics.det_curve(random.normal(2, 1, 300), random.normal(-2, 1, 3000)).hull()
    perfect, reversed_ = (metrics.det_curve(*sides).hull() for sides in (([1e4], [-1e4]), ([0.0], [1.0])))
    plots.reliability(tmp_path / "r.png", {"usual": (usual, perfect), "odd": (reversed_, usual)})
    assert {p.name for p in tmp_path.iterdir()} == {"r.png"}


def test_thinning_a_long_curve_takes_little_memory():
    random = np.random.default_rng(0)
    curve = metrics.det_curve(random.normal(2, 1, 10**5), random.normal(0, 1, 10**6))
    tracemalloc.start()
    plots.thinned(curve)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * curve.threshold.nbytes
