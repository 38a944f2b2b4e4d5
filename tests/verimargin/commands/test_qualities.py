import numpy as np
import pytest
import small_trials
import torch
from verimargin.commands.qualities import measure
from verimargin.commands.trial_set import read_trial_set
from verimargin.files.embeddings import Embeddings, read_embeddings, write_embeddings
from verimargin.scoring.score_norm import ScoreNorm


@pytest.fixture
def folder(tmp_path):
    return small_trials.make(tmp_path)


def test_each_quality_is_that_of_both_sides(folder):
    trial_set = read_trial_set(folder / "e.npz", folder / "trials.txt")
    held, cohort = read_embeddings(folder / "e.npz"), read_embeddings(folder / "cohort.npz").vectors
    found = measure(["size", "norm", "cohort"], trial_set, ScoreNorm(cohort, 5), "cpu")
    place = {name: n for n, name in enumerate(held.ids)}
    names = [line.split()[1:] for line in (folder / "trials.txt").read_text().splitlines()]
    unit, others = (x / x.norm(dim=1, keepdim=True) for x in (held.vectors.double(), cohort.double()))
    nearest = (unit @ others.T).topk(5).values.mean(1).numpy()
    for side in (0, 1):
        where = [place[pair[side]] for pair in names]
        np.testing.assert_allclose(found["size"][side], np.log(held.sizes[where]), rtol=1e-12)
        np.testing.assert_allclose(found["norm"][side], held.vectors.norm(dim=1)[where], rtol=1e-6)
        np.testing.assert_allclose(found["cohort"][side], nearest[where], atol=1e-6)


def test_what_cannot_be_measured_is_named(folder):
    held = read_embeddings(folder / "e.npz")
    unit = torch.nn.functional.normalize(held.vectors)
    write_embeddings(folder / "unit.npz", Embeddings(held.ids, unit))
    trial_set = read_trial_set(folder / "unit.npz", folder / "trials.txt")
    for name, message in (
        ("size", "add an array `sizes` to the .npz"),
        ("norm", "all embeddings have the norm 1: leave the quality `norm` out"),
        ("cohort", "give them as --cohort"),
        ("age", "the quality 'age' is none of size, norm, cohort"),
    ):
        with pytest.raises(ValueError, match=message):
            measure([name], trial_set, None, "cpu")
