"""The demo in small: its recipe's values, and a corpus of a few synthetic speakers."""

from verimargin_speechbrain import synthesis

TINY = {"channels": 16, "emb_dim": 24, "lr": 0.004, "batch_size": 8}
CORPUS = {"train_speakers": 6, "test_speakers": 4, "utterances": 6, "test_utterances": 3}


def make_corpus(folder):
    assert len(list(synthesis.make_corpus(folder, **CORPUS, seed=0))) == 10
    return folder
