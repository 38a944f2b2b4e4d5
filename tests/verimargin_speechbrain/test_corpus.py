import itertools
import shutil

import pytest
from hyperpyyaml import load_hyperpyyaml
from verimargin.files import hparams as recipes
from verimargin_speechbrain import check_corpus
from verimargin_speechbrain import corpus as core
from verimargin_speechbrain.corpus import Trial


@pytest.fixture
def corpus(corpus_shell):
    return corpus_shell


def test_the_corpus_is_checked_when_the_recipe_is_loaded(corpus):
    check_corpus(str(corpus), str(corpus / "veri_test.txt"), 3)
    # behind a URL the test speakers, unpacked beside the others as SpeechBrain's README says, are not known yet
    check_corpus(f"{corpus}, {corpus}", "https://example.org/veri_test.txt", 3)
    text = recipes.path("train_ecapa_small.yaml").read_text()
    with pytest.raises(ValueError, match="3 training speakers, the recipe has 2 classes: set out_n_neurons to 3"):
        load_hyperpyyaml(text, f"data_folder: {corpus}\nout_n_neurons: 2\n")
    (corpus / "bad.txt").write_text("one two\n")
    with pytest.raises(ValueError, match="is 'one two': give '<1 or 0>"):
        load_hyperpyyaml(text, f"data_folder: {corpus}\nverification_file: {corpus}/bad.txt\n")
    (corpus / "veri_test.txt").write_text("1 id8/s0/0.wav id8/s0/7.wav\n")
    with pytest.raises(ValueError, match=r"names id8/s0/7\.wav, which is not in"):
        load_hyperpyyaml(text, f"data_folder: {corpus}\n")
    with pytest.raises(ValueError, match=r"names id8/s0/7\.wav"):
        load_hyperpyyaml(
            recipes.path("verify_ecapa_small.yaml").read_text(), f"data_folder: {corpus}\npretrain_path: x\n"
        )
    with pytest.raises(ValueError, match="does not exist"):
        load_hyperpyyaml(text, f"data_folder: {corpus}\nverification_file: {corpus}/none.txt\n")
    shutil.rmtree(corpus / "wav")
    with pytest.raises(ValueError, match="has no folder 'wav'"):
        check_corpus(str(corpus), "https://example.org/veri_test.txt", 3)
    (corpus / "wav" / "id1").mkdir(parents=True)
    with pytest.raises(ValueError, match="holds no training recording"):
        check_corpus(str(corpus), "https://example.org/veri_test.txt", 3)


def test_the_parts_of_a_corpus(corpus):
    trials = core.read_trials(corpus / "veri_test.txt")
    assert trials == [Trial(True, "id8/s0/0.wav", "id8/s0/0.wav"), Trial(False, "id9/s0/0.wav", "id8/s0/0.wav")]
    assert core.recordings(trials) == ["id8/s0/0.wav", "id9/s0/0.wav"]
    assert [core.speaker_of(name) for name in core.recordings(trials)] == ["id8", "id9"]
    assert core.speakers(corpus, ["id8", "id9", "id7"]) == ["id1", "id2", "id3"]
    assert core.check_trials(str(corpus), str(corpus / "veri_test.txt")) == ["id8/s0/0.wav", "id9/s0/0.wav"]


def test_recordings_may_lie_in_several_folders(corpus, tmp_path):
    (tmp_path / "more" / "wav" / "id9").mkdir(parents=True)
    shutil.move(corpus / "wav" / "id9" / "s0", tmp_path / "more" / "wav" / "id9" / "s0")
    both, trials = f"{corpus}, {tmp_path / 'more'}", str(corpus / "veri_test.txt")
    assert core.check_trials(both, trials) == ["id8/s0/0.wav", "id9/s0/0.wav"]
    with pytest.raises(ValueError, match=r"names id9/s0/0\.wav, which is not in"):
        core.check_trials(str(corpus), trials)


def test_an_empty_list_is_refused(tmp_path):
    (tmp_path / "trials.txt").touch()
    with pytest.raises(ValueError, match=r"trials\.txt is empty"):
        core.read_trials(tmp_path / "trials.txt")


