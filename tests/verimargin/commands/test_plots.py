import itertools
import re
import tracemalloc

import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.text import Text
from verimargin import metrics
from verimargin.commands import kappa, plots
from verimargin.commands.comparison import pictures
from verimargin.commands.comparison.verdicts import Verdict
from verimargin.files.kappa_state import ClassKappa


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
    assert {p.name for p in tmp_path.iterdir()} == {"det.png", "det.svg"}


def test_the_reliability_of_separated_and_of_reversed_scores_is_drawn(tmp_path):
    random = np.random.default_rng(0)
    usual = metrics.det_curve(random.normal(2, 1, 300), random.normal(-2, 1, 3000)).hull()
    perfect, reversed_ = (metrics.det_curve(*sides).hull() for sides in (([1e4], [-1e4]), ([0.0], [1.0])))
    plots.reliability(tmp_path / "r.png", {"usual": (usual, perfect), "odd": (reversed_, usual)})
    assert {p.name for p in tmp_path.iterdir()} == {"r.png", "r.svg"}


def test_thinning_a_long_curve_takes_little_memory():
    random = np.random.default_rng(0)
    curve = metrics.det_curve(random.normal(2, 1, 10**5), random.normal(0, 1, 10**6))
    tracemalloc.start()
    plots.thinned(curve)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * curve.threshold.nbytes


def texts(figure):
    """What is written in a figure, with the box of each."""
    figure.canvas.draw()
    shown = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    removed = {id(text) for axes in figure.axes for axis in (axes.xaxis, axes.yaxis) for text in outside(axis)}
    return [(text.get_text(), text.get_window_extent()) for text in shown if id(text) not in removed]


def outside(axis):
    """The labels of ticks that lie outside the limits of an axis, which matplotlib does not draw."""
    low, high = sorted(axis.get_view_interval())
    return [
        tick.label1 for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()] if not low <= tick.get_loc() <= high
    ]


@pytest.fixture
def drawn(monkeypatch):
    """The figures that have been saved, which stay open until the end of the test."""
    kept, close = [], plt.close
    monkeypatch.setattr(plt, "close", kept.append)
    yield kept
    for figure in kept:
        close(figure)


def det(path, names):
    random = np.random.default_rng(0)
    curves = [metrics.det_curve(random.normal(2, 1, 500), random.normal(0, 1, 10**5)) for _ in names]
    plots.det(
        path, dict(zip(names, curves)), "a list of trials with " + 3 * "a_very_long_name_" + ".txt: " + 4 * "words "
    )


def distributions(path, names):
    same = np.arange(1000) % 4 == 0
    plots.distributions(path, {name: 10.0**n * (same + np.arange(1000) / 1000) for n, name in enumerate(names)}, same)


def dense_lines(path, names):
    x = [100, 101, 102, 103, 500, 900, 901]
    plots.lines(path, x, "distractors", {"Rank-1, %": {name: np.arange(7.0) + 90 for name in names}, "EER %": {"a": x}})


def one_panel(path, names):
    plots.lines(path, [1, 2, 3], "epoch", {"EER %": {f"Q-Margin, {name}": (0.1, 0.2, 0.3) for name in names}})


def reliability(path, names):
    hull = metrics.det_curve(0.7 + np.arange(9) / 9, np.arange(9) / 9).hull()
    plots.reliability(path, dict.fromkeys(names, (hull, hull)))


def wide_lines(path, names):
    plots.lines(
        path, [1, 10, 100, 10**6], "k", {f"TAR {n}": dict.fromkeys(names, (0.1, 0.2, 0.3, 0.4)) for n in range(3)}
    )


def extremes(path, names):
    """Classes of one kappa and one size, whose names were written over each other and out of the axes."""
    rows = [ClassKappa(n, f"{name}/{name}$x^2$/{n}", 2 + n % 2, 100.0 + n / 100, 0.5) for n, name in enumerate(names)]
    kappa.plot(rows, path)


