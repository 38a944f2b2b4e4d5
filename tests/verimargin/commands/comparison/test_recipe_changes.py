from small_experiment import EXPERIMENT, SmallToolkit, write_experiment
from verimargin.commands.comparison import recipe_changes
from verimargin.commands.comparison.experiment import read_experiment


def test_each_loss_shows_what_it_changes(tmp_path):
    path = write_experiment(tmp_path, EXPERIMENT.replace("noise: 0.9", "noise: 0").replace("ArcFace:", "Arc*Face*:"))
    text = recipe_changes.section(SmallToolkit(), read_experiment(path))
    assert "What each loss changes in recipe.yaml" in text
    assert "**Arc\\*Face\\***\n\nNothing: it has this loss." in text
    assert "**Q-Margin**\n\n```diff\n-noise: 0\n+noise: 0.2\n```" in text


def test_comments_and_lines_in_common_are_left_out():
    before = "a: 1\n# old\nlr: 0.1 # high\n\nb: 2\nc: 3\n"
    after = "a: 1\n# new\nlr: 0.05 # high\nb: 2\nd: 4\n"
    change = recipe_changes.difference(before, after)
    assert change.splitlines() == ["-lr: 0.1 # high", "+lr: 0.05 # high", "-c: 3", "+d: 4"]
    assert recipe_changes.difference(before, before + "# more\n") == ""