def test_more_classes_than_speakers_are_reported(corpus, caplog):
    check_corpus(str(corpus), str(corpus / "veri_test.txt"), 3)
    assert not caplog.text
    check_corpus(str(corpus), str(corpus / "veri_test.txt"), 5)
    assert "the recipe has 5 classes" in caplog.text
    assert "3 speakers at most: the other classes never get a sample" in caplog.text


def test_recordings_of_the_trials_may_be_elsewhere(corpus, caplog):
    """They were asked for, though a training needs nothing but the names of their speakers."""
    trials = str(corpus / "veri_test.txt")
    shutil.rmtree(corpus / "wav" / "id9")
    with pytest.raises(ValueError, match=r"names id9/s0/0\.wav, which is not in"):  # id8 is there
        check_corpus(str(corpus), trials, 3)
    shutil.rmtree(corpus / "wav" / "id8")
    check_corpus(str(corpus), trials, 3)
    assert f"none of the speakers in {trials} is in {corpus}: nobody is left out of training" in caplog.text


@pytest.mark.parametrize("name", ["wav/id1/s0/0.wav", "/data/wav/id1/s0/0.wav"])
def test_a_list_whose_names_do_not_begin_with_a_speaker_is_refused(corpus, name):
    """No speaker would be left out of training."""
    (corpus / "veri_test.txt").write_text(f"1 {name} {name}\n")
    with pytest.raises(ValueError, match=f"names {name}: give paths relative to wav, <speaker>/"):
        check_corpus(str(corpus), str(corpus / "veri_test.txt"), 3)


@pytest.mark.parametrize(
    ("lines", "speaker"),
    [
        ("1 id8/s0/0.wav id8/s0/0.wav\n0 id8/s0/0.wav id9/s0/0.wav\n", "id9"),
        ("1  id8/s0/0.wav id8/s0/0.wav\n0 id9/s0/0.wav id8/s0/0.wav\n", "id8"),
        ("1\tid9/s0/0.wav\tid8/s0/0.wav\n1 id8/s0/0.wav id8/s0/0.wav\n", "id9"),
    ],
)
def test_a_tested_speaker_who_would_be_trained_on_is_refused(corpus, lines, speaker):
    """SpeechBrain's preparation reads the first recording of each line alone, behind one space."""
    (corpus / "veri_test.txt").write_text(lines)
    with pytest.raises(ValueError, match=f"preparation would train on {speaker}, whom .* names: it reads only"):
        check_corpus(str(corpus), str(corpus / "veri_test.txt"), 3)


def test_a_folder_that_holds_another_model_is_refused(corpus):
    """SpeechBrain scored the model that an earlier run had linked there, whatever pretrain_path said."""
    for name in ("one", "other", "scored"):
        (corpus / name).mkdir()
    (corpus / "one" / "embedding_model.ckpt").write_text("1")
    (corpus / "other" / "embedding_model.ckpt").write_text("2")
    recipe = recipes.path("verify_ecapa_small.yaml").read_text()

    def load(model):
        overrides = {"data_folder": corpus, "pretrain_path": corpus / model, "save_folder": corpus / "scored"}
        return load_hyperpyyaml(recipe, "\n".join(f"{key}: {value}" for key, value in overrides.items()))

    load("one")
    (corpus / "scored" / "embedding_model.ckpt").symlink_to(corpus / "one" / "embedding_model.ckpt")
    load("one")
    with pytest.raises(ValueError, match=r"is the model of .*one, which would be scored again .* --output_folder"):
        load("other")
    with pytest.raises(ValueError, match=r"pretrain_path is the file .*: give the folder"):
        load("one/embedding_model.ckpt")


def test_a_written_list_is_read_again(tmp_path):
    names = ["id1/s/a.wav", "id1/s/b.wav", "id2/s/a.wav"]
    core.write_trials(tmp_path / "list.txt", itertools.combinations(names, 2))
    trials = core.read_trials(tmp_path / "list.txt")
    assert [(t.same, t.enrol, t.test) for t in trials] == [
        (True, names[0], names[1]), (False, names[0], names[2]), (False, names[1], names[2]),
    ]  # fmt: skip
