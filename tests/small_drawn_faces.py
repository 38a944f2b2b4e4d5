"""`verimargin demo faces` in small: its corpus, the values of its recipe, and trainings on it."""

from verimargin_insightface.drawn_faces.corpus import make_corpus, read_faces
from verimargin_insightface.drawn_faces.training import LOSSES, Recipe, Run, one_process

CORPUS = {"train_people": 12, "test_people": 6, "images": (3, 5), "test_images": 3}
TINY = {"epochs": 2, "batch_size": 8, "embedding_size": 12, "channels": (4, 6, 8)}


def small_corpus(folder, seed=0):
    assert len(list(make_corpus(folder, **CORPUS, seed=seed))) == 18
    return folder


def trained(folder, faces, name, seed=0, **recipe):
    """A finished training; it resumes the one in the folder."""
    with one_process():
        run = Run(folder, faces, LOSSES[name], Recipe(**{**TINY, **recipe}), seed)
        run.resume()
        run.train(lambda steps, title: steps)
    return run


__all__ = ["CORPUS", "TINY", "read_faces", "small_corpus", "trained"]
