import numpy as np
import pytest
from small_recipe import make
from verimargin.files.embeddings import read_embeddings
from verimargin_speechbrain.annotations import read_annotation
from verimargin_speechbrain.commands.recordings import write_recordings
from verimargin_speechbrain.speech_encoder import load_encoder


@pytest.mark.parametrize("rate", [None, 8000])
def test_a_file_of_the_rows_embeddings(tmp_path, rate):
    corpus = make(tmp_path)
    encoder = load_encoder(corpus / "recipe.yaml", [f"data_folder={corpus}"], "cpu")
    rows = read_annotation(corpus / "train.csv")[2:]
    expected = np.stack([encoder(row) for row in rows])
    encoder.sample_rate = rate and 16000
    write_recordings(corpus / "out.npz", rows, encoder, ["a setting"], {"of": "a test"})
    found = read_embeddings(corpus / "out.npz")
    np.testing.assert_array_equal(found.vectors, expected)
    assert (found.ids, found.labels) == (["b-2", "b-3", "b-4", "c-5"], ["b", "b", "b", "c"])
    assert (found.encoder, found.source) == (encoder.fingerprint, {"of": "a test"})
    assert found.sizes is None if rate is None else found.sizes.tolist() == [1100 / 16000, 1000 / 16000] * 2