def forest(path, names):
    """Labels of one line and of several, one of which covered the next one."""
    titles = [f"{name}, alpha 1.25, scale 32{', margin_0.2_and_more' * (n % 3)}" for n, name in enumerate(names)]
    figures = "EER %", "minDCF x 100", "TAR % at FAR 1e-2", "TAR % at FAR 1e-6"
    rows = [(title, figure, verdict) for title, verdict in zip(titles, 4 * pictures.WORDS) for figure in figures]
    verdicts = [
        Verdict(t, 3 * "ArcFace, scale 30, margin 0.2, ", f, n / 100, -5.0, 3.0, 0.1, v)
        for n, (t, f, v) in enumerate(rows)
    ]
    pictures.forest(path, verdicts)


def many_curves(path, names):
    det(path, [f"{name}, {2 * 'a_very_long_name_'}{n}, margin 0.2, scale 30" for name in names for n in range(2)])


DRAWN = [det, many_curves, distributions, reliability, dense_lines, one_panel, wide_lines, extremes, forest]


@pytest.mark.parametrize("number", [1, 4, 6])
@pytest.mark.parametrize("draw", DRAWN)
def test_nothing_that_is_written_overlaps_or_leaves_the_figure(drawn, tmp_path, draw, number):
    draw(tmp_path / "a.png", [f"adaptive s-norm ({n})" for n in range(number)])
    (figure,) = drawn
    found = texts(figure)
    assert len(found) > 5
    for name, box in found:
        assert box.x0 >= -1, name
        assert box.y0 >= -1, name
        assert box.x1 <= figure.bbox.x1 + 1, name
        assert box.y1 <= figure.bbox.y1 + 1, name
    for (name, box), (other, other_box) in itertools.combinations(found, 2):
        assert not box.padded(-0.5).overlaps(other_box.padded(-0.5)), (name, other)


def test_a_count_has_whole_numbers(drawn, tmp_path):
    extremes(tmp_path / "a.png", "abc")
    for axes in drawn[0].axes:
        assert all(float(label.get_text()).is_integer() for label in axes.get_xticklabels())


def test_an_axis_that_is_cut_says_so(drawn, tmp_path):
    plots.lines(tmp_path / "a.png", [1, 2], "k", {"EER %": {"a": [5.0, 6.0]}, "TAR": {"a": [0.0, 6.0]}})
    assert [axes.get_ylabel() for axes in drawn[0].axes] == ["EER % (axis cut above 0)", "TAR"]
    det(tmp_path / "b.png", "a")
    assert drawn[1].axes[0].get_xlabel() == "false accepts, % (up to 50)"


def test_a_series_looks_the_same_in_all_panels(drawn, tmp_path):
    """One that a panel lacks shifted the colours there, away from those of the legend."""
    plots.lines(tmp_path / "a.png", [1, 2], "k", {"EER %": {"a": [5, 6], "b": [6, 7]}, "support": {"b": [0, 6]}})
    looks = [
        {line.get_label(): (line.get_color(), line.get_linestyle()) for line in axes.lines} for axes in drawn[0].axes
    ]
    assert looks[1]["b"] == looks[0]["b"] != looks[0]["a"]


def test_series_beyond_the_eighth_look_like_no_earlier_one(drawn, tmp_path):
    """The ninth had the colour and the dashes of the first."""
    names = [str(n) for n in range(20)]
    det(tmp_path / "a.png", names)
    one_panel(tmp_path / "b.png", names)
    for figure in drawn:
        looks = {(line.get_color(), str(line._dash_pattern)) for line in figure.axes[0].lines}
        assert len(looks) == 20


def test_the_svg_takes_the_colours_of_the_page_and_is_the_same_again(tmp_path):
    for name in ("a", "b"):
        det(tmp_path / f"{name}.png", ["one", "two"])
    a, b = ((tmp_path / f"{name}.svg").read_text(encoding="utf-8") for name in ("a", "b"))
    assert a.startswith("<svg ")
    assert b == re.sub(r'(id="|"#|\(#)a-', r"\1b-", a)
    colours = set(re.findall(r"(?:fill|stroke): (.*?)(?=[;\"])", a)) - {"none"}
    assert colours == {f"var(--{plots.VARIABLES[c]}, {c})" for c in (plots.INK, plots.RULE, *plots.SERIES[:2])}
    assert 'aria-label="DET curves, a list of trials' in a


def test_a_figure_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="wrong"), plots.figure(tmp_path / "a.png"):
        raise ValueError("wrong")
    assert not list(tmp_path.iterdir())
