import json

import numpy as np
import pytest
import verimargin as vm
from verimargin.files import hparams
from verimargin.metrics import det_curve

pytest.importorskip("speechbrain", reason="SpeechBrain is not installed: pip install 'verimargin[speechbrain]'")

import speech
from hyperpyyaml import load_hyperpyyaml
from verimargin.commands.comparison.experiment import folder_name
from verimargin.commands.comparison.losses import read_loss
from verimargin.commands.comparison.verdicts import Scores
from verimargin_speechbrain.corpus import check_trials, speakers
from verimargin_speechbrain.overrides import as_yaml


def test_every_setting_is_a_loss_with_a_name_of_its_own():
    titles = [speech.title(family, loss) for family, losses in speech.GRID.items() for loss in losses]
    assert len(set(titles)) == len(titles) == 16
    for losses in speech.GRID.values():
        assert len(losses) == 4
        for loss in losses:
            assert read_loss("x", loss).build().scale == loss["scale"]


def test_a_corpus_of_some_speakers_has_no_others(tmp_path):
    for who in "abcd":
        for number in range(2):
            path = tmp_path / "all" / "wav" / who / "s" / f"{number}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(who)
    speech.link_corpus(tmp_path / "all", tmp_path / "some", ["a"], ["c", "d"])
    assert speakers(tmp_path / "some") == ["a", "c", "d"]
    assert speakers(tmp_path / "some", ["c", "d"]) == ["a"]
    trials = tmp_path / "some" / "veri_test.txt"
    assert check_trials(str(tmp_path / "some"), str(trials))
    lines = trials.read_text().splitlines()
    assert len(lines) == len(set(lines)) == 6
    assert sum(line.startswith("1") for line in lines) == 2


def test_the_best_settings_are_taken_over(tmp_path):
    (tmp_path / "grid").mkdir()
    paths = [
        (tmp_path / "grid" / f"{folder_name(speech.title(family, loss))}.json", 0.5 + 0.1 * (n == 1))
        for family, losses in speech.GRID.items()
        for n, loss in enumerate(losses)
    ]
    for path, value in paths:
        path.write_text(json.dumps({speech.CHOSEN_BY: value}))
    chosen = speech.chosen_losses(tmp_path)
    assert list(chosen) == list(speech.FAMILIES)
    assert {family: chosen[family] for family in speech.GRID} == {f: losses[1] for f, losses in speech.GRID.items()}
    paths[2][0].unlink()
    with pytest.raises(ValueError, match=r"margin_0\.2\.json does not exist: run `grid` to its end first"):
        speech.chosen_losses(tmp_path)


def test_a_setting_is_tried_once(tmp_path, monkeypatch, capsys):
    tried = []

    def figure(corpus, loss, epochs, seed):
        tried.append(loss.title)
        return 0.25

    monkeypatch.setattr(speech, "Corpus", lambda folder, settings: None)
    monkeypatch.setattr(speech, "development_figure", figure)
    for _ in range(2):
        speech.main(["grid", str(tmp_path), "--families", "ArcFace"])
    assert tried == [speech.title("ArcFace", loss) for loss in speech.GRID["ArcFace"]]
    assert capsys.readouterr().out.count("TAR at FAR 1e-3 25.0 %") == 4


@pytest.mark.parametrize(
    ("family", "margin"),
    [("KappaFace", 0.6), ("AdaFace", 0.3), ("adaptive Q-Margin", 0.8), ("quality-adaptive Q-Margin", 0.4)],
)
def test_the_losses_with_a_recipe_of_their_own_get_the_settings(family, margin):
    arcface = {"loss": "arcface", "scale": 25, "margin": 0.3}
    q_margin = {"loss": "q_margin", "alpha": 1.25, "scale": 17, "margin": 0.4}
    entry = speech.derived(arcface, q_margin)[family]
    text = hparams.path(f"speechbrain/{entry['recipe']}").read_text()
    values = {"data_folder": "data", "out_n_neurons": 5, **entry["settings"]}
    without = "\n".join(line for line in text.splitlines() if not line.startswith("__set_seed"))
    start = without.index("__check")
    without = without[:start] + without[without.index("number_of_epochs") :]
    without = without.replace("annotation: !ref <train_annotation>", "annotation: none")
    cost = load_hyperpyyaml(without, as_yaml(values))["compute_cost"]
    loss = cost.loss
    assert isinstance(loss, vm.MarginLoss)
    assert loss.margin.m == margin
    of = q_margin if "Q-Margin" in family else arcface
    assert (loss.scale, loss.alpha) == (of["scale"], of.get("alpha", 1.0))
    assert (cost._kappa[0] is not None) == ("Kappa" in family or family.startswith("adaptive"))
    assert (getattr(loss.margin, "quality", None) is not None) == ("quality" in family or family == "AdaFace")


def test_a_gain_is_the_difference_of_the_figures():
    random = np.random.default_rng(0)
    enrol, test = np.triu_indices(60, 1)
    enrol, test = enrol // 3, test // 3
    same = enrol == test
    cosine = np.stack([random.normal(size=len(same)) + 2 * same for _ in range(2)])
    better = cosine + same
    trials = Scores(same, enrol, test, {}, {})
    (cell,) = speech.gains(better, cosine, trials, ["EER %"])
    eer = [np.mean([det_curve(row[same], row[~same]).eer()[0] for row in rows]) for rows in (better, cosine)]
    assert cell.startswith(f"**{100 * (eer[0] - eer[1]):+.2f} [")
    (none,) = speech.gains(cosine, cosine[::-1], trials, ["EER %"])
    assert none.startswith("+0.00 [")
