import numpy as np
import pytest
import torch
import verimargin as vm
from small_networks import seeded
from verimargin.commands import report
from verimargin.commands.trial_set import read_trial_set
from verimargin.files.embeddings import Embeddings, write_embeddings
from verimargin.files.scorers import write_regressor
from verimargin.scoring import methods

IDS = ["unused/0", "b/0", "a/0", "a/1", "b/1"]


@pytest.fixture
def files(tmp_path):
    write_embeddings(tmp_path / "e.npz", Embeddings(IDS, seeded(5, 4), encoder="abc", sizes=np.arange(1.0, 6.0)))
    (tmp_path / "t.txt").write_text("1 a/0.wav a/1.wav\n0 b/1.wav a/0.wav\n1 b/0.wav b/1.wav\n")
    return tmp_path / "e.npz", tmp_path / "t.txt"


def test_holds_the_embeddings_that_trials_name_and_whose_they_are(files):
    trial_set = read_trial_set(*files)
    assert trial_set.embeddings.ids == IDS[1:]
    assert trial_set.embeddings.encoder == "abc"
    assert trial_set.embeddings.sizes.tolist() == [2, 3, 4, 5]
    assert torch.equal(trial_set.embeddings.vectors, seeded(5, 4)[1:])
    names = [[trial_set.embeddings.ids[n] for n in side] for side in (trial_set.trials.enrol, trial_set.trials.test)]
    assert names == [["a/0", "b/1", "b/0"], ["a/1", "a/0", "b/1"]]
    enrol, test = trial_set.identities
    assert (enrol == test).tolist() == trial_set.trials.same.tolist() == [True, False, True]
    assert trial_set.title == "t.txt: 2 target and 1 non-target trials"
    assert trial_set.note(0) == report.note(2, 0)


def test_scores_each_trial_by_the_name_of_the_method(files):
    trial_set, shown = read_trial_set(*files), []
    scores = trial_set.scores([methods.COSINE], "cpu", lambda steps, title: shown.append(title) or steps)
    x = seeded(5, 4)
    np.testing.assert_allclose(scores["cosine"], torch.cosine_similarity(x[[2, 4, 1]], x[[3, 2, 4]]), atol=1e-6)
    assert shown == ["cosine"]


def test_evaluates_with_the_identities_of_both_sides(files):
    trial_set, shown = read_trial_set(*files), []
    scores = np.array([0.9, 0.1, 0.8])
    result = trial_set.evaluate(methods.COSINE.title, scores, True, lambda steps, title: shown.append(title) or steps)
    assert result.figures["EER %"].value == 0.0
    assert result.figures["EER %"].interval is None  # two identities are too few
    assert shown == ["Intervals, cosine"]


def test_anchors_must_fit_the_embeddings(files, tmp_path):
    trial_set = read_trial_set(*files)
    for name, size, encoder in (("good", 4, "abc"), ("unknown", 4, ""), ("wide", 5, "abc"), ("foreign", 4, "xyz")):
        write_embeddings(tmp_path / f"{name}.npz", Embeddings(["x"], seeded(1, size), encoder=encoder))
    assert torch.equal(trial_set.read_others(tmp_path / "good.npz").vectors, seeded(1, 4))
    assert torch.equal(trial_set.read_others(tmp_path / "unknown.npz").vectors, seeded(1, 4))
    with pytest.raises(ValueError, match=r"wide\.npz have 5 numbers, the embeddings 4"):
        trial_set.read_others(tmp_path / "wide.npz")
    with pytest.raises(ValueError, match="with the encoder xyz, but the embeddings with abc"):
        trial_set.read_others(tmp_path / "foreign.npz")


@pytest.mark.parametrize(
    ("others", "such_as"),
    [
        (Embeddings(["x", "a/1"], seeded(2, 4, seed=1)), "a/1"),  # the id of an embedding that is scored
        (Embeddings(["x", "y"], torch.cat([seeded(1, 4, seed=1), seeded(5, 4)[2:3]])), "y"),  # its vector
    ],
)
def test_what_is_scored_is_refused_among_the_others(files, tmp_path, others, such_as):
    """The embeddings of the trials themselves were taken for a cohort or for anchors without a word."""
    write_embeddings(tmp_path / "others.npz", others)
    with pytest.raises(ValueError, match=rf"others.npz and the trials share embeddings \(1, such as {such_as}\): give"):
        read_trial_set(*files).read_others(tmp_path / "others.npz")


def test_what_no_trial_names_and_numbers_are_no_reason(tmp_path):
    """IJB's templates and the classes of a head are both numbers."""
    write_embeddings(tmp_path / "e.npz", Embeddings(["0", "1", "2", "3"], seeded(4, 4)))
    (tmp_path / "t.txt").write_text("2 3 1\n1 2 0\n")
    others = Embeddings(["1", "2", "3"], torch.cat([seeded(2, 4, seed=1), seeded(4, 4)[:1]]))
    write_embeddings(tmp_path / "others.npz", others)
    assert read_trial_set(tmp_path / "e.npz", tmp_path / "t.txt").read_others(tmp_path / "others.npz").ids == others.ids


def test_a_regressor_among_the_others_is_recognised(files, tmp_path):
    regressor = vm.SupportSetRegressor(4, 2)
    regressor.fit(seeded(5, 4), torch.ones(5), epochs=1)
    write_regressor(tmp_path / "ssr.pt", regressor)
    with pytest.raises(ValueError, match=r"ssr\.pt is a regressor of verimargin train-ssr: give it as --regressor"):
        read_trial_set(*files).read_others(tmp_path / "ssr.pt")


def test_a_sample_that_is_compared_with_itself_is_told(files):
    _, trials = files
    assert read_trial_set(*files).compared_with_itself() == ""
    trials.write_text(trials.read_text() + "1 b/1.wav b/1.wav\n1 a/0.wav a/0\n")
    found = read_trial_set(*files).compared_with_itself()
    assert found == "Trials (2, such as that of b/1) compare a sample with itself: leave them out."
