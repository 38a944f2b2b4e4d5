import pickle

import pytest
from speechbrain.dataio.encoder import CategoricalEncoder
from verimargin_speechbrain import check_corpus
from verimargin_speechbrain.prepared import drop_cut_files


@pytest.fixture
def encoder():
    encoder = CategoricalEncoder()
    encoder.update_from_iterable(["id1", "id2", "id3"], sequence_input=False)
    return encoder


def test_a_cut_label_encoder_is_removed_wherever_it_was_cut(tmp_path, encoder):
    """SpeechBrain took it as it was, and ended at the first speaker that it lacked, run after run."""
    path = tmp_path / "label_encoder.txt"
    encoder.save(path)
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        drop_cut_files(tmp_path)
        assert not path.exists(), size
    path.write_bytes(whole)
    drop_cut_files(tmp_path)
    assert path.read_bytes() == whole


def test_a_cut_note_of_the_preparation_is_removed(tmp_path):
    path = tmp_path / "opt_voxceleb_prepare.pkl"
    for data in (b"", pickle.dumps({"seg_dur": 3.0})[:-1]):
        path.write_bytes(data)
        drop_cut_files(tmp_path)
        assert not path.exists()
    path.write_bytes(pickle.dumps({"seg_dur": 3.0}))
    drop_cut_files(tmp_path)
    assert path.exists()


def test_the_recipes_check_does_it(corpus_shell):
    (corpus_shell / "save").mkdir()
    (corpus_shell / "save" / "label_encoder.txt").write_text("'id1' => 0\n'i")
    check_corpus(corpus_shell, corpus_shell / "veri_test.txt", 3, corpus_shell / "save")
    assert not (corpus_shell / "save" / "label_encoder.txt").exists()


def test_the_folder_of_a_run_on_another_corpus_is_refused(corpus_shell, encoder):
    """The script took its label encoder, and ended with KeyError: 'id3' or the like."""
    save = corpus_shell / "save"
    save.mkdir()
    encoder.save(save / "label_encoder.txt")
    check_corpus(corpus_shell, corpus_shell / "veri_test.txt", 3, save)
    encoder.add_label("zoe")
    encoder.save(save / "label_encoder.txt")
    with pytest.raises(ValueError, match=r"has the speaker 'zoe', who is not among the training speakers"):
        check_corpus(corpus_shell, corpus_shell / "veri_test.txt", 3, save)
